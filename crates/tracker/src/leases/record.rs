//! One lease: who, where, and what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use obt_wire::compact::{Reach, canonical, is_dialable, reach};
use obt_wire::{InfoHash, PeerId};

use super::elsewhere::Dirty;
use super::{LeaseItem, LeaseRequest};
use crate::limits::{LEASE_ADDRESSES, LEASE_LIFE};
use crate::store::{Asker, Endpoint, Slot, Tenant};
use crate::swarms::{self, Shards};

/// The lease of one peer of ours.
#[derive(Debug)]
pub struct Lease {
    pub(super) peer_id: PeerId,
    pub(super) secret: [u8; 16],
    /// The address that made it, which it counts for.
    pub(super) source: IpAddr,
    /// Where it was seen last, in either address family.
    seen_v4: Option<Ipv4Addr>,
    seen_v6: Option<Ipv6Addr>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) revision: u64,
    /// Bytes still missing, by swarm.
    pub(super) items: BTreeMap<InfoHash, u64>,
    since: Instant,
    pub(super) renewed: Instant,
    /// Where it is renewed.
    pub(super) slot: Slot,
    /// All that it holds is known: where it is renewed elsewhere, that is so when everything has come in.
    pub(super) whole: bool,
    /// What has come in of everything that it holds; the rest is gone when all has come in.
    pub(super) incoming: Option<BTreeSet<InfoHash>>,
}

/// Where a request comes from, and where its sender says that it is.
pub(super) struct Origin<'a> {
    pub(super) asker: &'a Asker,
    pub(super) port: u16,
    pub(super) advertise: &'a [SocketAddr],
}

impl Lease {
    pub(super) fn new(request: &LeaseRequest, source: IpAddr, now: Instant) -> Self {
        Self {
            peer_id: request.peer_id,
            secret: request.secret,
            source,
            seen_v4: None,
            seen_v6: None,
            endpoints: Vec::new(),
            revision: request.revision,
            items: BTreeMap::new(),
            since: now,
            renewed: now,
            slot: Slot::HERE,
            whole: true,
            incoming: None,
        }
    }

    /// One that is renewed at another member.
    pub(super) fn elsewhere(peer_id: PeerId, secret: [u8; 16], source: IpAddr, renewed: Instant) -> Self {
        Self {
            peer_id,
            secret,
            source,
            seen_v4: None,
            seen_v6: None,
            endpoints: Vec::new(),
            revision: 0,
            items: BTreeMap::new(),
            since: renewed,
            renewed,
            slot: Slot::NOBODY,
            whole: false,
            incoming: None,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Where the peer is told to be; the first address is the one to show.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What it holds or fetches: bytes still missing, by swarm.
    #[must_use]
    pub fn items(&self) -> &BTreeMap<InfoHash, u64> {
        &self.items
    }

    /// When it began.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When the peer was heard last.
    #[must_use]
    pub fn renewed(&self) -> Instant {
        self.renewed
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.renewed) >= LEASE_LIFE
    }

    /// Whether `secret` is the one, in a time that does not tell how much of it is.
    pub(super) fn is_opened_by(&self, secret: &[u8; 16]) -> bool {
        self.secret.iter().zip(secret).fold(0, |sum, (own, given)| sum | (own ^ given)) == 0
    }

    pub(super) fn tenant(&self, number: u16) -> Tenant<'_> {
        Tenant { lease: number, endpoints: &self.endpoints }
    }

    /// Notes where the peer is; if that changed, it moves in every swarm. Whether it did.
    pub(super) fn settle_at(
        &mut self,
        number: u16,
        origin: &Origin<'_>,
        shards: &mut impl Shards,
        now: Instant,
    ) -> bool {
        match origin.asker.ip {
            IpAddr::V4(ip) => self.seen_v4 = Some(ip),
            IpAddr::V6(ip) => self.seen_v6 = Some(ip),
        }
        let endpoints = self.endpoints_of(origin);
        self.move_to(number, endpoints, shards, now)
    }

