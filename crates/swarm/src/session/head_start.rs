//! The pieces that a peer gets from us though it is choked (BEP 6, "allowed fast"): with nothing to give, nobody would
//! unchoke it.

use obt_wire::PieceIndex;
use obt_wire::peer::Request;

/// What one peer was given, and how much of it is left.
///
/// Invariant: `left` is no more than the bytes of `pieces`, so that a choked peer gets each of them once and no more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HeadStart {
    pieces: Vec<PieceIndex>,
    left: u64,
}

impl HeadStart {
    /// These pieces, which have so many bytes together.
    pub(crate) fn of(pieces: Vec<PieceIndex>, bytes: u64) -> Self {
        Self { pieces, left: bytes }
    }

    /// Whether it was given already.
    pub(crate) fn is_given(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Whether this request is answered though the peer is choked; then it is used up.
    pub(crate) fn take(&mut self, request: &Request) -> bool {
        let left = self.left.checked_sub(u64::from(request.length));
        match left.filter(|_| self.pieces.contains(&PieceIndex(request.piece))) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
