//! Hashing data that lies on disk: a path into a torrent, and data against a torrent.
//!
//! Several threads, each with as many pieces as are hashed side by side; stretches of them are read once into buffers that
//! fit the processor's cache, and every hash that is wanted is fed from there. Nothing is mapped: a file that is truncated meanwhile is an
//! error, not a signal. Memory does not grow with the file, but by 20 to 52 bytes a piece.

mod check;
mod holes;
mod make;
mod pieces;
mod root;
mod scan;

pub use check::{Checked, CheckedFile, check};
pub use make::{Made, MakeOptions, lists_same, make, still_holds};

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use obt_storage::journal::{self, Stamp};
use obt_storage::spans::Layout;
use obt_wire::Bitfield;
use obt_wire::metainfo::{Metainfo, MetainfoError};
use thiserror::Error;

use crate::disk::Proof;

/// What tells whether a file is still the one that was hashed.
pub(crate) fn stamp_of(metadata: &std::fs::Metadata) -> Stamp {
    #[cfg(unix)]
    let mtime_ns = {
        use std::os::unix::fs::MetadataExt;
        metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
    };
    #[cfg(not(unix))]
    let mtime_ns = {
        let since_1970 = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        since_1970.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
    };
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Stamp { size: metadata.len(), mtime_ns, inode }
}

/// How far a hashing is, and the way to stop it; shared with whoever waits.
#[derive(Debug, Default)]
pub struct Watch {
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl Watch {
    /// Bytes that are hashed.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes that there are; 0 until the files are counted.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Makes the hashing end with [`HashError::Cancelled`] soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) -> Result<(), HashError> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) { Err(HashError::Cancelled) } else { Ok(()) }
    }
}

/// What [`Store::existing`](crate::disk::Store::existing) takes instead of hashing the same data again.
fn proof(metainfo: &Metainfo, have: &Bitfield, stamps: &[Option<Stamp>]) -> Proof {
    Proof::from_bytes(journal::encode(&Layout::new(&metainfo.info), 1, have, stamps))
}

/// Why data cannot be hashed.
#[derive(Debug, Error)]
pub enum HashError {
    /// Neither a file nor a folder.
    #[error("{} is neither a file nor a folder", .0.display())]
    NotData(PathBuf),
    /// A name that cannot be in a torrent.
    #[error("the name of {} cannot be in a torrent: it is not UTF-8", .0.display())]
    NotUtf8(PathBuf),
    /// A folder with no file in it.
    #[error("there is no file in {}", .0.display())]
    NoFiles(PathBuf),
    /// It was written to meanwhile.
    #[error("{} changed while it was hashed", .0.display())]
    Changed(PathBuf),
    /// The files cannot make a torrent.
    #[error(transparent)]
    Metainfo(#[from] MetainfoError),
    /// [`Watch::cancel`] was called.
    #[error("stopped")]
    Cancelled,
    /// The system refused.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
