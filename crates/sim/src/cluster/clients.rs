//! Clients that announce to any member, move, complete their downloads, leave and die.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_tracker::exchange::Store;
use obt_tracker::leases::{LeaseItem, LeaseRequest};
use obt_tracker::limits::{LEASE_INTERVAL, LEASE_LIFE};
use obt_tracker::{Announce, Asker, Client, CompactPeers, PeerLists, Remember, Standing, swarms};
use obt_wire::PeerId;

use super::{Cluster, Happening, SWARMS, hash};

/// How long a stock client of a small swarm is remembered.
const STOCK_LIFE: Duration = Duration::from_secs(720);

/// What a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One that announces every minute.
    Stock,
    /// A peer of ours, with a lease.
    Ours,
}

/// Somebody who announces.
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) addr: SocketAddr,
    pub(super) swarm: u8,
    pub(super) seed: bool,
    pub(super) alive: bool,
    /// The member that it announced to last, and when that was.
    pub(super) told: Option<(usize, u32, Instant)>,
    /// When it left, and where it said so.
    pub(super) left: Option<(usize, u32, Instant)>,
    /// Those that have to know it, with their lives, and the last of its words that they have to know.
    pub(super) known_at: BTreeMap<(usize, u32), Instant>,
    pub(super) revision: u64,
    /// Where its next lease request has to say everything.
    pub(super) full: bool,
}

impl Kind {
    /// Time between two announces.
    pub(super) fn interval(self) -> Duration {
        match self {
            Self::Stock => Duration::from_secs(60),
            Self::Ours => LEASE_INTERVAL,
        }
    }

    /// How long it is remembered after one.
    pub(super) fn life(self) -> Duration {
        match self {
            Self::Stock => STOCK_LIFE,
            Self::Ours => LEASE_LIFE,
        }
    }
}

fn lease_of(peer: usize) -> PeerId {
    let mut id = [1; 20];
    id[..4].copy_from_slice(&u32::try_from(peer).unwrap_or(0).to_be_bytes());
    PeerId(id)
}

impl Cluster {
    /// A client that begins to announce to some member.
    pub fn join(&mut self, ours: bool) {
        let number = self.peers.len();
        let [.., high, low] = number.to_be_bytes();
        let kind = if ours { Kind::Ours } else { Kind::Stock };
        let swarm = self.rng.u8(..SWARMS);
        let seed = self.rng.bool();
        self.peers.push(Peer {
            kind,
            addr: ([10, 1, high, low], 6_881).into(),
            swarm,
            seed,
            alive: true,
            told: None,
            left: None,
            known_at: BTreeMap::new(),
            revision: 1,
            full: true,
        });
        self.later(Duration::ZERO, Happening::Announce(number));
    }

    /// A client dies without a word, or says that it leaves.
    pub fn leave(&mut self, says_so: bool) {
        let alive: Vec<usize> = (0..self.peers.len()).filter(|peer| self.peers[*peer].alive).collect();
        let Some(peer) = self.rng.choice(alive) else {
            return;
        };
        self.peers[peer].alive = false;
        self.peers[peer].known_at.clear();
        if says_so && let Some(member) = self.member_for(peer) {
            // Nobody can prove that a lease is its own where that is not known: it stays until its time is over.
            let is_known = self.peers[peer].kind == Kind::Stock || self.knows_lease(member, peer);
            self.say(peer, member, Standing::Stopped, false);
            if !is_known {
                return;
            }
            let life = self.lives[member];
            self.peers[peer].left = Some((member, life, self.now));
        }
    }

