//! This tracker as a member of a cluster: where its log and its key are, how it begins, and its port for other members.
//!
//! A tracker alone is a cluster of one, and has no such port. It opens it with its first invitation, and keeps it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use obt_catalogue::FORMAT;
use obt_cluster::links::{Linked, NodeKey};
use obt_cluster::raft::{Member, NodeId};
use obt_cluster::{Config, FatalHook, Origin, StartError};
pub use obt_cluster::{Recovered, Timing};
use tokio::sync::mpsc;

use super::changes::Changes;
use super::clock::now_ms;
use super::listen::Bound;
use super::origin::Advertise;
use super::{limits, origin};
use crate::net::listen_at;
use crate::state::StateFolder;

/// Connections of members that the kernel holds for us.
const BACKLOG: i32 = 128;

/// How this tracker and others are one.
#[derive(Debug, Clone, Default)]
pub struct ClusterConfig {
    /// Where members reach each other; None is a port that is free when it is first needed, at the tracker's address.
    pub listen: Option<SocketAddr>,
    /// The name or address by which others reach this machine; None is where it listens.
    pub host: Option<String>,
    /// What `obt cluster invite` printed at a member, to begin as a member of its cluster.
    pub join: Option<String>,
    /// When things happen.
    pub timing: Timing,
}

/// Announces that other members tell.
pub(super) type Soft = mpsc::Receiver<(NodeId, Bytes)>;

/// A member that runs.
pub(super) struct Membership {
    linked: Arc<Linked>,
    listen: Option<SocketAddr>,
    /// Where others are told that its port for members is.
    host: String,
    /// Where the tracker listens.
    at: IpAddr,
}

impl Membership {
    /// Starts it; a new member waits until it is let in.
    pub(super) async fn start(
        config: ClusterConfig,
        state: &StateFolder,
        changes: &Changes,
        bound: &Bound,
        advertise: Option<&Advertise>,
    ) -> Result<(Self, Running, Soft), StartError> {
        let at = bound.sockets.first().and_then(|socket| socket.local_addr().ok());
        let at = at.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |addr| addr.ip());
        let advertised = advertise.map(|advertise| advertise.host.clone());
        let host = advertised.or(config.host).unwrap_or_else(|| match at {
            at if at.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            at => at.to_string(),
        });
        let port = advertise.and_then(|advertise| advertise.port).unwrap_or(bound.port);
        let tracker = origin::with_port(&host, port);
        // A place that was named for members may be another than the tracker's: a network of their own.
        let apart = config.listen.map(|listen| listen.ip()).filter(|ip| !ip.is_unspecified() && advertise.is_none());
        let host = apart.map_or(host, |ip| ip.to_string());
        let joins = config.join.is_some();
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let settings = Config {
            catalogue: state.catalogue(),
            log: state.cluster_log(),
            member: Member { trackers: vec![tracker], format: FORMAT, ..Member::default() },
            origin: config.join.map_or(Origin::Found, Origin::Join),
            clock: Arc::new(now_ms),
            changed: changes.hook(),
            // It has been logged. The kernel tells of a failed sync only once, so nothing is written any more.
            fatal: FatalHook::new(move |_| {
                if !over.load(Ordering::Relaxed) {
                    std::process::abort();
                }
            }),
            timing: config.timing,
        };
        let key = NodeKey::load_or_make(&state.member_key())?;
        let mut linked = Linked::start(settings, key).await?;
        let soft = linked.take_soft();
        let linked = Arc::new(linked);
        let this = Self { linked, listen: config.listen, host, at };
        let running = Running { linked: Arc::clone(&this.linked), ended };
        let cluster = &this.linked.cluster;
        let alone = cluster.members().borrow().all.len() == 1;
        if joins || !alone || !cluster.addresses().is_empty() {
            this.open_port()?;
        }
        this.linked.cluster.joined(limits::JOIN).await?;
        Ok((this, running, soft))
    }

    /// Opens the port for other members, where it is not open.
    pub(super) fn open_port(&self) -> io::Result<()> {
        if self.linked.local_addr().is_some() {
            return Ok(());
        }
        let known = self.linked.cluster.addresses();
        let known = known.first().and_then(|address| address.rsplit_once(':')?.1.parse::<u16>().ok());
        let listener = match (self.listen, known) {
            (Some(listen), _) => listen_at(listen, BACKLOG)?,
            // The others know it by this port; where it is taken they are told of another.
            (None, Some(port)) => listen_at(SocketAddr::new(self.at, port), BACKLOG)
                .or_else(|_| listen_at(SocketAddr::new(self.at, 0), BACKLOG))?,
            (None, None) => listen_at(SocketAddr::new(self.at, 0), BACKLOG)?,
        };
        let port = listener.local_addr()?.port();
        self.linked.listen(listener, vec![origin::with_port(&self.host, port)])
    }

    /// The address under which others reach this machine, where it is known as one.
    pub(super) fn home(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    pub(super) fn linked(&self) -> &Linked {
        &self.linked
    }

    /// A line that lets one more member in.
    pub(super) async fn invite(&self, good_for: Duration) -> Result<String, InviteError> {
        self.open_port().map_err(InviteError::Port)?;
        let cluster = &self.linked.cluster;
        // The line names the addresses of members as the cluster knows them.
        let node = cluster.node();
        let mut members = cluster.members();
        let known = members.wait_for(|members| members.all.get(&node).is_some_and(|own| !own.addresses.is_empty()));
        let _ = tokio::time::timeout(limits::JOIN, known).await;
        Ok(cluster.invite(good_for).await?)
    }
}

/// Founds a cluster of one from what the member of `state` had, where the others of its cluster are gone for good. Blocks;
/// to be called by who holds the lock of the state.
///
/// # Errors
/// See [`obt_cluster::recover`].
pub fn recover(state: &StateFolder) -> Result<Recovered, StartError> {
    let key = NodeKey::load_or_make(&state.member_key())?.public();
    // Where it is, it says itself when it starts.
    let member = Member { key, format: FORMAT, ..Member::default() };
    obt_cluster::recover(&state.catalogue(), &state.cluster_log(), member)
}

/// Nobody can be invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// The port for members cannot be opened.
    #[error("the port for other members cannot be opened: {0}")]
    Port(io::Error),
    /// The cluster does not answer.
    #[error(transparent)]
    Cluster(#[from] obt_cluster::ClusterFailure),
}

/// Stops a member as a crash would when it is dropped; then its files may go at once.
pub(super) struct Running {
    linked: Arc<Linked>,
    ended: Arc<AtomicBool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let linked = Arc::clone(&self.linked);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { linked.stop().await });
        }
    }
}

/// A cluster of one without a port.
#[cfg(test)]
pub(super) async fn test_member(path: &std::path::Path, changes: &Changes) -> Linked {
    let config = Config {
        catalogue: path.to_owned(),
        log: path.with_extension("log"),
        member: Member { format: FORMAT, ..Member::default() },
        origin: Origin::Found,
        clock: Arc::new(now_ms),
        changed: changes.hook(),
        fatal: FatalHook::new(|error| panic!("{error}")),
        timing: Timing::default(),
    };
    Linked::start(config, NodeKey::generate().unwrap()).await.unwrap()
}
