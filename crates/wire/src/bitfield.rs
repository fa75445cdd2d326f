//! Which pieces somebody has, as the `bitfield` message spells it (BEP 3): first piece in the high bit.

use crate::geometry::PieceIndex;

/// A set of pieces out of a fixed number.
///
/// Invariants: `bytes` holds `len` bits rounded up to bytes; the spare bits at the end are 0; `ones` counts the set bits.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bitfield {
    bytes: Vec<u8>,
    len: u32,
    ones: u32,
}

impl std::fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitfield({}/{})", self.ones, self.len)
    }
}

impl Bitfield {
    /// No piece of `len`.
    #[must_use]
    pub fn empty(len: u32) -> Self {
        Self { bytes: vec![0; len.div_ceil(8) as usize], len, ones: 0 }
    }

    /// All `len` pieces.
    #[must_use]
    pub fn full(len: u32) -> Self {
        let mut bytes = vec![0xff; len.div_ceil(8) as usize];
        if let (Some(last), spare @ 1..) = (bytes.last_mut(), (8 - len % 8) % 8) {
            *last = 0xff << spare;
        }
        Self { bytes, len, ones: len }
    }

    /// What a `bitfield` message says. None where the length is wrong or a spare bit is set: BEP 3 asks to drop such a peer.
    #[must_use]
    pub fn from_wire(bytes: &[u8], len: u32) -> Option<Self> {
        if bytes.len() != len.div_ceil(8) as usize {
            return None;
        }
        if let (Some(last), spare @ 1..) = (bytes.last(), (8 - len % 8) % 8)
            && last & !(0xff << spare) != 0
        {
            return None;
        }
        let ones = bytes.iter().map(|byte| byte.count_ones()).sum();
        Some(Self { bytes: bytes.to_vec(), len, ones })
    }

    /// The message's payload.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes
    }

    /// How many pieces the torrent has.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the torrent has no piece at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many pieces are in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Whether every piece is in the set; true of a torrent without pieces.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether `piece` is in the set.
    #[must_use]
    pub fn has(&self, piece: PieceIndex) -> bool {
        piece.0 < self.len && self.bytes.get((piece.0 / 8) as usize).is_some_and(|byte| byte & mask(piece) != 0)
    }

    /// Adds `piece`; true if it was not there. A piece out of range changes nothing.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        if piece.0 >= self.len || self.has(piece) {
            return false;
        }
        if let Some(byte) = self.bytes.get_mut((piece.0 / 8) as usize) {
            *byte |= mask(piece);
            self.ones += 1;
        }
        true
    }

    /// Removes `piece`; true if it was there.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        if !self.has(piece) {
            return false;
        }
        if let Some(byte) = self.bytes.get_mut((piece.0 / 8) as usize) {
            *byte &= !mask(piece);
            self.ones -= 1;
        }
        true
    }

    /// The pieces in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).flat_map(|(at, byte)| {
            (0..8u32)
                .filter(move |bit| byte & (0x80 >> bit) != 0)
                .map(move |bit| PieceIndex(u32::try_from(at).unwrap_or(u32::MAX).saturating_mul(8).saturating_add(bit)))
        })
    }

    /// Whether `self` holds a piece that `other` lacks: whether its owner is interesting to the owner of `other`.
    #[must_use]
    pub fn has_more_than(&self, other: &Self) -> bool {
        self.bytes.iter().enumerate().any(|(at, byte)| byte & !other.bytes.get(at).copied().unwrap_or(0) != 0)
    }
}

fn mask(piece: PieceIndex) -> u8 {
    0x80 >> (piece.0 % 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_piece_is_the_high_bit() {
        let mut set = Bitfield::empty(10);
        assert!(set.set(PieceIndex(0)));
        assert!(set.set(PieceIndex(9)));
        assert!(!set.set(PieceIndex(9)));
        assert!(!set.set(PieceIndex(10)));
        assert_eq!(set.as_wire(), [0x80, 0x40]);
        assert_eq!(set.iter().map(|piece| piece.0).collect::<Vec<_>>(), [0, 9]);
        assert!(set.clear(PieceIndex(0)));
        assert_eq!(set.count(), 1);
    }

    #[test]
    fn w10_wrong_lengths_and_spare_bits_are_refused() {
        assert!(Bitfield::from_wire(&[0xff, 0xc0], 10).is_some_and(|set| set.is_full()));
        assert!(Bitfield::from_wire(&[0xff], 10).is_none());
        assert!(Bitfield::from_wire(&[0xff, 0xc0, 0], 10).is_none());
        assert!(Bitfield::from_wire(&[0xff, 0xe0], 10).is_none());
        assert_eq!(Bitfield::full(10), Bitfield::from_wire(&[0xff, 0xc0], 10).unwrap());
        assert_eq!(Bitfield::full(16).as_wire(), [0xff, 0xff]);
        assert!(Bitfield::full(0).is_full());
    }

    #[test]
    fn interest_is_a_piece_that_the_other_lacks() {
        let mut a = Bitfield::empty(20);
        let mut b = Bitfield::empty(20);
        a.set(PieceIndex(17));
        assert!(a.has_more_than(&b));
        b.set(PieceIndex(17));
        assert!(!a.has_more_than(&b));
        assert!(Bitfield::full(20).has_more_than(&b));
    }
}
