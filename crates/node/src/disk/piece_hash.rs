//! Whether the bytes of a piece are those that its torrent names.
//!
//! v1 hashes a piece with SHA-1, padding included; v2 hashes each block of a file's bytes with SHA-256 and has a tree
//! above them (BEP 52). A hybrid must match both: one that matches only one of them names two contents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use obt_storage::Layout;
use obt_swarm::Verdict;
use obt_wire::merkle::{block_hash, root_above};
use obt_wire::metainfo::Metainfo;
use obt_wire::{BLOCK_SIZE, PieceIndex, Sha1Hash, Sha256Hash};
use sha1::{Digest, Sha1};

/// Zeros as long as a block.
static ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];

/// The root of the tree above the blocks of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct V2Hash {
    root: Sha256Hash,
    /// In which layer it is: 0 for a piece of one block.
    layer: u32,
}

/// What a piece has to hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    v1: Option<Sha1Hash>,
    v2: Option<V2Hash>,
}

/// What came out of hashing a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// None where the torrent's hashes for this piece are not known yet.
    pub(super) verdict: Option<Verdict>,
    /// SHA-256 of each block's data (v2 and hybrid, else empty).
    pub(super) leaves: Vec<Sha256Hash>,
}

/// The hashes of a torrent's pieces.
#[derive(Debug)]
pub(super) struct PieceHashes {
    metainfo: Arc<Metainfo>,
    layout: Arc<Layout>,
    /// Piece layers that came from peers.
    layers: RwLock<BTreeMap<Sha256Hash, Vec<Sha256Hash>>>,
    /// What ordinary pieces of zeros hash to, once somebody asked.
    zeros: Mutex<Option<(Option<Sha1Hash>, Vec<Sha256Hash>)>>,
}

impl PieceHashes {
    pub(super) fn new(metainfo: Arc<Metainfo>, layout: Arc<Layout>) -> Self {
        Self { metainfo, layout, layers: RwLock::default(), zeros: Mutex::default() }
    }

    /// Notes a piece layer, checked against its root.
    pub(super) fn add_layer(&self, root: Sha256Hash, layer: Vec<Sha256Hash>) {
        self.layers.write().unwrap_or_else(PoisonError::into_inner).insert(root, layer);
    }

    /// Begins to hash a piece: its blocks follow, in order.
    pub(super) fn begin(&self, piece: PieceIndex) -> PieceHasher {
        let hashes = self.metainfo.info.hashes;
        let geometry = self.layout.geometry();
        PieceHasher {
            sha1: hashes.v1.map(|_| Sha1::new()),
            leaves: hashes.v2.map(|_| Vec::with_capacity(geometry.blocks(piece) as usize)),
            left: geometry.piece_size(piece),
            data_left: geometry.data_size(piece),
        }
    }

    /// Compares what was hashed with what the torrent says.
    pub(super) fn compare(&self, piece: PieceIndex, hasher: PieceHasher) -> Outcome {
        let (v1, leaves) = hasher.finish();
        let verdict = self.verdict(piece, v1, &leaves);
        Outcome { verdict, leaves }
    }

    /// What a piece of nothing but zeros is; hashes only once for all pieces that have the usual length. None for
    /// other pieces.
    pub(super) fn zeros(&self, piece: PieceIndex) -> Option<Outcome> {
        let geometry = self.layout.geometry();
        let usual = geometry.piece_length();
        if geometry.piece_size(piece) != usual || geometry.data_size(piece) != usual {
            return None;
        }
        let mut zeros = self.zeros.lock().unwrap_or_else(PoisonError::into_inner);
        let (v1, leaves) = zeros.get_or_insert_with(|| self.begin(piece).finish());
        Some(Outcome { verdict: self.verdict(piece, *v1, leaves), leaves: Vec::new() })
    }

    fn verdict(&self, piece: PieceIndex, v1: Option<Sha1Hash>, leaves: &[Sha256Hash]) -> Option<Verdict> {
        let expected = self.expected(piece);
        let v1 = expected.v1.map(|expected| v1 == Some(expected));
        let v2 = expected.v2.map(|expected| root_above(leaves, 0, expected.layer) == Some(expected.root));
        match (v1, v2) {
            (None, None) => None,
            (Some(true) | None, Some(true) | None) => Some(Verdict::Good),
            (Some(false) | None, Some(false) | None) => Some(Verdict::Bad),
            _ => Some(Verdict::Inconsistent),
        }
    }

    fn expected(&self, piece: PieceIndex) -> Expected {
        let info = &self.metainfo.info;
        let v1 = info.pieces.get(piece.0 as usize).copied();
        let v2 = info.hashes.v2.and_then(|_| self.expected_v2(piece));
        Expected { v1, v2 }
    }

    /// In v2 and hybrid torrents a piece has bytes of one file only.
    fn expected_v2(&self, piece: PieceIndex) -> Option<V2Hash> {
        let number = self.layout.files_of(piece).next()?;
        let file = self.metainfo.info.files.get(self.layout.file(number)?.listed as usize)?;
        let root = file.pieces_root?;
        let tree = self.metainfo.info.tree(file)?;
        if tree.pieces() == 1 {
            return Some(V2Hash { root, layer: tree.piece_layer() });
        }
        let at = piece.0.checked_sub(self.layout.pieces_of(number).start)? as usize;
        let known = self.metainfo.piece_layers.get(&root).and_then(|layer| layer.get(at)).copied();
        let root = known.or_else(|| {
            let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
            layers.get(&root).and_then(|layer| layer.get(at)).copied()
        })?;
        Some(V2Hash { root, layer: tree.piece_layer() })
    }
}

/// Hashes one piece, block by block. Every kind of hash goes over a block before the next, while it is in the cache.
#[derive(Debug)]
pub(super) struct PieceHasher {
    sha1: Option<Sha1>,
    leaves: Option<Vec<Sha256Hash>>,
    /// Bytes of the piece that were not hashed yet.
    left: u32,
    /// Those of them that are not padding at the tail.
    data_left: u32,
}

impl PieceHasher {
    /// The next block: [`BLOCK_SIZE`] bytes, or less at the end of the piece or of its data.
    pub(super) fn block(&mut self, bytes: &[u8]) {
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let (Some(leaves), Some(data)) = (&mut self.leaves, bytes.get(..length.min(self.data_left) as usize))
            && !data.is_empty()
        {
            leaves.push(block_hash(data));
        }
        self.left = self.left.saturating_sub(length);
        self.data_left = self.data_left.saturating_sub(length);
    }

    /// What is left of the piece is zeros: padding that nobody sends or keeps.
    fn finish(mut self) -> (Option<Sha1Hash>, Vec<Sha256Hash>) {
        while self.left > 0 {
            let length = self.left.min(BLOCK_SIZE);
            self.block(ZEROS.get(..length as usize).unwrap_or(&ZEROS));
        }
        (self.sha1.map(|sha1| Sha1Hash(sha1.finalize().into())), self.leaves.unwrap_or_default())
    }
}

/// The digest of a block by which peers are blamed in a v1 torrent: SHA-1, then zeros.
pub(super) fn v1_block_digest(block: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..20].copy_from_slice(&Sha1::digest(block));
    digest
}
