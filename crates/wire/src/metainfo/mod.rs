//! The contents of a .torrent file: v1 (BEP 3), v2 and hybrid (BEP 52), parsed, checked and written.
//!
//! What is parsed is safe to use: paths stay in their folder, sizes and counts agree, v1 and v2 describe the same
//! files. The info dictionary is kept as it came, since its hash is the torrent's identity.

mod draft;
mod info;
#[cfg(test)]
mod tests;
mod torrent;
mod tree;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use bytes::Bytes;
use thiserror::Error;

pub use self::draft::Draft;
use crate::bencode::BencodeError;
use crate::file_path::FilePath;
use crate::files::PathError;
use crate::geometry::{Geometry, PieceIndex};
use crate::ids::{InfoHashes, Sha1Hash, Sha256Hash};
use crate::merkle::FileTree;

/// Why bytes are not a torrent that can be used. Fields are named as in the BEPs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetainfoError {
    /// Not bencode, or nested too deeply, or too many values.
    #[error("not a torrent: {0}")]
    Bencode(#[from] BencodeError),
    /// It is longer than the limit, bytes.
    #[error("the torrent is longer than {0} bytes")]
    TooLong(usize),
    /// Made for a protocol newer than v2.
    #[error("the torrent needs version {0} of the protocol, newer than this program")]
    NewerVersion(i64),
    /// Keys of the info dictionary are unsorted or stand twice, so that others may read it differently.
    #[error("the keys of the info dictionary are not sorted and unique")]
    NotCanonical,
    /// There are two info dictionaries.
    #[error("the torrent has two info dictionaries")]
    TwoInfos,
    /// A field is not there.
    #[error("the torrent has no '{0}'")]
    Missing(&'static str),
    /// A field has the wrong type or an impossible value.
    #[error("the torrent has an impossible '{0}'")]
    Invalid(&'static str),
    /// A file's name or path is not accepted.
    #[error(transparent)]
    Path(#[from] PathError),
    /// This path stands twice, or is a file and a folder.
    #[error("the torrent has two files at the same path: {}", crate::files::escaped(.0))]
    Collision(String),
    /// There is more of something than the limit.
    #[error("the torrent has too many {0}")]
    TooMany(&'static str),
    /// There is no file but padding.
    #[error("the torrent has no files")]
    NoFiles,
    /// A folder whose only file has the folder's name is, in v2, a file without a folder (BEP 52).
    #[error("a v2 torrent cannot hold a folder with one file of the folder's name")]
    Ambiguous,
    /// The number of piece hashes is not the number of pieces.
    #[error("the number of hashes does not fit the files")]
    HashCount,
    /// The two halves of a hybrid disagree.
    #[error("v1 and v2 describe different files")]
    Inconsistent,
    /// A piece layer does not belong to any file, or does not have its root.
    #[error("a piece layer does not fit the files")]
    PieceLayer,
    /// The info dictionary is not the one that was asked for.
    #[error("the metadata is not that of the wanted torrent")]
    WrongHash,
}

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

/// Where hashes begin in [`Info::bytes`]. There may be 200,000 of them, which are kept once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InBytes(NonZeroU32);

/// One file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path below the torrent's folder, as checked components; of a single-file torrent, its name alone; of a pad,
    /// nothing.
    pub path: FilePath,
    /// Length, bytes.
    pub size: u64,
    /// Data or padding.
    pub kind: FileKind,
    /// Where its first byte lies: `piece * piece_length + offset in the piece`.
    pub offset: u64,
    /// Where the root of its merkle tree is (v2 and hybrid; not for empty files and pads); [`Info::root`] has it.
    pub root: Option<InBytes>,
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
    /// In the torrent's order, pads included; at least one holds data. Symbolic links are left out.
    pub files: Vec<File>,
    /// How many symbolic links (BEP 47) were left out: following one could lead anywhere.
    pub symlinks: u32,
    /// How it is cut into pieces.
    pub geometry: Geometry,
    /// Where the SHA-1 of each piece is (v1 and hybrid); [`piece_hash`](Self::piece_hash) has them.
    pub pieces: Option<InBytes>,
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

impl InBytes {
    /// Nothing begins a dictionary but its `d`.
    fn new(at: usize) -> Option<Self> {
        u32::try_from(at).ok().and_then(NonZeroU32::new).map(Self)
    }

    fn skip(self, bytes: usize) -> usize {
        self.0.get() as usize + bytes
    }
}

impl Info {
    /// The files that are kept on disk, in order, with their numbers in [`files`](Self::files).
    pub fn data_files(&self) -> impl Iterator<Item = (usize, &File)> {
        self.files.iter().enumerate().filter(|(_, file)| file.kind == FileKind::Data)
    }

    /// Bytes of all files on disk together.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.data_files().map(|(_, file)| file.size).sum()
    }

    /// The SHA-1 of a piece, if it has one: v1 and hybrid.
    #[must_use]
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<Sha1Hash> {
        let at = self.pieces?.skip(piece.0 as usize * Sha1Hash::LEN);
        Sha1Hash::from_slice(self.bytes.get(at..at + Sha1Hash::LEN).filter(|_| piece.0 < self.geometry.pieces())?)
    }

    /// The SHA-1 of each piece; none of v2 alone.
    pub fn piece_hashes(&self) -> impl Iterator<Item = Sha1Hash> + '_ {
        self.geometry.all().map_while(|piece| self.piece_hash(piece))
    }

    /// The root of the merkle tree of `file`, if it has one: v2 and hybrid, and not empty.
    #[must_use]
    pub fn root(&self, file: &File) -> Option<Sha256Hash> {
        let at = file.root?.skip(0);
        Sha256Hash::from_slice(self.bytes.get(at..at + Sha256Hash::LEN)?)
    }

    /// The hash tree of `file`, if it has one: v2 and hybrid, and not empty.
    #[must_use]
    pub fn tree(&self, file: &File) -> Option<FileTree> {
        FileTree::new(self.root(file)?, file.size, self.geometry.piece_length())
    }
}
