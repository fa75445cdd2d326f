//! Decides to whom we upload.
//!
//! While leeching, to those who give us most, and in turn to one of the others to find out what it gives (BEP 3). While
//! seeding, to those who take it fastest, and in turn to all. A free slot is given at once, not at the next look.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::event::PeerKey;
use crate::limits::{
    RECHOKE, SLOT_UNUSED, UNCHOKE_TURN, UNCHOKED_FIRST, UNCHOKED_LEAST, UNCHOKED_MOST, UPLOAD_PER_SLOT,
};

/// What we are to the swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// We lack wanted pieces.
    Leeching,
    /// We have all that we want.
    Seeding,
}

/// What to tell a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choking {
    /// We will not answer its requests.
    Choke,
    /// We will.
    Unchoke,
}

/// What the choker looks at, of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerView {
    /// Which.
    pub peer: PeerKey,
    /// It wants something that we have.
    pub interested: bool,
    /// We answer its requests at present.
    pub unchoked: bool,
    /// What it sends us, bytes per second.
    pub received_rate: u64,
    /// What we send it, bytes per second.
    pub sent_rate: u64,
    /// It has asked for blocks that are not sent.
    pub waits: bool,
    /// It owes us blocks and sends none.
    pub snubbed: bool,
    /// When it connected.
    pub joined: Instant,
}

/// How many peers may be unchoked at a time, beside the optimistic one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// While leeching, however slow the upload.
    pub least: usize,
    /// Until it is known how fast the upload is, and while seeding however slow.
    pub first: usize,
    /// However fast it is.
    pub most: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self { least: UNCHOKED_LEAST, first: UNCHOKED_FIRST, most: UNCHOKED_MOST }
    }
}

/// Since when a peer is unchoked, or until when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    began: Instant,
    ended: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Choker {
    slots: Slots,
    now_slots: usize,
    turns: BTreeMap<PeerKey, Turn>,
    optimistic: Option<(PeerKey, Instant)>,
    next: Instant,
}

impl Choker {
    /// Nobody is unchoked.
    #[must_use]
    pub fn new(slots: Slots, now: Instant) -> Self {
        Self { slots, now_slots: slots.first, turns: BTreeMap::new(), optimistic: None, next: now + RECHOKE }
    }

    /// When [`rechoke`](Self::rechoke) is due.
    #[must_use]
    pub fn next_rechoke(&self) -> Instant {
        self.next
    }

