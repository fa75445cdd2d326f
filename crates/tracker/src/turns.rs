//! Who gets a .torrent from us, where a crowd comes for it at once and could have it from each other.
//!
//! The machine of a tracker is often that of the first seed too, and each copy of a long .torrent takes from what that one
//! can send: of a file of 32 MiB, for 32 machines, a tenth of the file. So a few get it from us, and those who say that
//! they can are told to ask these.

use std::collections::BTreeMap;
use std::time::Instant;

use obt_wire::InfoHash;

use crate::limits::{TORRENT_BYTES_WORTH, TORRENT_COPIES, TORRENT_TURN, TORRENT_TURNS};

/// See the module.
#[derive(Debug, Default)]
pub struct Turns {
    /// Since when, and how many copies have gone out since.
    recent: BTreeMap<InfoHash, (Instant, u32)>,
}

impl Turns {
    /// Whether whoever asks for this .torrent of so many bytes had better have it from others. Who does not gets it now.
    pub fn had_better_wait(&mut self, torrent: InfoHash, bytes: usize, now: Instant) -> bool {
        if bytes < TORRENT_BYTES_WORTH {
            return false;
        }
        let is_over = |since: Instant| now.saturating_duration_since(since) >= TORRENT_TURN;
        if self.recent.len() >= TORRENT_TURNS && !self.recent.contains_key(&torrent) {
            self.recent.retain(|_, (since, _)| !is_over(*since));
            if self.recent.len() >= TORRENT_TURNS {
                return false;
            }
        }
        let (since, copies) = self.recent.entry(torrent).or_insert((now, 0));
        if is_over(*since) {
            (*since, *copies) = (now, 0);
        }
        let waits = *copies >= TORRENT_COPIES;
        *copies += u32::from(!waits);
        waits
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: usize = 100_000;

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_few_of_a_crowd_get_a_long_torrent_at_once_and_more_of_them_later() {
        let (mut turns, now) = (Turns::default(), start());
        let (a, b) = (InfoHash([1; 20]), InfoHash([2; 20]));
        let waits: Vec<bool> = (0..6).map(|_| turns.had_better_wait(a, LONG, now)).collect();
        assert_eq!(waits, [false, false, false, false, true, true]);
        assert!(!turns.had_better_wait(b, LONG, now), "another one");
        assert!(turns.had_better_wait(a, LONG, now + TORRENT_TURN - Duration::from_millis(1)));
        let waits: Vec<bool> = (0..5).map(|_| turns.had_better_wait(a, LONG, now + TORRENT_TURN)).collect();
        assert_eq!(waits, [false, false, false, false, true]);
        assert!((0..9).all(|_| !turns.had_better_wait(b, TORRENT_BYTES_WORTH - 1, now)));
    }

    #[test]
    fn where_very_many_are_asked_for_at_once_nobody_waits_and_none_is_remembered_for_good() {
        let (mut turns, now) = (Turns::default(), start());
        let number = |at: usize| InfoHash(std::array::from_fn(|byte| at.to_be_bytes()[byte % 8]));
        for at in 0..TORRENT_TURNS + 9 {
            assert!(!turns.had_better_wait(number(at), LONG, now));
        }
        assert!((0..9).all(|_| !turns.had_better_wait(number(TORRENT_TURNS + 3), LONG, now)));
        assert_eq!(turns.recent.len(), TORRENT_TURNS);
        assert!(!turns.had_better_wait(number(TORRENT_TURNS + 3), LONG, now + TORRENT_TURN));
        assert_eq!(turns.recent.len(), 1);
    }
}
