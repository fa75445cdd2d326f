//! One file to many at once over links as they are, with queues and headers: how near the fluid bound the last one is.

use std::time::Duration;

use obt_sim::{Access, Broken, Fault, NodeIndex, Setup, Share, Spec, Torrent, World, fluid_bound};
use obt_wire::metainfo::Version;

use crate::runs::{LIMIT, each_seed, secs};

/// 10 Mbit/s, bytes per second.
const LINK: u64 = 1_250_000;

fn access(up: u64) -> Access {
    Access::rates(up, LINK, Duration::from_micros(500)).queued(Duration::from_millis(50))
}

/// A fan-out: 32 MiB in pieces of 16 KiB, as they are shared, from one seed.
struct Fan {
    world: World,
    seed: NodeIndex,
    leechers: Vec<NodeIndex>,
    began: Duration,
    bound: Duration,
}

impl Fan {
    fn begin(number: u64, seed_up: u64, count: usize) -> Result<Self, Broken> {
        let mut setup = Setup::new(number, Torrent::new(2_048, 1, Version::Hybrid).unwrap());
        setup.check_every = 4_999;
        let mut world = World::new(setup);
        let seed = world.join(Spec::seed(access(seed_up)))?;
        world.run(secs(1), |_| false)?;
        let began = world.elapsed();
        let leechers: Vec<NodeIndex> = (0..count).map(|_| world.join(leecher(&world))).collect::<Result<_, _>>()?;
        let shares = vec![Share { up: LINK, down: LINK }; count];
        let bound = fluid_bound(world.torrent().size(), Share { up: seed_up, down: LINK }, &shares);
        Ok(Self { world, seed, leechers, began, bound })
    }

    /// Until these have it all: multiples of the bound.
    fn run_until(&mut self, these: &[NodeIndex]) -> Result<f64, Broken> {
        self.world.run(LIMIT, |world| these.iter().all(|node| world.node(*node).completed_at.is_some()))?;
        Ok((self.world.elapsed() - self.began).div_duration_f64(self.bound))
    }

    /// What the seed sent, as multiples of the torrent.
    fn copies(&self) -> f64 {
        let sent = self.world.node(self.seed).swarm.snapshot(self.world.now()).uploaded;
        sent as f64 / self.world.torrent().size() as f64
    }
}

fn leecher(world: &World) -> Spec {
    Spec::leecher(access(LINK), world.torrent().geometry().pieces())
}

#[test]
fn the_last_of_a_few_behind_equal_links_is_near_the_bound() {
    each_seed(|number| {
        for (count, most) in [(1, 1.07), (2, 1.09), (4, 1.10), (8, 1.10)] {
            let mut fan = Fan::begin(number, LINK, count)?;
            let ratio = fan.run_until(&fan.leechers.clone())?;
            assert!(ratio < most, "SIM_SEED={number}: {count} take {ratio:.3} of the bound");
            assert!(fan.copies() < 1.06, "SIM_SEED={number}: the seed sent {:.3} copies to {count}", fan.copies());
        }
        Ok(())
    });
}

#[test]
fn a_slow_seed_sends_hardly_more_than_one_copy_and_its_peers_wait_for_nothing_else() {
    each_seed(|number| {
        let mut fan = Fan::begin(number, LINK / 4, 8)?;
        let ratio = fan.run_until(&fan.leechers.clone())?;
        assert!(ratio < 1.08, "SIM_SEED={number}: {ratio:.3} of the bound");
        assert!(fan.copies() < 1.06, "SIM_SEED={number}: {:.3} copies", fan.copies());
        Ok(())
    });
}

#[test]
fn late_joiners_and_early_leavers_hold_nobody_up() {
    each_seed(|number| {
        let mut fan = Fan::begin(number, LINK, 6)?;
        let third = fan.bound / 3;
        fan.world.later(third, Fault::Kill(fan.leechers[0]));
        fan.world.later(third, Fault::Vanish(fan.leechers[1]));
        fan.world.run(third, |_| false)?;
        let late = fan.world.join(leecher(&fan.world))?;
        let stay = fan.leechers[2..].to_vec();
        let ratio = fan.run_until(&stay)?;
        assert!(ratio < 1.25, "SIM_SEED={number}: those who stay take {ratio:.3} of the bound");
        let ratio = fan.run_until(&[late])? - 1.0 / 3.0;
        assert!(ratio < 1.25, "SIM_SEED={number}: the late one takes {ratio:.3} of the bound");
        Ok(())
    });
}
