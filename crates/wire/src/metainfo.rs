//! The contents of a .torrent file: v1 (BEP 3), v2 and hybrid (BEP 52), parsed, checked and written.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::geometry::Geometry;
use crate::ids::{InfoHashes, Sha1Hash, Sha256Hash};

/// Which of the two protocols a torrent can be fetched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// SHA-1 pieces over one stream (BEP 3).
    V1,
    /// A SHA-256 merkle tree per file (BEP 52).
    V2,
    /// Both, over the same bytes (BEP 52, "upgrade path").
    Hybrid,
}

/// What a file of a torrent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Bytes that are kept on disk.
    Data,
    /// Zeros that only move the next file to a piece border (BEP 47); never on disk.
    Pad,
}

/// One file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path below the torrent's folder, as checked components; of a single-file torrent, its name alone.
    pub path: Vec<String>,
    /// Length, bytes.
    pub size: u64,
    /// Data or padding.
    pub kind: FileKind,
    /// Where its first byte lies: `piece * piece_length + offset in the piece`.
    pub offset: u64,
    /// Root of its merkle tree (v2 and hybrid; not for empty files and pads).
    pub pieces_root: Option<Sha256Hash>,
}

/// The info dictionary: everything that the info-hash covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The name of the file or folder: one checked path component.
    pub name: String,
    /// Which protocols it speaks.
    pub version: Version,
    /// Whether `name` is a file of its own, not a folder.
    pub single_file: bool,
    /// Peers come from its trackers alone (BEP 27).
    pub private: bool,
    /// In the torrent's order, pads included; at least one.
    pub files: Vec<File>,
    /// How it is cut into pieces.
    pub geometry: Geometry,
    /// SHA-1 of each piece (v1 and hybrid; else empty).
    pub pieces: Vec<Sha1Hash>,
    /// Hashes of `bytes`.
    pub hashes: InfoHashes,
    /// The dictionary as it was read, the bytes that the info-hash is over.
    pub bytes: Bytes,
}

/// A .torrent file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    /// What the info-hash covers.
    pub info: Info,
    /// Announce URLs by tier (BEP 12), valid and supported ones only.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// Per pieces root, the hashes of the file's pieces (BEP 52); only files longer than a piece are in it, and it
    /// may lack some of those: peers can be asked for them.
    pub piece_layers: BTreeMap<Sha256Hash, Vec<Sha256Hash>>,
    /// Free text of whoever made it.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// Seconds since 1970.
    pub created_at: Option<i64>,
}
