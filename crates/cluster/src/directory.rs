//! Who the members are, for all who must know it at once: links that check keys, tasks that ask others.
//!
//! It follows the membership of the log. A member that is being let in has none yet, and goes by what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::raft::{Member, MemberKey, NodeId, StoredMembership};

/// The members at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// All of them.
    pub all: BTreeMap<NodeId, Member>,
    /// Those that vote; of both sets while one follows the other.
    pub voters: BTreeSet<NodeId>,
    /// The sets of voters: each decides by its own majority. Two while the second follows the first.
    pub sets: Vec<BTreeSet<NodeId>>,
}

impl Members {
    pub(crate) fn of(membership: &StoredMembership) -> Self {
        let all = membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        let sets = membership.membership().get_joint_config().clone();
        Self { all, voters: membership.voter_ids().collect(), sets }
    }

    /// Whether these are a majority, of both sets where there are two.
    #[must_use]
    pub fn is_quorum(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let majority = |set: &BTreeSet<NodeId>| set.intersection(nodes).count() > set.len() / 2;
        !self.sets.is_empty() && self.sets.iter().all(majority)
    }
}

/// Members by id and by key.
#[derive(Debug)]
pub struct Directory {
    members: watch::Sender<Arc<Members>>,
    by_key: RwLock<BTreeMap<MemberKey, NodeId>>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { members: watch::Sender::new(Arc::default()), by_key: RwLock::default() }
    }
}

impl Directory {
    /// The members now.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.borrow())
    }

    /// The members, whenever they change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Members>> {
        self.members.subscribe()
    }

    /// Whose key this is.
    #[must_use]
    pub fn by_key(&self, key: &MemberKey) -> Option<NodeId> {
        self.by_key.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    pub(crate) fn set(&self, members: Members) {
        if **self.members.borrow() == members {
            return;
        }
        let by_key = members.all.iter().map(|(id, member)| (member.key, *id)).collect();
        *self.by_key.write().unwrap_or_else(PoisonError::into_inner) = by_key;
        self.members.send_replace(Arc::new(members));
    }
}
