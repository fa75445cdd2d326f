//! A core alone on the bench: events in, lists of actions out.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_swarm::{
    Action, CloseReason, Config, Content, Direction, Event, LocalAddresses, PeerKey, Start, Swarm, limits,
};
use obt_wire::extension::{ExtensionHandshake, MetadataMessage};
use obt_wire::merkle::{FileTree, block_hash, root_above};
use obt_wire::metainfo::{Draft, Metainfo, Version};
use obt_wire::peer::{Handshake, HashRequest, Message, PieceHeader, Request, Reserved};
use obt_wire::{BLOCK_SIZE, Bitfield, InfoHash, PeerId, PieceIndex, Sha1Hash, Sha256Hash};

pub(crate) const US: PeerId = PeerId([50; 20]);
pub(crate) const A: PeerKey = PeerKey(1);
pub(crate) const B: PeerKey = PeerKey(2);
pub(crate) const C: PeerKey = PeerKey(3);

/// A core and the time.
pub(crate) struct Bench {
    pub(crate) swarm: Swarm,
    pub(crate) now: Instant,
}

/// A torrent of `pieces` pieces of two blocks each.
pub(crate) fn torrent(pieces: u32, version: Version) -> Metainfo {
    let size = u64::from(pieces) * 2 * u64::from(BLOCK_SIZE);
    let draft = Draft::file("file", size, 2 * BLOCK_SIZE, version).unwrap();
    let v1 = if version == Version::V2 { 0 } else { pieces };
    let layer = (0..pieces).map(piece_hash).collect();
    draft.finish(&vec![Sha1Hash([7; 20]); v1 as usize], vec![layer]).unwrap()
}

pub(crate) fn piece_hash(piece: u32) -> Sha256Hash {
    let leaves = [2 * piece, 2 * piece + 1].map(|block: u32| block_hash(&block.to_be_bytes()));
    root_above(&leaves, 0, 1).unwrap()
}

/// The hashes of the blocks of a piece of [`torrent`].
pub(crate) fn block_hashes(piece: u32) -> Vec<Sha256Hash> {
    [2 * piece, 2 * piece + 1].map(|block| block_hash(&block.to_be_bytes())).to_vec()
}

/// Asks for the hashes of a piece's blocks, with a proof up to the root.
pub(crate) fn ask_blocks(metainfo: &Metainfo, piece: u32) -> HashRequest {
    tree(metainfo).block_request(piece).unwrap()
}

/// The tree over the file of a [`torrent`].
pub(crate) fn tree(metainfo: &Metainfo) -> FileTree {
    metainfo.info.tree(&metainfo.info.files[0]).unwrap()
}

pub(crate) fn content(metainfo: &Metainfo, have: &[u32]) -> Content {
    let pieces = metainfo.info.geometry.pieces();
    let mut held = Bitfield::empty(pieces);
    for piece in have {
        held.set(PieceIndex(*piece));
    }
    Content { metainfo: metainfo.clone().into(), have: held, wanted: Bitfield::full(pieces) }
}

pub(crate) fn request(piece: u32, index: u32) -> Request {
    Request { piece, begin: index * BLOCK_SIZE, length: BLOCK_SIZE }
}

pub(crate) fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([11, 0, 0, host], 6881))
}

pub(crate) fn extended(handshake: &ExtensionHandshake) -> Message {
    let mut payload = Vec::new();
    handshake.encode(&mut payload);
    Message::Extended { id: 0, payload: payload.into() }
}

