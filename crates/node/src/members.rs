//! The members of a tracker: the address that was typed, and those that the tracker says belong to it. Which of them to
//! ask first is decided here; who asks, and what for, is not known here.
//!
//! What is learnt is kept in a small file for each tracker, so that one which is dead at the next start is no obstacle.
//! It is a cache: whatever is wrong with the file, it counts as absent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::client::legacy::connect::CaptureConnection;
use obt_wire::compact::{Reach, reach};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::limits::{
    MEMBER_CONNECT, MEMBER_FILE_BYTES, MEMBER_FILES, MEMBER_ID_BYTES, MEMBERS, MEMBERS_FRESH, MEMBERS_RETRY,
};
use crate::tracker_client::TrackerAddress;

/// The path at which a tracker says who its members are.
pub(crate) const STATUS_PATH: &str = "/api/v1/status";

/// The members of all trackers that were typed. Cheap to clone; clones know the same.
#[derive(Debug, Clone, Default)]
pub struct MemberBook {
    shared: Arc<Book>,
}

#[derive(Debug, Default)]
struct Book {
    folder: Option<PathBuf>,
    trackers: Mutex<BTreeMap<TrackerAddress, Members>>,
    writes: Arc<Writes>,
}

/// Files that are being written, on threads that end with the process.
#[derive(Debug, Default)]
struct Writes(Mutex<Vec<JoinHandle<()>>>);

impl Writes {
    fn add(&self, write: JoinHandle<()>) {
        let mut writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writes.retain(|write| !write.is_finished());
        writes.push(write);
    }

