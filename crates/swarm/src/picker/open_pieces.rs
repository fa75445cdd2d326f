//! Pieces that are being fetched: who was asked for which block, and who sent it.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::PeerKey;

/// Where a block of an open piece is. A piece that is not open has all its blocks missing, or verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// Nobody was asked for it.
    Missing,
    /// Asked for, of this peer first.
    Requested(PeerKey),
    /// It is here, from this peer, not verified.
    Received(PeerKey),
}

/// One open piece. Its blocks are asked for a stretch at a time, so that one that is longer needs buffers for what
/// is on its way only: what has come from its beginning on is stored, unverified, while the rest comes.
///
/// Invariants: `missing`, `requested` and `received` count the states of `blocks`; `again` holds only blocks that are
/// requested, and of each the peers beside the first; no block before `first_missing` is missing, and none from `begun` on
/// is asked for; all blocks before `arrived` are here, and `stored <= storing <= arrived`.
#[derive(Debug, Default)]
pub(super) struct OpenPiece {
    pub(super) blocks: Vec<BlockState>,
    pub(super) missing: u32,
    pub(super) requested: u32,
    pub(super) received: u32,
    /// Second and further requests of a block: `(block, peer)`.
    pub(super) again: BTreeSet<(u32, PeerKey)>,
    first_missing: u32,
    /// Blocks of a stretch; the last one may have fewer.
    stretch: u32,
    /// Where the stretches end that are being asked for.
    begun: u32,
    /// How many blocks from the beginning on are here.
    arrived: u32,
    /// How many of them are to be stored before the piece is full.
    storing: u32,
    /// How many of them are stored: they need no buffers.
    stored: u32,
    /// Its received blocks are in the partial file, not in buffers.
    pub(super) spilled: bool,
    /// The one peer that may be asked for its blocks, while the piece is on parole.
    pub(super) alone: Option<PeerKey>,
    /// Number of blocks received in all pieces when this one got its last.
    pub(super) touched: u64,
}

impl OpenPiece {
    /// Whether every block is here.
    pub(super) fn is_full(&self) -> bool {
        self.missing == 0 && self.requested == 0
    }

    /// Blocks that are in buffers or will be.
    pub(super) fn held(&self) -> usize {
        self.requested as usize + if self.spilled { 0 } else { (self.received - self.stored) as usize }
    }

    /// Blocks that need a buffer, or may need one, of the stretches that are being asked for.
    pub(super) fn room(&self) -> usize {
        if self.spilled { self.requested as usize } else { (self.begun - self.stored) as usize }
    }

    /// Blocks of the stretches that are being asked for, or wait to be hashed.
    pub(super) fn unstored(&self) -> u32 {
        self.begun - self.storing
    }

    /// How many blocks the next stretch has; 0 after the last.
    pub(super) fn next_stretch(&self) -> u32 {
        (self.total() - self.begun).min(self.stretch)
    }

    /// How many blocks it has.
    fn total(&self) -> u32 {
        self.missing + self.requested + self.received
    }

    /// The blocks of the stretches that are being asked for.
    pub(super) fn begun(&self) -> &[BlockState] {
        self.blocks.get(..self.begun as usize).unwrap_or(&self.blocks)
    }

    /// Whether its received blocks could leave the buffers, and are not leaving them.
    pub(super) fn can_spill(&self) -> bool {
        !self.spilled && !self.is_full() && self.storing == self.stored
    }

    /// Blocks that are here, in a longer piece than a stretch, and cannot be stored before one that is not here.
    pub(super) fn behind_gap(&self) -> usize {
        if self.total() > self.stretch { (self.received - self.arrived) as usize } else { 0 }
    }

    /// Whether nothing will change about it unless somebody is asked for more.
    pub(super) fn is_stuck(&self) -> bool {
        self.requested == 0 && !self.is_full() && self.storing == self.stored && !self.is_ahead()
    }

    /// Whether all blocks of the stretches that were begun are asked for, or here.
    pub(super) fn is_begun_asked(&self) -> bool {
        self.missing == self.total() - self.begun
    }

    /// Whether a stretch is here behind what is stored or being stored, of a piece that is longer.
    pub(super) fn is_ahead(&self) -> bool {
        !self.spilled && !self.is_full() && self.whole_stretches() > self.storing
    }

    /// Blocks of the stretches that are here from the beginning on.
    fn whole_stretches(&self) -> u32 {
        self.arrived - self.arrived % self.stretch
    }

    /// Blocks that are here and can be hashed, and are not.
    pub(super) fn to_hash(&self) -> usize {
        match (self.is_full(), self.is_ahead()) {
            (true, _) => (self.arrived - self.storing) as usize,
            (_, true) => (self.whole_stretches() - self.storing) as usize,
            _ => 0,
        }
    }

    /// The next missing block of the stretches that were begun, now requested of `peer`.
    pub(super) fn request_next(&mut self, peer: PeerKey) -> Option<u32> {
        let rest = self.blocks.get_mut(self.first_missing as usize..self.begun as usize)?;
        let ahead = rest.iter().position(|state| *state == BlockState::Missing)?;
        rest[ahead] = BlockState::Requested(peer);
        let block = self.first_missing + u32::try_from(ahead).ok()?;
        self.first_missing = block + 1;
        self.missing -= 1;
        self.requested += 1;
        Some(block)
    }

