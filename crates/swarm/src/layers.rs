//! Hashes of merkle trees from peers (BEP 52): piece layers that the metainfo lacks, and the block hashes of a piece
//! that failed, to tell who lied. Answers others from the layers that are known.
//!
//! Every answer carries a proof up to the file's root, so nothing unproven is ever kept, and a false one convicts its
//! sender.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use obt_wire::merkle::{FileTree, PieceTree};
use obt_wire::metainfo::{File, Info, Metainfo};
use obt_wire::peer::HashRequest;
use obt_wire::{Bitfield, PieceIndex, Sha256Hash};

use crate::event::PeerKey;
use crate::limits::{ASK_AGAIN, ASK_TIMEOUT, HASH_REQUESTS, TREE_HASHES};

/// What an answer to a hash request led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proven {
    /// More is missing.
    Part,
    /// Nobody asked for it.
    Unasked,
    /// Its proof does not hold: the peer lies.
    False,
    /// The piece layer of the files with this root is complete; these are their pieces.
    Layer(Sha256Hash, Vec<Sha256Hash>, Vec<Range<u32>>),
    /// The hashes of all blocks of this piece.
    Blocks(PieceIndex, Vec<Sha256Hash>),
}

/// What somebody's hash request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// These hashes and their proof.
    Hashes(Vec<Sha256Hash>),
    /// It depends on the hashes of the blocks of this piece, which we have.
    NeedsBlocks(PieceIndex),
    /// Nothing that we know.
    Reject,
}

/// The pieces of one file that has several, or of several files with the same bytes, hence the same root.
#[derive(Debug)]
struct Tree {
    tree: FileTree,
    /// Where its pieces lie, for each file that has this root.
    pieces: Vec<Range<u32>>,
    layer: Layer,
}

/// Where the hashes of a tree's pieces are.
#[derive(Debug)]
enum Layer {
    /// In the metainfo.
    Metainfo,
    /// Some are here, by the index of the first of each run; every run is proven.
    Partial(BTreeMap<u32, Vec<Sha256Hash>>),
    /// Peers sent them.
    Fetched(Vec<Sha256Hash>),
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Layer,
    Blocks(PieceIndex),
}

/// What is known of a peer as a source of hashes.
#[derive(Debug, Default)]
struct Source {
    asked: Vec<(HashRequest, Purpose, Instant)>,
    rests_until: Option<Instant>,
}

/// See the module.
///
/// Invariant: a request of `Purpose::Layer` is either in `wanted` or asked of exactly one peer, until it is answered.
#[derive(Debug)]
pub(crate) struct Layers {
    metainfo: Arc<Metainfo>,
    trees: BTreeMap<Sha256Hash, Tree>,
    /// The files that have one piece, whose hash is the root, by their number and in the order of their roots. There may
    /// be 200,000 of them: what else there is to know of one is looked up when somebody asks.
    small: Vec<u32>,
    wanted: VecDeque<(HashRequest, Purpose)>,
    sources: BTreeMap<PeerKey, Source>,
    /// Trees that answered a request, so that the next one costs nothing.
    built: BTreeMap<Sha256Hash, PieceTree>,
    built_hashes: u64,
}

impl Layers {
    /// What `metainfo` says of the trees of its files.
    pub(crate) fn new(metainfo: &Arc<Metainfo>) -> Self {
        let mut trees: BTreeMap<Sha256Hash, Tree> = BTreeMap::new();
        let mut small = Vec::new();
        let info = &metainfo.info;
        for (number, file) in (0..).zip(&info.files) {
            let Some((root, tree)) = info.root(file).zip(info.tree(file)) else { continue };
            if tree.pieces() == 1 {
                small.push(number);
                continue;
            }
            let first = first_piece(file, info.geometry.piece_length());
            let count = u32::try_from(tree.pieces()).unwrap_or(u32::MAX);
            let entry = trees.entry(root).or_insert_with(|| Tree {
                tree,
                pieces: Vec::new(),
                layer: match metainfo.piece_layers.contains_key(&root) {
                    true => Layer::Metainfo,
                    false => Layer::Partial(BTreeMap::new()),
                },
            });
            entry.pieces.push(first..first.saturating_add(count));
        }
        small.shrink_to_fit();
        small.sort_unstable_by_key(|number: &u32| root_of(info, *number));
        let missing = trees.values().filter(|tree| tree.is_partial());
        let wanted = missing.flat_map(|tree| tree.tree.piece_layer_requests()).map(|r| (r, Purpose::Layer)).collect();
        Self {
            metainfo: Arc::clone(metainfo),
            trees,
            small,
            wanted,
            sources: BTreeMap::new(),
            built: BTreeMap::new(),
            built_hashes: 0,
        }
    }

