//! Decides to whom we upload.
//!
//! While leeching, to those who give us most, and in turn to one of the others to find out what it gives (BEP 3). While
//! seeding, to those who take it fastest, and in turn to all. A free slot is given at once, not at the next look.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::event::PeerKey;
use crate::limits::{RECHOKE, UNCHOKE_TURN, UNCHOKED_LEAST, UNCHOKED_MOST, UPLOAD_PER_SLOT};

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
    /// It owes us blocks and sends none.
    pub snubbed: bool,
    /// When it connected.
    pub joined: Instant,
}

/// How many peers may be unchoked at a time, beside the optimistic one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// However slow the upload.
    pub least: usize,
    /// However fast it is.
    pub most: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self { least: UNCHOKED_LEAST, most: UNCHOKED_MOST }
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
        Self { slots, now_slots: slots.least, turns: BTreeMap::new(), optimistic: None, next: now + RECHOKE }
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

    /// A choked peer has become interested, and `unchoked` others are unchoked: whether to unchoke it at once.
    pub fn unchoke_at_once(&mut self, peer: PeerKey, unchoked: usize, now: Instant) -> bool {
        let free = unchoked < self.now_slots;
        if free {
            self.turns.insert(peer, Turn { began: now, ended: None });
        }
        free
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
        self.count_slots(peers);
        let mut ranked: Vec<(u64, &PeerView)> =
            peers.iter().filter(|view| view.interested).map(|view| (rng.u64(..), view)).collect();
        match role {
            Role::Leeching => ranked.sort_by_key(|(tie, view)| (std::cmp::Reverse(gives(view)), *tie)),
            Role::Seeding => ranked.sort_by_key(|(tie, view)| (self.seed_rank(view, now), *tie)),
        }
        let mut chosen: Vec<PeerKey> = ranked.iter().take(self.now_slots).map(|(_, view)| view.peer).collect();
        let rest: Vec<&PeerView> = ranked.iter().skip(self.now_slots).map(|(_, view)| *view).collect();
        if role == Role::Leeching {
            self.choose_optimistic(&chosen, &rest, now);
            chosen.extend(self.optimistic.map(|(peer, _)| peer));
        }
        chosen.sort_unstable();
        self.changes(peers, &chosen, now)
    }

    fn count_slots(&mut self, peers: &[PeerView]) {
        let upload: u64 = peers.iter().map(|view| view.sent_rate).sum();
        let affordable = usize::try_from(upload / UPLOAD_PER_SLOT).unwrap_or(usize::MAX);
        self.now_slots = affordable.clamp(self.slots.least, self.slots.most.max(self.slots.least));
    }

    /// Lower comes first: who is in its turn, then who has waited longest, then who has had its turn.
    fn seed_rank(&self, view: &PeerView, now: Instant) -> (u8, Option<Instant>, std::cmp::Reverse<u64>) {
        let faster = std::cmp::Reverse(view.sent_rate);
        let Some(turn) = self.turns.get(&view.peer) else {
            return (1, None, faster);
        };
        if !view.unchoked {
            return (1, Some(turn.ended.unwrap_or(turn.began)), faster);
        }
        let over = now.saturating_duration_since(turn.began) >= UNCHOKE_TURN;
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

fn gives(view: &PeerView) -> u64 {
    if view.snubbed { 0 } else { view.received_rate }
}
