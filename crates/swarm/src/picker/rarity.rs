//! How many peers have each piece, and the pieces that wait to be opened, rarest first.
//!
//! Peers that have everything are one number, not a mark on each piece: they make no piece rarer than another.

/// Place of a piece that is not in a bucket.
const NOWHERE: u32 = u32::MAX;

/// Availability of all pieces, and the waiting ones sorted by it.
///
/// Invariants: a waiting piece stands once, in the bucket of its availability, at `place`; the order inside a bucket is
/// a random permutation (each piece comes in at a random place), so the first one is a fair draw.
#[derive(Debug)]
pub(super) struct Rarity {
    availability: Vec<u32>,
    place: Vec<u32>,
    buckets: Vec<Vec<u32>>,
    waiting: usize,
    rng: fastrand::Rng,
}

impl Rarity {
    pub(super) fn new(pieces: u32, seed: u64) -> Self {
        let pieces = pieces as usize;
        Self {
            availability: vec![0; pieces],
            place: vec![NOWHERE; pieces],
            buckets: Vec::new(),
            waiting: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// How many peers have `piece`, not counting those that have everything.
    pub(super) fn availability(&self, piece: u32) -> u32 {
        self.availability.get(piece as usize).copied().unwrap_or(0)
    }

    /// How many pieces wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_waiting(&self, piece: u32) -> bool {
        self.place.get(piece as usize).is_some_and(|place| *place != NOWHERE)
    }

    /// Waiting pieces that this many peers have, in random order.
    pub(super) fn bucket(&self, availability: usize) -> &[u32] {
        self.buckets.get(availability).map_or(&[], Vec::as_slice)
    }

    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// One more peer has `piece`.
    pub(super) fn increase(&mut self, piece: u32) {
        self.change(piece, |count| count.saturating_add(1));
    }

    /// One peer fewer has `piece`.
    pub(super) fn decrease(&mut self, piece: u32) {
        debug_assert!(self.availability(piece) > 0, "piece {piece} was not counted");
        self.change(piece, |count| count.saturating_sub(1));
    }

    fn change(&mut self, piece: u32, by: impl FnOnce(u32) -> u32) {
        let waits = self.is_waiting(piece);
        if waits {
            self.take_out(piece);
        }
        if let Some(count) = self.availability.get_mut(piece as usize) {
            *count = by(*count);
        }
        if waits {
            self.put_in(piece);
        }
    }

    /// `piece` waits to be opened. No effect if it does already.
    pub(super) fn wait(&mut self, piece: u32) {
        if !self.is_waiting(piece) && (piece as usize) < self.place.len() {
            self.put_in(piece);
        }
    }

    /// `piece` does not wait any more. No effect if it did not.
    pub(super) fn stop_waiting(&mut self, piece: u32) {
        if self.is_waiting(piece) {
            self.take_out(piece);
        }
    }

    fn put_in(&mut self, piece: u32) {
        let bucket = self.availability(piece) as usize;
        if self.buckets.len() <= bucket {
            self.buckets.resize_with(bucket + 1, Vec::new);
        }
        let Some(bucket) = self.buckets.get_mut(bucket) else {
            return;
        };
        let end = bucket.len();
        let at = self.rng.usize(..=end);
        bucket.push(piece);
        bucket.swap(at, end);
        for place in [at, end] {
            set_place(&mut self.place, bucket[place], place);
        }
        self.waiting += 1;
    }

    fn take_out(&mut self, piece: u32) {
        let Some(bucket) = self.buckets.get_mut(self.availability[piece as usize] as usize) else {
            return;
        };
        let at = std::mem::replace(&mut self.place[piece as usize], NOWHERE) as usize;
        bucket.swap_remove(at);
        if let Some(moved) = bucket.get(at) {
            set_place(&mut self.place, *moved, at);
        }
        // Every piece passes through every bucket in time; without this each bucket would keep room for all of them.
        if bucket.capacity() > 64 && bucket.len() * 4 < bucket.capacity() {
            bucket.shrink_to(bucket.len() * 2);
        }
        self.waiting -= 1;
    }

    /// Whether the invariants hold.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut seen = 0;
        for (availability, bucket) in self.buckets.iter().enumerate() {
            for (at, piece) in bucket.iter().enumerate() {
                let piece = *piece as usize;
                if self.availability[piece] as usize != availability || self.place[piece] as usize != at {
                    return Err(format!("piece {piece} stands at {at} of bucket {availability}"));
                }
                seen += 1;
            }
        }
        let placed = self.place.iter().filter(|place| **place != NOWHERE).count();
        if seen != self.waiting || placed != seen {
            return Err(format!("{seen} in buckets, {placed} placed, {} counted", self.waiting));
        }
        Ok(())
    }
}

fn set_place(places: &mut [u32], piece: u32, at: usize) {
    if let Some(place) = places.get_mut(piece as usize) {
        *place = u32::try_from(at).unwrap_or(NOWHERE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_moves_with_its_availability() {
        let mut rarity = Rarity::new(4, 1);
        for piece in 0..4 {
            rarity.wait(piece);
        }
        rarity.increase(2);
        rarity.increase(2);
        rarity.increase(1);
        rarity.decrease(2);
        assert_eq!(rarity.bucket(1).len(), 2);
        assert_eq!(rarity.bucket(2), []);
        rarity.stop_waiting(1);
        rarity.stop_waiting(1);
        assert_eq!(rarity.bucket(1), [2]);
        assert_eq!(rarity.waiting(), 3);
        rarity.check().unwrap();
    }

    #[test]
    fn every_piece_is_first_of_its_bucket_equally_often() {
        let mut first = [0u32; 8];
        for seed in 0..8_000 {
            let mut rarity = Rarity::new(8, seed);
            for piece in 0..8 {
                rarity.wait(piece);
            }
            // Moves must not leave a mark: each goes up and half of them down and up again.
            for piece in 0..8 {
                rarity.increase(piece);
            }
            for piece in 0..4 {
                rarity.decrease(piece);
                rarity.increase(piece);
            }
            first[rarity.bucket(1)[0] as usize] += 1;
        }
        // Chi square with 7 degrees of freedom: above 24.3 once in a thousand.
        let chi: f64 = first.iter().map(|seen| (f64::from(*seen) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 24.3, "{first:?}");
    }

    #[test]
    fn buckets_give_back_the_room_of_pieces_that_left() {
        let mut rarity = Rarity::new(10_000, 3);
        (0..10_000).for_each(|piece| rarity.wait(piece));
        for _ in 0..20 {
            (0..10_000).for_each(|piece| rarity.increase(piece));
        }
        let room: usize = rarity.buckets.iter().map(Vec::capacity).sum();
        assert!(room < 10_000 * 5, "{room}");
    }
}
