//! From what the user asked for to open storage.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use obt_swarm::{Content, LocalAddresses, TrackerUrl};
use obt_wire::InfoHashes;
use obt_wire::metainfo::{Info, Metainfo};
use tokio::sync::mpsc::UnboundedSender;

use super::error::TorrentError;
use crate::announce::is_leased;
use crate::disk::{Disk, Done, DownloadPlan, OnExisting, Proof, Selection, Store};

/// A torrent to take part in.
#[derive(Debug, Clone)]
pub struct AddTorrent {
    /// What it is, and where its bytes are or shall be.
    pub source: Source,
    /// Where to announce.
    pub trackers: Vec<TrackerUrl>,
    /// Addresses that the user or a magnet named.
    pub peers: Vec<SocketAddr>,
    /// Whether trackers may be, and may name, loopback, private and link-local addresses: yes where the user named the
    /// trackers, no where a torrent or a magnet did.
    pub local_addresses: LocalAddresses,
    /// What to do once all that is wanted is here.
    pub afterwards: Afterwards,
}

impl AddTorrent {
    /// Whether it may rest while nobody needs it: complete data whose trackers all take leases, which last without it.
    pub(super) fn may_rest(&self) -> bool {
        matches!(self.source, Source::Existing { .. })
            && self.afterwards == Afterwards::Seed
            && !self.trackers.is_empty()
            && self.trackers.iter().all(|tracker| is_leased(&tracker.url))
    }
}

/// What to do once all that is wanted is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Afterwards {
    /// Serve it to others until stopped.
    #[default]
    Seed,
    /// Leave the swarm.
    Stop,
}

/// What a torrent is, and where its bytes are or shall be.
#[derive(Debug, Clone)]
pub enum Source {
    /// To be fetched.
    Download(Box<DownloadPlan>),
    /// Complete data that is there already, read only.
    Existing {
        /// The file, or the folder of a torrent with several files.
        root: PathBuf,
        /// The torrent.
        metainfo: Arc<Metainfo>,
        /// What makes hashing it unnecessary.
        proof: Option<Proof>,
    },
    /// To be fetched, beginning with the torrent itself (BEP 9).
    Magnet {
        /// Its info-hashes.
        hashes: InfoHashes,
        /// Where it shall be.
        place: Place,
    },
    /// To be fetched, and the torrent will be [given](super::TorrentHandle::give). Peers are met meanwhile; one of them may
    /// have the torrent sooner.
    Awaited {
        /// Its info-hashes.
        hashes: InfoHashes,
        /// Where it shall be.
        place: Place,
    },
}

/// Where a download is to go, while nothing more is known of it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder in which the final name appears; it must be there.
    pub folder: PathBuf,
    /// The final name; None for the torrent's own.
    pub name: Option<String>,
    /// How much of the torrent.
    pub selection: Selection,
    /// What if the final name is taken.
    pub on_existing: OnExisting,
}

impl Source {
    /// The info-hashes of the torrent.
    #[must_use]
    pub fn hashes(&self) -> InfoHashes {
        match self {
            Self::Download(plan) => plan.metainfo.info.hashes,
            Self::Existing { metainfo, .. } => metainfo.info.hashes,
            Self::Magnet { hashes, .. } | Self::Awaited { hashes, .. } => *hashes,
        }
    }
}

/// Storage that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) store: Store,
    pub(super) content: Content,
    /// Where data that is there already lies.
    pub(super) path: Option<PathBuf>,
}

/// Opens the storage of a download; hashes what is there and cannot be trusted.
pub(super) async fn download(
    disk: &Disk,
    plan: DownloadPlan,
    done: UnboundedSender<Done>,
) -> Result<Opened, TorrentError> {
    let metainfo = Arc::clone(&plan.metainfo);
    let (store, have) = Store::download(disk, plan, done).await?;
    let wanted = store.wanted();
    Ok(Opened { store, content: Content { metainfo, have, wanted }, path: None })
}

/// Opens data that is there; what of it is not as it should be is not served, and not fetched either.
pub(super) async fn existing(
    disk: &Disk,
    root: PathBuf,
    metainfo: Arc<Metainfo>,
    proof: Option<Proof>,
    done: UnboundedSender<Done>,
) -> Result<Opened, TorrentError> {
    let was_whole = proof.is_some();
    let (store, have) = Store::existing(disk, &root, Arc::clone(&metainfo), proof, done).await?;
    if was_whole && !have.is_full() {
        let path = root.display();
        tracing::warn!("{path} changed since it was shared, and is not served whole: share it again with --replace");
    }
    let wanted = have.clone();
    Ok(Opened { store, content: Content { metainfo, have, wanted }, path: Some(root) })
}

/// Opens the storage of a magnet whose info dictionary has come in.
pub(super) async fn magnet(
    disk: &Disk,
    place: Place,
    hashes: InfoHashes,
    info: Bytes,
    done: UnboundedSender<Done>,
) -> Result<Opened, TorrentError> {
    // Up to 32 MiB are parsed and hashed.
    let plan = tokio::task::spawn_blocking(move || plan(place, hashes, info));
    let plan = plan.await.map_err(|_| TorrentError::Stopped)??;
    download(disk, plan, done).await
}

fn plan(place: Place, hashes: InfoHashes, info: Bytes) -> Result<DownloadPlan, TorrentError> {
    let info = Info::parse_expecting(info, &hashes).map_err(|error| TorrentError::Metadata(error.to_string()))?;
    let metainfo = Metainfo::new(info);
    let torrent = Bytes::from(metainfo.to_bytes());
    Ok(place.plan(Arc::new(metainfo), torrent))
}

impl Place {
    /// The download of this torrent to there.
    pub(super) fn plan(self, metainfo: Arc<Metainfo>, torrent: Bytes) -> DownloadPlan {
        let Self { folder, name, selection, on_existing } = self;
        DownloadPlan { folder, name, metainfo, torrent, selection, on_existing }
    }
}
