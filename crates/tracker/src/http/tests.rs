use std::net::SocketAddr;

use obt_wire::announce::SwarmCounts;
use obt_wire::bencode::{self, Document, Value};
use obt_wire::tracker_http::{Announced, ReplyError, read_scrape};
use proptest::prelude::*;

use super::*;
use crate::leases::{LeaseItem, LeaseRequest, Leases};
use crate::limits::Limits;
use crate::swarms::Swarms;
use crate::testing::store;

const HASH: &str = "info_hash=aaaaaaaaaaaaaaaaaaaa";
const PEER: &str = "peer_id=-OB0100-abcdefghijkl";

struct World {
    swarms: Swarms,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (swarms, now) = store(Limits { torrents_per_hour: 5, ..Limits::default() });
        Self { swarms, now }
    }

    fn body(&mut self, source: &str, query: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let asker = Asker::new(source.parse().unwrap(), None);
        announce(query, asker, &mut self.swarms, |lease| Some(PeerId([lease as u8; 20])), &mut out, self.now);
        out
    }

    fn announce(&mut self, source: &str, rest: &str) -> Announced {
        Announced::decode(&self.body(source, format!("{HASH}&{PEER}&{rest}").as_bytes())).unwrap()
    }

    fn scrape(&mut self, query: &str) -> Result<Vec<(obt_wire::InfoHash, SwarmCounts)>, ReplyError> {
        let mut out = Vec::new();
        scrape(query.as_bytes(), &mut self.swarms, &mut out, self.now);
        read_scrape(&out)
    }
}

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|addr| addr.parse().unwrap()).collect()
}

#[test]
fn peers_of_both_families_are_told_in_either_form() {
    let mut world = World::new();
    world.announce("10.0.0.1", "port=1&left=0");
    world.announce("fd00::1", "port=2&left=0");
    let both = addresses(&["10.0.0.1:1", "[fd00::1]:2"]);
    for form in ["", "&compact=0", "&compact=0&no_peer_id=1"] {
        let answer = world.announce("10.0.0.2", &format!("port=3&left=7{form}"));
        assert_eq!((answer.seeders, answer.leechers), (Some(2), Some(1)), "{form}");
        assert_eq!(answer.peers, both, "{form}");
        assert_eq!(answer.external_ip, Some([10, 0, 0, 2].into()));
        assert!(answer.interval.unwrap() >= answer.min_interval.unwrap());
    }
    assert_eq!(world.announce("10.0.0.2", "port=3&left=7&numwant=1").peers.len(), 2, "one of each family");
    assert_eq!(world.announce("10.0.0.2", "port=3&left=7&numwant=0").peers, []);
    assert_eq!(world.announce("10.0.0.2", "port=3&left=7&event=stopped").leechers, Some(0));
}

/// Peers of an answer in the long form: port and id.
fn listed(body: &[u8]) -> Vec<(u64, Option<Vec<u8>>)> {
    let document = Document::decode(body, bencode::Limits::MESSAGE).unwrap();
    let peers = document.root().get("peers").unwrap().as_list().unwrap();
    let of = |peer: Value<'_>| {
        let id = peer.get("peer id").and_then(Value::as_bytes).map(<[u8]>::to_vec);
        (peer.get("port").unwrap().as_uint().unwrap(), id)
    };
    peers.map(of).collect()
}

fn client(letter: char) -> String {
    format!("peer_id={}", letter.to_string().repeat(20))
}