    /// Whether the hashes of all pieces are known.
    pub(crate) fn are_complete(&self) -> bool {
        !self.trees.values().any(Tree::is_partial)
    }

    /// Pieces whose hashes are not known.
    pub(crate) fn unverifiable(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.trees.values().filter(|tree| tree.is_partial()).flat_map(|tree| tree.pieces.iter().cloned())
    }

    /// A peer speaks BEP 52 about this torrent.
    pub(crate) fn add_source(&mut self, peer: PeerKey) {
        self.sources.entry(peer).or_default();
    }

    /// A peer is gone: what it was asked is asked of others.
    pub(crate) fn remove_source(&mut self, peer: PeerKey) {
        if let Some(source) = self.sources.remove(&peer) {
            self.wanted.extend(source.asked.into_iter().map(|(request, purpose, _)| (request, purpose)));
        }
    }

    /// A piece failed and several peers sent it: the hashes of its blocks would tell who lied.
    pub(crate) fn want_blocks(&mut self, piece: PieceIndex) {
        let purpose = Purpose::Blocks(piece);
        let large = self.trees.values().find_map(|tree| Some((tree.tree, tree.number_of(piece)?)));
        let found = large.or_else(|| self.small_tree(piece));
        let Some(request) = found.and_then(|(tree, number)| tree.block_request(number)) else {
            return;
        };
        let asked = self.sources.values().flat_map(|source| &source.asked).map(|(_, purpose, _)| purpose);
        if !asked.chain(self.wanted.iter().map(|(_, purpose)| purpose)).any(|other| *other == purpose) {
            self.wanted.push_front((request, purpose));
        }
    }

    /// Nobody is suspected of that piece any more.
    pub(crate) fn forget_blocks(&mut self, piece: PieceIndex) {
        self.wanted.retain(|(_, purpose)| *purpose != Purpose::Blocks(piece));
    }

    /// When [`requests`](Self::requests) may have more to ask.
    pub(crate) fn due(&self) -> Option<Instant> {
        let asked = self.sources.values().flat_map(|source| &source.asked).map(|(_, _, at)| *at + ASK_TIMEOUT);
        let rests = self.sources.values().filter_map(|source| source.rests_until).filter(|_| !self.wanted.is_empty());
        asked.chain(rests).min()
    }

    /// What to ask of whom, as of now, of those that may be asked: also where earlier requests lapsed.
    pub(crate) fn requests(&mut self, may_ask: impl Fn(PeerKey) -> bool, now: Instant) -> Vec<(PeerKey, HashRequest)> {
        for source in self.sources.values_mut() {
            source.lapse(&mut self.wanted, now);
        }
        let mut requests = Vec::new();
        for (peer, source) in self.sources.iter_mut().filter(|(peer, _)| may_ask(**peer)) {
            while source.rests_until.is_none() && source.asked.len() < HASH_REQUESTS {
                let Some((request, purpose)) = self.wanted.pop_front() else {
                    return requests;
                };
                source.asked.push((request, purpose, now));
                requests.push((*peer, request));
            }
        }
        requests
    }

    /// A peer will not answer: others are asked, and it rests.
    pub(crate) fn rejected(&mut self, peer: PeerKey, request: &HashRequest, now: Instant) -> bool {
        let Some(source) = self.sources.get_mut(&peer) else {
            return false;
        };
        let Some(at) = source.asked.iter().position(|(asked, _, _)| asked == request) else {
            return false;
        };
        let (request, purpose, _) = source.asked.swap_remove(at);
        source.rests_until = Some(now + ASK_AGAIN);
        match purpose {
            Purpose::Layer => self.wanted.push_back((request, purpose)),
            // The next try of the piece settles it too.
            Purpose::Blocks(_) if self.sources.values().all(|source| source.rests_until.is_some()) => {}
            Purpose::Blocks(_) => self.wanted.push_front((request, purpose)),
        }
        true
    }

