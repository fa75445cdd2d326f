//! Tables of the picker.

mod model;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::limits::RATE_SIDE_BY_SIDE;

const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);
const C: PeerKey = PeerKey(3);

/// A picker, and what its owner has to know to use it.
struct Bench {
    geometry: Geometry,
    picker: Picker,
    has: BTreeMap<PeerKey, Bitfield>,
}

impl Bench {
    /// `pieces` of `blocks` blocks each, all wanted, none had.
    fn new(pieces: u32, blocks: u32, block_budget: usize) -> Self {
        let length = blocks * BLOCK_SIZE;
        let geometry = Geometry::contiguous(u64::from(pieces) * u64::from(length), length).unwrap();
        let config = PickerConfig { block_budget, side_by_side: 16, ..PickerConfig::default() };
        let picker = Picker::new(&geometry, &Bitfield::empty(pieces), &Bitfield::full(pieces), config, 7);
        Self { geometry, picker, has: BTreeMap::new() }
    }

    fn join(&mut self, peer: PeerKey, pieces: impl IntoIterator<Item = u32>) {
        let mut has = Bitfield::empty(self.geometry.pieces());
        for piece in pieces {
            has.set(PieceIndex(piece));
        }
        self.picker.peer_joined(peer, &has);
        self.has.insert(peer, has);
    }

    fn join_seed(&mut self, peer: PeerKey) {
        self.join(peer, 0..self.geometry.pieces());
    }

    fn leave(&mut self, peer: PeerKey) {
        let has = self.has.remove(&peer).unwrap();
        self.picker.peer_left(peer, &has);
    }

    fn have(&mut self, peer: PeerKey, piece: u32) {
        if self.has.get_mut(&peer).unwrap().set(PieceIndex(piece)) {
            self.picker.peer_have(peer, PieceIndex(piece));
        }
    }

    fn pick_at(&mut self, peer: PeerKey, rate: u64, want: usize) -> Vec<Block> {
        let mut out = Vec::new();
        let asker = Asker { peer, has: &self.has[&peer], rate, only: None, trust: Trust::Full, hints: &[] };
        self.picker.pick(&asker, want, &mut out);
        self.picker.check().unwrap();
        out
    }

    fn pick_on_parole(&mut self, peer: PeerKey, want: usize) -> Vec<Block> {
        let mut out = Vec::new();
        let asker =
            Asker { peer, has: &self.has[&peer], rate: 1_000_000, only: None, trust: Trust::Parole, hints: &[] };
        self.picker.pick(&asker, want, &mut out);
        self.picker.check().unwrap();
        out
    }

    fn pick(&mut self, peer: PeerKey, want: usize) -> Vec<Block> {
        self.pick_at(peer, 1_000_000, want)
    }

    fn receive(&mut self, peer: PeerKey, block: Block) -> Received {
        let received = self.picker.received(peer, block);
        self.picker.check().unwrap();
        received
    }

    /// `peer` sends all of these; the pieces that get full are returned.
    fn deliver(&mut self, peer: PeerKey, blocks: &[Block]) -> Vec<PieceIndex> {
        let mut full = Vec::new();
        for block in blocks {
            let accepted = self.receive(peer, *block) != Received::Unwanted;
            if accepted && self.picker.is_full(block.piece) {
                full.push(block.piece);
            }
        }
        full
    }

    /// `peer` fetches `pieces` to us, whole.
    fn complete(&mut self, peer: PeerKey, want: usize) {
        let blocks = self.pick(peer, want);
        for piece in self.deliver(peer, &blocks) {
            self.picker.verified(piece);
        }
    }
}

fn block(piece: u32, index: u32) -> Block {
    Block { piece: PieceIndex(piece), index }
}

fn pieces(blocks: &[Block]) -> BTreeSet<u32> {
    blocks.iter().map(|block| block.piece.0).collect()
}

