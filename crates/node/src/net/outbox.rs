//! The commands of a torrent that wait for one connection.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Command;
use crate::limits::OUTBOX_COMMANDS;

/// A bounded queue of commands that is filled and emptied in batches, without an allocation once it has grown.
///
/// A torrent never waits for a connection: what does not fit is [`Full`], and the torrent closes that connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    commands: Vec<Command>,
    closed: bool,
}

/// The connection takes no commands: its peer does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// Whether more commands may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    Open,
    Closed,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves all of `commands` to the connection, and leaves the capacity.
    pub(crate) fn append(&self, commands: &mut Vec<Command>) -> Result<(), Full> {
        {
            let mut state = self.state();
            if state.commands.len() + commands.len() > OUTBOX_COMMANDS {
                commands.clear();
                return Err(Full);
            }
            if state.commands.is_empty() {
                std::mem::swap(&mut state.commands, commands);
            } else {
                state.commands.append(commands);
            }
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Tells the connection to end; what it has not taken yet is dropped.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.commands.clear();
        drop(state);
        self.filled.notify_one();
    }

    /// Moves what waits into `into`, which is empty.
    pub(crate) fn take(&self, into: &mut Vec<Command>) -> Outlook {
        let mut state = self.state();
        std::mem::swap(&mut state.commands, into);
        if state.closed { Outlook::Closed } else { Outlook::Open }
    }

    /// Whether the connection is to end.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits until there is something to take.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use obt_wire::peer::Message;

    use super::*;

    #[test]
    fn commands_come_out_in_order_and_at_once() {
        let outbox = Outbox::default();
        outbox.append(&mut vec![Command::Send(Message::Have(1))]).unwrap();
        outbox.append(&mut vec![Command::Send(Message::Have(2)), Command::Send(Message::Have(3))]).unwrap();
        let mut taken = Vec::new();
        assert_eq!(outbox.take(&mut taken), Outlook::Open);
        let haves: Vec<_> = taken.iter().map(|command| matches!(command, Command::Send(Message::Have(_)))).collect();
        assert_eq!(haves, [true; 3]);
    }

    #[test]
    fn w23_a_peer_that_never_reads_fills_its_outbox_and_no_more() {
        let outbox = Outbox::default();
        let one = || vec![Command::Send(Message::KeepAlive)];
        for _ in 0..OUTBOX_COMMANDS {
            outbox.append(&mut one()).unwrap();
        }
        assert_eq!(outbox.append(&mut one()), Err(Full));
    }

    #[tokio::test]
    async fn closing_wakes_the_connection() {
        let outbox = Outbox::default();
        outbox.append(&mut vec![Command::Send(Message::KeepAlive)]).unwrap();
        outbox.close();
        outbox.filled().await;
        let mut taken = Vec::new();
        assert_eq!(outbox.take(&mut taken), Outlook::Closed);
        assert!(taken.is_empty());
    }
}
