//! Our announces at our own tracker, over real sockets: every kind of them, and a lease with many items.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_node::announce::{Announce, AnnounceError, Announcer};
use obt_node::tracker_client::{TrackerAddress, TrackerClient};
use obt_swarm::{AnnounceEvent, AnnounceReply, AnnounceRequest};
use obt_wire::{InfoHashes, PeerId, Sha1Hash};
use support::Tracker;

const PATIENCE: Duration = Duration::from_secs(20);

fn url(tracker: &Tracker, scheme: &str) -> String {
    let path = if scheme == "obt" { "" } else { "/announce" };
    format!("{scheme}://127.0.0.1:{}{path}", tracker.server.port())
}

fn client(tracker: &Tracker) -> TrackerClient {
    TrackerClient::new(tracker.address())
}

/// A peer that listens at `port`.
struct Peer {
    announcer: Announcer,
    port: u16,
}

impl Peer {
    fn new(port: u16) -> Self {
        Self { announcer: Announcer::default(), port }
    }

    async fn announce(
        &self,
        url: &str,
        hash: [u8; 20],
        event: AnnounceEvent,
        left: u64,
    ) -> Result<AnnounceReply, AnnounceError> {
        let [high, low] = self.port.to_be_bytes();
        let mut peer_id = PeerId(*b"-OB0100-test-port-..");
        peer_id.0[18..].copy_from_slice(&[high, low]);
        let num_want = if left > 0 { 50 } else { 0 };
        let request = AnnounceRequest { event, uploaded: 0, downloaded: 0, left, num_want };
        let hashes = InfoHashes { v1: Some(Sha1Hash(hash)), v2: None };
        let announce = Announce { url: url.to_owned(), hashes, peer_id, port: self.port, request };
        tokio::time::timeout(PATIENCE, self.announcer.announce(announce)).await.unwrap()
    }
}

fn ports(mut peers: Vec<SocketAddr>) -> Vec<u16> {
    peers.retain(SocketAddr::is_ipv4);
    let mut ports: Vec<u16> = peers.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_meet_whichever_way_they_announce() {
    let tracker = Tracker::start().await;
    let hash = [7; 20];
    let mut there = Vec::new();
    let mut peers = Vec::new();
    for (port, scheme) in [(1_001, "obt"), (1_002, "http"), (1_003, "udp"), (1_004, "obt")] {
        let peer = Peer::new(port);
        let reply = peer.announce(&url(&tracker, scheme), hash, AnnounceEvent::Started, 9).await.unwrap();
        assert_eq!(ports(reply.peers), there, "{scheme}");
        there.push(port);
        peers.push((peer, scheme));
    }
    for (peer, scheme) in &peers {
        peer.announce(&url(&tracker, scheme), hash, AnnounceEvent::Stopped, 9).await.unwrap();
    }
    let last = Peer::new(1_005).announce(&url(&tracker, "http"), hash, AnnounceEvent::Started, 9).await.unwrap();
    assert_eq!(last.peers, [], "all have said good-bye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_ten_thousand_items_is_there_at_once_and_goes_as_one() {
    let tracker = Tracker::start().await;
    let url = url(&tracker, "obt");
    let peer = Peer::new(1_001);
    let hash = |number: u32| {
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        hash
    };
    let all = (0..10_000).map(|number| peer.announce(&url, hash(number), AnnounceEvent::Started, 0));
    let begun = Instant::now();
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert!(begun.elapsed() < PATIENCE);
    let leased = || tracker.server.state().leases().iter().map(|lease| lease.items().len()).sum::<usize>();
    assert_eq!(leased(), 10_000);
    let asker = Peer::new(1_002);
    for number in [0, 5_000, 9_999] {
        let found = asker.announce(&url, hash(number), AnnounceEvent::Started, 5).await.unwrap();
        assert!(ports(found.peers).contains(&1_001), "{number}");
    }
    peer.announcer.stop().await;
    let listed = client(&tracker).peers().await.unwrap();
    assert!(!listed.peers.iter().any(|peer| peer.address.ends_with(":1001")), "gone at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_is_listed_with_nothing_in_its_hands() {
    let tracker = Tracker::start().await;
    let announcer = Announcer::default();
    let address = TrackerAddress::new("127.0.0.1", tracker.server.port()).unwrap();
    announcer.join(&address, PeerId([1; 20]), 1_001).await.unwrap();
    let listed = client(&tracker).peers().await.unwrap();
    assert_eq!(listed.peers.iter().map(|peer| (peer.lease, peer.items.len())).collect::<Vec<_>>(), [(true, 0)]);
    announcer.stop().await;
    assert_eq!(client(&tracker).peers().await.unwrap().peers, []);
}
