//! The data of torrents on disk: worker threads that hash and write, partial folders, resume, final names.
//!
//! What lies where and what is durable when is decided in `obt-storage`; this module moves the bytes. Nothing here
//! blocks a thread of the runtime: hashing and files belong to the threads of [`Disk`]. Files are reached through
//! handles of the folders that the user named, never by joined paths, and never through a symbolic link.

mod coming;
mod existing;
mod files;
mod growth;
mod handles;
mod open;
mod partial;
mod piece_hash;
mod pieces;
mod plan;
mod reuse;
mod store;
#[cfg(test)]
mod tests;
mod workers;

pub(crate) use files::stamp as stamp_of_stat;
pub use obt_storage::Stamp;
pub use pieces::FullPiece;
pub use plan::{DownloadPlan, OnExisting, Selection};
pub use store::{Proof, Store, UploadPlan, UploadSlice, stamp_of};
pub use workers::Disk;

use std::io;
use std::path::PathBuf;

use obt_swarm::Verdict;
use obt_wire::{PieceIndex, Sha256Hash};
use thiserror::Error;

/// Something that the threads of [`Disk`] have done for a store, or that happened to its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Answers [`Store::verify`].
    Verified {
        /// Which piece.
        piece: PieceIndex,
        /// What its hashes say; `Good` means written to its files too.
        verdict: Verdict,
        /// A digest of each block, in order (the SHA-256 leaf for v2 and hybrid, else SHA-1 padded with zeros), where
        /// they were asked for or the verdict is not `Good`; else empty.
        block_digests: Vec<[u8; 32]>,
    },
    /// Answers [`Store::store_ahead`].
    StoredAhead {
        /// Which piece.
        piece: PieceIndex,
        /// How many of its first blocks need no buffers any more.
        blocks: u32,
    },
    /// Answers [`Store::verify`] where the disk failed, now or when blocks left memory before: the piece is missing again.
    StoreFailed {
        /// Which piece.
        piece: PieceIndex,
        /// A sentence for the log.
        error: String,
    },
    /// Answers [`Store::hash_blocks`].
    BlocksHashed {
        /// Which piece.
        piece: PieceIndex,
        /// The SHA-256 of each block's data, in order; empty where it cannot be read.
        hashes: Vec<Sha256Hash>,
    },
    /// The disk takes no more: stop asking peers.
    Paused {
        /// A sentence for the user.
        reason: String,
    },
    /// The disk takes data again.
    Resumed,
    /// Pieces that were had are not any more: their file changed or cannot be read, or the disk may have lost them.
    Withdrawn {
        /// Which.
        pieces: Vec<PieceIndex>,
    },
    /// Somebody removed the folder in which it was downloaded: there is nothing to wait for.
    Removed {
        /// The partial folder.
        path: PathBuf,
    },
}

/// Why a store cannot do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Something else has the final name.
    #[error("{} is already there, and its content is different", .path.display())]
    Occupied {
        /// The final path.
        path: PathBuf,
    },
    /// Another process downloads to the same place.
    #[error("{} is in use by another obt", .path.display())]
    InUse {
        /// The partial folder.
        path: PathBuf,
    },
    /// The partial folder was begun for another torrent.
    #[error("{} holds a part of something else", .path.display())]
    OtherTorrent {
        /// The partial folder.
        path: PathBuf,
    },
    /// What is there is not a regular file or folder: a symbolic link, a device, a pipe.
    #[error("{} is not a {expected}", .path.display())]
    Unexpected {
        /// What was found.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// Somebody removed the partial folder while it was downloaded to.
    #[error("{} was removed while it was downloaded to", .path.display())]
    Removed {
        /// The partial folder.
        path: PathBuf,
    },
    /// The folder or file that the plan selects is not in the torrent.
    #[error("the torrent has no {0:?}")]
    NotSelected(String),
    /// A name that no file can have.
    #[error("{0:?} is not a usable file name")]
    BadName(String),
    /// Bytes that are not verified, or no bytes of this torrent.
    #[error("piece {piece} is not here")]
    NotHere {
        /// Number of the piece, unchecked.
        piece: u32,
    },
    /// The file is not what was verified: its size or modification time is different.
    #[error("{} changed after it was verified", .path.display())]
    Changed {
        /// Path of the file inside the torrent.
        path: PathBuf,
    },
    /// The download cannot be finished: pieces are missing.
    #[error("{missing} pieces are missing")]
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// The system refused.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was tried, as a verb: "open", "write".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The threads of the disk are gone: the process is stopping.
    #[error("the disk has stopped")]
    Stopped,
}
