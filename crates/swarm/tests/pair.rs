//! Scenes between two cores, or a few, over virtual links: what must come out whatever the parts decide inside.

mod world;

use obt_swarm::{Action, CloseReason, Content, Event, Phase, Start};
use obt_wire::extension::MetadataMessage;
use obt_wire::metainfo::{Metainfo, Version};
use obt_wire::peer::Message;
use obt_wire::{Bitfield, PieceIndex};
use world::{Conduct, World, millis, secs, torrent};

fn sends(what: fn(&Message) -> bool) -> impl Fn(&Action) -> bool {
    move |action| matches!(action, Action::Send { message, .. } if what(message))
}

fn without_layers(metainfo: &Metainfo) -> Metainfo {
    Metainfo { piece_layers: Default::default(), ..metainfo.clone() }
}

fn wanted(count: u32, total: u32) -> Bitfield {
    let mut wanted = Bitfield::empty(total);
    for piece in 0..count {
        wanted.set(PieceIndex(piece));
    }
    wanted
}

#[test]
fn a_leecher_gets_everything_from_a_seed_and_says_so() {
    let mut world = World::new();
    let torrent = torrent(100, 4, Version::V1);
    let seed = world.seed(&torrent);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(10), |world| world.is_complete(leecher)));
    assert!(world.elapsed() < millis(300), "{:?}", world.elapsed());
    let node = &world.nodes[leecher];
    assert_eq!(node.count(|action| *action == Action::Completed), 1);
    assert_eq!(node.count(|action| matches!(action, Action::Verify { .. })), 25);
    assert_eq!(node.blocks_in, 100, "nothing was sent twice");
    let stats = world.stats(leecher);
    assert_eq!((stats.left_bytes, stats.pieces_have, stats.wasted), (0, 25, 0));
    assert_eq!(stats.from, [(world.nodes[seed].addr, 100 * 16_384)]);
    world.run(secs(1), |_| false);
    assert_eq!(world.stats(seed).uploaded, 100 * 16_384);
    assert!(world.stats(seed).peers.is_empty(), "two seeds have nothing for each other");
}

#[test]
fn three_seeds_share_the_work() {
    let mut world = World::new();
    let torrent = torrent(400, 4, Version::Hybrid);
    let seeds: Vec<usize> = (0..3).map(|_| world.seed(&torrent)).collect();
    for seed in &seeds {
        world.nodes[*seed].uplink = 1_000_000;
    }
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    let from = world.elapsed();
    assert!(world.run(secs(30), |world| world.is_complete(leecher)));
    let took = (world.elapsed() - from).as_secs_f64();
    let bound = 400.0 * 16_384.0 / 3_000_000.0;
    assert!(took < bound * 1.25, "{took} s, the bound is {bound} s");
    let shares: Vec<u64> = world.stats(leecher).from.iter().map(|(_, bytes)| *bytes).collect();
    assert!(shares.len() == 3 && shares.iter().all(|share| *share > 400 * 16_384 / 5), "{shares:?}");
}

#[test]
fn peers_without_the_fast_extension_work_too() {
    let mut world = World::new();
    let torrent = torrent(50, 4, Version::V1);
    let seed = world.seed(&torrent);
    let leecher = world.leecher(&torrent);
    world.nodes[seed].fast = false;
    assert!(world.run(secs(10), |world| world.is_complete(leecher)));
    assert_eq!(world.nodes[seed].count(sends(|message| matches!(message, Message::HaveAll))), 0);
    assert_eq!(world.nodes[seed].count(sends(|message| matches!(message, Message::Bitfield(_)))), 1);
}

#[test]
fn a_magnet_gets_the_metadata_then_the_content() {
    let mut world = World::new();
    for version in [Version::V1, Version::Hybrid, Version::V2] {
        let torrent = torrent(3_000, 1, version);
        world.seed(&torrent);
        let leecher = world.add(Start::Hashes(torrent.info.hashes), |config| config.peer_id.0[5] = version as u8);
        assert!(world.run(secs(10), |world| world.is_complete(leecher)), "{version:?}");
        assert_eq!(world.nodes[leecher].count(|action| matches!(action, Action::MetadataReady { .. })), 1);
        world = World::new();
    }
}

