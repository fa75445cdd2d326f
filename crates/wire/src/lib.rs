//! BitTorrent's formats as values: bytes in, checked values out, and back.
//!
//! Nothing here keeps state, reads a clock or does IO. Everything that a stranger can send passes
//! through this crate first, so every length is checked before anything is allocated for it
//! ([`limits`]) and every parser is iterative.

pub mod announce;
pub mod bencode;
pub mod bitfield;
pub mod compact;
pub mod extension;
pub mod file_path;
pub mod files;
pub mod geometry;
pub mod ids;
pub mod limits;
pub mod magnet;
pub mod merkle;
pub mod metainfo;
pub mod peer;
pub mod piece_length;
pub mod tracker_http;
pub mod tracker_udp;
pub mod urls;

mod text;

pub use bitfield::Bitfield;
pub use file_path::FilePath;
pub use geometry::{BLOCK_SIZE, Block, Geometry, PieceIndex};
pub use ids::{InfoHash, InfoHashes, PeerId, Sha1Hash, Sha256Hash};
