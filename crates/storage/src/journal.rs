//! What a process leaves for the next one: which pieces are durable, and what their files looked like then.
//!
//! Two slots are written in turn, so that one whole record is there whatever a crash tears. A record names its
//! torrent, carries a generation, and ends with a CRC-32; anything else is not a record.

use obt_wire::{Bitfield, InfoHashes};
use thiserror::Error;

use crate::spans::Layout;

const MAGIC: [u8; 8] = *b"obt-jrnl";
/// Changes with the format; a record of another version proves nothing, and its data is hashed again.
const FORMAT: u32 = 2;
/// Magic, format, generation, presence of the two info-hashes, info-hashes, pieces, files.
const HEADER: usize = 8 + 4 + 8 + 1 + 20 + 32 + 4 + 4;
const STAMP: usize = 24;
const CRC: usize = 4;
/// Stands for "not written yet" in place of a size; no file is that long.
const NO_FILE: u64 = u64::MAX;

/// What shows that a file was not changed since: its size, its modification time, and that it is the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Length, bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// The number that the file system has for it; 0 where there are no such numbers.
    pub inode: u64,
}

/// One of the two places of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The one to write next.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its place in [`names::JOURNALS`](crate::names::JOURNALS).
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

/// A record of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// Grows with every record that is written; the highest whole one counts.
    pub generation: u64,
    /// Pieces that are verified and were synced before this record was written.
    pub pieces: Bitfield,
    /// For each data file, what it looked like; None where nothing was written to it.
    pub stamps: Vec<Option<Stamp>>,
}

/// Why bytes are not a record that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JournalError {
    /// Cut short, torn, or not a journal at all.
    #[error("the journal is damaged")]
    Damaged,
    /// Written by another version of the program.
    #[error("the journal has format {0}")]
    OtherFormat(u32),
    /// About another torrent.
    #[error("the journal is about another torrent")]
    OtherTorrent,
}

/// Length of every record of this torrent, bytes.
#[must_use]
pub fn record_length(layout: &Layout) -> usize {
    HEADER + layout.geometry().pieces().div_ceil(8) as usize + layout.files().len() * STAMP + CRC
}

/// Writes a record down.
#[must_use]
pub fn encode(layout: &Layout, generation: u64, pieces: &Bitfield, stamps: &[Option<Stamp>]) -> Vec<u8> {
    let hashes = layout.hashes();
    let mut out = Vec::with_capacity(record_length(layout));
    out.extend(MAGIC);
    out.extend(FORMAT.to_le_bytes());
    out.extend(generation.to_le_bytes());
    out.extend(identity(hashes));
    out.extend(pieces.len().to_le_bytes());
    out.extend(u32::try_from(stamps.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(pieces.as_wire());
    for stamp in stamps {
        let stamp = stamp.unwrap_or(Stamp { size: NO_FILE, mtime_ns: 0, inode: 0 });
        out.extend(stamp.size.to_le_bytes());
        out.extend(stamp.mtime_ns.to_le_bytes());
        out.extend(stamp.inode.to_le_bytes());
    }
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out
}

/// Reads a record about the torrent with this layout.
///
/// # Errors
/// See [`JournalError`]; never panics, whatever the bytes.
pub fn decode(layout: &Layout, bytes: &[u8]) -> Result<Journal, JournalError> {
    let (body, crc) = bytes.split_last_chunk::<CRC>().ok_or(JournalError::Damaged)?;
    let mut rest = Reader(body);
    if rest.take::<8>()? != MAGIC || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(JournalError::Damaged);
    }
    let format = u32::from_le_bytes(rest.take()?);
    if format != FORMAT {
        return Err(JournalError::OtherFormat(format));
    }
    let generation = u64::from_le_bytes(rest.take()?);
    let identity_there = rest.take::<53>()?;
    let (pieces, files) = (u32::from_le_bytes(rest.take()?), u32::from_le_bytes(rest.take()?));
    let same = identity_there == identity(layout.hashes())
        && pieces == layout.geometry().pieces()
        && files as usize == layout.files().len();
    if !same {
        return Err(JournalError::OtherTorrent);
    }
    if bytes.len() != record_length(layout) {
        return Err(JournalError::Damaged);
    }
    let (bits, stamps) = rest.0.split_at_checked(pieces.div_ceil(8) as usize).ok_or(JournalError::Damaged)?;
    let pieces = Bitfield::from_wire(bits, pieces).ok_or(JournalError::Damaged)?;
    let mut stamps = Reader(stamps);
    let stamps = (0..files).map(|_| stamps.stamp()).collect::<Result<_, _>>()?;
    Ok(Journal { generation, pieces, stamps })
}

/// The newest whole record of the two slots, and where it is.
#[must_use]
pub fn newest(layout: &Layout, slots: [&[u8]; 2]) -> Option<(Slot, Journal)> {
    let [a, b] = slots.map(|bytes| decode(layout, bytes).ok());
    let records = a.map(|record| (Slot::A, record)).into_iter().chain(b.map(|record| (Slot::B, record)));
    records.max_by_key(|(_, record)| record.generation)
}

/// Which torrent a record is about: which info-hashes it has, and the hashes, zeros for one that it has not.
fn identity(hashes: InfoHashes) -> [u8; 53] {
    let mut out = [0; 53];
    out[0] = u8::from(hashes.v1.is_some()) | u8::from(hashes.v2.is_some()) << 1;
    out[1..21].copy_from_slice(&hashes.v1.unwrap_or_default().0);
    out[21..].copy_from_slice(&hashes.v2.unwrap_or_default().0);
    out
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], JournalError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(JournalError::Damaged)?;
        self.0 = tail;
        Ok(*head)
    }

    fn stamp(&mut self) -> Result<Option<Stamp>, JournalError> {
        let size = u64::from_le_bytes(self.take()?);
        let mtime_ns = i64::from_le_bytes(self.take()?);
        let stamp = Stamp { size, mtime_ns, inode: u64::from_le_bytes(self.take()?) };
        Ok((stamp.size != NO_FILE).then_some(stamp))
    }
}

