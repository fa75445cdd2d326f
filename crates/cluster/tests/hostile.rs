//! What a member must not believe another, row by row of HOSTILE §2.13; and networks that are cut in odd ways.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod support;

use bytes::Bytes;
use obt_catalogue::{Command, CommandId, Departure, Outcome};
use obt_cluster::ClusterFailure;
use obt_cluster::message::{PART_BYTES, Refusal, Reply, Request, SnapshotPart};
use obt_cluster::raft::{NodeId, TypeConfig};
use obt_cluster::snapshot::SnapshotFacts;
use obt_wire::InfoHash;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{Entry, EntryPayload, LeaderId, LogId, Vote};
use support::{World, id, publish};

type Append = AppendEntriesRequest<TypeConfig>;
type Spoil = Box<dyn Fn(&mut Append)>;

fn log_id(term: u64, node: NodeId, index: u64) -> LogId<NodeId> {
    LogId::new(LeaderId::new(term, node), index)
}

fn blank(log_id: LogId<NodeId>) -> Entry<TypeConfig> {
    Entry { log_id, payload: EntryPayload::Blank }
}

/// A cluster of three; its leader, a follower, and a request that this leader might send next.
struct Scene {
    world: World,
    leader: NodeId,
    target: usize,
    term: u64,
    last: LogId<NodeId>,
}

impl Scene {
    async fn new() -> Self {
        let world = World::of(3).await;
        world.open_to_all(0).await;
        world.agree().await;
        let place = world.leader().unwrap();
        let (leader, term) = (world.at(place).node(), world.at(place).status().term);
        let last = log_id(term, leader, world.at(place).as_of().index);
        Self { world, leader, target: (place + 1) % 3, term, last }
    }

    fn append(&self) -> Append {
        let vote = Vote::new_committed(self.term, self.leader);
        Append { vote, prev_log_id: Some(self.last), entries: Vec::new(), leader_commit: Some(self.last) }
    }

    async fn ask(&self, from: NodeId, request: Request, body: &[u8]) -> Reply {
        let serve = self.world.at(self.target).serve();
        serve.serve(from, request, Bytes::copy_from_slice(body)).await.0
    }

    /// Whatever was said, the cluster works and agrees.
    async fn assert_survived(&self) {
        self.world.publish(self.target, &format!("name {}", fastrand::u64(..))).await.unwrap();
        self.world.agree().await;
        for place in self.world.places() {
            assert!(self.world.fatal(place).is_empty());
        }
    }
}

fn is_refused(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(Refusal::Nonsense(_) | Refusal::NotAllowed))
}

