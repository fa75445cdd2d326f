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
