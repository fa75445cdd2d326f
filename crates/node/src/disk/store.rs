//! One torrent's data: what the rest of the node asks of it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use obt_storage::{FileIndex, Layout, Slice, Stamp, journal};
use obt_wire::metainfo::{Info, Metainfo};
use obt_wire::peer::Request;
use obt_wire::{Bitfield, PieceIndex, Sha256Hash};
use tokio::sync::mpsc::UnboundedSender;

use super::coming::Part;
use super::files::{self, Files, Look};
use super::growth::Growth;
use super::partial;
use super::piece_hash::PieceHashes;
use super::pieces::FullPiece;
use super::workers::Lane;
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
    first: UploadSlice,
    /// More where the block spans files; an empty `Vec` takes no memory.
    rest: Vec<UploadSlice>,
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
    pub(super) data: Arc<Data>,
}

/// What a store is made of; its jobs hold on to it.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) disk: Disk,
    pub(super) metainfo: Arc<Metainfo>,
    pub(super) layout: Arc<Layout>,
    pub(super) hashes: PieceHashes,
    pub(super) files: Arc<Files>,
    /// Pieces that hold any byte of what is wanted.
    pub(super) wanted: Bitfield,
    /// Pieces whose bytes are verified and in their files: nothing else is ever read for others.
    pub(super) have: RwLock<Bitfield>,
    pub(super) done: UnboundedSender<Done>,
    /// What waits to be hashed; while there is anything, a job is queued for it.
    pub(super) arrived: Mutex<VecDeque<Part>>,
    /// Where it all is, once it has its final name.
    pub(super) place: Mutex<Option<PathBuf>>,
    /// Of a download: what is still to become of it.
    pub(super) growth: OnceLock<Growth>,
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
        super::open::download(disk, plan, done).await
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
        super::open::existing(disk, root, metainfo, proof, done).await
    }

    /// The .torrent file of the download to `name` in `folder` that was begun and not finished, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Io`] where it is there and cannot be read.
    pub async fn begun(disk: &Disk, folder: &Path, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let (folder, name) = (folder.to_path_buf(), obt_storage::names::final_name(name).into_owned());
        disk.ask(Lane::Existing, move || partial::begun(&folder, &name)).await.unwrap_or(Err(StoreError::Stopped))
    }

    /// The pieces that hold any byte of what the plan selects.
    #[must_use]
    pub fn wanted(&self) -> Bitfield {
        self.data.wanted.clone()
    }

    /// The pieces whose bytes are verified and in their files now.
    #[must_use]
    pub fn have(&self) -> Bitfield {
        self.data.have()
    }

    /// The hashes of a file's pieces, checked against its root: pieces of this file can be verified now.
    pub fn add_piece_layer(&self, pieces_root: Sha256Hash, hashes: Vec<Sha256Hash>) {
        self.data.hashes.add_layer(pieces_root, hashes);
    }

    /// Hashes pieces, side by side as far as that is faster, and writes those that are good to their files; each is answered
    /// by [`Done::Verified`] or [`Done::StoreFailed`]. Never blocks.
    pub fn verify(&self, full: impl IntoIterator<Item = FullPiece>) {
        self.data.verify(full);
    }

    /// Hashes each block of a piece as its files hold it, to tell others; answered by [`Done::BlocksHashed`]. Never blocks.
    pub fn hash_blocks(&self, piece: PieceIndex) {
        self.data.hash_blocks_stored(piece);
    }

    /// Hashes the first blocks of pieces of which others come, and writes them, unverified, to give their buffers back; each is
    /// answered by [`Done::StoredAhead`]. They follow what this was told of their piece before, and [`verify`](Self::verify) goes on
    /// from there. Where that fails, `verify` answers [`Done::StoreFailed`]. Never blocks.
    pub fn store_ahead(&self, first: impl IntoIterator<Item = (PieceIndex, Vec<(u32, BlockBuf)>)>) {
        self.data.store_ahead(first);
    }

    /// A piece begins anew: what was given of it is nothing.
    pub fn forget(&self, piece: PieceIndex) {
        self.data.forget(piece);
    }

    /// Writes blocks that are not verified yet, to give their buffers back; [`verify`](Self::verify) reads them back.
    /// Where that fails, `verify` answers [`Done::StoreFailed`]. Never blocks.
    pub fn spill(&self, piece: PieceIndex, blocks: Vec<(u32, BlockBuf)>) {
        self.data.spill(piece, blocks);
    }

    /// Where the bytes of a request are, checked: the piece is had, and its files have the size and modification time
    /// that they were verified with. Costs one `fstat` for each file, and an open where the file is not in the cache.
    ///
    /// # Errors
    /// [`StoreError::NotHere`], [`StoreError::Changed`] (the file is hashed again, and [`Done::Withdrawn`] follows
    /// where it lost pieces), [`StoreError::Io`].
    pub fn upload(&self, request: &Request) -> Result<UploadPlan, StoreError> {
        let not_here = StoreError::NotHere { piece: request.piece };
        let piece = PieceIndex(request.piece);
        let geometry = self.data.layout.geometry();
        if !geometry.in_piece(request.piece, request.begin, request.length) || !self.data.has(piece) {
            return Err(not_here);
        }
        let mut slices = self.data.layout.slices(piece, request.begin, request.length);
        let first = slices.next().ok_or(not_here)?;
        let first = self.data.upload_slice(first)?;
        let rest = slices.map(|slice| self.data.upload_slice(slice)).collect::<Result<_, _>>()?;
        Ok(UploadPlan { first, rest })
    }

    /// A block of this piece could not be sent. If it was had and no file of it is known to have changed, it is hashed
    /// again; [`Done::Withdrawn`] follows where it cannot be read, or is not what it was. Never blocks.
    pub fn doubt(&self, piece: PieceIndex) {
        self.data.doubt(piece);
    }

    /// Reads a request into `out`, which has its length, with the same checks before and after. Blocks on the disk.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub fn read_blocking(&self, request: &Request, out: &mut [u8]) -> Result<(), StoreError> {
        let plan = self.upload(request)?;
        let mut rest = out;
        for slice in plan.slices() {
            let (UploadSlice::File { length, .. } | UploadSlice::Zeros { length }) = slice;
            let (here, behind) =
                rest.split_at_mut_checked(*length as usize).ok_or(StoreError::NotHere { piece: request.piece })?;
            rest = behind;
            match slice {
                UploadSlice::File { file, offset, .. } => {
                    file.read_exact_at(here, *offset).map_err(|error| self.data.read_error(request, error))?;
                }
                UploadSlice::Zeros { .. } => here.fill(0),
            }
        }
        self.upload(request).map(drop)
    }

    /// Makes all durable and gives it its final name, which is returned; uploads go on from there. Nothing to do for
    /// data that was there before.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`], [`StoreError::Occupied`], [`StoreError::Changed`], [`StoreError::Io`]. Where a
    /// file changed, [`Done::Withdrawn`] tells what it lost; once those pieces are fetched again, so can this be.
    pub async fn finish(&self) -> Result<PathBuf, StoreError> {
        self.data.finish().await
    }

    /// Makes durable what is verified and notes it in the journal, so that the same download resumes from here.
    pub async fn flush(&self) {
        self.data.flush().await;
    }

    /// Whether pieces can still be stored: a download that does not have its final name for good.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.data.growing().is_some()
    }

    /// What lets [`existing`](Self::existing) trust these files later without hashing them again.
    #[must_use]
    pub fn proof(&self) -> Proof {
        let data = &self.data;
        Proof { bytes: journal::encode(&data.layout, 0, &data.have(), &data.files.stamps()) }
    }
}

