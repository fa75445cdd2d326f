//! What the owners of names do to the swarms of a shard: peers of ours enter and leave by their leases, the catalogue
//! pins its items and joins the two swarms of a hybrid.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use obt_wire::InfoHash;

use super::clients::SwarmClients;
use super::held::Change;
use super::members::{self, Has, Members};
use super::peer::{Marks, Peer, Source};
use super::shard::{Frame, Shard, SwarmStats};
use super::torrent::{HELD, Torrent};

/// One address of a leased peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port.
    pub addr: SocketAddr,
    /// It is on the tracker's host, and told under the address that the asker reached.
    pub local: bool,
    /// Only those on the tracker's host are told of it.
    pub host_only: bool,
}

/// A leased peer as the swarms know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tenant<'a> {
    /// The number of its lease.
    pub(crate) lease: u16,
    /// All its addresses; the first one is counted.
    pub(crate) endpoints: &'a [Endpoint],
}

impl Tenant<'_> {
    /// Whether whoever is told of `endpoint` could be told of an address in the other family instead.
    fn has_twin_of(&self, endpoint: &Endpoint) -> bool {
        let is_twin =
            |other: &Endpoint| other.addr.is_ipv4() != endpoint.addr.is_ipv4() && other.host_only == endpoint.host_only;
        self.endpoints.iter().any(is_twin)
    }
}

/// A swarm on its way into another one.
pub(crate) struct Moving {
    members: Members,
    clients: SwarmClients,
    completed: u32,
    /// As [`Torrent::next_due`].
    next_due: u32,
    pinned: bool,
}

impl Shard {
    /// The first name of the swarm, if `hash` is the second name of a hybrid.
    pub(crate) fn first_name(&self, hash: &InfoHash) -> Option<InfoHash> {
        self.held.first_name(hash)
    }

    /// Puts a leased peer into a swarm, or changes what it lacks there. `completed` says that its download has just
    /// been completed.
    pub(crate) fn settle_in(&mut self, hash: InfoHash, tenant: &Tenant<'_>, seed: bool, completed: bool, now: Instant) {
        let at = self.hold(hash, now);
        let before = self.before(at);
        let expired = self.torrents[at].expire(self.frame.seconds(now), self.frame.key);
        let mut added = 0;
        for (number, endpoint) in tenant.endpoints.iter().enumerate() {
            let marks = Marks::LEASED
                .with(Marks::SEED, seed)
                .with(Marks::EXTRA, number > 0)
                .with(Marks::LOCAL, endpoint.local)
                .with(Marks::HOST_ONLY, endpoint.host_only)
                .with(Marks::TWIN, tenant.has_twin_of(endpoint));
            let torrent = &mut self.torrents[at];
            let (port, due) = (endpoint.addr.port().to_be_bytes(), tenant.lease);
            let source = Source::NONE;
            let ports = self.frame.ports_per_address;
            added += match endpoint.addr.ip() {
                IpAddr::V4(ip) => {
                    put(&mut torrent.members, Peer { ip: ip.octets(), port, marks, source, due }, ports, self.frame.key)
                }
                IpAddr::V6(ip) => {
                    put(&mut torrent.members, Peer { ip: ip.octets(), port, marks, source, due }, ports, self.frame.key)
                }
            };
        }
        if completed {
            self.torrents[at].completed = self.torrents[at].completed.saturating_add(1);
        }
        self.held.lease(hash, added);
        let seed = tenant.endpoints.first().filter(|_| seed).map(|endpoint| endpoint.addr);
        self.settle(at, &before, seed.or(expired), now);
        self.release(hash, now);
    }

    /// Takes a leased peer out of a swarm.
    pub(crate) fn move_out(&mut self, hash: InfoHash, tenant: &Tenant<'_>, now: Instant) {
        let Some(at) = self.find(&hash) else {
            return;
        };
        let before = self.before(at);
        let mut removed = 0;
        let mut seed = None;
        for endpoint in tenant.endpoints {
            let members = &mut self.torrents[at].members;
            let port = endpoint.addr.port().to_be_bytes();
            let was_seed =
                match endpoint.addr.ip() {
                    IpAddr::V4(ip) => take(members, Peer::at(ip.octets(), port), tenant.lease, self.frame.key)
                        .map(|peer| peer.is_seed()),
                    IpAddr::V6(ip) => take(members, Peer::at(ip.octets(), port), tenant.lease, self.frame.key)
                        .map(|peer| peer.is_seed()),
                };
            removed += u32::from(was_seed.is_some());
            if was_seed == Some(true) && seed.is_none() {
                seed = Some(endpoint.addr);
            }
        }
        self.torrents[at].members.shrink();
        self.held.unlease(&hash, removed);
        self.settle(at, &before, seed, now);
        self.release(hash, now);
    }

    /// Makes the catalogue hold a swarm; `completed` downloads of it were counted before.
    pub(crate) fn pin(&mut self, hash: InfoHash, completed: u32, now: Instant) {
        let at = self.hold(hash, now);
        self.torrents[at].completed = self.torrents[at].completed.max(completed);
        self.held.pin(hash, true);
    }

