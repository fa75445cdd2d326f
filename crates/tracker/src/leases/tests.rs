use std::time::Duration;

use super::*;
use crate::store::{Announce, Client, Remember, Standing, SwarmStats};
use crate::swarms::Swarms;
use crate::testing::store;

fn hash(number: u32) -> InfoHash {
    let mut hash = InfoHash([0; 20]);
    hash.0[..4].copy_from_slice(&number.to_be_bytes());
    hash
}

struct World {
    leases: Leases,
    swarms: Swarms,
    now: Instant,
}

impl World {
    fn new(limits: Limits) -> Self {
        let (swarms, now) = store(limits);
        Self { leases: Leases::new(limits), swarms, now }
    }

    fn renew(&mut self, from: &str, request: &LeaseRequest) -> Result<LeaseReply, LeaseRefused> {
        self.leases.renew(request, &asker(from), &mut self.swarms, self.now)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.leases.expire(&mut self.swarms, self.now);
    }

    fn stats(&mut self, number: u32) -> SwarmStats {
        swarms::stats(&mut self.swarms, &hash(number), self.now)
    }

    fn addresses(&mut self, number: u32) -> Vec<String> {
        let peers = swarms::peers(&mut self.swarms, &hash(number), self.now);
        peers.iter().map(|peer| peer.addr.to_string()).collect()
    }
}

/// `source` or `source>reached`.
fn asker(text: &str) -> Asker {
    let (source, reached) = text.split_once('>').unwrap_or((text, "10.0.0.250"));
    Asker::new(source.parse().unwrap(), Some(reached.parse().unwrap()))
}

fn request(peer: u8, revision: u64) -> LeaseRequest {
    LeaseRequest {
        peer_id: PeerId([peer; 20]),
        secret: [peer; 16],
        port: 6_881,
        advertise: Vec::new(),
        revision,
        full: false,
        set: Vec::new(),
        removed: Vec::new(),
        want: Vec::new(),
        num_want: 0,
        stopped: false,
    }
}

fn full(peer: u8, revision: u64, items: impl IntoIterator<Item = (u32, u64)>) -> LeaseRequest {
    LeaseRequest { full: true, set: set(items), ..request(peer, revision) }
}

fn set(items: impl IntoIterator<Item = (u32, u64)>) -> Vec<LeaseItem> {
    items.into_iter().map(|(number, left)| LeaseItem { hash: hash(number), left, completed: false }).collect()
}

fn stats(seeds: u32, leechers: u32, completed: u32) -> SwarmStats {
    SwarmStats { seeds, leechers, completed }
}

#[test]
fn a_killed_peer_is_gone_within_45_seconds_and_a_stopped_one_at_once() {
    let mut world = World::new(Limits::default());
    for peer in 1..=2 {
        world.renew(&format!("10.0.0.{peer}"), &full(peer, 1, [(1, 0), (2, 5)])).unwrap();
    }
    assert_eq!((world.stats(1), world.stats(2)), (stats(2, 0, 0), stats(0, 2, 0)));
    world.pass(15);
    world.renew("10.0.0.1", &request(1, 1)).unwrap();
    world.pass(24);
    assert_eq!(world.stats(1).seeds, 2);
    world.pass(1);
    assert_eq!(world.stats(1).seeds, 1, "only the one that renewed");
    world.renew("10.0.0.1", &LeaseRequest { stopped: true, ..request(1, 1) }).unwrap();
    assert_eq!((world.stats(1), world.leases.len(), world.leases.items), (stats(0, 0, 0), 0, 0));
    assert_eq!(swarms::size(&mut world.swarms).addresses, 0);
}

#[test]
fn a_renewal_of_ten_thousand_items_touches_one_record() {
    let mut world = World::new(Limits::default());
    world.renew("10.0.0.1", &full(1, 7, (0..10_000).map(|number| (number, 0)))).unwrap();
    let _ = swarms::drain_changes(&mut world.swarms);
    world.pass(15);
    let reply = world.renew("10.0.0.1", &request(1, 7)).unwrap();
    assert_eq!(reply, LeaseReply { revision: 7, resync: false, peers: Vec::new() });
    assert_eq!(swarms::drain_changes(&mut world.swarms), []);
    world.pass(39);
    assert_eq!(world.stats(9_999), stats(1, 0, 0));
}

