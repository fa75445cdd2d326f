//! The task that keeps one lease: gathers what torrents say, sends it, renews. The lease is at one member of the tracker
//! at a time; where that one does not answer, it moves to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::connect::capture_connection;
use obt_swarm::AnnounceReply;
use obt_wire::compact::is_dialable;
use obt_wire::files::escaped;
use obt_wire::limits::{FAILURE_BYTES, TRACKER_PEERS};
use obt_wire::{InfoHash, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Http;
use super::record::Record;
use crate::announce::resolve::advertised;
use crate::announce::{AnnounceError, cause};
use crate::api_types::{LeaseEvent, LeaseReply, LeaseRequest};
use crate::limits::{
    LEASE_EXCHANGE, LEASE_INTERVAL_SECONDS, LEASE_PAUSE, LEASE_REPLY_BYTES, LEASE_RETRY, LEASE_WANTS, MEMBER_ANSWER,
    MEMBER_RATE, MEMBER_STATUS_BYTES,
};
use crate::members::{Members, STATUS_PATH, slow};
use crate::tracker_client::TrackerAddress;

/// What every tracker of ours answers at once.
const HEALTH_PATH: &str = "/healthz";

type Answer = oneshot::Sender<Result<AnnounceReply, AnnounceError>>;

/// What the node wants of a lease. Each with an answer gets it once the tracker knows, or cannot be told; in a `Hurry`
/// what waits goes out, and nothing waits for others from there on.
pub(super) enum Command {
    Set { hash: InfoHash, left: u64, event: Option<LeaseEvent>, num_want: u32, answer: Answer },
    Remove { hash: InfoHash, answer: Answer },
    Join { answer: Answer },
    Approach,
    Hurry,
    Stop { answer: Answer },
}

/// Who we are, in every message.
pub(super) struct Identity {
    pub(super) peer_id: PeerId,
    pub(super) secret: [u8; 16],
    pub(super) port: u16,
    pub(super) advertise: Vec<String>,
}

/// The times of a lease.
#[derive(Debug, Clone)]
pub(super) struct Tempo {
    pub(super) pause: Duration,
    pub(super) retry: Duration,
    /// Between renewals, milliseconds.
    pub(super) interval: RangeInclusive<u64>,
}

impl Default for Tempo {
    fn default() -> Self {
        let (least, most) = LEASE_INTERVAL_SECONDS.into_inner();
        Self { pause: LEASE_PAUSE, retry: LEASE_RETRY, interval: least * 1_000..=most * 1_000 }
    }
}

/// A command that waits for its answer.
struct Waiting {
    hash: Option<InfoHash>,
    answer: Answer,
}

/// How it went with the tracker.
struct Failing {
    error: AnnounceError,
    /// Time until the next try.
    wait: Duration,
}

pub(super) struct Task {
    members: Members,
    /// The member that was told last.
    at: Option<TrackerAddress>,
    identity: Identity,
    http: Http,
    tempo: Tempo,
    commands: mpsc::Receiver<Command>,
    record: Record,
    /// What `advertise` meant when the lease began.
    advertised: Vec<String>,
    waiting: Vec<Waiting>,
    /// Swarms for which peers are wanted, and how many.
    wanted: BTreeSet<InfoHash>,
    num_want: u32,
    /// Between renewals, as the tracker wants it.
    interval: Duration,
    due: Option<Instant>,
    /// End of the last exchange.
    last: Option<Instant>,
    failing: Option<Failing>,
    stopping: bool,
}

impl Task {
    pub(super) fn new(
        members: Members,
        identity: Identity,
        http: Http,
        tempo: Tempo,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            members,
            at: None,
            identity,
            http,
            interval: Duration::from_millis(*tempo.interval.start()),
            tempo,
            commands,
            record: Record::default(),
            advertised: Vec::new(),
            waiting: Vec::new(),
            wanted: BTreeSet::new(),
            num_want: 0,
            due: None,
            last: None,
            failing: None,
            stopping: false,
        }
    }

    /// Runs until it is stopped, or nobody is left who could say anything.
    pub(super) async fn run(mut self) {
        while !self.stopping {
            self.wait().await;
            if self.stopping || self.due.is_some_and(|due| due <= Instant::now()) {
                self.exchange_all().await;
            }
        }
    }

    /// Takes commands until it is time for a message.
    async fn wait(&mut self) {
        while !self.stopping {
            // All that has been said already goes into the message.
            while let Ok(command) = self.commands.try_recv() {
                self.take(Some(command));
            }
            // A timer, even one that is due, takes a millisecond.
            if self.stopping || self.due.is_some_and(|due| due <= Instant::now()) {
                return;
            }
            let due = self.due;
            let time = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.commands.recv() => self.take(command),
                () = time => {}
            }
        }
    }

    fn take(&mut self, command: Option<Command>) {
        let (hash, answer) = match command {
            Some(Command::Set { hash, left, event, num_want, answer }) => {
                self.record.set(hash, left, event);
                if num_want > 0 && self.failing.is_none() {
                    self.wanted.insert(hash);
                    self.num_want = self.num_want.max(num_want);
                }
                (Some(hash), answer)
            }
            Some(Command::Remove { hash, answer }) => {
                self.record.remove(hash);
                self.wanted.remove(&hash);
                (Some(hash), answer)
            }
            Some(Command::Join { answer }) => {
                self.record.hold();
                (None, answer)
            }
            Some(Command::Approach) => return self.approach(),
            Some(Command::Hurry) => return self.hurry(),
            Some(Command::Stop { answer }) => {
                self.stop();
                (None, answer)
            }
            None => return self.stop(),
        };
        self.heard(hash, answer);
    }

    fn hurry(&mut self) {
        self.tempo.pause = Duration::ZERO;
        if !self.waiting.is_empty() {
            self.due = Some(Instant::now());
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.record.clear();
        self.wanted.clear();
    }

    /// Answers at once where the tracker has nothing to learn or cannot be told. Else the answer waits for a message,
    /// which goes out now, or a moment after the last one so that others can join it.
    fn heard(&mut self, hash: Option<InfoHash>, answer: Answer) {
        if let Some(failing) = self.failing.as_ref().filter(|_| !self.stopping) {
            // Nobody waits any more where this fails.
            let _ = answer.send(Err(failing.error.clone()));
            return;
        }
        let nothing_to_say = !self.record.has_news() && hash.is_none_or(|hash| !self.wanted.contains(&hash));
        if nothing_to_say {
            let _ = answer.send(Ok(self.reply(Vec::new())));
            return;
        }
        self.waiting.push(Waiting { hash, answer });
        let now = Instant::now();
        let soon = self.last.map_or(now, |last| now.max(last + self.tempo.pause));
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    fn reply(&self, peers: Vec<SocketAddr>) -> AnnounceReply {
        AnnounceReply { interval: self.interval, peers, ..AnnounceReply::default() }
    }

    /// Says all that is new and asks for all that is wanted, or renews, in as many messages as it takes.
    async fn exchange_all(&mut self) {
        let mut peers = BTreeMap::new();
        let result = if self.record.is_alive() { self.messages(&mut peers).await } else { Ok(()) };
        let now = Instant::now();
        match result {
            Ok(()) => {
                self.failing = None;
                self.due = self.record.is_alive().then(|| now + self.interval);
                for waiting in std::mem::take(&mut self.waiting) {
                    let told = waiting.hash.and_then(|hash| peers.get(&hash).cloned()).unwrap_or_default();
                    let _ = waiting.answer.send(Ok(self.reply(told)));
                }
            }
            Err(error) => {
                let wait = self.failing.take().map_or(self.tempo.retry, |failing| failing.wait * 2);
                let wait = wait.min(self.interval.max(self.tempo.retry));
                tracing::debug!(tracker = %self.members.typed(), %error, "a lease was not renewed");
                self.due = Some(now + wait);
                self.wanted.clear();
                for waiting in std::mem::take(&mut self.waiting) {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
                self.failing = Some(Failing { error, wait });
            }
        }
        self.num_want = 0;
        self.last = Some(now);
    }

    async fn messages(&mut self, peers: &mut BTreeMap<InfoHash, Vec<SocketAddr>>) -> Result<(), AnnounceError> {
        let mut resyncs = 0;
        loop {
            if !self.record.is_synced() {
                let addrs = advertised(&self.identity.advertise, self.identity.port).await;
                self.advertised = addrs.iter().map(SocketAddr::to_string).collect();
            }
            let want: Vec<InfoHash> = std::iter::from_fn(|| self.wanted.pop_first()).take(LEASE_WANTS).collect();
            let reply = match self.exchange(&want).await {
                Ok(reply) => reply,
                Err(error) => {
                    self.record.failed();
                    return Err(error);
                }
            };
            if reply.resync {
                self.record.lost();
                if !self.record.is_alive() {
                    // What it does not know need not be ended.
                    return Ok(());
                }
                resyncs += 1;
                if resyncs > 2 {
                    return Err(AnnounceError::Refused("it forgets what it was told".into()));
                }
                self.wanted.extend(want);
                continue;
            }
            self.record.accepted();
            let (least, most) = self.tempo.interval.clone().into_inner();
            self.interval = Duration::from_millis(reply.interval.saturating_mul(1_000).clamp(least, most));
            peers.extend(reply.peers.iter().filter_map(|(hash, addrs)| Some((hash.parse().ok()?, parsed(addrs)))));
            if !self.record.has_news() && self.wanted.is_empty() {
                return Ok(());
            }
        }
    }

    /// One message and its answer, of the first member that has one.
    async fn exchange(&mut self, want: &[InfoHash]) -> Result<LeaseReply, AnnounceError> {
        let begun = Instant::now();
        let members = self.in_order();
        let (mut tried, mut last) = (0, AnnounceError::Silent);
        for member in &members {
            let left = LEASE_EXCHANGE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            tried += 1;
            self.turn_to(member);
            let haste = if tried < members.len() { Haste::OthersWait } else { Haste::NobodyElse(left) };
            match self.tell(member, want, haste).await {
                Ok(reply) => {
                    self.members.answered(member);
                    self.learn_members(member);
                    return Ok(reply);
                }
                Err(error) if !is_of_one_member(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(%member, %error, "a member of the tracker does not take the lease");
                    self.members.failed(member);
                    last = error;
                }
            }
        }
        Err(if tried > 1 { AnnounceError::Members { tried, last: Box::new(last) } } else { last })
    }

    /// The members, the one that has the lease before others: a lease moves only where it must.
    fn in_order(&self) -> Vec<TrackerAddress> {
        let mut members = self.members.in_order();
        let at = members.iter().position(|member| Some(member) == self.at.as_ref());
        if let Some(at) = at.filter(|_| self.failing.is_none()) {
            members[..=at].rotate_right(1);
        }
        members
    }

    /// Another member is told everything: what the one before knows is not known to be there.
    fn turn_to(&mut self, member: &TrackerAddress) {
        if self.at.as_ref().is_some_and(|at| at != member) {
            self.record.lost();
        }
        self.at = Some(member.clone());
    }

    /// Tells one member, and hears its answer.
    async fn tell(
        &mut self,
        member: &TrackerAddress,
        want: &[InfoHash],
        haste: Haste,
    ) -> Result<LeaseReply, AnnounceError> {
        let request = self.request(want);
        let body = serde_json::to_vec(&request).map_err(|error| AnnounceError::Unreachable(error.to_string()))?;
        let on_the_way = Duration::from_secs_f64(body.len() as f64 / MEMBER_RATE as f64);
        let request = Request::post(format!("http://{member}/api/v1/lease")).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(body));
        let mut request = request.map_err(|error| AnnounceError::Unreachable(error.to_string()))?;
        let connection = capture_connection(&mut request);
        let fetched = fetch(&self.http, request, LEASE_REPLY_BYTES);
        let late = async {
            match haste {
                Haste::NobodyElse(left) => tokio::time::sleep(left).await,
                Haste::OthersWait => slow(Some(&connection), now(), MEMBER_ANSWER + on_the_way).await,
            }
        };
        let (status, body) = tokio::select! {
            fetched = fetched => fetched?,
            () = late => return Err(AnnounceError::Silent),
        };
        match serde_json::from_slice::<LeaseReply>(&body) {
            Ok(LeaseReply { failure: Some(reason), .. }) => Err(AnnounceError::Refused(shown(&reason))),
            Ok(reply) if status.is_success() => Ok(reply),
            Ok(_) => Err(AnnounceError::Status(status.as_u16())),
            Err(_) if !status.is_success() => Err(AnnounceError::Status(status.as_u16())),
            Err(error) => Err(AnnounceError::Foreign(error.to_string())),
        }
    }

    /// Has a connection to the first member ready: a question whose answer does not matter leaves one behind.
    fn approach(&self) {
        let Some(member) = self.in_order().into_iter().next() else { return };
        let Ok(request) = Request::get(format!("http://{member}{HEALTH_PATH}")).body(Full::default()) else { return };
        let http = self.http.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LEASE_EXCHANGE, fetch(&http, request, MEMBER_STATUS_BYTES)).await;
        });
    }

    /// Asks a member that answers who the others are, over the connection that it answered on, while nobody waits.
    fn learn_members(&self, member: &TrackerAddress) {
        if !self.members.is_due(now()) {
            return;
        }
        let (members, member, http) = (self.members.clone(), member.clone(), self.http.clone());
        tokio::spawn(async move {
            let Ok(request) = Request::get(format!("http://{member}{STATUS_PATH}")).body(Full::default()) else {
                return;
            };
            let fetched = tokio::time::timeout(LEASE_EXCHANGE, fetch(&http, request, MEMBER_STATUS_BYTES)).await;
            if let Ok(Ok((StatusCode::OK, body))) = fetched {
                members.learn(&member, &body);
            }
        });
    }

    fn request(&mut self, want: &[InfoHash]) -> LeaseRequest {
        let sent = self.record.send().clone();
        LeaseRequest {
            peer_id: self.identity.peer_id.to_string(),
            secret: HEXLOWER.encode(&self.identity.secret),
            port: self.identity.port,
            advertise: self.advertised.clone(),
            revision: sent.revision,
            full: sent.full,
            set: self.record.items(&sent),
            removed: sent.removed.iter().map(InfoHash::to_string).collect(),
            want: want.iter().map(InfoHash::to_string).collect(),
            num_want: self.num_want,
            stopped: sent.stopped,
        }
    }
}

