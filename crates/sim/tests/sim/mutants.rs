//! Whether the checks can fail (HOSTILE 4.3): cores, disks and trackers with a mistake each, and what notices it.

use obt_sim::disk::DiskSpec;
use obt_sim::{Broken, Conduct, Expiry, Fault, NodeIndex, Sabotage, Setup, Spec, Syncing, Torrent, World};
use obt_swarm::limits;
use obt_wire::metainfo::Version;

use crate::runs::{NOT_FINISHED, Run, finish, leecher, link, secs, torrent};

/// Runs in which a mistake has to show.
const TRIES: u64 = 8;

/// What noticed it, of `TRIES` runs.
#[track_caller]
fn noticed(mistake: &str, run: impl Fn(u64) -> Run) -> Broken {
    (0..TRIES).find_map(|seed| run(seed).err()).unwrap_or_else(|| panic!("nothing notices {mistake}"))
}

/// A seed, a liar, and leechers that all have the mistake; some come late, some leave.
fn busy_world(seed: u64, mutant: impl Fn(Spec) -> Spec) -> Run {
    let mut setup = Setup::new(seed, torrent(Version::V1));
    setup.block_budget = 64;
    let mut world = World::new(setup);
    world.join(Spec::seed(link()))?;
    world.join(Spec::seed(link()).that(Conduct::Lies(0.2)))?;
    let spec = mutant(leecher(&world));
    for _ in 0..6 {
        world.join(spec.clone())?;
    }
    world.later(secs(2), Fault::Join(spec));
    world.later(secs(3), Fault::Leave(NodeIndex(4)));
    world.run(secs(4), |_| false)?;
    finish(&mut world)
}

/// Few buffers for large pieces, from many peers at once, and a slow disk: who does not wait has too many.
fn tight_world(seed: u64, mutant: impl Fn(Spec) -> Spec) -> Run {
    let mut setup = Setup::new(seed, Torrent::new(256, 32, Version::Hybrid).unwrap());
    setup.block_budget = 80;
    let mut world = World::new(setup);
    for _ in 0..6 {
        world.join(Spec::seed(link()))?;
    }
    let disk = DiskSpec { rate: 300_000, failures: 0.1, ..DiskSpec::default() };
    let spec = mutant(Spec { disk, ..leecher(&world) });
    for _ in 0..3 {
        world.join(spec.clone())?;
    }
    finish(&mut world)
}

/// More peers than a seed has slots for, behind a slow link: some are choked in the middle.
fn crowded_world(seed: u64, mutant: impl Fn(Spec) -> Spec) -> Run {
    let mut world = World::new(Setup::new(seed, torrent(Version::V1)));
    world.join(Spec::seed(obt_sim::Access { up: 40_000, ..link() }))?;
    let spec = mutant(leecher(&world));
    for _ in 0..limits::UNCHOKED_FIRST + 5 {
        world.join(spec.clone())?;
    }
    finish(&mut world)
}

#[test]
fn worlds_without_mistakes_are_sound() {
    for seed in 0..TRIES {
        crowded_world(seed, |spec| spec).unwrap();
        busy_world(seed, |spec| spec).unwrap();
        tight_world(seed, |spec| spec).unwrap();
        relay(seed, |spec| spec).unwrap();
    }
}

#[test]
fn every_mistake_of_a_core_is_noticed_by_the_check_that_is_about_it() {
    for sabotage in Sabotage::ALL {
        let check = match sabotage {
            Sabotage::ClaimsEverything | Sabotage::ClaimsBeforeVerifying => "have means verified",
            Sabotage::TrustsEverybody => "what is stored is right",
            Sabotage::AsksForAnotherPiece | Sabotage::IgnoresChokes => "a request goes to who has the piece",
            Sabotage::ServesTheChoked => "only the unchoked are served",
            Sabotage::AcceptsTwice => "is accepted twice",
            Sabotage::ForgetsItsBudget => "buffers stay within the budget",
            Sabotage::BansTheInnocent => "honest peers are never banned",
            Sabotage::ForgetsRequests | Sabotage::KeepsHavesToItself => NOT_FINISHED,
            Sabotage::AnnouncesNothingNew | Sabotage::LeavesInSilence => "announced counts equal real ones",
        };
        let broken = noticed(&format!("{sabotage:?}"), |seed| match sabotage {
            Sabotage::KeepsHavesToItself | Sabotage::AsksForAnotherPiece => relay(seed, |spec| spec.broken(sabotage)),
            Sabotage::ForgetsItsBudget => tight_world(seed, |spec| spec.broken(sabotage)),
            Sabotage::IgnoresChokes => crowded_world(seed, |spec| spec.broken(sabotage)),
            _ => busy_world(seed, |spec| spec.broken(sabotage)),
        });
        assert!(broken.what.contains(check), "{sabotage:?} was to be noticed by {check:?}: {broken}");
    }
}

/// The seed goes when one peer has everything, so that the others depend on what that one says. Another is slow and makes
/// no mistakes, so that somebody has only some pieces.
fn relay(seed: u64, mutant: impl Fn(Spec) -> Spec) -> Run {
    let mut world = World::new(Setup::new(seed, torrent(Version::Hybrid)));
    let first = world.join(Spec::seed(link()))?;
    let one = world.join(mutant(leecher(&world)))?;
    let slow = Spec { access: obt_sim::Access { down: 20_000, ..link() }, ..leecher(&world) };
    world.join(slow)?;
    world.run(secs(60), |world| world.node(one).completed_at.is_some())?;
    world.apply(Fault::Leave(first))?;
    world.run(secs(5), |_| false)?;
    finish(&mut world)
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_noticed() {
    let lying = |spec: Spec| Spec { disk: DiskSpec { syncing: Syncing::Lies, ..spec.disk }, ..spec };
    let broken = noticed("a sync that does nothing", |seed| busy_world(seed, lying));
    assert!(
        broken.what.contains("is in the journal and not durable") || broken.what.contains("over a hole"),
        "{broken}"
    );
}

#[test]
fn a_tracker_that_ends_no_lease_is_noticed() {
    let broken = noticed("leases without an end", |seed| {
        let mut world = World::new(Setup { leases: Some(Expiry::Never), ..Setup::new(seed, torrent(Version::Hybrid)) });
        world.join(Spec::seed(link()))?;
        let spec = leecher(&world);
        let dying = world.join(spec.clone())?;
        world.join(spec)?;
        world.later(secs(2), Fault::Kill(dying));
        world.run(secs(60), |_| false)?;
        finish(&mut world)
    });
    assert!(broken.what.contains("is still listed"), "{broken}");
}