#[test]
fn the_long_form_says_who_is_there_unless_that_is_not_wanted() {
    let mut world = World::new();
    for (letter, source, port) in [('x', "10.0.0.1", 1), ('y', "fd00::1", 2), ('z', "127.0.0.1", 3)] {
        world.body(source, format!("{HASH}&{}&port={port}&left=0", client(letter)).as_bytes());
    }
    let mut lease = Leases::new(Limits::default());
    let hash = obt_wire::InfoHash([b'a'; 20]);
    let request = LeaseRequest {
        peer_id: PeerId([5; 20]),
        secret: [1; 16],
        port: 4,
        advertise: Vec::new(),
        revision: 1,
        full: true,
        set: vec![LeaseItem { hash, left: 0, completed: false }],
        removed: Vec::new(),
        want: Vec::new(),
        num_want: 0,
        stopped: false,
    };
    lease.renew(&request, &Asker::new([10, 0, 0, 9].into(), None), &mut world.swarms, world.now).unwrap();

    let asked = format!("{HASH}&{}&port=9&left=7&compact=0", client('q'));
    // As if the asker had reached the tracker at 10.0.0.7: the peer on its host is told under that address.
    let asker = Asker::new([10, 0, 0, 2].into(), Some([10, 0, 0, 7].into()));
    let mut body = Vec::new();
    let lease_of = |number| lease.lease(number).map(crate::leases::Lease::peer_id);
    announce(asked.as_bytes(), asker, &mut world.swarms, lease_of, &mut body, world.now);
    let mut peers = listed(&body);
    peers.sort();
    let id = |byte: u8| Some(vec![byte; 20]);
    assert_eq!(peers, [(1, id(b'x')), (2, id(b'y')), (3, id(b'z')), (4, id(5))]);
    let unwanted = listed(&world.body("10.0.0.2", format!("{asked}&no_peer_id=1").as_bytes()));
    assert!(unwanted.len() == 3 && unwanted.iter().all(|(_, id)| id.is_none()), "{unwanted:?}");
}

#[test]
fn a_client_of_both_families_counts_once_and_with_either_address() {
    let mut world = World::new();
    let mut say = |source: &str, rest: &str| {
        let query = format!("{HASH}&{}&{rest}", client('x'));
        let counts = Announced::decode(&world.body(source, query.as_bytes())).unwrap();
        (counts.seeders.unwrap(), counts.leechers.unwrap())
    };
    let (v4, v6) = ("10.0.0.1", "fd00::1");
    assert_eq!(say(v4, "port=1&left=7&key=abc"), (0, 1));
    assert_eq!(say(v6, "port=1&left=7&key=abc"), (0, 1));
    assert_eq!(say("fd00::2", "port=1&left=7&key=def"), (0, 2), "somebody who knows the id, but not the key");
    assert_eq!(say("fd00::2", "port=1&left=7&key=def&event=stopped"), (0, 1));
    assert_eq!(say(v6, "port=1&left=0&key=abc&event=completed"), (0, 1), "the address that counts says otherwise");
    assert_eq!(say(v4, "port=1&left=0&key=abc&event=completed"), (1, 0));
    assert_eq!(say(v4, "port=1&left=0&key=abc&event=stopped"), (1, 0), "the other address is still here");
    assert_eq!(say(v6, "port=1&left=0&key=abc"), (1, 0));
    assert_eq!(say(v4, "port=1&left=0&key=abc"), (1, 0));
    assert_eq!(say(v6, "port=1&left=0&key=abc&event=stopped"), (1, 0));
    assert_eq!(say(v4, "port=1&left=0&key=abc&event=stopped"), (0, 0));
    assert_eq!(world.scrape(HASH).unwrap()[0].1.completed, 1, "one download");
}

