//! What a core answers to each event, as lists of actions: the life of a block, who may connect, trackers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use obt_swarm::{
    Action, AnnounceEvent, AnnounceReply, AnnounceRequest, CloseReason, Direction, Event, PeerKey, PeerSource, Phase,
    ReadRange, Start, TrackerIndex, TrackerUrl, Verdict, Why, limits,
};
use obt_wire::extension::{ExtensionHandshake, ExtensionIds, dont_have, id};
use obt_wire::metainfo::{Draft, Version};
use obt_wire::peer::{Handshake, Message, Request, Reserved};
use obt_wire::{BLOCK_SIZE, Bitfield, Block, InfoHash, PeerId, PieceIndex, Sha1Hash};

use crate::bench::{A, B, Bench, C, US, addr, content, request, requests, send, torrent};

// The life of a block.

#[test]
fn a_connection_is_greeted_with_what_we_have() {
    let all = Bitfield::full(3).as_wire().to_vec();
    let some = content(&torrent(3, Version::V1), &[1]).have.as_wire().to_vec();
    for (fast, have, greeting) in [
        (true, &[][..], Some(Message::HaveNone)),
        (true, &[0, 1, 2], Some(Message::HaveAll)),
        (true, &[1], Some(Message::Bitfield(some.clone().into()))),
        (false, &[], None),
        (false, &[0, 1, 2], Some(Message::Bitfield(all.into()))),
        (false, &[1], Some(Message::Bitfield(some.into()))),
    ] {
        let mut bench = Bench::of(3, have);
        let actions = bench.join(A, Reserved { fast, ..Reserved::default() }, Direction::Incoming, 1, false);
        // There is a slot for it, and it need not ask first.
        let greeting: Vec<Action> =
            greeting.into_iter().chain([Message::Unchoke]).map(|message| send(A, message)).collect();
        assert_eq!(actions, greeting);
    }
}

#[test]
fn the_extension_handshake_comes_first_and_tells_about_us() {
    let metainfo = torrent(3, Version::V1);
    let mut bench = Bench::new(Start::Content(content(&metainfo, &[])), |config| config.listen_port = Some(7_000));
    let reserved = Reserved { fast: true, extensions: true, ..Reserved::default() };
    let actions = bench.join(A, reserved, Direction::Incoming, 1, false);
    let Some(Action::Send { message: Message::Extended { id: 0, payload }, .. }) = actions.first() else {
        panic!("{actions:?}");
    };
    let expected = ExtensionHandshake {
        ids: ExtensionIds::OURS,
        port: Some(7_000),
        client: Some("obt".into()),
        request_queue: Some(2_000),
        your_ip: Some(addr(1).ip()),
        metadata_size: Some(metainfo.info.bytes.len() as u32),
        ..ExtensionHandshake::default()
    };
    assert_eq!(ExtensionHandshake::decode(payload), Ok(expected));
    assert_eq!(actions[1..], [send(A, Message::HaveNone), send(A, Message::Unchoke)]);
}

#[test]
fn a_piece_is_asked_for_accepted_verified_and_told_to_all() {
    let mut bench = Bench::of(1, &[]);
    bench.connect(A);
    assert_eq!(bench.hear(A, Message::HaveAll), [send(A, Message::Interested)]);
    let asked = [send(A, Message::Request(request(0, 0))), send(A, Message::Request(request(0, 1)))];
    assert_eq!(bench.hear(A, Message::Unchoke), asked);
    bench.connect(B);
    let block = |index| Block { piece: PieceIndex(0), index };
    assert_eq!(bench.block(A, 0, 1), [Action::Accept { block: block(1) }]);
    let full = [Action::Accept { block: block(0) }, Action::Verify { piece: PieceIndex(0), digests: false }];
    assert_eq!(bench.block(A, 0, 0), full);
    let verified = Event::Verified { piece: PieceIndex(0), verdict: Verdict::Good, block_digests: Vec::new() };
    let actions = bench.tell(verified);
    let expected = [
        send(A, Message::NotInterested),
        Action::Completed,
        Action::Close { peer: A, reason: CloseReason::NotUseful },
        send(B, Message::Have(0)),
    ];
    assert_eq!(actions, expected);
    assert_eq!(bench.swarm.phase(), Phase::Seeding);
}

