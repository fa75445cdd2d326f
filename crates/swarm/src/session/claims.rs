//! What a peer says that it has (BEP 3, 6), also before anybody knows how many pieces there are.

use bytes::Bytes;
use obt_wire::{Bitfield, PieceIndex};

use crate::limits::EARLY_PIECES;
use crate::session::Offence;

/// What was told while the torrent is unknown: checked when it is known.
#[derive(Debug, Default)]
struct Early {
    all: bool,
    bitfield: Option<Bytes>,
    /// Bit per piece, as long as the highest one told needs.
    haves: Vec<u64>,
}

/// The pieces that one peer claims.
///
/// Invariant: `early` is there until the torrent is known, and `has` is of its length afterwards.
#[derive(Debug)]
pub(crate) struct Claims {
    /// It has told something: a bitfield would come too late.
    began: bool,
    /// What the first message about pieces was, if it was `have all` or `have none`.
    summary: bool,
    early: Option<Early>,
    has: Bitfield,
    /// Pieces that it claims and does not serve; None while there are none. A copy of `has` without them.
    served: Option<Bitfield>,
}

impl Default for Claims {
    fn default() -> Self {
        Self { began: false, summary: false, early: Some(Early::default()), has: Bitfield::default(), served: None }
    }
}

impl Claims {
    /// The torrent has this many pieces: what was told before is checked.
    pub(crate) fn torrent_known(&mut self, pieces: u32) -> Result<(), Offence> {
        let Some(early) = self.early.take() else {
            return Ok(());
        };
        self.has = match (early.all, early.bitfield) {
            (true, _) => Bitfield::full(pieces),
            (false, Some(bytes)) => parse(&bytes, pieces)?,
            (false, None) => Bitfield::empty(pieces),
        };
        for (at, word) in (0u32..).zip(&early.haves) {
            for bit in (0..64).filter(|bit| word & (1 << bit) != 0) {
                let piece = at * 64 + bit;
                if piece >= pieces {
                    return Err(OUT_OF_RANGE);
                }
                self.has.set(PieceIndex(piece));
            }
        }
        Ok(())
    }

    /// What it has; empty until the torrent is known.
    pub(crate) fn has(&self) -> &Bitfield {
        &self.has
    }

    /// Whether it is known to lack something; before the torrent is known, from what its bitfield shows.
    pub(crate) fn lacks_something(&self) -> bool {
        let Some(early) = &self.early else { return !self.has.is_full() };
        let shows_gaps = |bytes: &Bytes| {
            let set: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
            // As many as the last byte has beyond the pieces are clear in a full one too.
            set as usize + 8 <= 8 * bytes.len()
        };
        self.began && !early.all && early.bitfield.as_ref().is_none_or(shows_gaps)
    }

    /// What it may be asked for.
    pub(crate) fn served(&self) -> &Bitfield {
        self.served.as_ref().unwrap_or(&self.has)
    }

    /// A `bitfield` came. True where [`has`](Self::has) is its whole answer from here on.
    pub(crate) fn bitfield(&mut self, bytes: Bytes) -> Result<bool, Offence> {
        if self.began {
            return Err(Offence("a bitfield that is not the first word about pieces"));
        }
        self.began = true;
        if let Some(early) = &mut self.early {
            if bytes.len() > EARLY_PIECES.div_ceil(8) as usize {
                return Err(WRONG_BITFIELD);
            }
            early.bitfield = Some(bytes);
            return Ok(false);
        }
        self.has = parse(&bytes, self.has.len())?;
        Ok(true)
    }

    /// Whether a `bitfield` or `have all` from here on adds to what was told: aria2 sends them instead of many `have`s.
    pub(crate) fn adds(&self) -> bool {
        self.began && self.early.is_none()
    }

    /// The pieces of a later `bitfield` that are news.
    pub(crate) fn news(&self, bytes: &Bytes) -> Result<Vec<PieceIndex>, Offence> {
        let later = parse(bytes, self.has.len())?;
        Ok(later.iter().filter(|piece| !self.has.has(*piece)).collect())
    }

    /// The pieces that a later `have all` makes news of.
    pub(crate) fn missing(&self) -> Vec<PieceIndex> {
        Bitfield::full(self.has.len()).iter().filter(|piece| !self.has.has(*piece)).collect()
    }

    /// `have all` or `have none` came. True where [`has`](Self::has) is its whole answer from here on; a second one
    /// changes nothing.
    pub(crate) fn summary(&mut self, all: bool) -> Result<bool, Offence> {
        if self.began {
            return if self.summary { Ok(false) } else { Err(Offence("a summary after other words about pieces")) };
        }
        (self.began, self.summary) = (true, true);
        if let Some(early) = &mut self.early {
            early.all = all;
            return Ok(false);
        }
        if all {
            self.has = Bitfield::full(self.has.len());
        }
        Ok(true)
    }