/// How long one member is waited for.
#[derive(Debug, Clone, Copy)]
enum Haste {
    /// Others can be told in its place.
    OthersWait,
    /// It is the last: as long as there is time.
    NobodyElse(Duration),
}

/// Whether another member may do better.
fn is_of_one_member(error: &AnnounceError) -> bool {
    match error {
        AnnounceError::Unreachable(_) | AnnounceError::Silent | AnnounceError::Foreign(_) => true,
        AnnounceError::Status(status) => *status >= 400,
        _ => false,
    }
}

/// The time as those count it who do not run on tokio's.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn fetch(http: &Http, request: Request<Full<Bytes>>, most: usize) -> Result<(StatusCode, Bytes), AnnounceError> {
    let response = http.request(request).await.map_err(|error| AnnounceError::Unreachable(cause(&error)))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), most).collect().await;
    let body = body.map_err(|error| AnnounceError::Unreachable(cause(error.as_ref())))?;
    Ok((status, body.to_bytes()))
}

fn parsed(addrs: &[String]) -> Vec<SocketAddr> {
    let parsed = addrs.iter().filter_map(|addr| addr.parse().ok());
    parsed.filter(|addr| is_dialable(*addr)).take(TRACKER_PEERS).collect()
}

fn shown(reason: &str) -> String {
    let end = reason.floor_char_boundary(FAILURE_BYTES);
    escaped(reason.get(..end).unwrap_or_default()).to_string()
}
