//! Other content under the final name, of which a download takes what it wants.

use super::*;

fn replacing(folder: &TempDir, content: &Content) -> DownloadPlan {
    DownloadPlan { on_existing: OnExisting::Replace, ..plan(folder, content) }
}

#[tokio::test]
async fn an_older_version_spares_fetching_what_did_not_change() {
    let disk = Disk::start(2);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        // The last piece is short.
        let content = Content::file(version, 6 * PIECE as usize + 100);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.bin");
        for cut in [0, 3 * PIECE as usize + 5] {
            let mut older = content.files[0].1.clone();
            older[2 * PIECE as usize] ^= 1;
            older.truncate(older.len() - cut);
            std::fs::write(&path, &older).unwrap();
            let mut download = open(&disk, replacing(&folder, &content)).await.unwrap();
            let here = if cut == 0 { vec![0, 1, 3, 4, 5, 6] } else { vec![0, 1] };
            assert_eq!(numbers(&download.have), here, "{version:?}");
            assert!(std::fs::read(&path).unwrap() == older, "it stays until the new one is whole");
            download.read(&content, 1).unwrap();
            let missing: Vec<u32> = content.all().filter(|piece| !here.contains(piece)).collect();
            download.send_all(&content, missing).await;
            content.assert_at(&download.store.finish().await.unwrap());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}

#[tokio::test]
async fn files_of_an_older_folder_are_taken_one_by_one() {
    let disk = Disk::start(2);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let names = [("a", 2 * PIECE as usize), ("b/c", 4 * PIECE as usize), ("d", PIECE as usize), ("e", 0)];
        let content = Content::folder(version, &names);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("folder");
        content.write_to(&root);
        std::fs::remove_file(root.join("a")).unwrap();
        std::fs::remove_file(root.join("d")).unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("a")).unwrap();
        let download = open(&disk, replacing(&folder, &content)).await.unwrap();
        assert_eq!(numbers(&download.have), [2, 3, 4, 5], "{version:?}");
        // Killed, it does not begin from nothing.
        drop(download);
        let mut download = open_unlocked(&disk, &replacing(&folder, &content)).await;
        assert_eq!(numbers(&download.have), [2, 3, 4, 5]);
        download.send_all(&content, [0, 1, 6]).await;
        content.assert_at(&download.store.finish().await.unwrap());
    }
}

#[tokio::test]
async fn other_content_has_nothing() {
    let disk = Disk::start(2);
    let content = Content::file(Version::Hybrid, 100_000);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file.bin"), noise(100_000, 77)).unwrap();
    let mut download = open(&disk, replacing(&folder, &content)).await.unwrap();
    assert_eq!(download.have.count(), 0);
    download.send_all(&content, content.all()).await;
    content.assert_at(&download.store.finish().await.unwrap());
}
