//! Disks that lose what was not durable, at any moment, and syncs that fail: nothing is believed that is not there, and
//! everybody finishes.

use std::time::Duration;

use obt_sim::disk::DiskSpec;
use obt_sim::{Fault, NodeIndex, Setup, Spec, Syncing, Torrent, World};
use obt_wire::metainfo::Version;

use crate::runs::{each_seed, finish, leecher, link, secs};

/// 24 MiB: twenty seconds on a link of 10 Mbit/s, so that several records of the journal are written.
fn world(seed: u64) -> World {
    World::new(Setup::new(seed, Torrent::new(1_536, 8, Version::Hybrid).unwrap()))
}

#[test]
fn f22_power_cuts_at_any_moment_cost_some_seconds_of_work_and_no_integrity() {
    each_seed(|seed| {
        let mut world = world(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        world.join(Spec::seed(link()))?;
        let spec = leecher(&world);
        let mut node = world.join(spec)?;
        let mut kept = 0;
        for cut in 0..6 {
            world.run(Duration::from_millis(rng.u64(..7_000)), |_| false)?;
            let had = world.node(node).disk.stored().count();
            world.apply(Fault::PowerCut(node))?;
            world.run(secs(1), |_| false)?;
            world.apply(Fault::Restart(node))?;
            node = NodeIndex(world.nodes.len() - 1);
            let left = world.node(node).disk.stored().count();
            // What was synced once stays, and no more than that of some seconds is lost: at most 8.75 MB in seven.
            assert!(
                left >= kept && left + 70 >= had,
                "SIM_SEED={seed}, cut {cut}: {left} pieces of {had}, {kept} before"
            );
            kept = left;
        }
        finish(&mut world)?;
        // It is done, and durable: nothing is lost any more.
        world.apply(Fault::PowerCut(node))?;
        world.apply(Fault::Restart(node))?;
        let node = world.node(NodeIndex(world.nodes.len() - 1));
        assert!(node.disk.stored().is_full(), "SIM_SEED={seed}");
        Ok(())
    });
}

#[test]
fn f22_a_swarm_that_loses_power_again_and_again_finishes() {
    each_seed(|seed| {
        let mut world = world(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        world.join(Spec::seed(link()))?;
        let spec = leecher(&world);
        for _ in 0..4 {
            world.join(spec.clone())?;
        }
        for _ in 0..8 {
            world.run(Duration::from_millis(rng.u64(..4_000)), |_| false)?;
            let alive: Vec<NodeIndex> = world.alive().map(|(index, _)| index).skip(1).collect();
            let node = alive[rng.usize(..alive.len())];
            world.apply(Fault::PowerCut(node))?;
            world.later(Duration::from_millis(rng.u64(..3_000)), Fault::Restart(node));
        }
        world.run(secs(4), |_| false)?;
        finish(&mut world)
    });
}

#[test]
fn f16_syncs_that_fail_cost_what_they_covered_and_the_download_goes_on() {
    each_seed(|seed| {
        let mut world = world(seed);
        world.join(Spec::seed(link()))?;
        let disk = DiskSpec { syncing: Syncing::Fails(0.3), ..DiskSpec::default() };
        let spec = Spec { disk, ..leecher(&world) };
        for _ in 0..3 {
            world.join(spec.clone())?;
        }
        finish(&mut world)
    });
}
