use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use obt_wire::PeerId;

use super::log::Entry;
use super::wire::{Head, Heard, News, PeerNews, Record, Writer};
use super::*;
use crate::leases::{LeaseItem, LeaseRequest};
use crate::limits::{EXCHANGE_LOG, LEASE_LIFE, Limits, MEMBERS};
use crate::store::{Announce, Asker, Client, CompactPeers, PeerLists, Remember, Standing, SwarmStats};
use crate::testing::store;

const HASH: InfoHash = InfoHash([7; 20]);

/// A member with its store.
struct Node {
    exchange: Exchange,
    store: Memory,
}

/// Members with links that lose nothing, and a clock.
struct Cluster {
    nodes: BTreeMap<MemberId, Node>,
    links: BTreeSet<(MemberId, MemberId)>,
    now: Instant,
    size: u64,
    starts: u64,
    sent: usize,
}

fn id(number: u64) -> MemberId {
    MemberId(number)
}

impl Cluster {
    fn new(members: u64) -> Self {
        let (_, now) = store(Limits::default());
        let size = members.max(5);
        let mut this = Self { nodes: BTreeMap::new(), links: BTreeSet::new(), now, size, starts: 0, sent: 0 };
        for number in 1..=members {
            this.start(number);
        }
        for one in 1..=members {
            (one + 1..=members).for_each(|other| this.link(one, other));
        }
        this
    }

    /// Starts a member with nothing, as one of five, or of as many as there are.
    fn start(&mut self, number: u64) {
        let limits = Limits { torrents_per_hour: u16::MAX, ..Limits::default() };
        let home = Advertised { v4: Some([10, 9, 9, u8::try_from(number).unwrap()].into()), v6: None };
        let config = ExchangeConfig { me: id(number), home };
        self.starts += 1;
        let config_of_store = swarms::StoreConfig {
            shard_bits: 3,
            limits,
            advertised: home,
            secret: [u8::try_from(self.starts).unwrap(); 32],
        };
        // Stores begin when their member does, so that their seconds differ.
        let store = Memory { swarms: Swarms::new(&config_of_store, self.now), leases: Some(Leases::new(limits)) };
        let mut node = Node { exchange: Exchange::new(&config, 77 + self.starts, self.now), store };
        let members: Vec<MemberId> = (1..=self.size).map(id).collect();
        node.exchange.handle_event(Event::Members(&members), &mut node.store, self.now);
        self.nodes.insert(id(number), node);
    }

    fn link(&mut self, one: u64, other: u64) {
        for (from, to) in [(one, other), (other, one)] {
            self.links.insert((id(from), id(to)));
            self.event(from, Event::LinkUp(id(to)));
        }
        self.carry();
    }

    fn cut(&mut self, one: u64, other: u64) {
        for (from, to) in [(one, other), (other, one)] {
            self.links.remove(&(id(from), id(to)));
            self.event(from, Event::LinkDown(id(to)));
        }
    }

    fn kill(&mut self, number: u64) {
        for other in 1..=self.size {
            if self.links.contains(&(id(number), id(other))) {
                self.cut(number, other);
            }
        }
        self.nodes.remove(&id(number));
    }

    fn event(&mut self, number: u64, event: Event<'_>) {
        if let Some(node) = self.nodes.get_mut(&id(number)) {
            node.exchange.handle_event(event, &mut node.store, self.now);
        }
    }

    /// Lets batches through until there are none.
    fn carry(&mut self) {
        loop {
            let mut batches = Vec::new();
            for (from, node) in &mut self.nodes {
                while let Some(action) = node.exchange.poll_action() {
                    match action {
                        Action::Send { to, batch } => batches.push((*from, to, batch)),
                        Action::Close { member, why } => panic!("{from:?} closes {member:?}: {why}"),
                    }
                }
                node.exchange.check().unwrap();
            }
            if batches.is_empty() {
                return;
            }
            for (from, to, batch) in batches {
                self.sent += batch.len();
                if self.links.contains(&(from, to)) {
                    self.event(to.0, Event::Batch(from, &batch));
                }
            }
        }
    }