#[test]
fn clients_of_named_swarms_are_known_to_people_whatever_they_speak() {
    let mut world = World::new();
    let hash = obt_wire::InfoHash([b'a'; 20]);
    let announce = |world: &mut World| {
        let announce = Announce {
            hash,
            asker: Asker::new([10, 0, 0, 1].into(), None),
            port: 1,
            standing: crate::store::Standing::Leecher,
            completed: false,
            want: 0,
            client: Client { peer_id: PeerId([3; 20]), key: Some(1) },
            remember: Remember::Named,
        };
        let mut lists = PeerLists { v4: CompactPeers::new(&mut []), v6: CompactPeers::new(&mut []) };
        swarms::announce(&mut world.swarms, &announce, &mut lists, world.now).unwrap();
        world.now += std::time::Duration::from_secs(5);
        swarms::peers(&mut world.swarms, &hash, world.now).remove(0)
    };
    let before = swarms::size(&mut world.swarms).memory;
    assert_eq!(announce(&mut world).client, None, "nobody looks at it");
    swarms::pin(&mut world.swarms, &hash, 0, world.now);
    let peer = announce(&mut world);
    assert_eq!((peer.client, peer.seen), (Some(PeerId([3; 20])), Some(std::time::Duration::from_secs(5))));
    swarms::unpin(&mut world.swarms, &hash, world.now);
    world.now += std::time::Duration::from_secs(7_200);
    swarms::expire(&mut world.swarms, world.now);
    assert!(swarms::size(&mut world.swarms).memory <= before + 4_096, "what is over is forgotten");
    assert_eq!(swarms::size(&mut world.swarms).addresses, 0);
}

#[test]
fn scrapes_count_what_was_completed() {
    let mut world = World::new();
    world.announce("10.0.0.1", "port=1&left=7&event=started");
    world.announce("10.0.0.1", "port=1&left=0&event=completed");
    world.announce("10.0.0.1", "port=1&left=0&event=completed");
    let other = "info_hash=bbbbbbbbbbbbbbbbbbbb";
    let counts = world.scrape(&format!("{other}&{HASH}&{HASH}")).unwrap();
    let expected = SwarmCounts { seeders: 1, leechers: 0, completed: 1 };
    assert_eq!(counts.iter().map(|(_, counts)| *counts).collect::<Vec<_>>(), [expected, SwarmCounts::default()]);
}

#[test]
fn h01_a_bad_announce_is_refused_in_few_words_that_are_not_its_own() {
    let mut world = World::new();
    for query in ["", "x", "info_hash=%zz", &format!("{HASH}&{PEER}&left=0&port=<script>"), &"&=%".repeat(5_000)] {
        let body = world.body("10.0.0.1", query.as_bytes());
        assert!(body.starts_with(b"d14:failure reason") && body.len() <= 256, "{query}");
        assert!(!body.windows(8).any(|window| window == b"<script>"));
    }
}

#[test]
fn h02_an_address_in_the_query_is_not_believed() {
    let mut world = World::new();
    world.announce("10.0.0.1", "port=1&left=0&ip=8.8.8.8&ipv6=::1&ipv4=9.9.9.9");
    assert_eq!(world.announce("10.0.0.2", "port=3&left=7").peers, addresses(&["10.0.0.1:1"]));
}

#[test]
fn h06_nobody_gets_the_list_of_all_swarms() {
    let mut world = World::new();
    let Err(ReplyError::Refused { reason, .. }) = world.scrape("") else {
        panic!("a full scrape");
    };
    assert!(reason.contains("full scrape is disabled"), "{reason}");
}

#[test]
fn u06_who_makes_too_many_swarms_is_told_when_to_come_back() {
    let mut world = World::new();
    let refused = (0..10).map(|number| {
        let query = format!("info_hash={number:020}&{PEER}&port=1&left=0");
        let body = world.body("10.0.0.1", query.as_bytes());
        matches!(Announced::decode(&body), Err(ReplyError::Refused { retry: Some(RetryIn::Minutes(60)), .. }))
    });
    assert_eq!(refused.filter(|refused| *refused).count(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_query_gets_a_dictionary(query in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut world = World::new();
        let body = world.body("10.0.0.1", &query);
        prop_assert!(body.starts_with(b"d") && body.ends_with(b"e"));
        let mut out = Vec::new();
        scrape(&query, &mut world.swarms, &mut out, world.now);
        prop_assert!(out.starts_with(b"d") && out.ends_with(b"e"));
    }
}
