//! A torrent, as the rest of the program sees it.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use obt_swarm::{PeerSource, Stats};
use obt_wire::InfoHashes;
use obt_wire::metainfo::Metainfo;
use tokio::sync::{Notify, watch};

use super::error::{ReadError, TorrentError};
use super::file_reader::FileReader;
use super::inbox::OrderSender;
use super::order::Order;
use super::readers::Readers;
use crate::disk::Store;
use crate::rates::Rates;

/// A download that has its final name.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The final path.
    pub path: PathBuf,
    /// Content, without padding, by the address it came from, bytes, in the order of first bytes.
    pub from: Vec<(SocketAddr, u64)>,
    /// How long it took since it was added: until it was durable under its final name.
    pub seconds: f64,
    /// The same until its last piece was verified.
    pub verified_seconds: f64,
}

/// How a torrent stands, at one moment.
#[derive(Debug, Clone, Default)]
pub struct TorrentStats {
    /// The torrent, once it is known.
    pub metainfo: Option<Arc<Metainfo>>,
    /// Why the disk takes nothing, if that is so.
    pub paused: Option<String>,
    /// The final path, once the download has it, or where the existing data is.
    pub path: Option<PathBuf>,
    /// Whether a tracker has heard of us, or could not be told and will be asked again.
    pub announced: bool,
    /// The swarm; None while the torrent rests, and while its storage is being opened, which hashes what is there.
    pub swarm: Option<Box<Stats>>,
}

/// How a torrent ended, told once: finished downloads go on seeding.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    told: OnceLock<Result<Finished, TorrentError>>,
    telling: Notify,
}

impl Outcome {
    /// Tells how it ended, where that is not told yet.
    pub(super) fn tell(&self, how: impl FnOnce() -> Result<Finished, TorrentError>) {
        if self.told.get().is_none() && self.told.set(how()).is_ok() {
            self.telling.notify_waiters();
        }
    }

    async fn wait(&self) -> &Result<Finished, TorrentError> {
        loop {
            let telling = self.telling.notified();
            match self.told.get() {
                Some(told) => return told,
                None => telling.await,
            }
        }
    }
}

/// A torrent of a [`Node`](crate::node::Node). Cheap to clone; the torrent lives until it is stopped, or the node is.
#[derive(Debug, Clone)]
pub struct TorrentHandle {
    // One pointer: a node keeps several of each of ten thousand torrents.
    ways: Arc<Ways>,
}

/// The ways to a torrent's task, and what it tells.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) hashes: InfoHashes,
    pub(super) orders: OrderSender,
    pub(super) stats: watch::Receiver<Arc<TorrentStats>>,
    pub(super) outcome: Arc<Outcome>,
    pub(super) readers: Arc<Readers>,
}

impl TorrentHandle {
    pub(super) fn new(ways: Ways) -> Self {
        Self { ways: Arc::new(ways) }
    }

    /// Its info-hashes.
    #[must_use]
    pub fn hashes(&self) -> InfoHashes {
        self.ways.hashes
    }

    /// How it stands: renewed at every change of state, and some five times a second while data flows.
    #[must_use]
    pub fn stats(&self) -> watch::Receiver<Arc<TorrentStats>> {
        self.ways.stats.clone()
    }

    /// Waits until the content is known and its storage is open; wakes a torrent that rests.
    ///
    /// # Errors
    /// Why it will never be.
    pub async fn ready(&self) -> Result<(Arc<Metainfo>, Store), TorrentError> {
        let mut stats = self.ways.stats.clone();
        loop {
            let (at_rest, metainfo) = {
                let stats = stats.borrow_and_update();
                (stats.swarm.is_none(), stats.metainfo.clone())
            };
            match (metainfo, self.ways.readers.store()) {
                (Some(metainfo), Some(store)) if !at_rest => return Ok((metainfo, store)),
                _ if self.ways.readers.have_ended() => break,
                // It may go to rest just as it is woken, or wake and be at rest again before we look.
                _ if at_rest => self.ways.orders.send(Order::Wake.into()).await,
                _ => {}
            }
            if stats.changed().await.is_err() {
                break;
            }
        }
        // The reason is told a moment after the last of the stats.
        self.ended().await;
        Err(self.why_ended())
    }

    /// Waits until it is known what it is; None where it ended before.
    pub async fn known(&self) -> Option<Arc<Metainfo>> {
        let mut stats = self.ways.stats.clone();
        let known = stats.wait_for(|stats| stats.metainfo.is_some()).await;
        known.ok().and_then(|stats| stats.metainfo.clone())
    }

    /// Waits until all that is wanted is here under its final name; at once for data that was there.
    ///
    /// # Errors
    /// Why it never will be; [`TorrentError::Stopped`] where it was told to stop before.
    pub async fn finished(&self) -> Result<Finished, TorrentError> {
        self.ways.outcome.wait().await.clone()
    }

    /// Waits until the torrent's task has ended: it has left its swarm, and what was verified is durable.
    pub async fn ended(&self) {
        self.ways.orders.closed().await;
    }

    /// Leaves the swarm and keeps what is verified, so that the same download resumes. See [`ended`](Self::ended).
    pub async fn stop(&self) {
        self.ways.orders.send(Order::Stop.into()).await;
    }

    /// Gives a torrent that [awaits](super::Source::Awaited) it what it is, with its .torrent file. Nothing comes of it where
    /// a peer was faster, or the info-hashes are others.
    pub async fn give(&self, metainfo: Arc<Metainfo>, torrent: Bytes) {
        self.ways.orders.send(Order::Given(metainfo, torrent).into()).await;
    }

    /// Addresses to try.
    pub async fn add_peers(&self, source: PeerSource, addrs: Vec<SocketAddr>) {
        self.ways.orders.send(Order::AddPeers(source, addrs).into()).await;
    }

    /// Reads a stretch of a file, by its number in the torrent, as its pieces come in.
    ///
    /// # Errors
    /// Where there is no such stretch, or it will never be there.
    pub async fn read(&self, file: usize, range: Range<u64>) -> Result<FileReader, ReadError> {
        let (metainfo, _) = self.ready().await?;
        FileReader::new(self.clone(), metainfo, file, range)
    }

    /// Whether the torrent's task has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ways.orders.is_closed()
    }

    /// Payload received and sent, bytes per second.
    pub(crate) fn rates(&self) -> (u64, u64) {
        self.ways.stats.borrow().swarm.as_ref().map_or((0, 0), |swarm| (swarm.download_rate, swarm.upload_rate))
    }

    /// Replaces the limits. A torrent that is too busy to be told is told the next time.
    pub(crate) fn limit(&self, rates: Rates) {
        self.ways.orders.try_send(Order::Limit(rates).into());
    }

    pub(super) fn readers(&self) -> &Readers {
        &self.ways.readers
    }

    /// Why the torrent ended, as far as is known.
    pub(super) fn why_ended(&self) -> TorrentError {
        match self.ways.outcome.told.get() {
            Some(Err(error)) => error.clone(),
            _ => TorrentError::Stopped,
        }
    }
}
