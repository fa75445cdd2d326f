//! Fetching the info dictionary from peers (BEP 9) while some of them lie.
//!
//! First all peers that agree on its length work on one copy. If that copy has the wrong hash or does not get on, a
//! copy is fetched from each peer alone: whoever sends a wrong one alone is a liar, and one honest peer is enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use obt_wire::InfoHashes;
use obt_wire::extension::metadata_pieces;
use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::event::PeerKey;
use crate::limits::{ASK_AGAIN, ASK_TIMEOUT, METADATA_ALONE, METADATA_BYTES, METADATA_REQUESTS, METADATA_STALL};

/// What a piece of metadata led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gathered {
    /// More is missing.
    Part,
    /// Nobody asked for it.
    Unasked,
    /// The dictionary; its hash is right.
    Whole(Bytes),
    /// The dictionary of this peer alone has the wrong hash: it lies.
    Lie(PeerKey),
}

/// A dictionary in the making.
#[derive(Debug, Default)]
struct Assembly {
    size: u32,
    pieces: BTreeMap<u32, Bytes>,
    senders: BTreeSet<PeerKey>,
    /// When the last piece came, or the first request went out.
    moved: Option<Instant>,
}

impl Assembly {
    fn new(size: u32) -> Self {
        Self { size, ..Self::default() }
    }

    fn add(&mut self, peer: PeerKey, piece: u32, payload: Bytes, now: Instant) {
        if self.pieces.insert(piece, payload).is_none() {
            self.senders.insert(peer);
            self.moved = Some(now);
        }
    }

    fn is_whole(&self) -> bool {
        self.pieces.len() == metadata_pieces(self.size) as usize
    }

    fn is_stalled(&self, now: Instant) -> bool {
        self.moved.is_some_and(|moved| now.saturating_duration_since(moved) >= METADATA_STALL)
    }

    fn bytes(&self) -> Bytes {
        if let (1, Some(only)) = (self.pieces.len(), self.pieces.get(&0)) {
            return only.clone();
        }
        let mut bytes = Vec::with_capacity(self.size as usize);
        for piece in self.pieces.values() {
            bytes.extend_from_slice(piece);
        }
        bytes.into()
    }
}

/// A peer that says how long the dictionary is.
#[derive(Debug)]
struct Source {
    size: u32,
    asked: BTreeMap<u32, Instant>,
    /// Copies with a wrong hash that it had a part in, and requests that it let lapse.
    doubts: u32,
    /// It rejected a request: not before this.
    rests_until: Option<Instant>,
    /// The copy that it sends alone.
    alone: Option<Assembly>,
}

/// See the module.
///
/// Invariant: `together` is gone once copies are fetched from peers alone.
#[derive(Debug)]
pub(crate) struct MetadataFetch {
    hashes: InfoHashes,
    /// How many peers are asked for the same piece.
    askers: usize,
    sources: BTreeMap<PeerKey, Source>,
    together: Option<Assembly>,
    alone: bool,
    due: Option<Instant>,
}

impl MetadataFetch {
    /// Asks up to `askers` peers for the same piece.
    pub(crate) fn new(hashes: InfoHashes, askers: usize) -> Self {
        Self { hashes, askers, sources: BTreeMap::new(), together: None, alone: false, due: None }
    }

    /// A peer speaks `ut_metadata` and says that the dictionary is `size` bytes long.
    pub(crate) fn add_source(&mut self, peer: PeerKey, size: u32) {
        let source = self.sources.entry(peer).or_insert(Source {
            size,
            asked: BTreeMap::new(),
            doubts: 0,
            rests_until: None,
            alone: None,
        });
        // What it said first counts, unless nothing came of it.
        if source.size != size && source.asked.is_empty() && source.alone.is_none() {
            source.size = size;
        }
    }

    /// A peer is gone.
    pub(crate) fn remove_source(&mut self, peer: PeerKey) {
        self.sources.remove(&peer);
    }

    /// How much of the dictionary is here, and how long it is said to be.
    pub(crate) fn progress(&self) -> Option<(u32, u32)> {
        let alone = self.sources.values().filter_map(|source| source.alone.as_ref());
        let copies = self.together.iter().chain(alone);
        let progress = |copy: &Assembly| (copy.pieces.values().map(|piece| piece.len() as u32).sum(), copy.size);
        copies.map(progress).max()
    }

