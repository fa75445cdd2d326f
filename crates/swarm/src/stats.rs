//! What a swarm looks like from outside, at one moment: for progress lines, `--json` and metrics. Values only.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_wire::PeerId;

use crate::event::{Direction, PeerKey};

/// What a swarm is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Fetching the info dictionary (BEP 9).
    Metadata,
    /// The info dictionary is handed out; the shell prepares the storage.
    Preparing,
    /// Wanted pieces are missing.
    Downloading,
    /// All that is wanted is here.
    Seeding,
    /// v1 and v2 hashes disagree: nothing is fetched or served any more.
    Inconsistent,
    /// Saying good-bye.
    Stopping,
    /// Done.
    Stopped,
}

/// One moment of a swarm.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// What it is busy with.
    pub phase: Phase,
    /// Pieces of the torrent; 0 while the content is unknown.
    pub pieces: u32,
    /// Pieces verified and stored.
    pub pieces_have: u32,
    /// Wanted pieces that are missing.
    pub pieces_left: u32,
    /// Wanted pieces that are missing, and that no connected peer has.
    pub pieces_unavailable: u32,
    /// Bytes of the wanted pieces.
    pub wanted_bytes: u64,
    /// Bytes of the wanted pieces that are missing.
    pub left_bytes: u64,
    /// Payload received, bytes, whatever came of it.
    pub downloaded: u64,
    /// Payload received that was of no use, bytes: not asked for, twice, or failed its hash.
    pub wasted: u64,
    /// Payload sent, bytes.
    pub uploaded: u64,
    /// Payload received, bytes per second.
    pub download_rate: u64,
    /// Payload sent, bytes per second.
    pub upload_rate: u64,
    /// Share of the info dictionary that is here, bytes, and its length where a peer told it.
    pub metadata: Option<(u32, u32)>,
    /// Connections, in the order they came.
    pub peers: Vec<PeerStats>,
    /// Connects that are under way.
    pub connecting: usize,
    /// Addresses that are known and neither connected nor connecting.
    pub candidates: usize,
    /// Of these, addresses that were never tried.
    pub untried: usize,
    /// Addresses banned for proven lies.
    pub banned: usize,
    /// Trackers in the order of `Config::trackers`.
    pub trackers: Vec<TrackerStats>,
    /// Since when nobody is connected or connecting, no address is left untried, and every tracker in use has answered
    /// or failed: nothing happens until a tracker names somebody new or a back-off ends.
    pub alone_since: Option<Instant>,
    /// Content, without padding, by the address it came from, connections that are gone included, in the order of first bytes.
    pub from: Vec<(SocketAddr, u64)>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerStats {
    /// Which one.
    pub peer: PeerKey,
    /// The remote end.
    pub addr: SocketAddr,
    /// Who opened it.
    pub direction: Direction,
    /// How long it has been there.
    pub connected: Duration,
    /// Its name for itself.
    pub peer_id: PeerId,
    /// The program it says it is, without control characters; empty where it does not say.
    pub client: String,
    /// Pieces it has.
    pub pieces: u32,
    /// Whether it has every piece.
    pub seed: bool,
    /// Payload received from it, bytes.
    pub downloaded: u64,
    /// Payload sent to it, bytes.
    pub uploaded: u64,
    /// Payload received, bytes per second.
    pub download_rate: u64,
    /// Payload sent, bytes per second.
    pub upload_rate: u64,
    /// Blocks asked for and not here yet.
    pub requests: usize,
    /// Its requests that wait for us.
    pub queued: usize,
    /// We do not answer its requests.
    pub choked: bool,
    /// It does not answer ours.
    pub choking: bool,
    /// It wants something of ours.
    pub interested: bool,
    /// It has something that we want.
    pub interesting: bool,
    /// It owes us blocks for too long.
    pub snubbed: bool,
}

/// How a tracker is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackerStats {
    /// Its announce URL.
    pub url: String,
    /// Its tier (BEP 12).
    pub tier: u32,
    /// What its last announce came to.
    pub state: TrackerState,
    /// Announces in a row that failed.
    pub failures: u32,
    /// When it is asked next, if that is known.
    pub next: Option<Duration>,
    /// Complete peers, as it last said.
    pub seeders: Option<u32>,
    /// Incomplete peers, as it last said.
    pub leechers: Option<u32>,
    /// How many addresses its last answer held.
    pub peers: usize,
}

/// What the last announce to a tracker came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackerState {
    /// It was never asked: others of its tier answer, or an earlier tier does.
    Unused,
    /// It was asked and has not answered yet, and never before.
    Asking,
    /// It answered, with this warning if any.
    Working(Option<String>),
    /// It failed, with this sentence.
    Failing(String),
}
