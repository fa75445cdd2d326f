//! What nodes are for.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use obt_node::config::NodeConfig;
use obt_node::disk::Selection;
use obt_node::node::{Node, NodeError};
use obt_node::torrent::{AddTorrent, ReadError, Source, TorrentError, TorrentStats};
use obt_swarm::{PeerSource, Phase};
use obt_wire::metainfo::Version;

use crate::raw_peer::Liar;
use crate::support::{Item, at, config, finish, node, seeder, seeder_with, within};

#[tokio::test]
async fn a_file_goes_from_one_node_to_another() {
    let item = Item::file("film.mkv", 3_333_333, 65_536);
    let seeder = seeder(&item).await;
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch(target.path(), vec![at(&seeder)])).unwrap();
    let finished = finish(&torrent).await;
    assert_eq!(finished.path, target.path().join("film.mkv"));
    assert_eq!(finished.from, [(at(&seeder), 3_333_333)]);
    item.assert_same(&finished.path);
    leecher.shutdown().await;
    seeder.shutdown().await;
}

#[tokio::test]
async fn a_folder_goes_with_its_subfolders_and_its_empty_files() {
    let files = [("a/b/deep.bin", 100_000), ("a/empty", 0), ("naïve name", 1), ("z", 40_000), ("b", 16_384)];
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let item = Item::make("a folder", &files, 32_768, version);
        let seeder = seeder(&item).await;
        let leecher = node().await;
        let target = tempfile::tempdir().unwrap();
        let finished = finish(&leecher.add(item.fetch(target.path(), vec![at(&seeder)])).unwrap()).await;
        assert_eq!(finished.path, target.path().join("a folder"));
        item.assert_same(&finished.path);
    }
}

#[tokio::test]
async fn an_empty_file_is_complete_at_once_and_without_a_peer() {
    let item = Item::file("nothing", 0, 16_384);
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let finished = finish(&leecher.add(item.fetch(target.path(), Vec::new())).unwrap()).await;
    item.assert_same(&finished.path);
}

#[tokio::test]
async fn a_magnet_brings_its_torrent_first() {
    let files: Vec<(String, usize)> =
        (0..900).map(|file| (format!("folder {}/file {file}", file / 30), 1000)).collect();
    let files: Vec<(&str, usize)> = files.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let item = Item::make("many", &files, 16_384, version);
        assert!(item.metainfo.info.bytes.len() > 32_768, "several pieces of metadata");
        let seeder = seeder(&item).await;
        let leecher = node().await;
        let target = tempfile::tempdir().unwrap();
        let torrent = leecher.add(item.fetch_magnet(target.path(), vec![at(&seeder)])).unwrap();
        let finished = finish(&torrent).await;
        item.assert_same(&finished.path);
    }
}

#[tokio::test]
async fn a_torrent_that_is_given_while_peers_are_met_is_fetched() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let item = Item::make("film.mkv", &[("", 1_000_000)], 32_768, version);
        let other = Item::file("other", 100_000, 16_384);
        let seeder = seeder(&item).await;
        let leecher = node().await;
        let target = tempfile::tempdir().unwrap();
        let torrent = leecher.add(item.await_torrent(target.path(), vec![at(&seeder)])).unwrap();
        let met = |stats: &Arc<TorrentStats>| stats.swarm.as_ref().is_some_and(|swarm| swarm.peers.len() == 1);
        within(torrent.stats().wait_for(met)).await.unwrap();
        // Not what was asked for: it goes on waiting.
        torrent.give(Arc::clone(&other.metainfo), other.metainfo.to_bytes().into()).await;
        torrent.give(Arc::clone(&item.metainfo), item.metainfo.to_bytes().into()).await;
        let again = item.metainfo.to_bytes().into();
        torrent.give(Arc::clone(&item.metainfo), again).await;
        assert_eq!(within(torrent.known()).await.unwrap().info.hashes, item.metainfo.info.hashes);
        item.assert_same(&finish(&torrent).await.path);
    }
}

#[tokio::test]
async fn the_hashes_of_a_v2_magnet_s_pieces_come_from_peers_too() {
    let item = Item::make("film.mkv", &[("", 1_000_000)], 32_768, Version::V2);
    let seeder = seeder(&item).await;
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch_magnet(target.path(), vec![at(&seeder)])).unwrap();
    item.assert_same(&finish(&torrent).await.path);
}

#[tokio::test]
async fn a_stopped_download_goes_on_where_it_was() {
    let item = Item::file("film.mkv", 4 << 20, 65_536);
    let slow = seeder_with(NodeConfig { upload_rate: Some(1 << 20), ..config() }, &item).await;
    let target = tempfile::tempdir().unwrap();
    let first = node().await;
    let torrent = first.add(item.fetch(target.path(), vec![at(&slow)])).unwrap();
    within(torrent.stats().wait_for(|stats| have(stats) >= 20)).await.unwrap();
    within(first.shutdown()).await;
    let seeder = seeder(&item).await;
    let second = node().await;
    let finished = finish(&second.add(item.fetch(target.path(), vec![at(&seeder)])).unwrap()).await;
    item.assert_same(&finished.path);
    let fetched: u64 = finished.from.iter().map(|(_, bytes)| bytes).sum();
    assert!(fetched <= item.size() - 20 * 65_536, "{fetched} bytes were fetched again");
}

