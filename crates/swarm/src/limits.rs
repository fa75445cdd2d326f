//! Budgets and times of a swarm: one place, each with the reason for its number.

use std::time::Duration;

/// Requests of one peer that wait for an answer from us; told as `reqq` (BEP 10). libtorrent takes 2,000, Transmission 500.
pub const REQUESTS_QUEUED: usize = 500;
/// Silence after which a connection is closed (BEP 3: keep-alives come every two minutes).
pub const IDLE: Duration = Duration::from_secs(120);
/// Silence of ours after which we send a keep-alive: well inside the 120 s of others.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);
