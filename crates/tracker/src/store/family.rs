//! The peers of one swarm in one address family, from a handful to a million.
//!
//! A dense array, seeds in front: a random subset of either kind is a few runs of neighbours, and a count is a
//! subtraction. Above [`INDEXED`] peers a table finds an endpoint without a scan.

use super::key::HashKey;
use super::peer::{Marks, Peer, Source};
use super::places::Places;

/// Peers above which an endpoint is looked up in a table, which takes as much again as a third of an IPv4 peer: a scan of 128
/// of these touches twenty cache lines in a row.
const INDEXED: usize = 128;
/// Peers for each of the buckets in which the peers of an address are counted, at most.
const CROWD: usize = 8;
/// Peers that are looked at to find one of an address with all its ports taken.
const SCANNED: usize = 4_096;
/// Peers of such an address that are compared, from a random place on: all of them would cost whoever comes from a
/// crowded address a walk over the whole swarm.
const COMPARED: usize = 4;

/// Invariants: `peers[..seeds]` are the seeds; `extra_*` count the peers marked EXTRA on either side; no endpoint is in
/// it twice; with `lookup`, every peer is in its table, and `lookup.crowd` sums the peers per bucket of addresses.
#[derive(Default)]
pub(crate) struct Family<const N: usize> {
    peers: Vec<Peer<N>>,
    seeds: u32,
    extra_seeds: u32,
    extra_leechers: u32,
    lookup: Option<Box<Lookup>>,
}

struct Lookup {
    places: Places,
    /// How many peers have an address in each bucket: an upper bound of the ports of one address.
    crowd: Box<[u16]>,
}

/// The peers of a family to read: seeds in front.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, const N: usize> {
    pub(crate) peers: &'a [Peer<N>],
    pub(crate) seeds: usize,
}

/// Peers that count, of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) seeds: u32,
    pub(crate) leechers: u32,
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { seeds: self.seeds + other.seeds, leechers: self.leechers + other.leechers }
    }
}

/// Whether an address may have one more port in a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// It may.
    Free,
    /// In place of its peer at this position.
    Instead(usize),
    /// It may not.
    Full,
}

#[expect(clippy::cast_possible_truncation, reason = "memory limits keep a swarm far below 2^32 peers")]
fn narrow(at: usize) -> u32 {
    at as u32
}

