//! Where `/files` gets its bytes: from what this node shares, or from the swarm through a cache that is let go of when
//! nobody has read from it for a while.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use obt_swarm::{LocalAddresses, TrackerUrl};
use obt_wire::InfoHash;

use crate::disk::{DownloadPlan, OnExisting, Selection};
use crate::node::{Node, NodeError};
use crate::server::{FileRequest, FileSource, FileStream, FileUnavailable, Opening};
use crate::torrent::{AddTorrent, Afterwards, ReadError, Source, TorrentHandle};
use crate::tracker_client::TrackerAddress;

/// How long what passed through is kept after the last read: a player that pauses comes back to it.
const KEPT: Duration = Duration::from_secs(300);
/// How often the cache is looked through.
const LOOK: Duration = Duration::from_secs(20);
/// Items that pass through at once; each fetches from its swarm.
const PASSING: usize = 16;

/// The files of a node, and through it those of the swarms that its tracker knows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: Node,
    cache: PathBuf,
    tracker: OnceLock<TrackerAddress>,
    passing: Mutex<BTreeMap<InfoHash, Passing>>,
}

/// An item that is here only because somebody reads it.
#[derive(Debug)]
struct Passing {
    handle: TorrentHandle,
    folder: PathBuf,
    readers: usize,
    last_read: Instant,
}

impl NodeFiles {
    /// Serves what `node` has; what it has not passes through `cache`, a folder whose content may be deleted, and is:
    /// what an earlier process left there goes first.
    #[must_use]
    pub fn new(node: Node, cache: PathBuf) -> Self {
        let _ = fs::remove_dir_all(&cache);
        let shared = Shared { node, cache, tracker: OnceLock::new(), passing: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// From now on items that this node lacks are fetched from the peers that `tracker` knows; until then they are
    /// unavailable. Needs a runtime, for the task that empties the cache.
    pub fn fetch_through(&self, tracker: TrackerAddress) {
        if self.shared.tracker.set(tracker).is_ok() {
            tokio::spawn(empty(Arc::downgrade(&self.shared)));
        }
    }

    async fn stream(&self, request: FileRequest) -> Result<FileStream, FileUnavailable> {
        let hash = request.metainfo.info.hashes.primary();
        let (handle, reading) = match self.shared.node.find(hash) {
            Some(handle) => (handle, self.shared.note_reader(hash)),
            None => self.shared.pass(hash, &request).await?,
        };
        let reader = handle.read(request.file, request.range).await.map_err(|error| match error {
            ReadError::Busy => FileUnavailable::Busy,
            ReadError::OutOfRange | ReadError::Torrent(_) => FileUnavailable::Failed,
        })?;
        let stream = reader.into_stream().map_err(io::Error::other);
        Ok(Box::pin(stream.inspect_ok(move |_: &Bytes| {
            let _ = &reading;
        })))
    }
}

impl FileSource for NodeFiles {
    fn open(&self, request: FileRequest) -> Opening<'_> {
        Box::pin(self.stream(request))
    }
}

impl Shared {
    /// Begins to fetch an item into the cache, for as long as it is read.
    async fn pass(
        self: &Arc<Self>,
        hash: InfoHash,
        request: &FileRequest,
    ) -> Result<(TorrentHandle, Option<Reading>), FileUnavailable> {
        let tracker = self.tracker.get().ok_or(FileUnavailable::NobodyHasIt)?;
        if self.passing().len() >= PASSING {
            return Err(FileUnavailable::Busy);
        }
        let folder = self.cache.join(hash.to_string());
        fs::create_dir_all(&folder).map_err(|_| FileUnavailable::Failed)?;
        let plan = DownloadPlan {
            folder: folder.clone(),
            name: None,
            metainfo: Arc::clone(&request.metainfo),
            torrent: Bytes::from(request.metainfo.to_bytes()),
            selection: Selection::All,
            on_existing: OnExisting::Refuse,
        };
        let add = AddTorrent {
            source: Source::Download(Box::new(plan)),
            trackers: vec![TrackerUrl { url: format!("obt://{tracker}"), tier: 0 }],
            peers: Vec::new(),
            local_addresses: LocalAddresses::Allowed,
            afterwards: Afterwards::Seed,
        };
        let handle = match self.node.add(add) {
            Ok(handle) => handle,
            // Another request for the same item was faster.
            Err(NodeError::Duplicate(_)) => self.node.find(hash).ok_or(FileUnavailable::Failed)?,
            Err(_) => return Err(FileUnavailable::Failed),
        };
        let passing = Passing { handle: handle.clone(), folder, readers: 0, last_read: Instant::now() };
        self.passing().entry(hash).or_insert(passing);
        let reading = self.note_reader(hash);
        Ok((handle, reading))
    }

    fn note_reader(self: &Arc<Self>, hash: InfoHash) -> Option<Reading> {
        self.passing().get_mut(&hash)?.readers += 1;
        Some(Reading { shared: Arc::clone(self), hash })
    }

    fn passing(&self) -> std::sync::MutexGuard<'_, BTreeMap<InfoHash, Passing>> {
        self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what nobody has read for long enough.
    fn take_idle(&self, now: Instant) -> Vec<Passing> {
        let mut passing = self.passing();
        let idle = |entry: &Passing| entry.readers == 0 && now.saturating_duration_since(entry.last_read) >= KEPT;
        let hashes: Vec<InfoHash> = passing.iter().filter(|(_, entry)| idle(entry)).map(|(hash, _)| *hash).collect();
        hashes.iter().filter_map(|hash| passing.remove(hash)).collect()
    }
}

/// One reader of an item that passes through, for as long as it is held.
#[derive(Debug)]
struct Reading {
    shared: Arc<Shared>,
    hash: InfoHash,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(passing) = self.shared.passing().get_mut(&self.hash) {
            passing.readers = passing.readers.saturating_sub(1);
            passing.last_read = Instant::now();
        }
    }
}

async fn empty(shared: std::sync::Weak<Shared>) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        for idle in shared.take_idle(Instant::now()) {
            idle.handle.stop().await;
            idle.handle.ended().await;
            let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(&idle.folder)).await;
            if let Ok(Err(error)) = removed {
                tracing::debug!(%error, "a folder of the cache stays");
            }
        }
    }
}
