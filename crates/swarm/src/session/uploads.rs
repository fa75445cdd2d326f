//! What one peer has asked of us: the requests that wait, and those that the shell is sending.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use obt_wire::peer::Request;

use crate::limits::{REQUESTS_QUEUED, REQUESTS_REFUSED, UPLOAD_PUT_OFF, UPLOAD_WINDOW_LEAST, UPLOAD_WINDOW_MOST};
use crate::session::Offence;

/// Requests for one piece that wait until somebody else has it.
#[derive(Debug)]
struct PutOff {
    since: Instant,
    requests: Vec<Request>,
}

/// One peer's requests, in the order they came.
///
/// Invariants: `waiting` and `put_off` together are no longer than [`REQUESTS_QUEUED`]; `sending_bytes` sums the lengths in `sending`.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    waiting: VecDeque<Request>,
    /// By piece.
    put_off: BTreeMap<u32, PutOff>,
    /// Handed to the shell, oldest first.
    sending: VecDeque<Request>,
    sending_bytes: u32,
    /// Requests in a row that found the queue full or the peer choked.
    refused: u32,
}

impl Uploads {
    /// Queues a request that may be answered; false where there is no room for it.
    ///
    /// # Errors
    /// Where it goes on asking though there has been no room for long.
    pub(crate) fn push(&mut self, request: Request) -> Result<bool, Offence> {
        if self.waiting() >= REQUESTS_QUEUED {
            self.refuse()?;
            return Ok(false);
        }
        self.refused = 0;
        self.waiting.push_back(request);
        Ok(true)
    }

    /// A request came that cannot be queued as things stand, for no fault of its own.
    ///
    /// # Errors
    /// Where that happens too often.
    pub(crate) fn refuse(&mut self) -> Result<(), Offence> {
        self.refused += 1;
        if self.refused > REQUESTS_REFUSED {
            return Err(Offence("requests go on though none is taken"));
        }
        Ok(())
    }

    /// The peer is unchoked: what it asked while it was choked is forgotten.
    pub(crate) fn unchoked(&mut self) {
        self.refused = 0;
    }

    /// Takes back a request that waits; true if it did.
    pub(crate) fn cancel(&mut self, request: Request) -> bool {
        let before = self.waiting();
        self.waiting.retain(|waiting| *waiting != request);
        if let Some(put_off) = self.put_off.get_mut(&request.piece) {
            put_off.requests.retain(|waiting| *waiting != request);
        }
        self.waiting() < before
    }