#[test]
fn the_rarest_piece_comes_first_and_seeds_do_not_count() {
    let mut bench = Bench::new(3, 2, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    bench.join(C, [0, 2]);
    bench.join(PeerKey(4), [0]);
    assert_eq!(pieces(&bench.pick(A, 2)), [1].into());
    assert_eq!(pieces(&bench.pick(A, 2)), [2].into());
    assert_eq!(pieces(&bench.pick(A, 2)), [0].into());
}

#[test]
fn open_pieces_are_finished_before_new_ones_are_opened() {
    let mut bench = Bench::new(8, 4, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    let first = bench.pick(A, 3);
    let second = bench.pick(B, 3);
    assert_eq!(second[0], Block { index: 3, ..first[0] });
    assert_eq!(bench.picker.open_pieces(), 2);
}

#[test]
fn a_peer_is_asked_only_for_what_it_has() {
    let mut bench = Bench::new(8, 4, 100);
    bench.join(A, [3, 5]);
    assert_eq!(pieces(&bench.pick(A, 100)), [3, 5].into());
    assert_eq!(bench.pick(A, 100), []);
    bench.have(A, 6);
    assert_eq!(pieces(&bench.pick(A, 100)), [6].into());
}

#[test]
fn death_gives_back_exactly_the_blocks_of_the_dead() {
    let mut bench = Bench::new(4, 4, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    let of_a = bench.pick(A, 6);
    let of_b = bench.pick(B, 6);
    bench.receive(A, of_a[0]);
    bench.leave(A);
    bench.picker.check().unwrap();
    let asked: BTreeSet<Block> = bench.picker.requests().map(|(block, _)| block).collect();
    assert_eq!(asked, of_b.iter().copied().collect());
    let again: BTreeSet<Block> = bench.pick(B, 100).into_iter().collect();
    assert!(of_a[1..].iter().all(|block| again.contains(block)));
    assert!(!again.contains(&of_a[0]));
}

#[test]
fn a_piece_without_any_block_left_is_closed_again() {
    let mut bench = Bench::new(4, 4, 100);
    bench.join_seed(A);
    let blocks = bench.pick(A, 2);
    assert!(bench.picker.release(A, blocks[0]));
    assert!(!bench.picker.release(A, blocks[0]));
    assert_eq!(bench.picker.open_pieces(), 1);
    assert!(bench.picker.release(A, blocks[1]));
    assert_eq!(bench.picker.open_pieces(), 0);
    bench.picker.check().unwrap();
}

#[test]
fn the_budget_bounds_what_is_open() {
    let mut bench = Bench::new(100, 4, 10);
    bench.join_seed(A);
    assert_eq!(bench.pick(A, 100).len(), 8);
    assert_eq!(bench.pick(A, 100), []);
    let blocks: Vec<Block> = bench.picker.requests().map(|(block, _)| block).collect();
    let full = bench.deliver(A, &blocks);
    assert_eq!(bench.pick(A, 100), [], "full pieces keep their buffers until they are verified");
    bench.picker.verified(full[0]);
    assert_eq!(bench.pick(A, 100).len(), 4);
}

#[test]
fn a_piece_that_stands_still_is_spilled_when_the_budget_holds_others_up() {
    let mut bench = Bench::new(10, 4, 8);
    bench.join(A, [0]);
    bench.join(B, 1..10);
    let slow = bench.pick(A, 3);
    bench.receive(A, slow[0]);
    bench.complete(B, 4);
    assert_eq!(bench.picker.spill_candidate(0), None, "nobody is held up");
    bench.complete(B, 4);
    assert_eq!(bench.pick(B, 8).len(), 4);
    assert_eq!(bench.picker.spill_candidate(100), None, "others are so fast that this was a moment");
    assert_eq!(bench.picker.spill_candidate(0), Some(PieceIndex(0)));
    bench.picker.spilled(PieceIndex(0));
    bench.picker.check().unwrap();
    assert_eq!(bench.pick(B, 100).len(), 0, "requests of the spilled piece still count");
    bench.picker.release(A, slow[1]);
    bench.picker.release(A, slow[2]);
    assert_eq!(bench.pick(B, 100).len(), 4);
    bench.leave(B);
    bench.receive(A, slow[1]);
    bench.receive(A, slow[2]);
    let last = bench.pick(A, 1);
    assert_eq!(bench.receive(A, last[0]), Received::Accepted { cancel: vec![] });
}

#[test]
fn a_piece_larger_than_the_budget_is_fetched_and_spilled() {
    let mut bench = Bench::new(2, 50, 8);
    bench.join_seed(A);
    let first = bench.pick(A, 100);
    assert_eq!(first.len(), 8);
    let piece = bench.picker.spill_candidate(0).unwrap();
    bench.picker.spilled(piece);
    bench.deliver(A, &first);
    while !bench.picker.is_done() {
        let blocks = bench.pick(A, 100);
        assert!(!blocks.is_empty());
        if let Some(piece) = bench.picker.spill_candidate(0) {
            bench.picker.spilled(piece);
        }
        for piece in bench.deliver(A, &blocks) {
            bench.picker.verified(piece);
        }
    }
}

#[test]
fn in_the_endgame_blocks_of_slow_peers_are_asked_of_others_and_cancelled() {
    let mut bench = Bench::new(1, 4, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    let owed = bench.pick_at(A, 1_000, 4);
    assert_eq!(owed.len(), 4);
    assert!(bench.picker.is_endgame());
    let again = bench.pick_at(B, 1_000_000, 4);
    assert_eq!(again.iter().map(|block| block.index).collect::<Vec<_>>(), [3, 2, 1, 0]);
    assert_eq!(bench.receive(B, again[0]), Received::Accepted { cancel: vec![A] }, "the slow one is told");
    assert_eq!(bench.receive(A, again[0]), Received::Unwanted);
    assert_eq!(bench.receive(A, again[1]), Received::Accepted { cancel: vec![B] });
}

#[test]
fn in_the_endgame_a_slow_peer_does_not_repeat_the_work_of_a_fast_one() {
    let mut bench = Bench::new(1, 40, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    bench.pick_at(A, 10_000_000, 40);
    assert_eq!(bench.pick_at(B, 1_000, 40), []);
    assert_eq!(bench.pick_at(B, 0, 40).len(), 1, "of whom nothing is known one is tried");
}

#[test]
fn w18_no_block_is_asked_of_more_peers_than_allowed() {
    let mut bench = Bench::new(1, 1, 100);
    for key in 1..10 {
        bench.join_seed(PeerKey(key));
    }
    let asked: usize = (1..10).map(|key| bench.pick_at(PeerKey(key), 0, 1).len()).sum();
    assert_eq!(asked, PickerConfig::default().requesters);
    bench.leave(PeerKey(1));
    assert_eq!(bench.pick_at(PeerKey(9), 0, 1).len(), 1, "the dead make room");
}

#[test]
fn readers_are_served_in_order_before_the_rarest() {
    let mut bench = Bench::new(20, 2, 100);
    bench.join_seed(A);
    bench.join(B, (0..20).filter(|piece| *piece != 15));
    bench.picker.set_readers(&[ReadRange { first: 8, end: 10 }, ReadRange { first: 3, end: 4 }]);
    let order: Vec<u32> = bench.pick(A, 8).iter().map(|block| block.piece.0).collect();
    assert_eq!(order, [8, 8, 9, 9, 3, 3, 15, 15]);
}

#[test]
fn what_a_reader_waits_for_is_asked_again_of_a_much_faster_peer() {
    let mut bench = Bench::new(20, 2, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    bench.picker.set_readers(&[ReadRange { first: 0, end: 20 }]);
    assert_eq!(bench.pick_at(A, 10_000, 4), [block(0, 0), block(0, 1), block(1, 0), block(1, 1)]);
    let mut again = bench.pick_at(B, 1_000_000, 6);
    again.sort_unstable();
    assert_eq!(again, [block(0, 0), block(0, 1), block(1, 0), block(1, 1), block(2, 0), block(2, 1)]);
}

#[test]
fn a_reader_moves_on_as_pieces_come() {
    let mut bench = Bench::new(20, 2, 100);
    bench.join_seed(A);
    bench.picker.set_readers(&[ReadRange { first: 5, end: 100 }]);
    for first in 5..20 {
        let blocks = bench.pick(A, 2);
        assert_eq!(blocks, [block(first, 0), block(first, 1)]);
        bench.deliver(A, &blocks);
        bench.picker.verified(PieceIndex(first));
    }
    assert!(bench.picker.readers.is_empty());
}

#[test]
fn w16_a_failed_piece_is_fetched_from_one_peer_that_had_no_part_in_it() {
    let mut bench = Bench::new(1, 4, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    let of_a = bench.pick(A, 2);
    let of_b = bench.pick(B, 2);
    bench.deliver(A, &of_a);
    assert_eq!(bench.deliver(B, &of_b), [PieceIndex(0)]);
    assert_eq!(bench.picker.failed(PieceIndex(0)), [A, A, B, B]);
    bench.join_seed(C);
    let of_c = bench.pick(C, 1);
    assert_eq!(of_c, [block(0, 0)]);
    assert_eq!(bench.pick(A, 4), [], "C alone is asked");
    assert_eq!(bench.receive(A, block(0, 1)), Received::Unwanted, "nothing of others gets into it");
    bench.deliver(C, &of_c);
    let rest = bench.pick(C, 4);
    assert_eq!(bench.deliver(C, &rest), [PieceIndex(0)]);
    assert_eq!(bench.picker.senders(PieceIndex(0)), [C; 4]);
}

#[test]
fn a_failed_piece_comes_from_one_who_sent_it_if_there_is_nobody_else() {
    let mut bench = Bench::new(2, 2, 100);
    bench.join_seed(A);
    let blocks = bench.pick(A, 2);
    let failed = bench.deliver(A, &blocks)[0];
    bench.picker.failed(failed);
    assert_ne!(bench.pick(A, 2)[0].piece, failed, "others first");
    assert_eq!(bench.pick(A, 2)[0].piece, failed);
}

#[test]
fn w18_a_piece_on_parole_does_not_wait_for_a_peer_that_stalls() {
    let mut bench = Bench::new(1, 2, 100);
    bench.join_seed(A);
    let blocks = bench.pick(A, 2);
    bench.deliver(A, &blocks);
    bench.picker.failed(PieceIndex(0));
    bench.join_seed(B);
    bench.join_seed(C);
    let first = bench.pick(B, 2);
    bench.receive(B, first[0]);
    assert_eq!(bench.pick(C, 2), []);
    bench.picker.release_all(B);
    assert_eq!(bench.pick(C, 2), [first[1]]);
}

#[test]
fn a_piece_that_could_not_be_stored_is_nobodys_fault() {
    let mut bench = Bench::new(1, 2, 100);
    bench.join_seed(A);
    let blocks = bench.pick(A, 2);
    bench.deliver(A, &blocks);
    bench.picker.store_failed(PieceIndex(0));
    bench.picker.check().unwrap();
    assert_eq!(bench.pick(A, 2), blocks);
}

#[test]
fn a_block_that_comes_late_is_kept_if_it_is_still_useful() {
    let mut bench = Bench::new(2, 4, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    let owed = bench.pick(A, 4);
    bench.receive(A, owed[0]);
    bench.picker.release_all(A);
    assert_eq!(bench.receive(A, owed[1]), Received::Accepted { cancel: vec![] });
    let moved = bench.pick(B, 2);
    assert_eq!(bench.receive(A, moved[0]), Received::Accepted { cancel: vec![B] });
    assert_eq!(bench.picker.outstanding(B), 1);
}

#[test]
fn unwanted_and_unverifiable_pieces_are_not_picked() {
    let mut bench = Bench::new(4, 2, 100);
    bench.join_seed(A);
    bench.picker.set_unverifiable(0..2);
    let mut wanted = Bitfield::full(4);
    wanted.clear(PieceIndex(3));
    assert_eq!(bench.picker.set_wanted(&wanted), Dropped::default());
    assert_eq!(pieces(&bench.pick(A, 100)), [2].into());
    assert!(!bench.picker.is_missing(PieceIndex(3)));
    assert!(bench.picker.is_missing(PieceIndex(0)), "what cannot be verified yet is wanted all the same");
    bench.picker.set_verifiable(1..2);
    assert_eq!(pieces(&bench.pick(A, 100)), [1].into());
}

#[test]
fn what_is_not_wanted_any_more_is_dropped() {
    let mut bench = Bench::new(2, 2, 100);
    bench.join_seed(A);
    let blocks = bench.pick(A, 4);
    bench.receive(A, blocks[0]);
    let mut wanted = Bitfield::full(2);
    wanted.clear(blocks[0].piece);
    let dropped = bench.picker.set_wanted(&wanted);
    assert_eq!(dropped.pieces, [blocks[0].piece]);
    assert_eq!(dropped.requests, [(A, blocks[1])]);
    bench.picker.check().unwrap();
    assert_eq!(bench.picker.wanted_left(), u64::from(2 * BLOCK_SIZE));
    assert_eq!(bench.picker.left(), u64::from(4 * BLOCK_SIZE));
}

#[test]
fn a_piece_that_is_withdrawn_is_fetched_again() {
    let mut bench = Bench::new(1, 2, 100);
    bench.join_seed(A);
    bench.complete(A, 2);
    assert!(bench.picker.is_done());
    assert!(!bench.picker.is_interesting(&bench.has[&A]));
    bench.picker.withdraw(PieceIndex(0));
    bench.picker.check().unwrap();
    assert_eq!(bench.picker.count_interesting(&bench.has[&A]), 1);
    assert_eq!(bench.pick(A, 2).len(), 2);
}

#[test]
fn allowed_fast_pieces_are_all_that_a_choking_peer_is_asked_for() {
    let mut bench = Bench::new(8, 2, 100);
    bench.join_seed(A);
    let mut out = Vec::new();
    let only = [PieceIndex(6), PieceIndex(2)];
    let asker = Asker { peer: A, has: &bench.has[&A], rate: 0, only: Some(&only), trust: Trust::Full, hints: &[] };
    bench.picker.pick(&asker, 100, &mut out);
    assert_eq!(out, [block(6, 0), block(6, 1), block(2, 0), block(2, 1)]);
}

#[test]
fn a_peer_on_parole_gets_pieces_of_its_own_while_there_are_any() {
    let mut bench = Bench::new(3, 4, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    let of_a = pieces(&bench.pick(A, 2));
    let of_b = bench.pick_on_parole(B, 2);
    assert!(pieces(&of_b).is_disjoint(&of_a));
    assert_eq!(pieces(&bench.pick(A, 2)), of_a, "A goes on with its piece");
    assert!(pieces(&bench.pick(A, 100)).is_disjoint(&pieces(&of_b)), "and gets nothing of B's");
    assert_eq!(pieces(&bench.pick_on_parole(B, 100)), pieces(&of_b));
}

#[test]
fn a_peer_on_parole_shares_what_is_left_when_nothing_else_is() {
    let mut bench = Bench::new(1, 4, 100);
    bench.join_seed(A);
    bench.join_seed(B);
    bench.pick(A, 2);
    assert_eq!(bench.pick_on_parole(B, 2), [block(0, 2), block(0, 3)]);
}

#[test]
fn a_piece_of_its_own_that_a_peer_has_no_more_is_not_asked_of_it() {
    let mut bench = Bench::new(2, 2, 100);
    bench.join(A, [0]);
    bench.join(B, [0]);
    let asked = bench.pick_on_parole(A, 2);
    bench.receive(A, asked[0]);
    bench.leave(A);
    bench.join(A, []);
    assert!(bench.pick_on_parole(A, 2).is_empty());
    assert_eq!(bench.pick(B, 2), asked[1..]);
}

#[test]
fn blocks_of_padding_are_not_asked_for() {
    let length = 4 * BLOCK_SIZE;
    let geometry = Geometry::padded(&[u64::from(BLOCK_SIZE) + 1, 5], length, true).unwrap();
    let config = PickerConfig::default();
    let mut picker = Picker::new(&geometry, &Bitfield::empty(2), &Bitfield::full(2), config, 1);
    assert_eq!(picker.left(), u64::from(BLOCK_SIZE) + 6);
    picker.peer_joined(A, &Bitfield::full(2));
    let mut out = Vec::new();
    picker.pick(
        &Asker { peer: A, has: &Bitfield::full(2), rate: 0, only: None, trust: Trust::Full, hints: &[] },
        100,
        &mut out,
    );
    out.sort_unstable();
    assert_eq!(out, [block(0, 0), block(0, 1), block(1, 0)]);
}

#[test]
fn a_peer_with_few_pieces_of_many_is_served_rarest_first_too() {
    let mut bench = Bench::new(20_000, 1, 30_000);
    bench.join(A, [7_000, 8_000, 9_000]);
    bench.join(B, (0..20_000).filter(|piece| ![7_000, 8_000].contains(piece)));
    bench.join(C, [8_000]);
    let order: Vec<u32> = bench.pick(A, 2).iter().map(|block| block.piece.0).collect();
    assert_eq!(order[0], 7_000);
    let rest: Vec<u32> = bench.pick(A, 2).iter().map(|block| block.piece.0).collect();
    assert_eq!(rest.len(), 1);
}

#[test]
fn a_hint_decides_between_equally_rare_pieces_and_not_against_rarer_ones() {
    let mut bench = Bench::new(100, 2, 100);
    bench.join_seed(A);
    bench.join(B, [0, 1]);
    let mut out = Vec::new();
    let hints = [PieceIndex(0), PieceIndex(77), PieceIndex(33)];
    let asker = Asker { peer: A, has: &bench.has[&A], rate: 0, only: None, trust: Trust::Full, hints: &hints };
    bench.picker.pick(&asker, 4, &mut out);
    assert_eq!(out, [block(77, 0), block(77, 1), block(33, 0), block(33, 1)]);
}

#[test]
fn different_leechers_ask_a_seed_for_different_pieces() {
    let picked: BTreeSet<u32> = (0..10)
        .map(|seed| {
            let geometry = Geometry::contiguous(1000 * 16_384, 16_384).unwrap();
            let (have, wanted) = (Bitfield::empty(1000), Bitfield::full(1000));
            let mut picker = Picker::new(&geometry, &have, &wanted, PickerConfig::default(), seed);
            picker.peer_joined(A, &wanted);
            let mut out = Vec::new();
            picker.pick(
                &Asker { peer: A, has: &wanted, rate: 0, only: None, trust: Trust::Full, hints: &[] },
                1,
                &mut out,
            );
            out[0].piece.0
        })
        .collect();
    assert!(picked.len() >= 9, "{picked:?}");
}

#[test]
fn a_peer_is_asked_for_long_pieces_one_by_one() {
    let mut bench = Bench::new(4, 3 * STRETCH, 10_000);
    bench.join_seed(A);
    let blocks = bench.pick_at(A, RATE_SIDE_BY_SIDE - 1, 3 * STRETCH as usize + 1);
    assert_eq!(bench.picker.open_pieces(), 2);
    let order = blocks[..3 * STRETCH as usize].iter().map(|block| (block.piece, block.index));
    assert!(order.eq((0..3 * STRETCH).map(|index| (blocks[0].piece, index))));
}

#[test]
fn a_fast_peer_is_asked_for_long_pieces_side_by_side() {
    let stretch = STRETCH as usize;
    let mut bench = Bench::new(3, 4 * STRETCH, 10_000);
    bench.join_seed(A);
    let first = bench.pick_at(A, RATE_SIDE_BY_SIDE, 3 * stretch);
    for piece in 0..3 {
        assert_eq!(first.iter().filter(|block| block.piece == PieceIndex(piece)).count(), stretch);
    }
    // Whichever gets on is asked for more, once what came of it is hashed with others.
    bench.deliver(A, &first[..stretch]);
    let waits = first[0].piece;
    assert_eq!(bench.picker.store_ahead(waits), Some(STRETCH));
    let next = bench.pick_at(A, RATE_SIDE_BY_SIDE, stretch);
    assert!(next.iter().all(|block| block.piece == waits));
}

#[test]
fn long_pieces_that_are_asked_for_to_their_ends_make_room_for_others_side_by_side() {
    let stretch = STRETCH as usize;
    let mut bench = Bench::new(8, 2 * STRETCH, 10_000);
    bench.picker.config.side_by_side = 2;
    bench.join_seed(A);
    let mut told: Vec<usize> = Vec::new();
    for _ in 0..4 {
        let blocks = bench.pick_at(A, RATE_SIDE_BY_SIDE, 4 * stretch);
        let pieces: BTreeSet<PieceIndex> = blocks.iter().map(|block| block.piece).collect();
        assert_eq!((blocks.len(), pieces.len()), (4 * stretch, 4), "a stretch of each");
        told.push(bench.picker.open_pieces());
    }
    assert_eq!(told, [4, 4, 8, 8]);
}

#[test]
fn a_stretch_that_waits_to_be_hashed_waits_for_those_of_other_pieces() {
    let stretch = STRETCH as usize;
    let mut bench = Bench::new(4, 4 * STRETCH, 10_000);
    bench.picker.config.side_by_side = 2;
    bench.join_seed(A);
    let first = bench.pick_at(A, RATE_SIDE_BY_SIDE, 3 * stretch);
    bench.deliver(A, &first[..stretch]);
    let next = bench.pick_at(A, RATE_SIDE_BY_SIDE, stretch);
    assert!(
        first.iter().all(|block| block.piece != next[0].piece),
        "the fourth piece comes before the second stretch of the first"
    );
}

#[test]
fn long_pieces_of_a_fast_peer_come_one_by_one_where_none_are_hashed_together() {
    let mut bench = Bench::new(3, 4 * STRETCH, 10_000);
    bench.picker.config.side_by_side = 1;
    bench.join_seed(A);
    let blocks = bench.pick_at(A, RATE_SIDE_BY_SIDE, 3 * STRETCH as usize);
    assert!(blocks.iter().all(|block| block.piece == blocks[0].piece));
}

#[test]
fn a_long_piece_needs_room_only_for_what_is_not_stored() {
    let stretch = STRETCH as usize;
    let mut bench = Bench::new(1, 8 * STRETCH, stretch);
    bench.join_seed(A);
    let piece = PieceIndex(0);
    for from in (0..7 * STRETCH).step_by(stretch) {
        let blocks = bench.pick(A, 10 * stretch);
        assert_eq!((blocks.len(), blocks[0].index), (stretch, from));
        assert_eq!(bench.picker.to_hash(piece), 0);
        bench.deliver(A, &blocks);
        assert!(bench.pick(A, 1).is_empty());
        assert_eq!((bench.picker.to_hash(piece), bench.picker.spill_candidate(0)), (stretch, None));
        assert_eq!(bench.picker.store_ahead(piece), Some(from + STRETCH));
        assert_eq!((bench.picker.to_hash(piece), bench.picker.store_ahead(piece)), (0, None));
        bench.picker.stored(piece, from + STRETCH);
    }
    let last = bench.pick(A, 10 * stretch);
    assert_eq!(bench.deliver(A, &last), [piece]);
    assert_eq!((bench.picker.to_hash(piece), bench.picker.store_ahead(piece)), (stretch, None));
    bench.picker.verified(piece);
    assert!(bench.picker.is_done());
}

#[test]
fn only_a_few_of_the_longest_pieces_are_open() {
    let mut bench = Bench::new(8, 1 << 14, 10_000);
    for peer in 0..8 {
        let peer = PeerKey(10 + peer);
        bench.join(peer, [u32::try_from(peer.0).unwrap() - 10]);
        bench.pick(peer, 1);
    }
    assert_eq!((bench.picker.open_pieces(), bench.picker.is_starved()), (4, true));
}

#[test]
fn pieces_that_stand_still_do_not_keep_others_from_being_opened() {
    let mut bench = Bench::new(8, 1 << 14, 10_000);
    for (piece, blocks) in [(0, 3), (1, 1), (2, 2), (3, 4)] {
        let peer = PeerKey(10 + u64::from(piece));
        bench.join(peer, [piece]);
        let asked = bench.pick(peer, blocks);
        bench.deliver(peer, &asked);
        bench.leave(peer);
    }
    bench.join(A, [7]);
    assert!(bench.pick(A, 1).is_empty());
    assert_eq!(bench.picker.abandon_candidate(), Some(PieceIndex(1)), "of which least is lost");
    bench.picker.abandon(PieceIndex(1));
    assert_eq!(bench.pick(A, 1), [block(7, 0)]);
    assert_eq!(bench.picker.abandon_candidate(), None);
}

#[test]
fn what_fills_the_buffers_behind_a_gap_is_spilled() {
    let stretch = STRETCH as usize;
    let mut bench = Bench::new(2, 8 * STRETCH, 4 * stretch);
    bench.join_seed(A);
    bench.join_seed(B);
    let gap = bench.pick(A, 1);
    let blocks = bench.pick(B, 4 * stretch - 1);
    assert_eq!(blocks.len(), 4 * stretch - 1);
    bench.deliver(B, &blocks[..2 * stretch]);
    assert_eq!(bench.picker.spill_candidate(0), None, "it has not held anybody up");
    assert!(bench.pick(B, 1).is_empty());
    assert_eq!(bench.picker.spill_candidate(0), Some(gap[0].piece));
    bench.picker.spilled(gap[0].piece);
    assert_eq!(bench.pick(B, 10 * stretch).len(), 2 * stretch);
}

#[test]
fn a_long_piece_with_a_gap_leaves_others_their_room() {
    let stretch = STRETCH as usize;
    let mut bench = Bench::new(2, 4 * STRETCH, 2 * stretch);
    bench.join_seed(A);
    let blocks = bench.pick_at(A, RATE_SIDE_BY_SIDE, 10 * stretch);
    assert_eq!(blocks.len(), 2 * stretch);
    bench.deliver(A, &blocks[1..stretch]);
    bench.deliver(A, &blocks[stretch..]);
    let other = blocks[stretch].piece;
    assert_eq!(bench.picker.store_ahead(other), Some(STRETCH));
    bench.picker.stored(other, STRETCH);
    for from in 1..3 {
        let blocks = bench.pick(A, 10 * stretch);
        assert!(blocks.iter().all(|block| block.piece == other));
        bench.deliver(A, &blocks);
        bench.picker.store_ahead(other);
        bench.picker.stored(other, (from + 1) * STRETCH);
    }
    bench.join_seed(B);
    let last = bench.pick(A, 10 * stretch);
    assert_eq!(bench.deliver(A, &last), [other]);
    bench.picker.verified(other);
    assert!(bench.picker.release(A, blocks[0]));
    assert_eq!(bench.pick(B, 1), [blocks[0]], "its room was kept for it");
}
