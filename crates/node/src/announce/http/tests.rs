use std::sync::{Arc, Mutex};

use obt_swarm::AnnounceRequest;
use obt_wire::{InfoHashes, PeerId, Sha1Hash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A tracker on loopback that answers the n-th request with the n-th of `answers`, and the last one from then on.
struct Tracker {
    at: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tracker {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    /// The first lines of the requests so far.
    fn asked(&self) -> Vec<String> {
        self.heads.lock().unwrap().iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
    }
}

async fn tracker(answers: Vec<Vec<u8>>) -> Tracker {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let number = {
                let mut seen = seen.lock().unwrap();
                seen.push(String::from_utf8(head).unwrap());
                seen.len() - 1
            };
            // The client may hang up in the middle, as it should where the answer is too long.
            let _ = stream.write_all(answers.get(number).or(answers.last()).unwrap()).await;
        }
    });
    Tracker { at, heads, task }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", "", body)
}

fn redirect(to: &str) -> Vec<u8> {
    answer("302 Found", &format!("Location: {to}\r\n"), b"")
}

const BODY: &[u8] = b"d8:completei4e10:incompletei5e8:intervali1800e12:min intervali60e5:peers12:\x01\x02\x03\x04\x1a\xe1\x7f\0\0\x01\0\x16e";

fn announce_to(url: String) -> Announce {
    Announce {
        url,
        hashes: InfoHashes { v1: Some(Sha1Hash([0xfe; 20])), v2: None },
        peer_id: PeerId(*b"-OB0100-abcdefghijkl"),
        port: 6881,
        request: AnnounceRequest { event: AnnounceEvent::Started, uploaded: 1, downloaded: 2, left: 3, num_want: 50 },
    }
}

async fn ask(url: String, trust: Trust) -> Result<AnnounceReply, AnnounceError> {
    HttpTrackers::default().announce(&announce_to(url), trust, 0xabc).await
}

#[tokio::test]
async fn an_announce_tells_and_brings_what_it_should() {
    let tracker = tracker(vec![ok(BODY)]).await;
    let reply = ask(tracker.url("/announce"), Trust::Found).await.unwrap();
    assert_eq!(reply.interval, Duration::from_secs(1800));
    assert_eq!(reply.min_interval, Some(Duration::from_secs(60)));
    assert_eq!((reply.seeders, reply.leechers), (Some(4), Some(5)));
    assert_eq!(reply.peers.len(), 2);
    let hash = "%FE".repeat(20);
    let line = format!(
        "GET /announce?info_hash={hash}&peer_id=-OB0100-abcdefghijkl&port=6881&uploaded=1&downloaded=2&left=3&compact=1\
         &event=started&numwant=50&key=00000abc HTTP/1.1"
    );
    assert_eq!(tracker.asked(), [line]);
}

#[tokio::test]
async fn a_compressed_answer_is_read() {
    // One stored block: what gzip makes of bytes that it cannot shrink.
    let length = u16::try_from(BODY.len()).unwrap();
    let mut body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    body.extend(length.to_le_bytes());
    body.extend((!length).to_le_bytes());
    body.extend(BODY);
    body.extend(crc32(BODY).to_le_bytes());
    body.extend(u32::from(length).to_le_bytes());
    let tracker = tracker(vec![answer("200 OK", "Content-Encoding: gzip\r\n", &body)]).await;
    assert_eq!(ask(tracker.url("/announce"), Trust::Found).await.unwrap().peers.len(), 2);
    let head = tracker.heads.lock().unwrap().concat().to_ascii_lowercase();
    assert!(head.contains("accept-encoding: gzip\r\n"), "{head}");
}

#[tokio::test]
async fn r01_a_bomb_goes_off_at_one_mebibyte() {
    for (headers, body) in [
        ("Content-Encoding: gzip\r\n", zeros_in_gzip(10 << 20)),
        ("", vec![b'0'; 2 << 20]),
        ("Content-Length: 99999999999\r\n", vec![b'0'; 2 << 20]),
    ] {
        let tracker = tracker(vec![answer("200 OK", headers, &body)]).await;
        let asked = ask(tracker.url("/announce"), Trust::Found).await;
        assert!(matches!(asked, Err(AnnounceError::Reply(ReplyError::TooLong))), "{headers:?}: {asked:?}");
    }
}

#[tokio::test]
async fn r01_false_lengths_and_compressions_are_errors() {
    for (headers, body) in [
        ("Content-Length: 500\r\n", BODY.to_vec()),
        ("Content-Encoding: gzip\r\n", zeros_in_gzip(100)[..8].to_vec()),
        ("Content-Encoding: br\r\n", vec![1, 2, 3]),
    ] {
        let tracker = tracker(vec![answer("200 OK", headers, &body)]).await;
        assert!(ask(tracker.url("/announce"), Trust::Found).await.is_err(), "{headers:?}");
    }
}

#[tokio::test]
async fn a_status_is_told_where_no_reason_is() {
    for (status, body, told) in [
        ("404 Not Found", "<html>", "the tracker answered with HTTP status 404"),
        ("403 Forbidden", "d14:failure reason6:bannede", "the tracker refused: banned"),
        ("200 OK", "d14:failure reason6:bannede", "the tracker refused: banned"),
        ("500 Oops", "de", "the tracker answered with HTTP status 500"),
    ] {
        let tracker = tracker(vec![answer(status, "", body.as_bytes())]).await;
        assert_eq!(ask(tracker.url("/announce"), Trust::Found).await.unwrap_err().to_string(), told);
    }
}

