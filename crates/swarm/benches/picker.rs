//! What the picker costs in a torrent of 200,000 pieces with 1,000 peers.
//!
//! Every choice comes from a fixed seed, so that `bench/instructions` counts the same work each time.
#![allow(missing_docs)]
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use divan::Bencher;
use fastrand::Rng;
use obt_swarm::PeerKey;
use obt_swarm::picker::{Asker, Picker, PickerConfig, Received, Trust};
use obt_wire::{BLOCK_SIZE, Bitfield, Geometry, PieceIndex};

const PIECES: u32 = 200_000;
const BLOCKS: u32 = 4;
const PEERS: u64 = 1_000;
/// Every hundredth has everything, the others this many pieces.
const SEEDS: u64 = 100;
const HELD: usize = 5_000;
/// Blocks that are asked for at a time.
const ASKED: usize = 16;

fn main() {
    divan::main();
}

/// The operations that are measured: functions of their own, so that callgrind sees where each begins and ends.
mod work {
    use super::*;

    /// Sixteen blocks are picked and come in, and full pieces are verified.
    #[inline(never)]
    pub(super) fn sixteen_blocks(scene: &mut Scene) {
        scene.fetch();
    }

    #[inline(never)]
    pub(super) fn have(scene: &mut Scene) {
        let peer = scene.next_peer();
        let piece = PieceIndex(scene.rng.u32(0..PIECES));
        if scene.has[peer].set(piece) {
            scene.picker.peer_have(PeerKey(peer as u64), piece);
        }
    }

    /// A peer that was choked and owed nothing leaves, and comes back.
    #[inline(never)]
    pub(super) fn leave_and_join(scene: &mut Scene) {
        let peer = scene.next_peer();
        scene.picker.peer_left(PeerKey(peer as u64), &scene.has[peer]);
        scene.picker.peer_joined(PeerKey(peer as u64), &scene.has[peer]);
    }
}

struct Scene {
    picker: Picker,
    has: Vec<Bitfield>,
    rng: Rng,
    peer: usize,
    blocks: Vec<obt_wire::Block>,
}

impl Scene {
    fn new() -> Self {
        let length = BLOCKS * BLOCK_SIZE;
        let geometry = Geometry::contiguous(u64::from(PIECES) * u64::from(length), length).unwrap();
        let (none, all) = (Bitfield::empty(PIECES), Bitfield::full(PIECES));
        let mut picker = Picker::new(&geometry, &none, &all, PickerConfig::default(), 7);
        let mut rng = Rng::with_seed(3);
        let mut has = Vec::new();
        for peer in 0..PEERS {
            let mut pieces = if peer % SEEDS == 0 { all.clone() } else { none.clone() };
            for _ in 0..HELD {
                pieces.set(PieceIndex(rng.u32(0..PIECES)));
            }
            picker.peer_joined(PeerKey(peer), &pieces);
            has.push(pieces);
        }
        Self { picker, has, rng, peer: 0, blocks: Vec::new() }
    }

    fn next_peer(&mut self) -> usize {
        self.peer = (self.peer + 1) % self.has.len();
        self.peer
    }

    fn fetch(&mut self) {
        let at = self.next_peer();
        let peer = PeerKey(at as u64);
        let has = &self.has[at];
        let asker = Asker { peer, has, rate: 1_000_000, only: None, trust: Trust::Full, hints: &[] };
        self.blocks.clear();
        self.picker.pick(&asker, ASKED, &mut self.blocks);
        assert_eq!(self.blocks.len(), ASKED);
        for block in &self.blocks {
            let accepted = self.picker.received(peer, *block) != Received::Unwanted;
            if accepted && self.picker.is_full(block.piece) {
                self.picker.verified(block.piece);
            }
        }
    }
}

#[divan::bench]
fn sixteen_blocks(bencher: Bencher<'_, '_>) {
    let mut scene = Scene::new();
    bencher.bench_local(|| work::sixteen_blocks(&mut scene));
}

#[divan::bench]
fn have(bencher: Bencher<'_, '_>) {
    let mut scene = Scene::new();
    bencher.bench_local(|| work::have(&mut scene));
}

#[divan::bench]
fn leave_and_join(bencher: Bencher<'_, '_>) {
    let mut scene = Scene::new();
    bencher.bench_local(|| work::leave_and_join(&mut scene));
}
