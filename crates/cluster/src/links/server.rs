//! The answering side: who may connect, how often, and that each message speaks for the one who sent it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::ServerConfig;
use rustls::server::{Acceptor, NoServerSessionStorage};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::frame::{self, FRAME_BYTES, FrameError, ReplyHead, RequestHead, STRANGER_BYTES};
use super::key::NodeKey;
use super::verify::{Expect, PinVerifier, key_of};
use super::{HANDSHAKE, JOIN_PROTOCOL, MEMBER_PROTOCOL};
use crate::cluster::Cluster;
use crate::directory::Directory;
use crate::failure::StartError;
use crate::message::{Refusal, Reply};
use crate::raft::{MemberKey, NodeId};

/// Handshakes a second, of all together; a member makes a few when it starts (HOSTILE T03).
const HANDSHAKES: u32 = 200;
/// Handshakes at once.
const SHAKING: usize = 64;
/// Of those from one address.
const SHAKING_PER_ADDRESS: u32 = 16;
/// Connections at once: all members with all their lanes.
const CONNECTIONS: usize = 512;
/// How long a member's connection is kept without a request; the other side lets go sooner.
const IDLE: Duration = Duration::from_secs(60);
/// Former runs of a member that are remembered.
const RUNS: usize = 8;

/// Connections, counted by what became of them.
#[derive(Debug, Default)]
pub struct ServerCounts {
    /// Members' that proved their keys.
    pub members: AtomicU64,
    /// Of those who want to be let in.
    pub strangers: AtomicU64,
    /// No TLS, no key, or one that is no member's.
    pub refused: AtomicU64,
    /// Turned away because there were too many.
    pub turned_away: AtomicU64,
    /// Messages that did not fit their connection.
    pub forged: AtomicU64,
}

/// Everything that connections share.
pub(crate) struct Server {
    members: Arc<ServerConfig>,
    strangers: Arc<ServerConfig>,
    directory: Arc<Directory>,
    cluster: Cluster,
    counts: Arc<ServerCounts>,
    shaking: Semaphore,
    per_address: Mutex<BTreeMap<IpAddr, u32>>,
    runs: Mutex<BTreeMap<NodeId, Vec<Run>>>,
}

/// A run of a member, and when it was first heard.
struct Run {
    number: u64,
    heard: Instant,
}

