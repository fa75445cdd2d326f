//! Members that come, go, die and return.
#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod support;

use std::time::{Duration, Instant};

use obt_catalogue::Outcome;
use obt_cluster::{ClusterFailure, Origin, Role, limits};
use support::{World, id, publish};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_member_alone_is_a_cluster_that_keeps_what_it_acknowledged() {
    let mut world = World::new();
    let one = world.found().await;
    world.open_to_all(one).await;
    assert_eq!(world.publish(one, "a").await, Ok(Outcome::Published { version: 1 }));
    let (node, status) = (world.at(one).node(), world.at(one).status());
    assert_eq!((status.members.len(), status.leader, status.writable), (1, Some(node), true));
    assert!(status.warnings.is_empty() && status.as_of.age_ms == Some(0));
    assert!(world.at(one).read_index().await.is_ok());

    world.kill(one).await;
    world.restart(one).await;
    assert_eq!(world.at(one).node(), node);
    assert_eq!(world.names(one), 1);
    assert_eq!(world.publish(one, "b").await, Ok(Outcome::Published { version: 1 }));
    assert!(world.fatal(one).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_gets_everything_and_votes_when_that_makes_an_odd_number() {
    let mut world = World::new();
    let one = world.found().await;
    world.open_to_all(one).await;
    for number in 0..50 {
        world.publish(one, &format!("name {number}")).await.unwrap();
    }
    let two = world.join(one).await;
    world.agree().await;
    assert_eq!(world.names(two), 50);
    assert_eq!(world.role(one, two), Some(Role::Learner));
    assert!(world.at(one).status().warnings[0].contains("a third member"));
    assert_eq!(world.at(two).secret(), world.at(one).secret());

    let three = world.join(two).await;
    world.until("three vote", |world| [one, two, three].iter().all(|place| world.voters(*place) == 3)).await;
    for (number, place) in [one, two, three].into_iter().enumerate() {
        let published = world.publish(place, &format!("by {number}")).await;
        assert_eq!(published, Ok(Outcome::Published { version: 1 }));
    }
    world.agree().await;
    for place in [one, two, three] {
        assert!(world.at(place).read_index().await.is_ok());
        assert!(world.read(place, |reader| reader.missing_blobs(9).unwrap().is_empty()));
        assert!(world.fatal(place).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_all_members_at_once_come_back_with_every_acknowledged_name() {
    let mut world = World::of(3).await;
    world.open_to_all(0).await;
    for number in 0..20 {
        world.publish(number % 3, &format!("name {number}")).await.unwrap();
    }
    for place in 0..3 {
        world.kill(place).await;
    }
    for place in 0..3 {
        world.restart(place).await;
    }
    world.until("they have a leader", |world| world.leader().is_some()).await;
    world.publish(1, "afterwards").await.unwrap();
    world.agree().await;
    assert_eq!(world.names(2), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn f52_a_dead_leader_is_replaced_and_each_command_counts_once() {
    let mut world = World::of(3).await;
    world.open_to_all(0).await;
    let leader = world.leader().unwrap();
    let follower = (leader + 1) % 3;
    let (command, blob) = publish("a");
    let id = id();
    let first = world.at(follower).propose(id, command.clone(), Some(blob.clone())).await;
    world.kill(leader).await;
    let again = world.at(follower).propose(id, command, Some(blob)).await;
    assert_eq!(again, first, "the answer of the first time, not that the name is there already");
    world.until("there is a new leader", |world| world.leader().is_some_and(|new| new != leader)).await;
    world.publish(follower, "b").await.unwrap();
    world.restart(leader).await;
    world.agree().await;
    assert_eq!(world.names(leader), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn f53_a_minority_reads_and_refuses_and_heals() {
    let world = World::of(3).await;
    world.open_to_all(0).await;
    world.publish(0, "before").await.unwrap();
    world.agree().await;
    let minority = world.leader().unwrap();
    let majority: Vec<usize> = (0..3).filter(|place| *place != minority).collect();
    world.cut(&[minority], &majority);
    world
        .until("the others have a leader", |world| {
            let leader = world.at(majority[0]).leader();
            leader.is_some() && leader != Some(world.at(minority).node())
        })
        .await;
    world.publish(majority[1], "with the majority").await.unwrap();

    world.until("the minority knows", |world| !world.at(minority).status().writable).await;
    let refused = world.publish(minority, "alone").await;
    assert!(matches!(refused, Err(ClusterFailure::NoQuorum | ClusterFailure::NoLeader)), "{refused:?}");
    let stale = world.at(minority).read_index().await;
    assert!(stale.is_err(), "n07: no consistent read at a deposed leader");
    assert_eq!(world.names(minority), 1, "it still answers");
    assert!(world.at(minority).as_of().age_ms.is_some_and(|age| age > 0));
    assert!(!world.at(minority).status().warnings.is_empty());

    world.heal();
    world.agree().await;
    assert_eq!(world.names(minority), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_while_it_was_cut_off_finds_that_it_has_left() {
    let world = World::of(3).await;
    let gone = (world.leader().unwrap() + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|place| *place != gone).collect();
    let node = world.at(gone).node();
    world.cut(&[gone], &others);
    world.at(others[0]).leave(node).await.unwrap();
    world.until("it hears nobody", |world| world.at(gone).leader().is_none()).await;
    world.heal();
    // Nobody speaks to it any more, so it would wait for a leader for ever.
    world.at(gone).leave(node).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_started_again_behind_its_log_answers_with_no_old_read_index() {
    let mut world = World::new();
    // Nobody else is to lead meanwhile.
    world.timing.election = (Duration::from_secs(60), Duration::from_secs(90));
    let leader = world.found().await;
    world.open_to_all(leader).await;
    let others = [world.join(leader).await, world.join(leader).await];
    world.until("three vote", |world| world.voters(leader) == 3).await;
    world.agree().await;
    world.kill(leader).await;
    let (catalogue, before) = (world.catalogue(leader), world.catalogue(others[0]).with_extension("before"));
    std::fs::copy(&catalogue, &before).unwrap();
    world.restart(leader).await;
    world.until("it leads again", |world| world.at(leader).status().writable).await;
    world.publish(others[0], "a").await.unwrap();
    world.agree().await;
    let index = world.at(others[0]).read_index().await.unwrap();
    world.kill(leader).await;
    // As if it had stopped while it applied that.
    std::fs::copy(&before, &catalogue).unwrap();

    // The answers by which it finds out what is committed take longer than the question comes after its start.
    world.set_delay(Duration::from_millis(30));
    world.restart(leader).await;
    while world.at(leader).leader().is_none() {
        tokio::task::yield_now().await;
    }
    assert!(world.at(leader).read_index().await.unwrap() >= index);
    assert_eq!(world.names(leader), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_for_longer_than_an_election_refuses_at_once() {
    let world = World::of(3).await;
    world.open_to_all(0).await;
    let alone = (world.leader().unwrap() + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|place| *place != alone).collect();
    world.cut(&[alone], &others);
    world.until("it is alone for long", |world| world.at(alone).as_of().age_ms.is_some_and(|age| age > 3_000)).await;
    let refused = timeout(limits::PROPOSE / 2, world.publish(alone, "a")).await.expect("it does not wait for a leader");
    assert!(matches!(refused, Err(ClusterFailure::NoLeader | ClusterFailure::NoQuorum)), "{refused:?}");
    let stale = timeout(limits::ASK / 2, world.at(alone).read_index()).await.expect("nor does a consistent read");
    assert_eq!(stale, Err(ClusterFailure::NoLeader));
    world.heal();
    world.until("it hears a leader again", |world| world.at(alone).status().writable).await;
    world.publish(alone, "b").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f53_who_follows_a_leader_that_was_replaced_says_how_old_its_answers_are() {
    let world = World::of(5).await;
    world.open_to_all(0).await;
    let known = |world: &World| world.places().into_iter().all(|place| world.at(place).as_of().age_ms.is_some());
    world.until("all know how old they are", known).await;
    let old = world.leader().unwrap();
    let few = [old, (old + 1) % 5];
    let many: Vec<usize> = world.places().into_iter().filter(|place| !few.contains(place)).collect();
    let old_node = world.at(old).node();
    world.cut(&few, &many);
    let replaced = |world: &World, place: &usize| world.at(*place).leader().is_some_and(|leader| leader != old_node);
    world.until("there is another leader", |world| many.iter().all(|place| replaced(world, place))).await;
    world.publish(many[0], "later").await.unwrap();
    // The old leader goes on to be heard by the one that it reaches.
    let acknowledged = Instant::now();
    world
        .until("some heartbeats later", |world| {
            for place in few {
                let since = acknowledged.elapsed().as_millis();
                let age = world.at(place).as_of().age_ms.unwrap();
                assert!(u128::from(age) >= since, "{place} says {age} ms, and misses what is {since} ms old");
            }
            acknowledged.elapsed() > Duration::from_secs(1)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_that_missed_a_member_reaches_it_by_its_hash() {
    let world = World::of(3).await;
    world.open_to_all(0).await;
    let leader = world.leader().unwrap();
    let other = (leader + 1) % 3;
    world.keep_blobs_from(&[other]);
    world.publish(leader, "a").await.unwrap();
    let hash = publish("a").1;
    let hash = obt_catalogue::BlobHash::of(&hash);
    world.until("it has it", |world| world.read(other, |reader| reader.has_blob(hash).unwrap())).await;
    world.keep_blobs_from(&[other, (leader + 2) % 3]);
    let refused = world.publish(leader, "b").await;
    assert_eq!(refused, Err(ClusterFailure::NoQuorum), "no majority holds the torrent");
}

#[tokio::test(flavor = "multi_thread")]
async fn f64_a_wiped_member_returns_as_another_one() {
    let mut world = World::of(3).await;
    world.open_to_all(0).await;
    world.publish(0, "a").await.unwrap();
    let leader = world.leader().unwrap();
    let wiped = (leader + 1) % 3;
    let old = world.at(wiped).node();
    world.kill(wiped).await;
    let new = world.join(leader).await;
    assert_ne!(world.at(new).node(), old);
    assert_eq!(world.role(leader, new), Some(Role::Learner), "three are voters, though one is away");
    world.at(leader).leave(old).await.unwrap();
    world.until("it votes", |world| world.role(leader, new) == Some(Role::Voter)).await;
    assert_eq!(world.voters(leader), 3);
    assert!(!world.at(leader).members().borrow().all.contains_key(&old));
}

/// Four members of whom three vote, who replace a voter soon; the leader, and another voter.
async fn with_one_to_spare() -> (World, usize, usize) {
    let mut world = World::new();
    world.timing.replace_after = Duration::from_millis(1_500);
    world.found().await;
    for _ in 0..3 {
        world.join(0).await;
    }
    world.until("three vote", |world| world.voters(0) == 3).await;
    let leader = world.leader().unwrap();
    let voter = (0..4).find(|place| *place != leader && world.role(leader, *place) == Some(Role::Voter)).unwrap();
    (world, leader, voter)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_stays_away_is_replaced() {
    let (mut world, leader, dead) = with_one_to_spare().await;
    let node = world.at(dead).node();
    world.kill(dead).await;
    world
        .until("another votes", |world| {
            let members = world.at(leader).members().borrow().clone();
            members.voters.len() == 3 && !members.voters.contains(&node)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_replaced_while_it_was_cut_off_stands_down_instead_of_raising_its_term() {
    let (world, leader, lost) = with_one_to_spare().await;
    let others: Vec<usize> = (0..4).filter(|place| *place != lost).collect();
    world.cut(&[lost], &others);
    world.until("another votes in its place", |world| world.role(leader, lost) == Some(Role::Learner)).await;
    // The leader does not reach it, so it stands for election among others who know better.
    world.heal();
    world.cut_one_way(leader, lost);
    let says_so = |warning: &String| warning.contains("votes no more");
    world.until("it stands down", |world| world.at(lost).status().warnings.iter().any(says_so)).await;
    world.heal();
    world.until("it knows that it is a learner", |world| world.role(lost, lost) == Some(Role::Learner)).await;
    world.open_to_all(lost).await;
    world.publish(lost, "a").await.unwrap();
    world.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_gone_and_the_last_one_stays() {
    let mut world = World::of(3).await;
    let leader = world.leader().unwrap();
    let other = (leader + 1) % 3;
    world.at(leader).leave(world.at(other).node()).await.unwrap();
    world.until("one votes", |world| world.voters(leader) == 1).await;
    let node = world.at(leader).node();
    let rest = (leader + 2) % 3;
    world.at(rest).leave(node).await.unwrap();
    world.until("the rest leads", |world| world.at(rest).leader() == Some(world.at(rest).node())).await;
    world.kill(leader).await;
    world.kill(other).await;
    let refused = world.at(rest).leave(world.at(rest).node()).await;
    assert!(matches!(refused, Err(ClusterFailure::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over() {
    let world = World::of(3).await;
    world.open_to_all(0).await;
    let leader = world.leader().unwrap();
    let other = (leader + 1) % 3;
    let stopping = world.at(leader);
    let stopped = tokio::spawn(async move { stopping.shutdown().await });
    world.publish(other, "meanwhile").await.unwrap();
    stopped.await.unwrap();
    let new = world.at(other).leader();
    assert!(new.is_some() && new != Some(world.at(leader).node()));
}

#[tokio::test(flavor = "multi_thread")]
async fn n01_an_invitation_is_good_once_and_for_its_cluster() {
    let mut world = World::new();
    let one = world.found().await;
    let line = world.at(one).invite(Duration::from_secs(60)).await.unwrap();
    for first in [true, false] {
        let place = world.seat();
        world.start(place, world.config(place, Origin::Join(line.clone()))).await.unwrap();
        if first {
            world.until("it is in", |world| !world.at(place).secret().is_empty()).await;
        } else {
            let refused = world.publish(place, "a").await;
            assert_eq!(refused, Err(ClusterFailure::NoQuorum), "a stranger has no voters to store a torrent at");
            assert!(world.at(place).secret().is_empty());
        }
    }
    assert_eq!(world.at(one).members().borrow().all.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_moved_is_known_at_its_new_place() {
    let mut world = World::of(3).await;
    let moved = (world.leader().unwrap() + 1) % 3;
    let node = world.at(moved).node();
    world.kill(moved).await;
    let mut config = world.config(moved, Origin::Found);
    config.member.addresses = vec!["elsewhere:2".to_owned()];
    config.member.trackers = vec!["elsewhere:6969".to_owned()];
    let after = config.member.clone();
    world.start(moved, config).await.unwrap();
    let knows = |world: &World, place| world.at(place).members().borrow().all.get(&node) == Some(&after);
    world.until("all know", |world| (0..3).all(|place| knows(world, place))).await;
    assert_eq!(world.voters(0), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_state_goes_past_the_log() {
    let mut world = World::of(3).await;
    let mut incoming = world.incoming(1);
    let to = world.at(1).node();
    world.at(0).send_soft(to, bytes::Bytes::from_static(b"deltas")).await.unwrap();
    assert_eq!(incoming.soft.recv().await.unwrap(), (world.at(0).node(), bytes::Bytes::from_static(b"deltas")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_as_many_members_as_it_may_says_so_to_the_next() {
    let mut world = World::of(limits::MEMBERS).await;
    let line = world.at(0).invite(limits::INVITATION).await.unwrap();
    let place = world.seat();
    world.start(place, world.config(place, Origin::Join(line))).await.unwrap();
    let refused = world.at(place).joined(Duration::from_secs(1)).await.unwrap_err();
    assert!(refused.to_string().contains("16 members"), "{refused}");
    assert_eq!(world.at(0).status().members.len(), limits::MEMBERS);
}
