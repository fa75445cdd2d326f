//! Memory for swarms: each shard has a share, and takes what it needs beyond that from a pool of all.
//!
//! A swarm is in one shard, so that shares alone would end a large one long before memory is short. Half of the memory is
//! shares: whoever fills the pool leaves that to all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Steps in a share: so much of the pool is taken at a time, that threads seldom meet there.
const STEPS: usize = 32;

/// What one shard may use.
///
/// Invariant: `pool` is down by the sum of `taken` over all shards.
pub(crate) struct Budget {
    share: usize,
    step: usize,
    taken: usize,
    pool: Arc<AtomicUsize>,
}

impl Budget {
    /// The budgets of so many shards, which may use `memory` bytes together.
    pub(crate) fn of_shards(memory: usize, shards: usize) -> impl Iterator<Item = Self> {
        let share = memory / 2 / shards.max(1);
        let pool = Arc::new(AtomicUsize::new(memory - share * shards));
        (0..shards).map(move |_| Self { share, step: (share / STEPS).max(1), taken: 0, pool: Arc::clone(&pool) })
    }

    /// Whether a shard that uses `memory` bytes may use more.
    pub(crate) fn has_room(&mut self, memory: usize) -> bool {
        let wanted = memory.checked_sub(self.share).map_or(0, |beyond| (beyond / self.step + 1) * self.step);
        if let Some(more) = wanted.checked_sub(self.taken).filter(|more| *more > 0) {
            let take = |left: usize| left.checked_sub(more);
            if self.pool.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
                return false;
            }
            self.taken = wanted;
        } else if wanted + self.step < self.taken {
            self.pool.fetch_add(self.taken - wanted, Ordering::Relaxed);
            self.taken = wanted;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_may_use_the_pool_and_leaves_the_shares_of_others() {
        let mut budgets: Vec<Budget> = Budget::of_shards(1 << 20, 4).collect();
        let mut used = [0_usize; 4];
        while budgets[0].has_room(used[0]) {
            used[0] += 100;
        }
        assert!(used[0] > 620_000, "{} bytes of one shard", used[0]);
        for at in 1..4 {
            while budgets[at].has_room(used[at]) {
                used[at] += 100;
            }
            assert!(used[at] > 130_000, "{} bytes of a shard that comes late", used[at]);
        }
        assert!(used.iter().sum::<usize>() < (1 << 20) + 4 * 100, "{used:?}");
    }

    #[test]
    fn what_a_shard_gives_back_is_for_others() {
        let mut budgets: Vec<Budget> = Budget::of_shards(1 << 20, 4).collect();
        assert!(budgets[0].has_room(600_000));
        assert!(!budgets[1].has_room(600_000));
        assert!(budgets[0].has_room(10));
        assert!(budgets[1].has_room(600_000));
    }
}
