//! Replays the fuzzing corpus: what it once took a fuzzer to find stays found, on a stable compiler.

#![allow(clippy::expect_used, clippy::panic, reason = "it is all test code")]
#![allow(clippy::disallowed_methods, reason = "the corpus is files")]
#![allow(unreachable_pub, reason = "the properties are a library elsewhere")]

#[path = "../../../fuzz/src/messages.rs"]
mod messages;
#[path = "../../../fuzz/src/wire.rs"]
mod properties;
#[path = "../../../fuzz/src/trackers.rs"]
mod trackers;

use std::path::Path;

fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is in the repository") {
        let input = std::fs::read(entry.expect("a readable entry").path()).expect("a readable input");
        property(&input);
        // A cut input is the most common hostile one.
        property(&input[..input.len() / 2]);
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus of {target} is empty");
}

#[test]
fn bencode() {
    replay("bencode", properties::bencode);
}

#[test]
fn metainfo() {
    replay("metainfo", properties::metainfo);
}

#[test]
fn magnet() {
    replay("magnet", properties::magnet);
}

#[test]
fn merkle_proof() {
    replay("merkle_proof", properties::merkle_proof);
}

#[test]
fn peer_message() {
    replay("peer_message", messages::peer_message);
}

#[test]
fn handshake() {
    replay("handshake", messages::handshake);
}

#[test]
fn extension() {
    replay("extension", messages::extension);
}

#[test]
fn compact() {
    replay("compact", trackers::compact);
}

#[test]
fn tracker_udp() {
    replay("tracker_udp", trackers::tracker_udp);
}

#[test]
fn tracker_http() {
    replay("tracker_http", trackers::tracker_http);
}
