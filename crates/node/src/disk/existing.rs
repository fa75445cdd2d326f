//! Hashing of data that is on disk already: a download that is resumed, a file that was there, one that changed.
//!
//! Every worker takes part. The work is cut into short jobs that queue up again behind others, so that pieces that
//! come in meanwhile do not wait.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use obt_digest::{Sha256, digest_each};
use obt_storage::{FileIndex, Slice};
use obt_swarm::Verdict;
use obt_wire::{BLOCK_SIZE, Bitfield, PieceIndex, Sha256Hash};

use super::piece_hash::{Outcome, PieceHasher};
use super::store::Data;
use super::workers::Lane;
use super::{Done, StoreError};

/// Bytes that are read at a time: enough to make the system call cheap, little enough for the cache.
const READ_BYTES: u32 = 16 * BLOCK_SIZE;
/// Bytes that one job hashes or copies before others get their turn: some milliseconds.
pub(super) const TURN_BYTES: u32 = 16 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whether hashing goes on after a piece that is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterBad {
    /// All of them are wanted to know.
    GoOn,
    /// One is enough.
    Stop,
}

/// Called once, with the good pieces, on a worker.
type OnEnd = Box<dyn FnOnce(Bitfield) + Send>;

struct Hashing {
    data: Arc<Data>,
    pieces: Vec<PieceIndex>,
    next: AtomicUsize,
    running: AtomicUsize,
    good: Mutex<Bitfield>,
    after_bad: AfterBad,
    met_bad: AtomicBool,
    /// Gone when nobody waits for the answer any more.
    wanted: Weak<()>,
    on_end: Mutex<Option<OnEnd>>,
}

impl Data {
    /// Hashes these pieces where they are; returns those that are good.
    pub(super) async fn hash_stored(
        self: &Arc<Self>,
        pieces: Vec<PieceIndex>,
        after_bad: AfterBad,
    ) -> Result<Bitfield, StoreError> {
        if pieces.is_empty() {
            return Ok(Bitfield::empty(self.layout.geometry().pieces()));
        }
        let (answer, answered) = tokio::sync::oneshot::channel();
        let waiting = Arc::new(());
        self.start_hashing(pieces, after_bad, Arc::downgrade(&waiting), move |good| drop(answer.send(good)));
        let good = answered.await.map_err(|_| StoreError::Stopped);
        drop(waiting);
        good
    }

    fn start_hashing(
        self: &Arc<Self>,
        pieces: Vec<PieceIndex>,
        after_bad: AfterBad,
        wanted: Weak<()>,
        on_end: impl FnOnce(Bitfield) + Send + 'static,
    ) {
        let threads = self.disk.threads().min(pieces.len()).max(1);
        let hashing = Arc::new(Hashing {
            good: Mutex::new(Bitfield::empty(self.layout.geometry().pieces())),
            data: Arc::clone(self),
            pieces,
            next: AtomicUsize::new(0),
            running: AtomicUsize::new(threads),
            after_bad,
            met_bad: AtomicBool::new(false),
            wanted,
            on_end: Mutex::new(Some(Box::new(on_end))),
        });
        for _ in 0..threads {
            let hashing = Arc::clone(&hashing);
            self.disk.run(Lane::Existing, move || hashing.turn());
        }
    }

    /// Hashes a file again that somebody else changed, and takes back what is not good any more. It is suspect, and
    /// so not read for anybody, until that is done.
    pub(super) fn recheck(self: &Arc<Self>, file: FileIndex) {
        tracing::warn!(path = %self.files.shown(file).display(), "the file was changed; hashing it again");
        self.recheck_then(file, || {});
    }

    /// The same, for somebody who waits for it.
    pub(super) async fn recheck_now(self: &Arc<Self>, file: FileIndex) {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.recheck_then(file, move || {
            let _ = answer.send(());
        });
        let _ = answered.await;
    }

