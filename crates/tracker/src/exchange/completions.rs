//! How many downloads each member counted, so that each is counted once by all: a member tells how many it counted
//! itself since it started, and the others add what that is more than they knew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use obt_wire::InfoHash;

use super::wire::MemberId;
use crate::limits::COUNTED_SWARMS;
use crate::store::NoteKey;

/// How long two members may take to hear of the same completion from the client itself: it tells its trackers one after
/// the other.
const SAME: Duration = Duration::from_secs(60);
/// Completions remembered for that.
const RECENT: usize = 1 << 16;

/// What is known of one swarm.
#[derive(Debug, Default)]
struct Counts {
    own: u32,
    /// What each member counted by itself, as it was heard last.
    others: Vec<(MemberId, u32)>,
}

impl Counts {
    fn of(&mut self, member: MemberId) -> &mut u32 {
        let at = self.others.iter().position(|(other, _)| *other == member).unwrap_or_else(|| {
            self.others.push((member, 0));
            self.others.len() - 1
        });
        &mut self.others[at].1
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Completions {
    swarms: BTreeMap<InfoHash, Counts>,
    /// Completions that were counted here a short while ago.
    recent: BTreeMap<NoteKey, Instant>,
    /// Those that a member counted which comes before this one, and of which nothing had been heard here.
    elsewhere: BTreeMap<NoteKey, Instant>,
    /// What others counted before this member started has been taken over.
    pub(super) adopted: bool,
    looked_at: Option<InfoHash>,
}

impl Completions {
    /// What is known of a swarm; None where that would be one too many.
    fn counts(&mut self, hash: &InfoHash) -> Option<&mut Counts> {
        if self.swarms.len() >= COUNTED_SWARMS && !self.swarms.contains_key(hash) {
            return None;
        }
        Some(self.swarms.entry(*hash).or_default())
    }

    /// Counts a download that was completed here.
    pub(super) fn count(&mut self, hash: &InfoHash) {
        if let Some(counts) = self.counts(hash) {
            counts.own = counts.own.saturating_add(1);
        }
    }

    /// Counts the completion of a client, unless a member that comes before this one has; whether it was counted.
    pub(super) fn count_client(&mut self, client: NoteKey, now: Instant) -> bool {
        if self.elsewhere.remove(&client).is_some() {
            return false;
        }
        self.count(&client.0);
        if self.recent.len() < RECENT {
            self.recent.insert(client, now);
        }
        true
    }

    /// Takes back the completion of a client that a member counted which comes before this one; whether it was counted
    /// here.
    pub(super) fn take_back(&mut self, client: NoteKey, now: Instant) -> bool {
        if self.recent.remove(&client).is_none() {
            if self.elsewhere.len() < RECENT {
                self.elsewhere.insert(client, now);
            }
            return false;
        }
        if let Some(counts) = self.swarms.get_mut(&client.0) {
            counts.own = counts.own.saturating_sub(1);
        }
        true
    }

    /// How many were counted here.
    pub(super) fn own(&self, hash: &InfoHash) -> u32 {
        self.swarms.get(hash).map_or(0, |counts| counts.own)
    }

    /// What each member counted, `me` included.
    pub(super) fn counted(&self, hash: &InfoHash, me: MemberId) -> Vec<(MemberId, u32)> {
        let Some(counts) = self.swarms.get(hash) else {
            return Vec::new();
        };
        std::iter::once((me, counts.own)).chain(counts.others.iter().copied()).filter(|(_, count)| *count > 0).collect()
    }

    /// Takes how many a member counted; what that is more than it was.
    pub(super) fn hear(&mut self, member: MemberId, hash: &InfoHash, own: u32) -> i64 {
        let Some(counts) = self.counts(hash) else {
            return 0;
        };
        let known = std::mem::replace(counts.of(member), own);
        let more = i64::from(own) - i64::from(known);
        // It takes back one at a time; where there are far fewer it had forgotten the swarm.
        if more < -1 { i64::from(own) } else { more }
    }

    /// Takes over what a member knows of a swarm of which `total` were known here; what that is more.
    pub(super) fn adopt(
        &mut self,
        hash: &InfoHash,
        completed: u32,
        counted: &[(MemberId, u32)],
        me: MemberId,
        total: u32,
    ) -> i64 {
        let Some(counts) = self.counts(hash) else {
            return 0;
        };
        // What was counted here is in both, as far as the other has heard of it.
        let mine = counted.iter().find(|(member, _)| *member == me).map_or(0, |(_, count)| *count);
        let (theirs, ours) = (completed.saturating_sub(mine), total.saturating_sub(counts.own));
        for (member, count) in counted.iter().filter(|(member, _)| *member != me) {
            let known = counts.of(*member);
            *known = (*known).max(*count);
        }
        (i64::from(theirs) - i64::from(ours)).max(0)
    }

    /// Forgets what a member counted that has started anew or is none any more: it is in the totals.
    pub(super) fn forget(&mut self, member: MemberId) {
        for counts in self.swarms.values_mut() {
            counts.others.retain(|(other, _)| *other != member);
        }
    }

    /// Forgets what is over: completions of long ago, and some of the swarms that `is_known` does not know.
    pub(super) fn expire(&mut self, mut is_known: impl FnMut(&InfoHash) -> bool, now: Instant) {
        const AT_ONCE: usize = 64;
        for clients in [&mut self.recent, &mut self.elsewhere] {
            clients.retain(|_, at| now.saturating_duration_since(*at) < SAME);
        }
        let from = self.looked_at.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let some: Vec<InfoHash> =
            self.swarms.range((from, std::ops::Bound::Unbounded)).take(AT_ONCE).map(|(hash, _)| *hash).collect();
        self.looked_at = some.last().copied();
        for hash in some {
            if !is_known(&hash) {
                self.swarms.remove(&hash);
            }
        }
    }

    /// Swarms of which something is known.
    pub(super) fn len(&self) -> usize {
        self.swarms.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = InfoHash([1; 20]);
    const ME: MemberId = MemberId(1);
    const OTHER: MemberId = MemberId(2);
    const THIRD: MemberId = MemberId(3);

    #[test]
    fn what_was_heard_twice_counts_once() {
        let mut completions = Completions::default();
        assert_eq!(completions.hear(OTHER, &HASH, 3), 3);
        assert_eq!(completions.hear(OTHER, &HASH, 3), 0);
        assert_eq!(completions.hear(OTHER, &HASH, 5), 2);
        assert_eq!(completions.hear(OTHER, &HASH, 4), -1);
        assert_eq!(completions.hear(THIRD, &HASH, 1), 1);
        completions.forget(OTHER);
        assert_eq!(completions.hear(OTHER, &HASH, 2), 2, "it has started anew");
    }

    #[test]
    fn who_starts_takes_over_what_was_counted_before_and_itself_once() {
        let mut completions = Completions::default();
        completions.count(&HASH);
        // The catalogue knew of 7, one more was counted here, and the other has heard of that.
        let counted = [(ME, 1), (OTHER, 4), (THIRD, 2)];
        assert_eq!(completions.adopt(&HASH, 10, &counted, ME, 8), 2);
        assert_eq!(completions.adopt(&HASH, 10, &counted, ME, 10), 0);
        assert_eq!(completions.hear(THIRD, &HASH, 3), 1, "the rest of what the third counted");
        assert_eq!(completions.counted(&HASH, ME), [(ME, 1), (OTHER, 4), (THIRD, 3)]);
    }
}
