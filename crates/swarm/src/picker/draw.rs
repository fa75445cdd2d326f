//! The order in which [`pick`](super::Picker::pick) looks for blocks.

use std::cmp::Reverse;

use obt_wire::{BLOCK_SIZE, Bitfield, Block, PieceIndex};

use super::open_pieces::{BlockState, OpenPiece};
use super::piece_set::bit;
use super::{Asker, Picker, Trust};
use crate::event::PeerKey;
use crate::limits::{OPEN_BLOCKS, RARITY_STEPS, RATE_SIDE_BY_SIDE, URGENT_PIECES};

/// One call of `pick`: for whom, how many more, and where they go.
struct Draw<'a, 'b> {
    peer: PeerKey,
    has: &'a Bitfield,
    trust: Trust,
    hints: &'a [PieceIndex],
    left: usize,
    out: &'b mut Vec<Block>,
    fresh: Cursor,
    /// Blocks of a long piece that may be owed or wait to be hashed before another is begun.
    ahead: u32,
}

/// How far [`Picker::draw_fresh`] has looked in one call of `pick`.
#[derive(Debug, Default)]
struct Cursor {
    bucket: usize,
    at: usize,
    steps: usize,
    /// There is nothing more to be had from it.
    done: bool,
}

pub(super) fn draw(picker: &mut Picker, asker: &Asker<'_>, want: usize, out: &mut Vec<Block>) {
    let fresh = picker.cursor(asker.peer);
    let mut draw = Draw {
        peer: asker.peer,
        has: asker.has,
        trust: asker.trust,
        hints: asker.hints,
        left: want,
        out,
        fresh,
        ahead: u32::MAX,
    };
    if let Some(only) = asker.only {
        picker.draw_named(only, &mut draw);
        return;
    }
    if draw.left > 0 && !picker.readers.is_empty() {
        picker.draw_for_readers(&mut draw);
    }
    if draw.left > 0 && picker.free.meets(draw.has) {
        if draw.trust == Trust::Parole {
            picker.draw_own(&mut draw);
            picker.draw_fresh(u32::MAX, &mut draw);
        }
        if asker.rate >= RATE_SIDE_BY_SIDE && picker.has_long_pieces_side_by_side() {
            picker.draw_side_by_side(&mut draw);
        }
        picker.draw_partial(&mut draw);
        picker.draw_fresh(u32::MAX, &mut draw);
        picker.draw_suspect(&mut draw);
    }
    if draw.left > 0 && picker.is_endgame() {
        picker.draw_again(0..picker.geometry.pieces(), 2, &mut draw);
    }
}

impl Picker {
    /// Whether every block that a peer could be asked for is asked for.
    #[must_use]
    pub fn is_endgame(&self) -> bool {
        let sourceless = if self.seeds == 0 { self.rarity.bucket(0).len() } else { 0 };
        let available = |piece: u32| self.seeds > 0 || self.rarity.availability(piece) > 0;
        self.open.len() > 0
            && self.rarity.waiting() == sourceless
            && self.open.partial().iter().all(|piece| {
                let alone = self.open.piece(*piece).is_some_and(|open| open.alone.is_some());
                alone || !available(*piece)
            })
    }

    /// Pieces that a peer serves while it chokes us, in its order.
    fn draw_named(&mut self, only: &[PieceIndex], draw: &mut Draw<'_, '_>) {
        for piece in only {
            if draw.left > 0 && draw.has.has(*piece) && self.free.has(piece.0) && !self.shuns(piece.0, draw.peer) {
                self.open_and_take(piece.0, draw);
            }
        }
    }

    fn draw_for_readers(&mut self, draw: &mut Draw<'_, '_>) {
        for at in 0..self.readers.len() {
            let Some(range) = self.readers.get(at).copied() else {
                return;
            };
            let urgent = range.first..range.end.min(range.first.saturating_add(URGENT_PIECES));
            self.draw_again(urgent, 2, draw);
            let mut from = range.first;
            while draw.left > 0 {
                let Some(piece) = self.free.common_in(draw.has, from..range.end).next() else {
                    break;
                };
                if !self.open_and_take(piece, draw) && self.open.piece(piece).is_none() {
                    break;
                }
                from = piece + 1;
            }
        }
    }