#[test]
fn who_is_promised_the_torrent_has_it_from_a_leecher_and_asks_no_seed() {
    for version in [Version::V1, Version::Hybrid, Version::V2] {
        let mut world = World::new();
        let torrent = torrent(3_000, 1, version);
        let seed = world.seed(&torrent);
        world.nodes[seed].uplink = 4_000_000;
        let first = world.leecher(&torrent);
        let promised: Vec<usize> = (0..4).map(|_| world.add(Start::Awaited(torrent.info.hashes), |_| ())).collect();
        let complete = |world: &World| promised.iter().all(|node| world.is_complete(*node));
        assert!(world.run(secs(60), complete), "{version:?}");
        let gives = |node: usize| {
            let parts = sends(|message| match message {
                Message::Extended { payload, .. } => {
                    matches!(MetadataMessage::decode(payload), Ok(Some(MetadataMessage::Data { .. })))
                }
                Message::Hashes(..) => true,
                _ => false,
            });
            world.nodes[node].count(parts)
        };
        assert_eq!(gives(seed), 0, "{version:?}");
        assert!(gives(first) > 0, "{version:?}");
    }
}

#[test]
fn e09_a_magnet_finishes_with_one_honest_peer_of_ten() {
    let mut world = World::new();
    let torrent = torrent(2_000, 1, Version::V1);
    for _ in 0..9 {
        let liar = world.seed(&torrent);
        world.nodes[liar].conduct = Conduct::MetadataLies;
    }
    let honest = world.seed(&torrent);
    world.run(secs(1), |_| false);
    let leecher = world.add(Start::Hashes(torrent.info.hashes), |_| ());
    assert!(world.run(secs(60), |world| world.is_complete(leecher)));
    let banned =
        world.nodes[leecher].count(|action| matches!(action, Action::Close { reason: CloseReason::Banned, .. }));
    assert!(banned <= 9);
    assert!(world.stats(leecher).from.iter().any(|(addr, _)| *addr == world.nodes[honest].addr));
}

#[test]
fn w16_liars_are_banned_and_honest_peers_are_not() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let mut world = World::new();
        let torrent = torrent(1_600, 16, version);
        let peers: Vec<usize> = (0..10).map(|_| world.seed(&torrent)).collect();
        for liar in &peers[..3] {
            world.nodes[*liar].conduct = Conduct::Corrupts(1.0);
        }
        for peer in &peers {
            world.nodes[*peer].uplink = 500_000;
        }
        world.run(secs(1), |_| false);
        let leecher = world.leecher(&torrent);
        assert!(world.run(secs(120), |world| world.is_complete(leecher)), "{version:?}");
        let stats = world.stats(leecher);
        assert_eq!(stats.banned, 3, "{version:?}");
        assert!(stats.wasted * 5 <= stats.downloaded, "{version:?}: {} of {}", stats.wasted, stats.downloaded);
        let liars: Vec<_> = peers[..3].iter().map(|peer| world.nodes[*peer].addr).collect();
        assert!(stats.from.iter().all(|(addr, _)| !liars.contains(addr)));
    }
}

#[test]
fn f35_peers_that_lie_now_and_then_are_found_too() {
    let mut world = World::new();
    let torrent = torrent(6_400, 16, Version::V1);
    let peers: Vec<usize> = (0..6).map(|_| world.seed(&torrent)).collect();
    for liar in &peers[..2] {
        world.nodes[*liar].conduct = Conduct::Corrupts(0.1);
    }
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(120), |world| world.is_complete(leecher)));
    let stats = world.stats(leecher);
    assert_eq!(stats.banned, 2);
    assert!(stats.wasted * 5 <= stats.downloaded);
}

#[test]
fn a_piece_that_failed_is_settled_by_the_hashes_of_its_blocks_from_somebody_who_has_it() {
    let mut world = World::new();
    let torrent = torrent(1_600, 16, Version::V2);
    let peers: Vec<usize> = (0..4).map(|_| world.seed(&torrent)).collect();
    world.nodes[peers[0]].conduct = Conduct::Corrupts(0.5);
    for peer in &peers {
        world.nodes[*peer].uplink = 500_000;
    }
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(120), |world| world.stats(leecher).banned == 1));
    let asked = world.nodes[leecher].count(sends(|message| matches!(message, Message::HashRequest(_))));
    let hashed = |peer: &usize| world.nodes[*peer].count(|action| matches!(action, Action::HashBlocks { .. }));
    assert!(asked > 0 && peers.iter().map(hashed).sum::<usize>() > 0);
    assert!(world.run(secs(120), |world| world.is_complete(leecher)));
}

