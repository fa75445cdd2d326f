//! Who gets a .torrent from us, where a crowd comes for it at once and could have it from each other.
//!
//! The machine of a tracker is often that of the first seed too, and each copy of a long .torrent takes from what that one
//! can send: of a file of 32 MiB, for 32 machines, a tenth of the file. So a few get it from us, and those who say that
//! they can are told to ask these.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use obt_catalogue::BlobHash;

/// .torrents below this many bytes are not worth another round trip.
const WORTH_BYTES: usize = 32 << 10;
/// Copies of one .torrent in a while that go to whoever asks.
const COPIES: u32 = 4;
/// How long they have to pass it on, before as many more go out.
const WHILE: Duration = Duration::from_secs(2);
/// .torrents that are kept account of; where more are asked for at once, nobody waits.
const KEPT: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Since when, and how many copies have gone out since.
    recent: BTreeMap<BlobHash, (Instant, u32)>,
}

impl Turns {
    /// Whether whoever asks for this .torrent of so many bytes had better have it from others. Who does not gets it now.
    pub(super) fn had_better_wait(&mut self, torrent: BlobHash, bytes: usize, now: Instant) -> bool {
        if bytes < WORTH_BYTES {
            return false;
        }
        if self.recent.len() >= KEPT && !self.recent.contains_key(&torrent) {
            self.recent.retain(|_, (since, _)| now.saturating_duration_since(*since) < WHILE);
        }
        let kept = self.recent.len();
        match self.recent.get_mut(&torrent) {
            Some((since, copies)) if now.saturating_duration_since(*since) < WHILE => {
                let waits = *copies >= COPIES;
                *copies += u32::from(!waits);
                waits
            }
            Some(recent) => {
                *recent = (now, 1);
                false
            }
            None if kept >= KEPT => false,
            None => {
                self.recent.insert(torrent, (now, 1));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 100_000;

    #[test]
    fn a_few_of_a_crowd_get_a_long_torrent_at_once_and_more_of_them_later() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let (a, b) = (BlobHash([1; 32]), BlobHash([2; 32]));
        let waits: Vec<bool> = (0..6).map(|_| turns.had_better_wait(a, LONG, now)).collect();
        assert_eq!(waits, [false, false, false, false, true, true]);
        assert!(!turns.had_better_wait(b, LONG, now), "another one");
        assert!(turns.had_better_wait(a, LONG, now + WHILE - Duration::from_millis(1)));
        let waits: Vec<bool> = (0..5).map(|_| turns.had_better_wait(a, LONG, now + WHILE)).collect();
        assert_eq!(waits, [false, false, false, false, true]);
        assert!((0..9).all(|_| !turns.had_better_wait(b, WORTH_BYTES - 1, now)));
    }

    #[test]
    fn where_very_many_are_asked_for_at_once_nobody_waits_and_none_is_remembered_for_good() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let number = |at: usize| BlobHash(std::array::from_fn(|byte| at.to_be_bytes()[byte % 8]));
        for at in 0..KEPT + 9 {
            assert!(!turns.had_better_wait(number(at), LONG, now));
        }
        assert!((0..9).all(|_| !turns.had_better_wait(number(KEPT + 3), LONG, now)));
        assert_eq!(turns.recent.len(), KEPT);
        assert!(!turns.had_better_wait(number(KEPT + 3), LONG, now + WHILE));
        assert_eq!(turns.recent.len(), 1);
    }
}