#[test]
fn changes_are_numbered_and_a_missed_one_is_noticed() {
    let mut world = World::new(Limits::default());
    assert!(world.renew("10.0.0.1", &request(1, 1)).unwrap().resync, "the tracker was restarted");
    world.renew("10.0.0.1", &full(1, 1, [(1, 0)])).unwrap();
    let change = LeaseRequest { set: set([(2, 9)]), removed: vec![hash(1)], ..request(1, 2) };
    for _ in 0..2 {
        assert_eq!(world.renew("10.0.0.1", &change).unwrap(), LeaseReply { revision: 2, ..LeaseReply::default() });
        assert_eq!((world.stats(1), world.stats(2)), (stats(0, 0, 0), stats(0, 1, 0)));
    }
    let reply = world.renew("10.0.0.1", &LeaseRequest { set: set([(3, 0)]), ..request(1, 4) }).unwrap();
    assert_eq!((reply.resync, reply.revision), (true, 2));
    assert_eq!(world.stats(3), stats(0, 0, 0));
    world.renew("10.0.0.1", &full(1, 4, [(2, 0), (3, 0)])).unwrap();
    assert_eq!((world.stats(2), world.stats(3)), (stats(1, 0, 0), stats(1, 0, 0)));
}

#[test]
fn a_lease_is_changed_only_with_its_secret() {
    let mut world = World::new(Limits::default());
    world.renew("10.0.0.1", &full(1, 1, [(1, 0)])).unwrap();
    let theft = LeaseRequest { secret: [9; 16], stopped: true, ..request(1, 1) };
    assert_eq!(world.renew("10.0.0.1", &theft), Err(LeaseRefused::WrongSecret));
    let announce = Announce {
        hash: hash(1),
        asker: asker("10.0.0.1"),
        port: 6_881,
        standing: Standing::Stopped,
        completed: false,
        want: 0,
        client: Client { peer_id: PeerId([9; 20]), key: None },
        remember: Remember::Named,
    };
    let mut lists = PeerLists { v4: CompactPeers::new(&mut []), v6: CompactPeers::new(&mut []) };
    swarms::announce(&mut world.swarms, &announce, &mut lists, world.now).unwrap();
    assert_eq!(world.stats(1), stats(1, 0, 0));
}

#[test]
fn completed_downloads_are_counted_once() {
    let mut world = World::new(Limits::default());
    world.renew("10.0.0.1", &full(1, 1, [(1, 5)])).unwrap();
    let item = LeaseItem { hash: hash(1), left: 0, completed: true };
    for revision in [2, 2, 3] {
        world.renew("10.0.0.1", &LeaseRequest { set: vec![item], ..request(1, revision) }).unwrap();
    }
    assert_eq!(world.stats(1), stats(1, 0, 1));
    world.renew("10.0.0.2", &full(2, 1, [(1, 0)])).unwrap();
    assert_eq!(world.stats(1), stats(2, 0, 1), "who had it from the start did not download it");
}

#[test]
fn wanted_peers_come_with_the_answer_and_never_the_asker() {
    let mut world = World::new(Limits::default());
    world.renew("10.0.0.1", &full(1, 1, [(1, 0)])).unwrap();
    world.renew("10.0.0.2", &full(2, 1, [(1, 0)])).unwrap();
    let ask = LeaseRequest { want: vec![hash(1), hash(2)], ..full(3, 1, [(1, 7)]) };
    let mut peers = world.renew("10.0.0.3", &ask).unwrap().peers;
    assert_eq!(peers.len(), 1);
    peers[0].1.sort();
    assert_eq!(peers[0].1, ["10.0.0.1:6881".parse().unwrap(), "10.0.0.2:6881".parse().unwrap()]);
    let seed = LeaseRequest { want: vec![hash(1)], ..request(1, 1) };
    let peers = world.renew("10.0.0.1", &seed).unwrap().peers;
    assert_eq!(peers, [(hash(1), vec!["10.0.0.3:6881".parse().unwrap()])], "a seed is not told of seeds");
}