    /// Open pieces that are this peer's alone.
    fn draw_own(&mut self, draw: &mut Draw<'_, '_>) {
        let own = |piece: &u32| {
            bit(draw.has, *piece) && self.open.piece(*piece).is_some_and(|open| open.alone == Some(draw.peer))
        };
        let pieces: Vec<u32> = self.open.partial().iter().copied().filter(own).collect();
        for piece in pieces {
            self.take(piece, draw);
        }
    }

    /// Open pieces with missing blocks: the rarest first, then the one that needs the fewest. What only few can send is
    /// asked of them before what many can, even if that leaves a piece open: a seed among leechers is for its rare pieces.
    fn draw_partial(&mut self, draw: &mut Draw<'_, '_>) {
        let (has_room, mut starved) = (self.fits(self.config.stretch as usize), self.starved);
        let mut candidates: Vec<_> = self
            .open
            .partial()
            .iter()
            .filter(|piece| bit(draw.has, **piece))
            .filter_map(|piece| self.open.piece(*piece).map(|open| (*piece, open)))
            .filter(|(_, open)| {
                if !open.is_begun_asked() {
                    return true;
                }
                let next = open.unstored() < draw.ahead;
                starved |= next && !has_room;
                next && has_room
            })
            .filter(|(piece, open)| open.alone == Some(draw.peer) || !self.shuns(*piece, draw.peer))
            .map(|(piece, open)| {
                let own = open.alone == Some(draw.peer);
                (Reverse(own), self.rarity.availability(piece), open.missing, piece)
            })
            .collect();
        self.starved = starved;
        candidates.sort_unstable();
        for (Reverse(own), availability, _, piece) in candidates {
            if !own {
                self.draw_fresh(availability, draw);
            }
            if draw.left == 0 {
                return;
            }
            self.take(piece, draw);
        }
    }

    /// Whether pieces are long, and several are hashed sooner together than one after another.
    fn has_long_pieces_side_by_side(&self) -> bool {
        self.config.side_by_side > 1 && self.geometry.piece_length() / BLOCK_SIZE > self.config.stretch
    }

    /// Long pieces of a fast peer: several are asked for at once, a stretch of each in turn, since pieces that come side by side are
    /// hashed side by side, which one alone cannot be.
    fn draw_side_by_side(&mut self, draw: &mut Draw<'_, '_>) {
        for stretches in [1, 2, 4] {
            if draw.left == 0 || self.starved {
                break;
            }
            draw.ahead = stretches * self.config.stretch;
            self.draw_partial(draw);
            self.draw_fresh(u32::MAX, draw);
        }
        draw.ahead = u32::MAX;
        // That enough are open says nothing of what follows, which looks at as many again.
        (draw.fresh.done, draw.fresh.steps) = (false, 0);
    }

    /// Pieces that are not open and that fewer than `below` peers have, rarest first.
    fn draw_fresh(&mut self, below: u32, draw: &mut Draw<'_, '_>) {
        if self.are_enough_open(draw) {
            return;
        }
        self.draw_hinted(below, draw);
        let buckets = self.rarity.buckets().min(below as usize);
        while draw.left > 0 && !draw.fresh.done && draw.fresh.bucket < buckets {
            let Some(piece) = self.rarity.bucket(draw.fresh.bucket).get(draw.fresh.at).copied() else {
                draw.fresh.bucket += 1;
                draw.fresh.at = 0;
                continue;
            };
            draw.fresh.steps += 1;
            if draw.fresh.steps == RARITY_STEPS {
                draw.fresh.done = true;
                self.draw_gathered(draw);
            } else if !bit(draw.has, piece) || self.shuns(piece, draw.peer) {
                draw.fresh.at += 1;
            } else if self.open_piece(piece, draw) {
                self.take(piece, draw);
            } else {
                draw.fresh.done = true;
            }
        }
    }

    /// Pieces that the peer would like to be asked for, if none are rarer. A seed names each piece to one peer, so that a
    /// crowd does not draw the same ones.
    fn draw_hinted(&mut self, below: u32, draw: &mut Draw<'_, '_>) {
        if draw.hints.is_empty() {
            return;
        }
        let rarest = (0..self.rarity.buckets()).find(|bucket| !self.rarity.bucket(*bucket).is_empty());
        let Some(rarest) = rarest.and_then(|bucket| u32::try_from(bucket).ok()).filter(|bucket| *bucket < below) else {
            return;
        };
        for piece in draw.hints {
            let waits = self.rarity.is_waiting(piece.0) && draw.has.has(*piece) && !self.shuns(piece.0, draw.peer);
            let rare = self.rarity.availability(piece.0) <= rarest;
            if draw.left > 0 && !draw.fresh.done && waits && rare {
                draw.fresh.done = !self.open_and_take(piece.0, draw);
            }
        }
    }

