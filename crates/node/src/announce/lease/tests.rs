use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use obt_swarm::AnnounceRequest;
use obt_wire::{InfoHashes, Sha1Hash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::api_types::{LeaseReply, LeaseRequest};

/// Nothing on loopback takes longer.
const LONG: Duration = Duration::from_secs(20);

/// A tracker on loopback: what it hears goes to `heard`, what it answers comes from a script.
struct Tracker {
    address: TrackerAddress,
    heard: mpsc::UnboundedReceiver<LeaseRequest>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Script {
    replies: Arc<Mutex<VecDeque<LeaseReply>>>,
    heard: mpsc::UnboundedSender<LeaseRequest>,
}

async fn answer(State(script): State<Script>, Json(request): Json<LeaseRequest>) -> Json<LeaseReply> {
    let scripted = script.replies.lock().unwrap().pop_front();
    let plain = LeaseReply { revision: request.revision, interval: 15, ttl: 40, ..LeaseReply::default() };
    script.heard.send(request).unwrap();
    Json(scripted.unwrap_or(plain))
}

impl Tracker {
    async fn start(replies: Vec<LeaseReply>) -> Self {
        let (sender, heard) = mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let script = Script { replies: Arc::new(Mutex::new(replies.into())), heard: sender };
        let router = Router::new().route("/api/v1/lease", post(answer)).with_state(script);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, heard, task }
    }

    async fn next(&mut self) -> LeaseRequest {
        tokio::time::timeout(LONG, self.heard.recv()).await.unwrap().unwrap()
    }
}

fn announce(number: u8, event: AnnounceEvent, left: u64, num_want: u32) -> Announce {
    Announce {
        url: String::new(),
        hashes: InfoHashes { v1: Some(Sha1Hash([number; 20])), v2: None },
        peer_id: PeerId([9; 20]),
        port: 6881,
        request: AnnounceRequest { event, uploaded: 0, downloaded: 0, left, num_want },
    }
}

fn hex(number: u8) -> String {
    format!("{number:02x}").repeat(20)
}

fn quick() -> LeaseTrackers {
    let millis = Duration::from_millis;
    let tempo = Tempo { pause: millis(5), retry: millis(20), interval: 30..=50 };
    LeaseTrackers::at_tempo(vec![], MemberBook::default(), tempo)
}

#[tokio::test]
async fn an_item_is_told_at_once_and_its_peers_come_back() {
    let peers = [(hex(1), vec!["1.2.3.4:5".to_owned(), "nonsense".to_owned(), "1.2.3.4:0".to_owned()])].into();
    let mut tracker =
        Tracker::start(vec![LeaseReply { revision: 1, interval: 15, peers, ..LeaseReply::default() }]).await;
    let leases = LeaseTrackers::new(vec!["10.9.8.7".into(), "1.2.3.4:9".into()], MemberBook::default());
    let reply = leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 7, 50)).await.unwrap();
    assert_eq!(reply.peers, ["1.2.3.4:5".parse().unwrap()]);
    assert_eq!(reply.interval, Duration::from_secs(15));
    let heard = tracker.next().await;
    assert_eq!(
        (heard.peer_id, heard.port, heard.advertise),
        ("09".repeat(20), 6881, vec!["10.9.8.7:6881".into(), "1.2.3.4:9".into()])
    );
    assert_eq!((heard.revision, heard.full, heard.stopped, heard.num_want), (1, true, false, 50));
    assert_eq!((heard.want, heard.removed.len(), heard.secret.len()), (vec![hex(1)], 0, 32));
    let item = heard.set.first().unwrap();
    assert_eq!((&item.hash, item.left, item.event), (&hex(1), 7, Some(LeaseEvent::Started)));
}