    /// `have` came. The piece, if it is new and the torrent known.
    pub(crate) fn have(&mut self, piece: u32) -> Result<Option<PieceIndex>, Offence> {
        self.began = true;
        if let Some(early) = &mut self.early {
            if piece >= EARLY_PIECES {
                return Err(OUT_OF_RANGE);
            }
            let word = (piece / 64) as usize;
            if early.haves.len() <= word {
                early.haves.resize(word + 1, 0);
            }
            if let Some(word) = early.haves.get_mut(word) {
                *word |= 1 << (piece % 64);
            }
            return Ok(None);
        }
        if piece >= self.has.len() {
            return Err(OUT_OF_RANGE);
        }
        let piece = PieceIndex(piece);
        if let Some(served) = &mut self.served {
            served.set(piece);
        }
        Ok(self.has.set(piece).then_some(piece))
    }

    /// It has a piece no more (BEP 54). The piece, if it had it.
    pub(crate) fn lost(&mut self, piece: u32) -> Result<Option<PieceIndex>, Offence> {
        if self.early.is_some() {
            return Ok(None);
        }
        if piece >= self.has.len() {
            return Err(OUT_OF_RANGE);
        }
        let piece = PieceIndex(piece);
        self.refuses(piece);
        Ok(self.has.clear(piece).then_some(piece))
    }

    /// It did not answer a request for this piece, so it is not asked for it again. True if that is news.
    pub(crate) fn refuses(&mut self, piece: PieceIndex) -> bool {
        self.served.get_or_insert_with(|| self.has.clone()).clear(piece)
    }

    /// What it refused may be asked for again.
    pub(crate) fn forgive(&mut self) {
        self.served = None;
    }
}

const OUT_OF_RANGE: Offence = Offence("a piece that does not exist");
const WRONG_BITFIELD: Offence = Offence("a bitfield of the wrong shape");

fn parse(bytes: &Bytes, pieces: u32) -> Result<Bitfield, Offence> {
    Bitfield::from_wire(bytes, pieces).ok_or(WRONG_BITFIELD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(pieces: u32) -> Claims {
        let mut claims = Claims::default();
        claims.torrent_known(pieces).unwrap();
        claims
    }

    fn numbers(claims: &Claims) -> Vec<u32> {
        claims.has().iter().map(|piece| piece.0).collect()
    }

    #[test]
    fn w10_the_first_word_about_pieces_is_the_only_summary() {
        let mut claims = known(10);
        assert_eq!(claims.bitfield(Bytes::from_static(&[0x80, 0x40])), Ok(true));
        assert!(claims.bitfield(Bytes::from_static(&[0x80, 0x40])).is_err());
        assert!(claims.summary(true).is_err());
        assert_eq!(claims.have(1), Ok(Some(PieceIndex(1))));
        assert_eq!(claims.have(1), Ok(None));
        assert_eq!(numbers(&claims), [0, 1, 9]);

        let mut claims = known(10);
        assert!(claims.have(3).is_ok());
        assert!(claims.bitfield(Bytes::from_static(&[0x80, 0x40])).is_err());

        let mut claims = known(10);
        assert_eq!(claims.summary(true), Ok(true));
        assert_eq!(claims.summary(false), Ok(false));
        assert!(claims.has().is_full());
        assert!(claims.bitfield(Bytes::from_static(&[0x80, 0x40])).is_err());
    }

    #[test]
    fn w10_bitfields_of_the_wrong_shape_are_offences() {
        for bytes in [&[0xff][..], &[0xff, 0xe0], &[0xff, 0xc0, 0]] {
            assert!(known(10).bitfield(Bytes::copy_from_slice(bytes)).is_err());
            let mut early = Claims::default();
            assert_eq!(early.bitfield(Bytes::copy_from_slice(bytes)), Ok(false));
            assert!(early.torrent_known(10).is_err());
        }
    }

    #[test]
    fn w11_pieces_that_do_not_exist_are_offences_and_early_ones_are_checked_later() {
        assert!(known(10).have(10).is_err());
        assert!(known(10).have(u32::MAX).is_err());
        let mut early = Claims::default();
        assert!(early.have(EARLY_PIECES).is_err());
        assert_eq!(early.have(9), Ok(None));
        assert_eq!(early.have(70), Ok(None));
        assert!(early.torrent_known(70).is_err());

        let mut early = Claims::default();
        assert_eq!(early.bitfield(Bytes::from_static(&[0x80, 0])), Ok(false));
        assert_eq!(early.have(9), Ok(None));
        assert_eq!(early.torrent_known(10), Ok(()));
        assert_eq!(numbers(&early), [0, 9]);
    }

    #[test]
    fn a_seed_may_say_so_before_the_torrent_is_known() {
        let mut early = Claims::default();
        assert_eq!(early.summary(true), Ok(false));
        assert_eq!(early.torrent_known(3), Ok(()));
        assert!(early.has().is_full());
    }

    #[test]
    fn refused_pieces_are_not_asked_for_until_forgiven() {
        let mut claims = known(4);
        assert_eq!(claims.summary(true), Ok(true));
        assert!(claims.refuses(PieceIndex(2)));
        assert!(!claims.refuses(PieceIndex(2)));
        assert_eq!((claims.has().count(), claims.served().count()), (4, 3));
        claims.forgive();
        assert_eq!(claims.served().count(), 4);
        assert_eq!(claims.lost(1), Ok(Some(PieceIndex(1))));
        assert_eq!(claims.lost(1), Ok(None));
        assert_eq!((claims.has().count(), claims.served().count()), (3, 3));
        assert!(claims.lost(4).is_err());
    }
}
