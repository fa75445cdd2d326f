//! What the program is for: a file by name, from everyone who has it, whoever dies on the way.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{Lab, Obt, SOON, Tracker, assert_holds, eventually, noise};
use crate::http;

const MIB: usize = 1 << 20;
/// Within this a download ends when all whom it could ask are dead: 20 s without any hope, after the last byte.
const GIVES_UP: Duration = Duration::from_secs(45);
/// Within this a peer that was killed is gone: its lease ends after 40 s.
const LEASE_ENDS: Duration = Duration::from_secs(45);

/// A tracker, and three peers that hold `big.bin` and know nothing of each other; only the first has a key.
fn three_holders(lab: &Lab, bytes: &[u8], rate: &str) -> (Tracker, Vec<Obt>) {
    let tracker = lab.tracker();
    let mut holders = Vec::new();
    for state in ["one", "two", "three"] {
        let path = lab.file(format!("{state}-data/big.bin"), bytes);
        let arguments = [path.as_os_str(), "--upload-rate".as_ref(), rate.as_ref()];
        holders.push(match state {
            "one" => lab.publish(&tracker, state, arguments),
            _ => lab.join(&tracker, state, arguments),
        });
    }
    tracker.until_held("big.bin", 3);
    (tracker, holders)
}

#[test]
fn where_nobody_shares_a_get_says_so_within_two_seconds() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let ended = lab.get(&tracker, "movie.mkv", "out").ends().fails(1, "nobody shares \"movie.mkv\"");
    assert!(ended.took < Duration::from_secs(2), "{ended}");
    assert_eq!(fs::read_dir(lab.path("out")).unwrap().count(), 0);
}

#[test]
fn where_the_last_holder_left_a_get_says_who_it_was_within_two_seconds() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let path = lab.file("data/movie.mkv", &noise(1, MIB));
    let holder = lab.publish(&tracker, "one", [&path]);
    tracker.until_held("movie.mkv", 1);
    let port = holder.event("listening")["peer_port"].as_u64().unwrap();
    holder.stop().exits(0);
    let last = format!("127.0.0.1:{port} had it last");
    eventually("a word on who had it last", SOON, || {
        let ended = lab.get(&tracker, "movie.mkv", "out").ends().fails(1, "nobody has \"movie.mkv\"");
        assert!(ended.took < Duration::from_secs(2), "{ended}");
        ended.err.contains(&last).then_some(())
    });
    assert_eq!(fs::read_dir(lab.path("out")).unwrap().count(), 0);
}

#[test]
fn three_peers_that_know_nothing_of_each_other_all_give_parts_of_a_file() {
    let lab = Lab::new();
    let bytes = noise(1, 64 * MIB);
    let (tracker, holders) = three_holders(&lab, &bytes, "20M");
    let ended = lab.get(&tracker, "big.bin", "out").ends_within(3 * SOON).exits(0);

    let mut expected: Vec<String> =
        holders.iter().map(|holder| format!("127.0.0.1:{}", holder.event("listening")["peer_port"])).collect();
    let mut from: Vec<String> = ended.from().into_iter().map(|(address, _)| address).collect();
    expected.sort();
    from.sort();
    assert_eq!(from, expected);
    assert!(ended.from().iter().all(|(_, count)| *count > 0), "{ended}");
    assert_holds(lab.path("out/big.bin"), &bytes);
    let last = ended.last();
    assert_eq!(last["path"], lab.path("out/big.bin").to_str().unwrap());
    assert_eq!((&last["name"], &last["size"]), (&"big.bin".into(), &bytes.len().into()));
    assert_eq!(fs::read_dir(lab.path("out")).unwrap().count(), 1, "only the file is left");
}

#[test]
fn a_holder_that_is_killed_half_way_stops_nothing() {
    let lab = Lab::new();
    let bytes = noise(2, 64 * MIB);
    let (tracker, mut holders) = three_holders(&lab, &bytes, "4M");
    let get = lab.get(&tracker, "big.bin", "out");
    get.says(" of 64.0 MiB");
    holders.remove(0).kill();
    get.ends_within(3 * SOON).exits(0);
    assert_holds(lab.path("out/big.bin"), &bytes);
}

