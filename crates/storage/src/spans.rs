//! Which bytes of which files a stretch of a piece is.
//!
//! Works on the piece space (`piece * piece_length + offset in piece`), so that v1, v2 and hybrid torrents are one
//! case: what no file covers is padding, and padding is zeros that are never on disk (BEP 47, 52).

use std::ops::Range;

use obt_wire::metainfo::{FileKind, Info};
use obt_wire::{Geometry, InfoHashes, PieceIndex};

/// A data file, by its place among the data files of the torrent; pads are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIndex(pub u32);

/// A stretch of a piece: bytes of one file, or padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// Bytes of a file.
    File {
        /// Which one.
        file: FileIndex,
        /// Where in the file they begin, bytes.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Padding.
    Zeros {
        /// How many bytes.
        length: u32,
    },
}

impl Slice {
    /// How many bytes it is.
    #[must_use]
    pub fn length(self) -> u32 {
        match self {
            Self::File { length, .. } | Self::Zeros { length } => length,
        }
    }
}

/// A data file of a torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFile {
    /// Its place in [`Info::files`], which has its path.
    pub listed: u32,
    /// Length, bytes.
    pub size: u64,
    /// Where its first byte lies in the piece space.
    pub offset: u64,
}

/// Where the bytes of a torrent lie.
///
/// Invariant: `covered` names the files that are not empty, by rising offset, and they do not overlap.
#[derive(Debug, Clone)]
pub struct Layout {
    geometry: Geometry,
    hashes: InfoHashes,
    files: Vec<DataFile>,
    covered: Vec<FileIndex>,
}

impl Layout {
    /// The layout of this torrent.
    #[must_use]
    pub fn new(info: &Info) -> Self {
        let data = (0u32..).zip(&info.files).filter(|(_, file)| file.kind == FileKind::Data);
        let mut files: Vec<DataFile> =
            data.map(|(listed, file)| DataFile { listed, size: file.size, offset: file.offset }).collect();
        // There may be 200,000 of them.
        files.shrink_to_fit();
        let mut covered: Vec<FileIndex> =
            (0u32..).zip(&files).filter(|(_, file)| file.size > 0).map(|(at, _)| FileIndex(at)).collect();
        covered.shrink_to_fit();
        covered.sort_by_key(|file| files.get(file.0 as usize).map(|file| file.offset));
        Self { geometry: info.geometry.clone(), hashes: info.hashes, files, covered }
    }

    /// How the torrent is cut into pieces.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Which torrent it is.
    #[must_use]
    pub fn hashes(&self) -> InfoHashes {
        self.hashes
    }

    /// The data files, empty ones included, in the torrent's order.
    #[must_use]
    pub fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// All data files by number.
    pub fn indices(&self) -> impl Iterator<Item = FileIndex> + use<> {
        (0..u32::try_from(self.files.len()).unwrap_or(u32::MAX)).map(FileIndex)
    }

    /// The data file with this number.
    #[must_use]
    pub fn file(&self, file: FileIndex) -> Option<&DataFile> {
        self.files.get(file.0 as usize)
    }

    /// The stretches that `length` bytes at `begin` of a piece are made of, in order; their lengths add up to
    /// `length`. Finds the first in O(log files) and allocates nothing. The caller has checked that the range is
    /// inside the piece.
    #[must_use]
    pub fn slices(&self, piece: PieceIndex, begin: u32, length: u32) -> Slices<'_> {
        let at = u64::from(piece.0) * u64::from(self.geometry.piece_length()) + u64::from(begin);
        let next = self.covered.partition_point(|file| self.end_of(*file) <= at);
        Slices { layout: self, next, at, left: length }
    }

    /// The stretches of a whole piece, padding at its tail included.
    #[must_use]
    pub fn piece_slices(&self, piece: PieceIndex) -> Slices<'_> {
        self.slices(piece, 0, self.geometry.piece_size(piece))
    }

    /// The data files that a piece has bytes of.
    pub fn files_of(&self, piece: PieceIndex) -> impl Iterator<Item = FileIndex> + '_ {
        self.piece_slices(piece).filter_map(|slice| match slice {
            Slice::File { file, .. } => Some(file),
            Slice::Zeros { .. } => None,
        })
    }

    /// The pieces that hold bytes of this file, by number; empty for an empty file.
    #[must_use]
    pub fn pieces_of(&self, file: FileIndex) -> Range<u32> {
        let Some(file) = self.file(file).filter(|file| file.size > 0) else {
            return 0..0;
        };
        let length = u64::from(self.geometry.piece_length());
        let number = |piece: u64| u32::try_from(piece).unwrap_or(u32::MAX).min(self.geometry.pieces());
        number(file.offset / length)..number(file.offset.saturating_add(file.size).div_ceil(length))
    }

    fn end_of(&self, file: FileIndex) -> u64 {
        self.file(file).map_or(0, |file| file.offset.saturating_add(file.size))
    }
}

/// The stretches of a range, see [`Layout::slices`].
#[derive(Debug, Clone)]
pub struct Slices<'a> {
    layout: &'a Layout,
    /// Place in `covered` of the first file that ends behind `at`.
    next: usize,
    at: u64,
    left: u32,
}

impl Iterator for Slices<'_> {
    type Item = Slice;

    fn next(&mut self) -> Option<Slice> {
        if self.left == 0 {
            return None;
        }
        let number = self.layout.covered.get(self.next).copied();
        let slice = match number.and_then(|number| Some((number, self.layout.file(number)?))) {
            Some((number, file)) if file.offset <= self.at => {
                let offset = self.at - file.offset;
                self.next += 1;
                Slice::File { file: number, offset, length: self.at_most(file.size - offset) }
            }
            Some((_, file)) => Slice::Zeros { length: self.at_most(file.offset - self.at) },
            None => Slice::Zeros { length: self.left },
        };
        self.at += u64::from(slice.length());
        self.left -= slice.length();
        Some(slice)
    }
}

