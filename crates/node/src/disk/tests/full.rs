//! Disks that are full, on a file system of our own.

use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A tmpfs that is unmounted in the end.
pub(super) struct SmallDisk(pub(super) TempDir);

impl SmallDisk {
    /// None, told aloud, where this user may not mount.
    pub(super) fn mount(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "obt-test"]).arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("NOT TESTED: a full disk, since this user may not mount a tmpfs");
        None
    }

    pub(super) fn remount(&self, options: &str) {
        let output = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0.path()).output();
        assert!(output.unwrap().status.success());
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// Sends pieces until the disk is full; returns those that it took not.
async fn fill(download: &mut Opened, content: &Content) -> Vec<u32> {
    let mut refused = Vec::new();
    let mut paused = 0;
    for piece in content.all() {
        download.store.verify([full(piece, blocks(content, piece), false)]);
        loop {
            match download.next().await {
                Done::Paused { reason } => {
                    assert_eq!(reason, "the disk is full");
                    paused += 1;
                }
                Done::StoreFailed { piece, .. } => {
                    refused.push(piece.0);
                    break;
                }
                done => {
                    assert!(is_good(&done), "{done:?}");
                    break;
                }
            }
        }
    }
    assert_eq!(paused, 1, "the user is told once");
    refused
}

#[tokio::test]
async fn f10_a_full_disk_pauses_and_goes_on_by_itself_when_there_is_room() {
    let Some(small) = SmallDisk::mount("size=1m") else {
        return;
    };
    let disk = Disk::start(2);
    let content = Content::folder(Version::Hybrid, &[("a", 1_000_000), ("b", 1_000_000)]);
    let plan = DownloadPlan { folder: small.path(), ..plan(&small.0, &content) };
    let mut download = open(&disk, plan).await.unwrap();
    let refused = fill(&mut download, &content).await;
    assert!(refused.len() > 20 && refused.len() < 50, "{refused:?}");
    small.remount("size=10m");
    assert_eq!(download.next().await, Done::Resumed);
    download.send_all(&content, refused).await;
    content.assert_at(&download.store.finish().await.unwrap());
}

#[tokio::test]
async fn f12_no_inodes_is_a_full_disk_too() {
    let Some(small) = SmallDisk::mount("size=10m,nr_inodes=9") else {
        return;
    };
    let disk = Disk::start(2);
    let files: Vec<(String, usize)> = (0..20).map(|number| (format!("{number:02}"), 20_000)).collect();
    let files: Vec<(&str, usize)> = files.iter().map(|(name, size)| (name.as_str(), *size)).collect();
    let content = Content::folder(Version::V2, &files);
    let plan = DownloadPlan { folder: small.path(), ..plan(&small.0, &content) };
    let mut download = open(&disk, plan).await.unwrap();
    let refused = fill(&mut download, &content).await;
    small.remount("nr_inodes=100");
    assert_eq!(download.next().await, Done::Resumed);
    download.send_all(&content, refused).await;
    content.assert_at(&download.store.finish().await.unwrap());
}
