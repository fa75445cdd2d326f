//! A tracker of several members, some of which are dead, dumb or busy, as our clients and leases see it.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use obt_node::announce::{Announce, AnnounceError, Announcer};
use obt_node::members::{MemberBook, Members};
use obt_node::names::Name;
use obt_node::signing::Keypair;
use obt_node::tracker_client::{Replace, TrackerAddress, TrackerClient, TrackerError};
use obt_swarm::{AnnounceEvent, AnnounceRequest};
use obt_wire::{InfoHashes, PeerId, Sha1Hash};
use support::Tracker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Less than the time after which a tracker that is alone is given up: who answers within it has moved on.
const MOVED_ON: Duration = Duration::from_secs(12);

fn leased(tracker: &Tracker) -> usize {
    tracker.server.state().leases().iter().map(|lease| lease.items().len()).sum()
}

/// Something that listens until it is dropped.
struct Member {
    address: TrackerAddress,
    _listener: Option<std::net::TcpListener>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn address(at: SocketAddr) -> TrackerAddress {
    at.to_string().parse().unwrap()
}

impl Member {
    /// Nothing listens there.
    fn absent() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self { address: address(listener.local_addr().unwrap()), _listener: None, task: None }
    }

    /// Takes connections and says nothing.
    fn silent() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self { address: address(listener.local_addr().unwrap()), _listener: Some(listener), task: None }
    }

    /// Answers everything in the same way.
    async fn answering(status: StatusCode, body: &'static str) -> Self {
        Self::serving(Router::new().fallback(move || async move { (status, body) })).await
    }

    async fn busy() -> Self {
        Self::answering(StatusCode::SERVICE_UNAVAILABLE, r#"{"error":{"code":"busy","message":"no leader"}}"#).await
    }

    async fn serving(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = address(listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, _listener: None, task: Some(task) }
    }

    /// Reads requests, tells their heads, and hangs up.
    async fn hanging_up(heads: Arc<Mutex<Vec<String>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = address(listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                heads.lock().unwrap().push(String::from_utf8(head).unwrap());
                let _ = stream.shutdown().await;
            }
        });
        Self { address, _listener: None, task: Some(task) }
    }
}

