//! Pieces that come in: hashed while their blocks are warm, written if they are good; and blocks that have to leave
//! memory before their piece is whole.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use obt_digest::LANES;
use obt_storage::ledger::Event;
use obt_storage::{FileIndex, Slice, Stamp};
use obt_swarm::Verdict;
use obt_wire::{BLOCK_SIZE, Block, PieceIndex};

use super::Done;
use super::files::Before;
use super::growth::Growth;
use super::partial::fault;
use super::piece_hash::{Outcome, v1_block_digest};
use super::store::Data;
use super::workers::Lane;
use crate::buffers::BlockBuf;

/// Blocks of one piece by their index, in order.
type Blocks = Vec<(u32, BlockBuf)>;

/// So many pieces at least are worth all lanes; fewer go in pairs.
const SIDE_BY_SIDE: usize = 6;
/// Blocks that are hashed in one go, of all pieces together: half of a second-level cache, so that the second hash finds
/// them there.
const STRETCH_BLOCKS: usize = 32;

/// A piece whose blocks are all here, or spilled.
#[derive(Debug)]
pub struct FullPiece {
    /// Its number.
    pub piece: PieceIndex,
    /// Numbers in the piece and bytes of those of its blocks that are not on disk already, and are not padding.
    pub blocks: Vec<(u32, BlockBuf)>,
    /// Whether the digests of its blocks are wanted even if it is good.
    pub digests: bool,
}

/// Blocks of a piece that went to disk unverified.
#[derive(Debug, Default)]
pub(super) struct Spill {
    /// Writes under way.
    writing: u32,
    /// Why one failed.
    failed: Option<String>,
    /// To be verified when the last write is done.
    then: Option<FullPiece>,
}

/// The spills of a download by piece.
pub(super) type Spills = BTreeMap<PieceIndex, Spill>;

