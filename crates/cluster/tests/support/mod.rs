//! Clusters in one process: real files, real openraft, links in memory that can be cut.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "it is part of each test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use obt_catalogue::signing::PublicKey;
use obt_catalogue::{
    BlobHash, CatalogueError, Command, CommandId, Content, Layout, Name, Outcome, Publish, PublishPolicy, Reader,
    Replace,
};
use obt_cluster::message::{Reply, Request};
use obt_cluster::raft::{Member, MemberKey, NodeId};
use obt_cluster::transport::{Boxed, LinkError, Transport};
use obt_cluster::{
    Cluster, ClusterFailure, Config, Directory, FatalError, FatalHook, Incoming, Origin, Role, StartError, Timing,
};
use obt_wire::{InfoHashes, Sha1Hash, Sha256Hash};
use tempfile::TempDir;

/// Longest that anything here may take; nothing waits for it to pass.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Links between members, by their places in the world.
#[derive(Default)]
pub struct Net {
    members: Mutex<BTreeMap<usize, Cluster>>,
    ids: Mutex<BTreeMap<NodeId, usize>>,
    keys: Mutex<BTreeMap<MemberKey, usize>>,
    cut: Mutex<BTreeSet<(usize, usize)>>,
    delay: Mutex<Duration>,
    /// Blobs are not carried to these.
    blobless: Mutex<BTreeSet<usize>>,
}

struct Port {
    net: Arc<Net>,
    place: usize,
    key: MemberKey,
    node: Arc<OnceLock<NodeId>>,
}

impl Transport for Port {
    fn call<'a>(
        &'a self,
        to: NodeId,
        member: &'a Member,
        request: Request,
        body: Bytes,
        limit: Duration,
    ) -> Boxed<'a, Result<(Reply, Bytes), LinkError>> {
        Box::pin(async move {
            let unreachable = || LinkError::Unreachable("cut".to_owned());
            let place = match to {
                0 => self.net.keys.lock().unwrap().get(&member.key).copied(),
                _ => self.net.ids.lock().unwrap().get(&to).copied(),
            };
            let place = place.ok_or_else(unreachable)?;
            if self.net.is_cut(self.place, place) {
                return Err(unreachable());
            }
            if matches!(request, Request::PutBlob { .. }) && self.net.blobless.lock().unwrap().contains(&place) {
                return Err(unreachable());
            }
            let target = self.net.members.lock().unwrap().get(&place).cloned().ok_or_else(unreachable)?;
            let delay = *self.net.delay.lock().unwrap();
            let (key, from) = (self.key, self.node.get().copied());
            let knows = |id| target.status().members.iter().any(|member| Some(member.node) == id);
            if to != 0 && !knows(from) {
                // What TLS makes of a key that is no member's.
                return Err(LinkError::Broken("certificate refused".to_owned()));
            }
            // As over a socket: what was sent is done though nobody waits for the reply.
            let work = tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                match (to, from) {
                    (0, _) => (target.serve_stranger(key, request).await, Bytes::new()),
                    (_, Some(from)) => target.serve().serve(from, request, body).await,
                    (_, None) => (Reply::Refused(obt_cluster::message::Refusal::NotAllowed), Bytes::new()),
                }
            });
            let reply = match tokio::time::timeout(limit, work).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => return Err(LinkError::Broken("it ended".to_owned())),
                Err(_) => return Err(LinkError::TimedOut),
            };
            tokio::time::sleep(delay).await;
            if self.net.is_cut(place, self.place) {
                return Err(LinkError::TimedOut);
            }
            Ok(reply)
        })
    }
}

impl Net {
    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.lock().unwrap().contains(&(from, to))
    }
}

/// Members by their places.
pub struct World {
    pub net: Arc<Net>,
    pub timing: Timing,
    seats: BTreeMap<usize, Seat>,
    next: usize,
}

struct Seat {
    folder: TempDir,
    key: MemberKey,
    incoming: Option<Incoming>,
    fatal: Arc<Mutex<Vec<FatalError>>>,
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

impl World {
    pub fn new() -> Self {
        let timing = Timing { membership: Duration::from_millis(50), ..Timing::default() };
        Self { net: Arc::default(), timing, seats: BTreeMap::new(), next: 0 }
    }

