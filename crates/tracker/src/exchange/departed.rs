//! Stock clients that left, and when: a member that was cut off may still tell what it heard of them before.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::limits::{DEPARTED, OLDEST_NEWS};
use crate::store::NoteKey;

/// Who was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Here,
    Elsewhere,
}

/// See the module.
///
/// Invariant: every client in `left` is in `order` with the same second.
#[derive(Default)]
pub(super) struct Departed {
    left: BTreeMap<NoteKey, (i32, Source)>,
    /// As they came to be known, each as often as it left; the first are forgotten first.
    order: VecDeque<(NoteKey, i32)>,
}

impl Departed {
    /// Takes that a client left at this second of the store.
    pub(super) fn note(&mut self, client: NoteKey, at: i32, source: Source) {
        if self.left.get(&client).is_some_and(|(left, _)| *left >= at) {
            return;
        }
        self.left.insert(client, (at, source));
        self.order.push_back((client, at));
        if self.order.len() > DEPARTED {
            self.forget_first();
        }
    }

    /// Takes that a client is here again: news from before it left are older than what is known of it.
    pub(super) fn came_back(&mut self, client: &NoteKey) {
        self.left.remove(client);
    }

    /// Whether a client left after it was heard of at this second.
    pub(super) fn has_left(&self, client: &NoteKey, heard: i32) -> bool {
        self.left.get(client).is_some_and(|(left, _)| heard <= *left)
    }

    /// Forgets those of whom there can be no news from before they left.
    pub(super) fn expire(&mut self, seconds: i64) {
        while self.order.front().is_some_and(|(_, at)| i64::from(*at) + i64::from(OLDEST_NEWS) < seconds) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((client, at)) = self.order.pop_front()
            && self.left.get(&client).is_some_and(|(left, _)| *left == at)
        {
            self.left.remove(&client);
        }
    }

    /// Those behind `after` that left here.
    pub(super) fn own(&self, after: Option<NoteKey>) -> impl Iterator<Item = (&NoteKey, i32)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let own = |(client, (at, source)): (_, &(i32, Source))| (*source == Source::Here).then_some((client, *at));
        self.left.range((from, Bound::Unbounded)).filter_map(own)
    }

    /// How much is remembered.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use obt_wire::InfoHash;

    use super::*;

    fn client(number: usize) -> NoteKey {
        let mut ip = [0; 16];
        ip[..8].copy_from_slice(&number.to_be_bytes());
        (InfoHash([1; 20]), true, ip, [1, 1])
    }

    #[test]
    fn what_was_heard_before_is_over_and_what_comes_after_is_not() {
        let mut departed = Departed::default();
        departed.note(client(1), 10, Source::Here);
        departed.note(client(1), 8, Source::Here);
        assert!(departed.has_left(&client(1), 10) && !departed.has_left(&client(1), 11));
        assert!(!departed.has_left(&client(2), 5));
        departed.note(client(1), 20, Source::Elsewhere);
        departed.expire(i64::from(OLDEST_NEWS) + 11);
        assert!(departed.has_left(&client(1), 20), "it left again since");
        departed.expire(i64::from(OLDEST_NEWS) + 21);
        assert_eq!((departed.has_left(&client(1), 20), departed.len()), (false, 0));
    }

    #[test]
    fn who_came_back_is_not_told_to_have_left() {
        let mut departed = Departed::default();
        departed.note(client(1), 10, Source::Here);
        departed.note(client(2), 10, Source::Here);
        departed.came_back(&client(1));
        assert_eq!(departed.own(None).collect::<Vec<_>>(), [(&client(2), 10)]);
        departed.note(client(1), 12, Source::Here);
        departed.expire(i64::from(OLDEST_NEWS) + 11);
        assert!(departed.has_left(&client(1), 12), "it left again since");
    }

    #[test]
    fn the_first_are_forgotten_where_there_are_too_many() {
        let mut departed = Departed::default();
        (0..=DEPARTED).for_each(|number| departed.note(client(number), 1, Source::Here));
        assert_eq!(departed.len(), DEPARTED);
        assert!(!departed.has_left(&client(0), 1) && departed.has_left(&client(1), 1));
    }
}
