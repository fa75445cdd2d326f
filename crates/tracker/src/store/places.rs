//! A table from hashes to all positions of an array.
//!
//! Open addressing with linear probing. A slot is two bytes or four: a position, and in the bits above as much of the hash
//! as fits there, so that a search hardly ever looks at a wrong place in the array. The whole hash is not kept: who owns
//! the array says it again where entries have to move. A table grows by a quarter at a time, so that it is at least 64 %
//! full; doubling would leave half of it empty on average.

/// Slots of a new table.
const SMALLEST: usize = 16;

/// Positions by hash.
///
/// Invariants: at least a fifth of the slots is empty (0); from the home of an entry to its slot no slot is empty; every
/// position is below the number of slots, as those of an array are of which all places are in the table.
#[derive(Default)]
pub(crate) struct Places {
    slots: Slots,
    len: usize,
}

/// Position + 1, and bits of the hash above it.
enum Slots {
    /// Of positions below 65,535.
    Short(Box<[u16]>),
    Long(Box<[u32]>),
}

impl Default for Slots {
    fn default() -> Self {
        Self::Short(Box::default())
    }
}

impl Slots {
    fn new(len: usize) -> Self {
        match u16::try_from(len) {
            Ok(_) => Self::Short(vec![0; len].into_boxed_slice()),
            Err(_) => Self::Long(vec![0; len].into_boxed_slice()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Short(slots) => slots.len(),
            Self::Long(slots) => slots.len(),
        }
    }

    fn get(&self, at: usize) -> Option<u32> {
        match self {
            Self::Short(slots) => slots.get(at).map(|slot| u32::from(*slot)),
            Self::Long(slots) => slots.get(at).copied(),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "an entry of a short table has no higher bits: see `entry`")]
    fn set(&mut self, at: usize, entry: u32) {
        match self {
            Self::Short(slots) => {
                if let Some(slot) = slots.get_mut(at) {
                    *slot = entry as u16;
                }
            }
            Self::Long(slots) => {
                if let Some(slot) = slots.get_mut(at) {
                    *slot = entry;
                }
            }
        }
    }

    /// The bits of an entry that are a position + 1: positions are fewer than slots.
    fn position_mask(&self) -> u32 {
        u32::MAX >> u32::try_from(self.len()).unwrap_or(u32::MAX).leading_zeros().min(31)
    }

    fn entry(&self, hash: u64, at: u32) -> u32 {
        let width = if matches!(self, Self::Short(_)) { u32::from(u16::MAX) } else { u32::MAX };
        ((hash >> 32) as u32 & !self.position_mask() & width) | (at + 1)
    }

    /// Where an entry with this hash stands if nobody is in its way. Not by the highest bits: they are the same in all of
    /// a shard.
    fn home(&self, hash: u64) -> usize {
        usize::try_from(((hash & u64::from(u32::MAX)) * self.len() as u64) >> 32).unwrap_or(0)
    }

    fn behind(&self, at: usize) -> usize {
        if at + 1 < self.len() { at + 1 } else { 0 }
    }

    /// The slot and the entry that `is` says is the right one, from the home of this hash on.
    fn probe(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<(usize, u32)> {
        match self {
            Self::Short(slots) => probe(slots, self.home(hash), is),
            Self::Long(slots) => probe(slots, self.home(hash), is),
        }
    }
}

fn probe<S: Copy + Into<u32>>(slots: &[S], home: usize, mut is: impl FnMut(u32) -> bool) -> Option<(usize, u32)> {
    let (before, behind) = slots.split_at_checked(home)?;
    for (side, first) in [(behind, home), (before, 0)] {
        for (at, slot) in side.iter().enumerate() {
            let entry = (*slot).into();
            if entry == 0 {
                return None;
            }
            if is(entry) {
                return Some((first + at, entry));
            }
        }
    }
    None
}

impl Places {
    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        match &self.slots {
            Slots::Short(slots) => size_of_val(&**slots),
            Slots::Long(slots) => size_of_val(&**slots),
        }
    }

    /// The position with this hash that `is` says is the right one.
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.position_mask();
        let like = self.slots.entry(hash, 0) & !mask;
        let (_, found) = self.slots.probe(hash, |entry| entry & !mask == like && is((entry & mask).wrapping_sub(1)))?;
        Some((found & mask).wrapping_sub(1))
    }

    /// Adds a position that is not in the table. `hash_of` says the hashes of those that are.
    pub(crate) fn insert(&mut self, hash: u64, at: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 5 > self.slots.len() * 4 {
            self.resize(((self.len + 1) * 25 / 16).max(SMALLEST), hash_of);
        }
        self.len += 1;
        self.put(hash, at);
    }

    fn put(&mut self, hash: u64, at: u32) {
        let mut probe = self.slots.home(hash);
        while self.slots.get(probe).is_some_and(|found| found != 0) {
            probe = self.slots.behind(probe);
        }
        self.slots.set(probe, self.slots.entry(hash, at));
    }

    fn resize(&mut self, slots: usize, hash_of: impl Fn(u32) -> u64) {
        let old = std::mem::replace(&mut self.slots, Slots::new(slots));
        let mask = old.position_mask();
        for entry in (0..old.len()).filter_map(|at| old.get(at)).filter(|entry| *entry != 0) {
            let position = (entry & mask).wrapping_sub(1);
            self.put(hash_of(position), position);
        }
    }

    fn slot_of(&self, hash: u64, at: u32) -> Option<usize> {
        let wanted = self.slots.entry(hash, at);
        self.slots.probe(hash, |entry| entry == wanted).map(|(slot, _)| slot)
    }