#[tokio::test]
async fn who_was_approached_is_told_over_the_same_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let leases = LeaseTrackers::new(vec![], MemberBook::default());
    leases.approach(&address, PeerId([9; 20]), 6881);
    let (mut connection, _) = tokio::time::timeout(LONG, listener.accept()).await.unwrap().unwrap();
    let mut asked = [0; 4_096];
    let length = connection.read(&mut asked).await.unwrap();
    assert!(asked[..length].starts_with(b"GET /healthz "));
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    // The connection is free again when the tasks that the answer wakes are done: until then there may be a second one.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let announced = announce(1, AnnounceEvent::Started, 7, 50);
    let told = async {
        while !connection.read(&mut asked).await.unwrap().eq(&0) {
            if asked.starts_with(b"POST /api/v1/lease ") {
                return;
            }
        }
    };
    tokio::select! {
        () = told => {}
        _ = leases.announce(&address, &announced) => panic!("nobody answers"),
        _ = listener.accept() => panic!("another connection"),
        () = tokio::time::sleep(LONG) => panic!("not in time"),
    }
}

#[tokio::test]
async fn what_many_torrents_say_at_once_is_one_message() {
    let mut tracker = Tracker::start(vec![]).await;
    let leases = LeaseTrackers::new(vec![], MemberBook::default());
    let announces: Vec<_> = (0..100).map(|number| announce(number, AnnounceEvent::Started, 0, 0)).collect();
    let all = announces.iter().map(|announce| leases.announce(&tracker.address, announce));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    let mut items = 0;
    let mut messages = 0;
    while items < 100 {
        items += tracker.next().await.set.len();
        messages += 1;
    }
    assert!(messages <= 5, "{messages}");
}

#[tokio::test]
async fn who_says_nothing_new_and_wants_nothing_is_answered_without_a_message() {
    let mut tracker = Tracker::start(vec![]).await;
    let leases = LeaseTrackers::new(vec![], MemberBook::default());
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 0, 0)).await.unwrap();
    for _ in 0..50 {
        leases.announce(&tracker.address, &announce(1, AnnounceEvent::Regular, 0, 0)).await.unwrap();
    }
    assert_eq!(tracker.next().await.revision, 1);
    assert!(tracker.heard.try_recv().is_err());
}

#[tokio::test]
async fn renewals_come_by_themselves_and_say_nothing() {
    let mut tracker = Tracker::start(vec![]).await;
    let leases = quick();
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 5, 0)).await.unwrap();
    assert_eq!(tracker.next().await.revision, 1);
    for _ in 0..3 {
        let renewal = tracker.next().await;
        assert_eq!((renewal.revision, renewal.full, renewal.set.len()), (1, false, 0));
    }
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Completed, 0, 0)).await.unwrap();
    let changed = loop {
        let heard = tracker.next().await;
        if !heard.set.is_empty() {
            break heard;
        }
    };
    assert_eq!((changed.revision, changed.set.first().unwrap().event), (2, Some(LeaseEvent::Completed)));
}

#[tokio::test]
async fn a_tracker_that_forgot_us_hears_everything_again() {
    let resync = LeaseReply { resync: true, interval: 15, ..LeaseReply::default() };
    let first = LeaseReply { revision: 1, interval: 15, ..LeaseReply::default() };
    let mut tracker = Tracker::start(vec![first, resync]).await;
    let leases = quick();
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 5, 0)).await.unwrap();
    assert!(tracker.next().await.full);
    assert!(!tracker.next().await.full, "the renewal");
    let again = tracker.next().await;
    assert!(again.full && again.set.len() == 1);
}

#[tokio::test]
async fn a_tracker_that_asks_for_everything_for_ever_is_no_loop() {
    let resync = || LeaseReply { resync: true, interval: 15, ..LeaseReply::default() };
    let tracker = Tracker::start((0..10).map(|_| resync()).collect()).await;
    let leases = LeaseTrackers::new(vec![], MemberBook::default());
    let asked = leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 5, 0)).await;
    assert!(matches!(asked, Err(AnnounceError::Refused(_))), "{asked:?}");
}

