//! What a core does to those who break the rules, row by row, and to those who lie.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use obt_swarm::{Action, CloseReason, Direction, Event, PeerKey, Phase, Start, Verdict, limits};
use obt_wire::extension::{ExtensionHandshake, ExtensionIds, MetadataMessage};
use obt_wire::metainfo::{Metainfo, Version};
use obt_wire::peer::{Handshake, HashRequest, Message, PieceHeader, Request, Reserved};
use obt_wire::{BLOCK_SIZE, InfoHash, PeerId, PieceIndex, Sha256Hash};

use crate::bench::{
    A, B, Bench, C, addr, ask_blocks, block_hashes, borne, content, extended, is_misbehaviour, metadata, offends,
    piece_hash, request, requests, send, torrent, tree,
};

// Rules of the wire.

#[test]
fn w05_w08_w10_w11_messages_that_cannot_be_right_end_the_connection() {
    offends(Message::Bitfield(Bytes::from_static(&[0xff, 0xe0])));
    offends(Message::Have(10));
    offends(Message::Have(u32::MAX));
    offends(Message::HashRequest(HashRequest {
        pieces_root: Sha256Hash::default(),
        base_layer: 0,
        index: 0,
        length: 2,
        proof_layers: 0,
    }));
    offends(Message::Extended { id: 0, payload: Bytes::from_static(b"de") });
}

#[test]
fn w10_later_bitfields_add_pieces_as_aria2_sends_them_instead_of_many_haves() {
    let mut bench = Bench::of(10, &[0]);
    let fast = Reserved { fast: true, ..Reserved::default() };
    bench.join(A, fast, Direction::Incoming, 1, false);
    bench.hear(A, Message::Bitfield(Bytes::from_static(&[0x80, 0])));
    for message in [Message::Bitfield(Bytes::from_static(&[0x80, 0x40])), Message::HaveAll] {
        assert!(!bench.hear(A, message.clone()).iter().any(is_misbehaviour), "{message:?}");
    }
    assert!(bench.hear(A, Message::Bitfield(Bytes::from_static(&[0xff]))).iter().any(is_misbehaviour));
}

#[test]
fn w10_fast_messages_without_the_fast_extension_end_the_connection() {
    for message in [
        Message::HaveAll,
        Message::HaveNone,
        Message::Reject(request(0, 0)),
        Message::AllowedFast(0),
        Message::Suggest(0),
    ] {
        let mut bench = Bench::of(10, &[0]);
        bench.join(A, Reserved::default(), Direction::Incoming, 1, false);
        assert!(bench.hear(A, message.clone()).iter().any(is_misbehaviour), "{message:?}");
    }
}

#[test]
fn w10_wrong_bitfields_end_the_connection() {
    for bits in [&[0xff][..], &[0xff, 0xc0, 0], &[0xff, 0xff]] {
        let mut bench = Bench::of(10, &[]);
        bench.connect(A);
        assert!(bench.hear(A, Message::Bitfield(Bytes::copy_from_slice(bits))).iter().any(is_misbehaviour));
    }
}

#[test]
fn w07_w19_floods_of_messages_that_say_nothing_end_the_connection_and_slow_ones_do_not() {
    let flips = |times: u32| if times.is_multiple_of(2) { Message::Interested } else { Message::NotInterested };
    let chokes = |times: u32| if times.is_multiple_of(2) { Message::Unchoke } else { Message::Choke };
    for message in [&(|_| Message::KeepAlive) as &dyn Fn(u32) -> Message, &flips, &chokes] {
        let mut bench = Bench::of(10, &[]);
        bench.connect(A);
        bench.hear(A, Message::HaveNone);
        assert_eq!(borne(&mut bench, A, 1_000, message), limits::IDLE_MESSAGE_BURST);
    }
    let mut bench = Bench::of(10, &[]);
    bench.connect(A);
    for _ in 0..1_000 {
        bench.now += limits::IDLE_MESSAGE_EVERY;
        assert!(bench.hear(A, Message::KeepAlive).is_empty());
    }
}