#[tokio::test(flavor = "multi_thread")]
async fn n03_entries_that_no_leader_sends_are_refused() {
    let scene = Scene::new().await;
    assert!(matches!(scene.ask(scene.leader, Request::Append(scene.append()), b"").await, Reply::Append(_)));

    let other = scene.world.at((0..3).find(|place| scene.world.at(*place).node() != scene.leader).unwrap()).node();
    assert!(is_refused(&scene.ask(other, Request::Append(scene.append()), b"").await), "in another's name");

    let (term, leader, index) = (scene.term, scene.leader, scene.last.index);
    let bad: [(&str, Spoil); 9] = [
        ("term inflation", Box::new(|rpc| rpc.vote = Vote::new_committed(u64::MAX, rpc.vote.leader_id.node_id))),
        ("no leader", Box::new(|rpc| rpc.vote.committed = false)),
        ("a gap", Box::new(move |rpc| rpc.entries = vec![blank(log_id(term, leader, index + 2))])),
        ("index 0", Box::new(move |rpc| rpc.entries = vec![blank(log_id(term, leader, 0))])),
        (
            "not consecutive",
            Box::new(move |rpc| rpc.entries = [1, 3].map(|step| blank(log_id(term, leader, index + step))).to_vec()),
        ),
        (
            "of a later term than its leader",
            Box::new(move |rpc| rpc.entries = vec![blank(log_id(term + 9, leader, index + 1))]),
        ),
        ("what is committed, otherwise", Box::new(move |rpc| rpc.prev_log_id = Some(log_id(term, leader + 1, index)))),
        ("commits a later term", Box::new(move |rpc| rpc.leader_commit = Some(log_id(term + 9, leader, index)))),
        (
            "too many",
            Box::new(move |rpc| rpc.entries = (1..=65).map(|step| blank(log_id(term, leader, index + step))).collect()),
        ),
    ];
    for (what, spoil) in bad {
        let mut rpc = scene.append();
        spoil(&mut rpc);
        let reply = scene.ask(scene.leader, Request::Append(rpc), b"").await;
        assert!(is_refused(&reply), "{what}: {reply:?}");
    }
    // Who led before, and has what nobody else has, is told that it leads no more.
    let mut late = scene.append();
    (late.vote, late.leader_commit) = (Vote::new_committed(term - 1, leader), None);
    late.prev_log_id = Some(log_id(term - 1, leader, index));
    let reply = scene.ask(scene.leader, Request::Append(late), b"").await;
    assert!(matches!(reply, Reply::Append(AppendEntriesResponse::HigherVote(_))), "{reply:?}");
    // A commit beyond what is there commits what is there.
    let mut beyond = scene.append();
    beyond.leader_commit = Some(log_id(term, leader, index + 99));
    scene.ask(scene.leader, Request::Append(beyond), b"").await;
    scene.assert_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n04_votes_do_not_depose_a_leader_that_is_heard() {
    let scene = Scene::new().await;
    let target = scene.world.at(scene.target).node();
    let candidate =
        (0..3).map(|place| scene.world.at(place).node()).find(|id| *id != scene.leader && *id != target).unwrap();
    let vote = |term, node| Request::Vote(VoteRequest::new(Vote::new(term, node), Some(scene.last)));
    for _ in 0..500 {
        let reply = scene.ask(candidate, vote(scene.term + 1, candidate), b"").await;
        assert!(matches!(reply, Reply::Vote(reply) if !reply.vote_granted), "the leader's lease holds");
    }
    let stale = scene.ask(candidate, vote(0, candidate), b"").await;
    assert!(matches!(stale, Reply::Vote(reply) if !reply.vote_granted));
    assert!(is_refused(&scene.ask(99, vote(scene.term + 1, 99), b"").await), "who was removed does not stand");
    assert!(is_refused(&scene.ask(candidate, vote(scene.term + 1, scene.leader), b"").await), "in another's name");
    assert!(is_refused(&scene.ask(candidate, Request::Elect, b"").await), "only a leader hands over");
    assert_eq!(scene.world.at(scene.target).status().term, scene.term);
    scene.assert_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n05_snapshots_that_are_out_of_order_broken_or_bombs_leave_the_old_state() {
    let scene = Scene::new().await;
    let before = scene.world.read(scene.target, |reader| reader.digest().unwrap());
    let ahead = log_id(scene.term, scene.leader, scene.last.index + 1_000);
    let facts = |bytes| SnapshotFacts { log_id: Some(ahead), bytes, sha256: "0".repeat(64), digest: "0".repeat(64) };
    let part = |offset, bytes| {
        let vote = Vote::new_committed(scene.term, scene.leader);
        Request::Snapshot(Box::new(SnapshotPart { vote, facts: facts(bytes), offset }))
    };
    let size = 3 * 100_u64;
    for (what, offset, bytes, body) in [
        ("a bomb", 0, 1 << 40, 100),
        ("nothing", 0, 0, 0),
        ("no beginning", 100, size, 100),
        ("longer than it says", 0, 50, 100),
        ("an empty part", 0, size, 0),
        ("a part too large", 0, 1 << 30, PART_BYTES + 1),
    ] {
        let reply = scene.ask(scene.leader, part(offset, bytes), &vec![0; body]).await;
        assert!(is_refused(&reply), "{what}: {reply:?}");
    }
    assert!(matches!(scene.ask(scene.leader, part(0, size), &[0; 100]).await, Reply::Snapshot { have: 100, .. }));
    for offset in [50, 200, u64::MAX] {
        assert!(is_refused(&scene.ask(scene.leader, part(offset, size), &[0; 100]).await), "offset {offset}");
        scene.ask(scene.leader, part(0, size), &[0; 100]).await;
    }
    scene.ask(scene.leader, part(100, size), &[0; 100]).await;
    let whole = scene.ask(scene.leader, part(200, size), &[0; 100]).await;
    assert!(matches!(&whole, Reply::Refused(Refusal::Nonsense(why)) if why.contains("another hash")), "{whole:?}");

    let mut old = facts(size);
    old.log_id = Some(log_id(0, 0, 0));
    let vote = Vote::new_committed(scene.term, scene.leader);
    let older = Request::Snapshot(Box::new(SnapshotPart { vote, facts: old, offset: 0 }));
    assert!(matches!(scene.ask(scene.leader, older, &[0; 100]).await, Reply::Snapshot { have, .. } if have == size));

    assert_eq!(scene.world.read(scene.target, |reader| reader.digest().unwrap()), before);
    let folder = scene.world.catalogue(scene.target).parent().unwrap().to_owned();
    let left = std::fs::read_dir(folder)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("snapshot-"));
    assert_eq!(left.count(), 0, "no file is left");
    scene.assert_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n06_commands_that_are_too_large_are_refused_and_repeated_ones_count_once() {
    let scene = Scene::new().await;
    let departure = |number: u64| Departure { info_hash: InfoHash([7; 20]), holder: "x".repeat(300), at_ms: number };
    let large = Command::RecordDepartures { departures: (0..1_000).map(departure).collect() };
    for place in 0..3 {
        let refused = scene.world.at(place).propose(id(), large.clone(), None).await;
        assert_eq!(refused, Err(ClusterFailure::TooLarge));
    }
    let again = CommandId([9; 16]);
    let (command, blob) = publish("once");
    let tries = (0..30).map(|number| {
        let (cluster, command, blob) = (scene.world.at(number % 3), command.clone(), blob.clone());
        tokio::spawn(async move { cluster.propose(again, command, Some(blob)).await })
    });
    for one in tries.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), Ok(Outcome::Published { version: 1 }));
    }
    scene.assert_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n10_changes_of_the_membership_that_make_no_sense_are_refused() {
    let mut world = World::new();
    let one = world.found().await;
    let own = world.at(one).node();
    assert!(matches!(world.at(one).leave(own).await, Err(ClusterFailure::Refused(_))), "nobody would vote");
    let two = world.join(one).await;
    assert!(matches!(world.at(two).leave(12_345).await, Err(ClusterFailure::Refused(_))), "nobody's id");
    // Two at once become one after the other.
    let three = world.join(one).await;
    world.until("three vote", |world| world.voters(one) == 3).await;
    let (a, b) = (world.at(two).node(), world.at(three).node());
    let (first, second) = (world.at(one), world.at(one));
    let (first, second) = tokio::join!(first.leave(a), second.leave(b));
    assert_eq!((first, second), (Ok(()), Ok(())));
    world.until("one is left", |world| world.at(one).members().borrow().all.len() == 1).await;
}

