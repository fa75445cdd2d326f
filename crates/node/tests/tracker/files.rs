//! Bytes over HTTP, from a source that the test controls.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use obt_node::server::{FileRequest, FileSource, FileStream, FileUnavailable, Opening};
use obt_wire::metainfo::{Draft, FileKind, Metainfo, Version};
use obt_wire::{Sha1Hash, Sha256Hash};

use super::support::{Tracker, file, folder, hybrid};

/// Files whose bytes count up; notes what was opened.
#[derive(Default)]
struct Counting {
    opened: Mutex<Vec<(usize, Range<u64>)>>,
}

fn byte(at: u64) -> u8 {
    u8::try_from(at % 251).unwrap()
}

fn bytes(range: Range<u64>) -> Vec<u8> {
    range.map(byte).collect()
}

impl FileSource for Counting {
    fn open(&self, request: FileRequest) -> Opening<'_> {
        self.opened.lock().unwrap().push((request.file, request.range.clone()));
        let parts = futures_util::stream::iter(request.range.clone().step_by(1_000)).map(move |at| {
            let end = (at + 1_000).min(request.range.end);
            Ok(Bytes::from(bytes(at..end)))
        });
        Box::pin(async move { Ok(Box::pin(parts) as FileStream) })
    }
}

struct Nobody;

impl FileSource for Nobody {
    fn open(&self, _: FileRequest) -> Opening<'_> {
        Box::pin(async { Err(FileUnavailable::NobodyHasIt) })
    }
}

async fn serving(name: &str, torrent: &Metainfo) -> (Tracker, Arc<Counting>) {
    let source = Arc::new(Counting::default());
    let tracker = Tracker::start_with(Arc::clone(&source) as Arc<dyn FileSource>).await;
    assert_eq!(tracker.publish(name, torrent).await.status, 201);
    (tracker, source)
}

#[tokio::test]
async fn a_file_comes_whole_or_in_ranges() {
    let (tracker, source) = serving("movie.mkv", &file("movie.mkv", 5_000, 1)).await;
    let whole = tracker.get("/files/movie.mkv").await;
    assert_eq!((whole.status, whole.body.as_slice()), (200, bytes(0..5_000).as_slice()));
    assert_eq!(whole.header("content-type"), Some("video/x-matroska"));
    assert_eq!(whole.header("content-length"), Some("5000"));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let tag = whole.header("etag").unwrap().to_owned();

    let part = tracker.send("GET", "/files/movie.mkv", &[("Range", "bytes=1500-2600")], b"").await;
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1500-2600/5000")));
    assert_eq!(part.body, bytes(1_500..2_601));
    assert_eq!(source.opened.lock().unwrap().last(), Some(&(0, 1_500..2_601)));
    let part = tracker.send("GET", "/files/movie.mkv", &[("Range", "bytes=-1"), ("If-Range", &tag)], b"").await;
    assert_eq!((part.status, part.body), (206, bytes(4_999..5_000)));
    let changed = tracker.send("GET", "/files/movie.mkv", &[("Range", "bytes=-1"), ("If-Range", "\"old\"")], b"").await;
    assert_eq!((changed.status, changed.body.len()), (200, 5_000));
    let known = tracker.send("GET", "/files/movie.mkv", &[("If-None-Match", &tag)], b"").await;
    assert_eq!((known.status, known.body.len()), (304, 0));
}

