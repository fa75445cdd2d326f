//! The store against a naive model: after any sequence of announces, leases and pauses, counts are those of the actual
//! sets, and an answer holds members of the swarm only, nobody twice, and never the asker.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use obt_tracker::leases::{LeaseItem, LeaseRequest, Leases};
use obt_tracker::limits::Limits;
use obt_tracker::{
    Advertised, Announce, Asker, Client, CompactPeers, PeerLists, Remember, Standing, StoreConfig, SwarmStats, Swarms,
    policy, swarms,
};
use obt_wire::{InfoHash, PeerId};
use proptest::prelude::*;

/// Without a key: each of its addresses is a client.
const CLIENT: Client = Client { peer_id: PeerId([7; 20]), key: None };

const LIFE: u64 = 40;

#[derive(Debug, Clone)]
enum Step {
    Announce { swarm: u8, host: u8, v6: bool, port: u8, standing: Standing, completed: bool },
    Lease { peer: u8, set: Vec<(u8, bool)>, full: bool },
    StopLease { peer: u8 },
    Pass { seconds: u64 },
    Sweep,
    Link,
}

fn step() -> impl Strategy<Value = Step> {
    let standing = prop_oneof![3 => Just(Standing::Seed), 3 => Just(Standing::Leecher), 1 => Just(Standing::Stopped)];
    prop_oneof![
        20 => (0u8..4, 0u8..6, any::<bool>(), 0u8..12, standing, any::<bool>()).prop_map(
            |(swarm, host, v6, port, standing, completed)| Step::Announce { swarm, host, v6, port, standing, completed }
        ),
        6 => (0u8..3, prop::collection::vec((0u8..4, any::<bool>()), 0..4), any::<bool>())
            .prop_map(|(peer, set, full)| Step::Lease { peer, set, full }),
        1 => (0u8..3).prop_map(|peer| Step::StopLease { peer }),
        3 => (0u64..60).prop_map(|seconds| Step::Pass { seconds }),
        1 => prop_oneof![4 => 500u64..1_500, 1 => 60_000u64..70_000].prop_map(|seconds| Step::Pass { seconds }),
        2 => Just(Step::Sweep),
        1 => Just(Step::Link),
    ]
}

#[derive(Default)]
struct Swarm {
    /// Plain peers: whether each is a seed, and the second in which it expires.
    plain: BTreeMap<SocketAddr, (bool, u64)>,
    completed: u32,
}

struct Model {
    swarms: Vec<Swarm>,
    /// What each lease holds, and the second in which it ends.
    leases: BTreeMap<u8, (BTreeMap<u8, bool>, u64)>,
    linked: bool,
    now: u64,
}

fn hash(swarm: u8) -> InfoHash {
    InfoHash([swarm + 1; 20])
}

fn plain_address(host: u8, v6: bool, port: u8) -> SocketAddr {
    let ip =
        if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host) + 1]) } else { [10, 0, 0, host + 1].into() };
    SocketAddr::new(ip, u16::from(port) + 1)
}

/// Peer 0 has the address of a plain peer too.
fn lease_address(peer: u8) -> SocketAddr {
    if peer == 0 { plain_address(0, false, 0) } else { SocketAddr::new([10, 1, 0, peer].into(), 6_881) }
}

impl Model {
    /// Swarm 3 is the second name of swarm 0 once they are linked.
    fn swarm(&self, number: u8) -> u8 {
        if self.linked && number == 3 { 0 } else { number }
    }

    fn expire(&mut self) {
        let now = self.now;
        for swarm in &mut self.swarms {
            swarm.plain.retain(|_, (_, due)| *due > now);
        }
        self.leases.retain(|_, (_, due)| *due > now);
    }

    fn leased(&self, number: u8) -> BTreeMap<SocketAddr, bool> {
        let holds = |(peer, (items, _)): (&u8, &(BTreeMap<u8, bool>, u64))| {
            items.get(&number).map(|seed| (lease_address(*peer), *seed))
        };
        self.leases.iter().filter_map(holds).collect()
    }

