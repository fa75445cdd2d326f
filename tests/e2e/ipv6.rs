//! IPv6 alone: a tracker, a holder and those who fetch, at `::1` and nowhere else.

use std::net::{Ipv6Addr, SocketAddr};
use std::process::Command;

use crate::harness::{Ended, Lab, Obt, SOON, assert_holds, eventually, noise};
use crate::http;

/// The program where there is no IPv4 for it.
fn command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.command(arguments);
    command.env("OBT_PEER_LISTEN", "[::1]:0").env("OBT_TRACKER_LISTEN", "[::1]:0");
    command
}

fn run(lab: &Lab, arguments: &[&str]) -> Ended {
    Obt::spawn(command(lab, arguments)).ends().exits(0)
}

fn share(lab: &Lab, path: &str) -> (Obt, SocketAddr) {
    let share = Obt::spawn(command(lab, &["share", "--json", "--state", "one", path]));
    let port = share.event("listening")["tracker_port"].as_u64().unwrap();
    share.event("sharing");
    (share, (Ipv6Addr::LOCALHOST, u16::try_from(port).unwrap()).into())
}

#[track_caller]
fn came_by_v6(ended: &Ended, bytes: usize) {
    let from = ended.from();
    assert!(from.iter().all(|(address, _)| address.starts_with("[::1]:")), "{from:?}");
    assert_eq!(from.iter().map(|(_, bytes)| bytes).sum::<u64>(), bytes as u64);
}

#[test]
fn a_file_is_shared_found_and_fetched_by_name() {
    let lab = Lab::new();
    let bytes = noise(6, 500_000);
    lab.file("data/six.bin", &bytes);
    let (share, tracker) = share(&lab, "data/six.bin");
    let port = tracker.port().to_string();
    assert_eq!(share.event("sharing")["get"], format!("obt get ::1 {port} six.bin"));
    for host in ["::1", "[::1]"] {
        assert_eq!(run(&lab, &["find", "--json", host, &port]).last()[0]["holders"], 1);
    }
    let peers = run(&lab, &["peers", "--json", "::1", &port]).last();
    assert!(peers[0]["address"].as_str().unwrap().starts_with("[::1]:"), "{peers}");
    lab.folder("out");
    let got = run(&lab, &["get", "--json", "::1", &port, "six.bin", "-o", "out"]);
    came_by_v6(&got, bytes.len());
    assert_holds(lab.path("out/six.bin"), &bytes);
}

#[test]
fn a_plain_torrent_is_fetched_through_http_and_udp_trackers() {
    let lab = Lab::new();
    let bytes = noise(6, 500_000);
    lab.file("data/six.bin", &bytes);
    let (_share, tracker) = share(&lab, "data/six.bin");
    for (folder, url) in [("http", format!("http://{tracker}/announce")), ("udp", format!("udp://{tracker}"))] {
        let torrent = format!("{folder}.torrent");
        run(&lab, &["create", "--json", "data/six.bin", "--announce", &url, "-o", &torrent]);
        lab.folder(folder);
        let got = run(&lab, &["download", "--json", &torrent, "-o", folder]);
        came_by_v6(&got, bytes.len());
        assert_holds(lab.path(folder).join("six.bin"), &bytes);
    }
}

#[test]
fn the_torrent_that_a_tracker_hands_out_leads_back_to_it() {
    let lab = Lab::new();
    let bytes = noise(6, 100_000);
    lab.file("data/six.bin", &bytes);
    let (_share, tracker) = share(&lab, "data/six.bin");
    lab.folder("out");
    let url = format!("http://{tracker}/items/six.bin.torrent");
    came_by_v6(&run(&lab, &["download", "--json", &url, "-o", "out"]), bytes.len());
    assert_holds(lab.path("out/six.bin"), &bytes);
    assert!(http::get(tracker, "/files/six.bin").body == bytes);
    // The getters are gone at once, and the holder is one, whatever it was asked by.
    let item = eventually("one holder alone", SOON, || {
        let item = http::get(tracker, "/api/v1/items/six.bin").json();
        (item["downloaders"] == 0).then_some(item)
    });
    assert_eq!(item["holders"], 1);
}