/// A seed A that serves us, leechers B and C, and two pieces that were asked of A: nobody else has the first, C has the
/// second.
fn with_news() -> (Bench, u32, u32) {
    let mut bench = Bench::of(9, &[]);
    let asked: Vec<u32> = bench.server(A).iter().map(|request| request.piece).collect();
    let (first, second) = (asked[0], asked[asked.len() - 1]);
    assert_ne!(first, second);
    for leecher in [B, C] {
        bench.connect(leecher);
        bench.hear(leecher, Message::HaveNone);
    }
    bench.hear(C, Message::Have(second));
    (bench, first, second)
}

/// A sends a piece, which is good; who is told of which pieces at once.
fn gain(bench: &mut Bench, piece: u32) -> Vec<(PeerKey, u32)> {
    for index in [0, 1] {
        bench.block(A, piece, index);
    }
    let good = Event::Verified { piece: PieceIndex(piece), verdict: Verdict::Good, block_digests: Vec::new() };
    told(&bench.tell(good))
}

fn told(actions: &[Action]) -> Vec<(PeerKey, u32)> {
    let have = |action: &Action| match action {
        Action::Send { peer, message: Message::Have(piece) } => Some((*peer, *piece)),
        _ => None,
    };
    actions.iter().filter_map(have).collect()
}

#[test]
fn news_wait_for_more_and_are_told_to_those_who_lack_the_piece() {
    let (mut bench, _, second) = with_news();
    assert_eq!(gain(&mut bench, second), []);
    let moment = Duration::from_millis(1);
    assert_eq!(told(&bench.wait(limits::HAVE_WAIT - moment)), []);
    assert_eq!(told(&bench.wait(moment)), [(B, second)]);
    assert_eq!(told(&bench.wait(limits::HAVE_WAIT_SEEDS - limits::HAVE_WAIT)), [(A, second)], "a seed hears of all");
    assert_eq!(told(&bench.wait(Duration::from_secs(60))), []);
}

#[test]
fn a_piece_that_no_leecher_had_is_told_at_once_with_all_that_waits() {
    let (mut bench, first, second) = with_news();
    assert_eq!(gain(&mut bench, second), []);
    assert_eq!(gain(&mut bench, first), [(B, second), (B, first), (C, first), (A, second), (A, first)]);
    assert_eq!(told(&bench.wait(Duration::from_secs(60))), []);
}

#[test]
fn who_has_got_a_piece_while_the_news_waited_hears_nothing_of_it() {
    let (mut bench, _, second) = with_news();
    gain(&mut bench, second);
    bench.hear(B, Message::Have(second));
    assert_eq!(told(&bench.wait(limits::HAVE_WAIT)), []);
}

#[test]
fn who_loses_a_piece_hears_that_we_have_it() {
    let mut bench = Bench::of(3, &[1]);
    bench.join(B, Reserved { extensions: true, ..Reserved::default() }, Direction::Incoming, 2, false);
    bench.hear(B, Message::Bitfield(Bytes::from_static(&[0xe0])));
    let lost = |piece| Message::Extended { id: id::LT_DONTHAVE, payload: dont_have(piece).to_vec().into() };
    assert_eq!(told(&bench.hear(B, lost(1))), [(B, 1)]);
    assert_eq!(told(&bench.hear(B, lost(2))), [], "we lack it too");
}

#[test]
fn a_piece_that_is_lost_again_is_no_news() {
    let (mut bench, _, second) = with_news();
    gain(&mut bench, second);
    bench.tell(Event::Lost { pieces: vec![PieceIndex(second)] });
    assert_eq!(told(&bench.wait(Duration::from_secs(60))), []);
}

/// Lets A answer `requests`, and all that come of them while it is asked; what was verified with each block.
fn answer(bench: &mut Bench, mut requests: VecDeque<Request>, most: usize) -> (Vec<usize>, VecDeque<Request>) {
    let mut verified = Vec::new();
    while verified.len() < most
        && let Some(request) = requests.pop_front()
    {
        let actions = bench.block(A, request.piece, request.begin / BLOCK_SIZE);
        verified.push(actions.iter().filter(|action| matches!(action, Action::Verify { .. })).count());
        requests.extend(crate::bench::requests(&actions));
    }
    (verified, requests)
}

