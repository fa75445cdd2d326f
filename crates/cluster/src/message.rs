//! What members say to each other. How it travels is [`Transport`](crate::transport::Transport)'s affair.
//!
//! Bytes of blobs, snapshots and soft state go beside a message, as its body.

use obt_catalogue::{BlobHash, Command, CommandId, Outcome};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use crate::raft::{Member, NodeId, TypeConfig, Vote};
use crate::snapshot::SnapshotFacts;
use crate::state::ClusterOutcome;

/// Most bytes of a body that is one part of something longer.
pub const PART_BYTES: usize = 1_024 * 1_024;

/// What a member asks of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Raft: entries, or none, which is a heartbeat. Only from the leader that it names.
    Append(AppendEntriesRequest<TypeConfig>),
    /// Raft: a vote. Only from the candidate that it names.
    Vote(VoteRequest<NodeId>),
    /// Part of a snapshot; the body holds its bytes.
    Snapshot(Box<SnapshotPart>),
    /// Part of a blob; the body holds its bytes.
    PutBlob {
        /// SHA-256 of the whole.
        hash: BlobHash,
        /// Where the body belongs, bytes.
        offset: u64,
        /// How long the whole is, bytes.
        total: u64,
    },
    /// Asks for a blob from a place on.
    GetBlob {
        /// Which.
        hash: BlobHash,
        /// From where on, bytes.
        offset: u64,
    },
    /// Asks the leader to have a command applied.
    Propose {
        /// For exactly-once.
        id: CommandId,
        /// What.
        command: Box<Command>,
    },
    /// Asks the leader how far a reader must have applied to see everything that was acknowledged before.
    ReadIndex,
    /// Asks the leader for an invitation under this hash.
    Invite {
        /// SHA-256 of the secret, in hex.
        hash: String,
        /// How long it is good, milliseconds.
        for_ms: u64,
    },
    /// Asks to be let in; good from strangers, for which it is the only request.
    Join(Box<Join>),
    /// Tells the leader what is to be known of the sender from now on: it moved, or runs a newer release. Its key stays.
    Describe(Box<Member>),
    /// Asks the leader to let a member go.
    Leave {
        /// Which.
        node: NodeId,
    },
    /// From the leader, which is about to stop: stand for election now.
    Elect,
    /// Soft state that the body holds.
    Soft,
}

/// See [`Request::Snapshot`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The leader's vote.
    pub vote: Vote,
    /// What the whole must be.
    pub facts: SnapshotFacts,
    /// Where the body belongs, bytes. 0 begins.
    pub offset: u64,
}

/// See [`Request::Join`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The secret of the invitation, in hex.
    pub secret: String,
    /// Who asks.
    pub node: NodeId,
    /// What it says of itself; its key is that of the connection.
    pub member: Member,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Append`].
    Append(AppendEntriesResponse<NodeId>),
    /// To [`Request::Vote`].
    Vote(VoteResponse<NodeId>),
    /// To [`Request::Snapshot`]: the receiver's vote, and how many bytes it has of the whole.
    Snapshot {
        /// Higher than the sender's where it is leader no more.
        vote: Vote,
        /// Where to go on; all of them when it is installed.
        have: u64,
    },
    /// To [`Request::GetBlob`]; the body holds bytes.
    Blob {
        /// How long the whole is, bytes.
        total: u64,
    },
    /// To [`Request::Propose`].
    Outcome(Outcome),
    /// To [`Request::ReadIndex`].
    ReadIndex(u64),
    /// To [`Request::Invite`], [`Request::Join`], [`Request::Describe`] and [`Request::Leave`].
    Cluster(ClusterOutcome),
    /// To [`Request::Join`], when it is let in: who the members are.
    Welcome(Vec<(NodeId, Member)>),
    /// Stored, noted, handed on.
    Done,
    /// No.
    Refused(Refusal),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Ask this one, if it is known.
    #[error("this member does not lead the cluster")]
    NotLeader(Option<NodeId>),
    /// The leader hears too few voters.
    #[error("the leader does not reach a majority of the voters")]
    NoQuorum,
    /// There is no such thing here.
    #[error("it is not here")]
    Missing,
    /// It has as many members as a cluster may.
    #[error("the cluster has {} members, as many as one may have", crate::limits::MEMBERS)]
    Full,
    /// Too much of this kind at once; later.
    #[error("too much is under way")]
    Busy,
    /// A message that no member of this release sends.
    #[error("the message makes no sense: {0}")]
    Nonsense(String),
    /// The command is too large for the log.
    #[error("the command is too large")]
    TooLarge,
    /// The sender may not ask that.
    #[error("the sender may not ask that")]
    NotAllowed,
    /// The member is stopping, or its disk failed.
    #[error("the member is stopping")]
    Stopping,
}
