//! What this member has to tell the others, in the order in which it happened, until all of them have been told.

use std::collections::{BTreeSet, VecDeque};

use obt_wire::{InfoHash, PeerId};

use crate::leases::{LeaseWord, Part};
use crate::limits::EXCHANGE_LOG;
use crate::store::{Note, NoteKey};

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Peer(Note),
    Lease(Box<LeaseWord>),
    /// How many downloads of a swarm were counted here.
    Counted(InfoHash),
}

/// What an entry makes earlier ones superfluous by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Peer(NoteKey),
    Renewal(PeerId),
    Counted(InfoHash),
}

impl Entry {
    fn weight(&self) -> usize {
        match self {
            Self::Lease(word) => match &word.part {
                Part::Items(items) => 2 + items.len() / 2,
                _ => 4,
            },
            Self::Peer(_) | Self::Counted(_) => 1,
        }
    }

    fn subject(&self) -> Option<Subject> {
        match self {
            Self::Peer(note) => Some(Subject::Peer(note.key())),
            Self::Counted(hash) => Some(Subject::Counted(*hash)),
            Self::Lease(word) => match word.part {
                Part::Renewed { whole: false, .. } => Some(Subject::Renewal(word.peer_id)),
                _ => None,
            },
        }
    }
}

/// See the module.
///
/// Invariants: positions increase, and all are below `head`; `weight` is the sum over the entries.
#[derive(Default)]
pub(super) struct Log {
    entries: VecDeque<(u64, Entry)>,
    head: u64,
    weight: usize,
}

impl Log {
    /// The position behind the last entry.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// How full it is: entries, with those counted for more that are longer.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.weight += entry.weight();
        self.entries.push_back((self.head, entry));
        self.head += 1;
    }

    /// The entries from this position on.
    pub(super) fn from(&self, position: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let at = self.entries.partition_point(|(at, _)| *at < position);
        self.entries.range(at..).map(|(at, entry)| (*at, entry))
    }

    /// Forgets what is before this position.
    pub(super) fn trim(&mut self, position: u64) {
        while self.entries.front().is_some_and(|(at, _)| *at < position) {
            if let Some((_, entry)) = self.entries.pop_front() {
                self.weight -= entry.weight();
            }
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    /// Whether there is more than it may hold, after what is superfluous has been forgotten.
    pub(super) fn is_over_full(&mut self) -> bool {
        if self.weight <= EXCHANGE_LOG {
            return false;
        }
        self.compact();
        // With a quarter of it free, the next time is not at once.
        self.weight > EXCHANGE_LOG - EXCHANGE_LOG / 4
    }

    /// Forgets what later entries make superfluous; the order of the rest stays.
    fn compact(&mut self) {
        let mut seen = BTreeSet::new();
        let mut kept = VecDeque::with_capacity(self.entries.len() / 2);
        for (at, entry) in std::mem::take(&mut self.entries).into_iter().rev() {
            if entry.subject().is_none_or(|subject| seen.insert(subject)) {
                kept.push_front((at, entry));
            }
        }
        self.weight = kept.iter().map(|(_, entry)| entry.weight()).sum();
        self.entries = kept;
    }

    /// The position that has half of the weight before it.
    pub(super) fn middle(&self) -> u64 {
        let mut sum = 0;
        let half = self.entries.iter().find(|(_, entry)| {
            sum += entry.weight();
            sum * 2 >= self.weight
        });
        half.map_or(self.head, |(at, _)| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::LifeClass;
    use crate::store::{Marks, Said};

    fn note(port: u16, said: Said) -> Entry {
        let addr = ([10, 0, 0, 1], port).into();
        Entry::Peer(Note::about(InfoHash([1; 20]), addr, Marks::NONE, LifeClass::Short, said, 0))
    }

    #[test]
    fn what_is_superfluous_goes_before_anything_else() {
        let mut log = Log::default();
        for round in 0..EXCHANGE_LOG + 1 {
            log.push(note(u16::try_from(round % 100).unwrap(), Said::Alive));
        }
        let newest = log.head() - 1;
        assert!(!log.is_over_full());
        assert_eq!((log.weight(), log.from(0).count()), (100, 100));
        assert_eq!(log.from(newest).count(), 1, "positions stay what they are");
        assert_eq!(log.middle(), newest - 49);
        log.trim(newest);
        assert_eq!(log.weight(), 1);
    }

    #[test]
    fn more_than_it_may_hold_is_noticed() {
        let mut log = Log::default();
        for round in 0..u32::try_from(EXCHANGE_LOG).unwrap() + 1 {
            let [a, b, c, d] = round.to_be_bytes();
            log.push(Entry::Counted(InfoHash([[a, b, c, d]; 5].concat().try_into().unwrap())));
        }
        assert!(log.is_over_full());
    }
}
