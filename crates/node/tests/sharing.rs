//! Shared items over real sockets and disks: at rest while nobody needs them, awake for whoever comes, and shared again
//! after a restart without being hashed.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use obt_node::config::{NodeConfig, PeerListen, PeerPort};
use obt_node::disk::{DownloadPlan, OnExisting, Selection};
use obt_node::hash::{MakeOptions, Watch};
use obt_node::names::Name;
use obt_node::node::Node;
use obt_node::server::TrackerServer;
use obt_node::sharer::{How, Resumed, ShareRequest, Shared, Sharer};
use obt_node::state::StateFolder;
use obt_node::torrent::{AddTorrent, Afterwards, LocalAddresses, Source, TorrentHandle, TorrentStats};
use obt_node::tracker_client::{Replace, TrackerAddress, TrackerClient};
use tempfile::TempDir;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);

async fn within<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.expect("in time")
}

/// A tracker, and a peer whose items rest as soon as nobody needs them.
struct Lab {
    folder: TempDir,
    state: StateFolder,
    server: TrackerServer,
    node: Node,
    sharer: Sharer,
}

impl Lab {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&folder.path().join("state")).unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let server = support::serve(state.clone()).await;
        let (node, sharer) = peer(&server, &state).await;
        Self { folder, state, server, node, sharer }
    }

    /// Ends the peer, and starts it with the same state.
    async fn restart(&mut self) {
        self.node.shutdown().await;
        (self.node, self.sharer) = peer(&self.server, &self.state).await;
    }

    fn file(&self, name: &str, byte: u8) -> ShareRequest {
        let path = self.folder.path().join("data").join(name);
        fs::write(&path, vec![byte; 300_000]).unwrap();
        let name = name.parse::<Name>().unwrap();
        ShareRequest { path, name, replace: Replace::Yes, options: MakeOptions::default() }
    }

    async fn share(&self, request: &ShareRequest) -> Shared {
        let shared = within(self.sharer.share(request, Arc::new(Watch::default()))).await.unwrap();
        within(shared.until_known_to_tracker()).await;
        shared
    }

    /// Fetches what is shared with another node; the path of the copy.
    async fn fetch(&self, shared: &Shared, folder: &Path) -> std::path::PathBuf {
        let node = start().await;
        let (metainfo, _) = within(shared.handle.ready()).await.unwrap();
        let plan = DownloadPlan {
            folder: folder.to_owned(),
            name: None,
            torrent: metainfo.to_bytes().into(),
            metainfo,
            selection: Selection::All,
            on_existing: OnExisting::Refuse,
        };
        let fetched = node.add(AddTorrent {
            source: Source::Download(Box::new(plan)),
            trackers: Vec::new(),
            peers: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.node.port()))],
            local_addresses: LocalAddresses::Allowed,
            afterwards: Afterwards::Stop,
        });
        let finished = within(fetched.unwrap().finished()).await.unwrap();
        node.shutdown().await;
        finished.path
    }

    fn holders(&self, shared: &Shared) -> u32 {
        self.server.state().stats(&shared.handle.hashes(), Instant::now()).seeds
    }
}

async fn start() -> Node {
    let config = NodeConfig {
        listen: PeerListen { addr: None, port: PeerPort::Exactly(0) },
        disk_threads: 1,
        rest_after: Duration::ZERO,
        ..NodeConfig::default()
    };
    Node::start(config).await.unwrap()
}

async fn peer(server: &TrackerServer, state: &StateFolder) -> (Node, Sharer) {
    let node = start().await;
    let client = TrackerClient::new(TrackerAddress::new("127.0.0.1", server.port()).unwrap());
    let sharer = Sharer::new(node.clone(), client, server.publisher().clone(), state.clone());
    (node, sharer)
}

async fn until(handle: &TorrentHandle, what: impl FnMut(&Arc<TorrentStats>) -> bool) -> Arc<TorrentStats> {
    within(handle.stats().wait_for(what)).await.unwrap().clone()
}