    /// Moves the peer to these addresses, in every swarm; whether it was elsewhere.
    pub(super) fn move_to(
        &mut self,
        number: u16,
        endpoints: Vec<Endpoint>,
        shards: &mut impl Shards,
        now: Instant,
    ) -> bool {
        // The order changes with the family that the peer happens to use; the places do not.
        if endpoints.len() == self.endpoints.len() && endpoints.iter().all(|new| self.endpoints.contains(new)) {
            return false;
        }
        let old = std::mem::replace(&mut self.endpoints, endpoints);
        for (hash, left) in &self.items {
            swarms::move_out(shards, hash, &Tenant { lease: number, endpoints: &old }, now);
            swarms::settle_in(shards, hash, &self.tenant(number), *left == 0, false, now);
        }
        true
    }

    fn endpoints_of(&self, origin: &Origin<'_>) -> Vec<Endpoint> {
        let local = origin.asker.is_local();
        let mut seen = [self.seen_v4.map(IpAddr::V4), self.seen_v6.map(IpAddr::V6)];
        if local {
            // Peers of ours listen in both families, and whoever reached us in either reaches the host in it.
            seen[0] = seen[0].or(Some(Ipv4Addr::LOCALHOST.into()));
            seen[1] = seen[1].or(Some(Ipv6Addr::LOCALHOST.into()));
        }
        if origin.asker.ip.is_ipv6() {
            seen.reverse();
        }
        let advertised = origin.advertise.iter().filter(|addr| may_advertise(origin.asker, addr));
        let plain = |addr: &SocketAddr| Endpoint { addr: canonical(*addr), local: false, host_only: false };
        let mut endpoints: Vec<Endpoint> = advertised.take(LEASE_ADDRESSES).map(plain).collect();
        let host_only = !endpoints.is_empty();
        if host_only && !local {
            return endpoints;
        }
        for addr in seen.into_iter().flatten().map(|ip| SocketAddr::new(ip, origin.port)) {
            // What it advertises is for all, also where it is seen at the same place.
            if endpoints.iter().all(|endpoint| endpoint.addr != addr) {
                endpoints.push(Endpoint { addr, local, host_only });
            }
        }
        endpoints
    }

    /// Makes the changes of a request, and writes down those that others have to be told.
    pub(super) fn change(
        &mut self,
        number: u16,
        request: &LeaseRequest,
        dirty: &mut Dirty,
        shards: &mut impl Shards,
        now: Instant,
    ) {
        if request.full {
            let keep: BTreeMap<InfoHash, ()> = request.set.iter().map(|item| (item.hash, ())).collect();
            let gone: Vec<InfoHash> = self.items.keys().filter(|hash| !keep.contains_key(hash)).copied().collect();
            self.remove(number, &gone, dirty, shards, now);
        } else {
            self.remove(number, &request.removed, dirty, shards, now);
        }
        for item in &request.set {
            self.set(number, item, dirty, shards, now);
        }
        self.revision = request.revision;
    }

    fn set(&mut self, number: u16, item: &LeaseItem, dirty: &mut Dirty, shards: &mut impl Shards, now: Instant) {
        let known = self.items.insert(item.hash, item.left);
        let seed = item.left == 0;
        let completed = item.completed && seed && known != Some(0);
        if known.map(|left| left == 0) != Some(seed) {
            dirty.item(item, completed);
            swarms::settle_in(shards, &item.hash, &self.tenant(number), seed, completed, now);
        }
    }

    pub(super) fn remove(
        &mut self,
        number: u16,
        hashes: &[InfoHash],
        dirty: &mut Dirty,
        shards: &mut impl Shards,
        now: Instant,
    ) {
        for hash in hashes {
            if self.items.remove(hash).is_some() {
                dirty.gone(*hash);
                swarms::move_out(shards, hash, &self.tenant(number), now);
            }
        }
    }

    /// Leaves every swarm.
    pub(super) fn leave(&mut self, number: u16, shards: &mut impl Shards, now: Instant) {
        for hash in std::mem::take(&mut self.items).into_keys() {
            swarms::move_out(shards, &hash, &self.tenant(number), now);
        }
    }
}

/// Whether others may be told of `addr` for this asker's sake. A stranger on the public internet could point a whole
/// swarm at a victim; it advertises its own address or none. On private networks, where addresses are translated and
/// people know each other, the peer knows best.
fn may_advertise(asker: &Asker, addr: &SocketAddr) -> bool {
    let addr = canonical(*addr);
    let leads_out = is_dialable(addr) && (reach(addr.ip()) != Reach::Loopback || asker.is_local());
    leads_out && (addr.ip() == asker.ip || asker.is_local() || reach(asker.ip) != Reach::Global)
}
