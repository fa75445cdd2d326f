//! What reaches a torrent's task besides the traffic of its connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use obt_swarm::{AnnounceFailure, AnnounceReply, PeerSource, TrackerIndex};
use obt_wire::metainfo::Metainfo;

use super::error::TorrentError;
use super::open::Opened;
use crate::disk::StoreError;
use crate::net::{Arrival, Dialed};
use crate::rates::Rates;

/// Something for a torrent's task to act on.
#[derive(Debug)]
pub(crate) enum Order {
    /// A peer connected to us and named this torrent.
    Arrived(Arrival),
    /// A connect ended; None where it came to nothing.
    Dialed(SocketAddr, Option<Dialed>),
    /// An announce ended.
    Announced(TrackerIndex, Result<AnnounceReply, AnnounceFailure>),
    /// The storage of a torrent that was not known at first is open.
    Opened(Result<Box<Opened>, TorrentError>),
    /// The torrent that was awaited, and its file.
    Given(Arc<Metainfo>, Bytes),
    /// The download has its final name, or cannot get it.
    Finished(Result<PathBuf, StoreError>),
    /// Addresses to try.
    AddPeers(PeerSource, Vec<SocketAddr>),
    /// New limits.
    Limit(Rates),
    /// Open the storage, if the torrent is at rest.
    Wake,
    /// Leave the swarm, and end.
    Stop,
}

/// What the inbox of a torrent carries.
pub(crate) type Ordered = Box<Order>;
