//! What a member knows of its cluster, for people and for clients.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::raft::{Member, NodeId, VoterWish};
use crate::shared::Shared;

/// A member that was silent for this long counts as away.
const AWAY: Duration = Duration::from_secs(3);

/// The cluster as one member sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Which cluster.
    pub cluster: String,
    /// The member that says so.
    pub node: NodeId,
    /// Who leads, if that is known.
    pub leader: Option<NodeId>,
    /// Counts elections.
    pub term: u64,
    /// All members, by id.
    pub members: Vec<MemberStatus>,
    /// How old answers of this member may be.
    pub as_of: AsOf,
    /// The last entry of this member's log, applied yet or not: of several, the one with the highest is furthest.
    pub log_index: u64,
    /// Whether names can be changed, as far as this member knows.
    pub writable: bool,
    /// What an operator should know, in sentences.
    pub warnings: Vec<String>,
}

/// One member as another sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Which.
    pub node: NodeId,
    /// What it says of itself.
    #[serde(flatten)]
    pub member: Member,
    /// What it does.
    pub role: Role,
    /// Entries that it does not have yet; only the leader knows.
    pub lag: Option<u64>,
    /// Milliseconds since it answered the one who says so; None where it never did.
    pub silent_ms: Option<u64>,
    /// Whether it is on its way out.
    pub leaving: bool,
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Leads, and votes.
    Leader,
    /// Votes.
    Voter,
    /// Has everything, and does not vote.
    Learner,
}

/// How old answers may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsOf {
    /// The last entry that was applied here.
    pub index: u64,
    /// What was acknowledged anywhere so many milliseconds ago is applied here; 0 where there is no other member. None
    /// where no leader with a majority was found since the start.
    pub age_ms: Option<u64>,
}

pub(crate) fn as_of(shared: &Shared) -> AsOf {
    let metrics = shared.raft.metrics().borrow().clone();
    let index = metrics.last_applied.map_or(0, |applied| applied.index);
    let alone = metrics.membership_config.nodes().count() == 1;
    let fresh = shared.fresh();
    let age_ms = if alone { Some(0) } else { fresh.map(|fresh| millis(fresh.elapsed())) };
    AsOf { index, age_ms }
}

pub(crate) fn status(shared: &Shared) -> ClusterStatus {
    let metrics = shared.raft.metrics().borrow().clone();
    let position = shared.machine.position().borrow().clone();
    let directory = shared.directory.members();
    let now = Instant::now();
    let last = metrics.last_log_index.unwrap_or_default();
    let members: Vec<MemberStatus> = directory
        .all
        .iter()
        .map(|(node, member)| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(node).copied().flatten());
            let silent = shared.contacts.last(*node).map(|at| millis(now.saturating_duration_since(at)));
            let role = match (metrics.current_leader == Some(*node), directory.voters.contains(node)) {
                (true, _) => Role::Leader,
                (false, true) => Role::Voter,
                (false, false) => Role::Learner,
            };
            MemberStatus {
                node: *node,
                member: member.clone(),
                role,
                lag: matched.map(|at| last.saturating_sub(at.index)),
                silent_ms: if *node == shared.node { Some(0) } else { silent },
                leaving: position.cluster.leaving.contains(node),
            }
        })
        .collect();
    let as_of = as_of(shared);
    let writable = match metrics.current_leader {
        Some(leader) if leader == shared.node => shared.check_leading().is_ok(),
        Some(_) => shared.heard().is_some_and(|heard| heard.elapsed() <= AWAY),
        None => false,
    };
    let mut warnings = if position.cluster.leaving.contains(&shared.node) && !writable {
        vec![
            "this member was to leave, and seems to have left: stop it; to come back it joins with another state"
                .to_owned(),
        ]
    } else {
        warnings(&members, metrics.current_leader.is_some(), writable)
    };
    if shared.contacts.stands_down() {
        warnings.push("others say that this member votes no more: it does not stand for election".to_owned());
    }
    ClusterStatus {
        cluster: position.cluster.id.clone(),
        node: shared.node,
        leader: metrics.current_leader,
        term: metrics.current_term,
        members,
        as_of,
        log_index: last,
        writable,
        warnings,
    }
}

fn warnings(members: &[MemberStatus], leader: bool, writable: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let voters = members.iter().filter(|member| member.role != Role::Learner).count();
    if !leader {
        warnings.push("there is no leader: names can be read, and not changed".to_owned());
    } else if !writable {
        warnings.push("the leader does not reach a majority: names can be read, and not changed".to_owned());
    }
    if voters == 1 && members.len() > 1 {
        let able = members.iter().filter(|member| member.member.voter == VoterWish::Auto).count();
        warnings.push(if able < 3 {
            format!(
                "one voter of {} members: when it dies, names cannot be changed; a third member prevents that",
                members.len()
            )
        } else {
            "one voter: learners are catching up".to_owned()
        });
    }
    let away = |member: &&MemberStatus| member.silent_ms.is_some_and(|silent| silent > millis(AWAY));
    let away_voters = members.iter().filter(|member| member.role != Role::Learner).filter(away).count();
    if away_voters > 0 {
        let more = (voters.saturating_sub(1) / 2).saturating_sub(away_voters);
        warnings.push(format!("{away_voters} of {voters} voters do not answer; {more} more may fail"));
    }
    warnings
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
