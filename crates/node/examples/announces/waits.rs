//! How long answers took, in bounded memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer ones are one sort: far more than anybody should wait.
const BUCKETS: usize = 20_000;
const BUCKET: Duration = Duration::from_micros(100);

pub(crate) struct Waits {
    began: Instant,
    buckets: Vec<AtomicU64>,
    /// The longest of those that ended in each second, microseconds; the last is of all after it.
    longest: Vec<AtomicU64>,
}

impl Waits {
    /// Of answers that come for that long.
    pub(crate) fn new(time: Duration, began: Instant) -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { began, buckets: zeros(BUCKETS), longest: zeros(time.as_secs() as usize + 1) }
    }

    pub(crate) fn note(&self, since: Instant) {
        let now = Instant::now();
        let wait = now - since;
        let bucket = (wait.as_micros() / BUCKET.as_micros()).min(BUCKETS as u128 - 1);
        self.buckets[bucket as usize].fetch_add(1, Ordering::Relaxed);
        let second = (now - self.began).as_secs().min(self.longest.len() as u64 - 1);
        self.longest[second as usize].fetch_max(wait.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn longest(&self) -> impl Iterator<Item = Duration> {
        self.longest.iter().map(|longest| Duration::from_micros(longest.load(Ordering::Relaxed)))
    }

    /// What that share of them did not exceed, to the next tenth of a millisecond.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let longest = self.longest().max().unwrap_or_default();
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        match bucket {
            Some(bucket) if bucket + 1 < BUCKETS => longest.min(BUCKET * (bucket as u32 + 1)),
            _ => longest,
        }
    }
}