fn together(pieces: u32) -> Bench {
    let content = content(&torrent(pieces, Version::V1), &[]);
    Bench::new(Start::Content(content), |config| config.hashed_together = 4)
}

#[test]
fn full_pieces_that_come_fast_are_verified_together() {
    let mut bench = together(200);
    let requests = bench.server(A).into();
    let (verified, _) = answer(&mut bench, requests, usize::MAX);
    assert_eq!(verified.iter().sum::<usize>(), 200, "none is left behind when nothing more is owed");
    assert!(verified.iter().filter(|pieces| **pieces == 4).count() > 30, "{verified:?}");
    assert_eq!(verified.iter().position(|pieces| *pieces > 0), Some(1), "the first comes before a rate is known");
}

#[test]
fn a_full_piece_waits_for_others_a_moment_and_no_longer() {
    let mut bench = together(1_000);
    let mut requests = bench.server(A).into();
    let mut blocks = 400;
    let waits = loop {
        (_, requests) = answer(&mut bench, requests, blocks);
        match bench.swarm.poll_timeout() {
            Some((at, Why::Verify)) => break at,
            _ => blocks = 1,
        }
    };
    assert!(waits > bench.now && waits <= bench.now + limits::VERIFY_WAIT);
    let verified = bench.wait(limits::VERIFY_WAIT);
    assert!(verified.iter().any(|action| matches!(action, Action::Verify { .. })), "{verified:?}");
    assert_ne!(bench.swarm.poll_timeout().map(|(_, why)| why), Some(Why::Verify));
}

#[test]
fn what_waits_of_a_piece_that_is_dropped_waits_no_more() {
    let pieces = 1_000;
    let draft = Draft::file("file", u64::from(pieces * 4 * BLOCK_SIZE), 4 * BLOCK_SIZE, Version::V1).unwrap();
    let metainfo = draft.finish(&vec![Sha1Hash([7; 20]); pieces as usize], vec![]).unwrap();
    let mut bench = Bench::new(Start::Content(content(&metainfo, &[])), |config| {
        (config.hashed_together, config.stretch) = (1_000, 1);
    });
    let mut asked = VecDeque::from(bench.server(A));
    // Three of four blocks have come, and wait.
    let piece = loop {
        let last = asked[0];
        (_, asked) = answer(&mut bench, asked, 1);
        let waits = matches!(bench.swarm.poll_timeout(), Some((at, Why::Verify)) if at > bench.now);
        if waits && last.begin == 2 * BLOCK_SIZE {
            break last.piece;
        }
    };
    let (mut others, mut only) = (Bitfield::full(pieces), Bitfield::empty(pieces));
    others.clear(PieceIndex(piece));
    only.set(PieceIndex(piece));
    let dropped = bench.tell(Event::WantedChanged { wanted: others });
    assert!(dropped.contains(&Action::Forget { piece: PieceIndex(piece) }));
    assert_eq!(requests(&bench.tell(Event::WantedChanged { wanted: only })).len(), 4);
    bench.block(A, piece, 0);
    let actions = bench.block(A, piece, 1);
    assert!(actions.contains(&Action::StoreAhead { piece: PieceIndex(piece), blocks: 2 }), "{actions:?}");
}

#[test]
fn a_reader_waits_for_no_other_piece() {
    let mut bench = together(200);
    bench.tell(Event::ReadersMoved { ranges: vec![ReadRange { first: 0, end: 200 }] });
    let requests = bench.server(A).into();
    let (verified, _) = answer(&mut bench, requests, usize::MAX);
    assert_eq!(verified.iter().max(), Some(&1));
}

#[test]
fn an_upload_goes_from_request_to_kernel() {
    let mut bench = Bench::seed(2);
    assert_eq!(bench.connect(A), [send(A, Message::HaveAll), send(A, Message::Unchoke)]);
    assert_eq!(bench.hear(A, Message::Interested), []);
    let upload = [Action::Upload { peer: A, request: request(1, 0) }];
    assert_eq!(bench.hear(A, Message::Request(request(1, 0))), upload);
    assert!(bench.tell(Event::Uploaded { peer: A, bytes: BLOCK_SIZE }).is_empty());
    assert_eq!(bench.swarm.snapshot(bench.now).uploaded, u64::from(BLOCK_SIZE));
}

