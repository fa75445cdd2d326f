//! Decides which blocks to ask of which peer.
//!
//! Pieces that a reader waits for come first, then pieces that are open already, then new ones, rarest first with
//! random ties; when nothing is left to ask, blocks that slow peers owe are asked of others too (endgame). Knows which
//! peer has how many pieces, not which: its owner passes the bitfields. Knows no time and no message.

mod draw;
mod open_pieces;
mod piece_set;
mod rarity;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use obt_wire::{BLOCK_SIZE, Bitfield, Block, Geometry, PieceIndex};

use crate::event::{PeerKey, ReadRange};
use crate::limits::{BLOCK_BUDGET, REQUESTERS_PER_BLOCK, STRETCH};
pub use open_pieces::BlockState;
use open_pieces::{OpenPiece, OpenPieces};
use piece_set::PieceSet;
use rarity::Rarity;

/// What bounds a picker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PickerConfig {
    /// Blocks that may be requested or unverified at a time: what the pool of buffers can hold for this swarm.
    pub block_budget: usize,
    /// How many peers may be asked for one block at a time (endgame), the first one included.
    pub requesters: usize,
    /// Blocks of a piece that are asked for together, at least 1; of a longer one they are stored together too.
    pub stretch: u32,
    /// Longer pieces that are hashed in about the time of one: a fast peer is asked for so many in turns, while as many wait.
    pub side_by_side: usize,
}

impl Default for PickerConfig {
    fn default() -> Self {
        Self { block_budget: BLOCK_BUDGET, requesters: REQUESTERS_PER_BLOCK, stretch: STRETCH, side_by_side: 1 }
    }
}

/// Whether blocks of a peer may be mixed with those of others in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// They may.
    Full,
    /// It had a part in a piece that failed: it gets pieces of its own while there are any, so that the next failure
    /// names whoever lies.
    Parole,
}

/// The peer that blocks are picked for. It does not choke us, or `only` names what it serves nevertheless.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Who it is.
    pub peer: PeerKey,
    /// What it has.
    pub has: &'a Bitfield,
    /// What it has been sending of late, bytes per second; 0 where that is not known.
    pub rate: u64,
    /// The pieces that it serves while it chokes us (BEP 6, allowed fast); None where it does not choke us.
    pub only: Option<&'a [PieceIndex]>,
    /// Whether it may share pieces with others.
    pub trust: Trust,
    /// Pieces that it would like to be asked for (BEP 6, suggest): they decide between equally rare ones.
    pub hints: &'a [PieceIndex],
}

/// What became of a block that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It is here already, or its piece is: drop the bytes.
    Unwanted,
    /// Keep the bytes; see [`Picker::to_hash`].
    Accepted {
        /// Others that were asked for the same block: send them `cancel`.
        cancel: Vec<PeerKey>,
    },
}

/// What is not fetched any more, after the user wants other pieces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Pieces whose received blocks can be forgotten.
    pub pieces: Vec<PieceIndex>,
    /// Requests to cancel.
    pub requests: Vec<(PeerKey, Block)>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Counted as one that has everything, not piece by piece.
    seed: bool,
    /// Requests that it owes, duplicates included.
    outstanding: u32,
    rate: u64,
}

impl Peer {
    /// How long it takes to send what it owes and one block more, in microseconds.
    fn cost(&self) -> u64 {
        let bytes = (u64::from(self.outstanding) + 1) * u64::from(BLOCK_SIZE);
        (bytes * 1_000_000).checked_div(self.rate).unwrap_or(u64::MAX)
    }

    /// The same; of an idle peer that has shown no rate nothing, for there is no other way to find out.
    fn cost_to_try(&self) -> u64 {
        if self.rate == 0 && self.outstanding == 0 { 0 } else { self.cost() }
    }
}