fn is_at_rest(stats: &TorrentStats) -> bool {
    stats.swarm.is_none() && stats.announced
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_item_rests_until_a_peer_comes_and_again_when_it_has_left() {
    let lab = Lab::new().await;
    let request = lab.file("x", 1);
    let shared = lab.share(&request).await;
    until(&shared.handle, |stats| is_at_rest(stats)).await;
    assert_eq!(lab.holders(&shared), 1);
    for copy in ["first", "second"] {
        let folder = lab.folder.path().join(copy);
        fs::create_dir(&folder).unwrap();
        let path = lab.fetch(&shared, &folder).await;
        assert_eq!(fs::read(path).unwrap(), fs::read(&request.path).unwrap());
        until(&shared.handle, |stats| is_at_rest(stats)).await;
        assert_eq!(lab.holders(&shared), 1, "it stays on its lease");
    }
    shared.handle.stop().await;
    within(shared.handle.ended()).await;
    assert_eq!(lab.holders(&shared), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_an_item_at_rest_wakes_it() {
    let lab = Lab::new().await;
    let request = lab.file("x", 1);
    let shared = lab.share(&request).await;
    until(&shared.handle, |stats| is_at_rest(stats)).await;
    let mut reader = within(shared.handle.read(0, 100_000..300_000)).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(more) = within(reader.next()).await.unwrap() {
        bytes.extend_from_slice(&more);
        assert!(shared.handle.stats().borrow().swarm.is_some(), "it stays awake while it is read");
    }
    assert_eq!(bytes, vec![1; 200_000]);
    drop(reader);
    until(&shared.handle, |stats| is_at_rest(stats)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_at_rest_again_before_anybody_looks_is_woken_again() {
    let lab = Lab::new().await;
    let shared = lab.share(&lab.file("x", 1)).await;
    until(&shared.handle, |stats| is_at_rest(stats)).await;
    let mut stats = shared.handle.stats();
    stats.mark_unchanged();
    let mut ready = pin!(shared.handle.ready());
    assert!(ready.as_mut().now_or_never().is_none(), "it is being woken");
    within(stats.changed()).await.unwrap();
    until(&shared.handle, |stats| is_at_rest(stats)).await;
    within(ready).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_at_rest_is_not_served() {
    let lab = Lab::new().await;
    let request = lab.file("x", 1);
    let shared = lab.share(&request).await;
    until(&shared.handle, |stats| is_at_rest(stats)).await;
    lab.file("x", 2);
    within(shared.handle.ready()).await.unwrap();
    let stats = until(&shared.handle, |stats| stats.swarm.is_some()).await;
    assert_eq!(stats.swarm.as_ref().map(|swarm| swarm.pieces_have), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_gone_when_it_is_woken_leaves_its_lease() {
    let lab = Lab::new().await;
    let request = lab.file("x", 1);
    let shared = lab.share(&request).await;
    until(&shared.handle, |stats| is_at_rest(stats)).await;
    fs::remove_file(&request.path).unwrap();
    assert!(within(shared.handle.ready()).await.is_err());
    assert_eq!(lab.holders(&shared), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_what_has_not_changed_is_shared_with_one_question() {
    let mut lab = Lab::new().await;
    let requests = ["a", "b", "c"].map(|name| lab.file(name, name.as_bytes()[0]));
    for request in &requests {
        assert_eq!(lab.share(request).await.how, How::Published);
    }
    lab.restart().await;
    lab.file("b", 0);
    let new = lab.file("d", 0);
    let Resumed { shared, others } = within(lab.sharer.resume([&requests[..], &[new]].concat())).await.unwrap();
    let names = |requests: &mut dyn Iterator<Item = &ShareRequest>| -> Vec<String> {
        requests.map(|request| request.name.to_string()).collect()
    };
    assert_eq!(names(&mut shared.iter().map(|(request, _)| request)), ["a", "c"]);
    assert_eq!(names(&mut others.iter()), ["d", "b"].map(String::from).iter().rev().cloned().collect::<Vec<_>>());
    for (_, shared) in &shared {
        within(shared.until_known_to_tracker()).await;
        assert_eq!(lab.holders(shared), 1);
    }
}
