//! Content, nodes and deadlines for the tests of the engine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use obt_node::config::{NodeConfig, PeerListen, PeerPort};
use obt_node::disk::{DownloadPlan, OnExisting, Selection};
use obt_node::hash::{MakeOptions, Watch, make};
use obt_node::node::Node;
use obt_node::torrent::{AddTorrent, Afterwards, Finished, Place, Source, TorrentHandle};
use obt_swarm::LocalAddresses;
use obt_wire::metainfo::{Metainfo, Version};
use tempfile::TempDir;
use tokio::time::timeout;

/// What any test may take: far more than it does, so that a busy machine fails none.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A torrent and the data that it was made from.
pub(crate) struct Item {
    _dir: TempDir,
    /// The file, or the folder.
    pub(crate) root: PathBuf,
    pub(crate) metainfo: Arc<Metainfo>,
}

impl Item {
    /// A file of random bytes, as a hybrid.
    pub(crate) fn file(name: &str, size: usize, piece_length: u32) -> Self {
        Self::make(name, &[("", size)], piece_length, Version::Hybrid)
    }

    /// Files with random bytes below a folder, or one called "" that stands for itself.
    pub(crate) fn make(name: &str, files: &[(&str, usize)], piece_length: u32, version: Version) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join(name);
        let mut random = Rng::with_seed(7);
        for (path, size) in files {
            let path = if path.is_empty() { root.clone() } else { root.join(path) };
            let mut bytes = vec![0; *size];
            random.fill(&mut bytes);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let options = MakeOptions { version, piece_length: Some(piece_length) };
        let made = make(&root, name, options, &Watch::default()).unwrap();
        Self { _dir: dir, root, metainfo: Arc::new(made.metainfo) }
    }

    /// Bytes on the wire.
    pub(crate) fn size(&self) -> u64 {
        self.metainfo.info.geometry.wire_bytes()
    }

    /// Serves it.
    pub(crate) fn seed(&self) -> AddTorrent {
        add(Source::Existing { root: self.root.clone(), metainfo: Arc::clone(&self.metainfo), proof: None }, Vec::new())
    }

    /// Fetches it to `folder` from `peers`.
    pub(crate) fn fetch(&self, folder: &Path, peers: Vec<SocketAddr>) -> AddTorrent {
        let plan = DownloadPlan {
            folder: folder.to_owned(),
            name: None,
            metainfo: Arc::clone(&self.metainfo),
            torrent: self.metainfo.to_bytes().into(),
            selection: Selection::All,
            on_existing: OnExisting::Refuse,
        };
        add(Source::Download(Box::new(plan)), peers)
    }

    /// Fetches it, and the metainfo before.
    pub(crate) fn fetch_magnet(&self, folder: &Path, peers: Vec<SocketAddr>) -> AddTorrent {
        add(Source::Magnet { hashes: self.metainfo.info.hashes, place: whole(folder) }, peers)
    }

    /// Fetches it once its torrent is given.
    pub(crate) fn await_torrent(&self, folder: &Path, peers: Vec<SocketAddr>) -> AddTorrent {
        add(Source::Awaited { hashes: self.metainfo.info.hashes, place: whole(folder) }, peers)
    }

    /// The download holds the same bytes.
    pub(crate) fn assert_same(&self, download: &Path) {
        for (_, file) in self.metainfo.info.data_files() {
            let below: PathBuf =
                if self.metainfo.info.single_file { PathBuf::new() } else { file.path.components().collect() };
            let read = |root: &Path| fs::read(if below == Path::new("") { root.to_owned() } else { root.join(&below) });
            assert!(read(download).unwrap() == read(&self.root).unwrap(), "{} differs", below.display());
        }
    }
}

fn whole(folder: &Path) -> Place {
    Place { folder: folder.to_owned(), name: None, selection: Selection::All, on_existing: OnExisting::Refuse }
}

fn add(source: Source, peers: Vec<SocketAddr>) -> AddTorrent {
    AddTorrent {
        source,
        trackers: Vec::new(),
        peers,
        local_addresses: LocalAddresses::Allowed,
        afterwards: Afterwards::Seed,
    }
}

/// Small enough for many nodes in one test process.
pub(crate) fn config() -> NodeConfig {
    NodeConfig {
        listen: PeerListen { addr: None, port: PeerPort::Exactly(0) },
        buffer_bytes: 8 << 20,
        disk_threads: 1,
        ..NodeConfig::default()
    }
}

pub(crate) async fn node() -> Node {
    Node::start(config()).await.unwrap()
}

pub(crate) fn at(node: &Node) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, node.port()).into()
}

/// A node that serves `item`, and is ready to.
pub(crate) async fn seeder(item: &Item) -> Node {
    seeder_with(config(), item).await
}

pub(crate) async fn seeder_with(config: NodeConfig, item: &Item) -> Node {
    let node = Node::start(config).await.unwrap();
    within(node.add(item.seed()).unwrap().ready()).await.unwrap();
    node
}

pub(crate) async fn finish(torrent: &TorrentHandle) -> Finished {
    within(torrent.finished()).await.unwrap()
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.expect("in time")
}
