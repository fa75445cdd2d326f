//! A model of the picker: the same as naive sets.

use proptest::prelude::*;

use super::*;

/// What can happen to a picker.
#[derive(Debug, Clone)]
enum Step {
    Join(u8, Vec<bool>),
    Leave(u8),
    Have(u8, u32),
    Pick(u8, usize, u64),
    Deliver(u8, usize),
    DeliverAny(u8, u32, u32),
    Release(u8, usize),
    Choke(u8),
    Judge(usize, u8),
    Withdraw(u32),
    Want(Vec<bool>),
    Read(u32, u32),
    Verifiable(u32, u32, bool),
    Spill,
    StoreAhead(u32),
    Stored(usize),
}

const PIECES: u32 = 12;
const BLOCKS: u32 = 3;
const BUDGET: usize = 10;

fn step() -> impl Strategy<Value = Step> {
    let peer = 0u8..5;
    let bits = || proptest::collection::vec(any::<bool>(), PIECES as usize);
    prop_oneof![
        3 => (peer.clone(), bits()).prop_map(|(peer, has)| Step::Join(peer, has)),
        2 => peer.clone().prop_map(|peer| Step::Join(peer, vec![true; PIECES as usize])),
        1 => peer.clone().prop_map(Step::Leave),
        3 => (peer.clone(), 0..PIECES).prop_map(|(peer, piece)| Step::Have(peer, piece)),
        12 => (peer.clone(), 0usize..9, prop_oneof![0u64..100_000, Just(RATE_SIDE_BY_SIDE)]).prop_map(|(peer, want, rate)| Step::Pick(peer, want, rate)),
        20 => (peer.clone(), 0usize..4).prop_map(|(peer, nth)| Step::Deliver(peer, nth)),
        2 => (peer.clone(), 0..PIECES, 0..BLOCKS).prop_map(|(peer, piece, at)| Step::DeliverAny(peer, piece, at)),
        2 => (peer.clone(), 0usize..4).prop_map(|(peer, nth)| Step::Release(peer, nth)),
        1 => peer.prop_map(Step::Choke),
        8 => (0usize..3, 0u8..6).prop_map(|(nth, verdict)| Step::Judge(nth, verdict)),
        1 => (0..PIECES).prop_map(Step::Withdraw),
        1 => bits().prop_map(Step::Want),
        1 => (0..PIECES, 0..PIECES + 3).prop_map(|(first, end)| Step::Read(first, end)),
        1 => (0..PIECES, 0..PIECES, any::<bool>()).prop_map(|(first, end, known)| Step::Verifiable(first, end, known)),
        2 => Just(Step::Spill),
        6 => (0..PIECES).prop_map(Step::StoreAhead),
        6 => (0usize..3).prop_map(Step::Stored),
    ]
}

/// The same as naive sets.
struct Model {
    picker: Picker,
    peers: BTreeMap<PeerKey, Bitfield>,
    requested: BTreeSet<(Block, PeerKey)>,
    received: BTreeMap<Block, PeerKey>,
    have: BTreeSet<u32>,
    wanted: Bitfield,
    unverifiable: BTreeSet<u32>,
    reading: bool,
    parole: BTreeSet<u32>,
    stretch: u32,
    /// Where the stretches of open pieces end that were asked for.
    begun: BTreeMap<u32, u32>,
    /// First blocks that are being stored.
    storing: Vec<(u32, u32)>,
}

impl Model {
    fn new(stretch: u32) -> Self {
        let geometry = Geometry::contiguous(u64::from(PIECES * BLOCKS * BLOCK_SIZE), BLOCKS * BLOCK_SIZE).unwrap();
        let wanted = Bitfield::full(PIECES);
        let config = PickerConfig { block_budget: BUDGET, requesters: 2, stretch, side_by_side: 4 };
        Self {
            picker: Picker::new(&geometry, &Bitfield::empty(PIECES), &wanted, config, 99),
            peers: BTreeMap::new(),
            requested: BTreeSet::new(),
            received: BTreeMap::new(),
            have: BTreeSet::new(),
            wanted,
            unverifiable: BTreeSet::new(),
            reading: false,
            parole: BTreeSet::new(),
            stretch,
            begun: BTreeMap::new(),
            storing: Vec::new(),
        }
    }

    fn is_open(&self, piece: u32) -> bool {
        self.received.keys().chain(self.requested.iter().map(|(block, _)| block)).any(|block| block.piece.0 == piece)
    }

    fn full(&self) -> Vec<u32> {
        let full = |piece: &u32| (0..BLOCKS).all(|index| self.received.contains_key(&block(*piece, index)));
        (0..PIECES).filter(full).collect()
    }

    fn availability(&self, piece: u32) -> u32 {
        let holders = self.peers.values().filter(|has| has.has(PieceIndex(piece)));
        u32::try_from(holders.count()).unwrap()
    }