/// The slow one: it waits for a lease to end, and for the patience of a `get` whose holders are dead.
#[test]
fn when_all_holders_die_a_get_keeps_what_it_has_and_goes_on_later() {
    let lab = Lab::new();
    let bytes = noise(3, 64 * MIB);
    let (tracker, holders) = three_holders(&lab, &bytes, "4M");
    let get = lab.get(&tracker, "big.bin", "out");
    get.says(" of 64.0 MiB");
    let killed = Instant::now();
    holders.into_iter().for_each(Obt::kill);
    let ended = get.ends_within(GIVES_UP).fails(1, "of it are kept");
    assert!(killed.elapsed() < GIVES_UP);
    let kept = kept(&ended.err);
    assert!(kept > MIB, "{ended}");
    assert!(!lab.path("out/big.bin").exists());

    eventually("dead peers to be gone", LEASE_ENDS.saturating_sub(killed.elapsed()), || {
        let peers = lab.run(["peers", "--json", "127.0.0.1", &tracker.port.to_string()]).last();
        let found = lab.run(["find", "--json", "127.0.0.1", &tracker.port.to_string()]).last();
        (peers.as_array().unwrap().is_empty() && found[0]["holders"] == 0).then_some(())
    });

    let ended = lab.get(&tracker, "big.bin", "out").ends().fails(1, "nobody has \"big.bin\"");
    assert!(ended.took < Duration::from_secs(2), "what was begun is no reason to wait: {ended}");

    let waiting = lab.get_with(&tracker, "big.bin", "out", &["--wait"]);
    waiting.says("waiting");
    let _two = lab.join(&tracker, "two", ["two-data/big.bin"]);
    let ended = waiting.ends_within(2 * SOON).exits(0);
    assert_holds(lab.path("out/big.bin"), &bytes);
    let fetched: u64 = ended.from().iter().map(|(_, count)| count).sum();
    let missing = bytes.len() - kept;
    assert!(usize::try_from(fetched).unwrap() <= missing + 2 * MIB, "fetched {fetched}, missing {missing}");
}

/// The bytes that a `get` says it kept.
fn kept(err: &str) -> usize {
    let (before, _) = err.split_once(" MiB of it are kept").expect("how much is kept");
    let number = before.rsplit(' ').next().unwrap();
    (number.parse::<f64>().unwrap() * MIB as f64) as usize
}

#[test]
fn a_get_that_waits_begins_when_somebody_shares() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let bytes = noise(4, MIB);
    let path = lab.file("data/late.bin", &bytes);
    let get = lab.get_with(&tracker, "late.bin", "out", &["--wait"]);
    get.says("waiting");
    let _one = lab.publish(&tracker, "one", [&path]);
    get.ends().exits(0);
    assert_holds(lab.path("out/late.bin"), &bytes);
}

#[test]
fn a_get_right_after_the_share_says_it_shares_finds_the_holder() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let bytes = noise(5, MIB);
    lab.file("data/0", &bytes);
    let _share = lab.publish(&tracker, "one", ["data/0"]);
    lab.get(&tracker, "0", "out").ends().exits(0);
    for number in 1..10 {
        let path = lab.file(format!("data/{number}"), &bytes);
        lab.run(["share".as_ref(), "--state".as_ref(), "one".as_ref(), path.as_os_str()]).exits(0);
        lab.get(&tracker, &number.to_string(), "out").ends().exits(0);
        assert_holds(lab.path(format!("out/{number}")), &bytes);
    }
}

#[test]
fn whoever_fetches_with_seed_serves_it_on() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let bytes = noise(6, 4 * MIB);
    let path = lab.file("data/relay.bin", &bytes);
    let one = lab.publish(&tracker, "one", [&path]);
    tracker.until_held("relay.bin", 1);
    let relay = lab.get_with(&tracker, "relay.bin", "relay", &["--seed"]);
    tracker.until_held("relay.bin", 2);
    one.stop().exits(0);
    tracker.until_held("relay.bin", 1);
    lab.get(&tracker, "relay.bin", "out").ends().exits(0);
    assert_holds(lab.path("out/relay.bin"), &bytes);
    relay.stop().exits(0);
    let item = http::get(tracker.socket(), "/api/v1/items/relay.bin").json();
    assert_eq!((&item["holders"], &item["completed"]), (&0.into(), &2.into()));
}

#[test]
fn a_tracker_that_is_not_there_is_an_error_at_once() {
    let lab = Lab::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ended = lab.run(["get", "127.0.0.1", &free.to_string(), "movie.mkv"]).fails(2, "127.0.0.1");
    assert!(ended.took < Duration::from_secs(3), "{ended}");
    assert!(ended.err.contains("hint: "), "{ended}");
}
