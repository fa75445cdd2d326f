//! Power cuts and failing disks of trackers that are one: what was acknowledged is there afterwards, at every member.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use obt_node::keyring::read_key;
use obt_node::names::{Name, Selector};
use obt_node::signing::Keypair;
use obt_node::tracker_client::{Replace, TrackerClient, TrackerError};
use obt_wire::metainfo::Metainfo;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::cluster::{STATES, status, three};
use crate::disk_image::DiskImage;
use crate::harness::{Lab, Obt, SOON, Tracker, eventually};

/// Publishers at each member: enough for the log to write batches.
const PUBLISHERS: usize = 4;
/// Power cuts, unless `OBT_POWER_ROUNDS` says otherwise.
const ROUNDS: usize = 3;
/// Acknowledged changes before each cut: at least one more than this, up to twice as many.
const CHANGES: usize = 150;
/// Names that one search may find.
const NAMES: usize = 1_000_000;

/// What a name stands for: its version and content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    version: u32,
    info_hash: String,
}

/// What is known of a name that somebody changes. None is no item.
#[derive(Debug, Default)]
struct Standing {
    acknowledged: Option<Item>,
    /// What a change that was never answered makes of it, if it was made.
    asked: Option<Option<Item>>,
}

/// What publishers did, and whether the power is there.
#[derive(Default)]
struct Oracle {
    names: Mutex<BTreeMap<String, Standing>>,
    answered: AtomicUsize,
    cut: AtomicBool,
}

impl Oracle {
    /// Makes one change; false once the power is gone.
    async fn change<F>(&self, name: &Name, becomes: Option<Item>, answer: F) -> bool
    where
        F: Future<Output = Result<(), TrackerError>>,
    {
        self.names.lock().unwrap().entry(name.to_string()).or_default().asked = Some(becomes.clone());
        if let Err(error) = answer.await {
            assert!(self.cut.load(Ordering::SeqCst), "{name}: refused while all members ran: {error}");
            return false;
        }
        self.names.lock().unwrap().insert(name.to_string(), Standing { acknowledged: becomes, asked: None });
        self.answered.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Whether a catalogue has what was acknowledged; of a name with an unanswered change, either.
    fn check(&self, catalogue: &BTreeMap<String, Item>) -> Result<(), String> {
        let names = self.names.lock().unwrap();
        for (name, standing) in names.iter() {
            let there = catalogue.get(name).cloned();
            if there != standing.acknowledged && standing.asked.as_ref() != Some(&there) {
                return Err(format!("{name} is {there:?}: {standing:?}"));
            }
        }
        let unknown = catalogue.keys().find(|name| !names.contains_key(*name));
        unknown.map_or(Ok(()), |name| Err(format!("{name}: nobody published it")))
    }

    /// Takes for acknowledged what all members agree about.
    fn settle(&self, catalogue: &BTreeMap<String, Item>) {
        for (name, standing) in self.names.lock().unwrap().iter_mut() {
            *standing = Standing { acknowledged: catalogue.get(name).cloned(), asked: None };
        }
    }
}

/// A .torrent that is like no other, and its info-hash.
fn torrent() -> (Bytes, String) {
    let mut torrent = b"d4:infod6:lengthi1e4:name1:x12:piece lengthi16384e6:pieces20:".to_vec();
    torrent.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(20));
    torrent.extend(b"ee");
    let info_hash = Metainfo::parse(&torrent).unwrap().info.hashes.primary().to_string();
    (torrent.into(), info_hash)
}

/// Publishes, replaces and withdraws until the power is gone, all names beginning with `prefix`.
async fn publish(oracle: Arc<Oracle>, client: TrackerClient, key: Keypair, prefix: String) {
    for number in 0.. {
        let name = Name::parse(&format!("{prefix}/{number}")).unwrap();
        for version in 1..=1 + number % 2 {
            let (torrent, info_hash) = torrent();
            let replace = if version == 1 { Replace::No } else { Replace::Yes };
            let parts = [torrent];
            let answer = async { client.publish(&name, &parts, replace, &key).await.map(|_| ()) };
            if !oracle.change(&name, Some(Item { version, info_hash }), answer).await {
                return;
            }
        }
        if number % 3 == 0 && !oracle.change(&name, None, client.withdraw(&name, &key)).await {
            return;
        }
    }
}

fn client(member: SocketAddr) -> TrackerClient {
    TrackerClient::new(member.to_string().parse().unwrap())
}

/// All names that a member has, by what it says itself.
async fn catalogue(client: &TrackerClient) -> BTreeMap<String, Item> {
    let items = client.find("", NAMES).await.unwrap();
    let item = |item: obt_node::api_types::Item| {
        (item.name, Item { version: item.version, info_hash: item.info_hash_v1.unwrap() })
    };
    items.into_iter().map(item).collect()
}