    /// Where to begin: a peer that is counted piece by piece has nothing that nobody counts for.
    fn cursor(&self, peer: PeerKey) -> Cursor {
        let counted = self.peers.get(&peer).is_some_and(|known| !known.seed);
        Cursor { bucket: usize::from(counted), ..Cursor::default() }
    }

    /// The same, for a peer that lacks the rarest ones: the rarest of some that it has. Looks at what it has, from anywhere,
    /// not at all that wait; of a peer that has few it looks at all.
    fn draw_gathered(&mut self, draw: &mut Draw<'_, '_>) {
        let pieces = self.geometry.pieces();
        let first = self.rng.u32(..pieces.max(1));
        let most = RARITY_STEPS.max(draw.left);
        let mut candidates = Vec::with_capacity(most);
        let common = self.free.common_in(draw.has, first..pieces).chain(self.free.common_in(draw.has, 0..first));
        for piece in common {
            if self.rarity.is_waiting(piece) && !self.shuns(piece, draw.peer) {
                candidates.push((self.rarity.availability(piece), self.rng.u32(..), piece));
            }
            if candidates.len() == most {
                break;
            }
        }
        // Each piece has a block at least, so no more than this many are needed.
        if candidates.len() > draw.left {
            candidates.select_nth_unstable(draw.left);
            candidates.truncate(draw.left);
        }
        candidates.sort_unstable();
        for (.., piece) in candidates {
            if draw.left == 0 || !self.open_piece(piece, draw) {
                return;
            }
            self.take(piece, draw);
        }
    }

    /// Pieces that this peer had a part in when they failed: better it than nobody.
    fn draw_suspect(&mut self, draw: &mut Draw<'_, '_>) {
        if draw.left == 0 || self.suspects.is_empty() {
            return;
        }
        let free = |piece: &u32| self.free.has(*piece) && bit(draw.has, *piece);
        let pieces: Vec<u32> = self.suspects.keys().copied().filter(free).collect();
        for piece in pieces {
            self.open_and_take(piece, draw);
        }
    }

    /// Blocks that others owe, the slowest peers' last ones first, if this peer will be `factor` times as fast.
    fn draw_again(&mut self, pieces: std::ops::Range<u32>, factor: u64, draw: &mut Draw<'_, '_>) {
        let Some(own) = self.cost_to_beat(draw.peer, factor).filter(|_| draw.left > 0) else {
            return;
        };
        let mut candidates = Vec::new();
        for (piece, open) in self.open.range(pieces) {
            if open.requested == 0 || open.alone.is_some() || !bit(draw.has, piece) {
                continue;
            }
            for (index, state) in (0..).zip(&open.blocks) {
                if let BlockState::Requested(first) = state
                    && let Some(cost) = self.cost_elsewhere(open, index, *first, draw.peer)
                    && cost > own
                {
                    candidates.push((Reverse(cost), Reverse(piece), Reverse(index)));
                }
            }
        }
        candidates.sort_unstable();
        for (Reverse(cost), Reverse(piece), Reverse(index)) in candidates {
            if draw.left == 0 {
                return;
            }
            let Some(peer) = self.peers.get_mut(&draw.peer) else {
                return;
            };
            if peer.cost_to_try().saturating_mul(factor) >= cost {
                return;
            }
            peer.outstanding += 1;
            self.open.change(piece, |open| open.again.insert((index, draw.peer)));
            draw.out.push(Block { piece: PieceIndex(piece), index });
            draw.left -= 1;
        }
    }

    /// How long others have to take for a block that `peer` could send in a `factor`th of the time; None where nobody does.
    /// Looks at peers, not at blocks, since it is asked after every block of the endgame.
    fn cost_to_beat(&self, peer: PeerKey, factor: u64) -> Option<u64> {
        let asker = self.peers.get(&peer)?;
        let own = asker.cost_to_try().saturating_mul(factor);
        let mut others = self.peers.iter().filter(|(other, known)| **other != peer && known.outstanding > 0);
        others.any(|(_, known)| known.cost() > own).then_some(own)
    }

