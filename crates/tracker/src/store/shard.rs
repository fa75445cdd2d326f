//! One shard of the soft state: the swarms whose info-hashes fall into it.
//!
//! It decides what an announce changes and who is told, what expires, and what has to go when memory is short. It does
//! not know of other shards: a shell may put each behind its own lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;
use obt_wire::{InfoHash, PeerId};

use super::budget::Budget;
use super::clients::{Client, Clients};
use super::family::Counts;
use super::handout::{Advertised, Asker, CompactPeers, Locals, LocalsOf, Taker, hand_out};
use super::held::HeldSwarms;
use super::journal::Journal;
use super::key::HashKey;
use super::members::{self, Has, Members};
use super::peer::{Marks, Peer, Slot, Source, low};
use super::places::Places;
use super::quota::Quota;
use super::torrent::{SwarmPeer, Torrent};
use crate::limits::EMPTY_SWARM_LIFE;
use crate::policy::{self, LifeClass};

/// Swarms looked at to find one that may go when memory is short.
const SAMPLE: usize = 16;
/// Swarms that go at most for one announce.
const EVICTED_AT_ONCE: usize = 4;

/// What a peer says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has everything.
    Seed,
    /// It lacks something.
    Leecher,
    /// It leaves.
    Stopped,
}

/// An announce of a stock client, from UDP or HTTP alike.
#[derive(Debug, Clone, Copy)]
pub struct Announce {
    /// Which swarm.
    pub hash: InfoHash,
    /// Where it comes from; what it claims about its address does not count.
    pub asker: Asker,
    /// Where it listens; not 0.
    pub port: u16,
    /// What it says of itself.
    pub standing: Standing,
    /// Whether it says that its download has just been completed.
    pub completed: bool,
    /// How many peers of each family it wants.
    pub want: usize,
    /// Who it says that it is.
    pub client: Client,
    /// Of which swarms that is remembered.
    pub remember: Remember,
}

/// Of which swarms a tracker remembers who announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remember {
    /// Of those that have a name: people look at them.
    Named,
    /// Of all: answers may have to tell it.
    All,
}

/// Who is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A stock client, or what says that it is one.
    Client(PeerId),
    /// A peer of ours, by the number of its lease.
    Lease(u16),
}

/// Where the peers of an answer are written.
#[derive(Debug)]
pub struct PeerLists<'a> {
    /// IPv4 peers; over an empty slice if none are wanted.
    pub v4: CompactPeers<'a>,
    /// IPv6 peers; over an empty slice if none are wanted.
    pub v6: CompactPeers<'a>,
}

/// What is known of a swarm as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwarmStats {
    /// Complete peers.
    pub seeds: u32,
    /// Incomplete peers.
    pub leechers: u32,
    /// Downloads that were completed.
    pub completed: u32,
}

/// The answer to an announce, but for the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The swarm, with the one who announced.
    pub stats: SwarmStats,
    /// When to come back.
    pub interval: Duration,
}

/// Why an announce is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its address has brought too many swarms into being in this hour.
    #[error("too many new torrents from your address, try again later")]
    TooManyTorrents,
}

/// What all shards of a store have in common.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) key: HashKey,
    pub(crate) epoch: Instant,
    pub(crate) ports_per_address: u16,
    pub(crate) advertised: Advertised,
}

impl Frame {
    /// Whole seconds since the store began.
    pub(crate) fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.epoch).as_secs()).unwrap_or(u32::MAX - 1)
    }
}

/// See the module.
///
/// Invariants: `places` has every position of `torrents` under the hash there; `heap` and `addresses` are the sums over
/// `torrents`; a torrent is marked HELD exactly if `held` knows it; no hash is both in `torrents` and an alias.
pub struct Shard {
    pub(super) frame: Frame,
    budget: Budget,
    pub(super) torrents: Vec<Torrent>,
    places: Places,
    heap: usize,
    addresses: usize,
    pub(super) held: HeldSwarms,
    pub(super) clients: Clients,
    pub(super) journal: Journal,
    rng: Rng,
}

/// The other address of the client who announces.
#[derive(Debug, Clone, Copy)]
struct Twin {
    addr: SocketAddr,
    marks: Marks,
}

/// What a swarm was like before a change.
pub(super) struct Before {
    counts: Counts,
    completed: u32,
    heap: usize,
    addresses: usize,
}