    /// Hashes came in.
    pub(crate) fn answered(&mut self, peer: PeerKey, request: &HashRequest, hashes: &[Sha256Hash]) -> Proven {
        let Some(source) = self.sources.get_mut(&peer) else {
            return Proven::Unasked;
        };
        let Some(at) = source.asked.iter().position(|(asked, _, _)| asked == request) else {
            return Proven::Unasked;
        };
        let (request, purpose, _) = source.asked.swap_remove(at);
        let Some(tree) = self.tree(request.pieces_root) else {
            return Proven::Unasked;
        };
        if !tree.proves(&request, hashes) {
            self.wanted.push_front((request, purpose));
            return Proven::False;
        }
        let base = hashes.get(..request.length as usize).unwrap_or_default();
        match purpose {
            Purpose::Blocks(piece) => Proven::Blocks(piece, base.to_vec()),
            Purpose::Layer => {
                self.trees.get_mut(&request.pieces_root).map_or(Proven::Unasked, |tree| tree.add_run(&request, base))
            }
        }
    }

    /// What somebody's request is answered with, by somebody who has these pieces.
    pub(crate) fn answer(&mut self, request: &HashRequest, have: &Bitfield) -> Answer {
        let Some(built) = self.built(request.pieces_root) else {
            return Answer::Reject;
        };
        let Some(number) = built.needs_blocks_of(request) else {
            return built.answer(request).map_or(Answer::Reject, Answer::Hashes);
        };
        let large = self.trees.get(&request.pieces_root).into_iter().flat_map(|tree| &tree.pieces);
        let length = self.metainfo.info.geometry.piece_length();
        let small = self.small_files(request.pieces_root).map(|file| first_piece(file, length));
        let firsts = large.map(|range| range.start).chain(small);
        let mut pieces = firsts.map(|first| PieceIndex(first.saturating_add(number)));
        pieces.find(|piece| have.has(*piece)).map_or(Answer::Reject, Answer::NeedsBlocks)
    }

    /// The answer to a request that [needs](Answer::NeedsBlocks) these hashes of a piece's blocks; None where they are not
    /// those of the piece.
    pub(crate) fn answer_with_blocks(
        &mut self,
        request: &HashRequest,
        blocks: &[Sha256Hash],
    ) -> Option<Vec<Sha256Hash>> {
        self.built(request.pieces_root)?.answer_in_piece(request, blocks)
    }

    /// The tree with this root.
    fn tree(&self, root: Sha256Hash) -> Option<FileTree> {
        let large = self.trees.get(&root).map(|tree| tree.tree);
        large.or_else(|| self.metainfo.info.tree(self.small_files(root).next()?))
    }

    /// The files of one piece with this root.
    fn small_files(&self, root: Sha256Hash) -> impl Iterator<Item = &File> {
        let info = &self.metainfo.info;
        let first = self.small.partition_point(|number| root_of(info, *number) < Some(root));
        let from = self.small.get(first..).unwrap_or_default();
        let files = from.iter().filter_map(|number| info.files.get(*number as usize));
        files.take_while(move |file| info.root(file) == Some(root))
    }

    /// The tree of the file of one piece that this piece is, and the piece's number in it.
    fn small_tree(&self, piece: PieceIndex) -> Option<(FileTree, u32)> {
        let info = &self.metainfo.info;
        let begin = u64::from(piece.0) * u64::from(info.geometry.piece_length());
        let at = info.files.partition_point(|file| file.offset.saturating_add(file.size) <= begin);
        let tree = info.files.get(at).and_then(|file| info.tree(file))?;
        (tree.pieces() == 1).then_some((tree, 0))
    }

    /// The tree with this root, from its pieces up.
    fn built(&mut self, root: Sha256Hash) -> Option<&PieceTree> {
        if !self.built.contains_key(&root) {
            self.build(root)?;
        }
        self.built.get(&root)
    }