#[tokio::test]
async fn a_head_says_all_and_opens_nothing() {
    let (tracker, source) = serving("movie.mkv", &file("movie.mkv", 5_000, 1)).await;
    let head = tracker.send("HEAD", "/files/movie.mkv", &[("Range", "bytes=0-99")], b"").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (206, Some("100"), 0));
    assert!(source.opened.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a16_ranges_that_cannot_be_are_416() {
    let (tracker, source) = serving("a", &file("a", 5_000, 1)).await;
    let many = format!("bytes={}1-1", "0-0,".repeat(2_000));
    for range in ["bytes=-0", "bytes=5000-", "bytes=18446744073709551615-", "bytes=0-0,1-1", &many] {
        let refused = tracker.send("GET", "/files/a", &[("Range", range)], b"").await;
        assert_eq!((refused.status, refused.header("content-range")), (416, Some("bytes */5000")), "{range}");
    }
    assert!(source.opened.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_empty_file_is_served_without_a_source() {
    let tracker = Tracker::start().await;
    tracker.publish("d", &folder("d", &[("empty", 0), ("full", 5)])).await;
    let empty = tracker.get("/files/d/empty").await;
    assert_eq!((empty.status, empty.header("content-length")), (200, Some("0")));
    assert_eq!(tracker.get("/files/d/full").await.error(), (501, "no_files".to_owned()));
}

#[tokio::test]
async fn files_of_a_folder_have_their_path_and_folders_a_list() {
    let torrent = folder("d", &[("a b/one", 10), ("a b/two", 20), ("<three>", 30), ("d/four", 40)]);
    let (tracker, _) = serving("x/d", &torrent).await;
    assert_eq!(tracker.get("/files/x/d/a%20b/two").await.body, bytes(0..20));
    assert_eq!(tracker.get("/files/x/d/%3Cthree%3E").await.body, bytes(0..30));
    assert_eq!(tracker.get("/files/x/d/none").await.error(), (404, "not_found".to_owned()));
    assert_eq!(tracker.get("/files/x/d/a%20b/one/more").await.error().0, 404);

    let moved = tracker.get("/files/x/d").await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("/files/x/d/")));
    let list = tracker.get("/files/x/d/").await;
    assert_eq!(list.header("content-type"), Some("text/html; charset=utf-8"));
    for text in ["href=\"./a%20b/\"", "&lt;three&gt;", "href=\"./d/\""] {
        assert!(list.text().contains(text), "{text} in {}", list.text());
    }
    assert!(!list.text().contains("<three>"));
    assert!(tracker.get("/files/x/d/a%20b/").await.text().contains("two"));
}

#[tokio::test]
async fn a_web_seed_is_pinned_by_hash_and_has_the_torrents_name_in_its_path() {
    let torrent = folder("d", &[("a b/one", 10), ("d/one", 40)]);
    let (tracker, _) = serving("x/d", &torrent).await;
    let exported = Metainfo::parse(&tracker.get("/items/x/d.torrent").await.body).unwrap();
    let url = &exported.web_seeds[0];
    assert!(url.ends_with('/'), "{url}");
    let path = &url[url.find("/files/").unwrap()..];
    let replaced = tracker.publish("x/d?replace=true", &folder("d", &[("other", 99)])).await;
    assert_eq!(replaced.status, 201);
    for (inner, size) in [("d/a%20b/one", 10), ("d/d/one", 40), ("a%20b/one", 10)] {
        let part = tracker.get(&format!("{path}{inner}")).await;
        assert_eq!((part.status, part.body.len()), (200, size), "{inner}");
        assert!(part.header("cache-control").unwrap().contains("immutable"));
    }
    assert_eq!(tracker.get("/files/x/d/other").await.body.len(), 99);
    assert_eq!(tracker.get("/files/x/d@1/a%20b/one").await.error().0, 404, "a version ends the name");
    assert_eq!(tracker.get("/files/x/d/a%20b/one@1").await.body.len(), 10);

    let (tracker, _) = serving("single", &hybrid("single", 1)).await;
    let exported = Metainfo::parse(&tracker.get("/items/single.torrent").await.body).unwrap();
    let url = &exported.web_seeds[0];
    let path = &url[url.find("/files/").unwrap()..];
    assert_eq!(tracker.get(path).await.body, bytes(0..5));
    assert_eq!(tracker.get(&format!("{path}/single")).await.body, bytes(0..5), "as libtorrent asks, for v2 alone");
    assert_eq!(tracker.get(&format!("{path}/other")).await.error().0, 404);
}

#[tokio::test]
async fn what_nobody_has_is_said_before_the_answer_begins() {
    let tracker = Tracker::start_with(Arc::new(Nobody)).await;
    tracker.publish("a", &file("a", 5_000, 1)).await;
    let refused = tracker.get("/files/a").await;
    assert_eq!(refused.error(), (503, "unavailable".to_owned()));
    assert!(refused.text().contains("nobody has it"));
}

#[tokio::test]
async fn a_web_seed_serves_the_pads_of_a_hybrid_to_clients_that_ask_for_them() {
    let files = vec![(vec!["a".to_owned()], 5), (vec!["b".to_owned()], 5)];
    let draft = Draft::folder("d", files, 65_536, Version::Hybrid).unwrap();
    let pieces = vec![Sha1Hash([1; 20]); usize::try_from(draft.geometry().pieces()).unwrap()];
    let torrent = draft.finish(&pieces, vec![vec![Sha256Hash([1; 32])], vec![Sha256Hash([2; 32])]]).unwrap();
    let pads: Vec<u64> =
        torrent.info.files.iter().filter(|file| file.kind == FileKind::Pad).map(|file| file.size).collect();
    assert_eq!(pads, [65_531, 65_531]);
    let (tracker, source) = serving("d", &torrent).await;
    let path = format!("/files/d@{}/d/.pad/65531", torrent.info.hashes.v2.unwrap());
    let whole = tracker.get(&path).await;
    assert_eq!((whole.status, whole.body.len()), (200, 65_531));
    assert!(whole.body.iter().all(|byte| *byte == 0));
    let part = tracker.send("GET", &path, &[("Range", "bytes=65530-")], b"").await;
    assert_eq!((part.status, part.body), (206, vec![0]));
    assert!(source.opened.lock().unwrap().is_empty());
    assert_eq!(tracker.get("/files/d/.pad/65531").await.status, 404, "people see no pads");
    assert_eq!(tracker.get(&path.replace("65531", "65530")).await.status, 404);
}

/// Hands out parts for as long as somebody takes them.
struct Endless {
    taken: Arc<Mutex<u64>>,
}

impl FileSource for Endless {
    fn open(&self, _: FileRequest) -> Opening<'_> {
        let taken = Arc::clone(&self.taken);
        let parts = futures_util::stream::repeat_with(move || {
            *taken.lock().unwrap() += 65_536;
            Ok(Bytes::from(vec![0; 65_536]))
        });
        Box::pin(async move { Ok(Box::pin(parts) as FileStream) })
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_source() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let taken = Arc::new(Mutex::new(0));
    let tracker = Tracker::start_with(Arc::new(Endless { taken: Arc::clone(&taken) })).await;
    let size = 16_384 * 100_000;
    tracker.publish("a", &file("a", size, 1)).await;
    let mut stream = tracker.connect().await;
    stream.write_all(b"GET /files/a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut some = [0; 1_000];
    stream.read_exact(&mut some).await.unwrap();
    // The socket's buffers fill, and then nothing more is taken, however long that lasts.
    let mut before = u64::MAX;
    loop {
        let now = *taken.lock().unwrap();
        if now == before {
            break;
        }
        before = now;
        // Another request and its answer: time for the stream to go on, if it does.
        for _ in 0..20 {
            tracker.get("/healthz").await;
        }
    }
    assert!(before < size / 4, "{before}");
}

struct Silent;

impl FileSource for Silent {
    fn open(&self, _: FileRequest) -> Opening<'_> {
        Box::pin(async { Ok(Box::pin(futures_util::stream::pending()) as FileStream) })
    }
}

#[tokio::test]
async fn what_nobody_is_known_to_have_is_given_up_within_seconds() {
    let tracker = Tracker::start_with(Arc::new(Silent)).await;
    tracker.publish("a", &file("a", 5_000, 1)).await;
    let begun = std::time::Instant::now();
    assert_eq!(tracker.get("/files/a").await.error(), (503, "unavailable".to_owned()));
    assert!(begun.elapsed().as_secs() < 5);
}