#[tokio::test]
async fn r05_a_few_redirects_are_followed() {
    let tracker = tracker(vec![redirect("/announce"), redirect("/announce?info_hash=x"), ok(BODY)]).await;
    assert!(ask(tracker.url("/announce"), Trust::Found).await.is_ok());
    let asked = tracker.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked.last().map(String::as_str), Some("GET /announce?info_hash=x HTTP/1.1"));
}

#[tokio::test]
async fn r05_an_endless_redirect_ends() {
    let tracker = tracker(vec![redirect("/announce")]).await;
    let error = ask(tracker.url("/announce"), Trust::Named).await.unwrap_err();
    assert_eq!(error.to_string(), "the tracker redirects too often");
    assert_eq!(tracker.asked().len(), 6);
}

#[tokio::test]
async fn r05_redirects_lead_to_http_alone() {
    for to in ["file:///etc/passwd", "gopher://127.0.0.1/x", "unix:/run/x", "javascript:1"] {
        let tracker = tracker(vec![redirect(to)]).await;
        let asked = ask(tracker.url("/announce"), Trust::Named).await;
        assert!(matches!(asked, Err(AnnounceError::Redirect(_))), "{to}: {asked:?}");
    }
    let tracker = tracker(vec![answer("302 Found", "", b"")]).await;
    assert!(matches!(ask(tracker.url("/announce"), Trust::Named).await, Err(AnnounceError::Redirect("to nowhere"))));
}

#[test]
fn r05_what_left_for_the_internet_does_not_come_back() {
    let mut path = Path { trust: Trust::Named, left_for_internet: false, encrypted: false };
    let step = |path: &mut Path, url: &str| path.step(&Url::parse(url).unwrap());
    assert!(matches!(step(&mut path, "http://127.0.0.1/announce"), Ok(Bounds::Anywhere)));
    path.reached("1.2.3.4:80".parse().unwrap());
    for url in [
        "http://127.0.0.1/announce",
        "http://169.254.169.254/latest",
        "http://[::1]/announce",
        "http://10.0.0.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://127.0.0.1./",
    ] {
        assert!(matches!(step(&mut path, url), Err(AnnounceError::OutOfBounds)), "{url}");
    }
    assert!(matches!(step(&mut path, "http://evil.example/announce"), Ok(Bounds::Global)), "judged when resolved");
}

#[test]
fn r05_tls_is_not_left() {
    let mut path = Path { trust: Trust::Named, left_for_internet: false, encrypted: false };
    assert!(path.step(&Url::parse("https://a.example/announce").unwrap()).is_ok());
    let down = path.step(&Url::parse("http://a.example/announce").unwrap());
    assert!(matches!(down, Err(AnnounceError::Redirect("from https to http"))), "{down:?}");
}

#[tokio::test]
async fn r07_a_torrent_names_no_other_service_around_us() {
    let tracker = tracker(vec![ok(BODY)]).await;
    for path in ["/", "/admin", "/announce?delete=all", "/announce/x", "/Announce"] {
        let asked = ask(tracker.url(path), Trust::Found).await;
        assert!(matches!(asked, Err(AnnounceError::OutOfBounds)), "{path}: {asked:?}");
        let by_name = format!("http://localhost:{}{path}", tracker.at.port());
        let asked = ask(by_name, Trust::Found).await;
        assert!(matches!(asked, Err(AnnounceError::OutOfBounds)), "{path}: {asked:?}");
    }
    assert_eq!(tracker.asked(), [""; 0]);
    assert!(ask(tracker.url("/x/announce?passkey=1"), Trust::Named).await.is_ok(), "the user may");
}

#[tokio::test]
async fn a_passkey_stays_out_of_errors() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/announce?passkey=secret", listener.local_addr().unwrap());
    drop(listener);
    let error = ask(url, Trust::Named).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Unreachable(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[tokio::test]
async fn a_name_that_is_none_is_told_as_such() {
    let error = ask("http://no-such-host.invalid/announce".into(), Trust::Found).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Unresolved(_)), "{error:?}");
}

#[tokio::test]
async fn t01_a_server_without_a_believed_certificate_is_refused() {
    // It does not even speak TLS, and nothing falls back to plain HTTP.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/announce", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&ok(BODY)).await.unwrap();
    });
    let asked = ask(url, Trust::Named).await;
    assert!(matches!(asked, Err(AnnounceError::Unreachable(_))), "{asked:?}");
    server.await.unwrap();
}

/// `count` zeros, as gzip's fixed code has them: a literal, and repeats of 258 at distance 1.
fn zeros_in_gzip(count: usize) -> Vec<u8> {
    let mut bits: Vec<u8> = vec![1, 1, 0];
    bits.extend([0, 0, 1, 1, 0, 0, 0, 0]);
    for _ in 0..count / 258 {
        bits.extend([1, 1, 0, 0, 0, 1, 0, 1]);
        bits.extend([0; 5]);
    }
    bits.extend([0; 7]);
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    out.extend(bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |byte, bit| byte << 1 | bit)));
    out.extend([0; 8]);
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
