//! What strangers send, and that it costs the others nothing.

use std::time::Instant;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Answer, PATIENCE, Tracker, file};

/// The server answers a stranger's request with one of these, or closes; and then answers us.
async fn refuses(tracker: &Tracker, request: &[u8], statuses: &[u16]) {
    let bytes = tracker.raw(request).await;
    let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
    if !bytes.is_empty() {
        let status = Answer::parse(&bytes).status;
        assert!(statuses.contains(&status), "{status} for {shown:?}");
    }
    assert_eq!(tracker.get("/healthz").await.status, 200, "after {shown:?}");
}

#[tokio::test]
async fn h03_large_heads_are_refused() {
    let tracker = Tracker::start().await;
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(65_536));
    refuses(&tracker, line.as_bytes(), &[414, 431]).await;
    let header = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100 << 10));
    refuses(&tracker, header.as_bytes(), &[431]).await;
    let headers = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(1_000));
    refuses(&tracker, headers.as_bytes(), &[431]).await;
}

#[tokio::test]
async fn h03_a_head_that_never_ends_is_given_up_and_costs_the_others_nothing() {
    let tracker = Tracker::start().await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut stream = tracker.connect().await;
        stream.write_all(b"GET / HT").await.unwrap();
        slow.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(tracker.get("/healthz").await.status, 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    }
    assert!(begun.elapsed().as_secs() < 20);
}

#[tokio::test]
async fn h04_requests_that_two_readers_could_read_differently_are_refused() {
    let tracker = Tracker::start().await;
    let requests = [
        &b"PUT /api/v1/items/a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT /api/v1/items/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"PUT /api/v1/items/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
        b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0",
    ];
    let statuses = [400, 401, 404, 405, 413, 501, 505];
    futures_util::future::join_all(requests.iter().map(|request| refuses(&tracker, request, &statuses))).await;
}

#[tokio::test]
async fn h05_a_connection_answers_a_hundred_requests_that_did_not_wait_and_closes() {
    let tracker = Tracker::start().await;
    for target in ["/healthz", "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa"] {
        let pipelined = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(10_000);
        let answer = tracker.raw(pipelined.as_bytes()).await;
        let answered = String::from_utf8_lossy(&answer).matches("HTTP/1.1 200").count();
        assert!((1..=100).contains(&answered), "{answered} of {target}");
        assert_eq!(tracker.get("/healthz").await.status, 200);
    }
}

#[tokio::test]
async fn h05_a_client_that_waits_for_each_answer_keeps_its_connection_for_a_thousand() {
    let tracker = Tracker::start().await;
    for target in ["/healthz", "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa"] {
        let mut stream = tracker.connect().await;
        for number in 1..=1_000 {
            let closes = exchange(&mut stream, target).await.header("connection") == Some("close");
            assert_eq!(closes, number == 1_000, "{number} of {target}");
        }
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn announces_and_other_requests_share_a_connection() {
    let tracker = Tracker::start().await;
    let mut stream = tracker.connect().await;
    let scrape = "/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa";
    let first = exchange(&mut stream, scrape).await;
    assert!(first.body.starts_with(b"d5:files"));
    assert_eq!(exchange(&mut stream, "/healthz").await.status, 200);
    let last = exchange(&mut stream, scrape).await;
    assert_eq!(last.body, first.body);
    for name in
        ["content-type", "cache-control", "content-security-policy", "x-content-type-options", "referrer-policy"]
    {
        assert!(first.header(name).is_some() && last.header(name) == first.header(name), "{name}");
    }
    let pipelined = format!("GET {scrape} HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n");
    let answers = String::from_utf8(tracker.raw(pipelined.as_bytes()).await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
}

/// Asks on a connection that stays open, and reads the answer.
async fn exchange(stream: &mut TcpStream, target: &str) -> Answer {
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    let mut came = Vec::new();
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut came)).await.unwrap().unwrap();
        assert_ne!(read, 0, "{:?}", String::from_utf8_lossy(&came));
        if came.windows(4).any(|window| window == b"\r\n\r\n") {
            let answer = Answer::parse(&came);
            if answer.header("content-length") == Some(&answer.body.len().to_string()) {
                return answer;
            }
        }
    }
}

