//! All shards together: which one a swarm is in, and what concerns more than one of them.
//!
//! The functions take anything that yields a shard ([`Shards`]). [`Swarms`] is the plain one; a server puts each shard
//! behind its own lock and never holds two.

use std::net::SocketAddr;
use std::time::Instant;

use obt_wire::InfoHash;

use crate::limits::Limits;
use crate::store::{
    Advertised, Announce, Answer, Asker, Budget, Change, Frame, HashKey, Identity, LeaseWant, Note, PeerLists, Quota,
    Refused, Shard, Slot, Speaker, SwarmPeer, SwarmStats, Tenant,
};

/// Shards of a store, as a power of two: 256 keep the growth of one table under a millisecond, and threads apart.
pub const SHARD_BITS: u32 = 8;

/// What a store is made of.
#[derive(Debug, Clone, Copy)]
pub struct StoreConfig {
    /// Shards, as a power of two; at most 16.
    pub shard_bits: u32,
    /// Budgets.
    pub limits: Limits,
    /// What others are told instead of the tracker's own addresses.
    pub advertised: Advertised,
    /// Random bytes that nobody else knows: they key every table and seed every choice.
    pub secret: [u8; 32],
}

/// What the shards have in common. It never changes, so it needs no lock.
pub struct Shared {
    frame: Frame,
    shard_bits: u32,
    limits: Limits,
    quota: Quota,
}

impl Shared {
    /// The shared part and the shards of an empty store.
    #[must_use]
    pub fn new(config: &StoreConfig, now: Instant) -> (Self, Vec<Shard>) {
        let shard_bits = config.shard_bits.min(16);
        let (mut key, mut seed) = ([0; 24], [0; 8]);
        key.copy_from_slice(&config.secret[..24]);
        seed.copy_from_slice(&config.secret[24..]);
        let key = HashKey::new(key);
        let frame = Frame {
            key,
            epoch: now,
            ports_per_address: config.limits.ports_per_address,
            advertised: config.advertised,
        };
        let quota = Quota::new(config.limits.torrents_per_hour, key);
        let seed = u64::from_ne_bytes(seed);
        let budgets = Budget::of_shards(config.limits.memory, 1 << shard_bits);
        let shards = (0..).zip(budgets).map(|(number, budget)| Shard::new(frame, budget, seed ^ number)).collect();
        (Self { frame, shard_bits, limits: config.limits, quota }, shards)
    }

    /// The number of the shard that `hash` falls into.
    #[must_use]
    pub fn place(&self, hash: &InfoHash) -> usize {
        // The high bits: the tables inside a shard use the low ones.
        let place = self.frame.key.info_hash(hash).checked_shr(64 - self.shard_bits).unwrap_or(0);
        usize::try_from(place).unwrap_or(0)
    }

    /// The numbers of all shards.
    #[must_use]
    pub fn places(&self) -> std::ops::Range<usize> {
        0..1 << self.shard_bits
    }

    /// Whole seconds since the store began.
    pub(crate) fn seconds(&self, now: Instant) -> u32 {
        self.frame.seconds(now)
    }

    /// The budgets.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// Something that yields shards: plain memory, or one lock for each.
pub trait Shards {
    /// What the shards have in common.
    fn shared(&self) -> &Shared;

