//! The life of a torrent's task: storage is opened, the swarm runs, what is verified is made durable, and everybody
//! who waits is told how it ended.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use obt_swarm::Config;
use obt_wire::limits::PIECES;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::context::Context;
use super::driver::{Driver, Ends};
use super::error::TorrentError;
use super::handle::{Outcome, TorrentHandle, TorrentStats};
use super::open::{self, AddTorrent, Opened, Source};
use super::order::Order;
use super::readers::Readers;
use crate::buffers::Share;
use crate::disk::Done;
use crate::limits;
use crate::net::Shared;
use crate::rates::Rates;

/// Starts a torrent's task.
pub(crate) fn start(
    context: Context,
    add: AddTorrent,
    rates: Rates,
) -> (TorrentHandle, impl Future<Output = ()> + Send + 'static) {
    let (to_self, orders) = mpsc::channel(limits::TORRENT_COMMANDS);
    let (stats, stats_seen) = watch::channel(Arc::new(TorrentStats::default()));
    let (outcome, outcome_seen) = watch::channel(None);
    let readers = Arc::new(Readers::default());
    let shared = Arc::new(Shared {
        pool: context.pool.clone(),
        store: OnceLock::new(),
        bitfield_bytes: AtomicUsize::new(PIECES.div_ceil(8) as usize),
        cold_reads: Arc::clone(&context.cold_reads),
    });
    let handle = TorrentHandle {
        hashes: add.source.hashes(),
        orders: to_self.clone(),
        stats: stats_seen,
        outcome: outcome_seen,
        readers: Arc::clone(&readers),
    };
    let ends = Ends { to_self, stats, readers, shared };
    (handle, run(context, add, rates, ends, orders, outcome))
}

async fn run(
    context: Context,
    add: AddTorrent,
    rates: Rates,
    ends: Ends,
    mut orders: mpsc::Receiver<Order>,
    outcome: watch::Sender<Outcome>,
) {
    let torrent = add.source.hashes().primary();
    let readers = Arc::clone(&ends.readers);
    let ended = live(context, add, rates, ends, &mut orders, &outcome).await;
    match &ended {
        Ok(()) | Err(TorrentError::Stopped) => tracing::info!(%torrent, "torrent stopped"),
        Err(error) => tracing::warn!(%torrent, %error, "torrent failed"),
    }
    // A download that has finished stays so, whatever ends its seeding.
    outcome.send_if_modified(|outcome| {
        let untold = outcome.is_none();
        if untold {
            *outcome = Some(Err(ended.err().unwrap_or(TorrentError::Stopped)));
        }
        untold
    });
    readers.end();
}

async fn live(
    context: Context,
    add: AddTorrent,
    rates: Rates,
    ends: Ends,
    orders: &mut mpsc::Receiver<Order>,
    outcome: &watch::Sender<Outcome>,
) -> Result<(), TorrentError> {
    let added = Instant::now();
    let (done_sender, done) = mpsc::unbounded_channel();
    let opened = tokio::select! {
        opened = open(&context, &add.source, done_sender.clone()) => opened?,
        () = stop_ordered(orders) => return Err(TorrentError::Stopped),
    };
    let share = match add.source {
        Source::Existing { .. } => None,
        Source::Download(_) | Source::Magnet { .. } => Some(context.pool.share()),
    };
    let _entry = context.registry.enter(add.source.hashes(), ends.to_self.clone());
    let config = Config {
        peer_id: context.dialer.peer_id,
        listen_port: Some(context.port),
        client: context.client.clone(),
        connections: context.connections,
        half_open: limits::TORRENT_HALF_OPEN,
        download_rate: rates.download,
        upload_rate: rates.upload,
        block_budget: share.as_ref().map_or(0, Share::blocks),
        hashed_together: obt_digest::side_by_side::<obt_digest::Sha1>(),
        trackers: add.trackers.clone(),
        local_addresses: add.local_addresses,
    };
    let mut driver = Driver::new(context, add, config, opened, ends, done_sender, added);
    let driven = driver.run(orders, done, outcome).await;
    let left = limits::STOP.saturating_sub(limits::STOP_ANNOUNCE);
    if timeout(left, driver.flush()).await.is_err() {
        tracing::warn!("the disk was too slow for a graceful stop: the next start hashes what it cannot trust");
    }
    driven
}

/// Opens the storage, where the content is known.
async fn open(context: &Context, source: &Source, done: UnboundedSender<Done>) -> Result<Option<Opened>, TorrentError> {
    match source.clone() {
        Source::Download(plan) => open::download(&context.disk, *plan, done).await.map(Some),
        Source::Existing { root, metainfo, proof } => {
            open::existing(&context.disk, root, metainfo, proof, done).await.map(Some)
        }
        Source::Magnet { .. } => Ok(None),
    }
}

/// Completes when the torrent is to stop; until its storage is open nothing else can be ordered.
async fn stop_ordered(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Stop) {
            return;
        }
    }
}
