//! One seed, N leechers that begin together: how long until the last has it all, and how that compares with the fluid
//! bound. Links have the queue, the headers and the sockets of the real ones that `bench/fanout` builds.
//!
//! `cargo run --release -p obt-sim --example makespan -- 1 2 4 8 16 32`; `RUNS=20` is how many seeds each, `CASES=slow`
//! leaves the equal links out, `BLOCKS=8` makes pieces of 128 KiB, where those that `obt share` makes have one block.

#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::error::Error;
use std::time::Duration;

use obt_sim::{Access, Setup, Share, Spec, Torrent, World, fluid_bound};
use obt_wire::BLOCK_SIZE;
use obt_wire::metainfo::Version;
use obt_wire::piece_length::piece_length;

/// What is shared, bytes.
const SIZE: u32 = 32 << 20;
/// Uplinks and downlinks, bytes per second.
const LINK: u64 = 10_000_000 / 8;
const QUEUE: Duration = Duration::from_millis(50);
const RUNS: u64 = 5;

/// One run, as multiples of the bound or of the torrent.
#[derive(Clone, Copy, Default)]
struct Figures {
    makespan: f64,
    mean: f64,
    first: f64,
    seed_sent: f64,
    /// Share of what the peers' uplinks could have sent until the last was done.
    uplinks: f64,
    wasted: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut counts: Vec<usize> = std::env::args().skip(1).filter_map(|count| count.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![1, 2, 4, 8, 16, 32];
    }
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let blocks = std::env::var("BLOCKS").ok().and_then(|blocks| blocks.parse().ok());
    let piece = blocks.map_or_else(|| piece_length(&[SIZE.into()]), |blocks: u32| blocks * BLOCK_SIZE);
    println!(
        "32 MiB in pieces of {} KiB, links of 10 Mbit/s with 50 ms of queue; `slow` has a seed of 2.5 Mbit/s",
        piece >> 10
    );
    println!("medians of {runs} runs, and the worst");
    println!("case   N  makespan/bound  (worst)  mean/bound  first/bound  seed sent/F  peers' uplinks  wasted/F");
    let cases = std::env::var("CASES").unwrap_or_else(|_| "equal,slow".to_owned());
    for (name, seed_up) in [("equal", LINK), ("slow", LINK / 4)] {
        if !cases.contains(name) {
            continue;
        }
        for count in &counts {
            let mut all = Vec::new();
            for seed in 1..=runs {
                all.push(measure(*count, seed_up, piece, seed)?);
            }
            let median = |of: fn(&Figures) -> f64| {
                let mut values: Vec<f64> = all.iter().map(of).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            println!(
                "{name:5} {count:2}  {:14.3}  {:7.3}  {:10.3}  {:11.3}  {:11.3}  {:14.3}  {:8.3}",
                median(|run| run.makespan),
                all.iter().map(|run| run.makespan).fold(0.0, f64::max),
                median(|run| run.mean),
                median(|run| run.first),
                median(|run| run.seed_sent),
                median(|run| run.uplinks),
                median(|run| run.wasted),
            );
        }
    }
    Ok(())
}

fn measure(count: usize, seed_up: u64, piece: u32, seed: u64) -> Result<Figures, Box<dyn Error>> {
    let torrent = Torrent::new(SIZE / BLOCK_SIZE, piece / BLOCK_SIZE, Version::Hybrid)?;
    let size = torrent.size() as f64;
    let pieces = torrent.geometry().pieces();
    let access = |up| Access::rates(up, LINK, Duration::from_micros(500)).queued(QUEUE);
    let mut setup = Setup::new(seed, torrent);
    setup.check_every = u64::MAX;
    let mut world = World::new(setup);
    let seed = world.join(Spec::seed(access(seed_up)))?;
    world.run(Duration::from_secs(1), |_| false)?;
    let begin = world.now();
    let spec = Spec::leecher(access(LINK), pieces);
    let leechers: Vec<_> = (0..count).map(|_| world.join(spec.clone())).collect::<Result<_, _>>()?;
    world.run(Duration::from_secs(600), |world| {
        leechers.iter().all(|leecher| world.node(*leecher).completed_at.is_some())
    })?;
    let share = Share { up: LINK, down: LINK };
    let bound = fluid_bound(size as u64, Share { up: seed_up, down: LINK }, &vec![share; count]).as_secs_f64();
    let took =
        |leecher| world.node(leecher).completed_at.map_or(f64::INFINITY, |at| (at - begin).as_secs_f64()) / bound;
    let took: Vec<f64> = leechers.iter().map(|leecher| took(*leecher)).collect();
    let stats = |node| world.node(node).swarm.snapshot(world.now());
    let makespan = took.iter().copied().fold(0.0, f64::max);
    let sum =
        |of: &dyn Fn(&obt_swarm::Stats) -> u64| leechers.iter().map(|leecher| of(&stats(*leecher))).sum::<u64>() as f64;
    let copies = size * count as f64;
    Ok(Figures {
        makespan,
        mean: took.iter().sum::<f64>() / count as f64,
        first: took.iter().copied().fold(f64::INFINITY, f64::min),
        seed_sent: stats(seed).uploaded as f64 / size,
        uplinks: sum(&|stats| stats.uploaded) / (makespan * bound * LINK as f64 * count as f64),
        wasted: sum(&|stats| stats.wasted) / copies,
    })
}
