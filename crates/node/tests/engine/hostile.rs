//! What strangers can do to a node, and that it goes on serving others (HOSTILE W).

use std::time::{Duration, Instant};

use obt_node::config::NodeConfig;
use obt_node::node::Node;
use obt_wire::merkle::block_hash;
use obt_wire::peer::{Handshake, HashRequest, Message};
use obt_wire::{InfoHash, Sha256Hash};

use crate::raw_peer::{HAVE, RawPeer, frame, handshake};
use crate::support::{Item, at, config, finish, node, seeder, seeder_with, within};

/// An honest peer is still served.
async fn assert_serves(seeder: &Node, item: &Item) {
    let leecher = node().await;
    let target = tempfile::tempdir().unwrap();
    let finished = finish(&leecher.add(item.fetch(target.path(), vec![at(seeder)])).unwrap()).await;
    item.assert_same(&finished.path);
}

fn item() -> Item {
    Item::file("film.mkv", 300_000, 32_768)
}

#[tokio::test]
async fn w01_silent_and_slow_connections_are_closed_when_the_time_for_a_handshake_is_over() {
    let item = item();
    let short = NodeConfig { handshake_timeout: Duration::from_millis(300), ..config() };
    let seeder = seeder_with(short, &item).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(RawPeer::connect(at(&seeder)).await);
    }
    let mut slow = RawPeer::connect(at(&seeder)).await;
    slow.send(b"\x13Bit").await;
    assert_serves(&seeder, &item).await;
    let begun = Instant::now();
    assert!(slow.until_closed().await.is_empty());
    for peer in &mut silent {
        assert!(peer.until_closed().await.is_empty());
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w02_other_protocols_are_closed_at_once_and_told_nothing() {
    let item = item();
    let seeder = seeder(&item).await;
    let begun = Instant::now();
    for opening in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n", b"\x13BitTorrent protocoX"]
    {
        let mut peer = RawPeer::connect(at(&seeder)).await;
        peer.send(opening).await;
        assert!(peer.until_closed().await.is_empty());
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "not after the time for a handshake");
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w03_an_unknown_torrent_is_closed_without_a_byte() {
    let item = item();
    let seeder = seeder(&item).await;
    let mut peer = RawPeer::connect(at(&seeder)).await;
    peer.send(&handshake(InfoHash([9; 20])).encode()).await;
    assert!(peer.until_closed().await.is_empty());
    for length in [0, 255] {
        let mut peer = RawPeer::connect(at(&seeder)).await;
        peer.send(&[length]).await;
        assert!(peer.until_closed().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w04_who_is_turned_away_by_its_name_is_not_answered() {
    let item = item();
    let seeder = seeder(&item).await;
    let ours = handshake(item.metainfo.info.hashes.primary());
    let mut peer = RawPeer::connect(at(&seeder)).await;
    peer.send(&ours.encode()).await;
    let theirs = peer.hear_handshake().await;
    for _ in 0..100 {
        let mut itself = RawPeer::connect(at(&seeder)).await;
        itself.send(&Handshake { peer_id: theirs.peer_id, ..ours }.encode()).await;
        assert!(itself.until_closed().await.is_empty());
    }
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w05_a_message_before_the_handshake_and_a_second_handshake_close() {
    let item = item();
    let seeder = seeder(&item).await;
    let mut early = RawPeer::connect(at(&seeder)).await;
    early.say(&Message::Interested).await;
    assert!(early.until_closed().await.is_empty());
    let mut twice = RawPeer::greet(at(&seeder), &item).await;
    twice.send(&handshake(item.metainfo.info.hashes.primary()).encode()).await;
    twice.until_closed().await;
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w06_lengths_that_no_message_has_close() {
    let item = item();
    let seeder = seeder(&item).await;
    for start in [&b"\xff\xff\xff\xff"[..], b"\x7f\xff\xff\xff", b"\x00\x10\x00\x01\x07"] {
        let mut peer = RawPeer::greet(at(&seeder), &item).await;
        peer.send(start).await;
        peer.until_closed().await;
    }
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w07_a_flood_of_keep_alives_closes() {
    let item = item();
    let seeder = seeder(&item).await;
    let mut peer = RawPeer::greet(at(&seeder), &item).await;
    peer.send(&[0; 4 * 10_000]).await;
    peer.until_closed().await;
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w08_messages_of_the_wrong_length_close() {
    let item = item();
    let seeder = seeder(&item).await;
    let wrong = [
        frame(5, 0, b"aaaa"),
        frame(4, HAVE, b"aaa"),
        frame(6, HAVE, b"aaaaa"),
        frame(12, 6, b"aaaaaaaaaaa"),
        frame(14, 6, b"aaaaaaaaaaaaa"),
        frame(8, 7, b"aaaaaaa"),
        frame(1, HAVE, b""),
    ];
    for bytes in wrong {
        let mut peer = RawPeer::greet(at(&seeder), &item).await;
        peer.send(&bytes).await;
        peer.until_closed().await;
    }
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w09_unknown_messages_are_ignored_up_to_a_number() {
    let item = item();
    let seeder = seeder(&item).await;
    let mut peer = RawPeer::greet(at(&seeder), &item).await;
    for id in [10, 11, 12, 18, 19, 24, 255] {
        peer.send(&frame(1001, id, &[7; 1000])).await;
    }
    peer.say(&Message::Interested).await;
    while peer.hear().await.expect("still open") != Message::Unchoke {}
    for _ in 0..100 {
        peer.send(&frame(1, 99, b"")).await;
    }
    peer.until_closed().await;
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w13_a_request_flood_is_bounded_and_closes() {
    let item = item();
    let seeder = seeder(&item).await;
    let mut peer = RawPeer::greet(at(&seeder), &item).await;
    peer.say(&Message::Interested).await;
    let mut bytes = Vec::new();
    for _ in 0..10_000 {
        bytes.extend_from_slice(&frame(13, 6, &[0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 64, 0]));
    }
    peer.send(&bytes).await;
    peer.until_closed().await;
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn w23_connections_that_are_reset_leave_nothing_behind() {
    let item = item();
    let seeder = seeder(&item).await;
    for _ in 0..300 {
        let peer = RawPeer::connect(at(&seeder)).await;
        // Closed with unsent data discarded: the node sees a reset.
        let socket = socket2::SockRef::from(&peer.socket).set_linger(Some(Duration::ZERO));
        socket.unwrap();
    }
    for _ in 0..50 {
        let peer = RawPeer::greet(at(&seeder), &item).await;
        drop(peer);
    }
    assert_serves(&seeder, &item).await;
}

#[tokio::test]
async fn e21_the_hashes_of_blocks_are_told_with_their_proof() {
    // Eight pieces of 16 blocks, and one of four blocks, of which the last is short.
    let item = Item::file("film.mkv", 8 * 262_144 + 3 * 16_384 + 5, 262_144);
    let seeder = seeder(&item).await;
    let file = &item.metainfo.info.files[0];
    let tree = item.metainfo.info.tree(file).unwrap();
    let v2 = InfoHash::from(item.metainfo.info.hashes.v2.unwrap());
    let mut peer = RawPeer::greet_about(at(&seeder), v2).await;
    let bytes = std::fs::read(&item.root).unwrap();
    for piece in [0, 5, 8] {
        let request = tree.block_request(piece).unwrap();
        let hashes = ask_hashes(&mut peer, request).await.unwrap();
        assert!(tree.proves(&request, &hashes));
        let start = piece as usize * 262_144;
        let blocks = bytes[start..(start + 262_144).min(bytes.len())].chunks(16_384).map(block_hash);
        let padded = blocks.chain(std::iter::repeat(Sha256Hash::default()));
        assert_eq!(hashes[..16], padded.take(16).collect::<Vec<_>>());
    }
    let beyond = HashRequest { index: 16 * 9, ..tree.block_request(0).unwrap() };
    assert_eq!(ask_hashes(&mut peer, beyond).await, None);
    // Somebody changes the file: what is read is not what was verified, and nobody hears of it.
    let mut changed = bytes.clone();
    changed[5 * 262_144] ^= 1;
    std::fs::write(&item.root, changed).unwrap();
    assert_eq!(ask_hashes(&mut peer, tree.block_request(5).unwrap()).await, None);
    assert!(ask_hashes(&mut peer, tree.block_request(6).unwrap()).await.is_some());
}

/// The answer to a hash request; None for a reject.
async fn ask_hashes(peer: &mut RawPeer, request: HashRequest) -> Option<Vec<Sha256Hash>> {
    peer.say(&Message::HashRequest(request)).await;
    loop {
        match within(peer.hear()).await.unwrap() {
            Message::Hashes(of, hashes) if of == request => return Some(hashes),
            Message::HashReject(of) if of == request => return None,
            _ => {}
        }
    }
}
