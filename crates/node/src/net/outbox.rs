//! What a torrent has for one connection and the connection has not taken yet.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Outgoing;
use crate::limits::OUTBOX_BYTES;

/// A bounded queue that is filled and emptied in batches, without an allocation once it has grown.
///
/// A torrent never waits for a connection: what does not fit is [`Full`], and the torrent closes that connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: Outgoing,
    closed: bool,
}

/// The connection takes nothing more: its peer does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// Whether more may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    Open,
    Closed,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves all of `outgoing` to the connection, and leaves the capacity.
    pub(crate) fn append(&self, outgoing: &mut Outgoing) -> Result<(), Full> {
        {
            let mut state = self.state();
            if state.waiting.memory() + outgoing.memory() > OUTBOX_BYTES {
                outgoing.clear();
                return Err(Full);
            }
            state.waiting.append(outgoing);
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Tells the connection to end; what it has not taken yet is dropped.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.filled.notify_one();
    }

    /// Moves what waits behind what is in `queue`.
    pub(super) fn take(&self, queue: &mut Outgoing) -> Outlook {
        let mut state = self.state();
        queue.append(&mut state.waiting);
        if state.closed { Outlook::Closed } else { Outlook::Open }
    }

    /// Whether the connection is to end.
    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits until there is something to take.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use obt_wire::peer::Message;

    use super::*;

    fn have(piece: u32) -> Outgoing {
        let mut outgoing = Outgoing::default();
        outgoing.push(&Message::Have(piece));
        outgoing
    }

    #[test]
    fn messages_come_out_in_order_and_at_once() {
        let outbox = Outbox::default();
        outbox.append(&mut have(1)).unwrap();
        outbox.append(&mut have(2)).unwrap();
        let mut taken = have(0);
        assert_eq!(outbox.take(&mut taken), Outlook::Open);
        let pieces: Vec<u8> = taken.bytes(27).chunks(9).map(|message| message[8]).collect();
        assert_eq!(pieces, [0, 1, 2]);
    }

    #[test]
    fn w23_a_peer_that_never_reads_fills_its_outbox_and_no_more() {
        let outbox = Outbox::default();
        let appended = (0..).take_while(|piece| outbox.append(&mut have(*piece)).is_ok()).count();
        assert!(appended >= 100_000, "{appended}");
        assert!(outbox.state().waiting.memory() <= OUTBOX_BYTES);
    }

    #[tokio::test]
    async fn closing_wakes_the_connection() {
        let outbox = Outbox::default();
        outbox.append(&mut have(1)).unwrap();
        outbox.close();
        outbox.filled().await;
        let mut taken = Outgoing::default();
        assert_eq!(outbox.take(&mut taken), Outlook::Closed);
        assert!(taken.is_empty());
    }
}
