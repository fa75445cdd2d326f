//! Members over real sockets: they find each other by a join line, and nobody else gets a word in.
#![allow(clippy::panic, clippy::unwrap_used, reason = "all of it is a test")]

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_catalogue::{Command, Outcome, PublishPolicy};
use obt_cluster::links::{Linked, NodeKey, TlsTransport};
use obt_cluster::message::{Refusal, Reply, Request};
use obt_cluster::raft::{Member, NodeId};
use obt_cluster::state::ClusterOutcome;
use obt_cluster::transport::{LinkError, Transport};
use obt_cluster::{Config, FatalHook, Origin, Timing};
use support::{DEADLINE, id, now_ms, publish};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

struct Seat {
    linked: Linked,
    folder: TempDir,
}

impl Seat {
    async fn start(origin: Origin) -> Self {
        let founds = matches!(origin, Origin::Found);
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let member = Member {
            addresses: vec![listener.local_addr().unwrap().to_string()],
            format: obt_catalogue::FORMAT,
            ..Member::default()
        };
        let config = Config {
            catalogue: folder.path().join("catalogue"),
            log: folder.path().join("raft.db"),
            member,
            origin,
            clock: Arc::new(now_ms),
            changed: Arc::new(|_| ()),
            fatal: FatalHook::new(|error| panic!("{error}")),
            timing: Timing { membership: Duration::from_millis(50), ..Timing::default() },
        };
        let key = NodeKey::load_or_make(&folder.path().join("key")).unwrap();
        let addresses = config.member.addresses.clone();
        let linked = Linked::start(config, key).await.unwrap();
        linked.listen(listener, addresses).unwrap();
        if founds {
            let node = linked.cluster.node();
            let mut members = linked.cluster.members();
            timeout(DEADLINE, members.wait_for(|members| members.all.contains_key(&node))).await.unwrap().unwrap();
        }
        Self { linked, folder }
    }

    fn key(&self) -> NodeKey {
        NodeKey::load_or_make(&self.folder.path().join("key")).unwrap()
    }

    async fn invite(&self) -> Origin {
        Origin::Join(self.linked.cluster.invite(Duration::from_secs(60)).await.unwrap())
    }

    fn node(&self) -> NodeId {
        self.linked.cluster.node()
    }

    /// What it says of itself to others.
    fn member(&self) -> Member {
        self.linked.cluster.members().borrow().all[&self.node()].clone()
    }

    /// As if `key` spoke for `from`.
    async fn ask_as(&self, key: &NodeKey, from: NodeId, cluster: &str, to: NodeId) -> Result<Reply, LinkError> {
        let transport = TlsTransport::new(key).unwrap();
        transport.set_self(cluster, from);
        call(&transport, self, to).await
    }
}