#[test]
fn f33_corruption_that_everybody_shows_bans_nobody() {
    let mut world = World::new();
    let torrent = torrent(40_000, 4, Version::V2);
    for _ in 0..5 {
        let peer = world.seed(&torrent);
        world.nodes[peer].conduct = Conduct::Corrupts(0.0005);
    }
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(600), |world| world.is_complete(leecher)));
    assert_eq!(world.stats(leecher).banned, 0);
}

#[test]
fn w18_peers_that_stall_hold_nobody_up_for_long() {
    let mut world = World::new();
    let torrent = torrent(200, 4, Version::V1);
    for _ in 0..3 {
        let peer = world.seed(&torrent);
        world.nodes[peer].conduct = Conduct::Stalls;
    }
    world.seed(&torrent);
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    let from = world.elapsed();
    assert!(world.run(secs(60), |world| world.is_complete(leecher)));
    assert!(world.elapsed() - from <= secs(31), "{:?}", world.elapsed() - from);
}

#[test]
fn f34_a_holder_that_dies_half_way_is_replaced_by_the_others() {
    let mut world = World::new();
    let torrent = torrent(1_000, 4, Version::V1);
    let seeds: Vec<usize> = (0..3).map(|_| world.seed(&torrent)).collect();
    for seed in &seeds {
        world.nodes[*seed].uplink = 2_000_000;
    }
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(30), |world| world.stats(leecher).pieces_have > 100));
    world.kill(seeds[0]);
    assert!(world.run(secs(30), |world| world.is_complete(leecher)));
    assert!(world.elapsed() < secs(8), "{:?}", world.elapsed());
}

#[test]
fn when_every_holder_is_gone_the_snapshot_says_so() {
    let mut world = World::new();
    let torrent = torrent(1_000, 4, Version::V1);
    let seed = world.seed(&torrent);
    world.nodes[seed].uplink = 1_000_000;
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(30), |world| world.stats(leecher).pieces_have > 50));
    assert_eq!(world.stats(leecher).alone_since, None);
    world.kill(seed);
    let at = world.now;
    world.run(secs(20), |_| false);
    let stats = world.stats(leecher);
    assert!(stats.alone_since.is_some_and(|since| since <= at + secs(1)), "{stats:?}");
    assert_eq!(stats.pieces_unavailable, stats.pieces_left);
}

#[test]
fn nobody_has_it_is_known_as_soon_as_the_tracker_has_answered() {
    let mut world = World::new();
    let leecher = world.leecher(&torrent(10, 4, Version::V1));
    assert!(world.run(secs(2), |world| world.stats(leecher).alone_since.is_some()));
    assert!(world.elapsed() < millis(100));
}

#[test]
fn two_leechers_with_half_each_complete_each_other() {
    let mut world = World::new();
    let torrent = torrent(80, 4, Version::V1);
    let mut halves = [Bitfield::empty(20), Bitfield::empty(20)];
    for piece in torrent.info.geometry.all() {
        halves[piece.0 as usize % 2].set(piece);
    }
    let nodes: Vec<usize> = halves.into_iter().map(|have| world.holder(&torrent, have)).collect();
    assert!(world.run(secs(100), |world| nodes.iter().all(|node| world.is_complete(*node))));
    for node in nodes {
        assert_eq!(world.stats(node).downloaded, 40 * 16_384, "what was had is not fetched again");
    }
}

#[test]
fn a_crowd_behind_one_slow_seed_finishes_near_the_fluid_bound() {
    let mut world = World::new();
    let torrent = torrent(1_024, 16, Version::V1);
    let seed = world.seed(&torrent);
    let leechers: Vec<usize> = (0..8).map(|_| world.leecher(&torrent)).collect();
    for node in 0..=8 {
        world.nodes[node].uplink = 1_250_000;
    }
    assert!(world.run(secs(200), |world| leechers.iter().all(|node| world.is_complete(*node))));
    let bound = 1_024.0 * 16_384.0 / 1_250_000.0;
    let ratio = world.elapsed().as_secs_f64() / bound;
    let copies = world.stats(seed).uploaded as f64 / (1_024.0 * 16_384.0);
    assert!(ratio < 1.6, "{ratio:.2} of the bound, the seed sent {copies:.2} copies");
}