impl<const N: usize> Family<N> {
    pub(crate) fn view(&self) -> View<'_, N> {
        View { peers: &self.peers, seeds: self.seeds as usize }
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            seeds: self.seeds - self.extra_seeds,
            leechers: narrow(self.peers.len()) - self.seeds - self.extra_leechers,
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let lookup = self
            .lookup
            .as_ref()
            .map_or(0, |lookup| size_of::<Lookup>() + lookup.places.heap_bytes() + size_of_val::<[u16]>(&lookup.crowd));
        self.peers.capacity() * size_of::<Peer<N>>() + lookup
    }

    pub(crate) fn find(&self, endpoint: &Peer<N>, key: HashKey) -> Option<usize> {
        match &self.lookup {
            None => self.peers.iter().position(|peer| peer.is_same_endpoint(endpoint)),
            Some(lookup) => {
                let hash = key.address(&endpoint.ip, endpoint.port);
                let is = |at: u32| self.peers.get(at as usize).is_some_and(|peer| peer.is_same_endpoint(endpoint));
                lookup.places.find(hash, is).map(|at| at as usize)
            }
        }
    }

    /// Whether the address of `newcomer` may have a port more than it has, if `cap` is the most. Where a bucket of
    /// addresses has more than that, this one is taken to be the reason once a few of its peers are found.
    pub(crate) fn room(&self, newcomer: &Peer<N>, cap: u16, key: HashKey) -> Room {
        let (cap, len) = (usize::from(cap), self.peers.len());
        let (crowd, compared) = match &self.lookup {
            Some(lookup) => (lookup.around(&newcomer.ip, key), COMPARED),
            None => (len, len),
        };
        if crowd < cap {
            return Room::Free;
        }
        let hash = usize::try_from(key.address(&newcomer.ip, newcomer.port) >> 32).unwrap_or(0);
        let from = hash.checked_rem(len).unwrap_or(0);
        let (before, behind) = self.peers.split_at(from);
        let behind = &behind[..behind.len().min(SCANNED)];
        let before = &before[..before.len().min(SCANNED - behind.len())];
        let (mut count, mut oldest) = (0, None);
        for (start, side) in [(from, behind), (0, before)] {
            // A slice is searched several peers at a time, a chain of iterators is not.
            let mut next = 0;
            while count < compared
                && let Some(more) = side[next..].iter().position(|peer| peer.ip == newcomer.ip)
            {
                let peer = &side[next + more];
                next += more + 1;
                count += 1;
                if !peer.is_leased() && oldest.is_none_or(|(oldest, _)| peer.is_due_before(oldest)) {
                    oldest = Some((peer, start + next - 1));
                }
            }
        }
        if count < cap.min(compared) && len <= SCANNED {
            return Room::Free;
        }
        oldest.map_or(Room::Full, |(_, at)| Room::Instead(at))
    }

    /// Adds a peer whose endpoint is not there; says where it stands.
    pub(crate) fn push(&mut self, peer: Peer<N>, key: HashKey) -> usize {
        if self.peers.len() == self.peers.capacity() {
            // An eighth more: a third of the memory on average is not worth the few copies that doubling saves.
            self.peers.reserve_exact((self.peers.len() / 8).max(2));
        }
        let at = self.peers.len();
        self.peers.push(Peer { marks: peer.marks.with(Marks::SEED, false), ..peer });
        self.extra_leechers += u32::from(!peer.is_counted());
        self.index_pushed(at, key);
        self.set_seed(at, peer.is_seed(), key)
    }

    fn index_pushed(&mut self, at: usize, key: HashKey) {
        match &mut self.lookup {
            Some(lookup) => {
                lookup.add(&self.peers, at, key);
                if lookup.crowd.len() * CROWD < self.peers.len() {
                    lookup.recount(&self.peers, key);
                }
            }
            None if self.peers.len() > INDEXED => self.lookup = Some(Lookup::over(&self.peers, key)),
            None => {}
        }
    }

    /// Moves a peer to the side of the seeds or of the leechers; says where it stands then.
    pub(crate) fn set_seed(&mut self, at: usize, seed: bool, key: HashKey) -> usize {
        let Some(peer) = self.peers.get_mut(at) else {
            return at;
        };
        if peer.is_seed() == seed {
            return at;
        }
        peer.marks = peer.marks.with(Marks::SEED, seed);
        let extra = u32::from(!peer.is_counted());
        let border = self.seeds as usize;
        if seed {
            self.seeds += 1;
            self.extra_seeds += extra;
            self.extra_leechers -= extra;
            self.swap(at, border, key);
            border
        } else {
            self.seeds -= 1;
            self.extra_seeds -= extra;
            self.extra_leechers += extra;
            self.swap(at, border - 1, key);
            border - 1
        }
    }

    /// Replaces what is known of the peer at `at` but its endpoint and its kind.
    pub(crate) fn remark(&mut self, at: usize, marks: Marks, due: u16) {
        let Some(peer) = self.peers.get_mut(at) else {
            return;
        };
        let seed = peer.is_seed();
        let before = u32::from(!peer.is_counted());
        peer.marks = marks.with(Marks::SEED, seed);
        peer.due = due;
        let after = u32::from(!peer.is_counted());
        let extra = if seed { &mut self.extra_seeds } else { &mut self.extra_leechers };
        *extra = *extra - before + after;
    }

    /// Replaces where the peer at `at` was heard of.
    pub(crate) fn set_source(&mut self, at: usize, source: Source) {
        if let Some(peer) = self.peers.get_mut(at) {
            peer.source = source;
        }
    }

    /// The peers, to change where they were heard of: nothing else of them may change here.
    pub(crate) fn peers_mut(&mut self) -> &mut [Peer<N>] {
        &mut self.peers
    }

    fn swap(&mut self, a: usize, b: usize, key: HashKey) {
        if a == b {
            return;
        }
        if let Some(lookup) = &mut self.lookup {
            let [hash_a, hash_b] = [a, b].map(|at| key.address(&self.peers[at].ip, self.peers[at].port));
            lookup.places.swapped((hash_a, narrow(a)), (hash_b, narrow(b)));
        }
        self.peers.swap(a, b);
    }

    /// Puts a peer whose endpoint is not there into the place of the one at `at`; says where it stands.
    pub(crate) fn replace(&mut self, at: usize, peer: Peer<N>, key: HashKey) -> usize {
        let Some(place) = self.peers.get_mut(at) else {
            return self.push(peer, key);
        };
        let old = std::mem::replace(place, Peer { marks: peer.marks.with(Marks::SEED, place.is_seed()), ..peer });
        let extra = if old.is_seed() { &mut self.extra_seeds } else { &mut self.extra_leechers };
        *extra = *extra - u32::from(!old.is_counted()) + u32::from(!peer.is_counted());
        if let Some(lookup) = &mut self.lookup {
            lookup.remove(&old, narrow(at), &self.peers, key);
            lookup.add(&self.peers, at, key);
        }
        self.set_seed(at, peer.is_seed(), key)
    }

    /// Removes the peer at `at`. The array has one fewer, and others may stand elsewhere.
    pub(crate) fn remove(&mut self, at: usize, key: HashKey) -> Option<Peer<N>> {
        let removed = *self.peers.get(at)?;
        let at = self.set_seed(at, false, key);
        let last = self.peers.len() - 1;
        self.swap(at, last, key);
        let peer = self.peers.pop()?;
        self.extra_leechers -= u32::from(!peer.is_counted());
        if let Some(lookup) = &mut self.lookup {
            lookup.remove(&peer, narrow(last), &self.peers, key);
        }
        Some(removed)
    }

    /// Removes every peer that `gone` says so of.
    pub(crate) fn remove_all(&mut self, mut gone: impl FnMut(&Peer<N>) -> bool, key: HashKey) {
        let mut at = 0;
        while let Some(peer) = self.peers.get(at) {
            // What takes the place of a removed peer has not been looked at, so `at` stays.
            if gone(peer) {
                self.remove(at, key);
            } else {
                at += 1;
            }
        }
    }

    /// Gives memory back that many departures left unused.
    pub(crate) fn shrink(&mut self) {
        if self.peers.len() * 2 < self.peers.capacity() {
            self.peers.shrink_to(self.peers.len() + 2);
        }
        if self.peers.len() <= INDEXED / 2 {
            self.lookup = None;
        }
    }
}