    fn recheck_then(self: &Arc<Self>, file: FileIndex, then: impl FnOnce() + Send + 'static) {
        let changes = self.files.changes(file);
        let had: Vec<PieceIndex> =
            self.layout.pieces_of(file).map(PieceIndex).filter(|piece| self.has(*piece)).collect();
        // Complete data of another size is another content, whatever some of its pieces hash to.
        let size = self.files.stamp(file).map(|stamp| stamp.size);
        let other_size = size != self.layout.file(file).map(|file| file.size);
        let to_hash = if other_size && self.growing().is_none() { Vec::new() } else { had.clone() };
        let data = Arc::clone(self);
        // Held until the end: half an answer would take back good pieces.
        let alive = Arc::new(());
        self.start_hashing(to_hash, AfterBad::GoOn, Arc::downgrade(&alive), move |good| {
            drop(alive);
            let (kept, lost): (Vec<_>, Vec<_>) = had.into_iter().partition(|piece| good.has(*piece));
            data.unset_have(&lost);
            // Changed once more while it was hashed? Of a file that has nothing left to lose, nobody needs to know.
            let unchanged = kept.is_empty() || data.files.is_unchanged(file, changes);
            data.rechecked(file, data.files.stamp(file), lost);
            if !unchanged {
                return data.recheck_then(file, then);
            }
            data.files.clear(file);
            then();
        });
    }

    /// Hashes a piece again that could not be read (HOSTILE F17), and takes it back if it is not good any more.
    pub(super) fn doubt(self: &Arc<Self>, piece: PieceIndex) {
        // A file that changed is being hashed as a whole.
        let file = match self.layout.files_of(piece).next() {
            Some(file) if self.has(piece) && !self.layout.files_of(piece).any(|file| self.files.is_suspect(file)) => {
                file
            }
            _ => return,
        };
        let data = Arc::clone(self);
        let alive = Arc::new(());
        self.start_hashing(vec![piece], AfterBad::Stop, Arc::downgrade(&alive), move |good| {
            drop(alive);
            if !good.has(piece) && data.has(piece) {
                tracing::warn!(path = %data.files.shown(file).display(), piece = piece.0, "cannot read a piece any more");
                data.unset_have(&[piece]);
                data.rechecked(file, data.files.stamp(file), vec![piece]);
            }
        });
    }

    fn rechecked(self: &Arc<Self>, file: FileIndex, stamp: Option<obt_storage::Stamp>, lost: Vec<PieceIndex>) {
        match self.growing() {
            Some(_) => self.tell(obt_storage::ledger::Event::Rechecked { file, stamp, lost }),
            None if lost.is_empty() => {}
            None => self.tell_done(Done::Withdrawn { pieces: lost }),
        }
    }

    /// Hashes the blocks of a piece for somebody who asks for them.
    pub(super) fn hash_blocks_stored(self: &Arc<Self>, piece: PieceIndex) {
        let data = Arc::clone(self);
        self.disk.run(Lane::Existing, move || {
            let size = data.layout.geometry().data_size(piece);
            let mut hashes = Vec::with_capacity(size.div_ceil(BLOCK_SIZE) as usize);
            let read = data.each_stretch_stored(piece, size, |blocks| {
                hashes.extend(digest_each::<Sha256>(&blocks).into_iter().map(Sha256Hash));
            });
            if let Err(error) = read {
                tracing::debug!(piece = piece.0, %error, "cannot read a piece to tell its hashes");
                hashes.clear();
            }
            data.tell_done(Done::BlocksHashed { piece, hashes });
        });
    }