#[test]
fn the_shell_is_not_given_more_than_a_window_to_send() {
    let mut bench = Bench::seed(100);
    bench.connect(A);
    bench.hear(A, Message::Interested);
    let mut handed = 0;
    for piece in 0..100 {
        handed += bench.hear(A, Message::Request(request(piece, 0))).len();
    }
    assert_eq!(handed as u32, limits::UPLOAD_WINDOW_LEAST / BLOCK_SIZE);
    assert_eq!(bench.tell(Event::Uploaded { peer: A, bytes: BLOCK_SIZE }).len(), 1);
}

#[test]
fn a_block_that_cannot_be_read_is_rejected_and_without_fast_the_peer_is_closed() {
    for fast in [true, false] {
        let mut bench = Bench::seed(2);
        bench.join(A, Reserved { fast, ..Reserved::default() }, Direction::Incoming, 1, false);
        bench.hear(A, Message::Interested);
        bench.hear(A, Message::Request(request(1, 0)));
        let expected = match fast {
            true => send(A, Message::Reject(request(1, 0))),
            false => Action::Close { peer: A, reason: CloseReason::NotUseful },
        };
        assert_eq!(bench.tell(Event::UploadFailed { peer: A, piece: PieceIndex(1) }), [expected]);
    }
}

#[test]
fn a_choke_without_fast_frees_the_requests_for_others() {
    let mut bench = Bench::of(3, &[]);
    bench.join(A, Reserved::default(), Direction::Incoming, 1, false);
    bench.hear(A, Message::Bitfield(Bytes::from_static(&[0xe0])));
    assert_eq!(requests(&bench.hear(A, Message::Unchoke)).len(), 6);
    bench.server(B);
    bench.hear(A, Message::Choke);
    assert!(bench.swarm.snapshot(bench.now).peers.iter().any(|peer| peer.peer == B && peer.requests == 6));
    assert!(bench.block(A, 0, 0).contains(&Action::Accept { block: Block { piece: PieceIndex(0), index: 0 } }));
}

#[test]
fn a_choke_with_fast_waits_for_the_rejects() {
    let mut bench = Bench::of(3, &[]);
    let asked = bench.server(A);
    assert!(bench.hear(A, Message::Choke).is_empty());
    assert!(bench.block(A, asked[0].piece, asked[0].begin / BLOCK_SIZE).len() == 1, "one was on the way");
    for request in &asked[1..] {
        assert!(bench.hear(A, Message::Reject(*request)).is_empty());
    }
    assert_eq!(bench.swarm.snapshot(bench.now).peers[0].requests, 0);
    let again = requests(&bench.hear(A, Message::Unchoke));
    assert_eq!(again.len(), asked.len() - 1);
}

#[test]
fn a_peer_that_has_two_addresses_is_one_peer() {
    let mut bench = Bench::of(3, &[0]);
    let addrs = vec![addr(8), "[2a02::8]:6881".parse().unwrap()];
    let found = bench.tell(Event::PeersFound { source: PeerSource::Tracker, addrs: addrs.clone() });
    assert_eq!(found.len(), 2);
    let handshake =
        Handshake { reserved: Reserved::default(), info_hash: InfoHash::default(), peer_id: PeerId([7; 20]) };
    let connected = |peer, addr| Event::Connected { peer, addr, direction: Direction::Outgoing, handshake, v2: false };
    bench.tell(connected(A, addrs[0]));
    let closed = [Action::Close { peer: B, reason: CloseReason::Duplicate }];
    assert_eq!(bench.tell(connected(B, addrs[1])), closed);
    bench.tell(Event::Disconnected { peer: B });
    for _ in 0..10 {
        // The tracker names both again and again, and the peer says nothing but that it is there.
        let again = Event::PeersFound { source: PeerSource::Tracker, addrs: addrs.clone() };
        assert_eq!(bench.tell(again), []);
        let actions = bench.wait(Duration::from_secs(100));
        bench.hear(A, Message::KeepAlive);
        assert!(!actions.iter().any(|action| matches!(action, Action::Connect { .. })), "{actions:?}");
        let stats = bench.swarm.snapshot(bench.now);
        assert_eq!((stats.peers.len(), stats.candidates), (1, 0));
    }
    bench.tell(Event::Disconnected { peer: A });
    let tried = bench.wait(Duration::from_secs(60));
    assert!(addrs.iter().all(|addr| tried.contains(&Action::Connect { addr: *addr })), "either may work: {tried:?}");
}

