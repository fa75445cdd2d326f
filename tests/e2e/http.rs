//! What the tracker serves over HTTP, asked by a client that knows nothing of us.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::harness::{Lab, SOON, Tracker, noise};

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// A header's value; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn get(server: SocketAddr, path: &str) -> Response {
    request("GET", server, path, &[])
}

/// One request on a connection of its own.
pub(crate) fn request(method: &str, server: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut stream = TcpStream::connect_timeout(&server, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an end of the headers") + 4;
    let body = answer.split_off(end);
    let head = String::from_utf8(answer).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let response = Response { status, head, body };
    assert!(response.header("transfer-encoding").is_empty(), "{path}: sent in chunks, of unknown length");
    response
}

/// A name in the path of a URL.
pub(crate) fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").unwrap();
        }
    }
    escaped
}

/// A folder item with a file of 3,000,000 bytes in a subfolder, a small one and an empty one.
fn season(lab: &Lab) -> Vec<u8> {
    let bytes = noise(1, 3_000_000);
    lab.file("data/season/extras/making of.bin", &bytes);
    lab.file("data/season/readme.txt", b"hello\n");
    lab.file("data/season/empty", b"");
    bytes
}

fn serves_files(tracker: &Tracker, bytes: &[u8]) {
    let server = tracker.socket();
    let path = "/files/season/extras/making%20of.bin";
    let whole = get(server, path);
    assert_eq!((whole.status, whole.header("content-length")), (200, "3000000"));
    assert!(whole.body == bytes, "the bytes differ");

    let size = bytes.len();
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=1000000-1999999", 1_000_000..2_000_000),
        ("bytes=2999990-", 2_999_990..size),
        ("bytes=-5", size - 5..size),
        ("bytes=2999999-99999999", size - 1..size),
    ] {
        let part = request("GET", server, path, &[("Range", range)]);
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(
            part.header("content-range"),
            format!("bytes {}-{}/{size}", expected.start, expected.end - 1),
            "{range}"
        );
        assert!(part.body == bytes[expected], "{range}");
    }
    let outside = request("GET", server, path, &[("Range", "bytes=3000000-")]);
    assert_eq!((outside.status, outside.header("content-range")), (416, "bytes */3000000"));

    let head = request("HEAD", server, path, &[]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "3000000", 0));
    assert_eq!(head.header("accept-ranges"), "bytes");

    assert_eq!(get(server, "/files/season/readme.txt").body, b"hello\n");
    let empty = get(server, "/files/season/empty");
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(get(server, "/files/season/nothing").status, 404);
    assert_eq!(get(server, "/files/nothing").status, 404);
    assert!(get(server, "/files/season/").text().contains("readme.txt"));
}

#[test]
fn files_come_over_http_from_a_tracker_that_lives_in_a_share() {
    let lab = Lab::new();
    let bytes = season(&lab);
    let share = lab.share("one", ["data/season"]);
    share.obt.event("sharing");
    serves_files(&share, &bytes);
}

#[test]
fn files_come_over_http_from_a_tracker_that_has_none_of_them() {
    let lab = Lab::new();
    let bytes = season(&lab);
    let tracker = lab.tracker();
    let _one = lab.publish(&tracker, "one", ["data/season"]);
    tracker.until_held("season", 1);
    serves_files(&tracker, &bytes);
}

#[test]
fn a_file_that_nobody_has_is_unavailable_over_http_at_once() {
    let lab = Lab::new();
    lab.file("data/gone.bin", &noise(1, 100_000));
    let tracker = lab.tracker();
    lab.publish(&tracker, "one", ["data/gone.bin"]).stop().exits(0);
    let answer = get(tracker.socket(), "/files/gone.bin");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.json()["error"]["message"].is_string());
}

#[test]
fn any_client_gets_a_torrent_and_a_magnet_link() {
    let lab = Lab::new();
    lab.file("data/a b.bin", &noise(1, 100_000));
    let share = lab.share("one", ["data/a b.bin"]);
    let item = share.obt.event("sharing");

    let torrent = get(share.socket(), "/items/a%20b.bin.torrent");
    assert_eq!((torrent.status, torrent.header("content-type")), (200, "application/x-bittorrent"));
    lab.file("fetched.torrent", &torrent.body);
    let shown = lab.run(["inspect", "--json", "fetched.torrent"]).exits(0).last();
    assert_eq!((&shown["info_hash_v1"], &shown["info_hash_v2"]), (&item["info_hash_v1"], &item["info_hash_v2"]));
    let trackers = shown["trackers"].to_string();
    for url in [format!("http://{}/announce", share.address()), format!("udp://{}/announce", share.address())] {
        assert!(trackers.contains(&url), "{trackers}");
    }

    let magnet = get(share.socket(), "/items/a%20b.bin.magnet");
    assert_eq!(magnet.status, 200);
    let shown = lab.run(["inspect", "--json", magnet.text().trim()]).exits(0).last();
    assert_eq!((&shown["info_hash_v1"], &shown["info_hash_v2"]), (&item["info_hash_v1"], &item["info_hash_v2"]));
    assert_eq!(shown["name"], "a b.bin");
    assert_eq!(get(share.socket(), "/items/nothing.torrent").status, 404);
}

#[test]
fn the_page_the_probes_and_the_metrics_answer() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(tracker.socket(), path).status, 200, "{path}");
    }
    let page = get(tracker.socket(), "/");
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    let metrics = get(tracker.socket(), "/metrics").text();
    assert!(metrics.contains("\nobt_catalogue_names 0\n"), "{metrics}");
    let missing = get(tracker.socket(), "/nothing/here");
    assert_eq!(missing.status, 404);
    assert!(missing.json()["error"]["code"].is_string());
}
