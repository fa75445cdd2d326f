//! What a member is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::fatal::FatalHook;
use crate::limits;
use crate::machine::ChangeHook;
use crate::raft::Member;

/// Milliseconds since 1970, by this machine's clock. Only a leader's goes into the log.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where a member keeps itself, what it says of itself, whom it tells.
#[derive(Clone)]
pub struct Config {
    /// The catalogue's file. The log lies beside it.
    pub catalogue: PathBuf,
    /// The log's file.
    pub log: PathBuf,
    /// What this member says of itself when a cluster begins or lets it in. Its key is set from its key file.
    pub member: Member,
    /// What a start does where there is no log yet.
    pub origin: Origin,
    /// The clock.
    pub clock: Clock,
    /// Is told of every change of the catalogue.
    pub changed: ChangeHook,
    /// Ends the process.
    pub fatal: FatalHook,
    /// When things happen.
    pub timing: Timing,
}

/// How a member without a log begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It founds a cluster of one with the catalogue that is there.
    Found,
    /// It asks the cluster of this line to be let in. Its catalogue must be empty.
    Join(String),
}

/// When things happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// The window from which each process draws how long it waits for a leader.
    pub election: (Duration, Duration),
    /// Between two looks of the leader at the membership.
    pub membership: Duration,
    /// How long a voter may be away before a learner takes its place.
    pub replace_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: limits::HEARTBEAT,
            election: limits::ELECTION,
            membership: Duration::from_secs(1),
            replace_after: Duration::from_secs(600),
        }
    }
}

impl Timing {
    /// openraft's settings.
    pub(crate) fn raft(&self) -> openraft::Config {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: "obt".to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election.0),
            election_timeout_max: ms(self.election.1),
            // openraft gives up a whole snapshot after it; the parts have limits of their own.
            install_snapshot_timeout: ms(limits::INSTALL),
            max_payload_entries: limits::APPEND_ENTRIES,
            replication_lag_threshold: limits::SNAPSHOT_ENTRIES,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(limits::SNAPSHOT_ENTRIES),
            // What may be cut depends on who is behind, which openraft does not look at: the keeper cuts.
            max_in_snapshot_log_to_keep: u64::MAX,
            ..openraft::Config::default()
        }
    }
}
