//! What we hold, and how much of it a tracker knows.

use std::collections::{BTreeMap, BTreeSet};

use obt_wire::InfoHash;

use crate::api_types::{LeaseEvent, LeaseItem};
use crate::limits::LEASE_ITEMS;

/// One tracker's lease.
///
/// Invariants: whatever is in `changed` is in `items`; nothing in `removed` is. While `synced`, the tracker's view is
/// `items` but for `changed`, `removed` and `sent`.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// All that we hold or fetch, with the bytes still missing.
    items: BTreeMap<InfoHash, u64>,
    /// Items that the tracker does not know as they are, with what happened to them.
    changed: BTreeMap<InfoHash, Option<LeaseEvent>>,
    /// Items that the tracker knows and that are gone.
    removed: BTreeSet<InfoHash>,
    /// The change up to which the tracker knows us.
    revision: u64,
    /// The tracker has a lease of ours.
    synced: bool,
    /// The lease is wanted even while nothing is on it.
    held: bool,
    /// The message under way.
    sent: Option<Sent>,
}

/// What one message says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sent {
    pub(super) revision: u64,
    pub(super) full: bool,
    pub(super) set: BTreeMap<InfoHash, Option<LeaseEvent>>,
    pub(super) removed: BTreeSet<InfoHash>,
    pub(super) stopped: bool,
}

impl Record {
    /// An item is here, or is different.
    pub(super) fn set(&mut self, hash: InfoHash, left: u64, event: Option<LeaseEvent>) {
        self.removed.remove(&hash);
        let before = self.items.insert(hash, left);
        if before != Some(left) || event.is_some() {
            let told = self.changed.entry(hash).or_default();
            *told = event.or(*told);
        }
    }

    /// An item is gone.
    pub(super) fn remove(&mut self, hash: InfoHash) {
        self.changed.remove(&hash);
        if self.items.remove(&hash).is_some() {
            self.removed.insert(hash);
        }
    }

    /// The lease is wanted even while nothing is on it.
    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    /// Everything is gone.
    pub(super) fn clear(&mut self) {
        self.held = false;
        self.items.clear();
        self.changed.clear();
        self.removed.clear();
    }

    fn is_wanted(&self) -> bool {
        self.held || !self.items.is_empty()
    }

    /// Whether the tracker has a lease of ours, as far as we know.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether the lease has to be renewed from time to time.
    pub(super) fn is_alive(&self) -> bool {
        self.synced || self.is_wanted()
    }

    /// Whether there is something that the tracker should know at once.
    pub(super) fn has_news(&self) -> bool {
        match self.is_wanted() {
            true => !self.synced || !self.changed.is_empty() || !self.removed.is_empty(),
            false => self.synced,
        }
    }

    /// The next message: all that is new, up to what one message holds, or nothing, which renews the lease.
    pub(super) fn send(&mut self) -> &Sent {
        let mut sent = Sent { revision: self.revision, stopped: !self.is_wanted(), ..Sent::default() };
        if !sent.stopped && !self.synced {
            sent.full = true;
            for hash in self.items.keys() {
                self.changed.entry(*hash).or_default();
            }
            self.removed.clear();
        }
        if !sent.stopped {
            sent.set = first(&mut self.changed, |changed| changed.pop_first());
            sent.removed = first(&mut self.removed, |removed| removed.pop_first());
        }
        if sent.full || !sent.set.is_empty() || !sent.removed.is_empty() {
            sent.revision += 1;
        }
        self.sent.insert(sent)
    }

    /// The items of a message as the tracker reads them.
    pub(super) fn items(&self, sent: &Sent) -> Vec<LeaseItem> {
        let item = |(hash, event): (&InfoHash, &Option<LeaseEvent>)| LeaseItem {
            hash: hash.to_string(),
            left: self.items.get(hash).copied().unwrap_or_default(),
            event: *event,
        };
        sent.set.iter().map(item).collect()
    }

    /// The tracker has taken the message.
    pub(super) fn accepted(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.revision = sent.revision;
            self.synced = !sent.stopped;
        }
    }

    /// The tracker does not know us, or has missed a change: everything is to be sent.
    pub(super) fn lost(&mut self) {
        self.failed();
        self.synced = false;
    }

    /// The message may have arrived or not: what it said is said again, under the same number.
    pub(super) fn failed(&mut self) {
        let Some(sent) = self.sent.take() else {
            return;
        };
        for (hash, event) in sent.set {
            if self.items.contains_key(&hash) {
                let told = self.changed.entry(hash).or_default();
                *told = told.or(event);
            } else {
                self.removed.insert(hash);
            }
        }
        for hash in sent.removed {
            if !self.items.contains_key(&hash) {
                self.removed.insert(hash);
            }
        }
    }
}

