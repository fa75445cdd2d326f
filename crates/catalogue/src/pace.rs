//! How fast one publisher, and one address, may change the catalogue (HOSTILE Q03).
//!
//! Each change is a sync of the disk, so whoever may publish could keep the disk busy for everybody else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use thiserror::Error;

use crate::signing::PublicKey;

/// Changes a second, in the long run.
pub(crate) const CHANGES_PER_SECOND: u64 = 10;
/// Changes at once, after a while without any: the entries of a usual folder.
pub(crate) const CHANGES_BURST: u64 = 100;
/// Publishers and addresses that are remembered at once. One is forgotten after ten seconds without a change.
const REMEMBERED: usize = 10_000;
/// Time that one change costs, milliseconds.
const COST_MS: u64 = 1_000 / CHANGES_PER_SECOND;
/// Time that a whole burst costs, milliseconds.
const FULL_MS: u64 = CHANGES_BURST * COST_MS;

/// Too many changes: the next one is taken after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("more than {CHANGES_PER_SECOND} changes a second")]
pub struct TooFast {
    /// When, milliseconds from the refused change.
    pub retry_after_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Key(PublicKey),
    Address(IpAddr),
}

/// Counts changes by publisher and by address.
///
#[derive(Debug, Default)]
pub struct Pace {
    /// Until when the changes so far take up their owner's share, milliseconds since 1970; at most [`FULL_MS`] after the
    /// last of them.
    busy_until: BTreeMap<Who, u64>,
    /// When those that are busy no more were last forgotten, milliseconds since 1970.
    swept_ms: u64,
}

impl Pace {
    /// Nobody has changed anything yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of a change at `now_ms`, milliseconds since 1970. The network of an IPv6 address counts as one.
    ///
    /// # Errors
    /// Where its publisher or its address has had its share; then nothing is noted.
    pub fn admit(&mut self, key: PublicKey, address: IpAddr, now_ms: u64) -> Result<(), TooFast> {
        let both = [Who::Key(key), Who::Address(network(address))];
        let busy = both.map(|who| self.busy_until.get(&who).map_or(0, |until| self::busy(*until, now_ms)));
        let wait = busy.into_iter().max().unwrap_or(0).saturating_sub(FULL_MS - COST_MS);
        if wait > 0 {
            return Err(TooFast { retry_after_ms: wait });
        }
        if self.busy_until.len() >= REMEMBERED && now_ms.abs_diff(self.swept_ms) >= COST_MS {
            self.busy_until.retain(|_, until| self::busy(*until, now_ms) > 0);
            self.swept_ms = now_ms;
        }
        if self.busy_until.len() >= REMEMBERED {
            return Err(TooFast { retry_after_ms: COST_MS });
        }
        for (who, busy) in both.into_iter().zip(busy) {
            self.busy_until.insert(who, now_ms.saturating_add(busy + COST_MS));
        }
        Ok(())
    }
}

/// How long somebody is busy from `now_ms` on, milliseconds: not at all where the clock was set back since.
fn busy(until_ms: u64, now_ms: u64) -> u64 {
    Some(until_ms.saturating_sub(now_ms)).filter(|busy| *busy <= FULL_MS).unwrap_or(0)
}

/// What one subscriber has: a v4 address, a /64 of v6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000_000;
    const ALICE: PublicKey = PublicKey([1; 32]);
    const BOB: PublicKey = PublicKey([2; 32]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of `tries` changes at one moment are taken.
    fn taken(pace: &mut Pace, key: PublicKey, address: &str, tries: u64, now_ms: u64) -> u64 {
        (0..tries).filter(|_| pace.admit(key, ip(address), now_ms).is_ok()).count() as u64
    }

    #[test]
    fn q03_a_publisher_makes_ten_changes_a_second_after_a_burst() {
        let mut pace = Pace::new();
        assert_eq!(taken(&mut pace, ALICE, "192.0.2.1", 1_000, NOW), CHANGES_BURST);
        assert_eq!(pace.admit(ALICE, ip("192.0.2.9"), NOW), Err(TooFast { retry_after_ms: 100 }));
        assert_eq!(taken(&mut pace, ALICE, "192.0.2.1", 1_000, NOW + 99), 0);
        for second in 1..20 {
            assert_eq!(taken(&mut pace, ALICE, "192.0.2.1", 1_000, NOW + second * 1_000), CHANGES_PER_SECOND);
        }
        assert_eq!(taken(&mut pace, ALICE, "192.0.2.1", 1_000, NOW + 60_000), CHANGES_BURST);
    }

    #[test]
    fn q03_one_address_with_many_keys_is_one_and_others_are_not_held_up() {
        let mut pace = Pace::new();
        let many = (0..=255).map(|key| taken(&mut pace, PublicKey([key; 32]), "2001:db8::1", 10, NOW)).sum::<u64>();
        assert_eq!(many, CHANGES_BURST);
        assert_eq!(taken(&mut pace, PublicKey([77; 32]), "2001:db8::2:1", 10, NOW), 0, "the same /64");
        assert_eq!(taken(&mut pace, BOB, "192.0.2.2", 10, NOW), 10);
    }

    #[test]
    fn q03_what_is_remembered_is_bounded() {
        let mut pace = Pace::new();
        for number in 0..3 * REMEMBERED as u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            let _ = pace.admit(PublicKey(key), IpAddr::V4(number.into()), NOW);
        }
        assert!(pace.busy_until.len() <= REMEMBERED + 1);
        assert_eq!(taken(&mut pace, ALICE, "192.0.2.1", 1, NOW + 100), 1, "all of them are forgotten");
    }

    #[test]
    fn q03_a_clock_that_is_set_back_keeps_nobody_out_for_long() {
        let mut pace = Pace::new();
        taken(&mut pace, ALICE, "192.0.2.1", 1_000, NOW + 1_000_000);
        assert_eq!(taken(&mut pace, ALICE, "192.0.2.1", 1_000, NOW), CHANGES_BURST);
    }
}
