//! A few swarm cores, virtual links between them and virtual time: enough to play a scene and look at what was done.
//!
//! Blocks carry no bytes, only whether they are what the torrent says.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_swarm::{
    Action, AnnounceReply, AnnounceRequest, Config, Content, Direction, Event, LocalAddresses, PeerKey, Phase, Start,
    Stats, Swarm, TrackerIndex, TrackerUrl, Verdict,
};
use obt_wire::merkle::{block_hash, piece_layer_number, root_above};
use obt_wire::metainfo::{Draft, Info, Metainfo, Version};
use obt_wire::peer::{Handshake, Message, PieceHeader, Request, Reserved};
use obt_wire::{BLOCK_SIZE, Bitfield, InfoHashes, PeerId, PieceIndex, Sha1Hash, Sha256Hash};

/// One file of `blocks` whole blocks in pieces of `per_piece` blocks.
pub(crate) fn torrent(blocks: u32, per_piece: u32, version: Version) -> Metainfo {
    let piece_length = per_piece * BLOCK_SIZE;
    let draft = Draft::file("file", u64::from(blocks) * u64::from(BLOCK_SIZE), piece_length, version).unwrap();
    let pieces: Vec<Sha1Hash> = match version {
        Version::V2 => Vec::new(),
        _ => (0..draft.geometry().pieces()).map(|piece| Sha1Hash([piece as u8; 20])).collect(),
    };
    let leaves: Vec<Sha256Hash> = (0..blocks).map(leaf).collect();
    let top = piece_layer_number(piece_length).min(blocks.next_power_of_two().ilog2());
    let layer = leaves.chunks(per_piece as usize).map(|piece| root_above(piece, 0, top).unwrap()).collect();
    draft.finish(&pieces, vec![layer]).unwrap()
}

/// The hash of a block's right bytes.
pub(crate) fn leaf(block: u32) -> Sha256Hash {
    block_hash(&block.to_be_bytes())
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// How a node treats what its core wants to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Conduct {
    Honest,
    /// This share of its blocks is wrong.
    Corrupts(f64),
    /// It unchokes and never sends a block.
    Stalls,
    /// Its metadata is wrong.
    MetadataLies,
    /// Its hashes are wrong.
    HashLies,
    /// It rejects requests for hashes and blocks.
    Rejects,
}

pub(crate) struct Node {
    pub(crate) swarm: Swarm,
    pub(crate) conduct: Conduct,
    pub(crate) addr: SocketAddr,
    pub(crate) id: PeerId,
    pub(crate) done: Vec<Action>,
    pub(crate) metainfo: Option<Metainfo>,
    hashes: InfoHashes,
    links: BTreeMap<PeerKey, (usize, PeerKey)>,
    /// Whether the accepted blocks of each piece are right.
    accepted: BTreeMap<u32, BTreeMap<u32, bool>>,
    pub(crate) alive: bool,
    pub(crate) fast: bool,
    /// Bytes per second that it sends; blocks queue for it.
    pub(crate) uplink: u64,
    uplink_free: Instant,
    /// Sums over what was done, for assertions.
    pub(crate) blocks_in: u64,
    layers: BTreeMap<Sha256Hash, Vec<Sha256Hash>>,
}

impl Node {
    pub(crate) fn count(&self, wanted: impl Fn(&Action) -> bool) -> usize {
        self.done.iter().filter(|action| wanted(action)).count()
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Plain(Event),
    /// A block, and whether its bytes are right.
    Block(PeerKey, PieceHeader, bool),
    /// Somebody may have listened there.
    Dialed(SocketAddr),
}

pub(crate) struct World {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node>,
    pub(crate) latency: Duration,
    queue: BTreeMap<(Instant, u64), (usize, Happening)>,
    numbers: u64,
    checks: u64,
    rng: fastrand::Rng,
    in_tracker: BTreeSet<usize>,
    pub(crate) tracker_up: bool,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            nodes: Vec::new(),
            latency: millis(10),
            queue: BTreeMap::new(),
            numbers: 0,
            checks: 0,
            rng: fastrand::Rng::with_seed(5),
            in_tracker: BTreeSet::new(),
            tracker_up: true,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn config(&self, number: usize) -> Config {
        Config {
            peer_id: PeerId([number as u8 + 1; 20]),
            listen_port: Some(6881),
            client: "obt test".into(),
            connections: 50,
            half_open: 10,
            download_rate: None,
            upload_rate: None,
            block_budget: 4_096,
            hashed_together: 16,
            stretch: obt_swarm::limits::STRETCH,
            trackers: vec![TrackerUrl { url: "http://tracker/announce".into(), tier: 0 }],
            local_addresses: LocalAddresses::Allowed,
        }
    }

