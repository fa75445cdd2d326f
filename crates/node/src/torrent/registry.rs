//! Which torrents a node has, by the names that peers know them by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use obt_wire::{InfoHash, InfoHashes};

use super::inbox::OrderSender;
use super::order::Order;
use crate::net::Arrival;

/// Torrents that take connections, by info-hash. Locked for the time of a look-up only.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    torrents: Mutex<BTreeMap<InfoHash, Link>>,
}

/// The way to a torrent's task.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    orders: OrderSender,
}

impl Link {
    /// Hands over a peer that waits for the answer to its handshake. A torrent that is ending lets it go.
    pub(crate) async fn arrive(&self, arrival: Arrival) {
        self.orders.send(Order::Arrived(arrival).into()).await;
    }
}

impl Registry {
    fn torrents(&self) -> MutexGuard<'_, BTreeMap<InfoHash, Link>> {
        self.torrents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The torrent that `name` means, if it is here.
    pub(crate) fn find(&self, name: InfoHash) -> Option<Link> {
        self.torrents().get(&name).cloned()
    }

    /// Lets peers find a torrent until the answer is dropped.
    pub(super) fn enter(self: &Arc<Self>, hashes: InfoHashes, orders: OrderSender) -> Entry {
        let link = Link { orders };
        self.torrents().extend(hashes.short().map(|name| (name, link.clone())));
        Entry { hashes, registry: Arc::clone(self) }
    }
}

/// A torrent's place in a [`Registry`].
#[derive(Debug)]
pub(super) struct Entry {
    hashes: InfoHashes,
    registry: Arc<Registry>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut torrents = self.registry.torrents();
        for name in self.hashes.short() {
            torrents.remove(&name);
        }
    }
}
