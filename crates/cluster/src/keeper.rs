//! Looks after the log, after whether this member may stand for election, and after the membership while it leads: asks
//! [`next_cut`] and [`next_change`], and does what they say, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use openraft::{ChangeMembers, ServerState};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cut::{self, next_cut};
use crate::limits;
use crate::membership::{Change, Seen, View, next_change};
use crate::raft::{LogId, NodeId};
use crate::shared::Shared;

/// Runs until the member is gone.
pub(crate) async fn run(shared: Weak<Shared>, period: Duration) {
    let mut beats = interval(period);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        shared.raft.runtime_config().elect(!shared.contacts.stands_down() && !shared.is_stopping());
        if let Some(upto) = next_cut(&log_view(&shared)) {
            // It has failed only where openraft has ended, which is told elsewhere.
            let _ = shared.raft.trigger().purge_log(upto).await;
        }
        let Some(view) = view(&shared) else { continue };
        let Some(change) = next_change(&view) else { continue };
        tracing::info!(?change, "the membership changes");
        // A change that does not get its majority in time goes on in the log; the next look sees how far it came.
        match timeout(limits::ASK, make(&shared, change)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(error, "the membership did not change"),
            Err(_) => tracing::info!("the membership has not changed yet"),
        }
    }
}

fn log_view(shared: &Shared) -> cut::View {
    let metrics = shared.raft.metrics().borrow().clone();
    let index = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index);
    let now = Instant::now();
    let is_heard = |node: &NodeId| {
        let last = shared.contacts.last(*node);
        *node != shared.node && last.is_some_and(|last| now.saturating_duration_since(last) < limits::LOG_PATIENCE)
    };
    let reached = metrics.replication.unwrap_or_default().into_iter().filter(|(node, _)| is_heard(node));
    cut::View {
        cut: index(metrics.purged),
        applied: index(metrics.last_applied),
        reached: reached.map(|(_, matched)| index(matched)).collect(),
    }
}

/// What this member sees, if it leads and a majority says so.
fn view(shared: &Shared) -> Option<View> {
    let metrics = shared.raft.metrics().borrow().clone();
    let leading = {
        let mut since = shared.leading.lock().unwrap_or_else(PoisonError::into_inner);
        match metrics.state {
            ServerState::Leader => Some(*since.get_or_insert_with(Instant::now)),
            _ => {
                *since = None;
                None
            }
        }
    }?;
    shared.check_leading().ok()?;
    // Should another lead next, a majority was heard until now.
    shared.note_heard();
    let replication = metrics.replication?;
    let last = metrics.last_log_index.unwrap_or_default();
    let now = Instant::now();
    let membership = metrics.membership_config.membership().clone();
    let seen = |(node, member): (&NodeId, &crate::raft::Member)| {
        let matched = replication.get(node).copied().flatten();
        // A new leader knows of nobody when it was heard last: everybody was well when it began.
        let heard = shared.contacts.last(*node).map_or(leading, |last| last.max(leading));
        let silent = if *node == shared.node { Duration::ZERO } else { now.saturating_duration_since(heard) };
        let lag = if *node == shared.node { Some(0) } else { matched.map(|at| last.saturating_sub(at.index)) };
        (*node, Seen { wish: member.voter, silent, lag })
    };
    let position = shared.machine.position().borrow().clone();
    Some(View {
        me: shared.node,
        voters: membership.get_joint_config().clone(),
        members: membership.nodes().map(seen).collect(),
        admitted: position.cluster.admitted.iter().map(|(id, admission)| (*id, admission.member.clone())).collect(),
        leaving: position.cluster.leaving.clone(),
        replace_after: shared.timing.replace_after,
    })
}

async fn make(shared: &Arc<Shared>, change: Change) -> Result<(), String> {
    let (change, retain) = match change {
        Change::Add(node, member) => (ChangeMembers::AddNodes(BTreeMap::from([(node, *member)])), true),
        Change::Voters(voters) => (ChangeMembers::ReplaceAllVoters(voters), true),
        Change::Remove(node) => (ChangeMembers::RemoveNodes(BTreeSet::from([node])), false),
    };
    let changed = shared.raft.change_membership(change, retain).await;
    changed.map(|_| ()).map_err(|error| error.to_string())
}