impl Growth {
    fn lock_spills(&self) -> MutexGuard<'_, Spills> {
        self.spills.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    pub(super) fn verify(self: &Arc<Self>, full: impl IntoIterator<Item = FullPiece>) {
        let whole: Vec<FullPiece> = full.into_iter().filter_map(|full| self.unspilled(full)).collect();
        if whole.is_empty() {
            return;
        }
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).extend(whole);
        self.verify_soon();
    }

    /// What is to be verified at once; None where it failed already, or has to wait for a spill that is being written.
    fn unspilled(self: &Arc<Self>, mut full: FullPiece) -> Option<FullPiece> {
        let piece = full.piece;
        let Some(growth) = self.growing() else {
            self.store_failed(piece, "the data is complete and not written to any more");
            return None;
        };
        full.blocks.sort_unstable_by_key(|(index, _)| *index);
        let mut spills = growth.lock_spills();
        let spill = match spills.get_mut(&piece) {
            Some(spill) if spill.writing > 0 => {
                spill.then = Some(full);
                return None;
            }
            Some(_) => spills.remove(&piece),
            None => None,
        };
        drop(spills);
        let whole = full.blocks.len() == self.layout.geometry().blocks(piece) as usize;
        if let Some(error) = spill.and_then(|spill| spill.failed).filter(|_| !whole) {
            self.store_failed(piece, &error);
            return None;
        }
        Some(full)
    }

    fn verify_soon(self: &Arc<Self>) {
        let data = Arc::clone(self);
        self.disk.run(Lane::Pieces, move || data.verify_arrived());
    }

    pub(super) fn spill(self: &Arc<Self>, piece: PieceIndex, mut blocks: Blocks) {
        let Some(growth) = self.growing() else {
            return;
        };
        blocks.sort_unstable_by_key(|(index, _)| *index);
        growth.lock_spills().entry(piece).or_default().writing += 1;
        let data = Arc::clone(self);
        self.disk.run(Lane::Pieces, move || data.spill_now(piece, &blocks));
    }

    fn spill_now(self: &Arc<Self>, piece: PieceIndex, blocks: &[(u32, BlockBuf)]) {
        let failed = self.write_blocks(piece, blocks).err().map(|error| self.write_failed(piece, &error));
        let Some(growth) = self.growing() else {
            return;
        };
        if failed.is_none() {
            self.tell(Event::Touched { stamps: self.stamps_of(piece) });
        }
        let mut spills = growth.lock_spills();
        let Some(spill) = spills.get_mut(&piece) else {
            return;
        };
        spill.writing = spill.writing.saturating_sub(1);
        spill.failed = spill.failed.take().or(failed);
        if let Some(full) = spill.then.take_if(|_| spill.writing == 0) {
            drop(spills);
            self.verify([full]);
        }
    }

    /// Hashes some of the pieces that wait for it, which an earlier call may have done already, and stores the good ones.
    /// Another thread does so with those that are left.
    fn verify_arrived(self: &Arc<Self>) {
        let (batch, more) = self.take_arrived();
        if more {
            self.verify_soon();
        }
        let outcomes = self.hash_arrived(&batch);
        for (full, outcome) in batch.into_iter().zip(outcomes) {
            self.store_if_good(&full, outcome);
        }
    }

    /// As many pieces as are hashed in about the time of one, and whether there are more. The busier the processors are,
    /// the more wait here, and the cheaper each becomes.
    fn take_arrived(&self) -> (Vec<FullPiece>, bool) {
        let mut waiting = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if waiting.len() < SIDE_BY_SIDE { 2 } else { LANES };
        let count = count.min(waiting.len());
        let batch = waiting.drain(..count).collect();
        (batch, !waiting.is_empty())
    }

    fn hash_arrived(&self, batch: &[FullPiece]) -> Vec<io::Result<Outcome>> {
        let is_whole = |full: &&FullPiece| full.blocks.len() == self.layout.geometry().blocks(full.piece) as usize;
        let whole: Vec<&FullPiece> = batch.iter().filter(is_whole).collect();
        let mut in_memory = self.hash_in_memory(&whole).into_iter();
        let outcome = |full: &FullPiece| {
            let known = if is_whole(&full) { in_memory.next() } else { None };
            known.map_or_else(|| self.hash_spilled(full), Ok)
        };
        batch.iter().map(outcome).collect()
    }

    fn store_if_good(self: &Arc<Self>, full: &FullPiece, outcome: io::Result<Outcome>) {
        let FullPiece { piece, ref blocks, digests } = *full;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return self.store_failed(piece, &format!("cannot read back what was spilled: {error}")),
        };
        let Some(verdict) = outcome.verdict.clone() else {
            return self.store_failed(piece, "its hashes are not known yet");
        };
        let block_digests = if digests || verdict != Verdict::Good {
            self.block_digests(piece, blocks, &outcome).unwrap_or_default()
        } else {
            Vec::new()
        };
        if verdict == Verdict::Good
            && let Err(error) = self.write_blocks(piece, blocks)
        {
            let error = self.write_failed(piece, &error);
            return self.store_failed(piece, &error);
        }
        self.stored(Done::Verified { piece, verdict, block_digests }, piece);
    }

    /// Tells the ledger and the torrent at once, so that neither hears of the piece's loss before it hears of the
    /// piece.
    fn stored(self: &Arc<Self>, done: Done, piece: PieceIndex) {
        let good = matches!(done, Done::Verified { verdict: Verdict::Good, .. });
        match self.growing() {
            Some(growth) if good => {
                let mut ledger = growth.lock_ledger();
                self.set_have(piece);
                ledger.handle_event(Event::Stored { piece, stamps: self.stamps_of(piece) }, Instant::now());
                self.tell_done(done);
                self.act(growth, &mut ledger);
            }
            None if good => self.store_failed(piece, "the data is complete and not written to any more"),
            _ => self.tell_done(done),
        }
    }

    fn store_failed(&self, piece: PieceIndex, error: &str) {
        self.tell_done(Done::StoreFailed { piece, error: error.to_owned() });
    }

    /// Notes that the disk does not take what it is given.
    fn write_failed(self: &Arc<Self>, piece: PieceIndex, error: &io::Error) -> String {
        tracing::warn!(piece = piece.0, %error, "cannot write a piece");
        self.tell(Event::Touched { stamps: self.stamps_of(piece) });
        self.tell(Event::WriteFailed { fault: fault(error) });
        error.to_string()
    }

    fn stamps_of(&self, piece: PieceIndex) -> Vec<(FileIndex, Stamp)> {
        self.layout.files_of(piece).filter_map(|file| Some((file, self.files.stamp(file)?))).collect()
    }

    /// Hashes pieces side by side whose blocks are all in memory.
    fn hash_in_memory<'a>(&self, batch: &[&'a FullPiece]) -> Vec<Outcome> {
        let geometry = self.layout.geometry();
        let mut hasher = self.hashes.begin(batch.iter().map(|full| full.piece));
        let longest = batch.iter().map(|full| full.blocks.len()).max().unwrap_or_default();
        let step = (STRETCH_BLOCKS / batch.len().max(1)).max(1);
        for from in (0..longest).step_by(step) {
            let stretch = |full: &&'a FullPiece| -> Vec<&'a [u8]> {
                let blocks = full.blocks.iter().skip(from).take(step);
                let size = |index| geometry.block_size(Block { piece: full.piece, index }) as usize;
                blocks.map(|(index, buffer)| buffer.get(..size(*index)).unwrap_or(buffer)).collect()
            };
            hasher.blocks(&batch.iter().map(stretch).collect::<Vec<_>>());
        }
        self.hashes.compare(hasher)
    }

    /// Hashes a piece of which some blocks are on disk.
    fn hash_spilled(&self, full: &FullPiece) -> io::Result<Outcome> {
        let mut hasher = self.hashes.begin([full.piece]);
        self.each_block(full.piece, &full.blocks, |block| hasher.blocks(&[vec![block]]))?;
        self.hashes.compare(hasher).pop().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Every block of a piece in order, from memory, or from the disk where it was spilled.
    fn each_block(&self, piece: PieceIndex, blocks: &[(u32, BlockBuf)], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let geometry = self.layout.geometry();
        let mut blocks = blocks.iter().peekable();
        let mut scratch = Vec::new();
        for index in 0..geometry.blocks(piece) {
            let length = geometry.block_size(Block { piece, index }) as usize;
            if let Some((_, buffer)) = blocks.next_if(|(at, _)| *at == index) {
                each(buffer.get(..length).unwrap_or(buffer));
                continue;
            }
            scratch.resize(length, 0);
            self.read_raw(piece, index.saturating_mul(BLOCK_SIZE), &mut scratch)?;
            each(&scratch);
        }
        Ok(())
    }

    fn block_digests(
        &self,
        piece: PieceIndex,
        blocks: &[(u32, BlockBuf)],
        outcome: &Outcome,
    ) -> io::Result<Vec<[u8; 32]>> {
        if !outcome.leaves.is_empty() {
            return Ok(outcome.leaves.iter().map(|leaf| leaf.0).collect());
        }
        let mut digests = Vec::with_capacity(blocks.len());
        self.each_block(piece, blocks, |block| digests.push(v1_block_digest(block)))?;
        Ok(digests)
    }

    /// Writes blocks where they belong: one vectored write for each file that a run of them touches.
    fn write_blocks(self: &Arc<Self>, piece: PieceIndex, blocks: &[(u32, BlockBuf)]) -> io::Result<()> {
        for run in blocks.chunk_by(|(before, _), (after, _)| before.checked_add(1) == Some(*after)) {
            let Some((first, _)) = run.first() else {
                continue;
            };
            let begin = first.saturating_mul(BLOCK_SIZE);
            let longest = u32::try_from(run.len()).unwrap_or(u32::MAX).saturating_mul(BLOCK_SIZE);
            let length = longest.min(self.layout.geometry().piece_size(piece).saturating_sub(begin));
            let mut at = 0;
            for slice in self.layout.slices(piece, begin, length) {
                let range = at..at + slice.length() as usize;
                at = range.end;
                if let Slice::File { file, offset, .. } = slice {
                    self.write_range(file, offset, run, range)?;
                }
            }
        }
        Ok(())
    }

    /// Writes these bytes of a run of blocks; a failing device gets a second try.
    fn write_range(
        self: &Arc<Self>,
        file: FileIndex,
        offset: u64,
        run: &[(u32, BlockBuf)],
        range: Range<usize>,
    ) -> io::Result<()> {
        let write = || self.files.write(file, offset, &mut parts(run, range.clone()));
        let is_eio = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        let before = match write() {
            Err(error) if is_eio(&error) => write()?,
            other => other?,
        };
        if before == Before::Changed {
            self.recheck(file);
        }
        Ok(())
    }
}

/// The parts of the buffers of a run that make up these of its bytes.
fn parts(run: &[(u32, BlockBuf)], range: Range<usize>) -> Vec<IoSlice<'_>> {
    let block = BLOCK_SIZE as usize;
    let touched = range.start / block..range.end.div_ceil(block);
    let buffers = run.get(touched.clone()).unwrap_or_default();
    let parts = touched.zip(buffers).filter_map(|(number, (_, buffer))| {
        let start = range.start.saturating_sub(number * block);
        let end = range.end.saturating_sub(number * block).min(block);
        Some(IoSlice::new(buffer.get(start..end)?))
    });
    parts.collect()
}
