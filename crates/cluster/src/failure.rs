//! Why the cluster did not do what it was asked, as its users see it.

use thiserror::Error;

use crate::log::LogError;
use crate::message::Refusal;
use crate::transport::LinkError;

/// A command was not applied, or it is not known whether it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClusterFailure {
    /// Nothing was done; no leader was found in time. 503.
    #[error("the cluster has no leader at the moment; try again in a few seconds")]
    NoLeader,
    /// Nothing was done; too few voters answer. 503.
    #[error("too few members of the cluster answer; names can be changed again when a majority is back")]
    NoQuorum,
    /// The command may have been applied or not; the same id asks again without harm. 503.
    #[error("the cluster did not answer in time; ask again with the same request")]
    Unknown,
    /// Nothing was done; it cannot travel in the log. 413.
    #[error("the request is too large for the cluster's log")]
    TooLarge,
    /// Nothing was done, and never will be: the answer of a leader that understood. 400.
    #[error("the cluster refuses: {0}")]
    Refused(String),
    /// Nothing was done; the disk of this member does not take what comes with the command. 507.
    #[error("this member cannot store the torrent: {0}")]
    Disk(String),
    /// This member is stopping, or its disk failed. 503.
    #[error("this member is stopping")]
    Stopping,
}

impl From<Refusal> for ClusterFailure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotLeader(_) => Self::NoLeader,
            Refusal::NoQuorum => Self::NoQuorum,
            Refusal::TooLarge => Self::TooLarge,
            Refusal::Stopping => Self::Stopping,
            Refusal::Busy => Self::Unknown,
            Refusal::Full | Refusal::Missing | Refusal::Nonsense(_) | Refusal::NotAllowed => {
                Self::Refused(refusal.to_string())
            }
        }
    }
}

/// A member cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its catalogue cannot be used.
    #[error("the catalogue cannot be used")]
    Catalogue(#[from] obt_catalogue::CatalogueError),
    /// Log and catalogue belong to different clusters, or one of them is missing.
    #[error("{0}")]
    Mismatch(String),
    /// The disk or the system says no.
    #[error("the cluster's state cannot be used")]
    Io(#[from] std::io::Error),
    /// The key or the certificate cannot be used.
    #[error("{0}")]
    Key(String),
    /// The line does not come from `obt cluster invite`, or is cut.
    #[error("this is not a join line; paste the whole line that `obt cluster invite` printed")]
    JoinLine,
    /// The cluster did not let it in.
    #[error("{0}")]
    NotLetIn(String),
    /// Nobody of the line answers.
    #[error("no member that the join line names answers")]
    Unreachable(#[source] LinkError),
    /// openraft refuses to start.
    #[error("the consensus cannot start: {0}")]
    Consensus(String),
}