pub(crate) fn metadata(message: &MetadataMessage) -> Message {
    let mut payload = Vec::new();
    message.encode(&mut payload);
    Message::Extended { id: 1, payload: payload.into() }
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    pub(crate) fn new(start: Start, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            peer_id: US,
            listen_port: None,
            client: "obt".into(),
            connections: 10,
            half_open: 5,
            download_rate: None,
            upload_rate: None,
            block_budget: 1_000,
            hashed_together: 1,
            stretch: obt_swarm::limits::STRETCH,
            trackers: Vec::new(),
            local_addresses: LocalAddresses::Refused,
        };
        change(&mut config);
        let now = Instant::now();
        Self { swarm: Swarm::new(config, start, 1, now), now }
    }

    pub(crate) fn of(pieces: u32, have: &[u32]) -> Self {
        Self::new(Start::Content(content(&torrent(pieces, Version::V1), have)), |_| ())
    }

    pub(crate) fn seed(pieces: u32) -> Self {
        Self::of(pieces, &(0..pieces).collect::<Vec<_>>())
    }

    pub(crate) fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(action) = self.swarm.poll_action() {
            actions.push(action);
        }
        self.swarm.check().unwrap();
        actions
    }

    pub(crate) fn tell(&mut self, event: Event) -> Vec<Action> {
        self.swarm.handle_event(event, self.now);
        self.actions()
    }

    pub(crate) fn hear(&mut self, peer: PeerKey, message: Message) -> Vec<Action> {
        self.tell(Event::Message { peer, message })
    }

    pub(crate) fn wait(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        while let Some((at, _)) = self.swarm.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.swarm.handle_timeout(self.now);
            actions.extend(self.actions());
        }
        self.now = end;
        actions
    }

    pub(crate) fn connect(&mut self, peer: PeerKey) -> Vec<Action> {
        self.join(peer, Reserved { fast: true, ..Reserved::default() }, Direction::Incoming, peer.0 as u8, false)
    }

    pub(crate) fn join(
        &mut self,
        peer: PeerKey,
        reserved: Reserved,
        direction: Direction,
        id: u8,
        v2: bool,
    ) -> Vec<Action> {
        let handshake = Handshake { reserved, info_hash: InfoHash::default(), peer_id: PeerId([id; 20]) };
        self.tell(Event::Connected { peer, addr: addr(peer.0 as u8), direction, handshake, v2 })
    }

    pub(crate) fn block(&mut self, peer: PeerKey, piece: u32, index: u32) -> Vec<Action> {
        let header = PieceHeader { piece, begin: index * BLOCK_SIZE, length: BLOCK_SIZE };
        self.tell(Event::Block { peer, header })
    }

    /// A peer that has everything and serves us, and what was asked of it.
    pub(crate) fn server(&mut self, peer: PeerKey) -> Vec<Request> {
        self.connect(peer);
        self.hear(peer, Message::HaveAll);
        requests(&self.hear(peer, Message::Unchoke))
    }

    /// Peers that want something get all the slots there are.
    pub(crate) fn take_slots(&mut self) {
        for key in (101..).map(PeerKey).take(limits::UNCHOKED_FIRST) {
            let actions = self.connect(key);
            assert!(actions.contains(&send(key, Message::Unchoke)), "{actions:?}");
            self.hear(key, Message::HaveNone);
            self.hear(key, Message::Interested);
        }
    }

    /// Those who have the slots ask for more than is on its way to them.
    pub(crate) fn take_upload(&mut self) {
        for key in (101..).map(PeerKey).take(limits::UNCHOKED_FIRST) {
            for piece in 0..limits::UPLOAD_WINDOW_LEAST / BLOCK_SIZE + 1 {
                self.hear(key, Message::Request(request(piece, 0)));
            }
        }
    }

    pub(crate) fn is_connected(&self, peer: PeerKey) -> bool {
        self.swarm.snapshot(self.now).peers.iter().any(|stats| stats.peer == peer)
    }
}

pub(crate) fn send(peer: PeerKey, message: Message) -> Action {
    Action::Send { peer, message }
}

pub(crate) fn requests(actions: &[Action]) -> Vec<Request> {
    let request = |action: &Action| match action {
        Action::Send { message: Message::Request(request), .. } => Some(*request),
        _ => None,
    };
    actions.iter().filter_map(request).collect()
}

pub(crate) fn is_misbehaviour(action: &Action) -> bool {
    matches!(action, Action::Close { reason: CloseReason::Misbehaved(_), .. })
}

/// Asserts that `message` alone ends the connection of a fast peer to a leecher of 10 pieces with piece 0.
pub(crate) fn offends(message: Message) {
    let mut bench = Bench::of(10, &[0]);
    bench.connect(A);
    bench.hear(A, Message::HaveNone);
    let actions = bench.hear(A, message.clone());
    assert!(actions.iter().any(is_misbehaviour), "{message:?} led to {actions:?}");
    assert!(!bench.is_connected(A));
    assert!(bench.hear(A, Message::Unchoke).is_empty(), "nothing that it says later counts");
}

/// Repeats `message` until the connection is closed; how often that was.
pub(crate) fn borne(bench: &mut Bench, peer: PeerKey, most: u32, message: impl Fn(u32) -> Message) -> u32 {
    for times in 0..most {
        if bench.hear(peer, message(times)).iter().any(is_misbehaviour) {
            return times;
        }
    }
    most
}
