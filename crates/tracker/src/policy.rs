//! How often stock clients announce, how long they are remembered, and how many peers they are told of.

use std::time::Duration;

use crate::limits::{NUM_WANT, NUM_WANT_DEFAULT};

/// Shortest time for which a stock client is remembered. libtorrent and with it qBittorrent never announce more often
/// than every 5 minutes, whatever the tracker says: one announce of theirs may be lost.
const SHORTEST_MEMORY: Duration = Duration::from_secs(12 * 60);
/// What a clock or a slow client may add to two intervals.
const SLACK: Duration = Duration::from_secs(30);
/// No client is told to come back sooner.
pub const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// Time between two announces of a stock client in a swarm of `peers`: short where there is hardly anybody, so that
/// newcomers meet; long where an answer is full anyway.
#[must_use]
pub fn interval(peers: u32) -> Duration {
    let seconds = match peers {
        0..=2 => 60,
        3..=10 => 120,
        11..=50 => 300,
        51..=500 => 900,
        _ => 1_800,
    };
    Duration::from_secs(seconds)
}

/// How long a stock client is remembered that was told to come back after `interval`.
#[must_use]
pub fn lifetime(interval: Duration) -> Duration {
    (interval * 2 + SLACK).max(SHORTEST_MEMORY)
}

/// How many peers to tell, if a client asks for `wanted`; a negative number or none leaves it to us (BEP 15).
#[must_use]
pub fn num_want(wanted: Option<i64>) -> usize {
    match wanted.map(usize::try_from) {
        Some(Ok(wanted)) => wanted.min(NUM_WANT),
        Some(Err(_)) | None => NUM_WANT_DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_swarms_are_asked_back_soon_and_large_ones_late() {
        assert_eq!(interval(1), Duration::from_secs(60));
        assert_eq!(interval(100_000), Duration::from_secs(1_800));
        assert!((0..2_000).all(|peers| interval(peers) <= interval(peers + 1)));
    }

    #[test]
    fn one_lost_announce_of_a_client_that_insists_on_five_minutes_does_not_hide_it() {
        assert!(lifetime(MIN_INTERVAL) > Duration::from_secs(2 * 300));
        assert!(lifetime(Duration::from_secs(1_800)) > Duration::from_secs(3_600));
    }

    #[test]
    fn u03_wanted_numbers_are_clamped() {
        assert_eq!(num_want(Some(-1)), 50);
        assert_eq!(num_want(None), 50);
        assert_eq!(num_want(Some(0)), 0);
        assert_eq!(num_want(Some(i64::from(i32::MAX))), 200);
        assert_eq!(num_want(Some(i64::MAX)), 200);
    }
}
