//! The owner of one swarm's parts: routes each [`Event`] to one of them and queues the [`Action`]s that come of it.

use std::collections::VecDeque;
use std::time::Instant;

use obt_wire::{InfoHashes, PeerId};

use crate::action::Action;
use crate::event::{Content, Event, TrackerUrl};
use crate::stats::{Phase, Stats};

/// What a swarm is told about its surroundings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our name in handshakes.
    pub peer_id: PeerId,
    /// Port that others reach us at, told in the extension handshake; None where nobody can.
    pub listen_port: Option<u16>,
    /// Our program and its version, told in the extension handshake.
    pub client: String,
    /// Most connections of this swarm at once.
    pub connections: usize,
    /// Most connects under way at once.
    pub half_open: usize,
    /// Payload to receive, bytes per second; None is no limit.
    pub download_rate: Option<u64>,
    /// Payload to send, bytes per second; None is no limit.
    pub upload_rate: Option<u64>,
    /// Buffers of the shell that this swarm may fill, in blocks of 16 KiB: asked for and not yet stored or spilled.
    pub block_budget: u32,
    /// Where to announce.
    pub trackers: Vec<TrackerUrl>,
    /// Whether loopback, private and link-local addresses may be connected to.
    pub local_addresses: LocalAddresses,
}

/// Whether loopback, private and link-local addresses may be connected to, where others than the user name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalAddresses {
    /// They are taken like any other: the user chose a tracker that is local itself.
    Allowed,
    /// They are dropped.
    Refused,
}

/// What a swarm begins with.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// The torrent is known and its storage is ready.
    Content(Content),
    /// Only its info-hashes are: the info dictionary comes from peers (BEP 9).
    Hashes(InfoHashes),
}

/// Why the core wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Who is unchoked is to be decided anew.
    Choke,
    /// A tracker is due.
    Announce,
    /// A candidate may be connected to.
    Connect,
    /// A peer owes an answer, is silent for too long, or is owed a keep-alive.
    Peer,
    /// A rate limit lets more through.
    Rate,
    /// Somebody is to be asked again for metadata or hashes.
    Ask,
}

/// One swarm, without IO.
///
/// The shell tells what has happened ([`handle_event`](Self::handle_event)) or that time has passed
/// ([`handle_timeout`](Self::handle_timeout), at [`poll_timeout`](Self::poll_timeout) at the latest), then drains
/// [`poll_action`](Self::poll_action) before the next event.
#[derive(Debug)]
pub struct Swarm {
    config: Config,
    start: Start,
    actions: VecDeque<Action>,
    started: Instant,
}

impl Swarm {
    /// A swarm that has not said anything to anybody yet.
    #[must_use]
    pub fn new(config: Config, start: Start, seed: u64, now: Instant) -> Self {
        let _ = seed;
        Self { config, start, actions: VecDeque::new(), started: now }
    }

    /// Takes note of what has happened.
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        let _ = (event, now);
    }

    /// Takes note that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and what for. May lie in the past: at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Why)> {
        Some((self.started, Why::Announce))
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How things stand.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Stats {
        let _ = now;
        Stats {
            phase: if matches!(self.start, Start::Content(_)) { Phase::Downloading } else { Phase::Metadata },
            pieces: 0,
            pieces_have: 0,
            pieces_left: 0,
            pieces_unavailable: 0,
            wanted_bytes: 0,
            left_bytes: 0,
            downloaded: 0,
            wasted: 0,
            uploaded: 0,
            download_rate: 0,
            upload_rate: 0,
            metadata: None,
            peers: Vec::new(),
            connecting: 0,
            candidates: 0,
            untried: 0,
            banned: 0,
            trackers: Vec::with_capacity(self.config.trackers.len()),
            alone_since: None,
            from: Vec::new(),
        }
    }

    /// What must hold between any two calls, for tests and the simulator.
    ///
    /// # Errors
    /// A sentence that names the invariant that does not hold.
    pub fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