    /// Removes a position; those behind it move up, so that no gap cuts a probe short. `hash_of` says the hashes of all
    /// others.
    pub(crate) fn remove(&mut self, hash: u64, at: u32, hash_of: impl Fn(u32) -> u64) {
        let Some(mut gap) = self.slot_of(hash, at) else {
            debug_assert!(false, "a position that is removed is in the table");
            return;
        };
        self.len -= 1;
        let (mask, slots) = (self.slots.position_mask(), self.slots.len());
        let from = |home: usize, to: usize| if to >= home { to - home } else { to + slots - home };
        let mut probe = gap;
        loop {
            probe = self.slots.behind(probe);
            let entry = self.slots.get(probe).unwrap_or(0);
            if entry == 0 {
                break;
            }
            let home = self.slots.home(hash_of((entry & mask).wrapping_sub(1)));
            if from(home, probe) >= from(gap, probe) {
                self.slots.set(gap, entry);
                gap = probe;
            }
        }
        self.slots.set(gap, 0);
        if slots > SMALLEST && self.len * 4 < slots {
            self.resize((self.len * 2).max(SMALLEST), hash_of);
        }
    }

    /// Says that what was at the two positions in the array, with these hashes, changed places.
    pub(crate) fn swapped(&mut self, (hash_a, a): (u64, u32), (hash_b, b): (u64, u32)) {
        let found = self.slot_of(hash_a, a).zip(self.slot_of(hash_b, b));
        debug_assert!(found.is_some(), "positions that change places are in the table");
        if let Some((place_a, place_b)) = found {
            self.slots.set(place_a, self.slots.entry(hash_a, b));
            self.slots.set(place_b, self.slots.entry(hash_b, a));
        }
    }

    /// Says that what was at `from` in the array is at `to`.
    pub(crate) fn moved(&mut self, hash: u64, from: u32, to: u32) {
        let found = self.slot_of(hash, from);
        debug_assert!(found.is_some(), "a position that moves is in the table");
        if let Some(place) = found {
            self.slots.set(place, self.slots.entry(hash, to));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_table_is_a_map(
            steps in prop::collection::vec((0u8..3, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..300),
            clash in 1u64..40,
            many in prop::sample::select(vec![0u64, 3_000, 60_000]),
        ) {
            // Few different hashes: long probes and wrap-around are the rule. Beside `many` others fewer bits of them are
            // kept, and then slots are long.
            let hash = |name: u64| if name < many { spread(name) } else { spread(name % clash) };
            let mut names: Vec<u64> = Vec::new();
            let mut table = Places::default();
            let add = |names: &mut Vec<u64>, table: &mut Places, name| {
                names.push(name);
                table.insert(hash(name), narrow(names.len() - 1), |at| hash(names[at as usize]));
            };
            (0..many).for_each(|name| add(&mut names, &mut table, name));
            let mut next = many;
            for (step, one, other) in steps {
                match step {
                    0 => {
                        add(&mut names, &mut table, next);
                        next += 1;
                    }
                    1 if !names.is_empty() => {
                        let (at, last) = (one.index(names.len()), names.len() - 1);
                        table.remove(hash(names[at]), narrow(at), |at| hash(names[at as usize]));
                        if at != last {
                            table.moved(hash(names[last]), narrow(last), narrow(at));
                        }
                        let gone = names.swap_remove(at);
                        prop_assert_eq!(table.find(hash(gone), |at| names.get(at as usize) == Some(&gone)), None);
                    }
                    2 if !names.is_empty() => {
                        let (a, b) = (one.index(names.len()), other.index(names.len()));
                        if a != b {
                            table.swapped((hash(names[a]), narrow(a)), (hash(names[b]), narrow(b)));
                            names.swap(a, b);
                        }
                    }
                    _ => {}
                }
            }
            for (at, name) in names.iter().enumerate() {
                prop_assert_eq!(table.find(hash(*name), |at| names[at as usize] == *name), Some(narrow(at)));
            }
        }
    }

    fn narrow(at: usize) -> u32 {
        u32::try_from(at).unwrap()
    }

    fn spread(name: u64) -> u64 {
        name.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(21).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn a_full_table_takes_a_few_bytes_a_place() {
        let hash = |at: u32| spread(at.into());
        let mut table = Places::default();
        for at in 0..200_000 {
            table.insert(hash(at), at, hash);
            let most = if table.len < 41_000 { 2 } else { 4 } * table.len * 25 / 16;
            assert!(table.heap_bytes() <= most.max(32), "{} bytes for {at}", table.heap_bytes());
        }
        assert!((0..200_000).all(|at| table.find(hash(at), |found| found == at) == Some(at)));
    }

    #[test]
    fn hashes_with_the_same_highest_bits_as_in_a_shard_stand_near_their_homes() {
        let hash = |at: u32| spread(at.into()) >> 8;
        let mut table = Places::default();
        (0..10_000).for_each(|at| table.insert(hash(at), at, hash));
        let slots = table.slots.len();
        let away = |at: u32| (table.slot_of(hash(at), at).unwrap() + slots - table.slots.home(hash(at))) % slots;
        let sum: usize = (0..10_000).map(away).sum();
        assert!(sum < 40_000, "{sum} steps to find 10,000");
    }

    #[test]
    fn an_emptied_table_gives_memory_back() {
        let hash = |at: u32| spread(at.into());
        let mut table = Places::default();
        (0..10_000).for_each(|at| table.insert(hash(at), at, hash));
        let full = table.heap_bytes();
        (0..10_000).rev().for_each(|at| table.remove(hash(at), at, hash));
        assert!(table.heap_bytes() * 16 < full);
    }
}
