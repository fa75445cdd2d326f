//! Hash requests of others below the piece layer (BEP 52): only the bytes of a piece can answer them, so the shell reads
//! and hashes it. Decides how much of that strangers may cause.

use std::collections::BTreeMap;
use std::time::Instant;

use obt_wire::PieceIndex;
use obt_wire::peer::HashRequest;

use crate::event::PeerKey;
use crate::limits::{BLOCK_HASH_BURST, BLOCK_HASH_PIECES, BLOCK_HASH_RATE, HASH_REQUESTS};
use crate::rate::TokenBucket;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The piece is to be hashed.
    Hash,
    /// It is being hashed for somebody already.
    Joined,
    /// Too much is asked at the moment.
    Refused,
}

/// Who waits for the hashes of which piece.
///
/// Invariant: every piece in `waiting` is being hashed by the shell; there are at most [`BLOCK_HASH_PIECES`], and at most
/// [`HASH_REQUESTS`] requests of any peer.
#[derive(Debug)]
pub(crate) struct BlockHashes {
    waiting: BTreeMap<PieceIndex, Vec<(PeerKey, HashRequest)>>,
    budget: TokenBucket,
}

impl BlockHashes {
    pub(crate) fn new(now: Instant) -> Self {
        Self { waiting: BTreeMap::new(), budget: TokenBucket::new(Some(BLOCK_HASH_RATE), BLOCK_HASH_BURST, now) }
    }

    /// A peer asks for hashes inside `piece`, which has `bytes` bytes.
    pub(crate) fn ask(
        &mut self,
        peer: PeerKey,
        request: HashRequest,
        piece: PieceIndex,
        bytes: u32,
        now: Instant,
    ) -> Asked {
        let of_peer = self.waiting.values().flatten().filter(|(other, _)| *other == peer).count();
        if of_peer >= HASH_REQUESTS {
            return Asked::Refused;
        }
        if let Some(others) = self.waiting.get_mut(&piece) {
            others.push((peer, request));
            return Asked::Joined;
        }
        if self.waiting.len() >= BLOCK_HASH_PIECES || !self.budget.take_all(u64::from(bytes), now) {
            return Asked::Refused;
        }
        self.waiting.insert(piece, vec![(peer, request)]);
        Asked::Hash
    }

    /// The shell has hashed `piece`: who waited for it, and for what.
    pub(crate) fn hashed(&mut self, piece: PieceIndex) -> Vec<(PeerKey, HashRequest)> {
        self.waiting.remove(&piece).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use obt_wire::Sha256Hash;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn moment() -> Instant {
        Instant::now()
    }

    #[test]
    fn e23_no_more_bytes_are_hashed_for_others_than_the_rate_allows() {
        let now = moment();
        let mut hashes = BlockHashes::new(now);
        let request =
            HashRequest { pieces_root: Sha256Hash::default(), base_layer: 0, index: 0, length: 2, proof_layers: 0 };
        let mut hash = |piece, now| {
            let asked = hashes.ask(PeerKey(1), request, PieceIndex(piece), 16 << 20, now);
            hashes.hashed(PieceIndex(piece));
            asked
        };
        let burst = (BLOCK_HASH_BURST >> 24) as u32;
        assert!((0..burst).all(|piece| hash(piece, now) == Asked::Hash));
        assert_eq!(hash(burst, now), Asked::Refused);
        let later = now + Duration::from_secs(1);
        let earned = (BLOCK_HASH_RATE >> 24) as u32;
        assert!((0..earned).all(|piece| hash(piece, later) == Asked::Hash));
        assert_eq!(hash(earned, later), Asked::Refused);
    }
}
