//! Disks that take no more or give no more while the program runs: it says so, serves what it still can, and goes on.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use rustix::process::geteuid;

use crate::disk_image::DiskImage;
use crate::harness::{Lab, Obt, SOON, assert_holds, eventually, noise};
use crate::http;

const MIB: usize = 1 << 20;
/// What a download may fetch twice: pieces that were not whole or not durable, and the end game.
const AGAIN: usize = 12 * MIB;
/// The user "nobody": root may do everything, so what is forbidden is tried as somebody else.
const NOBODY: u32 = 65_534;
/// Within this a download ends that gets nothing any more.
const GIVES_UP: Duration = Duration::from_secs(45);

#[test]
fn f14_on_a_disk_that_turns_read_only_it_pauses_and_still_serves_what_it_has() {
    let lab = Lab::new();
    let Some(disk) = DiskImage::mount(&lab, "out", 96) else { return };
    let bytes = noise(14, 32 * MIB);
    let share = lab.serve("big.bin", &bytes, "3M");
    let get = lab.get(&share, "big.bin", "out");
    // Something is durable: a sync that fails takes back the rest.
    eventually("a record of the journal", SOON, || {
        let journals = ["a", "b"].map(|slot| lab.path(format!("out/big.bin.obt-part/journal-{slot}")));
        journals.iter().any(|journal| fs::metadata(journal).is_ok_and(|found| found.len() > 0)).then_some(())
    });
    disk.turn_read_only();
    // That it is read-only, or that the disk fails: a sync may have been under way.
    get.says("paused: the ");

    let peers = http::get(share.socket(), "/api/v1/peers").json();
    let peers = peers["peers"].as_array().unwrap();
    let paused = peers.iter().find(|peer| peer["items"][0]["left"].as_u64().unwrap() > 0).unwrap();
    let other = lab.get(&share, "big.bin", "other").ends_within(2 * SOON).exits(0);
    let served = other.from().into_iter().find(|(address, _)| paused["address"] == address.as_str());
    assert!(served.is_some_and(|(_, bytes)| bytes > 0), "the paused one served nothing: {paused}, {other}");

    get.stop().exits(1);
    disk.mount_again();
    let again = lab.get(&share, "big.bin", "out").ends().exits(0);
    assert!(again.fetched() < bytes.len() * 2 / 3 + AGAIN, "{again}");
    assert_holds(lab.path("out/big.bin"), &bytes);
}

#[test]
fn f17_a_holder_that_cannot_read_any_more_sends_nothing_and_others_are_asked() {
    let lab = Lab::new();
    let Some(disk) = DiskImage::mount(&lab, "disk", 64) else { return };
    let bytes = noise(17, 32 * MIB);
    let tracker = lab.tracker();
    lab.file("data/big.bin", &bytes);
    lab.file("disk/big.bin", &bytes);
    let good = lab.publish(&tracker, "one", ["data/big.bin", "--upload-rate", "4M"]);
    let bad = lab.join(&tracker, "two", ["disk/big.bin", "--upload-rate", "4M"]);
    tracker.until_held("big.bin", 2);
    let get = lab.get(&tracker, "big.bin", "out");
    get.says(" of 32.0 MiB");
    disk.cut();
    get.ends_within(2 * SOON).exits(0);
    assert_holds(lab.path("out/big.bin"), &bytes);

    tracker.until_held("big.bin", 1);
    good.stop().exits(0);
    let ended = lab.get(&tracker, "big.bin", "alone").ends_within(GIVES_UP).exits(1);
    assert!(!lab.path("alone/big.bin").exists(), "{ended}");
    bad.stop().exits(0);
}

/// A `get` as a user who is not allowed everything.
fn get_as_nobody(lab: &Lab, port: u16, folder: &str) -> Obt {
    let out = lab.folder(folder);
    let mut command = lab.command(["get", "--json", "127.0.0.1", &port.to_string(), "big.bin", "-o"]);
    command.arg(&out);
    if geteuid().is_root() {
        chown(&out, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(lab.path(""), Permissions::from_mode(0o755)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    Obt::spawn(command)
}

#[test]
fn f27_what_is_forbidden_pauses_and_goes_on_by_itself_when_it_is_allowed_again() {
    let lab = Lab::new();
    let bytes = noise(27, 32 * MIB);
    let share = lab.serve("big.bin", &bytes, "3M");
    let get = get_as_nobody(&lab, share.port, "out");
    let part = lab.path("out/big.bin.obt-part");
    eventually("a partial download", SOON, || part.join("data").exists().then_some(()));
    fs::set_permissions(&part, Permissions::from_mode(0o000)).unwrap();
    get.says("paused: permission denied");
    fs::set_permissions(&part, Permissions::from_mode(0o755)).unwrap();
    get.says("going on");
    get.ends_within(2 * SOON).exits(0);
    assert_holds(lab.path("out/big.bin"), &bytes);
}

#[test]
fn f27_a_folder_that_is_taken_away_ends_the_download_with_a_sentence() {
    let lab = Lab::new();
    let bytes = noise(28, 16 * MIB);
    let share = lab.serve("big.bin", &bytes, "3M");
    let get = lab.get(&share, "big.bin", "out");
    let part = lab.path("out/big.bin.obt-part");
    eventually("a partial download", SOON, || part.join("data").exists().then_some(()));
    fs::remove_dir_all(lab.path("out")).unwrap();
    let ended = get.ends_within(GIVES_UP).fails(2, "");
    assert!(!lab.path("out").exists(), "{ended}");
    lab.get(&share, "big.bin", "out").ends().exits(0);
    assert_holds(lab.path("out/big.bin"), &bytes);
}
