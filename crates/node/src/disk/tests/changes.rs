//! Files that somebody else changes while we have them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use super::*;

fn data_of(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("file.bin.obt-part/data")
}

/// Overwrites some bytes and makes sure that the file's time shows it, however coarse the clock.
fn damage(path: &Path, at: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"damaged", at).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at + 1)).unwrap();
}

#[tokio::test]
async fn f20_a_changed_file_is_not_read_for_anybody_until_it_is_hashed_again() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V1, 200_000);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("shared");
    content.write_to(&root);
    let mut shared = open_existing(&disk, &root, &content, None).await;
    shared.read(&content, 1).unwrap();
    damage(&root, 40_000);
    assert!(matches!(shared.read(&content, 1), Err(StoreError::Changed { .. })));
    assert_eq!(shared.next().await, Done::Withdrawn { pieces: vec![PieceIndex(1)] });
    assert!(matches!(shared.read(&content, 1), Err(StoreError::NotHere { piece: 1 })));
    while matches!(shared.read(&content, 0), Err(StoreError::Changed { .. })) {
        tokio::task::yield_now().await;
    }
    shared.read(&content, 0).unwrap();
}

#[tokio::test]
async fn f20_a_file_whose_time_alone_changed_loses_nothing() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V2, 200_000);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("shared");
    content.write_to(&root);
    let shared = open_existing(&disk, &root, &content, None).await;
    File::open(&root).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert!(matches!(shared.read(&content, 1), Err(StoreError::Changed { .. })));
    while matches!(shared.read(&content, 1), Err(StoreError::Changed { .. })) {
        tokio::task::yield_now().await;
    }
    shared.read(&content, 1).unwrap();
    assert!(shared.store.have().is_full());
}

#[tokio::test]
async fn f20_truncated_grown_deleted_and_replaced_files_are_withdrawn() {
    let disk = Disk::start(2);
    let content = Content::folder(Version::Hybrid, &[("a", 70_000), ("b", 70_000)]);
    let changes: [fn(&Path); 5] = [
        |file| File::options().write(true).open(file).unwrap().set_len(69_999).unwrap(),
        |file| File::options().write(true).open(file).unwrap().set_len(70_001).unwrap(),
        |file| std::fs::remove_file(file).unwrap(),
        |file| {
            std::fs::write(file.with_file_name("new"), "other").unwrap();
            std::fs::rename(file.with_file_name("new"), file).unwrap();
        },
        |file| {
            std::fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink("b", file).unwrap();
        },
    ];
    for change in changes {
        let folder = tempfile::tempdir().unwrap();
        content.write_to(folder.path());
        let mut shared = open_existing(&disk, folder.path(), &content, None).await;
        assert!(shared.have.is_full());
        shared.read(&content, 0).unwrap();
        change(&folder.path().join("a"));
        assert!(matches!(shared.read(&content, 0), Err(StoreError::Changed { .. })));
        assert_eq!(shared.next().await, Done::Withdrawn { pieces: [0, 1, 2].map(PieceIndex).to_vec() });
        shared.read(&content, 3).unwrap();
    }
}

#[tokio::test]
async fn f21_a_partial_file_that_was_changed_is_hashed_before_it_gets_its_name() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V1, 200_000);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, content.all()).await;
    damage(&data_of(&folder), 70_000);
    assert!(matches!(download.store.finish().await, Err(StoreError::Changed { .. })));
    assert_eq!(download.next().await, Done::Withdrawn { pieces: vec![PieceIndex(2)] });
    download.send_all(&content, [2]).await;
    content.assert_at(&download.store.finish().await.unwrap());
}

#[tokio::test]
async fn f21_a_change_between_our_own_writes_is_seen() {
    let disk = Disk::start(1);
    let content = Content::file(Version::Hybrid, 200_000);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, [0, 1, 2]).await;
    damage(&data_of(&folder), 40_000);
    download.send_all(&content, [3]).await;
    assert_eq!(download.next().await, Done::Withdrawn { pieces: vec![PieceIndex(1)] });
    assert_eq!(numbers(&download.store.have()), [0, 2, 3]);
    download.send_all(&content, [1, 4, 5, 6]).await;
    content.assert_at(&download.store.finish().await.unwrap());
}

#[tokio::test]
async fn f21_a_partial_file_that_was_deleted_is_begun_again() {
    let disk = Disk::start(1);
    let content = Content::file(Version::V1, 200_000);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, [0, 1]).await;
    std::fs::remove_file(data_of(&folder)).unwrap();
    download.send_all(&content, [2]).await;
    assert_eq!(download.next().await, Done::Withdrawn { pieces: [0, 1].map(PieceIndex).to_vec() });
    download.send_all(&content, [0, 1, 3, 4, 5, 6]).await;
    content.assert_at(&download.store.finish().await.unwrap());
}

#[tokio::test]
async fn f18_a_file_that_ends_early_never_becomes_zeros() {
    let disk = Disk::start(1);
    let content = Content::file(Version::V1, 100_000);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("shared");
    content.write_to(&root);
    let shared = open_existing(&disk, &root, &content, None).await;
    let request = Request { piece: 2, begin: 0, length: 16_384 };
    let plan = shared.store.upload(&request).unwrap();
    File::options().write(true).open(&root).unwrap().set_len(70_000).unwrap();
    let mut out = vec![1; 16_384];
    for slice in plan.slices() {
        let crate::disk::UploadSlice::File { file, offset, .. } = slice else { panic!("one file") };
        assert_eq!(file.read_exact_at(&mut out, *offset).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
    assert!(shared.store.read_blocking(&request, &mut out).is_err());
}
