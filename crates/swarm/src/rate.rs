//! Bytes per second: a token bucket that limits them and a meter that measures them.
//!
//! Both compute with integers from the times they are given, so the same calls give the same answers.

use std::time::{Duration, Instant};

const NANOS: u128 = 1_000_000_000;

/// Lets through `rate` bytes per second, and up to `burst` at once after a pause.
///
/// Invariant: what is granted between any two moments is at most `burst` plus `rate` times the time between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    rate: Option<u64>,
    burst: u64,
    /// Billionths of a byte, so that no rate loses anything to rounding.
    credit: u128,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket; None lets everything through.
    #[must_use]
    pub fn new(rate: Option<u64>, burst: u64, now: Instant) -> Self {
        Self { rate, burst, credit: u128::from(burst) * NANOS, at: now }
    }

    /// Changes the rate; what is in the bucket stays.
    pub fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        self.refill(now);
        self.rate = rate;
    }

    /// The limit, bytes per second.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        self.at = self.at.max(now);
        let earned = u128::from(self.rate.unwrap_or(0)).saturating_mul(passed);
        self.credit = self.credit.saturating_add(earned).min(u128::from(self.burst) * NANOS);
    }

    /// Takes up to `bytes`; returns how many were granted.
    pub fn take(&mut self, bytes: u64, now: Instant) -> u64 {
        if self.rate.is_none() {
            return bytes;
        }
        self.refill(now);
        let granted = u64::try_from(self.credit / NANOS).unwrap_or(u64::MAX).min(bytes);
        self.credit -= u128::from(granted) * NANOS;
        granted
    }

    /// Takes `bytes` or nothing. More than the burst is granted when the bucket is full, and owed for.
    pub fn take_all(&mut self, bytes: u64, now: Instant) -> bool {
        if self.rate.is_none() {
            return true;
        }
        self.refill(now);
        let needed = u128::from(bytes.min(self.burst)) * NANOS;
        let ready = self.credit >= needed;
        if ready {
            self.credit -= needed;
        }
        ready
    }

    /// When `bytes`, or a full bucket if that is less, can be taken; None if never.
    #[must_use]
    pub fn next(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let mut later = *self;
        later.refill(now);
        let needed = u128::from(bytes.min(self.burst)) * NANOS;
        let Some(rate) = self.rate else {
            return Some(now);
        };
        let Some(lacking) = needed.checked_sub(later.credit).filter(|lacking| *lacking > 0) else {
            return Some(now);
        };
        let wait = u64::try_from(lacking.checked_div(u128::from(rate))?.saturating_add(1)).ok()?;
        now.checked_add(Duration::from_nanos(wait))
    }
}

/// Weight of the newest second once the meter is warm: 1 in this many.
const MEMORY: u64 = 4;
/// Silent seconds after which nothing is left of the average.
const FORGOTTEN: u64 = 64;
/// What the first moments of a transfer are averaged over at least, lest one block look like a fast peer.
const SHORTEST: Duration = Duration::from_millis(100);

/// How many bytes per second flow: a weighted average of whole seconds, the last ones counting most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpeedMeter {
    second: Instant,
    bytes: u64,
    average: u64,
    seconds: u64,
    total: u64,
}

impl SpeedMeter {
    /// A meter that has seen nothing.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { second: now, bytes: 0, average: 0, seconds: 0, total: 0 }
    }

    /// Counts `bytes` that came or went.
    pub fn add(&mut self, bytes: u64, now: Instant) {
        if self.total == 0 {
            // Waiting for the first byte is not slowness.
            self.second = self.second.max(now);
        }
        self.roll(now);
        self.bytes = self.bytes.saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
    }

    fn roll(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.second).as_secs();
        if passed > FORGOTTEN {
            let total = self.total;
            *self = Self { total, ..Self::new(now) };
            return;
        }
        for _ in 0..passed {
            // A young meter has no past to hold on to.
            let memory = MEMORY.min(self.seconds + 1);
            self.average = (self.average * (memory - 1) + self.bytes) / memory;
            self.bytes = 0;
            self.seconds += 1;
        }
        self.second += Duration::from_secs(passed);
    }

    /// Bytes per second.
    #[must_use]
    pub fn rate(&self, now: Instant) -> u64 {
        let mut rolled = *self;
        rolled.roll(now);
        if rolled.seconds > 0 {
            return rolled.average;
        }
        let passed = now.saturating_duration_since(rolled.second).max(SHORTEST);
        let rate = u128::from(rolled.bytes) * NANOS / passed.as_nanos();
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// All bytes ever counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}
