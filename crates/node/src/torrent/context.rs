//! What a torrent has from its node.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::registry::Registry;
use crate::announce::Announcer;
use crate::buffers::Pool;
use crate::disk::Disk;
use crate::net::Dialer;

/// What all torrents of a node share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) disk: Disk,
    pub(crate) pool: Pool,
    pub(crate) dialer: Dialer,
    pub(crate) announcer: Announcer,
    pub(crate) registry: Arc<Registry>,
    pub(crate) cold_reads: Arc<Semaphore>,
    /// The port that peers reach us at.
    pub(crate) port: u16,
    /// Our program and its version, told to peers.
    pub(crate) client: String,
    /// Most connections of one torrent.
    pub(crate) connections: usize,
    /// How long nobody must have needed a torrent before it rests.
    pub(crate) rest_after: Duration,
}
