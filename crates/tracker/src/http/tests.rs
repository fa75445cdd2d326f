use std::net::SocketAddr;

use obt_wire::announce::SwarmCounts;
use obt_wire::tracker_http::{Announced, ReplyError, read_scrape};
use proptest::prelude::*;

use super::*;
use crate::limits::Limits;
use crate::store::Advertised;
use crate::swarms::{StoreConfig, Swarms};

const HASH: &str = "info_hash=aaaaaaaaaaaaaaaaaaaa";
const PEER: &str = "peer_id=-OB0100-abcdefghijkl";

struct World {
    swarms: Swarms,
    now: Instant,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "tests need some instant to count from")]
    fn new() -> Self {
        let now = Instant::now();
        let limits = Limits { torrents_per_hour: 5, ..Limits::default() };
        let config = StoreConfig { shard_bits: 2, limits, advertised: Advertised::default(), secret: [4; 32] };
        Self { swarms: Swarms::new(&config, now), now }
    }

    fn body(&mut self, source: &str, query: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let asker = Asker::new(source.parse().unwrap(), None);
        announce(query, asker, &mut self.swarms, &mut out, self.now);
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
