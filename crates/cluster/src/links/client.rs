//! The calling side: connections to members, made when wanted and kept while they are used.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frame::{self, FRAME_BYTES, FrameError, ReplyHead, RequestHead};
use super::key::NodeKey;
use super::verify::{Expect, PinVerifier, SERVER_NAME};
use super::{HANDSHAKE, JOIN_PROTOCOL, MEMBER_PROTOCOL};
use crate::failure::StartError;
use crate::message::{Reply, Request};
use crate::raft::{Member, MemberKey, NodeId};
use crate::transport::{Boxed, LinkError, Transport};

/// Requests of raft that are under way to a member at once.
const RAFT_LANE: usize = 4;
/// Other requests that are.
const BULK_LANE: usize = 8;
/// Members with connections; more than a cluster has, so those that left make room.
const TARGETS: usize = 64;
/// How long a connection is kept without use; the other side waits longer.
const IDLE: Duration = Duration::from_secs(30);
/// A request goes on for so long when nobody waits for its reply any more: a slow answer is no reason to connect again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(3);
/// Pauses between two tries to connect: the first, and the longest. Short, since a cluster waits for its members.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// TLS to members.
pub struct TlsTransport {
    inner: Arc<Inner>,
}

struct Inner {
    certificate: CertificateDer<'static>,
    secret: PrivateKeyDer<'static>,
    who: OnceLock<Who>,
    targets: Mutex<BTreeMap<MemberKey, Arc<Target>>>,
}

struct Who {
    cluster: String,
    node: NodeId,
    run: u64,
}

/// A member that is called.
struct Target {
    key: MemberKey,
    raft: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    failed: Mutex<Option<Failed>>,
}

struct Idle {
    stream: TlsStream<TcpStream>,
    since: Instant,
}

struct Failed {
    until: Instant,
    pause: Duration,
    why: String,
}

impl TlsTransport {
    /// Proves `key` to whom it calls.
    ///
    /// # Errors
    /// Where the key cannot be used.
    pub fn new(key: &NodeKey) -> Result<Self, StartError> {
        let (certificate, secret) = key.certificate()?;
        let inner = Inner { certificate, secret, who: OnceLock::new(), targets: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says who calls. Calls before that fail.
    pub fn set_self(&self, cluster: &str, node: NodeId) {
        let who = Who { cluster: cluster.to_owned(), node, run: fastrand::u64(..) };
        let _ = self.inner.who.set(who);
    }
}

impl Transport for TlsTransport {
    fn call<'a>(
        &'a self,
        to: NodeId,
        member: &'a Member,
        request: Request,
        body: Bytes,
        limit: Duration,
    ) -> Boxed<'a, Result<(Reply, Bytes), LinkError>> {
        Box::pin(async move {
            let deadline = Instant::now() + limit;
            let who =
                self.inner.who.get().ok_or_else(|| LinkError::Unreachable("this member is starting".to_owned()))?;
            let target = self.inner.target(member.key);
            let permit = target.admit(&request, limit).await?;
            let head = RequestHead { cluster: who.cluster.clone(), from: who.node, run: who.run, to, request };
            let frame = frame::encode(&head, &body).map_err(|error| LinkError::Broken(error.to_string()))?;
            let (answer, reply) = oneshot::channel();
            let call = Call { inner: Arc::clone(&self.inner), target, to, addresses: member.addresses.clone(), frame };
            // In a task of its own: a reply that comes too late leaves a connection that can be used again.
            tokio::spawn(async move {
                let _ = answer.send(call.make(limit.max(PATIENCE)).await);
                drop::<OwnedSemaphorePermit>(permit);
            });
            match timeout(deadline.saturating_duration_since(Instant::now()), reply).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => Err(LinkError::Broken("the call ended".to_owned())),
                Err(_) => Err(LinkError::TimedOut),
            }
        })
    }
}

impl Inner {
    fn target(&self, key: MemberKey) -> Arc<Target> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if targets.len() >= TARGETS && !targets.contains_key(&key) {
            targets.retain(|_, target| Arc::strong_count(target) > 1);
        }
        Arc::clone(targets.entry(key).or_insert_with(|| Arc::new(Target::new(key))))
    }

    fn connector(&self, key: MemberKey, to: NodeId) -> Result<TlsConnector, LinkError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = PinVerifier::new(Expect::Key(key), &provider);
        let broken = |error: rustls::Error| LinkError::Unreachable(error.to_string());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(broken)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![self.certificate.clone()], self.secret.clone_key())
            .map_err(broken)?;
        // A resumed session would not look at the keys again.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![if to == 0 { JOIN_PROTOCOL.to_vec() } else { MEMBER_PROTOCOL.to_vec() }];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

