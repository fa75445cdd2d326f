//! Things in the place of our files that lead elsewhere.

use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

#[tokio::test]
async fn p09_nothing_but_a_plain_file_is_taken_for_the_final_name() {
    let disk = Disk::start(1);
    let content = Content::file(Version::V1, 10);
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    content.write_to(&target);
    let obstacles: [&dyn Fn(&Path); 4] = [
        &|name| symlink(&target, name).unwrap(),
        &|name| symlink("/nowhere", name).unwrap(),
        &|name| std::fs::create_dir(name).unwrap(),
        &|name| drop(std::os::unix::net::UnixListener::bind(name).unwrap()),
    ];
    for obstacle in obstacles {
        for on_existing in [OnExisting::Refuse, OnExisting::Replace] {
            let folder = tempfile::tempdir().unwrap();
            obstacle(&folder.path().join("file.bin"));
            let plan = DownloadPlan { on_existing, ..plan(&folder, &content) };
            let error = open(&disk, plan).await.map(|_| ()).unwrap_err();
            assert!(matches!(error, StoreError::Unexpected { .. }), "{error}");
        }
    }
    content.assert_at(&target);
}

#[tokio::test]
async fn p09_a_partial_folder_or_file_that_is_a_link_is_never_written_through() {
    let disk = Disk::start(1);
    let content = Content::file(Version::V1, 10);
    let outside = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("file.bin.obt-part");
    symlink(outside.path(), &inside).unwrap();
    let error = open(&disk, plan(&folder, &content)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Unexpected { .. }), "{error}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);

    let secret = outside.path().join("secret");
    let links: [&dyn Fn(&Path); 2] =
        [&|data| symlink(&secret, data).unwrap(), &|data| std::fs::hard_link(&secret, data).unwrap()];
    for link in links {
        std::fs::write(&secret, "0123456789").unwrap();
        let _ = std::fs::remove_file(&inside);
        let _ = std::fs::remove_dir_all(&inside);
        std::fs::create_dir(&inside).unwrap();
        link(&inside.join("data"));
        let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
        assert_eq!(download.have.count(), 0);
        let failed = download.send(&content, 0).await;
        assert!(matches!(failed, Done::Paused { .. } | Done::StoreFailed { .. }), "{failed:?}");
        assert_eq!(std::fs::read(&secret).unwrap(), b"0123456789");
    }
}

#[tokio::test]
async fn p10_a_folder_that_is_swapped_for_a_link_leads_nowhere() {
    let disk = Disk::start(2);
    let content = Content::folder(Version::V2, &[("deep/a", 40_000), ("deep/b", 40_000)]);
    let outside = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, [0]).await;
    let deep = folder.path().join("folder.obt-part/data/deep");
    std::fs::rename(&deep, deep.with_file_name("away")).unwrap();
    symlink(outside.path(), &deep).unwrap();
    let done = download.send(&content, 2).await;
    assert!(!is_good(&done), "{done:?}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(download.store.finish().await.is_err());
}

#[tokio::test]
async fn p11_files_and_folders_have_plain_modes() {
    let disk = Disk::start(1);
    let content = Content::folder(Version::V1, &[("a/b", 10)]);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, content.all()).await;
    let root = download.store.finish().await.unwrap();
    assert_eq!(std::fs::metadata(root.join("a/b")).unwrap().mode() & 0o7133, 0);
    assert_eq!(std::fs::metadata(root.join("a")).unwrap().mode() & 0o7022, 0);
}