    /// A stock client that left, or died, is started again at its address.
    pub fn come_back(&mut self) {
        let is_away = |peer: &Peer| {
            // Seconds are as fine as members tell.
            let is_over = peer.left.is_none_or(|(.., left)| self.now - left >= Duration::from_secs(2));
            peer.kind == Kind::Stock && !peer.alive && is_over
        };
        let away: Vec<usize> = (0..self.peers.len()).filter(|peer| is_away(&self.peers[*peer])).collect();
        let Some(number) = self.rng.choice(away) else {
            return;
        };
        let peer = &mut self.peers[number];
        (peer.alive, peer.left) = (true, None);
        self.later(Duration::ZERO, Happening::Announce(number));
    }

    fn knows_lease(&self, member: usize, peer: usize) -> bool {
        let leases = self.seats[member].as_ref().and_then(|seat| seat.store.leases.as_ref());
        leases.is_some_and(|leases| leases.iter().any(|lease| lease.peer_id() == lease_of(peer)))
    }

    /// A client completes its download and says so.
    pub fn complete(&mut self) {
        let behind: Vec<usize> = (0..self.peers.len())
            .filter(|peer| self.peers[*peer].alive && !self.peers[*peer].seed && self.peers[*peer].told.is_some())
            .collect();
        let Some(peer) = self.rng.choice(behind) else {
            return;
        };
        self.peers[peer].seed = true;
        self.peers[peer].revision += 1;
        if let Some(member) = self.member_for(peer) {
            self.say(peer, member, Standing::Seed, true);
        }
    }

    /// Where a client announces: where it did, unless that member is gone or it fancies another.
    pub(super) fn member_for(&mut self, peer: usize) -> Option<usize> {
        let running: Vec<usize> = (0..self.setup.members).filter(|member| self.runs(*member)).collect();
        let last = self.peers[peer].told.map(|(member, ..)| member).filter(|member| running.contains(member));
        match last {
            Some(last) if self.rng.u8(..10) > 0 => Some(last),
            _ => self.rng.choice(running),
        }
    }

    pub(super) fn say(&mut self, peer: usize, member: usize, standing: Standing, completed: bool) {
        let now = self.now;
        let Some(seat) = &mut self.seats[member] else {
            return;
        };
        let client = &mut self.peers[peer];
        let before = swarms::stats(&mut seat.store, &hash(client.swarm), now).completed;
        let asker = Asker::new(client.addr.ip(), None);
        match client.kind {
            Kind::Stock => {
                let announce = Announce {
                    hash: hash(client.swarm),
                    asker,
                    port: client.addr.port(),
                    standing,
                    completed,
                    want: 0,
                    client: Client { peer_id: PeerId([3; 20]), key: None },
                    remember: Remember::Named,
                };
                let mut lists = PeerLists { v4: CompactPeers::new(&mut []), v6: CompactPeers::new(&mut []) };
                let _ = swarms::announce(&mut seat.store, &announce, &mut lists, now);
            }
            Kind::Ours => {
                let item = LeaseItem { hash: hash(client.swarm), left: u64::from(!client.seed), completed };
                let mut request = LeaseRequest {
                    peer_id: lease_of(peer),
                    secret: [7; 16],
                    port: client.addr.port(),
                    advertise: Vec::new(),
                    revision: client.revision,
                    full: client.full,
                    set: if client.full || completed { vec![item] } else { Vec::new() },
                    removed: Vec::new(),
                    want: Vec::new(),
                    num_want: 0,
                    stopped: standing == Standing::Stopped,
                };
                let mut renew = |request: &LeaseRequest| {
                    seat.store.with_leases(|leases, store| leases.renew(request, &asker, store, now))
                };
                if renew(&request).is_ok_and(|reply| reply.resync) {
                    (request.full, request.set) = (true, vec![item]);
                    let _ = renew(&request);
                }
                client.full = false;
            }
        }
        let after = swarms::stats(&mut seat.store, &hash(client.swarm), now).completed;
        *self.completed.entry(client.swarm).or_default() += after.saturating_sub(before);
        if standing != Standing::Stopped {
            client.told = Some((member, seat.life, now));
            client.known_at.insert((member, seat.life), now);
        }
    }
}
