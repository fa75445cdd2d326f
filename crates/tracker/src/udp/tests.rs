use std::time::{Duration, UNIX_EPOCH};

use obt_wire::tracker_udp::{Family, Reply, connect_request, scrape_request};
use obt_wire::{InfoHash, PeerId};
use proptest::prelude::*;

use super::*;
use crate::limits::Limits;
use crate::swarms::Swarms;
use crate::testing::store;

const T: TransactionId = TransactionId(0x0102_0304);
const CANARY: u8 = 0xa5;

struct World {
    udp: UdpResponder,
    swarms: Swarms,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (swarms, now) = store(Limits::default());
        let ids = ConnectionIds::new([1; 16], UNIX_EPOCH, now);
        let udp = UdpResponder::new(ids, Some(ConnectBudget::new([9; 24], now)));
        Self { udp, swarms, now }
    }

    /// The answer; checks that nothing behind its end was written to.
    fn send(&mut self, source: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let source: SocketAddr = source.parse().unwrap();
        let mut out = [CANARY; 2_048];
        let len = self.udp.respond(&Datagram { bytes, source, reached: None }, &mut self.swarms, &mut out, self.now)?;
        let longest = if source.is_ipv4() { UDP_REPLY_V4 } else { UDP_REPLY_V6 };
        assert!(len <= longest, "{len}");
        assert!(out[longest..].iter().all(|byte| *byte == CANARY));
        Some(out[..len].to_vec())
    }

    fn id(&self, source: &str) -> ConnectionId {
        let source: SocketAddr = source.parse().unwrap();
        ConnectionId(self.udp.ids.issue(source.ip(), self.now))
    }

    fn announce(&mut self, source: &str, request: &AnnounceRequest<'_>) -> Option<Vec<u8>> {
        let connection = self.id(source);
        self.send(source, &bytes(&AnnounceRequest { connection, ..*request }))
    }

    /// Counts and peers of the answer to an announce.
    fn answer(&mut self, source: &str, request: &AnnounceRequest<'_>) -> (SwarmCounts, Vec<u8>) {
        let reply = self.announce(source, request).unwrap();
        let family = if source.starts_with('[') { Family::V6 } else { Family::V4 };
        match Reply::decode(&reply, family) {
            Some((T, Reply::Announce { counts, peers, .. })) => (counts, peers.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    fn error(&mut self, source: &str, request: &AnnounceRequest<'_>) -> String {
        let reply = self.announce(source, request).unwrap();
        match Reply::decode(&reply, Family::V4) {
            Some((T, Reply::Error(text))) => text,
            other => panic!("{other:?}"),
        }
    }
}

fn request(left: u64) -> AnnounceRequest<'static> {
    AnnounceRequest {
        transaction: T,
        ..AnnounceRequest::started(ConnectionId(0), InfoHash([1; 20]), PeerId([2; 20]), 6_881, left)
    }
}

fn bytes(request: &AnnounceRequest<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    request.encode("", &mut out);
    out
}

fn counts_of(seeders: u32, leechers: u32) -> SwarmCounts {
    SwarmCounts { seeders, leechers, completed: 0 }
}

#[test]
fn a_client_connects_announces_and_scrapes() {
    let mut world = World::new();
    let reply = world.send("10.0.0.1:7000", &connect_request(T)).unwrap();
    let Some((T, Reply::Connect(connection))) = Reply::decode(&reply, Family::V4) else {
        panic!("{reply:?}");
    };
    let seed = bytes(&AnnounceRequest { connection, ..request(0) });
    assert!(world.send("10.0.0.1:7001", &seed).is_some(), "u02: another port is allowed");
    assert_eq!(world.answer("10.0.0.2:1", &request(9)), (counts_of(1, 1), vec![10, 0, 0, 1, 0x1a, 0xe1]));
    let done = AnnounceRequest { event: AnnounceEvent::Completed, ..request(0) };
    assert_eq!(world.answer("10.0.0.2:1", &done), (counts_of(2, 0), vec![]));
    let mut scrape = Vec::new();
    scrape_request(connection, T, [InfoHash([1; 20]), InfoHash([7; 20])], &mut scrape);
    let reply = world.send("10.0.0.1:7000", &scrape).unwrap();
    let counts = vec![SwarmCounts { seeders: 2, leechers: 0, completed: 1 }, SwarmCounts::default()];
    assert_eq!(Reply::decode(&reply, Family::V4), Some((T, Reply::Scrape(counts))));
    let gone = AnnounceRequest { event: AnnounceEvent::Stopped, ..request(0) };
    assert_eq!(world.answer("10.0.0.1:7000", &gone), (counts_of(1, 0), vec![]));
}

#[test]
fn v6_peers_are_told_to_v6_askers() {
    let mut world = World::new();
    world.announce("10.0.0.1:1", &request(0)).unwrap();
    world.announce("[fd00::1]:1", &request(0)).unwrap();
    world.announce("[::ffff:10.0.0.2]:1", &request(0)).unwrap();
    let (counts, peers) = world.answer("[fd00::2]:1", &request(5));
    assert_eq!((counts, peers.len()), (counts_of(3, 1), 18));
    assert_eq!(world.answer("10.0.0.3:1", &request(5)).1.len(), 12);
}

#[test]
fn u01_what_is_no_request_gets_no_answer() {
    let mut world = World::new();
    let connect = connect_request(T);
    for end in 0..16 {
        assert_eq!(world.send("10.0.0.1:1", &connect[..end]), None, "{end}");
    }
    for action in [3u32, 99, u32::MAX] {
        let mut other = connect;
        other[8..12].copy_from_slice(&action.to_be_bytes());
        assert_eq!(world.send("10.0.0.1:1", &other), None, "{action}");
    }
    assert_eq!(world.send("10.0.0.1:0", &connect), None, "nobody to answer to");
}

#[test]
fn u02_an_unproved_address_gets_no_answer() {
    let mut world = World::new();
    let good = world.id("10.0.0.1:1");
    assert_eq!(world.send("10.0.0.1:1", &bytes(&request(0))[..97]), None);
    for bad in [0, u64::MAX, good.0 ^ 1, good.0 ^ 1 << 40, good.0 | 1 << 63] {
        let announce = bytes(&AnnounceRequest { connection: ConnectionId(bad), ..request(0) });
        assert_eq!(world.send("10.0.0.1:1", &announce), None);
        let mut scrape = Vec::new();
        scrape_request(ConnectionId(bad), T, [InfoHash([1; 20])], &mut scrape);
        assert_eq!(world.send("10.0.0.1:1", &scrape), None);
    }
    let announce = bytes(&AnnounceRequest { connection: good, ..request(0) });
    assert_eq!(world.send("10.0.0.2:1", &announce), None, "another address");
    world.now += Duration::from_secs(121);
    assert_eq!(world.send("10.0.0.1:1", &announce), None, "expired");
    assert_eq!(swarms::size(&mut world.swarms).addresses, 0);
}

#[test]
fn u03_strange_numbers_are_clamped_and_port_0_is_refused() {
    let mut world = World::new();
    assert!(world.error("10.0.0.1:1", &AnnounceRequest { port: 0, ..request(0) }).contains("port 0"));
    for host in 1..=100 {
        for port in 1..=3 {
            world.announce(&format!("10.0.1.{host}:1"), &AnnounceRequest { port, ..request(0) }).unwrap();
        }
    }
    for (num_want, peers) in [(None, 50), (Some(0), 0), (Some(7), 7), (Some(i32::MAX.unsigned_abs()), 200)] {
        let asked = AnnounceRequest { num_want, ..request(u64::MAX) };
        assert_eq!(world.answer("10.0.0.1:1", &asked).1.len(), peers * 6, "{num_want:?}");
    }
}

#[test]
fn u04_scrapes_of_a_wrong_length_get_no_answer() {
    let mut world = World::new();
    let connection = world.id("10.0.0.1:1");
    let mut scrape = Vec::new();
    scrape_request(connection, T, [InfoHash([1; 20]); 74], &mut scrape);
    assert_eq!(world.send("10.0.0.1:1", &scrape).unwrap().len(), 8 + 12 * 74);
    for length in [16, 17, 35, 37, 1_495] {
        assert_eq!(world.send("10.0.0.1:1", &scrape[..length]), None, "{length}");
    }
    scrape.extend([0; 20]);
    assert_eq!(world.send("10.0.0.1:1", &scrape), None);
}

#[test]
fn u05_malformed_options_do_not_matter() {
    let mut world = World::new();
    for options in [&[2, 255, b'/'][..], &[1; 300], &[2, 2, 0xff, 0xfe], &[2, 9, b'.', b'.', b'/'], &[0xff; 500]] {
        assert!(world.announce("10.0.0.1:1", &AnnounceRequest { options, ..request(0) }).is_some());
    }
}

#[test]
fn u06_an_address_fills_neither_a_swarm_nor_the_store() {
    let mut world = World::new();
    for port in 1..=1_000 {
        world.announce("10.0.0.1:1", &AnnounceRequest { port, ..request(9) }).unwrap();
    }
    assert_eq!(world.answer("10.0.0.2:1", &request(9)).0, counts_of(0, 65));
    let named = |number: u16| {
        let mut info_hash = InfoHash([0; 20]);
        info_hash.0[..2].copy_from_slice(&number.to_be_bytes());
        AnnounceRequest { info_hash, ..request(9) }
    };
    for number in 0..999 {
        world.answer("10.0.0.1:1", &named(number));
    }
    assert!(world.error("10.0.0.1:1", &named(1_000)).contains("too many"));
    world.answer("10.0.0.1:1", &named(5));
    world.answer("10.0.0.3:1", &named(1_000));
}

#[test]
fn u07_connects_of_a_public_address_have_a_budget_and_announces_do_not() {
    let mut world = World::new();
    let mut answered = |source: &str, now: Instant| {
        world.now = now;
        (0..1_000).filter(|_| world.send(source, &connect_request(T)).is_some_and(|reply| reply.len() == 16)).count()
    };
    let start = World::new().now;
    assert_eq!(answered("93.184.216.34:1", start), 50);
    assert_eq!(answered("93.184.216.34:1", start + Duration::from_secs(1)), 20);
    assert_eq!(answered("93.184.216.34:1", start + Duration::from_secs(100)), 50);
    assert_eq!(answered("10.0.0.1:1", start), 1_000);
    for _ in 0..100 {
        world.answer("93.184.216.34:1", &request(0));
    }
}

#[test]
fn u08_jumbo_datagrams_get_no_answer_and_buffers_keep_no_stale_bytes() {
    let mut world = World::new();
    assert_eq!(world.send("10.0.0.1:1", &[0; 65_507]), None);
    let connection = world.id("10.0.0.1:1");
    let mut buffer = [0xff; 2_048];
    let announce = bytes(&AnnounceRequest { connection, ..request(0) });
    buffer[..98].copy_from_slice(&announce);
    assert_eq!(world.send("10.0.0.1:1", &buffer[..97]), None, "bytes behind the end do not complete it");
}

#[test]
fn u09_answers_fit_a_frame() {
    let mut world = World::new();
    for host in 1..=250 {
        world.announce(&format!("[fd00::{host}]:1"), &request(0)).unwrap();
        world.announce(&format!("10.0.1.{host}:1"), &request(0)).unwrap();
    }
    let all = AnnounceRequest { num_want: Some(500), ..request(9) };
    assert_eq!(world.answer("[fd00:1::1]:1", &all).1.len(), (UDP_REPLY_V6 - 20) / 18 * 18);
    assert_eq!(world.answer("10.0.2.1:1", &all).1.len(), 200 * 6);
    let mut small = [CANARY; 30];
    let connection = world.id("10.0.2.1:1");
    let datagram = bytes(&AnnounceRequest { connection, ..all });
    let datagram = Datagram { bytes: &datagram, source: "10.0.2.1:1".parse().unwrap(), reached: None };
    assert_eq!(world.udp.respond(&datagram, &mut world.swarms, &mut small, world.now), Some(26));
    assert_eq!(world.udp.respond(&datagram, &mut world.swarms, &mut small[..10], world.now), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn b_udp_no_datagram_is_answered_with_more_than_it_proves(
        tail in prop::collection::vec(any::<u8>(), 0..1_600),
        action in 0u32..5,
        proved in any::<bool>(),
        v6 in any::<bool>(),
        magic in any::<bool>(),
    ) {
        let mut world = World::new();
        let source = if v6 { "[fd00::1]:1" } else { "10.0.0.1:1" };
        let head = match (proved, magic) {
            (true, _) => world.id(source).0.to_be_bytes(),
            (_, true) => [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80],
            _ => [7; 8],
        };
        let datagram = [&head[..], &action.to_be_bytes(), &tail].concat();
        if let Some(reply) = world.send(source, &datagram) {
            prop_assert!(proved || reply.len() <= datagram.len());
            prop_assert!(proved || reply.len() == 16);
        }
        let _ = world.send(source, &tail);
    }
}
