//! What is remembered of one swarm.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use obt_wire::{InfoHash, PeerId};

use super::handout::{Advertised, Asker, Locals, LocalsOf, address};
use super::key::HashKey;
use super::members::{Has, Members, change, find, remove_all};
use super::peer::{Marks, Peer};
use super::shard::SwarmStats;

/// [`Torrent::touched`] of a swarm that is never forgotten for its age: it is in the catalogue or in a lease.
pub(crate) const HELD: u32 = u32::MAX;

/// One swarm: a cache line.
pub(crate) struct Torrent {
    pub(crate) hash: InfoHash,
    /// Downloads that were completed.
    pub(crate) completed: u32,
    /// When somebody last announced, in seconds of the store, or [`HELD`].
    pub(crate) touched: u32,
    /// No peer expires before this second, and all that do within an hour of it: peers keep no more of theirs than that
    /// needs. `u32::MAX` where none expires.
    pub(crate) next_due: u32,
    pub(crate) members: Members,
}

const _: () = assert!(size_of::<Torrent>() == 64);

impl Torrent {
    pub(crate) fn new(hash: InfoHash, touched: u32) -> Self {
        Self { hash, completed: 0, touched, next_due: u32::MAX, members: Members::default() }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.touched == HELD
    }

    /// Removes the peers whose time is over; a seed among them, if one was.
    pub(crate) fn expire(&mut self, now: u32, key: HashKey) -> Option<SocketAddr> {
        if now < self.next_due {
            return None;
        }
        let mut sweep = Sweep { now, earliest: self.next_due, next_due: u32::MAX, seed: None };
        remove_all::<4>(&mut self.members, |peer| sweep.is_over(peer), key);
        remove_all::<16>(&mut self.members, |peer| sweep.is_over(peer), key);
        self.next_due = sweep.next_due;
        self.members.shrink();
        sweep.seed
    }

    pub(crate) fn stats(&self) -> SwarmStats {
        let counts = self.members.counts();
        SwarmStats { seeds: counts.seeds, leechers: counts.leechers, completed: self.completed }
    }

    /// What is known of the peer at an address.
    pub(crate) fn marks_at(&mut self, addr: &SocketAddr, key: HashKey) -> Option<Marks> {
        let port = addr.port().to_be_bytes();
        match addr.ip() {
            IpAddr::V4(ip) => marks_of(&mut self.members, &Peer::at(ip.octets(), port), key),
            IpAddr::V6(ip) => marks_of(&mut self.members, &Peer::at(ip.octets(), port), key),
        }
    }

    /// Changes what is known of the peer at an address.
    pub(crate) fn remark_at(&mut self, addr: &SocketAddr, marks: Marks, key: HashKey) {
        let port = addr.port().to_be_bytes();
        match addr.ip() {
            IpAddr::V4(ip) => remark(&mut self.members, &Peer::at(ip.octets(), port), marks, key),
            IpAddr::V6(ip) => remark(&mut self.members, &Peer::at(ip.octets(), port), marks, key),
        }
    }

    /// Every peer, IPv4 first.
    pub(crate) fn peers(&self) -> impl Iterator<Item = SwarmPeer> + '_ {
        let v4 = Has::<4>::view(&self.members).peers.iter().filter_map(SwarmPeer::of);
        v4.chain(Has::<16>::view(&self.members).peers.iter().filter_map(SwarmPeer::of))
    }
}

/// A peer of a swarm, to show to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmPeer {
    /// As it is known, which is a loopback address for some on the tracker's host.
    pub addr: SocketAddr,
    /// It has everything.
    pub seed: bool,
    /// The number of its lease, if it is a peer of ours.
    pub lease: Option<u16>,
    /// It runs on the tracker's host.
    pub local: bool,
    /// One more address of a peer that is in the swarm already.
    pub extra: bool,
    /// Who a stock client says that it is, where that is remembered.
    pub client: Option<PeerId>,
    /// How long ago a stock client announced, where that is remembered.
    pub seen: Option<Duration>,
}

impl SwarmPeer {
    fn of<const N: usize>(peer: &Peer<N>) -> Option<Self> {
        Some(Self {
            addr: SocketAddr::new(address(&peer.ip)?, u16::from_be_bytes(peer.port)),
            seed: peer.is_seed(),
            lease: peer.is_leased().then_some(peer.due),
            local: peer.marks.has(Marks::LOCAL),
            extra: !peer.is_counted(),
            client: None,
            seen: None,
        })
    }

    /// The address under which an asker is told of it, if it is.
    pub(crate) fn shown_to(&self, asker: &Asker, advertised: &Advertised) -> Option<SocketAddr> {
        let marks = Marks::NONE.with(Marks::LOCAL, self.local);
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) => {
                let peer = Peer { marks, ..Peer::at(ip.octets(), [0; 2]) };
                Locals::<4>::of(asker, advertised).shown(&peer).map(IpAddr::from)
            }
            IpAddr::V6(ip) => {
                let peer = Peer { marks, ..Peer::at(ip.octets(), [0; 2]) };
                Locals::<16>::of(asker, advertised).shown(&peer).map(IpAddr::from)
            }
        };
        ip.map(|ip| SocketAddr::new(ip, self.addr.port()))
    }
}

fn marks_of<const N: usize>(members: &mut Members, endpoint: &Peer<N>, key: HashKey) -> Option<Marks>
where
    Members: Has<N>,
{
    let at = find(members, endpoint, key)?;
    Has::<N>::view(members).peers.get(at).map(|peer| peer.marks)
}

fn remark<const N: usize>(members: &mut Members, endpoint: &Peer<N>, marks: Marks, key: HashKey)
where
    Members: Has<N>,
{
    let at = find(members, endpoint, key);
    let known = at.and_then(|at| Has::<N>::view(members).peers.get(at).copied());
    if let (Some(at), Some(known)) = (at, known) {
        change(members, at, Peer { marks, ..known }, key);
    }
}

struct Sweep {
    now: u32,
    /// Nobody was due before this.
    earliest: u32,
    next_due: u32,
    seed: Option<SocketAddr>,
}

impl Sweep {
    fn is_over<const N: usize>(&mut self, peer: &Peer<N>) -> bool {
        if peer.is_leased() {
            return false;
        }
        let due = peer.due_after(self.earliest);
        if due <= self.now {
            if peer.is_seed() {
                self.seed = SwarmPeer::of(peer).map(|seed| seed.addr);
            }
            return true;
        }
        self.next_due = self.next_due.min(due);
        false
    }
}
