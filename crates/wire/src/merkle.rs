//! The SHA-256 tree over one file (BEP 52): roots, piece layers, and proofs for `hash request` and `hashes`.
//!
//! Layer 0 holds the hashes of the file's 16 KiB blocks; the tree is filled up with zero hashes to a power of two.
//! No whole tree is ever built: blocks of one piece, and the layers from the pieces up, are enough.

use sha2::{Digest, Sha256};

use crate::geometry::BLOCK_SIZE;
use crate::ids::Sha256Hash;
use crate::limits::HASHES;
use crate::peer::HashRequest;

/// Hash of one block: the bytes of the file in it, at most [`BLOCK_SIZE`] and not padded.
#[must_use]
pub fn block_hash(block: &[u8]) -> Sha256Hash {
    Sha256Hash(Sha256::digest(block).into())
}

/// The node above two others.
fn above(left: Sha256Hash, right: Sha256Hash) -> Sha256Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&left.0);
    both[32..].copy_from_slice(&right.0);
    block_hash(&both)
}

/// The node in `layer` that stands where the file has no block.
fn padding(layer: u32) -> Sha256Hash {
    (0..layer).fold(Sha256Hash::default(), |node, _| above(node, node))
}

/// The layer above `nodes`; `pad` is the padding of their layer and becomes that of the layer above.
fn layer_above(nodes: &[Sha256Hash], pad: &mut Sha256Hash) -> Vec<Sha256Hash> {
    let pairs = nodes.chunks(2).filter_map(|pair| match *pair {
        [left, right] => Some(above(left, right)),
        [left] => Some(above(left, *pad)),
        _ => None,
    });
    let above_nodes = pairs.collect();
    *pad = above(*pad, *pad);
    above_nodes
}

/// The node in layer `top` above the first nodes of layer `layer`, with padding after them. `None` where they are too
/// many to be below one node, or none at all.
#[must_use]
pub fn root_above(nodes: &[Sha256Hash], layer: u32, top: u32) -> Option<Sha256Hash> {
    let height = top.checked_sub(layer)?;
    if nodes.is_empty() || (nodes.len() as u64) > 1u64.checked_shl(height)? {
        return None;
    }
    let mut pad = padding(layer);
    let mut nodes = nodes.to_vec();
    for _ in 0..height {
        nodes = layer_above(&nodes, &mut pad);
    }
    nodes.first().copied()
}

/// The layer that holds one hash per piece of `piece_length` bytes, which is a power of two.
#[must_use]
pub fn piece_layer_number(piece_length: u32) -> u32 {
    (piece_length / BLOCK_SIZE).checked_ilog2().unwrap_or(0)
}

/// The measures of the tree over one file that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileTree {
    root: Sha256Hash,
    /// The number of the layer that holds the root alone; at most 50, since sizes fit in 64 bits.
    height: u32,
    /// The layer of pieces; the root's own where the file is not longer than a piece.
    piece_layer: u32,
    /// How many pieces the file has.
    pieces: u64,
}

impl FileTree {
    /// The tree with root `root` over a file of `size` bytes. `None` for an empty file, which has no tree.
    #[must_use]
    pub fn new(root: Sha256Hash, size: u64, piece_length: u32) -> Option<Self> {
        if size == 0 || piece_length < BLOCK_SIZE || !piece_length.is_power_of_two() {
            return None;
        }
        let blocks = size.div_ceil(u64::from(BLOCK_SIZE));
        let height = blocks.next_power_of_two().ilog2();
        let piece_layer = piece_layer_number(piece_length).min(height);
        Some(Self { root, height, piece_layer, pieces: size.div_ceil(u64::from(piece_length)) })
    }

    /// How many pieces the file has.
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    /// The layer in which there is one hash per piece; for a file not longer than a piece that of the root.
    #[must_use]
    pub fn piece_layer(&self) -> u32 {
        self.piece_layer
    }

    /// What one hash of a piece has to be, from the hashes of its blocks.
    #[must_use]
    pub fn piece_hash(&self, blocks: &[Sha256Hash]) -> Option<Sha256Hash> {
        root_above(blocks, 0, self.piece_layer)
    }

