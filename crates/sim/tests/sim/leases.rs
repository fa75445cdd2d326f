//! Leases in virtual time: who is there is listed, who died is gone when its lease is over.

use std::time::Duration;

use obt_sim::{Expiry, Fault, NodeIndex, Setup, Spec, World};
use obt_wire::metainfo::Version;

use crate::runs::{each_seed, finish, join_leechers, leecher, link, secs, torrent};

/// A second after the 40 s of a lease, and what the tracker takes to look.
const GONE: Duration = Duration::from_secs(43);

fn world(seed: u64) -> World {
    World::new(Setup { leases: Some(Expiry::Honest), ..Setup::new(seed, torrent(Version::Hybrid)) })
}

/// Complete and incomplete peers as the first tracker counts them, whoever died.
fn counts(world: &mut World) -> Option<(u32, u32)> {
    world.tracker_counts().map(|counts| counts[0])
}

#[test]
fn peers_with_leases_find_each_other_and_finish() {
    each_seed(|seed| {
        let mut world = world(seed);
        world.join(Spec::seed(link()))?;
        join_leechers(&mut world, 6)?;
        finish(&mut world)?;
        world.run(secs(120), |_| false)?;
        assert_eq!(counts(&mut world), Some((7, 0)), "SIM_SEED={seed}: renewed, they stay");
        world.apply(Fault::Leave(NodeIndex(0)))?;
        world.run(secs(1), |_| false)?;
        assert_eq!(counts(&mut world), Some((6, 0)), "SIM_SEED={seed}: who leaves is gone at once");
        world.check_end()
    });
}

#[test]
fn who_dies_without_a_word_is_gone_when_the_lease_is_over_and_not_before() {
    each_seed(|seed| {
        let mut world = world(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        world.join(Spec::seed(link()))?;
        world.join(Spec::seed(link()))?;
        let leechers = join_leechers(&mut world, 6)?;
        finish(&mut world)?;
        world.run(Duration::from_millis(rng.u64(..15_000)), |_| false)?;
        for (at, leecher) in leechers[..4].iter().enumerate() {
            world.apply(if at % 2 == 0 { Fault::Vanish(*leecher) } else { Fault::Kill(*leecher) })?;
        }
        assert_eq!(counts(&mut world), None, "SIM_SEED={seed}: nobody has told the tracker");
        world.run(GONE, |_| false)?;
        assert_eq!(counts(&mut world), Some((4, 0)), "SIM_SEED={seed}");
        let spec = leecher(&world);
        world.join(spec)?;
        finish(&mut world)
    });
}

#[test]
fn a_tracker_that_was_away_hears_everything_again() {
    each_seed(|seed| {
        let mut world = world(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        world.join(Spec::seed(link()))?;
        join_leechers(&mut world, 4)?;
        world.later(Duration::from_millis(rng.u64(100..4_000)), Fault::TrackerDown(0));
        world.run(secs(60), |_| false)?;
        world.apply(Fault::TrackerUp(0))?;
        world.run(secs(31), |_| false)?;
        finish(&mut world)?;
        assert_eq!(counts(&mut world), Some((5, 0)), "SIM_SEED={seed}");
        Ok(())
    });
}
