//! A download from the first block to the final name, and what a new process finds of one that was killed.

use obt_swarm::Verdict;

use super::super::workers::Lane;
use super::*;

#[tokio::test]
async fn every_version_and_shape_arrives_byte_for_byte() {
    let disk = Disk::start(2);
    let shapes: [&[(&str, usize)]; 4] = [
        &[("a", 5), ("b/c", 100_000), ("b/d", 0), ("e", 32_768), ("f", 16_385)],
        &[("only/one", 1)],
        &[("empty", 0), ("x", 70_000)],
        &[("nothing", 0)],
    ];
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let folders = shapes.iter().map(|files| Content::folder(version, files));
        let files = [0, 1, 16_384, 16_385, 32_768, 100_000].map(|size| Content::file(version, size));
        for content in folders.chain(files) {
            let folder = tempfile::tempdir().unwrap();
            let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
            assert_eq!(download.have.count(), 0);
            download.send_all(&content, content.all().rev()).await;
            content.all().for_each(|piece| download.read(&content, piece).unwrap());
            let path = download.store.finish().await.unwrap();
            assert_eq!(path, folder.path().join(&content.metainfo.info.name));
            content.assert_at(&path);
            content.all().for_each(|piece| download.read(&content, piece).unwrap());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the content is left");
            assert_eq!(download.store.finish().await.unwrap(), path);
        }
    }
}

#[tokio::test]
async fn a_bad_piece_is_not_kept_and_its_digests_tell_which_block() {
    let disk = Disk::start(1);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let content = Content::file(version, 100_000);
        let folder = tempfile::tempdir().unwrap();
        let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
        let mut bad = blocks(&content, 1);
        bad[0].1[7] ^= 1;
        download.store.verify([full(1, bad, false)]);
        let Done::Verified { verdict: Verdict::Bad, block_digests: of_bad, .. } = download.next().await else {
            panic!("the piece is bad");
        };
        assert!(matches!(download.store.upload(&request(1)), Err(StoreError::NotHere { piece: 1 })));
        download.store.verify([full(1, blocks(&content, 1), true)]);
        let Done::Verified { verdict: Verdict::Good, block_digests: of_good, .. } = download.next().await else {
            panic!("the piece is good");
        };
        assert_eq!((of_bad.len(), of_good.len()), (2, 2));
        assert_eq!(of_bad[0], of_good[0]);
        assert_ne!(of_bad[1], of_good[1]);
    }
}

fn request(piece: u32) -> Request {
    Request { piece, begin: 0, length: 10 }
}

#[tokio::test]
async fn m20_a_hybrid_of_two_contents_is_inconsistent() {
    let disk = Disk::start(1);
    let draft = Draft::file("file.bin", 100_000, PIECE, Version::Hybrid).unwrap();
    let content = Content::with(draft, |mut bytes| {
        bytes[40_000] ^= 1;
        bytes
    });
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    assert!(is_good(&download.send(&content, 0).await));
    let done = download.send(&content, 1).await;
    assert!(matches!(done, Done::Verified { verdict: Verdict::Inconsistent, .. }), "{done:?}");
    assert_eq!(numbers(&download.store.have()), [0]);
}

#[tokio::test]
async fn pieces_that_wait_together_get_each_its_own_verdict() {
    const BAD: u32 = 7;
    const SPILLED: u32 = 3;
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let folder = TempDir::new().unwrap();
        // Twenty-one pieces; the last is short.
        let content = Content::file(version, 20 * PIECE as usize + 5);
        let disk = Disk::start(1);
        let mut opened = open(&disk, plan(&folder, &content)).await.unwrap();
        opened.store.spill(PieceIndex(SPILLED), blocks(&content, SPILLED).split_off(1));
        // The only thread is kept busy until all of them wait.
        let (go, gate) = std::sync::mpsc::channel::<()>();
        disk.run(Lane::Pieces, move || gate.recv().unwrap_or_default());
        for piece in content.all() {
            let mut blocks = blocks(&content, piece);
            match piece {
                BAD => blocks[0].1[100] ^= 1,
                SPILLED => blocks.truncate(1),
                _ => {}
            }
            opened.store.verify([full(piece, blocks, false)]);
        }
        go.send(()).unwrap();
        let mut good = Vec::new();
        for _ in content.all() {
            match opened.next().await {
                Done::Verified { piece, verdict: Verdict::Good, .. } => good.push(piece.0),
                Done::Verified { piece, verdict, .. } => assert_eq!((piece.0, verdict), (BAD, Verdict::Bad)),
                other => panic!("{other:?}"),
            }
        }
        good.sort_unstable();
        assert_eq!(good, content.all().filter(|piece| *piece != BAD).collect::<Vec<_>>(), "{version:?}");
        opened.send_all(&content, [BAD]).await;
        content.assert_at(&opened.store.finish().await.unwrap());
    }
}