/// A tracker's state in which these are its members.
fn status(members: &[&TrackerAddress]) -> String {
    let member = |(id, at): (usize, &&TrackerAddress)| {
        format!(r#"{{"id":"{id}","address":"{at}","role":"{}"}}"#, if id == 0 { "leader" } else { "voter" })
    };
    let members: Vec<String> = members.iter().enumerate().map(member).collect();
    format!(r#"{{"version":"obt/1","members":[{}]}}"#, members.join(","))
}

/// The tracker that was typed as the first of these, all of which are its members.
fn members(all: &[&TrackerAddress]) -> Members {
    let members = MemberBook::default().of(all[0]);
    members.learn(all[0], status(all).as_bytes());
    members
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(MOVED_ON, future).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_member_cannot_answer_the_next_one_does() {
    let tracker = Tracker::start().await;
    let html = "<html>a printer</html>";
    let firsts = [
        ("absent", Member::absent()),
        ("silent", Member::silent()),
        ("busy", Member::busy().await),
        ("a printer", Member::answering(StatusCode::NOT_FOUND, html).await),
        ("a broken proxy", Member::answering(StatusCode::BAD_GATEWAY, html).await),
        ("hanging up", Member::hanging_up(Arc::default()).await),
    ];
    for (what, first) in firsts {
        let all = members(&[&first.address, &tracker.address()]);
        let client = TrackerClient::of(all.clone());
        assert!(soon(client.peers()).await.is_ok(), "{what}");
        assert_eq!(all.in_order(), [tracker.address(), first.address.clone()], "{what}: the good one is first");
        assert!(soon(client.find("", 10)).await.is_ok(), "{what}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_takes_no_connection_is_not_waited_for() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    // With its queue full, the system drops what else comes.
    let _full: Vec<_> = (0..3).map(|_| tokio::spawn(tokio::net::TcpStream::connect(at))).collect();
    let tracker = Tracker::start().await;
    let client = TrackerClient::of(members(&[&address(at), &tracker.address()]));
    assert!(soon(client.peers()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_member_answers_one_sentence_says_so() {
    let (first, second, third) = (Member::absent(), Member::busy().await, Member::absent());
    let client = TrackerClient::of(members(&[&first.address, &second.address, &third.address]));
    let error = soon(client.peers()).await.unwrap_err();
    let told =
        format!("none of the 3 members of the tracker at {} can answer; the last of them: no leader", first.address);
    assert_eq!(error.to_string(), told);
    let alone = TrackerClient::new(first.address.clone());
    assert!(matches!(soon(alone.peers()).await, Err(TrackerError::Unreachable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_answer() {
    let refusal = r#"{"error":{"code":"conflict","message":"taken"}}"#;
    let first = Member::answering(StatusCode::CONFLICT, refusal).await;
    let heads = Arc::default();
    let second = Member::hanging_up(Arc::clone(&heads)).await;
    let client = TrackerClient::of(members(&[&first.address, &second.address]));
    assert!(matches!(soon(client.peers()).await, Err(TrackerError::Conflict(_))));
    assert_eq!(heads.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_left_or_is_behind_does_not_say_for_the_others_that_there_is_no_such_name() {
    let none = r#"{"error":{"code":"not_found","message":"no such name"}}"#;
    let behind = Member::answering(StatusCode::NOT_FOUND, none).await;
    let tracker = Tracker::start().await;
    let client = TrackerClient::of(members(&[&behind.address, &tracker.address()]));
    assert!(soon(client.peers()).await.is_ok(), "another one has it");
    for other in [Member::absent(), Member::silent(), Member::answering(StatusCode::NOT_FOUND, none).await] {
        let client = TrackerClient::of(members(&[&behind.address, &other.address]));
        assert!(matches!(soon(client.peers()).await, Err(TrackerError::NotFound(_))), "nobody says otherwise");
    }
}

const PUBLISHED: &str = r#"{"name":"a","version":1,"existed":false}"#;

/// Answers publishes with the statuses in turn, then as published; tells the signatures.
async fn publishing(statuses: &[StatusCode], signatures: Arc<Mutex<Vec<String>>>) -> Member {
    let statuses = Arc::new(Mutex::new(statuses.to_vec()));
    let answer = move |headers: HeaderMap| {
        let scripted = statuses.lock().unwrap().pop();
        signatures.lock().unwrap().push(headers["authorization"].to_str().unwrap().to_owned());
        let refusal = r#"{"error":{"code":"busy","message":"no leader"}}"#;
        async move { scripted.map_or((StatusCode::CREATED, PUBLISHED), |status| (status, refusal)) }
    };
    Member::serving(Router::new().fallback(answer)).await
}

async fn publish(client: &TrackerClient) -> Result<(), TrackerError> {
    let key = Keypair::from_seed(&[7; 32]);
    soon(client.publish(&Name::parse("a").unwrap(), &["torrent".into()], Replace::No, &key)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_has_one_signature_at_whichever_members_it_arrives() {
    let heads = Arc::default();
    let first = Member::hanging_up(Arc::clone(&heads)).await;
    let signatures = Arc::default();
    let third = publishing(&[], Arc::clone(&signatures)).await;
    let busy = Arc::default();
    let second = publishing(&[StatusCode::SERVICE_UNAVAILABLE], Arc::clone(&busy)).await;
    let client = TrackerClient::of(members(&[&first.address, &second.address, &third.address]));
    publish(&client).await.unwrap();
    let mut signed: Vec<String> = busy.lock().unwrap().clone();
    signed.extend(signatures.lock().unwrap().clone());
    for head in heads.lock().unwrap().iter() {
        let line = head.lines().find_map(|line| line.strip_prefix("authorization: "));
        signed.push(line.unwrap().to_owned());
    }
    // The second and the third come in any order.
    assert!(signed.len() >= 2);
    assert!(signed.iter().all(|signature| *signature == signed[0]), "{signed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_no_member_can_make_yet_is_asked_for_again() {
    let signatures = Arc::default();
    let first = publishing(&[StatusCode::SERVICE_UNAVAILABLE], Arc::clone(&signatures)).await;
    let second = Member::absent();
    publish(&TrackerClient::of(members(&[&first.address, &second.address]))).await.unwrap();
    let signatures = signatures.lock().unwrap();
    assert_eq!(signatures.len(), 2);
    assert_ne!(signatures[0], signatures[1], "whoever saw the first refuses it as a replay");
}

#[test]
fn who_is_dead_at_start_is_no_obstacle_to_who_asked_it_before() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let state = tempfile::tempdir().unwrap();
    let (alive, mortal) = (runtime(), runtime());
    let tracker = alive.block_on(Tracker::start());
    let told = status(&[&tracker.address()]).leak();
    let typed = mortal.block_on(Member::answering(StatusCode::OK, told));
    mortal.block_on(async {
        let members = MemberBook::in_state(state.path()).of(&typed.address);
        TrackerClient::of(members.clone()).learn_members().await;
        assert_eq!(members.in_order(), [typed.address.clone(), tracker.address()]);
    });
    wait_for_file(state.path());
    drop(mortal);
    let client = TrackerClient::of(MemberBook::in_state(state.path()).of(&typed.address));
    assert!(alive.block_on(soon(client.peers())).is_ok());
    alive.block_on(tracker.server.shutdown());
}

fn wait_for_file(state: &Path) {
    let deadline = std::time::Instant::now() + MOVED_ON;
    let is_there = || {
        std::fs::read_dir(state.join("members")).is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|file| file.path().extension().is_some_and(|end| end == "json")))
        })
    };
    while !is_there() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
}

/// An announce of an item at the tracker that was typed.
async fn announce(
    announcer: &Announcer,
    typed: &TrackerAddress,
    item: u8,
    event: AnnounceEvent,
) -> Result<Vec<SocketAddr>, AnnounceError> {
    let request = AnnounceRequest { event, uploaded: 0, downloaded: 0, left: 5, num_want: 50 };
    let hashes = InfoHashes { v1: Some(Sha1Hash([item; 20])), v2: None };
    let peer_id = PeerId(*b"-OB0100-test-peer-..");
    let announce = Announce { url: format!("obt://{typed}"), hashes, peer_id, port: 1_001, request };
    soon(announcer.announce(announce)).await.map(|reply| reply.peers)
}

/// An announcer that knows that all of these belong to the first.
fn announcer(all: &[&TrackerAddress]) -> (Announcer, Members) {
    let book = MemberBook::default();
    let members = book.of(all[0]);
    members.learn(all[0], status(all).as_bytes());
    (Announcer::new(Vec::new(), book), members)
}

/// A member that takes every lease, and says that `others` are members too.
async fn leasing(others: &[&TrackerAddress]) -> Member {
    let told = status(others);
    Member::serving(
        Router::new()
            .route("/api/v1/status", axum::routing::get(move || async move { told }))
            .route("/api/v1/lease", axum::routing::post(|| async { r#"{"revision":1,"interval":15,"ttl":40}"# })),
    )
    .await
}

#[test]
fn a_lease_moves_with_all_that_is_on_it_when_its_member_dies() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (alive, mortal) = (runtime(), runtime());
    let second = alive.block_on(Tracker::start());
    let first = mortal.block_on(leasing(&[&second.address()]));
    let typed = first.address.clone();
    let (announcer, members) = announcer(&[&typed, &second.address()]);
    alive.block_on(async {
        for item in 1..=3 {
            announce(&announcer, &typed, item, AnnounceEvent::Started).await.unwrap();
        }
        // A client finds the second faster: the lease moves only where it must.
        members.answered(&second.address());
        announce(&announcer, &typed, 3, AnnounceEvent::Completed).await.unwrap();
    });
    assert_eq!(leased(&second), 0, "one lease at one member");
    drop(mortal);
    alive.block_on(announce(&announcer, &typed, 4, AnnounceEvent::Started)).unwrap();
    assert_eq!(leased(&second), 4);
    assert_eq!(members.in_order().first(), Some(&second.address()));
    alive.block_on(announcer.stop());
    assert_eq!(leased(&second), 0);
    alive.block_on(second.server.shutdown());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_waits_for_no_member_that_is_dumb_or_busy() {
    let printer = Member::answering(StatusCode::OK, "<html>a printer</html>").await;
    for first in [Member::silent(), Member::busy().await, Member::absent(), printer] {
        let second = Tracker::start().await;
        let (announcer, _) = announcer(&[&first.address, &second.address()]);
        announce(&announcer, &first.address, 1, AnnounceEvent::Started).await.unwrap();
        assert_eq!(leased(&second), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_member_takes_the_lease_the_announce_fails_and_is_tried_again() {
    let (first, second) = (Member::absent(), Member::busy().await);
    let (announcer, members) = announcer(&[&first.address, &second.address]);
    let error = announce(&announcer, &first.address, 1, AnnounceEvent::Started).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Members { tried: 2, .. }), "{error}");
    // Where the tracker gets a member that lives, the lease finds it by itself.
    let third = Tracker::start().await;
    members.learn(&first.address, status(&[&first.address, &second.address, &third.address()]).as_bytes());
    let told = async {
        while announce(&announcer, &first.address, 1, AnnounceEvent::Regular).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(told).await;
    assert_eq!(leased(&third), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_learns_who_the_members_are_from_whoever_took_it() {
    let tracker = Tracker::start().await;
    let typed = leasing(&[&tracker.address()]).await;
    let book = MemberBook::default();
    let members = book.of(&typed.address);
    let announcer = Announcer::new(Vec::new(), book);
    announce(&announcer, &typed.address, 1, AnnounceEvent::Started).await.unwrap();
    let learnt = async {
        while members.in_order().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon(learnt).await;
    assert_eq!(members.in_order(), [typed.address.clone(), tracker.address()]);
}
