//! Pieces that come in: hashed while their blocks are warm, written if they are good; and parts of pieces that leave memory,
//! hashed or not, before their piece is whole.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use obt_digest::LANES;
use obt_storage::ledger::Event;
use obt_storage::{FileIndex, Slice, Stamp};
use obt_swarm::Verdict;
use obt_wire::{BLOCK_SIZE, Block, PieceIndex};

use super::Done;
use super::coming::{Blocks, Coming, End, Part};
use super::files::Before;
use super::growth::Growth;
use super::partial::fault;
use super::piece_hash::{HalfHashed, Outcome, PieceHasher, v1_block_digest};
use super::store::Data;
use super::workers::Lane;
use crate::buffers::BlockBuf;

/// So many pieces at least are worth all lanes; fewer go in pairs.
const SIDE_BY_SIDE: usize = 6;
/// Blocks that are hashed in one go, of all pieces together: half of a second-level cache, so that the second hash finds
/// them there.
const CACHED_BLOCKS: usize = 32;

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

impl Growth {
    fn lock_coming(&self) -> MutexGuard<'_, Coming> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    pub(super) fn verify(self: &Arc<Self>, full: impl IntoIterator<Item = FullPiece>) {
        self.arrive(full.into_iter().filter_map(|full| self.admit(full)));
    }

    /// What is to be hashed at once; None where it cannot be stored, or has to wait for what is done with its other blocks.
    fn admit(&self, mut full: FullPiece) -> Option<Part> {
        let Some(growth) = self.growing() else {
            self.store_failed(full.piece, "the data is complete and not written to any more");
            return None;
        };
        full.blocks.sort_unstable_by_key(|(index, _)| *index);
        growth.lock_coming().full(full)
    }

    pub(super) fn store_ahead(self: &Arc<Self>, first: impl IntoIterator<Item = (PieceIndex, Blocks)>) {
        let Some(growth) = self.growing() else {
            return;
        };
        let part = |(piece, mut blocks): (PieceIndex, Blocks)| {
            blocks.sort_unstable_by_key(|(index, _)| *index);
            growth.lock_coming().ahead(piece, blocks, self.losses(piece, growth))
        };
        self.arrive(first.into_iter().filter_map(part));
    }

    pub(super) fn forget(&self, piece: PieceIndex) {
        if let Some(growth) = self.growing() {
            growth.lock_coming().forget(piece);
        }
    }

    /// Parts wait to be hashed, with those that do already.
    fn arrive(self: &Arc<Self>, parts: impl Iterator<Item = Part>) {
        let parts: Vec<Part> = parts.collect();
        if !parts.is_empty() {
            self.arrived.lock().unwrap_or_else(PoisonError::into_inner).extend(parts);
            self.hash_soon();
        }
    }

    fn hash_soon(self: &Arc<Self>) {
        let data = Arc::clone(self);
        self.disk.run(Lane::Pieces, move || data.hash_arrived());
    }

    pub(super) fn spill(self: &Arc<Self>, piece: PieceIndex, mut blocks: Blocks) {
        let Some(growth) = self.growing() else {
            return;
        };
        blocks.sort_unstable_by_key(|(index, _)| *index);
        growth.lock_coming().spilling(piece, self.losses(piece, growth));
        let data = Arc::clone(self);
        self.disk.run(Lane::Pieces, move || data.spill_now(piece, &blocks));
    }

    fn spill_now(self: &Arc<Self>, piece: PieceIndex, blocks: &[(u32, BlockBuf)]) {
        let failed = self.write_unverified(piece, blocks);
        if let Some(growth) = self.growing() {
            let next = growth.lock_coming().spilled(piece, failed);
            self.arrive(next.into_iter());
        }
    }

    /// Writes blocks whose piece is not verified; returns why that failed.
    fn write_unverified(self: &Arc<Self>, piece: PieceIndex, blocks: &[(u32, BlockBuf)]) -> Option<String> {
        match self.write_blocks(piece, blocks) {
            Ok(()) => {
                self.tell(Event::Touched { stamps: self.stamps_of(piece) });
                None
            }
            Err(error) => Some(self.write_failed(piece, &error)),
        }
    }

    /// Hashes some of the parts that wait for it, which an earlier call may have done already, and stores what is not known
    /// to be bad. Another thread does so with those that are left.
    fn hash_arrived(self: &Arc<Self>) {
        let (batch, more) = self.take_arrived();
        if more {
            self.hash_soon();
        }
        let (mut ends, mut whole, mut next) = (Vec::new(), Vec::new(), Vec::new());
        for (part, hashed) in self.hash_parts(batch) {
            match (hashed, part.end) {
                (Ok(hashed), None) => next.extend(self.stored_ahead(part.piece, part.blocks, hashed)),
                (Ok(hashed), Some(end)) => {
                    ends.push((part.piece, part.blocks, end));
                    whole.push(hashed);
                }
                (Err(error), _) => self.store_failed(part.piece, &error),
            }
        }
        for ((piece, blocks, end), outcome) in ends.into_iter().zip(self.hashes.compare(whole)) {
            self.store_if_good(piece, &blocks, &end, &outcome);
        }
        // What waited for these is hashed together too.
        self.arrive(next.into_iter());
    }

    /// As many parts as are hashed in about the time of one, and whether there are more. The busier the processors are,
    /// the more wait here, and the cheaper each becomes.
    fn take_arrived(&self) -> (Vec<Part>, bool) {
        let mut waiting = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if waiting.len() < SIDE_BY_SIDE { 2 } else { LANES };
        let count = count.min(waiting.len());
        let batch = waiting.drain(..count).collect();
        (batch, !waiting.is_empty())
    }

    /// Goes on with each piece as far as its part reaches.
    fn hash_parts(&self, parts: Vec<Part>) -> Vec<(Part, Result<HalfHashed, String>)> {
        let mut hashed: Vec<(Part, Result<HalfHashed, String>)> = Vec::with_capacity(parts.len());
        let mut in_memory = Vec::with_capacity(parts.len());
        for mut part in parts {
            let before = part.before.take().unwrap_or_else(|| self.hashes.begin(part.piece));
            if part.end.is_none() || self.is_whole(&part, &before) {
                in_memory.push((part, before));
            } else {
                let result = self.hash_spilled(&mut part, before);
                hashed.push((part, result));
            }
        }
        let (parts, before): (Vec<Part>, Vec<HalfHashed>) = in_memory.into_iter().unzip();
        let after = self.hash_in_memory(&parts, before);
        hashed.extend(parts.into_iter().zip(after.into_iter().map(Ok)));
        hashed
    }

    /// Whether nothing of the piece was spilled.
    fn is_whole(&self, part: &Part, before: &HalfHashed) -> bool {
        before.blocks() as usize + part.blocks.len() == self.layout.geometry().blocks(part.piece) as usize
    }

    /// Hashes parts side by side whose blocks are all in memory.
    fn hash_in_memory<'a>(&self, parts: &'a [Part], before: Vec<HalfHashed>) -> Vec<HalfHashed> {
        let geometry = self.layout.geometry();
        let mut hasher = PieceHasher::new(before);
        let longest = parts.iter().map(|part| part.blocks.len()).max().unwrap_or_default();
        let step = (CACHED_BLOCKS / parts.len().max(1)).max(1);
        for from in (0..longest).step_by(step) {
            let stretch = |part: &'a Part| -> Vec<&'a [u8]> {
                let blocks = part.blocks.get(from..).unwrap_or_default().iter().take(step);
                let size = |index| geometry.block_size(Block { piece: part.piece, index }) as usize;
                blocks.map(|(index, buffer)| buffer.get(..size(*index)).unwrap_or(buffer)).collect()
            };
            hasher.blocks(&parts.iter().map(stretch).collect::<Vec<_>>());
        }
        hasher.into_pieces()
    }

    /// Hashes the last part of a piece of which some blocks are on disk.
    fn hash_spilled(&self, part: &mut Part, before: HalfHashed) -> Result<HalfHashed, String> {
        if let Some(failed) = part.end.as_mut().and_then(|end| end.failed.take()) {
            return Err(failed);
        }
        let from = before.blocks();
        let mut hasher = PieceHasher::new(vec![before]);
        self.each_block(part.piece, from, &part.blocks, |block| hasher.blocks(&[vec![block]])).map_err(unreadable)?;
        hasher.into_pieces().pop().ok_or_else(|| "it is hashed and not there".to_owned())
    }

    /// Writes the first blocks of a piece of which others come, and lets go of them; returns what waited for that.
    fn stored_ahead(self: &Arc<Self>, piece: PieceIndex, blocks: Blocks, hashed: HalfHashed) -> Option<Part> {
        let growth = self.growing()?;
        let forgotten = growth.lock_coming().is_forgotten(piece);
        let failed = if forgotten { None } else { self.write_unverified(piece, &blocks) };
        drop(blocks);
        let mut coming = growth.lock_coming();
        if let Some(blocks) = coming.hashed(piece, hashed, failed) {
            self.tell_done(Done::StoredAhead { piece, blocks });
        }
        coming.next(piece)
    }

    fn store_if_good(self: &Arc<Self>, piece: PieceIndex, blocks: &Blocks, end: &End, outcome: &Outcome) {
        // Blocks that left memory and never got to the disk.
        if let Some(error) =
            end.failed.as_ref().filter(|_| blocks.len() < self.layout.geometry().blocks(piece) as usize)
        {
            return self.store_failed(piece, error);
        }
        let Some(verdict) = outcome.verdict.clone() else {
            return self.store_failed(piece, "its hashes are not known yet");
        };
        let block_digests = if end.digests || verdict != Verdict::Good {
            self.block_digests(piece, blocks, outcome).unwrap_or_default()
        } else {
            Vec::new()
        };
        if verdict == Verdict::Good
            && let Err(error) = self.write_blocks(piece, blocks)
        {
            let error = self.write_failed(piece, &error);
            return self.store_failed(piece, &error);
        }
        if end.losses.is_some_and(|before| self.growing().is_some_and(|growth| self.losses(piece, growth) != before)) {
            self.tell(Event::Touched { stamps: self.stamps_of(piece) });
            return self.store_failed(piece, "what was written of it before may be lost");
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
        // A full disk says so for hundreds of pieces; that the download pauses is told once.
        tracing::debug!(piece = piece.0, %error, "cannot write a piece");
        self.tell(Event::Touched { stamps: self.stamps_of(piece) });
        self.tell(Event::WriteFailed { fault: fault(error) });
        error.to_string()
    }

    /// How often it was learned that what is written of a piece may not be there: somebody else changed its files, or a sync
    /// failed. Of pieces that are had the ledger knows; of one whose blocks left memory before it was whole nobody would.
    fn losses(&self, piece: PieceIndex, growth: &Growth) -> u32 {
        let changes = self.layout.files_of(piece).map(|file| self.files.changes(file));
        changes.fold(growth.failed_syncs.load(Ordering::Acquire), u32::wrapping_add)
    }

    fn stamps_of(&self, piece: PieceIndex) -> Vec<(FileIndex, Stamp)> {
        self.layout.files_of(piece).filter_map(|file| Some((file, self.files.stamp(file)?))).collect()
    }

    /// Every block of a piece in order, from this one on, from memory, or from the disk where it left memory before.
    fn each_block(
        &self,
        piece: PieceIndex,
        from: u32,
        blocks: &[(u32, BlockBuf)],
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let geometry = self.layout.geometry();
        let mut blocks = blocks.iter().peekable();
        let mut scratch = Vec::new();
        for index in from..geometry.blocks(piece) {
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
        self.each_block(piece, 0, blocks, |block| digests.push(v1_block_digest(block)))?;
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

fn unreadable(error: io::Error) -> String {
    format!("cannot read back what left memory: {error}")
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
