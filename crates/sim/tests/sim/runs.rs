//! Worlds that most tests begin with, and how a run ends.

use std::time::Duration;

use obt_sim::{Access, Broken, NodeIndex, Setup, Spec, Torrent, World, seed_of_run};
use obt_wire::metainfo::Version;

/// What a run that does not end is told with.
pub(crate) const NOT_FINISHED: &str = "not finished";
/// How long a run may take, virtual time.
pub(crate) const LIMIT: Duration = Duration::from_secs(1_200);
/// Seeds of a test that is run more than once.
pub(crate) const RUNS: u64 = 4;

pub(crate) type Run = Result<(), Broken>;

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn link() -> Access {
    Access::mbit(10, Duration::from_millis(5))
}

/// 4 MiB in pieces of 64 KiB.
pub(crate) fn torrent(version: Version) -> Torrent {
    Torrent::new(256, 4, version).unwrap()
}

pub(crate) fn world(seed: u64) -> World {
    World::new(Setup::new(seed, torrent(Version::Hybrid)))
}

pub(crate) fn leecher(world: &World) -> Spec {
    Spec::leecher(link(), world.torrent().geometry().pieces())
}

pub(crate) fn join_leechers(world: &mut World, count: usize) -> Result<Vec<NodeIndex>, Broken> {
    let spec = leecher(world);
    (0..count).map(|_| world.join(spec.clone())).collect()
}

/// Runs until all who are alive have everything, durable, then a while longer, and checks what must hold then.
pub(crate) fn finish(world: &mut World) -> Run {
    let done = |world: &World| world.alive().all(|(_, node)| node.completed_at.is_some() && node.durable_at.is_some());
    if !world.run(LIMIT, done)? {
        let behind = world.alive().filter(|(_, node)| node.durable_at.is_none());
        let text: Vec<String> = behind.map(|(index, node)| format!("{index:?} {:?}", node.disk.stored())).collect();
        let what = format!("{NOT_FINISHED}: {}", text.join(", "));
        return Err(Broken { seed: world.setup().seed, at: world.elapsed(), what });
    }
    world.run(secs(2), |_| false)?;
    world.check_end()
}

/// The same test with several seeds, or with the one in `SIM_SEED`.
pub(crate) fn each_seed(test: impl Fn(u64) -> Run) {
    let first = seed_of_run(0);
    let runs = if first == 0 { RUNS } else { 1 };
    for seed in first..first + runs {
        if let Err(broken) = test(seed) {
            panic!("{broken}");
        }
    }
}