#[cfg(test)]
mod tests {
    use obt_wire::PieceIndex;
    use obt_wire::metainfo::{FileKind, Version};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{info, layout};

    fn record(layout: &Layout, generation: u64, pieces: &[u32]) -> Vec<u8> {
        let mut set = Bitfield::empty(layout.geometry().pieces());
        for piece in pieces {
            set.set(PieceIndex(*piece));
        }
        let stamps: Vec<_> = (0..).zip(layout.files()).map(|(at, file)| stamp(at, file.size)).collect();
        encode(layout, generation, &set, &stamps)
    }

    fn stamp(at: i64, size: u64) -> Option<Stamp> {
        (at % 2 == 0).then_some(Stamp { size, mtime_ns: at - 5, inode: size + 9 })
    }

    #[test]
    fn f23_cut_at_each_byte_the_previous_generation_counts() {
        let layout = layout(&[40, 0, 100, 7], 16);
        let old = record(&layout, 7, &[0, 2]);
        let new = record(&layout, 8, &[0, 1, 2]);
        for cut in 0..new.len() {
            let found = newest(&layout, [&old, &new[..cut]]).unwrap();
            assert_eq!((found.0, found.1.generation), (Slot::A, 7), "cut at {cut}");
            let mut torn = new[..cut].to_vec();
            torn.resize(new.len(), 0);
            assert_eq!(newest(&layout, [&torn, &old]).unwrap().1.generation, 7, "zeros from {cut}");
            let mut mixed = new[..cut].to_vec();
            mixed.extend_from_slice(&record(&layout, 6, &[3])[cut..]);
            assert_eq!(newest(&layout, [&mixed, &old]).unwrap().1.generation, 7, "older bytes from {cut}");
        }
        assert_eq!(newest(&layout, [&old, &new]).unwrap().0, Slot::B);
    }

    #[test]
    fn f23_every_flipped_bit_is_seen() {
        let layout = layout(&[40, 100], 16);
        let whole = record(&layout, 1, &[0, 2]);
        for at in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert_eq!(decode(&layout, &bad), Err(JournalError::Damaged), "bit {at}");
        }
    }

    #[test]
    fn f26_a_journal_of_another_torrent_is_not_believed() {
        let mine = layout(&[40, 100], 16);
        let sizes = [(140, FileKind::Data)];
        let mut renamed = info(Version::V1, &sizes, mine.geometry().clone(), false);
        renamed.hashes.v2 = None;
        for other in [Layout::new(&renamed), layout(&[40, 100, 0], 16), layout(&[40, 100], 8)] {
            let record = record(&other, 1, &[0]);
            assert_eq!(decode(&mine, &record), Err(JournalError::OtherTorrent));
        }
    }

    #[test]
    fn another_format_is_told_apart_from_damage() {
        let layout = layout(&[40], 16);
        let mut bytes = record(&layout, 1, &[0]);
        bytes.truncate(bytes.len() - CRC);
        bytes[8] = 9;
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        assert_eq!(decode(&layout, &bytes), Err(JournalError::OtherFormat(9)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_written_is_read(
            sizes in prop::collection::vec(0u64..100, 1..12), generation: u64, picks: u64, mtime_ns: i64,
        ) {
            let layout = layout(&sizes, 16);
            let mut pieces = Bitfield::empty(layout.geometry().pieces());
            for piece in layout.geometry().all().filter(|piece| picks >> (piece.0 % 64) & 1 == 1) {
                pieces.set(piece);
            }
            let stamps: Vec<_> =
                sizes.iter().map(|size| (size % 3 > 0).then_some(Stamp { size: *size, mtime_ns, inode: generation })).collect();
            let bytes = encode(&layout, generation, &pieces, &stamps);
            prop_assert_eq!(bytes.len(), record_length(&layout));
            prop_assert_eq!(decode(&layout, &bytes), Ok(Journal { generation, pieces, stamps }));
        }

        #[test]
        fn f23_no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), valid_crc: bool) {
            let layout = layout(&[40, 100], 16);
            let mut bytes = [&MAGIC[..], &bytes].concat();
            if valid_crc {
                bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            }
            prop_assert!(decode(&layout, &bytes).is_err());
        }
    }
}
