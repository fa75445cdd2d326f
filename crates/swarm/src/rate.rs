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

    /// Changes the rate, and how much may come at once; what is in the bucket stays, as far as there is room for it.
    pub fn set_rate(&mut self, rate: Option<u64>, burst: u64, now: Instant) {
        self.refill(now);
        (self.rate, self.burst) = (rate, burst);
        self.credit = self.credit.min(u128::from(burst) * NANOS);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Instant {
        // The only clock that a test needs is some moment to count from.
        #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
        Instant::now()
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let now = start();
        let mut bucket = TokenBucket::new(Some(1_000), 500, now);
        assert_eq!(bucket.take(10_000, now), 500);
        assert_eq!(bucket.take(10_000, now), 0);
        assert_eq!(bucket.next(100, now), Some(after(now, 100) + Duration::from_nanos(1)));
        assert_eq!(bucket.take(10_000, after(now, 100)), 100);
        assert_eq!(bucket.take(10_000, after(now, 60_000)), 500);
    }

    #[test]
    fn a_bucket_without_a_limit_gives_everything_and_one_of_zero_nothing() {
        let now = start();
        let mut free = TokenBucket::new(None, 500, now);
        assert_eq!(free.take(u64::MAX, now), u64::MAX);
        assert!(free.take_all(u64::MAX, now));
        assert_eq!(free.next(u64::MAX, now), Some(now));
        let mut shut = TokenBucket::new(Some(0), 500, now);
        assert_eq!(shut.take(500, now), 500);
        assert_eq!(shut.next(1, after(now, 1_000)), None);
        assert_eq!(shut.take(1, after(now, 1_000_000)), 0);
    }

    #[test]
    fn a_block_larger_than_the_burst_passes_when_the_bucket_is_full() {
        let now = start();
        let mut bucket = TokenBucket::new(Some(1_000), 500, now);
        assert!(bucket.take_all(16_384, now));
        assert!(!bucket.take_all(16_384, after(now, 499)));
        assert!(bucket.take_all(16_384, after(now, 500)));
    }

    proptest! {
        #[test]
        fn f42_a_bucket_never_grants_more_than_burst_and_rate_allow_nor_less_to_the_greedy(
            rate in 1u64..2_000_000_000,
            burst in 1u64..10_000_000,
            waits in proptest::collection::vec(0u64..5_000_000_000, 1..50),
        ) {
            let now = start();
            let mut bucket = TokenBucket::new(Some(rate), burst, now);
            let mut granted = u128::from(bucket.take(u64::MAX, now));
            let mut passed = 0;
            let mut lost = 0;
            for wait in waits {
                passed += u128::from(wait);
                let earned = u128::from(rate) * u128::from(wait) / NANOS;
                lost += earned.saturating_sub(u128::from(burst));
                granted += u128::from(bucket.take(u64::MAX, now + Duration::from_nanos(u64::try_from(passed).unwrap())));
                let most = u128::from(burst) + u128::from(rate) * passed / NANOS;
                prop_assert!(granted <= most, "{granted} of {most}");
                prop_assert!(granted + lost + 60 >= most, "{granted} + {lost} of {most}");
            }
        }

        #[test]
        fn the_moment_that_a_bucket_names_is_the_first_at_which_it_grants(
            rate in 1u64..1_000_000_000,
            burst in 1u64..100_000,
            bytes in 1u64..200_000,
            drained in 0u64..200_000,
        ) {
            let now = start();
            let mut bucket = TokenBucket::new(Some(rate), burst, now);
            bucket.take(drained, now);
            let next = bucket.next(bytes, now).unwrap();
            prop_assert!(bucket.clone().take_all(bytes, next));
            if next > now + Duration::from_nanos(1) {
                prop_assert!(!bucket.take_all(bytes, next - Duration::from_nanos(2)));
            }
        }
    }

    #[test]
    fn a_meter_shows_a_steady_flow_from_the_first_second_on() {
        let now = start();
        let mut meter = SpeedMeter::new(now);
        assert_eq!(meter.rate(after(now, 60_000)), 0);
        for tenth in 0..100 {
            meter.add(1_000, after(now, 60_000 + tenth * 100));
        }
        assert_eq!(meter.rate(after(now, 69_900)), 10_000);
        assert_eq!(meter.total(), 100_000);
    }

    #[test]
    fn a_meter_follows_a_change_in_seconds_and_forgets_a_peer_that_stopped() {
        let now = start();
        let mut meter = SpeedMeter::new(now);
        for second in 0..10 {
            meter.add(1_000, after(now, second * 1_000));
        }
        for second in 10..18 {
            meter.add(9_000, after(now, second * 1_000));
        }
        let rate = meter.rate(after(now, 18_000));
        assert!((8_000..=9_000).contains(&rate), "{rate}");
        assert!(meter.rate(after(now, 26_000)) < 1_000);
        assert_eq!(meter.rate(after(now, 500_000)), 0);
    }

    #[test]
    fn time_that_runs_backwards_is_no_time() {
        let now = start();
        let mut meter = SpeedMeter::new(after(now, 5_000));
        meter.add(1_000, now);
        assert_eq!(meter.rate(now), 10_000);
        let mut bucket = TokenBucket::new(Some(1_000), 500, after(now, 5_000));
        assert_eq!(bucket.take(500, now), 500);
        assert_eq!(bucket.take(500, after(now, 5_000)), 0);
    }
}
