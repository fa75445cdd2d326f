//! What is in the network and who is in it: `find`, `peers`, and what `peer` makes of a folder.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Lab, SOON, Tracker, assert_holds, eventually, noise};

fn find(lab: &Lab, tracker: &Tracker, text: &[&str]) -> Vec<Value> {
    let mut command = lab.command(["find", "--json", "127.0.0.1", &tracker.port.to_string()]);
    command.args(text);
    let ended = crate::harness::Obt::spawn(command).ends();
    let items = ended.last().as_array().unwrap().clone();
    ended.exits(i32::from(items.is_empty()));
    items
}

fn names(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn find_lists_and_searches_what_there_is() {
    let lab = Lab::new();
    for name in ["holiday film 2024.mkv", "holiday photos.tar", "Größe.txt", "100%_done"] {
        lab.file(format!("data/{name}"), name.as_bytes());
    }
    let tracker = lab.tracker();
    assert_eq!(find(&lab, &tracker, &[]), Vec::<Value>::new());
    let paths: Vec<_> = fs::read_dir(lab.path("data")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let share = lab.publish(&tracker, "one", &paths);
    share.events("sharing", paths.len());
    tracker.until_held("holiday film 2024.mkv", 1);

    let all = find(&lab, &tracker, &[]);
    assert_eq!(names(&all), ["100%_done", "Größe.txt", "holiday film 2024.mkv", "holiday photos.tar"]);
    assert_eq!(names(&find(&lab, &tracker, &["holiday"])), ["holiday film 2024.mkv", "holiday photos.tar"]);
    assert_eq!(names(&find(&lab, &tracker, &["film", "holiday"])), ["holiday film 2024.mkv"]);
    assert_eq!(names(&find(&lab, &tracker, &["oliday ph"])), ["holiday photos.tar"]);
    assert_eq!(names(&find(&lab, &tracker, &["HOLIDAY PHOTOS"])), ["holiday photos.tar"]);
    assert_eq!(names(&find(&lab, &tracker, &["größe"])), ["Größe.txt"]);
    assert_eq!(names(&find(&lab, &tracker, &["%_"])), ["100%_done"], "signs of a pattern are letters like others");
    assert_eq!(find(&lab, &tracker, &["\"; drop table"]), Vec::<Value>::new());

    let item = &all[2];
    assert_eq!((&item["version"], &item["size"], &item["holders"]), (&1.into(), &21.into(), &1.into()));
    assert_eq!(item["info_hash_v1"].as_str().unwrap().len(), 40);
    assert_eq!(item["info_hash_v2"].as_str().unwrap().len(), 64);
    assert!(item["published_at"].as_str().unwrap().ends_with('Z'), "{item}");
    for count in ["downloaders", "completed"] {
        assert_eq!(item[count], 0, "{count}");
    }
    assert!(item["publisher"].is_string(), "{item}");
}

#[test]
fn peers_shows_who_holds_and_who_fetches_what() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let port = tracker.port.to_string();
    assert_eq!(lab.run(["peers", "--json", "127.0.0.1", &port]).exits(1).last(), Value::Array(Vec::new()));
    lab.file("data/x", &noise(1, 8_000_000));
    let share = lab.publish(&tracker, "one", ["data/x", "--upload-rate", "200k"]);
    tracker.until_held("x", 1);
    let get = lab.get(&tracker, "x", "out");

    let peers = eventually("two peers with one item each", SOON, || {
        let peers = lab.run(["peers", "--json", "127.0.0.1", &port]).last();
        let peers = peers.as_array().unwrap().clone();
        (peers.len() == 2 && peers.iter().all(|peer| peer["items"].as_array().unwrap().len() == 1)).then_some(peers)
    });
    let address = format!("127.0.0.1:{}", share.event("listening")["peer_port"]);
    let holder = peers.iter().find(|peer| peer["address"] == address.as_str()).unwrap();
    let fetcher = peers.iter().find(|peer| peer["address"] != address.as_str()).unwrap();
    assert_eq!((&holder["items"][0]["name"], &holder["items"][0]["left"]), (&"x".into(), &0.into()));
    assert!(fetcher["items"][0]["left"].as_u64().unwrap() > 0, "{fetcher}");
    assert!(peers.iter().all(|peer| peer["lease"] == true && peer["seen_seconds_ago"].as_u64().unwrap() <= 16));
    assert!(lab.run(["peers", "127.0.0.1", &port]).exits(0).text().contains("has x"));
    get.stop().exits(1);
}

#[test]
fn a_peer_shares_every_entry_of_its_folder_and_sees_it_change() {
    let lab = Lab::new();
    let bytes = noise(1, 300_000);
    lab.file("folder/first", &bytes);
    lab.file("folder/season/e1", &bytes);
    lab.file("folder/.hidden", b"mine");
    let peer = Tracker { port: 0, obt: lab.start(["peer", "folder", "--json", "--state", "one"]) };
    let port = u16::try_from(peer.obt.event("listening")["tracker_port"].as_u64().unwrap()).unwrap();
    let peer = Tracker { port, ..peer };
    let mut shared: Vec<String> =
        peer.obt.events("sharing", 2).iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect();
    shared.sort();
    assert_eq!(shared, ["first", "season"]);
    peer.until_held("season", 1);
    lab.get(&peer, "season/e1", "out").ends().exits(0);
    assert_holds(lab.path("out/e1"), &bytes);

    lab.file("folder/later", b"came later");
    peer.until_held("later", 1);
    lab.get(&peer, "later", "out").ends().exits(0);
    assert_holds(lab.path("out/later"), b"came later");

    fs::remove_file(lab.path("folder/first")).unwrap();
    peer.until_held("first", 0);
    lab.get(&peer, "first", "out").ends().fails(1, "nobody has");
    assert!(peer.obt.stop().took > Duration::ZERO);
}
