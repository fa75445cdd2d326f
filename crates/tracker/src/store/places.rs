//! A table from hashes to positions in a dense array.
//!
//! Open addressing with linear probing; a slot keeps 32 bits of the hash beside the position, so that probing and
//! growing never touch the array, and a search touches it once, at the right place.

/// Slots of a new table.
const SMALLEST: usize = 16;

/// Positions by hash.
///
/// Invariants: `slots.len()` is a power of two; at least a quarter of the slots is empty (0); from the home of an
/// entry to its slot no slot is empty.
#[derive(Default)]
pub(crate) struct Places {
    slots: Box<[u64]>,
    len: usize,
}

/// Low half: position + 1. High half: 32 bits of the hash.
fn slot(hash: u64, at: u32) -> u64 {
    (hash << 32) | (u64::from(at) + 1)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half holds a u32 plus one, and is not 0")]
fn position(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

impl Places {
    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }

    /// Where an entry with this hash would stand if nobody was in its way: from the kept bits alone.
    fn home(&self, slot: u64) -> usize {
        (slot >> 32) as usize & self.mask()
    }

    /// The position with this hash that `is` says is the right one.
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut probe = self.home(slot(hash, 0));
        loop {
            let found = *self.slots.get(probe)?;
            if found == 0 {
                return None;
            }
            if found >> 32 == hash & 0xffff_ffff && is(position(found)) {
                return Some(position(found));
            }
            probe = (probe + 1) & self.mask();
        }
    }

    /// Adds a position that is not in the table.
    pub(crate) fn insert(&mut self, hash: u64, at: u32) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.resize((self.slots.len() * 2).max(SMALLEST));
        }
        self.len += 1;
        self.put(slot(hash, at));
    }

    fn put(&mut self, entry: u64) {
        let mut probe = self.home(entry);
        while let Some(slot) = self.slots.get_mut(probe) {
            if *slot == 0 {
                *slot = entry;
                return;
            }
            probe = (probe + 1) & self.mask();
        }
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![0; slots].into_boxed_slice());
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            self.put(entry);
        }
    }

    fn slot_of(&self, hash: u64, at: u32) -> Option<usize> {
        let wanted = slot(hash, at);
        let mut probe = self.home(wanted);
        loop {
            let found = *self.slots.get(probe)?;
            if found == wanted {
                return Some(probe);
            }
            if found == 0 {
                return None;
            }
            probe = (probe + 1) & self.mask();
        }
    }

    /// Removes a position; those behind it move up, so that no gap cuts a probe short.
    pub(crate) fn remove(&mut self, hash: u64, at: u32) {
        let Some(mut gap) = self.slot_of(hash, at) else {
            debug_assert!(false, "a position that is removed is in the table");
            return;
        };
        self.len -= 1;
        let mask = self.mask();
        let mut probe = gap;
        loop {
            probe = (probe + 1) & mask;
            let entry = self.slots[probe];
            if entry == 0 {
                break;
            }
            let from_home = probe.wrapping_sub(self.home(entry)) & mask;
            let from_gap = probe.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.slots[gap] = entry;
                gap = probe;
            }
        }
        self.slots[gap] = 0;
        if self.slots.len() > SMALLEST && self.len * 8 < self.slots.len() {
            self.resize(self.slots.len() / 2);
        }
    }

    /// Says that what was at the two positions in the array, with these hashes, changed places.
    pub(crate) fn swapped(&mut self, (hash_a, a): (u64, u32), (hash_b, b): (u64, u32)) {
        let found = self.slot_of(hash_a, a).zip(self.slot_of(hash_b, b));
        debug_assert!(found.is_some(), "positions that change places are in the table");
        if let Some((place_a, place_b)) = found {
            self.slots[place_a] = slot(hash_a, b);
            self.slots[place_b] = slot(hash_b, a);
        }
    }

    /// Says that what was at `from` in the array is at `to`.
    pub(crate) fn moved(&mut self, hash: u64, from: u32, to: u32) {
        let found = self.slot_of(hash, from);
        debug_assert!(found.is_some(), "a position that moves is in the table");
        if let Some(place) = found.and_then(|found| self.slots.get_mut(found)) {
            *place = slot(hash, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_table_is_a_map(steps in prop::collection::vec((0u8..3, 0u32..60), 0..400), clash in 1u64..40) {
            // Few different hashes: long probes and wrap-around are the rule.
            let hash = |at: u32| u64::from(at) % clash * 0x1_0000_000f;
            let mut table = Places::default();
            let mut model = BTreeMap::new();
            for (step, at) in steps {
                let present = model.contains_key(&at);
                match step {
                    0 if !present => {
                        table.insert(hash(at), at);
                        model.insert(at, hash(at));
                    }
                    1 if present => {
                        table.remove(hash(at), at);
                        model.remove(&at);
                    }
                    2 if present => {
                        let to = at + 1_000;
                        table.moved(hash(at), at, to);
                        prop_assert_eq!(table.find(hash(at), |found| found == to), Some(to));
                        table.moved(hash(at), to, at);
                    }
                    _ => {}
                }
                for at in 0..60 {
                    let expected = model.contains_key(&at).then_some(at);
                    prop_assert_eq!(table.find(hash(at), |found| found == at), expected);
                }
            }
        }
    }

    #[test]
    fn an_emptied_table_gives_memory_back() {
        let mut table = Places::default();
        for at in 0..10_000 {
            table.insert(u64::from(at) * 0x9e37_79b9, at);
        }
        let full = table.heap_bytes();
        for at in 0..10_000 {
            table.remove(u64::from(at) * 0x9e37_79b9, at);
        }
        assert!(table.heap_bytes() * 16 < full);
    }
}
