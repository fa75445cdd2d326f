//! Whole swarms: everyone finishes, liars are found, nothing is said or served that was not verified.

use std::collections::BTreeSet;
use std::time::Duration;

use obt_sim::disk::DiskSpec;
use obt_sim::{Access, Broken, Conduct, Fault, NodeIndex, Setup, Share, Spec, Torrent, World, fluid_bound};
use obt_wire::metainfo::Version;

use crate::runs::{LIMIT, each_seed, finish, join_leechers, leecher, link, secs, torrent, world};

#[test]
fn one_seed_and_ten_leechers_all_finish_with_hardly_a_block_sent_twice() {
    each_seed(|seed| {
        let mut world = world(seed);
        world.join(Spec::seed(link()))?;
        let leechers = join_leechers(&mut world, 10)?;
        finish(&mut world)?;
        let now = world.now();
        let wasted: u64 = leechers.iter().map(|leecher| world.node(*leecher).swarm.snapshot(now).wasted).sum();
        assert!(wasted * 20 <= world.torrent().size() * 10, "SIM_SEED={seed}: {wasted} bytes wasted");
        Ok(())
    });
}

#[test]
fn a_crowd_behind_one_seed_finishes_near_the_fluid_bound_because_each_piece_leaves_the_seed_about_once() {
    each_seed(|number| {
        let mut setup = Setup::new(number, Torrent::new(1_024, 4, Version::Hybrid).unwrap());
        setup.check_every = 499;
        let mut world = World::new(setup);
        let seed = world.join(Spec::seed(link()))?;
        world.run(secs(1), |_| false)?;
        let begin = world.elapsed();
        let leechers = join_leechers(&mut world, 8)?;
        finish(&mut world)?;
        let share = Share { up: link().up, down: link().down };
        let bound = fluid_bound(world.torrent().size(), share, &vec![share; leechers.len()]);
        let took = world.elapsed() - begin - secs(2);
        assert!(took < bound.mul_f64(1.2), "SIM_SEED={number}: {took:?}, the bound is {bound:?}");
        let sent = world.node(seed).swarm.snapshot(world.now()).uploaded;
        assert!(sent * 4 < world.torrent().size() * 5, "SIM_SEED={number}: the seed sent {sent} bytes");
        Ok(())
    });
}

#[test]
fn every_version_of_torrent_and_a_magnet_work() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        for magnet in [false, true] {
            each_seed(|seed| {
                let mut world = World::new(Setup::new(seed, torrent(version)));
                world.join(Spec::seed(link()))?;
                let spec = Spec { magnet, ..leecher(&world) };
                for _ in 0..3 {
                    world.join(spec.clone())?;
                }
                finish(&mut world)
            });
        }
    }
}

