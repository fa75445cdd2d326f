//! How the bytes of a torrent are cut into pieces and blocks.
//!
//! v1 and hybrid torrents are one stream of bytes, pad files included (BEP 3, 47). In a v2-only torrent every
//! file starts a new piece and the last piece of each file is short (BEP 52). Both are one [`Geometry`], so
//! that nobody else has to know the difference.

/// Length of a block, bytes: what one `request` asks for, but at the end of a piece.
pub const BLOCK_SIZE: u32 = 16_384;

/// The number of a piece. One that came through [`Geometry::piece`] is in range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(pub u32);

/// One block of a piece: the unit of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The piece it belongs to.
    pub piece: PieceIndex,
    /// Its number in the piece; it begins at `index * BLOCK_SIZE`.
    pub index: u32,
}

impl Block {
    /// Offset of the block's first byte in its piece, bytes.
    #[must_use]
    pub fn begin(self) -> u32 {
        self.index.saturating_mul(BLOCK_SIZE)
    }
}

/// A piece that is shorter than the piece length, or whose tail is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Odd {
    piece: u32,
    /// Bytes of the piece on the wire and under a v1 hash.
    size: u32,
    /// Bytes before the padding at its tail.
    data: u32,
}

/// How many pieces and blocks there are, and how long each is.
///
/// Invariants: `piece_length` is not 0; `odd` is sorted by piece, and each entry has
/// `data <= size <= piece_length`, `size > 0`; all other pieces are `piece_length` long and hold no tail padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    piece_length: u32,
    pieces: u32,
    odd: Vec<Odd>,
    wire_bytes: u64,
}

impl Geometry {
    /// One stream of `size` bytes in pieces of `piece_length` (v1). None where the number of pieces does not fit in
    /// `u32` or `piece_length` is 0.
    #[must_use]
    pub fn contiguous(size: u64, piece_length: u32) -> Option<Self> {
        let pieces = piece_count(size, piece_length)?;
        let mut odd = Vec::new();
        let tail = u32::try_from(size % u64::from(piece_length)).ok()?;
        if tail > 0 {
            odd.push(Odd { piece: pieces - 1, size: tail, data: tail });
        }
        Some(Self { piece_length, pieces, odd, wire_bytes: size })
    }

    /// Files of these sizes in bytes, in order, each but the empty ones starting a new piece (v2 only).
    #[must_use]
    pub fn aligned(files: impl IntoIterator<Item = u64>, piece_length: u32) -> Option<Self> {
        let mut this = Self { piece_length, pieces: 0, odd: Vec::new(), wire_bytes: 0 };
        for size in files {
            this.pieces = this.pieces.checked_add(piece_count(size, piece_length)?)?;
            this.wire_bytes = this.wire_bytes.checked_add(size)?;
            let tail = u32::try_from(size % u64::from(piece_length)).ok()?;
            if tail > 0 {
                this.odd.push(Odd { piece: this.pieces - 1, size: tail, data: tail });
            }
        }
        Some(this)
    }

    /// One stream in which each of these files but the last is followed by padding up to the next piece border
    /// (hybrid). `tail_pad` says whether the last one is padded too.
    #[must_use]
    pub fn padded(files: &[u64], piece_length: u32, tail_pad: bool) -> Option<Self> {
        let mut this = Self::aligned(files.iter().copied(), piece_length)?;
        let last = this.pieces.checked_sub(1);
        for odd in &mut this.odd {
            if tail_pad || Some(odd.piece) != last {
                this.wire_bytes = this.wire_bytes.checked_add(u64::from(piece_length - odd.size))?;
                odd.size = piece_length;
            }
        }
        Some(this)
    }

    /// Length of a piece that is not odd, bytes.
    #[must_use]
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// How many pieces there are.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// All pieces in order.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        (0..self.pieces).map(PieceIndex)
    }

    /// The piece with this number, if there is one.
    #[must_use]
    pub fn piece(&self, index: u32) -> Option<PieceIndex> {
        (index < self.pieces).then_some(PieceIndex(index))
    }

    /// Bytes of all pieces together as they cross the wire, padding included.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    fn odd(&self, piece: PieceIndex) -> Option<&Odd> {
        let at = self.odd.binary_search_by_key(&piece.0, |odd| odd.piece).ok()?;
        self.odd.get(at)
    }

    /// Length of this piece on the wire, bytes, padding included.
    #[must_use]
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        self.odd(piece).map_or(self.piece_length, |odd| odd.size)
    }

    /// Bytes of this piece before the padding at its tail: what a v2 hash covers.
    #[must_use]
    pub fn data_size(&self, piece: PieceIndex) -> u32 {
        self.odd(piece).map_or(self.piece_length, |odd| odd.data)
    }

    /// How many blocks of this piece have to be fetched: blocks of padding alone are known to be zeros.
    #[must_use]
    pub fn blocks(&self, piece: PieceIndex) -> u32 {
        self.data_size(piece).div_ceil(BLOCK_SIZE)
    }

    /// Length of this block on the wire, bytes: shorter than [`BLOCK_SIZE`] only at the end of a piece.
    /// 0 for a block past the end.
    #[must_use]
    pub fn block_size(&self, block: Block) -> u32 {
        self.piece_size(block.piece).saturating_sub(block.begin()).min(BLOCK_SIZE)
    }

    /// Bytes of this block before the padding at the tail of its piece.
    #[must_use]
    pub fn block_data(&self, block: Block) -> u32 {
        self.data_size(block.piece).saturating_sub(block.begin()).min(BLOCK_SIZE)
    }

    /// The block that a `piece` message with these fields carries, if it is one that we could have asked for.
    #[must_use]
    pub fn block(&self, piece: u32, begin: u32, length: u32) -> Option<Block> {
        let piece = self.piece(piece)?;
        let block = Block { piece, index: begin / BLOCK_SIZE };
        let exact =
            begin.is_multiple_of(BLOCK_SIZE) && block.index < self.blocks(piece) && self.block_size(block) == length;
        exact.then_some(block)
    }

    /// Whether a peer may ask for `length` bytes at `begin` of piece `piece`: inside the piece, and not empty.
    #[must_use]
    pub fn in_piece(&self, piece: u32, begin: u32, length: u32) -> bool {
        let Some(piece) = self.piece(piece) else {
            return false;
        };
        let Some(end) = begin.checked_add(length) else {
            return false;
        };
        length > 0 && end <= self.piece_size(piece)
    }
}

