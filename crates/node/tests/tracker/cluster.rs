//! Several trackers that are one: what one member takes, all have; a minority of them may die, and names go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use obt_node::server::{Role, TrackerConfig, TrackerListen, TrackerPort, TrackerServer};
use obt_node::state::StateFolder;
use obt_wire::{InfoHashes, Sha1Hash};
use tempfile::TempDir;

use crate::support::{Answer, PATIENCE, Tracker, file};

const INVITATION: Duration = Duration::from_secs(60);

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn alone() -> Tracker {
    Tracker::member(Arc::new(tempfile::tempdir().unwrap()), None).await
}

async fn join(member: &Tracker) -> Tracker {
    let line = member.server.operator().invite(INVITATION).await.unwrap();
    Tracker::member(Arc::new(tempfile::tempdir().unwrap()), Some(line)).await
}

fn voters(server: &TrackerServer) -> usize {
    let status = server.operator().status();
    status.members.iter().filter(|member| member.role != Role::Learner).count()
}

async fn three() -> Vec<Tracker> {
    let one = alone().await;
    let two = join(&one).await;
    let three = join(&two).await;
    let all = vec![one, two, three];
    for member in &all {
        until("three vote", async || (voters(&member.server) == 3).then_some(())).await;
    }
    all
}

async fn has(member: &Tracker, name: &str) {
    until(name, async || (member.get(&format!("/api/v1/items/{name}")).await.status == 200).then_some(())).await;
}