    pub(crate) fn add(&mut self, start: Start, change: impl FnOnce(&mut Config)) -> usize {
        let number = self.nodes.len();
        let mut config = self.config(number);
        change(&mut config);
        let (id, metainfo, hashes) = match &start {
            Start::Content(content) => {
                (config.peer_id, Some((*content.metainfo).clone()), content.metainfo.info.hashes)
            }
            Start::Hashes(hashes) | Start::Awaited(hashes) => (config.peer_id, None, *hashes),
        };
        let swarm = Swarm::new(config, start, number as u64, self.now);
        self.nodes.push(Node {
            swarm,
            conduct: Conduct::Honest,
            addr: SocketAddr::from(([10, 0, 0, number as u8 + 1], 6881)),
            id,
            done: Vec::new(),
            layers: metainfo.as_ref().map(|metainfo| metainfo.piece_layers.clone()).unwrap_or_default(),
            metainfo,
            hashes,
            links: BTreeMap::new(),
            accepted: BTreeMap::new(),
            alive: true,
            fast: true,
            uplink: 100_000_000,
            uplink_free: self.now,
            blocks_in: 0,
        });
        number
    }

    pub(crate) fn seed(&mut self, metainfo: &Metainfo) -> usize {
        self.holder(metainfo, Bitfield::full(metainfo.info.geometry.pieces()))
    }

    pub(crate) fn leecher(&mut self, metainfo: &Metainfo) -> usize {
        self.holder(metainfo, Bitfield::empty(metainfo.info.geometry.pieces()))
    }

    pub(crate) fn holder(&mut self, metainfo: &Metainfo, have: Bitfield) -> usize {
        let wanted = Bitfield::full(have.len());
        self.add(Start::Content(Content { metainfo: metainfo.clone().into(), have, wanted }), |_| ())
    }

    pub(crate) fn stats(&self, node: usize) -> Stats {
        self.nodes[node].swarm.snapshot(self.now)
    }

    pub(crate) fn is_complete(&self, node: usize) -> bool {
        self.nodes[node].swarm.phase() == Phase::Seeding
    }

    /// Tells a node's core something.
    pub(crate) fn tell(&mut self, node: usize, event: Event) {
        self.happen(node, Happening::Plain(event));
    }

    /// Its process dies: connections break, nobody is told anything.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.in_tracker.remove(&node);
        for (_, (other, key)) in std::mem::take(&mut self.nodes[node].links) {
            self.nodes[other].links.remove(&key);
            self.later(millis(1), other, Happening::Plain(Event::Disconnected { peer: key }));
        }
    }

    /// The connection of `node` to `other`.
    pub(crate) fn link(&self, node: usize, other: usize) -> Option<PeerKey> {
        self.nodes[node].links.iter().find(|(_, (to, _))| *to == other).map(|(key, _)| *key)
    }

    /// Runs until `done` or the time is up; whether `done` came true.
    pub(crate) fn run(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        // Actions of `new` and of `tell` are in the queue already; a first look at every timer starts the rest.
        while !done(self) {
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let alive = (0..self.nodes.len()).filter(|node| self.nodes[*node].alive);
            let timer = alive.filter_map(|node| Some((self.nodes[node].swarm.poll_timeout()?.0, node))).min();
            match (event, timer) {
                (None, None) => return false,
                (Some(at), timer) if timer.is_none_or(|(due, _)| at <= due.max(self.now)) => {
                    if at > end {
                        break;
                    }
                    self.now = self.now.max(at);
                    if let Some((_, (node, happening))) = self.queue.pop_first() {
                        self.happen(node, happening);
                    }
                }
                (_, Some((due, node))) => {
                    if due > end {
                        break;
                    }
                    self.now = self.now.max(due);
                    let now = self.now;
                    self.nodes[node].swarm.handle_timeout(now);
                    self.act(node, None);
                }
                (Some(_), None) => {}
            }
        }
        let result = done(self);
        if !result {
            self.now = self.now.max(end);
        }
        result
    }

    fn later(&mut self, after: Duration, node: usize, happening: Happening) {
        self.numbers += 1;
        self.queue.insert((self.now + after, self.numbers), (node, happening));
    }

