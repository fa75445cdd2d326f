//! The life of a torrent's task: storage is opened, the swarm runs, what is verified is made durable, and everybody
//! who waits is told how it ended. What is shared and not needed rests meanwhile.

use std::sync::Arc;
use std::time::Instant;

use obt_swarm::Config;
use obt_wire::InfoHashes;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::context::Context;
use super::driver::{Driver, Ended, Ends};
use super::error::TorrentError;
use super::handle::{Outcome, TorrentHandle, TorrentStats, Ways};
use super::inbox::{Orders, inbox};
use super::open::{self, AddTorrent, Opened, Source};
use super::order::{Order, Ordered};
use super::readers::Readers;
use super::registry::Entry;
use super::rest::{AtRest, Woken};
use crate::buffers::Share;
use crate::disk::{Done, Proof};
use crate::limits;
use crate::rates::Rates;

/// Starts a torrent's task.
pub(crate) fn start(
    context: Arc<Context>,
    add: AddTorrent,
    rates: Rates,
) -> (TorrentHandle, impl Future<Output = ()> + Send + 'static) {
    let (to_self, orders) = inbox(limits::TORRENT_COMMANDS);
    let (stats, stats_seen) = watch::channel(Arc::new(TorrentStats::default()));
    let (outcome, readers) = (Arc::new(Outcome::default()), Arc::new(Readers::default()));
    let hashes = add.source.hashes();
    let handle = TorrentHandle::new(Ways {
        hashes,
        orders: to_self.clone(),
        stats: stats_seen,
        outcome: Arc::clone(&outcome),
        readers: Arc::clone(&readers),
    });
    let ends = Ends { to_self, stats, readers };
    let torrent = Torrent { context, hashes, add: Some(add), rates, ends, outcome, added: Instant::now(), entry: None };
    // On the heap: a task keeps what it is begun with and what it works with, each in a place of its own.
    (handle, Box::new(torrent).run(orders))
}

/// What lasts from the start of a torrent to its end.
struct Torrent {
    context: Arc<Context>,
    hashes: InfoHashes,
    /// What it was added for, or None while it is awake and will not rest again.
    add: Option<AddTorrent>,
    rates: Rates,
    ends: Ends,
    outcome: Arc<Outcome>,
    added: Instant,
    /// Its place among the torrents that peers can name.
    entry: Option<Entry>,
}

impl Torrent {
    async fn run(mut self: Box<Self>, mut orders: Orders) {
        let torrent = self.hashes.primary();
        let ended = self.live(&mut orders).await;
        match &ended {
            Ok(()) | Err(TorrentError::Stopped) => tracing::info!(%torrent, "torrent stopped"),
            Err(error) => tracing::warn!(%torrent, %error, "torrent failed"),
        }
        // A download that has finished stays so, whatever ends its seeding.
        self.outcome.tell(|| Err(ended.err().unwrap_or(TorrentError::Stopped)));
        self.ends.readers.end();
    }