#[test]
fn w09_w20_unknown_messages_and_bad_hints_are_borne_a_few_times() {
    let mut bench = Bench::of(10, &[]);
    bench.connect(A);
    assert_eq!(borne(&mut bench, A, 1_000, |_| Message::Unknown(99)), limits::UNKNOWN_MESSAGES - 1);
    bench.connect(B);
    assert_eq!(borne(&mut bench, B, 1_000, |_| Message::Suggest(10)), limits::BAD_HINTS - 1);
    bench.connect(C);
    assert_eq!(borne(&mut bench, C, 1_000, |_| Message::AllowedFast(u32::MAX)), limits::BAD_HINTS - 1);
}

#[test]
fn w11_a_have_that_is_repeated_changes_nothing() {
    let mut bench = Bench::of(10, &[]);
    bench.connect(A);
    assert_eq!(bench.hear(A, Message::Have(3)), [send(A, Message::Interested)]);
    for _ in 0..10_000 {
        assert!(bench.hear(A, Message::Have(3)).is_empty());
    }
}

#[test]
fn w12_w13_requests_that_cannot_be_answered_are_rejected_and_closed_at_300() {
    for bad in [
        Request { piece: 10, begin: 0, length: BLOCK_SIZE },
        Request { piece: 0, begin: u32::MAX, length: u32::MAX },
        Request { piece: 0, begin: BLOCK_SIZE, length: BLOCK_SIZE + 1 },
        Request { piece: 0, begin: 0, length: 0 },
        Request { piece: 0, begin: 0, length: 16_385 },
        Request { piece: 0, begin: 0, length: 1 << 31 },
        Request { piece: 5, begin: 0, length: BLOCK_SIZE },
    ] {
        let mut bench = Bench::of(10, &[0]);
        bench.connect(A);
        bench.hear(A, Message::Interested);
        assert_eq!(bench.hear(A, Message::Request(bad)), [send(A, Message::Reject(bad))]);
        assert_eq!(borne(&mut bench, A, 1_000, |_| Message::Request(bad)), limits::REQUESTS_INVALID - 2);
    }
}

#[test]
fn w13_requests_while_choked_are_rejected_and_a_flood_of_them_closed() {
    let start = Start::Content(content(&torrent(10, Version::V1), &[1]));
    let mut bench = Bench::new(start, |config| config.connections = 100);
    bench.take_slots();
    bench.connect(A);
    assert_eq!(bench.hear(A, Message::Request(request(1, 0))), [send(A, Message::Reject(request(1, 0)))]);
    assert_eq!(borne(&mut bench, A, 10_000, |_| Message::Request(request(1, 0))), limits::REQUESTS_REFUSED - 1);
}

#[test]
fn w13_ten_thousand_requests_at_once_are_queued_to_the_limit_and_the_rest_rejected() {
    let mut bench = Bench::seed(10);
    bench.connect(A);
    bench.hear(A, Message::Interested);
    let (mut rejected, mut closed) = (0, false);
    for _ in 0..10_000 {
        for action in bench.hear(A, Message::Request(request(1, 0))) {
            rejected += u32::from(matches!(action, Action::Send { message: Message::Reject(_), .. }));
            closed |= is_misbehaviour(&action);
        }
    }
    assert_eq!((rejected, closed), (limits::REQUESTS_REFUSED, true));
}

#[test]
fn w14_a_cancel_is_answered_by_a_reject_and_unknown_ones_are_ignored() {
    let mut bench = Bench::seed(100);
    bench.connect(A);
    bench.hear(A, Message::Interested);
    for piece in 0..100 {
        bench.hear(A, Message::Request(request(piece, 0)));
    }
    assert_eq!(bench.hear(A, Message::Cancel(request(99, 0))), [send(A, Message::Reject(request(99, 0)))]);
    assert!(bench.hear(A, Message::Cancel(request(99, 1))).is_empty());
    assert_eq!(borne(&mut bench, A, 1_000, |_| Message::Cancel(request(3, 1))), limits::IDLE_MESSAGE_BURST - 2);
}

#[test]
fn w15_blocks_that_nobody_asked_for_are_dropped_and_closed_if_repeated() {
    let mut bench = Bench::of(10, &[]);
    bench.connect(A);
    bench.hear(A, Message::HaveAll);
    for _ in 1..limits::UNASKED_BLOCKS {
        assert!(bench.block(A, 1, 0).is_empty());
    }
    assert!(bench.block(A, 1, 0).iter().any(is_misbehaviour));
    assert_eq!(bench.swarm.snapshot(bench.now).wasted, u64::from(limits::UNASKED_BLOCKS * BLOCK_SIZE));
}

