//! What the tasks of one member share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_catalogue::{Command, CommandId, Outcome};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::blobs::Arriving;
use crate::cluster::NotLetIn;
use crate::config::{Clock, Timing};
use crate::directory::Directory;
use crate::failure::ClusterFailure;
use crate::inbox::Inbox;
use crate::limits;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::message::{Refusal, Reply, Request};
use crate::network::Contacts;
use crate::raft::{Answer, Member, NodeId, Proposal, Raft};
use crate::state::{ClusterCommand, ClusterOutcome};
use crate::transport::{LinkError, Transport};

pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) cluster: String,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) machine: Machine,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) contacts: Contacts,
    pub(crate) inbox: Inbox,
    pub(crate) blobs: Arriving,
    pub(crate) proposals: mpsc::Sender<Proposed>,
    pub(crate) soft: mpsc::Sender<(NodeId, Bytes)>,
    pub(crate) clock: Clock,
    pub(crate) timing: Timing,
    pub(crate) folder: PathBuf,
    /// When this member began.
    pub(crate) began: Instant,
    /// When a leader was last heard, one that others may have replaced; at a leader, when a majority was.
    pub(crate) heard: Mutex<Option<Instant>>,
    /// Parts of snapshots that are being taken. After the last one the whole is checked and installed, and nobody is heard
    /// meanwhile, however long that takes.
    pub(crate) installing: AtomicUsize,
    /// What was acknowledged anywhere before then is applied here.
    pub(crate) fresh: Mutex<Option<Instant>>,
    /// Since when this member leads.
    pub(crate) leading: Mutex<Option<Instant>>,
    /// What this member says of itself.
    pub(crate) description: watch::Sender<Member>,
    /// What the cluster said last to a member that it has not let in.
    pub(crate) refused: watch::Sender<Option<NotLetIn>>,
    /// Set when it is on its way out: it takes no more commands.
    pub(crate) stopping: AtomicBool,
}

/// A command on its way into the log.
pub(crate) struct Proposed {
    pub(crate) id: CommandId,
    pub(crate) command: Command,
    pub(crate) answer: oneshot::Sender<Result<Outcome, Refusal>>,
}

/// See [`Shared::install`].
pub(crate) struct Installing<'a>(&'a AtomicUsize);

impl Drop for Installing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow().current_leader
    }

    /// Waits for another leader than `known`, and not for long: the one that is known may be heard again.
    pub(crate) async fn wait_leader(&self, known: Option<NodeId>) {
        let mut metrics = self.raft.metrics();
        let other = metrics.wait_for(|metrics| metrics.current_leader != known);
        if !matches!(timeout(limits::RETRY, other).await, Ok(Ok(_)) | Err(_)) {
            sleep(limits::RETRY).await;
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn note_heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When the leader was last heard, if ever.
    pub(crate) fn heard(&self) -> Option<Instant> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether waiting for a leader is of no use: it is nothing that an election explains.
    pub(crate) fn is_cut_off(&self) -> bool {
        let leads = self.raft.metrics().borrow().state.is_leader();
        !leads && self.heard().unwrap_or(self.began).elapsed() > limits::CUT_OFF
    }

    /// Notes that everything which was acknowledged anywhere before `asked` is applied here.
    pub(crate) fn note_fresh(&self, asked: Instant) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        *fresh = (*fresh).max(Some(asked));
    }

    /// What was acknowledged before then is applied here, as far as that is known.
    pub(crate) fn fresh(&self) -> Option<Instant> {
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of a snapshot is taken, until what is returned is dropped.
    pub(crate) fn install(&self) -> Installing<'_> {
        self.installing.fetch_add(1, Ordering::Relaxed);
        Installing(&self.installing)
    }

    pub(crate) fn is_installing(&self) -> bool {
        self.installing.load(Ordering::Relaxed) > 0
    }

    /// Whether a leader spoke to this member of late.
    pub(crate) fn was_heard_within(&self, time: Duration) -> bool {
        self.heard().is_some_and(|heard| heard.elapsed() < time)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// Whether this member leads, and a majority says so of late.
    pub(crate) fn check_leading(&self) -> Result<(), Refusal> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.running_state.is_err() || self.is_stopping() {
            return Err(Refusal::Stopping);
        }
        if metrics.current_leader != Some(self.node) || !metrics.state.is_leader() {
            return Err(Refusal::NotLeader(metrics.current_leader.filter(|leader| *leader != self.node)));
        }
        let silence = metrics.millis_since_quorum_ack.map(Duration::from_millis);
        let alone = metrics.membership_config.voter_ids().count() == 1;
        if !alone && silence.is_some_and(|silence| silence > limits::QUORUM_SILENCE) {
            return Err(Refusal::NoQuorum);
        }
        Ok(())
    }

    /// Puts a change of the cluster itself into the log; only at the leader.
    pub(crate) async fn change_cluster(&self, command: &ClusterCommand) -> Result<ClusterOutcome, Refusal> {
        self.check_leading()?;
        let text = serde_json::to_string(command).map_err(|error| Refusal::Nonsense(error.to_string()))?;
        let written = timeout(limits::ASK, self.raft.client_write(Proposal::Cluster(text))).await;
        match written {
            Ok(Ok(response)) => match response.data {
                Answer::Cluster(outcome) => Ok(outcome),
                _ => Err(Refusal::Stopping),
            },
            Ok(Err(error)) => Err(error
                .forward_to_leader()
                .map_or(Refusal::Stopping, |forward| Refusal::NotLeader(forward.leader_id))),
            Err(_) => Err(Refusal::NoQuorum),
        }
    }

    /// Has the cluster itself changed wherever the leader is: by `own` here, by `request` elsewhere.
    pub(crate) async fn at_leader<F>(
        &self,
        request: Request,
        own: impl Fn() -> F,
    ) -> Result<ClusterOutcome, ClusterFailure>
    where
        F: Future<Output = Result<ClusterOutcome, Refusal>>,
    {
        let deadline = Instant::now() + limits::PROPOSE;
        loop {
            let leader = self.leader();
            let failure = match leader {
                None => ClusterFailure::NoLeader,
                Some(leader) if leader == self.node => match own().await {
                    Ok(outcome) => return Ok(outcome),
                    Err(refusal) => refusal.into(),
                },
                Some(leader) => match self.ask(leader, request.clone(), Bytes::new(), limits::ASK).await {
                    Ok((Reply::Cluster(outcome), _)) => return Ok(outcome),
                    Ok((Reply::Refused(refusal), _)) => refusal.into(),
                    _ => ClusterFailure::NoLeader,
                },
            };
            let last =
                matches!(failure, ClusterFailure::Refused(_) | ClusterFailure::Stopping | ClusterFailure::TooLarge);
            if last || self.is_cut_off() || Instant::now() >= deadline {
                return Err(failure);
            }
            self.wait_leader(leader).await;
        }
    }

    /// Asks member `to`.
    pub(crate) async fn ask(
        &self,
        to: NodeId,
        request: Request,
        body: Bytes,
        limit: Duration,
    ) -> Result<(Reply, Bytes), LinkError> {
        let members = self.directory.members();
        let member = members.all.get(&to).ok_or_else(|| LinkError::Unreachable("it is no member".to_owned()))?;
        let reply = self.transport.call(to, member, request, body, limit).await?;
        self.contacts.note(to);
        Ok(reply)
    }
}
