//! Elections: many fresh clusters whose leader is cut off, with delays on the links and real disks.
//!
//! `OBT_FAILOVERS=200 cargo test --release -p obt-cluster --test failover -- --nocapture` is the whole run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "all of it is a test")]

mod support;

use std::time::{Duration, Instant};

use support::World;
use tokio::task::JoinSet;

/// With openraft's feature `single-term-leader` up to half of all elections take longer than this, or never end; the
/// default has to do with one or two rounds.
const LIMIT: Duration = Duration::from_secs(15);

/// Clusters at once: they wait for their timers most of the time.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_fresh_cluster_elects_again_when_its_leader_is_cut_off() {
    let count = std::env::var("OBT_FAILOVERS").ok().and_then(|count| count.parse().ok()).unwrap_or(8);
    let mut times = Vec::new();
    let mut running = JoinSet::new();
    for _ in 0..count {
        if running.len() == AT_ONCE {
            times.extend(running.join_next().await.unwrap());
        }
        running.spawn(election());
    }
    times.extend(running.join_all().await);
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{count} elections: median {:?}, 99 % {:?}, longest {:?}", at(0.5), at(0.99), at(1.0));
    assert!(at(1.0) < LIMIT, "{times:?}");
}

/// How long a fresh cluster of three was without a leader.
async fn election() -> Duration {
    let mut world = World::of(3).await;
    world.open_to_all(0).await;
    // Delays of a few milliseconds each way, and members that did not begin to tick together.
    world.set_delay(Duration::from_micros(fastrand::u64(200..5_000)));
    let again = fastrand::usize(0..3);
    world.kill(again).await;
    world.restart(again).await;
    world.until("all follow one leader", |world| world.leader().is_some()).await;
    let old = world.leader().unwrap();
    let rest: Vec<usize> = (0..3).filter(|place| *place != old).collect();
    let old_node = world.at(old).node();
    world.cut(&[old], &rest);
    let start = Instant::now();
    let replaced = |world: &World, place: &usize| world.at(*place).leader().is_some_and(|leader| leader != old_node);
    world.until("there is another leader", |world| rest.iter().any(|place| replaced(world, place))).await;
    let took = start.elapsed();
    world.publish(rest[0], "afterwards").await.unwrap();
    for place in world.places() {
        world.kill(place).await;
    }
    took
}