    fn happen(&mut self, node: usize, happening: Happening) {
        if !self.nodes[node].alive {
            return;
        }
        let open = |peer: &PeerKey| self.nodes[node].links.contains_key(peer);
        match happening {
            Happening::Dialed(addr) => self.dialed(node, addr),
            Happening::Block(peer, header, right) => {
                if open(&peer) {
                    self.nodes[node].blocks_in += 1;
                    self.event(node, Event::Block { peer, header }, Some(right));
                }
            }
            Happening::Plain(Event::Message { peer, message }) => {
                if open(&peer) {
                    self.event(node, Event::Message { peer, message }, None);
                }
            }
            Happening::Plain(event) => self.event(node, event, None),
        }
    }

    fn event(&mut self, node: usize, event: Event, right: Option<bool>) {
        let now = self.now;
        self.nodes[node].swarm.handle_event(event, now);
        self.act(node, right);
    }

    fn act(&mut self, node: usize, right: Option<bool>) {
        while let Some(action) = self.nodes[node].swarm.poll_action() {
            self.nodes[node].done.push(action.clone());
            self.perform(node, action, right);
        }
        self.checks += 1;
        // Every invariant is looked at after each step of a small scene, and now and then in a large one.
        let pieces = self.nodes[node].metainfo.as_ref().map_or(0, |metainfo| metainfo.info.geometry.pieces());
        if pieces > 100 && !self.checks.is_multiple_of(u64::from(pieces)) {
            return;
        }
        if let Err(fault) = self.nodes[node].swarm.check() {
            panic!("node {node} at {:?}: {fault}", self.elapsed());
        }
    }

    fn perform(&mut self, node: usize, action: Action, right: Option<bool>) {
        let latency = self.latency;
        match action {
            Action::Connect { addr } => self.later(latency, node, Happening::Dialed(addr)),
            Action::Close { peer, .. } => {
                if let Some((other, key)) = self.nodes[node].links.remove(&peer) {
                    self.nodes[other].links.remove(&key);
                    self.later(latency, other, Happening::Plain(Event::Disconnected { peer: key }));
                }
                self.later(Duration::ZERO, node, Happening::Plain(Event::Disconnected { peer }));
            }
            Action::Send { peer, message } => self.send(node, peer, message),
            Action::Upload { peer, request } => self.upload(node, peer, request),
            Action::Accept { block } => {
                let right = right.expect("a block is accepted only when one came");
                let known = self.nodes[node].accepted.entry(block.piece.0).or_default().insert(block.index, right);
                assert_eq!(known, None, "{block:?} was accepted twice");
            }
            Action::Verify { piece, digests } => self.verify(node, piece, digests),
            Action::HashBlocks { piece } => self.hash_blocks(node, piece),
            Action::Forget { piece } => {
                self.nodes[node].accepted.remove(&piece.0);
            }
            Action::Announce { tracker, request } => self.announce(node, tracker, request),
            Action::MetadataReady { info } => {
                let info = Info::parse_expecting(info, &self.nodes[node].hashes).unwrap();
                let metainfo = Metainfo::new(info);
                self.nodes[node].metainfo = Some(metainfo.clone());
                let pieces = metainfo.info.geometry.pieces();
                let content = Content {
                    metainfo: metainfo.into(),
                    have: Bitfield::empty(pieces),
                    wanted: Bitfield::full(pieces),
                };
                self.later(millis(1), node, Happening::Plain(Event::ContentReady(content)));
            }
            Action::PieceLayerReady { pieces_root, hashes } => {
                self.nodes[node].layers.insert(pieces_root, hashes);
            }
            Action::StoreAhead { piece, blocks } => {
                self.later(millis(1), node, Happening::Plain(Event::StoredAhead { piece, blocks }));
            }
            Action::Spill { .. } | Action::Completed | Action::Inconsistent { .. } | Action::Stopped => {}
        }
    }

    fn dialed(&mut self, node: usize, addr: SocketAddr) {
        let Some(other) = self.nodes.iter().position(|other| other.addr == addr && other.alive) else {
            return self.event(node, Event::ConnectFailed { addr }, None);
        };
        self.numbers += 2;
        let (mine, theirs) = (PeerKey(self.numbers - 1), PeerKey(self.numbers));
        let fast = self.nodes[node].fast && self.nodes[other].fast;
        let v2 = self.nodes[node].hashes.v2.is_some() && self.nodes[other].hashes.v2.is_some();
        let handshake = |peer_id, info_hash| Handshake {
            reserved: Reserved { extensions: true, fast, dht: false, v2: false },
            info_hash,
            peer_id,
        };
        let info_hash = self.nodes[node].hashes.primary();
        let (to_me, to_them) = (handshake(self.nodes[other].id, info_hash), handshake(self.nodes[node].id, info_hash));
        self.nodes[node].links.insert(mine, (other, theirs));
        self.nodes[other].links.insert(theirs, (node, mine));
        let from = SocketAddr::new(self.nodes[node].addr.ip(), 40_000 + (self.numbers % 20_000) as u16);
        let incoming =
            Event::Connected { peer: theirs, addr: from, direction: Direction::Incoming, handshake: to_them, v2 };
        let outgoing = Event::Connected { peer: mine, addr, direction: Direction::Outgoing, handshake: to_me, v2 };
        self.event(other, incoming, None);
        self.event(node, outgoing, None);
    }

