//! How a seed spreads a torrent over a crowd: each piece is to leave it once before any leaves it twice.
//!
//! It names each peer pieces that nobody else got ([`suggest`](Spread::suggest), BEP 6), and remembers which peer is
//! getting a piece that no leecher has yet, so that others can be made to wait and get it from that one.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use obt_wire::{Bitfield, PieceIndex};

use crate::event::PeerKey;

/// See the module.
///
/// Invariant: `unnamed` holds each piece at most once, those that are set in `is_unnamed`.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    /// Pieces to suggest: all in random order at first, then also those that somebody was named and does not get.
    unnamed: VecDeque<u32>,
    /// The same as a set; None before the first suggestion.
    is_unnamed: Option<Bitfield>,
    under_way: BTreeMap<u32, PeerKey>,
}

impl Spread {
    /// The next of `pieces` pieces that is worth suggesting; each is named once, unless it is given back.
    pub(crate) fn suggest(
        &mut self,
        pieces: u32,
        rng: &mut Rng,
        worth: impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let is_unnamed = self.is_unnamed.get_or_insert_with(|| {
            self.unnamed = (0..pieces).collect();
            rng.shuffle(self.unnamed.make_contiguous());
            Bitfield::full(pieces)
        });
        while let Some(piece) = self.unnamed.pop_front().map(PieceIndex) {
            is_unnamed.clear(piece);
            if !self.under_way.contains_key(&piece.0) && worth(piece) {
                return Some(piece);
            }
        }
        None
    }

    /// A peer was named this piece, or asked for it, and does not get it: somebody else may be named it.
    pub(crate) fn give_back(&mut self, piece: PieceIndex) {
        if self.is_unnamed.as_mut().is_some_and(|is_unnamed| is_unnamed.set(piece)) {
            self.unnamed.push_back(piece.0);
        }
    }

    /// Whether every piece was suggested.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.is_unnamed.is_some() && self.unnamed.is_empty()
    }

    /// `peer` asks for blocks of `piece`, which no leecher has. It is the one to get it, unless another is already.
    pub(crate) fn begun(&mut self, piece: PieceIndex, peer: PeerKey) {
        self.under_way.entry(piece.0).or_insert(peer);
    }

    /// The peer that is getting `piece`, while nobody can pass it on yet.
    pub(crate) fn getting(&self, piece: PieceIndex) -> Option<PeerKey> {
        self.under_way.get(&piece.0).copied()
    }

    /// A leecher has `piece`: it can be had from others. True if it was under way.
    pub(crate) fn arrived(&mut self, piece: PieceIndex) -> bool {
        self.under_way.remove(&piece.0).is_some()
    }

    /// What `peer` is getting.
    pub(crate) fn of(&self, peer: PeerKey) -> Vec<PieceIndex> {
        self.under_way.iter().filter(|(_, getting)| **getting == peer).map(|(piece, _)| PieceIndex(*piece)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    #[test]
    fn every_piece_that_is_worth_it_is_suggested_once() {
        let mut spread = Spread::default();
        let mut rng = Rng::with_seed(1);
        let even = |piece: PieceIndex| piece.0.is_multiple_of(2);
        let named: Vec<u32> = std::iter::from_fn(|| spread.suggest(100, &mut rng, even)).map(|piece| piece.0).collect();
        assert_eq!(named.len(), 50);
        assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), (0..100).step_by(2).collect());
        assert!(!named.is_sorted(), "two seeds name different ones first");
        assert!(spread.is_exhausted());
    }

    #[test]
    fn what_a_peer_does_not_get_is_suggested_to_another() {
        let mut spread = Spread::default();
        let mut rng = Rng::with_seed(1);
        spread.give_back(PieceIndex(3));
        let first = spread.suggest(4, &mut rng, |_| true).unwrap();
        for _ in 0..2 {
            spread.give_back(first);
        }
        let mut rest: Vec<u32> =
            std::iter::from_fn(|| spread.suggest(4, &mut rng, |_| true)).map(|piece| piece.0).collect();
        assert_eq!(rest.last(), Some(&first.0));
        rest.sort_unstable();
        assert_eq!(rest, [0, 1, 2, 3]);
        spread.begun(first, A);
        spread.give_back(first);
        assert_eq!(spread.suggest(4, &mut rng, |_| true), None, "somebody is getting it");
    }

    #[test]
    fn a_piece_is_its_first_askers_until_somebody_has_it() {
        let mut spread = Spread::default();
        spread.begun(PieceIndex(3), A);
        spread.begun(PieceIndex(3), B);
        spread.begun(PieceIndex(4), A);
        assert_eq!(spread.getting(PieceIndex(3)), Some(A));
        assert!(spread.arrived(PieceIndex(3)));
        assert_eq!(spread.getting(PieceIndex(3)), None);
        assert!(!spread.arrived(PieceIndex(3)));
        assert_eq!(spread.of(A), [PieceIndex(4)]);
    }
}
