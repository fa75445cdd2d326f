//! What a new process may believe of the data that it finds.
//!
//! A piece is had without hashing only where the journal says so and each of its files still has the size and
//! modification time that the journal notes. What else lies in files is hashed; what lies in no file is missing.

use obt_wire::{Bitfield, PieceIndex};

use crate::journal::{Journal, Stamp};
use crate::spans::{FileIndex, Layout, Slice};

/// What to do about each piece; those in neither set are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Durable and unchanged.
    pub proven: Bitfield,
    /// All its bytes are inside files that are there, but nothing proves them: to be hashed. Where the file system
    /// tells that a stretch was never written, that is an answer too.
    pub unproven: Bitfield,
}

/// Compares the journal with the files that are there: `found` has, for each data file, its stamp, or None where
/// there is no such file.
#[must_use]
pub fn resume(layout: &Layout, journal: Option<&Journal>, found: &[Option<Stamp>]) -> Resume {
    let pieces = layout.geometry().pieces();
    let mut resume = Resume { proven: Bitfield::empty(pieces), unproven: Bitfield::empty(pieces) };
    for piece in layout.geometry().all() {
        match standing(layout, journal, found, piece) {
            Standing::Proven => resume.proven.set(piece),
            Standing::Unproven => resume.unproven.set(piece),
            Standing::Missing => continue,
        };
    }
    resume
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Missing,
    Unproven,
    Proven,
}

fn standing(layout: &Layout, journal: Option<&Journal>, found: &[Option<Stamp>], piece: PieceIndex) -> Standing {
    let journal = journal.filter(|journal| journal.pieces.has(piece));
    let slices = layout.piece_slices(piece).map(|slice| {
        let Slice::File { file, offset, length } = slice else {
            return if journal.is_some() { Standing::Proven } else { Standing::Unproven };
        };
        let Some(there) = at(found, file) else {
            return Standing::Missing;
        };
        if there.size < offset + u64::from(length) {
            return Standing::Missing;
        }
        match journal {
            Some(journal) if at(&journal.stamps, file) == Some(there) => Standing::Proven,
            _ => Standing::Unproven,
        }
    });
    slices.min().unwrap_or(Standing::Missing)
}

fn at(stamps: &[Option<Stamp>], file: FileIndex) -> Option<Stamp> {
    stamps.get(file.0 as usize).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::layout;

    const EARLY: i64 = 1;
    const LATE: i64 = 2;

    fn stamp(size: u64, mtime_ns: i64) -> Option<Stamp> {
        Some(Stamp { size, mtime_ns, inode: 1 })
    }

    fn numbers(set: &Bitfield) -> Vec<u32> {
        set.iter().map(|piece| piece.0).collect()
    }

    /// Files of 40 and 24 bytes: pieces 0, 1 in the first, 2 in both, 3 in the second.
    fn two_files() -> (Layout, Journal) {
        let layout = layout(&[40, 24], 16);
        let mut pieces = Bitfield::full(4);
        pieces.clear(PieceIndex(1));
        let journal = Journal { generation: 1, pieces, stamps: vec![stamp(40, EARLY), stamp(24, EARLY)] };
        (layout, journal)
    }

    #[test]
    fn what_the_journal_proves_is_had_and_the_rest_of_the_file_is_hashed() {
        let (layout, journal) = two_files();
        let resume = resume(&layout, Some(&journal), &[stamp(40, EARLY), stamp(24, EARLY)]);
        assert_eq!(numbers(&resume.proven), [0, 2, 3]);
        assert_eq!(numbers(&resume.unproven), [1]);
    }

    #[test]
    fn f26_a_file_with_another_time_is_hashed_with_every_piece_that_it_shares() {
        let (layout, journal) = two_files();
        let resume = resume(&layout, Some(&journal), &[stamp(40, EARLY), stamp(24, LATE)]);
        assert_eq!(numbers(&resume.proven), [0]);
        assert_eq!(numbers(&resume.unproven), [1, 2, 3]);
    }

    #[test]
    fn f26_all_ones_over_empty_or_absent_files_is_nothing() {
        let (layout, mut journal) = two_files();
        journal.pieces = Bitfield::full(4);
        journal.stamps = vec![stamp(0, EARLY), None];
        let resume = resume(&layout, Some(&journal), &[stamp(0, EARLY), None]);
        assert_eq!((resume.proven.count(), resume.unproven.count()), (0, 0));
    }

    #[test]
    fn f26_without_a_journal_all_that_is_there_is_hashed() {
        let (layout, _) = two_files();
        let resume = resume(&layout, None, &[stamp(33, LATE), stamp(24, LATE)]);
        assert_eq!(resume.proven.count(), 0);
        assert_eq!(numbers(&resume.unproven), [0, 1, 3]);
    }
}
