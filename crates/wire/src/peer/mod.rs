//! Messages between peers: the handshake and everything after it (BEP 3, 6, 10, 52).
//!
//! A message is checked twice here before anybody acts on it: its length against its id as soon as the first five
//! bytes are in ([`Header`]), its fields when the body is in. What the fields mean for a torrent is not known here.

mod codec;
mod handshake;

use bytes::Bytes;

pub use codec::{Header, Kind, MessageError};
pub use handshake::NotBitTorrent;

use crate::ids::{InfoHash, PeerId, Sha256Hash};

/// What a peer can do beyond BEP 3, as the reserved bytes of its handshake say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    /// BEP 10.
    pub extensions: bool,
    /// BEP 6.
    pub fast: bool,
    /// BEP 5.
    pub dht: bool,
    /// The torrent is a hybrid and its v2 info-hash would be welcome in the answer (BEP 52).
    pub v2: bool,
}

/// The first message on a connection, 68 bytes (BEP 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// What the sender can do.
    pub reserved: Reserved,
    /// The swarm it means.
    pub info_hash: InfoHash,
    /// Who it says it is.
    pub peer_id: PeerId,
}

/// The fields of `request`, `cancel` and `reject`: a range of one piece, unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// Number of the piece.
    pub piece: u32,
    /// Offset in the piece, bytes.
    pub begin: u32,
    /// Bytes.
    pub length: u32,
}

/// The fields of `hash request` and `hash reject` (BEP 52).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashRequest {
    /// Which file, by the root of its tree.
    pub pieces_root: Sha256Hash,
    /// 0 is the layer of block hashes.
    pub base_layer: u32,
    /// First hash wanted in that layer.
    pub index: u32,
    /// How many hashes.
    pub length: u32,
    /// How many layers of proof above the base layer.
    pub proof_layers: u32,
}

/// A message after the handshake, as its fields were on the wire: well formed, but not yet checked against a torrent.
///
/// `piece` is not here: its payload goes straight into a block's buffer, see [`PieceHeader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A length of 0: still here.
    KeepAlive,
    /// The sender will not answer requests.
    Choke,
    /// The sender will answer requests.
    Unchoke,
    /// The sender wants something that the receiver has.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender has this piece.
    Have(u32),
    /// The sender has these pieces.
    Bitfield(Bytes),
    /// A block is wanted.
    Request(Request),
    /// A block is not wanted any more.
    Cancel(Request),
    /// The sender's DHT port (BEP 5).
    Port(u16),
    /// A piece worth asking for (BEP 6).
    Suggest(u32),
    /// The sender has every piece (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// This request will not be answered (BEP 6).
    Reject(Request),
    /// This piece may be asked for while choked (BEP 6).
    AllowedFast(u32),
    /// An extension's message: its id and its payload (BEP 10).
    Extended {
        /// 0 is the extension handshake; others as the receiver of this message numbered them.
        id: u8,
        /// Bencoded, with raw bytes after it in `ut_metadata`.
        payload: Bytes,
    },
    /// Hashes of a tree are wanted (BEP 52).
    HashRequest(HashRequest),
    /// Hashes of a tree: those of the base layer, then the uncles of the proof (BEP 52).
    Hashes(HashRequest, Vec<Sha256Hash>),
    /// This hash request will not be answered (BEP 52).
    HashReject(HashRequest),
    /// A message with an unknown id; its payload was skipped.
    Unknown(u8),
}

/// What precedes the payload of a `piece` message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceHeader {
    /// Number of the piece.
    pub piece: u32,
    /// Offset in the piece, bytes.
    pub begin: u32,
    /// Bytes of payload that follow.
    pub length: u32,
}

#[cfg(test)]
mod tests;