    /// One founder and so many who join it; all voters where that can be.
    pub async fn of(members: usize) -> Self {
        let mut world = Self::new();
        world.found().await;
        for _ in 1..members {
            world.join(0).await;
        }
        let voters = if members.is_multiple_of(2) { members - 1 } else { members };
        let ready = |world: &Self, place| {
            let members = world.at(place).members().borrow().clone();
            members.voters.len() == voters.min(5) && members.sets.len() == 1
        };
        world.until("the voters are there", |world| world.places().into_iter().all(|place| ready(world, place))).await;
        world
    }

    pub fn seat(&mut self) -> usize {
        let place = self.next;
        self.next += 1;
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(place as u64 + 1).to_be_bytes());
        let folder = tempfile::tempdir().unwrap();
        self.seats.insert(place, Seat { folder, key: MemberKey(key), incoming: None, fatal: Arc::default() });
        place
    }

    pub fn config(&self, place: usize, origin: Origin) -> Config {
        let seat = &self.seats[&place];
        let fatal = Arc::clone(&seat.fatal);
        Config {
            catalogue: self.catalogue(place),
            log: seat.folder.path().join("raft.db"),
            member: Member {
                key: seat.key,
                addresses: vec![format!("member-{place}:1")],
                format: obt_catalogue::FORMAT,
                ..Member::default()
            },
            origin,
            clock: Arc::new(now_ms),
            changed: Arc::new(|_| ()),
            fatal: FatalHook::new(move |error| fatal.lock().unwrap().push(error.clone())),
            timing: self.timing,
        }
    }

    pub fn catalogue(&self, place: usize) -> PathBuf {
        self.seats[&place].folder.path().join("catalogue")
    }

    pub async fn start(&mut self, place: usize, config: Config) -> Result<(), StartError> {
        let node = Arc::new(OnceLock::new());
        let port = Port { net: Arc::clone(&self.net), place, key: config.member.key, node: Arc::clone(&node) };
        let (cluster, incoming) =
            Cluster::start(config.clone(), Arc::new(port), Arc::new(Directory::default())).await?;
        node.set(cluster.node()).unwrap();
        self.net.ids.lock().unwrap().insert(cluster.node(), place);
        self.net.keys.lock().unwrap().insert(config.member.key, place);
        self.net.members.lock().unwrap().insert(place, cluster);
        self.seats.get_mut(&place).unwrap().incoming = Some(incoming);
        Ok(())
    }

    pub async fn found(&mut self) -> usize {
        let place = self.seat();
        self.start(place, self.config(place, Origin::Found)).await.unwrap();
        self.until("it leads", |world| world.at(place).leader() == Some(world.at(place).node())).await;
        place
    }

    /// A new member, invited by `host`; it is a learner at least when this returns, and caught up.
    pub async fn join(&mut self, host: usize) -> usize {
        let line = self.at(host).invite(Duration::from_secs(60)).await.unwrap();
        let place = self.seat();
        self.start(place, self.config(place, Origin::Join(line))).await.unwrap();
        self.until("it is a member", |world| {
            let node = world.at(place).node();
            world.at(place).members().borrow().all.contains_key(&node) && !world.at(place).secret().is_empty()
        })
        .await;
        place
    }

    /// Ends it without a word.
    pub async fn kill(&mut self, place: usize) {
        let cluster = self.net.members.lock().unwrap().remove(&place).unwrap();
        cluster.stop().await;
    }

    pub async fn restart(&mut self, place: usize) {
        self.start(place, self.config(place, Origin::Found)).await.unwrap();
    }

    pub fn at(&self, place: usize) -> Cluster {
        self.net.members.lock().unwrap()[&place].clone()
    }

    pub fn places(&self) -> Vec<usize> {
        self.net.members.lock().unwrap().keys().copied().collect()
    }

    pub fn fatal(&self, place: usize) -> Vec<FatalError> {
        self.seats[&place].fatal.lock().unwrap().clone()
    }

    pub fn incoming(&mut self, place: usize) -> Incoming {
        self.seats.get_mut(&place).unwrap().incoming.take().unwrap()
    }

    pub fn voters(&self, place: usize) -> usize {
        self.at(place).members().borrow().voters.len()
    }

