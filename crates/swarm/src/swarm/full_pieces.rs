//! Full pieces that wait to be verified together.
//!
//! A processor hashes many pieces side by side in little more than the time of one, so where pieces come fast each waits
//! for others: until there are enough, or it has waited too long, or more blocks wait than peers owe. By that last rule the
//! budget never runs dry for pieces that wait, and neither the end of a download nor a slow peer keeps them.

use std::time::Instant;

use obt_wire::PieceIndex;

use super::Swarm;
use crate::action::Action;
use crate::limits::{VERIFY_WAIT, VERIFY_WORTH};

/// Pieces whose blocks are all here and for which no `Action::Verify` was said.
#[derive(Debug, Default)]
pub(super) struct FullPieces {
    pieces: Vec<PieceIndex>,
    /// Blocks of all of them.
    blocks: usize,
    /// When one of them has waited long enough; None where there is none.
    due: Option<Instant>,
}

impl FullPieces {
    /// When they are to be verified at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn push(&mut self, piece: PieceIndex, blocks: u32, due: Instant) {
        self.pieces.push(piece);
        self.blocks += blocks as usize;
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }
}

impl Swarm {
    /// Every block of `piece` is here.
    pub(super) fn piece_full(&mut self, piece: PieceIndex, now: Instant) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let blocks = torrent.geometry().blocks(piece);
        let due = if self.is_worth_waiting(now) { now + VERIFY_WAIT } else { now };
        self.full.push(piece, blocks, due);
    }

    /// Whether others are expected soon, and nobody waits for this one.
    fn is_worth_waiting(&self, now: Instant) -> bool {
        let Some(torrent) = &self.torrent else {
            return false;
        };
        // The blocks of v2 are hashed side by side within a piece.
        let is_v1 = torrent.metainfo.info.hashes.v1.is_some();
        let expected = u128::from(self.downloaded.rate(now)) * VERIFY_WAIT.as_nanos() / 1_000_000_000;
        is_v1
            && self.readers.is_empty()
            && expected >= u128::from(torrent.geometry().piece_length()) * u128::from(VERIFY_WORTH)
    }

    /// Verifies the pieces that wait, if it is time.
    pub(super) fn verify_full(&mut self, now: Instant) {
        let (Some(due), Some(torrent)) = (self.full.due, &self.torrent) else {
            return;
        };
        let enough = self.full.pieces.len() >= self.config.hashed_together;
        if !enough && due > now && self.full.blocks < torrent.picker.requested() {
            return;
        }
        self.full.due = None;
        self.full.blocks = 0;
        for piece in self.full.pieces.drain(..) {
            let digests = torrent.blame.is_suspect(piece.0);
            self.actions.push_back(Action::Verify { piece, digests });
        }
    }
}