    /// Lets so many tenths of a second pass.
    fn pass(&mut self, tenths: u64) {
        for _ in 0..tenths {
            self.now += Duration::from_millis(100);
            for node in self.nodes.values_mut() {
                node.store.with_leases(|leases, store| leases.expire(store, self.now));
                node.exchange.handle_timeout(&mut node.store, self.now);
            }
            self.carry();
        }
    }

    fn announce(&mut self, number: u64, addr: &str, standing: Standing, completed: bool) -> (SwarmStats, Vec<String>) {
        let addr: SocketAddr = addr.parse().unwrap();
        self.announce_from(number, Asker::new(addr.ip(), Some([10, 9, 9, 9].into())), addr.port(), standing, completed)
    }

    fn announce_from(
        &mut self,
        number: u64,
        asker: Asker,
        port: u16,
        standing: Standing,
        completed: bool,
    ) -> (SwarmStats, Vec<String>) {
        let announce = Announce {
            hash: HASH,
            asker,
            port,
            standing,
            completed,
            want: 50,
            client: Client { peer_id: PeerId([1; 20]), key: None },
            remember: Remember::Named,
        };
        let (mut v4, mut v6) = ([0; 6 * 60], [0; 18 * 60]);
        let mut lists = PeerLists { v4: CompactPeers::new(&mut v4), v6: CompactPeers::new(&mut v6) };
        let node = self.nodes.get_mut(&id(number)).unwrap();
        let answer = swarms::announce(&mut node.store, &announce, &mut lists, self.now).unwrap();
        (answer.stats, lists.v4.v4().chain(lists.v6.v6()).map(|addr| addr.to_string()).collect())
    }

    fn seeds(&mut self, number: u64, ports: std::ops::Range<u16>) {
        for port in ports {
            self.announce(number, &format!("10.0.0.1:{port}"), Standing::Seed, false);
        }
    }

    fn lease(&mut self, number: u64, request: &LeaseRequest) -> crate::leases::LeaseReply {
        let (node, now) = (self.nodes.get_mut(&id(number)).unwrap(), self.now);
        let asker = Asker::new([10, 0, 1, 1].into(), None);
        node.store.with_leases(|leases, store| leases.renew(request, &asker, store, now)).unwrap()
    }

    /// Addresses that a member knows, sorted.
    fn known(&mut self, number: u64) -> Vec<String> {
        let node = self.nodes.get_mut(&id(number)).unwrap();
        let mut known: Vec<String> = swarms::peers(&mut node.store, &HASH, self.now)
            .iter()
            .map(|peer| format!("{}{}", peer.addr, if peer.seed { "" } else { "-" }))
            .collect();
        known.sort();
        known
    }

    fn stats(&mut self, number: u64) -> SwarmStats {
        let node = self.nodes.get_mut(&id(number)).unwrap();
        swarms::stats(&mut node.store, &HASH, self.now)
    }
}

fn stats(seeds: u32, leechers: u32, completed: u32) -> SwarmStats {
    SwarmStats { seeds, leechers, completed }
}

#[test]
fn as_many_members_as_a_cluster_may_have_know_of_each_others_clients() {
    let most = u64::try_from(MEMBERS).unwrap();
    let mut cluster = Cluster::new(most);
    for number in 1..=most {
        cluster.announce(number, &format!("10.0.0.{number}:1"), Standing::Leecher, false);
    }
    cluster.pass(11);
    // Each is started anew: what it said before and what it says now are told apart.
    for number in 1..=most {
        assert_eq!(cluster.known(number).len(), MEMBERS, "at {number}");
        cluster.kill(number);
        cluster.start(number);
        (1..=most).filter(|other| *other != number).for_each(|other| cluster.link(number, other));
        cluster.pass(11);
    }
    assert!((1..=most).all(|number| cluster.known(number).len() == MEMBERS));
}

#[test]
fn who_starts_anew_is_told_of_a_client_that_left_and_came_back() {
    let mut cluster = Cluster::new(3);
    for standing in [Standing::Leecher, Standing::Stopped, Standing::Leecher] {
        cluster.announce(1, "10.0.0.1:1000", standing, false);
        cluster.pass(50);
    }
    assert_eq!(cluster.known(3), ["10.0.0.1:1000-"]);
    cluster.kill(3);
    cluster.start(3);
    cluster.link(3, 1);
    cluster.link(3, 2);
    cluster.pass(20);
    assert_eq!(cluster.known(3), ["10.0.0.1:1000-"]);
}

