//! What the shell tells the core: always something that has happened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use obt_wire::metainfo::Metainfo;
use obt_wire::peer::{Handshake, Message, PieceHeader};
use obt_wire::tracker_http::RetryIn;
use obt_wire::{Bitfield, PieceIndex, Sha256Hash};

/// A connection, as the shell numbers it: never used twice in one swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u64);

/// A tracker of this swarm: the place of its URL in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerIndex(pub u32);

/// Where a tracker is and which tier it stands in (BEP 12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackerUrl {
    /// `http`, `https`, `udp`, or `obt` for a tracker of ours that takes leases.
    pub url: String,
    /// Lower tiers are tried first.
    pub tier: u32,
}

/// Who told of an address. Better sources come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerSource {
    /// The user, or a magnet's `x.pe`.
    User,
    /// A tracker.
    Tracker,
    /// Another peer of the swarm.
    Peer(PeerKey),
    /// It connected to us.
    Incoming,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// We did, after an `Action::Connect`.
    Outgoing,
    /// They did.
    Incoming,
}

/// What a swarm is about, once it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The torrent.
    pub metainfo: Arc<Metainfo>,
    /// Pieces that are verified and stored already.
    pub have: Bitfield,
    /// Pieces that the user wants; the rest is not fetched.
    pub wanted: Bitfield,
}

/// A stretch of pieces that a reader waits for, in order (HTTP range, `--stdout`): `first..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRange {
    /// First piece.
    pub first: u32,
    /// One past the last piece.
    pub end: u32,
}

/// What the hash of a whole piece says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every hash that the torrent has for it matches, and its bytes are stored.
    Good,
    /// A hash does not match; the bytes are gone.
    Bad,
    /// Hybrid only: one of v1 and v2 matches and the other does not. No peer is to blame, the torrent is.
    Inconsistent,
}

/// What a tracker said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnnounceReply {
    /// Seconds until it wants to hear from us again; clamped by the core.
    pub interval: Duration,
    /// Shortest time between two announces, if it named one.
    pub min_interval: Option<Duration>,
    /// Complete peers, if it said.
    pub seeders: Option<u32>,
    /// Incomplete peers, if it said.
    pub leechers: Option<u32>,
    /// Others in the swarm, unfiltered.
    pub peers: Vec<SocketAddr>,
    /// A sentence for the user.
    pub warning: Option<String>,
}

/// Why a tracker did not answer an announce, or refused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceFailure {
    /// A sentence for the user.
    pub reason: String,
    /// When to try again, if it said (BEP 31); clamped by the core.
    pub retry: Option<RetryIn>,
}

impl<T: Into<String>> From<T> for AnnounceFailure {
    /// A failure of which the tracker itself says nothing.
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), retry: None }
    }
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The content of a swarm that began with info-hashes alone is known and its storage is ready (after
    /// `Action::MetadataReady`).
    ContentReady(Content),
    /// Addresses to try.
    PeersFound {
        /// Who told.
        source: PeerSource,
        /// Unfiltered.
        addrs: Vec<SocketAddr>,
    },
    /// Both handshakes are done. For `Outgoing`, answers `Action::Connect`.
    Connected {
        /// The new connection.
        peer: PeerKey,
        /// The remote end.
        addr: SocketAddr,
        /// Who opened it.
        direction: Direction,
        /// What they sent.
        handshake: Handshake,
        /// Whether v2 messages may be used on it (BEP 52): both sides meant the v2 info-hash.
        v2: bool,
    },
    /// An `Action::Connect` came to nothing.
    ConnectFailed {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// The connection is gone, whoever closed it. Blocks that it had begun are not coming.
    Disconnected {
        /// Which one.
        peer: PeerKey,
    },
    /// A whole message came in, other than a block.
    Message {
        /// From whom.
        peer: PeerKey,
        /// Well formed, unchecked.
        message: Message,
    },
    /// A whole block came in; the shell holds its bytes until the actions that follow this event are drained.
    Block {
        /// From whom.
        peer: PeerKey,
        /// What its header claims, unchecked.
        header: PieceHeader,
    },
    /// Bytes of a block arrived whose end has not come yet: the peer is alive.
    BlockProgress {
        /// From whom.
        peer: PeerKey,
    },
    /// A block that `Action::Upload` asked for is handed to the kernel.
    Uploaded {
        /// To whom.
        peer: PeerKey,
        /// Payload, bytes.
        bytes: u32,
    },
    /// A block that `Action::Upload` asked for could not be read, or the piece is withdrawn.
    UploadFailed {
        /// To whom.
        peer: PeerKey,
        /// Which piece cannot be served any more.
        piece: PieceIndex,
    },
    /// Answers `Action::Verify`. `Good` means stored too.
    Verified {
        /// Which piece.
        piece: PieceIndex,
        /// What came out.
        verdict: Verdict,
        /// A digest of each block, in order (the torrent's SHA-256 leaf for v2, else SHA-1 padded with zeros), where
        /// `Action::Verify` asked for them or the verdict is `Bad`.
        block_digests: Vec<[u8; 32]>,
    },
    /// Answers `Action::StoreAhead`, even where the disk failed, of which `Action::Verify` will tell.
    StoredAhead {
        /// Which piece.
        piece: PieceIndex,
        /// How many of its first blocks need no buffer any more.
        blocks: u32,
    },
    /// Answers `Action::Verify` where the disk failed: the piece is missing again, and nobody is to blame.
    StoreFailed {
        /// Which piece.
        piece: PieceIndex,
    },
    /// Answers `Action::HashBlocks`.
    BlocksHashed {
        /// Which piece.
        piece: PieceIndex,
        /// The SHA-256 of each block as it lies in the file, in order; empty where it cannot be read.
        hashes: Vec<Sha256Hash>,
    },
    /// The disk takes no more (full, or failing): stop asking.
    DiskPaused,
    /// The disk takes data again.
    DiskResumed,
    /// Pieces that were had are not any more (their file changed). They are not wanted either from here on, lest fetching
    /// them overwrite what somebody made of the file; `WantedChanged` says otherwise.
    Withdrawn {
        /// Which.
        pieces: Vec<PieceIndex>,
    },
    /// Pieces that were had are not any more, of a download that is not at its final name: they are missing again.
    Lost {
        /// Which.
        pieces: Vec<PieceIndex>,
    },
    /// A tracker answered `Action::Announce`, or did not.
    Announced {
        /// Which.
        tracker: TrackerIndex,
        /// Its answer, or why there is none.
        result: Result<AnnounceReply, AnnounceFailure>,
    },
    /// Replaces the stretches that readers wait for; empty means rarest first again.
    ReadersMoved {
        /// In order of urgency.
        ranges: Vec<ReadRange>,
    },
    /// The user wants other pieces than before.
    WantedChanged {
        /// All that is wanted.
        wanted: Bitfield,
    },
    /// New limits in bytes per second; None is no limit.
    RatesChanged {
        /// Downloads of this swarm.
        download: Option<u64>,
        /// Uploads of this swarm.
        upload: Option<u64>,
    },
    /// Leave: announce `stopped`, close every connection, ask for nothing more.
    Stopping,
}
