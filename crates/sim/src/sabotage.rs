//! Cores that are broken on purpose (HOSTILE 4.3, "mutation check of the harness"): what a right core does is changed on
//! its way out. Each stands for a mistake that somebody could make; a run in which nothing notices one would show that
//! the invariants are decoration.

use obt_swarm::{Action, AnnounceEvent, CloseReason, Event, Verdict};
use obt_wire::peer::Message;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// It says that it has everything.
    ClaimsEverything,
    /// It tells of a piece when it asks for its hash, and not when it is verified.
    ClaimsBeforeVerifying,
    /// It never says what it has got.
    KeepsHavesToItself,
    /// It takes pieces without looking at their hash.
    TrustsEverybody,
    /// One piece is never asked for, though it thinks that it was.
    ForgetsRequests,
    /// It asks for the next piece in place of the one that the peer has.
    AsksForAnotherPiece,
    /// It never hears that it is choked.
    IgnoresChokes,
    /// It serves whom it has just choked.
    ServesTheChoked,
    /// It takes every block twice.
    AcceptsTwice,
    /// It asks for more than it has buffers for.
    ForgetsItsBudget,
    /// It bans everybody whom it turns away, and turns away whoever is of no use.
    BansTheInnocent,
    /// It never tells the tracker that it has all of it.
    AnnouncesNothingNew,
    /// It leaves without a word to the tracker.
    LeavesInSilence,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::ClaimsEverything,
        Self::ClaimsBeforeVerifying,
        Self::KeepsHavesToItself,
        Self::TrustsEverybody,
        Self::ForgetsRequests,
        Self::AsksForAnotherPiece,
        Self::IgnoresChokes,
        Self::ServesTheChoked,
        Self::AcceptsTwice,
        Self::ForgetsItsBudget,
        Self::BansTheInnocent,
        Self::AnnouncesNothingNew,
        Self::LeavesInSilence,
    ];

    /// What comes of an action, `peers` being those that the node is connected to.
    pub(crate) fn act(self, action: Action, pieces: u32, peers: &[obt_swarm::PeerKey]) -> Vec<Action> {
        match (self, action) {
            (Self::ClaimsEverything, Action::Send { peer, message: Message::HaveNone | Message::Bitfield(_) }) => {
                vec![Action::Send { peer, message: Message::HaveAll }]
            }
            (Self::ClaimsBeforeVerifying, action @ Action::Verify { piece, .. }) => {
                let have = |peer: &obt_swarm::PeerKey| Action::Send { peer: *peer, message: Message::Have(piece.0) };
                peers.iter().map(have).chain([action]).collect()
            }
            (Self::KeepsHavesToItself, Action::Send { message: Message::Have(_), .. }) => Vec::new(),
            (Self::ForgetsRequests, Action::Send { message: Message::Request(request), .. }) if request.piece == 0 => {
                Vec::new()
            }
            (Self::AsksForAnotherPiece, Action::Send { peer, message: Message::Request(mut request) }) => {
                request.piece = (request.piece + 1) % pieces;
                vec![Action::Send { peer, message: Message::Request(request) }]
            }
            (Self::ServesTheChoked, action @ Action::Upload { peer, .. }) => {
                vec![Action::Send { peer, message: Message::Choke }, action]
            }
            (Self::AcceptsTwice, action @ Action::Accept { .. }) => vec![action.clone(), action],
            (Self::BansTheInnocent, Action::Close { peer, .. }) => {
                vec![Action::Close { peer, reason: CloseReason::Banned }]
            }
            (Self::AnnouncesNothingNew, Action::Announce { request, .. })
                if request.event == AnnounceEvent::Completed || request.left == 0 =>
            {
                Vec::new()
            }
            (Self::LeavesInSilence, Action::Announce { request, .. }) if request.event == AnnounceEvent::Stopped => {
                Vec::new()
            }
            (_, action) => vec![action],
        }
    }

    /// The buffers that the core believes to have, blocks.
    pub(crate) fn budget(self, blocks: u32) -> u32 {
        if self == Self::ForgetsItsBudget { u32::MAX / 2 } else { blocks }
    }

    /// What the core hears; None where it hears nothing.
    pub(crate) fn hear(self, event: Event) -> Option<Event> {
        match (self, event) {
            (Self::IgnoresChokes, Event::Message { message: Message::Choke, .. }) => None,
            (Self::TrustsEverybody, Event::Verified { piece, .. }) => {
                Some(Event::Verified { piece, verdict: Verdict::Good, block_digests: Vec::new() })
            }
            (_, event) => Some(event),
        }
    }
}