#[test]
fn a_v2_torrent_without_piece_layers_fetches_them_first() {
    let mut world = World::new();
    let torrent = torrent(3_000, 2, Version::V2);
    world.seed(&torrent);
    let leecher = world.leecher(&without_layers(&torrent));
    assert!(world.run(secs(30), |world| world.is_complete(leecher)));
    let layers: Vec<_> = world.nodes[leecher]
        .done
        .iter()
        .filter_map(|action| match action {
            Action::PieceLayerReady { pieces_root, hashes } => Some((*pieces_root, hashes.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(layers, torrent.piece_layers.clone().into_iter().collect::<Vec<_>>());
}

#[test]
fn e22_a_peer_with_false_hashes_is_banned_and_others_are_asked() {
    let mut world = World::new();
    let torrent = torrent(3_000, 2, Version::V2);
    for conduct in [Conduct::HashLies, Conduct::HashLies, Conduct::Honest] {
        let seed = world.seed(&torrent);
        world.nodes[seed].conduct = conduct;
    }
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&without_layers(&torrent));
    assert!(world.run(secs(60), |world| world.is_complete(leecher)));
    assert!(world.stats(leecher).banned >= 1);
}

#[test]
fn w21_a_peer_that_rejects_everything_is_closed_and_others_serve() {
    let mut world = World::new();
    let torrent = torrent(400, 1, Version::V1);
    let bad = world.seed(&torrent);
    world.nodes[bad].conduct = Conduct::Rejects;
    let good = world.seed(&torrent);
    world.nodes[good].uplink = 1_000_000;
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(30), |world| world.is_complete(leecher)));
    let closed =
        world.nodes[leecher].count(|action| matches!(action, Action::Close { reason: CloseReason::Misbehaved(_), .. }));
    assert!(closed >= 1);
}

#[test]
fn a_selection_is_fetched_and_no_more_and_more_when_it_grows() {
    let mut world = World::new();
    let torrent = torrent(80, 4, Version::V1);
    world.seed(&torrent);
    let content = Content { metainfo: torrent.clone().into(), have: Bitfield::empty(20), wanted: wanted(5, 20) };
    let leecher = world.add(Start::Content(content), |_| ());
    assert!(world.run(secs(10), |world| world.is_complete(leecher)));
    assert_eq!((world.stats(leecher).pieces_have, world.nodes[leecher].blocks_in), (5, 20));
    world.tell(leecher, Event::WantedChanged { wanted: Bitfield::full(20) });
    assert_eq!(world.stats(leecher).phase, Phase::Downloading);
    assert!(world.run(secs(60), |world| world.is_complete(leecher)));
    assert_eq!(world.stats(leecher).pieces_have, 20);
}

#[test]
fn a_selection_that_shrinks_drops_what_was_begun() {
    let mut world = World::new();
    let torrent = torrent(80, 4, Version::V1);
    let seed = world.seed(&torrent);
    world.nodes[seed].uplink = 200_000;
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(10), |world| world.stats(leecher).pieces_have >= 1));
    world.tell(leecher, Event::WantedChanged { wanted: wanted(0, 20) });
    assert!(world.is_complete(leecher));
    let cancels = world.nodes[leecher].count(sends(|message| matches!(message, Message::Cancel(_))));
    assert!(cancels > 0);
    let have = world.stats(leecher).pieces_have;
    world.run(secs(5), |_| false);
    assert!(world.stats(leecher).pieces_have <= have + 1);
}

#[test]
fn withdrawn_pieces_are_not_served_and_others_are_told() {
    let mut world = World::new();
    let torrent = torrent(200, 4, Version::V1);
    let seed = world.seed(&torrent);
    world.nodes[seed].uplink = 500_000;
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(10), |world| world.stats(leecher).pieces_have >= 5));
    let gone: Vec<PieceIndex> = torrent.info.geometry.all().filter(|piece| piece.0 >= 25).collect();
    world.tell(seed, Event::Withdrawn { pieces: gone });
    world.run(secs(20), |_| false);
    let stats = world.stats(leecher);
    assert!(stats.pieces_have >= 25 && stats.pieces_unavailable == stats.pieces_left, "{stats:?}");
    assert_eq!(world.stats(seed).phase, Phase::Seeding, "nothing is fetched over the user's changes");
    assert!(world.link(leecher, seed).is_some());
}