    /// Pieces that could be opened for a peer.
    fn waiting(&self, has: &Bitfield) -> Vec<u32> {
        let waits = |piece: &u32| {
            has.has(PieceIndex(*piece))
                && self.wanted.has(PieceIndex(*piece))
                && !self.have.contains(piece)
                && !self.unverifiable.contains(piece)
                && !self.is_open(*piece)
        };
        (0..PIECES).filter(waits).collect()
    }

    fn owed(&self, peer: PeerKey) -> Vec<Block> {
        self.requested.iter().filter(|(_, owes)| *owes == peer).map(|(block, _)| *block).collect()
    }

    fn forget_piece(&mut self, piece: u32) {
        self.requested.retain(|(block, _)| block.piece.0 != piece);
        self.received.retain(|block, _| block.piece.0 != piece);
        self.begun.remove(&piece);
        self.storing.retain(|(storing, _)| *storing != piece);
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Join(peer, has) => self.join(PeerKey(peer.into()), &has),
            Step::Leave(peer) => self.leave(PeerKey(peer.into())),
            Step::Have(peer, piece) => {
                let peer = PeerKey(peer.into());
                if self.peers.get_mut(&peer).is_some_and(|has| has.set(PieceIndex(piece))) {
                    self.picker.peer_have(peer, PieceIndex(piece));
                }
            }
            Step::Pick(peer, want, rate) => self.pick(PeerKey(peer.into()), want, rate),
            Step::Deliver(peer, nth) => {
                let peer = PeerKey(peer.into());
                if let Some(block) = self.owed(peer).get(nth) {
                    self.deliver(peer, *block);
                }
            }
            Step::DeliverAny(peer, piece, index) => self.deliver(PeerKey(peer.into()), block(piece, index)),
            Step::Release(peer, nth) => {
                let peer = PeerKey(peer.into());
                if let Some(block) = self.owed(peer).get(nth) {
                    assert!(self.picker.release(peer, *block));
                    self.requested.remove(&(*block, peer));
                }
            }
            Step::Choke(peer) => {
                let peer = PeerKey(peer.into());
                self.picker.release_all(peer);
                self.requested.retain(|(_, owes)| *owes != peer);
            }
            Step::Judge(nth, verdict) => self.judge(nth, verdict),
            Step::Withdraw(piece) => {
                self.picker.withdraw(PieceIndex(piece));
                self.have.remove(&piece);
            }
            Step::Want(wanted) => self.want(&wanted),
            Step::Read(first, end) => {
                self.reading = first < end;
                self.picker.set_readers(&[ReadRange { first, end }]);
            }
            Step::Verifiable(first, end, true) => {
                self.picker.set_verifiable(first..end);
                self.unverifiable.retain(|piece| !(first..end).contains(piece));
            }
            Step::Verifiable(first, end, false) => {
                self.picker.set_unverifiable(first..end);
                self.unverifiable.extend(first..end);
            }
            Step::Spill => {
                if let Some(piece) = self.picker.spill_candidate(0) {
                    self.picker.spilled(piece);
                    self.begun.insert(piece.0, BLOCKS);
                }
            }
            Step::StoreAhead(piece) => self.store_ahead(piece),
            Step::Stored(nth) => {
                if nth < self.storing.len() {
                    let (piece, blocks) = self.storing.remove(nth);
                    self.picker.stored(PieceIndex(piece), blocks);
                }
            }
        }
        let open: BTreeSet<u32> = (0..PIECES).filter(|piece| self.is_open(*piece)).collect();
        self.begun.retain(|piece, _| open.contains(piece));
        self.picker.check().unwrap();
        assert_eq!(self.picker.requests().collect::<BTreeSet<_>>(), self.requested);
        for piece in 0..PIECES {
            assert_eq!(self.picker.availability(PieceIndex(piece)), self.availability(piece), "piece {piece}");
        }
    }

    fn join(&mut self, peer: PeerKey, has: &[bool]) {
        if self.peers.contains_key(&peer) {
            return;
        }
        let mut bits = Bitfield::empty(PIECES);
        for (piece, _) in (0..).zip(has).filter(|(_, has)| **has) {
            bits.set(PieceIndex(piece));
        }
        self.picker.peer_joined(peer, &bits);
        self.peers.insert(peer, bits);
    }

    fn leave(&mut self, peer: PeerKey) {
        if let Some(has) = self.peers.remove(&peer) {
            self.picker.peer_left(peer, &has);
            self.requested.retain(|(_, owes)| *owes != peer);
        }
    }

    fn pick(&mut self, peer: PeerKey, want: usize, rate: u64) {
        let Some(has) = self.peers.get(&peer).cloned() else {
            return;
        };
        let mut waiting = self.waiting(&has);
        let mut out = Vec::new();
        self.picker.pick(&Asker { peer, has: &has, rate, only: None, trust: Trust::Full, hints: &[] }, want, &mut out);
        assert!(out.len() <= want);
        for block in &out {
            let piece = block.piece.0;
            assert!(has.has(block.piece) && self.wanted.has(block.piece) && !self.have.contains(&piece));
            assert!(!self.received.contains_key(block));
            let others = self.requested.iter().filter(|(asked, _)| asked == block).count();
            let endgame = self.reading || self.picker.is_endgame();
            assert!(others == 0 || (others == 1 && endgame && !self.parole.contains(&piece)), "{block:?} of {others}");
            if let Some(at) = waiting.iter().position(|waits| *waits == piece) {
                let ordered = !self.reading && self.parole.is_empty();
                let rarest = waiting.iter().map(|piece| self.availability(*piece)).min();
                assert!(!ordered || Some(self.availability(piece)) == rarest, "{piece} is not the rarest");
                waiting.swap_remove(at);
            }
            assert!(self.requested.insert((*block, peer)));
            let end = BLOCKS.min((block.index / self.stretch + 1) * self.stretch);
            let begun = self.begun.entry(piece).or_default();
            *begun = end.max(*begun);
        }
        let open = (0..PIECES).filter(|piece| self.is_open(*piece)).count();
        let room = (open + 1) * BLOCKS as usize <= BUDGET;
        if out.len() < want && self.parole.is_empty() && room {
            assert_eq!(self.waiting(&has), [], "{peer:?} could be asked for more");
        }
    }

    fn deliver(&mut self, peer: PeerKey, block: Block) {
        let asked: BTreeSet<PeerKey> = self.requested.iter().filter(|(at, _)| *at == block).map(|at| at.1).collect();
        let begun = self.begun.get(&block.piece.0).is_some_and(|begun| block.index < *begun);
        let useful = begun && !self.received.contains_key(&block);
        match self.picker.received(peer, block) {
            Received::Unwanted => {
                let alone = self.parole.contains(&block.piece.0) && !asked.contains(&peer);
                assert!(!useful || alone, "{block:?} was useful");
            }
            Received::Accepted { cancel } => {
                assert!(useful);
                let others: BTreeSet<PeerKey> = asked.into_iter().filter(|other| *other != peer).collect();
                assert_eq!(cancel.into_iter().collect::<BTreeSet<_>>(), others);
                self.requested.retain(|(at, _)| *at != block);
                self.received.insert(block, peer);
                assert_eq!(self.picker.is_full(block.piece), self.full().contains(&block.piece.0));
            }
        }
    }

    fn store_ahead(&mut self, piece: u32) {
        let here = (0..BLOCKS).take_while(|index| self.received.contains_key(&block(piece, *index)));
        let here = u32::try_from(here.count()).unwrap() / self.stretch * self.stretch;
        if let Some(blocks) = self.picker.store_ahead(PieceIndex(piece)) {
            assert!(blocks == here && here < BLOCKS, "{blocks} of {here}");
            self.storing.push((piece, blocks));
        }
    }

    fn judge(&mut self, nth: usize, verdict: u8) {
        let Some(piece) = self.full().get(nth).copied() else {
            return;
        };
        match verdict {
            0 => self.picker.store_failed(PieceIndex(piece)),
            1 => {
                let senders: Vec<PeerKey> = (0..BLOCKS).map(|index| self.received[&block(piece, index)]).collect();
                assert_eq!(self.picker.failed(PieceIndex(piece)), senders);
                self.parole.insert(piece);
            }
            _ => {
                self.picker.verified(PieceIndex(piece));
                self.have.insert(piece);
                self.parole.remove(&piece);
            }
        }
        self.forget_piece(piece);
    }

    fn want(&mut self, wanted: &[bool]) {
        let mut bits = Bitfield::empty(PIECES);
        for (piece, _) in (0..).zip(wanted).filter(|(_, wanted)| **wanted) {
            bits.set(PieceIndex(piece));
        }
        let dropped = self.picker.set_wanted(&bits);
        for (peer, block) in dropped.requests {
            assert!(self.requested.contains(&(block, peer)));
        }
        for piece in dropped.pieces {
            assert!(!bits.has(piece) && self.is_open(piece.0));
            self.forget_piece(piece.0);
        }
        self.wanted = bits;
    }

    /// Everybody but one honest seed is silent; it fetches all that is wanted.
    fn finish(&mut self) {
        let seed = PeerKey(100);
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.apply(Step::Choke(u8::try_from(peer.0).unwrap()));
        }
        self.apply(Step::Verifiable(0, PIECES, true));
        self.apply(Step::Join(100, vec![true; PIECES as usize]));
        for _ in 0..200 {
            for _ in self.full() {
                self.judge(0, 2);
            }
            if self.picker.is_done() {
                return;
            }
            self.pick(seed, 4, 1_000);
            for block in self.owed(seed) {
                self.deliver(seed, block);
            }
            (0..PIECES).for_each(|piece| self.apply(Step::StoreAhead(piece)));
            self.apply(Step::Stored(0));
            self.apply(Step::Spill);
        }
        panic!("not done: {:?}", self.picker);
    }
}

proptest! {
    #[test]
    fn behaves_as_naive_sets_do_and_one_honest_seed_is_enough(
        steps in proptest::collection::vec(step(), 1..120), stretch in 1..=BLOCKS
    ) {
        let mut model = Model::new(stretch);
        for step in steps {
            model.apply(step);
        }
        model.finish();
    }
}
