//! The way of a command into the log: from any member to the leader, there with others into one entry, exactly once.

use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use obt_catalogue::{Command, CommandId, Envelope, Outcome};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::failure::ClusterFailure;
use crate::limits;
use crate::message::{Refusal, Reply, Request};
use crate::raft::{Answer, NodeId, Proposal};
use crate::shared::{Proposed, Shared};
use crate::transport::LinkError;

/// Entries that are on their way at once: while one waits for the disks of the others, the next is filled.
const UNDER_WAY: usize = 2;
/// What an entry is around its commands, bytes; each command may need that for being quoted.
const AROUND: usize = 512;

/// Has a command applied, wherever the leader is, and tries again over an election. The id makes that harmless.
pub(crate) async fn propose(shared: &Shared, id: CommandId, command: Command) -> Result<Outcome, ClusterFailure> {
    let deadline = Instant::now() + limits::PROPOSE;
    let mut failure = ClusterFailure::NoLeader;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failure);
        }
        let leader = shared.leader();
        let last = match timeout(left, once(shared, id, &command)).await {
            Err(_) => return Err(ClusterFailure::Unknown),
            Ok(Ok(outcome)) => return Ok(outcome),
            Ok(Err(last)) => last,
        };
        let over = match last {
            ClusterFailure::TooLarge
            | ClusterFailure::Refused(_)
            | ClusterFailure::Disk(_)
            | ClusterFailure::Stopping => true,
            // A leader that hears nobody may be replaced by one that others hear, but this member would know of it.
            ClusterFailure::NoQuorum => shared.leader() == Some(shared.node),
            ClusterFailure::NoLeader | ClusterFailure::Unknown => false,
        };
        // What an earlier try may have done, a later one that did nothing does not undo.
        if failure != ClusterFailure::Unknown {
            failure = last;
        }
        if over || shared.is_cut_off() {
            return Err(failure);
        }
        shared.wait_leader(leader).await;
    }
}

async fn once(shared: &Shared, id: CommandId, command: &Command) -> Result<Outcome, ClusterFailure> {
    match shared.leader() {
        None => Err(ClusterFailure::NoLeader),
        Some(leader) if leader == shared.node => Ok(submit(shared, id, command.clone()).await?),
        Some(leader) => forward(shared, leader, id, command).await,
    }
}

async fn forward(shared: &Shared, leader: NodeId, id: CommandId, command: &Command) -> Result<Outcome, ClusterFailure> {
    let request = Request::Propose { id, command: Box::new(command.clone()) };
    match shared.ask(leader, request, Bytes::new(), limits::ASK).await {
        Ok((Reply::Outcome(outcome), _)) => Ok(outcome),
        Ok((Reply::Refused(refusal), _)) => Err(leader_said(refusal)),
        Ok(_) => Err(ClusterFailure::Refused("the leader's reply belongs to another request".to_owned())),
        Err(LinkError::Unreachable(_) | LinkError::Busy) => Err(ClusterFailure::NoLeader),
        Err(LinkError::TimedOut | LinkError::Broken(_)) => Err(ClusterFailure::Unknown),
    }
}

/// What the refusal of another member means here, which was taken for the leader.
fn leader_said(refusal: Refusal) -> ClusterFailure {
    match refusal {
        // It goes, or does not know this member: not yet, or not any more. Somebody else may lead.
        Refusal::Stopping | Refusal::NotAllowed => ClusterFailure::NoLeader,
        refusal => refusal.into(),
    }
}

/// Puts a command into the log; only at the leader.
pub(crate) async fn submit(shared: &Shared, id: CommandId, command: Command) -> Result<Outcome, Refusal> {
    shared.check_leading()?;
    let (answer, outcome) = oneshot::channel();
    shared.proposals.send(Proposed { id, command, answer }).await.map_err(|_| Refusal::Stopping)?;
    outcome.await.map_err(|_| Refusal::Stopping)?
}

/// Fills entries with the commands that wait. Ends with the queue.
pub(crate) async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<Proposed>) {
    let turns = Arc::new(tokio::sync::Semaphore::new(UNDER_WAY));
    let mut kept = None;
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let first = match kept.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let now_ms = shared.now_ms();
        let mut entry = Filling::default();
        kept = entry.add(first, now_ms);
        while kept.is_none() && entry.texts.len() < limits::ENTRY_COMMANDS {
            let Ok(next) = queue.try_recv() else { break };
            kept = entry.add(next, now_ms);
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            entry.write(&shared).await;
            drop(turn);
        });
    }
}

/// Commands that become one entry.
#[derive(Default)]
struct Filling {
    texts: Vec<String>,
    answers: Vec<oneshot::Sender<Result<Outcome, Refusal>>>,
    bytes: usize,
}

impl Filling {
    /// Adds a command, or gives it back where there is no room for it.
    fn add(&mut self, proposed: Proposed, now_ms: u64) -> Option<Proposed> {
        let envelope = Envelope::new(proposed.id, now_ms, proposed.command);
        let text = envelope.encode().ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(text) = text else {
            let _ = proposed.answer.send(Err(Refusal::Nonsense("the command cannot be written".to_owned())));
            return None;
        };
        // Quotes are doubled where the text becomes part of an entry.
        let bytes = text.len() + text.matches(['"', '\\']).count() + AROUND;
        if bytes > limits::ENTRY_BYTES {
            let _ = proposed.answer.send(Err(Refusal::TooLarge));
            return None;
        }
        if self.bytes + bytes > limits::ENTRY_BYTES {
            return Some(Proposed { id: proposed.id, command: envelope.command, answer: proposed.answer });
        }
        self.bytes += bytes;
        self.texts.push(text);
        self.answers.push(proposed.answer);
        None
    }

