//! A tracker on loopback, and requests as bytes, so that malformed ones can be sent too.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use obt_catalogue::signing::{Call, Keypair, body_digest};
use obt_node::server::{FileSource, Timing, TrackerConfig, TrackerListen, TrackerPort, TrackerServer};
use obt_node::state::StateFolder;
use obt_wire::metainfo::{Draft, Metainfo, Version};
use obt_wire::{Sha1Hash, Sha256Hash};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing on loopback takes longer, but for a test that waits for a bound of the server.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Tracker {
    pub(crate) server: TrackerServer,
    pub(crate) folder: Arc<TempDir>,
}

impl Tracker {
    pub(crate) async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), None).await
    }

    pub(crate) async fn start_with(files: Arc<dyn FileSource>) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), Some(files)).await
    }

    pub(crate) async fn start_in(folder: Arc<TempDir>, files: Option<Arc<dyn FileSource>>) -> Self {
        let mut config = TrackerConfig::new(StateFolder::open(&folder.path().join("state")).unwrap());
        config.listen = TrackerListen { addr: Some([127, 0, 0, 1].into()), port: TrackerPort::Exactly(0) };
        config.files = files;
        Self { server: TrackerServer::start(config).await.unwrap(), folder }
    }

    /// A member of a cluster; with a line, of that one.
    pub(crate) async fn member(folder: Arc<TempDir>, join: Option<String>) -> Self {
        let mut config = TrackerConfig::new(StateFolder::open(&folder.path().join("state")).unwrap());
        config.listen = TrackerListen { addr: Some([127, 0, 0, 1].into()), port: TrackerPort::Exactly(0) };
        config.cluster.timing = Timing { membership: Duration::from_millis(50), ..Timing::default() };
        config.cluster.join = join;
        Self { server: TrackerServer::start(config).await.unwrap(), folder }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.server.port())).await.unwrap()
    }

    /// Sends these bytes on a connection of their own and reads until the server closes it.
    pub(crate) async fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        answer
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: tracker.test:{}\r\n", self.server.port());
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !body.is_empty() {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        head.push_str("Connection: close\r\n\r\n");
        Answer::parse(&self.raw(&[head.as_bytes(), body].concat()).await)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub(crate) async fn signed(&self, method: &str, path: &str, body: &[u8], key: &Keypair) -> Answer {
        let header = sign(method, path, body, key);
        self.send(method, path, &[("Authorization", &header)], body).await
    }

    pub(crate) async fn publish(&self, name: &str, torrent: &Metainfo) -> Answer {
        self.signed("PUT", &format!("/api/v1/items/{name}"), &torrent.to_bytes(), self.server.publisher()).await
    }
}

/// The header of a signed request.
pub(crate) fn sign(method: &str, path: &str, body: &[u8], key: &Keypair) -> String {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let call = Call { method, path_and_query: path, body_sha256: body_digest(body) };
    key.authorize(&call, nonce, u64::try_from(now.as_millis()).unwrap()).to_string()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Self { status, head, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding").is_some() {
            answer.body = unchunked(&answer.body);
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(':'))
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// Status and code of an error, which must have a message too.
    pub(crate) fn error(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        (self.status, body["error"]["code"].as_str().unwrap().to_owned())
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        let Some(chunk) = body.get(end + 2..end + 2 + length) else {
            whole.extend_from_slice(&body[end + 2..]);
            return whole;
        };
        whole.extend_from_slice(chunk);
        body = &body[end + 4 + length..];
    }
    whole
}

/// A torrent of one file of v1 pieces; `seed` makes it another one.
pub(crate) fn file(name: &str, size: u64, seed: u8) -> Metainfo {
    let draft = Draft::file(name, size, 16_384, Version::V1).unwrap();
    let pieces = vec![Sha1Hash([seed; 20]); usize::try_from(size.div_ceil(16_384)).unwrap()];
    draft.finish(&pieces, Vec::new()).unwrap()
}

/// A hybrid of one file of less than a piece.
pub(crate) fn hybrid(name: &str, seed: u8) -> Metainfo {
    let draft = Draft::file(name, 5, 16_384, Version::Hybrid).unwrap();
    draft.finish(&[Sha1Hash([seed; 20])], vec![vec![Sha256Hash([seed; 32])]]).unwrap()
}

/// A torrent of a folder.
pub(crate) fn folder(name: &str, files: &[(&str, u64)]) -> Metainfo {
    let size: u64 = files.iter().map(|(_, size)| size).sum();
    let files = files.iter().map(|(path, size)| (path.split('/').map(str::to_owned).collect::<Vec<_>>(), *size));
    let draft = Draft::folder(name, files.collect::<Vec<_>>(), 16_384, Version::V1).unwrap();
    draft.finish(&vec![Sha1Hash([1; 20]); usize::try_from(size.div_ceil(16_384)).unwrap()], Vec::new()).unwrap()
}