async fn call(transport: &TlsTransport, seat: &Seat, to: NodeId) -> Result<Reply, LinkError> {
    let reply = transport.call(to, &seat.member(), Request::Soft, Bytes::from_static(b"x"), DEADLINE).await;
    reply.map(|(reply, _)| reply)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_find_each_other_publish_and_survive_their_leader() {
    let one = Seat::start(Origin::Found).await;
    let open = Command::SetPublishPolicy { policy: PublishPolicy::Open };
    assert_eq!(one.linked.cluster.propose(id(), open, None).await, Ok(Outcome::Done));
    let two = Seat::start(one.invite().await).await;
    until("it is in", || !two.linked.cluster.secret().is_empty()).await;
    let three = Seat::start(two.invite().await).await;
    until("three vote", || three.linked.cluster.members().borrow().voters.len() == 3).await;

    let (command, blob) = publish("a");
    let published = three.linked.cluster.propose(id(), command, Some(blob)).await;
    assert_eq!(published, Ok(Outcome::Published { version: 1 }));
    until("both others have heard", || one.linked.cluster.as_of().index == two.linked.cluster.as_of().index).await;

    one.linked.cluster.stop().await;
    let (command, blob) = publish("b");
    let published = three.linked.cluster.propose(id(), command, Some(blob)).await;
    assert_eq!(published, Ok(Outcome::Published { version: 1 }));
    assert!(two.linked.cluster.read_index().await.is_ok());
    three.linked.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_of_many_parts_goes_over_the_links() {
    let one = Seat::start(Origin::Found).await;
    let two = Seat::start(one.invite().await).await;
    until("it is in", || !two.linked.cluster.secret().is_empty()).await;
    let blob = Bytes::from(vec![5; 5 * 1_024 * 1_024 + 17]);
    let hash = obt_catalogue::BlobHash::of(&blob);
    let open = Command::SetPublishPolicy { policy: PublishPolicy::Open };
    two.linked.cluster.propose(id(), open, Some(blob.clone())).await.unwrap();
    let there = one.linked.cluster.work(move |catalogue| catalogue.blob(hash).unwrap()).await.unwrap();
    assert_eq!(there.unwrap(), blob, "pushed to the voter");
    two.linked
        .cluster
        .work(move |catalogue| catalogue.sweep_blobs(&[hash], now_ms() + 7_200_000).unwrap())
        .await
        .unwrap();
    assert_eq!(two.linked.cluster.fetch_blob(hash).await.unwrap(), blob, "fetched back");
}

#[tokio::test(flavor = "multi_thread")]
async fn n01_what_is_no_tls_gets_no_word() {
    let one = Seat::start(Origin::Found).await;
    for sent in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], b"\x16\x03\x01\xff\xff"] {
        let mut stream = TcpStream::connect(one.linked.local_addr().unwrap()).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        // At most an alert, which is 7 bytes.
        assert!(answer.len() <= 7, "{answer:?}");
    }
    until("they are counted", || one.linked.counts.refused.load(Ordering::Relaxed) == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n01_keys_of_nobody_and_of_other_clusters_are_refused() {
    let (one, other) = (Seat::start(Origin::Found).await, Seat::start(Origin::Found).await);
    let cluster = one.linked.cluster.cluster_id().to_owned();
    for key in [NodeKey::generate().unwrap(), other.key()] {
        let refused = one.ask_as(&key, one.node(), &cluster, one.node()).await;
        assert!(matches!(refused, Err(LinkError::Broken(_) | LinkError::Unreachable(_))), "{refused:?}");
    }
    assert_eq!(one.linked.counts.members.load(Ordering::Relaxed), 0);

    // And whoever answers with another key than the one that is known is not told anything.
    let transport = TlsTransport::new(&one.key()).unwrap();
    transport.set_self(&cluster, one.node());
    let impostor = Member { key: one.member().key, ..other.member() };
    let refused = transport.call(one.node(), &impostor, Request::Soft, Bytes::new(), DEADLINE).await;
    assert!(matches!(refused, Err(LinkError::Unreachable(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn n03_a_message_speaks_for_its_connection_alone() {
    let one = Seat::start(Origin::Found).await;
    let two = Seat::start(one.invite().await).await;
    until("it is in", || !two.linked.cluster.secret().is_empty()).await;
    let cluster = one.linked.cluster.cluster_id().to_owned();
    let (a, b) = (one.node(), two.node());
    let not_allowed = |reply: Result<Reply, LinkError>| matches!(reply, Ok(Reply::Refused(Refusal::NotAllowed)));
    assert!(not_allowed(two.ask_as(&one.key(), b, &cluster, b).await), "another's id");
    assert!(not_allowed(two.ask_as(&one.key(), a, &cluster, a).await), "meant for another");
    assert!(not_allowed(two.ask_as(&one.key(), a, "elsewhere", b).await), "another cluster");
    assert_eq!(two.linked.counts.forged.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn n08_of_two_processes_with_one_identity_the_older_is_refused() {
    let one = Seat::start(Origin::Found).await;
    let two = Seat::start(one.invite().await).await;
    until("it is in", || !two.linked.cluster.secret().is_empty()).await;
    let cluster = one.linked.cluster.cluster_id().to_owned();
    let runs: Vec<TlsTransport> = (0..2)
        .map(|_| {
            let run = TlsTransport::new(&two.key()).unwrap();
            run.set_self(&cluster, two.node());
            run
        })
        .collect();
    assert!(matches!(call(&runs[0], &one, one.node()).await, Ok(Reply::Done)));
    assert!(matches!(call(&runs[1], &one, one.node()).await, Ok(Reply::Done)));
    let older = call(&runs[0], &one, one.node()).await;
    assert!(matches!(older, Ok(Reply::Refused(Refusal::NotAllowed))), "{older:?}");
}

/// Passes one connection on to `to`; tells what the client sent.
async fn listen_in(listener: TcpListener, to: std::net::SocketAddr) -> Vec<u8> {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut server = TcpStream::connect(to).await.unwrap();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut heard = Vec::new();
    let there = async {
        let mut part = [0; 4_096];
        while let Ok(length @ 1..) = from_client.read(&mut part).await {
            heard.extend_from_slice(&part[..length]);
            if to_server.write_all(&part[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn n09_what_was_heard_of_a_link_is_of_no_use_a_second_time() {
    let mut one = Seat::start(Origin::Found).await;
    let mut soft = one.linked.take_soft();
    let two = Seat::start(one.invite().await).await;
    until("it is in", || !two.linked.cluster.secret().is_empty()).await;

    let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tapped = Member { addresses: vec![wire.local_addr().unwrap().to_string()], ..one.member() };
    let port = one.linked.local_addr().unwrap();
    let heard = tokio::spawn(listen_in(wire, port));
    let transport = TlsTransport::new(&two.key()).unwrap();
    transport.set_self(one.linked.cluster.cluster_id(), two.node());
    let said = transport.call(one.node(), &tapped, Request::Soft, Bytes::from_static(b"once"), DEADLINE).await;
    assert!(matches!(said, Ok((Reply::Done, _))), "{said:?}");
    drop(transport);
    let heard = tokio::time::timeout(DEADLINE, heard).await.unwrap().unwrap();
    assert_eq!(soft.recv().await.unwrap(), (two.node(), Bytes::from_static(b"once")));

    let refused = one.linked.counts.refused.load(Ordering::Relaxed);
    for part in [heard.len(), heard.len() / 2] {
        let mut stream = TcpStream::connect(port).await.unwrap();
        let _ = stream.write_all(&heard[..part]).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    until("both are refused", || one.linked.counts.refused.load(Ordering::Relaxed) == refused + 2).await;
    assert!(soft.try_recv().is_err(), "nothing is heard twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_that_it_was_let_in_is_told_again_whom_to_listen_to() {
    let one = Seat::start(Origin::Found).await;
    let line = one.linked.cluster.invite(Duration::from_secs(60)).await.unwrap();
    let secret = obt_cluster::JoinLine::decode(&line).unwrap().secret;
    let transport_of = |key: &NodeKey, node: NodeId| {
        let transport = TlsTransport::new(key).unwrap();
        transport.set_self(one.linked.cluster.cluster_id(), node);
        transport
    };
    let ask = async |transport: &TlsTransport, key: &NodeKey, node: NodeId| {
        let member = Member { key: key.public(), addresses: vec!["127.0.0.1:1".to_owned()], ..Member::default() };
        let join = obt_cluster::message::Join { secret: secret.clone(), node, member };
        transport.call(0, &one.member(), Request::Join(Box::new(join)), Bytes::new(), DEADLINE).await.unwrap().0
    };
    let key = NodeKey::generate().unwrap();
    let transport = transport_of(&key, 77);
    assert!(matches!(ask(&transport, &key, 77).await, Reply::Welcome(_)));
    until("it is a member", || one.linked.cluster.members().borrow().all.contains_key(&77)).await;
    // Whoever does not know the leader's key does not let it speak. That it has spoken as a member since is no matter.
    assert!(matches!(call(&transport, &one, one.node()).await, Ok(Reply::Done)));
    let again = ask(&transport, &key, 77).await;
    assert!(matches!(&again, Reply::Welcome(members) if members.iter().any(|(id, _)| *id == one.node())), "{again:?}");
    let other = NodeKey::generate().unwrap();
    let copied = ask(&transport_of(&other, 77), &other, 77).await;
    assert!(!matches!(copied, Reply::Welcome(_)), "an id is nothing without its key: {copied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_may_ask_to_be_let_in_and_whether_it_is_a_member() {
    let one = Seat::start(Origin::Found).await;
    let key = NodeKey::generate().unwrap();
    let transport = TlsTransport::new(&key).unwrap();
    transport.set_self(one.linked.cluster.cluster_id(), 77);
    let others: Mutex<Vec<Request>> = Mutex::new(vec![Request::ReadIndex, Request::Soft, Request::Elect]);
    for request in others.into_inner().unwrap() {
        let reply = transport.call(0, &one.member(), request, Bytes::new(), DEADLINE).await;
        assert!(matches!(reply, Ok((Reply::Refused(Refusal::NotAllowed), _))), "{reply:?}");
    }
    let reply = transport.call(0, &one.member(), Request::Leave { node: 1 }, Bytes::new(), DEADLINE).await;
    assert!(matches!(reply, Ok((Reply::Cluster(ClusterOutcome::NoMember), _))), "{reply:?}");
    // With a key in its request that is not the one it proved.
    let member = Member { key: one.key().public(), addresses: vec!["a:1".to_owned()], ..Member::default() };
    let join = obt_cluster::message::Join { secret: "x".to_owned(), node: 77, member };
    let reply = transport.call(0, &one.member(), Request::Join(Box::new(join)), Bytes::new(), DEADLINE).await;
    assert!(matches!(reply, Ok((Reply::Refused(Refusal::NotAllowed), _))), "{reply:?}");
}