    /// Slots at present, beside the optimistic one.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.now_slots
    }

    /// A choked peer is new or has become interested, and `unchoked` others are unchoked: whether to unchoke it at once.
    pub fn unchoke_at_once(&mut self, peer: PeerKey, unchoked: usize, now: Instant) -> bool {
        let free = unchoked < self.now_slots;
        if free {
            self.turn_begins(peer, now);
        }
        free
    }

    /// A peer that is unchoked begins to ask: what it has a turn for.
    pub fn turn_begins(&mut self, peer: PeerKey, now: Instant) {
        self.turns.insert(peer, Turn { began: now, ended: None });
    }

    /// A peer is gone.
    pub fn peer_left(&mut self, peer: PeerKey) {
        self.turns.remove(&peer);
        if self.optimistic.is_some_and(|(optimistic, _)| optimistic == peer) {
            self.optimistic = None;
        }
    }

    /// Looks at all peers; returns those for whom something changes, in the order given.
    pub fn rechoke(
        &mut self,
        role: Role,
        peers: &[PeerView],
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Vec<(PeerKey, Choking)> {
        self.next = now + RECHOKE;
        self.count_slots(role, peers);
        let mut ranked: Vec<(u64, &PeerView)> =
            peers.iter().filter(|view| view.interested).map(|view| (rng.u64(..), view)).collect();
        match role {
            Role::Leeching => ranked.sort_by_key(|(tie, view)| (std::cmp::Reverse(gives(view)), *tie)),
            Role::Seeding => ranked.sort_by_key(|(tie, view)| (self.seed_rank(view, now), *tie)),
        }
        let mut chosen: Vec<PeerKey> = ranked.iter().take(self.now_slots).map(|(_, view)| view.peer).collect();
        // Slots that nobody wants stay with those who may want them next.
        let spare = self.now_slots.saturating_sub(chosen.len());
        let idle = peers.iter().filter(|view| !view.interested && view.unchoked);
        chosen.extend(idle.take(spare).map(|view| view.peer));
        let rest: Vec<&PeerView> = ranked.iter().skip(self.now_slots).map(|(_, view)| *view).collect();
        if role == Role::Leeching {
            self.choose_optimistic(&chosen, &rest, now);
            chosen.extend(self.optimistic.map(|(peer, _)| peer));
        }
        chosen.sort_unstable();
        self.changes(peers, &chosen, now)
    }

    /// As many as the upload can afford where it is the upload that is short: where most of those that are served wait
    /// for blocks. Where it has time left, nobody loses when others are served too.
    fn count_slots(&mut self, role: Role, peers: &[PeerView]) {
        let upload: u64 = peers.iter().map(|view| view.sent_rate).sum();
        let affordable = usize::try_from(upload / UPLOAD_PER_SLOT).unwrap_or(usize::MAX);
        let served = peers.iter().filter(|view| view.interested && view.unchoked);
        let (served, waiting) =
            served.fold((0, 0), |(all, waiting), view| (all + 1, waiting + usize::from(view.waits)));
        let slots = match (is_upload_short(served, waiting), served >= self.now_slots) {
            (true, _) => affordable,
            (false, true) => affordable.max(self.now_slots * 2),
            (false, false) => affordable.max(self.now_slots),
        };
        let least = if role == Role::Seeding { self.slots.first } else { self.slots.least };
        self.now_slots = slots.clamp(least, self.slots.most.max(least));
    }

    /// Lower comes first: who is in its turn, then who has waited longest, then who has had its turn, or does not use it.
    fn seed_rank(&self, view: &PeerView, now: Instant) -> (u8, Option<Instant>, std::cmp::Reverse<u64>) {
        let faster = std::cmp::Reverse(view.sent_rate);
        let Some(turn) = self.turns.get(&view.peer) else {
            return (1, None, faster);
        };
        if !view.unchoked {
            return (1, Some(turn.ended.unwrap_or(turn.began)), faster);
        }
        let unused = !view.waits && view.sent_rate == 0;
        let time = if unused { SLOT_UNUSED } else { UNCHOKE_TURN };
        let over = now.saturating_duration_since(turn.began) >= time;
        (if over { 2 } else { 0 }, None, faster)
    }

    /// Keeps the optimistic unchoke for its turn, then gives it to who has waited longest; newcomers have waited longest of all.
    fn choose_optimistic(&mut self, chosen: &[PeerKey], rest: &[&PeerView], now: Instant) {
        let stays = self.optimistic.is_some_and(|(peer, since)| {
            now.saturating_duration_since(since) < UNCHOKE_TURN && rest.iter().any(|view| view.peer == peer)
        });
        if stays {
            return;
        }
        let last = self.optimistic.map(|(peer, _)| peer);
        let waited = |view: &&&PeerView| {
            let turn = self.turns.get(&view.peer);
            let ended = turn.map(|turn| turn.ended.unwrap_or(now));
            (Some(view.peer) == last, ended, view.joined, view.peer)
        };
        debug_assert!(rest.iter().all(|view| !chosen.contains(&view.peer)), "chosen twice");
        self.optimistic = rest.iter().min_by_key(waited).map(|view| (view.peer, now));
    }

    fn changes(&mut self, peers: &[PeerView], chosen: &[PeerKey], now: Instant) -> Vec<(PeerKey, Choking)> {
        let mut changes = Vec::new();
        for view in peers {
            let choose = chosen.binary_search(&view.peer).is_ok();
            match (view.unchoked, choose) {
                (false, true) => {
                    self.turns.insert(view.peer, Turn { began: now, ended: None });
                    changes.push((view.peer, Choking::Unchoke));
                }
                (true, false) => {
                    let began = self.turns.get(&view.peer).map_or(now, |turn| turn.began);
                    self.turns.insert(view.peer, Turn { began, ended: Some(now) });
                    changes.push((view.peer, Choking::Choke));
                }
                (true, true) => self.renew(view.peer, now),
                (false, false) => {}
            }
        }
        changes
    }

    /// A peer that keeps its slot after its turn begins a new one.
    fn renew(&mut self, peer: PeerKey, now: Instant) {
        let turn = self.turns.entry(peer).or_insert(Turn { began: now, ended: None });
        if now.saturating_duration_since(turn.began) >= UNCHOKE_TURN {
            *turn = Turn { began: now, ended: None };
        }
    }
}

