//! The lease of one node at one tracker: the shell's part, which numbers changes and renews.

use obt_swarm::{AnnounceEvent, AnnounceRequest};
use obt_tracker::leases::{LeaseItem, LeaseRequest};
use obt_wire::{InfoHash, PeerId};

/// What a node tells a tracker of ours.
#[derive(Debug, Clone, Default)]
pub struct Holder {
    revision: u64,
    /// What the tracker was told last: bytes that are missing.
    left: Option<u64>,
    /// The tracker knows the lease.
    known: bool,
    /// It was told that we leave.
    stopped: bool,
}

impl Holder {
    /// The message that an announce of the core becomes.
    #[must_use]
    pub fn announce(&mut self, hash: InfoHash, peer_id: PeerId, port: u16, request: &AnnounceRequest) -> LeaseRequest {
        let changed = self.left != Some(request.left) || request.event == AnnounceEvent::Completed;
        self.left = Some(request.left);
        self.stopped = request.event == AnnounceEvent::Stopped;
        self.revision += u64::from(changed && self.known);
        let completed = request.event == AnnounceEvent::Completed;
        let item = LeaseItem { hash, left: request.left, completed };
        let set = if changed || !self.known { vec![item] } else { Vec::new() };
        self.message(peer_id, port, set, request.num_want as usize, vec![hash])
    }

    /// Whether there is anything to renew.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.left.is_some()
    }

    /// The tracker did not answer: it may have missed a change.
    pub fn failed(&mut self) {
        self.known = false;
    }

    /// The message that renews it; None where there is nothing to renew.
    #[must_use]
    pub fn renewal(&self, hash: InfoHash, peer_id: PeerId, port: u16) -> Option<LeaseRequest> {
        let left = self.left.filter(|_| !self.stopped)?;
        let everything = vec![LeaseItem { hash, left, completed: false }];
        let set = if self.known { Vec::new() } else { everything };
        Some(self.message(peer_id, port, set, 0, Vec::new()))
    }

    fn message(
        &self,
        peer_id: PeerId,
        port: u16,
        set: Vec<LeaseItem>,
        num_want: usize,
        want: Vec<InfoHash>,
    ) -> LeaseRequest {
        LeaseRequest {
            peer_id,
            secret: [7; 16],
            port,
            advertise: Vec::new(),
            revision: self.revision,
            full: !self.known,
            set,
            removed: Vec::new(),
            want,
            num_want,
            stopped: self.stopped,
        }
    }

    /// The tracker answered: whether it wants to hear everything again.
    pub fn answered(&mut self, resync: bool) -> bool {
        self.known = !resync && !self.stopped;
        resync && !self.stopped
    }
}