fn piece_count(size: u64, piece_length: u32) -> Option<u32> {
    if piece_length == 0 {
        return None;
    }
    u32::try_from(size.div_ceil(u64::from(piece_length))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const K16: u64 = 16_384;

    #[test]
    fn a_stream_ends_with_a_short_piece_and_a_short_block() {
        let geometry = Geometry::contiguous(3 * 32_768 + 16_385, 32_768).unwrap();
        assert_eq!(geometry.pieces(), 4);
        assert_eq!(geometry.piece_size(PieceIndex(2)), 32_768);
        assert_eq!(geometry.piece_size(PieceIndex(3)), 16_385);
        assert_eq!(geometry.blocks(PieceIndex(3)), 2);
        assert_eq!(geometry.block_size(Block { piece: PieceIndex(3), index: 1 }), 1);
        assert_eq!(geometry.block_size(Block { piece: PieceIndex(3), index: 2 }), 0);
    }

    #[test]
    fn files_of_a_v2_torrent_start_pieces_and_empty_ones_take_none() {
        let geometry = Geometry::aligned([1, 0, 2 * K16, K16 + 1], 16_384).unwrap();
        assert_eq!(geometry.pieces(), 1 + 2 + 2);
        let sizes: Vec<u32> = geometry.all().map(|piece| geometry.piece_size(piece)).collect();
        assert_eq!(sizes, [1, 16_384, 16_384, 16_384, 1]);
        assert_eq!(geometry.wire_bytes(), 1 + 2 * K16 + K16 + 1);
    }

    #[test]
    fn blocks_of_padding_alone_are_not_fetched() {
        let geometry = Geometry::padded(&[1, 5], 65_536, false).unwrap();
        assert_eq!(geometry.pieces(), 2);
        assert_eq!(geometry.piece_size(PieceIndex(0)), 65_536);
        assert_eq!(geometry.data_size(PieceIndex(0)), 1);
        assert_eq!(geometry.blocks(PieceIndex(0)), 1);
        assert_eq!(geometry.block_size(Block { piece: PieceIndex(0), index: 0 }), BLOCK_SIZE);
        assert_eq!(geometry.piece_size(PieceIndex(1)), 5);
        assert_eq!(geometry.wire_bytes(), 65_536 + 5);
    }

    #[test]
    fn only_exact_blocks_are_blocks() {
        let geometry = Geometry::contiguous(40_000, 32_768).unwrap();
        assert!(geometry.block(0, 16_384, 16_384).is_some());
        assert!(geometry.block(1, 0, 7_232).is_some());
        for (piece, begin, length) in [(0, 1, 16_384), (0, 0, 16_383), (2, 0, 1), (0, 32_768, 16_384), (1, 0, 16_384)] {
            assert!(geometry.block(piece, begin, length).is_none(), "{piece} {begin} {length}");
        }
    }

    #[test]
    fn w12_requests_outside_a_piece_are_refused() {
        let geometry = Geometry::contiguous(40_000, 32_768).unwrap();
        assert!(geometry.in_piece(0, 100, 32_668));
        for (piece, begin, length) in
            [(2, 0, 1), (0, 0, 0), (0, 32_768, 1), (0, u32::MAX, u32::MAX), (1, 0, 7_233), (u32::MAX, 0, 1)]
        {
            assert!(!geometry.in_piece(piece, begin, length), "{piece} {begin} {length}");
        }
    }

    #[test]
    fn zero_and_huge_sizes_have_an_answer() {
        assert_eq!(Geometry::contiguous(0, 16_384).unwrap().pieces(), 0);
        assert!(Geometry::contiguous(1, 0).is_none());
        assert!(Geometry::contiguous(u64::MAX, 1).is_none());
        assert!(Geometry::aligned([u64::MAX, u64::MAX], u32::MAX).is_none());
    }
}
