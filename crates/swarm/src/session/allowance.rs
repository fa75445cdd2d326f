//! How often a stranger may do something before it counts as a flood.

use std::time::{Duration, Instant};

/// Grants `burst` at once and one more each `every`.
///
/// Invariant: `free_at` is at most `burst` times `every` ahead of the last moment asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    every: Duration,
    burst: u32,
    /// When everything that was used is earned back.
    free_at: Instant,
}

impl Allowance {
    pub(crate) fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self { every, burst, free_at: now }
    }

    /// Uses one; false where none is left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let free_at = self.free_at.max(now) + self.every;
        if free_at - now > self.every * self.burst {
            return false;
        }
        self.free_at = free_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn moment() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_burst_is_granted_and_then_the_rate() {
        let now = moment();
        let mut allowance = Allowance::new(3, Duration::from_secs(10), now);
        assert_eq!([(); 5].map(|()| allowance.take(now)), [true, true, true, false, false]);
        assert!(!allowance.take(now + Duration::from_secs(9)));
        assert!(allowance.take(now + Duration::from_secs(10)));
        assert!(!allowance.take(now + Duration::from_secs(10)));
        let later = now + Duration::from_secs(1_000);
        assert_eq!([(); 4].map(|()| allowance.take(later)), [true, true, true, false]);
    }
}
