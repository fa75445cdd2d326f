//! A set of pieces in words, so that it meets a peer's [`Bitfield`] 64 pieces at a time.

use std::ops::Range;

use obt_wire::{Bitfield, PieceIndex};

/// Pieces out of a fixed number, the first one in the highest bit of a word: the order that a bitfield's bytes have.
///
/// Invariant: `count` counts the set bits.
#[derive(Debug, Clone)]
pub(super) struct PieceSet {
    words: Vec<u64>,
    count: u32,
}

impl PieceSet {
    pub(super) fn empty(pieces: u32) -> Self {
        Self { words: vec![0; pieces.div_ceil(64) as usize], count: 0 }
    }

    pub(super) fn has(&self, piece: u32) -> bool {
        self.words.get(at(piece)).is_some_and(|word| word & mask(piece) != 0)
    }

    /// Puts `piece` in or takes it out; true if that changed anything.
    pub(super) fn put(&mut self, piece: u32, member: bool) -> bool {
        let Some(word) = self.words.get_mut(at(piece)) else {
            return false;
        };
        if (*word & mask(piece) != 0) == member {
            return false;
        }
        *word ^= mask(piece);
        if member {
            self.count += 1;
        } else {
            self.count -= 1;
        }
        true
    }

    /// Whether any piece is in both.
    pub(super) fn meets(&self, other: &Bitfield) -> bool {
        if other.is_full() {
            return self.count > 0;
        }
        self.common(other).any(|word| word != 0)
    }

    /// How many pieces are in both.
    pub(super) fn count_common(&self, other: &Bitfield) -> u32 {
        if other.is_full() {
            return self.count;
        }
        self.common(other).map(u64::count_ones).sum()
    }

    fn common<'a>(&'a self, other: &'a Bitfield) -> impl Iterator<Item = u64> + 'a {
        self.words.iter().zip(other.as_wire().chunks(8)).map(|(word, bytes)| word & word_of(bytes))
    }

    /// The pieces of `range` that are in both, in order.
    pub(super) fn common_in<'a>(&'a self, other: &'a Bitfield, range: Range<u32>) -> impl Iterator<Item = u32> + 'a {
        let first = at(range.start);
        let last = at(range.end.saturating_add(63)).min(self.words.len());
        let words = self.words.get(first..last).unwrap_or_default();
        let bytes = other.as_wire().get(first * 8..).unwrap_or_default();
        words
            .iter()
            .zip(bytes.chunks(8))
            .enumerate()
            .filter_map(move |(index, (word, bytes))| {
                let common = word & word_of(bytes);
                (common != 0).then(|| (u32::try_from(first + index).unwrap_or(u32::MAX).saturating_mul(64), common))
            })
            .flat_map(|(base, word)| Ones(word).map(move |bit| base + bit))
            .skip_while(move |piece| *piece < range.start)
            .take_while(move |piece| *piece < range.end)
    }
}

/// The set bits of a word, from the highest.
struct Ones(u64);

impl Iterator for Ones {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.leading_zeros();
        self.0 ^= 1 << (63 - bit);
        Some(bit)
    }
}

fn at(piece: u32) -> usize {
    (piece / 64) as usize
}

fn mask(piece: u32) -> u64 {
    1 << (63 - piece % 64)
}

fn word_of(bytes: &[u8]) -> u64 {
    if let Ok(whole) = bytes.try_into() {
        return u64::from_be_bytes(whole);
    }
    let mut whole = [0; 8];
    for (to, from) in whole.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_be_bytes(whole)
}

/// Whether a bitfield has the piece with this number.
pub(super) fn bit(bits: &Bitfield, piece: u32) -> bool {
    bits.has(PieceIndex(piece))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn meets_a_bitfield_as_plain_sets_do(
            len in 1u32..300,
            ours in proptest::collection::btree_set(0u32..300, 0..100),
            theirs in proptest::collection::btree_set(0u32..300, 0..100),
            start in 0u32..300,
            end in 0u32..320,
        ) {
            let mut set = PieceSet::empty(len);
            let mut bits = Bitfield::empty(len);
            for piece in ours.iter().filter(|piece| **piece < len) {
                prop_assert!(set.put(*piece, true));
                prop_assert!(!set.put(*piece, true));
            }
            for piece in &theirs {
                bits.set(PieceIndex(*piece));
            }
            let common: Vec<u32> = ours.intersection(&theirs).copied().filter(|piece| *piece < len).collect();
            prop_assert_eq!(set.meets(&bits), !common.is_empty());
            prop_assert_eq!(set.count_common(&bits) as usize, common.len());
            let inside: Vec<u32> = common.into_iter().filter(|piece| (start..end).contains(piece)).collect();
            prop_assert_eq!(set.common_in(&bits, start..end).collect::<Vec<_>>(), inside);
        }
    }
}