/// A peer that has all but the last of 1,000 pieces, or all, has no slot left, and hears that `waits` is interested.
fn without_a_slot(pieces: u32, waits: impl FnOnce(&mut Bench)) -> (Bench, Vec<Action>) {
    let start = Start::Content(content(&torrent(1_000, Version::V1), &(0..pieces).collect::<Vec<_>>()));
    let mut bench = Bench::new(start, |config| config.connections = 100);
    bench.take_slots();
    waits(&mut bench);
    let actions = bench.hear(LATE, Message::Interested);
    (bench, actions)
}

const LATE: PeerKey = PeerKey(99);

#[test]
fn who_waits_for_a_slot_gets_a_few_pieces_to_begin_with_each_once() {
    let (mut bench, given) = without_a_slot(999, |bench| {
        bench.connect(LATE);
        bench.hear(LATE, Message::HaveNone);
    });
    let piece = |action: &Action| match action {
        Action::Send { peer: LATE, message: Message::AllowedFast(piece) } => *piece,
        other => panic!("{other:?}"),
    };
    let pieces: Vec<u32> = given.iter().map(piece).collect();
    assert_eq!(pieces.len(), limits::ALLOWED_FAST_GIVEN);
    let other = (0..999).find(|piece| !pieces.contains(piece)).unwrap();
    let rejected = |request| [send(LATE, Message::Reject(request))];
    assert_eq!(bench.hear(LATE, Message::Request(request(other, 0))), rejected(request(other, 0)));
    for piece in &pieces {
        for index in [0, 1] {
            let request = request(*piece, index);
            let asked = bench.hear(LATE, Message::Request(request));
            assert_eq!(asked, [Action::Upload { peer: LATE, request }]);
            bench.tell(Event::Uploaded { peer: LATE, bytes: BLOCK_SIZE });
        }
    }
    let again = request(pieces[0], 0);
    assert_eq!(bench.hear(LATE, Message::Request(again)), rejected(again), "no more than that");
    bench.hear(LATE, Message::NotInterested);
    assert_eq!(bench.hear(LATE, Message::Interested), [], "and not twice");
}

#[test]
fn who_comes_when_all_slots_are_taken_and_the_upload_has_time_left_gets_one_soon() {
    let (mut bench, _) = without_a_slot(1_000, |bench| {
        bench.connect(LATE);
        bench.hear(LATE, Message::HaveNone);
    });
    let unchoked = |actions: &[Action]| actions.contains(&send(LATE, Message::Unchoke));
    assert!(unchoked(&bench.wait(limits::CHOKE_SOON)));
}

#[test]
fn who_comes_when_the_upload_is_short_waits_for_a_slot() {
    let (mut bench, _) = without_a_slot(1_000, |bench| {
        bench.connect(LATE);
        bench.hear(LATE, Message::HaveNone);
        bench.take_upload();
    });
    let unchoked = |actions: &[Action]| actions.contains(&send(LATE, Message::Unchoke));
    assert!(!unchoked(&bench.wait(limits::RECHOKE - Duration::from_secs(1))));
}

#[test]
fn nobody_else_gets_pieces_to_begin_with() {
    let fast = Reserved { fast: true, ..Reserved::default() };
    let haves = |bench: &mut Bench| {
        bench.connect(LATE);
        (0..limits::ALLOWED_FAST_GIVEN as u32).for_each(|piece| drop(bench.hear(LATE, Message::Have(piece))));
    };
    assert_eq!(without_a_slot(999, haves).1, [], "it has something to give");
    let slow = |bench: &mut Bench| drop(bench.join(LATE, Reserved::default(), Direction::Incoming, 100, false));
    assert_eq!(without_a_slot(999, slow).1, [], "it would not understand");
    let new = |bench: &mut Bench| drop(bench.join(LATE, fast, Direction::Incoming, 100, false));
    assert_eq!(without_a_slot(1_000, new).1, [], "a seed of a crowd has other ways");
}

