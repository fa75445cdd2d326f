//! Peers that are a socket and nothing else, to say what no honest peer would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use obt_wire::peer::{Handshake, Header, Kind, Message, PieceHeader, Reserved};
use obt_wire::{InfoHash, PeerId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Item, within};

/// A connection to a node.
pub(crate) struct RawPeer {
    pub(crate) socket: TcpStream,
}

impl RawPeer {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self { socket: within(TcpStream::connect(addr)).await.unwrap() }
    }

    /// Connects, and shakes hands about `item`.
    pub(crate) async fn greet(addr: SocketAddr, item: &Item) -> Self {
        Self::greet_about(addr, item.metainfo.info.hashes.primary()).await
    }

    /// Connects, and shakes hands about the torrent with this hash.
    pub(crate) async fn greet_about(addr: SocketAddr, info_hash: InfoHash) -> Self {
        let mut peer = Self::connect(addr).await;
        peer.send(&handshake(info_hash).encode()).await;
        peer.hear_handshake().await;
        peer
    }

    pub(crate) async fn hear_handshake(&mut self) -> Handshake {
        let mut answer = [0; Handshake::LEN];
        within(self.socket.read_exact(&mut answer)).await.unwrap();
        Handshake::decode(&answer).unwrap()
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The node may have closed already, which is what most tests wait for.
        let _ = self.socket.write_all(bytes).await;
    }

    pub(crate) async fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.send(&bytes).await;
    }

    /// Reads until the node closes; returns what it had said.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        let _ = within(self.socket.read_to_end(&mut said)).await;
        said
    }

    /// The next message that is no block.
    pub(crate) async fn hear(&mut self) -> Option<Message> {
        let mut bytes = vec![0; 4];
        self.socket.read_exact(&mut bytes).await.ok()?;
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        bytes.resize(4 + length, 0);
        self.socket.read_exact(&mut bytes[4..]).await.ok()?;
        match Header::decode(&bytes, 1 << 20).unwrap().unwrap() {
            Header::KeepAlive => Some(Message::KeepAlive),
            Header::Body { kind, .. } => Some(Message::decode(kind, &bytes[5..]).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

/// No extensions: what follows is up to the test.
pub(crate) fn handshake(info_hash: InfoHash) -> Handshake {
    Handshake { reserved: Reserved { fast: true, ..Reserved::default() }, info_hash, peer_id: PeerId([b'r'; 20]) }
}

/// A peer that has everything and answers each request with bytes of its own invention.
pub(crate) struct Liar {
    addr: SocketAddr,
    blocks: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    pub(crate) async fn start(item: &Item) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let blocks = Arc::new(AtomicUsize::new(0));
        let hash = item.metainfo.info.hashes.primary();
        let counter = Arc::clone(&blocks);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                lie(RawPeer { socket }, hash, &counter).await;
            }
        });
        Self { addr, blocks, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many blocks it has sent.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.load(Ordering::Relaxed)
    }
}

async fn lie(mut peer: RawPeer, hash: InfoHash, blocks: &AtomicUsize) {
    let mut theirs = [0; Handshake::LEN];
    if peer.socket.read_exact(&mut theirs).await.is_err() {
        return;
    }
    peer.send(&handshake(hash).encode()).await;
    peer.say(&Message::HaveAll).await;
    peer.say(&Message::Unchoke).await;
    while let Some(message) = peer.hear().await {
        if let Message::Request(request) = message {
            let header = PieceHeader { piece: request.piece, begin: request.begin, length: request.length };
            blocks.fetch_add(1, Ordering::Relaxed);
            peer.send(&header.encode()).await;
            peer.send(&vec![0xee; request.length as usize]).await;
        }
    }
}

/// What [`Header::decode`] knows as a message, for tests that build wrong ones.
pub(crate) fn frame(length: u32, id: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.push(id);
    bytes.extend_from_slice(body);
    bytes
}

/// The id of `have`.
pub(crate) const HAVE: u8 = Kind::Have as u8;
