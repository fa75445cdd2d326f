//! Budgets and periods of the cluster, in one place (HOSTILE B-RAFT).

use std::time::Duration;

/// Between two heartbeats of the leader; also how long openraft waits for one reply to entries.
pub const HEARTBEAT: Duration = Duration::from_millis(100);
/// A follower that hears nothing for so long stands for election; each process draws its own time from the window.
pub const ELECTION: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(800));
/// Entries after which openraft takes a snapshot; that costs nothing here, but lets the log be cut.
pub const SNAPSHOT_ENTRIES: u64 = 1_000;
/// Entries that stay in the log for members that were away for a minute: sending what they missed is cheaper by far than
/// the whole catalogue. They have a kilobyte each, or 40 where many publish at once.
pub const KEPT_ENTRIES: u64 = 8_000;
/// Entries that are cut off at a time.
pub const CUT_ENTRIES: u64 = 2_000;
/// Entries in the log at most, where a member takes long to catch up.
pub const LOG_ENTRIES: u64 = 100_000;
/// How long a member may be silent before the log is no longer kept for it.
pub const LOG_PATIENCE: Duration = Duration::from_secs(10);
/// Entries in one message: with [`ENTRY_BYTES`] each they fit in a frame.
pub const APPEND_ENTRIES: u64 = 64;
/// Longest entry, bytes. Metainfo does not travel in the log, so nothing comes near.
pub const ENTRY_BYTES: usize = 64 * 1_024;
/// Commands that share an entry at most.
pub const ENTRY_COMMANDS: usize = 64;
/// Commands that wait for the leader's proposer; whoever has one more waits.
pub const PROPOSALS: usize = 256;

/// How long a command may take, elections included.
pub const PROPOSE: Duration = Duration::from_secs(10);
/// Who has heard no leader for so long is cut off: it refuses changes at once. Elections take less.
pub const CUT_OFF: Duration = Duration::from_secs(3);
/// How long a member does not stand for election after another said that it is no voter.
pub const STAND_DOWN: Duration = Duration::from_secs(10);
/// How long a question to the leader may take.
pub const ASK: Duration = Duration::from_secs(5);
/// How long a part of a blob or of a snapshot may take.
pub const PART: Duration = Duration::from_secs(10);
/// How long checking and installing a snapshot may take.
pub const INSTALL: Duration = Duration::from_secs(600);
/// How long a leader goes on proposing without hearing a majority.
pub const QUORUM_SILENCE: Duration = Duration::from_millis(1_600);
/// Between two questions of a member whether it has everything.
pub const FRESH: Duration = Duration::from_secs(1);
/// Such questions in a row without an answer that are worth a line in the log: an election takes fewer.
pub const UNANSWERED: u32 = 3;
/// Between two tries to find a leader.
pub const RETRY: Duration = Duration::from_millis(50);

/// Largest snapshot that is taken, bytes.
pub const SNAPSHOT_BYTES: u64 = 256 * 1_024 * 1_024 * 1_024;
/// Longest blob, bytes: what the tracker takes as a .torrent.
pub const BLOB_BYTES: u64 = 64 * 1_024 * 1_024;
/// Blobs that arrive in parts at once, from all members together.
pub const BLOBS_ARRIVING: usize = 4;
/// Blobs looked for in one round.
pub const BLOBS_MISSING: u32 = 256;
/// Between two looks through all blobs for missing ones.
pub const BLOB_ROUND: Duration = Duration::from_secs(60);
/// Batches of soft state that wait for the receiver; more are refused, and the sender sends newer ones.
pub const SOFT_BATCHES: usize = 64;

/// Members at most: everybody is told of everybody, and each tells each who announces.
pub const MEMBERS: usize = 16;
/// Addresses in a member's description, of each kind.
pub const ADDRESSES: usize = 8;
/// Longest address, bytes: a host name and a port.
pub const ADDRESS_BYTES: usize = 262;
/// How long an invitation is good unless asked otherwise.
pub const INVITATION: Duration = Duration::from_secs(3_600);
/// Terms that a member may be ahead before the log warns of it: it may have been alone for an hour.
pub const TERM_JUMP: u64 = 1_000;
