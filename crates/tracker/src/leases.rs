//! The leases by which our own peers say what they hold.
//!
//! A peer renews one record, whatever it holds: its places in the swarms refer to the lease and last as long as it
//! does. Only changes are sent, numbered, so that a tracker that missed one notices and asks for everything. A lease
//! is changed only with the secret that made it.

mod elsewhere;
mod record;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use obt_wire::{InfoHash, PeerId};
use thiserror::Error;

use self::elsewhere::{Dirty, Journal};
pub(crate) use self::elsewhere::{LeaseChanges, LeaseWord, Part, Verdict, ago, outside_ip};
pub use self::record::Lease;
use self::record::Origin;
use crate::limits::{LEASE_INTERVAL, LEASE_LIFE, LEASE_PEERS, LEASE_WANTS, Limits, NUM_WANT, NUM_WANT_DEFAULT};
use crate::store::{Asker, CompactPeers, LeaseWant, PeerLists, Slot};
use crate::swarms::{self, Shards};

/// What a peer says: who it is, what changed, and for which swarms it wants peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Whose lease.
    pub peer_id: PeerId,
    /// What proves it.
    pub secret: [u8; 16],
    /// Where the peer listens.
    pub port: u16,
    /// Addresses to tell others instead of the one it comes from.
    pub advertise: Vec<SocketAddr>,
    /// Number of the last change.
    pub revision: u64,
    /// `set` is everything that the peer holds.
    pub full: bool,
    /// Items that are new or different.
    pub set: Vec<LeaseItem>,
    /// Items that are gone.
    pub removed: Vec<InfoHash>,
    /// Swarms for which it wants peers.
    pub want: Vec<InfoHash>,
    /// How many of each; 0 leaves it to us.
    pub num_want: usize,
    /// It leaves.
    pub stopped: bool,
}

/// One item of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseItem {
    /// Its swarm.
    pub hash: InfoHash,
    /// Bytes still missing.
    pub left: u64,
    /// Its download has just been completed.
    pub completed: bool,
}

/// The answer to a lease. Interval and life are [`LEASE_INTERVAL`] and [`LEASE_LIFE`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseReply {
    /// The change up to which the tracker knows the peer.
    pub revision: u64,
    /// A change is missing: the peer has to send everything.
    pub resync: bool,
    /// Peers for each swarm that was asked for and has any.
    pub peers: Vec<(InfoHash, Vec<SocketAddr>)>,
}

/// Why a lease is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseRefused {
    /// Nobody listens on port 0.
    #[error("port 0 cannot be reached by others")]
    PortZero,
    /// The lease was made with another secret.
    #[error("the lease of this peer id belongs to somebody else")]
    WrongSecret,
    /// More items than one lease, or all leases together, may have.
    #[error("too many items in leases")]
    TooManyItems,
    /// More leases than one address, or the tracker, may have.
    #[error("too many leases")]
    TooManyLeases,
    /// More swarms asked for than one answer can hold.
    #[error("peers wanted for too many items at once")]
    TooManyWanted,
}

/// All leases.
///
/// Invariants: `numbers` and the filled `slots` are each other's inverse; `items` and `by_address` are sums over them;
/// every item of a lease has the lease's endpoints in its swarm, unless another lease took them or there was no room.
pub struct Leases {
    numbers: BTreeMap<PeerId, u16>,
    slots: Vec<Option<Lease>>,
    free: Vec<u16>,
    by_address: BTreeMap<IpAddr, usize>,
    items: usize,
    limits: Limits,
    journal: Journal,
    /// Leases that their peers ended, and when: a member that was cut off may still tell of them.
    ended: BTreeMap<PeerId, Instant>,
}

impl Leases {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            numbers: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            by_address: BTreeMap::new(),
            items: 0,
            limits,
            journal: Journal::default(),
            ended: BTreeMap::new(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The lease with this number, as [`SwarmPeer`](crate::SwarmPeer) has it.
    #[must_use]
    pub fn lease(&self, number: u16) -> Option<&Lease> {
        self.slots.get(usize::from(number))?.as_ref()
    }

    /// All leases, in the order of peer ids.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.numbers.values().filter_map(|number| self.lease(*number))
    }