impl Lookup {
    fn over<const N: usize>(peers: &[Peer<N>], key: HashKey) -> Box<Self> {
        let mut places = Places::default();
        for at in 0..narrow(peers.len()) {
            let hash_of = hash_of(peers, key);
            places.insert(hash_of(at), at, hash_of);
        }
        let mut this = Self { places, crowd: Box::default() };
        this.recount(peers, key);
        Box::new(this)
    }

    fn recount<const N: usize>(&mut self, peers: &[Peer<N>], key: HashKey) {
        self.crowd = vec![0; peers.len().next_power_of_two() / (CROWD / 2)].into_boxed_slice();
        for peer in peers {
            self.count(&peer.ip, key, |crowd| crowd.saturating_add(1));
        }
    }

    fn bucket<const N: usize>(&self, ip: &[u8; N], key: HashKey) -> usize {
        let mask = self.crowd.len().wrapping_sub(1);
        usize::try_from(key.address(ip, [0; 2]) >> 32).unwrap_or(0) & mask
    }

    fn count<const N: usize>(&mut self, ip: &[u8; N], key: HashKey, change: impl FnOnce(u16) -> u16) {
        let bucket = self.bucket(ip, key);
        if let Some(crowd) = self.crowd.get_mut(bucket) {
            *crowd = change(*crowd);
        }
    }

    fn around<const N: usize>(&self, ip: &[u8; N], key: HashKey) -> usize {
        usize::from(self.crowd.get(self.bucket(ip, key)).copied().unwrap_or(0))
    }

    fn add<const N: usize>(&mut self, peers: &[Peer<N>], at: usize, key: HashKey) {
        let hash_of = hash_of(peers, key);
        self.places.insert(hash_of(narrow(at)), narrow(at), hash_of);
        self.count(&peers[at].ip, key, |crowd| crowd.saturating_add(1));
    }

    /// Forgets a peer that stood at `at` and does no more.
    fn remove<const N: usize>(&mut self, peer: &Peer<N>, at: u32, peers: &[Peer<N>], key: HashKey) {
        self.places.remove(key.address(&peer.ip, peer.port), at, hash_of(peers, key));
        self.count(&peer.ip, key, |crowd| crowd.saturating_sub(1));
    }
}

