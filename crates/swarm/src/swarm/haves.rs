//! When peers hear of our new pieces.
//!
//! A `have` takes 9 bytes, in a packet of its own and with its acknowledgement 141: where pieces are short and peers many,
//! a quarter of what a link of 10 Mbit/s carries (32 peers, 16 KiB). So news are gathered for a moment, and who has got
//! the piece meanwhile hears nothing of it. A piece that no leecher had before goes out at once, with all that waits:
//! others may want it, and its seed need not send it to them.

use std::time::{Duration, Instant};

use obt_wire::PieceIndex;
use obt_wire::peer::Message;

use super::Swarm;
use crate::action::Action;
use crate::limits::{HAVE_WAIT, HAVE_WAIT_SEEDS};
use crate::session::Session;

/// Pieces that some peers have not heard of.
#[derive(Debug, Default)]
struct News {
    pieces: Vec<PieceIndex>,
    /// When they are told at the latest; None where there are none.
    due: Option<Instant>,
}

impl News {
    fn push(&mut self, piece: PieceIndex, due: Instant) {
        self.pieces.push(piece);
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    fn take(&mut self, now: Instant) -> Vec<PieceIndex> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        std::mem::take(&mut self.pieces)
    }
}

/// Verified pieces that no `have` was sent for: those who lack something hear of them sooner than those who do not.
#[derive(Debug, Default)]
pub(super) struct Haves {
    leechers: News,
    seeds: News,
}

impl Haves {
    /// When the next are to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.leechers.due.into_iter().chain(self.seeds.due).min()
    }

    /// We have `piece`; `is_first` where no leecher had it.
    pub(super) fn push(&mut self, piece: PieceIndex, is_first: bool, now: Instant) {
        let within = |wait| now + if is_first { Duration::ZERO } else { wait };
        self.leechers.push(piece, within(HAVE_WAIT));
        self.seeds.push(piece, within(HAVE_WAIT_SEEDS));
    }

    /// We have these no more.
    pub(super) fn forget(&mut self, gone: &[PieceIndex]) {
        for news in [&mut self.leechers, &mut self.seeds] {
            news.pieces.retain(|piece| !gone.contains(piece));
        }
    }
}

impl Swarm {
    /// Tells what is due.
    pub(super) fn tell_haves(&mut self, now: Instant) {
        let leechers = self.haves.leechers.take(now);
        self.tell_each(&leechers, now, |session, piece| !session.wants_nothing() && !session.has().has(piece));
        // A seed wants to know which pieces it need not send to others.
        let seeds = self.haves.seeds.take(now);
        self.tell_each(&seeds, now, |session, _| session.wants_nothing());
    }

    fn tell_each(&mut self, pieces: &[PieceIndex], now: Instant, concerns: impl Fn(&Session, PieceIndex) -> bool) {
        if pieces.is_empty() {
            return;
        }
        let Self { sessions, actions, .. } = self;
        for (peer, session) in sessions {
            for piece in pieces {
                if concerns(session, *piece) {
                    actions.push_back(Action::Send { peer: *peer, message: Message::Have(piece.0) });
                    session.last_sent = now;
                }
            }
        }
    }
}
