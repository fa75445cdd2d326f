//! Properties of what trackers and their clients say. Each panics where its property does not hold.

use std::net::SocketAddr;

use obt_wire::compact::{Reach, canonical, is_dialable, reach, v4_peer, v4_peers, v6_peer, v6_peers};
use obt_wire::limits::{TRACKER_PATH_BYTES, TRACKER_PEERS};
use obt_wire::tracker_http::{
    AnnounceQuery, Announced, ReplyError, read_scrape, scrape_query, scrape_url, write_scrape,
};
use obt_wire::tracker_udp::{Family, Reply, Request, scrape_request};

/// Peers come back as the bytes that they were, and none that nobody could connect to is called dialable.
pub fn compact(data: &[u8]) {
    let bytes: Vec<u8> = v4_peers(data).flat_map(spelled).collect();
    assert_eq!(bytes, data[..data.len() / 6 * 6]);
    for addr in v4_peers(data).chain(v6_peers(data)) {
        assert_eq!(canonical(addr), addr);
        assert_eq!(is_dialable(addr), addr.port() != 0 && reach(addr.ip()) != Reach::Nowhere);
        assert!(!is_dialable(addr) || !addr.ip().is_multicast() && !addr.ip().is_unspecified());
        assert!(!addr.ip().is_loopback() || reach(addr.ip()) == Reach::Loopback);
        assert_eq!(v4_peers(&spelled(addr)).chain(v6_peers(&spelled(addr))).last(), Some(addr));
    }
}

fn spelled(addr: SocketAddr) -> Vec<u8> {
    match addr {
        SocketAddr::V4(addr) => v4_peer(*addr.ip(), addr.port()).into(),
        SocketAddr::V6(addr) => v6_peer(*addr.ip(), addr.port()).into(),
    }
}

/// A request that is read is the same when it is written, but for the address that nobody believes.
pub fn tracker_udp(data: &[u8]) {
    let mut out = Vec::new();
    match Request::decode(data) {
        Some(Request::Announce(request)) => {
            assert!(request.path().is_none_or(|path| path.len() <= TRACKER_PATH_BYTES));
            request.encode("", &mut out);
            assert_eq!(Request::decode(&out), Some(Request::Announce(request)));
            assert_eq!((&out[..80], &out[98..]), (&data[..80], &data[98..]));
        }
        Some(Request::Scrape(request)) => {
            scrape_request(request.connection, request.transaction, request.hashes(), &mut out);
            assert_eq!(out, data);
        }
        Some(Request::Connect(transaction)) => assert_eq!(data[12..], transaction.0.to_be_bytes()),
        None => {}
    }
    for (family, size) in [(Family::V4, 6), (Family::V6, 18)] {
        if let Some((_, Reply::Announce { peers, .. })) = Reply::decode(data, family) {
            assert_eq!(peers.len() % size, 0);
        }
    }
}

/// A query that is read means the same when it is written; an answer that is read holds what it may.
pub fn tracker_http(data: &[u8]) {
    if let Ok(query) = AnnounceQuery::decode(data) {
        let url = query.url("http://tracker.example/announce");
        let (_, text) = url.split_once('?').expect("it has parameters");
        assert_eq!(AnnounceQuery::decode(text.as_bytes()), Ok(query));
    }
    if let Ok(hashes) = scrape_query(data) {
        let url = scrape_url("http://tracker.example/announce", hashes.iter().copied()).expect("it takes scrapes");
        let (_, text) = url.split_once('?').expect("it has parameters");
        assert_eq!(scrape_query(text.as_bytes()), Ok(hashes));
    }
    match Announced::decode(data) {
        Ok(announced) => {
            assert!(announced.peers.len() <= TRACKER_PEERS && announced.peers.iter().all(|addr| is_dialable(*addr)));
            assert!(announced.warning.is_none_or(|text| !text.contains(char::is_control)));
        }
        Err(ReplyError::Refused { reason, .. }) => assert!(!reason.contains(char::is_control)),
        Err(_) => {}
    }
    if let Ok(swarms) = read_scrape(data) {
        let mut out = Vec::new();
        write_scrape(&swarms, &mut out);
        assert_eq!(read_scrape(&out), Ok(swarms));
    }
    if let Ok(url) = std::str::from_utf8(data) {
        let _ = scrape_url(url, []);
    }
}