#[test]
fn a_peer_that_is_seen_in_both_families_is_one_holder_with_two_addresses() {
    let mut world = World::new(Limits::default());
    world.renew("10.0.0.1", &full(1, 1, [(1, 0)])).unwrap();
    world.renew("fd00::1>fd00::250", &request(1, 1)).unwrap();
    world.renew("10.0.0.1", &request(1, 1)).unwrap();
    assert_eq!(world.stats(1), stats(1, 0, 0));
    assert_eq!(world.addresses(1), ["10.0.0.1:6881", "[fd00::1]:6881"]);
    let ask = |peer| LeaseRequest { want: vec![hash(1)], ..full(peer, 1, []) };
    let v4 = world.renew("10.0.0.2", &ask(2)).unwrap().peers;
    assert_eq!(v4[0].1, ["10.0.0.1:6881".parse().unwrap()], "who came by IPv4 is told of that address");
    let v6 = world.renew("fd00::3>fd00::250", &ask(3)).unwrap().peers;
    assert_eq!(v6[0].1, ["[fd00::1]:6881".parse().unwrap()]);
    world.renew("10.0.0.7", &request(1, 1)).unwrap();
    assert_eq!(world.addresses(1), ["10.0.0.7:6881", "[fd00::1]:6881"], "it moved");
    world.pass(60);
    assert_eq!(world.addresses(1), [""; 0]);
}

#[test]
fn a_peer_on_the_trackers_host_is_told_under_what_the_asker_reached() {
    let mut world = World::new(Limits::default());
    world.renew("127.0.0.1>127.0.0.1", &full(1, 1, [(1, 0)])).unwrap();
    let ask = |peer| LeaseRequest { want: vec![hash(1)], ..full(peer, 1, []) };
    let told = |reply: LeaseReply| reply.peers[0].1.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told(world.renew("10.0.0.2>10.0.0.250", &ask(2)).unwrap()), ["10.0.0.250:6881"]);
    assert_eq!(told(world.renew("fd00::2>fd00::250", &ask(3)).unwrap()), ["[fd00::250]:6881"]);
    let same_host = told(world.renew("127.0.0.1>127.0.0.1", &LeaseRequest { port: 7_000, ..ask(4) }).unwrap());
    assert_eq!(same_host, ["127.0.0.1:6881"], "once, in the family of the asker");
    assert_eq!(world.stats(1), stats(1, 0, 0));
}

#[test]
fn advertised_addresses_replace_the_seen_ones_but_not_for_strangers() {
    let mut world = World::new(Limits::default());
    let elsewhere: Vec<SocketAddr> = vec!["93.184.216.7:7000".parse().unwrap(), "0.0.0.0:1".parse().unwrap()];
    let advertise = |peer, number| LeaseRequest { advertise: elsewhere.clone(), ..full(peer, 1, [(number, 0)]) };
    world.renew("10.0.0.1", &advertise(1, 1)).unwrap();
    assert_eq!(world.addresses(1), ["93.184.216.7:7000"]);
    world.renew("93.184.216.99", &advertise(2, 2)).unwrap();
    assert_eq!(world.addresses(2), ["93.184.216.99:6881"]);
    world.renew("127.0.0.1>127.0.0.1", &advertise(3, 3)).unwrap();
    let ask = LeaseRequest { want: vec![hash(3)], port: 1, ..full(4, 1, []) };
    let outside = world.renew("10.0.0.2", &ask).unwrap().peers;
    assert_eq!(outside, [(hash(3), vec!["93.184.216.7:7000".parse().unwrap()])]);
    let ask = LeaseRequest { want: vec![hash(3)], port: 1, ..full(5, 1, []) };
    let inside = &world.renew("127.0.0.1>127.0.0.1", &ask).unwrap().peers[0].1;
    assert!(inside.contains(&"127.0.0.1:6881".parse().unwrap()), "{inside:?}");
    assert_eq!(world.stats(3), stats(1, 0, 0));
}