#[test]
fn w15_bytes_that_are_no_block_end_the_connection() {
    for (begin, length) in [(0, BLOCK_SIZE - 1), (1, BLOCK_SIZE), (2 * BLOCK_SIZE, BLOCK_SIZE), (0, 2 * BLOCK_SIZE)] {
        let mut bench = Bench::of(10, &[]);
        bench.server(A);
        let actions = bench.tell(Event::Block { peer: A, header: PieceHeader { piece: 0, begin, length } });
        assert!(actions.iter().any(is_misbehaviour), "{begin} {length}");
    }
}

#[test]
fn w21_rejects_of_nothing_are_borne_fifty_times() {
    let mut bench = Bench::of(10, &[]);
    bench.connect(A);
    bench.hear(A, Message::HaveAll);
    assert_eq!(borne(&mut bench, A, 1_000, |_| Message::Reject(request(1, 0))), limits::REJECTS - 1);
}

#[test]
fn w22_the_dht_port_is_ignored() {
    let mut bench = Bench::of(10, &[]);
    bench.connect(A);
    assert!(bench.hear(A, Message::Port(0)).is_empty());
}

#[test]
fn w24_before_the_torrent_is_known_hash_messages_are_rejected_or_closed() {
    let hashes = torrent(3, Version::V1).info.hashes;
    let ask = HashRequest { pieces_root: Sha256Hash::default(), base_layer: 0, index: 0, length: 2, proof_layers: 0 };
    let mut bench = Bench::new(Start::Hashes(hashes), |_| ());
    bench.join(A, Reserved::default(), Direction::Incoming, 1, true);
    assert_eq!(bench.hear(A, Message::HashRequest(ask)), [send(A, Message::HashReject(ask))]);
    assert!(bench.hear(A, Message::Hashes(ask, vec![Sha256Hash::default(); 2])).iter().any(is_misbehaviour));
}

#[test]
fn w11_claims_before_the_metadata_are_checked_when_it_is_here() {
    let metainfo = torrent(10, Version::V1);
    for (message, right) in [
        (Message::Have(9), true),
        (Message::Have(10), false),
        (Message::Bitfield(Bytes::from_static(&[0xff, 0xc0])), true),
        (Message::Bitfield(Bytes::from_static(&[0xff])), false),
        (Message::HaveAll, true),
    ] {
        let mut bench = Bench::new(Start::Hashes(metainfo.info.hashes), |_| ());
        bench.connect(A);
        assert!(bench.hear(A, message.clone()).is_empty());
        let actions = bench.tell(Event::ContentReady(content(&metainfo, &[])));
        assert_eq!(actions.contains(&send(A, Message::Interested)), right, "{message:?}");
        assert_eq!(bench.is_connected(A), right, "{message:?}");
    }
}

// Extensions.

const EXTENDED: Reserved = Reserved { fast: true, extensions: true, dht: false, v2: false };

#[test]
fn e06_e07_extension_handshakes_may_change_things_but_not_ten_times_a_second() {
    let mut bench = Bench::of(10, &[]);
    bench.join(A, EXTENDED, Direction::Incoming, 1, false);
    let hello = ExtensionHandshake { port: Some(4_242), client: Some("x".into()), ..ExtensionHandshake::default() };
    assert!(bench.hear(A, extended(&hello)).is_empty());
    assert_eq!(bench.swarm.snapshot(bench.now).peers[0].client, "x");
    assert_eq!(borne(&mut bench, A, 100, |_| extended(&hello)), limits::EXTENSION_HANDSHAKE_BURST - 1);
}

#[test]
fn a_peer_that_came_in_is_dialled_where_it_listens_when_it_is_gone() {
    let mut bench = Bench::of(10, &[]);
    bench.join(A, EXTENDED, Direction::Incoming, 1, false);
    bench.hear(A, extended(&ExtensionHandshake { port: Some(4_242), ..ExtensionHandshake::default() }));
    bench.tell(Event::Disconnected { peer: A });
    let actions = bench.wait(Duration::from_secs(10));
    assert_eq!(actions, [Action::Connect { addr: SocketAddr::new(addr(1).ip(), 4_242) }]);
}

