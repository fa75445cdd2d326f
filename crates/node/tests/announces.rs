//! The tracker's announces over real sockets: stock clients and peers of ours, by TCP and UDP, in one swarm.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use obt_node::server::{TrackerConfig, TrackerListen, TrackerPort, TrackerServer};
use obt_node::state::StateFolder;
use obt_wire::tracker_http::{Announced, ReplyError, read_scrape};
use obt_wire::tracker_udp::{AnnounceRequest, Family, Reply, TransactionId, connect_request};
use obt_wire::{InfoHash, PeerId};

const PATIENCE: Duration = Duration::from_secs(10);
const T: TransactionId = TransactionId(1);
const QUERY: &str = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-OB0100-abcdefghijkl";
const HASH: &str = "6161616161616161616161616161616161616161";

struct Tracker {
    server: TrackerServer,
    _folder: tempfile::TempDir,
}

impl Tracker {
    async fn start() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = TrackerConfig::new(StateFolder::open(&folder.path().join("state")).unwrap());
        config.listen = TrackerListen { addr: Some(Ipv4Addr::LOCALHOST.into()), port: TrackerPort::Exactly(0) };
        Arc::new(Self { server: TrackerServer::start(config).await.unwrap(), _folder: folder })
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.server.port()).into()
    }

    /// Head and body of the answer to a request, in full.
    async fn ask(self: &Arc<Self>, request: Vec<u8>) -> (String, Vec<u8>) {
        let address = self.address();
        tokio::task::spawn_blocking(move || exchange(address, &request)).await.unwrap()
    }

    async fn get(self: &Arc<Self>, path: &str) -> Vec<u8> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: anything.example\r\nConnection: close\r\n\r\n");
        let (head, body) = self.ask(request.into_bytes()).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        body
    }

    async fn announce(self: &Arc<Self>, rest: &str) -> Announced {
        Announced::decode(&self.get(&format!("/announce?{QUERY}&{rest}")).await).unwrap()
    }

    async fn lease(self: &Arc<Self>, peer: u8, port: u16, rest: &str) -> serde_json::Value {
        let (id, secret) = (format!("{peer:02x}").repeat(20), format!("{peer:02x}").repeat(16));
        let body = format!(r#"{{"peer_id":"{id}","secret":"{secret}","port":{port},"revision":1{rest}}}"#);
        let length = body.len();
        let head = format!("POST /api/v1/lease HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}");
        let (_, body) = self.ask(format!("{head}\r\n\r\n{body}").into_bytes()).await;
        serde_json::from_slice(&body).unwrap()
    }

    async fn udp_announce(self: &Arc<Self>, port: u16, left: u64) -> Vec<SocketAddr> {
        let address = self.address();
        tokio::task::spawn_blocking(move || udp_announce(address, port, left)).await.unwrap()
    }
}

fn exchange(address: SocketAddr, request: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

fn udp_announce(server: SocketAddr, port: u16, left: u64) -> Vec<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    let mut buffer = [0; 2_048];
    socket.send(&connect_request(T)).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    let Some((T, Reply::Connect(connection))) = Reply::decode(&buffer[..length], Family::V4) else {
        panic!("not connected");
    };
    let announce = AnnounceRequest {
        transaction: T,
        ..AnnounceRequest::started(connection, InfoHash([b'a'; 20]), PeerId([2; 20]), port, left)
    };
    let mut request = Vec::new();
    announce.encode("", &mut request);
    socket.send(&request).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    match Reply::decode(&buffer[..length], Family::V4) {
        Some((T, Reply::Announce { peers, .. })) => obt_wire::compact::v4_peers(peers).collect(),
        other => panic!("{other:?}"),
    }
}

