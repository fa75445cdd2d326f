//! One torrent's data.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use obt_wire::metainfo::Metainfo;
use obt_wire::peer::Request;
use obt_wire::{Bitfield, PieceIndex, Sha256Hash};
use tokio::sync::mpsc::UnboundedSender;

use super::{Disk, Done, DownloadPlan, StoreError};
use crate::buffers::BlockBuf;

/// A stretch of a block that is to be sent.
#[derive(Debug, Clone)]
pub enum UploadSlice {
    /// Bytes of a file.
    File {
        /// Open for reading; other users have their own offset, so only `sendfile` and `pread` with an offset.
        file: Arc<File>,
        /// Where they begin in the file, bytes.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Padding.
    Zeros {
        /// How many bytes.
        length: u32,
    },
}

/// Where the bytes of a block are, in order.
#[derive(Debug, Clone)]
pub struct UploadPlan {
    /// Nearly always one slice.
    pub(super) first: UploadSlice,
    /// More where the block spans files; an empty `Vec` takes no memory.
    pub(super) rest: Vec<UploadSlice>,
}

impl UploadPlan {
    /// The slices in order; their lengths add up to that of the request.
    pub fn slices(&self) -> impl Iterator<Item = &UploadSlice> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

/// One torrent's data. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    disk: Disk,
}

impl Store {
    /// A download into `folder/<name>.obt-part/`; resumes what is there. Returns the pieces that are verified and
    /// here. What happens later is sent to `done`.
    ///
    /// Where the final name already has the whole content, it is adopted: every wanted piece is had, and
    /// [`finish`](Self::finish) has nothing left to do.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn download(
        disk: &Disk,
        plan: DownloadPlan,
        done: UnboundedSender<Done>,
    ) -> Result<(Self, Bitfield), StoreError> {
        let _ = (disk, plan, done);
        Err(StoreError::Stopped)
    }

    /// Complete data where it lies, read only; `root` is the file, or the folder of a torrent with several files.
    /// It is hashed in parallel, but for what `proof` covers and size and modification time still bear out.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn existing(
        disk: &Disk,
        root: &Path,
        metainfo: Arc<Metainfo>,
        proof: Option<Proof>,
        done: UnboundedSender<Done>,
    ) -> Result<(Self, Bitfield), StoreError> {
        let _ = (disk, root, metainfo, proof, done);
        Err(StoreError::Stopped)
    }

    /// The .torrent file of the download to `name` in `folder` that was begun and not finished, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Io`] where it is there and cannot be read.
    pub async fn begun(disk: &Disk, folder: &Path, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = (disk, folder, name);
        Err(StoreError::Stopped)
    }

    /// The pieces that hold any byte of what the plan selects.
    #[must_use]
    pub fn wanted(&self) -> Bitfield {
        Bitfield::empty(0)
    }

    /// The pieces whose bytes are verified and in their files now.
    #[must_use]
    pub fn have(&self) -> Bitfield {
        Bitfield::empty(0)
    }

    /// The hashes of a file's pieces, checked against its root: pieces of this file can be verified now. `torrent`
    /// is the .torrent file with them, if it should replace the one in the partial folder.
    pub fn add_piece_layer(&self, pieces_root: Sha256Hash, hashes: Vec<Sha256Hash>) {
        let _ = (pieces_root, hashes, &self.disk);
    }

    /// Hashes a piece and, if it is good, writes it to its files; answered by [`Done::Verified`] or
    /// [`Done::StoreFailed`]. Blocks that are not in `blocks` were spilled, or are padding. Never blocks.
    pub fn verify(&self, piece: PieceIndex, blocks: Vec<(u32, BlockBuf)>, digests: bool) {
        let _ = (piece, blocks, digests);
    }

    /// Writes blocks that are not verified yet, to give their buffers back; [`verify`](Self::verify) reads them back.
    /// Never blocks.
    pub fn spill(&self, piece: PieceIndex, blocks: Vec<(u32, BlockBuf)>) {
        let _ = (piece, blocks);
    }

    /// Where the bytes of a request are, checked: the piece is had, and its files have the size and modification time
    /// that they were verified with. Costs one `fstat` for each file, and an open where the file is not in the cache.
    ///
    /// # Errors
    /// [`StoreError::NotHere`], [`StoreError::Changed`] (then [`Done::Withdrawn`] is on its way), [`StoreError::Io`].
    pub fn upload(&self, request: &Request) -> Result<UploadPlan, StoreError> {
        Err(StoreError::NotHere { piece: request.piece })
    }

    /// Reads a request into `out`, which has its length, with the same checks. Blocks on the disk.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub fn read_blocking(&self, request: &Request, out: &mut [u8]) -> Result<(), StoreError> {
        let _ = out;
        Err(StoreError::NotHere { piece: request.piece })
    }

    /// Makes all durable and gives it its final name, which is returned; uploads go on from there.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`], [`StoreError::Occupied`], [`StoreError::Changed`] (then [`Done::Withdrawn`] is on
    /// its way, and the pieces can be fetched again), [`StoreError::Io`].
    pub async fn finish(&self) -> Result<PathBuf, StoreError> {
        Err(StoreError::Stopped)
    }

    /// Makes durable what is verified and notes it in the journal, so that the same download resumes from here.
    pub async fn flush(&self) {}

    /// What lets [`existing`](Self::existing) trust these files later without hashing them again.
    #[must_use]
    pub fn proof(&self) -> Proof {
        Proof { bytes: Vec::new() }
    }
}

/// Which pieces were verified, and the sizes and modification times of the files at that time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    bytes: Vec<u8>,
}

impl Proof {
    /// For keeping; checked when it is used.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A proof that was kept. Bytes that are none prove nothing.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }
}
