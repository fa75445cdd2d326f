//! What is known once a torrent's info dictionary is: its pieces, which of them are here, and who is to blame.

use std::sync::Arc;

use obt_wire::metainfo::{Metainfo, Version};
use obt_wire::{BLOCK_SIZE, Bitfield, Geometry, PieceIndex};

use crate::blame::Blame;
use crate::event::Content;
use crate::layers::Layers;
use crate::picker::{Picker, PickerConfig};
use crate::spread::Spread;

/// One torrent of known shape.
///
/// Invariant: `have` and `wanted` say the same as the picker's own sets.
#[derive(Debug)]
pub(crate) struct Torrent {
    pub(crate) metainfo: Arc<Metainfo>,
    pub(crate) have: Bitfield,
    pub(crate) wanted: Bitfield,
    pub(crate) picker: Picker,
    pub(crate) blame: Blame,
    pub(crate) layers: Layers,
    pub(crate) spread: Spread,
}

impl Torrent {
    pub(crate) fn new(content: Content, config: PickerConfig, seed: u64) -> Self {
        let Content { metainfo, have, wanted } = content;
        let mut picker = Picker::new(&metainfo.info.geometry, &have, &wanted, config, seed);
        let layers = Layers::new(&metainfo);
        // A hybrid's pieces can be verified by their v1 hashes.
        if metainfo.info.version == Version::V2 {
            for pieces in layers.unverifiable() {
                picker.set_unverifiable(pieces);
            }
        }
        Self { metainfo, have, wanted, picker, blame: Blame::new(), layers, spread: Spread::default() }
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.metainfo.info.geometry
    }

    /// Blocks of a piece that is not a file's last.
    pub(crate) fn blocks_per_piece(&self) -> usize {
        self.geometry().piece_length().div_ceil(BLOCK_SIZE).max(1) as usize
    }

    /// These pieces are gone; returns those of them that were had.
    pub(crate) fn take_back(&mut self, pieces: &[PieceIndex]) -> Vec<PieceIndex> {
        let gone: Vec<PieceIndex> = pieces.iter().copied().filter(|piece| self.have.clear(*piece)).collect();
        for piece in &gone {
            self.picker.withdraw(*piece);
        }
        gone
    }

    /// How many wanted pieces somebody who has `has` could send us.
    pub(crate) fn useful(&self, has: &Bitfield) -> u32 {
        let (has, have, wanted) = (has.as_wire(), self.have.as_wire(), self.wanted.as_wire());
        has.iter().zip(have).zip(wanted).map(|((has, have), wanted)| (has & wanted & !have).count_ones()).sum()
    }

    /// Whether `piece` is wanted and not had.
    pub(crate) fn is_missing(&self, piece: PieceIndex) -> bool {
        self.wanted.has(piece) && !self.have.has(piece)
    }

    /// Payload bytes of the wanted pieces.
    pub(crate) fn wanted_bytes(&self) -> u64 {
        self.wanted.iter().map(|piece| u64::from(self.geometry().data_size(piece))).sum()
    }
}
