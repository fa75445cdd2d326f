//! The requests that one peer owes an answer to: how many there may be, which are late, and whether it is snubbing us.
//!
//! The queue covers the round trip and a little more at the rate that the peer shows, so that it never runs dry and
//! never holds blocks that others could send sooner.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use obt_wire::{BLOCK_SIZE, Block};

use crate::limits::{
    LATE_FACTOR, LATE_LEAST, LATE_REMEMBERED, REQUEST_SLACK, REQUESTS_FIRST, REQUESTS_LEAST, REQUESTS_MOST, SNUB,
    SNUB_TRICKLE,
};
use crate::rate::SpeedMeter;

/// How a block that came in stands to what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// It answers a request.
    Asked,
    /// It answers a request that was taken back or cancelled.
    Late,
    /// Nobody asked for it: an offence (BEP 52).
    Unasked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    block: Block,
    at: Instant,
}

/// As many arrivals as the queue was long: after each the depth is set anew.
#[derive(Debug, Clone, Copy)]
struct Turn {
    began: Instant,
    length: usize,
    blocks: usize,
    bytes: u64,
    /// The queue was full in it, so the rate says something about the peer.
    filled: bool,
}

impl Turn {
    fn new(length: usize, now: Instant) -> Self {
        Self { began: now, length, blocks: 0, bytes: 0, filled: false }
    }
}

/// See the module.
///
/// Invariant: `outstanding` is in the order of sending; no block is in it twice.
#[derive(Debug)]
pub struct Pipeline {
    outstanding: VecDeque<Sent>,
    late: VecDeque<Block>,
    depth: usize,
    most: usize,
    turn: Turn,
    meter: SpeedMeter,
    /// Rate when the last block came: what may be expected of the next ones, even after a silence.
    steady: u64,
    quickest: Option<Duration>,
    last_block: Instant,
    last_byte: Instant,
    checked: Instant,
    snubbed: bool,
}