#[test]
fn peers_that_come_die_vanish_and_leave_do_not_keep_the_others_from_finishing() {
    each_seed(|seed| {
        let mut world = world(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        world.join(Spec::seed(link()))?;
        world.join(Spec::seed(link()))?;
        let leechers = join_leechers(&mut world, 8)?;
        for leecher in &leechers[..5] {
            let at = Duration::from_millis(rng.u64(100..8_000));
            let fault = match rng.u8(..3) {
                0 => Fault::Kill(*leecher),
                1 => Fault::Vanish(*leecher),
                _ => Fault::Leave(*leecher),
            };
            world.later(at, fault);
        }
        world.later(secs(3), Fault::Kill(NodeIndex(1)));
        for _ in 0..20 {
            let pair = (NodeIndex(rng.usize(..10)), NodeIndex(rng.usize(..10)));
            world.later(Duration::from_millis(rng.u64(100..8_000)), Fault::Reset(pair.0, pair.1));
        }
        for _ in 0..5 {
            let spec = leecher(&world);
            world.later(Duration::from_millis(rng.u64(100..8_000)), Fault::Join(spec));
        }
        world.run(secs(9), |_| false)?;
        finish(&mut world)
    });
}

#[test]
fn w16_exactly_the_liars_are_banned_and_everyone_finishes() {
    each_seed(|seed| {
        let mut world = world(seed);
        let honest: Vec<NodeIndex> = (0..4).map(|_| world.join(Spec::seed(link()))).collect::<Result<_, _>>()?;
        let liars: BTreeSet<NodeIndex> = [0.05, 0.3, 1.0]
            .into_iter()
            .map(|share| world.join(Spec::seed(link()).that(Conduct::Lies(share))))
            .collect::<Result<_, _>>()?;
        let leechers = join_leechers(&mut world, 3)?;
        finish(&mut world)?;
        // The table forbids that anybody honest is banned. Who lies all the time is found by all who asked it.
        let always = *liars.iter().next_back().unwrap();
        for leecher in leechers {
            let banned = world.node(leecher).banned();
            assert!(banned.is_subset(&liars), "SIM_SEED={seed}: {banned:?}");
            assert!(banned.contains(&always), "SIM_SEED={seed}: {leecher:?} bans {banned:?}");
        }
        assert!(honest.iter().all(|seed| world.node(*seed).banned().is_empty()));
        Ok(())
    });
}

#[test]
fn w18_seeds_that_stall_hold_nobody_up_for_long() {
    each_seed(|seed| {
        let mut world = world(seed);
        world.join(Spec::seed(link()))?;
        for _ in 0..3 {
            world.join(Spec::seed(link()).that(Conduct::Stalls))?;
        }
        join_leechers(&mut world, 2)?;
        finish(&mut world)?;
        assert!(world.elapsed() < secs(60), "SIM_SEED={seed}: {:?}", world.elapsed());
        Ok(())
    });
}

#[test]
fn a_dead_tracker_before_a_live_one_and_one_that_dies_later_stop_nobody() {
    each_seed(|seed| {
        let mut setup = Setup::new(seed, torrent(Version::V1));
        setup.trackers = 2;
        let mut world = World::new(setup);
        world.apply(Fault::TrackerDown(0))?;
        world.join(Spec::seed(link()))?;
        join_leechers(&mut world, 4)?;
        world.later(secs(3), Fault::TrackerDown(1));
        finish(&mut world)
    });
}

#[test]
fn late_joiners_get_it_from_whoever_is_left() {
    each_seed(|seed| {
        let mut world = world(seed);
        let first = world.join(Spec::seed(link()))?;
        join_leechers(&mut world, 3)?;
        for after in [2, 5, 9] {
            let spec = leecher(&world);
            world.later(secs(after), Fault::Join(spec));
        }
        world.run(secs(10), |_| false)?;
        world
            .run(LIMIT, |world| world.indices().skip(1).take(3).all(|node| world.node(node).completed_at.is_some()))?;
        world.apply(Fault::Leave(first))?;
        world.join(leecher(&world))?;
        finish(&mut world)
    });
}

#[test]
fn disks_that_fail_now_and_then_and_small_budgets_slow_and_do_not_stop() {
    each_seed(|seed| {
        let mut setup = Setup::new(seed, Torrent::new(256, 32, Version::Hybrid).unwrap());
        (setup.block_budget, setup.stretch) = [(80, 64), (80, 8), (24, 8)][seed as usize % 3];
        let mut world = World::new(setup);
        world.join(Spec::seed(link()))?;
        let disk = DiskSpec { rate: 2_000_000, failures: 0.1, ..DiskSpec::default() };
        let spec = Spec { disk, ..leecher(&world) };
        for _ in 0..4 {
            world.join(spec.clone())?;
        }
        finish(&mut world)
    });
}

#[test]
fn long_pieces_come_through_small_budgets_whoever_lies_stalls_or_goes() {
    each_seed(|seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let per_piece = 1 << rng.u32(3..9);
        let version = [Version::V1, Version::V2, Version::Hybrid][rng.usize(..3)];
        let mut setup = Setup::new(seed, Torrent::new(512, per_piece, version).unwrap());
        setup.stretch = 32;
        setup.block_budget = 64 + rng.u32(..65);
        let mut world = World::new(setup);
        // At 10 Gbit/s long pieces are asked for side by side.
        let links = [link(), Access::mbit(100, Duration::from_millis(1)), Access::mbit(10_000, Duration::ZERO)];
        let access = |rng: &mut fastrand::Rng| links[rng.usize(..links.len())];
        world.join(Spec::seed(access(&mut rng)))?;
        for conduct in [Conduct::Stalls, Conduct::Lies(0.02)] {
            if rng.bool() {
                world.join(Spec::seed(access(&mut rng)).that(conduct))?;
            }
        }
        for _ in 0..rng.u32(1..4) {
            let failures = if rng.bool() { 0.05 } else { 0.0 };
            let disk = DiskSpec { rate: rng.u64(1..500) * 1_000_000, failures, ..DiskSpec::default() };
            let spec = Spec { disk, access: access(&mut rng), ..leecher(&world) };
            let node = world.join(spec)?;
            for _ in 0..rng.u32(..3) {
                world.later(Duration::from_millis(rng.u64(..5_000)), Fault::Reset(NodeIndex(0), node));
            }
        }
        finish(&mut world)
    });
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let run = |seed| -> Result<u64, Broken> {
        let mut world = world(seed);
        world.join(Spec::seed(link()))?;
        world.join(Spec::seed(link()).that(Conduct::Lies(0.1)))?;
        let leechers = join_leechers(&mut world, 5)?;
        world.later(secs(2), Fault::Kill(leechers[0]));
        world.run(secs(30), |_| false)?;
        Ok(world.trace_hash())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
