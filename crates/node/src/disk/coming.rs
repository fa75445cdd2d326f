//! Pieces of which some blocks leave memory before the last one comes: what of them is hashed next.
//!
//! The parts of a piece are hashed one after another, in order; those of different pieces side by side. What was spilled
//! is read back with the last part.

use std::collections::BTreeMap;

use obt_wire::PieceIndex;

use super::piece_hash::HalfHashed;
use super::pieces::FullPiece;
use crate::buffers::BlockBuf;

/// Blocks of one piece by their index, in order.
pub(super) type Blocks = Vec<(u32, BlockBuf)>;

/// Blocks that are hashed next of a piece.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) piece: PieceIndex,
    /// What was hashed before; None at the beginning.
    pub(super) before: Option<HalfHashed>,
    /// Of the last part without those that were spilled.
    pub(super) blocks: Blocks,
    /// Of the last part.
    pub(super) end: Option<End>,
}

/// What belongs to the last part of a piece.
#[derive(Debug)]
pub(super) struct End {
    /// Whether the digests of its blocks are wanted even if it is good.
    pub(super) digests: bool,
    /// Why blocks that left memory are not on disk.
    pub(super) failed: Option<String>,
    /// Of a piece of which blocks left memory: what [`Data::losses`](super::store::Data::losses) were before the first did.
    pub(super) losses: Option<u32>,
}

/// The pieces by number.
#[derive(Debug, Default)]
pub(super) struct Coming {
    pieces: BTreeMap<PieceIndex, Piece>,
}

#[derive(Debug, Default)]
struct Piece {
    /// What is hashed of it, unless somebody goes on with it.
    hashed: Option<HalfHashed>,
    /// A part of it is being hashed and written.
    busy: bool,
    /// That part is of a piece that was forgotten meanwhile.
    forgotten: bool,
    /// What comes behind that part.
    ahead: Blocks,
    /// Writes of spilled blocks under way.
    spilling: u32,
    /// Why a write failed.
    failed: Option<String>,
    /// See [`End`].
    losses: Option<u32>,
    /// The rest of it.
    full: Option<FullPiece>,
}

impl Coming {
    /// These blocks follow those that were given before.
    pub(super) fn ahead(&mut self, piece: PieceIndex, blocks: Blocks, losses: u32) -> Option<Part> {
        let known = self.pieces.entry(piece).or_default();
        known.ahead.extend(blocks);
        known.losses.get_or_insert(losses);
        self.next(piece)
    }

    /// Every block of this piece is here, or was given or spilled before.
    pub(super) fn full(&mut self, full: FullPiece) -> Option<Part> {
        let piece = full.piece;
        self.pieces.entry(piece).or_default().full = Some(full);
        self.next(piece)
    }

    /// Blocks are about to be written, unhashed.
    pub(super) fn spilling(&mut self, piece: PieceIndex, losses: u32) {
        let known = self.pieces.entry(piece).or_default();
        known.spilling += 1;
        known.losses.get_or_insert(losses);
    }

    /// They are written, or are not for this reason.
    pub(super) fn spilled(&mut self, piece: PieceIndex, failed: Option<String>) -> Option<Part> {
        let known = self.pieces.get_mut(&piece)?;
        known.spilling = known.spilling.saturating_sub(1);
        known.failed = known.failed.take().or(failed);
        self.next(piece)
    }

    /// A part that was not the last is hashed, and written unless that failed. None where nobody waits for it any more.
    pub(super) fn hashed(&mut self, piece: PieceIndex, hashed: HalfHashed, failed: Option<String>) -> Option<u32> {
        let known = self.pieces.get_mut(&piece)?;
        known.busy = false;
        if std::mem::take(&mut known.forgotten) {
            return None;
        }
        let blocks = hashed.blocks();
        known.hashed = Some(hashed);
        known.failed = known.failed.take().or(failed);
        Some(blocks)
    }

    /// Whether the part of this piece that is being hashed is not wanted any more.
    pub(super) fn is_forgotten(&self, piece: PieceIndex) -> bool {
        self.pieces.get(&piece).is_some_and(|known| known.forgotten)
    }

    /// The piece begins anew. What is being done with it now ends before anything else is done.
    pub(super) fn forget(&mut self, piece: PieceIndex) {
        if let Some(known) = self.pieces.remove(&piece)
            && (known.busy || known.spilling > 0)
        {
            let Piece { busy, spilling, .. } = known;
            self.pieces.insert(piece, Piece { busy, spilling, forgotten: busy, ..Piece::default() });
        }
    }

    /// What is hashed next of a piece, if it can be now.
    pub(super) fn next(&mut self, piece: PieceIndex) -> Option<Part> {
        // Writes of a piece that was forgotten meanwhile must not come after those of the next try.
        let known = self.pieces.get_mut(&piece).filter(|known| !known.busy && known.spilling == 0)?;
        if known.full.is_none() {
            known.busy = !known.ahead.is_empty();
            let (before, blocks) = (known.hashed.take_if(|_| known.busy), std::mem::take(&mut known.ahead));
            return known.busy.then_some(Part { piece, before, blocks, end: None });
        }
        let Piece { hashed: before, ahead: mut blocks, failed, losses, full, .. } = self.pieces.remove(&piece)?;
        let FullPiece { digests, blocks: rest, .. } = full?;
        blocks.extend(rest);
        Some(Part { piece, before, blocks, end: Some(End { digests, failed, losses }) })
    }
}
