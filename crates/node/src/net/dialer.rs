//! Connects to peers and opens the handshake, within bounds of time and number.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use obt_wire::{InfoHashes, PeerId};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::handshake::{self, Agreed, HandshakeError};
use crate::limits::HALF_OPEN;

/// An outgoing connection that is ready.
#[derive(Debug)]
pub(crate) struct Dialed {
    /// The connected socket; nothing after the handshake is read yet.
    pub(crate) stream: TcpStream,
    /// What both sides said.
    pub(crate) agreed: Agreed,
    /// Its place among all connections.
    pub(crate) place: OwnedSemaphorePermit,
}

/// Connects, for all torrents of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    /// Our name in handshakes.
    pub(crate) peer_id: PeerId,
    connect: Duration,
    handshake: Duration,
    /// One permit for each connect under way.
    half_open: Arc<Semaphore>,
    /// One permit for each connection of the process.
    places: Arc<Semaphore>,
}

impl Dialer {
    pub(crate) fn new(peer_id: PeerId, connect: Duration, handshake: Duration, places: Arc<Semaphore>) -> Self {
        Self { peer_id, connect, handshake, half_open: Arc::new(Semaphore::new(HALF_OPEN)), places }
    }

    /// Connects to `addr` and shakes hands about the torrent with these hashes.
    pub(crate) async fn dial(&self, addr: SocketAddr, hashes: InfoHashes) -> Result<Dialed, HandshakeError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| HandshakeError::NoRoom)?;
        let _half_open = self.half_open.acquire().await.map_err(|_| HandshakeError::NoRoom)?;
        let connecting = timeout(self.connect, TcpStream::connect(addr)).await;
        let mut stream = connecting.map_err(|_| HandshakeError::TimedOut(self.connect))??;
        let agreed = handshake::open(&mut stream, hashes, self.peer_id, self.handshake).await?;
        Ok(Dialed { stream, agreed, place })
    }
}