    fn members(&self, number: u8) -> BTreeMap<SocketAddr, bool> {
        let swarm = &self.swarms[usize::from(number)];
        let mut members: BTreeMap<SocketAddr, bool> =
            swarm.plain.iter().map(|(addr, (seed, _))| (*addr, *seed)).collect();
        members.extend(self.leased(number));
        members
    }

    fn stats(&self, number: u8) -> SwarmStats {
        let members = self.members(number);
        let seeds = u32::try_from(members.values().filter(|seed| **seed).count()).unwrap();
        let all = u32::try_from(members.len()).unwrap();
        SwarmStats { seeds, leechers: all - seeds, completed: self.swarms[usize::from(number)].completed }
    }

    fn announce(&mut self, number: u8, addr: SocketAddr, standing: Standing, completed: bool) {
        if self.leased(number).contains_key(&addr) {
            return;
        }
        let members = u32::try_from(self.members(number).len()).unwrap();
        let due = self.now + policy::lifetime(policy::interval(members)).as_secs();
        let swarm = &mut self.swarms[usize::from(number)];
        let seed = standing == Standing::Seed;
        if standing == Standing::Stopped {
            swarm.plain.remove(&addr);
        } else {
            let was_seed = swarm.plain.insert(addr, (seed, due)).is_some_and(|(seed, _)| seed);
            swarm.completed += u32::from(completed && seed && !was_seed);
        }
        // Nobody remembers a swarm that nobody is in and that nobody completed.
    }

    fn lease(&mut self, peer: u8, set: &[(u8, bool)], full: bool) {
        let due = self.now + LIFE;
        let (items, _) = self.leases.remove(&peer).unwrap_or_default();
        let mut items = if full { BTreeMap::new() } else { items };
        items.extend(set.iter().map(|(swarm, seed)| (self.swarm(*swarm), *seed)));
        for (number, seed) in &items {
            // A leased peer takes the place of a plain one with its address.
            let _ = seed;
            self.swarms[usize::from(*number)].plain.remove(&lease_address(peer));
        }
        self.leases.insert(peer, (items, due));
    }
}

struct Real {
    swarms: Swarms,
    leases: Leases,
    revisions: BTreeMap<u8, u64>,
    start: Instant,
    now: Instant,
}

impl Real {
    fn announce(&mut self, announce: &Announce) -> (SwarmStats, Vec<SocketAddr>) {
        let (mut v4, mut v6) = ([0; 6 * 60], [0; 18 * 60]);
        let mut lists = PeerLists { v4: CompactPeers::new(&mut v4), v6: CompactPeers::new(&mut v6) };
        let answer = swarms::announce(&mut self.swarms, announce, &mut lists, self.now).expect("within the quota");
        (answer.stats, lists.v4.v4().chain(lists.v6.v6()).collect())
    }

    fn lease(&mut self, peer: u8, set: &[(u8, bool)], full: bool, stopped: bool) {
        let revision = self.revisions.entry(peer).or_default();
        *revision += 1;
        let item =
            |(swarm, seed): &(u8, bool)| LeaseItem { hash: hash(*swarm), left: u64::from(!seed), completed: false };
        let addr = lease_address(peer);
        let request = LeaseRequest {
            peer_id: PeerId([peer; 20]),
            secret: [peer; 16],
            port: addr.port(),
            advertise: Vec::new(),
            revision: *revision,
            full,
            set: set.iter().map(item).collect(),
            removed: Vec::new(),
            want: Vec::new(),
            num_want: 0,
            stopped,
        };
        let reply = self.leases.renew(&request, &Asker::new(addr.ip(), None), &mut self.swarms, self.now).unwrap();
        assert!(!reply.resync);
    }
}