    /// What the bytes on disk say about a piece.
    pub(super) fn hash_piece_on_disk(&self, piece: PieceIndex) -> io::Result<Outcome> {
        if self.is_hole(piece)
            && let Some(outcome) = self.hashes.zeros(piece)
        {
            return Ok(outcome);
        }
        let geometry = self.layout.geometry();
        let size = geometry.piece_size(piece).min(geometry.blocks(piece).saturating_mul(BLOCK_SIZE));
        let mut hasher = PieceHasher::new(vec![self.hashes.begin(piece)]);
        self.each_stretch_stored(piece, size, |blocks| hasher.blocks(&[blocks]))?;
        self.hashes.compare(hasher.into_pieces()).pop().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The blocks of the first `size` bytes of a piece as they are on disk, in order, several at a time.
    fn each_stretch_stored(&self, piece: PieceIndex, size: u32, mut each: impl FnMut(Vec<&[u8]>)) -> io::Result<()> {
        self.each_read(piece, size, |_, bytes| {
            each(bytes.chunks(BLOCK_SIZE as usize).collect());
            Ok(())
        })
    }

    /// The first `size` bytes of a piece as they are on disk, some at a time, each with where they begin in the piece.
    pub(super) fn each_read(
        &self,
        piece: PieceIndex,
        size: u32,
        mut each: impl FnMut(u32, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(READ_BYTES as usize, 0);
            for begin in (0..size).step_by(READ_BYTES as usize) {
                let length = (size - begin).min(READ_BYTES) as usize;
                let bytes = scratch.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
                self.read_raw(piece, begin, bytes)?;
                each(begin, bytes)?;
            }
            Ok(())
        })
    }

    /// Reads bytes of a piece, verified or not.
    pub(super) fn read_raw(&self, piece: PieceIndex, begin: u32, out: &mut [u8]) -> io::Result<()> {
        let mut rest = out;
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        for slice in self.layout.slices(piece, begin, length) {
            let (here, behind) =
                rest.split_at_mut_checked(slice.length() as usize).ok_or(io::ErrorKind::InvalidInput)?;
            rest = behind;
            match slice {
                Slice::File { file, offset, .. } => self.files.read(file, offset, here)?,
                Slice::Zeros { .. } => here.fill(0),
            }
        }
        Ok(())
    }

    /// Whether nothing was ever written where this piece lies.
    fn is_hole(&self, piece: PieceIndex) -> bool {
        self.layout.piece_slices(piece).all(|slice| match slice {
            Slice::File { file, offset, length } => {
                self.files.open(file).is_ok_and(|file| obt_sys::is_hole(&file, offset, u64::from(length)))
            }
            Slice::Zeros { .. } => true,
        })
    }
}

impl Hashing {
    /// Hashes for a while, and queues up again where something is left.
    fn turn(self: Arc<Self>) {
        let mut hashed = 0u32;
        while hashed < TURN_BYTES && !self.is_over() {
            let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)).copied() else {
                return self.leave();
            };
            hashed = hashed.saturating_add(self.data.layout.geometry().piece_size(piece));
            let outcome = self.data.hash_piece_on_disk(piece);
            match outcome {
                Ok(Outcome { verdict: Some(Verdict::Good), .. }) => {
                    self.good.lock().unwrap_or_else(PoisonError::into_inner).set(piece);
                }
                Ok(_) => self.met_bad.store(true, Ordering::Relaxed),
                Err(error) => {
                    tracing::debug!(piece = piece.0, %error, "cannot read a piece to hash it");
                    self.met_bad.store(true, Ordering::Relaxed);
                }
            }
        }
        if self.is_over() {
            return self.leave();
        }
        let disk = self.data.disk.clone();
        disk.run(Lane::Existing, move || self.turn());
    }

    fn is_over(&self) -> bool {
        let bad = self.after_bad == AfterBad::Stop && self.met_bad.load(Ordering::Relaxed);
        bad || self.wanted.strong_count() == 0
    }

    /// The last worker that leaves tells the answer.
    fn leave(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let good = std::mem::take(&mut *self.good.lock().unwrap_or_else(PoisonError::into_inner));
        let on_end = self.on_end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(on_end) = on_end {
            on_end(good);
        }
    }
}
