//! The tracker's server: one TCP port for announces, the catalogue, files and the web page, and UDP announces beside it.
//!
//! What is answered is decided in `obt-tracker` and `obt-catalogue`; here requests come in, get their place and their
//! time, and go out as JSON.

mod announce;
mod bulk;
mod catalogue;
mod changes;
mod clock;
mod connections;
mod error;
mod events;
mod exchange;
mod files;
mod items;
mod lane;
mod lease;
mod limits;
mod listen;
mod membership;
mod metainfos;
mod operator;
mod origin;
mod paths;
mod publish;
mod routes;
pub mod state;
mod status;
mod udp;
mod upkeep;
mod web;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub use obt_catalogue::PublishPolicy;
use obt_catalogue::signing::{Keypair, PublicKey, ReplayGuard};
use obt_catalogue::{CatalogueError, Command, Pace, Reader};
use obt_cluster::ClusterFailure;
pub use obt_cluster::{ClusterStatus, Role};
use obt_tracker::limits::Limits;
use obt_tracker::swarms::SHARD_BITS;
use obt_tracker::turns::Turns;
use obt_tracker::{Advertised, StoreConfig};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::bulk::Bulk;
use self::catalogue::{CatalogueFailure, CatalogueTasks};
use self::connections::{Answered, Front, Places};
use self::events::Events;
pub use self::files::{FileRequest, FileSource, FileStream, FileUnavailable, Opening};
pub use self::listen::{TrackerListen, TrackerPort};
pub use self::membership::{ClusterConfig, InviteError, Recovered, Timing, recover};
use self::membership::{Membership, Running};
use self::metainfos::Metainfos;
pub use self::operator::{Operator, OperatorError};
pub use self::origin::{Advertise, ParseAdvertiseError};
use self::state::TrackerState;
use self::udp::UdpThreads;
use crate::keyring::{KeyringError, read_or_make_key};
use crate::state::StateFolder;

/// What a tracker is told at start.
pub struct TrackerConfig {
    /// Keys and catalogue; locked by whoever runs the server.
    pub state: StateFolder,
    /// Where to listen.
    pub listen: TrackerListen,
    /// What others are told instead of the addresses that they reached.
    pub advertise: Option<Advertise>,
    /// Who may publish from here on; None leaves it as it was.
    pub publish: Option<PublishPolicy>,
    /// Budgets of the swarms.
    pub limits: Limits,
    /// How it and others are one.
    pub cluster: ClusterConfig,
    /// Where the bytes of `/files` come from, if that is known already; see [`TrackerServer::serve_files`].
    pub files: Option<Arc<dyn FileSource>>,
}

impl TrackerConfig {
    /// What is right for most, with this state.
    #[must_use]
    pub fn new(state: StateFolder) -> Self {
        Self {
            state,
            listen: TrackerListen::default(),
            advertise: None,
            publish: None,
            limits: Limits::default(),
            cluster: ClusterConfig::default(),
            files: None,
        }
    }
}

