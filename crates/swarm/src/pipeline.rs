//! The requests that one peer owes an answer to: how many there may be, which are late, and whether it is snubbing us.
//!
//! The queue covers the round trip and a little more at the rate that the peer shows, so that it never runs dry and
//! never holds blocks that others could send sooner.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use obt_wire::{BLOCK_SIZE, Block};

use crate::limits::{
    LATE_FACTOR, LATE_LEAST, LATE_REMEMBERED, REQUEST_SLACK, REQUESTS_FIRST, REQUESTS_LEAST, REQUESTS_MOST,
    REQUESTS_WIDE, SNUB, SNUB_TRICKLE,
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

    /// Sets the depth to what the turn's rate fills in the round trip and the slack, within four times and half of what
    /// it was.
    ///
    /// The rate of a queue that is too short is its depth per round trip, so each turn's goal is longer by the slack:
    /// it grows until the peer is at its rate, and no further. TCP multiplies what it sends by less than three in a
    /// round trip at its start (BBR; others double it), and must never wait for requests meanwhile.
    fn end_turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.turn.began);
        if self.turn.filled {
            let bytes = self.turn.bytes;
            let blocks_in = |time: Duration| {
                let bytes = u128::from(bytes).saturating_mul(time.as_nanos()) / passed.as_nanos().max(1);
                usize::try_from(bytes / u128::from(BLOCK_SIZE)).unwrap_or(usize::MAX)
            };
            let round_trip = self.quickest.unwrap_or_default();
            // Behind a lost packet everything waits for another round trip or two, and the peer must not run dry.
            let lost = if blocks_in(round_trip) >= REQUESTS_WIDE { 2 * round_trip } else { Duration::ZERO };
            let goal = blocks_in(round_trip + lost + REQUEST_SLACK).saturating_add(1);
            let most = (self.depth * 4).min(self.most).max(1);
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
        let first = out.len();
        let (steady, quickest) = (self.steady, self.quickest);
        let mut ahead = 0;
        self.outstanding.retain(|sent| {
            let late = late_at(ahead, sent.at, steady, quickest).is_some_and(|late| late <= now) && others(sent.block);
            ahead += 1;
            if late {
                out.push(sent.block);
            }
            !late
        });
        for block in out.iter().skip(first) {
            self.remember(*block);
        }
    }

    /// When [`take_late`](Self::take_late) may have something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let first = *self.outstanding.front()?;
        // The first request is the oldest and has the fewest ahead of it. Once it is late and nobody else can serve
        // it, a look each second will do.
        let late =
            late_at(0, first.at, self.steady, self.quickest).map(|at| at.max(self.checked + Duration::from_secs(1)));
        late.into_iter().chain(self.silent_until()).min()
    }

    /// When the peer counts as silent, if it owes anything.
    fn silent_until(&self) -> Option<Instant> {
        let first = self.outstanding.front()?.at;
        Some((self.last_byte.max(first) + SNUB).min(self.last_block.max(first) + SNUB_TRICKLE))
    }
}

/// When a request sent at `sent` with `ahead` others before it is late by what the peer's rate and quickest answer
/// predict, if it has shown a rate.
fn late_at(ahead: u32, sent: Instant, rate: u64, quickest: Option<Duration>) -> Option<Instant> {
    let micros = (u64::from(ahead) + 1) * u64::from(BLOCK_SIZE) * 1_000_000;
    let expected = Duration::from_micros(micros.checked_div(rate)?) + quickest.unwrap_or_default();
    sent.checked_add(LATE_LEAST + expected * LATE_FACTOR)
}

#[cfg(test)]
mod tests {
    use obt_wire::PieceIndex;