/// As much as one message holds.
fn first<S, T, O: FromIterator<T>>(from: &mut S, mut pop: impl FnMut(&mut S) -> Option<T>) -> O {
    std::iter::from_fn(|| pop(from)).take(LEASE_ITEMS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u32) -> InfoHash {
        let mut hash = InfoHash::default();
        hash.0[..4].copy_from_slice(&number.to_be_bytes());
        hash
    }

    /// A record whose tracker knows items 1 and 2.
    fn synced() -> Record {
        let mut record = Record::default();
        record.set(hash(1), 10, Some(LeaseEvent::Started));
        record.set(hash(2), 0, None);
        let sent = record.send();
        assert!(sent.full && sent.revision == 1 && sent.set.len() == 2);
        record.accepted();
        assert!(!record.has_news());
        record
    }

    #[test]
    fn only_changes_are_sent_and_a_renewal_says_nothing() {
        let mut record = synced();
        assert_eq!(*record.send(), Sent { revision: 1, ..Sent::default() });
        record.accepted();
        record.set(hash(1), 10, None);
        assert!(!record.has_news(), "said again, nothing new");
        record.set(hash(1), 0, Some(LeaseEvent::Completed));
        record.remove(hash(2));
        let sent = record.send().clone();
        assert_eq!((sent.revision, sent.full, sent.stopped), (2, false, false));
        assert_eq!(sent.set, [(hash(1), Some(LeaseEvent::Completed))].into());
        assert_eq!(sent.removed, [hash(2)].into());
        assert_eq!(record.items(&sent).first().map(|item| item.left), Some(0));
    }

    #[test]
    fn what_was_lost_on_the_way_is_said_again_under_the_same_number() {
        let mut record = synced();
        record.set(hash(1), 0, Some(LeaseEvent::Completed));
        record.remove(hash(2));
        record.set(hash(3), 5, None);
        assert_eq!(record.send().revision, 2);
        // While the message is under way, one is renewed and one goes.
        record.set(hash(1), 0, None);
        record.remove(hash(3));
        record.set(hash(2), 7, None);
        record.failed();
        let sent = record.send();
        assert_eq!(sent.revision, 2);
        assert_eq!(sent.set, [(hash(1), Some(LeaseEvent::Completed)), (hash(2), None)].into());
        assert_eq!(sent.removed, [hash(3)].into());
    }

    #[test]
    fn a_tracker_that_forgot_us_is_told_everything() {
        let mut record = synced();
        record.remove(hash(2));
        record.send();
        record.lost();
        assert!(record.has_news());
        let sent = record.send();
        assert!(sent.full && sent.removed.is_empty());
        assert_eq!(sent.set.keys().copied().collect::<Vec<_>>(), [hash(1)]);
    }

    #[test]
    fn a_lease_without_items_ends_unless_it_is_held() {
        let mut record = synced();
        record.remove(hash(1));
        record.remove(hash(2));
        assert!(record.has_news() && record.send().stopped);
        record.accepted();
        assert!(!record.has_news() && !record.is_alive());

        let mut record = synced();
        record.hold();
        record.remove(hash(1));
        record.remove(hash(2));
        assert!(!record.send().stopped);
        record.accepted();
        assert!(!record.has_news() && record.is_alive());
        record.clear();
        assert!(record.has_news() && record.send().stopped);
    }

    #[test]
    fn many_items_go_in_several_messages_and_renew_in_a_small_one() {
        let mut record = Record::default();
        let count = u32::try_from(2 * LEASE_ITEMS).unwrap() + 1;
        (0..count).for_each(|number| record.set(hash(number), 0, None));
        for (revision, full, items) in [(1, true, LEASE_ITEMS), (2, false, LEASE_ITEMS), (3, false, 1)] {
            assert!(record.has_news());
            let sent = record.send();
            assert_eq!((sent.revision, sent.full, sent.set.len()), (revision, full, items));
            record.accepted();
        }
        assert!(!record.has_news());
        assert_eq!(*record.send(), Sent { revision: 3, ..Sent::default() });
    }
}