fn ports(mut peers: Vec<SocketAddr>) -> Vec<u16> {
    peers.retain(SocketAddr::is_ipv4);
    assert!(peers.iter().all(|peer| peer.ip() == IpAddr::from(Ipv4Addr::LOCALHOST)), "loopback for loopback");
    let mut ports: Vec<u16> = peers.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_kind_meet_in_one_swarm() {
    let tracker = Tracker::start().await;
    assert_eq!(ports(tracker.announce("port=1001&left=0").await.peers), [] as [u16; 0]);
    assert_eq!(ports(tracker.udp_announce(1_002, 0).await), [] as [u16; 0], "a seed is not told of seeds");
    let holds = format!(r#","full":true,"set":[{{"hash":"{HASH}","left":0}}]"#);
    assert_eq!(tracker.lease(1, 1_003, &holds).await["resync"], false);

    assert_eq!(ports(tracker.announce("port=2001&left=9").await.peers), [1_001, 1_002, 1_003]);
    assert_eq!(ports(tracker.udp_announce(2_002, 9).await), [1_001, 1_002, 1_003, 2_001]);
    let wants = format!(r#","full":true,"set":[{{"hash":"{HASH}","left":9}}],"want":["{HASH}"]"#);
    let reply = tracker.lease(2, 2_003, &wants).await;
    let told = reply["peers"][HASH].as_array().unwrap().iter().map(|peer| peer.as_str().unwrap().parse().unwrap());
    assert_eq!(ports(told.filter(SocketAddr::is_ipv4).collect()), [1_001, 1_002, 1_003, 2_001, 2_002]);

    let counts = read_scrape(&tracker.get("/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa").await).unwrap();
    assert_eq!((counts[0].1.seeders, counts[0].1.leechers), (3, 3));
    assert_eq!(tracker.lease(1, 1_003, r#","stopped":true"#).await["failure"], serde_json::Value::Null);
    let announced = tracker.announce("port=1001&left=0&event=stopped").await;
    assert_eq!((announced.seeders, announced.leechers, announced.peers), (Some(1), Some(3), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn h01_h06_refusals_are_answers_with_a_reason() {
    let tracker = Tracker::start().await;
    for path in ["/announce", "/announce?info_hash=%zz", &format!("/announce?{QUERY}&left=0&port=0")] {
        let body = tracker.get(path).await;
        assert!(body.starts_with(b"d14:failure reason") && body.len() <= 256, "{path}");
        assert!(matches!(Announced::decode(&body), Err(ReplyError::Refused { .. })));
    }
    assert!(read_scrape(&tracker.get("/scrape").await).unwrap_err().to_string().contains("full scrape is disabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn h02_claimed_addresses_do_not_count() {
    let tracker = Tracker::start().await;
    let request = format!(
        "GET /announce?{QUERY}&port=1001&left=0&ip=8.8.8.8&ipv6=2001:db8::1 HTTP/1.1\r\nHost: x\r\n\
         X-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n"
    );
    tracker.ask(request.into_bytes()).await;
    let announced = tracker.announce("port=1002&left=9").await;
    assert_eq!(announced.peers, [(Ipv4Addr::LOCALHOST, 1_001).into()] as [SocketAddr; 1]);
    assert_eq!(announced.external_ip, Some(Ipv4Addr::LOCALHOST.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_long_for_a_lease_is_refused_before_it_is_taken() {
    let tracker = Tracker::start().await;
    let head = "POST /api/v1/lease HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n";
    let (head, _) = tracker.ask(head.as_bytes().to_vec()).await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    let (head, body) = tracker.ask(b"POST /api/v1/lease HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}".to_vec()).await;
    assert!(head.contains(" 400 ") && String::from_utf8(body).unwrap().contains("failure"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_tracker_leaves_its_ports_within_seconds() {
    let tracker = Tracker::start().await;
    let address = tracker.address();
    let Some(tracker) = Arc::into_inner(tracker) else {
        panic!("somebody else has the tracker");
    };
    tokio::time::timeout(Duration::from_secs(5), tracker.server.shutdown()).await.unwrap();
    assert!(UdpSocket::bind(address).is_ok());
    assert!(std::net::TcpListener::bind(address).is_ok());
}
