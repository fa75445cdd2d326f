//! Leases that are renewed at other members of a cluster, and what to tell those of our own.
//!
//! Whoever heard of a peer last speaks for its lease. A renewal is a few bytes; what changed in it is told once; only a
//! lease that is new to a member, or has come from another one, is told as a whole, in parts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use obt_wire::{InfoHash, PeerId};

use super::record::Lease;
use super::{LeaseItem, LeaseRequest, Leases};
use crate::limits::{LEASE_ADDRESSES, LEASE_LIFE};
use crate::store::{Advertised, Endpoint, Slot, Speaker};
use crate::swarms::{self, Shards};

/// Items in one part: 25 KB on the wire.
const ITEMS: usize = 1_024;

/// Items of a lease: what is missing of each, None where it is gone.
pub(crate) type LeaseItems = Vec<(InfoHash, Option<u64>)>;

/// Something that a member says of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseWord {
    pub(crate) peer_id: PeerId,
    /// When the lease was renewed last, or ended.
    pub(crate) at: Instant,
    pub(crate) part: Part,
}

/// What became of what a member said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was taken, or there was no use for it.
    Done,
    /// The lease was renewed and is not known: it ended here while its member could not be heard.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// Whose it is and where; everything that it holds follows.
    Begin { secret: [u8; 16], endpoints: Vec<std::net::SocketAddr> },
    /// Some items.
    Items(LeaseItems),
    /// It was renewed; with `whole`, all that it holds has been said.
    Renewed { revision: u64, whole: bool },
    /// It is over.
    Ended,
}

/// What happened to a lease of ours since somebody last asked.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Everything has to be said.
    pub(super) whole: bool,
    ended: Option<Instant>,
    items: BTreeMap<InfoHash, Option<u64>>,
    completed: Vec<InfoHash>,
}

impl Dirty {
    pub(super) fn ended(at: Instant) -> Self {
        Self { ended: Some(at), ..Self::default() }
    }

    pub(super) fn item(&mut self, item: &LeaseItem, completed: bool) {
        self.items.insert(item.hash, Some(item.left));
        if completed {
            self.completed.push(item.hash);
        }
    }

    pub(super) fn gone(&mut self, hash: InfoHash) {
        self.items.insert(hash, None);
    }
}

/// What happened to our own leases, one entry each however often they changed. Leases and their items have budgets, so
/// this has.
#[derive(Default)]
pub(super) struct Journal {
    on: bool,
    dirty: BTreeMap<PeerId, Dirty>,
}

impl Journal {
    pub(super) fn note(&mut self, peer_id: PeerId, news: Dirty) {
        if !self.on {
            return;
        }
        let dirty = self.dirty.entry(peer_id).or_default();
        dirty.completed.extend(news.completed);
        if news.ended.is_some() {
            dirty.items.clear();
            dirty.ended = dirty.ended.max(news.ended);
            return;
        }
        // One that ended and began again is another one.
        dirty.whole |= news.whole || dirty.ended.take().is_some();
        if !dirty.whole {
            dirty.items.extend(news.items);
        }
    }
}

/// What is to be told of leases.
#[derive(Debug, Default)]
pub(crate) struct LeaseChanges {
    pub(crate) words: Vec<LeaseWord>,
    /// Downloads that were completed by peers of ours, once each.
    pub(crate) completed: Vec<InfoHash>,
}

impl Lease {
    /// Whether it can be renewed here from now on, though it was elsewhere: not where a change may be missing.
    pub(super) fn may_come_here(&self, request: &LeaseRequest) -> bool {
        request.full || self.whole && self.revision == request.revision
    }

    /// Makes it one of ours; whether it was not.
    pub(super) fn come_here(&mut self) -> bool {
        self.whole = true;
        self.incoming = None;
        // One that has just begun has to be told as a whole too.
        std::mem::replace(&mut self.slot, Slot::HERE) != Slot::HERE || self.endpoints.is_empty()
    }

    /// All that is to be said of it, in parts, to whoever can reach this host under the address in `home`.
    fn words(&self, home: &Advertised) -> impl Iterator<Item = LeaseWord> {
        let endpoints = self.endpoints.iter().filter_map(|endpoint| seen_from_outside(endpoint, home));
        let mut outside: Vec<std::net::SocketAddr> = Vec::new();
        for addr in endpoints {
            if !outside.contains(&addr) {
                outside.push(addr);
            }
        }
        let items: LeaseItems = self.items.iter().map(|(hash, left)| (*hash, Some(*left))).collect();
        let parts: Vec<Part> = items.chunks(ITEMS).map(|items| Part::Items(items.to_vec())).collect();
        let begin = Part::Begin { secret: self.secret, endpoints: outside };
        let renewed = Part::Renewed { revision: self.revision, whole: true };
        let (peer_id, at) = (self.peer_id, self.renewed);
        let parts = std::iter::once(begin).chain(parts).chain(std::iter::once(renewed));
        parts.map(move |part| LeaseWord { peer_id, at, part })
    }
}

