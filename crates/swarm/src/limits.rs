//! Budgets and times of a swarm: one place, each with the reason for its number.

use std::time::Duration;

/// Requests of one peer that wait for an answer from us; told as `reqq` (BEP 10). libtorrent takes 2,000, Transmission 500.
pub const REQUESTS_QUEUED: usize = 500;
/// Silence after which a connection is closed (BEP 3: keep-alives come every two minutes).
pub const IDLE: Duration = Duration::from_secs(120);
/// Silence of ours after which we send a keep-alive: well inside the 120 s of others.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Addresses kept of one swarm (libtorrent's number too).
pub const CANDIDATES: usize = 3_000;
/// Most of them that one peer may have told of: a quarter, so that it cannot choose whom we talk to.
pub const CANDIDATES_PER_PEER: usize = CANDIDATES / 4;
/// Wait after a connect that failed, doubled for each in a row: a peer that restarts is back within seconds.
pub const RECONNECT: Duration = Duration::from_secs(5);
/// Longest wait between two tries of an address.
pub const RECONNECT_MAX: Duration = Duration::from_secs(30 * 60);
/// Shortest wait between two tries of an address that a tracker has just named again: it believes the peer to be alive.
pub const RECONNECT_NAMED: Duration = Duration::from_secs(15);
/// First ban of an address that is proven to lie, doubled each time.
pub const BAN: Duration = Duration::from_secs(3_600);
/// Longest ban.
pub const BAN_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Bans kept at once; the one that ends first makes room.
pub const BANS: usize = 3_000;
/// Connections from one address: several peers on one machine are normal here.
pub const CONNECTIONS_PER_ADDRESS: usize = 64;

/// Shortest time between two announces to a tracker of ours: its leases are renewed as often.
pub const LEASE_INTERVAL: Duration = Duration::from_secs(15);
/// Shortest time between two announces to any other tracker, whatever it says.
pub const ANNOUNCE_MIN: Duration = Duration::from_secs(30);
/// Shortest time between two announces to any other tracker that names none.
pub const ANNOUNCE_MIN_UNNAMED: Duration = Duration::from_secs(60);
/// Longest time between two announces, whatever the tracker says: half of what trackers commonly remember a peer for.
pub const ANNOUNCE_MAX: Duration = Duration::from_secs(3_600);
/// First wait after an announce that failed, doubled for each in a row.
pub const ANNOUNCE_RETRY: Duration = Duration::from_secs(15);
/// Longest wait after announces that failed.
pub const ANNOUNCE_RETRY_MAX: Duration = Duration::from_secs(30 * 60);
/// Peers that one announce asks for.
pub const NUM_WANT: u32 = 100;
/// Peers taken from one answer of a tracker.
pub const ANNOUNCE_PEERS: usize = 200;
/// How long good-byes to trackers and peers may take: SIGINT has to be done within 5 s.
pub const STOPPING: Duration = Duration::from_secs(3);
