//! Long pieces, whose blocks are hashed and written while others come.

use obt_storage::ledger::{Event, Fault};
use obt_swarm::Verdict;

use super::super::coming::Coming;
use super::super::workers::Lane;
use super::full::SmallDisk;
use super::*;

/// Blocks of a piece.
const BLOCKS: u32 = 16;

/// Two pieces and a bit.
fn long(version: Version) -> Content {
    let size = u64::from(2 * BLOCKS * BLOCK_SIZE + 3 * BLOCK_SIZE + 5);
    Content::new(Draft::file("file.bin", size, BLOCKS * BLOCK_SIZE, version).unwrap())
}

/// The blocks of a piece in order, cut before each of these.
fn parts(content: &Content, piece: u32, cuts: &[u32]) -> Vec<Vec<(u32, BlockBuf)>> {
    let mut rest = blocks(content, piece);
    rest.reverse();
    let mut parts: Vec<_> =
        cuts.iter().rev().map(|cut| rest.split_off(rest.partition_point(|(index, _)| index < cut))).collect();
    parts.push(rest);
    parts.reverse();
    parts
}

#[tokio::test]
async fn parts_are_hashed_in_order_whatever_else_comes_between_them() {
    let disk = Disk::start(2);
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let content = long([Version::V1, Version::V2, Version::Hybrid][seed as usize % 3]);
        let folder = tempfile::tempdir().unwrap();
        let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
        let mut coming: Vec<_> = content
            .all()
            .map(|piece| {
                let mut cuts: Vec<u32> = (0..rng.u32(..4)).map(|_| rng.u32(..BLOCKS)).collect();
                cuts.sort_unstable();
                (piece, std::collections::VecDeque::from(parts(&content, piece, &cuts)))
            })
            .collect();
        while !coming.is_empty() {
            let at = rng.usize(..coming.len());
            let (piece, parts) = &mut coming[at];
            let part = parts.pop_front().unwrap();
            if parts.is_empty() {
                // The last one may have been spilled.
                let (spilled, rest) = if rng.bool() { (part, Vec::new()) } else { (Vec::new(), part) };
                if !spilled.is_empty() {
                    download.store.spill(PieceIndex(*piece), spilled);
                }
                download.store.verify([full(*piece, rest, rng.bool())]);
                coming.swap_remove(at);
            } else {
                download.store.store_ahead([(PieceIndex(*piece), part)]);
            }
        }
        let mut good = 0;
        while good < content.count() {
            match download.next().await {
                Done::StoredAhead { .. } => {}
                done => {
                    assert!(is_good(&done), "seed {seed}: {done:?}");
                    good += 1;
                }
            }
        }
        content.assert_at(&download.store.finish().await.unwrap());
    }
}

#[tokio::test]
async fn a_part_gives_its_buffers_back_before_it_is_told() {
    let disk = Disk::start(1);
    let content = long(Version::Hybrid);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    let pool = Pool::bounded(4);
    let mut first = parts(&content, 0, &[4]).swap_remove(0);
    for (_, block) in &mut first {
        let mut own = pool.try_take().unwrap();
        own.copy_from_slice(block);
        *block = own;
    }
    download.store.store_ahead([(PieceIndex(0), first)]);
    assert_eq!(download.next().await, Done::StoredAhead { piece: PieceIndex(0), blocks: 4 });
    assert_eq!(pool.available(), 4);
    assert!(matches!(download.store.upload(&request(0)), Err(StoreError::NotHere { piece: 0 })), "it is not verified");
}

fn request(piece: u32) -> Request {
    Request { piece, begin: 0, length: 10 }
}

#[tokio::test]
async fn a_bad_block_in_a_part_that_is_written_shows_and_is_named() {
    let disk = Disk::start(1);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let content = long(version);
        let folder = tempfile::tempdir().unwrap();
        let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
        let mut digests = Vec::new();
        for bad in [true, false] {
            let mut parts = parts(&content, 1, &[5, 10]);
            let last = parts.pop().unwrap();
            if bad {
                parts[0][3].1[77] ^= 1;
            }
            for part in parts {
                download.store.store_ahead([(PieceIndex(1), part)]);
                assert!(matches!(download.next().await, Done::StoredAhead { .. }));
            }
            download.store.verify([full(1, last, true)]);
            let Done::Verified { verdict, block_digests, .. } = download.next().await else { panic!("no verdict") };
            assert_eq!(verdict, if bad { Verdict::Bad } else { Verdict::Good });
            digests.push(block_digests);
        }
        let differ = digests[0].iter().zip(&digests[1]).map(|(bad, good)| bad != good);
        let differ: Vec<usize> = differ.enumerate().filter_map(|(at, differs)| differs.then_some(at)).collect();
        assert_eq!((digests[0].len(), differ), (BLOCKS as usize, vec![3]));
        download.read(&content, 1).unwrap();
    }
}