    /// Forgets and returns all that waits.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = Request> + use<> {
        let put_off = std::mem::take(&mut self.put_off).into_values().flat_map(|put_off| put_off.requests);
        std::mem::take(&mut self.waiting).into_iter().chain(put_off)
    }

    /// The request to answer next, if the shell is not busy enough with this peer, which takes `rate` bytes per second.
    pub(crate) fn next(&self, rate: u64) -> Option<Request> {
        // A quarter of a second's worth keeps the socket busy, and little is on the way if the peer is choked.
        let window = u32::try_from(rate / 4).unwrap_or(u32::MAX).clamp(UPLOAD_WINDOW_LEAST, UPLOAD_WINDOW_MOST);
        let next = self.waiting.front()?;
        (self.sending_bytes < window).then_some(*next)
    }

    /// The request that [`next`](Self::next) named is handed to the shell.
    pub(crate) fn sent(&mut self) {
        if let Some(request) = self.waiting.pop_front() {
            self.sending_bytes += request.length;
            self.sending.push_back(request);
        }
    }

    /// The request that [`next`](Self::next) named cannot be answered any more.
    pub(crate) fn drop_next(&mut self) {
        self.waiting.pop_front();
    }

    /// The request that [`next`](Self::next) named had better wait until its piece can be had from somebody else.
    pub(crate) fn put_off(&mut self, now: Instant) {
        if let Some(request) = self.waiting.pop_front() {
            let empty = PutOff { since: now, requests: Vec::new() };
            self.put_off.entry(request.piece).or_insert(empty).requests.push(request);
        }
    }

    /// Requests for `piece` need not wait any more; true if there were any.
    pub(crate) fn resume(&mut self, piece: u32) -> bool {
        let Some(put_off) = self.put_off.remove(&piece) else {
            return false;
        };
        for request in put_off.requests.into_iter().rev() {
            self.waiting.push_front(request);
        }
        true
    }

    /// Pieces whose requests have waited for too long.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<u32> {
        let late = |put_off: &PutOff| now.saturating_duration_since(put_off.since) >= UPLOAD_PUT_OFF;
        self.put_off.iter().filter(|(_, put_off)| late(put_off)).map(|(piece, _)| *piece).collect()
    }

    fn waiting(&self) -> usize {
        self.waiting.len() + self.put_off.values().map(|put_off| put_off.requests.len()).sum::<usize>()
    }

    /// The oldest block that was handed to the shell is with the kernel.
    pub(crate) fn uploaded(&mut self) {
        if let Some(request) = self.sending.pop_front() {
            self.sending_bytes -= request.length;
        }
    }

    /// A block of `piece` that was handed to the shell could not be read: the request that gets no answer.
    pub(crate) fn failed(&mut self, piece: u32) -> Option<Request> {
        let at = self.sending.iter().position(|request| request.piece == piece)?;
        let request = self.sending.remove(at)?;
        self.sending_bytes -= request.length;
        Some(request)
    }

    /// Requests that are not answered yet.
    pub(crate) fn queued(&self) -> usize {
        self.waiting() + self.sending.len()
    }

    /// Whether a request waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.put_off.is_empty()
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let sending: u32 = self.sending.iter().map(|request| request.length).sum();
        if self.waiting() > REQUESTS_QUEUED || sending != self.sending_bytes {
            return Err(format!("uploads: {} wait, {sending} bytes on the way", self.waiting()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(piece: u32) -> Request {
        Request { piece, begin: 0, length: 16_384 }
    }

    #[test]
    fn requests_are_answered_in_order_and_within_the_window() {
        let mut uploads = Uploads::default();
        for piece in 0..100 {
            assert_eq!(uploads.push(request(piece)), Ok(true));
        }
        let mut sent = Vec::new();
        while let Some(next) = uploads.next(0) {
            uploads.sent();
            sent.push(next.piece);
        }
        assert_eq!(sent, (0..UPLOAD_WINDOW_LEAST / 16_384).collect::<Vec<_>>());
        uploads.uploaded();
        assert!(uploads.next(0).is_some());
        uploads.check().unwrap();
    }

    #[test]
    fn w13_the_queue_is_bounded_and_a_flood_above_it_is_an_offence() {
        let mut uploads = Uploads::default();
        for _ in 0..REQUESTS_QUEUED {
            assert_eq!(uploads.push(request(1)), Ok(true));
        }
        for _ in 0..REQUESTS_REFUSED {
            assert_eq!(uploads.push(request(1)), Ok(false));
        }
        assert!(uploads.push(request(1)).is_err());
        assert_eq!(uploads.queued(), REQUESTS_QUEUED);
    }

    #[test]
    fn w14_a_cancel_takes_back_what_waits_and_nothing_else() {
        let mut uploads = Uploads::default();
        assert!(!uploads.cancel(request(1)));
        assert_eq!(uploads.push(request(1)), Ok(true));
        assert_eq!(uploads.push(request(2)), Ok(true));
        uploads.sent();
        assert!(!uploads.cancel(request(1)), "it is on the way");
        assert!(uploads.cancel(request(2)));
        assert!(!uploads.is_waiting());
    }

    #[test]
    fn a_block_that_cannot_be_read_is_found_by_its_piece() {
        let mut uploads = Uploads::default();
        for piece in [1, 2] {
            assert_eq!(uploads.push(request(piece)), Ok(true));
            uploads.sent();
        }
        assert_eq!(uploads.failed(3), None);
        assert_eq!(uploads.failed(2), Some(request(2)));
        uploads.check().unwrap();
    }

    #[test]
    fn requests_that_are_put_off_let_others_pass_and_come_first_again() {
        let mut uploads = Uploads::default();
        #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
        let now = Instant::now();
        for piece in [1, 1, 2] {
            assert_eq!(uploads.push(request(piece)), Ok(true));
        }
        uploads.put_off(now);
        uploads.put_off(now);
        assert_eq!(uploads.next(0), Some(request(2)));
        assert_eq!(uploads.queued(), 3);
        assert_eq!(uploads.overdue(now), []);
        assert_eq!(uploads.overdue(now + UPLOAD_PUT_OFF), [1]);
        assert!(uploads.resume(1) && !uploads.resume(1));
        assert_eq!(uploads.next(0), Some(request(1)));
        uploads.put_off(now);
        assert!(uploads.cancel(request(1)));
        assert_eq!(uploads.clear().collect::<Vec<_>>(), [request(2)]);
        assert!(!uploads.is_waiting());
    }
}