/// See the module.
///
/// Invariants: each piece is in one state: had, open, waiting (in `rarity`), or none of these because it is not wanted
/// or cannot be verified yet; `free` holds the waiting ones and the open ones with a missing block; blocks that are
/// requested, or received and neither verified nor spilled, stay within the budget.
#[derive(Debug)]
pub struct Picker {
    geometry: Geometry,
    config: PickerConfig,
    have: PieceSet,
    wanted: PieceSet,
    /// Wanted and not had: what makes a peer interesting.
    missing: PieceSet,
    unverifiable: PieceSet,
    free: PieceSet,
    rarity: Rarity,
    open: OpenPieces,
    peers: BTreeMap<PeerKey, Peer>,
    seeds: u32,
    readers: Vec<ReadRange>,
    /// Pieces on parole: they failed, and these peers sent their blocks.
    suspects: BTreeMap<u32, Vec<PeerKey>>,
    left: u64,
    wanted_left: u64,
    /// The budget kept a peer from being asked.
    starved: bool,
    /// As many blocks are open as may be, and a peer has nothing of them.
    crowded: bool,
    rng: fastrand::Rng,
    asked: Vec<PeerKey>,
}

impl Picker {
    /// A picker for a torrent of which `have` is verified and `wanted` is to be fetched.
    #[must_use]
    pub fn new(geometry: &Geometry, have: &Bitfield, wanted: &Bitfield, config: PickerConfig, seed: u64) -> Self {
        let pieces = geometry.pieces();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut this = Self {
            geometry: geometry.clone(),
            config,
            have: PieceSet::empty(pieces),
            wanted: PieceSet::empty(pieces),
            missing: PieceSet::empty(pieces),
            unverifiable: PieceSet::empty(pieces),
            free: PieceSet::empty(pieces),
            rarity: Rarity::new(pieces, rng.u64(..)),
            open: OpenPieces::new(config.stretch),
            peers: BTreeMap::new(),
            seeds: 0,
            readers: Vec::new(),
            suspects: BTreeMap::new(),
            left: 0,
            wanted_left: 0,
            starved: false,
            crowded: false,
            rng,
            asked: Vec::new(),
        };
        for piece in geometry.all() {
            this.have.put(piece.0, have.has(piece));
            this.wanted.put(piece.0, wanted.has(piece));
            if !have.has(piece) {
                this.add_left(piece.0);
            }
            this.settle(piece.0);
        }
        this
    }

    // What the peers have.

    /// A peer has told what it has: its first bitfield, or all, or nothing.
    pub fn peer_joined(&mut self, peer: PeerKey, has: &Bitfield) {
        let known = self.peers.insert(peer, Peer { seed: has.is_full(), ..Peer::default() });
        debug_assert!(known.is_none(), "{peer:?} joined twice");
        if has.is_full() {
            self.seeds += 1;
            return;
        }
        for piece in has.iter() {
            self.rarity.increase(piece.0);
        }
    }

    /// A peer is gone; `has` is all that it had at the end. The blocks that it owed and nobody else owes are missing
    /// again.
    pub fn peer_left(&mut self, peer: PeerKey, has: &Bitfield) {
        self.release_all(peer);
        let Some(known) = self.peers.remove(&peer) else {
            return;
        };
        if known.seed {
            self.seeds -= 1;
            return;
        }
        for piece in has.iter() {
            self.rarity.decrease(piece.0);
        }
    }

    /// A peer has a piece that it had not before.
    pub fn peer_have(&mut self, peer: PeerKey, piece: PieceIndex) {
        if self.peers.get(&peer).is_some_and(|known| !known.seed) {
            self.rarity.increase(piece.0);
        }
    }

