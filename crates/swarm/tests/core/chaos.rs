//! Peers that say anything at any time, a shell that answers in any order: whatever comes, the invariants hold.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use obt_swarm::{
    Action, AnnounceReply, Direction, Event, PeerKey, PeerSource, Phase, ReadRange, Start, TrackerUrl, Verdict,
};
use obt_wire::extension::{ExtensionHandshake, ExtensionIds, MetadataMessage};
use obt_wire::metainfo::{Metainfo, Version};
use obt_wire::peer::{Handshake, HashRequest, Message, PieceHeader, Request, Reserved};
use obt_wire::{BLOCK_SIZE, Bitfield, InfoHash, PeerId, PieceIndex};
use proptest::prelude::*;

use crate::bench::{Bench, addr, content, extended, metadata, piece_hash, torrent};

const PIECES: u32 = 12;

/// The shell's side of a scene: what it has been asked for and has not answered.
struct Chaos {
    bench: Bench,
    rng: Rng,
    metainfo: Metainfo,
    peers: Vec<PeerKey>,
    keys: u64,
    owed: Vec<(PeerKey, Request)>,
    events: Vec<Event>,
    hash_requests: Vec<(PeerKey, HashRequest)>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let version = [Version::V1, Version::V2, Version::Hybrid][rng.usize(..3)];
        let metainfo = torrent(PIECES, version);
        let bare = Metainfo { piece_layers: Default::default(), ..metainfo.clone() };
        let start = match rng.u8(..3) {
            0 => Start::Hashes(metainfo.info.hashes),
            1 => Start::Content(content(&bare, &[1, 5])),
            _ => Start::Content(content(&metainfo, &[0])),
        };
        let limit = [None, Some(100_000)][rng.usize(..2)];
        let bench = Bench::new(start, |config| {
            config.upload_rate = limit;
            config.download_rate = limit;
            config.block_budget = [3, 1_000][seed as usize % 2];
            config.stretch = [1, 64][seed as usize / 2 % 2];
            config.trackers = vec![TrackerUrl { url: "http://t/a".into(), tier: 0 }];
        });
        let (peers, owed, events) = (Vec::new(), Vec::new(), Vec::new());
        Self { bench, rng, metainfo, peers, keys: 0, owed, events, hash_requests: Vec::new() }
    }

    fn feed(&mut self, event: Event) {
        for action in self.bench.tell(event) {
            self.note(action);
        }
    }

    /// What the shell would do, later.
    fn note(&mut self, action: Action) {
        match action {
            Action::Connect { addr } => self.events.push(Event::ConnectFailed { addr }),
            Action::Close { peer, .. } => {
                self.peers.retain(|known| *known != peer);
                self.events.push(Event::Disconnected { peer });
            }
            Action::Send { peer, message: Message::Request(request) } => self.owed.push((peer, request)),
            Action::Send { peer, message: Message::HashRequest(request) } => self.hash_requests.push((peer, request)),
            Action::Upload { peer, request } => self.events.push(match self.rng.u8(..5) {
                0 => Event::UploadFailed { peer, piece: PieceIndex(request.piece) },
                _ => Event::Uploaded { peer, bytes: request.length },
            }),
            Action::Verify { piece, .. } => {
                let digest = self.rng.u8(..2);
                let verdict = if self.rng.u8(..4) == 0 { Verdict::Bad } else { Verdict::Good };
                self.events.push(match self.rng.u8(..10) {
                    0 => Event::StoreFailed { piece },
                    _ => Event::Verified { piece, verdict, block_digests: vec![[digest; 32], [0; 32]] },
                });
            }
            Action::StoreAhead { piece, blocks } => self.events.push(Event::StoredAhead { piece, blocks }),
            Action::Announce { tracker, .. } => {
                let peers = (1..self.rng.u8(2..6)).map(addr).collect();
                let reply = AnnounceReply { interval: Duration::from_secs(60), peers, ..AnnounceReply::default() };
                let result = if self.rng.bool() { Ok(reply) } else { Err("no".into()) };
                self.events.push(Event::Announced { tracker, result });
            }
            Action::MetadataReady { .. } => {
                let content = content(&self.metainfo, &[]);
                self.events.push(Event::ContentReady(content));
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        match self.rng.u8(..24) {
            0 => self.connect(),
            1..6 if !self.events.is_empty() => {
                let event = self.events.swap_remove(self.rng.usize(..self.events.len()));
                self.feed(event);
            }
            6..11 if !self.owed.is_empty() => self.serve(),
            11 => {
                let actions = self.bench.wait(Duration::from_millis(self.rng.u64(..20_000)));
                actions.into_iter().for_each(|action| self.note(action));
            }
            12 => self.user(),
            13 if !self.hash_requests.is_empty() => self.serve_hashes(),
            _ => {
                if let Some(peer) = self.rng.choice(self.peers.clone()) {
                    let message = self.message();
                    self.feed(Event::Message { peer, message });
                }
            }
        }
    }

    fn connect(&mut self) {
        self.keys += 1;
        let peer = PeerKey(self.keys);
        let (fast, extensions) = (self.rng.bool(), self.rng.bool());
        let handshake = Handshake {
            reserved: Reserved { fast, extensions, ..Reserved::default() },
            info_hash: InfoHash::default(),
            peer_id: PeerId([self.rng.u8(40..55); 20]),
        };
        let direction = if self.rng.bool() { Direction::Incoming } else { Direction::Outgoing };
        let v2 = self.rng.bool() && self.metainfo.info.version != Version::V1;
        self.peers.push(peer);
        let addr = addr(self.rng.u8(1..20));
        self.feed(Event::Connected { peer, addr, direction, handshake, v2 });
    }

    /// Answers a request, perhaps one that was cancelled meanwhile, perhaps twice.
    fn serve(&mut self) {
        let at = self.rng.usize(..self.owed.len());
        let (peer, request) = if self.rng.u8(..10) == 0 { self.owed[at] } else { self.owed.swap_remove(at) };
        let header = PieceHeader { piece: request.piece, begin: request.begin, length: request.length };
        match self.rng.u8(..8) {
            0 => self.feed(Event::Message { peer, message: Message::Reject(request) }),
            1 => self.feed(Event::BlockProgress { peer }),
            _ => self.feed(Event::Block { peer, header }),
        }
    }

    fn serve_hashes(&mut self) {
        let (peer, request) = self.hash_requests.swap_remove(self.rng.usize(..self.hash_requests.len()));
        let mut hashes: Vec<_> = (request.index..PIECES).map(piece_hash).collect();
        hashes.resize(request.length as usize, obt_wire::Sha256Hash::default());
        let message = if self.rng.bool() { Message::Hashes(request, hashes) } else { Message::HashReject(request) };
        self.feed(Event::Message { peer, message });
    }

    fn user(&mut self) {
        let mut some = Bitfield::empty(PIECES);
        for piece in 0..PIECES {
            if self.rng.u8(..3) > 0 {
                some.set(PieceIndex(piece));
            }
        }
        let event = match self.rng.u8(..9) {
            0 => Event::DiskPaused,
            1 => Event::DiskResumed,
            2 => Event::WantedChanged { wanted: some },
            3 => Event::Withdrawn { pieces: vec![PieceIndex(self.rng.u32(..PIECES))] },
            7 => Event::Lost { pieces: vec![PieceIndex(self.rng.u32(..PIECES))] },
            4 => Event::ReadersMoved { ranges: vec![ReadRange { first: self.rng.u32(..PIECES), end: PIECES }] },
            5 => Event::RatesChanged { download: Some(self.rng.u64(..1_000_000)), upload: None },
            6 => Event::PeersFound { source: PeerSource::User, addrs: vec![addr(self.rng.u8(1..30))] },
            _ => Event::Disconnected { peer: PeerKey(self.rng.u64(..=self.keys)) },
        };
        if let Event::Disconnected { peer } = &event {
            self.peers.retain(|known| known != peer);
        }
        self.feed(event);
    }

    fn message(&mut self) -> Message {
        let past = u32::from(self.rng.u8(..20) == 0);
        let piece = self.rng.u32(..PIECES + past);
        let request = Request { piece, begin: self.rng.u32(..3) * BLOCK_SIZE, length: BLOCK_SIZE };
        let bits: Vec<u8> = vec![self.rng.u8(..), self.rng.u8(..) & 0xf0];
        match self.rng.u8(..32) {
            0 => Message::KeepAlive,
            1 | 2 => Message::Choke,
            3..7 => Message::Unchoke,
            7..9 => Message::Interested,
            9 => Message::NotInterested,
            10..14 => Message::Have(piece),
            14 | 15 => Message::Bitfield(bits.into()),
            16 | 17 => Message::HaveAll,
            18 => Message::HaveNone,
            19..23 => Message::Request(request),
            23 => Message::Cancel(request),
            24 => Message::Reject(request),
            25 => Message::AllowedFast(piece),
            26 => Message::Suggest(piece),
            27 => Message::Extended { id: 2, payload: Bytes::copy_from_slice(&piece.to_be_bytes()) },
            28 => Message::Extended { id: 3, payload: Bytes::from_static(&[1]) },
            29 => metadata(&MetadataMessage::Request { piece: 0 }),
            30 => self.metadata_data(),
            _ => self.handshake(),
        }
    }

    fn metadata_data(&mut self) -> Message {
        let mut payload = self.metainfo.info.bytes.to_vec();
        if self.rng.bool() {
            payload[0] ^= 1;
        }
        let total_size = payload.len() as u32;
        metadata(&MetadataMessage::Data { piece: 0, total_size, payload: payload.into() })
    }

    fn handshake(&mut self) -> Message {
        extended(&ExtensionHandshake {
            ids: ExtensionIds::OURS,
            port: self.rng.bool().then_some(6_881),
            request_queue: self.rng.bool().then_some(self.rng.u32(1..10)),
            metadata_size: Some(self.metainfo.info.bytes.len() as u32),
            upload_only: self.rng.bool().then_some(false),
            ..ExtensionHandshake::default()
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_an_invariant(seed: u64) {
        let mut chaos = Chaos::new(seed);
        for _ in 0..400 {
            chaos.step();
        }
        chaos.feed(Event::Stopping);
        let actions = chaos.bench.wait(Duration::from_secs(10));
        prop_assert_eq!(chaos.bench.swarm.phase(), Phase::Stopped);
        prop_assert!(actions.iter().filter(|action| **action == Action::Stopped).count() <= 1);
        prop_assert_eq!(chaos.bench.swarm.poll_timeout(), None);
    }
}