    /// Takes what a peer says, and answers it.
    ///
    /// # Errors
    /// When the lease is somebody else's, or a budget is spent; nothing is changed then.
    pub fn renew(
        &mut self,
        request: &LeaseRequest,
        asker: &Asker,
        shards: &mut impl Shards,
        now: Instant,
    ) -> Result<LeaseReply, LeaseRefused> {
        if request.port == 0 {
            return Err(LeaseRefused::PortZero);
        }
        if request.want.len() > LEASE_WANTS {
            return Err(LeaseRefused::TooManyWanted);
        }
        let known = self.own_lease(request, shards, now)?;
        if request.stopped {
            if let Some(number) = known {
                self.journal.note(request.peer_id, Dirty::ended(now));
                self.note_ended(request.peer_id, now);
                self.end(number, shards, now);
            }
            return Ok(LeaseReply { revision: request.revision, ..LeaseReply::default() });
        }
        let number = match known {
            Some(number) => number,
            None if request.full => self.begin(request, asker, now)?,
            None => return Ok(LeaseReply { resync: true, ..LeaseReply::default() }),
        };
        let resync = self.update(number, request, asker, shards, now)?;
        let peers = self.tell(number, request, asker, shards, now);
        let revision = self.lease(number).map_or(0, |lease| lease.revision);
        Ok(LeaseReply { revision, resync, peers })
    }

    /// The number of the lease that the request is about, if it has not run out.
    fn own_lease(
        &mut self,
        request: &LeaseRequest,
        shards: &mut impl Shards,
        now: Instant,
    ) -> Result<Option<u16>, LeaseRefused> {
        let Some(number) = self.numbers.get(&request.peer_id).copied() else {
            return Ok(None);
        };
        let Some(lease) = self.lease(number) else {
            return Ok(None);
        };
        if lease.is_over(now) {
            self.end(number, shards, now);
            return Ok(None);
        }
        if !lease.is_opened_by(&request.secret) {
            return Err(LeaseRefused::WrongSecret);
        }
        Ok(Some(number))
    }

    fn begin(&mut self, request: &LeaseRequest, asker: &Asker, now: Instant) -> Result<u16, LeaseRefused> {
        let from_address = self.by_address.get(&network(asker.ip)).copied().unwrap_or(0);
        if self.numbers.len() >= usize::from(self.limits.leases) || from_address >= self.limits.leases_per_address {
            return Err(LeaseRefused::TooManyLeases);
        }
        self.check_items(0, request.set.len())?;
        Ok(self.admit(Lease::new(request, asker.ip, now)))
    }