    fn take(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MemberBook {
    /// A book that is kept in the state folder `state`, which is made once there is something to keep.
    #[must_use]
    pub fn in_state(state: &Path) -> Self {
        let folder = Some(state.join("members"));
        Self { shared: Arc::new(Book { folder, ..Book::default() }) }
    }

    /// Waits until all that was learnt so far is written. A command that ends sooner learnt it for nothing.
    pub async fn written(&self) {
        for write in self.shared.writes.take() {
            // One that panicked has nothing more to write.
            let _ = write.await;
        }
    }

    /// The members of the tracker that was typed as `tracker`.
    #[must_use]
    pub fn of(&self, tracker: &TrackerAddress) -> Members {
        let mut trackers = self.shared.trackers.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || match &self.shared.folder {
            Some(folder) => {
                let file = MemberFile::new(folder, tracker);
                Members::kept(tracker.clone(), file, Arc::clone(&self.shared.writes))
            }
            None => Members::alone(tracker.clone()),
        };
        trackers.entry(tracker.clone()).or_insert_with(open).clone()
    }
}

/// The members of one tracker. Cheap to clone; clones know the same.
#[derive(Debug, Clone)]
pub struct Members {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    typed: TrackerAddress,
    file: Option<MemberFile>,
    writes: Arc<Writes>,
    list: Mutex<List>,
}

/// Invariant: `order` holds the typed address and every known one, each once.
#[derive(Debug)]
struct List {
    /// In the order in which they are asked: the last that answered comes first.
    order: Vec<TrackerAddress>,
    /// By which a member that was learnt shows that it still belongs here.
    ids: BTreeSet<String>,
    /// When to ask for the list again.
    due: Instant,
    /// Whether the one that was asked first has failed since the order was kept.
    demoted: bool,
}

impl Members {
    /// A tracker of which nothing else is known, and of which nothing is kept.
    #[must_use]
    pub fn alone(typed: TrackerAddress) -> Self {
        Self::new(typed, None, None, Arc::default())
    }

    fn kept(typed: TrackerAddress, file: MemberFile, writes: Arc<Writes>) -> Self {
        let kept = file.read(&typed);
        Self::new(typed, Some(file), kept, writes)
    }

    fn new(typed: TrackerAddress, file: Option<MemberFile>, kept: Option<Kept>, writes: Arc<Writes>) -> Self {
        let Kept { order, ids } = kept.unwrap_or_default();
        let mut list = List { order, ids, due: Instant::now(), demoted: false };
        if !list.order.contains(&typed) {
            list.order.insert(0, typed.clone());
        }
        if is_this_machine(&typed) {
            list.prefer(&typed);
        }
        Self { shared: Arc::new(Shared { typed, file, writes, list: Mutex::new(list) }) }
    }

    /// The address that the user typed.
    #[must_use]
    pub fn typed(&self) -> &TrackerAddress {
        &self.shared.typed
    }

    /// All of them, never none, in the order in which they are to be asked.
    #[must_use]
    pub fn in_order(&self) -> Vec<TrackerAddress> {
        self.list().order.clone()
    }

    /// This one answers: it is asked first from here on.
    pub fn answered(&self, member: &TrackerAddress) {
        let mut list = self.list();
        let demoted = std::mem::take(&mut list.demoted);
        if list.prefer(member) || demoted {
            // Where one has gone, the others soon have another.
            list.due = Instant::now();
            let order = list.order.clone();
            self.keep(order, &list.ids);
        }
    }

    /// This one does not answer: the others are asked before it.
    pub fn failed(&self, member: &TrackerAddress) {
        let mut list = self.list();
        if let Some(at) = list.order.iter().position(|known| known == member) {
            let member = list.order.remove(at);
            list.order.push(member);
            list.demoted |= at == 0;
        }
    }

    /// Whether it is time to ask who the members are. Says so once: whoever hears it asks.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        let mut list = self.list();
        let due = list.due <= now;
        if due {
            list.due = now + MEMBERS_RETRY;
        }
        due
    }

    /// Takes in what `from` answered to [`STATUS_PATH`]. A member that was learnt is believed only while its list has
    /// somebody in common with the one that it was learnt from: its address may be another machine's by now.
    pub fn learn(&self, from: &TrackerAddress, status: &[u8]) {
        let Ok(told) = serde_json::from_slice::<Told>(status) else { return };
        let told = told.members.unwrap_or_default();
        let ids: BTreeSet<String> = told.iter().map(|member| member.id.clone()).filter(|id| is_id(id)).collect();
        let mut list = self.list();
        if *from != self.shared.typed && list.ids.is_disjoint(&ids) {
            return;
        }
        list.due = Instant::now() + MEMBERS_FRESH;
        list.ids = ids.into_iter().take(MEMBERS).collect();
        let mut known = members_in(told, &self.shared.typed);
        if !known.contains(&self.shared.typed) {
            known.push(self.shared.typed.clone());
        }
        if !list.replace(known) {
            return;
        }
        let mut order = list.order.clone();
        if order.first() == Some(&self.shared.typed) {
            // Not everybody who typed the same begins with the same.
            fastrand::shuffle(&mut order);
        }
        self.keep(order, &list.ids);
    }

    /// Writes the list down, for the next start, on a thread that may wait for a disk.
    fn keep(&self, order: Vec<TrackerAddress>, ids: &BTreeSet<String>) {
        if self.shared.file.is_none() {
            return;
        }
        let order = if order.len() == 1 { Vec::new() } else { order };
        let kept = Kept { order, ids: ids.clone() };
        let this = self.clone();
        let write = move || {
            let Some(file) = &this.shared.file else { return };
            if let Err(error) = file.write(&this.shared.typed, &kept) {
                tracing::debug!(path = %file.path.display(), %error, "the tracker's members are not kept");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => self.shared.writes.add(runtime.spawn_blocking(write)),
            Err(_) => write(),
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.shared.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    /// Puts a known member first. Whether that is a change.
    fn prefer(&mut self, member: &TrackerAddress) -> bool {
        match self.order.iter().position(|known| known == member) {
            Some(at @ 1..) => {
                let member = self.order.remove(at);
                self.order.insert(0, member);
                true
            }
            _ => false,
        }
    }

    /// Knows exactly these from here on. The first stays first; those that are new come at random places, so that not
    /// everybody turns to the same one. Whether that is a change.
    fn replace(&mut self, known: Vec<TrackerAddress>) -> bool {
        let before = self.order.clone();
        self.order.retain(|member| known.contains(member));
        for member in known {
            if !self.order.contains(&member) {
                let at = fastrand::usize(self.order.len().min(1)..=self.order.len());
                self.order.insert(at, member);
            }
        }
        self.order != before
    }
}

/// The part of a tracker's state that counts here.
#[derive(Deserialize)]
struct Told {
    /// By which it is a tracker's state and no other JSON.
    #[serde(rename = "version")]
    _version: IgnoredAny,
    /// Absent at a tracker that is alone, or that does not know of members.
    #[serde(default)]
    members: Option<Vec<Member>>,
}

#[derive(Deserialize)]
struct Member {
    #[serde(default)]
    id: String,
    address: String,
    #[serde(default)]
    role: String,
}

/// As many of the members as are remembered, voters before learners.
fn members_in(told: Vec<Member>, typed: &TrackerAddress) -> Vec<TrackerAddress> {
    let (learners, voters): (Vec<_>, Vec<_>) = told.into_iter().partition(|member| member.role == "learner");
    let mut known = Vec::new();
    for member in voters.into_iter().chain(learners) {
        known.extend(parse_member(&member.address, typed).filter(|address| !known.contains(address)));
    }
    known.truncate(MEMBERS);
    known
}

/// An address that a tracker may send us to: a machine's, or a plain name. A name that ends in a number is one of the
/// spellings of an address that only some resolvers know. This machine is meant only by a tracker on this machine.
fn parse_member(text: &str, typed: &TrackerAddress) -> Option<TrackerAddress> {
    let address: TrackerAddress = text.parse().ok()?;
    let usable = match address.host().parse::<IpAddr>() {
        Ok(ip) => reach(ip) != Reach::Nowhere,
        Err(_) => address.host().rsplit('.').next().is_some_and(|label| label.starts_with(|c: char| c.is_alphabetic())),
    };
    let in_reach = is_this_machine(typed) || !is_this_machine(&address);
    (usable && in_reach).then_some(address)
}

fn is_id(id: &str) -> bool {
    (1..=MEMBER_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A tracker beside us is asked before others, whatever others there are.
fn is_this_machine(tracker: &TrackerAddress) -> bool {
    let loopback = tracker.host().parse().is_ok_and(|ip: IpAddr| reach(ip) == Reach::Loopback);
    loopback || tracker.host().eq_ignore_ascii_case("localhost")
}

/// Returns once a member that was asked `since` is so slow that the next one is to be asked: it has not taken the
/// connection, or has been silent for `silence` since it was asked.
pub(crate) async fn slow(connection: Option<&CaptureConnection>, since: Instant, silence: Duration) {
    let until = |patience: Duration| tokio::time::sleep_until((since + patience).into());
    until(MEMBER_CONNECT).await;
    if connection.is_some_and(|connection| connection.connection_metadata().is_some()) {
        until(silence).await;
    }
}

/// What is kept of one tracker.
#[derive(Debug, Default)]
struct Kept {
    order: Vec<TrackerAddress>,
    ids: BTreeSet<String>,
}

/// The same as JSON.
#[derive(Serialize, Deserialize)]
struct KeptText {
    tracker: String,
    /// In the order in which they are asked.
    members: Vec<String>,
    ids: Vec<String>,
}

#[derive(Debug)]
struct MemberFile {
    path: PathBuf,
}

impl MemberFile {
    fn new(folder: &Path, tracker: &TrackerAddress) -> Self {
        let host = tracker.host().replace(':', "-");
        Self { path: folder.join(format!("{host}_{}.json", tracker.port())) }
    }

    /// What is kept, where it is what we would have written.
    fn read(&self, typed: &TrackerAddress) -> Option<Kept> {
        let mut text = String::new();
        let file = File::open(&self.path).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        file.take(MEMBER_FILE_BYTES + 1).read_to_string(&mut text).ok()?;
        if text.len() as u64 > MEMBER_FILE_BYTES {
            return None;
        }
        let kept: KeptText = serde_json::from_str(&text).ok()?;
        let fits = kept.members.len() <= MEMBERS + 1 && kept.ids.len() <= MEMBERS;
        if !fits || kept.tracker != typed.to_string() {
            return None;
        }
        let mut order = Vec::new();
        for text in &kept.members {
            let member = if *text == kept.tracker { Some(typed.clone()) } else { parse_member(text, typed) };
            order.extend(member.filter(|member| !order.contains(member)));
        }
        Some(Kept { order, ids: kept.ids.into_iter().filter(|id| is_id(id)).collect() })
    }

    /// Writes what is kept, or removes the file where that is nothing.
    fn write(&self, typed: &TrackerAddress, kept: &Kept) -> io::Result<()> {
        if kept.order.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let members = kept.order.iter().map(TrackerAddress::to_string).collect();
        let text = KeptText { tracker: typed.to_string(), members, ids: kept.ids.iter().cloned().collect() };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        self.make_room(folder)?;
        // Another process may be writing the same.
        let temporary = self.path.with_extension(format!("{}.new", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&temporary)?.write_all(serde_json::to_string(&text)?.as_bytes())?;
        fs::rename(&temporary, &self.path)
    }

    /// Makes the folder; where it is full, the oldest file gives way.
    fn make_room(&self, folder: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        if self.path.exists() {
            return Ok(());
        }
        let modified = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
        let mut files: Vec<_> = fs::read_dir(folder)?.filter_map(|entry| modified(entry.ok()?)).collect();
        files.sort();
        let excess = (files.len() + 1).saturating_sub(MEMBER_FILES);
        files.into_iter().take(excess).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

#[cfg(test)]
mod tests;
