//! What a store costs, what it forgets, and what it keeps.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use obt_tracker::limits::Limits;
use obt_tracker::{
    Advertised, Announce, Asker, Client, CompactPeers, PeerLists, Remember, Standing, StoreConfig, SwarmStats, Swarms,
    swarms,
};
use obt_wire::{InfoHash, PeerId};

/// Without a key: each of its addresses is a client.
const CLIENT: Client = Client { peer_id: PeerId([7; 20]), key: None };

struct World {
    swarms: Swarms,
    now: Instant,
}

impl World {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        // A secret of equal bytes is no key: addresses in a row would crowd into few places.
        let mut rng = fastrand::Rng::with_seed(1);
        let secret = std::array::from_fn(|_| rng.u8(..));
        let config = StoreConfig { shard_bits: 2, limits, advertised: Advertised::default(), secret };
        Self { swarms: Swarms::new(&config, now), now }
    }

    fn announce(&mut self, hash: InfoHash, ip: impl Into<IpAddr>, standing: Standing) -> SwarmStats {
        let mut lists = PeerLists { v4: CompactPeers::new(&mut []), v6: CompactPeers::new(&mut []) };
        let asker = Asker::new(ip.into(), None);
        let announce = Announce {
            hash,
            asker,
            port: 6_881,
            standing,
            completed: standing == Standing::Seed,
            want: 0,
            client: CLIENT,
            remember: Remember::Named,
        };
        swarms::announce(&mut self.swarms, &announce, &mut lists, self.now).unwrap().stats
    }

    fn stats(&mut self, hash: InfoHash) -> SwarmStats {
        swarms::stats(&mut self.swarms, &hash, self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        swarms::expire(&mut self.swarms, self.now);
    }
}

fn hash(number: u32) -> InfoHash {
    let mut hash = InfoHash([0; 20]);
    hash.0[..4].copy_from_slice(&number.to_be_bytes());
    hash
}

fn host(number: u32) -> [u8; 4] {
    (0x0a00_0000 + number).to_be_bytes()
}

fn limits() -> Limits {
    Limits { torrents_per_hour: u16::MAX, ..Limits::default() }
}

#[test]
fn a_stored_peer_costs_little_more_than_its_address() {
    let bytes_a_peer = |swarms: u32, peers: u32| {
        let mut world = World::new(limits());
        for peer in 0..peers {
            for number in 0..swarms {
                let standing = if peer % 3 == 0 { Standing::Seed } else { Standing::Leecher };
                world.announce(hash(number), host(number + peer), standing);
            }
        }
        let size = swarms::size(&mut world.swarms);
        assert_eq!((size.swarms, size.addresses), (swarms as usize, (swarms * peers) as usize));
        size.memory / size.addresses
    };
    for (swarms, peers, most) in [(50_000, 1, 80), (50_000, 3, 27), (1_000, 50, 13), (100, 500, 14), (1, 50_000, 15)] {
        let bytes = bytes_a_peer(swarms, peers);
        assert!(bytes <= most, "{bytes} bytes a peer in {swarms} swarms of {peers}, at most {most} expected");
    }
}

#[test]
fn a_named_swarm_of_a_hundred_thousand_clients_is_known_whole() {
    let now = Instant::now();
    let shard_bits = swarms::SHARD_BITS;
    let mut rng = fastrand::Rng::with_seed(1);
    let secret = std::array::from_fn(|_| rng.u8(..));
    let config = StoreConfig { shard_bits, limits: limits(), advertised: Advertised::default(), secret };
    let mut world = World { swarms: Swarms::new(&config, now), now };
    swarms::pin(&mut world.swarms, &hash(1), 0, now);
    for number in 0..100_000 {
        world.announce(hash(1), host(number), Standing::Leecher);
    }
    assert_eq!(world.stats(hash(1)).leechers, 100_000);
}

#[test]
fn u06_a_flood_of_swarms_evicts_itself_and_not_the_swarms_that_are_used() {
    let mut world = World::new(Limits { memory: 1 << 20, torrents_per_hour: u16::MAX, ..Limits::default() });
    for number in 0..100 {
        for peer in 0..5 {
            world.announce(hash(number), host(peer), Standing::Leecher);
        }
    }
    swarms::pin(&mut world.swarms, &hash(500), 7, world.now);
    for number in 1_000..60_000 {
        if number % 500 == 0 {
            world.now += Duration::from_secs(5);
        }
        world.announce(hash(number), host(number), Standing::Leecher);
    }
    let memory = swarms::size(&mut world.swarms).memory;
    assert!(memory < (1 << 20) + 4 * 1_024, "{memory} bytes: over by more than one announce in each shard");
    for number in 0..100 {
        assert_eq!(world.stats(hash(number)).leechers, 5, "swarm {number}");
    }
    assert_eq!(world.stats(hash(500)).completed, 7);
}

#[test]
fn counts_of_completed_downloads_outlive_the_peers_for_a_day() {
    let mut world = World::new(limits());
    world.announce(hash(1), host(1), Standing::Leecher);
    world.announce(hash(1), host(1), Standing::Seed);
    world.announce(hash(2), host(1), Standing::Leecher);
    world.pass(Duration::from_secs(3_600));
    assert_eq!(world.stats(hash(1)), SwarmStats { seeds: 0, leechers: 0, completed: 1 });
    world.pass(Duration::from_secs(24 * 3_600));
    assert_eq!(world.stats(hash(1)), SwarmStats::default());
    assert_eq!(swarms::size(&mut world.swarms).swarms, 0);
}

#[test]
fn the_two_hashes_of_a_hybrid_are_one_swarm_with_each_address_once() {
    let mut world = World::new(limits());
    let (first, second) = (hash(1), hash(2));
    for number in 0..10 {
        world.announce(first, host(number), Standing::Leecher);
        world.announce(second, host(number + 5), Standing::Leecher);
    }
    swarms::link(&mut world.swarms, &first, &second, world.now);
    let both = SwarmStats { seeds: 0, leechers: 15, completed: 0 };
    assert_eq!((world.stats(first), world.stats(second)), (both, both));
    assert_eq!(world.announce(second, host(3), Standing::Seed), SwarmStats { seeds: 1, leechers: 14, completed: 1 });
    assert_eq!(world.announce(first, host(3), Standing::Stopped).leechers, 14);
    swarms::link(&mut world.swarms, &first, &first, world.now);
    assert_eq!(world.stats(first).leechers, 14);
    swarms::unlink(&mut world.swarms, &second);
    assert_eq!(world.stats(second), SwarmStats::default());
}

#[test]
fn v6_hosts_have_as_many_ports_as_others_and_no_more() {
    let mut world = World::new(limits());
    let ip: IpAddr = "fd00::1".parse().unwrap();
    for port in 1..=200 {
        let mut lists = PeerLists { v4: CompactPeers::new(&mut []), v6: CompactPeers::new(&mut []) };
        let asker = Asker::new(ip, None);
        let announce = Announce {
            hash: hash(1),
            asker,
            port,
            standing: Standing::Leecher,
            completed: false,
            want: 0,
            client: CLIENT,
            remember: Remember::Named,
        };
        swarms::announce(&mut world.swarms, &announce, &mut lists, world.now).unwrap();
    }
    assert_eq!(world.stats(hash(1)).leechers, 64);
    let peers = swarms::peers(&mut world.swarms, &hash(1), world.now);
    assert!(peers.iter().any(|peer| peer.addr.port() == 200), "the newest is in");
}