#[tokio::test]
async fn f20_a_file_that_changed_is_not_served_and_others_are_asked() {
    let item = Item::file("film.mkv", 1 << 20, 65_536);
    let changed = seeder(&item).await;
    let bytes = fs::read(&item.root).unwrap();
    fs::write(&item.root, vec![7; bytes.len()]).unwrap();
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch(target.path(), vec![at(&changed)])).unwrap();
    let seeding = changed.torrents().remove(0);
    within(seeding.stats().wait_for(|stats| have(stats) == 0)).await.unwrap();
    assert_eq!(have(&torrent.stats().borrow()), 0);
    fs::write(&item.root, bytes).unwrap();
    let honest = seeder(&item).await;
    torrent.add_peers(PeerSource::User, vec![at(&honest)]).await;
    item.assert_same(&finish(&torrent).await.path);
}

#[tokio::test]
async fn f21_what_somebody_damages_in_a_partial_file_is_fetched_again() {
    let item = Item::file("film.mkv", 1 << 20, 65_536);
    let partial = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(&item.root).unwrap();
    bytes[15 * 65_536] ^= 1;
    let root = partial.path().join("film.mkv");
    fs::write(&root, bytes).unwrap();
    let source = Source::Existing { root, metainfo: item.metainfo.clone(), proof: None };
    let (first, leecher) = (node().await, node().await);
    within(first.add(AddTorrent { source, ..item.seed() }).unwrap().ready()).await.unwrap();
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch(target.path(), vec![at(&first)])).unwrap();
    within(torrent.stats().wait_for(|stats| have(stats) == 15)).await.unwrap();
    damage(&target.path().join("film.mkv.obt-part/data"), 4 * 65_536);
    let honest = seeder(&item).await;
    torrent.add_peers(PeerSource::User, vec![at(&honest)]).await;
    item.assert_same(&finish(&torrent).await.path);
}

#[tokio::test]
async fn what_is_let_go_of_at_the_end_is_not_fetched_again() {
    let item = Item::make("folder", &[("a", 100_000), ("b", 100_000)], 65_536, Version::V1);
    let seeder = seeder(&item).await;
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let add = item.fetch(target.path(), vec![at(&seeder)]);
    let Source::Download(mut plan) = add.source else { panic!("a download") };
    plan.selection = Selection::Path(vec!["a".into()]);
    let torrent = leecher.add(AddTorrent { source: Source::Download(plan), ..add }).unwrap();
    let finished = finish(&torrent).await;
    assert!(fs::read(finished.path).unwrap() == fs::read(item.root.join("a")).unwrap());
    let stats = torrent.stats().borrow().swarm.clone().unwrap();
    assert_eq!((stats.phase, stats.pieces_have, stats.pieces_left), (Phase::Seeding, 1, 0), "the shared piece is gone");
}

/// Overwrites some bytes, as nobody could who was not told to.
fn damage(path: &Path, at: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"damaged", at).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
}

#[tokio::test]
async fn pieces_larger_than_the_pool_come_in_by_way_of_the_disk() {
    let item = Item::file("film.mkv", 9 << 20, 4 << 20);
    let seeder = seeder(&item).await;
    let leecher = Node::start(NodeConfig { buffer_bytes: 2 << 20, ..config() }).await.unwrap();
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch(target.path(), vec![at(&seeder)])).unwrap();
    item.assert_same(&finish(&torrent).await.path);
}

#[tokio::test]
async fn three_seeders_all_give_their_part() {
    let item = Item::file("shared.iso", 12 << 20, 131_072);
    let seeders = [seeder(&item).await, seeder(&item).await, seeder(&item).await];
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let peers: Vec<SocketAddr> = seeders.iter().map(at).collect();
    let finished = finish(&leecher.add(item.fetch(target.path(), peers.clone())).unwrap()).await;
    item.assert_same(&finished.path);
    assert!(peers.iter().all(|peer| finished.from.iter().any(|(addr, _)| addr == peer)), "{:?}", finished.from);
}

#[tokio::test]
async fn a_seeder_that_dies_half_way_is_replaced_by_another() {
    let item = Item::file("film.mkv", 4 << 20, 65_536);
    let dying = seeder_with(NodeConfig { upload_rate: Some(1 << 20), ..config() }, &item).await;
    let other = seeder(&item).await;
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch(target.path(), vec![at(&dying)])).unwrap();
    let mut stats = torrent.stats();
    let has_some = |pieces: u32| move |stats: &_| have(stats) >= pieces;
    within(stats.wait_for(|stats| has_some(4)(stats))).await.unwrap();
    assert!(!has_some(64)(&stats.borrow()));
    drop(dying);
    torrent.add_peers(PeerSource::User, vec![at(&other)]).await;
    let finished = finish(&torrent).await;
    item.assert_same(&finished.path);
}