    fn build(&mut self, root: Sha256Hash) -> Option<()> {
        let layer = match self.trees.get(&root).map(|tree| &tree.layer) {
            None => vec![root],
            Some(Layer::Metainfo) => self.metainfo.piece_layers.get(&root)?.clone(),
            Some(Layer::Partial(_)) => return None,
            Some(Layer::Fetched(layer)) => layer.clone(),
        };
        let hashes = 2 * layer.len() as u64;
        let built = PieceTree::new(self.tree(root)?, layer)?;
        if self.built_hashes + hashes > TREE_HASHES {
            self.built.clear();
            self.built_hashes = 0;
        }
        self.built_hashes += hashes;
        self.built.insert(root, built);
        Some(())
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let asked =
            self.sources.values().flat_map(|source| &source.asked).map(|(request, purpose, _)| (request, purpose));
        for (request, purpose) in asked.chain(self.wanted.iter().map(|(request, purpose)| (request, purpose))) {
            let key = (request.pieces_root, request.base_layer, request.index);
            if *purpose == Purpose::Layer && !seen.insert(key) {
                return Err(format!("layers: {request:?} is asked of two peers"));
            }
        }
        Ok(())
    }
}

fn root_of(info: &Info, number: u32) -> Option<Sha256Hash> {
    info.root(info.files.get(number as usize)?)
}

fn first_piece(file: &File, piece_length: u32) -> u32 {
    u32::try_from(file.offset / u64::from(piece_length)).unwrap_or(u32::MAX)
}

impl Tree {
    /// The number in its file of a piece of the torrent.
    fn number_of(&self, piece: PieceIndex) -> Option<u32> {
        self.pieces.iter().find(|range| range.contains(&piece.0)).map(|range| piece.0 - range.start)
    }

    fn is_partial(&self) -> bool {
        matches!(self.layer, Layer::Partial(_))
    }

    fn add_run(&mut self, request: &HashRequest, base: &[Sha256Hash]) -> Proven {
        let Layer::Partial(runs) = &mut self.layer else {
            return Proven::Part;
        };
        // The last run is asked for in a power of two: what is past the file is padding.
        let real = self.tree.pieces().saturating_sub(u64::from(request.index));
        let real = usize::try_from(real).unwrap_or(usize::MAX).min(base.len());
        runs.insert(request.index, base.get(..real).unwrap_or_default().to_vec());
        let known: u64 = runs.values().map(|run| run.len() as u64).sum();
        if known < self.tree.pieces() {
            return Proven::Part;
        }
        let layer: Vec<Sha256Hash> = std::mem::take(runs).into_values().flatten().collect();
        self.layer = Layer::Fetched(layer.clone());
        Proven::Layer(request.pieces_root, layer, self.pieces.clone())
    }
}

impl Source {
    fn lapse(&mut self, wanted: &mut VecDeque<(HashRequest, Purpose)>, now: Instant) {
        self.rests_until = self.rests_until.filter(|until| *until > now);
        let late = |(_, _, at): &(HashRequest, Purpose, Instant)| now.saturating_duration_since(*at) >= ASK_TIMEOUT;
        if !self.asked.iter().any(late) {
            return;
        }
        self.rests_until = Some(now + ASK_AGAIN);
        wanted.extend(self.asked.drain(..).map(|(request, purpose, _)| (request, purpose)));
    }
}

#[cfg(test)]
mod tests {
    use obt_wire::BLOCK_SIZE;
    use obt_wire::merkle::{block_hash, root_above};
    use obt_wire::metainfo::{Draft, Version};

    use super::*;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn moment() -> Instant {
        Instant::now()
    }

    fn leaf(block: u32) -> Sha256Hash {
        block_hash(&block.to_be_bytes())
    }