#[test]
fn e11_metadata_is_sent_twice_a_minute_and_no_more() {
    let mut bench = Bench::seed(10);
    let info = torrent(10, Version::V1).info.bytes;
    bench.join(A, EXTENDED, Direction::Incoming, 1, false);
    let ids = ExtensionIds { ut_metadata: Some(9), ..ExtensionIds::default() };
    bench.hear(A, extended(&ExtensionHandshake { ids, ..ExtensionHandshake::default() }));
    let mut answers = Vec::new();
    for piece in [0, 0, 0, 1] {
        let actions = bench.hear(A, metadata(&MetadataMessage::Request { piece }));
        let [Action::Send { message: Message::Extended { id: 9, payload }, .. }] = &actions[..] else {
            panic!("{actions:?}");
        };
        answers.push(MetadataMessage::decode(payload).unwrap().unwrap());
    }
    let data = MetadataMessage::Data { piece: 0, total_size: info.len() as u32, payload: info };
    let reject = |piece| MetadataMessage::Reject { piece };
    assert_eq!(answers, [data.clone(), data, reject(0), reject(1)]);
}

#[test]
fn e08_metadata_that_nobody_asked_for_is_dropped() {
    let metainfo = torrent(10, Version::V1);
    let info = metainfo.info.bytes.clone();
    let mut bench = Bench::new(Start::Hashes(metainfo.info.hashes), |_| ());
    bench.join(A, EXTENDED, Direction::Incoming, 1, false);
    let data = metadata(&MetadataMessage::Data { piece: 0, total_size: info.len() as u32, payload: info.clone() });
    assert!(bench.hear(A, data.clone()).is_empty());
    let ids = ExtensionIds { ut_metadata: Some(2), ..ExtensionIds::default() };
    let size = Some(info.len() as u32);
    let actions = bench.hear(A, extended(&ExtensionHandshake { ids, metadata_size: size, ..Default::default() }));
    assert!(matches!(&actions[..], [Action::Send { message: Message::Extended { id: 2, .. }, .. }]), "{actions:?}");
    assert_eq!(bench.hear(A, data), [Action::MetadataReady { info }]);
    assert_eq!(bench.swarm.phase(), Phase::Preparing);
}

#[test]
fn a_seed_is_not_asked_for_a_torrent_that_is_promised() {
    let metainfo = torrent(10, Version::V1);
    let ids = ExtensionIds { ut_metadata: Some(2), ..ExtensionIds::default() };
    let size = Some(metainfo.info.bytes.len() as u32);
    let hello = || extended(&ExtensionHandshake { ids, metadata_size: size, ..Default::default() });
    for (claim, asked) in [
        (None, false),
        (Some(Message::HaveAll), false),
        (Some(Message::Bitfield(Bytes::from_static(&[0xff, 0xc0]))), false),
        // It may be a full one of nine pieces, for all that is known.
        (Some(Message::Bitfield(Bytes::from_static(&[0xff, 0x80]))), false),
        (Some(Message::Bitfield(Bytes::from_static(&[0x0f, 0xc0]))), true),
        (Some(Message::HaveNone), true),
    ] {
        let mut bench = Bench::new(Start::Awaited(metainfo.info.hashes), |_| ());
        bench.join(A, Reserved { fast: true, ..EXTENDED }, Direction::Incoming, 1, false);
        let mut actions = bench.hear(A, hello());
        actions.extend(claim.clone().into_iter().flat_map(|claim| bench.hear(A, claim)));
        assert_eq!(actions.iter().any(|action| matches!(action, Action::Send { .. })), asked, "{claim:?}");
        let actions = bench.tell(Event::ContentReady(content(&metainfo, &[])));
        let has_some = claim.is_some_and(|claim| claim != Message::HaveNone);
        assert_eq!(actions.contains(&send(A, Message::Interested)), has_some);
    }
}

#[test]
fn e10_metadata_that_is_not_acceptable_ends_with_stopping() {
    let metainfo = torrent(10, Version::V1);
    let mut bench = Bench::new(Start::Hashes(metainfo.info.hashes), |_| ());
    assert_eq!(bench.tell(Event::Stopping), [Action::Stopped]);
    assert_eq!(bench.swarm.poll_timeout(), None);
}