    async fn write(self, shared: &Shared) {
        if self.texts.is_empty() {
            return;
        }
        let write = timeout(limits::PROPOSE, shared.raft.client_write(Proposal::Catalogue(self.texts)));
        let outcomes = match write.await {
            // Whoever waits for it has given up; nobody else shall wait behind it.
            Err(_) => Err(Refusal::Busy),
            Ok(Ok(response)) => match response.data {
                Answer::Catalogue(outcomes) => Ok(outcomes),
                _ => Err(Refusal::Stopping),
            },
            Ok(Err(error)) => Err(error
                .forward_to_leader()
                .map_or(Refusal::Stopping, |forward| Refusal::NotLeader(forward.leader_id))),
        };
        match outcomes {
            Ok(outcomes) => {
                for (answer, outcome) in self.answers.into_iter().zip(outcomes) {
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(refusal) => {
                for answer in self.answers {
                    let _ = answer.send(Err(refusal.clone()));
                }
            }
        }
    }
}

/// Asks again and again how fresh this member is, so that its answers can say how old they may be. A leader that is
/// heard proves nothing: it may have been replaced on the other side of a cut. Runs until the member is gone.
pub(crate) async fn stay_fresh(shared: Weak<Shared>) {
    let mut beats = interval(limits::FRESH);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut unanswered, mut told) = (0_u32, false);
    loop {
        beats.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        // Whom it asks may be gone; soon there is another to ask.
        let answer = timeout(2 * limits::FRESH, read_index(&shared)).await;
        unanswered = match answer {
            Ok(Ok(_)) => 0,
            _ if shared.is_stopping() => return,
            // Whoever is to be let in knows why it waits.
            _ if shared.machine.position().borrow().cluster.secret.is_empty() => 0,
            _ => unanswered.saturating_add(1),
        };
        let lasts = unanswered >= limits::UNANSWERED;
        match (told, lasts) {
            (false, true) => tracing::warn!("no leader with a majority answers: names can be read here, not changed"),
            (true, false) => tracing::warn!(leader = shared.leader(), "a leader with a majority answers again"),
            _ => {}
        }
        told = lasts;
    }
}

/// Applies up to everything that was acknowledged before the call, and says up to which entry that is.
pub(crate) async fn read_index(shared: &Shared) -> Result<u64, ClusterFailure> {
    let asked = Instant::now();
    let deadline = asked + limits::ASK;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let leader = shared.leader();
        let index = match leader {
            None => Err(ClusterFailure::NoLeader),
            Some(leader) if leader == shared.node => own_read_index(shared).await.map_err(ClusterFailure::from),
            Some(leader) => match shared.ask(leader, Request::ReadIndex, Bytes::new(), left).await {
                Ok((Reply::ReadIndex(index), _)) => Ok(index),
                Ok((Reply::Refused(refusal), _)) => Err(leader_said(refusal)),
                _ => Err(ClusterFailure::NoLeader),
            },
        };
        match index {
            Ok(index) => {
                wait_applied(shared, index, deadline).await?;
                shared.note_fresh(asked);
                return Ok(index);
            }
            Err(failure) if Instant::now() + limits::RETRY >= deadline => return Err(failure),
            Err(failure @ (ClusterFailure::NoQuorum | ClusterFailure::Stopping)) => return Err(failure),
            Err(failure) if shared.is_cut_off() => return Err(failure),
            Err(_) => shared.wait_leader(leader).await,
        }
    }
}

/// At the leader: asks a majority whether it still leads.
pub(crate) async fn own_read_index(shared: &Shared) -> Result<u64, Refusal> {
    shared.check_leading()?;
    // A leader that is started again leads on, and openraft does not know then which entries were committed before: it
    // answers with the last that was applied here. All of them are in its log.
    let last = shared.raft.metrics().borrow().last_log_index.unwrap_or_default();
    match timeout(limits::ASK, shared.raft.get_read_log_id()).await {
        Ok(Ok((log_id, _))) => Ok(log_id.map_or(0, |log_id| log_id.index).max(last)),
        Ok(Err(error)) => match error.api_error() {
            Some(openraft::error::CheckIsLeaderError::ForwardToLeader(forward)) => {
                Err(Refusal::NotLeader(forward.leader_id))
            }
            Some(openraft::error::CheckIsLeaderError::QuorumNotEnough(_)) => Err(Refusal::NoQuorum),
            None => Err(Refusal::Stopping),
        },
        Err(_) => Err(Refusal::NoQuorum),
    }
}

async fn wait_applied(shared: &Shared, index: u64, deadline: Instant) -> Result<(), ClusterFailure> {
    let mut position = shared.machine.position();
    let reached = position.wait_for(|position| position.log_id.is_some_and(|log_id| log_id.index >= index));
    let left = deadline.saturating_duration_since(Instant::now());
    match timeout(left, reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(ClusterFailure::Stopping),
        Err(_) => Err(ClusterFailure::NoQuorum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_has_left_finds_no_leader_and_is_not_told_that_its_request_is_wrong() {
        assert_eq!(leader_said(Refusal::NotAllowed), ClusterFailure::NoLeader);
        assert_eq!(leader_said(Refusal::Stopping), ClusterFailure::NoLeader);
        assert_eq!(leader_said(Refusal::TooLarge), ClusterFailure::TooLarge);
    }
}
