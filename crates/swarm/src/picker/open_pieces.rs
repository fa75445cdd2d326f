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

/// One open piece.
///
/// Invariants: `missing`, `requested` and `received` count the states of `blocks`; `again` holds only blocks that are
/// requested, and of each the peers beside the first; no block before `first_missing` is missing.
#[derive(Debug, Default)]
pub(super) struct OpenPiece {
    pub(super) blocks: Vec<BlockState>,
    pub(super) missing: u32,
    pub(super) requested: u32,
    pub(super) received: u32,
    /// Second and further requests of a block: `(block, peer)`.
    pub(super) again: BTreeSet<(u32, PeerKey)>,
    first_missing: u32,
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
        self.requested as usize + if self.spilled { 0 } else { self.received as usize }
    }

    /// The next missing block, now requested of `peer`.
    pub(super) fn request_next(&mut self, peer: PeerKey) -> Option<u32> {
        let rest = self.blocks.get_mut(self.first_missing as usize..)?;
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
/// Invariants: `partial` holds those with a missing block; `committed` sums the blocks of those that are not spilled,
/// `loose` the requested ones of those that are: together they bound the buffers that may be needed; `requested` sums the
/// requested blocks of all.
#[derive(Debug, Default)]
pub(super) struct OpenPieces {
    pieces: BTreeMap<u32, OpenPiece>,
    partial: BTreeSet<u32>,
    committed: usize,
    loose: usize,
    requested: usize,
    clock: u64,
    spare: Vec<Vec<BlockState>>,
}

impl OpenPieces {
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
        self.committed + self.loose
    }

    /// Blocks that peers owe.
    pub(super) fn requested(&self) -> usize {
        self.requested
    }

    /// Blocks received so far, in all pieces: the picker's measure of time.
    pub(super) fn clock(&self) -> u64 {
        self.clock
    }

    /// Starts fetching `piece`; `alone` is the one peer it may come from.
    pub(super) fn open(&mut self, piece: u32, blocks: u32, alone: Option<PeerKey>) {
        let mut states = self.spare.pop().unwrap_or_default();
        states.resize(blocks as usize, BlockState::Missing);
        let open = OpenPiece { blocks: states, missing: blocks, alone, touched: self.clock, ..OpenPiece::default() };
        self.committed += blocks as usize;
        self.pieces.insert(piece, open);
        self.partial.insert(piece);
    }

    /// Stops fetching `piece`, whatever became of it.
    pub(super) fn close(&mut self, piece: u32) -> Option<OpenPiece> {
        let open = self.pieces.remove(&piece)?;
        self.partial.remove(&piece);
        self.requested -= open.requested as usize;
        if open.spilled {
            self.loose -= open.requested as usize;
        } else {
            self.committed -= open.blocks.len();
        }
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
        if let Some(open) = self.pieces.get_mut(&piece).filter(|open| !open.spilled) {
            open.spilled = true;
            self.committed -= open.blocks.len();
            self.loose += open.requested as usize;
        }
    }

    /// Changes one piece and the sums with it.
    pub(super) fn change<T>(&mut self, piece: u32, by: impl FnOnce(&mut OpenPiece) -> T) -> Option<T> {
        let open = self.pieces.get_mut(&piece)?;
        let (missing, requested, received) = (open.missing, open.requested, open.received);
        let result = by(open);
        if open.received > received {
            self.clock += u64::from(open.received - received);
            open.touched = self.clock;
        }
        self.requested = self.requested + open.requested as usize - requested as usize;
        if open.spilled {
            self.loose = self.loose + open.requested as usize - requested as usize;
        }
        match (missing, open.missing) {
            (0, 1..) => _ = self.partial.insert(piece),
            (1.., 0) => _ = self.partial.remove(&piece),
            _ => {}
        }
        Some(result)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let mut committed = 0;
        let mut loose = 0;
        let mut requested = 0;
        for (piece, open) in &self.pieces {
            open.check().map_err(|error| format!("piece {piece}: {error}"))?;
            if self.partial.contains(piece) != (open.missing > 0) {
                return Err(format!("piece {piece} misses {} and is in the wrong set", open.missing));
            }
            requested += open.requested as usize;
            if open.spilled {
                loose += open.requested as usize;
            } else {
                committed += open.blocks.len();
            }
        }
        if (committed, loose) != (self.committed, self.loose) {
            return Err(format!("{committed} + {loose} blocks, counted {} + {}", self.committed, self.loose));
        }
        if requested != self.requested {
            return Err(format!("{requested} blocks are requested, counted {}", self.requested));
        }
        Ok(())
    }
}
