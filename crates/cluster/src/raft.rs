//! The types that openraft is run with: what an entry of the log holds, what came of it, what is known of a member.

use std::fmt;

use obt_catalogue::Outcome;
use serde::{Deserialize, Serialize};

use crate::machine::SnapshotSource;

/// Made at random with a member's state directory, and never used again by another.
pub type NodeId = u64;

openraft::declare_raft_types!(
    /// openraft as this crate uses it.
    pub TypeConfig:
        D = Proposal,
        R = Answer,
        NodeId = NodeId,
        Node = Member,
        SnapshotData = SnapshotSource,
);

pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Membership = openraft::Membership<NodeId, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, Member>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;

/// What an entry asks for. Both are text that is read when the entry is applied and not before: a member passes on and
/// stores what only a later release understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proposal {
    /// Envelopes of the catalogue, in order. Several publishers share an entry, and so a sync.
    Catalogue(Vec<String>),
    /// A change of the cluster itself: a [`ClusterCommand`](crate::state::ClusterCommand).
    Cluster(String),
}

/// What came of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The entry was none of ours.
    Nothing,
    /// One for each envelope.
    Catalogue(Vec<Outcome>),
    /// See [`ClusterCommand`](crate::state::ClusterCommand).
    Cluster(crate::state::ClusterOutcome),
}

/// What all members know of a member; part of the committed membership.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// The Ed25519 key that its connections must prove.
    pub key: MemberKey,
    /// Where its port for members is, `host:port`; tried in order.
    pub addresses: Vec<String>,
    /// Where its tracker is, `host:port`: for the announce tiers that clients are given.
    pub trackers: Vec<String>,
    /// Whether it may become a voter.
    pub voter: VoterWish,
    /// The newest format of commands that it reads.
    pub format: u16,
}

/// Whether a member may become a voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoterWish {
    /// When the leader finds that one is wanted.
    #[default]
    Auto,
    /// It stays a learner: a laptop, a machine behind a slow line.
    Never,
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MemberKey(pub [u8; 32]);

impl fmt::Display for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemberKey({self})")
    }
}

impl Serialize for MemberKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemberKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("a key is 64 hexadecimal digits"))
    }
}