#[test]
fn e21_e23_hash_requests_are_answered_within_their_budget() {
    let metainfo = torrent(8, Version::Hybrid);
    let root = metainfo.info.root(&metainfo.info.files[0]).unwrap();
    let mut bench = Bench::new(Start::Content(content(&metainfo, &[0])), |config| config.connections = 100);
    bench.take_slots();
    bench.join(A, Reserved::default(), Direction::Incoming, 1, true);
    let ask = HashRequest { pieces_root: root, base_layer: 1, index: 0, length: 8, proof_layers: 2 };
    let actions = bench.hear(A, Message::HashRequest(ask));
    let [Action::Send { message: Message::Hashes(request, hashes), .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((request, hashes[..8].to_vec()), (&ask, (0..8).map(piece_hash).collect()));
    for bad in [
        HashRequest { pieces_root: Sha256Hash([1; 32]), ..ask },
        HashRequest { base_layer: 63, ..ask },
        HashRequest { base_layer: u32::MAX, ..ask },
        HashRequest { index: 3, ..ask },
        HashRequest { length: 0, ..ask },
        HashRequest { length: 3, ..ask },
        HashRequest { length: 1 << 31, ..ask },
        HashRequest { proof_layers: 255, ..ask },
        HashRequest { proof_layers: u32::MAX, ..ask },
        HashRequest { base_layer: 0, ..ask },
    ] {
        assert_eq!(bench.hear(A, Message::HashRequest(bad)), [send(A, Message::HashReject(bad))], "{bad:?}");
    }
    let rejected = (0..100)
        .flat_map(|_| bench.hear(A, Message::HashRequest(ask)))
        .filter(|action| matches!(action, Action::Send { message: Message::HashReject(_), .. }))
        .count();
    assert!(rejected >= 100 - limits::HASH_REQUEST_BURST as usize, "{rejected}");
}

#[test]
fn e21_hashes_of_blocks_are_told_of_pieces_that_we_have_once_they_are_hashed() {
    let metainfo = torrent(8, Version::V2);
    let mut bench = Bench::new(Start::Content(content(&metainfo, &[3])), |_| ());
    bench.join(A, Reserved::default(), Direction::Incoming, 1, true);
    let (piece, ask) = (PieceIndex(3), ask_blocks(&metainfo, 3));
    assert_eq!(bench.hear(A, Message::HashRequest(ask)), [Action::HashBlocks { piece }]);
    let actions = bench.tell(Event::BlocksHashed { piece, hashes: block_hashes(3) });
    let [Action::Send { peer: A, message: Message::Hashes(request, hashes) }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((request, &hashes[..2]), (&ask, &block_hashes(3)[..]));
    assert!(tree(&metainfo).proves(&ask, hashes));

    // libtorrent knows the hash of the piece, and asks for no proof above it.
    let bare = HashRequest { proof_layers: 0, ..ask };
    bench.hear(A, Message::HashRequest(bare));
    let actions = bench.tell(Event::BlocksHashed { piece, hashes: block_hashes(3) });
    assert_eq!(actions, [send(A, Message::Hashes(bare, block_hashes(3)))]);

    for bad in [
        ask_blocks(&metainfo, 2),
        HashRequest { index: 7, ..ask },
        HashRequest { length: 1, ..ask },
        HashRequest { index: 4, length: 4, ..ask },
        HashRequest { index: 16, ..ask },
        HashRequest { index: u32::MAX - 1, ..ask },
        HashRequest { proof_layers: 4, ..ask },
        HashRequest { pieces_root: Sha256Hash([1; 32]), ..ask },
    ] {
        assert_eq!(bench.hear(A, Message::HashRequest(bad)), [send(A, Message::HashReject(bad))], "{bad:?}");
    }
}

#[test]
fn e21_hashes_that_are_not_those_of_the_piece_or_come_too_late_are_not_told() {
    let metainfo = torrent(8, Version::V2);
    let (piece, ask) = (PieceIndex(3), ask_blocks(&metainfo, 3));
    for hashes in [block_hashes(2), vec![], block_hashes(3)[..1].to_vec()] {
        let mut bench = Bench::new(Start::Content(content(&metainfo, &[3])), |_| ());
        bench.join(A, Reserved::default(), Direction::Incoming, 1, true);
        bench.hear(A, Message::HashRequest(ask));
        assert_eq!(bench.tell(Event::BlocksHashed { piece, hashes }), [send(A, Message::HashReject(ask))]);
    }
    let mut bench = Bench::new(Start::Content(content(&metainfo, &[3])), |_| ());
    bench.join(A, Reserved::default(), Direction::Incoming, 1, true);
    bench.hear(A, Message::HashRequest(ask));
    bench.tell(Event::Withdrawn { pieces: vec![piece] });
    let told = bench.tell(Event::BlocksHashed { piece, hashes: block_hashes(3) });
    assert_eq!(told, [send(A, Message::HashReject(ask))]);
    bench.hear(A, Message::HashRequest(ask));
    bench.tell(Event::Disconnected { peer: A });
    assert_eq!(bench.tell(Event::BlocksHashed { piece, hashes: block_hashes(3) }), []);
}

#[test]
fn e23_what_is_hashed_for_others_at_a_time_is_bounded_for_each_peer_and_for_all() {
    let metainfo = torrent(4_096, Version::V2);
    let all: Vec<u32> = (0..4_096).collect();
    let mut bench = Bench::new(Start::Content(content(&metainfo, &all)), |_| ());
    let hash = |piece| Action::HashBlocks { piece: PieceIndex(piece) };
    for (peer, id) in [(A, 1), (B, 2)] {
        bench.join(peer, Reserved::default(), Direction::Incoming, id, true);
    }
    let ask = |bench: &mut Bench, peer, piece| {
        bench.now += limits::HASH_REQUEST_EVERY;
        let request = ask_blocks(&metainfo, piece);
        let actions = bench.hear(peer, Message::HashRequest(request));
        if actions == [send(peer, Message::HashReject(request))] { Vec::new() } else { actions }
    };
    for piece in 0..limits::BLOCK_HASH_PIECES as u32 {
        assert_eq!(ask(&mut bench, A, piece), [hash(piece)]);
    }
    assert_eq!(ask(&mut bench, A, 0), [], "this peer has enough on the way");
    assert_eq!(ask(&mut bench, B, 9), [], "so has the disk");
    let request = ask_blocks(&metainfo, 0);
    assert_eq!(bench.hear(B, Message::HashRequest(request)), [], "and who asks for the same waits for the same");
    let told = bench.tell(Event::BlocksHashed { piece: PieceIndex(0), hashes: block_hashes(0) });
    assert_eq!(told.len(), 2);
    assert_eq!(ask(&mut bench, B, 9), [hash(9)]);
}

#[test]
fn e22_hashes_that_nobody_asked_for_are_dropped_and_closed_if_repeated() {
    let metainfo = torrent(8, Version::V2);
    let ask = HashRequest {
        pieces_root: metainfo.info.root(&metainfo.info.files[0]).unwrap(),
        base_layer: 1,
        index: 0,
        length: 8,
        proof_layers: 2,
    };
    let mut bench = Bench::new(Start::Content(content(&metainfo, &[])), |_| ());
    bench.join(A, Reserved::default(), Direction::Incoming, 1, true);
    let times = borne(&mut bench, A, 100, |_| Message::Hashes(ask, (0..8).map(piece_hash).collect()));
    assert_eq!(times, limits::UNASKED_BLOCKS - 1);
}

#[test]
fn pieces_without_known_hashes_wait_for_their_layer() {
    let metainfo = torrent(8, Version::V2);
    let bare = Metainfo { piece_layers: Default::default(), ..metainfo.clone() };
    let mut bench = Bench::new(Start::Content(content(&bare, &[])), |_| ());
    let root = metainfo.info.root(&metainfo.info.files[0]).unwrap();
    let ask = HashRequest { pieces_root: root, base_layer: 1, index: 0, length: 8, proof_layers: 2 };
    let actions = bench.join(A, Reserved { fast: true, ..Reserved::default() }, Direction::Incoming, 1, true);
    assert_eq!(
        actions,
        [Message::HaveNone, Message::Unchoke, Message::HashRequest(ask)].map(|message| send(A, message))
    );
    bench.hear(A, Message::HaveAll);
    assert!(bench.hear(A, Message::Unchoke).is_empty(), "no block of a piece that cannot be verified");
    let hashes: Vec<Sha256Hash> = (0..8).map(piece_hash).collect();
    let actions = bench.hear(A, Message::Hashes(ask, hashes.clone()));
    assert_eq!(actions[0], Action::PieceLayerReady { pieces_root: root, hashes });
    assert!(!requests(&actions).is_empty());
}

// Blame.

#[test]
fn w16_who_sent_a_bad_piece_alone_is_banned_and_refused() {
    let mut bench = Bench::of(3, &[]);
    bench.server(A);
    bench.block(A, 0, 0);
    bench.block(A, 0, 1);
    let piece = PieceIndex(0);
    let bad = Event::Verified { piece, verdict: Verdict::Bad, block_digests: vec![[1; 32], [2; 32]] };
    assert_eq!(bench.tell(bad), [Action::Close { peer: A, reason: CloseReason::Banned }]);
    assert_eq!(bench.swarm.snapshot(bench.now).banned, 1);
    // The same host again, under another id and port.
    let handshake =
        Handshake { reserved: Reserved::default(), info_hash: InfoHash::default(), peer_id: PeerId([99; 20]) };
    let addr = SocketAddr::new(addr(1).ip(), 999);
    let again = Event::Connected { peer: B, addr, direction: Direction::Incoming, handshake, v2: false };
    assert_eq!(bench.tell(again), [Action::Close { peer: B, reason: CloseReason::Banned }]);
}

#[test]
fn w16_blocks_of_two_peers_are_told_apart_by_the_next_try() {
    let mut bench = Bench::of(1, &[]);
    bench.server(A);
    bench.server(B);
    bench.server(C);
    let piece = PieceIndex(0);
    let good = [[1; 32], [2; 32]];
    bench.block(A, 0, 0);
    // The other block was asked of others too, as it is the last one.
    let asked = bench.swarm.snapshot(bench.now).peers.iter().any(|peer| peer.peer == B && peer.requests > 0);
    assert!(asked, "{:?}", bench.swarm.snapshot(bench.now).peers);
    bench.block(B, 0, 1);
    let bad = Event::Verified { piece, verdict: Verdict::Bad, block_digests: vec![good[0], [9; 32]] };
    assert!(!bench.tell(bad).iter().any(|action| matches!(action, Action::Close { .. })));
    let alone: Vec<PeerKey> =
        bench.swarm.snapshot(bench.now).peers.iter().filter(|peer| peer.requests > 0).map(|peer| peer.peer).collect();
    assert_eq!(alone.len(), 1, "one peer alone is asked for a piece that failed");
    bench.block(alone[0], 0, 0);
    let last = bench.block(alone[0], 0, 1);
    assert_eq!(last.last(), Some(&Action::Verify { piece, digests: true }));
    let actions = bench.tell(Event::Verified { piece, verdict: Verdict::Good, block_digests: good.to_vec() });
    assert!(actions.contains(&Action::Close { peer: B, reason: CloseReason::Banned }), "{actions:?}");
    assert!(!actions.contains(&Action::Close { peer: A, reason: CloseReason::Banned }));
}

#[test]
fn a_torrent_that_contradicts_itself_is_left_at_once() {
    let mut bench = Bench::of(3, &[]);
    bench.server(A);
    bench.block(A, 0, 0);
    bench.block(A, 0, 1);
    let piece = PieceIndex(0);
    let actions = bench.tell(Event::Verified { piece, verdict: Verdict::Inconsistent, block_digests: Vec::new() });
    let close = Action::Close { peer: A, reason: CloseReason::NotUseful };
    assert_eq!(actions, [Action::Inconsistent { piece }, close]);
    assert_eq!(bench.swarm.phase(), Phase::Inconsistent);
    assert!(bench.wait(Duration::from_secs(3_600)).is_empty());
}

#[test]
fn a_disk_that_failed_blames_nobody_and_the_piece_is_fetched_again() {
    let mut bench = Bench::of(1, &[]);
    bench.server(A);
    bench.block(A, 0, 0);
    bench.block(A, 0, 1);
    let actions = bench.tell(Event::StoreFailed { piece: PieceIndex(0) });
    assert_eq!(requests(&actions), [request(0, 0), request(0, 1)]);
}
