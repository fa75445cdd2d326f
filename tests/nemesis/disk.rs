//! A member's own disk: an ext4 file system in a file, that can be full, slow, stuck, or lose its power.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::isolation::run;

/// Room for an hour of names.
const MEBIBYTES: u64 = 256;
/// Asks a file system to forget what it has not written (`FS_IOC_SHUTDOWN` without a flush of its journal). In Perl: an
/// `ioctl` is unsafe code in Rust, and there is none in this package.
const CUT: &str = r#"open(F, "<", $ARGV[0]) or die "$!\n"; my $flags = pack("I", 2);
    ioctl(F, 0x8004587d, $flags) or die "$!\n";"#;

/// A mounted file system. Mounts end with the world that they were made in.
pub(crate) struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let disk = Self { image: folder.join(format!("{name}.ext4")), mounted: folder.join(name) };
        fs::create_dir_all(&disk.mounted).unwrap();
        File::create(&disk.image).unwrap().set_len(MEBIBYTES << 20).unwrap();
        // Nothing is kept back for root, which members of this test are.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&disk.image)).unwrap();
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.mounted])).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mounted.join(name)
    }

    /// The power goes: what was not made durable is lost, and nothing can be read or written any more.
    pub(crate) fn cut(&self) -> Result<(), String> {
        run(Command::new("perl").args(["-e", CUT]).arg(&self.mounted))?;
        match self.probe() {
            Ok(_) => Err("it can be written to without power".to_owned()),
            Err(_) => Ok(()),
        }
    }

    /// The power is back. Nobody may have files open there.
    pub(crate) fn mount_again(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(why) = run(Command::new("umount").arg(&self.mounted)) {
            assert!(Instant::now() < deadline, "{why}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.mount();
    }

    /// Takes all room that there is, and proves that there is none.
    pub(crate) fn fill(&self) -> Result<(), String> {
        // Its room could be used again.
        let _ = fs::remove_file(self.path("probe"));
        let [ballast, mut rest] = self.ballast().map(File::create).map(Result::unwrap);
        let mut at = 0;
        let mut step = MEBIBYTES << 20;
        while step >= 4096 {
            match fallocate(&ballast, FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(_) => step /= 2,
            }
        }
        while rest.write_all(&[0; 4096]).is_ok() {}
        let free = statvfs(&self.mounted).map_err(|error| error.to_string())?.f_bavail;
        let refused = self.probe().err().and_then(|error| error.raw_os_error());
        match refused == Some(rustix::io::Errno::NOSPC.raw_os_error()) {
            true => Ok(()),
            false => Err(format!("{free} blocks are free, and a write ends with {refused:?}")),
        }
    }

    /// Gives the room back.
    pub(crate) fn empty(&self) {
        for ballast in self.ballast() {
            let _ = fs::remove_file(ballast);
        }
    }

    /// No write ends before [`thaw`](Self::thaw).
    pub(crate) fn freeze(&self) -> Result<(), String> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.mounted)).map(drop)
    }

    pub(crate) fn thaw(&self) {
        let _ = run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mounted));
    }

    /// How long a small write takes to be durable.
    pub(crate) fn probe(&self) -> std::io::Result<Duration> {
        let began = Instant::now();
        let mut file = File::create(self.path("probe"))?;
        file.write_all(&[1; 8192])?;
        file.sync_all()?;
        Ok(began.elapsed())
    }

    fn ballast(&self) -> [PathBuf; 2] {
        ["ballast", "rest"].map(|name| self.path(name))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A frozen file system outlives its mount.
        self.thaw();
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.mounted));
    }
}