    /// Files of these many blocks, with the same bytes as far as they are equally long, in pieces of two blocks.
    fn metainfo(files: &[u32]) -> Metainfo {
        let named = (0..)
            .zip(files)
            .map(|(at, blocks): (u32, _)| (vec![format!("{at:04}")], u64::from(*blocks) * u64::from(BLOCK_SIZE)));
        let draft = Draft::folder("folder", named.collect(), 2 * BLOCK_SIZE, Version::V2).unwrap();
        let layers = files.iter().map(|blocks| {
            let leaves: Vec<Sha256Hash> = (0..*blocks).map(leaf).collect();
            let top = 1.min(blocks.next_power_of_two().ilog2());
            leaves.chunks(2).map(|piece| root_above(piece, 0, top).unwrap()).collect()
        });
        draft.finish(&[], layers.collect()).unwrap()
    }

    fn bare(metainfo: &Metainfo) -> Layers {
        Layers::new(&Arc::new(Metainfo { piece_layers: BTreeMap::new(), ..metainfo.clone() }))
    }

    /// What somebody answers who has no piece.
    fn told(layers: &mut Layers, request: &HashRequest) -> Vec<Sha256Hash> {
        match layers.answer(request, &Bitfield::empty(0)) {
            Answer::Hashes(hashes) => hashes,
            other => panic!("{other:?}"),
        }
    }

    fn full(metainfo: &Metainfo) -> Layers {
        Layers::new(&Arc::new(metainfo.clone()))
    }

    #[test]
    fn a_layer_is_gathered_from_several_peers_in_any_order() {
        let metainfo = metainfo(&[2_500]);
        let (mut layers, mut seed, now) = (bare(&metainfo), full(&metainfo), moment());
        layers.add_source(A);
        layers.add_source(B);
        let mut requests = layers.requests(|_| true, now);
        assert_eq!(requests.len(), 3, "1,250 hashes, 512 at a time");
        requests.reverse();
        for (peer, request) in &requests[..2] {
            let answer = told(&mut seed, request);
            assert_eq!(layers.answered(*peer, request, &answer), Proven::Part);
        }
        let (peer, request) = &requests[2];
        let answer = told(&mut seed, request);
        let (root, hashes) = metainfo.piece_layers.first_key_value().unwrap();
        let pieces = layers.unverifiable().collect();
        assert_eq!(layers.answered(*peer, request, &answer), Proven::Layer(*root, hashes.clone(), pieces));
        assert_eq!((layers.unverifiable().count(), layers.requests(|_| true, now).len(), layers.due()), (0, 0, None));
        assert_eq!(told(&mut layers, request), told(&mut seed, request), "and can be handed on");
    }

    #[test]
    fn e24_files_with_one_root_are_fetched_once_and_small_and_empty_ones_never() {
        let metainfo = metainfo(&[8, 0, 1, 2, 8]);
        let (mut layers, mut seed, now) = (bare(&metainfo), full(&metainfo), moment());
        assert_eq!(layers.unverifiable().collect::<Vec<_>>(), [0..4, 6..10]);
        layers.add_source(A);
        let requests = layers.requests(|_| true, now);
        let [(A, request)] = &requests[..] else { panic!("{requests:?}") };
        let answer = told(&mut seed, request);
        let proven = layers.answered(A, request, &answer);
        assert!(matches!(proven, Proven::Layer(_, _, pieces) if pieces == [0..4, 6..10]));
    }

    #[test]
    fn e22_false_answers_convict_and_the_request_goes_to_others() {
        let metainfo = metainfo(&[8]);
        let (mut layers, mut seed, now) = (bare(&metainfo), full(&metainfo), moment());
        layers.add_source(A);
        let (_, request) = layers.requests(|_| true, now)[0];
        let right = told(&mut seed, &request);
        let mut wrong = right.clone();
        wrong[1].0[7] ^= 1;
        assert_eq!(layers.answered(B, &request, &right), Proven::Unasked);
        for answer in [&wrong[..], &right[..3], &[], &vec![Sha256Hash::default(); right.len()]] {
            assert_eq!(layers.answered(A, &request, answer), Proven::False);
            assert_eq!(layers.requests(|_| true, now), [(A, request)]);
        }
        layers.remove_source(A);
        layers.add_source(B);
        assert_eq!(layers.requests(|_| true, now), [(B, request)]);
        assert!(matches!(layers.answered(B, &request, &right), Proven::Layer(..)));
        assert_eq!(layers.answered(B, &request, &right), Proven::Unasked, "the same again");
    }

