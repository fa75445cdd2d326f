//! What a node is told at start.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use obt_wire::PeerId;

use crate::limits;
use crate::members::MemberBook;

/// Where to listen for peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerListen {
    /// One address, or every one, v4 and v6.
    pub addr: Option<IpAddr>,
    /// Which port.
    pub port: PeerPort,
}

impl fmt::Display for PeerListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.addr, self.port) {
            (Some(addr), PeerPort::Exactly(port)) => SocketAddr::new(addr, port).fmt(f),
            (Some(addr), PeerPort::Usual) => SocketAddr::new(addr, limits::PEER_PORT).fmt(f),
            (None, PeerPort::Exactly(port)) => write!(f, "port {port}"),
            (None, PeerPort::Usual) => write!(f, "port {}", limits::PEER_PORT),
        }
    }
}

/// Which port to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerPort {
    /// 6881, or the next free one: the user did not ask.
    #[default]
    Usual,
    /// This one or none; 0 is any free one.
    Exactly(u16),
}

/// What a node is told at start; [`Default`] is right for most.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where to listen for peers.
    pub listen: PeerListen,
    /// Our name in handshakes; a random one is made where there is none.
    pub peer_id: Option<PeerId>,
    /// Our program and its version, told to peers.
    pub client: String,
    /// `HOST:PORT`s that trackers of ours tell others instead of the address that we come from.
    pub advertise: Vec<String>,
    /// Where else trackers of ours can be asked.
    pub members: MemberBook,
    /// Memory for block buffers, bytes.
    pub buffer_bytes: usize,
    /// Threads for hashing and files; 0 is one for each core.
    pub disk_threads: usize,
    /// Connections at once, of all torrents.
    pub connections: usize,
    /// Connections at once, of one torrent.
    pub torrent_connections: usize,
    /// Payload to receive, of all torrents, bytes per second.
    pub download_rate: Option<u64>,
    /// Payload to send, of all torrents, bytes per second.
    pub upload_rate: Option<u64>,
    /// Time for a TCP connect.
    pub connect_timeout: Duration,
    /// Time for a handshake.
    pub handshake_timeout: Duration,
    /// How long nobody must have needed a shared item before its files are closed.
    pub rest_after: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            listen: PeerListen::default(),
            peer_id: None,
            client: concat!("obt/", env!("CARGO_PKG_VERSION")).to_owned(),
            advertise: Vec::new(),
            members: MemberBook::default(),
            buffer_bytes: limits::BUFFER_BYTES,
            disk_threads: 0,
            connections: limits::CONNECTIONS,
            torrent_connections: limits::TORRENT_CONNECTIONS,
            download_rate: None,
            upload_rate: None,
            connect_timeout: limits::CONNECT,
            handshake_timeout: limits::HANDSHAKE,
            rest_after: limits::REST_AFTER,
        }
    }
}