    /// When [`requests`](Self::requests) may have more to ask.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What to ask of whom, as of now, of those that may be asked: also where earlier requests lapsed.
    pub(crate) fn requests(&mut self, may_ask: impl Fn(PeerKey) -> bool, now: Instant) -> Vec<(PeerKey, u32)> {
        self.lapse(now);
        if self.together.as_ref().is_some_and(|copy| copy.is_stalled(now)) {
            self.together = None;
            self.alone = true;
        }
        let mut requests = Vec::new();
        if self.alone {
            self.choose_alone(may_ask, now);
            self.ask_alone(&mut requests, now);
        } else {
            self.ask_together(may_ask, &mut requests, now);
        }
        self.due = self.next_due(now);
        requests
    }

    fn lapse(&mut self, now: Instant) {
        for source in self.sources.values_mut() {
            let before = source.asked.len();
            source.asked.retain(|_, at| now.saturating_duration_since(*at) < ASK_TIMEOUT);
            if source.asked.len() < before {
                source.doubts += 1;
            }
            if source.alone.as_ref().is_some_and(|copy| copy.is_stalled(now)) {
                source.alone = None;
                source.doubts += 1;
            }
        }
    }

    /// The length that most peers tell; of two told equally often, the one told by who connected first.
    fn agreed_size(&self) -> Option<u32> {
        let mut votes: BTreeMap<u32, (usize, std::cmp::Reverse<PeerKey>)> = BTreeMap::new();
        for (peer, source) in &self.sources {
            votes.entry(source.size).or_insert((0, std::cmp::Reverse(*peer))).0 += 1;
        }
        votes.into_iter().max_by_key(|(_, vote)| *vote).map(|(size, _)| size)
    }

    fn ask_together(&mut self, may_ask: impl Fn(PeerKey) -> bool, requests: &mut Vec<(PeerKey, u32)>, now: Instant) {
        let Some(agreed) = self.agreed_size() else {
            return;
        };
        let copy = self.together.get_or_insert_with(|| Assembly::new(agreed));
        if copy.pieces.is_empty() && copy.size != agreed {
            *copy = Assembly::new(agreed);
        }
        let mut askers: BTreeMap<u32, usize> =
            (0..metadata_pieces(copy.size)).filter(|piece| !copy.pieces.contains_key(piece)).map(|p| (p, 0)).collect();
        for piece in self.sources.values().flat_map(|source| source.asked.keys()) {
            askers.entry(*piece).and_modify(|count| *count += 1);
        }
        let (size, first) = (copy.size, requests.len());
        // Each piece of one peer first, of a second one only when all are asked for.
        for round in 0..self.askers {
            let sources = self.sources.iter_mut();
            for (peer, source) in sources.filter(|(peer, source)| source.may_be_asked(size, now) && may_ask(**peer)) {
                for (piece, count) in askers.iter_mut().filter(|(_, count)| **count == round) {
                    if source.asked.len() >= METADATA_REQUESTS {
                        break;
                    }
                    if let std::collections::btree_map::Entry::Vacant(entry) = source.asked.entry(*piece) {
                        entry.insert(now);
                        *count += 1;
                        requests.push((*peer, *piece));
                    }
                }
            }
        }
        if requests.len() > first
            && let Some(copy) = &mut self.together
        {
            copy.moved.get_or_insert(now);
        }
    }

    /// Starts copies from single peers, those with the fewest doubts first.
    fn choose_alone(&mut self, may_ask: impl Fn(PeerKey) -> bool, now: Instant) {
        let sizes = self.sources.values().filter_map(|source| source.alone.as_ref().map(|copy| u64::from(copy.size)));
        let (mut copies, mut bytes) = sizes.fold((0, 0), |(copies, bytes), size| (copies + 1, bytes + size));
        let mut idle: Vec<(u32, PeerKey)> = self
            .sources
            .iter()
            .filter(|(_, source)| source.alone.is_none() && source.rests_until.is_none_or(|until| until <= now))
            .filter(|(peer, _)| may_ask(**peer))
            .map(|(peer, source)| (source.doubts, *peer))
            .collect();
        idle.sort_unstable();
        for (_, peer) in idle {
            let Some(source) = self.sources.get_mut(&peer) else { continue };
            if copies >= METADATA_ALONE || bytes + u64::from(source.size) > METADATA_BYTES {
                break;
            }
            copies += 1;
            bytes += u64::from(source.size);
            source.asked.clear();
            source.alone = Some(Assembly::new(source.size));
        }
    }