#[tokio::test]
async fn spilled_blocks_are_read_back_to_verify() {
    let disk = Disk::start(2);
    let content = Content::folder(Version::V1, &[("a", 20_000), ("b", 40_000)]);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    let mut first = blocks(&content, 0);
    let second = first.split_off(1);
    download.store.spill(PieceIndex(0), first);
    download.store.verify([full(0, second, false)]);
    assert!(is_good(&download.next().await));
    download.store.spill(PieceIndex(1), blocks(&content, 1));
    download.store.verify([full(1, Vec::new(), false)]);
    assert!(is_good(&download.next().await));
    content.assert_at(&download.store.finish().await.unwrap());
}

#[tokio::test]
async fn f01_a_killed_download_goes_on_with_what_it_had() {
    let disk = Disk::start(2);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let content = Content::folder(version, &[("a", 50_000), ("b", 200_000), ("c", 0), ("d", 10)]);
        let folder = tempfile::tempdir().unwrap();
        let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
        download.send_all(&content, [0, 3, 4]).await;
        drop(download);
        let mut download = open_unlocked(&disk, &plan(&folder, &content)).await;
        assert_eq!(numbers(&download.have), [0, 3, 4]);
        download.send_all(&content, content.all().filter(|piece| ![0, 3, 4].contains(piece))).await;
        content.assert_at(&download.store.finish().await.unwrap());
    }
}

#[tokio::test]
async fn a_flushed_download_is_trusted_without_hashing() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V1, 200_000);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, [1, 2]).await;
    download.store.flush().await;
    drop(download);
    // A change that size and time do not show would be seen by hashing, and by nothing else.
    let data = folder.path().join("file.bin.obt-part/data");
    let before = std::fs::metadata(&data).unwrap().modified().unwrap();
    let file = std::fs::File::options().write(true).open(&data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 40_000).unwrap();
    file.set_modified(before).unwrap();
    assert_eq!(numbers(&open_unlocked(&disk, &plan(&folder, &content)).await.have), [1, 2]);
}

#[tokio::test]
async fn f26_without_a_journal_everything_is_hashed() {
    let disk = Disk::start(2);
    let content = Content::file(Version::Hybrid, 200_000);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, [1, 2, 6]).await;
    download.store.flush().await;
    drop(download);
    let inside = folder.path().join("file.bin.obt-part");
    std::fs::remove_file(inside.join("journal-a")).unwrap();
    let file = std::fs::File::options().write(true).open(inside.join("data")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 40_000).unwrap();
    assert_eq!(numbers(&open_unlocked(&disk, &plan(&folder, &content)).await.have), [2, 6]);
}

#[tokio::test]
async fn f23_a_torn_journal_falls_back_to_hashing_and_never_panics() {
    let disk = Disk::start(2);
    let content = Content::file(Version::V2, 100_000);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, [0, 2]).await;
    download.store.flush().await;
    drop(download);
    let journal = folder.path().join("file.bin.obt-part/journal-a");
    let whole = std::fs::read(&journal).unwrap();
    for cut in (0..whole.len()).step_by(7) {
        std::fs::write(&journal, &whole[..cut]).unwrap();
        assert_eq!(numbers(&open_unlocked(&disk, &plan(&folder, &content)).await.have), [0, 2], "cut at {cut}");
    }
}

#[tokio::test]
async fn a_second_download_to_the_same_place_is_told_so() {
    let disk = Disk::start(1);
    let content = Content::file(Version::V1, 100_000);
    let folder = tempfile::tempdir().unwrap();
    let first = open(&disk, plan(&folder, &content)).await.unwrap();
    let second = open(&disk, plan(&folder, &content)).await.map(|_| ()).unwrap_err();
    assert!(matches!(&second, StoreError::InUse { path } if path.ends_with("file.bin.obt-part")), "{second}");
    drop(first);
}

