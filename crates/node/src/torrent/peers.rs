//! The connections of one torrent, and what waits to be handed to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use obt_swarm::PeerKey;

use crate::net::{Outbox, Outgoing};

/// Connections by key.
#[derive(Debug, Default)]
pub(super) struct Peers {
    connections: BTreeMap<PeerKey, Peer>,
    /// Those with something that is not handed over yet.
    touched: Vec<PeerKey>,
    next: u64,
}

#[derive(Debug, Default)]
struct Peer {
    outbox: Arc<Outbox>,
    outgoing: Outgoing,
}

impl Peers {
    /// A key for a new connection, and its outbox.
    pub(super) fn enter(&mut self) -> (PeerKey, Arc<Outbox>) {
        let key = PeerKey(self.next);
        self.next += 1;
        let peer = self.connections.entry(key).or_default();
        (key, Arc::clone(&peer.outbox))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Whether the connection is still there; it is not any more.
    pub(super) fn leave(&mut self, key: PeerKey) -> bool {
        self.connections.remove(&key).is_some()
    }

    /// Where to put what a connection shall send; None for one that is gone.
    pub(super) fn outgoing(&mut self, key: PeerKey) -> Option<&mut Outgoing> {
        let peer = self.connections.get_mut(&key)?;
        if peer.outgoing.is_empty() {
            self.touched.push(key);
        }
        Some(&mut peer.outgoing)
    }

    /// Ends a connection.
    pub(super) fn close(&self, key: PeerKey) {
        if let Some(peer) = self.connections.get(&key) {
            peer.outbox.close();
        }
    }

    /// Hands over what [`outgoing`](Self::outgoing) has gathered, once per connection. A peer that leaves too much
    /// unread is closed.
    pub(super) fn flush(&mut self) {
        for key in self.touched.drain(..) {
            let Some(peer) = self.connections.get_mut(&key) else {
                continue;
            };
            if peer.outbox.append(&mut peer.outgoing).is_err() {
                tracing::debug!(peer = key.0, "the peer does not read");
                peer.outbox.close();
            }
        }
    }
}