impl Pipeline {
    /// An empty queue.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            outstanding: VecDeque::new(),
            late: VecDeque::new(),
            depth: REQUESTS_FIRST,
            most: REQUESTS_MOST,
            turn: Turn::new(REQUESTS_FIRST, now),
            meter: SpeedMeter::new(now),
            steady: 0,
            quickest: None,
            last_block: now,
            last_byte: now,
            checked: now,
            snubbed: false,
        }
    }

    /// The peer takes at most `requests` at a time (`reqq`, BEP 10).
    pub fn set_most(&mut self, requests: usize) {
        self.most = requests.max(1);
    }

    fn depth(&self) -> usize {
        if self.snubbed { 1 } else { self.depth.min(self.most) }
    }

    /// How many more requests to send. Long queues are refilled in batches, so this is 0 until an eighth is free.
    #[must_use]
    pub fn room(&self) -> usize {
        let depth = self.depth();
        let room = depth.saturating_sub(self.outstanding.len());
        if room < depth / 8 { 0 } else { room }
    }

    /// Requests without an answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether `block` is asked for and has not come.
    #[must_use]
    pub fn is_outstanding(&self, block: Block) -> bool {
        self.outstanding.iter().any(|sent| sent.block == block)
    }

    /// What the peer sends, bytes of blocks per second.
    #[must_use]
    pub fn rate(&self, now: Instant) -> u64 {
        self.meter.rate(now)
    }

    /// Bytes of blocks that came from this peer.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.meter.total()
    }

    /// Whether it owes us blocks and sends none: it is asked for one at a time.
    #[must_use]
    pub fn is_snubbed(&self) -> bool {
        self.snubbed
    }

    /// A request was sent.
    pub fn sent(&mut self, block: Block, now: Instant) {
        debug_assert!(!self.is_outstanding(block), "{block:?} is outstanding");
        if let Some(at) = self.late.iter().position(|late| *late == block) {
            self.late.remove(at);
        }
        if self.outstanding.is_empty() {
            self.turn = Turn::new(self.depth(), now);
        }
        self.outstanding.push_back(Sent { block, at: now });
        self.turn.filled |= self.room() == 0;
    }

    /// A block of `bytes` came in whole.
    pub fn received(&mut self, block: Block, bytes: u32, now: Instant) -> Arrival {
        let Some(at) = self.outstanding.iter().position(|sent| sent.block == block) else {
            return self.received_late(block, bytes, now);
        };
        if let Some(sent) = self.outstanding.remove(at) {
            let took = now.saturating_duration_since(sent.at);
            self.quickest = Some(self.quickest.map_or(took, |quickest| quickest.min(took)));
        }
        self.count(bytes, now);
        if self.snubbed {
            self.snubbed = false;
            self.depth = REQUESTS_LEAST;
            self.turn = Turn::new(self.depth, now);
        }
        self.turn.blocks += 1;
        self.turn.bytes += u64::from(bytes);
        if self.turn.blocks >= self.turn.length {
            self.end_turn(now);
        }
        Arrival::Asked
    }

    fn received_late(&mut self, block: Block, bytes: u32, now: Instant) -> Arrival {
        let Some(at) = self.late.iter().position(|late| *late == block) else {
            return Arrival::Unasked;
        };
        self.late.remove(at);
        self.count(bytes, now);
        Arrival::Late
    }

    fn count(&mut self, bytes: u32, now: Instant) {
        self.meter.add(u64::from(bytes), now);
        self.steady = self.meter.rate(now);
        self.last_block = now;
        self.last_byte = now;
    }

    /// Sets the depth to what the turn's rate fills in the round trip and the slack, within twice and half of what it was.
    ///
    /// The rate of a queue that is too short is its depth per round trip, so each turn's goal is longer by the slack:
    /// it grows until the peer is at its rate, and no further.
    fn end_turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.turn.began);
        if self.turn.filled {
            let covers = self.quickest.unwrap_or_default() + REQUEST_SLACK;
            let bytes = u128::from(self.turn.bytes).saturating_mul(covers.as_nanos()) / passed.as_nanos().max(1);
            let goal = usize::try_from(bytes / u128::from(BLOCK_SIZE)).unwrap_or(usize::MAX).saturating_add(1);
            let most = (self.depth * 2).min(self.most).max(1);
            let least = (self.depth / 2).max(REQUESTS_LEAST).min(most);
            self.depth = goal.clamp(least, most);
        }
        self.turn = Turn::new(self.depth, now);
    }

    /// Bytes of a block came in whose end is still to come.
    pub fn progress(&mut self, now: Instant) {
        self.last_byte = now;
    }

    /// The peer says that it will not answer this request. False if there was none.
    pub fn rejected(&mut self, block: Block) -> bool {
        let at = self.outstanding.iter().position(|sent| sent.block == block);
        at.and_then(|at| self.outstanding.remove(at)).is_some()
    }

    /// We sent `cancel` for this request. False if there was none. Its block may come nevertheless.
    pub fn cancelled(&mut self, block: Block) -> bool {
        let was = self.rejected(block);
        if was {
            self.remember(block);
        }
        was
    }

    fn remember(&mut self, block: Block) {
        if self.late.len() >= LATE_REMEMBERED {
            self.late.pop_front();
        }
        self.late.push_back(block);
    }

    /// The peer chokes us: every request is void, though blocks may be under way. They are appended to `out`.
    pub fn choked(&mut self, out: &mut Vec<Block>) {
        while let Some(sent) = self.outstanding.pop_front() {
            self.remember(sent.block);
            out.push(sent.block);
        }
    }

    /// Takes back requests that are late, and appends them to `out`: all of them if the peer is silent, else those that
    /// its rate does not explain and `others` could serve.
    pub fn take_late(&mut self, mut others: impl FnMut(Block) -> bool, out: &mut Vec<Block>, now: Instant) {
        self.checked = now;
        if self.silent_until().is_some_and(|until| until <= now) {
            self.snubbed = true;
            return self.choked(out);
        }
        let mut kept = VecDeque::with_capacity(self.outstanding.len());
        for (ahead, sent) in (0..).zip(std::mem::take(&mut self.outstanding)) {
            if self.late_at(ahead, sent).is_some_and(|late| late <= now) && others(sent.block) {
                self.remember(sent.block);
                out.push(sent.block);
            } else {
                kept.push_back(sent);
            }
        }
        self.outstanding = kept;
    }

    /// When [`take_late`](Self::take_late) may have something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let first = *self.outstanding.front()?;
        // The first request is the oldest and has the fewest ahead of it. Once it is late and nobody else can serve
        // it, a look each second will do.
        let late = self.late_at(0, first).map(|at| at.max(self.checked + Duration::from_secs(1)));
        late.into_iter().chain(self.silent_until()).min()
    }

    /// When the peer counts as silent, if it owes anything.
    fn silent_until(&self) -> Option<Instant> {
        let first = self.outstanding.front()?.at;
        Some((self.last_byte.max(first) + SNUB).min(self.last_block.max(first) + SNUB_TRICKLE))
    }

    /// When a request with `ahead` others before it is late by what the peer's rate predicts, if it has shown one.
    fn late_at(&self, ahead: u32, sent: Sent) -> Option<Instant> {
        let micros = (u64::from(ahead) + 1) * u64::from(BLOCK_SIZE) * 1_000_000;
        let expected = Duration::from_micros(micros.checked_div(self.steady)?) + self.quickest.unwrap_or_default();
        sent.at.checked_add(LATE_LEAST + expected * LATE_FACTOR)
    }
}
