//! Sockets of peers: listening, dialling, and one task for each connection.
//!
//! A connection moves bytes between its socket and its torrent's task: messages and blocks go up in batches through
//! a bounded queue ([`Report`]), what is to be sent comes down through an [`Outbox`]. What any of them means is decided in
//! `obt-swarm`.

mod dialer;
mod handshake;
mod listener;
mod outbox;
mod outgoing;
mod peer_conn;
mod reader;
mod stream;
mod upload;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use obt_swarm::PeerKey;
use obt_wire::PieceIndex;
use obt_wire::peer::{Message, PieceHeader};
use tokio::sync::Semaphore;

use crate::buffers::{BlockBuf, Pool};
use crate::disk::Store;

pub(crate) use dialer::{Dialed, Dialer};
pub(crate) use handshake::answer;
pub(crate) use listener::{Arrival, Listener, bind, listen_at};
pub(crate) use outbox::Outbox;
pub(crate) use outgoing::Outgoing;
pub(crate) use peer_conn::Connection;

/// What a connection tells its torrent.
#[derive(Debug)]
pub(crate) enum Report {
    /// What came in, and what went out, in order.
    Items(PeerKey, Vec<Item>),
    /// The connection is gone; nothing of it follows.
    Gone(PeerKey),
}

/// Something that happened on a connection.
#[derive(Debug)]
pub(crate) enum Item {
    /// A message came in.
    Message(Message),
    /// A block came in.
    Block(PieceHeader, BlockBuf),
    /// A block is coming in, slowly.
    Progress,
    /// A block of so many bytes is handed to the kernel.
    Uploaded(u32),
    /// A block could not be read.
    UploadFailed(PieceIndex),
}

/// What all connections of a torrent share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where blocks that come in are put.
    pub(crate) pool: Pool,
    /// Where blocks that go out are; empty until the content is known.
    pub(crate) store: OnceLock<Store>,
    /// The longest bitfield that can be right, bytes.
    pub(crate) bitfield_bytes: AtomicUsize,
    /// One permit for each read of data that is not in memory.
    pub(crate) cold_reads: Arc<Semaphore>,
}