    /// Awake while it is needed, at rest while it is not.
    async fn live(&mut self, orders: &mut Orders) -> Result<(), TorrentError> {
        let context = Arc::clone(&self.context);
        let mut on_leases = false;
        while let Some(add) = self.add.take() {
            let mut ordered = Vec::new();
            if let Some(rest) = AtRest::of(&context, &add) {
                match self.rest(rest, orders, on_leases).await {
                    Woken::By(order) => ordered.push(order),
                    Woken::Stopped => {
                        rest.leave().await;
                        return Ok(());
                    }
                }
                on_leases = true;
            }
            self.add = add.may_rest().then(|| add.clone());
            // On the heap, and gone while the torrent rests.
            match Box::pin(self.awake(add, ordered, orders)).await {
                Ok(Ended::Quiet(proof)) => self.prove(proof),
                Ok(Ended::Over(result)) => return result,
                Err(error) => {
                    // Nobody has said good-bye: its storage could not be opened.
                    if let Some(rest) = self.add.as_ref().and_then(|add| AtRest::of(&context, add)) {
                        rest.leave().await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn rest(&mut self, rest: AtRest<'_>, orders: &mut Orders, announced: bool) -> Woken {
        self.enter();
        self.ends.stats.send_replace(rest.stats(announced));
        self.ends.readers.rest();
        let seconds = self.added.elapsed().as_secs_f64();
        self.outcome.tell(|| Ok(rest.finished(seconds)));
        let stats = &self.ends.stats;
        let told = || drop(stats.send_replace(rest.stats(true)));
        rest.until_woken(orders, &mut self.rates, announced, told).await
    }

    /// Opens the storage, and runs until the torrent has left its swarm or may rest.
    async fn awake(
        &mut self,
        add: AddTorrent,
        mut ordered: Vec<Ordered>,
        orders: &mut Orders,
    ) -> Result<Ended, TorrentError> {
        let (done_sender, done) = mpsc::unbounded_channel();
        let opened = tokio::select! {
            opened = open(&self.context, &add.source, done_sender.clone()) => opened?,
            () = stop_ordered(&mut ordered, orders) => return Err(TorrentError::Stopped),
        };
        let share = match add.source {
            Source::Existing { .. } => None,
            Source::Download(_) | Source::Magnet { .. } | Source::Awaited { .. } => Some(self.context.pool.share()),
        };
        self.enter();
        let context = self.context.clone();
        let config = Config {
            peer_id: context.dialer.peer_id,
            listen_port: Some(context.port),
            client: context.client.clone(),
            connections: context.connections,
            half_open: limits::TORRENT_HALF_OPEN,
            download_rate: self.rates.download,
            upload_rate: self.rates.upload,
            block_budget: share.as_ref().map_or(0, Share::blocks),
            stretch: obt_swarm::limits::STRETCH,
            hashed_together: obt_digest::side_by_side::<obt_digest::Sha1>(),
            trackers: add.trackers.clone(),
            local_addresses: add.local_addresses,
        };
        let mut driver = Driver::new(context, add, config, opened, self.ends.clone(), done_sender, self.added);
        let ended = driver.run(ordered, orders, done, &self.outcome).await;
        let left = limits::STOP.saturating_sub(limits::STOP_ANNOUNCE);
        if timeout(left, driver.flush()).await.is_err() {
            tracing::warn!("the disk was too slow for a graceful stop: the next start hashes what it cannot trust");
        }
        Ok(ended)
    }

    /// Lets peers find it.
    fn enter(&mut self) {
        let (registry, hashes, to_self) = (&self.context.registry, self.hashes, &self.ends.to_self);
        self.entry.get_or_insert_with(|| registry.enter(hashes, to_self.clone()));
    }

    fn prove(&mut self, by: Proof) {
        if let Some(AddTorrent { source: Source::Existing { proof, .. }, .. }) = &mut self.add {
            *proof = Some(by);
        }
    }
}

impl Drop for Torrent {
    /// A node that is dropped ends its torrents without a word.
    fn drop(&mut self) {
        self.outcome.tell(|| Err(TorrentError::Stopped));
    }
}

/// Opens the storage, where the content is known.
async fn open(context: &Context, source: &Source, done: UnboundedSender<Done>) -> Result<Option<Opened>, TorrentError> {
    match source.clone() {
        Source::Download(plan) => open::download(&context.disk, *plan, done).await.map(Some),
        Source::Existing { root, metainfo, proof } => {
            open::existing(&context.disk, root, metainfo, proof, done).await.map(Some)
        }
        Source::Magnet { .. } | Source::Awaited { .. } => Ok(None),
    }
}

/// Completes when the torrent is to stop; what else is ordered until its storage is open goes to `ordered`, as far as
/// there is room: peers may name it already.
async fn stop_ordered(ordered: &mut Vec<Ordered>, orders: &mut Orders) {
    loop {
        let order = orders.recv().await;
        if matches!(*order, Order::Stop) {
            return;
        }
        if ordered.len() < limits::TORRENT_COMMANDS {
            ordered.push(order);
        }
    }
}