    /// Whether `layer` is the piece layer of this file: as many hashes as pieces, and the right root above them.
    #[must_use]
    pub fn has_piece_layer(&self, layer: &[Sha256Hash]) -> bool {
        layer.len() as u64 == self.pieces && root_above(layer, self.piece_layer, self.height) == Some(self.root)
    }

    /// The requests that fetch the piece layer, each with a proof up to the root. None for a file of one piece.
    pub fn piece_layer_requests(&self) -> impl Iterator<Item = HashRequest> + use<> {
        let this = *self;
        let groups = if this.pieces > 1 { this.pieces.div_ceil(u64::from(HASHES)) } else { 0 };
        (0..groups).map_while(move |group| {
            let index = group * u64::from(HASHES);
            let length = (this.pieces - index).min(u64::from(HASHES)).next_power_of_two().max(2);
            this.request(this.piece_layer, u32::try_from(index).ok()?, u32::try_from(length).ok()?)
        })
    }

    /// The request for the hashes of all blocks of the piece numbered `piece` in this file, with a proof up to the
    /// root. `None` for a file or piece of one block, whose hash is known, and where it would be too many hashes.
    #[must_use]
    pub fn block_request(&self, piece: u32) -> Option<HashRequest> {
        let length = 1u32.checked_shl(self.piece_layer)?;
        self.request(0, piece.checked_mul(length)?, length)
    }

    fn request(&self, base_layer: u32, index: u32, length: u32) -> Option<HashRequest> {
        let proof_layers = self.height.checked_sub(base_layer)?.checked_sub(1)?;
        let request = HashRequest { pieces_root: self.root, base_layer, index, length, proof_layers };
        self.uncles(&request).map(|_| request)
    }

    /// How many uncle hashes an answer to `request` holds after the hashes that it asks for. `None` where the request
    /// is not one about this tree: then it is to be rejected.
    #[must_use]
    pub fn uncles(&self, request: &HashRequest) -> Option<u32> {
        let layers_above = self.height.checked_sub(request.base_layer)?;
        let width = 1u64.checked_shl(layers_above)?;
        let asked = request.length.is_power_of_two() && (2..=HASHES).contains(&request.length);
        let aligned = asked && request.index.is_multiple_of(request.length);
        let inside = u64::from(request.index) + u64::from(request.length) <= width;
        let named = request.pieces_root == self.root;
        if !(aligned && inside && named && request.proof_layers < layers_above) {
            return None;
        }
        // The asked hashes give the nodes above them; uncles begin beside the node that is above them all.
        Some((request.proof_layers + 1).saturating_sub(request.length.ilog2()))
    }

    /// Whether `hashes` is a true answer to `request`, which must have asked for a proof up to the root.
    ///
    /// Takes at most as many digests as there are hashes. Nothing of an answer that fails may be kept.
    #[must_use]
    pub fn proves(&self, request: &HashRequest, hashes: &[Sha256Hash]) -> bool {
        let Some(uncles) = self.uncles(request) else {
            return false;
        };
        let complete = request.base_layer + request.proof_layers + 1 >= self.height;
        if !complete || hashes.len() as u64 != u64::from(request.length) + u64::from(uncles) {
            return false;
        }
        let (base, uncles) = hashes.split_at(request.length as usize);
        let top = request.base_layer + request.length.ilog2();
        let Some(mut node) = root_above(base, request.base_layer, top) else {
            return false;
        };
        let mut index = request.index / request.length;
        for uncle in uncles {
            node = if index.is_multiple_of(2) { above(node, *uncle) } else { above(*uncle, node) };
            index /= 2;
        }
        node == self.root
    }
}

/// The verified part of a file's tree from its pieces up: what answers `hash request`.
///
/// Invariant: `layers` begins with the piece layer and ends with the root; padding is left out of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceTree {
    tree: FileTree,
    layers: Vec<Vec<Sha256Hash>>,
}

impl PieceTree {
    /// The tree over `layer`, one hash per piece (of a file of one piece, its root). `None` where the root above them
    /// is not the file's.
    #[must_use]
    pub fn new(tree: FileTree, layer: Vec<Sha256Hash>) -> Option<Self> {
        if layer.len() as u64 != tree.pieces {
            return None;
        }
        let mut pad = padding(tree.piece_layer);
        let mut layers = vec![layer];
        for _ in tree.piece_layer..tree.height {
            let above = layer_above(layers.last()?, &mut pad);
            layers.push(above);
        }
        (layers.last()?.as_slice() == [tree.root]).then_some(Self { tree, layers })
    }

