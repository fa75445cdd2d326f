//! Being told to stop, and outputs that close: everything ends in order, and says how.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Lab, Obt, Tracker, eventually, noise};
use crate::http;

const MIB: usize = 1 << 20;

/// A share that would take minutes to send its 32 MiB.
fn slow_share(lab: &Lab) -> Tracker {
    lab.file("data/slow.bin", &noise(1, 32 * MIB));
    let share = lab.share("one", ["data/slow.bin", "--upload-rate", "300k"]);
    share.obt.event("sharing");
    share.until_held("slow.bin", 1);
    share
}

fn until_begun(lab: &Lab, folder: &str) {
    let journal = lab.path(folder).join("slow.bin.obt-part");
    eventually("a partial download", Duration::from_secs(10), || journal.join("data").exists().then_some(()));
}

#[test]
fn everything_that_serves_stops_in_order_when_it_is_told() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let tracker = lab.tracker();
        let share = lab.publish(&tracker, "one", ["data/x"]);
        let peer = lab.start(["peer", "data", "--json", "--state", "two", "--tracker", &tracker.address()]);
        tracker.until_held("x", 2);
        for one in [share, peer, tracker.obt] {
            let asked = Instant::now();
            one.signal(signal);
            let ended = one.ends().exits(0);
            assert!(asked.elapsed() < Duration::from_secs(5), "{ended}");
            assert!(!ended.err.contains("panicked"), "{ended}");
        }
    }
}

#[test]
fn who_stops_is_gone_from_the_network_at_once() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    let tracker = lab.tracker();
    let share = lab.publish(&tracker, "one", ["data/x"]);
    tracker.until_held("x", 1);
    share.stop().exits(0);
    let peers = http::get(tracker.socket(), "/api/v1/peers").json();
    assert_eq!(peers["peers"].as_array().unwrap().len(), 0, "{peers}");
    assert_eq!(http::get(tracker.socket(), "/api/v1/items/x").json()["holders"], 0);
}

#[test]
fn a_get_that_is_told_to_stop_keeps_what_it_has_and_says_so() {
    let lab = Lab::new();
    let share = slow_share(&lab);
    for (signal, folder) in [(Signal::INT, "interrupted"), (Signal::TERM, "terminated")] {
        let get = lab.get(&share, "slow.bin", folder);
        until_begun(&lab, folder);
        let asked = Instant::now();
        get.signal(signal);
        let ended = get.ends().exits(1);
        assert!(asked.elapsed() < Duration::from_secs(5), "{ended}");
        assert!(ended.err.contains("the same command goes on"), "{ended}");
        assert!(!lab.path(folder).join("slow.bin").exists());
    }
    let item = http::get(share.socket(), "/api/v1/items/slow.bin").json();
    assert_eq!(item["downloaders"], 0, "it has left the swarm: {item}");
}

#[test]
fn a_get_that_waits_can_be_stopped() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let get = lab.get_with(&tracker, "nothing", "out", &["--wait"]);
    get.says("waiting");
    get.stop().exits(1);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let lab = Lab::new();
    let share = slow_share(&lab);
    let get = lab.get(&share, "slow.bin", "out");
    until_begun(&lab, "out");
    let asked = Instant::now();
    get.signal(Signal::INT);
    get.signal(Signal::TERM);
    let ended = get.ends();
    assert!(asked.elapsed() < Duration::from_secs(2), "{ended}");
    assert!(matches!(ended.status.code(), Some(1 | 130)), "{ended}");
}

#[test]
fn stdout_takes_the_bytes_in_order_and_keeps_no_copy() {
    let lab = Lab::new();
    let bytes = noise(1, 5_000_001);
    lab.file("data/season/e1.bin", &bytes);
    lab.file("data/season/e2.bin", b"x");
    let share = lab.share("one", ["data/season"]);
    share.obt.event("sharing");
    share.until_held("season", 1);
    let port = share.port.to_string();
    let get = |name: &str| lab.run(["get", "127.0.0.1", &port, name, "--stdout", "--state", "two"]);
    let ended = get("season/e1.bin").exits(0);
    assert!(ended.out == bytes, "the bytes differ: {} of them", ended.out.len());
    get("season").fails(2, "is a folder");
    get("nothing").fails(1, "nobody shares");
    let left = std::fs::read_dir(lab.path("two/cache")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "files in the cache");
}

#[test]
fn c12_a_reader_that_has_enough_ends_a_get_in_silence() {
    let lab = Lab::new();
    let share = slow_share(&lab);
    let script = format!("\"$OBT\" get 127.0.0.1 {} slow.bin --stdout --state two | head -c 10 | wc -c", share.port);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("OBT", crate::harness::binary()).env("OBT_PEER_LISTEN", "127.0.0.1:0");
    shell.current_dir(lab.path("")).stdin(Stdio::null());
    let ended = Obt::spawn(shell).ends().exits(0);
    assert_eq!(ended.text().trim(), "10");
    assert!(!ended.err.contains("panicked") && !ended.err.contains("error"), "{ended}");
}
