//! Content, nodes and deadlines for the tests of the engine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use obt_node::config::{NodeConfig, PeerListen, PeerPort};
use obt_node::disk::{DownloadPlan, OnExisting, Selection};
use obt_node::node::Node;
use obt_node::torrent::{AddTorrent, Afterwards, Finished, Place, Source, TorrentHandle};
use obt_swarm::LocalAddresses;
use obt_wire::Sha1Hash;
use obt_wire::metainfo::{Draft, FileKind, Metainfo, Version};
use sha1::{Digest, Sha1};
use tempfile::TempDir;
use tokio::time::timeout;

/// What any test may take: far more than it does, so that a busy machine fails none.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A torrent whose bytes are in memory and in a folder.
pub(crate) struct Item {
    _dir: TempDir,
    /// The file, or the folder.
    pub(crate) root: PathBuf,
    pub(crate) metainfo: Arc<Metainfo>,
    /// The pieces end to end.
    pub(crate) bytes: Vec<u8>,
}

impl Item {
    /// A file of random bytes.
    pub(crate) fn file(name: &str, size: usize, piece_length: u32) -> Self {
        let draft = Draft::file(name, size as u64, piece_length, Version::V1).unwrap();
        Self::finish(draft, name)
    }

    /// A folder of files with random bytes.
    pub(crate) fn folder(name: &str, files: &[(&str, usize)], piece_length: u32) -> Self {
        let files = files.iter().map(|(path, size)| (path.split('/').map(str::to_owned).collect(), *size as u64));
        let draft = Draft::folder(name, files.collect::<Vec<_>>(), piece_length, Version::V1).unwrap();
        Self::finish(draft, name)
    }

    fn finish(draft: Draft, name: &str) -> Self {
        let mut random = Rng::with_seed(7);
        let length = draft.geometry().wire_bytes();
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length as usize).collect();
        let piece_length = draft.geometry().piece_length() as usize;
        let pieces: Vec<Sha1Hash> =
            bytes.chunks(piece_length).map(|piece| Sha1Hash(Sha1::digest(piece).into())).collect();
        let metainfo = draft.finish(&pieces, Vec::new()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join(name);
        for file in metainfo.info.files.iter().filter(|file| file.kind == FileKind::Data) {
            let path =
                if metainfo.info.single_file { root.clone() } else { root.join(file.path.iter().collect::<PathBuf>()) };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &bytes[file.offset as usize..(file.offset + file.size) as usize]).unwrap();
        }
        Self { _dir: dir, root, metainfo: Arc::new(metainfo), bytes }
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
        let place =
            Place { folder: folder.to_owned(), name: None, selection: Selection::All, on_existing: OnExisting::Refuse };
        add(Source::Magnet { hashes: self.metainfo.info.hashes, place }, peers)
    }

    /// Whether `root` holds the same bytes.
    pub(crate) fn assert_same(&self, root: &Path) {
        for file in self.metainfo.info.files.iter().filter(|file| file.kind == FileKind::Data) {
            let info = &self.metainfo.info;
            let path =
                if info.single_file { root.to_owned() } else { root.join(file.path.iter().collect::<PathBuf>()) };
            let wanted = &self.bytes[file.offset as usize..(file.offset + file.size) as usize];
            assert!(fs::read(&path).unwrap() == wanted, "{} differs", path.display());
        }
    }
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