    fn ask_alone(&mut self, requests: &mut Vec<(PeerKey, u32)>, now: Instant) {
        for (peer, source) in &mut self.sources {
            let Some(copy) = &mut source.alone else { continue };
            copy.moved.get_or_insert(now);
            for piece in 0..metadata_pieces(copy.size) {
                if source.asked.len() >= METADATA_REQUESTS {
                    break;
                }
                if !copy.pieces.contains_key(&piece) && !source.asked.contains_key(&piece) {
                    source.asked.insert(piece, now);
                    requests.push((*peer, piece));
                }
            }
        }
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let asked = self.sources.values().flat_map(|source| source.asked.values()).map(|at| *at + ASK_TIMEOUT);
        let rests = self.sources.values().filter_map(|source| source.rests_until);
        let alone = self.sources.values().filter_map(|source| source.alone.as_ref());
        let stalls = self.together.iter().chain(alone).filter_map(|copy| Some(copy.moved? + METADATA_STALL));
        asked.chain(rests).chain(stalls).filter(|at| *at > now).min()
    }

    /// A peer will not answer.
    pub(crate) fn rejected(&mut self, peer: PeerKey, piece: u32, now: Instant) {
        let Some(source) = self.sources.get_mut(&peer) else {
            return;
        };
        if source.asked.remove(&piece).is_some() {
            source.asked.clear();
            source.alone = None;
            source.rests_until = Some(now + ASK_AGAIN);
        }
    }

    /// A piece came in.
    pub(crate) fn data(&mut self, peer: PeerKey, piece: u32, size: u32, payload: Bytes, now: Instant) -> Gathered {
        let Some(source) = self.sources.get_mut(&peer) else {
            return Gathered::Unasked;
        };
        if source.asked.remove(&piece).is_none() {
            return Gathered::Unasked;
        }
        let copy = if self.alone { source.alone.as_mut() } else { self.together.as_mut() };
        // Another length than it said before: nothing to build on.
        let Some(copy) = copy.filter(|copy| copy.size == size) else {
            source.doubts += 1;
            return Gathered::Unasked;
        };
        copy.add(peer, piece, payload, now);
        if !copy.is_whole() {
            return Gathered::Part;
        }
        let bytes = copy.bytes();
        if self.matches(&bytes) {
            return Gathered::Whole(bytes);
        }
        self.wrong(peer)
    }

    fn matches(&self, bytes: &[u8]) -> bool {
        let v1 = self.hashes.v1.map(|hash| hash.0 == <[u8; 20]>::from(Sha1::digest(bytes)));
        let v2 = self.hashes.v2.map(|hash| hash.0 == <[u8; 32]>::from(Sha256::digest(bytes)));
        v1 == Some(true) || v2 == Some(true)
    }

    /// The copy that `peer` made whole has the wrong hash.
    fn wrong(&mut self, peer: PeerKey) -> Gathered {
        if self.alone {
            self.sources.remove(&peer);
            return Gathered::Lie(peer);
        }
        let senders = self.together.take().map(|copy| copy.senders).unwrap_or_default();
        self.alone = true;
        for sender in &senders {
            if let Some(source) = self.sources.get_mut(sender) {
                source.doubts += 1;
            }
        }
        match senders.len() {
            1 => {
                self.sources.remove(&peer);
                Gathered::Lie(peer)
            }
            _ => Gathered::Part,
        }
    }
}