#[test]
fn f42_a_limit_of_downloads_is_shared_by_all_who_could_give_more() {
    for limit in [200_000, 2_000_000, 10_000_000] {
        let mut world = World::new();
        let torrent = torrent(1_000, 16, Version::V1);
        for uplink in [1_000_000_000, 50_000_000, 10_000_000] {
            let seed = world.seed(&torrent);
            world.nodes[seed].uplink = uplink;
        }
        world.run(secs(1), |_| false);
        let content = Content { metainfo: torrent.clone().into(), have: wanted(0, 63), wanted: Bitfield::full(63) };
        let leecher = world.add(Start::Content(content), |config| config.download_rate = Some(limit));
        assert!(world.run(secs(120), |world| world.is_complete(leecher)));
        let from: Vec<u64> = world.stats(leecher).from.iter().map(|(_, bytes)| *bytes).collect();
        let (least, most) = (from.iter().min().unwrap(), from.iter().max().unwrap());
        assert!(from.len() == 3 && most - least < 1_000 * 16_384 / 5, "{limit}: {from:?}");
    }
}

#[test]
fn f21_lost_pieces_are_fetched_again_and_completed_is_said_once_more() {
    let mut world = World::new();
    let torrent = torrent(80, 4, Version::V1);
    let seed = world.seed(&torrent);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(10), |world| world.is_complete(leecher)));
    let completed = |world: &World| world.nodes[leecher].count(|action| *action == Action::Completed);
    assert_eq!(completed(&world), 1);
    world.tell(leecher, Event::Lost { pieces: [3, 7].map(PieceIndex).to_vec() });
    assert_eq!((world.stats(leecher).phase, world.stats(leecher).pieces_left), (Phase::Downloading, 2));
    assert_eq!(completed(&world), 1, "not while they are missing");
    assert!(world.run(secs(60), |world| world.is_complete(leecher)));
    assert_eq!((completed(&world), world.nodes[leecher].blocks_in), (2, 88));
    assert_eq!(world.stats(seed).phase, Phase::Seeding);
}

#[test]
fn a_disk_that_is_full_stops_requests_and_goes_on_by_itself() {
    let mut world = World::new();
    let torrent = torrent(400, 4, Version::V1);
    let seed = world.seed(&torrent);
    world.nodes[seed].uplink = 1_000_000;
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(10), |world| world.stats(leecher).pieces_have >= 5));
    world.tell(leecher, Event::DiskPaused);
    world.run(secs(5), |_| false);
    let before = world.nodes[leecher].blocks_in;
    world.run(secs(10), |_| false);
    assert_eq!(world.nodes[leecher].blocks_in, before);
    world.tell(leecher, Event::DiskResumed);
    assert!(world.run(secs(30), |world| world.is_complete(leecher)));
}

#[test]
fn rate_limits_hold_on_both_sides() {
    for (download, upload) in [(Some(200_000), None), (None, Some(200_000))] {
        let mut world = World::new();
        let torrent = torrent(100, 4, Version::V1);
        let seed = world.seed(&torrent);
        let leecher = world.leecher(&torrent);
        world.tell(seed, Event::RatesChanged { download: None, upload });
        world.tell(leecher, Event::RatesChanged { download, upload: None });
        assert!(world.run(secs(60), |world| world.is_complete(leecher)));
        let rate = 100.0 * 16_384.0 / world.elapsed().as_secs_f64();
        assert!((170_000.0..230_000.0).contains(&rate), "{rate} bytes per second");
    }
}

#[test]
fn a_small_budget_of_blocks_slows_and_never_hangs() {
    let mut world = World::new();
    let torrent = torrent(512, 64, Version::V1);
    world.seed(&torrent);
    world.seed(&torrent);
    let content = Content { metainfo: torrent.clone().into(), have: Bitfield::empty(8), wanted: Bitfield::full(8) };
    let leecher = world.add(Start::Content(content), |config| config.block_budget = 16);
    assert!(world.run(secs(60), |world| world.is_complete(leecher)));
    assert!(world.nodes[leecher].count(|action| matches!(action, Action::Spill { .. })) > 0);
}

