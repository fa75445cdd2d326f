//! One node's buffers and storage: which blocks are held, which pieces are verified and stored, how long that takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use obt_swarm::{Event, Verdict};
use obt_wire::{Bitfield, Block, PieceIndex};

use crate::torrent::Torrent;

/// How a disk behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiskSpec {
    /// Bytes hashed and written per second.
    pub rate: u64,
    /// Time that a piece takes beside that.
    pub delay: Duration,
    /// Share of good pieces that cannot be stored.
    pub failures: f64,
}

impl Default for DiskSpec {
    fn default() -> Self {
        Self { rate: 500_000_000, delay: Duration::from_millis(2), failures: 0.0 }
    }
}

/// One node's blocks: each by how its bytes are wrong, where 0 is not wrong.
///
/// Invariant: a piece is in `stored` only if it was verified here, or was there from the beginning.
#[derive(Debug)]
pub struct Disk {
    spec: DiskSpec,
    stored: Bitfield,
    accepted: BTreeMap<u32, BTreeMap<u32, u64>>,
    spilled: BTreeSet<u32>,
    /// Blocks of pieces that are being verified, per piece.
    verifying: BTreeMap<u32, usize>,
    free_at: Instant,
}

impl Disk {
    /// A disk that holds `stored`.
    #[must_use]
    pub fn new(spec: DiskSpec, stored: Bitfield, now: Instant) -> Self {
        Self {
            spec,
            stored,
            accepted: BTreeMap::new(),
            spilled: BTreeSet::new(),
            verifying: BTreeMap::new(),
            free_at: now,
        }
    }

    /// What is verified and stored.
    #[must_use]
    pub fn stored(&self) -> &Bitfield {
        &self.stored
    }

    /// Blocks in buffers.
    #[must_use]
    pub fn buffered(&self) -> usize {
        let held = self.accepted.iter().filter(|(piece, _)| !self.spilled.contains(piece));
        held.map(|(_, blocks)| blocks.len()).sum::<usize>() + self.verifying.values().sum::<usize>()
    }

    /// Keeps a block.
    ///
    /// # Errors
    /// Where it is here already: two writers of one block.
    pub fn accept(&mut self, block: Block, flip: u64) -> Result<(), String> {
        if self.stored.has(block.piece) || self.verifying.contains_key(&block.piece.0) {
            return Err(format!("{block:?} is accepted though its piece is complete"));
        }
        match self.accepted.entry(block.piece.0).or_default().insert(block.index, flip) {
            None => Ok(()),
            Some(_) => Err(format!("{block:?} is accepted twice")),
        }
    }

    /// From here on the blocks of `piece` need no buffer.
    pub fn spill(&mut self, piece: PieceIndex) {
        self.spilled.insert(piece.0);
    }

    /// Drops the blocks of `piece`.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.accepted.remove(&piece.0);
        self.spilled.remove(&piece.0);
    }

    /// Hashes `piece`, and stores it if it is good; the answer, and when it comes.
    ///
    /// # Errors
    /// Where it is not full.
    pub fn verify(
        &mut self,
        piece: PieceIndex,
        digests: bool,
        torrent: &Torrent,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Result<(Instant, Event), String> {
        let blocks = self.accepted.remove(&piece.0).unwrap_or_default();
        let needed = torrent.geometry().blocks(piece) as usize;
        if blocks.len() != needed {
            return Err(format!("{piece:?} is verified with {} of {needed} blocks", blocks.len()));
        }
        if !self.spilled.remove(&piece.0) {
            self.verifying.insert(piece.0, needed);
        }
        let bytes = f64::from(torrent.geometry().piece_size(piece));
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(bytes / self.spec.rate as f64);
        let at = self.free_at + self.spec.delay;
        let good = blocks.values().all(|flip| *flip == 0);
        if good && rng.f64() < self.spec.failures {
            return Ok((at, Event::StoreFailed { piece }));
        }
        let digest = |(index, flip): (&u32, &u64)| torrent.digest(Block { piece, index: *index }, *flip);
        let block_digests = if digests || !good { blocks.iter().map(digest).collect() } else { Vec::new() };
        let verdict = if good { Verdict::Good } else { Verdict::Bad };
        Ok((at, Event::Verified { piece, verdict, block_digests }))
    }

    /// The answer of [`verify`](Self::verify) is about to be told.
    pub fn finished(&mut self, event: &Event) {
        let (Event::Verified { piece, .. } | Event::StoreFailed { piece }) = event else {
            return;
        };
        self.verifying.remove(&piece.0);
        if matches!(event, Event::Verified { verdict: Verdict::Good, .. }) {
            self.stored.set(*piece);
        }
    }
}