// The other half of F54, a leader that is heard and hears nobody, is a whole cut over TCP: without acknowledgements no
// second request leaves. The nemesis over real links covers it.
#[tokio::test(flavor = "multi_thread")]
async fn f54_a_leader_that_is_not_heard_is_replaced_and_steps_down() {
    let world = World::of(3).await;
    world.open_to_all(0).await;
    let old = world.leader().unwrap();
    let node = world.at(old).node();
    let rest: Vec<usize> = (0..3).filter(|place| *place != old).collect();
    for other in &rest {
        world.cut_one_way(old, *other);
    }
    world.until("it steps down", |world| world.at(old).leader() != Some(node)).await;
    world.until("another leads", |world| world.at(rest[0]).leader().is_some_and(|leader| leader != node)).await;
    world.publish(rest[0], "a").await.unwrap();
    world.heal();
    world.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f55_a_bridge_between_two_that_do_not_hear_each_other_goes_on_with_one_leader() {
    let world = World::of(3).await;
    world.open_to_all(0).await;
    let before = world.at(1).status();
    let far = [0, 2].into_iter().find(|place| Some(world.at(*place).node()) != before.leader).unwrap();
    world.cut(&[far], &[2 - far]);
    for number in 0..20 {
        world.publish(1, &format!("name {number}")).await.unwrap();
    }
    assert_eq!(world.at(1).leader(), before.leader, "who does not hear the leader does not depose it");
    world.heal();
    world.agree().await;
    assert_eq!(world.names(far), 20);
}