    /// How many peers are asked for `block`.
    pub(super) fn requesters(&self, block: u32) -> usize {
        match self.blocks.get(block as usize) {
            Some(BlockState::Requested(_)) => 1 + self.also_asked(block).count(),
            _ => 0,
        }
    }

    /// Who is asked for `block` beside the first.
    pub(super) fn also_asked(&self, block: u32) -> impl Iterator<Item = PeerKey> + '_ {
        self.again.range((block, PeerKey(0))..=(block, PeerKey(u64::MAX))).map(|(_, peer)| *peer)
    }

    pub(super) fn is_requested_of(&self, block: u32, peer: PeerKey) -> bool {
        self.blocks.get(block as usize) == Some(&BlockState::Requested(peer)) || self.again.contains(&(block, peer))
    }

    /// Takes back the request of `block` to `peer`; true if there was one.
    pub(super) fn release(&mut self, block: u32, peer: PeerKey) -> bool {
        if self.again.remove(&(block, peer)) {
            return true;
        }
        let next = self.also_asked(block).next();
        let Some(state) = self.blocks.get_mut(block as usize).filter(|state| **state == BlockState::Requested(peer))
        else {
            return false;
        };
        if let Some(next) = next {
            *state = BlockState::Requested(next);
            self.again.remove(&(block, next));
            return true;
        }
        *state = BlockState::Missing;
        self.first_missing = self.first_missing.min(block);
        self.requested -= 1;
        self.missing += 1;
        true
    }

    /// `block` came from `peer`. The peers that were asked for it, this one included, are appended to `asked`.
    pub(super) fn receive(&mut self, block: u32, peer: PeerKey, asked: &mut Vec<PeerKey>) {
        let Some(state) = self.blocks.get_mut(block as usize) else {
            return;
        };
        match *state {
            BlockState::Missing => self.missing -= 1,
            BlockState::Requested(first) => {
                self.requested -= 1;
                asked.push(first);
            }
            BlockState::Received(_) => return,
        }
        *state = BlockState::Received(peer);
        self.received += 1;
        while let Some(BlockState::Received(_)) = self.blocks.get(self.arrived as usize) {
            self.arrived += 1;
        }
        let first = asked.len();
        asked.extend(self.also_asked(block));
        for other in asked.iter().skip(first) {
            self.again.remove(&(block, *other));
        }
    }

    /// Who sent each block, in order; of a piece that is not full, of the blocks that are here.
    pub(super) fn senders(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.blocks.iter().filter_map(|state| match state {
            BlockState::Received(peer) => Some(*peer),
            _ => None,
        })
    }

    fn check(&self) -> Result<(), String> {
        let count = |wanted: fn(&BlockState) -> bool| self.blocks.iter().filter(|state| wanted(state)).count();
        let missing = count(|state| matches!(state, BlockState::Missing));
        let requested = count(|state| matches!(state, BlockState::Requested(_)));
        let received = count(|state| matches!(state, BlockState::Received(_)));
        if (missing, requested, received) != (self.missing as usize, self.requested as usize, self.received as usize) {
            return Err(format!("counts {missing} {requested} {received} of {self:?}"));
        }
        let skipped = self.blocks.iter().take(self.first_missing as usize);
        if skipped.into_iter().any(|state| *state == BlockState::Missing) {
            return Err(format!("a missing block before {}", self.first_missing));
        }
        let behind = self.blocks.iter().skip(self.begun as usize);
        if behind.into_iter().any(|state| *state != BlockState::Missing) || (self.spilled && self.next_stretch() > 0) {
            return Err(format!("blocks from {} on are asked for, or are not and could be", self.begun));
        }
        let here = self.blocks.iter().take_while(|state| matches!(state, BlockState::Received(_))).count();
        if here != self.arrived as usize || self.stored > self.storing || self.storing > self.arrived {
            return Err(format!(
                "{} of {} of {} are stored, and {here} are here",
                self.stored, self.storing, self.arrived
            ));
        }
        for (block, peer) in &self.again {
            let first = self.blocks.get(*block as usize);
            let Some(BlockState::Requested(first)) = first else {
                return Err(format!("block {block} is asked for again in state {first:?}"));
            };
            if first == peer {
                return Err(format!("block {block} is asked for twice of {peer:?}"));
            }
        }
        Ok(())
    }
}

/// All open pieces.
///
/// Invariants: `partial` holds those with a missing block; `committed` sums their rooms: it bounds the buffers that may be needed;
/// `requested` sums the requested blocks of all, `blocks` all their blocks.
#[derive(Debug, Default)]
pub(super) struct OpenPieces {
    pieces: BTreeMap<u32, OpenPiece>,
    partial: BTreeSet<u32>,
    committed: usize,
    requested: usize,
    blocks: usize,
    clock: u64,
    spare: Vec<Vec<BlockState>>,
    stretch: u32,
}

