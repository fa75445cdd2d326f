//! What the core asks the shell to do: always an imperative.

use std::net::SocketAddr;

use bytes::Bytes;
use obt_wire::peer::{Message, Request};
use obt_wire::{Block, PieceIndex, Sha256Hash};

use crate::event::{PeerKey, TrackerIndex};

/// Why a connection is closed: for the log, and for the shell to choose how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// It broke the protocol; the text names the rule.
    Misbehaved(&'static str),
    /// It sent bytes that fail their hash.
    Banned,
    /// It is ourselves.
    Ourselves,
    /// There is another connection to the same peer.
    Duplicate,
    /// Nothing came for too long.
    Idle,
    /// Neither side has anything for the other, or there are better ones.
    NotUseful,
    /// There is no room for it.
    Full,
    /// The swarm stops.
    Stopping,
}

/// What an announce tells besides numbers (BEP 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnnounceEvent {
    /// Still here.
    Regular,
    /// First announce.
    Started,
    /// The last wanted piece came in.
    Completed,
    /// Leaving.
    Stopped,
}

/// The numbers of an announce (BEP 3); address, port and ids are the shell's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// What happened.
    pub event: AnnounceEvent,
    /// Payload sent since `Started`, bytes.
    pub uploaded: u64,
    /// Payload received since `Started`, bytes.
    pub downloaded: u64,
    /// Bytes still missing; 0 of a holder. `u64::MAX / 2` while the content is unknown.
    pub left: u64,
    /// How many peers are welcome in the answer.
    pub num_want: u32,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Connect and shake hands; answered by `Event::Connected` or `Event::ConnectFailed`.
    Connect {
        /// Where to.
        addr: SocketAddr,
    },
    /// Close; answered by `Event::Disconnected`.
    Close {
        /// Which connection.
        peer: PeerKey,
        /// Why.
        reason: CloseReason,
    },
    /// Send a message, in order with others of this peer.
    Send {
        /// To whom.
        peer: PeerKey,
        /// What.
        message: Message,
    },
    /// Send a block of a piece that we have; answered by `Event::Uploaded` or `Event::UploadFailed`.
    Upload {
        /// To whom.
        peer: PeerKey,
        /// Which bytes: checked, inside a piece that we have.
        request: Request,
    },
    /// Keep the bytes of the block that the last event brought. Without this action they are dropped.
    Accept {
        /// Which block they are.
        block: Block,
    },
    /// Every block of the piece is accepted: hash it and, if it is good, store it; answered by `Event::Verified` or
    /// `Event::StoreFailed`.
    Verify {
        /// Which piece.
        piece: PieceIndex,
        /// Whether a digest of each block is wanted even if the piece is good: it failed before, and somebody is to blame.
        digests: bool,
    },
    /// The first blocks of a long piece are accepted: hash those that were not hashed before and write them to the partial file,
    /// unverified, to give their buffers back; answered by `Event::StoredAhead`. `Verify` goes on from there.
    StoreAhead {
        /// Which piece.
        piece: PieceIndex,
        /// How many, from its beginning on.
        blocks: u32,
    },
    /// Buffers run short: write this piece's accepted blocks, unverified, to the partial file, and those that will be
    /// accepted later too. `Verify` reads them back.
    Spill {
        /// Which piece.
        piece: PieceIndex,
    },
    /// Somebody asks for hashes inside a piece that we have: hash each of its blocks; answered by `Event::BlocksHashed`.
    HashBlocks {
        /// Which piece.
        piece: PieceIndex,
    },
    /// Drop the accepted blocks of this piece: they will be asked for again.
    Forget {
        /// Which piece.
        piece: PieceIndex,
    },
    /// Announce; answered by `Event::Announced`.
    Announce {
        /// To which tracker.
        tracker: TrackerIndex,
        /// What.
        request: AnnounceRequest,
    },
    /// The info dictionary is here, its hash checked. Answered by `Event::ContentReady`, or by `Event::Stopping` where
    /// it is not acceptable.
    MetadataReady {
        /// The dictionary's bytes.
        info: Bytes,
    },
    /// The hashes of a file's pieces are here, checked against its root (BEP 52): pieces of this file can be verified now.
    PieceLayerReady {
        /// Root of the file's tree.
        pieces_root: Sha256Hash,
        /// One hash per piece of the file.
        hashes: Vec<Sha256Hash>,
    },
    /// The last wanted piece is verified and stored, or all were when the content became known. Not said of a swarm that
    /// begins with everything; said again after each time that pieces were missing meanwhile.
    Completed,
    /// v1 and v2 hashes of this hybrid disagree about its bytes: fetch and serve nothing more of it.
    Inconsistent {
        /// The piece where it showed.
        piece: PieceIndex,
    },
    /// All that `Event::Stopping` asked for is done.
    Stopped,
}