#[test]
fn allowed_fast_pieces_are_asked_for_while_choked() {
    let mut bench = Bench::of(5, &[]);
    bench.connect(A);
    bench.hear(A, Message::HaveAll);
    let asked = requests(&bench.hear(A, Message::AllowedFast(3)));
    assert_eq!(asked, [request(3, 0), request(3, 1)]);
    for request in asked {
        assert!(bench.hear(A, Message::Reject(request)).is_empty(), "it is not asked again and again");
    }
}

#[test]
fn a_reader_of_a_magnet_gets_its_pieces_first() {
    let metainfo = torrent(100, Version::V1);
    let mut bench = Bench::new(Start::Hashes(metainfo.info.hashes), |_| ());
    bench.tell(Event::ReadersMoved { ranges: vec![ReadRange { first: 70, end: 80 }] });
    bench.server(A);
    let actions = bench.tell(Event::ContentReady(content(&metainfo, &[])));
    assert_eq!(requests(&actions)[..2], [request(70, 0), request(70, 1)]);
}

// Who may connect.

#[test]
fn w04_ourselves_and_strangers_with_a_known_peers_id_are_turned_away() {
    let mut bench = Bench::of(3, &[]);
    let actions = bench.join(A, Reserved::default(), Direction::Incoming, US.0[0], false);
    assert_eq!(actions, [Action::Close { peer: A, reason: CloseReason::Ourselves }]);
    bench.connect(B);
    bench.now += Duration::from_secs(60);
    bench.hear(B, Message::KeepAlive);
    let actions = bench.join(C, Reserved::default(), Direction::Incoming, B.0 as u8, false);
    assert_eq!(actions, [Action::Close { peer: C, reason: CloseReason::Duplicate }]);
    assert!(bench.is_connected(B));
}

#[test]
fn a_peer_that_comes_back_replaces_its_dead_connection() {
    let mut bench = Bench::of(3, &[]);
    bench.connect(A);
    bench.now += Duration::from_secs(60);
    let actions = bench.join(B, Reserved { fast: true, ..Reserved::default() }, Direction::Incoming, A.0 as u8, false);
    let greeting = [send(B, Message::HaveNone), send(B, Message::Unchoke)];
    assert_eq!(actions[0], Action::Close { peer: A, reason: CloseReason::Duplicate });
    assert_eq!(actions[1..], greeting);
}

#[test]
fn of_two_connections_opened_at_once_both_sides_keep_the_same_one() {
    // The one that the higher id opened stays: ids below and above ours.
    for (id, first, stays_first) in [
        (10, Direction::Outgoing, true),
        (10, Direction::Incoming, false),
        (90, Direction::Outgoing, false),
        (90, Direction::Incoming, true),
    ] {
        let mut bench = Bench::of(3, &[]);
        let second = if first == Direction::Outgoing { Direction::Incoming } else { Direction::Outgoing };
        bench.join(A, Reserved::default(), first, id, false);
        bench.join(B, Reserved::default(), second, id, false);
        assert_eq!((bench.is_connected(A), bench.is_connected(B)), (stays_first, !stays_first), "{id} {first:?}");
    }
}

#[test]
fn a_connection_that_we_opened_and_that_is_in_use_is_not_given_up_for_one_that_comes_in() {
    for id in [10, 90] {
        let mut bench = Bench::of(3, &[]);
        bench.join(A, Reserved::default(), Direction::Outgoing, id, false);
        bench.hear(A, Message::Unchoke);
        let actions = bench.join(B, Reserved::default(), Direction::Incoming, id, false);
        assert_eq!(actions, [Action::Close { peer: B, reason: CloseReason::Duplicate }], "{id}");
        assert!(bench.is_connected(A), "{id}");
    }
}