impl Slices<'_> {
    fn at_most(&self, length: u64) -> u32 {
        u32::try_from(length).unwrap_or(u32::MAX).min(self.left)
    }
}

#[cfg(test)]
mod tests {
    use obt_wire::metainfo::Version;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::info;

    fn stream(sizes: &[(u64, FileKind)], piece_length: u32) -> Layout {
        let size = sizes.iter().map(|(size, _)| size).sum();
        Layout::new(&info(Version::V1, sizes, Geometry::contiguous(size, piece_length).unwrap(), false))
    }

    fn file(file: u32, offset: u64, length: u32) -> Slice {
        Slice::File { file: FileIndex(file), offset, length }
    }

    #[test]
    fn a_block_over_borders_is_cut_at_each_file() {
        let layout =
            stream(&[(10, FileKind::Data), (0, FileKind::Data), (5, FileKind::Data), (17, FileKind::Data)], 16);
        let slices: Vec<Slice> = layout.slices(PieceIndex(0), 4, 12).collect();
        assert_eq!(slices, [file(0, 4, 6), file(2, 0, 5), file(3, 0, 1)]);
        assert_eq!(layout.slices(PieceIndex(1), 0, 16).collect::<Vec<_>>(), [file(3, 1, 16)]);
        assert_eq!(layout.pieces_of(FileIndex(3)), 0..2);
        assert_eq!(layout.pieces_of(FileIndex(1)), 0..0);
        assert_eq!(layout.files_of(PieceIndex(0)).collect::<Vec<_>>(), [FileIndex(0), FileIndex(2), FileIndex(3)]);
    }

    #[test]
    fn pads_are_zeros_and_not_files() {
        let layout = stream(&[(10, FileKind::Data), (6, FileKind::Pad), (3, FileKind::Data)], 16);
        assert_eq!(layout.files().len(), 2);
        assert_eq!(
            layout.slices(PieceIndex(0), 0, 16).collect::<Vec<_>>(),
            [file(0, 0, 10), Slice::Zeros { length: 6 }]
        );
        assert_eq!(layout.slices(PieceIndex(0), 12, 2).collect::<Vec<_>>(), [Slice::Zeros { length: 2 }]);
        assert_eq!(layout.slices(PieceIndex(1), 0, 3).collect::<Vec<_>>(), [file(1, 0, 3)]);
    }

    #[test]
    fn files_of_a_v2_torrent_begin_at_piece_borders() {
        let sizes = [(5, FileKind::Data), (0, FileKind::Data), (20, FileKind::Data)];
        let geometry = Geometry::aligned([5, 0, 20], 16).unwrap();
        let layout = Layout::new(&info(Version::V2, &sizes, geometry, true));
        assert_eq!(layout.piece_slices(PieceIndex(0)).collect::<Vec<_>>(), [file(0, 0, 5)]);
        assert_eq!(layout.piece_slices(PieceIndex(1)).collect::<Vec<_>>(), [file(2, 0, 16)]);
        assert_eq!(layout.piece_slices(PieceIndex(2)).collect::<Vec<_>>(), [file(2, 16, 4)]);
        assert_eq!(layout.pieces_of(FileIndex(2)), 1..3);
    }

    #[test]
    fn padding_at_the_tail_of_the_last_piece_is_zeros() {
        let geometry = Geometry::padded(&[20], 16, true).unwrap();
        let layout = Layout::new(&info(Version::Hybrid, &[(20, FileKind::Data)], geometry, false));
        assert_eq!(
            layout.piece_slices(PieceIndex(1)).collect::<Vec<_>>(),
            [file(0, 16, 4), Slice::Zeros { length: 12 }]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// All pieces together are every byte of every file exactly once, in order, whatever the pads.
        #[test]
        fn pieces_and_files_are_the_same_bytes(
            sizes in prop::collection::vec((0u64..60, prop::bool::weighted(0.2)), 1..20),
            piece_length in 1u32..40,
            step in 1u32..20,
        ) {
            let sizes: Vec<_> = sizes.into_iter()
                .map(|(size, pad)| (size, if pad { FileKind::Pad } else { FileKind::Data }))
                .collect();
            let layout = stream(&sizes, piece_length);
            let mut filled: Vec<u64> = vec![0; layout.files().len()];
            let mut zeros = 0;
            for piece in layout.geometry().all() {
                let size = layout.geometry().piece_size(piece);
                let mut begin = 0;
                while begin < size {
                    let length = step.min(size - begin);
                    let mut sum = 0;
                    for slice in layout.slices(piece, begin, length) {
                        prop_assert!(slice.length() > 0);
                        sum += slice.length();
                        match slice {
                            Slice::File { file, offset, length } => {
                                prop_assert_eq!(filled[file.0 as usize], offset);
                                prop_assert!(layout.pieces_of(file).contains(&piece.0));
                                filled[file.0 as usize] += u64::from(length);
                            }
                            Slice::Zeros { length } => zeros += u64::from(length),
                        }
                    }
                    prop_assert_eq!(sum, length);
                    begin += length;
                }
            }
            for (file, filled) in layout.files().iter().zip(&filled) {
                prop_assert_eq!(file.size, *filled);
            }
            let pads: u64 = sizes.iter().filter(|(_, kind)| *kind == FileKind::Pad).map(|(size, _)| size).sum();
            prop_assert_eq!(zeros, pads);
        }
    }
}