/// The hash by which each of these is found.
fn hash_of<const N: usize>(peers: &[Peer<N>], key: HashKey) -> impl Fn(u32) -> u64 + Copy {
    move |at| peers.get(at as usize).map_or(0, |peer| key.address(&peer.ip, peer.port))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key() -> HashKey {
        HashKey::new([5; 24])
    }

    fn peer(number: u16, marks: Marks) -> Peer<4> {
        let [high, low] = number.to_be_bytes();
        Peer { marks, due: number, ..Peer::at([10, 0, 0, high], [1, low]) }
    }

    fn check(family: &Family<4>, model: &BTreeMap<u16, (bool, bool)>) {
        let view = family.view();
        assert_eq!(view.peers.len(), model.len());
        assert!(view.peers[..view.seeds].iter().all(Peer::is_seed));
        assert!(!view.peers[view.seeds..].iter().any(Peer::is_seed));
        let counted = |seed| model.values().filter(|known| **known == (seed, false)).count();
        assert_eq!(family.counts(), Counts { seeds: narrow(counted(true)), leechers: narrow(counted(false)) });
        for (number, (seed, extra)) in model {
            let wanted = peer(*number, Marks::default());
            let found = &view.peers[family.find(&wanted, key()).unwrap()];
            assert!(found.is_same_endpoint(&wanted));
            assert_eq!((found.is_seed(), !found.is_counted(), found.due), (*seed, *extra, *number));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_family_is_a_map_with_seeds_in_front(
            steps in prop::collection::vec((0u8..5, 0u16..120, any::<bool>(), any::<bool>()), 0..300),
        ) {
            let mut family = Family::<4>::default();
            let mut model = BTreeMap::new();
            for (step, number, seed, extra) in steps {
                let marks = Marks::default().with(Marks::SEED, seed).with(Marks::EXTRA, extra);
                let at = family.find(&peer(number, marks), key());
                prop_assert_eq!(at.is_some(), model.contains_key(&number));
                match (step, at) {
                    (0 | 1 | 4, None) => {
                        let at = match (step == 4).then(|| model.pop_first()).flatten() {
                            Some((old, _)) => {
                                let old = family.find(&peer(old, marks), key()).unwrap();
                                family.replace(old, peer(number, marks), key())
                            }
                            None => family.push(peer(number, marks), key()),
                        };
                        prop_assert!(family.view().peers[at].is_same_endpoint(&peer(number, marks)));
                        model.insert(number, (seed, extra));
                    }
                    (0, Some(at)) => {
                        family.remove(at, key());
                        model.remove(&number);
                    }
                    (1, Some(at)) => {
                        let at = family.set_seed(at, seed, key());
                        family.remark(at, Marks::default().with(Marks::EXTRA, extra), number);
                        model.insert(number, (seed, extra));
                    }
                    (2, _) if number < 4 => {
                        family.remove_all(|peer| peer.due % 3 == number, key());
                        model.retain(|known, _| known % 3 != number);
                        family.shrink();
                    }
                    _ => {}
                }
            }
            check(&family, &model);
        }
    }

    #[test]
    fn u06_an_old_port_of_an_address_makes_room() {
        let mut family = Family::<4>::default();
        let newcomer = peer(99, Marks::default());
        for number in 0..64 {
            assert_eq!(family.room(&newcomer, 64, key()), Room::Free);
            family.push(peer(number, Marks::default()), key());
        }
        for number in 0..100 {
            family.push(peer(256 + number, Marks::default()), key());
        }
        for number in 64..100 {
            let Room::Instead(at) = family.room(&peer(number, Marks::default()), 64, key()) else {
                panic!("64 ports are taken");
            };
            let instead = family.view().peers[at];
            assert!(instead.ip == newcomer.ip && instead.due <= 60, "the oldest of four: {instead:?}");
        }
        assert_eq!(family.room(&Peer::at([10, 0, 0, 9], [0, 1]), 64, key()), Room::Free);
        let leased = Marks::default().with(Marks::LEASED, true);
        for number in 0..64 {
            let at = family.find(&peer(number, leased), key()).unwrap();
            family.remark(at, leased, 1);
        }
        assert_eq!(family.room(&newcomer, 64, key()), Room::Full);
    }
}
