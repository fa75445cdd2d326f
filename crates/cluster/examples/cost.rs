//! What consensus costs: start, one publisher, many publishers, at so many members in one process.
//!
//! `cargo run --release -p obt-cluster --example cost [MEMBERS]`; `strace -f -c -e trace=fsync` counts the syncs.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it is run by hand")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use obt_catalogue::{Catalogue, Command, Envelope, PublishPolicy};
use obt_cluster::Origin;
use support::{World, id, now_ms, publish};

const TURNS: usize = 300;
const STARTS: usize = 30;
const PUBLISHERS: usize = 64;
const EACH: usize = 50;

#[tokio::main]
async fn main() {
    let members = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1);
    if members == 1 {
        without_consensus();
        starts().await;
    }
    let world = World::of(members).await;
    world.open_to_all(0).await;
    world.agree().await;
    one_publisher(&world).await;
    many_publishers(&world, members).await;
}

/// The same torrents and commands straight into a catalogue, as a tracker without a log does it.
fn without_consensus() {
    let folder = tempfile::tempdir().unwrap();
    let mut catalogue = Catalogue::open(&folder.path().join("catalogue")).unwrap();
    let open = Command::SetPublishPolicy { policy: PublishPolicy::Open };
    catalogue.apply(&[Envelope::new(id(), now_ms(), open)]).unwrap();
    let publishes = (0..TURNS).map(|number| {
        let (command, blob) = publish(&format!("name {number}"));
        let start = Instant::now();
        catalogue.put_blob(&blob, now_ms()).unwrap();
        catalogue.apply(&[Envelope::new(id(), now_ms(), command)]).unwrap();
        start.elapsed()
    });
    show("catalogue alone, one publisher", publishes.collect());
}

async fn starts() {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut world = World::new();
        let place = world.seat();
        for times in [&mut first, &mut again] {
            let config = world.config(place, Origin::Found);
            let start = Instant::now();
            world.start(place, config).await.unwrap();
            times.push(start.elapsed());
            world.open_to_all(place).await;
            world.kill(place).await;
        }
    }
    show("first start", first);
    show("later start", again);
}

async fn one_publisher(world: &World) {
    let leader = world.leader().unwrap();
    let mut times = Vec::new();
    for number in 0..TURNS {
        let start = Instant::now();
        world.publish(leader, &format!("name {number}")).await.unwrap();
        times.push(start.elapsed());
    }
    show("one publisher", times);
}

async fn many_publishers(world: &World, members: usize) {
    let start = Instant::now();
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let cluster = world.at(publisher % members);
        tokio::spawn(async move {
            for number in 0..EACH {
                let (command, blob) = publish(&format!("name {publisher} {number}"));
                cluster.propose(id(), command, Some(blob)).await.unwrap();
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let rate = (PUBLISHERS * EACH) as f64 / start.elapsed().as_secs_f64();
    println!("{PUBLISHERS} publishers: {rate:.0}/s");
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!("{what}: median {:?}, 99 % {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
}
