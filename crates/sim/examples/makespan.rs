//! One seed, N leechers that begin together, equal links: how long until the last has it all, and how that compares
//! with the fluid bound.
//!
//! `cargo run --release -p obt-sim --example makespan -- 1 2 4 8 16`

#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::error::Error;
use std::time::Duration;

use obt_sim::{Access, Setup, Share, Spec, Torrent, World, fluid_bound, seed_of_run};
use obt_wire::metainfo::Version;

const MEBIBYTE: u32 = 64;

struct Case {
    leechers: usize,
    up: u64,
    seed_up: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut counts: Vec<usize> = std::env::args().skip(1).filter_map(|count| count.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![1, 2, 4, 8, 16];
    }
    println!("32 MiB in pieces of 128 KiB; links of 10 Mbit/s, 5 ms; `slow` has a seed of 2.5 Mbit/s");
    println!("case   N  makespan/bound  mean/bound  first/bound  seed sent/F  received/F  duplicates");
    for leechers in counts {
        for (name, seed_up) in [("equal", 10_000_000 / 8), ("slow", 2_500_000 / 8)] {
            measure(name, &Case { leechers, up: 10_000_000 / 8, seed_up })?;
        }
    }
    Ok(())
}

fn measure(name: &str, case: &Case) -> Result<(), Box<dyn Error>> {
    let torrent = Torrent::new(32 * MEBIBYTE, 8, Version::Hybrid)?;
    let size = torrent.size();
    let pieces = torrent.geometry().pieces();
    let latency = Duration::from_micros(2_500);
    let mut setup = Setup::new(seed_of_run(1), torrent);
    setup.check_every = u64::MAX;
    let mut world = World::new(setup);
    let seed = world.join(Spec::seed(Access::rates(case.seed_up, case.up, latency)))?;
    world.run(Duration::from_secs(1), |_| false)?;
    let begin = world.now();
    let access = Access::rates(case.up, case.up, latency);
    let leechers: Result<Vec<_>, _> = (0..case.leechers).map(|_| world.join(Spec::leecher(access, pieces))).collect();
    let leechers = leechers?;
    let done = world.run(Duration::from_secs(3_600), |world| {
        leechers.iter().all(|leecher| world.node(*leecher).completed_at.is_some())
    })?;
    let share = Share { up: case.up, down: case.up };
    let bound = fluid_bound(size, Share { up: case.seed_up, down: case.up }, &vec![share; case.leechers]);
    let took: Vec<f64> = leechers
        .iter()
        .filter_map(|leecher| world.node(*leecher).completed_at)
        .map(|at| (at - begin).as_secs_f64() / bound.as_secs_f64())
        .collect();
    let last = took.iter().copied().fold(0.0, f64::max);
    let first = took.iter().copied().fold(f64::INFINITY, f64::min);
    let mean = took.iter().sum::<f64>() / took.len().max(1) as f64;
    let stats = |node| world.node(node).swarm.snapshot(world.now());
    let seed_sent = stats(seed).uploaded as f64 / size as f64;
    let copies = size as f64 * case.leechers as f64;
    let received = leechers.iter().map(|leecher| stats(*leecher).downloaded).sum::<u64>() as f64 / copies;
    let wasted = leechers.iter().map(|leecher| stats(*leecher).wasted).sum::<u64>() as f64 / copies;
    let leechers = case.leechers;
    println!(
        "{name:5} {leechers:2}  {last:14.3}  {mean:10.3}  {first:11.3}  {seed_sent:11.3}  {received:10.3}  {wasted:10.3}{}",
        if done { "" } else { "  not done" }
    );
    Ok(())
}
