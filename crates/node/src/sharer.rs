//! From a path to an item that others can get: hash or recognise it, publish it or join those who hold it, serve it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use obt_catalogue::names::{Name, Selector};
use obt_catalogue::signing::Keypair;
use obt_swarm::{LocalAddresses, TrackerUrl};
use obt_wire::Sha256Hash;
use obt_wire::metainfo::Metainfo;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::api_types::{Item, ItemFile};
use crate::disk::Proof;
use crate::hash::{HashError, MakeOptions, Watch, check, lists_same, make, still_holds};
use crate::limits::{SHARE_ANNOUNCE, SHARES_HASHED};
use crate::node::{Node, NodeError};
use crate::requester::item_hashes;
use crate::state::{StateError, StateFolder, write_private, write_private_parts};
use crate::torrent::{AddTorrent, Afterwards, Source, TorrentError, TorrentHandle};
use crate::tracker_client::{Replace, TrackerClient, TrackerError};

/// Why something cannot be shared.
#[derive(Debug, Error)]
pub enum ShareError {
    /// The path cannot be read.
    #[error("cannot share {}: {source}", .path.display())]
    Path {
        /// As it was given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The data cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The tracker refused, or did not answer.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
    /// State and data lie in each other, or the state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The data cannot be served.
    #[error(transparent)]
    Torrent(#[from] TorrentError),
    /// The node takes nothing more.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl ShareError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tracker(error) => error.hint(),
            Self::Hash(HashError::Changed(_)) => Some("share it once nothing writes to it any more".into()),
            _ => None,
        }
    }
}

/// What is to be shared.
#[derive(Debug, Clone)]
pub struct ShareRequest {
    /// A file or folder.
    pub path: PathBuf,
    /// The name to share it under.
    pub name: Name,
    /// Whether it may become the next version of a name that has other content.
    pub replace: Replace,
    /// How its torrent is made, where nobody has published the same bytes yet.
    pub options: MakeOptions,
}

/// Something that is shared.
#[derive(Debug, Clone)]
pub struct Shared {
    /// As the catalogue has it, without its list of files.
    pub item: Item,
    /// Its torrent.
    pub metainfo: Arc<Metainfo>,
    /// How it came to be shared.
    pub how: How,
    /// The torrent that serves it.
    pub handle: TorrentHandle,
    /// What lies in a shared folder and is neither file nor folder; it was left out.
    pub skipped: Vec<PathBuf>,
}

impl Shared {
    /// The item with its files.
    #[must_use]
    pub fn full_item(&self) -> Item {
        Item { files: ItemFile::all_of(&self.metainfo), ..self.item.clone() }
    }

    /// Whether the tracker knows that it is held here; also where the announce failed, and will be tried again.
    #[must_use]
    pub fn is_known_to_tracker(&self) -> bool {
        self.handle.stats().borrow().announced
    }

    /// Waits until whoever asks the tracker finds that it is held here; not for ever: a tracker that is slow hears of
    /// it later.
    pub async fn until_known_to_tracker(&self) {
        let mut stats = self.handle.stats();
        let announced = stats.wait_for(|stats| stats.announced);
        let _ = timeout(SHARE_ANNOUNCE, announced).await;
    }
}

/// How an item came to be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The catalogue has it from us.
    Published,
    /// Others had published the same bytes; we are one more holder.
    Joined,
}

/// Shares paths through one tracker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sharer {
    node: Node,
    client: TrackerClient,
    key: Arc<Keypair>,
    state: StateFolder,
    /// One permit for each path that is being hashed.
    hashing: Arc<Semaphore>,
}

/// What was shared before, and what was not.
#[derive(Debug, Default)]
pub struct Resumed {
    /// Shared again, each with what asked for it.
    pub shared: Vec<(ShareRequest, Shared)>,
    /// To be shared one by one.
    pub others: Vec<ShareRequest>,
}

/// Data and the torrent that it is.
struct Known {
    metainfo: Arc<Metainfo>,
    proof: Proof,
    skipped: Vec<PathBuf>,
}

impl Sharer {
    /// Shares through the tracker of `client`, whichever of its members `node` finds alive; what is new there is
    /// published with `key`.
    #[must_use]
    pub fn new(node: Node, client: TrackerClient, key: Keypair, state: StateFolder) -> Self {
        let client = node.tracker_client(client.address());
        let hashing = Arc::new(Semaphore::new(SHARES_HASHED));
        Self { node, client, key: Arc::new(key), state, hashing }
    }

    /// The tracker.
    #[must_use]
    pub fn client(&self) -> &TrackerClient {
        &self.client
    }

