//! A disk of a test's own: an ext4 file system in a file, mounted through a loop device, that loses its power or goes
//! read-only when it is told.
//!
//! It needs root and a loop device. Where they are not there, the tests that want it say so aloud and end.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Lab;

/// Asks file systems to forget what they have not written (`FS_IOC_SHUTDOWN` without a flush of their journals). In Perl,
/// which every Debian has: an `ioctl` is unsafe code in Rust, and there is none in this package.
const CUT: &str = r#"my $flags = pack("I", 2); my @disks = map { open(my $disk, "<", $_) or die "$!\n"; $disk } @ARGV;
    for my $disk (@disks) { ioctl($disk, 0x8004587d, $flags) or die "$!\n"; }"#;

/// A mounted file system. Unmounted when it is dropped.
pub(crate) struct DiskImage {
    image: PathBuf,
    mounted: PathBuf,
}

impl DiskImage {
    /// A new file system of this size, mounted at `folder` of the lab; None, said aloud, where that cannot be.
    pub(crate) fn mount(lab: &Lab, folder: &str, mebibytes: u64) -> Option<Self> {
        let disk = Self { image: lab.path(format!("{folder}.ext4")), mounted: lab.folder(folder) };
        fs::File::create(&disk.image).unwrap().set_len(mebibytes << 20).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", text(&disk.image)]).and_then(|()| disk.try_mount());
        if let Err(why) = made {
            // Past the capture of output: what was not tested is seen.
            let _ = writeln!(std::io::stderr(), "SKIPPED: no disk to break, it takes root and a loop device: {why}");
            return None;
        }
        Some(disk)
    }

    fn try_mount(&self) -> Result<(), String> {
        // A file system that finds itself damaged becomes read-only.
        run("mount", &["-o", "loop,errors=remount-ro", text(&self.image), text(&self.mounted)])
    }

    /// The power goes: what was not made durable is lost, and nothing can be read or written any more.
    pub(crate) fn cut(&self) {
        Self::cut_all(std::slice::from_ref(self));
    }

    /// The power goes for all of these at once.
    pub(crate) fn cut_all(disks: &[Self]) {
        let mounted = disks.iter().map(|disk| text(&disk.mounted));
        run("perl", &["-e", CUT].into_iter().chain(mounted).collect::<Vec<_>>()).unwrap();
    }

    /// The power is back. Nobody may have files open there.
    pub(crate) fn mount_again(&self) {
        run("umount", &[text(&self.mounted)]).unwrap();
        self.try_mount().unwrap();
    }

    /// The file system finds itself damaged, and takes no more writes until it is mounted again.
    pub(crate) fn turn_read_only(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mine = mounts.lines().find(|line| line.split(' ').nth(1) == Some(text(&self.mounted))).unwrap();
        let device = mine.split(' ').next().unwrap().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "a test").unwrap();
    }
}

impl Drop for DiskImage {
    fn drop(&mut self) {
        let _ = run("umount", &["--lazy", text(&self.mounted)]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let ended = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    if ended.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