    /// Makes the catalogue let go of a swarm.
    pub(crate) fn unpin(&mut self, hash: InfoHash, now: Instant) {
        if self.find(&hash).is_some_and(|at| self.torrents[at].is_held()) {
            self.held.pin(hash, false);
            self.release(hash, now);
        }
    }

    /// The swarms that the catalogue holds.
    pub(crate) fn pinned(&self) -> Vec<InfoHash> {
        self.held.pinned().collect()
    }

    /// What changed in held swarms since the last call: each of them once, as it is.
    pub(crate) fn drain_changes(&mut self) -> Vec<Change> {
        let mut held = std::mem::take(&mut self.held);
        let stats = |hash: &InfoHash| self.find(hash).map(|at| self.torrents[at].stats()).unwrap_or_default();
        let changes = held.drain(stats);
        self.held = held;
        changes
    }

    /// Makes `second` another name of `first`; what was known under it comes back, to be absorbed there.
    pub(crate) fn become_alias(&mut self, second: InfoHash, first: InfoHash) -> Option<Moving> {
        self.held.alias(second, Some(first));
        let pinned = self.held.take(&second);
        let at = self.find(&second)?;
        let clients = self.clients.take(&second);
        let Torrent { members, completed, next_due, .. } = self.drop_torrent(at);
        Some(Moving { members, clients, completed, next_due, pinned })
    }

    /// Ends that `second` is another name of something.
    pub(crate) fn forget_alias(&mut self, second: InfoHash) {
        self.held.alias(second, None);
    }

    /// Takes over the peers of a swarm that became a second name; each address is in it once.
    pub(crate) fn absorb(&mut self, hash: InfoHash, moving: &Moving, now: Instant) {
        let at = self.hold(hash, now);
        let before = self.before(at);
        let seconds = self.frame.seconds(now);
        self.torrents[at].expire(seconds, self.frame.key);
        let torrent = &mut self.torrents[at];
        torrent.completed = torrent.completed.saturating_add(moving.completed);
        let leased = take_over::<4>(torrent, moving, seconds, &self.frame)
            + take_over::<16>(torrent, moving, seconds, &self.frame);
        // Somebody came, nobody left: which member heard of it does not matter.
        let seed = torrent.peers().find(|peer| peer.seed).map(|peer| peer.addr);
        self.clients.absorb(&hash, &moving.clients);
        self.held.lease(hash, leased);
        if moving.pinned {
            self.held.pin(hash, true);
        }
        self.settle(at, &before, seed, now);
        self.release(hash, now);
    }

    /// Finds or makes the swarm, and holds it.
    fn hold(&mut self, hash: InfoHash, now: Instant) -> usize {
        let at = self.find(&hash).unwrap_or_else(|| self.create(hash, self.frame.seconds(now)));
        self.torrents[at].touched = HELD;
        self.held.lease(hash, 0);
        at
    }

    /// Lets go of the swarm if nothing holds it any more.
    fn release(&mut self, hash: InfoHash, now: Instant) {
        let Some(at) = self.find(&hash) else {
            return;
        };
        let stats: SwarmStats = self.torrents[at].stats();
        if self.torrents[at].is_held() && self.held.release(&hash, stats) {
            self.torrents[at].touched = self.frame.seconds(now);
            let before = self.before(at);
            self.settle(at, &before, None, now);
        }
    }
}

/// Enters the peers of a swarm into another one but those whose time is over; how many addresses more belong to leases.
fn take_over<const N: usize>(torrent: &mut Torrent, moving: &Moving, now: u32, frame: &Frame) -> u32
where
    Members: Has<N>,
{
    let mut leased = 0;
    for peer in Has::<N>::view(&moving.members).peers {
        let due = if peer.is_leased() { u32::MAX } else { peer.due_after(moving.next_due) };
        if due > now {
            torrent.next_due = torrent.next_due.min(due);
            leased += put(&mut torrent.members, *peer, frame.ports_per_address, frame.key);
        }
    }
    leased
}

/// Enters `peer` in place of whatever stands at its endpoint, but never a plain peer in place of a leased one; how many
/// addresses more belong to leases.
fn put<const N: usize>(members: &mut Members, peer: Peer<N>, ports: u16, key: super::key::HashKey) -> u32
where
    Members: Has<N>,
{
    let Some(at) = members::find(members, &peer, key) else {
        let placed = members::push(members, peer, ports, key);
        return u32::from(placed.is_some() && peer.is_leased());
    };
    let was_leased = Has::<N>::view(members).peers.get(at).is_some_and(Peer::is_leased);
    if was_leased && !peer.is_leased() {
        return 0;
    }
    members::change(members, at, peer, key);
    u32::from(peer.is_leased() && !was_leased)
}

/// Removes the peer at this endpoint if it belongs to this lease.
fn take<const N: usize>(
    members: &mut Members,
    endpoint: Peer<N>,
    lease: u16,
    key: super::key::HashKey,
) -> Option<Peer<N>>
where
    Members: Has<N>,
{
    let at = members::find(members, &endpoint, key)?;
    let peer = Has::<N>::view(members).peers.get(at)?;
    if !peer.is_leased_by(lease) {
        return None;
    }
    members::remove(members, at, key)
}
