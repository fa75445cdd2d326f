//! The announce exchange of a cluster in virtual time: links that delay, lose and are cut, members that die and come
//! back, clients that move; and whether the checks would notice a mistake.

use std::time::{Duration, Instant};

use obt_sim::cluster::{Cluster, ClusterSetup, Mistake};
use obt_sim::seed_of_run;

use crate::runs::{RUNS, secs};

/// How a story goes: what was wrong, if anything was.
type Story = Result<Cluster, String>;

#[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
fn cluster(seed: u64, members: usize) -> Cluster {
    Cluster::new(setup(seed, members), Instant::now())
}

fn setup(seed: u64, members: usize) -> ClusterSetup {
    let (latency, jitter) = (Duration::from_millis(20), Duration::from_millis(30));
    ClusterSetup { seed, members, latency, jitter, loss: 0.0, mistake: None }
}

fn each_seed(test: impl Fn(u64) -> Story) {
    let first = seed_of_run(0);
    let runs = if first == 0 { 4 * RUNS } else { 1 };
    for seed in first..first + runs {
        if let Err(what) = test(seed) {
            panic!("SIM_SEED={seed}: {what}");
        }
    }
}

/// [`story`], with clients that come back to their addresses too.
fn story_with_returns(cluster: Cluster, seed: u64, fault: impl Fn(&mut Cluster, &mut fastrand::Rng)) -> Story {
    story(cluster, seed, |cluster, rng| if rng.u8(..4) == 0 { cluster.come_back() } else { fault(cluster, rng) })
}

/// Clients come, complete, leave and die, while `fault` does something every so often; in the end all is well, and all
/// agree in time.
fn story(mut cluster: Cluster, seed: u64, fault: impl Fn(&mut Cluster, &mut fastrand::Rng)) -> Story {
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..3 {
        (0..12).for_each(|client| cluster.join(client % 3 == 0));
        for _ in 0..40 {
            match rng.u8(..10) {
                0..2 => cluster.join(rng.bool()),
                2..4 => cluster.complete(),
                4 => cluster.leave(true),
                5 => cluster.leave(false),
                _ => fault(&mut cluster, &mut rng),
            }
            cluster.run(Duration::from_millis(rng.u64(..12_000)))?;
        }
        cluster.heal();
        cluster.run(cluster.agreement())?;
        cluster.agree().map_err(|what| format!("round {round}, at {:?}: {what}", cluster.elapsed()))?;
        cluster.thaw();
    }
    // Whoever died without a word is gone everywhere when its life is over.
    cluster.run(secs(800))?;
    Ok(cluster)
}

fn partitions(cluster: &mut Cluster, rng: &mut fastrand::Rng, members: usize) {
    let (one, other) = (rng.usize(..members), rng.usize(..members));
    if rng.bool() { cluster.cut(one, other) } else { cluster.connect(one, other) }
}

fn deaths(cluster: &mut Cluster, rng: &mut fastrand::Rng, members: usize) {
    let member = rng.usize(..members);
    if cluster.runs(member) { cluster.kill(member) } else { cluster.start(member) }
}

#[test]
fn members_that_are_connected_know_the_same() {
    each_seed(|seed| {
        let mut cluster = story_with_returns(cluster(seed, 3), seed, |_, _| {})?;
        let counts: Vec<(u32, u32)> = (0..3).map(|member| cluster.completed(member)).collect();
        assert!(counts.iter().all(|(counted, all)| counted == all), "SIM_SEED={seed}: {counts:?}");
        assert_eq!(cluster.overflows(), 0, "SIM_SEED={seed}");
        Ok(cluster)
    });
}

#[test]
fn f53_f55_after_partitions_of_every_shape_all_agree_within_an_interval() {
    each_seed(|seed| {
        let mut cluster = story_with_returns(cluster(seed, 5), seed, |cluster, rng| partitions(cluster, rng, 5))?;
        let counts: Vec<(u32, u32)> = (0..5).map(|member| cluster.completed(member)).collect();
        assert!(counts.iter().all(|(counted, all)| counted == all), "SIM_SEED={seed}: {counts:?}");
        Ok(cluster)
    });
}

#[test]
fn f52_members_die_and_come_back_and_nobody_who_lives_is_missed() {
    each_seed(|seed| {
        story_with_returns(cluster(seed, 4), seed, |cluster, rng| match rng.u8(..3) {
            0 => deaths(cluster, rng, 4),
            _ => partitions(cluster, rng, 4),
        })
    });
}

#[test]
fn f30_lost_packets_delay_news_and_lose_none() {
    each_seed(|seed| {
        let setup = ClusterSetup { loss: 0.05, ..setup(seed, 3) };
        #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
        let cluster = Cluster::new(setup, Instant::now());
        story_with_returns(cluster, seed, |cluster, rng| partitions(cluster, rng, 3))
    });
}

#[test]
fn every_mistake_of_an_exchange_is_noticed_by_the_check_that_is_about_it() {
    for mistake in Mistake::ALL {
        let check = match mistake {
            Mistake::KeepsStopsToItself => "and is listed at member",
            Mistake::KeepsOldNewsToItself | Mistake::ForgetsRenewals => "is missing at member",
            Mistake::MakesNewsYoung => "is listed at member",
            Mistake::TellsOfNoSeeds => "members disagree",
            Mistake::CountsTwice => "downloads of",
        };
        // Whatever notices it first ends a story, so that not each of them gets to the check that is about it.
        let noticed: Vec<String> = (0..16)
            .filter_map(|seed| {
                let setup = ClusterSetup { mistake: Some(mistake), ..setup(seed, 3) };
                #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
                let cluster = Cluster::new(setup, Instant::now());
                story(cluster, seed, |cluster, rng| partitions(cluster, rng, 3)).err()
            })
            .collect();
        let by_its_check = noticed.iter().any(|what| what.contains(check));
        assert!(by_its_check, "{mistake:?} was to be noticed by {check:?}: {noticed:#?}");
    }
}