#[test]
fn whoever_asks_any_member_is_told_of_everybody_within_two_seconds() {
    let mut cluster = Cluster::new(3);
    cluster.announce(1, "10.0.0.1:1", Standing::Seed, false);
    cluster.announce(2, "10.0.0.2:2", Standing::Leecher, false);
    cluster.announce(3, "[2001:db8::3]:3", Standing::Leecher, false);
    cluster.pass(11);
    for member in 1..=3 {
        assert_eq!(cluster.known(member), ["10.0.0.1:1", "10.0.0.2:2-", "[2001:db8::3]:3-"], "member {member}");
        assert_eq!(cluster.stats(member), stats(1, 2, 0));
    }
    let (told, peers) = cluster.announce(3, "10.0.0.9:9", Standing::Leecher, false);
    assert_eq!((told, peers.len()), (stats(1, 3, 0), 3));
    cluster.announce(2, "10.0.0.2:2", Standing::Stopped, false);
    cluster.pass(11);
    for member in 1..=3 {
        assert_eq!(cluster.stats(member), stats(1, 2, 0), "who stopped is gone, member {member}");
    }
}

#[test]
fn nobody_repeats_what_it_heard_from_members() {
    let mut cluster = Cluster::new(3);
    cluster.cut(1, 3);
    cluster.announce(1, "10.0.0.1:1", Standing::Seed, false);
    cluster.pass(50);
    assert_eq!(cluster.known(2), ["10.0.0.1:1"]);
    assert_eq!(cluster.known(3), [""; 0]);
    cluster.link(1, 3);
    cluster.pass(1);
    assert_eq!(cluster.known(3), ["10.0.0.1:1"], "as soon as there is a link");
}

#[test]
fn a_peer_that_changes_members_is_one_peer_and_its_last_word_counts() {
    let mut cluster = Cluster::new(3);
    cluster.announce(1, "10.0.0.1:1", Standing::Leecher, false);
    cluster.pass(50);
    cluster.announce(2, "10.0.0.1:1", Standing::Seed, false);
    cluster.pass(11);
    for member in 1..=3 {
        assert_eq!(cluster.known(member), ["10.0.0.1:1"], "member {member}");
    }
    cluster.announce(3, "10.0.0.1:1", Standing::Stopped, false);
    cluster.pass(11);
    for member in 1..=3 {
        assert_eq!(cluster.known(member), [""; 0], "member {member}");
    }
}

#[test]
fn ages_count_and_not_clocks() {
    let mut cluster = Cluster::new(2);
    cluster.pass(3_000);
    cluster.start(3);
    cluster.announce(3, "10.0.0.1:1", Standing::Seed, false);
    cluster.pass(1_000);
    cluster.link(1, 3);
    cluster.pass(11);
    assert_eq!(cluster.known(1), ["10.0.0.1:1"]);
    // Its time at its member is over 720 s after it announced, and a second may be rounded.
    cluster.pass(6_160);
    assert_eq!(cluster.known(1), ["10.0.0.1:1"]);
    cluster.pass(40);
    assert_eq!((cluster.known(1), cluster.known(3)), (Vec::new(), Vec::new()));
}

#[test]
fn those_of_a_member_that_died_stay_as_long_as_they_would_have_and_those_of_its_next_life_are_others() {
    let mut cluster = Cluster::new(3);
    cluster.seeds(1, 1..4);
    cluster.pass(20);
    cluster.kill(1);
    cluster.pass(600);
    assert_eq!(cluster.known(2).len(), 3);
    cluster.start(1);
    cluster.link(1, 2);
    cluster.link(1, 3);
    cluster.pass(11);
    assert_eq!(cluster.known(2).len(), 3, "that it knows nothing of them does not mean that they are gone");
    assert_eq!(cluster.known(1).len(), 3, "and it is told of them, since nobody announces as often as members restart");
    cluster.seeds(1, 3..5);
    cluster.pass(11);
    assert_eq!((cluster.known(1).len(), cluster.known(2).len(), cluster.known(3).len()), (4, 4, 4));
    cluster.pass(7_000);
    assert_eq!((cluster.known(1).len(), cluster.known(2).len(), cluster.known(3).len()), (2, 2, 2));
}