    /// When the fastest of those who owe this block may send it; None if `peer` is one of them or they are enough.
    fn cost_elsewhere(&self, open: &OpenPiece, index: u32, first: PeerKey, peer: PeerKey) -> Option<u64> {
        if first == peer || open.requesters(index) >= self.config.requesters || open.again.contains(&(index, peer)) {
            return None;
        }
        open.also_asked(index)
            .chain([first])
            .map(|owes| self.peers.get(&owes).map_or(u64::MAX, super::Peer::cost))
            .min()
    }

    /// Whether `peer` had a part in `piece` when it failed.
    fn shuns(&self, piece: u32, peer: PeerKey) -> bool {
        self.suspects.get(&piece).is_some_and(|suspects| suspects.contains(&peer))
    }

    /// Whether the budget has room for a stretch of so many blocks. One larger than the whole budget may be asked for while it is
    /// alone: its piece is spilled at once.
    fn fits(&self, stretch: usize) -> bool {
        let committed = self.open.committed();
        committed == 0 || committed + stretch <= self.config.block_budget
    }

    /// The same; notes it if not.
    fn has_room(&mut self, stretch: usize) -> bool {
        let fits = self.fits(stretch);
        self.starved |= !fits;
        fits
    }

    /// Whether a fast peer can be asked for a stretch of as many long pieces as are hashed side by side while as many others wait
    /// for that.
    fn are_enough_open(&self, draw: &Draw<'_, '_>) -> bool {
        draw.ahead < u32::MAX && self.open.partial().len() >= 2 * self.config.side_by_side
    }

    /// Opens `piece` unless the budget has no room for its first stretch, or enough are open.
    fn open_piece(&mut self, piece: u32, draw: &Draw<'_, '_>) -> bool {
        let blocks = self.geometry.blocks(PieceIndex(piece));
        if self.are_enough_open(draw) {
            return false;
        }
        if !self.has_room(blocks.min(self.config.stretch) as usize) {
            return false;
        }
        if self.open.len() > 0 && self.open.blocks() + blocks as usize > OPEN_BLOCKS {
            (self.starved, self.crowded) = (true, true);
            return false;
        }
        let alone = (draw.trust == Trust::Parole || self.suspects.contains_key(&piece)).then_some(draw.peer);
        self.open.open(piece, blocks, alone);
        self.settle(piece);
        true
    }

    fn open_and_take(&mut self, piece: u32, draw: &mut Draw<'_, '_>) -> bool {
        (self.open.piece(piece).is_some() || self.open_piece(piece, draw)) && self.take(piece, draw)
    }

    /// Requests the missing blocks of an open piece, stretch by stretch; true if there was one to be had.
    fn take(&mut self, piece: u32, draw: &mut Draw<'_, '_>) -> bool {
        let mut taken = self.take_begun(piece, draw);
        while draw.left > 0 && self.begin_stretch(piece, draw) {
            taken |= self.take_begun(piece, draw);
        }
        taken
    }

    fn begin_stretch(&mut self, piece: u32, draw: &Draw<'_, '_>) -> bool {
        let Some(open) = self.open.piece(piece) else {
            return false;
        };
        let ours = open.alone.is_none_or(|owner| owner == draw.peer);
        let stretch = open.next_stretch();
        let due = stretch > 0 && ours && open.is_begun_asked() && open.unstored() < draw.ahead;
        due && self.has_room(stretch as usize) && self.open.begin_stretch(piece)
    }

    /// The same, for the stretches that were begun.
    fn take_begun(&mut self, piece: u32, draw: &mut Draw<'_, '_>) -> bool {
        let budget = self.config.block_budget;
        let room = budget.saturating_sub(self.open.committed());
        let peer = draw.peer;
        let taken = self.open.change(piece, |open| {
            match open.alone {
                // Who left it standing has lost it: a piece on parole must not wait for one peer for ever.
                Some(owner) if owner != peer && open.requested > 0 => return 0,
                Some(_) => open.alone = Some(peer),
                None => {}
            }
            let most = match open.spilled {
                true => draw.left.min(room),
                false => draw.left.min(budget.saturating_sub(open.held())),
            };
            let before = draw.out.len();
            let blocks = std::iter::from_fn(|| open.request_next(peer)).take(most);
            draw.out.extend(blocks.map(|index| Block { piece: PieceIndex(piece), index }));
            draw.out.len() - before
        });
        let taken = taken.unwrap_or(0);
        draw.left -= taken;
        self.count_outstanding(peer, i32::try_from(taken).unwrap_or(i32::MAX));
        self.settle(piece);
        taken > 0
    }
}
