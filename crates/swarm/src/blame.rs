//! Who sent the bytes that made a piece fail.
//!
//! A piece that one peer sent alone convicts it. Of a piece with several senders the digest of each block is kept until
//! the good ones are known, because the piece verified or its leaf hashes came (BEP 52); who sent another block than the
//! good one lied. Nobody is named on suspicion.

use std::collections::BTreeMap;

use crate::event::PeerKey;
use crate::limits::SUSPECT_BLOCKS;

/// What identifies a block's bytes.
pub type BlockDigest = [u8; 32];

/// One failed try of a piece: each block's sender and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempt {
    number: u64,
    blocks: Vec<(PeerKey, BlockDigest)>,
}

/// Failed pieces with several senders.
///
/// Invariant: `kept` sums the blocks of all attempts and is at most [`SUSPECT_BLOCKS`]; the oldest attempt makes room.
#[derive(Debug, Default)]
pub struct Blame {
    pieces: BTreeMap<u32, Vec<Attempt>>,
    kept: usize,
    attempts: u64,
}

impl Blame {
    /// Nobody is suspected.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `piece` failed; `senders` and `digests` are those of its blocks, in order. Returns the peer that is guilty for
    /// certain, if there is one.
    pub fn failed(&mut self, piece: u32, senders: &[PeerKey], digests: &[BlockDigest]) -> Option<PeerKey> {
        let first = *senders.first()?;
        if senders.iter().all(|sender| *sender == first) {
            return Some(first);
        }
        if senders.len() == digests.len() && senders.len() <= SUSPECT_BLOCKS {
            let blocks = senders.iter().copied().zip(digests.iter().copied()).collect();
            self.keep(piece, blocks);
        }
        None
    }

    fn keep(&mut self, piece: u32, blocks: Vec<(PeerKey, BlockDigest)>) {
        self.kept += blocks.len();
        let number = self.attempts;
        self.attempts += 1;
        self.pieces.entry(piece).or_default().push(Attempt { number, blocks });
        while self.kept > SUSPECT_BLOCKS && self.drop_oldest() {}
    }

    fn drop_oldest(&mut self) -> bool {
        let oldest = self.pieces.iter().filter_map(|(piece, attempts)| Some((attempts.first()?.number, *piece))).min();
        let Some((_, piece)) = oldest else {
            return false;
        };
        if let Some(attempts) = self.pieces.get_mut(&piece) {
            self.kept -= attempts.remove(0).blocks.len();
            if attempts.is_empty() {
                self.pieces.remove(&piece);
            }
        }
        true
    }

    /// Whether the digests of `piece` would convict somebody: ask for them when it is verified.
    #[must_use]
    pub fn is_suspect(&self, piece: u32) -> bool {
        self.pieces.contains_key(&piece)
    }

    /// The digests of all blocks of `piece` are known. Returns those who sent other blocks, each once.
    pub fn resolve(&mut self, piece: u32, good: &[BlockDigest]) -> Vec<PeerKey> {
        let Some(attempts) = self.pieces.remove(&piece) else {
            return Vec::new();
        };
        let mut liars = Vec::new();
        for attempt in attempts {
            self.kept -= attempt.blocks.len();
            let sent = attempt.blocks.iter().zip(good);
            liars.extend(sent.filter(|((_, digest), good)| digest != *good).map(|((peer, _), _)| *peer));
        }
        liars.sort_unstable();
        liars.dedup();
        liars
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);
    const C: PeerKey = PeerKey(3);

    fn digests(kinds: &[u8]) -> Vec<BlockDigest> {
        kinds.iter().map(|kind| [*kind; 32]).collect()
    }

    #[test]
    fn w16_who_sent_a_failed_piece_alone_is_guilty_at_once() {
        let mut blame = Blame::new();
        assert_eq!(blame.failed(3, &[A, A], &digests(&[1, 2])), Some(A));
        assert!(!blame.is_suspect(3));
        assert_eq!(blame.failed(3, &[], &[]), None);
    }

    #[test]
    fn w16_when_the_piece_verifies_exactly_those_who_sent_other_bytes_are_named() {
        let mut blame = Blame::new();
        assert_eq!(blame.failed(3, &[A, B, B], &digests(&[1, 2, 9])), None);
        assert_eq!(blame.failed(3, &[A, A, C], &digests(&[1, 8, 3])), None);
        assert!(blame.is_suspect(3));
        assert_eq!(blame.resolve(3, &digests(&[1, 2, 3])), [A, B]);
        assert!(!blame.is_suspect(3));
        assert_eq!(blame.resolve(3, &digests(&[1, 2, 3])), []);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_failure_makes_room() {
        let mut blame = Blame::new();
        let blocks = 1_024;
        for piece in 0..40 {
            let senders: Vec<PeerKey> = (0..blocks).map(PeerKey).collect();
            blame.failed(piece, &senders, &vec![[0; 32]; senders.len()]);
        }
        assert!(blame.kept <= SUSPECT_BLOCKS);
        assert!(!blame.is_suspect(0) && blame.is_suspect(39));
    }

    proptest! {
        #[test]
        fn f35_liars_of_pieces_that_verify_in_the_end_are_banned_and_honest_peers_never(
            liars in proptest::collection::btree_set(0u64..6, 0..5),
            tries in proptest::collection::vec((0u32..3, proptest::collection::vec((0u64..6, any::<bool>()), 4)), 0..20),
        ) {
            let mut blame = Blame::new();
            let mut banned = BTreeSet::new();
            let mut lied = BTreeSet::new();
            let good = digests(&[0, 1, 2, 3]);
            for (piece, blocks) in tries {
                let senders: Vec<PeerKey> = blocks.iter().map(|(peer, _)| PeerKey(*peer)).collect();
                let bad = |(peer, lies): &(u64, bool)| *lies && liars.contains(peer);
                let sent: Vec<BlockDigest> = blocks
                    .iter()
                    .zip(&good)
                    .map(|(block, good)| if bad(block) { [77; 32] } else { *good })
                    .collect();
                if sent == good {
                    banned.extend(blame.resolve(piece, &good));
                    continue;
                }
                lied.extend(blocks.iter().filter(|block| bad(block)).map(|(peer, _)| PeerKey(*peer)));
                banned.extend(blame.failed(piece, &senders, &sent));
            }
            for piece in 0..3 {
                banned.extend(blame.resolve(piece, &good));
            }
            prop_assert_eq!(banned, lied);
        }
    }
}
