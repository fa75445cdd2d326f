use obt_swarm::AnnounceRequest as Told;
use obt_wire::tracker_udp::{Request, announce_reply_head, connect_reply, error_reply};
use obt_wire::{InfoHash, InfoHashes, PeerId, Sha1Hash};

use super::*;

/// Long enough for any exchange on loopback, and short where it has to run out.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(60);

fn announce() -> Announce {
    Announce {
        url: String::new(),
        hashes: InfoHashes { v1: Some(Sha1Hash([7; 20])), v2: None },
        peer_id: PeerId([8; 20]),
        port: 6881,
        request: Told { event: AnnounceEvent::Started, uploaded: 1, downloaded: 2, left: 3, num_want: 50 },
    }
}

/// A tracker on loopback that answers each datagram with what `answer` makes of it.
struct Tracker {
    url: Url,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tracker(mut answer: impl FnMut(Request<'_>) -> Vec<Vec<u8>> + Send + 'static) -> Tracker {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("udp://{}/announce", socket.local_addr().unwrap())).unwrap();
    let task = tokio::spawn(async move {
        let mut datagram = vec![0; 2_000];
        loop {
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            for reply in answer(Request::decode(&datagram[..length]).unwrap()) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    });
    Tracker { url, task }
}

fn announced(transaction: TransactionId) -> Vec<u8> {
    let counts = SwarmCounts { seeders: 4, leechers: 5, completed: 0 };
    let peers = [1, 2, 3, 4, 0x1a, 0xe1, 127, 0, 0, 1, 0, 22, 0, 0, 0, 0, 0, 1];
    [&announce_reply_head(transaction, 1800, counts)[..], &peers].concat()
}

/// What an honest tracker answers.
fn honest(request: Request<'_>) -> Vec<Vec<u8>> {
    match request {
        Request::Connect(transaction) => vec![connect_reply(transaction, ConnectionId(99)).to_vec()],
        Request::Announce(request) => {
            assert_eq!(request.connection, ConnectionId(99));
            assert_eq!((request.info_hash, request.peer_id), (InfoHash([7; 20]), PeerId([8; 20])));
            assert_eq!((request.uploaded, request.downloaded, request.left), (1, 2, 3));
            assert_eq!((request.port, request.key, request.num_want), (6881, 77, Some(50)));
            assert_eq!(request.event, obt_wire::announce::AnnounceEvent::Started);
            vec![announced(request.transaction)]
        }
        Request::Scrape(_) => panic!("nobody asked for counts"),
    }
}

async fn ask_it(trackers: &UdpTrackers, tracker: &Tracker) -> Result<AnnounceReply, AnnounceError> {
    trackers.announce(&announce(), &tracker.url, Trust::Found, 77).await
}

#[tokio::test]
async fn an_announce_brings_counts_and_peers() {
    let tracker = tracker(honest).await;
    let reply = ask_it(&UdpTrackers::patient(LONG), &tracker).await.unwrap();
    assert_eq!(reply.interval, Duration::from_secs(1800));
    assert_eq!((reply.seeders, reply.leechers), (Some(4), Some(5)));
    let near_too: Vec<SocketAddr> = vec!["1.2.3.4:6881".parse().unwrap(), "127.0.0.1:22".parse().unwrap()];
    assert_eq!(reply.peers, near_too, "this tracker is on loopback itself");
}

#[tokio::test]
async fn a_connection_id_is_used_again() {
    let mut connects = 0;
    let tracker = tracker(move |request| {
        connects += u32::from(matches!(request, Request::Connect(_)));
        assert_eq!(connects, 1);
        honest(request)
    })
    .await;
    let trackers = UdpTrackers::patient(LONG);
    for _ in 0..3 {
        ask_it(&trackers, &tracker).await.unwrap();
    }
}

#[tokio::test]
async fn r09_what_answers_something_else_is_as_if_it_had_not_come() {
    let tracker = tracker(|request| {
        let transaction = match request {
            Request::Connect(transaction) => transaction,
            Request::Announce(request) => request.transaction,
            Request::Scrape(_) => panic!("nobody asked for counts"),
        };
        let wrong = TransactionId(transaction.0 ^ 1);
        let mut replies = vec![
            b"7 bytes".to_vec(),
            connect_reply(wrong, ConnectionId(1)).to_vec(),
            announced(wrong),
            [&8u32.to_be_bytes()[..], &transaction.0.to_be_bytes(), &[0; 20]].concat(),
        ];
        let mut error = Vec::new();
        error_reply(wrong, "no", &mut error);
        replies.push(error);
        // The right transaction, but not what was asked for.
        replies.push(match request {
            Request::Connect(_) => announced(transaction),
            _ => connect_reply(transaction, ConnectionId(2)).to_vec(),
        });
        replies.extend(honest(request));
        replies
    })
    .await;
    let reply = ask_it(&UdpTrackers::patient(LONG), &tracker).await.unwrap();
    assert_eq!(reply.peers.len(), 2);
}

#[tokio::test]
async fn r09_a_silent_tracker_is_given_up_in_bounded_time() {
    let tracker = tracker(|_| vec![]).await;
    let asked = tokio::time::timeout(LONG, ask_it(&UdpTrackers::patient(SHORT), &tracker)).await.unwrap();
    assert!(matches!(asked, Err(AnnounceError::Silent)), "{asked:?}");
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again() {
    let mut connects = 0;
    let tracker = tracker(move |request| {
        connects += u32::from(matches!(request, Request::Connect(_)));
        if connects == 1 { vec![] } else { honest(request) }
    })
    .await;
    assert!(ask_it(&UdpTrackers::patient(SHORT * 10), &tracker).await.is_ok());
}

#[tokio::test]
async fn a_tracker_that_forgot_its_ids_is_asked_for_a_new_one() {
    let mut announces = 0;
    let tracker = tracker(move |request| {
        announces += u32::from(matches!(request, Request::Announce(_)));
        // The second announce comes with an id that this tracker drops.
        if announces == 2 && matches!(request, Request::Announce(_)) { vec![] } else { honest(request) }
    })
    .await;
    let trackers = UdpTrackers::patient(SHORT * 10);
    assert!(ask_it(&trackers, &tracker).await.is_ok());
    assert!(ask_it(&trackers, &tracker).await.is_ok());
}

#[tokio::test]
async fn a_refusal_is_told() {
    let tracker = tracker(|request| match request {
        Request::Announce(request) => {
            let mut error = Vec::new();
            error_reply(request.transaction, "not \x1bhere", &mut error);
            vec![error]
        }
        other => honest(other),
    })
    .await;
    let error = ask_it(&UdpTrackers::patient(LONG), &tracker).await.unwrap_err();
    assert_eq!(error.to_string(), "the tracker refused: not \\x1bhere");
}

#[tokio::test]
async fn where_nothing_listens_the_system_says_so_at_once() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("udp://{}", socket.local_addr().unwrap())).unwrap();
    drop(socket);
    let trackers = UdpTrackers::patient(LONG);
    let announce = announce();
    let asked = trackers.announce(&announce, &url, Trust::Found, 77);
    let asked = tokio::time::timeout(LONG / 2, asked).await.unwrap();
    assert!(matches!(asked, Err(AnnounceError::Unreachable(_))), "{asked:?}");
}

#[tokio::test]
async fn a_family_that_leads_nowhere_does_not_hold_back_the_other() {
    let tracker = tracker(honest).await;
    // To most hosts this name has an address of each family, and the tracker listens at one.
    let url = Url::parse(&format!("udp://localhost:{}", tracker.url.port().unwrap())).unwrap();
    let (trackers, announce) = (UdpTrackers::patient(LONG), announce());
    let asked = trackers.announce(&announce, &url, Trust::Found, 77);
    let reply = tokio::time::timeout(LONG / 2, asked).await.unwrap().unwrap();
    assert_eq!(reply.peers.len(), 2);
}

#[tokio::test]
async fn both_families_peers_come_back_and_a_slow_one_is_not_waited_for() {
    let answer = |from: &str| Answer {
        from: from.parse().unwrap(),
        interval: 60,
        counts: SwarmCounts { seeders: 1, leechers: 2, completed: 0 },
        peers: vec![from.parse().unwrap()],
    };
    let both_there = both(async { Ok(answer("1.2.3.4:5")) }, async { Ok(answer("[2a00::1]:5")) }).await.unwrap();
    let reply = merged(both_there, Trust::Found);
    assert_eq!((reply.peers.len(), reply.seeders), (2, Some(1)));
    let one = both(async { Ok(answer("1.2.3.4:5")) }, std::future::pending()).await.unwrap();
    assert_eq!(one.len(), 1);
    let other = both(async { Err(AnnounceError::Silent) }, async { Ok(answer("[2a00::1]:5")) }).await.unwrap();
    assert_eq!(other.len(), 1);
    let none = both(async { Err(AnnounceError::Silent) }, async { Err(AnnounceError::Silent) }).await;
    assert!(none.is_err());
}