/// Under which address another host finds this endpoint, if it does.
fn seen_from_outside(endpoint: &Endpoint, home: &Advertised) -> Option<std::net::SocketAddr> {
    let ip = outside_ip(endpoint.addr.ip(), endpoint.local, endpoint.host_only, home)?;
    Some(std::net::SocketAddr::new(ip, endpoint.addr.port()))
}

/// Under which address another host finds a peer that is known here under `ip`, if it does.
pub(crate) fn outside_ip(ip: IpAddr, local: bool, host_only: bool, home: &Advertised) -> Option<IpAddr> {
    if host_only {
        return None;
    }
    if !local {
        return Some(ip);
    }
    let known = if ip.is_ipv4() { home.v4.map(IpAddr::V4) } else { home.v6.map(IpAddr::V6) };
    known.or_else(|| (!ip.is_loopback()).then_some(ip))
}

impl Leases {
    /// Begins or ends to note what happens to our own leases, for other members.
    pub(crate) fn note_changes(&mut self, on: bool) {
        if self.journal.on != on {
            self.journal = Journal { on, ..Journal::default() };
            self.ended.clear();
        }
    }

    /// What happened to our own leases since the last call.
    pub(crate) fn drain_news(&mut self, home: &Advertised) -> LeaseChanges {
        let mut news = LeaseChanges::default();
        for (peer_id, dirty) in std::mem::take(&mut self.journal.dirty) {
            news.completed.extend(dirty.completed);
            let lease = self.numbers.get(&peer_id).and_then(|number| self.lease(*number));
            let own = lease.filter(|lease| lease.slot == Slot::HERE);
            match (own, dirty.ended) {
                (Some(lease), _) if dirty.whole => news.words.extend(lease.words(home)),
                (Some(lease), _) => {
                    let at = lease.renewed;
                    let items: LeaseItems = dirty.items.into_iter().collect();
                    let parts = items.chunks(ITEMS).map(|items| Part::Items(items.to_vec()));
                    let renewed = Part::Renewed { revision: lease.revision, whole: false };
                    let parts = parts.chain(std::iter::once(renewed));
                    news.words.extend(parts.map(|part| LeaseWord { peer_id, at, part }));
                }
                (None, Some(at)) => news.words.push(LeaseWord { peer_id, at, part: Part::Ended }),
                (None, None) => {}
            }
        }
        news
    }