    /// Gives a lease a number.
    fn admit(&mut self, lease: Lease) -> u16 {
        let (peer_id, source) = (lease.peer_id, lease.source);
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.slots.push(None);
                u16::try_from(self.slots.len() - 1).unwrap_or(u16::MAX)
            }
        };
        if let Some(slot) = self.slots.get_mut(usize::from(number)) {
            *slot = Some(lease);
        }
        self.numbers.insert(peer_id, number);
        *self.by_address.entry(network(source)).or_default() += 1;
        number
    }

    fn check_items(&self, kept: usize, added: usize) -> Result<(), LeaseRefused> {
        let fits = kept + added <= self.limits.items_per_lease && self.items + added <= self.limits.leased_items;
        if fits { Ok(()) } else { Err(LeaseRefused::TooManyItems) }
    }

    /// Renews the lease and makes its changes; whether one is missing.
    fn update(
        &mut self,
        number: u16,
        request: &LeaseRequest,
        asker: &Asker,
        shards: &mut impl Shards,
        now: Instant,
    ) -> Result<bool, LeaseRefused> {
        let Some(lease) = self.lease(number) else {
            return Ok(true);
        };
        if lease.slot != Slot::HERE && !lease.may_come_here(request) {
            // It stays listed as it is renewed elsewhere.
            return Ok(true);
        }
        let kept = if request.full { 0 } else { lease.items.len() };
        self.check_items(kept, request.set.len())?;
        let Some(lease) = self.slots.get_mut(usize::from(number)).and_then(Option::as_mut) else {
            return Ok(true);
        };
        let mut dirty = Dirty::default();
        dirty.whole = lease.come_here();
        lease.renewed = now;
        let before = lease.items.len();
        let origin = Origin { asker, port: request.port, advertise: &request.advertise };
        dirty.whole |= lease.settle_at(number, &origin, shards, now);
        // The same change may come twice, where our answer to the first was lost.
        let current = request.full || request.revision == lease.revision || request.revision == lease.revision + 1;
        if current {
            lease.change(number, request, &mut dirty, shards, now);
        }
        self.items = self.items - before + lease.items.len();
        let peer_id = lease.peer_id;
        self.journal.note(peer_id, dirty);
        Ok(!current)
    }

    /// Peers for the swarms that the request asks for.
    fn tell(
        &self,
        number: u16,
        request: &LeaseRequest,
        asker: &Asker,
        shards: &mut impl Shards,
        now: Instant,
    ) -> Vec<(InfoHash, Vec<SocketAddr>)> {
        let want = if request.num_want == 0 { NUM_WANT_DEFAULT } else { request.num_want.min(NUM_WANT) };
        let mut room = LEASE_PEERS;
        let mut told = Vec::new();
        for hash in &request.want {
            let seed = self.lease(number).is_some_and(|lease| lease.items.get(hash) == Some(&0));
            let (mut v4, mut v6) = ([0; 6 * NUM_WANT], [0; 18 * NUM_WANT]);
            let mut lists = PeerLists { v4: CompactPeers::new(&mut v4), v6: CompactPeers::new(&mut v6) };
            let want = LeaseWant { asker, lease: number, seed, want: want.min(room) };
            swarms::tell_lease(shards, hash, &want, &mut lists, now);
            let peers: Vec<SocketAddr> = lists.v4.v4().chain(lists.v6.v6()).collect();
            room = room.saturating_sub(peers.len());
            if !peers.is_empty() {
                told.push((*hash, peers));
            }
        }
        told
    }

    /// Ends every lease that was not renewed in time. For about once a second.
    pub fn expire(&mut self, shards: &mut impl Shards, now: Instant) {
        let over = |(number, slot): (usize, &Option<Lease>)| {
            let over = slot.as_ref().is_some_and(|lease| lease.is_over(now));
            over.then_some(u16::try_from(number).ok()).flatten()
        };
        let over: Vec<u16> = self.slots.iter().enumerate().filter_map(over).collect();
        for number in over {
            self.end(number, shards, now);
        }
        self.ended.retain(|_, at| now.saturating_duration_since(*at) < LEASE_LIFE);
    }

    fn end(&mut self, number: u16, shards: &mut impl Shards, now: Instant) {
        let Some(mut lease) = self.slots.get_mut(usize::from(number)).and_then(Option::take) else {
            return;
        };
        self.items -= lease.items.len();
        lease.leave(number, shards, now);
        if lease.slot == Slot::HERE {
            // Not later than it was heard of: it may have gone on at a member that this one cannot reach.
            self.journal.note(lease.peer_id, Dirty::ended(lease.renewed));
        }
        self.numbers.remove(&lease.peer_id);
        self.free.push(number);
        let network = network(lease.source);
        if let Some(count) = self.by_address.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&network);
            }
        }
    }
}

/// What counts as one address: who has one of a /64 has them all.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let mut network = ip.octets();
            network[8..].fill(0);
            network.into()
        }
    }
}

// A killed peer is gone within 45 s: its life, and the second until somebody looks.
const _: () = assert!(LEASE_LIFE.as_secs() < 45 && LEASE_INTERVAL.as_secs() * 2 < LEASE_LIFE.as_secs());

#[cfg(test)]
mod tests;