impl Source {
    fn may_be_asked(&self, size: u32, now: Instant) -> bool {
        self.size == size && self.rests_until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use obt_wire::Sha1Hash;
    use obt_wire::extension::metadata_piece_size;

    use super::*;
    use crate::limits::METADATA_ASKED;

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn moment() -> Instant {
        Instant::now()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn info(size: usize) -> Bytes {
        (0..size).map(|at| (at * at / 251) as u8).collect::<Vec<u8>>().into()
    }

    fn fetch(info: &Bytes) -> MetadataFetch {
        let v1 = Some(Sha1Hash(Sha1::digest(info).into()));
        MetadataFetch::new(InfoHashes { v1, v2: None }, METADATA_ASKED)
    }

    fn piece(info: &Bytes, piece: u32) -> Bytes {
        let size = metadata_piece_size(piece, info.len() as u32).unwrap() as usize;
        let begin = piece as usize * 16_384;
        info.slice(begin..begin + size)
    }

    /// How a peer of the test answers.
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Honest,
        /// Sends other bytes.
        Liar,
        /// Never answers.
        Silent,
        /// Says another length, and sends bytes to match.
        WrongSize,
        Rejects,
    }

    /// Runs a fetch from `kinds` to its end; the dictionary, the liars, and how long it took.
    fn run(info: &Bytes, kinds: &[Kind]) -> (Option<Bytes>, Vec<u64>, Duration) {
        let start = moment();
        let (mut now, mut fetch, mut liars) = (start, fetch(info), Vec::new());
        let other = self::info(info.len() + 20_000);
        for (at, kind) in (0..).zip(kinds) {
            let size = if *kind == Kind::WrongSize { other.len() } else { info.len() };
            fetch.add_source(PeerKey(at), size as u32);
        }
        for _ in 0..10_000 {
            for (peer, number) in fetch.requests(|_| true, now) {
                let Some(kind) = kinds.get(peer.0 as usize) else { panic!("{peer:?}") };
                let (payload, size) = match kind {
                    Kind::Honest => (piece(info, number), info.len()),
                    Kind::Liar => (piece(info, number).iter().map(|byte| !byte).collect(), info.len()),
                    Kind::WrongSize => (piece(&other, number), other.len()),
                    Kind::Silent => continue,
                    Kind::Rejects => {
                        fetch.rejected(peer, number, now);
                        continue;
                    }
                };
                match fetch.data(peer, number, size as u32, payload, now) {
                    Gathered::Whole(bytes) => return (Some(bytes), liars, now - start),
                    Gathered::Lie(peer) => liars.push(peer.0),
                    Gathered::Part | Gathered::Unasked => {}
                }
            }
            let Some(due) = fetch.due() else { break };
            now = due.max(now + Duration::from_millis(1));
            if now - start > secs(600) {
                break;
            }
        }
        (None, liars, now - start)
    }

    #[test]
    fn honest_peers_share_the_work() {
        let info = info(200_000);
        let (bytes, liars, took) = run(&info, &[Kind::Honest; 4]);
        assert_eq!((bytes, liars.len()), (Some(info), 0));
        assert!(took < secs(1));
    }

    #[test]
    fn a_small_dictionary_is_asked_of_three_peers_at_once() {
        let info = info(100);
        let mut fetch = fetch(&info);
        for peer in 0..5 {
            fetch.add_source(PeerKey(peer), 100);
        }
        let now = moment();
        let requests: Vec<_> = fetch.requests(|_| true, now).iter().map(|(peer, piece)| (peer.0, *piece)).collect();
        assert_eq!(requests, [(0, 0), (1, 0), (2, 0)]);
        assert!(fetch.requests(|_| true, now).is_empty());
    }

    #[test]
    fn e09_one_honest_peer_of_ten_is_enough_and_only_liars_are_named() {
        let info = info(100_000);
        for liar in [Kind::Liar, Kind::Silent, Kind::WrongSize, Kind::Rejects] {
            for honest in 0..10 {
                let mut kinds = [liar; 10];
                kinds[honest] = Kind::Honest;
                let (bytes, liars, took) = run(&info, &kinds);
                assert_eq!(bytes.as_ref(), Some(&info), "honest is {honest}");
                assert!(!liars.contains(&(honest as u64)), "{liars:?}");
                assert!(took < secs(60), "{took:?}");
            }
        }
    }

    #[test]
    fn e09_a_single_liar_is_named_at_once() {
        let (bytes, liars, _) = run(&info(50_000), &[Kind::Liar]);
        assert_eq!((bytes, liars), (None, vec![0]));
    }

    #[test]
    fn e08_what_was_not_asked_for_is_not_taken() {
        let info = info(40_000);
        let mut fetch = fetch(&info);
        let now = moment();
        assert_eq!(fetch.data(PeerKey(1), 0, 40_000, piece(&info, 0), now), Gathered::Unasked);
        fetch.add_source(PeerKey(1), 40_000);
        assert_eq!(fetch.data(PeerKey(1), 0, 40_000, piece(&info, 0), now), Gathered::Unasked);
        fetch.requests(|_| true, now);
        assert_eq!(fetch.data(PeerKey(1), 0, 40_000, piece(&info, 0), now), Gathered::Part);
        assert_eq!(fetch.data(PeerKey(1), 0, 40_000, piece(&info, 0), now), Gathered::Unasked);
        assert_eq!(fetch.progress(), Some((16_384, 40_000)));
    }

    #[test]
    fn a_peer_that_rejects_is_asked_again_later() {
        let info = info(100);
        let mut fetch = fetch(&info);
        let now = moment();
        fetch.add_source(PeerKey(1), 100);
        assert_eq!(fetch.requests(|_| true, now).len(), 1);
        fetch.rejected(PeerKey(1), 0, now);
        assert!(fetch.requests(|_| true, now).is_empty());
        assert_eq!(fetch.due(), Some(now + METADATA_STALL));
        assert!(fetch.requests(|_| true, now + METADATA_STALL).is_empty());
        assert_eq!(fetch.due(), Some(now + ASK_AGAIN));
        assert_eq!(fetch.requests(|_| true, now + ASK_AGAIN).len(), 1);
    }
}
