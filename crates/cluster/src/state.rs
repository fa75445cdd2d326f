//! What the log says about the cluster itself: invitations, admissions, members that leave, the shared secret.
//!
//! It is kept in the `position` of the catalogue, so it becomes durable with the entry that made it, travels with
//! snapshots and is part of the digest that replicas agree on. Times are the leader's, in the command.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::raft::{LogId, Member, NodeId, StoredMembership};

/// Invitations that are open at once; the oldest gives way.
const INVITATIONS: usize = 64;
/// Members admitted and not yet added at once.
const ADMISSIONS: usize = 16;

/// The format of [`Position`]; a file with a larger one is refused.
const FORMAT: u16 = 1;

/// Where the log is applied to, and the cluster's own state there. Equal index, equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    format: u16,
    /// The last applied entry.
    pub log_id: Option<LogId>,
    /// The membership as of that entry.
    pub membership: StoredMembership,
    /// The rest.
    pub cluster: ClusterState,
}

impl Default for Position {
    fn default() -> Self {
        let cluster = ClusterState::default();
        Self { format: FORMAT, log_id: None, membership: StoredMembership::default(), cluster }
    }
}

impl Position {
    /// Reads it; nothing is the position before the first entry.
    ///
    /// # Errors
    /// A sentence, where the bytes make no sense to this release.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let position: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if position.format > FORMAT {
            return Err(format!("the cluster's state was written by a newer release (format {})", position.format));
        }
        Ok(position)
    }

    /// The bytes that [`Self::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The cluster's own state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// Which cluster; 128 random bits in hex, made with it.
    pub id: String,
    /// Known to all members and to nobody else, in hex: for what they must all be able to check, such as the
    /// connection ids of UDP trackers.
    pub secret: String,
    /// Hash of an invitation's secret, in hex -> when it ends, milliseconds since 1970.
    pub invitations: BTreeMap<String, u64>,
    /// Invitation redeemed, not yet in the membership.
    pub admitted: BTreeMap<NodeId, Admission>,
    /// To be demoted and removed.
    pub leaving: BTreeSet<NodeId>,
}

/// Somebody who redeemed an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Which, so that asking again is answered and redeems nothing else.
    pub invitation: String,
    /// What it says of itself.
    pub member: Member,
}

/// A change of the cluster itself, as an entry holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterCommand {
    /// Opens an invitation.
    Invite {
        /// SHA-256 of its secret, in hex.
        hash: String,
        /// When it ends, milliseconds since 1970.
        until_ms: u64,
        /// By the leader's clock.
        now_ms: u64,
    },
    /// Lets somebody in who knows the secret.
    Admit {
        /// SHA-256 of the secret that was shown, in hex.
        hash: String,
        /// Who.
        node: NodeId,
        /// What it says of itself.
        member: Member,
        /// By the leader's clock.
        now_ms: u64,
    },
    /// Lets a member go: the leader demotes and removes it.
    Leave {
        /// Which.
        node: NodeId,
    },
}

/// What came of a [`ClusterCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterOutcome {
    /// Done, or done before.
    Done,
    /// There is no such invitation any more: used, ended or never made.
    NoInvitation,
    /// The id or the key is a member's already: a copied state directory.
    Known,
    /// Too many wait to be added.
    Busy,
    /// No such member.
    NoMember,
}

impl Position {
    /// Applies a command. Deterministic.
    pub fn apply(&mut self, command: ClusterCommand) -> ClusterOutcome {
        match command {
            ClusterCommand::Invite { hash, until_ms, now_ms } => {
                self.cluster.forget_ended(now_ms);
                self.cluster.invitations.insert(hash, until_ms);
                self.cluster.make_room();
                ClusterOutcome::Done
            }
            ClusterCommand::Admit { hash, node, member, now_ms } => self.admit(&hash, node, member, now_ms),
            ClusterCommand::Leave { node } => {
                if self.membership.membership().get_node(&node).is_none() {
                    return ClusterOutcome::NoMember;
                }
                self.cluster.leaving.insert(node);
                ClusterOutcome::Done
            }
        }
    }

    fn admit(&mut self, hash: &str, node: NodeId, member: Member, now_ms: u64) -> ClusterOutcome {
        self.cluster.forget_ended(now_ms);
        if let Some(before) = self.cluster.admitted.get(&node) {
            let same = before.invitation == hash && before.member.key == member.key;
            return if same { ClusterOutcome::Done } else { ClusterOutcome::Known };
        }
        let membership = self.membership.membership();
        let known = |(id, other): (&NodeId, &Member)| *id == node || other.key == member.key;
        if membership.nodes().any(known) || self.cluster.admitted.values().any(|other| other.member.key == member.key) {
            return ClusterOutcome::Known;
        }
        if !self.cluster.invitations.contains_key(hash) {
            return ClusterOutcome::NoInvitation;
        }
        if self.cluster.admitted.len() >= ADMISSIONS {
            return ClusterOutcome::Busy;
        }
        self.cluster.invitations.remove(hash);
        self.cluster.admitted.insert(node, Admission { invitation: hash.to_owned(), member });
        ClusterOutcome::Done
    }

