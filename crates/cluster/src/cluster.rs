//! A member of a cluster, as the rest of the program sees it. A tracker alone is a cluster of one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_catalogue::{BlobHash, Catalogue, Command, CommandId, Outcome};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::directory::{Directory, Members};
use crate::failure::{ClusterFailure, StartError};
use crate::fatal::FatalError;
use crate::inbox::Inbox;
use crate::invite::{self, JoinLine};
use crate::limits;
use crate::log::{Identity, LogStore};
use crate::machine::Machine;
use crate::message::{Join, Refusal, Reply, Request};
use crate::network::{Contacts, Network};
use crate::raft::{MemberKey, NodeId, Raft};
use crate::shared::Shared;
use crate::start::{self, Opened};
use crate::state::{ClusterCommand, ClusterOutcome, Position};
use crate::status::{self, AsOf, ClusterStatus};
use crate::transport::{LinkError, Serve, Transport};
use crate::{blobs, keeper, propose, serve};

/// Between two tries of a new member to be let in.
const JOIN_RETRY: Duration = Duration::from_millis(500);

/// One member, running. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// What comes out of a member besides answers.
pub struct Incoming {
    /// Batches of soft state that other members sent, in order from each.
    pub soft: mpsc::Receiver<(NodeId, Bytes)>,
}