#[tokio::test]
async fn a_piece_that_was_forgotten_begins_anew_even_while_a_part_of_it_is_written() {
    let disk = Disk::start(1);
    for waits in [true, false] {
        let content = long(Version::Hybrid);
        let folder = tempfile::tempdir().unwrap();
        let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
        let mut old = parts(&content, 0, &[4, 8]);
        old.iter_mut().flatten().for_each(|(_, block)| block[0] ^= 1);
        // The only thread is kept busy until all is said.
        let (go, gate) = std::sync::mpsc::channel::<()>();
        disk.run(Lane::Pieces, move || gate.recv().unwrap_or_default());
        let mut old = old.into_iter();
        for part in old.by_ref().take(2) {
            download.store.store_ahead([(PieceIndex(0), part)]);
        }
        if !waits {
            go.send(()).unwrap();
            assert!(matches!(download.next().await, Done::StoredAhead { .. }));
        }
        download.store.forget(PieceIndex(0));
        let mut new = parts(&content, 0, &[6]);
        let last = new.pop().unwrap();
        download.store.store_ahead([(PieceIndex(0), new.pop().unwrap())]);
        download.store.verify([full(0, last, false)]);
        let _ = go.send(());
        loop {
            match download.next().await {
                Done::StoredAhead { .. } if !waits => {}
                done => {
                    assert!(is_good(&done), "{done:?}");
                    break;
                }
            }
        }
        download.read(&content, 0).unwrap();
    }
}

#[tokio::test]
async fn f10_a_part_that_finds_the_disk_full_is_told_with_its_piece() {
    let Some(small) = SmallDisk::mount("size=400k") else {
        return;
    };
    let disk = Disk::start(2);
    let content = long(Version::V1);
    let plan = DownloadPlan { folder: small.path(), ..plan(&small.0, &content) };
    let mut download = open(&disk, plan).await.unwrap();
    let mut refused = 0;
    for piece in [0, 1] {
        let mut parts = parts(&content, piece, &[8]);
        let last = parts.pop().unwrap();
        download.store.store_ahead([(PieceIndex(piece), parts.pop().unwrap())]);
        download.store.verify([full(piece, last, false)]);
        loop {
            match download.next().await {
                Done::StoredAhead { .. } | Done::Paused { .. } => {}
                Done::StoreFailed { .. } => {
                    refused += 1;
                    break;
                }
                done => {
                    assert!(is_good(&done), "{done:?}");
                    break;
                }
            }
        }
    }
    assert_eq!(refused, 1);
    small.remount("size=10m");
    assert_eq!(download.next().await, Done::Resumed);
    let missing: Vec<u32> = content.all().filter(|piece| !download.store.have().has(PieceIndex(*piece))).collect();
    download.send_all(&content, missing).await;
    content.assert_at(&download.store.finish().await.unwrap());
}

/// Overwrites a byte of what is on disk of the first piece.
fn damage(folder: &TempDir) {
    let path = folder.path().join("file.bin.obt-part/data");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
}

#[tokio::test]
async fn f21_a_part_that_somebody_else_overwrites_before_its_piece_is_whole_is_fetched_again() {
    let disk = Disk::start(2);
    let gone: fn(&TempDir) = |folder| std::fs::remove_file(folder.path().join("file.bin.obt-part/data")).unwrap();
    for (change, version) in [(damage as fn(&TempDir), Version::V1), (gone, Version::Hybrid)] {
        let content = long(version);
        let folder = tempfile::tempdir().unwrap();
        let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
        let mut parts = parts(&content, 0, &[4, 8]);
        let last = parts.pop().unwrap();
        download.store.store_ahead([(PieceIndex(0), parts.remove(0))]);
        assert!(matches!(download.next().await, Done::StoredAhead { .. }));
        change(&folder);
        download.store.store_ahead([(PieceIndex(0), parts.remove(0))]);
        assert!(matches!(download.next().await, Done::StoredAhead { .. }));
        download.store.verify([full(0, last, false)]);
        assert!(matches!(download.next().await, Done::StoreFailed { .. }));
        download.send_all(&content, content.all()).await;
        content.assert_at(&download.store.finish().await.unwrap());
    }
}

#[tokio::test]
async fn f16_a_part_that_a_failed_sync_may_have_lost_is_fetched_again() {
    let disk = Disk::start(1);
    let content = long(Version::V1);
    let folder = tempfile::tempdir().unwrap();
    let mut download = open(&disk, plan(&folder, &content)).await.unwrap();
    let mut parts = parts(&content, 0, &[4]);
    let last = parts.pop().unwrap();
    download.store.store_ahead([(PieceIndex(0), parts.remove(0))]);
    assert!(matches!(download.next().await, Done::StoredAhead { .. }));
    download.store.data.tell(Event::Synced(Err(Fault::Failing("EIO".into()))));
    assert!(matches!(download.next().await, Done::Paused { .. }));
    download.store.verify([full(0, last, false)]);
    assert!(matches!(download.next().await, Done::StoreFailed { .. }));
}

#[test]
fn what_was_spilled_of_a_forgotten_piece_is_written_before_anything_new() {
    let content = long(Version::V1);
    let mut coming = Coming::default();
    coming.spilling(PieceIndex(0), 0);
    coming.forget(PieceIndex(0));
    assert!(coming.ahead(PieceIndex(0), parts(&content, 0, &[4]).remove(0), 0).is_none());
    assert_eq!(coming.spilled(PieceIndex(0), None).unwrap().blocks.len(), 4);
}