    /// The piece layer.
    #[must_use]
    pub fn pieces(&self) -> &[Sha256Hash] {
        self.layers.first().map(Vec::as_slice).unwrap_or_default()
    }

    /// The number in this file of the piece whose block hashes have to be known to answer `request`. `None` where
    /// [`answer`](Self::answer) does without, and where there is no answer.
    #[must_use]
    pub fn needs_blocks_of(&self, request: &HashRequest) -> Option<u32> {
        self.tree.uncles(request)?;
        let below = self.tree.piece_layer.checked_sub(request.base_layer).filter(|below| *below > 0)?;
        let per_piece = 1u32.checked_shl(below)?;
        let piece = request.index / per_piece;
        (request.length <= per_piece && u64::from(piece) < self.tree.pieces).then_some(piece)
    }

    /// The answer to a request for hashes of the piece layer or above: those hashes, then the uncles. `None`: reject.
    #[must_use]
    pub fn answer(&self, request: &HashRequest) -> Option<Vec<Sha256Hash>> {
        self.answer_with(request, &[])
    }

    /// The answer to a request for which [`needs_blocks_of`](Self::needs_blocks_of) named a piece, whose block hashes
    /// `blocks` are. `None` where they are not, or the request has no answer.
    #[must_use]
    pub fn answer_in_piece(&self, request: &HashRequest, blocks: &[Sha256Hash]) -> Option<Vec<Sha256Hash>> {
        let piece = self.needs_blocks_of(request)?;
        let mut pad = Sha256Hash::default();
        let mut inside = vec![blocks.to_vec()];
        for _ in 0..self.tree.piece_layer {
            let above = layer_above(inside.last()?, &mut pad);
            inside.push(above);
        }
        if inside.last()?.as_slice() != [*self.pieces().get(piece as usize)?] {
            return None;
        }
        self.answer_with(request, &inside)
    }

    /// `inside` are the layers below the asked piece, from its blocks up to itself, or nothing.
    fn answer_with(&self, request: &HashRequest, inside: &[Vec<Sha256Hash>]) -> Option<Vec<Sha256Hash>> {
        let uncles = self.tree.uncles(request)?;
        let first = u64::from(request.index);
        let mut answer = Vec::with_capacity(request.length as usize + uncles as usize);
        let pad = padding(request.base_layer);
        for index in first..first + u64::from(request.length) {
            answer.push(self.node(request.base_layer, index, inside)?.unwrap_or(pad));
        }
        let lowest = request.base_layer + request.length.ilog2();
        let mut index = first >> request.length.ilog2();
        let mut pad = padding(lowest);
        for layer in lowest..lowest + uncles {
            answer.push(self.node(layer, index ^ 1, inside)?.unwrap_or(pad));
            pad = above(pad, pad);
            index /= 2;
        }
        Some(answer)
    }