    /// Shares a path: recognises what is published under its name, or publishes it, and serves it.
    ///
    /// # Errors
    /// See [`ShareError`].
    pub async fn share(&self, request: &ShareRequest, watch: Arc<Watch>) -> Result<Shared, ShareError> {
        let path = fs::canonicalize(&request.path)
            .map_err(|source| ShareError::Path { path: request.path.clone(), source })?;
        self.state.check_apart(&path)?;
        let memory = Memory::new(&self.state, &path, &request.name);
        let published = self.published(&request.name).await?;
        let remembered = remembered(vec![(path.clone(), memory.clone())]).await.pop().flatten();
        let remembered = remembered.filter(|known| published.is_empty() || is_among(&known.metainfo, &published));
        let known = match remembered {
            Some(known) => known,
            None => {
                let known = match self.recognise(&path, &published, &watch).await? {
                    Some(known) => known,
                    None => self.hash(&path, request, &watch).await?,
                };
                memory.keep(&known.metainfo, &known.proof)?;
                known
            }
        };
        let (item, how) = self.item_of(request, &known.metainfo, &published).await?;
        let handle = self.serve(path, &known)?;
        Ok(Shared { item, metainfo: known.metainfo, how, handle, skipped: known.skipped })
    }

    /// Shares again what was shared from the same paths before and has not changed since, if it still is the newest of
    /// its name: ten thousand of them at the cost of a few questions. The others are left to [`share`](Self::share).
    ///
    /// # Errors
    /// Where the tracker does not answer; see [`ShareError`].
    pub async fn resume(&self, requests: Vec<ShareRequest>) -> Result<Resumed, ShareError> {
        let mut resumed = Resumed::default();
        let mut asked = Vec::new();
        for request in requests {
            match fs::canonicalize(&request.path) {
                Ok(path) if self.state.check_apart(&path).is_ok() => asked.push((request, path)),
                _ => resumed.others.push(request),
            }
        }
        let of =
            |(request, path): &(ShareRequest, PathBuf)| (path.clone(), Memory::new(&self.state, path, &request.name));
        let remembered = remembered(asked.iter().map(of).collect()).await;
        let mut known = Vec::new();
        for ((request, path), remembered) in asked.into_iter().zip(remembered) {
            match remembered {
                Some(it) => known.push((request, path, it)),
                None => resumed.others.push(request),
            }
        }
        let items = self.client.look_up(known.iter().map(|(request, ..)| &request.name)).await?;
        let items: BTreeMap<&str, &Item> = items.iter().map(|item| (item.name.as_str(), item)).collect();
        for (request, path, known) in known {
            match items.get(request.name.as_str()) {
                Some(item) if item_hashes(item) == Some(known.metainfo.info.hashes) => {
                    let handle = self.serve(path, &known)?;
                    let item = Item::clone(item);
                    let metainfo = known.metainfo;
                    let shared = Shared { item, metainfo, how: How::Joined, handle, skipped: Vec::new() };
                    resumed.shared.push((request, shared));
                }
                _ => resumed.others.push(request),
            }
        }
        Ok(resumed)
    }

    /// What the catalogue has under a name, all versions, the newest first.
    async fn published(&self, name: &Name) -> Result<Vec<Item>, ShareError> {
        let Some(newest) = self.client.item(name, &Selector::Newest).await? else {
            return Ok(Vec::new());
        };
        let older: Vec<u32> = newest.versions.iter().map(|version| version.version).rev().collect();
        let mut items = vec![newest];
        for version in older.into_iter().take(VERSIONS) {
            if items.iter().all(|item| item.version != version) {
                items.extend(self.client.item(name, &Selector::Version(version)).await?);
            }
        }
        Ok(items)
    }

    /// The data as a torrent that somebody published under the same name.
    async fn recognise(
        &self,
        path: &Path,
        published: &[Item],
        watch: &Arc<Watch>,
    ) -> Result<Option<Known>, ShareError> {
        for item in published {
            let name = item.name.parse::<Name>();
            let Ok(name) = name else { continue };
            let torrent = self.client.torrent(&name, &Selector::Version(item.version)).await?;
            let Ok(metainfo) = Metainfo::parse_shared(&torrent) else { continue };
            if item_hashes(item) != Some(metainfo.info.hashes) || !lists_same(path, &metainfo)? {
                continue;
            }
            let _turn = self.hashing.acquire().await;
            let (path, watch) = (path.to_owned(), Arc::clone(watch));
            let checked = blocking(move || check(&path, &metainfo, &watch).map(|checked| (checked, metainfo))).await?;
            if let (checked, metainfo) = checked
                && checked.is_complete()
            {
                let proof = checked.proof(&metainfo);
                return Ok(Some(Known { metainfo: Arc::new(metainfo), proof, skipped: Vec::new() }));
            }
        }
        Ok(None)
    }