    use super::*;
    use crate::limits::REQUESTS_QUEUED;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
        Instant::now()
    }

    fn block(index: u32) -> Block {
        Block { piece: PieceIndex(index / 64), index: index % 64 }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A peer behind a link of `rate` bytes per second and a round trip of `rtt`, asked for whatever the pipeline allows.
    struct Link {
        rate: u64,
        rtt: Duration,
        busy: Instant,
        flying: VecDeque<(Instant, Block)>,
        next: u32,
        /// One block in so many loses a packet, which comes a round trip later; what is behind it waits (TCP).
        loses: Option<u32>,
    }

    impl Link {
        fn new(rate: u64, rtt: Duration, now: Instant) -> Self {
            Self { rate, rtt, busy: now, flying: VecDeque::new(), next: 0, loses: None }
        }

        fn fill(&mut self, pipeline: &mut Pipeline, now: Instant) {
            for _ in 0..pipeline.room() {
                pipeline.sent(block(self.next), now);
                let service = Duration::from_nanos(u64::from(BLOCK_SIZE) * 1_000_000_000 / self.rate);
                self.busy = self.busy.max(now + self.rtt / 2) + service;
                let lost = self.loses.is_some_and(|each| self.next.is_multiple_of(each));
                let comes = self.busy + if lost { self.rtt * 3 / 2 } else { self.rtt / 2 };
                let before = self.flying.back().map_or(comes, |(before, _)| *before);
                self.flying.push_back((comes.max(before), block(self.next)));
                self.next += 1;
            }
        }

        /// Runs for `time`; returns how many bytes came.
        fn run(&mut self, pipeline: &mut Pipeline, from: Instant, time: Duration) -> u64 {
            let mut bytes = 0;
            self.fill(pipeline, from);
            while let Some((at, block)) = self.flying.front().copied().filter(|(at, _)| *at <= from + time) {
                self.flying.pop_front();
                assert_eq!(pipeline.received(block, BLOCK_SIZE, at), Arrival::Asked);
                bytes += u64::from(BLOCK_SIZE);
                self.fill(pipeline, at);
            }
            bytes
        }
    }

    #[test]
    fn f31_a_long_fast_path_is_filled() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        let mut link = Link::new(12_500_000, ms(200), now);
        link.run(&mut pipeline, now, ms(3_000));
        let bytes = link.run(&mut pipeline, now + ms(3_000), ms(5_000));
        assert!(bytes >= 12_500_000 * 5 * 95 / 100, "{bytes}");
    }

    #[test]
    fn f31_a_long_wide_path_that_loses_packets_is_filled() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        pipeline.set_most(REQUESTS_QUEUED);
        let mut link = Link { loses: Some(9), ..Link::new(15_000_000, ms(200), now) };
        link.run(&mut pipeline, now, ms(5_000));
        let bytes = link.run(&mut pipeline, now + ms(5_000), ms(5_000));
        assert!(bytes >= 15_000_000 * 5 * 90 / 100, "{bytes}");
    }

    #[test]
    fn a_queue_outgrows_what_tcp_sends_in_its_first_round_trips() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        let mut link = Link::new(1_000_000_000, ms(100), now);
        link.run(&mut pipeline, now, ms(350));
        assert!(pipeline.outstanding() > REQUESTS_FIRST * 40, "{}", pipeline.outstanding());
    }

    #[test]
    fn a_loopback_peer_gets_the_longest_queue_within_a_tenth_of_a_second() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        let mut link = Link::new(3_000_000_000, Duration::from_micros(50), now);
        link.run(&mut pipeline, now, ms(100));
        assert!(pipeline.outstanding() > REQUESTS_MOST * 7 / 8, "{}", pipeline.outstanding());
    }

    #[test]
    fn a_slow_peer_does_not_hold_many_blocks() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        let mut link = Link::new(1_250_000, ms(10), now);
        let bytes = link.run(&mut pipeline, now, ms(10_000));
        assert!(bytes > 1_250_000 * 95 / 10, "{bytes}");
        let seconds = pipeline.outstanding() as f64 * f64::from(BLOCK_SIZE) / 1_250_000.0;
        assert!(seconds < 0.6, "{seconds} s queued");
    }

    #[test]
    fn the_peers_own_limit_holds() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        pipeline.set_most(5);
        let mut link = Link::new(1_000_000_000, ms(1), now);
        link.run(&mut pipeline, now, ms(500));
        assert_eq!(pipeline.outstanding(), 5);
    }

    #[test]
    fn w15_only_blocks_that_were_asked_for_once_are_no_offence() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        for index in 0..3 {
            pipeline.sent(block(index), now);
        }
        assert_eq!(pipeline.received(block(0), BLOCK_SIZE, now), Arrival::Asked);
        assert_eq!(pipeline.received(block(0), BLOCK_SIZE, now), Arrival::Unasked);
        assert!(pipeline.cancelled(block(1)));
        assert!(!pipeline.cancelled(block(1)));
        assert_eq!(pipeline.received(block(1), BLOCK_SIZE, now), Arrival::Late);
        assert_eq!(pipeline.received(block(1), BLOCK_SIZE, now), Arrival::Unasked);
        let mut back = Vec::new();
        pipeline.choked(&mut back);
        assert_eq!(back, [block(2)]);
        assert_eq!(pipeline.received(block(2), BLOCK_SIZE, now), Arrival::Late);
    }

    #[test]
    fn w21_a_reject_answers_one_request() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        pipeline.sent(block(0), now);
        assert!(pipeline.rejected(block(0)));
        assert!(!pipeline.rejected(block(0)));
        assert_eq!(pipeline.outstanding(), 0);
    }

    #[test]
    fn w18_a_silent_peer_loses_its_blocks_and_is_asked_for_one_at_a_time() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        for index in 0..8 {
            pipeline.sent(block(index), now);
        }
        let until = pipeline.next_timeout().unwrap();
        assert_eq!(until, now + SNUB);
        let mut back = Vec::new();
        pipeline.take_late(|_| true, &mut back, until - ms(1));
        assert_eq!(back, []);
        pipeline.take_late(|_| true, &mut back, until);
        assert_eq!(back.len(), 8);
        assert!(pipeline.is_snubbed());
        assert_eq!(pipeline.room(), 1);
        pipeline.sent(block(9), until);
        assert_eq!(pipeline.room(), 0);
        pipeline.received(block(9), BLOCK_SIZE, until + ms(1));
        assert!(!pipeline.is_snubbed());
        assert_eq!(pipeline.room(), REQUESTS_LEAST);
    }

    #[test]
    fn w18_a_trickle_of_bytes_puts_the_snub_off_but_not_for_ever() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        pipeline.sent(block(0), now);
        for second in 1..=60 {
            pipeline.progress(now + ms(second * 1_000));
            let mut back = Vec::new();
            pipeline.take_late(|_| true, &mut back, now + ms(second * 1_000));
            assert_eq!(!back.is_empty(), second == 60, "second {second}");
        }
    }

    #[test]
    fn a_block_that_the_rate_does_not_explain_goes_to_others_if_they_have_it() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        let mut link = Link::new(1_250_000, ms(10), now);
        link.run(&mut pipeline, now, ms(5_000));
        let stalled = now + ms(5_000);
        let owed = pipeline.outstanding();
        let mut back = Vec::new();
        pipeline.take_late(|_| true, &mut back, stalled + ms(1_000));
        assert_eq!(back, []);
        let at = pipeline.next_timeout().unwrap();
        assert!((ms(2_500)..ms(4_000)).contains(&(at - stalled)), "{:?}", at - stalled);
        pipeline.take_late(|_| false, &mut back, at);
        assert_eq!(back, [], "nobody else has them");
        assert_eq!(pipeline.next_timeout(), Some(at + ms(1_000)));
        pipeline.take_late(|_| true, &mut back, stalled + ms(8_000));
        assert_eq!(back.len(), owed);
        assert!(!pipeline.is_snubbed());
    }

    #[test]
    fn nothing_owed_is_nothing_to_wait_for() {
        let now = start();
        let mut pipeline = Pipeline::new(now);
        assert_eq!(pipeline.next_timeout(), None);
        pipeline.sent(block(0), now + ms(100_000));
        assert_eq!(
            pipeline.next_timeout(),
            Some(now + ms(100_000) + SNUB),
            "silence before the request does not count"
        );
    }
}