    /// The node at `index` of `layer`; inner `None` is padding, outer `None` a node that is not known.
    fn node(&self, layer: u32, index: u64, inside: &[Vec<Sha256Hash>]) -> Option<Option<Sha256Hash>> {
        if let Some(above_pieces) = layer.checked_sub(self.tree.piece_layer) {
            let nodes = self.layers.get(above_pieces as usize)?;
            return Some(nodes.get(usize::try_from(index).ok()?).copied());
        }
        let per_piece = 1u64.checked_shl(self.tree.piece_layer - layer)?;
        let nodes = inside.get(layer as usize)?;
        Some(nodes.get(usize::try_from(index % per_piece).ok()?).copied())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const K16: u64 = 16_384;

    /// Every layer of the whole padded tree, from the definition.
    fn all_layers(blocks: &[Sha256Hash]) -> Vec<Vec<Sha256Hash>> {
        let mut layer = blocks.to_vec();
        layer.resize(blocks.len().next_power_of_two(), Sha256Hash::default());
        let mut layers = vec![layer];
        while layers.last().unwrap().len() > 1 {
            let next = layers.last().unwrap().chunks(2).map(|pair| above(pair[0], pair[1])).collect();
            layers.push(next);
        }
        layers
    }

    struct Whole {
        blocks: Vec<Sha256Hash>,
        layers: Vec<Vec<Sha256Hash>>,
        tree: FileTree,
        pieces: PieceTree,
    }

    fn whole(blocks: u64, piece_length: u32) -> Whole {
        let blocks: Vec<_> = (0..blocks).map(|block| block_hash(&block.to_be_bytes())).collect();
        let layers = all_layers(&blocks);
        let root = layers.last().unwrap()[0];
        let tree = FileTree::new(root, blocks.len() as u64 * K16 - 1, piece_length).unwrap();
        let mut layer = layers[tree.piece_layer() as usize].clone();
        layer.truncate(usize::try_from(tree.pieces()).unwrap());
        let pieces = PieceTree::new(tree, layer).unwrap();
        Whole { blocks, layers, tree, pieces }
    }

    impl Whole {
        fn piece_blocks(&self, piece: u32) -> &[Sha256Hash] {
            let per_piece = 1 << self.tree.piece_layer();
            self.blocks.chunks(per_piece).nth(piece as usize).unwrap()
        }

        fn answer(&self, request: &HashRequest) -> Option<Vec<Sha256Hash>> {
            match self.pieces.needs_blocks_of(request) {
                Some(piece) => self.pieces.answer_in_piece(request, self.piece_blocks(piece)),
                None => self.pieces.answer(request),
            }
        }
    }

    #[test]
    fn padding_is_zeros_hashed_upwards() {
        assert_eq!(padding(0), Sha256Hash::default());
        assert_eq!(padding(1), block_hash(&[0; 64]));
        assert_eq!(padding(2), above(padding(1), padding(1)));
    }

    #[test]
    fn piece_layers_are_checked_against_the_root() {
        let Whole { tree, pieces, .. } = whole(700, 32_768);
        assert_eq!(tree.pieces(), 350);
        assert!(tree.has_piece_layer(pieces.pieces()));
        assert!(!tree.has_piece_layer(&pieces.pieces()[1..]));
        let mut wrong = pieces.pieces().to_vec();
        wrong[349].0[31] ^= 1;
        assert!(!tree.has_piece_layer(&wrong));
        wrong[349].0[31] ^= 1;
        wrong.push(padding(1));
        assert!(!tree.has_piece_layer(&wrong));
        assert!(PieceTree::new(tree, wrong).is_none());
    }

    #[test]
    fn a_piece_layer_is_fetched_in_groups_that_prove_themselves() {
        for (blocks, piece_length, requests) in [(1, 16_384, 0), (2, 16_384, 1), (700, 16_384, 2), (3_000, 32_768, 3)] {
            let whole = whole(blocks, piece_length);
            let mut fetched = Vec::new();
            for request in whole.tree.piece_layer_requests() {
                let answer = whole.answer(&request).unwrap();
                assert!(whole.tree.proves(&request, &answer));
                fetched.push(answer[..request.length as usize].to_vec());
            }
            assert_eq!(fetched.len(), requests);
            let mut fetched = fetched.concat();
            fetched.truncate(whole.pieces.pieces().len());
            assert!(requests == 0 || whole.tree.has_piece_layer(&fetched));
        }
    }

    #[test]
    fn block_hashes_of_a_piece_are_fetched_with_a_proof() {
        let whole = whole(13, 65_536);
        for piece in 0..4 {
            let request = whole.tree.block_request(piece).unwrap();
            let answer = whole.answer(&request).unwrap();
            assert!(whole.tree.proves(&request, &answer));
            assert_eq!(whole.pieces.answer_in_piece(&request, &answer[1..]), None);
        }
        assert_eq!(whole.tree.block_request(4), None);
    }

    #[test]
    fn e21_requests_outside_the_tree_have_no_answer() {
        let whole = whole(700, 32_768);
        let good = HashRequest { pieces_root: whole.tree.root, base_layer: 1, index: 4, length: 4, proof_layers: 8 };
        assert!(whole.answer(&good).is_some());
        let bad = [
            HashRequest { pieces_root: Sha256Hash([1; 32]), ..good },
            HashRequest { base_layer: 10, ..good },
            HashRequest { base_layer: 63, ..good },
            HashRequest { base_layer: u32::MAX, ..good },
            HashRequest { index: 5, ..good },
            HashRequest { index: 512, ..good },
            HashRequest { index: u32::MAX - 3, ..good },
            HashRequest { length: 0, ..good },
            HashRequest { length: 1, ..good },
            HashRequest { length: 3, ..good },
            HashRequest { index: 0, length: 1_024, ..good },
            HashRequest { index: 0, length: 1 << 31, ..good },
            HashRequest { proof_layers: 9, ..good },
            HashRequest { proof_layers: 255, ..good },
            HashRequest { proof_layers: u32::MAX, ..good },
        ];
        for request in bad {
            assert_eq!(whole.answer(&request), None, "{request:?}");
            assert!(!whole.tree.proves(&request, &[Sha256Hash::default(); 4]), "{request:?}");
        }
    }

    #[test]
    fn e22_false_hashes_prove_nothing() {
        let whole = whole(700, 32_768);
        let request = HashRequest { pieces_root: whole.tree.root, base_layer: 1, index: 4, length: 4, proof_layers: 8 };
        let answer = whole.answer(&request).unwrap();
        assert!(whole.tree.proves(&request, &answer));
        assert!(!whole.tree.proves(&request, &answer[..answer.len() - 1]));
        assert!(!whole.tree.proves(&request, &[&answer[..], &answer[..1]].concat()));
        assert!(!whole.tree.proves(&request, &vec![Sha256Hash::default(); answer.len()]));
        for at in 0..answer.len() {
            let mut flipped = answer.clone();
            flipped[at].0[at] ^= 0x10;
            assert!(!whole.tree.proves(&request, &flipped), "{at}");
        }
        let elsewhere = HashRequest { index: 8, ..request };
        assert!(!whole.tree.proves(&elsewhere, &answer));
        let without_root = HashRequest { proof_layers: 7, ..request };
        assert!(!whole.tree.proves(&without_root, &whole.answer(&without_root).unwrap()));
    }

    #[test]
    fn e24_files_of_one_block_or_none_have_nothing_to_ask_for() {
        assert!(FileTree::new(Sha256Hash::default(), 0, 16_384).is_none());
        let one = whole(1, 32_768);
        assert_eq!(one.pieces.pieces(), [one.tree.root]);
        assert_eq!(one.tree.block_request(0), None);
        assert_eq!(one.tree.piece_layer_requests().count(), 0);
        assert_eq!(one.tree.piece_hash(&one.blocks), Some(one.tree.root));
        let request = HashRequest { pieces_root: one.tree.root, base_layer: 0, index: 0, length: 2, proof_layers: 0 };
        assert_eq!(one.answer(&request), None);
    }

    #[test]
    fn sizes_at_the_end_of_the_range_do_not_overflow() {
        let tree = FileTree::new(Sha256Hash::default(), u64::MAX, 16_384).unwrap();
        assert_eq!(tree.height, 50);
        let request =
            HashRequest { pieces_root: tree.root, base_layer: 0, index: u32::MAX - 1, length: 2, proof_layers: 49 };
        assert_eq!(tree.uncles(&request), Some(49));
        assert!(root_above(&[tree.root], 0, u32::MAX).is_none());
        assert!(root_above(&[], 0, 3).is_none());
        assert!(root_above(&[tree.root; 9], 0, 3).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn answers_are_nodes_of_the_whole_tree_and_prove_themselves(
            blocks in 1u64..300, piece in 0u32..5, base in 0u32..10, index in 0u32..20, length in 1u32..6, short in 0u32..3
        ) {
            let whole = whole(blocks, 16_384 << piece);
            let length = 1 << length;
            let proof_layers = whole.tree.height.saturating_sub(base + 1).saturating_sub(short);
            let request = HashRequest {
                pieces_root: whole.tree.root, base_layer: base, index: index * length, length, proof_layers,
            };
            if let Some(answer) = whole.answer(&request) {
                let from = request.index as usize;
                let layer = &whole.layers[base as usize];
                prop_assert_eq!(&answer[..length as usize], &layer[from..from + length as usize]);
                let full = base + proof_layers + 1 >= whole.tree.height;
                prop_assert_eq!(whole.tree.proves(&request, &answer), full);
            }
        }
    }
}