/// What all members have, where they have the same, and all that was acknowledged.
async fn agreed(oracle: &Oracle, members: &[TrackerClient]) -> Result<BTreeMap<String, Item>, String> {
    let mut all = Vec::new();
    for member in members {
        let items = catalogue(member).await;
        oracle.check(&items).map_err(|why| format!("{}: {why}", member.address()))?;
        all.push(items);
    }
    let first = all.remove(0);
    if all.iter().all(|items| *items == first) { Ok(first) } else { Err("the members differ".to_owned()) }
}

/// That each item of a catalogue has its .torrent, too: here, or at a member that it reaches.
fn assert_torrents(runtime: &Runtime, client: &TrackerClient, items: &BTreeMap<String, Item>) {
    for (name, item) in items {
        let name = Name::parse(name).unwrap();
        let torrent = eventually(&format!("the torrent of {name} at {}", client.address()), SOON, || {
            runtime.block_on(client.torrent(&name, &Selector::Newest)).ok()
        });
        assert_eq!(Metainfo::parse(&torrent).unwrap().info.hashes.primary().to_string(), item.info_hash, "{name}");
    }
}

/// Publishes one more name at each member. Once that is answered, the member has applied what came before it: changes that
/// were never answered are made by then or never will be.
fn settle_logs(runtime: &Runtime, lab: &Lab, members: &[(&str, Tracker)], oracle: &Oracle, round: usize) {
    for (state, member) in members {
        let key = read_key(&lab.path(state).join("publish.key")).unwrap();
        let mut tries = 0..;
        eventually(&format!("{state} takes names again, round {round}"), SOON, || {
            let name = Name::parse(&format!("settled/{round}/{state}/{}", tries.next()?)).unwrap();
            let (torrent, info_hash) = torrent();
            let item = Some(Item { version: 1, info_hash });
            let parts = [torrent];
            let answered = runtime.block_on(client(member.socket()).publish(&name, &parts, Replace::No, &key)).is_ok();
            let standing = match answered {
                true => Standing { acknowledged: item, asked: None },
                false => Standing { acknowledged: None, asked: Some(item) },
            };
            oracle.names.lock().unwrap().insert(name.to_string(), standing);
            answered.then_some(())
        });
    }
}

/// Publishers at every member, each with the member's own key: that one is not held up.
fn publishers(
    runtime: &Runtime,
    lab: &Lab,
    members: &[(&str, Tracker)],
    oracle: &Arc<Oracle>,
    round: usize,
) -> Vec<JoinHandle<()>> {
    let each = members.iter().flat_map(|member| (0..PUBLISHERS).map(move |number| (member, number)));
    let start = |((state, member), number): (&(&str, Tracker), usize)| {
        let key = read_key(&lab.path(state).join("publish.key")).unwrap();
        let prefix = format!("{round}/{state}/{number}");
        runtime.spawn(publish(Arc::clone(oracle), client(member.socket()), key, prefix))
    };
    each.map(start).collect()
}

/// A member that was one before.
fn again(lab: &Lab, state: &str) -> Tracker {
    Tracker::of(lab.start(["tracker", "--json", "--state", state]))
}

#[test]
fn f22_after_a_power_cut_of_the_whole_cluster_nothing_acknowledged_is_lost() {
    let lab = Lab::new();
    let mut disks = Vec::new();
    for state in STATES {
        let Some(disk) = DiskImage::mount(&lab, state, 64) else { return };
        disks.push(disk);
    }
    let rounds = std::env::var("OBT_POWER_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let oracle = Arc::<Oracle>::default();
    let mut members = three(&lab);
    for round in 0..rounds {
        let wanted = oracle.answered.load(Ordering::SeqCst) + CHANGES + fastrand::usize(..CHANGES);
        let publishing = publishers(&runtime, &lab, &members, &oracle, round);
        eventually("changes are answered", 3 * SOON, || {
            let ended = publishing.iter().position(JoinHandle::is_finished);
            assert!(ended.is_none(), "publisher {ended:?} has ended");
            (oracle.answered.load(Ordering::SeqCst) > wanted).then_some(())
        });
        oracle.cut.store(true, Ordering::SeqCst);
        DiskImage::cut_all(&disks);
        members.into_iter().for_each(|(_, member)| member.obt.kill());
        publishing.into_iter().for_each(|publisher| runtime.block_on(publisher).unwrap());
        disks.iter().for_each(DiskImage::mount_again);
        oracle.cut.store(false, Ordering::SeqCst);

        members = STATES.into_iter().map(|state| (state, again(&lab, state))).collect();
        settle_logs(&runtime, &lab, &members, &oracle, round);
        let clients: Vec<TrackerClient> = members.iter().map(|(_, member)| client(member.socket())).collect();
        let mut wrong = None;
        let items = eventually(&format!("all members have what was acknowledged, round {round}"), SOON, || {
            let seen = runtime.block_on(agreed(&oracle, &clients));
            if let Err(why) = &seen
                && wrong.as_ref() != Some(why)
            {
                eprintln!("{why}");
                wrong = Some(why.clone());
            }
            seen.ok()
        });
        for client in &clients {
            assert_torrents(&runtime, client, &items);
        }
        oracle.settle(&items);
        let (names, answered) = (items.len(), oracle.answered.load(Ordering::SeqCst));
        eprintln!("round {round}: {answered} changes were answered so far, there are {names} names, nothing is lost");
    }
}

/// What becomes of a disk.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Full,
    ReadOnly,
    Fails,
}