#[test]
fn a_torrent_of_one_piece_larger_than_the_budget_is_fetched() {
    let mut world = World::new();
    let torrent = torrent(256, 256, Version::V1);
    world.seed(&torrent);
    let content = Content { metainfo: torrent.clone().into(), have: Bitfield::empty(1), wanted: Bitfield::full(1) };
    let leecher = world.add(Start::Content(content), |config| config.block_budget = 16);
    assert!(world.run(secs(10), |world| world.is_complete(leecher)));
}

#[test]
fn stopping_says_good_bye_to_trackers_and_peers_and_ends() {
    let mut world = World::new();
    let torrent = torrent(400, 4, Version::V1);
    let seed = world.seed(&torrent);
    world.nodes[seed].uplink = 500_000;
    world.run(secs(1), |_| false);
    let leecher = world.leecher(&torrent);
    assert!(world.run(secs(10), |world| world.stats(leecher).pieces_have >= 2));
    let from = world.now;
    world.tell(leecher, Event::Stopping);
    assert!(world.run(secs(5), |world| world.stats(leecher).phase == Phase::Stopped));
    assert!(world.now - from < millis(100));
    let stopped = |action: &Action| matches!(action, Action::Announce { request, .. } if request.event == obt_swarm::AnnounceEvent::Stopped);
    assert_eq!(world.nodes[leecher].count(stopped), 1);
    assert_eq!(world.nodes[leecher].done.last(), Some(&Action::Stopped));
    world.run(secs(300), |_| false);
    assert_eq!(world.nodes[leecher].count(|action| *action == Action::Stopped), 1);
    assert_eq!(world.nodes[leecher].swarm.poll_timeout(), None);
}

#[test]
fn peers_that_dial_each_other_at_once_keep_one_connection() {
    let mut world = World::new();
    let torrent = torrent(400, 4, Version::V1);
    let a = world.leecher(&torrent);
    let b = world.holder(&torrent, wanted(10, 100));
    let (to_a, to_b) = (world.nodes[a].addr, world.nodes[b].addr);
    world.tell(a, Event::PeersFound { source: obt_swarm::PeerSource::User, addrs: vec![to_b] });
    world.tell(b, Event::PeersFound { source: obt_swarm::PeerSource::User, addrs: vec![to_a] });
    assert!(world.run(secs(10), |world| world.stats(a).pieces_have == 10));
    for node in [a, b] {
        assert_eq!(world.stats(node).peers.len(), 1);
    }
    world.run(secs(100), |_| false);
    assert_eq!(world.stats(a).peers.len(), 1);
    let dials = world.nodes[a].count(|action| matches!(action, Action::Connect { .. }));
    assert!(dials <= 1, "{dials} dials");
}

#[test]
fn w04_whoever_finds_itself_hangs_up_and_does_not_dial_again() {
    let mut world = World::new();
    let node = world.leecher(&torrent(10, 4, Version::V1));
    let own = world.nodes[node].addr;
    world.tell(node, Event::PeersFound { source: obt_swarm::PeerSource::User, addrs: vec![own] });
    world.run(secs(3_600), |_| false);
    assert_eq!(world.nodes[node].count(|action| matches!(action, Action::Connect { .. })), 1);
    assert!(world.stats(node).peers.is_empty());
}

#[test]
fn an_idle_pair_keeps_its_connection_alive() {
    let mut world = World::new();
    let torrent = torrent(10, 4, Version::V1);
    let (a, b) = (world.leecher(&torrent), world.leecher(&torrent));
    world.run(secs(1_200), |_| false);
    assert!(world.link(a, b).is_some());
    let closes = world.nodes[a].count(|action| matches!(action, Action::Close { reason: CloseReason::Idle, .. }));
    assert_eq!(closes, 0);
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    let play = || {
        let mut world = World::new();
        let torrent = torrent(300, 4, Version::Hybrid);
        for conduct in [Conduct::Honest, Conduct::Corrupts(0.2), Conduct::Honest] {
            let seed = world.seed(&torrent);
            world.nodes[seed].conduct = conduct;
        }
        let leecher = world.leecher(&torrent);
        assert!(world.run(secs(60), |world| world.is_complete(leecher)));
        world.nodes.remove(leecher).done
    };
    assert_eq!(play(), play());
}
