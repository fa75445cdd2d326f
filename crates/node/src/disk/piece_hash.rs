//! Whether the bytes of a piece are those that its torrent names.
//!
//! v1 hashes a piece with SHA-1, padding included; v2 hashes each block of a file's bytes with SHA-256 and has a tree
//! above them (BEP 52). A hybrid must match both: one that matches only one of them names two contents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use obt_digest::{Hashers, Message, Sha1, Sha256, digest_each};
use obt_storage::Layout;
use obt_swarm::Verdict;
use obt_wire::merkle::root_above;
use obt_wire::metainfo::Metainfo;
use obt_wire::{BLOCK_SIZE, PieceIndex, Sha1Hash, Sha256Hash};
use sha1::Digest;

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

    /// A piece of which nothing is hashed yet: its blocks follow, in order.
    pub(super) fn begin(&self, piece: PieceIndex) -> HalfHashed {
        let hashes = self.metainfo.info.hashes;
        let geometry = self.layout.geometry();
        HalfHashed {
            piece,
            sha1: hashes.v1.map(|_| Message::default()),
            leaves: Vec::with_capacity(hashes.v2.map_or(0, |_| geometry.blocks(piece) as usize)),
            blocks: 0,
            left: geometry.piece_size(piece),
            data_left: hashes.v2.map_or(0, |_| geometry.data_size(piece)),
        }
    }

    /// Compares pieces all of whose blocks are hashed with what the torrent says, in their order.
    pub(super) fn compare(&self, hashed: Vec<HalfHashed>) -> Vec<Outcome> {
        let hashed = PieceHasher::new(hashed).finish().into_iter();
        let outcomes = hashed.map(|Hashed { piece, v1, leaves }| {
            let verdict = self.verdict(piece, v1, &leaves);
            Outcome { verdict, leaves }
        });
        outcomes.collect()
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
        let hash = || {
            let hashed = PieceHasher::new(vec![self.begin(piece)]).finish().into_iter().next();
            hashed.map_or((None, Vec::new()), |hashed| (hashed.v1, hashed.leaves))
        };
        let (v1, leaves) = zeros.get_or_insert_with(hash);
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
        let v1 = info.piece_hash(piece);
        let v2 = info.hashes.v2.and_then(|_| self.expected_v2(piece));
        Expected { v1, v2 }
    }

    /// In v2 and hybrid torrents a piece has bytes of one file only.
    fn expected_v2(&self, piece: PieceIndex) -> Option<V2Hash> {
        let number = self.layout.files_of(piece).next()?;
        let file = self.metainfo.info.files.get(self.layout.file(number)?.listed as usize)?;
        let root = self.metainfo.info.root(file)?;
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

/// Hashes pieces side by side, a stretch of each at a time. Every kind of hash goes over a stretch before the next, while it is
/// in the cache.
#[derive(Debug)]
pub(super) struct PieceHasher {
    sha1: Option<Hashers<Sha1>>,
    lanes: Vec<HalfHashed>,
}

/// A piece whose first blocks are hashed.
#[derive(Debug)]
pub(super) struct HalfHashed {
    piece: PieceIndex,
    /// None in a torrent without v1, and while it is hashed side by side with others.
    sha1: Option<Message<Sha1>>,
    leaves: Vec<Sha256Hash>,
    /// How many blocks these are.
    blocks: u32,
    /// Bytes of the piece that were not hashed yet.
    left: u32,
    /// Those of them that v2 hashes: not padding at the tail; none of a v1 torrent.
    data_left: u32,
}

/// The hashes of a piece.
struct Hashed {
    piece: PieceIndex,
    v1: Option<Sha1Hash>,
    leaves: Vec<Sha256Hash>,
}

impl PieceHasher {
    /// Goes on with these, of one torrent.
    pub(super) fn new(mut lanes: Vec<HalfHashed>) -> Self {
        let sha1: Option<Vec<_>> = lanes.iter_mut().map(|lane| lane.sha1.take()).collect();
        Self { sha1: sha1.map(Hashers::from), lanes }
    }

    /// The pieces, in their order.
    pub(super) fn into_pieces(self) -> Vec<HalfHashed> {
        let mut sha1 = self.sha1.map(Hashers::into_messages).unwrap_or_default().into_iter();
        let whole = |lane| HalfHashed { sha1: sha1.next(), ..lane };
        self.lanes.into_iter().map(whole).collect()
    }

    /// The next blocks of each piece, in the order of the pieces; none of one that has no more. A block is [`BLOCK_SIZE`]
    /// bytes, or less at the end of the piece or of its data.
    pub(super) fn blocks<'a>(&mut self, stretches: &[Vec<&'a [u8]>]) {
        if let Some(sha1) = &mut self.sha1 {
            for at in 0..stretches.iter().map(Vec::len).max().unwrap_or_default() {
                let block = |stretch: &Vec<&'a [u8]>| stretch.get(at).copied().unwrap_or_default();
                sha1.update(&stretches.iter().map(block).collect::<Vec<_>>());
            }
        }
        let mut data = Vec::new();
        let mut counts = Vec::with_capacity(stretches.len());
        for (lane, stretch) in self.lanes.iter_mut().zip(stretches) {
            let before = data.len();
            data.extend(stretch.iter().filter_map(|block| lane.take(block)));
            counts.push(data.len() - before);
        }
        let mut leaves = digest_each::<Sha256>(&data).into_iter().map(Sha256Hash);
        for (lane, count) in self.lanes.iter_mut().zip(counts) {
            lane.leaves.extend(leaves.by_ref().take(count));
        }
    }

    /// What is left of the pieces is zeros: padding that nobody sends or keeps.
    fn finish(mut self) -> Vec<Hashed> {
        while self.lanes.iter().any(|lane| lane.left > 0) {
            let zeros = |lane: &HalfHashed| ZEROS.get(..lane.left.min(BLOCK_SIZE) as usize).unwrap_or(&ZEROS);
            let stretches: Vec<_> = self.lanes.iter().map(|lane| vec![zeros(lane)]).collect();
            self.blocks(&stretches);
        }
        let mut sha1 = self.sha1.map(Hashers::finish).unwrap_or_default().into_iter().map(Sha1Hash);
        let hashed = |lane: HalfHashed| Hashed { piece: lane.piece, v1: sha1.next(), leaves: lane.leaves };
        self.lanes.into_iter().map(hashed).collect()
    }
}

impl HalfHashed {
    /// How many of its first blocks are hashed.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Notes that a block is being hashed; returns what v2 hashes of it.
    fn take<'a>(&mut self, block: &'a [u8]) -> Option<&'a [u8]> {
        let length = u32::try_from(block.len()).unwrap_or(u32::MAX);
        let data = block.get(..length.min(self.data_left) as usize).filter(|data| !data.is_empty());
        self.blocks += 1;
        self.left = self.left.saturating_sub(length);
        self.data_left = self.data_left.saturating_sub(length);
        data
    }
}

/// The digest of a block by which peers are blamed in a v1 torrent: SHA-1, then zeros.
pub(super) fn v1_block_digest(block: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..20].copy_from_slice(&sha1::Sha1::digest(block));
    digest
}