    /// All that is to be said of the first lease of ours behind `after`.
    pub(crate) fn write_down(&self, after: Option<PeerId>, home: &Advertised) -> Option<(PeerId, Vec<LeaseWord>)> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut leases = self.numbers.range((from, std::ops::Bound::Unbounded));
        let own = leases.find_map(|(_, number)| self.lease(*number).filter(|lease| lease.slot == Slot::HERE));
        own.map(|lease| (lease.peer_id, lease.words(home).collect()))
    }

    /// Takes what a member says of a lease.
    pub(crate) fn hear(
        &mut self,
        word: &LeaseWord,
        speaker: &Speaker<'_>,
        shards: &mut impl Shards,
        now: Instant,
    ) -> Verdict {
        if word.part == Part::Ended {
            self.note_ended(word.peer_id, word.at);
        }
        let number = match self.numbers.get(&word.peer_id).copied() {
            Some(number) => number,
            None => match self.begin_elsewhere(word, speaker, now) {
                Some(number) => number,
                None => return self.verdict_of_unknown(word, now),
            },
        };
        let Some(lease) = self.slots.get_mut(usize::from(number)).and_then(Option::as_mut) else {
            return Verdict::Done;
        };
        if !speaker.is(lease.slot) && word.at <= lease.renewed {
            return Verdict::Done;
        }
        if word.part == Part::Ended {
            if lease.slot == Slot::HERE {
                // Others have it from here.
                self.journal.note(word.peer_id, Dirty::ended(word.at));
            }
            self.end(number, shards, now);
            return Verdict::Done;
        }
        lease.whole &= speaker.is(lease.slot);
        lease.slot = speaker.slot;
        lease.renewed = lease.renewed.max(word.at);
        let before = lease.items.len();
        match &word.part {
            Part::Begin { secret, endpoints } => {
                lease.secret = *secret;
                lease.whole = false;
                lease.incoming = Some(BTreeSet::new());
                let plain = |addr: &std::net::SocketAddr| Endpoint { addr: *addr, local: false, host_only: false };
                let endpoints = endpoints.iter().take(LEASE_ADDRESSES).map(plain).collect();
                lease.move_to(number, endpoints, shards, now);
            }
            Part::Items(items) => {
                let room =
                    self.limits.items_per_lease.min(self.limits.leased_items.saturating_sub(self.items) + before);
                lease.take_items(number, items, room, shards, now);
            }
            Part::Renewed { revision, whole } => {
                lease.revision = *revision;
                if *whole && let Some(incoming) = lease.incoming.take() {
                    let gone: Vec<InfoHash> =
                        lease.items.keys().filter(|hash| !incoming.contains(*hash)).copied().collect();
                    lease.remove(number, &gone, &mut Dirty::default(), shards, now);
                    lease.whole = true;
                }
            }
            Part::Ended => {}
        }
        self.items = self.items - before + lease.items.len();
        Verdict::Done
    }

    fn verdict_of_unknown(&self, word: &LeaseWord, now: Instant) -> Verdict {
        let lives = now.saturating_duration_since(word.at) < LEASE_LIFE && !self.has_ended(word);
        match word.part {
            Part::Renewed { whole: false, .. } if lives && self.numbers.len() < usize::from(self.limits.leases) => {
                Verdict::Unknown
            }
            _ => Verdict::Done,
        }
    }

    fn has_ended(&self, word: &LeaseWord) -> bool {
        self.ended.get(&word.peer_id).is_some_and(|ended| word.at <= *ended)
    }

    /// Takes that a peer ended its lease.
    pub(super) fn note_ended(&mut self, peer_id: PeerId, at: Instant) {
        if self.journal.on && (self.ended.len() < usize::from(self.limits.leases) || self.ended.contains_key(&peer_id))
        {
            let known = self.ended.entry(peer_id).or_insert(at);
            *known = at.max(*known);
        }
    }

    fn begin_elsewhere(&mut self, word: &LeaseWord, speaker: &Speaker<'_>, now: Instant) -> Option<u16> {
        let Part::Begin { secret, .. } = word.part else {
            return None;
        };
        if self.has_ended(word)
            || now.saturating_duration_since(word.at) >= LEASE_LIFE
            || self.numbers.len() >= usize::from(self.limits.leases)
        {
            return None;
        }
        let mut lease = Lease::elsewhere(word.peer_id, secret, IpAddr::V4(Ipv4Addr::UNSPECIFIED), word.at);
        lease.slot = speaker.slot;
        lease.whole = false;
        Some(self.admit(lease))
    }

    /// Ends the leases that were heard of in this slot.
    pub(crate) fn forget_slot(&mut self, slot: Slot, shards: &mut impl Shards, now: Instant) {
        let of_slot = |(number, lease): (usize, &Option<Lease>)| {
            let is = lease.as_ref().is_some_and(|lease| lease.slot == slot);
            is.then_some(u16::try_from(number).ok()).flatten()
        };
        let numbers: Vec<u16> = self.slots.iter().enumerate().filter_map(of_slot).collect();
        for number in numbers {
            self.end(number, shards, now);
        }
    }

    /// Says of the leases that were heard of in one slot that they were in another.
    pub(crate) fn move_slot(&mut self, from: Slot, to: Slot) {
        for lease in self.slots.iter_mut().flatten().filter(|lease| lease.slot == from) {
            lease.slot = to;
        }
    }
}

impl Lease {
    fn take_items(&mut self, number: u16, items: &LeaseItems, room: usize, shards: &mut impl Shards, now: Instant) {
        for (hash, left) in items {
            let Some(left) = left else {
                if self.items.remove(hash).is_some() {
                    swarms::move_out(shards, hash, &self.tenant(number), now);
                }
                continue;
            };
            if self.items.len() >= room && !self.items.contains_key(hash) {
                self.whole = false;
                continue;
            }
            let known = self.items.insert(*hash, *left);
            if known.map(|left| left == 0) != Some(*left == 0) {
                swarms::settle_in(shards, hash, &self.tenant(number), *left == 0, false, now);
            }
            if let Some(incoming) = &mut self.incoming {
                incoming.insert(*hash);
            }
        }
    }
}

/// When something was that is `age` old; None where the machine did not run then.
pub(crate) fn ago(age: Duration, now: Instant) -> Option<Instant> {
    now.checked_sub(age)
}