/// Why a tracker does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Somebody else has the port, or it may not be had.
    #[error("cannot listen at {at}")]
    Listen {
        /// What was asked for.
        at: String,
        /// Why not.
        source: io::Error,
    },
    /// The catalogue's file cannot be used.
    #[error("cannot open the catalogue")]
    Catalogue(#[source] CatalogueError),
    /// It cannot be a member of its cluster, which every tracker is.
    #[error(transparent)]
    Cluster(#[from] obt_cluster::StartError),
    /// The catalogue cannot be written.
    #[error("cannot write the catalogue")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The key of this machine cannot be read or made.
    #[error(transparent)]
    Key(#[from] KeyringError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

impl From<CatalogueFailure> for StartError {
    fn from(error: CatalogueFailure) -> Self {
        Self::Write(Box::new(error))
    }
}

/// A running tracker. Dropping it stops it at once; [`shutdown`](Self::shutdown) lets answers end.
pub struct TrackerServer {
    app: Arc<App>,
    addresses: Vec<SocketAddr>,
    publisher: Keypair,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    udp: UdpThreads,
    _running: Running,
}

/// What all requests share.
struct App {
    catalogue: CatalogueTasks,
    membership: Membership,
    state: Arc<TrackerState>,
    metainfos: Metainfos,
    events: Events,
    replays: Mutex<ReplayGuard>,
    pace: Mutex<Pace>,
    /// The key of this machine, whose changes are its operator's.
    own_key: PublicKey,
    files: OnceLock<Arc<dyn FileSource>>,
    advertise: Option<Advertise>,
    port: u16,
    udp_port: Option<u16>,
    started: Instant,
    places: Arc<Places>,
    answered: Answered,
    /// Requests being answered.
    requests: Semaphore,
    /// KiB of .torrent files that are coming in.
    uploads: Semaphore,
    /// Files being sent.
    streams: Arc<Semaphore>,
    bulk: Bulk,
    /// Of those who come for .torrents.
    turns: Mutex<Turns>,
    /// True, or closed, when the server stops.
    stop: watch::Receiver<bool>,
}

impl TrackerServer {
    /// Opens the catalogue, binds, and serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: TrackerConfig) -> Result<Self, StartError> {
        let publisher = read_or_make_key(&config.state.publish_key())?;
        let unbound = |source| StartError::Listen { at: config.listen.to_string(), source };
        let mut bound = listen::bind(config.listen).map_err(unbound)?;
        let (changes, told) = changes::queue();
        let advertise = config.advertise.as_ref();
        let (membership, running, soft) =
            Membership::start(config.cluster.clone(), &config.state, &changes, &bound, advertise).await?;
        let cluster = membership.linked().cluster.clone();
        let path = config.state.catalogue();
        let catalogue = CatalogueTasks::new(cluster.clone(), changes.clone(), &path).map_err(StartError::Catalogue)?;
        let mut settling = Box::pin(settle(catalogue.clone(), publisher.public(), config.publish));
        let alone = cluster.members().borrow().all.len() == 1;
        // Whoever publishes here at once is to be known by then. But the others may not be there yet, and what this member
        // has can be read without them.
        let patience = if alone { Duration::MAX } else { limits::SETTLED };
        let settling = match tokio::time::timeout(patience, &mut settling).await {
            Ok(settled) => settled.map(|()| None)?,
            Err(_) => Some(settling),
        };

        let state = Arc::new(TrackerState::new(&store_config(&config)?, Instant::now()));
        let datagrams = std::mem::take(&mut bound.datagrams);
        let udp = UdpThreads::start(datagrams, &state, &cluster.secret()).map_err(unbound)?;
        let (stop, stopped) = watch::channel(false);
        let app = Arc::new(App {
            catalogue,
            membership,
            state,
            metainfos: Metainfos::new(),
            events: Events::new(),
            replays: Mutex::new(ReplayGuard::new()),
            pace: Mutex::new(Pace::new()),
            own_key: publisher.public(),
            files: config.files.map_or_else(OnceLock::new, OnceLock::from),
            advertise: config.advertise,
            port: bound.port,
            udp_port: Some(bound.port),
            started: Instant::now(),
            places: Arc::default(),
            answered: Answered::default(),
            requests: Semaphore::new(limits::REQUESTS),
            uploads: Semaphore::new(limits::UPLOAD_KIB as usize),
            streams: Arc::new(Semaphore::new(limits::STREAMS)),
            bulk: Bulk::new(),
            turns: Mutex::default(),
            stop: stopped,
        });
        changes::hold_what_is_named(&app).await.map_err(StartError::Catalogue)?;
        let mut this = Self::serve(app, bound, udp, publisher, stop, running);
        this.tasks.spawn(changes::run(Arc::downgrade(&this.app), changes, told));
        let home = this.app.membership.home();
        this.tasks.spawn(exchange::run(Arc::clone(&this.app.state), cluster, soft, home));
        if let Some(settling) = settling {
            this.tasks.spawn(async move {
                if let Err(error) = settling.await {
                    tracing::warn!(%error, "the cluster does not know yet what this member was told at its start");
                }
            });
        }
        Ok(this)
    }

    fn serve(
        app: Arc<App>,
        bound: listen::Bound,
        udp: UdpThreads,
        publisher: Keypair,
        stop: watch::Sender<bool>,
        running: Running,
    ) -> Self {
        let front = Front { routes: routes::all(&app), app: Arc::clone(&app) };
        let mut tasks = JoinSet::new();
        let addresses = bound.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        for socket in bound.sockets {
            tasks.spawn(connections::accept(socket, front.clone(), app.stop.clone()));
        }
        tasks.spawn(upkeep::run(Arc::downgrade(&app)));
        tracing::info!(port = app.port, "the tracker is up");
        Self { app, addresses, publisher, stop, tasks, udp, _running: running }
    }

    /// The TCP and UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.app.port
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The key in `STATE/publish.key`, which may publish here.
    #[must_use]
    pub fn publisher(&self) -> &Keypair {
        &self.publisher
    }

    /// Who is in which swarm.
    #[must_use]
    pub fn state(&self) -> &Arc<TrackerState> {
        &self.app.state
    }

    /// What its operator may ask of it.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator::new(Arc::clone(&self.app))
    }

    /// Stops as a crash would: nothing is handed over, nobody is told. What was acknowledged is durable anyway.
    pub async fn abort(mut self) {
        self.stop.send_replace(true);
        self.app.membership.linked().stop().await;
        self.tasks.shutdown().await;
        self.udp.stopped().await;
    }

    /// Says where the bytes of `/files` come from, where that was not known at start. Only the first word counts.
    pub fn serve_files(&self, source: Arc<dyn FileSource>) {
        let _ = self.app.files.set(source);
    }

    /// Stops: notes who was here last, hands the lead to another member, takes no more connections, and lets answers under
    /// way end for 2 s.
    pub async fn shutdown(mut self) {
        upkeep::note_changes(&self.app).await;
        self.app.membership.linked().shutdown().await;
        self.stop.send_replace(true);
        let deadline = tokio::time::Instant::now() + limits::STOP;
        while self.app.places.count() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(limits::STOP / 40).await;
        }
        self.tasks.shutdown().await;
        self.udp.stopped().await;
    }
}

