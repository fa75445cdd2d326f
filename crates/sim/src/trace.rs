//! A fingerprint of a run: two runs that differ anywhere in what was done, or when, have different ones.

use std::time::Duration;

use obt_swarm::Action;
use obt_wire::peer::{Message, Request};

/// FNV-1a, 64 bits: fast, and the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    fn add(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Node `node` did this, `at` after the beginning.
    pub fn action(&mut self, at: Duration, node: usize, action: &Action) {
        self.add(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        self.add(node as u64);
        let (kind, first, second) = numbers(action);
        self.add(kind);
        self.add(first);
        self.add(second);
    }

    /// The fingerprint so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0
    }
}

fn numbers(action: &Action) -> (u64, u64, u64) {
    match action {
        Action::Connect { addr } => (1, u64::from(addr.port()), address(addr)),
        Action::Close { peer, .. } => (2, peer.0, 0),
        Action::Send { peer, message } => (100 + message_kind(message), peer.0, message_number(message)),
        Action::Upload { peer, request } => (3, peer.0, range(request)),
        Action::Accept { block } => (4, u64::from(block.piece.0), u64::from(block.index)),
        Action::Verify { piece, digests } => (5, u64::from(piece.0), u64::from(*digests)),
        Action::Spill { piece } => (6, u64::from(piece.0), 0),
        Action::Forget { piece } => (7, u64::from(piece.0), 0),
        Action::Announce { tracker, request } => (8, u64::from(tracker.0), request.left),
        Action::MetadataReady { info } => (9, info.len() as u64, 0),
        Action::PieceLayerReady { hashes, .. } => (10, hashes.len() as u64, 0),
        Action::Completed => (11, 0, 0),
        Action::Inconsistent { piece } => (12, u64::from(piece.0), 0),
        Action::Stopped => (13, 0, 0),
        Action::HashBlocks { piece } => (14, u64::from(piece.0), 0),
        Action::StoreAhead { piece, blocks } => (15, u64::from(piece.0), u64::from(*blocks)),
    }
}

fn address(addr: &std::net::SocketAddr) -> u64 {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => u64::from(u32::from(ip)),
        std::net::IpAddr::V6(ip) => u128::from(ip) as u64,
    }
}

fn range(request: &Request) -> u64 {
    u64::from(request.piece) << 32 | u64::from(request.begin)
}

fn message_kind(message: &Message) -> u64 {
    match message {
        Message::KeepAlive => 1,
        Message::Choke => 2,
        Message::Unchoke => 3,
        Message::Interested => 4,
        Message::NotInterested => 5,
        Message::Have(_) => 6,
        Message::Bitfield(_) => 7,
        Message::Request(_) => 8,
        Message::Cancel(_) => 9,
        Message::HaveAll => 10,
        Message::HaveNone => 11,
        Message::Reject(_) => 12,
        Message::Extended { .. } => 13,
        _ => 14,
    }
}

fn message_number(message: &Message) -> u64 {
    match message {
        Message::Have(piece) => u64::from(*piece),
        Message::Request(request) | Message::Cancel(request) | Message::Reject(request) => range(request),
        Message::Bitfield(bits) => bits.iter().map(|byte| u64::from(byte.count_ones())).sum(),
        Message::Extended { payload, .. } => payload.len() as u64,
        _ => 0,
    }
}
