//! What announces do to the items of the catalogue.

use serde_json::Value;

use super::support::{Tracker, hybrid};

fn escaped(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("%{byte:02x}")).collect()
}

async fn announce(tracker: &Tracker, hash: &[u8], rest: &str) {
    let path = format!("/announce?info_hash={}&peer_id=-XX0001-123456789012&{rest}", escaped(hash));
    let answer = tracker.get(&path).await;
    let text = String::from_utf8_lossy(&answer.body);
    assert!(answer.status == 200 && !text.contains("failure"), "{text}");
}

async fn item(tracker: &Tracker) -> Value {
    tracker.get("/api/v1/items/a").await.json()
}

#[tokio::test]
async fn both_hashes_of_a_hybrid_are_one_swarm_and_who_held_it_last_is_noted() {
    let tracker = Tracker::start().await;
    let torrent = hybrid("a", 1);
    tracker.publish("a", &torrent).await;
    let hashes = torrent.info.hashes;
    let (v1, v2) = (hashes.v1.unwrap().0, hashes.v2.unwrap().0);
    announce(&tracker, &v1, "port=5001&uploaded=0&downloaded=0&left=0&compact=1").await;
    announce(&tracker, &v2[..20], "port=5002&uploaded=0&downloaded=0&left=3&compact=1&event=started").await;
    let before = item(&tracker).await;
    assert_eq!((before["holders"].as_u64(), before["downloaders"].as_u64()), (Some(1), Some(1)));
    announce(&tracker, &v2[..20], "port=5002&uploaded=0&downloaded=5&left=0&compact=1&event=completed").await;
    let complete = item(&tracker).await;
    assert_eq!((complete["holders"].as_u64(), complete["completed"].as_u64()), (Some(2), Some(1)));

    let peers = tracker.get("/api/v1/peers").await.json();
    let addresses: Vec<&str> =
        peers["peers"].as_array().unwrap().iter().map(|peer| peer["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["127.0.0.1:5001", "127.0.0.1:5002"]);
    assert_eq!(peers["peers"][0]["items"][0]["name"], "a");
    assert_eq!(peers["peers"][0]["items"][0]["left"], 0);
    let id: String = b"-XX0001-123456789012".iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(peers["peers"][0]["peer_id"], id.as_str());
    assert!(peers["peers"][0]["seen_seconds_ago"].as_u64().unwrap() < 60);
    let path = format!("/announce?info_hash={}&peer_id=-XX0001-333333333333&port=5003&left=5&compact=0", escaped(&v1));
    let long = String::from_utf8_lossy(&tracker.get(&path).await.body).into_owned();
    assert!(long.contains("d2:ip9:127.0.0.17:peer id20:-XX0001-1234567890124:porti5001ee"), "{long}");
    announce(&tracker, &v1, "port=5003&left=5&event=stopped").await;

    announce(&tracker, &v1, "port=5002&uploaded=0&downloaded=5&left=0&compact=1&event=stopped").await;
    announce(&tracker, &v1, "port=5001&uploaded=0&downloaded=0&left=0&compact=1&event=stopped").await;
    let gone = loop {
        let gone = item(&tracker).await;
        assert_eq!(gone["holders"], 0);
        if gone.get("last_held").is_some() {
            break gone;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(gone["last_held"]["address"], "127.0.0.1:5001");
}

#[tokio::test]
async fn downloads_are_counted_over_a_restart() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let tracker = Tracker::start_in(std::sync::Arc::clone(&folder), None).await;
    let torrent = hybrid("a", 1);
    tracker.publish("a", &torrent).await;
    let v1 = torrent.info.hashes.v1.unwrap().0;
    announce(&tracker, &v1, "port=5001&uploaded=0&downloaded=0&left=5&compact=1&event=started").await;
    announce(&tracker, &v1, "port=5001&uploaded=0&downloaded=5&left=0&compact=1&event=completed").await;
    tracker.server.shutdown().await;
    let tracker = Tracker::start_in(folder, None).await;
    let item = item(&tracker).await;
    assert_eq!((item["completed"].as_u64(), item["holders"].as_u64()), (Some(1), Some(0)));
}
