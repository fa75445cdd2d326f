//! What an announce, a scrape and a connect cost in user space, in a store of 10,000 swarms and 500,000 peers.
//!
//! Every choice comes from a fixed seed, so that `bench/instructions` counts the same work each time.
#![allow(missing_docs)]
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Instant, UNIX_EPOCH};

use divan::Bencher;
use fastrand::Rng;
use obt_tracker::limits::Limits;
use obt_tracker::udp::{Datagram, UdpResponder};
use obt_tracker::{Advertised, Asker, ConnectionIds, StoreConfig, Swarms, http, swarms};
use obt_wire::tracker_udp::{AnnounceRequest, ConnectionId, TransactionId, connect_request, scrape_request};
use obt_wire::{InfoHash, PeerId};

const SWARMS: u32 = 10_000;
const PEERS: u32 = 500_000;
/// Requests that are made ready before the clock runs; each comes again after the others.
const REQUESTS: usize = 4_096;

fn main() {
    divan::main();
}

/// The operations that are measured: functions of their own, so that callgrind sees where each begins and ends.
mod work {
    use super::*;

    #[inline(never)]
    pub(super) fn connect(tracker: &mut Tracker, request: &Asked) {
        assert_eq!(tracker.respond(request), 16);
    }

    #[inline(never)]
    pub(super) fn announce(tracker: &mut Tracker, request: &Asked) {
        assert!(tracker.respond(request) >= 20);
    }

    #[inline(never)]
    pub(super) fn scrape(tracker: &mut Tracker, request: &Asked) {
        assert_eq!(tracker.respond(request), 8 + 10 * 12);
    }

    #[inline(never)]
    pub(super) fn http_announce(tracker: &mut Tracker, request: &Asked) {
        tracker.body.clear();
        let asker = Asker::new(request.source.ip(), None);
        http::announce(&request.bytes, asker, &mut tracker.swarms, |_| None, &mut tracker.body, tracker.now);
        assert!(tracker.body.starts_with(b"d8:complete"));
    }
}

/// A request as it came in.
struct Asked {
    source: SocketAddr,
    bytes: Vec<u8>,
}

struct Tracker {
    udp: UdpResponder,
    ids: ConnectionIds,
    swarms: Swarms,
    now: Instant,
    out: [u8; 1_536],
    body: Vec<u8>,
}

impl Tracker {
    fn empty() -> Self {
        let now = Instant::now();
        let limits = Limits { torrents_per_hour: u16::MAX, ..Limits::default() };
        let config = StoreConfig { shard_bits: 8, limits, advertised: Advertised::default(), secret: [4; 32] };
        let ids = ConnectionIds::new([7; 16], UNIX_EPOCH, now);
        let (udp, swarms) = (UdpResponder::new(ids.clone(), None), Swarms::new(&config, now));
        Self { udp, ids, swarms, now, out: [0; 1_536], body: Vec::new() }
    }

    /// With 10,000 swarms; two of three peers are in the first tenth of them, as popular things are.
    fn filled() -> Self {
        let mut this = Self::empty();
        let mut rng = Rng::with_seed(1);
        for peer in 0..PEERS {
            let asked = this.announce_of(peer, &mut rng);
            assert!(this.respond(&asked) >= 20);
        }
        assert_eq!(swarms::size(&mut this.swarms).addresses, PEERS as usize);
        this
    }

    fn respond(&mut self, request: &Asked) -> usize {
        let datagram = Datagram { bytes: &request.bytes, source: request.source, reached: None };
        self.udp.respond(&datagram, &mut self.swarms, &mut self.out, self.now).unwrap_or(0)
    }

    fn id(&self, source: SocketAddr) -> ConnectionId {
        ConnectionId(self.ids.issue(source.ip(), self.now))
    }

    fn announce_of(&self, peer: u32, rng: &mut Rng) -> Asked {
        let source = address(peer);
        let announce = AnnounceRequest {
            transaction: TransactionId(peer),
            num_want: Some(30),
            ..AnnounceRequest::started(self.id(source), swarm_of(peer), PeerId([1; 20]), source.port(), rng.u64(0..3))
        };
        let mut bytes = Vec::new();
        announce.encode("", &mut bytes);
        Asked { source, bytes }
    }

    /// Peers that are known announce again.
    fn announces(&self) -> Vec<Asked> {
        let mut rng = Rng::with_seed(2);
        let peers = (0..REQUESTS).map(|_| rng.u32(0..PEERS)).collect::<Vec<_>>();
        peers.into_iter().map(|peer| self.announce_of(peer, &mut rng)).collect()
    }
}

fn address(peer: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + peer)), 6_881)
}

fn swarm_of(peer: u32) -> InfoHash {
    let number = if peer.is_multiple_of(3) { peer % SWARMS } else { peer % (SWARMS / 10) };
    let mut hash = [0; 20];
    hash[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    hash[16..].copy_from_slice(&number.to_be_bytes());
    InfoHash(hash)
}

fn run(bencher: Bencher<'_, '_>, tracker: Tracker, requests: &[Asked], work: fn(&mut Tracker, &Asked)) {
    let mut tracker = tracker;
    let mut next = (0..requests.len()).cycle();
    bencher.bench_local(|| work(&mut tracker, black_box(&requests[next.next().unwrap()])));
}

#[divan::bench]
fn connect(bencher: Bencher<'_, '_>) {
    let connect = |number: u32| Asked { source: address(number), bytes: connect_request(TransactionId(number)).into() };
    let requests: Vec<Asked> = (0..REQUESTS as u32).map(connect).collect();
    run(bencher, Tracker::empty(), &requests, work::connect);
}

#[divan::bench]
fn announce(bencher: Bencher<'_, '_>) {
    let tracker = Tracker::filled();
    let requests = tracker.announces();
    run(bencher, tracker, &requests, work::announce);
}

#[divan::bench]
fn scrape(bencher: Bencher<'_, '_>) {
    let tracker = Tracker::filled();
    let scrape = |peer: u32| {
        let source = address(peer);
        let mut bytes = Vec::new();
        scrape_request(tracker.id(source), TransactionId(peer), (peer..peer + 10).map(swarm_of), &mut bytes);
        Asked { source, bytes }
    };
    let requests: Vec<Asked> = (0..REQUESTS as u32).map(scrape).collect();
    run(bencher, tracker, &requests, work::scrape);
}

#[divan::bench]
fn http_announce(bencher: Bencher<'_, '_>) {
    let tracker = Tracker::filled();
    let query = |peer: u32| {
        let hash: String = swarm_of(peer).0.iter().map(|byte| format!("%{byte:02x}")).collect();
        let query = format!(
            "info_hash={hash}&peer_id=-XX0001-%00%01%02%03%04%05%06%07%08%09%0a%0b&port=6881&uploaded=0&downloaded=0\
             &left={}&event=started&compact=1&numwant=30&key=12345678",
            peer % 3
        );
        Asked { source: address(peer), bytes: query.into_bytes() }
    };
    let requests: Vec<Asked> = (0..REQUESTS as u32).map(query).collect();
    run(bencher, tracker, &requests, work::http_announce);
}