impl OpenPieces {
    /// None are open yet; they are asked for in stretches of this many blocks.
    pub(super) fn new(stretch: u32) -> Self {
        Self { stretch, ..Self::default() }
    }

    pub(super) fn piece(&self, piece: u32) -> Option<&OpenPiece> {
        self.pieces.get(&piece)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &OpenPiece)> {
        self.pieces.iter().map(|(piece, open)| (*piece, open))
    }

    pub(super) fn range(&self, range: std::ops::Range<u32>) -> impl Iterator<Item = (u32, &OpenPiece)> {
        self.pieces.range(range).map(|(piece, open)| (*piece, open))
    }

    pub(super) fn partial(&self) -> &BTreeSet<u32> {
        &self.partial
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Blocks that need a buffer or may need one before their piece is verified.
    pub(super) fn committed(&self) -> usize {
        self.committed
    }

    /// Blocks that peers owe.
    pub(super) fn requested(&self) -> usize {
        self.requested
    }

    /// Blocks of all open pieces, in whatever state.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Blocks received so far, in all pieces: the picker's measure of time.
    pub(super) fn clock(&self) -> u64 {
        self.clock
    }

    /// Starts fetching `piece`; `alone` is the one peer it may come from.
    pub(super) fn open(&mut self, piece: u32, blocks: u32, alone: Option<PeerKey>) {
        let mut states = self.spare.pop().unwrap_or_default();
        states.resize(blocks as usize, BlockState::Missing);
        let (stretch, touched) = (self.stretch, self.clock);
        let begun = blocks.min(stretch);
        let open =
            OpenPiece { blocks: states, missing: blocks, stretch, begun, alone, touched, ..OpenPiece::default() };
        self.committed += open.room();
        self.blocks += blocks as usize;
        self.pieces.insert(piece, open);
        self.partial.insert(piece);
    }

    /// Stops fetching `piece`, whatever became of it.
    pub(super) fn close(&mut self, piece: u32) -> Option<OpenPiece> {
        let open = self.pieces.remove(&piece)?;
        self.partial.remove(&piece);
        self.requested -= open.requested as usize;
        self.committed -= open.room();
        self.blocks -= open.blocks.len();
        Some(open)
    }

    /// Keeps the room of a piece that is done with for the next one.
    pub(super) fn recycle(&mut self, open: OpenPiece) {
        let mut blocks = open.blocks;
        blocks.clear();
        if self.spare.len() < 16 {
            self.spare.push(blocks);
        }
    }

    /// The received blocks of `piece` lie in the partial file from here on.
    pub(super) fn spill(&mut self, piece: u32) {
        self.change(piece, |open| {
            open.spilled = true;
            open.begun = open.total();
        });
    }

    /// The next stretch of `piece` is asked for too; false after the last.
    pub(super) fn begin_stretch(&mut self, piece: u32) -> bool {
        let begun = self.change(piece, |open| {
            let stretch = open.next_stretch();
            open.begun += stretch;
            stretch > 0
        });
        begun == Some(true)
    }

    /// What has come of `piece` from its beginning on is to be stored, if that is a stretch more than before: how many blocks.
    pub(super) fn store_ahead(&mut self, piece: u32) -> Option<u32> {
        let open = self.pieces.get_mut(&piece).filter(|open| open.is_ahead())?;
        open.storing = open.whole_stretches();
        Some(open.storing)
    }

    /// So many blocks of `piece` are stored.
    pub(super) fn stored(&mut self, piece: u32, blocks: u32) {
        self.change(piece, |open| open.stored = open.stored.max(blocks.min(open.storing)));
    }

    /// Changes one piece and the sums with it.
    pub(super) fn change<T>(&mut self, piece: u32, by: impl FnOnce(&mut OpenPiece) -> T) -> Option<T> {
        let open = self.pieces.get_mut(&piece)?;
        let (missing, requested, received, room) = (open.missing, open.requested, open.received, open.room());
        let result = by(open);
        if open.received > received {
            self.clock += u64::from(open.received - received);
            open.touched = self.clock;
        }
        self.requested = self.requested + open.requested as usize - requested as usize;
        self.committed = self.committed + open.room() - room;
        match (missing, open.missing) {
            (0, 1..) => _ = self.partial.insert(piece),
            (1.., 0) => _ = self.partial.remove(&piece),
            _ => {}
        }
        Some(result)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let (mut committed, mut requested, mut blocks) = (0, 0, 0);
        for (piece, open) in &self.pieces {
            open.check().map_err(|error| format!("piece {piece}: {error}"))?;
            if self.partial.contains(piece) != (open.missing > 0) {
                return Err(format!("piece {piece} misses {} and is in the wrong set", open.missing));
            }
            requested += open.requested as usize;
            committed += open.room();
            blocks += open.blocks.len();
        }
        if committed != self.committed {
            return Err(format!("{committed} blocks, counted {}", self.committed));
        }
        if (requested, blocks) != (self.requested, self.blocks) {
            return Err(format!(
                "{requested} of {blocks} are requested, counted {} of {}",
                self.requested, self.blocks
            ));
        }
        Ok(())
    }
}
