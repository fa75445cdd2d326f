//! Data that is there already: shared where it lies, or found under the final name of a download.

use std::fs::File;
use std::time::SystemTime;

use super::*;
use crate::disk::stamp_of;

#[tokio::test]
async fn complete_data_is_had_and_incomplete_data_in_part() {
    let disk = Disk::start(2);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let content = Content::folder(version, &[("a", 50_000), ("b/c", 80_000), ("e", 0)]);
        let folder = tempfile::tempdir().unwrap();
        content.write_to(folder.path());
        let whole = open_existing(&disk, folder.path(), &content, None).await;
        assert!(whole.have.is_full());
        content.all().for_each(|piece| whole.read(&content, piece).unwrap());
        assert_eq!(whole.store.finish().await.unwrap(), folder.path().canonicalize().unwrap());

        std::fs::remove_file(folder.path().join("a")).unwrap();
        let part = open_existing(&disk, folder.path(), &content, None).await;
        assert_eq!(numbers(&part.have), content.all().skip(2).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_proof_spares_the_hashing_as_long_as_size_and_time_are_the_same() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V1, 200_000);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("shared");
    content.write_to(&root);
    let file = File::options().write(true).open(&root).unwrap();
    let proof = Proof::complete(&content.metainfo.info, &[stamp_of(&file).unwrap()]);
    assert_eq!(open_existing(&disk, &root, &content, None).await.store.proof(), proof);

    // Damage that neither size nor time shows is what a proof cannot see, and hashing can.
    let time = file.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damaged", 0).unwrap();
    file.set_modified(time).unwrap();
    let kept = Proof::from_bytes(proof.as_bytes().to_vec());
    assert!(open_existing(&disk, &root, &content, Some(kept)).await.have.is_full());

    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(open_existing(&disk, &root, &content, Some(proof)).await.have.count(), 6);
    let nonsense = Proof::from_bytes(vec![7; 100]);
    assert_eq!(open_existing(&disk, &root, &content, Some(nonsense)).await.have.count(), 6);
}

#[tokio::test]
async fn a_sparse_file_of_zeros_is_complete_without_reading_it() {
    let disk = Disk::start(2);
    let size = 64 * u64::from(PIECE);
    let draft = Draft::file("zeros", size, PIECE, Version::Hybrid).unwrap();
    let zeros = vec![0; PIECE as usize];
    let pieces = vec![Sha1Hash(Sha1::digest(&zeros).into()); 64];
    let metainfo = draft.finish(&pieces, vec![vec![layer(&[zeros.clone(), zeros].concat(), PIECE)[0]; 64]]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("zeros");
    File::create(&root).unwrap().set_len(size).unwrap();
    let (tell, _done) = unbounded_channel();
    let (_, have) = Store::existing(&disk, &root, Arc::new(metainfo), None, tell).await.unwrap();
    assert!(have.is_full());
}

#[tokio::test]
async fn the_same_content_under_the_final_name_is_adopted() {
    let disk = Disk::start(2);
    for content in [
        Content::file(Version::V1, 100_000),
        Content::folder(Version::Hybrid, &[("a", 50_000), ("b/c", 80_000), ("e", 0)]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join(&content.metainfo.info.name);
        content.write_to(&root);
        let adopted = open(&disk, plan(&folder, &content)).await.unwrap();
        assert!(adopted.have.is_full());
        assert_eq!(adopted.store.finish().await.unwrap(), root);
        content.all().for_each(|piece| adopted.read(&content, piece).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn f01_killed_between_the_rename_and_the_end_it_is_adopted_and_cleaned_up() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V1, 100_000);
    let folder = tempfile::tempdir().unwrap();
    drop(open(&disk, plan(&folder, &content)).await.unwrap());
    content.write_to(&folder.path().join("file.bin"));
    let adopted = loop {
        let adopted = open(&disk, plan(&folder, &content)).await.unwrap();
        if std::fs::read_dir(folder.path()).unwrap().count() == 1 {
            break adopted;
        }
    };
    assert!(adopted.have.is_full());
}

#[tokio::test]
async fn other_content_under_the_final_name_is_refused_before_anything_is_fetched() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V1, 100_000);
    for other in [vec![1; 100_000], vec![1; 5], Vec::new()] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("file.bin");
        std::fs::write(&root, &other).unwrap();
        let error = open(&disk, plan(&folder, &content)).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Occupied { .. }), "{error}");
        assert_eq!(std::fs::read(&root).unwrap(), other);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn what_the_user_lets_go_is_replaced_at_the_very_end() {
    let disk = Disk::start(2);
    for content in [Content::file(Version::V1, 100_000), Content::folder(Version::V2, &[("a", 50_000), ("b", 8)])] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join(&content.metainfo.info.name);
        if content.metainfo.info.single_file {
            std::fs::write(&root, "old").unwrap();
        } else {
            std::fs::create_dir_all(root.join("old/folder")).unwrap();
        }
        let forced = DownloadPlan { on_existing: OnExisting::Replace, ..plan(&folder, &content) };
        let mut download = open(&disk, forced).await.unwrap();
        download.send_all(&content, content.all()).await;
        assert!(std::fs::read(&root).map_or(root.join("old").exists(), |bytes| bytes == b"old"));
        assert_eq!(download.store.finish().await.unwrap(), root);
        content.assert_at(&root);
        assert!(!root.join("old").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn a_name_that_is_taken_meanwhile_is_not_replaced() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V1, 100_000);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, content.all()).await;
    let root = folder.path().join("file.bin");
    std::fs::write(&root, "somebody else's").unwrap();
    assert!(matches!(download.store.finish().await, Err(StoreError::Occupied { path }) if path == root));
    assert_eq!(std::fs::read(&root).unwrap(), b"somebody else's");
    std::fs::remove_file(&root).unwrap();
    content.assert_at(&download.store.finish().await.unwrap());
}