#[test]
fn connections_are_bounded_and_useless_ones_make_room() {
    let mut bench = Bench::of(3, &[]);
    for peer in 1..=10 {
        assert_eq!(bench.connect(PeerKey(peer))[0], send(PeerKey(peer), Message::HaveNone));
    }
    let full = [Action::Close { peer: PeerKey(11), reason: CloseReason::Full }];
    assert_eq!(bench.connect(PeerKey(11)), full);
    bench.now += limits::USELESS;
    let actions = bench.connect(PeerKey(12));
    assert_eq!(actions[0], Action::Close { peer: PeerKey(1), reason: CloseReason::NotUseful });
    assert!(bench.is_connected(PeerKey(12)));
}

#[test]
fn w04_one_address_holds_no_more_than_its_share() {
    let mut bench =
        Bench::new(Start::Content(content(&torrent(3, Version::V1), &[])), |config| config.connections = 500);
    let mut turned_away = 0;
    for peer in 0..100 {
        let handshake = Handshake {
            reserved: Reserved::default(),
            info_hash: InfoHash::default(),
            peer_id: PeerId([peer as u8 + 100; 20]),
        };
        let addr = SocketAddr::from(([11, 0, 0, 1], 1_000 + peer));
        let direction = Direction::Incoming;
        let event = Event::Connected { peer: PeerKey(u64::from(peer)), addr, direction, handshake, v2: false };
        turned_away += bench.tell(event).iter().filter(|action| matches!(action, Action::Close { .. })).count();
    }
    assert_eq!(turned_away, 100 - limits::CONNECTIONS_PER_ADDRESS);
}

#[test]
fn connects_under_way_are_bounded() {
    let mut bench = Bench::of(3, &[]);
    let addrs: Vec<SocketAddr> = (1..=20).map(addr).collect();
    let actions = bench.tell(Event::PeersFound { source: PeerSource::Tracker, addrs });
    assert_eq!(actions.len(), 5);
    let Action::Connect { addr } = actions[0] else { panic!("{actions:?}") };
    assert_eq!(bench.tell(Event::ConnectFailed { addr }).len(), 1);
    assert_eq!(bench.swarm.snapshot(bench.now).connecting, 5);
}

#[test]
fn w23_silence_ends_a_connection_and_ours_is_broken_in_time() {
    let mut bench = Bench::of(3, &[]);
    bench.connect(A);
    let actions = bench.wait(Duration::from_secs(119));
    assert_eq!(actions, [send(A, Message::KeepAlive)]);
    let actions = bench.wait(Duration::from_secs(12));
    assert!(actions.contains(&Action::Close { peer: A, reason: CloseReason::Idle }), "{actions:?}");
}

// Trackers.

#[test]
fn announces_carry_the_numbers_of_the_transfer() {
    let start = Start::Content(content(&torrent(3, Version::V1), &[0]));
    let tracker = TrackerUrl { url: "http://t/announce".into(), tier: 0 };
    let mut bench = Bench::new(start, |config| config.trackers = vec![tracker]);
    assert_eq!(bench.swarm.poll_timeout().map(|(_, why)| why), Some(Why::Announce));
    let announce = |event, downloaded, left, num_want| Action::Announce {
        tracker: TrackerIndex(0),
        request: AnnounceRequest { event, uploaded: 0, downloaded, left, num_want },
    };
    let piece = u64::from(2 * BLOCK_SIZE);
    assert_eq!(bench.wait(Duration::ZERO), [announce(AnnounceEvent::Started, 0, 2 * piece, 100)]);
    let reply = AnnounceReply { interval: Duration::from_secs(1_800), peers: vec![addr(9)], ..Default::default() };
    let result = Ok(reply);
    let actions = bench.tell(Event::Announced { tracker: TrackerIndex(0), result });
    assert_eq!(actions, [Action::Connect { addr: addr(9) }]);
    for asked in bench.server(A) {
        bench.block(A, asked.piece, asked.begin / BLOCK_SIZE);
    }
    for piece in [1, 2].map(PieceIndex) {
        bench.tell(Event::Verified { piece, verdict: Verdict::Good, block_digests: Vec::new() });
    }
    let actions = bench.wait(Duration::from_secs(1));
    assert!(actions.is_empty(), "{actions:?}");
    let stop = bench.tell(Event::Stopping);
    assert_eq!(stop, [announce(AnnounceEvent::Stopped, 2 * piece, 0, 0)]);
}