impl Server {
    pub(crate) fn new(
        key: &NodeKey,
        directory: Arc<Directory>,
        cluster: Cluster,
        counts: Arc<ServerCounts>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            members: config(key, Expect::Members(Arc::clone(&directory)), MEMBER_PROTOCOL)?,
            strangers: config(key, Expect::Anybody, JOIN_PROTOCOL)?,
            directory,
            cluster,
            counts,
            shaking: Semaphore::new(SHAKING),
            per_address: Mutex::default(),
            runs: Mutex::default(),
        })
    }

    /// Accepts until it is aborted, and with it all connections.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        let server = self;
        let mut connections = JoinSet::new();
        let mut bucket = Bucket::new(HANDSHAKES, Instant::now());
        loop {
            while connections.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely; those in use come back.
                    tracing::warn!(%error, "no connection of a member can be accepted");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if connections.len() >= CONNECTIONS || !bucket.take(Instant::now()) {
                count(&server.counts.turned_away);
                continue;
            }
            connections.spawn(Arc::clone(&server).connection(stream));
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let Ok(peer) = stream.peer_addr() else { return };
        let Some(_place) = Place::take(&self, peer.ip()) else {
            count(&self.counts.turned_away);
            return;
        };
        let Ok(shaking) = self.shaking.try_acquire() else {
            count(&self.counts.turned_away);
            return;
        };
        let _ = stream.set_nodelay(true);
        let (kind, stream, key) = match timeout(HANDSHAKE, self.handshake(stream)).await {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a connection to the members' port is refused");
                count(&self.counts.refused);
                return;
            }
            Err(_) => {
                count(&self.counts.refused);
                return;
            }
        };
        drop(shaking);
        drop(_place);
        let ended = match kind {
            Kind::Member => self.member(stream, key).await,
            Kind::Stranger => self.stranger(stream, key).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a member's connection ends");
        }
    }

    async fn handshake(&self, stream: TcpStream) -> std::io::Result<(Kind, TlsStream<TcpStream>, MemberKey)> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let wants = |protocol: &[u8]| {
            let hello = start.client_hello();
            hello.alpn().is_some_and(|mut offered| offered.any(|offer| offer == protocol))
        };
        let (kind, config) = if wants(MEMBER_PROTOCOL) {
            (Kind::Member, &self.members)
        } else if wants(JOIN_PROTOCOL) {
            (Kind::Stranger, &self.strangers)
        } else {
            return Err(std::io::Error::other("it asks for another protocol"));
        };
        let stream = start.into_stream(Arc::clone(config)).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = certificates.first().ok_or_else(|| std::io::Error::other("it shows no certificate"))?;
        let key = key_of(certificate).map_err(std::io::Error::other)?;
        Ok((kind, stream, key))
    }

    async fn member(&self, mut stream: TlsStream<TcpStream>, key: MemberKey) -> Result<(), FrameError> {
        count(&self.counts.members);
        let opened = Instant::now();
        loop {
            let (head, body): (RequestHead, Bytes) = frame::read(&mut stream, FRAME_BYTES, IDLE).await?;
            // Asked each time: the membership may have changed since the handshake.
            let sender = self.directory.by_key(&key);
            let fits = sender == Some(head.from)
                && head.to == self.cluster.node()
                && head.cluster == self.cluster.cluster_id()
                && self.is_latest_run(head.from, head.run, opened);
            if !fits {
                count(&self.counts.forged);
                tracing::warn!(?sender, from = head.from, to = head.to, "a message does not fit its connection");
                answer(&mut stream, Reply::Refused(Refusal::NotAllowed), &Bytes::new()).await?;
                return Ok(());
            }
            let serve = self.cluster.serve();
            // In a task of its own: what was asked is done though the connection may end.
            let work = tokio::spawn(async move { serve.serve(head.from, head.request, body).await });
            let (reply, body) = work.await.unwrap_or((Reply::Refused(Refusal::Stopping), Bytes::new()));
            answer(&mut stream, reply, &body).await?;
        }
    }

    /// One request, and that is all.
    async fn stranger(&self, mut stream: TlsStream<TcpStream>, key: MemberKey) -> Result<(), FrameError> {
        count(&self.counts.strangers);
        let (head, _): (RequestHead, Bytes) = frame::read(&mut stream, STRANGER_BYTES, HANDSHAKE).await?;
        let reply = if head.cluster == self.cluster.cluster_id() {
            self.cluster.serve_stranger(key, head.request).await
        } else {
            Reply::Refused(Refusal::NotAllowed)
        };
        answer(&mut stream, reply, &Bytes::new()).await
    }

    /// Two processes with one state directory are two runs that take turns. The newer goes on; the older is refused from
    /// then on, and its operator reads why. What comes late over a connection of before, as after a cut, is nobody's
    /// fault.
    fn is_latest_run(&self, node: NodeId, run: u64, opened: Instant) -> bool {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = runs.entry(node).or_default();
        match known.iter().rposition(|known| known.number == run) {
            Some(at) if at + 1 == known.len() => true,
            Some(_) if known.last().is_some_and(|newest| opened < newest.heard) => false,
            Some(_) => {
                tracing::error!(node, "two processes run with the same state directory of this member; one must stop");
                false
            }
            None => {
                if known.len() == RUNS {
                    known.remove(0);
                }
                known.push(Run { number: run, heard: Instant::now() });
                true
            }
        }
    }
}

async fn answer(stream: &mut TlsStream<TcpStream>, reply: Reply, body: &Bytes) -> Result<(), FrameError> {
    frame::write(stream, &frame::encode(&ReplyHead { reply }, body)?).await
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn config(key: &NodeKey, expect: Expect, protocol: &[u8]) -> Result<Arc<ServerConfig>, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (certificate, secret) = key.certificate()?;
    let verifier = PinVerifier::new(expect, &provider);
    let broken = |error: rustls::Error| StartError::Key(error.to_string());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], secret)
        .map_err(broken)?;
    // A resumed session would not look at the keys again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Member,
    Stranger,
}

/// One of the handshakes that an address may have under way.
struct Place<'a> {
    server: &'a Server,
    address: IpAddr,
}

impl<'a> Place<'a> {
    fn take(server: &'a Server, address: IpAddr) -> Option<Self> {
        let mut taken = server.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= SHAKING_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Self { server, address })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.server.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// So many a second, and as many at once.
struct Bucket {
    rate: u32,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: u32, now: Instant) -> Self {
        Self { rate, left: f64::from(rate), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * f64::from(self.rate)).min(f64::from(self.rate));
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t03_handshakes_have_a_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(HANDSHAKES, start);
        let taken = (0..5_000).filter(|_| bucket.take(start)).count();
        assert_eq!(taken, HANDSHAKES as usize);
        assert!(bucket.take(start + Duration::from_millis(10)));
    }
}
