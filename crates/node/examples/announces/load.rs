//! Who announces what, where and when; the same over both protocols.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use obt_wire::{InfoHash, PeerId};

use crate::waits::Waits;

/// Peers of one address: as many ports as one address may have in a swarm.
pub(crate) const PER_ADDRESS: u64 = 64;
/// After this without an answer an announce counts as lost.
pub(crate) const LOST: Duration = Duration::from_secs(1);

pub(crate) struct Plan {
    /// Announces a second; 0 is as fast as they are answered.
    pub(crate) rate: u64,
    /// Zero is each peer once.
    pub(crate) time: Duration,
    pub(crate) swarms: u64,
    pub(crate) peers: Range<u64>,
    pub(crate) members: Vec<SocketAddr>,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) sent: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// How far the load was behind its rate, at most; microseconds.
    pub(crate) late: AtomicU64,
}

/// A plan under way.
pub(crate) struct Load {
    plan: Plan,
    pub(crate) began: Instant,
    /// The next address that no thread has taken.
    pub(crate) next: AtomicU64,
    pub(crate) counts: Counts,
    pub(crate) waits: Waits,
}

/// What a peer says of itself.
pub(crate) struct Peer {
    pub(crate) hash: InfoHash,
    pub(crate) id: PeerId,
    pub(crate) port: u16,
    pub(crate) left: u64,
}

/// Peers that share an address, and the member that they announce to.
pub(crate) struct Host {
    pub(crate) source: Ipv4Addr,
    pub(crate) member: SocketAddr,
    pub(crate) peers: Vec<Peer>,
}

impl Load {
    pub(crate) fn new(plan: Plan) -> Self {
        let began = Instant::now();
        let waits = Waits::new(plan.time, began);
        Self { plan, began, next: AtomicU64::new(0), counts: Counts::default(), waits }
    }

    /// The one whose turn it is; None where all have had theirs, once.
    pub(crate) fn host(&self, turn: u64) -> Result<Option<Host>, std::num::TryFromIntError> {
        let Plan { swarms, peers, members, time, .. } = &self.plan;
        let hosts = peers.start / PER_ADDRESS..peers.end.div_ceil(PER_ADDRESS);
        let count = hosts.end - hosts.start;
        if time.is_zero() && turn >= count {
            return Ok(None);
        }
        let address = hosts.start + turn % count;
        let [_, high, middle, low] = u32::try_from(address + 1)?.to_be_bytes();
        let first = address * PER_ADDRESS;
        let peers = (first..peers.end.min(first + PER_ADDRESS)).zip(1_024..);
        Ok(Some(Host {
            source: Ipv4Addr::new(10, 64 + high, middle, low),
            member: members[usize::try_from(address)? % members.len()],
            peers: peers.map(|(number, port)| Peer::new(number, port, *swarms)).collect(),
        }))
    }

    /// Waits until the announce of this number is due, and tells since when it is waited for; None after the end.
    ///
    /// What begins late is waited for since it was due: else a tracker that stands still would stop the load, and few
    /// announces would show it.
    pub(crate) fn begin(&self, number: u64) -> Option<Instant> {
        let Plan { rate, time, .. } = self.plan;
        let due = (number * 1_000_000).checked_div(rate).map(Duration::from_micros);
        if !time.is_zero() && due.unwrap_or_else(|| self.began.elapsed()) >= time {
            return None;
        }
        let Some(due) = due else {
            return Some(Instant::now());
        };
        let now = self.began.elapsed();
        if let Some(early) = due.checked_sub(now) {
            thread::sleep(early);
            return Some(Instant::now());
        }
        let late = u64::try_from((now - due).as_micros()).unwrap_or(u64::MAX);
        self.counts.late.fetch_max(late, Ordering::Relaxed);
        Some(self.began + due)
    }

    pub(crate) fn sent(&self, announces: usize) {
        self.counts.sent.fetch_add(announces as u64, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, since: Instant) {
        self.counts.answered.fetch_add(1, Ordering::Relaxed);
        self.waits.note(since);
    }

    pub(crate) fn refused(&self) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Peer {
    fn new(number: u64, port: u16, swarms: u64) -> Self {
        let mut hash = InfoHash([5; 20]);
        hash.0[..8].copy_from_slice(&(number % swarms).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let mut id = PeerId(*b"-XX0001-............");
        id.0[12..].copy_from_slice(&number.to_be_bytes());
        Self { hash, id, port, left: u64::from(!number.is_multiple_of(3)) }
    }
}
