//! A shared item that nobody needs at the moment: it stays on its leases, and has neither open files nor a core.
//!
//! A node may share ten thousand items of which a few are fetched at a time. At rest an item is its proof and its
//! place in the registry; a peer that names it, or somebody who reads it, wakes it.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use obt_swarm::{AnnounceEvent, AnnounceRequest};
use obt_wire::metainfo::Metainfo;
use tokio::time::timeout;

use super::context::Context;
use super::handle::{Finished, TorrentStats};
use super::inbox::Orders;
use super::open::{AddTorrent, Source};
use super::order::{Order, Ordered};
use crate::announce::Announce;
use crate::limits::STOP_ANNOUNCE;
use crate::rates::Rates;

/// An item at rest.
#[derive(Clone, Copy)]
pub(super) struct AtRest<'a> {
    context: &'a Context,
    add: &'a AddTorrent,
    metainfo: &'a Arc<Metainfo>,
    root: &'a Path,
}

/// Why an item rests no longer.
pub(super) enum Woken {
    /// Somebody needs it, and this is for its driver.
    By(Ordered),
    /// It was told to stop.
    Stopped,
}

impl<'a> AtRest<'a> {
    /// The torrent at rest, if it is one that may, and its data is proven.
    pub(super) fn of(context: &'a Context, add: &'a AddTorrent) -> Option<Self> {
        let Source::Existing { root, metainfo, proof: Some(_) } = &add.source else {
            return None;
        };
        add.may_rest().then_some(Self { context, add, metainfo, root })
    }

    /// How it stands.
    pub(super) fn stats(&self, announced: bool) -> Arc<TorrentStats> {
        Arc::new(TorrentStats {
            metainfo: Some(Arc::clone(self.metainfo)),
            paused: None,
            path: Some(self.root.to_owned()),
            announced,
            swarm: None,
        })
    }

    /// It is here, and was from the start.
    pub(super) fn finished(&self, seconds: f64) -> Finished {
        Finished { path: self.root.to_owned(), from: Vec::new(), seconds, verified_seconds: seconds }
    }

    /// Rests until somebody needs it. `told` is called once the trackers have heard of it, where they had not before.
    pub(super) async fn until_woken(
        &self,
        orders: &mut Orders,
        rates: &mut Rates,
        announced: bool,
        told: impl FnOnce(),
    ) -> Woken {
        let mut told = Some(told);
        // On the heap, and gone once it is done: an item may rest for months.
        let mut telling: Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> =
            (!announced).then(|| Box::pin(self.announce(AnnounceEvent::Started)) as _);
        loop {
            let order = match &mut telling {
                Some(announce) => tokio::select! {
                    order = orders.recv() => Some(order),
                    () = announce => None,
                },
                None => Some(orders.recv().await),
            };
            match order {
                None => {
                    telling = None;
                    if let Some(told) = told.take() {
                        told();
                    }
                }
                Some(order) => match *order {
                    Order::Stop => return Woken::Stopped,
                    Order::Limit(limit) => *rates = limit,
                    _ => return Woken::By(order),
                },
            }
        }
    }

    /// Takes it off the leases; a tracker that is slow forgets it with the lease.
    pub(super) async fn leave(&self) {
        let _ = timeout(STOP_ANNOUNCE, Box::pin(self.announce(AnnounceEvent::Stopped))).await;
    }

    async fn announce(&self, event: AnnounceEvent) {
        let hashes = self.metainfo.info.hashes;
        for tracker in &self.add.trackers {
            let announce = Announce {
                url: tracker.url.clone(),
                hashes,
                peer_id: self.context.dialer.peer_id,
                port: self.context.port,
                request: AnnounceRequest { event, uploaded: 0, downloaded: 0, left: 0, num_want: 0 },
            };
            if let Err(error) = self.context.announcer.announce(announce).await {
                tracing::debug!(torrent = %hashes.primary(), %error, "a lease was not renewed");
            }
        }
    }
}