fn run(steps: Vec<Step>, began: u64) {
    let start = Instant::now();
    let limits = Limits { torrents_per_hour: u16::MAX, ..Limits::default() };
    let config = StoreConfig { shard_bits: 1, limits, advertised: Advertised::default(), secret: [11; 32] };
    let mut real = Real {
        swarms: Swarms::new(&config, start),
        leases: Leases::new(limits),
        revisions: BTreeMap::new(),
        start,
        now: start + Duration::from_secs(began),
    };
    let mut model = Model {
        swarms: (0..4).map(|_| Swarm::default()).collect(),
        leases: BTreeMap::new(),
        linked: false,
        now: began,
    };
    for number in 0..4 {
        // Held, so that completed counts outlive the peers.
        swarms::pin(&mut real.swarms, &hash(number), 0, real.now);
    }
    for step in steps {
        take(&mut real, &mut model, step);
        for number in (0..4).filter(|number| !(model.linked && *number == 3)) {
            let stats = swarms::stats(&mut real.swarms, &hash(number), real.now);
            assert_eq!(stats, model.stats(number), "swarm {number}");
            let peers = swarms::peers(&mut real.swarms, &hash(number), real.now);
            let known: BTreeMap<SocketAddr, bool> = peers.iter().map(|peer| (peer.addr, peer.seed)).collect();
            assert_eq!(known.len(), peers.len(), "each address once");
            assert_eq!(known, model.members(number));
        }
    }
    let members: usize = (0..4).map(|number| model.members(number).len()).sum();
    swarms::expire(&mut real.swarms, real.now);
    assert_eq!(swarms::size(&mut real.swarms).addresses, members);
}

fn take(real: &mut Real, model: &mut Model, step: Step) {
    match step {
        Step::Announce { swarm, host, v6, port, standing, completed } => {
            let addr = plain_address(host, v6, port);
            let number = model.swarm(swarm);
            model.announce(number, addr, standing, completed);
            let asker = Asker::new(addr.ip(), None);
            let announce = Announce {
                hash: hash(swarm),
                asker,
                port: addr.port(),
                standing,
                completed,
                want: 50,
                client: CLIENT,
                remember: Remember::All,
            };
            let (stats, told) = real.announce(&announce);
            assert_eq!(stats, model.stats(number));
            let others: BTreeSet<SocketAddr> =
                model.members(number).into_keys().filter(|other| *other != addr).collect();
            let set: BTreeSet<SocketAddr> = told.iter().copied().collect();
            assert_eq!(set.len(), told.len(), "nobody twice");
            assert!(set.is_subset(&others), "{set:?} of {others:?}");
            let useful = |other: &&SocketAddr| standing == Standing::Leecher || !model.members(number)[*other];
            let most = [false, true]
                .map(|v6| others.iter().filter(useful).filter(|other| other.is_ipv6() == v6).count().min(50));
            let wanted = if standing == Standing::Stopped { 0 } else { most.iter().sum() };
            assert_eq!(told.len(), wanted);
        }
        Step::Lease { peer, set, full } => {
            // Without a lease a change alone would be answered by a call for everything.
            let full = full || !model.leases.contains_key(&peer);
            let mut set = set;
            set.dedup_by_key(|(swarm, _)| *swarm);
            if model.linked {
                set.retain(|(swarm, _)| *swarm != 3);
            }
            real.lease(peer, &set, full, false);
            model.lease(peer, &set, full);
        }
        Step::StopLease { peer } => {
            real.lease(peer, &[], true, true);
            model.leases.remove(&peer);
        }
        Step::Pass { seconds } => {
            model.now += seconds;
            real.now = real.start + Duration::from_secs(model.now);
            real.leases.expire(&mut real.swarms, real.now);
            model.expire();
        }
        Step::Sweep => swarms::expire(&mut real.swarms, real.now),
        Step::Link if model.linked || model.leases.values().any(|(items, _)| items.contains_key(&3)) => {}
        Step::Link => {
            swarms::link(&mut real.swarms, &hash(0), &hash(3), real.now);
            model.linked = true;
            let second = std::mem::take(&mut model.swarms[3]);
            let leased = model.leased(0);
            model.swarms[0].completed += second.completed;
            model.swarms[0].plain.extend(second.plain.into_iter().filter(|(addr, _)| !leased.contains_key(addr)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn counts_are_those_of_the_actual_sets(
        steps in prop::collection::vec(step(), 0..80),
        // A peer keeps 16 bits of the second at which it goes.
        began in prop_oneof![Just(0u64), 61_000u64..66_000],
    ) {
        run(steps, began);
    }
}