    /// What a peer has been sending of late, bytes per second: peers that stall are not asked in [`pick`](Self::pick)
    /// any more, and the endgame has to know.
    pub fn set_rate(&mut self, peer: PeerKey, rate: u64) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.rate = rate;
        }
    }

    /// How many wanted pieces a peer has that we have not. It is interesting if that is not 0. An owner with many peers
    /// keeps the number and changes it with each `Have` and each verified piece: counting looks at all pieces.
    #[must_use]
    pub fn count_interesting(&self, has: &Bitfield) -> u32 {
        self.missing.count_common(has)
    }

    /// Whether a peer has any wanted piece that we have not.
    #[must_use]
    pub fn is_interesting(&self, has: &Bitfield) -> bool {
        self.missing.meets(has)
    }

    /// Whether `piece` is wanted and not had.
    #[must_use]
    pub fn is_missing(&self, piece: PieceIndex) -> bool {
        self.missing.has(piece.0)
    }

    /// Whether `piece` is verified and stored.
    #[must_use]
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.have.has(piece.0)
    }

    /// How many peers have `piece`.
    #[must_use]
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        self.rarity.availability(piece.0) + self.seeds
    }

    /// How many peers that lack something have `piece`.
    #[must_use]
    pub fn leechers_with(&self, piece: PieceIndex) -> u32 {
        self.rarity.availability(piece.0)
    }

    // Requests.

    /// Chooses up to `want` blocks to ask of a peer and appends them to `out`; each counts as requested of it from here
    /// on. A peer that has not joined gets none.
    pub fn pick(&mut self, asker: &Asker<'_>, want: usize, out: &mut Vec<Block>) {
        let Some(known) = self.peers.get_mut(&asker.peer) else {
            return;
        };
        known.rate = asker.rate;
        draw::draw(self, asker, want, out);
    }

    /// A request to a peer will not be answered (rejected, late, cancelled). True if it was outstanding.
    pub fn release(&mut self, peer: PeerKey, block: Block) -> bool {
        let piece = block.piece.0;
        if self.open.change(piece, |open| open.release(block.index, peer)) != Some(true) {
            return false;
        }
        self.count_outstanding(peer, -1);
        self.after_release(piece);
        true
    }

    /// None of a peer's requests will be answered: it chokes us, or is gone.
    pub fn release_all(&mut self, peer: PeerKey) {
        if self.peers.get(&peer).is_none_or(|known| known.outstanding == 0) {
            return;
        }
        let owed: Vec<Block> = self.requests().filter(|(_, owes)| *owes == peer).map(|(block, _)| block).collect();
        for block in owed {
            self.release(peer, block);
        }
    }

    fn after_release(&mut self, piece: u32) {
        let empty = self.open.piece(piece).is_some_and(|open| open.received == 0 && open.requested == 0);
        if empty {
            self.close(piece);
        }
        self.settle(piece);
    }

    /// A block came in. It is accepted even from a peer that it was taken back from, if it is still useful; whether it
    /// was asked for at all is for the pipeline to say.
    pub fn received(&mut self, peer: PeerKey, block: Block) -> Received {
        let piece = block.piece.0;
        let Some(open) = self.open.piece(piece) else {
            return Received::Unwanted;
        };
        let here =
            !matches!(open.begun().get(block.index as usize), Some(BlockState::Missing | BlockState::Requested(_)));
        if here || (open.alone.is_some() && !open.is_requested_of(block.index, peer)) {
            return Received::Unwanted;
        }
        let mut asked = std::mem::take(&mut self.asked);
        self.open.change(piece, |open| open.receive(block.index, peer, &mut asked));
        for owed in &asked {
            self.count_outstanding(*owed, -1);
        }
        let cancel = asked.iter().copied().filter(|other| *other != peer).collect();
        asked.clear();
        self.asked = asked;
        self.settle(piece);
        Received::Accepted { cancel }
    }

    /// Who sent each block of `piece`, in order; of a piece that is not full, of those that are here.
    #[must_use]
    pub fn senders(&self, piece: PieceIndex) -> Vec<PeerKey> {
        self.open.piece(piece.0).map(|open| open.senders().collect()).unwrap_or_default()
    }

    // What becomes of pieces.

    /// Whether every block of `piece` is here: it is to be verified.
    #[must_use]
    pub fn is_full(&self, piece: PieceIndex) -> bool {
        self.open.piece(piece.0).is_some_and(OpenPiece::is_full)
    }

    /// Blocks of `piece` that are here and can be hashed: of a full one what is left of it, of a long one what came from its
    /// beginning on, if it is a stretch; else 0.
    #[must_use]
    pub fn to_hash(&self, piece: PieceIndex) -> usize {
        self.open.piece(piece.0).map_or(0, OpenPiece::to_hash)
    }

    /// Stretches of `piece`, which is not full, are to be hashed and stored: returns how many blocks, from its beginning on, are
    /// or will be. The owner answers with [`stored`](Self::stored).
    pub fn store_ahead(&mut self, piece: PieceIndex) -> Option<u32> {
        self.open.store_ahead(piece.0)
    }

    /// The first `blocks` of `piece` are in the partial file, unverified: they need no buffers any more.
    pub fn stored(&mut self, piece: PieceIndex, blocks: u32) {
        self.open.stored(piece.0, blocks);
        self.starved = false;
    }

    /// `piece` is good and stored.
    pub fn verified(&mut self, piece: PieceIndex) {
        self.close(piece.0);
        self.suspects.remove(&piece.0);
        if self.have.put(piece.0, true) {
            self.left -= self.bytes(piece.0);
            if self.wanted.has(piece.0) {
                self.wanted_left -= self.bytes(piece.0);
            }
        }
        self.settle(piece.0);
        self.move_readers();
    }

    /// `piece` does not match its hash: all its blocks are missing again, and it is on parole: one peer alone is asked
    /// for it, if possible one that had no part in it. Returns who sent each block, in order.
    pub fn failed(&mut self, piece: PieceIndex) -> Vec<PeerKey> {
        let senders = self.senders(piece);
        self.close(piece.0);
        let suspects = self.suspects.entry(piece.0).or_default();
        suspects.extend(&senders);
        suspects.sort_unstable();
        suspects.dedup();
        self.settle(piece.0);
        senders
    }

    /// `piece` was good and could not be stored: its blocks are missing again, and nobody is to blame.
    pub fn store_failed(&mut self, piece: PieceIndex) {
        self.close(piece.0);
        self.settle(piece.0);
    }

    /// `piece` was had and is not any more.
    pub fn withdraw(&mut self, piece: PieceIndex) {
        if self.have.put(piece.0, false) {
            self.add_left(piece.0);
            self.settle(piece.0);
        }
    }

    // What the user wants.

    /// Replaces the stretches that readers wait for, most urgent first.
    pub fn set_readers(&mut self, readers: &[ReadRange]) {
        let pieces = self.geometry.pieces();
        self.readers.clear();
        self.readers.extend(readers.iter().map(|range| ReadRange { first: range.first, end: range.end.min(pieces) }));
        self.move_readers();
    }

    fn move_readers(&mut self) {
        for range in &mut self.readers {
            while range.first < range.end && self.have.has(range.first) {
                range.first += 1;
            }
        }
        self.readers.retain(|range| range.first < range.end);
    }

    /// Replaces the set of wanted pieces. Open pieces that are not wanted any more are closed, but for full ones.
    pub fn set_wanted(&mut self, wanted: &Bitfield) -> Dropped {
        let mut dropped = Dropped::default();
        for piece in self.geometry.all() {
            if !self.wanted.put(piece.0, wanted.has(piece)) {
                continue;
            }
            let bytes = self.bytes(piece.0);
            match (self.have.has(piece.0), wanted.has(piece)) {
                (true, _) => {}
                (false, true) => self.wanted_left += bytes,
                (false, false) => {
                    self.wanted_left -= bytes;
                    self.drop_open(piece, &mut dropped);
                }
            }
            self.settle(piece.0);
        }
        dropped
    }

    fn drop_open(&mut self, piece: PieceIndex, dropped: &mut Dropped) {
        if self.open.piece(piece.0).is_none_or(OpenPiece::is_full) {
            return;
        }
        let requests = requests_of(piece.0, self.open.piece(piece.0));
        dropped.requests.extend(requests.map(|(block, peer)| (peer, block)));
        dropped.pieces.push(piece);
        self.close(piece.0);
    }

    /// The hashes of these pieces are not known: they are not picked until [`set_verifiable`](Self::set_verifiable).
    pub fn set_unverifiable(&mut self, pieces: Range<u32>) {
        self.put_unverifiable(pieces, true);
    }

    /// The hashes of these pieces are known.
    pub fn set_verifiable(&mut self, pieces: Range<u32>) {
        self.put_unverifiable(pieces, false);
    }

    fn put_unverifiable(&mut self, pieces: Range<u32>, unverifiable: bool) {
        for piece in pieces.start..pieces.end.min(self.geometry.pieces()) {
            if self.unverifiable.put(piece, unverifiable) {
                self.settle(piece);
            }
        }
    }

    // Numbers.

    /// Bytes of all pieces that are not had, padding at the tail of a piece not counted.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Bytes of all wanted pieces that are not had, padding at the tail of a piece not counted.
    #[must_use]
    pub fn wanted_left(&self) -> u64 {
        self.wanted_left
    }

    /// Whether every wanted piece is had.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.wanted_left == 0
    }

    /// Requests that a peer owes.
    #[must_use]
    pub fn outstanding(&self, peer: PeerKey) -> usize {
        self.peers.get(&peer).map_or(0, |known| known.outstanding as usize)
    }

    /// Blocks that all peers together owe.
    #[must_use]
    pub fn requested(&self) -> usize {
        self.open.requested()
    }

    /// Whether peers other than `peer`, which has it, have `piece` too.
    #[must_use]
    pub fn has_other_source(&self, piece: PieceIndex) -> bool {
        self.availability(piece) > 1
    }

    /// Pieces that are being fetched or verified.
    #[must_use]
    pub fn open_pieces(&self) -> usize {
        self.open.len()
    }

    /// Every outstanding request.
    pub fn requests(&self) -> impl Iterator<Item = (Block, PeerKey)> + '_ {
        self.open.iter().flat_map(|(piece, open)| requests_of(piece, Some(open)))
    }

    // Memory.

    /// Whether the budget keeps peers from being asked for what they have.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// A piece whose received blocks should leave the buffers for the partial file, because the budget holds peers up
    /// and this piece does not get on, or has much behind a gap, or because a stretch is larger than the budget. `soon` is how many
    /// blocks of all pieces come while a piece that gets on may well stand still. The owner answers with [`spilled`](Self::spilled).
    #[must_use]
    pub fn spill_candidate(&self, soon: u64) -> Option<PieceIndex> {
        let budget = self.config.block_budget;
        let held = || self.open.iter().filter(|(_, open)| open.can_spill());
        if let Some((piece, _)) = held().find(|(_, open)| open.room() > budget) {
            return Some(PieceIndex(piece));
        }
        if !self.starved {
            return None;
        }
        if let Some((piece, _)) = held().find(|(_, open)| open.behind_gap() >= budget.div_ceil(2)) {
            return Some(PieceIndex(piece));
        }
        let waiting = held().filter(|(_, open)| open.held() > open.requested as usize);
        let (piece, open) = waiting.min_by_key(|(_, open)| open.touched)?;
        let idle = self.open.clock() - open.touched;
        let stuck = self.open.iter().all(|(_, open)| open.is_stuck());
        (stuck || idle >= soon.max(budget as u64 / 2)).then_some(PieceIndex(piece))
    }

    /// The blocks of `piece`, those that are here and those that will come, go to the partial file.
    pub fn spilled(&mut self, piece: PieceIndex) {
        self.open.spill(piece.0);
        self.starved = false;
    }

    /// A piece to begin anew later, because as many are open as may be and this one does not get on: whoever had it is gone or
    /// chokes us, and a peer with others would be asked for nothing. The one of which least is lost. The owner answers with
    /// [`abandon`](Self::abandon).
    #[must_use]
    pub fn abandon_candidate(&self) -> Option<PieceIndex> {
        if !self.crowded {
            return None;
        }
        let standing = self.open.iter().all(|(_, open)| open.is_stuck());
        let is_idle = |open: &OpenPiece| self.open.clock() - open.touched >= self.config.block_budget as u64 / 2;
        let stuck = self.open.iter().filter(|(_, open)| open.is_stuck() && (standing || is_idle(open)));
        stuck.min_by_key(|(_, open)| open.received).map(|(piece, _)| PieceIndex(piece))
    }

    /// All blocks of `piece` are missing again.
    pub fn abandon(&mut self, piece: PieceIndex) {
        self.close(piece.0);
        self.settle(piece.0);
    }

    // Inner bookkeeping.

    fn bytes(&self, piece: u32) -> u64 {
        u64::from(self.geometry.data_size(PieceIndex(piece)))
    }

    fn add_left(&mut self, piece: u32) {
        self.left += self.bytes(piece);
        if self.wanted.has(piece) {
            self.wanted_left += self.bytes(piece);
        }
    }

    fn count_outstanding(&mut self, peer: PeerKey, change: i32) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.outstanding = known.outstanding.saturating_add_signed(change);
        }
    }

    /// Puts `piece` into the sets where its state wants it.
    fn settle(&mut self, piece: u32) {
        let missing = self.wanted.has(piece) && !self.have.has(piece);
        self.missing.put(piece, missing);
        let pickable = missing && !self.unverifiable.has(piece);
        let open = self.open.piece(piece);
        let free = open.map_or(pickable, |open| open.missing > 0);
        self.free.put(piece, free);
        if pickable && open.is_none() {
            self.rarity.wait(piece);
        } else {
            self.rarity.stop_waiting(piece);
        }
    }

    fn close(&mut self, piece: u32) {
        let Some(open) = self.open.close(piece) else {
            return;
        };
        for (_, peer) in requests_of(piece, Some(&open)) {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.outstanding = known.outstanding.saturating_sub(1);
            }
        }
        self.open.recycle(open);
        (self.starved, self.crowded) = (false, false);
    }

    /// Whether the invariants hold; for tests and simulations.
    ///
    /// # Errors
    ///
    /// A sentence about the first one that does not.
    pub fn check(&self) -> Result<(), String> {
        self.rarity.check()?;
        self.open.check()?;
        let mut left = 0;
        let mut wanted_left = 0;
        for piece in 0..self.geometry.pieces() {
            let have = self.have.has(piece);
            let waiting = self.rarity.is_waiting(piece);
            let open = self.open.piece(piece);
            let pickable = self.missing.has(piece) && !self.unverifiable.has(piece);
            if self.missing.has(piece) != (self.wanted.has(piece) && !have) {
                return Err(format!("piece {piece} is wrongly missing or not"));
            }
            if (have && open.is_some()) || waiting != (pickable && open.is_none()) {
                return Err(format!("piece {piece}: have {have}, waiting {waiting}, open {open:?}"));
            }
            if self.free.has(piece) != open.map_or(waiting, |open| open.missing > 0) {
                return Err(format!("piece {piece} is wrongly free or not"));
            }
            if open.is_some_and(|open| open.blocks.len() != self.geometry.blocks(PieceIndex(piece)) as usize) {
                return Err(format!("piece {piece} has another number of blocks"));
            }
            if !have {
                left += self.bytes(piece);
                wanted_left += if self.wanted.has(piece) { self.bytes(piece) } else { 0 };
            }
        }
        if (left, wanted_left) != (self.left, self.wanted_left) {
            return Err(format!("{left} {wanted_left} bytes left, counted {} {}", self.left, self.wanted_left));
        }
        let mut owed: BTreeMap<PeerKey, u32> = BTreeMap::new();
        for (_, peer) in self.requests() {
            *owed.entry(peer).or_default() += 1;
        }
        for (peer, known) in &self.peers {
            if owed.remove(peer).unwrap_or(0) != known.outstanding {
                return Err(format!("{peer:?} owes not {}", known.outstanding));
            }
        }
        if let Some(peer) = owed.keys().next() {
            return Err(format!("{peer:?} is gone and owes blocks"));
        }
        let held: usize = self.open.iter().map(|(_, open)| open.held()).sum();
        if held > self.config.block_budget {
            return Err(format!("{held} blocks held"));
        }
        Ok(())
    }
}

fn requests_of(piece: u32, open: Option<&OpenPiece>) -> impl Iterator<Item = (Block, PeerKey)> + '_ {
    let block = move |index| Block { piece: PieceIndex(piece), index };
    let first =
        open.into_iter().flat_map(|open| (0..).zip(&open.blocks)).filter_map(move |(index, state)| match state {
            BlockState::Requested(peer) => Some((block(index), *peer)),
            _ => None,
        });
    let again = open.into_iter().flat_map(|open| &open.again);
    first.chain(again.map(move |(index, peer)| (block(*index), *peer)))
}