    /// The place that all members hold for the leader.
    pub fn leader(&self) -> Option<usize> {
        let places = self.places();
        let leaders: BTreeSet<Option<NodeId>> = places.iter().map(|place| self.at(*place).leader()).collect();
        let [leader] = leaders.into_iter().collect::<Vec<_>>()[..] else { return None };
        let place = *self.net.ids.lock().unwrap().get(&leader?)?;
        places.contains(&place).then_some(place)
    }

    pub fn role(&self, place: usize, of: usize) -> Option<Role> {
        let node = self.at(of).node();
        self.at(place).status().members.iter().find(|member| member.node == node).map(|member| member.role)
    }

    /// Cuts all links between the two groups, both ways.
    pub fn cut(&self, ones: &[usize], others: &[usize]) {
        for one in ones {
            for other in others {
                self.net.cut.lock().unwrap().extend([(*one, *other), (*other, *one)]);
            }
        }
    }

    /// What `from` sends does not arrive.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.net.cut.lock().unwrap().insert((from, to));
    }

    pub fn heal(&self) {
        self.net.cut.lock().unwrap().clear();
    }

    pub fn set_delay(&self, delay: Duration) {
        *self.net.delay.lock().unwrap() = delay;
    }

    pub fn keep_blobs_from(&self, places: &[usize]) {
        *self.net.blobless.lock().unwrap() = places.iter().copied().collect();
    }

    /// Waits for a state of the world.
    pub async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < deadline, "not in time: {what}; {}", self.describe());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn describe(&self) -> String {
        let places = self.places().into_iter();
        let lines =
            places.map(|place| format!("\n{place}: {:?} fatal {:?}", self.at(place).status(), self.fatal(place)));
        lines.collect()
    }

    /// Waits until all have applied the same entries, and compares what they hold then.
    pub async fn agree(&self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let held: Vec<(u64, [u8; 32])> = self.places().into_iter().map(|place| self.held(place)).collect();
            if held.iter().all(|(entry, _)| *entry == held[0].0) {
                assert!(held.iter().all(|(_, digest)| *digest == held[0].1), "equal index, equal digest");
                return;
            }
            assert!(Instant::now() < deadline, "not in time: all have applied the same; {}", self.describe());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How far it has applied, and the digest of that very state.
    fn held(&self, place: usize) -> (u64, [u8; 32]) {
        self.read(place, |reader| {
            let held = reader.snapshot(|reader| Ok::<_, CatalogueError>((reader.applied()?.entry, reader.digest()?)));
            held.unwrap()
        })
    }

    pub fn read<T>(&self, place: usize, ask: impl FnOnce(&Reader) -> T) -> T {
        ask(&Reader::open(&self.catalogue(place)).unwrap())
    }

    pub fn names(&self, place: usize) -> u64 {
        self.read(place, |reader| reader.count().unwrap())
    }

    pub async fn open_to_all(&self, place: usize) {
        let open = Command::SetPublishPolicy { policy: PublishPolicy::Open };
        assert_eq!(self.at(place).propose(id(), open, None).await, Ok(Outcome::Done));
    }

    pub async fn publish(&self, place: usize, name: &str) -> Result<Outcome, ClusterFailure> {
        let (command, blob) = publish(name);
        self.at(place).propose(id(), command, Some(blob)).await
    }
}

pub fn id() -> CommandId {
    let mut id = [0; 16];
    for half in id.chunks_mut(8) {
        half.copy_from_slice(&fastrand::u64(..).to_be_bytes());
    }
    CommandId(id)
}

/// A command, and the blob that it names.
pub fn publish(name: &str) -> (Command, Bytes) {
    let blob = Bytes::from(format!("the torrent of {name}"));
    let hash = BlobHash::of(&blob);
    let mut v1 = [0; 20];
    v1.copy_from_slice(&hash.0[..20]);
    let content = Content {
        hashes: InfoHashes { v1: Some(Sha1Hash(v1)), v2: Some(Sha256Hash(hash.0)) },
        size: 1,
        files: 1,
        layout: Layout::File,
        piece_length: 16_384,
        blob: hash,
    };
    let key = PublicKey([1; 32]);
    let name = Name::parse(name).unwrap();
    (Command::Publish(Publish { name, content, key, replace: Replace::No }), blob)
}