/// Whether most of those that are served wait for blocks.
pub(crate) fn is_upload_short(served: usize, waiting: usize) -> bool {
    waiting * 2 >= served
}

fn gives(view: &PeerView) -> u64 {
    if view.snubbed { 0 } else { view.received_rate }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
        Instant::now()
    }

    /// A choker and the peers that it looks at.
    struct Bench {
        choker: Choker,
        peers: Vec<PeerView>,
        rng: fastrand::Rng,
        now: Instant,
    }

    impl Bench {
        fn new(slots: usize, received_rates: &[u64]) -> Self {
            let now = start();
            let view = |(key, received_rate): (u64, &u64)| PeerView {
                peer: PeerKey(key),
                interested: true,
                unchoked: false,
                received_rate: *received_rate,
                sent_rate: 1_000,
                waits: true,
                snubbed: false,
                joined: now,
            };
            Self {
                choker: Choker::new(Slots { least: slots, first: slots, most: slots }, now),
                peers: (0..).zip(received_rates).map(view).collect(),
                rng: fastrand::Rng::with_seed(5),
                now,
            }
        }

        fn rechoke(&mut self, role: Role) {
            self.now = self.choker.next_rechoke();
            let changes = self.choker.rechoke(role, &self.peers, &mut self.rng, self.now);
            for view in &mut self.peers {
                if let Some((_, choking)) = changes.iter().find(|(peer, _)| *peer == view.peer) {
                    assert_ne!(view.unchoked, *choking == Choking::Unchoke, "a change changes something");
                    view.unchoked = !view.unchoked;
                }
            }
        }

        fn unchoked(&self) -> Vec<u64> {
            self.peers.iter().filter(|view| view.unchoked).map(|view| view.peer.0).collect()
        }
    }

    #[test]
    fn who_gives_most_is_unchoked_and_one_more_to_try_it() {
        let mut bench = Bench::new(2, &[10, 500, 0, 400, 20]);
        bench.rechoke(Role::Leeching);
        let unchoked = bench.unchoked();
        assert_eq!(unchoked.len(), 3);
        assert!(unchoked.contains(&1) && unchoked.contains(&3));
    }

    #[test]
    fn the_optimistic_unchoke_stays_for_its_turn_and_then_goes_round() {
        let mut bench = Bench::new(1, &[500, 0, 0, 0]);
        let mut tried = Vec::new();
        for _ in 0..12 {
            bench.rechoke(Role::Leeching);
            tried.extend(bench.unchoked().into_iter().filter(|peer| *peer != 0));
        }
        assert_eq!(tried, [1, 1, 1, 2, 2, 2, 3, 3, 3, 1, 1, 1]);
    }

    #[test]
    fn a_newcomer_is_tried_before_those_that_had_their_turn() {
        let mut bench = Bench::new(1, &[500, 0, 0]);
        for _ in 0..6 {
            bench.rechoke(Role::Leeching);
        }
        let newcomer = PeerView { peer: PeerKey(9), joined: bench.now, unchoked: false, ..bench.peers[1] };
        bench.peers.push(newcomer);
        bench.rechoke(Role::Leeching);
        assert_eq!(bench.unchoked(), [0, 9]);
    }

    #[test]
    fn a_peer_that_snubs_us_has_no_claim_to_a_slot() {
        let mut bench = Bench::new(1, &[500, 400]);
        bench.peers[0].snubbed = true;
        bench.rechoke(Role::Leeching);
        bench.rechoke(Role::Leeching);
        assert!(bench.unchoked().contains(&1));
    }

    #[test]
    fn a_free_slot_is_given_at_once() {
        let mut bench = Bench::new(2, &[0, 0, 0]);
        assert!(bench.choker.unchoke_at_once(PeerKey(0), 0, bench.now));
        assert!(bench.choker.unchoke_at_once(PeerKey(1), 1, bench.now));
        assert!(!bench.choker.unchoke_at_once(PeerKey(2), 2, bench.now));
    }

    #[test]
    fn a_seed_gives_everybody_a_turn() {
        let mut bench = Bench::new(2, &[0; 7]);
        let mut served = [0; 7];
        for _ in 0..21 {
            bench.rechoke(Role::Seeding);
            assert_eq!(bench.unchoked().len(), 2);
            for peer in bench.unchoked() {
                served[usize::try_from(peer).unwrap()] += 1;
            }
        }
        assert_eq!(served, [6; 7]);
    }

    #[test]
    fn a_slot_of_a_seed_that_is_not_used_goes_to_who_waits_for_one() {
        let mut bench = Bench::new(2, &[0; 2]);
        for view in &mut bench.peers {
            (view.sent_rate, view.waits) = (0, false);
        }
        bench.rechoke(Role::Seeding);
        assert_eq!(bench.unchoked(), [0, 1]);
        bench.peers[1].waits = true;
        let newcomer = PeerView { peer: PeerKey(9), unchoked: false, ..bench.peers[0] };
        bench.peers.push(newcomer);
        bench.rechoke(Role::Seeding);
        assert_eq!(bench.unchoked(), [1, 9]);
    }

    #[test]
    fn a_seed_keeps_the_fastest_when_nobody_waits() {
        let mut bench = Bench::new(3, &[0, 0, 0]);
        for _ in 0..10 {
            bench.rechoke(Role::Seeding);
            assert_eq!(bench.unchoked(), [0, 1, 2]);
        }
    }

    /// The slots after a look at so many unchoked peers, of whom some wait for blocks, together sent so much a second.
    fn slots_after(role: Role, peers: usize, waiting: usize, upload: u64) -> usize {
        let now = start();
        let mut choker = Choker::new(Slots { least: 4, first: 10, most: 100 }, now);
        let view = |number: usize| PeerView {
            peer: PeerKey(number as u64),
            interested: true,
            unchoked: true,
            received_rate: 0,
            sent_rate: upload / peers as u64,
            waits: number < waiting,
            snubbed: false,
            joined: now,
        };
        let views: Vec<PeerView> = (0..peers).map(view).collect();
        choker.rechoke(role, &views, &mut fastrand::Rng::with_seed(1), now);
        choker.slots()
    }

    #[test]
    fn where_the_upload_is_short_it_decides_how_many_slots_there_are() {
        assert_eq!(slots_after(Role::Leeching, 10, 10, 40 * UPLOAD_PER_SLOT), 40);
        assert_eq!(slots_after(Role::Leeching, 10, 10, 5 * UPLOAD_PER_SLOT), 5);
        assert_eq!(slots_after(Role::Leeching, 10, 10, 0), 4);
        assert_eq!(slots_after(Role::Leeching, 10, 10, 1_000 * UPLOAD_PER_SLOT), 100);
    }

    #[test]
    fn a_seed_serves_many_however_slow_it_is() {
        assert_eq!(slots_after(Role::Seeding, 10, 10, 0), 10);
        assert_eq!(slots_after(Role::Seeding, 10, 10, 40 * UPLOAD_PER_SLOT), 40);
    }

    #[test]
    fn where_the_upload_has_time_left_more_are_served() {
        assert_eq!(slots_after(Role::Leeching, 10, 4, 0), 20);
        assert_eq!(slots_after(Role::Leeching, 80, 0, 0), 20, "as many as it had, and again");
        assert_eq!(slots_after(Role::Leeching, 5, 0, 0), 10, "there are enough for all");
    }

    #[test]
    fn slots_that_nobody_wants_stay_with_who_may_want_one() {
        let mut bench = Bench::new(2, &[0, 0, 0]);
        for view in &mut bench.peers {
            (view.interested, view.unchoked) = (false, true);
        }
        bench.peers[2].interested = true;
        bench.rechoke(Role::Seeding);
        assert_eq!(bench.unchoked(), [0, 2]);
        bench.peers[1].interested = true;
        bench.rechoke(Role::Seeding);
        assert_eq!(bench.unchoked(), [1, 2], "who wants one comes first");
    }

    proptest! {
        #[test]
        fn slots_are_bounded_the_interested_come_first_and_of_them_who_gives_twice_as_much(
            peers in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u64..1_000), 0..30),
            slots in 1usize..8,
            rounds in 1usize..10,
        ) {
            let rates: Vec<u64> = peers.iter().map(|(.., rate)| *rate).collect();
            let mut bench = Bench::new(slots, &rates);
            for (view, (interested, unchoked, _)) in bench.peers.iter_mut().zip(&peers) {
                view.interested = *interested;
                view.unchoked = *unchoked;
            }
            for _ in 0..rounds {
                bench.rechoke(Role::Leeching);
                let unchoked: Vec<&PeerView> = bench.peers.iter().filter(|view| view.unchoked).collect();
                prop_assert!(unchoked.len() <= slots + 1);
                let waits = bench.peers.iter().any(|view| view.interested && !view.unchoked);
                prop_assert!(!waits || unchoked.iter().all(|view| view.interested));
                let optimistic = bench.choker.optimistic.map(|(peer, _)| peer);
                let least = unchoked.iter().filter(|view| view.interested && Some(view.peer) != optimistic);
                if let Some(least) = least.map(|view| view.received_rate).min() {
                    let mut choked = bench.peers.iter().filter(|view| view.interested && !view.unchoked);
                    prop_assert!(choked.all(|view| least * 2 >= view.received_rate));
                }
            }
        }

        #[test]
        fn every_interested_peer_is_unchoked_within_a_turn_for_each_of_them(
            rates in proptest::collection::vec(0u64..1_000, 1..20),
            slots in 1usize..5,
            seeding in any::<bool>(),
            changes in proptest::collection::vec((0usize..20, 0u64..1_000), 0..60),
        ) {
            let role = if seeding { Role::Seeding } else { Role::Leeching };
            let mut bench = Bench::new(slots, &rates);
            let mut changes = changes.into_iter();
            let mut waits = vec![bench.now; rates.len()];
            // A look of ten seconds may pass before the first turn begins.
            let longest = UNCHOKE_TURN * u32::try_from(rates.len()).unwrap() + RECHOKE;
            for _ in 0..100 {
                if let Some((at, rate)) = changes.next() && let Some(view) = bench.peers.get_mut(at) {
                    view.received_rate = rate;
                    view.sent_rate = rate;
                }
                bench.rechoke(role);
                for (view, waits) in bench.peers.iter().zip(&mut waits) {
                    if view.unchoked {
                        *waits = bench.now;
                    }
                    prop_assert!(bench.now - *waits <= longest, "{:?} waits", view.peer);
                }
            }
        }
    }
}