impl Cluster {
    /// Starts a member over `transport`; `directory` is where that one finds keys. Reads and writes files before it
    /// returns, a few milliseconds; it does not wait for other members.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        config: Config,
        transport: Arc<dyn Transport>,
        directory: Arc<Directory>,
    ) -> Result<(Self, Incoming), StartError> {
        let folder = config.catalogue.parent().unwrap_or(Path::new(".")).to_owned();
        let opening = config.clone();
        let opened = tokio::task::spawn_blocking(move || start::open(&opening)).await;
        let Opened { log, catalogue } = opened.map_err(std::io::Error::other)??;
        let identity = log.identity().clone();
        let log = LogStore::start(log, config.fatal.clone())?;
        let (machine, missing) =
            Machine::start(catalogue, &config.catalogue, Arc::clone(&config.changed), config.fatal.clone())?;
        let contacts = Contacts::default();
        let network = Network {
            transport: Arc::clone(&transport),
            contacts: contacts.clone(),
            directory: Arc::clone(&directory),
        };
        let raft_config = config.timing.raft().validate().map_err(|error| StartError::Consensus(error.to_string()))?;
        let raft = Raft::new(identity.node, Arc::new(raft_config), network, log.clone(), machine.clone()).await;
        let raft = raft.map_err(|error| StartError::Consensus(error.to_string()))?;
        directory.set(Members::of(&machine.position().borrow().membership));
        let mut member = config.member.clone();
        if member.addresses.is_empty()
            && let Some(known) = directory.members().all.get(&identity.node)
        {
            member.addresses.clone_from(&known.addresses);
        }
        let (proposals, queue) = mpsc::channel(limits::PROPOSALS);
        let (soft, incoming) = mpsc::channel(limits::SOFT_BATCHES);
        let shared = Arc::new(Shared {
            node: identity.node,
            cluster: identity.cluster.clone(),
            raft,
            log,
            machine,
            transport,
            directory,
            contacts,
            inbox: Inbox::new(&folder),
            blobs: blobs::Arriving::default(),
            proposals,
            soft,
            clock: Arc::clone(&config.clock),
            timing: config.timing,
            folder,
            began: Instant::now(),
            heard: Mutex::default(),
            installing: AtomicUsize::default(),
            fresh: Mutex::default(),
            leading: Mutex::default(),
            description: watch::Sender::new(member),
            refused: watch::Sender::new(None),
            stopping: AtomicBool::new(false),
        });
        let tasks = vec![
            tokio::spawn(propose::run(Arc::clone(&shared), queue)),
            tokio::spawn(blobs::run(Arc::clone(&shared), missing)),
            tokio::spawn(keeper::run(Arc::downgrade(&shared), config.timing.membership)),
            tokio::spawn(propose::stay_fresh(Arc::downgrade(&shared))),
            tokio::spawn(follow_membership(Arc::clone(&shared))),
            tokio::spawn(watch_consensus(Arc::clone(&shared), config.fatal.clone())),
            tokio::spawn(describe(Arc::clone(&shared))),
            tokio::spawn(ask_to_join(Arc::clone(&shared), identity)),
        ];
        Ok((Self { shared, tasks: Arc::new(Mutex::new(tasks)) }, Incoming { soft: incoming }))
    }

    /// This member.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.shared.cluster
    }

    /// Has a command applied: durable on a majority when this returns. The blob that it names goes first. The same id
    /// again is answered and not applied again, at every member and over elections, for 24 h.
    ///
    /// # Errors
    /// See [`ClusterFailure`]; only after [`ClusterFailure::Unknown`] it may have been applied.
    pub async fn propose(
        &self,
        id: CommandId,
        command: Command,
        blob: Option<Bytes>,
    ) -> Result<Outcome, ClusterFailure> {
        if self.shared.is_stopping() {
            return Err(ClusterFailure::Stopping);
        }
        if self.shared.is_cut_off() {
            return Err(ClusterFailure::NoLeader);
        }
        if let Some(blob) = blob {
            blobs::spread(&self.shared, blob).await?;
        }
        propose::propose(&self.shared, id, command).await
    }

    /// Waits until this member has applied everything that was acknowledged anywhere before the call; what is read
    /// afterwards is consistent. The entry up to which that is.
    ///
    /// # Errors
    /// Where no leader is found that a majority follows.
    pub async fn read_index(&self) -> Result<u64, ClusterFailure> {
        propose::read_index(&self.shared).await
    }

    /// Lets the catalogue's thread do something that stands beside the log: counts of downloads, sweeping of blobs.
    /// Never a command. None where it is closed.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce(&mut Catalogue) -> T + Send + 'static) -> Option<T> {
        self.shared.machine.work(work).await
    }

    /// A blob that may not have arrived here yet, from whoever has it.
    pub async fn fetch_blob(&self, hash: BlobHash) -> Option<Bytes> {
        blobs::fetch(&self.shared, hash).await
    }

    /// Sends a batch of soft state to a member.
    ///
    /// # Errors
    /// Where it does not arrive in time or is not taken; the next batch shall say what is newer.
    pub async fn send_soft(&self, to: NodeId, batch: Bytes) -> Result<(), LinkError> {
        match self.shared.ask(to, Request::Soft, batch, limits::ASK).await? {
            (Reply::Done, _) => Ok(()),
            (reply, _) => Err(LinkError::Broken(format!("{reply:?}"))),
        }
    }

    /// Who leads, if that is known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.leader()
    }

    /// The members, whenever they change: for announce tiers and for whom to send soft state.
    #[must_use]
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.shared.directory.watch()
    }

    /// Changes what this member says of itself; the others hear of it as soon as there is a leader.
    pub fn describe(&self, change: impl FnOnce(&mut crate::raft::Member)) {
        self.shared.description.send_if_modified(|member| {
            let before = member.clone();
            change(member);
            *member != before
        });
    }

    /// Where others reach this member, as it said last: nowhere before it has a port.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.shared.description.borrow().addresses.clone()
    }

    /// Waits until this member was let in and has the catalogue of the others, however long that takes to come; at once
    /// where it is a member already.
    ///
    /// # Errors
    /// [`StartError::NotLetIn`] where the cluster says no, or nobody is heard for `patience`.
    pub async fn joined(&self, patience: Duration) -> Result<(), StartError> {
        let mut position = self.shared.machine.position();
        let mut refused = self.shared.refused.subscribe();
        let joined = async {
            tokio::select! {
                _ = position.wait_for(|position| has_catalogue(position)) => Ok(()),
                Ok(said) = refused.wait_for(|said| said.as_ref().is_some_and(|said| said.for_good)) => {
                    Err(said.as_ref().map_or_else(String::new, |said| said.why.clone()))
                }
            }
        };
        tokio::pin!(joined);
        loop {
            match timeout(patience, &mut joined).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => return Err(StartError::NotLetIn(why)),
                // The leader speaks to it: it is in, and a large catalogue is on its way, or being taken over.
                Err(_) if self.shared.was_heard_within(patience) || self.shared.is_installing() => {}
                Err(_) => {
                    let last = self.shared.refused.borrow().as_ref().map(|said| said.why.clone());
                    let why = last.unwrap_or_else(|| "the cluster has not let this member in yet".to_owned());
                    return Err(StartError::NotLetIn(why));
                }
            }
        }
    }

    /// What all members know and nobody else, in hex; empty before this one was let in.
    #[must_use]
    pub fn secret(&self) -> String {
        self.shared.machine.position().borrow().cluster.secret.clone()
    }

    /// How old answers of this member may be.
    #[must_use]
    pub fn as_of(&self) -> AsOf {
        status::as_of(&self.shared)
    }

    /// The cluster as this member sees it.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        status::status(&self.shared)
    }

    /// Opens an invitation for one member, and makes the line that it joins with.
    ///
    /// # Errors
    /// Where there is no leader or no majority.
    pub async fn invite(&self, good_for: Duration) -> Result<String, ClusterFailure> {
        invite::invite(&self.shared, good_for).await.map(|line| line.encode())
    }

    /// Asks the cluster to let this or another member go, and waits until it is no member any more.
    ///
    /// # Errors
    /// Where there is no leader or no majority; where it is the only voter that there can be.
    pub async fn leave(&self, node: NodeId) -> Result<(), ClusterFailure> {
        let members = self.shared.directory.members();
        if members.all.len() == 1 {
            return Err(ClusterFailure::Refused("it is the only member".to_owned()));
        }
        let asked = match self.ask_to_leave(node).await {
            // Who was removed hears no leader any more. It may have asked before and missed the answer.
            Err(_) if node == self.shared.node && self.is_unknown().await => return Ok(()),
            Ok(ClusterOutcome::NoMember) if node == self.shared.node => return Ok(()),
            asked => asked?,
        };
        if asked != ClusterOutcome::Done {
            return Err(ClusterFailure::Refused("it is no member".to_owned()));
        }
        let mut members = self.shared.directory.watch();
        let gone = members.wait_for(|members| !members.all.contains_key(&node));
        let gone = async {
            tokio::select! {
                gone = gone => gone.is_ok(),
                () = self.until_unknown(), if node == self.shared.node => true,
            }
        };
        match timeout(4 * limits::PROPOSE, gone).await {
            Ok(true) => Ok(()),
            _ => Err(ClusterFailure::Unknown),
        }
    }

    /// Waits until the others do not know this one any more. Who is removed is not told: nobody sends it the entry.
    async fn until_unknown(&self) {
        loop {
            sleep(JOIN_RETRY).await;
            if self.is_unknown().await {
                return;
            }
        }
    }

    /// Whether most of the other voters say that this one is no member; one alone may not know yet that it is. They are
    /// asked as a stranger asks: members' connections are refused to who is none.
    async fn is_unknown(&self) -> bool {
        let node = self.shared.node;
        let members = self.shared.directory.members();
        let others: Vec<NodeId> = members.voters.iter().copied().filter(|voter| *voter != node).collect();
        let mut answers = JoinSet::new();
        for other in &others {
            let Some(member) = members.all.get(other).cloned() else { continue };
            let transport = Arc::clone(&self.shared.transport);
            let request = Request::Leave { node };
            answers.spawn(async move { transport.call(0, &member, request, Bytes::new(), limits::ASK).await });
        }
        let unknown = |answer: &_| matches!(answer, Ok((Reply::Cluster(ClusterOutcome::NoMember), _)));
        answers.join_all().await.iter().filter(|answer| unknown(answer)).count() * 2 > others.len()
    }

    async fn ask_to_leave(&self, node: NodeId) -> Result<ClusterOutcome, ClusterFailure> {
        let command = ClusterCommand::Leave { node };
        let request = Request::Leave { node };
        self.shared.at_leader(request, || self.shared.change_cluster(&command)).await
    }

    /// Stops so that others hardly notice: a leader lets its lease run out and has another elected first.
    pub async fn shutdown(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.hand_over().await;
        self.stop().await;
    }

    /// Stops at once, as a crash would: nothing is handed over. What was acknowledged is durable anyway.
    pub async fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let _ = self.shared.raft.shutdown().await;
        let tasks: Vec<JoinHandle<()>> = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        self.shared.log.close().await;
        self.shared.machine.close().await;
    }

    /// openraft 0.9 cannot transfer leadership: without heartbeats the lease of this leader ends, and then a voter that
    /// is up to date may be elected.
    async fn hand_over(&self) {
        let metrics = self.shared.raft.metrics().borrow().clone();
        if !metrics.state.is_leader() {
            return;
        }
        let last = metrics.last_log_index;
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().filter(|id| *id != self.shared.node).collect();
        let replication = metrics.replication.unwrap_or_default();
        let behind = |node: &NodeId| {
            let matched = replication.get(node).copied().flatten();
            matched.map_or(u64::MAX, |at| last.unwrap_or_default().saturating_sub(at.index))
        };
        let Some(heir) = voters.into_iter().min_by_key(behind) else { return };
        self.shared.raft.runtime_config().heartbeat(false);
        self.shared.raft.runtime_config().elect(false);
        sleep(self.shared.timing.election.1).await;
        if self.shared.ask(heir, Request::Elect, Bytes::new(), limits::ASK).await.is_err() {
            return;
        }
        let mut metrics = self.shared.raft.metrics();
        let node = self.shared.node;
        let elected = metrics.wait_for(|metrics| metrics.current_leader.is_some_and(|leader| leader != node));
        let _ = timeout(2 * self.shared.timing.election.1, elected).await;
    }

    /// Answers for connections that proved to be a member's.
    #[must_use]
    pub fn serve(&self) -> Arc<dyn Serve> {
        Arc::new(Arc::clone(&self.shared))
    }

    /// The answer to a stranger, whose connection proved `key`.
    pub async fn serve_stranger(&self, key: MemberKey, request: Request) -> Reply {
        serve::stranger(&self.shared, key, request).await
    }

    /// Where this member keeps its state.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps the directory in step with the membership.
