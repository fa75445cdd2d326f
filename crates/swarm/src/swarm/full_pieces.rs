//! Full pieces, and stretches of long ones, that wait to be hashed together.
//!
//! A processor hashes many pieces side by side in little more than the time of one, so where they come fast each waits
//! for others: until there are enough, or it has waited too long, or more blocks wait than peers owe. By that last rule the
//! budget never runs dry for pieces that wait, and neither the end of a download nor a slow peer keeps them.

use std::time::Instant;

use obt_wire::{BLOCK_SIZE, PieceIndex};

use super::Swarm;
use crate::action::Action;
use crate::limits::{VERIFY_WAIT, VERIFY_WORTH};

/// Pieces of which all blocks are here, or some that can be stored, and for which no `Action::Verify` or `Action::StoreAhead` was
/// said.
#[derive(Debug, Default)]
pub(super) struct FullPieces {
    /// Each with the number of these blocks.
    pieces: Vec<(PieceIndex, usize)>,
    /// Blocks of all of them.
    blocks: usize,
    /// When one of them has waited long enough; None where there is none.
    due: Option<Instant>,
}

impl FullPieces {
    /// When they are to be hashed at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// `piece` is dropped: nothing of it waits.
    pub(super) fn forget(&mut self, piece: PieceIndex) {
        for (_, blocks) in self.pieces.extract_if(.., |(waiting, _)| *waiting == piece) {
            self.blocks -= blocks;
        }
    }
}

impl Swarm {
    /// A block of `piece` has come: if there is something to be hashed now, it waits for others.
    pub(super) fn gather(&mut self, piece: PieceIndex, now: Instant) {
        let blocks = self.torrent.as_ref().map_or(0, |torrent| torrent.picker.to_hash(piece));
        if blocks == 0 {
            return;
        }
        if let Some((_, before)) = self.full.pieces.iter_mut().find(|(waiting, _)| *waiting == piece) {
            self.full.blocks += blocks - *before;
            *before = blocks;
            return;
        }
        let due = if self.is_worth_waiting(now) { now + VERIFY_WAIT } else { now };
        self.full.pieces.push((piece, blocks));
        self.full.blocks += blocks;
        self.full.due = Some(self.full.due.map_or(due, |before| before.min(due)));
    }

    /// Whether others are expected soon, and nobody waits for this one.
    fn is_worth_waiting(&self, now: Instant) -> bool {
        let Some(torrent) = &self.torrent else {
            return false;
        };
        // The blocks of v2 are hashed side by side within a piece.
        let is_v1 = torrent.metainfo.info.hashes.v1.is_some();
        let length = torrent.geometry().piece_length().min(self.config.stretch * BLOCK_SIZE);
        is_v1 && self.readers.is_empty() && self.expected(VERIFY_WAIT, now) >= u64::from(length) * VERIFY_WORTH
    }

    /// Verifies the pieces that wait, and stores the stretches, if it is time.
    pub(super) fn verify_full(&mut self, now: Instant) {
        let (Some(due), Some(torrent)) = (self.full.due, &mut self.torrent) else {
            return;
        };
        let enough = self.full.pieces.len() >= self.config.hashed_together;
        if !enough && due > now && self.full.blocks < torrent.picker.requested() {
            return;
        }
        self.full.due = None;
        self.full.blocks = 0;
        for (piece, _) in self.full.pieces.drain(..) {
            if torrent.picker.is_full(piece) {
                let digests = torrent.blame.is_suspect(piece.0);
                self.actions.push_back(Action::Verify { piece, digests });
            } else if let Some(blocks) = torrent.picker.store_ahead(piece) {
                self.actions.push_back(Action::StoreAhead { piece, blocks });
            }
        }
    }
}