#[test]
fn a_peer_that_advertises_the_very_address_that_it_is_seen_at_is_there_for_all() {
    let mut world = World::new(Limits::default());
    let advertise = vec!["10.0.0.250:6881".parse().unwrap()];
    world.renew("10.0.0.250", &LeaseRequest { advertise, ..full(1, 1, [(1, 0)]) }).unwrap();
    assert_eq!(world.stats(1), stats(1, 0, 0));
    let ask = LeaseRequest { want: vec![hash(1)], ..full(2, 1, []) };
    let told = world.renew("10.0.0.2>10.0.0.250", &ask).unwrap().peers;
    assert_eq!(told, [(hash(1), vec!["10.0.0.250:6881".parse().unwrap()])]);
}

#[test]
fn a_restarted_peer_takes_over_its_address() {
    let mut world = World::new(Limits::default());
    world.renew("10.0.0.1", &full(1, 1, [(1, 0), (2, 0)])).unwrap();
    world.renew("10.0.0.1", &full(2, 1, [(1, 0)])).unwrap();
    assert_eq!(world.stats(1), stats(1, 0, 0), "one address is one peer");
    world.pass(20);
    world.renew("10.0.0.1", &request(2, 1)).unwrap();
    world.pass(25);
    assert_eq!((world.stats(1), world.stats(2)), (stats(1, 0, 0), stats(0, 0, 0)));
}

#[test]
fn u06_leases_have_budgets() {
    let limits =
        Limits { leases: 3, leases_per_address: 2, items_per_lease: 10, leased_items: 15, ..Limits::default() };
    let mut world = World::new(limits);
    let items = |count| (0..count).map(|number| (number, 0));
    assert_eq!(world.renew("10.0.0.1", &full(1, 1, items(11))), Err(LeaseRefused::TooManyItems));
    world.renew("10.0.0.1", &full(1, 1, items(10))).unwrap();
    assert_eq!(world.renew("10.0.0.1", &full(2, 1, items(6))), Err(LeaseRefused::TooManyItems));
    world.renew("10.0.0.1", &full(2, 1, items(5))).unwrap();
    assert_eq!(world.renew("10.0.0.1", &full(3, 1, [])), Err(LeaseRefused::TooManyLeases));
    world.renew("10.0.0.2", &full(3, 1, [])).unwrap();
    assert_eq!(world.renew("10.0.0.3", &full(4, 1, [])), Err(LeaseRefused::TooManyLeases));
    let port_zero = LeaseRequest { port: 0, ..request(1, 1) };
    assert_eq!(world.renew("10.0.0.1", &port_zero), Err(LeaseRefused::PortZero));
    let greedy = LeaseRequest { want: vec![hash(1); LEASE_WANTS + 1], ..request(1, 1) };
    assert_eq!(world.renew("10.0.0.1", &greedy), Err(LeaseRefused::TooManyWanted));
    world.pass(60);
    world.renew("10.0.0.1", &full(9, 1, items(10))).unwrap();
}

#[test]
fn who_held_it_last_is_told_when_the_last_holder_goes() {
    let mut world = World::new(Limits::default());
    swarms::pin(&mut world.swarms, &hash(1), 41, world.now);
    world.renew("10.0.0.1", &full(1, 1, [(1, 0)])).unwrap();
    let changes = swarms::drain_changes(&mut world.swarms);
    assert_eq!((changes.len(), changes[0].stats), (1, stats(1, 0, 41)));
    world.pass(50);
    let changes = swarms::drain_changes(&mut world.swarms);
    let holder = changes[0].holder.unwrap();
    assert_eq!(
        (changes[0].stats, holder.addr.to_string(), holder.at),
        (stats(0, 0, 41), "10.0.0.1:6881".into(), world.now)
    );
    assert_eq!(swarms::drain_changes(&mut world.swarms), []);
}