impl Target {
    fn new(key: MemberKey) -> Self {
        Self {
            key,
            raft: Arc::new(Semaphore::new(RAFT_LANE)),
            bulk: Arc::new(Semaphore::new(BULK_LANE)),
            idle: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    async fn admit(&self, request: &Request, limit: Duration) -> Result<OwnedSemaphorePermit, LinkError> {
        let lane = match request {
            Request::Append(_) | Request::Vote(_) | Request::Elect => &self.raft,
            _ => &self.bulk,
        };
        let permit = timeout(limit, Arc::clone(lane).acquire_owned()).await.map_err(|_| LinkError::Busy)?;
        permit.map_err(|_| LinkError::Busy)
    }

    fn take_idle(&self) -> Option<TlsStream<TcpStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE);
        idle.pop().map(|idle| idle.stream)
    }

    fn keep(&self, stream: TlsStream<TcpStream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < RAFT_LANE + BULK_LANE {
            idle.push(Idle { stream, since: Instant::now() });
        }
    }

    /// Whether it is too early to try again.
    fn check_pause(&self) -> Result<(), LinkError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed.as_ref() {
            Some(failed) if Instant::now() < failed.until => Err(LinkError::Unreachable(failed.why.clone())),
            _ => Ok(()),
        }
    }

    fn note_failed(&self, why: &LinkError) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = failed.as_ref().map_or(PAUSE.0, |failed| (failed.pause * 2).min(PAUSE.1));
        // Members that lost the same leader shall not all knock at the same moment.
        let until = Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        *failed = Some(Failed { until, pause, why: why.to_string() });
    }

    fn note_connected(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// One request on its way.
struct Call {
    inner: Arc<Inner>,
    target: Arc<Target>,
    to: NodeId,
    addresses: Vec<String>,
    frame: Bytes,
}

impl Call {
    async fn make(self, limit: Duration) -> Result<(Reply, Bytes), LinkError> {
        // Who asks to be let in speaks another protocol than a member.
        let idle = if self.to == 0 { None } else { self.target.take_idle() };
        let mut stream = match idle {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        match timeout(limit, exchange(&mut stream, &self.frame, limit)).await {
            Ok(Ok(reply)) => {
                if self.to != 0 {
                    self.target.keep(stream);
                }
                Ok(reply)
            }
            Ok(Err(error)) => Err(LinkError::Broken(error.to_string())),
            Err(_) => Err(LinkError::TimedOut),
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, LinkError> {
        self.target.check_pause()?;
        let mut last = LinkError::Unreachable("it has no address".to_owned());
        for address in &self.addresses {
            match self.connect_to(address).await {
                Ok(stream) => {
                    self.target.note_connected();
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        self.target.note_failed(&last);
        Err(last)
    }

    async fn connect_to(&self, address: &str) -> Result<TlsStream<TcpStream>, LinkError> {
        let unreachable = |error: std::io::Error| LinkError::Unreachable(format!("{address}: {error}"));
        let slow = || LinkError::Unreachable(format!("{address} does not answer"));
        let resolved = timeout(CONNECT, lookup_host(address)).await.map_err(|_| slow())?.map_err(unreachable)?;
        let mut last = slow();
        for resolved in resolved {
            let resolved: SocketAddr = resolved;
            let stream = match timeout(CONNECT, TcpStream::connect(resolved)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = unreachable(error);
                    continue;
                }
                Err(_) => continue,
            };
            stream.set_nodelay(true).map_err(unreachable)?;
            let name = ServerName::try_from(SERVER_NAME).map_err(|_| slow())?;
            let handshake = self.inner.connector(self.target.key, self.to)?.connect(name, stream);
            return timeout(HANDSHAKE, handshake).await.map_err(|_| slow())?.map_err(unreachable);
        }
        Err(last)
    }
}

async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    frame: &Bytes,
    limit: Duration,
) -> Result<(Reply, Bytes), FrameError> {
    frame::write(stream, frame).await?;
    let (head, body): (ReplyHead, Bytes) = frame::read(stream, FRAME_BYTES, limit).await?;
    Ok((head.reply, body))
}