#[tokio::test]
async fn the_torrent_of_a_begun_download_is_found_again_and_another_one_is_refused() {
    let disk = Disk::start(1);
    let content = Content::file(Version::V1, 100_000);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Store::begun(&disk, folder.path(), "file.bin").await.unwrap(), None);
    drop(open(&disk, plan(&folder, &content)).await.unwrap());
    let begun = Store::begun(&disk, folder.path(), "file.bin").await.unwrap();
    assert_eq!(begun.as_deref(), Some(&content.torrent[..]));
    let other = Content::file(Version::V1, 100_001);
    let error = open(&disk, plan(&folder, &other)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::OtherTorrent { .. }), "{error}");
}

#[tokio::test]
async fn one_file_of_a_folder_gets_its_own_name_alone() {
    let disk = Disk::start(2);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let content = Content::folder(version, &[("a", 50_000), ("b/c", 80_000), ("b/d", 10), ("z", 50_000)]);
        for (path, name) in [(&["b", "c"][..], "c"), (&["b"], "b")] {
            let folder = tempfile::tempdir().unwrap();
            let selection = Selection::Path(path.iter().map(|part| (*part).to_owned()).collect());
            let plan = DownloadPlan { selection, ..plan(&folder, &content) };
            let mut download = open(&disk, plan).await.unwrap();
            let wanted = numbers(&download.store.wanted());
            assert!(wanted.len() < content.count() as usize);
            download.send_all(&content, wanted).await;
            let at = download.store.finish().await.unwrap();
            assert_eq!(at, folder.path().join(name));
            let file = if path.len() == 2 { at } else { at.join("c") };
            assert!(std::fs::read(file).unwrap() == content.files[1].1);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
            // What shares a piece with files that were not wanted is gone with them.
            for piece in download.store.have().iter() {
                download.read(&content, piece.0).unwrap();
            }
            assert!(download.store.have().count() > 0);
        }
    }
}

#[tokio::test]
async fn what_is_not_in_the_torrent_cannot_be_selected() {
    let disk = Disk::start(1);
    let content = Content::folder(Version::V1, &[("a/b", 5)]);
    let folder = tempfile::tempdir().unwrap();
    for path in [&["b"][..], &["a", "b", "c"], &["A"]] {
        let selection = Selection::Path(path.iter().map(|part| (*part).to_owned()).collect());
        let error = open(&disk, DownloadPlan { selection, ..plan(&folder, &content) }).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::NotSelected(_)), "{error}");
    }
    for name in ["..", "a/b", "", "."] {
        let error = open(&disk, DownloadPlan { name: Some(name.into()), ..plan(&folder, &content) }).await.map(|_| ());
        assert!(matches!(error.unwrap_err(), StoreError::BadName(_)), "{name:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn p03_a_name_of_full_length_has_room_for_its_partial_folder() {
    let disk = Disk::start(1);
    let content = Content::file(Version::V1, 10);
    let folder = tempfile::tempdir().unwrap();
    for name in ["n".repeat(255), format!("{}.mkv", "n".repeat(1_000))] {
        let mut download = open(&disk, DownloadPlan { name: Some(name), ..plan(&folder, &content) }).await.unwrap();
        download.send_all(&content, content.all()).await;
        content.assert_at(&download.store.finish().await.unwrap());
    }
}

#[tokio::test]
async fn finishing_too_early_says_how_much_is_missing_and_can_be_tried_again() {
    let disk = Disk::start(1);
    let content = Content::file(Version::V1, 100_000);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, [0, 1]).await;
    assert!(matches!(download.store.finish().await, Err(StoreError::Incomplete { missing: 2 })));
    download.send_all(&content, [2, 3]).await;
    content.assert_at(&download.store.finish().await.unwrap());
}

#[tokio::test]
async fn f40_more_files_than_may_be_open_are_written_read_and_resumed() {
    let disk = Disk::start(2);
    let names: Vec<String> = (0..600).map(|number| format!("{}/{number:03}", number % 7)).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let content = Content::folder(Version::V2, &files);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    download.send_all(&content, 0..400).await;
    download.store.flush().await;
    drop(download);
    let mut download = open_unlocked(&disk, &plan(&folder, &content)).await;
    assert_eq!(download.have.count(), 400);
    download.send_all(&content, 400..600).await;
    content.all().for_each(|piece| download.read(&content, piece).unwrap());
    let descriptors = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let open = open.filter(|path| path.starts_with(folder.path())).count();
    assert!(open < 300, "{open} descriptors");
    content.assert_at(&download.store.finish().await.unwrap());
}