fn have(stats: &std::sync::Arc<obt_node::torrent::TorrentStats>) -> u32 {
    stats.swarm.as_ref().map_or(0, |swarm| swarm.pieces_have)
}

#[tokio::test]
async fn leechers_of_one_slow_seed_feed_each_other() {
    let item = Item::file("film.mkv", 2 << 20, 32_768);
    let slow = seeder_with(NodeConfig { upload_rate: Some(2 << 20), ..config() }, &item).await;
    let leechers = [node().await, node().await, node().await];
    let peers: Vec<SocketAddr> = leechers.iter().chain([&slow]).map(at).collect();
    let targets: Vec<_> = leechers.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let mut torrents = Vec::new();
    for (leecher, target) in leechers.iter().zip(&targets) {
        torrents.push(leecher.add(item.fetch(target.path(), peers.clone())).unwrap());
    }
    for torrent in &torrents {
        item.assert_same(&finish(torrent).await.path);
    }
    let sent = slow.torrents()[0].stats().borrow().swarm.as_ref().unwrap().uploaded;
    assert!(sent < 2 * item.size(), "the seed sent {sent} bytes");
}

#[tokio::test]
async fn w16_a_liar_is_found_out_and_the_download_ends_well() {
    let item = Item::file("film.mkv", 2 << 20, 65_536);
    let honest = seeder_with(NodeConfig { upload_rate: Some(2 << 20), ..config() }, &item).await;
    let liar = Liar::start(&item).await;
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch(target.path(), vec![liar.addr(), at(&honest)])).unwrap();
    let finished = finish(&torrent).await;
    item.assert_same(&finished.path);
    assert!(liar.blocks() > 0);
}

#[tokio::test]
async fn a_file_can_be_read_in_order_while_it_comes_in() {
    let item = Item::file("film.mkv", 3_000_001, 65_536);
    let seeder = seeder(&item).await;
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch(target.path(), Vec::new())).unwrap();
    let mut reader = within(torrent.read(0, 1_000_000..3_000_001)).await.unwrap();
    torrent.add_peers(PeerSource::User, vec![at(&seeder)]).await;
    let mut read = Vec::new();
    while let Some(bytes) = within(reader.next()).await.unwrap() {
        read.extend_from_slice(&bytes);
    }
    assert!(read == fs::read(&item.root).unwrap()[1_000_000..]);
    assert!(matches!(torrent.read(0, 0..3_000_002).await, Err(ReadError::OutOfRange)));
    assert!(matches!(torrent.read(1, 0..0).await, Err(ReadError::OutOfRange)));
}

#[tokio::test]
async fn a_reader_is_told_when_the_torrent_stops() {
    let item = Item::file("film.mkv", 1_000_000, 65_536);
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let torrent = leecher.add(item.fetch(target.path(), Vec::new())).unwrap();
    let mut reader = within(torrent.read(0, 0..10)).await.unwrap();
    let (read, ()) = within(async { tokio::join!(reader.next(), torrent.stop()) }).await;
    assert!(matches!(read, Err(ReadError::Torrent(TorrentError::Stopped))), "{read:?}");
    assert!(matches!(torrent.finished().await, Err(TorrentError::Stopped)));
}

#[tokio::test]
async fn a_torrent_is_added_once_and_again_after_it_ended() {
    let item = Item::file("film.mkv", 1_000, 16_384);
    let node = node().await;
    let first = node.add(item.seed()).unwrap();
    assert!(matches!(node.add(item.seed()), Err(NodeError::Duplicate(_))));
    within(first.stop()).await;
    within(first.ended()).await;
    let again = node.add(item.seed()).unwrap();
    within(again.ready()).await.unwrap();
    node.shutdown().await;
    assert!(matches!(node.add(item.seed()), Err(NodeError::Stopping)));
}

#[tokio::test]
async fn f42_the_limit_of_a_node_holds_for_its_torrents_together() {
    let items = [Item::file("a", 1 << 20, 32_768), Item::file("b", 900_000, 32_768)];
    let seeder = seeder_with(NodeConfig { upload_rate: Some(1 << 20), ..config() }, &items[0]).await;
    within(seeder.add(items[1].seed()).unwrap().ready()).await.unwrap();
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    let both = items.each_ref().map(|item| leecher.add(item.fetch(target.path(), vec![at(&seeder)])).unwrap());
    for torrent in &both {
        finish(torrent).await;
    }
    // 1.9 MiB at 1 MiB/s; at the start each torrent may use the whole limit for a second.
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
}