    #[test]
    fn who_rejects_or_is_silent_rests_and_others_are_asked() {
        let metainfo = metainfo(&[8]);
        let (mut layers, now) = (bare(&metainfo), moment());
        layers.add_source(A);
        let (_, request) = layers.requests(|_| true, now)[0];
        assert!(layers.rejected(A, &request, now));
        assert!(!layers.rejected(A, &request, now));
        assert!(layers.requests(|_| true, now).is_empty());
        layers.add_source(B);
        assert_eq!(layers.requests(|_| true, now), [(B, request)]);
        assert_eq!(layers.due(), Some(now + ASK_TIMEOUT));
        let later = now + ASK_TIMEOUT;
        assert!(layers.requests(|_| true, later).is_empty(), "both rest");
        assert_eq!(layers.due(), Some(now + ASK_AGAIN));
        assert_eq!(layers.requests(|_| true, now + ASK_AGAIN), [(A, request)]);
        layers.check().unwrap();
    }

    #[test]
    fn the_block_hashes_of_a_failed_piece_are_asked_for_once() {
        let metainfo = metainfo(&[8, 6]);
        let (mut layers, now) = (full(&metainfo), moment());
        layers.add_source(A);
        layers.want_blocks(PieceIndex(5));
        layers.want_blocks(PieceIndex(5));
        let requests = layers.requests(|_| true, now);
        let [(A, request)] = requests[..] else { panic!("{requests:?}") };
        assert_eq!((request.base_layer, request.index, request.length), (0, 2, 2));
        layers.want_blocks(PieceIndex(5));
        assert!(layers.requests(|_| true, now).is_empty());
        // Blocks 2 and 3, then the nodes beside their piece and above it: blocks 0 and 1, and blocks 4 to 7.
        let beside = root_above(&[leaf(0), leaf(1)], 0, 1).unwrap();
        let above = root_above(&[leaf(4), leaf(5)], 0, 2).unwrap();
        let answer = [leaf(2), leaf(3), beside, above];
        let proven = layers.answered(A, &request, &answer);
        assert_eq!(proven, Proven::Blocks(PieceIndex(5), vec![leaf(2), leaf(3)]));
    }

    #[test]
    fn files_of_one_piece_need_no_tree_to_ask_and_to_answer() {
        let metainfo = metainfo(&[2, 0, 8, 1, 2]);
        let (mut layers, mut seed, now) = (full(&metainfo), full(&metainfo), moment());
        assert_eq!(layers.trees.len(), 1);
        layers.add_source(A);
        // The fourth file's piece, of one block: there is nothing below the root.
        layers.want_blocks(PieceIndex(5));
        assert!(layers.requests(|_| true, now).is_empty());
        layers.want_blocks(PieceIndex(6));
        let requests = layers.requests(|_| true, now);
        let [(A, request)] = requests[..] else { panic!("{requests:?}") };
        assert_eq!((request.base_layer, request.index, request.length), (0, 0, 2));
        // Whoever has either of the two files with this root can tell.
        for had in [0, 6] {
            let mut have = Bitfield::empty(7);
            assert_eq!(seed.answer(&request, &have), Answer::Reject);
            have.set(PieceIndex(had));
            assert_eq!(seed.answer(&request, &have), Answer::NeedsBlocks(PieceIndex(had)));
        }
        let blocks = [leaf(0), leaf(1)];
        let answer = seed.answer_with_blocks(&request, &blocks).unwrap();
        assert_eq!(layers.answered(A, &request, &answer), Proven::Blocks(PieceIndex(6), blocks.to_vec()));
    }

    #[test]
    fn what_nobody_can_tell_is_given_up() {
        let metainfo = metainfo(&[8]);
        let (mut layers, now) = (full(&metainfo), moment());
        layers.add_source(A);
        layers.want_blocks(PieceIndex(1));
        let (_, request) = layers.requests(|_| true, now)[0];
        assert!(layers.rejected(A, &request, now));
        assert!(layers.requests(|_| true, now + ASK_AGAIN).is_empty());
        assert_eq!(layers.due(), None);
    }
}
