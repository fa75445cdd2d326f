//! Content that exists as hashes alone: a block's bytes are known by whether they are right.

use std::sync::Arc;

use obt_wire::merkle::{block_hash, piece_layer_number, root_above};
use obt_wire::metainfo::{Draft, Metainfo, MetainfoError, Version};
use obt_wire::{BLOCK_SIZE, Block, Geometry, PieceIndex, Sha1Hash, Sha256Hash};

/// One file of whole blocks, and the digest that each of them has.
#[derive(Debug, Clone)]
pub struct Torrent {
    /// What the cores know of it.
    pub metainfo: Arc<Metainfo>,
    /// Leaves of the file's tree, block by block.
    leaves: Arc<Vec<Sha256Hash>>,
    blocks_per_piece: u32,
}

impl Torrent {
    /// A file of `blocks` blocks in pieces of `blocks_per_piece`, which is a power of two.
    ///
    /// # Errors
    /// Where no such torrent can be made.
    pub fn new(blocks: u32, blocks_per_piece: u32, version: Version) -> Result<Self, MetainfoError> {
        let piece_length = blocks_per_piece * BLOCK_SIZE;
        let draft = Draft::file("file", u64::from(blocks) * u64::from(BLOCK_SIZE), piece_length, version)?;
        let pieces = match version {
            Version::V2 => 0,
            _ => draft.geometry().pieces(),
        };
        let pieces: Vec<Sha1Hash> = (0..pieces).map(numbered).collect();
        let leaves: Vec<Sha256Hash> = (0..blocks).map(|block| block_hash(&block.to_be_bytes())).collect();
        let top = piece_layer_number(piece_length).min(blocks.next_power_of_two().ilog2());
        let layer: Option<Vec<Sha256Hash>> =
            leaves.chunks(blocks_per_piece as usize).map(|piece| root_above(piece, 0, top)).collect();
        let layers = if version == Version::V1 { Vec::new() } else { vec![layer.unwrap_or_default()] };
        let metainfo = Arc::new(draft.finish(&pieces, layers)?);
        Ok(Self { metainfo, leaves: Arc::new(leaves), blocks_per_piece })
    }

    /// How it is cut.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.metainfo.info.geometry
    }

    /// Its length, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.geometry().wire_bytes()
    }

    /// The digests of the blocks of a piece whose bytes are right.
    #[must_use]
    pub fn block_hashes(&self, piece: PieceIndex) -> Vec<Sha256Hash> {
        let blocks = (0..self.geometry().blocks(piece)).map(|index| Block { piece, index });
        blocks.map(|block| Sha256Hash(self.digest(block, 0))).collect()
    }

    /// The digest of a block whose bytes are wrong in the way `flip` says; 0 is not wrong.
    #[must_use]
    pub fn digest(&self, block: Block, flip: u64) -> [u8; 32] {
        let at = block.piece.0 * self.blocks_per_piece + block.index;
        let mut digest = self.leaves.get(at as usize).map_or([0; 32], |leaf| leaf.0);
        for (byte, flipped) in digest.iter_mut().zip(flip.to_be_bytes()) {
            *byte ^= flipped;
        }
        digest
    }
}

fn numbered(piece: u32) -> Sha1Hash {
    let mut hash = [0; 20];
    hash[..4].copy_from_slice(&piece.to_be_bytes());
    Sha1Hash(hash)
}