/// The key of this machine may publish, unless it was revoked; and who else may is as the operator said. Where others
/// must agree, asks until they do.
async fn settle(catalogue: CatalogueTasks, key: PublicKey, policy: Option<PublishPolicy>) -> Result<(), StartError> {
    let ask = |reader: &Reader| Ok::<_, CatalogueError>((reader.keys()?, reader.publish_policy()?));
    let (known, before) = catalogue.read(ask).await.map_err(StartError::Catalogue)?;
    let mut commands = Vec::new();
    if known.iter().all(|record| record.key != key) {
        let label = "this machine".to_owned();
        commands.push(Command::AddKey { key, label, names: Some(limits::OWN_NAMES) });
    }
    let policy = policy.filter(|policy| *policy != before);
    commands.extend(policy.map(|policy| Command::SetPublishPolicy { policy }));
    for command in commands {
        loop {
            match catalogue.settle_own(command.clone()).await {
                Ok(_) => break,
                Err(CatalogueFailure::Cluster(
                    ClusterFailure::NoLeader | ClusterFailure::NoQuorum | ClusterFailure::Unknown,
                )) => {
                    tokio::time::sleep(limits::SETTLE).await;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }
    Ok(())
}

fn store_config(config: &TrackerConfig) -> Result<StoreConfig, StartError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|_| StartError::Random)?;
    let advertised = config.advertise.as_ref().and_then(|advertise| advertise.host.parse().ok());
    let advertised = match advertised {
        Some(std::net::IpAddr::V4(ip)) => Advertised { v4: Some(ip), v6: None },
        Some(std::net::IpAddr::V6(ip)) => Advertised { v4: None, v6: Some(ip) },
        None => Advertised::default(),
    };
    Ok(StoreConfig { shard_bits: SHARD_BITS, limits: config.limits, advertised, secret })
}