impl Before {
    pub(super) fn addresses(&self) -> usize {
        self.addresses
    }
}

impl Shard {
    pub(crate) fn new(frame: Frame, budget: Budget, seed: u64) -> Self {
        Self {
            frame,
            budget,
            torrents: Vec::new(),
            places: Places::default(),
            heap: 0,
            addresses: 0,
            held: HeldSwarms::default(),
            clients: Clients::default(),
            journal: Journal::default(),
            rng: Rng::with_seed(seed),
        }
    }

    /// Memory in use, bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.torrents.len() * size_of::<Torrent>() + self.places.heap_bytes() + self.heap + self.clients.heap_bytes()
    }

    /// Swarms with anybody in them, and addresses in all of them.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let populated = self.torrents.iter().filter(|torrent| torrent.members.len() > 0).count();
        (populated, self.addresses)
    }

    /// Every swarm with its peers, in no order that means anything.
    pub fn swarms(&self) -> impl Iterator<Item = (InfoHash, impl Iterator<Item = SwarmPeer> + '_)> + '_ {
        self.torrents.iter().map(|torrent| (torrent.hash, torrent.peers()))
    }

    pub(super) fn find(&self, hash: &InfoHash) -> Option<usize> {
        let is = |at: u32| self.torrents.get(at as usize).is_some_and(|torrent| torrent.hash == *hash);
        self.places.find(self.frame.key.info_hash(hash), is).map(|at| at as usize)
    }

    pub(super) fn create(&mut self, hash: InfoHash, touched: u32) -> usize {
        if self.torrents.len() == self.torrents.capacity() {
            // A quarter more: doubling would leave a third of the memory unused on average.
            self.torrents.reserve_exact((self.torrents.len() / 4).max(4));
        }
        let at = self.torrents.len();
        self.torrents.push(Torrent::new(hash, touched));
        let (key, torrents) = (self.frame.key, &self.torrents);
        self.places.insert(key.info_hash(&hash), narrow(at), |at| key.info_hash(&torrents[at as usize].hash));
        at
    }

    pub(super) fn drop_torrent(&mut self, at: usize) -> Torrent {
        let (key, torrents, last) = (self.frame.key, &self.torrents, self.torrents.len() - 1);
        let hash_of = |at: u32| key.info_hash(&torrents[at as usize].hash);
        self.places.remove(hash_of(narrow(at)), narrow(at), hash_of);
        if at != last {
            self.places.moved(hash_of(narrow(last)), narrow(last), narrow(at));
        }
        let torrent = self.torrents.swap_remove(at);
        self.heap -= torrent.members.heap_bytes();
        self.addresses -= torrent.members.len();
        if !self.clients.is_empty() {
            self.clients.take(&torrent.hash);
        }
        torrent
    }

    pub(super) fn before(&self, at: usize) -> Before {
        let torrent = &self.torrents[at];
        Before {
            counts: torrent.members.counts(),
            completed: torrent.completed,
            heap: torrent.members.heap_bytes(),
            addresses: torrent.members.len(),
        }
    }

    /// Accounts for a change of the swarm at `at`, and forgets it if nothing is left of it. `seed` is the one that
    /// came or went.
    pub(super) fn settle(&mut self, at: usize, before: &Before, seed: Option<SocketAddr>, now: Instant) {
        let torrent = &self.torrents[at];
        self.heap = self.heap - before.heap + torrent.members.heap_bytes();
        self.addresses = self.addresses - before.addresses + torrent.members.len();
        let counts = torrent.members.counts();
        if torrent.is_held() {
            if counts != before.counts || torrent.completed != before.completed {
                let seed = seed.filter(|_| counts.seeds == 0 || before.counts.seeds < counts.seeds);
                self.held.change(torrent.hash, seed, now);
            }
        } else if torrent.members.len() == 0 && torrent.completed == 0 {
            self.drop_torrent(at);
        }
    }

    /// Takes an announce, and writes peers into `lists`. `quota` is asked where it makes a new swarm.
    ///
    /// # Errors
    /// When the swarm is new and its address has made too many.
    pub(crate) fn announce(
        &mut self,
        announce: &Announce,
        lists: &mut PeerLists<'_>,
        quota: &Quota,
        now: Instant,
    ) -> Result<Answer, Refused> {
        let seconds = self.frame.seconds(now);
        let room = self.make_room(&announce.hash);
        let at = match self.find(&announce.hash) {
            Some(at) => at,
            None if announce.standing == Standing::Stopped || !room => {
                self.journal.stopped_unknown(announce, seconds);
                return Ok(empty_answer());
            }
            None if !quota.admit(announce.asker.ip, seconds) => return Err(Refused::TooManyTorrents),
            None => self.create(announce.hash, seconds),
        };
        let before = self.before(at);
        let expired = self.torrents[at].expire(seconds, self.frame.key);
        if !self.torrents[at].is_held() {
            self.torrents[at].touched = seconds;
        }
        let twin = self.twin(at, announce);
        match announce.asker.ip {
            IpAddr::V4(ip) => {
                let own = self.place::<4>(at, ip.octets(), announce, twin, room, seconds);
                self.note(at, announce, own.is_some(), twin, seconds);
                self.tell::<4>(at, announce, own, &mut lists.v4);
                self.tell::<16>(at, announce, None, &mut lists.v6);
            }
            IpAddr::V6(ip) => {
                let own = self.place::<16>(at, ip.octets(), announce, twin, room, seconds);
                self.note(at, announce, own.is_some(), twin, seconds);
                self.tell::<4>(at, announce, None, &mut lists.v4);
                self.tell::<16>(at, announce, own, &mut lists.v6);
            }
        }
        let stats = self.torrents[at].stats();
        let own = Some(SocketAddr::new(announce.asker.ip, announce.port));
        let seed = own.filter(|_| announce.standing != Standing::Leecher).or(expired);
        self.settle(at, &before, seed, now);
        Ok(Answer { stats, interval: policy::interval(stats.seeds.saturating_add(stats.leechers)) })
    }

    fn remembers(&self, at: usize, announce: &Announce) -> bool {
        announce.remember == Remember::All || self.torrents[at].is_held()
    }

    /// The client who announces, in the other address family.
    fn twin(&mut self, at: usize, announce: &Announce) -> Option<Twin> {
        if !self.remembers(at, announce) {
            return None;
        }
        let torrent = &mut self.torrents[at];
        let own = SocketAddr::new(announce.asker.ip, announce.port);
        let addr = self.clients.twin(&torrent.hash, &own, &announce.client)?;
        let marks = torrent.marks_at(&addr, self.frame.key).filter(|marks| !marks.has(Marks::LEASED))?;
        Some(Twin { addr, marks })
    }

    /// Remembers who announced; a client that leaves with the address that counted counts with the other one.
    fn note(&mut self, at: usize, announce: &Announce, present: bool, twin: Option<Twin>, seconds: u32) {
        if !self.remembers(at, announce) {
            return;
        }
        let torrent = &mut self.torrents[at];
        let own = SocketAddr::new(announce.asker.ip, announce.port);
        if present {
            self.clients.note(&torrent.hash, own, announce.client, seconds);
            return;
        }
        self.clients.forget(&torrent.hash, &own);
        if let Some(Twin { addr, marks }) = twin.filter(|twin| twin.marks.has(Marks::EXTRA)) {
            torrent.remark_at(&addr, marks.with(Marks::EXTRA, false), self.frame.key);
        }
    }

    /// Enters, changes or removes the one who announces; says where it stands.
    fn place<const N: usize>(
        &mut self,
        at: usize,
        ip: [u8; N],
        announce: &Announce,
        twin: Option<Twin>,
        room: bool,
        seconds: u32,
    ) -> Option<usize>
    where
        Members: Has<N>,
    {
        let key = self.frame.key;
        let torrent = &mut self.torrents[at];
        let endpoint = Peer::at(ip, announce.port.to_be_bytes());
        let own = members::find(&mut torrent.members, &endpoint, key);
        let known = own.and_then(|own| Has::<N>::view(&torrent.members).peers.get(own).copied());
        if known.is_some_and(|known| known.is_leased()) {
            return own;
        }
        if announce.standing == Standing::Stopped {
            own.and_then(|own| members::remove::<N>(&mut torrent.members, own, key));
            let marks = Marks::NONE.with(Marks::LOCAL, announce.asker.is_local());
            self.journal.stopped(&torrent.hash, &Peer { marks, ..endpoint }, seconds);
            return None;
        }
        let seed = announce.standing == Standing::Seed;
        let was_seed =
            known.is_some_and(|known| known.is_seed()) || twin.is_some_and(|twin| twin.marks.has(Marks::SEED));
        let completed = announce.completed && seed && !was_seed;
        torrent.completed = torrent.completed.saturating_add(u32::from(completed));
        let counts = torrent.members.counts();
        let life = LifeClass::of(counts.seeds.saturating_add(counts.leechers));
        let due = seconds.saturating_add(life.seconds());
        let counted = twin.is_some_and(|twin| !twin.marks.has(Marks::EXTRA));
        let marks = Marks::NONE
            .with(Marks::SEED, seed)
            .with(Marks::LOCAL, announce.asker.is_local())
            .with(Marks::EXTRA, counted);
        torrent.next_due = torrent.next_due.min(due);
        let peer = Peer { marks, source: Source::new(Slot::HERE, life), due: low(due), ..endpoint };
        let placed = match own {
            Some(own) => Some(members::change(&mut torrent.members, own, peer, key)),
            None if room => members::push(&mut torrent.members, peer, self.frame.ports_per_address, key),
            None => None,
        };
        if placed.is_some() {
            self.journal.alive(&torrent.hash, &peer, completed, i64::from(seconds));
        }
        placed
    }

    fn tell<const N: usize>(&mut self, at: usize, announce: &Announce, own: Option<usize>, out: &mut CompactPeers<'_>)
    where
        Members: Has<N>,
        Locals<N>: LocalsOf,
    {
        if announce.standing == Standing::Stopped {
            return;
        }
        let taker = Taker {
            own,
            lease: None,
            own_family: announce.asker.ip.is_ipv4() == (N == 4),
            seed: announce.standing == Standing::Seed,
            want: announce.want,
            locals: LocalsOf::of(&announce.asker, &self.frame.advertised),
        };
        hand_out(self.torrents[at].members.view(), &taker, &mut self.rng, out);
    }

    /// Writes peers of a swarm for a peer of ours.
    pub(crate) fn tell_lease(
        &mut self,
        hash: &InfoHash,
        want: &LeaseWant<'_>,
        lists: &mut PeerLists<'_>,
        now: Instant,
    ) {
        let Some(at) = self.find(hash) else {
            return;
        };
        self.expire_at(at, now);
        // Expiry may have dropped it.
        let Some(torrent) = self.torrents.get(at).filter(|torrent| torrent.hash == *hash) else {
            return;
        };
        let v4 = want.taker(true, &self.frame.advertised);
        hand_out::<4>(torrent.members.view(), &v4, &mut self.rng, &mut lists.v4);
        let v6 = want.taker(false, &self.frame.advertised);
        hand_out::<16>(torrent.members.view(), &v6, &mut self.rng, &mut lists.v6);
    }

    /// The state of a swarm; zeros where nothing is known of it.
    pub(crate) fn stats(&mut self, hash: &InfoHash, now: Instant) -> SwarmStats {
        let Some(at) = self.find(hash) else {
            return SwarmStats::default();
        };
        let torrent = self.expire_at(at, now);
        torrent.filter(|torrent| torrent.hash == *hash).map(Torrent::stats).unwrap_or_default()
    }

    /// The peers of a swarm.
    pub(crate) fn peers(&mut self, hash: &InfoHash, now: Instant) -> Vec<SwarmPeer> {
        let Some(at) = self.find(hash) else {
            return Vec::new();
        };
        let torrent = self.expire_at(at, now).filter(|torrent| torrent.hash == *hash);
        let mut peers: Vec<SwarmPeer> = torrent.map(|torrent| torrent.peers().collect()).unwrap_or_default();
        let seconds = self.frame.seconds(now);
        for peer in peers.iter_mut().filter(|peer| peer.lease.is_none()) {
            if let Some(known) = self.clients.at(hash, &peer.addr) {
                peer.client = Some(known.client.peer_id);
                peer.seen = Some(Duration::from_secs(seconds.saturating_sub(known.seen).into()));
            }
        }
        peers
    }

    /// Who is at the addresses that an asker was told of, as far as that is known.
    pub(crate) fn identify(&self, hash: &InfoHash, asker: &Asker, told: &[SocketAddr]) -> Vec<Option<Identity>> {
        let Some(torrent) = self.find(hash).and_then(|at| self.torrents.get(at)) else {
            return vec![None; told.len()];
        };
        let of = |peer: SwarmPeer| match peer.lease {
            Some(lease) => Some(Identity::Lease(lease)),
            None => self.clients.at(hash, &peer.addr).map(|known| Identity::Client(known.client.peer_id)),
        };
        let shown = torrent.peers().filter_map(|peer| Some((peer.shown_to(asker, &self.frame.advertised)?, of(peer)?)));
        let identities: BTreeMap<SocketAddr, Identity> = shown.collect();
        told.iter().map(|addr| identities.get(addr).copied()).collect()
    }

    /// Lets the peers at `at` expire; what stands there then.
    fn expire_at(&mut self, at: usize, now: Instant) -> Option<&Torrent> {
        let seconds = self.frame.seconds(now);
        if self.torrents.get(at)?.next_due <= seconds {
            let before = self.before(at);
            let seed = self.torrents[at].expire(seconds, self.frame.key);
            self.settle(at, &before, seed, now);
        }
        self.torrents.get(at)
    }

    /// Forgets every peer whose time is over, and swarms of which nothing is left. Work in proportion to the swarms of
    /// the shard: for about once a minute.
    pub fn expire(&mut self, now: Instant) {
        let seconds = self.frame.seconds(now);
        let empty_life = u32::try_from(EMPTY_SWARM_LIFE.as_secs()).unwrap_or(u32::MAX);
        let mut at = 0;
        while let Some(hash) = self.torrents.get(at).map(|torrent| torrent.hash) {
            // What takes the place of a dropped swarm has not been looked at, so `at` stays.
            if self.expire_at(at, now).is_none_or(|torrent| torrent.hash != hash) {
                continue;
            }
            let torrent = &self.torrents[at];
            if self.clients.are_stale(&hash, torrent.members.len()) {
                let there: BTreeSet<SocketAddr> = torrent.peers().map(|peer| peer.addr).collect();
                self.clients.retain(&hash, |addr| there.contains(addr));
            }
            let forgotten = seconds.saturating_sub(torrent.touched) >= empty_life;
            if torrent.members.len() == 0 && !torrent.is_held() && forgotten {
                self.drop_torrent(at);
            } else {
                at += 1;
            }
        }
    }

    /// Makes sure that there is memory for one more peer or swarm; false where there is not. Among a few swarms at
    /// random those with hardly anybody go first, then those that were quiet longest; never `spared`, nor one that is
    /// held.
    pub(super) fn make_room(&mut self, spared: &InfoHash) -> bool {
        for _ in 0..EVICTED_AT_ONCE {
            if self.has_room() {
                return true;
            }
            let Some(at) = self.expendable(spared) else {
                return false;
            };
            self.drop_torrent(at);
        }
        self.has_room()
    }

    fn has_room(&mut self) -> bool {
        let memory = self.memory();
        self.budget.has_room(memory)
    }

    fn expendable(&mut self, spared: &InfoHash) -> Option<usize> {
        let len = self.torrents.len();
        let sample = std::iter::repeat_with(|| self.rng.usize(0..len)).take(if len == 0 { 0 } else { SAMPLE });
        let rank = |at: &usize| {
            let torrent = &self.torrents[*at];
            (torrent.members.len().min(2), torrent.touched)
        };
        let may_go = |at: &usize| {
            let torrent = &self.torrents[*at];
            !torrent.is_held() && torrent.hash != *spared
        };
        sample.filter(may_go).min_by_key(rank)
    }
}

/// What a peer of ours asks for.
#[derive(Clone, Copy)]
pub(crate) struct LeaseWant<'a> {
    pub(crate) asker: &'a Asker,
    pub(crate) lease: u16,
    /// It has everything of this swarm.
    pub(crate) seed: bool,
    pub(crate) want: usize,
}

impl LeaseWant<'_> {
    fn taker<const N: usize>(&self, v4: bool, advertised: &Advertised) -> Taker<N>
    where
        Locals<N>: LocalsOf,
    {
        Taker {
            own: None,
            lease: Some(self.lease),
            own_family: self.asker.ip.is_ipv4() == v4,
            seed: self.seed,
            want: self.want,
            locals: LocalsOf::of(self.asker, advertised),
        }
    }
}

fn empty_answer() -> Answer {
    Answer { stats: SwarmStats::default(), interval: policy::interval(0) }
}

#[expect(clippy::cast_possible_truncation, reason = "memory limits keep a shard far below 2^32 swarms")]
fn narrow(at: usize) -> u32 {
    at as u32
}