    /// Lets `work` at the shard with this number, and nobody else meanwhile.
    fn visit<R>(&mut self, place: usize, work: impl FnOnce(&mut Shard, &Shared) -> R) -> R;
}

/// Shards in plain memory.
pub struct Swarms {
    shared: Shared,
    shards: Vec<Shard>,
}

impl Swarms {
    /// An empty store.
    #[must_use]
    pub fn new(config: &StoreConfig, now: Instant) -> Self {
        let (shared, shards) = Shared::new(config, now);
        Self { shared, shards }
    }
}

impl Shards for Swarms {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn visit<R>(&mut self, place: usize, work: impl FnOnce(&mut Shard, &Shared) -> R) -> R {
        work(&mut self.shards[place], &self.shared)
    }
}

/// Lets `work` at the shard of a swarm, under the first name of the swarm.
fn on_swarm<R>(shards: &mut impl Shards, hash: &InfoHash, work: impl FnOnce(&mut Shard, &Shared, InfoHash) -> R) -> R {
    let place = shards.shared().place(hash);
    let done = shards.visit(place, |shard, shared| match shard.first_name(hash) {
        None => Ok(work(shard, shared, *hash)),
        Some(first) => Err((first, work)),
    });
    match done {
        Ok(done) => done,
        Err((first, work)) => {
            let place = shards.shared().place(&first);
            shards.visit(place, |shard, shared| work(shard, shared, first))
        }
    }
}

/// Takes an announce of a stock client, and writes peers for it into `lists`.
///
/// # Errors
/// When it would make a new swarm and its address has made too many.
pub fn announce(
    shards: &mut impl Shards,
    announce: &Announce,
    lists: &mut PeerLists<'_>,
    now: Instant,
) -> Result<Answer, Refused> {
    on_swarm(shards, &announce.hash, |shard, shared, hash| {
        shard.announce(&Announce { hash, ..*announce }, lists, &shared.quota, now)
    })
}

/// The state of a swarm; zeros where nothing is known of it.
pub fn stats(shards: &mut impl Shards, hash: &InfoHash, now: Instant) -> SwarmStats {
    on_swarm(shards, hash, |shard, _, hash| shard.stats(&hash, now))
}

/// The peers of a swarm, to show to people.
pub fn peers(shards: &mut impl Shards, hash: &InfoHash, now: Instant) -> Vec<SwarmPeer> {
    on_swarm(shards, hash, |shard, _, hash| shard.peers(&hash, now))
}

/// Who is at the addresses that an asker was told of, as far as that is known.
pub fn identify(
    shards: &mut impl Shards,
    hash: &InfoHash,
    asker: &Asker,
    told: &[SocketAddr],
) -> Vec<Option<Identity>> {
    on_swarm(shards, hash, |shard, _, hash| shard.identify(&hash, asker, told))
}

/// Holds a swarm for the catalogue: it is not forgotten, and what happens to it is told by [`drain_changes`].
/// `completed` downloads of it were counted before.
pub fn pin(shards: &mut impl Shards, hash: &InfoHash, completed: u32, now: Instant) {
    on_swarm(shards, hash, |shard, _, hash| shard.pin(hash, completed, now));
}

/// Ends what [`pin`] began.
pub fn unpin(shards: &mut impl Shards, hash: &InfoHash, now: Instant) {
    on_swarm(shards, hash, |shard, _, hash| shard.unpin(hash, now));
}

/// All swarms that are held by [`pin`]. Walks all of them.
pub fn pinned(shards: &mut impl Shards) -> Vec<InfoHash> {
    let places = shards.shared().places();
    places.flat_map(|place| shards.visit(place, |shard, _| shard.pinned())).collect()
}

/// Makes the two info-hashes of a hybrid one swarm: `second`, the truncated v2 one, becomes another name of `first`.
pub fn link(shards: &mut impl Shards, first: &InfoHash, second: &InfoHash, now: Instant) {
    let first = on_swarm(shards, first, |_, _, first| first);
    if first == *second {
        return;
    }
    let place = shards.shared().place(second);
    let moving = shards.visit(place, |shard, _| shard.become_alias(*second, first));
    if let Some(moving) = moving {
        on_swarm(shards, &first, |shard, _, first| shard.absorb(first, &moving, now));
    }
}

/// Ends what [`link`] began: `second` is a swarm of its own again, without peers.
pub fn unlink(shards: &mut impl Shards, second: &InfoHash) {
    let place = shards.shared().place(second);
    shards.visit(place, |shard, _| shard.forget_alias(*second));
}

/// Forgets what is over. For about once a minute; what is asked for in between is up to date anyway.
pub fn expire(shards: &mut impl Shards, now: Instant) {
    for place in shards.shared().places() {
        shards.visit(place, |shard, _| shard.expire(now));
    }
}

/// What changed in held swarms since the last call: each of them once, as it is.
pub fn drain_changes(shards: &mut impl Shards) -> Vec<Change> {
    let places = shards.shared().places();
    places.flat_map(|place| shards.visit(place, |shard, _| shard.drain_changes())).collect()
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Swarms with anybody in them.
    pub swarms: usize,
    /// Addresses in all of them.
    pub addresses: usize,
    /// Memory, bytes.
    pub memory: usize,
}

/// How much the store holds.
pub fn size(shards: &mut impl Shards) -> Size {
    shards.shared().places().fold(Size::default(), |sum, place| {
        let ((swarms, addresses), memory) = shards.visit(place, |shard, _| (shard.size(), shard.memory()));
        Size { swarms: sum.swarms + swarms, addresses: sum.addresses + addresses, memory: sum.memory + memory }
    })
}

/// Puts a leased peer into a swarm, or changes what it lacks there.
pub(crate) fn settle_in(
    shards: &mut impl Shards,
    hash: &InfoHash,
    tenant: &Tenant<'_>,
    seed: bool,
    completed: bool,
    now: Instant,
) {
    on_swarm(shards, hash, |shard, _, hash| shard.settle_in(hash, tenant, seed, completed, now));
}

/// Takes a leased peer out of a swarm.
pub(crate) fn move_out(shards: &mut impl Shards, hash: &InfoHash, tenant: &Tenant<'_>, now: Instant) {
    on_swarm(shards, hash, |shard, _, hash| shard.move_out(hash, tenant, now));
}

/// Writes peers of a swarm for a peer of ours.
pub(crate) fn tell_lease(
    shards: &mut impl Shards,
    hash: &InfoHash,
    want: &LeaseWant<'_>,
    lists: &mut PeerLists<'_>,
    now: Instant,
) {
    on_swarm(shards, hash, |shard, _, hash| shard.tell_lease(&hash, want, lists, now));
}

/// Takes what a member of the cluster says of peers of a swarm; `to` is the slot of who has a peer that it gave up.
pub(crate) fn hear<'a>(
    shards: &mut impl Shards,
    hash: &InfoHash,
    news: impl Iterator<Item = (&'a Note, Slot)>,
    speaker: &Speaker<'_>,
    now: Instant,
) {
    on_swarm(shards, hash, |shard, _, hash| {
        for (note, to) in news {
            shard.hear(hash, note, to, speaker, now);
        }
    });
}

/// Counts downloads that another member counted, or takes back what it took back.
pub(crate) fn count_completed(shards: &mut impl Shards, hash: &InfoHash, more: i64, now: Instant) {
    on_swarm(shards, hash, |shard, _, hash| shard.count_completed(hash, more, now));
}