#[tokio::test]
async fn a_refusal_is_told_and_the_lease_tried_again() {
    let refusal = LeaseReply { failure: Some("too many \x1bleases".into()), ..LeaseReply::default() };
    let mut tracker = Tracker::start(vec![refusal]).await;
    let leases = quick();
    let error = leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 5, 0)).await.unwrap_err();
    assert_eq!(error.to_string(), "the tracker refused: too many \\x1bleases");
    let (first, second) = (tracker.next().await, tracker.next().await);
    assert_eq!((first.set, first.revision), (second.set, second.revision), "nothing is lost");
}

#[tokio::test]
async fn a_tracker_that_is_not_there_is_an_error_for_now_and_told_when_it_is() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let leases = quick();
    let address: TrackerAddress = at.to_string().parse().unwrap();
    for number in 1..=2 {
        let asked = leases.announce(&address, &announce(number, AnnounceEvent::Started, 5, 50)).await;
        assert!(matches!(asked, Err(AnnounceError::Unreachable(_))), "{asked:?}");
    }
    let (sender, mut heard) = mpsc::unbounded_channel();
    let script = Script { replies: Arc::default(), heard: sender };
    let router = Router::new().route("/api/v1/lease", post(answer)).with_state(script);
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let told = tokio::time::timeout(LONG, heard.recv()).await.unwrap().unwrap();
    assert_eq!(told.set.len(), 2);
    task.abort();
}

#[tokio::test]
async fn the_last_item_to_go_ends_the_lease() {
    let mut tracker = Tracker::start(vec![]).await;
    let leases = LeaseTrackers::new(vec![], MemberBook::default());
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 5, 0)).await.unwrap();
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Stopped, 5, 0)).await.unwrap();
    assert!(!tracker.next().await.stopped);
    assert!(tracker.next().await.stopped);
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Stopped, 5, 0)).await.unwrap();
    assert!(tracker.heard.try_recv().is_err());
}

#[tokio::test]
async fn in_a_hurry_nothing_waits_for_others_to_join_its_message() {
    let mut tracker = Tracker::start(vec![]).await;
    let tempo = Tempo { pause: 100 * LONG, ..Tempo::default() };
    let leases = LeaseTrackers::at_tempo(vec![], MemberBook::default(), tempo);
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 5, 0)).await.unwrap();
    assert!(!tracker.next().await.stopped);
    let stopped = announce(1, AnnounceEvent::Stopped, 5, 0);
    let (told, ()) =
        tokio::time::timeout(LONG, async { tokio::join!(leases.announce(&tracker.address, &stopped), leases.hurry()) })
            .await
            .unwrap();
    told.unwrap();
    assert!(tracker.next().await.stopped);
    let other = announce(2, AnnounceEvent::Started, 5, 0);
    tokio::time::timeout(LONG, leases.announce(&tracker.address, &other)).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_joins_is_there_with_nothing_until_it_stops() {
    let mut tracker = Tracker::start(vec![]).await;
    let leases = quick();
    leases.join(&tracker.address, PeerId([9; 20]), 6881).await.unwrap();
    let joined = tracker.next().await;
    assert!(joined.full && joined.set.is_empty() && !joined.stopped);
    assert!(!tracker.next().await.full, "the renewal");
    tokio::time::timeout(LONG, leases.stop()).await.unwrap();
    let last = loop {
        let heard = tracker.next().await;
        if heard.stopped {
            break heard;
        }
    };
    assert_eq!(last.peer_id, joined.peer_id);
}

#[tokio::test]
async fn leases_end_when_their_owner_is_dropped() {
    let mut tracker = Tracker::start(vec![]).await;
    let leases = LeaseTrackers::new(vec![], MemberBook::default());
    leases.announce(&tracker.address, &announce(1, AnnounceEvent::Started, 5, 0)).await.unwrap();
    drop(leases);
    assert!(!tracker.next().await.stopped);
    assert!(tracker.next().await.stopped);
}
