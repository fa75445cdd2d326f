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

/// The life of a stock client as two bits: as many different ones as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LifeClass {
    Short,
    Medium,
    Long,
}

impl LifeClass {
    pub(crate) const ALL: [Self; 3] = [Self::Short, Self::Medium, Self::Long];

    /// The class of a client in a swarm of `peers`.
    pub(crate) fn of(peers: u32) -> Self {
        let life = lifetime(interval(peers)).as_secs();
        Self::ALL.into_iter().find(|class| u64::from(class.seconds()) >= life).unwrap_or(Self::Long)
    }

    pub(crate) fn seconds(self) -> u32 {
        match self {
            Self::Short => 720,
            Self::Medium => 1_830,
            Self::Long => 3_630,
        }
    }

    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// The class with the number; there is no fourth.
    pub(crate) fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Short,
            1 => Self::Medium,
            _ => Self::Long,
        }
    }
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
    fn a_class_is_the_very_life_of_its_clients() {
        for peers in 0..2_000 {
            let class = LifeClass::of(peers);
            assert_eq!(Duration::from_secs(class.seconds().into()), lifetime(interval(peers)), "{peers} peers");
            assert_eq!(LifeClass::from_number(class.number()), class);
        }
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