async fn follow_membership(shared: Arc<Shared>) {
    let mut metrics = shared.raft.metrics();
    loop {
        let membership = Arc::clone(&metrics.borrow_and_update().membership_config);
        // Before a new member has one, it goes by what it was told when it was let in.
        if membership.nodes().next().is_some() {
            shared.directory.set(Members::of(&membership));
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the shell when openraft ends by itself.
async fn watch_consensus(shared: Arc<Shared>, fatal: crate::fatal::FatalHook) {
    let mut metrics = shared.raft.metrics();
    let ended = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
    if let Ok(metrics) = ended
        && let Err(error) = &metrics.running_state
        && !shared.is_stopping()
    {
        let text = error.to_string();
        drop(metrics);
        fatal.call(&FatalError::Consensus(text));
    }
}

/// Until the cluster has let this member in: shows the secret to whom the line names, and learns who the members are.
async fn ask_to_join(shared: Arc<Shared>, identity: Identity) {
    let Some(line) = identity.joining.as_deref().and_then(|line| JoinLine::decode(line).ok()) else { return };
    loop {
        // Others must know where to reach it.
        let mut described = shared.description.subscribe();
        let Ok(member) = described.wait_for(|member| !member.addresses.is_empty()).await.map(|member| member.clone())
        else {
            return;
        };
        let join = Join { secret: line.secret.clone(), node: identity.node, member };
        if has_catalogue(&shared.machine.position().borrow()) {
            let _ = shared.log.set_joined().await;
            return;
        }
        if shared.was_heard_within(limits::PROPOSE) {
            // It was let in, and the catalogue is on its way.
            wait_for_catalogue(&shared).await;
            continue;
        }
        for (key, addresses) in &line.members {
            let host =
                crate::raft::Member { key: *key, addresses: addresses.clone(), ..crate::raft::Member::default() };
            let request = Request::Join(Box::new(join.clone()));
            // 0 is nobody's id: the line names keys, and the host need not know this member.
            match shared.transport.call(0, &host, request, Bytes::new(), limits::ASK).await {
                Ok((Reply::Welcome(members), _)) => {
                    let all = members.into_iter().collect();
                    shared.directory.set(Members { all, ..Members::default() });
                    wait_for_catalogue(&shared).await;
                    break;
                }
                Ok((reply, _)) => {
                    tracing::warn!(?reply, "the cluster does not let this member in");
                    shared.refused.send_replace(Some(NotLetIn::of(&reply)));
                }
                Err(error) => {
                    tracing::info!(%error, "a member that the join line names does not answer");
                    shared.refused.send_if_modified(|said| {
                        let why = format!("no member that the join line names answers: {error}");
                        said.get_or_insert(NotLetIn { why, for_good: false });
                        true
                    });
                }
            }
        }
        sleep(JOIN_RETRY).await;
    }
}

/// Why the cluster has not let a member in.
pub(crate) struct NotLetIn {
    why: String,
    /// Whether asking again is of no use.
    for_good: bool,
}

impl NotLetIn {
    fn of(reply: &Reply) -> Self {
        let (why, for_good) = match reply {
            Reply::Cluster(ClusterOutcome::NoInvitation) => {
                ("the invitation was used already, or has ended: ask for a new line with `obt cluster invite`", true)
            }
            Reply::Cluster(ClusterOutcome::Known) => {
                // It may be this one, which was stopped before it had the catalogue: then the leader will speak to it.
                ("a member with this key or this id is there already: was this state directory copied?", false)
            }
            Reply::Cluster(ClusterOutcome::Busy) => ("too many wait to be let in at the moment", false),
            Reply::Refused(Refusal::NotAllowed) => ("the join line belongs to another cluster", true),
            // Somebody may leave.
            Reply::Refused(full @ Refusal::Full) => return Self { why: full.to_string(), for_good: false },
            _ => ("the cluster has no leader at the moment, or too few members that answer", false),
        };
        Self { why: why.to_owned(), for_good }
    }
}

/// Whether a member has been let in so far that it can do without the line: the leader has brought the catalogue.
fn has_catalogue(position: &Position) -> bool {
    !position.cluster.secret.is_empty()
}

async fn wait_for_catalogue(shared: &Shared) {
    let mut position = shared.machine.position();
    let _ = timeout(limits::PROPOSE, position.wait_for(|position| has_catalogue(position))).await;
}

/// Tells the cluster where this member is and what it runs, whenever the cluster knows otherwise.
async fn describe(shared: Arc<Shared>) {
    let mut members = shared.directory.watch();
    let mut described = shared.description.subscribe();
    loop {
        let member = described.borrow_and_update().clone();
        let known = members.borrow_and_update().all.get(&shared.node).cloned();
        if known.is_none_or(|known| known == member || known.key != member.key) {
            tokio::select! {
                Ok(()) = members.changed() => {}
                Ok(()) = described.changed() => {}
                else => return,
            }
            continue;
        }
        let request = Request::Describe(Box::new(member.clone()));
        let told = shared.at_leader(request, || serve::describe(&shared, shared.node, member.clone())).await;
        if let Err(failure) = told {
            tracing::info!(%failure, "the cluster does not know yet what is new of this member");
        }
        sleep(JOIN_RETRY).await;
    }
}