/// Publishes as a client does: again, where the cluster says that it cannot at the moment.
async fn publish(member: &Tracker, name: &str, seed: u8) -> Answer {
    let torrent = file(name, 20_000, seed);
    until("published", async || {
        let answer = member.publish(name, &torrent).await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

fn leader(members: &[Tracker]) -> usize {
    let leader = members[0].server.operator().status().leader.unwrap();
    members.iter().position(|member| member.server.operator().node() == leader).unwrap()
}

async fn stop(members: impl IntoIterator<Item = Tracker>) {
    for member in members {
        member.server.abort().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_member_takes_all_have_and_let_go() {
    let members = three().await;
    let follower = (leader(&members) + 1) % 3;
    assert_eq!(publish(&members[follower], "a", 1).await.status, 201);
    assert_eq!(members[follower].get("/api/v1/items/a").await.status, 200, "whoever took it shows it at once");
    for member in &members {
        has(member, "a").await;
        // Every member holds the swarm, whoever was asked to publish.
        until("held", async || (member.server.state().pinned().len() == 1).then_some(())).await;
    }
    let key = members[follower].server.publisher();
    let withdrawn = members[leader(&members)].signed("DELETE", "/api/v1/items/a", b"", key).await;
    assert_eq!(withdrawn.status, 200, "{}", withdrawn.text());
    for member in &members {
        assert_eq!(member.get("/api/v1/items/a?consistent=1").await.status, 404);
        until("let go", async || member.server.state().pinned().is_empty().then_some(())).await;
    }
    stop(members).await;
}

/// A stock client's announce of a swarm that no name holds.
async fn announce(member: &Tracker, port: u16, left: u64, event: &str) {
    let path = format!(
        "/announce?info_hash={}&peer_id=-XX0001-{port:012}&port={port}&uploaded=0&downloaded=0&left={left}&event={event}",
        "%07".repeat(20)
    );
    assert_eq!(member.get(&path).await.status, 200);
}

async fn until_it_counts(member: &Tracker, seeds: u32, leechers: u32) {
    let hashes = InfoHashes { v1: Some(Sha1Hash([7; 20])), v2: None };
    until("the members agree", async || {
        let stats = member.server.state().stats(&hashes, Instant::now());
        ((stats.seeds, stats.leechers) == (seeds, leechers)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_announces_to_one_member_is_known_to_all() {
    let mut members = three().await;
    announce(&members[0], 7001, 0, "started").await;
    announce(&members[1], 7002, 9, "started").await;
    for member in &members {
        until_it_counts(member, 1, 1).await;
    }
    announce(&members[1], 7002, 0, "completed").await;
    announce(&members[0], 7001, 0, "stopped").await;
    for member in &members {
        until_it_counts(member, 1, 0).await;
    }
    let late = join(&members[0]).await;
    until_it_counts(&late, 1, 0).await;
    members.push(late);
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn torrents_name_all_members_as_tiers_and_whoever_is_asked_first() {
    let members = three().await;
    assert_eq!(publish(&members[0], "a", 1).await.status, 201);
    for member in &members {
        has(member, "a").await;
        let torrent = member.get("/items/a.torrent").await;
        assert_eq!(torrent.status, 200);
        let text = String::from_utf8_lossy(&torrent.body).into_owned();
        let own = format!("http://tracker.test:{}/announce", member.server.port());
        assert!(text.contains(&format!("8:announce{}:{own}", own.len())), "{text}");
        let others = members.iter().filter(|other| other.server.port() != member.server.port());
        for port in others.map(|other| other.server.port()) {
            let (http, udp) = (format!("http://127.0.0.1:{port}/announce"), format!("udp://127.0.0.1:{port}/announce"));
            let tier = format!("l{}:{http}{}:{udp}e", http.len(), udp.len());
            assert!(text.contains(&tier), "{text}");
        }
    }
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_lists_the_members_and_answers_say_how_old_they_are() {
    let members = three().await;
    for member in &members {
        let status = member.get("/api/v1/status").await.json();
        let told = status["members"].as_array().unwrap();
        assert_eq!(told.len(), 3);
        assert!(told.iter().any(|one| one["id"] == status["leader"] && one["role"] == "leader"), "{status}");
        let own = format!("127.0.0.1:{}", member.server.port());
        assert!(told.iter().any(|one| one["address"] == own.as_str()), "{status}");
        let list = member.get("/api/v1/items?consistent=1").await;
        assert_eq!(list.status, 200);
        assert!(list.header("obt-as-of").unwrap().parse::<u64>().is_ok());
    }
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_is_replaced_and_nothing_is_lost() {
    let mut members = three().await;
    assert_eq!(publish(&members[0], "a", 1).await.status, 201);
    let dead = members.remove(leader(&members));
    dead.server.abort().await;
    for (number, member) in members.iter().enumerate() {
        assert_eq!(publish(member, &format!("after-{number}"), 2).await.status, 201);
    }
    for member in &members {
        for name in ["a", "after-0", "after-1"] {
            has(member, name).await;
        }
    }
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_before_it_goes() {
    let mut members = three().await;
    let going = members.remove(leader(&members));
    let node = going.server.operator().node();
    going.server.shutdown().await;
    let leader = members[0].server.operator().status().leader;
    assert!(leader.is_some_and(|leader| leader != node), "{leader:?}");
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_reads_and_announces_and_refuses_to_publish() {
    let mut members = three().await;
    assert_eq!(publish(&members[0], "a", 1).await.status, 201);
    has(&members[2], "a").await;
    let last = members.pop().unwrap();
    stop(members).await;
    let refused = last.publish("b", &file("b", 20_000, 2)).await;
    assert_eq!(refused.error(), (503, "no_majority".to_owned()));
    assert!(refused.header("retry-after").is_some());
    let item = last.get("/api/v1/items/a").await;
    assert_eq!(item.status, 200);
    assert!(item.header("obt-as-of").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(last.get("/api/v1/items/a?consistent=1").await.status, 503);
    let hash = "%01".repeat(20);
    let announce = format!(
        "/announce?info_hash={hash}&peer_id=-OB0001-123456789012&port=6881&uploaded=0&downloaded=0&left=0&event=started"
    );
    let announced = last.get(&announce).await;
    assert!(announced.status == 200 && announced.text().contains("8:interval"), "{}", announced.text());
    let ready = last.get("/readyz").await;
    assert!(ready.status == 200 && ready.text().contains("ready to read"), "{}", ready.text());
    stop([last]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_of_a_catalogue_with_names_gets_all_of_it() {
    let one = alone().await;
    for number in 0..20 {
        assert_eq!(publish(&one, &format!("n{number}"), number).await.status, 201);
    }
    let two = join(&one).await;
    for number in 0..20 {
        assert_eq!(two.get(&format!("/api/v1/items/n{number}")).await.status, 200);
        assert_eq!(two.get(&format!("/items/n{number}.torrent")).await.status, 200);
    }
    assert_eq!(two.server.state().pinned().len(), 20);
    let warnings = two.server.operator().status().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("one voter of 2 members")), "{warnings:?}");
    stop([one, two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_that_stop_at_once_come_back_with_all_names() {
    let members = three().await;
    for number in 0..5 {
        assert_eq!(publish(&members[number % 3], &format!("n{number}"), 1).await.status, 201);
    }
    let folders: Vec<Arc<TempDir>> = members.iter().map(|member| Arc::clone(&member.folder)).collect();
    stop(members).await;
    let mut back = Vec::new();
    for folder in folders {
        back.push(Tracker::member(folder, None).await);
    }
    for member in &back {
        for number in 0..5 {
            has(member, &format!("n{number}")).await;
        }
    }
    assert_eq!(publish(&back[0], "after", 2).await.status, 201);
    stop(back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_leaves_and_another_takes_its_place() {
    let mut members = three().await;
    let fourth = join(&members[0]).await;
    let gone = members.pop().unwrap();
    gone.server.operator().leave(gone.server.operator().node()).await.unwrap();
    gone.server.abort().await;
    until("it is gone", async || (members[0].server.operator().status().members.len() == 3).then_some(())).await;
    until("the fourth votes", async || (voters(&fourth.server) == 3).then_some(())).await;
    members.push(fourth);
    stop(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n06_a_line_is_good_once_and_who_comes_second_is_told_why() {
    let one = alone().await;
    let line = one.server.operator().invite(INVITATION).await.unwrap();
    let two = Tracker::member(Arc::new(tempfile::tempdir().unwrap()), Some(line.clone())).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = TrackerConfig::new(StateFolder::open(folder.path()).unwrap());
    config.listen = TrackerListen { addr: Some([127, 0, 0, 1].into()), port: TrackerPort::Exactly(0) };
    config.cluster.join = Some(line.clone());
    let refused = TrackerServer::start(config).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("invitation was used"), "{refused}");

    // In the start script of the one that is a member the line stays, and says nothing.
    let folder = Arc::clone(&two.folder);
    two.server.abort().await;
    let two = Tracker::member(folder, Some(line)).await;
    stop([one, two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_alone_has_no_port_for_members_until_it_invites() {
    let one = alone().await;
    let addresses = |one: &Tracker| one.server.operator().status().members[0].member.addresses.clone();
    assert!(addresses(&one).is_empty());
    one.server.operator().invite(INVITATION).await.unwrap();
    let told = addresses(&one);
    assert_eq!(told.len(), 1);
    let folder = Arc::clone(&one.folder);
    one.server.shutdown().await;
    let again = Tracker::member(folder, None).await;
    assert_eq!(addresses(&again), told, "the others find it where it was");
    assert!(tokio::net::TcpStream::connect(&told[0]).await.is_ok());
    stop([again]).await;
}
