//! Links between members: one TCP port, TLS 1.3 on both sides, keys pinned to the membership.
//!
//! A connection carries one request at a time, so that a snapshot is not in the way of a heartbeat: several connections
//! to a member are open when several requests are under way. Everything is bounded: connections, handshakes, sizes,
//! times.

mod client;
mod frame;
mod key;
mod server;
mod verify;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use client::TlsTransport;
pub use frame::{FRAME_BYTES, FrameError};
pub use key::NodeKey;
pub use server::ServerCounts;
pub use verify::{Expect, PinVerifier};

use crate::cluster::{Cluster, Incoming};
use crate::config::Config;
use crate::directory::Directory;
use crate::failure::StartError;
use crate::raft::NodeId;

/// What a member's connection asks for in its first message; the version changes with the frames.
const MEMBER_PROTOCOL: &[u8] = b"obt-member/1";
/// What somebody asks for who wants to be let in.
const JOIN_PROTOCOL: &[u8] = b"obt-join/1";
/// How long a handshake may take (HOSTILE T03).
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A member with its port, once it has one.
pub struct Linked {
    /// The member.
    pub cluster: Cluster,
    /// What comes out of it.
    pub incoming: Incoming,
    /// Refused and accepted connections, counted.
    pub counts: Arc<ServerCounts>,
    server: Arc<server::Server>,
    listening: Mutex<Option<Listening>>,
}

struct Listening {
    port: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Linked {
    /// Starts a member that proves `key`. It has no port: nobody joins it, and it calls others.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(mut config: Config, key: NodeKey) -> Result<Self, StartError> {
        config.member.key = key.public();
        let directory = Arc::new(Directory::default());
        let transport = Arc::new(TlsTransport::new(&key)?);
        let (cluster, incoming) = Cluster::start(
            config,
            Arc::clone(&transport) as Arc<dyn crate::transport::Transport>,
            Arc::clone(&directory),
        )
        .await?;
        transport.set_self(cluster.cluster_id(), cluster.node());
        let counts = Arc::default();
        let server = Arc::new(server::Server::new(&key, directory, cluster.clone(), Arc::clone(&counts))?);
        Ok(Self { cluster, incoming, counts, server, listening: Mutex::default() })
    }

    /// Opens the port, in place of the one that was open, and tells the others that it is at `addresses`.
    ///
    /// # Errors
    /// Where the listener has no address.
    pub fn listen(&self, listener: TcpListener, addresses: Vec<String>) -> std::io::Result<()> {
        let port = listener.local_addr()?;
        let accepting = tokio::spawn(Arc::clone(&self.server).run(listener));
        *self.lock() = Some(Listening { port, accepting });
        self.cluster.describe(|member| member.addresses = addresses);
        Ok(())
    }

    /// The batches of soft state that other members send: for whoever asks first.
    pub fn take_soft(&mut self) -> mpsc::Receiver<(NodeId, Bytes)> {
        let (_, nothing) = mpsc::channel(1);
        std::mem::replace(&mut self.incoming.soft, nothing)
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.lock().as_ref().map(|listening| listening.port)
    }

    /// Stops gracefully: [`Cluster::shutdown`], and then the port.
    pub async fn shutdown(&self) {
        self.cluster.shutdown().await;
        *self.lock() = None;
    }

    /// Stops as a crash would: [`Cluster::stop`], and the port.
    pub async fn stop(&self) {
        *self.lock() = None;
        self.cluster.stop().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Listening>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