#[tokio::test]
async fn a06_h08_paths_that_climb_lead_nowhere() {
    let tracker = Tracker::start().await;
    for path in [
        "/../../etc/passwd",
        "/announce/../../etc/passwd",
        "//announce",
        "/%2e%2e/",
        "/announce%00",
        "/%2e%2e%5c",
        "/page.css/..%2f",
        "/files/../../etc/passwd",
        "/files/%2e%2e/%2e%2e/etc/passwd",
        "/files/a/../../",
        "/items/../../etc/passwd.torrent",
        "/items/a",
        "/api/v1/items/..%2f..%2fetc%2fpasswd",
        "/nothing",
    ] {
        assert_eq!(tracker.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a07_bodies_that_are_too_long_or_are_bombs_are_refused() {
    let tracker = Tracker::start().await;
    let key = tracker.server.publisher();
    let header = super::support::sign("PUT", "/api/v1/items/a", b"", key);
    let long = format!(
        "PUT /api/v1/items/a HTTP/1.1\r\nHost: a\r\nAuthorization: {header}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        (64 << 20) + 1
    );
    assert_eq!(Answer::parse(&tracker.raw(long.as_bytes()).await).error(), (413, "too_large".to_owned()));
    let deep = b"d4:infod4:name".iter().copied().chain(std::iter::repeat_n(b'l', 1 << 20)).collect::<Vec<_>>();
    assert_eq!(tracker.signed("PUT", "/api/v1/items/a", &deep, key).await.error().0, 400);
}

#[tokio::test]
async fn a05_listeners_hear_of_changes_and_are_bounded() {
    let tracker = Tracker::start().await;
    let request = b"GET /api/v1/events HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut listeners = Vec::new();
    for _ in 0..32 {
        let mut stream = tracker.connect().await;
        stream.write_all(request).await.unwrap();
        let mut head = vec![0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head, b"HTTP/1.1 200 OK");
        listeners.push(stream);
    }
    assert_eq!(tracker.get("/api/v1/events").await.error(), (503, "busy".to_owned()));
    tracker.publish("a", &file("a", 5, 1)).await;
    for stream in &mut listeners {
        let mut heard = String::new();
        while !heard.contains("event: published") || !heard.contains(r#""name":"a""#) {
            let mut part = [0; 4_096];
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut part)).await.unwrap().unwrap();
            assert_ne!(read, 0, "{heard}");
            heard.push_str(&String::from_utf8_lossy(&part[..read]));
        }
    }
}

#[tokio::test]
async fn a13_a14_nothing_that_is_served_may_run_but_the_page() {
    let tracker = Tracker::start().await;
    tracker.publish("%3Cscript%3E", &file("a", 5, 1)).await;
    for path in ["/", "/page.js", "/api/v1/items", "/files/%3Cscript%3E", "/nothing"] {
        let answer = tracker.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    assert!(tracker.get("/").await.text().starts_with("<!doctype html>"));
}

#[tokio::test]
async fn a15_errors_tell_nothing_of_the_machine() {
    let tracker = Tracker::start().await;
    let state = tracker.folder.path().to_str().unwrap().to_owned();
    for path in ["/nothing", "/api/v1/items/a", "/api/v1/items?limit=x", "/items/a.torrent", "/files/a"] {
        let answer = tracker.get(path).await;
        let body = answer.json();
        let error = body["error"].as_object().unwrap();
        assert!(error.keys().all(|key| ["code", "message", "hint", "owner"].contains(&key.as_str())), "{body}");
        for leak in [state.as_str(), "src/", ".rs", "sqlite", env!("CARGO_PKG_VERSION")] {
            assert!(!answer.text().to_lowercase().contains(leak), "{leak} in {body}");
        }
    }
}

#[tokio::test]
async fn h09_what_anybody_may_read_is_there_under_any_host_or_none() {
    let tracker = Tracker::start().await;
    tracker.publish("a", &file("a", 5, 1)).await;
    let announce = format!("/announce?info_hash={}&peer_id={}&port=1&left=0", "a".repeat(20), "b".repeat(20));
    for path in [announce.as_str(), "/api/v1/items", "/items/a.torrent", "/"] {
        for host in ["", "Host: evil.example\r\n", "Host: 127.0.0.1.nip.io:1\r\n", "Host: localhost.\r\n"] {
            let request = format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
            let answer = Answer::parse(&tracker.raw(request.as_bytes()).await);
            assert_eq!(answer.status, 200, "{path} {host:?}");
        }
    }
    let twice = "GET /api/v1/items HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n";
    assert_eq!(Answer::parse(&tracker.raw(twice.as_bytes()).await).status, 400);
}

#[tokio::test]
async fn probes_metrics_and_contract_answer() {
    let tracker = Tracker::start().await;
    tracker.publish("a", &file("a", 5, 1)).await;
    assert_eq!(tracker.get("/healthz").await.text(), "ok\n");
    assert_eq!(tracker.get("/readyz").await.status, 200);
    let metrics = tracker.get("/metrics").await;
    for line in ["obt_catalogue_names 1\n", "obt_http_requests_total{status=\"2xx\"} "] {
        assert!(metrics.text().contains(line), "{}", metrics.text());
    }
    let contract: Value = tracker.get("/openapi.json").await.json();
    assert_eq!(contract["openapi"], "3.1.0");
    let status = tracker.get("/api/v1/status").await.json();
    assert_eq!((status["names"].as_u64(), status["publish"].as_str()), (Some(1), Some("keys")));
    assert_eq!(tracker.send("POST", "/api/v1/status", &[], b"").await.error(), (405, "method".to_owned()));
}

#[tokio::test]
async fn listeners_do_not_delay_a_stop() {
    let tracker = Tracker::start().await;
    let mut listener = tracker.connect().await;
    listener.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    listener.read_exact(&mut [0; 15]).await.unwrap();
    let begun = Instant::now();
    tracker.server.shutdown().await;
    assert!(begun.elapsed().as_secs_f64() < 1.5, "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    assert!(tokio::time::timeout(PATIENCE, listener.read_to_end(&mut rest)).await.is_ok());
}