    fn send(&mut self, node: usize, peer: PeerKey, message: Message) {
        let Some((other, key)) = self.nodes[node].links.get(&peer).copied() else {
            return;
        };
        let message = match (self.nodes[node].conduct, message) {
            (Conduct::MetadataLies, Message::Extended { id: 1, payload }) => {
                let mut payload = payload.to_vec();
                if let Some(last) = payload.last_mut().filter(|byte| **byte != b'e') {
                    *last ^= 1;
                }
                Message::Extended { id: 1, payload: Bytes::from(payload) }
            }
            (Conduct::HashLies, Message::Hashes(request, mut hashes)) => {
                hashes[0].0[0] ^= 1;
                Message::Hashes(request, hashes)
            }
            (Conduct::Rejects, Message::Hashes(request, _)) => Message::HashReject(request),
            (_, message) => message,
        };
        self.later(self.latency, other, Happening::Plain(Event::Message { peer: key, message }));
    }

    fn upload(&mut self, node: usize, peer: PeerKey, request: Request) {
        let Some((other, key)) = self.nodes[node].links.get(&peer).copied() else {
            return;
        };
        let right = match self.nodes[node].conduct {
            Conduct::Stalls => return,
            Conduct::Rejects => {
                let failed = Event::UploadFailed { peer, piece: PieceIndex(request.piece) };
                return self.later(Duration::ZERO, node, Happening::Plain(failed));
            }
            Conduct::Corrupts(share) => self.rng.f64() >= share,
            _ => true,
        };
        let begins = self.nodes[node].uplink_free.max(self.now);
        let ends = begins + Duration::from_secs_f64(f64::from(request.length) / self.nodes[node].uplink as f64);
        self.nodes[node].uplink_free = ends;
        let sent = ends - self.now;
        let header = PieceHeader { piece: request.piece, begin: request.begin, length: request.length };
        self.later(sent, node, Happening::Plain(Event::Uploaded { peer, bytes: request.length }));
        self.later(sent + self.latency, other, Happening::Block(key, header, right));
    }

    fn verify(&mut self, node: usize, piece: PieceIndex, digests: bool) {
        let geometry = self.nodes[node].metainfo.as_ref().unwrap().info.geometry.clone();
        let blocks = self.nodes[node].accepted.remove(&piece.0).unwrap_or_default();
        assert_eq!(blocks.len(), geometry.blocks(piece) as usize, "{piece:?} is verified before it is full");
        let good = blocks.values().all(|right| *right);
        let per_piece = geometry.piece_length() / BLOCK_SIZE;
        let digest = |(index, right): (&u32, &bool)| match right {
            true => leaf(piece.0 * per_piece + index).0,
            false => [0xee; 32],
        };
        let block_digests = if digests || !good { blocks.iter().map(digest).collect() } else { Vec::new() };
        let verdict = if good { Verdict::Good } else { Verdict::Bad };
        self.later(millis(1), node, Happening::Plain(Event::Verified { piece, verdict, block_digests }));
    }

    fn hash_blocks(&mut self, node: usize, piece: PieceIndex) {
        let geometry = &self.nodes[node].metainfo.as_ref().unwrap().info.geometry;
        let first = piece.0 * (geometry.piece_length() / BLOCK_SIZE);
        let hashes = (first..first + geometry.blocks(piece)).map(leaf).collect();
        self.later(millis(1), node, Happening::Plain(Event::BlocksHashed { piece, hashes }));
    }

    fn announce(&mut self, node: usize, tracker: TrackerIndex, request: AnnounceRequest) {
        let result = if self.tracker_up {
            if request.event == obt_swarm::AnnounceEvent::Stopped {
                self.in_tracker.remove(&node);
            } else {
                self.in_tracker.insert(node);
            }
            let others = self.in_tracker.iter().filter(|other| **other != node);
            let peers = others.map(|other| self.nodes[*other].addr).collect();
            Ok(AnnounceReply { interval: secs(1_800), peers, ..AnnounceReply::default() })
        } else {
            Err("connection refused".into())
        };
        self.later(self.latency, node, Happening::Plain(Event::Announced { tracker, result }));
    }
}
