//! The swarms that somebody named: those of the catalogue and those in a lease of a peer of ours. They are not
//! forgotten, they may have a second name (the other info-hash of a hybrid), and what happens to them is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use obt_wire::InfoHash;

use super::shard::SwarmStats;

/// A peer that had all of an item, and when that was known last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// As it is known, which is a loopback address for some on the tracker's host.
    pub addr: SocketAddr,
    /// When it came or, if it is gone, when it went.
    pub at: Instant,
}

/// A named swarm is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub hash: InfoHash,
    /// What it is like.
    pub stats: SwarmStats,
    /// Who came last to hold all of it or, where nobody does, who went last.
    pub holder: Option<Holder>,
}

/// News of swarms that were let go, kept until they are asked for; the oldest go when there are more.
const LAST_NEWS: usize = 65_536;

/// Why a swarm is held, and what is to be told of it.
#[derive(Default)]
struct Held {
    /// It is in the catalogue.
    pinned: bool,
    /// Addresses in it that belong to leases.
    leased: u32,
    holder: Option<Holder>,
}

/// Invariants: every hash in `changed` is in `swarms`; an alias leads to a hash that is no alias.
#[derive(Default)]
pub(super) struct HeldSwarms {
    swarms: BTreeMap<InfoHash, Held>,
    /// From the second name of a hybrid to its first.
    aliases: BTreeMap<InfoHash, InfoHash>,
    changed: BTreeSet<InfoHash>,
    last_news: VecDeque<Change>,
}

impl HeldSwarms {
    /// Counts addresses of leases that came to a swarm.
    pub(super) fn lease(&mut self, hash: InfoHash, addresses: u32) {
        self.swarms.entry(hash).or_default().leased += addresses;
    }

    /// Counts addresses of leases that went.
    pub(super) fn unlease(&mut self, hash: &InfoHash, addresses: u32) {
        if let Some(held) = self.swarms.get_mut(hash) {
            held.leased = held.leased.saturating_sub(addresses);
        }
    }

    /// Says whether the catalogue has the swarm.
    pub(super) fn pin(&mut self, hash: InfoHash, pinned: bool) {
        self.swarms.entry(hash).or_default().pinned = pinned;
    }

    /// The swarms that the catalogue has.
    pub(super) fn pinned(&self) -> impl Iterator<Item = InfoHash> {
        self.swarms.iter().filter(|(_, held)| held.pinned).map(|(hash, _)| *hash)
    }

    /// Lets go of a swarm that nothing holds any more; whether nothing does.
    pub(super) fn release(&mut self, hash: &InfoHash, stats: SwarmStats) -> bool {
        let held = self.swarms.get(hash);
        if held.is_some_and(|held| held.pinned || held.leased > 0) {
            return false;
        }
        let holder = self.swarms.remove(hash).and_then(|held| held.holder);
        if self.changed.remove(hash) {
            self.last_news.truncate(LAST_NEWS - 1);
            self.last_news.push_front(Change { hash: *hash, stats, holder });
        }
        true
    }

    /// Notes that a swarm changed; `seed` is the holder that came or went.
    pub(super) fn change(&mut self, hash: InfoHash, seed: Option<SocketAddr>, now: Instant) {
        let Some(held) = self.swarms.get_mut(&hash) else {
            return;
        };
        if let Some(addr) = seed {
            held.holder = Some(Holder { addr, at: now });
        }
        self.changed.insert(hash);
    }

    /// What changed since the last call: each swarm once, as it is.
    pub(super) fn drain(&mut self, stats: impl Fn(&InfoHash) -> SwarmStats) -> Vec<Change> {
        let mut changes: Vec<Change> = std::mem::take(&mut self.last_news).into_iter().rev().collect();
        for hash in std::mem::take(&mut self.changed) {
            let holder = self.swarms.get(&hash).and_then(|held| held.holder);
            changes.push(Change { hash, stats: stats(&hash), holder });
        }
        changes
    }

    /// The first name of the swarm whose second name is `hash`.
    pub(super) fn first_name(&self, hash: &InfoHash) -> Option<InfoHash> {
        if self.aliases.is_empty() {
            return None;
        }
        self.aliases.get(hash).copied()
    }

    /// Makes `second` another name of `first`, or of nothing.
    pub(super) fn alias(&mut self, second: InfoHash, first: Option<InfoHash>) {
        match first {
            Some(first) => self.aliases.insert(second, first),
            None => self.aliases.remove(&second),
        };
    }

    /// What held `hash` before it became a second name, so that the first takes it over: whether it was in the
    /// catalogue.
    pub(super) fn take(&mut self, hash: &InfoHash) -> bool {
        self.changed.remove(hash);
        self.swarms.remove(hash).is_some_and(|held| held.pinned)
    }
}