/// Takes all room in a folder's file system, and gives back how to free it.
fn fill(lab: &Lab, state: &str) -> impl FnOnce() + use<> {
    let path = lab.path(state).join("filler");
    let mut filler = fs::File::create(&path).unwrap();
    for size in [1 << 20, 4_096, 1] {
        let bytes = vec![1; size];
        while filler.write_all(&bytes).map_err(|error| assert_eq!(error.kind(), ErrorKind::StorageFull)).is_ok() {}
    }
    move || fs::remove_file(path).unwrap()
}

#[test]
fn f60_a_member_whose_disk_fails_or_is_full_says_so_and_ends_and_the_others_go_on() {
    let lab = Lab::new();
    let mut disks = Vec::new();
    for state in STATES {
        let Some(disk) = DiskImage::mount(&lab, state, 32) else { return };
        disks.push(disk);
    }
    let mut members = three(&lab);
    lab.file("x", &[1; 1_000]);
    lab.run(["create", "x"]).exits(0);
    let mut published = Vec::new();
    for (fault, leads) in
        [Fault::Full, Fault::ReadOnly, Fault::Fails].into_iter().flat_map(|one| [(one, true), (one, false)])
    {
        let leader = eventually("a leader", SOON, || {
            members.iter().position(|(state, _)| {
                let told = status(&lab, state);
                told["id"] == told["leader"]
            })
        });
        let at = if leads { leader } else { (leader + 1) % members.len() };
        let free = match fault {
            Fault::Full => Some(fill(&lab, STATES[at])),
            Fault::ReadOnly => {
                disks[at].turn_read_only();
                None
            }
            Fault::Fails => {
                disks[at].cut();
                None
            }
        };
        // Whoever asks one that is well is served all along, and the other notices when it has to write.
        let (state, other) = (STATES[(at + 1) % members.len()], members[(at + 1) % members.len()].1.address());
        let (_, failing) = members.remove(at);
        eventually(&format!("the member ends, {fault:?}, leads: {leads}"), 3 * SOON, || {
            let name = format!("{fault:?} {leads} {}", published.len());
            let mut publish = lab.command(["publish", "x.torrent", "--as", &name, "--tracker", &other]);
            publish.arg("--key-file").arg(lab.path(state).join("publish.key"));
            Obt::spawn(publish).ends().exits(0);
            published.push(name);
            failing.obt.has_ended().then_some(())
        });
        let ended = failing.obt.ends();
        assert_eq!(ended.status.signal(), Some(6), "{ended}");
        assert!(ended.err.contains("this member stops"), "{fault:?}, leads: {leads}: {ended}");
        if matches!(fault, Fault::Full) {
            assert!(ended.err.contains("full"), "leads: {leads}: {ended}");
        }

        match free {
            Some(free) => free(),
            None => disks[at].mount_again(),
        }
        members.insert(at, (STATES[at], again(&lab, STATES[at])));
        for (state, member) in &members {
            eventually(&format!("{state} has all names after {fault:?}, leads: {leads}"), SOON, || {
                let found = lab.run(["find", "--json", "127.0.0.1", &member.port.to_string()]);
                let found = found.last();
                let names: Vec<&str> = found
                    .as_array()
                    .map_or(&[][..], Vec::as_slice)
                    .iter()
                    .filter_map(|item| item["name"].as_str())
                    .collect();
                published.iter().all(|name| names.contains(&name.as_str())).then_some(())
            });
        }
    }
}

#[test]
fn f60_a_tracker_whose_disk_is_full_says_so_and_takes_names_again_when_there_is_room() {
    let lab = Lab::new();
    let Some(_disk) = DiskImage::mount(&lab, "tracker", 32) else { return };
    let tracker = lab.tracker();
    let pieces = 100_000;
    let mut torrent =
        format!("d4:infod6:lengthi{}e4:name1:x12:piece lengthi16384e6:pieces{}:", pieces << 14, pieces * 20);
    torrent.push_str(&"x".repeat(pieces * 20));
    torrent.push_str("ee");
    lab.file("x.torrent", torrent.as_bytes());
    let publish = |name: &str| {
        let mut publish = lab.command(["publish", "x.torrent", "--as", name, "--tracker", &tracker.address()]);
        publish.arg("--key-file").arg(lab.path("tracker/publish.key"));
        Obt::spawn(publish).ends()
    };
    let free = fill(&lab, "tracker");
    publish("x").fails(2, "full");
    free();
    publish("x").exits(0);
    tracker.obt.stop().exits(0);
}
