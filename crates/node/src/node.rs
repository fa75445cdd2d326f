//! The node: what its torrents share, the listener, and a graceful stop.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use obt_swarm::LocalAddresses;
use obt_wire::{BLOCK_SIZE, InfoHash, PeerId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::announce::Announcer;
use crate::buffers::Pool;
use crate::config::{NodeConfig, PeerListen};
use crate::disk::Disk;
use crate::limits;
use crate::members::MemberBook;
use crate::net::{Dialer, Listener, bind};
use crate::rates::{Rates, divide};
use crate::torrent::{self, AddTorrent, Context, Registry, TorrentHandle};
use crate::tracker_client::{TrackerAddress, TrackerClient};

/// Why a node cannot start, or cannot take a torrent.
#[derive(Debug, Error)]
pub enum NodeError {
    /// Nobody could reach us.
    #[error("cannot listen for peers at {at}")]
    Listen {
        /// The address and port that were asked for.
        at: String,
        /// Why not.
        source: io::Error,
    },
    /// The system allows fewer connections.
    #[error("{connections} connections need {needed} open files, and the system allows {allowed}")]
    Descriptors {
        /// Connections that were asked for.
        connections: usize,
        /// Descriptors for them and all else.
        needed: u64,
        /// The hard limit of the process.
        allowed: u64,
    },
    /// The torrent is there already, with what it was added for first.
    #[error("the torrent {0} is here already")]
    Duplicate(InfoHash),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// A peer: listens, and takes part in any number of swarms. Cheap to clone; when the last clone is dropped, all stops
/// at once and without a word, so call [`shutdown`](Self::shutdown) first.
#[derive(Debug, Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    context: Arc<Context>,
    members: MemberBook,
    state: Mutex<State>,
    /// Wakes whoever divides the limits.
    limited: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    torrents: BTreeMap<InfoHash, TorrentHandle>,
    /// How many there were when ended ones were let go of.
    kept: usize,
    rates: Rates,
    stopping: bool,
    /// The listener, and the tasks of torrents: aborted with the node.
    tasks: JoinSet<()>,
}

/// What trackers of ours tell others: what the user said, or the one address that we listen at. The address that our
/// messages come from may be another one of this machine's. A loopback address means nothing to others.
fn advertised(named: Vec<String>, listen: PeerListen) -> Vec<String> {
    let only = listen.addr.filter(|addr| !addr.is_unspecified() && !addr.is_loopback());
    match only {
        Some(only) if named.is_empty() => vec![only.to_string()],
        _ => named,
    }
}

/// Raises the limit of descriptors as far as so many connections need it.
fn allow_descriptors(connections: usize) -> Result<(), NodeError> {
    let needed = limits::OTHER_DESCRIPTORS.saturating_add(connections as u64);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    if needed > allowed || setrlimit(Resource::Nofile, raised).is_err() {
        return Err(NodeError::Descriptors { connections, needed, allowed });
    }
    Ok(())
}

impl Node {
    /// Binds, and starts the threads of the disk.
    ///
    /// # Errors
    /// [`NodeError::Listen`]; [`NodeError::Descriptors`] where more connections are asked for than the default.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        if config.connections > limits::CONNECTIONS {
            allow_descriptors(config.connections)?;
        }
        let (sockets, port) =
            bind(config.listen).map_err(|source| NodeError::Listen { at: config.listen.to_string(), source })?;
        let peer_id = config.peer_id.unwrap_or_else(random_peer_id);
        let places = Arc::new(Semaphore::new(config.connections));
        let registry = Arc::new(Registry::default());
        let listener = Listener::new(Arc::clone(&registry), config.handshake_timeout, Arc::clone(&places));
        let mut tasks = JoinSet::new();
        for socket in sockets {
            tasks.spawn(listener.clone().serve(socket));
        }
        let context = Arc::new(Context {
            disk: Disk::start(config.disk_threads),
            pool: Pool::bounded(config.buffer_bytes / BLOCK_SIZE as usize),
            dialer: Dialer::new(peer_id, config.connect_timeout, config.handshake_timeout, places),
            announcer: Announcer::new(advertised(config.advertise, config.listen), config.members.clone()),
            registry,
            cold_reads: Arc::new(Semaphore::new(limits::COLD_READS)),
            port,
            client: config.client,
            connections: config.torrent_connections,
            rest_after: config.rest_after,
        });
        let rates = Rates { download: config.download_rate, upload: config.upload_rate };
        let state = State { torrents: BTreeMap::new(), kept: 0, rates, stopping: false, tasks };
        let limited = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            context,
            members: config.members,
            state: Mutex::new(state),
            limited: Arc::clone(&limited),
        });
        let sharing = share_rates(Arc::downgrade(&shared), limited);
        shared.state().tasks.spawn(sharing);
        tracing::info!(port, %peer_id, "listening for peers");
        Ok(Self { shared })
    }

    /// The port that peers reach us at.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.shared.context.port
    }

    /// Our name in handshakes.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.shared.context.dialer.peer_id
    }

    /// The threads that hash and touch files.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.shared.context.disk
    }

    /// Announces for all torrents; also by itself, to be seen at a tracker while there is no torrent.
    #[must_use]
    pub fn announcer(&self) -> &Announcer {
        &self.shared.context.announcer
    }

    /// There will soon be something to announce to this tracker of ours: connects to it meanwhile.
    pub fn approach(&self, tracker: &TrackerAddress) {
        self.announcer().approach(tracker, self.peer_id(), self.port());
    }

    /// A client of a tracker of ours that knows of its members what our leases know.
    #[must_use]
    pub fn tracker_client(&self, tracker: &TrackerAddress) -> TrackerClient {
        TrackerClient::of(self.shared.members.of(tracker))
    }

    /// Takes part in a torrent. What goes wrong later is told by the handle.
    ///
    /// # Errors
    /// [`NodeError::Duplicate`], [`NodeError::Stopping`].
    pub fn add(&self, add: AddTorrent) -> Result<TorrentHandle, NodeError> {
        let hashes = add.source.hashes();
        let mut state = self.shared.state();
        if state.stopping {
            return Err(NodeError::Stopping);
        }
        state.let_go();
        let is_here = |hash: &InfoHash| state.torrents.get(hash).is_some_and(|torrent| !torrent.has_ended());
        if let Some(twin) = hashes.short().find(is_here) {
            return Err(NodeError::Duplicate(twin));
        }
        if add.local_addresses == LocalAddresses::Allowed {
            for tracker in &add.trackers {
                self.shared.context.announcer.trust(&tracker.url);
            }
        }
        let (handle, task) = torrent::start(Arc::clone(&self.shared.context), add, state.rates);
        state.torrents.extend(hashes.short().map(|hash| (hash, handle.clone())));
        while state.tasks.try_join_next().is_some() {}
        state.tasks.spawn(task);
        Ok(handle)
    }

    /// The torrent with this info-hash, if it is here.
    #[must_use]
    pub fn find(&self, hash: InfoHash) -> Option<TorrentHandle> {
        self.shared.state().torrents.get(&hash).filter(|torrent| !torrent.has_ended()).cloned()
    }

    /// All torrents, each once.
    #[must_use]
    pub fn torrents(&self) -> Vec<TorrentHandle> {
        self.shared.state().live().collect()
    }

    /// Replaces the limits, which all torrents share.
    pub fn set_rates(&self, rates: Rates) {
        self.shared.state().rates = rates;
        self.shared.limited.notify_one();
    }

    /// Leaves all swarms and makes durable what is verified, within 5 s; what takes longer is left to the next start.
    pub async fn shutdown(&self) {
        let torrents: Vec<TorrentHandle> = {
            let mut state = self.shared.state();
            state.stopping = true;
            state.live().collect()
        };
        let stop = async {
            self.shared.context.announcer.hurry().await;
            for torrent in &torrents {
                torrent.stop().await;
            }
            for torrent in &torrents {
                torrent.ended().await;
            }
        };
        if timeout(limits::STOP - limits::STOP_ANNOUNCE, stop).await.is_err() {
            tracing::warn!("torrents did not stop in time");
        }
        if timeout(limits::STOP_ANNOUNCE, self.shared.context.announcer.stop()).await.is_err() {
            tracing::debug!("a tracker did not hear that we leave");
        }
        self.shared.state().tasks.abort_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells each torrent its part of the limits, which are returned.
    fn share_rates(&self) -> Rates {
        let (rates, torrents) = {
            let state = self.state();
            (state.rates, state.live().collect::<Vec<_>>())
        };
        let used: Vec<(u64, u64)> = torrents.iter().map(TorrentHandle::rates).collect();
        let downloads = rates.download.map(|limit| divide(limit, used.iter().map(|(download, _)| *download)));
        let uploads = rates.upload.map(|limit| divide(limit, used.iter().map(|(_, upload)| *upload)));
        for (at, torrent) in torrents.iter().enumerate() {
            let of = |shares: &Option<Vec<u64>>| shares.as_ref().and_then(|shares| shares.get(at).copied());
            torrent.limit(Rates { download: of(&downloads), upload: of(&uploads) });
        }
        rates
    }
}