impl Data {
    pub(super) fn have(&self) -> Bitfield {
        self.have.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn has(&self, piece: PieceIndex) -> bool {
        self.have.read().unwrap_or_else(PoisonError::into_inner).has(piece)
    }

    pub(super) fn set_all_have(&self, pieces: &Bitfield) {
        self.have.write().unwrap_or_else(PoisonError::into_inner).clone_from(pieces);
    }

    pub(super) fn set_place(&self, path: PathBuf) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
    }

    pub(super) fn set_have(&self, piece: PieceIndex) {
        self.have.write().unwrap_or_else(PoisonError::into_inner).set(piece);
    }

    /// Stops reading these pieces for others.
    pub(super) fn unset_have(&self, pieces: &[PieceIndex]) {
        let mut have = self.have.write().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces {
            have.clear(*piece);
        }
    }

    pub(super) fn place(&self) -> Option<PathBuf> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells whoever drives this torrent. Nobody listening means that it is stopping.
    pub(super) fn tell_done(&self, done: Done) {
        let _ = self.done.send(done);
    }

    fn upload_slice(self: &Arc<Self>, slice: Slice) -> Result<UploadSlice, StoreError> {
        let (file, offset, length) = match slice {
            Slice::File { file, offset, length } => (file, offset, length),
            Slice::Zeros { length } => return Ok(UploadSlice::Zeros { length }),
        };
        let look = self.files.look(file);
        match look.map_err(|error| partial::io_error("read", &self.files.shown(file), error))? {
            Look::Same(file) => Ok(UploadSlice::File { file, offset, length }),
            Look::Changed => {
                self.recheck(file);
                Err(StoreError::Changed { path: self.files.shown(file) })
            }
            Look::Suspect => Err(StoreError::Changed { path: self.files.shown(file) }),
        }
    }

    fn read_error(&self, request: &Request, error: std::io::Error) -> StoreError {
        let file = self.layout.files_of(PieceIndex(request.piece)).next().unwrap_or(FileIndex(0));
        partial::io_error("read", &self.files.shown(file), error)
    }
}

/// Which pieces were verified, and the sizes and modification times of the files at that time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    bytes: Vec<u8>,
}

impl Proof {
    /// What somebody proves who read every byte of a torrent's files and made its hashes from them: `stamps` are those
    /// of the data files, in the torrent's order, from before the first byte was read and the same after the last.
    #[must_use]
    pub fn complete(info: &Info, stamps: &[Stamp]) -> Self {
        let stamps: Vec<_> = stamps.iter().copied().map(Some).collect();
        let pieces = Bitfield::full(info.geometry.pieces());
        Self { bytes: journal::encode(&Layout::new(info), 0, &pieces, &stamps) }
    }

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

/// The stamp of an open file, for [`Proof::complete`].
///
/// # Errors
/// Of the system.
pub fn stamp_of(file: &File) -> std::io::Result<Stamp> {
    Ok(files::stamp(&rustix::fs::fstat(file)?))
}
