//! The bytes of blocks that are accepted and whose piece is not whole yet.

use std::collections::BTreeMap;

use obt_wire::{Block, PieceIndex};

use crate::buffers::BlockBuf;

/// Blocks for which room is made when the first of a piece comes: of a longer piece not all are here at once.
const RESERVED: usize = 2 * obt_swarm::limits::STRETCH as usize;

/// Accepted blocks by piece.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pieces: BTreeMap<PieceIndex, Assembled>,
}

#[derive(Debug, Default)]
struct Assembled {
    /// Number in the piece and bytes, in the order they came.
    blocks: Vec<(u32, BlockBuf)>,
    /// Blocks of this piece are on disk, unverified, and those to come go there too.
    spilled: bool,
}

/// Where a block belongs.
#[derive(Debug)]
pub(super) enum Kept {
    /// It is kept in memory.
    InMemory,
    /// Its piece is spilled: it goes to disk at once.
    Spill(Vec<(u32, BlockBuf)>),
}

impl Assembly {
    /// Keeps a block; `of` is how many its piece has.
    pub(super) fn accept(&mut self, block: Block, bytes: BlockBuf, of: u32) -> Kept {
        let assembled = self.pieces.entry(block.piece).or_default();
        if assembled.spilled {
            return Kept::Spill(vec![(block.index, bytes)]);
        }
        if assembled.blocks.capacity() == 0 {
            assembled.blocks.reserve_exact((of as usize).min(RESERVED));
        }
        assembled.blocks.push((block.index, bytes));
        Kept::InMemory
    }

    /// The first blocks of a piece, as far as they are in memory.
    pub(super) fn take_first(&mut self, piece: PieceIndex, blocks: u32) -> Vec<(u32, BlockBuf)> {
        let Some(assembled) = self.pieces.get_mut(&piece) else {
            return Vec::new();
        };
        assembled.blocks.extract_if(.., |(index, _)| *index < blocks).collect()
    }

    /// The blocks of a piece that is to be spilled; later ones are [`Kept::Spill`].
    pub(super) fn spill(&mut self, piece: PieceIndex) -> Vec<(u32, BlockBuf)> {
        let assembled = self.pieces.entry(piece).or_default();
        assembled.spilled = true;
        std::mem::take(&mut assembled.blocks)
    }

    /// The blocks of a piece that are in memory, in order; it is forgotten here.
    pub(super) fn take(&mut self, piece: PieceIndex) -> Vec<(u32, BlockBuf)> {
        let mut blocks = self.pieces.remove(&piece).unwrap_or_default().blocks;
        blocks.sort_unstable_by_key(|(index, _)| *index);
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::Pool;

    #[test]
    fn blocks_come_out_in_order_and_spilled_ones_at_once() {
        let pool = Pool::bounded(8);
        let mut assembly = Assembly::default();
        let block = |index| Block { piece: PieceIndex(3), index };
        assert!(matches!(assembly.accept(block(2), pool.try_take().unwrap(), 3), Kept::InMemory));
        assert!(matches!(assembly.accept(block(0), pool.try_take().unwrap(), 3), Kept::InMemory));
        let taken: Vec<u32> = assembly.take(PieceIndex(3)).iter().map(|(index, _)| *index).collect();
        assert_eq!(taken, [0, 2]);
        assert_eq!(pool.available(), 8);
        assert!(matches!(assembly.accept(block(1), pool.try_take().unwrap(), 3), Kept::InMemory));
        assert_eq!(assembly.spill(PieceIndex(3)).len(), 1);
        assert!(
            matches!(assembly.accept(block(2), pool.try_take().unwrap(), 3), Kept::Spill(blocks) if blocks.len() == 1)
        );
        assert!(assembly.take(PieceIndex(3)).is_empty());
    }
}
