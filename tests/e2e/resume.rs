//! Downloads that were interrupted: the same command goes on, with what was verified, and with the version it began.

use std::fs;
use std::time::Duration;

use crate::harness::{Lab, Obt, Tracker, assert_holds, eventually, noise};

const MIB: usize = 1 << 20;
/// What is fetched again at most: pieces that were not whole or not yet written, and the end game.
const AGAIN: usize = 6 * MIB;

/// A tracker whose share sends 32 MiB in about six seconds.
fn share(lab: &Lab, bytes: &[u8]) -> Tracker {
    lab.serve("big.bin", bytes, "6M")
}

/// A `get` of which some seconds have passed, so that more than a third is there.
fn half_way(lab: &Lab, share: &Tracker) -> Obt {
    let get = lab.get(share, "big.bin", "out");
    get.says(" of 32.0 MiB");
    get
}

#[test]
fn a_get_that_is_stopped_goes_on_with_what_it_had() {
    let lab = Lab::new();
    let bytes = noise(1, 32 * MIB);
    let share = share(&lab, &bytes);
    half_way(&lab, &share).stop().exits(1);
    let ended = lab.get(&share, "big.bin", "out").ends().exits(0);
    assert!(ended.fetched() < bytes.len() * 2 / 3 + AGAIN, "{ended}");
    assert_holds(lab.path("out/big.bin"), &bytes);
    assert_eq!(fs::read_dir(lab.path("out")).unwrap().count(), 1, "only the file is left");
}

#[test]
fn a_get_that_is_killed_goes_on_and_gives_the_same_bytes() {
    let lab = Lab::new();
    let bytes = noise(2, 32 * MIB);
    let share = share(&lab, &bytes);
    half_way(&lab, &share).kill();
    assert!(!lab.path("out/big.bin").exists());
    let ended = lab.get(&share, "big.bin", "out").ends().exits(0);
    assert!(ended.fetched() <= bytes.len() - 4 * MIB, "{ended}");
    assert_holds(lab.path("out/big.bin"), &bytes);
}

#[test]
fn what_was_damaged_between_two_runs_is_fetched_again() {
    let lab = Lab::new();
    let bytes = noise(3, 32 * MIB);
    let share = share(&lab, &bytes);
    half_way(&lab, &share).stop().exits(1);
    let part = lab.path("out/big.bin.obt-part/data");
    let mut there = fs::read(&part).unwrap();
    there.iter_mut().step_by(1_000_003).for_each(|byte| *byte ^= 0x55);
    fs::write(&part, there).unwrap();
    lab.get(&share, "big.bin", "out").ends().exits(0);
    assert_holds(lab.path("out/big.bin"), &bytes);
}

#[test]
fn two_gets_of_one_target_do_not_meet() {
    let lab = Lab::new();
    let bytes = noise(4, 32 * MIB);
    let share = share(&lab, &bytes);
    let first = lab.get(&share, "big.bin", "out");
    let lock = lab.path("out/big.bin.obt-part/lock");
    eventually("the first to begin", Duration::from_secs(10), || lock.exists().then_some(()));
    let second = lab.get(&share, "big.bin", "out").ends().fails(2, "");
    assert!(second.err.contains("hint: "), "{second}");
    first.ends().exits(0);
    assert_holds(lab.path("out/big.bin"), &bytes);
}

#[test]
fn a_get_stays_with_the_version_it_began() {
    let lab = Lab::new();
    let (first, second) = (noise(5, 32 * MIB), noise(6, MIB));
    let share = share(&lab, &first);
    half_way(&lab, &share).stop().exits(1);
    lab.file("newer/big.bin", &second);
    let replaced = lab.run(["share", "--json", "--state", "one", "--replace", "newer/big.bin"]).exits(0);
    assert_eq!(replaced.last()["version"], 2);

    let resumed = lab.get(&share, "big.bin", "out").ends().exits(0);
    assert_eq!(resumed.last()["version"], 1);
    assert!(resumed.err.contains("the newest is 2"), "{resumed}");
    assert_holds(lab.path("out/big.bin"), &first);
    assert_eq!(lab.get(&share, "big.bin", "fresh").ends().exits(0).last()["version"], 2);
    assert_holds(lab.path("fresh/big.bin"), &second);
}

#[test]
fn a_file_that_changes_while_it_is_shared_is_not_served() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let path = lab.file("data/x", &noise(7, MIB));
    let _share = lab.publish(&tracker, "one", ["data/x"]);
    tracker.until_held("x", 1);
    fs::write(&path, noise(8, MIB)).unwrap();
    let ended = lab.get(&tracker, "x", "out").ends_within(Duration::from_secs(45)).exits(1);
    assert!(!lab.path("out/x").exists(), "{ended}");
}

#[test]
fn that_a_file_changes_while_it_is_sent_is_told_once_and_not_for_each_block() {
    let lab = Lab::new();
    let share = lab.serve("x", &noise(7, 16 * MIB), "2M");
    let get = lab.get(&share, "x", "out");
    get.says("x: ");
    fs::write(lab.path("data/x"), noise(8, 16 * MIB)).unwrap();
    share.obt.says("the file was changed");
    drop(get);
    let told = share.obt.stop().err;
    assert_eq!(told.matches("changed").count(), 1, "{told}");
}