    /// The catalogue's entry for `metainfo`: one that is there, or one that is made.
    async fn item_of(
        &self,
        request: &ShareRequest,
        metainfo: &Metainfo,
        published: &[Item],
    ) -> Result<(Item, How), ShareError> {
        let same = |item: &&Item| item_hashes(item) == Some(metainfo.info.hashes);
        if let Some(item) = published.iter().find(same) {
            return Ok((item.clone(), How::Joined));
        }
        let name = &request.name;
        let made = self.client.publish(name, &metainfo.to_parts(), request.replace, &self.key).await?;
        let item = self.client.item(name, &Selector::Version(made.version)).await?;
        let vanished = || TrackerError::NotFound(format!("{name:?} was withdrawn a moment ago"));
        Ok((item.ok_or_else(vanished)?, if made.existed { How::Joined } else { How::Published }))
    }

    async fn hash(&self, path: &Path, request: &ShareRequest, watch: &Arc<Watch>) -> Result<Known, ShareError> {
        let _turn = self.hashing.acquire().await;
        let (path, watch, options) = (path.to_owned(), Arc::clone(watch), request.options);
        let name = request.name.last_component().to_owned();
        let made = blocking(move || make(&path, &name, options, &watch)).await?;
        let proof = made.proof();
        Ok(Known { metainfo: Arc::new(made.metainfo), proof, skipped: made.skipped })
    }

    fn serve(&self, root: PathBuf, known: &Known) -> Result<TorrentHandle, ShareError> {
        let hash = known.metainfo.info.hashes.primary();
        if let Some(handle) = self.node.find(hash) {
            return Ok(handle);
        }
        let source = Source::Existing { root, metainfo: Arc::clone(&known.metainfo), proof: Some(known.proof.clone()) };
        Ok(self.node.add(AddTorrent {
            source,
            trackers: vec![TrackerUrl { url: format!("obt://{}", self.client.address()), tier: 0 }],
            peers: Vec::new(),
            local_addresses: LocalAddresses::Allowed,
            afterwards: Afterwards::Seed,
        })?)
    }
}

/// Older versions that are compared with the data at most: each costs a hashing.
const VERSIONS: usize = 4;

fn is_among(metainfo: &Metainfo, items: &[Item]) -> bool {
    items.iter().any(|item| item_hashes(item) == Some(metainfo.info.hashes))
}

/// What was shared from these paths before, where it has not changed since.
async fn remembered(paths: Vec<(PathBuf, Memory)>) -> Vec<Option<Known>> {
    let count = paths.len();
    let recall = move || paths.iter().map(|(path, memory)| memory.recall(path)).collect();
    tokio::task::spawn_blocking(recall).await.unwrap_or_else(|_| std::iter::repeat_with(|| None).take(count).collect())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
) -> Result<T, HashError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(HashError::Cancelled))
}

/// What was shared from a path under a name, kept so that the next start need not hash it.
#[derive(Debug, Clone)]
struct Memory {
    torrent: PathBuf,
    proof: PathBuf,
}

impl Memory {
    fn new(state: &StateFolder, path: &Path, name: &Name) -> Self {
        let mut id = Sha256::new();
        id.update(path.as_os_str().as_encoded_bytes());
        id.update([0]);
        id.update(name.as_str());
        let id = Sha256Hash(id.finalize().into()).to_string();
        let folder = state.shares();
        Self { torrent: folder.join(format!("{id}.torrent")), proof: folder.join(format!("{id}.proof")) }
    }

    /// What is kept, if what is at `path` has not changed since.
    fn recall(&self, path: &Path) -> Option<Known> {
        let metainfo = Metainfo::parse_shared(&Bytes::from(fs::read(&self.torrent).ok()?)).ok()?;
        let proof = Proof::from_bytes(fs::read(&self.proof).ok()?);
        let holds = still_holds(&proof, path, &metainfo).is_ok_and(|holds| holds);
        holds.then(|| Known { metainfo: Arc::new(metainfo), proof, skipped: Vec::new() })
    }

    fn keep(&self, metainfo: &Metainfo, proof: &Proof) -> Result<(), StateError> {
        if let Some(folder) = self.torrent.parent() {
            fs::create_dir_all(folder).map_err(StateError::io(folder))?;
        }
        write_private_parts(&self.torrent, &metainfo.to_parts())?;
        write_private(&self.proof, proof.as_bytes())
    }
}
