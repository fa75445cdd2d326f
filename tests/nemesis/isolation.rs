//! A small world of the test's own: network, mounts and process numbers that nobody else sees, and that the kernel
//! takes away with the test, however it ends.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set where the test runs inside.
const INSIDE: &str = "OBT_NEMESIS_INSIDE";
/// Programs that make and break things.
const TOOLS: [&str; 10] =
    ["setpriv", "unshare", "nsenter", "ip", "nft", "mkfs.ext4", "mount", "umount", "fsfreeze", "perl"];

/// Runs `test`, the one of this name, in a world of its own. Where there cannot be one, says so and does nothing.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        settle();
        test();
        return;
    }
    if let Err(why) = possible() {
        // Past the capture of output: what was not tested is seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no nemesis, it takes root and namespaces: {why}");
        return;
    }
    let mut command = Command::new("setpriv");
    // Whatever ends this process ends that one, and with it all that it started.
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
    command.arg("--mount-proc").arg(std::env::current_exe().unwrap());
    let status = command.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "the nemesis run failed: {status}; what it said is above");
}

fn possible() -> Result<(), String> {
    let missing = TOOLS.iter().find(|tool| !in_path(tool));
    if let Some(tool) = missing {
        return Err(format!("there is no {tool}"));
    }
    faketime().ok_or("there is no libfaketime")?;
    run(Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]))?;
    match Path::new("/dev/loop-control").exists() {
        true => Ok(()),
        false => Err("there are no loop devices".to_owned()),
    }
}

fn in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.into_iter().any(|place| place.join(tool).is_file())
}

/// The library that gives one process another clock.
pub(crate) fn faketime() -> Option<PathBuf> {
    let places = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].into_iter().map(PathBuf::from);
    let triples = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let file = |place: PathBuf| place.join("faketime/libfaketimeMT.so.1");
    places.chain(triples).map(file).find(|file| file.is_file())
}

/// Names of network namespaces and shared memory of others are not seen.
fn settle() {
    for place in ["/run", "/dev/shm"] {
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", place])).unwrap();
    }
}

/// Runs a program to its end; what it said where it failed.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    match ended.status.success() {
        true => Ok(String::from_utf8_lossy(&ended.stdout).into_owned()),
        false => Err(format!("{program}: {} {said}", ended.status)),
    }
}
