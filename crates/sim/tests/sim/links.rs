//! Links that lose packets, and whose latency varies: TCP turns both into waiting.

use std::time::Duration;

use obt_sim::{Access, Fault, Setup, Spec, World};
use obt_wire::metainfo::Version;

use crate::runs::{each_seed, finish, leecher, link, secs, torrent};

fn crowd(seed: u64, access: Access) -> World {
    let mut world = World::new(Setup::new(seed, torrent(Version::Hybrid)));
    let leecher = Spec { access, ..leecher(&world) };
    world.later(Duration::ZERO, Fault::Join(Spec::seed(access)));
    for _ in 0..4 {
        world.later(Duration::ZERO, Fault::Join(leecher.clone()));
    }
    world
}

#[test]
fn f30_lost_packets_delay_and_stop_nobody() {
    each_seed(|seed| {
        let mut world = crowd(seed, link());
        world.run(secs(1), |_| false)?;
        finish(&mut world)?;
        let without = world.elapsed();
        for (loss, most) in [(0.01, 2), (0.05, 4), (0.2, 20)] {
            let mut world = crowd(seed, link().with(Duration::ZERO, loss));
            world.run(secs(1), |_| false)?;
            finish(&mut world)?;
            let with = world.elapsed();
            assert!(with > without || loss < 0.1, "SIM_SEED={seed}: nothing was lost");
            assert!(with < without * most, "SIM_SEED={seed}: {with:?} with {loss}, {without:?} without");
        }
        Ok(())
    });
}

#[test]
fn f31_varying_latency_leaves_a_link_filled_and_a_satellite_usable() {
    each_seed(|seed| {
        for (round_trip, share) in [(5, 0.95), (50, 0.9), (200, 0.7), (600, 0.2)] {
            let one_way = Duration::from_millis(round_trip) / 4;
            let access = Access::mbit(20, one_way).with(one_way / 2, 0.0);
            let torrent = obt_sim::Torrent::new(1_024, 4, Version::Hybrid).unwrap();
            let mut world = World::new(Setup::new(seed, torrent));
            world.join(Spec::seed(access))?;
            world.run(secs(1), |_| false)?;
            let leecher = world.join(Spec { access, ..leecher(&world) })?;
            let begun = world.elapsed();
            world.run(secs(300), |world| world.node(leecher).completed_at.is_some())?;
            let took = world.elapsed() - begun;
            let least = Duration::from_secs_f64(world.torrent().size() as f64 / access.up as f64);
            let reached = least.div_duration_f64(took);
            assert!(reached >= share, "SIM_SEED={seed}: {reached:.2} of the link at {round_trip} ms, {took:?}");
            finish(&mut world)?;
        }
        Ok(())
    });
}

#[test]
fn f36_a_swarm_that_was_cut_in_two_comes_together_again() {
    each_seed(|seed| {
        let mut world = crowd(seed, link().with(Duration::from_millis(20), 0.01));
        for round in 1..6 {
            for (one, other) in [(0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4)] {
                let reset = Fault::Reset(obt_sim::NodeIndex(one), obt_sim::NodeIndex(other));
                world.later(secs(round), reset);
            }
        }
        world.run(secs(6), |_| false)?;
        finish(&mut world)
    });
}
