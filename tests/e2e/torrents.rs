//! Plain torrents: made, shown, checked, published, and fetched with no catalogue.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::{Lab, assert_holds, eventually, noise};
use crate::http;

/// A machine that takes connections and never says a word, and what it is reached at.
fn silent_peer() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

#[test]
fn g06_a_magnet_whose_metadata_never_comes_ends_with_a_sentence_and_leaves_nothing() {
    let lab = Lab::new();
    let out = lab.folder("out");
    let (_listener, addr) = silent_peer();
    let magnet = format!("magnet:?xt=urn:btih:{}", "0123456789".repeat(4));
    let mut command = lab.command(["download", &magnet, "--peer", &addr, "--patience", "3", "-o"]);
    command.arg(&out);
    let ended = crate::harness::Obt::spawn(command).ends().fails(1, "no peer had anything for us");
    assert!(ended.err.contains("hint: "), "{ended}");
    assert_eq!(fs::read_dir(out).unwrap().count(), 0);
}

fn hashes(of: &Value) -> (Value, Value) {
    (of["info_hash_v1"].clone(), of["info_hash_v2"].clone())
}

#[test]
fn the_same_bytes_under_the_same_name_are_the_same_torrent_everywhere() {
    let lab = Lab::new();
    let made_on_each = ["one", "two", "three"].map(|machine| {
        let folder = lab.folder(format!("{machine}/set"));
        // Written in another order and at another time on each of them.
        let mut files = vec![("a", noise(1, 100_000)), ("b/c d", noise(2, 70_000)), ("empty", Vec::new())];
        files.rotate_left(machine.len() % 3);
        for (path, bytes) in files {
            let path = lab.file(folder.join(path), &bytes);
            let age = Duration::from_secs(1_000_000 * machine.len() as u64);
            File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        let share = lab.share(&format!("{machine}-state"), [folder]);
        hashes(&share.obt.event("sharing"))
    });
    assert_eq!(made_on_each[0], made_on_each[1]);
    assert_eq!(made_on_each[0], made_on_each[2]);
    let made = lab.run(["create", "--json", "one/set"]).exits(0).last();
    assert_eq!(hashes(&made), made_on_each[0]);
}

#[test]
fn a_torrent_is_made_shown_and_checked() {
    let lab = Lab::new();
    lab.file("set/a", &noise(1, 100_000));
    lab.file("set/b", &noise(2, 50_000));
    for protocol in ["v1", "v2", "hybrid"] {
        let file = format!("{protocol}.torrent");
        let made = lab.run(["create", "--json", "set", "--protocol", protocol, "-o", &file]).exits(0).last();
        let shown = lab.run(["inspect", "--json", &file]).exits(0).last();
        assert_eq!(hashes(&made), hashes(&shown));
        assert_eq!((&shown["protocol"], &shown["size"]), (&protocol.into(), &150_000.into()));
        assert_eq!(hashes(&shown).0.is_null(), protocol == "v2");
        assert_eq!(hashes(&shown).1.is_null(), protocol == "v1");
        assert_eq!(lab.run(["verify", "--json", &file]).exits(0).last()["complete"], true);
    }
    let magnet = lab.run(["create", "--json", "set", "-o", "again.torrent"]).exits(0).last()["magnet"].clone();
    let shown = lab.run(["inspect", "--json", magnet.as_str().unwrap()]).exits(0).last();
    assert_eq!(shown["name"], "set");

    fs::write(lab.path("set/b"), noise(3, 50_000)).unwrap();
    for protocol in ["v1", "v2", "hybrid"] {
        let checked = lab.run(["verify", "--json", &format!("{protocol}.torrent"), "set"]).exits(1).last();
        let good: Vec<&Value> = checked["files"].as_array().unwrap().iter().map(|file| &file["good"]).collect();
        assert_eq!(good.last(), Some(&&Value::Bool(false)), "{checked}");
        assert_eq!(checked["complete"], false);
    }
    lab.run(["create", "set", "-o", "v1.torrent"]).fails(2, "v1.torrent is already there");
    lab.run(["create", "set", "-o", "v1.torrent", "--force"]).exits(0);
}

#[test]
fn a_share_is_fetched_by_torrent_by_magnet_and_by_url() {
    let lab = Lab::new();
    let bytes = noise(1, 2_000_000);
    lab.file("data/x y.bin", &bytes);
    let share = lab.share("one", ["data/x y.bin"]);
    let item = share.obt.event("sharing");
    share.until_held("x y.bin", 1);

    let torrent = http::get(share.socket(), "/items/x%20y.bin.torrent").body;
    lab.file("x.torrent", &torrent);
    let magnet = http::get(share.socket(), "/items/x%20y.bin.magnet").text();
    let url = format!("http://{}/items/x%20y.bin.torrent", share.address());
    for (folder, source) in [("file", "x.torrent"), ("magnet", magnet.trim()), ("url", &url)] {
        lab.folder(folder);
        let ended = lab.run(["download", "--json", source, "-o", folder]).exits(0);
        assert_eq!(hashes(&ended.last()), hashes(&item), "{source}");
        assert!(ended.from().iter().map(|(_, bytes)| bytes).sum::<u64>() >= 2_000_000, "{ended}");
        assert_holds(lab.path(folder).join("x y.bin"), &bytes);
    }
}

#[test]
fn a_download_asks_the_peer_that_it_is_told_of() {
    let lab = Lab::new();
    let bytes = noise(1, 500_000);
    lab.file("data/x", &bytes);
    let share = lab.share("one", ["data/x"]);
    share.obt.event("sharing");
    let peer = format!("127.0.0.1:{}", share.obt.event("listening")["peer_port"]);
    let made = lab.run(["create", "--json", "data/x"]).exits(0).last();
    let magnet = made["magnet"].as_str().unwrap();
    lab.folder("out");
    lab.run(["download", "--json", magnet, "--peer", &peer, "-o", "out"]).exits(0);
    assert_holds(lab.path("out/x"), &bytes);
    lab.run(["download", "x.torrent"]).fails(2, "names no tracker and no peer");
}

#[test]
fn whoever_stays_needs_no_tracker_and_no_peer() {
    let lab = Lab::new();
    let bytes = noise(1, 500_000);
    lab.file("data/x", &bytes);
    lab.run(["create", "data/x"]).exits(0);
    let seed = lab.start(["download", "x.torrent", "--seed", "-o", "data", "--json", "--peer-listen", "127.0.0.1:0"]);
    let port = seed.last()["peer_port"].to_string();
    seed.says(&format!("peers reach us at port {port}"));
    let peer = format!("127.0.0.1:{port}");
    lab.folder("out");
    lab.run(["download", "x.torrent", "--peer", &peer, "-o", "out"]).exits(0);
    assert_holds(lab.path("out/x"), &bytes);
}

#[test]
fn long_pieces_come_from_several_peers_and_go_on_after_a_kill() {
    for protocol in ["v1", "v2", "hybrid"] {
        let lab = Lab::new();
        let bytes = noise(1, (40 << 20) + 5);
        lab.file("data/x", &bytes);
        lab.run(["create", "data/x", "--protocol", protocol, "--piece-length", "8MiB"]).exits(0);
        let seeds = ["one", "two"].map(|state| {
            let stay = ["download", "x.torrent", "--seed", "-o", "data", "--json", "--peer-listen", "127.0.0.1:0"];
            lab.start(stay.into_iter().chain(["--state", state, "--upload-rate", "30M"]))
        });
        let peers = seeds.each_ref().map(|seed| format!("127.0.0.1:{}", seed.last()["peer_port"]));
        lab.folder("out");
        let download = ["download", "x.torrent", "-o", "out", "--peer", &peers[0], "--peer", &peers[1]];
        let killed = lab.start(download);
        let part = lab.path("out/x.obt-part/data");
        let written = || fs::metadata(&part).is_ok_and(|data| data.len() > 20 << 20).then_some(());
        eventually("half of it to be written", Duration::from_secs(20), written);
        killed.kill();
        lab.run(download).exits(0);
        assert_holds(lab.path("out/x"), &bytes);
    }
}

#[test]
fn a_download_that_finds_nobody_ends_when_its_patience_does() {
    let lab = Lab::new();
    lab.file("x", b"content");
    let tracker = lab.tracker();
    let announce = format!("http://{}/announce", tracker.address());
    let made = lab.run(["create", "--json", "x", "--announce", &announce]).exits(0).last();
    lab.folder("out");
    for source in ["x.torrent", made["magnet"].as_str().unwrap()] {
        let ended = lab.run(["download", source, "-o", "out", "--patience", "2"]).fails(1, "2 s");
        assert!(ended.took < Duration::from_secs(8), "{ended}");
    }
}

#[test]
fn a_download_that_finds_nobody_names_the_trackers_that_failed() {
    let lab = Lab::new();
    lab.file("x", b"content");
    // Nobody listens at port 1.
    let made = lab.run(["create", "--json", "x", "--announce", "http://127.0.0.1:1/announce"]).exits(0).last();
    let magnet = made["magnet"].as_str().unwrap();
    lab.folder("out");
    let ended = lab.run(["download", magnet, "-o", "out", "--patience", "2"]).fails(1, "2 s");
    assert!(ended.err.contains("tracker http://127.0.0.1:1/announce: "), "{ended}");
    assert!(ended.err.contains("refused"), "{ended}");
}

#[test]
fn a_published_torrent_is_known_by_name_before_anybody_has_it() {
    let lab = Lab::new();
    let bytes = noise(1, 400_000);
    lab.file("x", &bytes);
    let tracker = lab.tracker();
    lab.run(["create", "x", "--protocol", "v1", "--piece-length", "16KiB"]).exits(0);
    let address = tracker.address();
    let publish = ["publish", "--json", "x.torrent", "--tracker", &address, "--as", "sets/x"];
    lab.run(publish).fails(2, "may not publish here");
    let mut with_key = publish.to_vec();
    with_key.extend(["--key-file", "tracker/publish.key"]);
    assert_eq!(lab.run(&with_key).exits(0).last()["version"], 1);
    assert_eq!(lab.run(&with_key).exits(0).last()["existed"], true);
    lab.get(&tracker, "sets/x", "out").ends().fails(1, "nobody has \"sets/x\"");

    // Whoever shares the same bytes under that name adopts its torrent, though it would make another one.
    let share = lab.join(&tracker, "one", ["x", "--as", "sets/x"]);
    assert!(share.event("sharing")["info_hash_v2"].is_null());
    tracker.until_held("sets/x", 1);
    lab.get(&tracker, "sets/x", "out").ends().exits(0);
    assert_holds(lab.path("out/x"), &bytes);
}
