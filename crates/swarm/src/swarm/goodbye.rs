//! How a swarm ends: because it is asked to, or because its torrent contradicts itself.

use std::time::Instant;

use obt_wire::PieceIndex;

use super::Swarm;
use crate::action::{Action, AnnounceEvent, CloseReason};
use crate::event::PeerKey;
use crate::limits::STOPPING;
use crate::stats::Phase;

impl Swarm {
    /// Says good-bye to trackers and peers; `Action::Stopped` follows when they have answered, or shortly after.
    pub(super) fn stop(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Stopping | Phase::Stopped) {
            return;
        }
        self.phase = Phase::Stopping;
        self.take_leave(CloseReason::Stopping, now);
        self.due.stop = Some(now + STOPPING);
        self.check_stopped();
    }

    /// v1 and v2 hashes disagree about a piece: nobody can say what its bytes should be.
    pub(super) fn inconsistent(&mut self, piece: PieceIndex, now: Instant) {
        if !self.is_running() {
            return;
        }
        self.phase = Phase::Inconsistent;
        self.actions.push_back(Action::Inconsistent { piece });
        self.take_leave(CloseReason::NotUseful, now);
    }

    fn take_leave(&mut self, reason: CloseReason, now: Instant) {
        for tracker in self.announcer.stop() {
            let request = self.announce_request(AnnounceEvent::Stopped);
            self.actions.push_back(Action::Announce { tracker, request });
        }
        let peers: Vec<PeerKey> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.close(peer, reason, now);
        }
        (self.due.ask, self.due.rate) = (None, None);
    }

    /// Whether the last answer to a good-bye has come.
    pub(super) fn check_stopped(&mut self) {
        if self.phase == Phase::Stopping && self.announcer.asked() == 0 && self.closing.is_empty() {
            self.finish_stopping();
        }
    }

    pub(super) fn finish_stopping(&mut self) {
        self.due = super::Due::default();
        self.phase = Phase::Stopped;
        self.actions.push_back(Action::Stopped);
    }
}