#[test]
fn stopping_waits_for_connections_and_trackers_but_not_for_ever() {
    let mut bench = Bench::of(3, &[]);
    bench.connect(A);
    assert_eq!(bench.tell(Event::Stopping), [Action::Close { peer: A, reason: CloseReason::Stopping }]);
    let closed = [Action::Close { peer: B, reason: CloseReason::Stopping }];
    assert_eq!(bench.connect(B), closed, "who comes now is turned away");
    assert_eq!(bench.wait(limits::STOPPING), [Action::Stopped]);
    assert!(bench.tell(Event::Disconnected { peer: A }).is_empty());
    assert!(bench.tell(Event::Stopping).is_empty());
}

#[test]
fn events_that_come_late_or_make_no_sense_change_nothing() {
    let mut bench = Bench::of(3, &[0]);
    let nobody = PeerKey(77);
    let piece = PieceIndex(2);
    for event in [
        Event::Message { peer: nobody, message: Message::Unchoke },
        Event::BlockProgress { peer: nobody },
        Event::Uploaded { peer: nobody, bytes: 5 },
        Event::UploadFailed { peer: nobody, piece },
        Event::Disconnected { peer: nobody },
        Event::ConnectFailed { addr: addr(9) },
        Event::Verified { piece: PieceIndex(99), verdict: Verdict::Good, block_digests: Vec::new() },
        Event::Verified { piece: PieceIndex(0), verdict: Verdict::Bad, block_digests: Vec::new() },
        Event::StoreFailed { piece: PieceIndex(0) },
        Event::Withdrawn { pieces: vec![PieceIndex(99)] },
        Event::Lost { pieces: vec![PieceIndex(99), piece] },
        Event::Announced { tracker: TrackerIndex(5), result: Err("no".into()) },
        Event::WantedChanged { wanted: Bitfield::full(99) },
        Event::ReadersMoved { ranges: vec![ReadRange { first: 5, end: 2 }, ReadRange { first: 0, end: u32::MAX }] },
        Event::ContentReady(content(&torrent(5, Version::V1), &[])),
    ] {
        assert_eq!(bench.tell(event.clone()), [], "{event:?}");
    }
    assert_eq!(bench.swarm.snapshot(bench.now).pieces_have, 1);
}

#[test]
fn f42_a_limit_that_is_told_again_and_again_is_no_higher_for_it() {
    let start = Start::Content(content(&torrent(1_000, Version::V1), &[]));
    let limit = 10 * u64::from(BLOCK_SIZE);
    let mut bench = Bench::new(start, |config| config.download_rate = Some(limit));
    let mut wanted = bench.server(A);
    let mut asked = wanted.len();
    for tenth in 0..200 {
        let mut actions = Vec::new();
        if tenth % 10 == 0 {
            // A little up and down, as the shares of several torrents go.
            actions = bench.tell(Event::RatesChanged { download: Some(limit - tenth % 20), upload: None });
        }
        for request in std::mem::take(&mut wanted) {
            actions.extend(bench.block(A, request.piece, request.begin / BLOCK_SIZE));
        }
        actions.extend(bench.wait(Duration::from_millis(100)));
        wanted = requests(&actions);
        asked += wanted.len();
    }
    assert!((200..=210).contains(&asked), "{asked} blocks in 20 s, and a burst");
}

#[test]
fn a_limit_of_nothing_lets_nothing_through_and_does_not_spin() {
    let start = Start::Content(content(&torrent(3, Version::V1), &[0]));
    let mut bench = Bench::new(start, |config| (config.download_rate, config.upload_rate) = (Some(0), Some(1)));
    bench.server(A);
    bench.hear(A, Message::Interested);
    for _ in 0..50 {
        bench.hear(A, Message::Request(request(0, 0)));
    }
    let mut wakes = 0;
    let end = bench.now + Duration::from_secs(60);
    while let Some((at, _)) = bench.swarm.poll_timeout().filter(|(at, _)| *at <= end) {
        bench.now = bench.now.max(at);
        bench.swarm.handle_timeout(bench.now);
        bench.actions();
        wakes += 1;
    }
    assert!(wakes < 200, "{wakes}");
}