#[test]
fn who_announces_to_two_members_in_the_same_moment_is_told_by_one_of_them() {
    // As clients do that announce to every tier. The seconds of members begin at different moments, ages are rounded and
    // batches are late, so each of two may take the other's news for newer.
    for (one, other) in [(1, 2), (2, 1)] {
        for (offset, apart, late) in (0..5).flat_map(|a| (0..10).flat_map(move |b| (0..5).map(move |c| (a, b, c)))) {
            let mut cluster = Cluster::new(1);
            cluster.pass(10 + 2 * offset);
            cluster.start(2);
            cluster.link(1, 2);
            cluster.pass(10);
            cluster.links.remove(&(id(2), id(1)));
            cluster.announce(one, "10.0.0.1:1", Standing::Seed, false);
            cluster.pass(3 * apart);
            cluster.announce(other, "10.0.0.1:1", Standing::Seed, false);
            cluster.pass(10 + 2 * late);
            cluster.links.insert((id(2), id(1)));
            cluster.pass(60);
            // Whoever joins is told only what somebody speaks for.
            cluster.start(3);
            cluster.link(1, 3);
            cluster.link(2, 3);
            cluster.pass(15);
            for member in 1..=3 {
                assert_eq!(cluster.known(member), ["10.0.0.1:1"], "{one} then {other}: {offset}, {apart}, {late}");
            }
        }
    }
}

#[test]
fn who_joins_while_a_member_is_dead_hears_of_those_that_announced_to_it() {
    let mut cluster = Cluster::new(3);
    cluster.seeds(3, 1..4);
    cluster.pass(20);
    cluster.kill(3);
    cluster.pass(20);
    cluster.start(4);
    cluster.link(4, 1);
    cluster.link(4, 2);
    cluster.pass(11);
    assert_eq!(cluster.known(4).len(), 3);
    // One of them leaves, where it can; another goes on elsewhere; the third is silent until its time is over.
    cluster.announce(1, "10.0.0.1:1", Standing::Stopped, false);
    cluster.announce(2, "10.0.0.1:2", Standing::Leecher, false);
    cluster.pass(11);
    for member in [1, 2, 4] {
        assert_eq!(cluster.known(member), ["10.0.0.1:2-", "10.0.0.1:3"], "member {member}");
    }
    // Full copies that do not name them any more take nobody away who is still there.
    cluster.kill(4);
    cluster.start(4);
    cluster.link(4, 2);
    cluster.pass(11);
    assert_eq!(cluster.known(4), ["10.0.0.1:2-", "10.0.0.1:3"]);
    cluster.pass(7_200);
    for member in [1, 2, 4] {
        assert_eq!(cluster.known(member), [""; 0], "nobody keeps the others' news young: member {member}");
    }
}

