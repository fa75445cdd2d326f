//! A tracker of ours, alone, for tests of what speaks with one.
#![allow(dead_code, reason = "each test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "it is part of each test")]

use std::net::Ipv4Addr;

use obt_node::server::{TrackerConfig, TrackerListen, TrackerPort, TrackerServer};
use obt_node::state::StateFolder;
use obt_node::tracker_client::TrackerAddress;

/// It ends, and its state goes, when it is dropped.
pub(crate) struct Tracker {
    pub(crate) server: TrackerServer,
    _folder: tempfile::TempDir,
}

impl Tracker {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&folder.path().join("state")).unwrap();
        Self { server: serve(state).await, _folder: folder }
    }

    pub(crate) fn address(&self) -> TrackerAddress {
        TrackerAddress::new("127.0.0.1", self.server.port()).unwrap()
    }
}

/// A tracker at a free port of loopback.
pub(crate) async fn serve(state: StateFolder) -> TrackerServer {
    let mut config = TrackerConfig::new(state);
    config.listen = TrackerListen { addr: Some(Ipv4Addr::LOCALHOST.into()), port: TrackerPort::Exactly(0) };
    TrackerServer::start(config).await.unwrap()
}
