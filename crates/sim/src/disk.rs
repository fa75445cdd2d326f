//! One node's buffers and storage: which blocks are held, which pieces are verified and stored, how long that takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use obt_storage::Layout;
use obt_swarm::{Event, Verdict};
use obt_wire::{BLOCK_SIZE, Bitfield, Block, PieceIndex};

use crate::platter::{Job, Order, Platter, Syncing};
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
    /// How its syncs go.
    pub syncing: Syncing,
}

impl Default for DiskSpec {
    fn default() -> Self {
        Self { rate: 500_000_000, delay: Duration::from_millis(2), failures: 0.0, syncing: Syncing::Honest }
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
    /// Of pieces that are stored while they come.
    ahead: BTreeMap<u32, Ahead>,
    /// Blocks of pieces that are being verified, per piece.
    verifying: BTreeMap<u32, (usize, Contents)>,
    /// Pieces that are stored, and are not what they should be.
    wrong: BTreeSet<u32>,
    platter: Platter,
    free_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contents {
    Right,
    Wrong,
}

/// First blocks of a piece of which others come.
#[derive(Debug, Default)]
struct Ahead {
    /// So many were given to the disk,
    given: u32,
    /// and so many of them are known to be stored.
    stored: u32,
}

impl Disk {
    /// A disk that holds `stored`.
    #[must_use]
    pub fn new(spec: DiskSpec, stored: Bitfield, layout: &Arc<Layout>, seed: u64, now: Instant) -> Self {
        let platter = Platter::new(layout, &stored, spec.syncing, seed);
        Self::with(spec, stored, platter, now)
    }

    fn with(spec: DiskSpec, stored: Bitfield, platter: Platter, now: Instant) -> Self {
        Self {
            spec,
            stored,
            wrong: BTreeSet::new(),
            platter,
            accepted: BTreeMap::new(),
            spilled: BTreeSet::new(),
            ahead: BTreeMap::new(),
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
        let stored = |piece: &u32| self.ahead.get(piece).map_or(0, |ahead| ahead.stored as usize);
        let verifying = self.verifying.iter().map(|(piece, (buffers, _))| buffers.saturating_sub(stored(piece)));
        held.map(|(piece, blocks)| blocks.len() - stored(piece)).sum::<usize>() + verifying.sum::<usize>()
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

    /// Hashes and writes the first blocks of `piece`; the answer, and when it comes.
    ///
    /// # Errors
    /// Where they are not all here, or were spilled.
    pub fn store_ahead(&mut self, piece: PieceIndex, blocks: u32, now: Instant) -> Result<(Instant, Event), String> {
        if !self.has_first(piece, blocks) || self.spilled.contains(&piece.0) {
            return Err(format!("{blocks} blocks of {piece:?} are to be stored, and are not here"));
        }
        let before = std::mem::replace(&mut self.ahead.entry(piece.0).or_default().given, blocks);
        let bytes = f64::from(blocks.saturating_sub(before)) * f64::from(BLOCK_SIZE);
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(bytes / self.spec.rate as f64);
        Ok((self.free_at + self.spec.delay, Event::StoredAhead { piece, blocks }))
    }

    fn has_first(&self, piece: PieceIndex, blocks: u32) -> bool {
        self.accepted.get(&piece.0).is_some_and(|here| here.range(..blocks).count() == blocks as usize)
    }

    /// From here on the blocks of `piece` need no buffer.
    pub fn spill(&mut self, piece: PieceIndex) {
        self.spilled.insert(piece.0);
    }

    /// Drops the blocks of `piece`.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.accepted.remove(&piece.0);
        self.spilled.remove(&piece.0);
        self.ahead.remove(&piece.0);
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
        let ahead = self.ahead.get(&piece.0).map_or(0, |ahead| ahead.given);
        let bytes = f64::from(torrent.geometry().piece_size(piece)) - f64::from(ahead) * f64::from(BLOCK_SIZE);
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(bytes / self.spec.rate as f64);
        let at = self.free_at + self.spec.delay;
        let good = blocks.values().all(|flip| *flip == 0);
        let buffers = if self.spilled.remove(&piece.0) { 0 } else { needed };
        self.verifying.insert(piece.0, (buffers, if good { Contents::Right } else { Contents::Wrong }));
        if good && rng.f64() < self.spec.failures {
            return Ok((at, Event::StoreFailed { piece }));
        }
        let digest = |(index, flip): (&u32, &u64)| torrent.digest(Block { piece, index: *index }, *flip);
        let block_digests = if digests || !good { blocks.iter().map(digest).collect() } else { Vec::new() };
        let verdict = if good { Verdict::Good } else { Verdict::Bad };
        Ok((at, Event::Verified { piece, verdict, block_digests }))
    }

    /// The answer of [`verify`](Self::verify) is about to be told: a good piece is written.
    pub fn finished(&mut self, event: &Event, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        match event {
            Event::Verified { piece, verdict, .. } => {
                let verified = self.verifying.remove(&piece.0);
                self.ahead.remove(&piece.0);
                if *verdict == Verdict::Good {
                    let right = verified.is_some_and(|(_, contents)| contents == Contents::Right);
                    self.stored.set(*piece);
                    if !right {
                        self.wrong.insert(piece.0);
                    }
                    self.platter.write(*piece, right, now, &mut orders);
                }
            }
            Event::StoredAhead { piece, blocks } => {
                if let Some(ahead) = self.ahead.get_mut(&piece.0) {
                    ahead.stored = ahead.stored.max((*blocks).min(ahead.given));
                }
            }
            Event::StoreFailed { piece } => {
                self.verifying.remove(&piece.0);
                self.ahead.remove(&piece.0);
                self.platter.fail(now, &mut orders);
            }
            _ => {}
        }
        orders
    }

    /// All of it is here.
    pub fn finish(&mut self, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        self.platter.finish(now, &mut orders);
        orders
    }

    /// Something that it was busy with is done.
    pub fn done(&mut self, job: Job, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        self.platter.done(job, now, &mut orders);
        orders
    }

    /// These pieces are not stored any more.
    pub fn lose(&mut self, pieces: &[PieceIndex]) {
        for piece in pieces {
            self.stored.clear(*piece);
            self.wrong.remove(&piece.0);
        }
    }

    /// Whether all of it has its final name for good.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.platter.is_placed()
    }

    /// That nothing is stored that is not what it should be, and nothing claimed that a power cut could take.
    ///
    /// # Errors
    /// What is.
    pub fn check(&self) -> Result<(), String> {
        match self.wrong.first() {
            Some(piece) => Err(format!("piece {piece} is stored, and its bytes are wrong")),
            None => self.platter.check(),
        }
    }

    /// What a new process finds of it after a power cut.
    ///
    /// # Errors
    /// Where it would believe what is not there.
    pub fn cut(mut self, now: Instant) -> Result<Self, String> {
        let stored = self.platter.cut()?;
        Ok(Self::with(self.spec, stored, self.platter, now))
    }
}
