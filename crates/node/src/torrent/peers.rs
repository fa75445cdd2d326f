//! The connections of one torrent, and the commands that wait to be handed to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use obt_swarm::PeerKey;

use crate::net::{Command, Outbox};

/// Connections by key.
#[derive(Debug, Default)]
pub(super) struct Peers {
    connections: BTreeMap<PeerKey, Peer>,
    /// Those with commands that are not handed over yet.
    touched: Vec<PeerKey>,
    next: u64,
}

#[derive(Debug, Default)]
struct Peer {
    outbox: Arc<Outbox>,
    commands: Vec<Command>,
}

impl Peers {
    /// A key for a new connection, and its outbox.
    pub(super) fn enter(&mut self) -> (PeerKey, Arc<Outbox>) {
        let key = PeerKey(self.next);
        self.next += 1;
        let peer = self.connections.entry(key).or_default();
        (key, Arc::clone(&peer.outbox))
    }

    /// Whether the connection is still there; it is not any more.
    pub(super) fn leave(&mut self, key: PeerKey) -> bool {
        self.connections.remove(&key).is_some()
    }

    /// Adds a command for a connection; for one that is gone it is dropped.
    pub(super) fn command(&mut self, key: PeerKey, command: Command) {
        let Some(peer) = self.connections.get_mut(&key) else {
            return;
        };
        if peer.commands.is_empty() {
            self.touched.push(key);
        }
        peer.commands.push(command);
    }

    /// Ends a connection.
    pub(super) fn close(&self, key: PeerKey) {
        if let Some(peer) = self.connections.get(&key) {
            peer.outbox.close();
        }
    }

    /// Hands over what [`command`](Self::command) has gathered, once per connection. A peer that leaves too much
    /// unread is closed.
    pub(super) fn flush(&mut self) {
        for key in self.touched.drain(..) {
            let Some(peer) = self.connections.get_mut(&key) else {
                continue;
            };
            if peer.outbox.append(&mut peer.commands).is_err() {
                tracing::debug!(peer = key.0, "the peer does not read");
                peer.outbox.close();
            }
        }
    }
}