#[test]
fn a_member_that_joins_gets_everything_and_what_happens_meanwhile() {
    let mut cluster = Cluster::new(2);
    cluster.seeds(1, 1..60);
    cluster.announce(2, "10.0.0.2:1", Standing::Seed, false);
    for number in 0..4_000u32 {
        let [a, b, ..] = number.to_le_bytes();
        let node = cluster.nodes.get_mut(&id(1)).unwrap();
        let mut lists = PeerLists { v4: CompactPeers::new(&mut []), v6: CompactPeers::new(&mut []) };
        let announce = Announce {
            hash: InfoHash([a, b, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            asker: Asker::new([10, 3, a, b].into(), None),
            port: 1,
            standing: Standing::Seed,
            completed: false,
            want: 0,
            client: Client { peer_id: PeerId([1; 20]), key: None },
            remember: Remember::Named,
        };
        swarms::announce(&mut node.store, &announce, &mut lists, cluster.now).unwrap();
    }
    cluster.pass(20);
    cluster.start(3);
    cluster.link(2, 3);
    cluster.links.extend([(id(1), id(3)), (id(3), id(1))]);
    cluster.event(1, Event::LinkUp(id(3)));
    cluster.event(3, Event::LinkUp(id(1)));
    cluster.announce(1, "10.0.0.1:1", Standing::Stopped, false);
    cluster.announce(1, "10.0.0.1:77", Standing::Leecher, false);
    cluster.pass(11);
    assert_eq!(cluster.known(3), cluster.known(2));
    assert_eq!(cluster.known(3).len(), 60);
    let size = swarms::size(&mut cluster.nodes.get_mut(&id(3)).unwrap().store);
    assert_eq!(size.addresses, 4_060);
    assert_eq!(cluster.nodes[&id(1)].exchange.size().copies, 0);
}

#[test]
fn a_short_cut_costs_no_copy_and_a_long_one_drops_who_is_gone() {
    let mut cluster = Cluster::new(2);
    cluster.seeds(1, 1..60);
    cluster.pass(20);
    cluster.cut(1, 2);
    cluster.announce(1, "10.0.0.1:1", Standing::Stopped, false);
    cluster.announce(1, "10.0.0.1:100", Standing::Seed, false);
    cluster.pass(100);
    let before = cluster.sent;
    cluster.link(1, 2);
    assert_eq!(cluster.known(2), cluster.known(1));
    assert!(cluster.sent - before < 400, "{} bytes", cluster.sent - before);

    // More than the log holds: what has not been told is known only by looking at everything.
    cluster.cut(1, 2);
    cluster.announce(1, "10.0.0.1:2", Standing::Stopped, false);
    cluster.pass(11);
    let exchange = &mut cluster.nodes.get_mut(&id(1)).unwrap().exchange;
    for number in 0..u32::try_from(EXCHANGE_LOG).unwrap() + 10 {
        let mut hash = InfoHash([9; 20]);
        hash.0[..4].copy_from_slice(&number.to_be_bytes());
        exchange.log.push(Entry::Counted(hash));
    }
    exchange.bound_log();
    cluster.pass(11);
    assert_eq!(cluster.nodes[&id(1)].exchange.size().log, 0, "it does not grow");
    cluster.link(1, 2);
    cluster.pass(1);
    assert_eq!(cluster.known(2), cluster.known(1));
    assert_eq!(cluster.known(2).len(), 58);
}

#[test]
fn completions_are_counted_once_whoever_hears_of_them() {
    let mut cluster = Cluster::new(3);
    cluster.announce(1, "10.0.0.1:1", Standing::Leecher, false);
    cluster.announce(2, "10.0.0.2:1", Standing::Leecher, false);
    cluster.pass(11);
    cluster.announce(1, "10.0.0.1:1", Standing::Seed, true);
    cluster.announce(2, "10.0.0.2:1", Standing::Seed, true);
    cluster.pass(11);
    // A client that tells all its trackers.
    cluster.announce(3, "10.0.0.3:1", Standing::Seed, true);
    cluster.announce(1, "10.0.0.3:1", Standing::Seed, true);
    cluster.announce(2, "10.0.0.3:1", Standing::Seed, true);
    cluster.pass(31);
    for member in 1..=3 {
        assert_eq!(cluster.stats(member), stats(3, 0, 3), "member {member}");
    }
    // Once more by a full copy, to who knows it and to who does not.
    cluster.kill(3);
    cluster.start(3);
    for member in cluster.nodes.get_mut(&id(1)).unwrap().exchange.members.values_mut() {
        member.out.abandon();
    }
    cluster.link(1, 3);
    assert_eq!(cluster.stats(3).completed, 3, "taken over from the first");
    cluster.link(2, 3);
    assert_eq!(cluster.stats(3).completed, 3, "and not once more from the second");
    cluster.pass(31);
    assert_eq!(cluster.stats(3).completed, 3);
    cluster.announce(3, "10.0.0.4:1", Standing::Seed, true);
    cluster.pass(31);
    for member in 1..=3 {
        assert_eq!(cluster.stats(member).completed, 4, "member {member}");
    }
}

fn lease(revision: u64, full: bool, set: &[(u8, u64)]) -> LeaseRequest {
    let item = |(hash, left): &(u8, u64)| LeaseItem { hash: InfoHash([*hash; 20]), left: *left, completed: false };
    LeaseRequest {
        peer_id: PeerId([1; 20]),
        secret: [2; 16],
        port: 6_881,
        advertise: Vec::new(),
        revision,
        full,
        set: set.iter().map(item).collect(),
        removed: Vec::new(),
        want: Vec::new(),
        num_want: 0,
        stopped: false,
    }
}

#[test]
fn a_lease_is_known_everywhere_and_costs_a_few_bytes_to_renew() {
    let mut cluster = Cluster::new(2);
    let items: Vec<(u8, u64)> = (1..=200).map(|hash| (hash, u64::from(hash % 2))).collect();
    cluster.lease(1, &lease(1, true, &items));
    cluster.pass(11);
    assert_eq!(cluster.known(2), ["10.0.1.1:6881-"]);
    let before = cluster.sent;
    cluster.pass(10);
    let idle = cluster.sent - before;
    cluster.lease(1, &lease(1, false, &[]));
    cluster.pass(10);
    assert!(cluster.sent - before - 2 * idle <= 40, "{} bytes", cluster.sent - before - 2 * idle);
    cluster.lease(1, &lease(2, false, &[(7, 0)]));
    cluster.pass(11);
    assert_eq!(cluster.known(2), ["10.0.1.1:6881"]);
    cluster.lease(1, &LeaseRequest { stopped: true, ..lease(2, false, &[]) });
    cluster.pass(11);
    assert_eq!(cluster.known(2), [""; 0]);
}

#[test]
fn a_peer_whose_member_died_stays_listed_once_and_goes_on_at_another() {
    let mut cluster = Cluster::new(3);
    cluster.lease(1, &lease(1, true, &[(7, 0), (8, 0)]));
    cluster.pass(50);
    cluster.kill(1);
    cluster.pass(100);
    assert_eq!(cluster.known(2), ["10.0.1.1:6881"]);
    assert!(!cluster.lease(2, &lease(1, false, &[])).resync, "what it holds is known here");
    cluster.pass(300);
    assert_eq!(
        (cluster.known(2), cluster.known(3)),
        (vec!["10.0.1.1:6881".to_owned()], vec!["10.0.1.1:6881".to_owned()])
    );
    // At a member that missed a change it says everything again, and is listed meanwhile.
    assert!(cluster.lease(3, &lease(2, false, &[])).resync);
    assert_eq!(cluster.known(3), ["10.0.1.1:6881"]);
    assert!(!cluster.lease(3, &lease(2, true, &[(7, 1)])).resync);
    cluster.pass(11);
    assert_eq!(
        (cluster.known(2), cluster.known(3)),
        (vec!["10.0.1.1:6881-".to_owned()], vec!["10.0.1.1:6881-".to_owned()])
    );
    cluster.kill(3);
    cluster.pass(LEASE_LIFE.as_secs() * 10 - 15);
    assert_eq!(cluster.known(2), ["10.0.1.1:6881-"]);
    cluster.pass(10);
    assert_eq!(cluster.known(2), [""; 0]);
}

#[test]
fn somebody_elses_secret_opens_a_lease_at_no_member() {
    let mut cluster = Cluster::new(2);
    cluster.lease(1, &lease(1, true, &[(7, 0)]));
    cluster.pass(11);
    let node = cluster.nodes.get_mut(&id(2)).unwrap();
    let wrong = LeaseRequest { secret: [3; 16], ..lease(1, true, &[]) };
    let asker = Asker::new([10, 0, 1, 2].into(), None);
    let refused = node.store.with_leases(|leases, store| leases.renew(&wrong, &asker, store, cluster.now));
    assert_eq!(refused, Err(crate::leases::LeaseRefused::WrongSecret));
}

#[test]
fn peers_on_a_members_host_are_told_elsewhere_under_its_address_and_once() {
    let mut cluster = Cluster::new(2);
    let loopback = Asker::new([127, 0, 0, 1].into(), Some([127, 0, 0, 1].into()));
    cluster.announce_from(1, loopback, 5, Standing::Seed, false);
    cluster.pass(11);
    assert_eq!(cluster.known(2), ["10.9.9.1:5"]);
    // The same peer at the other member, which sees its address.
    cluster.announce(2, "10.9.9.1:5", Standing::Leecher, false);
    cluster.pass(31);
    assert_eq!(cluster.known(1), ["127.0.0.1:5-"]);
    let (told, peers) = cluster.announce(1, "10.0.0.3:3", Standing::Leecher, false);
    assert_eq!((told, peers), (stats(0, 2, 0), vec!["10.9.9.1:5".to_owned()]));
    cluster.announce(2, "10.9.9.1:5", Standing::Stopped, false);
    cluster.pass(31);
    assert_eq!(cluster.known(1), ["10.0.0.3:3-"]);
}

#[test]
fn a_hybrid_is_one_swarm_at_each_member_that_knows_it() {
    let mut cluster = Cluster::new(2);
    let second = InfoHash([8; 20]);
    for node in cluster.nodes.values_mut() {
        swarms::pin(&mut node.store, &HASH, 0, cluster.now);
    }
    swarms::link(&mut cluster.nodes.get_mut(&id(2)).unwrap().store, &HASH, &second, cluster.now);
    cluster.lease(1, &lease(1, true, &[(8, 0), (7, 0)]));
    cluster.pass(11);
    assert_eq!(cluster.known(2), ["10.0.1.1:6881"]);
    assert_eq!(cluster.stats(2), stats(1, 0, 0));
}

#[test]
fn those_of_a_removed_member_stay_until_their_time_is_over() {
    let mut cluster = Cluster::new(2);
    cluster.seeds(1, 1..4);
    cluster.pass(11);
    cluster.cut(1, 2);
    cluster.event(2, Event::Members(&[id(2)]));
    cluster.pass(100);
    assert_eq!(cluster.known(2).len(), 3);
    let exchange = &cluster.nodes[&id(2)].exchange;
    assert_eq!(exchange.poll_timeout(), None, "alone, it sleeps");
    cluster.pass(7_300);
    assert_eq!(cluster.known(2).len(), 0);
}

#[test]
fn n02_a_member_that_says_nonsense_is_cut_off_and_changes_nothing() {
    let mut cluster = Cluster::new(2);
    cluster.seeds(1, 1..4);
    cluster.pass(11);
    let mut good = Writer::default();
    good.peer(
        &HASH,
        &PeerNews {
            addr: ([10, 0, 0, 1], 99).into(),
            news: News::Alive { seed: true, extra: false, life: 0, completed: false },
            age: 0,
        },
    );
    let mut records = good.take();
    records.push(99);
    let heard = cluster.nodes[&id(2)].exchange.members[&id(1)].heard;
    let head = Head {
        incarnation: heard.incarnation,
        heard: Heard::default(),
        stream: heard.stream,
        batch: heard.batch + 1,
        aged: 0,
        clock: 0,
        lacks_leases: false,
        hurry: false,
    };
    cluster.event(2, Event::Batch(id(1), &wire::batch(&head, &records)));
    let node = cluster.nodes.get_mut(&id(2)).unwrap();
    let close = Action::Close { member: id(1), why: BatchError::Kind(99) };
    assert_eq!(node.exchange.poll_action(), Some(close));
    assert_eq!(cluster.known(2).len(), 3);
    let stranger = Event::Batch(id(77), &wire::batch(&head, &[]));
    cluster.event(2, stranger);
    let node = cluster.nodes.get_mut(&id(2)).unwrap();
    assert_eq!(node.exchange.poll_action(), None, "who is no member, or not yet, is not heard");

    // One that begins anew all the time makes us walk over all peers all the time.
    cluster.event(2, Event::LinkUp(id(1)));
    let mut closed = None;
    for stream in 10..60 {
        let head = Head { stream, batch: 1, ..head };
        cluster.event(2, Event::Batch(id(1), &wire::batch(&head, &good_record())));
        let node = cluster.nodes.get_mut(&id(2)).unwrap();
        while let Some(action) = node.exchange.poll_action() {
            if let Action::Close { why, .. } = action {
                closed = Some(why);
            }
        }
        node.exchange.check().unwrap();
    }
    assert_eq!(closed, Some(BatchError::Restless));
}

fn good_record() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.record(&Record::Counted { hash: HASH, own: 1 });
    writer.take()
}
