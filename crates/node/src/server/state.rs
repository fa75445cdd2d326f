//! The soft state of the tracker as its threads share it: one lock for each shard of swarms, one for the leases.
//!
//! Whoever needs both takes the leases first; nobody holds two shards.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use obt_tracker::exchange::Store;
use obt_tracker::leases::Leases;
use obt_tracker::swarms::{self, Shared, Size};
use obt_tracker::{Change, Shard, Shards, StoreConfig, SwarmPeer, SwarmStats};
use obt_wire::{InfoHash, InfoHashes};

/// Who is in which swarm, for all threads of the tracker.
pub struct TrackerState {
    shared: Shared,
    shards: Vec<Mutex<Shard>>,
    leases: Mutex<Leases>,
}

impl Shards for &TrackerState {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn visit<R>(&mut self, place: usize, work: impl FnOnce(&mut Shard, &Shared) -> R) -> R {
        work(&mut lock(&self.shards[place]), &self.shared)
    }
}

impl Store for &TrackerState {
    fn with_leases<R>(&mut self, work: impl FnOnce(&mut Leases, &mut Self) -> R) -> R {
        let state: &TrackerState = self;
        work(&mut state.leases(), self)
    }
}

impl TrackerState {
    /// Nobody is in any swarm.
    #[must_use]
    pub fn new(config: &StoreConfig, now: Instant) -> Self {
        let (shared, shards) = Shared::new(config, now);
        let leases = Mutex::new(Leases::new(config.limits));
        Self { shared, shards: shards.into_iter().map(Mutex::new).collect(), leases }
    }

    /// The leases of our own peers, locked: nobody renews one meanwhile.
    pub fn leases(&self) -> MutexGuard<'_, Leases> {
        lock(&self.leases)
    }

    /// Who is in the swarm of a content, in numbers.
    #[must_use]
    pub fn stats(&self, hashes: &InfoHashes, now: Instant) -> SwarmStats {
        swarms::stats(&mut &*self, &hashes.primary(), now)
    }

    /// Who is in the swarm of a content.
    #[must_use]
    pub fn peers(&self, hashes: &InfoHashes, now: Instant) -> Vec<SwarmPeer> {
        swarms::peers(&mut &*self, &hashes.primary(), now)
    }

    /// Holds the swarm of a content that has a name, as one swarm under both of its hashes.
    pub fn pin(&self, hashes: &InfoHashes, completed: u32, now: Instant) {
        let mut shards = self;
        let first = hashes.primary();
        swarms::pin(&mut shards, &first, completed, now);
        for second in hashes.short().skip(1) {
            swarms::link(&mut shards, &first, &second, now);
        }
    }

    /// Lets go of the swarm of a content that has no name any more.
    pub fn unpin(&self, hashes: &InfoHashes, now: Instant) {
        let mut shards = self;
        swarms::unpin(&mut shards, &hashes.primary(), now);
        for second in hashes.short().skip(1) {
            swarms::unlink(&mut shards, &second);
        }
    }

    /// The swarms that are held for names, by their first hashes.
    #[must_use]
    pub fn pinned(&self) -> Vec<InfoHash> {
        swarms::pinned(&mut &*self)
    }

    /// What changed in held swarms since the last call.
    #[must_use]
    pub fn drain_changes(&self) -> Vec<Change> {
        swarms::drain_changes(&mut &*self)
    }

    /// Ends leases that were not renewed. For about once a second.
    pub fn expire_leases(&self, now: Instant) {
        self.leases().expire(&mut &*self, now);
    }

    /// Forgets stock peers that announced too long ago. For about once a minute.
    pub fn expire_swarms(&self, now: Instant) {
        swarms::expire(&mut &*self, now);
    }

    /// How much there is of it.
    #[must_use]
    pub fn size(&self) -> Size {
        swarms::size(&mut &*self)
    }
}

/// A thread that panicked while it held a lock has left a shard that is still a shard: its invariants are restored by
/// the next announces, and a tracker that stops for good would be worse.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