impl State {
    /// Lets go of ended torrents, so that a daemon that adds and drops them for years stays small; not each time, since
    /// it looks at all of them.
    fn let_go(&mut self) {
        if self.torrents.len() >= 2 * self.kept.max(32) {
            self.torrents.retain(|_, torrent| !torrent.has_ended());
            self.kept = self.torrents.len();
        }
    }

    /// Torrents that run, each once though a hybrid has two names.
    fn live(&self) -> impl Iterator<Item = TorrentHandle> {
        let primary = self.torrents.iter().filter(|(hash, torrent)| torrent.hashes().primary() == **hash);
        primary.map(|(_, torrent)| torrent.clone()).filter(|torrent| !torrent.has_ended())
    }
}

/// Divides the limits among the torrents again and again, by what each made of its share. Sleeps while there are none.
async fn share_rates(shared: Weak<Shared>, limited: Arc<Notify>) {
    loop {
        let Some(rates) = shared.upgrade().map(|shared| shared.share_rates()) else {
            return;
        };
        if rates == Rates::default() {
            limited.notified().await;
        } else {
            sleep(limits::RATE_SHARE).await;
        }
    }
}

/// A name in the style of BEP 20.
fn random_peer_id() -> PeerId {
    let mut id = *b"-OB0100-            ";
    for byte in id.iter_mut().skip(8) {
        *byte = u8::try_from(fastrand::alphanumeric()).unwrap_or(b'0');
    }
    PeerId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_at_one_address_is_told_of_under_it() {
        let at = |text: &str| PeerListen { addr: Some(text.parse().unwrap()), ..PeerListen::default() };
        assert_eq!(advertised(Vec::new(), at("10.99.0.10")), ["10.99.0.10"]);
        assert_eq!(advertised(Vec::new(), at("2001:db8::1")), ["2001:db8::1"]);
        assert_eq!(advertised(vec!["lab".into()], at("10.99.0.10")), ["lab"]);
        for several in [PeerListen::default(), at("0.0.0.0"), at("::"), at("127.0.0.1")] {
            assert!(advertised(Vec::new(), several).is_empty());
        }
    }
}