    /// Takes note of a membership entry: who is in needs no admission, who is out need not leave.
    pub fn set_membership(&mut self, membership: StoredMembership) {
        let is_member = |node: &NodeId| membership.membership().get_node(node).is_some();
        self.cluster.admitted.retain(|node, _| !is_member(node));
        self.cluster.leaving.retain(is_member);
        self.membership = membership;
    }
}

impl ClusterState {
    fn forget_ended(&mut self, now_ms: u64) {
        self.invitations.retain(|_, until_ms| *until_ms > now_ms);
    }

    fn make_room(&mut self) {
        while self.invitations.len() > INVITATIONS {
            let first = self.invitations.iter().min_by_key(|(hash, until)| (**until, (*hash).clone()));
            let Some(first) = first.map(|(hash, _)| hash.clone()) else { return };
            self.invitations.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{MemberKey, Membership};

    fn member(seed: u8) -> Member {
        Member { key: MemberKey([seed; 32]), ..Member::default() }
    }

    fn position(members: &[NodeId]) -> Position {
        let nodes: BTreeMap<NodeId, Member> = members.iter().map(|id| (*id, member(*id as u8))).collect();
        let membership = Membership::new(vec![members.iter().copied().collect()], nodes);
        let mut position = Position::default();
        position.set_membership(StoredMembership::new(None, membership));
        position
    }

    fn invite(position: &mut Position, hash: &str, until_ms: u64, now_ms: u64) {
        let command = ClusterCommand::Invite { hash: hash.to_owned(), until_ms, now_ms };
        assert_eq!(position.apply(command), ClusterOutcome::Done);
    }

    fn admit(position: &mut Position, hash: &str, node: NodeId, key: u8, now_ms: u64) -> ClusterOutcome {
        position.apply(ClusterCommand::Admit { hash: hash.to_owned(), node, member: member(key), now_ms })
    }

    #[test]
    fn an_invitation_lets_one_in_once_and_ends() {
        let mut position = position(&[1]);
        invite(&mut position, "a", 100, 0);
        invite(&mut position, "b", 100, 0);
        assert_eq!(admit(&mut position, "x", 2, 2, 1), ClusterOutcome::NoInvitation);
        assert_eq!(admit(&mut position, "a", 2, 2, 1), ClusterOutcome::Done);
        assert_eq!(admit(&mut position, "a", 2, 2, 2), ClusterOutcome::Done, "asked again");
        assert_eq!(admit(&mut position, "a", 3, 3, 2), ClusterOutcome::NoInvitation);
        assert_eq!(admit(&mut position, "b", 3, 3, 100), ClusterOutcome::NoInvitation);
    }

    #[test]
    fn n08_a_copied_state_directory_is_not_let_in() {
        let mut position = position(&[1]);
        invite(&mut position, "a", 100, 0);
        assert_eq!(admit(&mut position, "a", 1, 9, 1), ClusterOutcome::Known, "an id that is taken");
        assert_eq!(admit(&mut position, "a", 9, 1, 1), ClusterOutcome::Known, "a key that is taken");
        assert_eq!(admit(&mut position, "a", 2, 2, 1), ClusterOutcome::Done);
        invite(&mut position, "b", 100, 1);
        assert_eq!(admit(&mut position, "b", 3, 2, 1), ClusterOutcome::Known, "a key that was admitted");
    }

    #[test]
    fn admissions_and_leaves_end_with_the_membership_that_follows() {
        let mut position = position(&[1, 3]);
        invite(&mut position, "a", 100, 0);
        admit(&mut position, "a", 2, 2, 1);
        assert_eq!(position.apply(ClusterCommand::Leave { node: 3 }), ClusterOutcome::Done);
        assert_eq!(position.apply(ClusterCommand::Leave { node: 7 }), ClusterOutcome::NoMember);
        let next = self::position(&[1, 2]);
        position.set_membership(next.membership);
        assert!(position.cluster.admitted.is_empty() && position.cluster.leaving.is_empty());
        assert_eq!(Position::decode(&position.encode()).unwrap(), position);
    }

    #[test]
    fn n08_a_state_of_a_newer_release_is_refused() {
        let newer = Position { format: FORMAT + 1, ..Position::default() };
        assert!(Position::decode(&newer.encode()).unwrap_err().contains("newer release"));
    }

    #[test]
    fn invitations_are_bounded() {
        let mut position = position(&[1]);
        for number in 0..200 {
            invite(&mut position, &format!("{number:03}"), 1_000 + number, 0);
        }
        assert_eq!(position.cluster.invitations.len(), INVITATIONS);
        assert!(position.cluster.invitations.contains_key("199"));
    }
}
