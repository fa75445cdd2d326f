//! What a seed does so that a crowd does not ask it for the same pieces: see [`Spread`](crate::spread::Spread).

use std::time::Instant;

use obt_wire::PieceIndex;
use obt_wire::peer::Message;

use super::Swarm;
use crate::event::PeerKey;
use crate::limits::{AS_FAST, CROWD, SUGGESTIONS, SUGGESTIONS_MOST};
use crate::session::Session;
use crate::stats::Phase;
use crate::torrent::Torrent;

impl Swarm {
    /// Names a peer pieces to ask for next, as long as there are any that no leecher has.
    pub(super) fn suggest(&mut self, peer: PeerKey, now: Instant) {
        let (Some(session), Some(torrent)) = (self.sessions.get(&peer), &self.torrent) else {
            return;
        };
        let asks = session.interested && session.fast && !session.choked;
        if self.phase != Phase::Seeding || !asks || torrent.spread.is_exhausted() {
            return;
        }
        // As many pieces ahead as it has asked for already: who is fast begins many at once.
        let pieces = session.uploads.queued() / torrent.blocks_per_piece();
        let room = (SUGGESTIONS + pieces).min(SUGGESTIONS_MOST).saturating_sub(session.suggested.len());
        if room == 0 || !self.is_crowded() {
            return;
        }
        for piece in self.choose_suggestions(peer, room) {
            self.send(peer, Message::Suggest(piece.0), now);
        }
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.sessions.values().filter(|session| session.interested).take(CROWD).count() == CROWD
    }

    fn choose_suggestions(&mut self, peer: PeerKey, room: usize) -> Vec<PieceIndex> {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return Vec::new();
        };
        let (picker, have) = (&torrent.picker, &torrent.have);
        let has = session.claims.has();
        session.suggested.retain(|piece| !has.has(*piece));
        let worth = |piece| have.has(piece) && !has.has(piece) && picker.leechers_with(piece) == 0;
        let next = || torrent.spread.suggest(have.len(), &mut self.rng, worth);
        let new: Vec<PieceIndex> = std::iter::from_fn(next).take(room).collect();
        session.suggested.extend(&new);
        new
    }

    /// A request of a peer is taken.
    pub(super) fn asked_for(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return;
        };
        session.suggested.retain(|suggested| *suggested != piece);
        if self.phase == Phase::Seeding && torrent.picker.leechers_with(piece) == 0 {
            torrent.spread.begun(piece, peer);
        }
        self.suggest(peer, now);
    }

    /// Whether a peer should not get `piece` from us now: another is getting it, about as fast, and can pass it on soon.
    pub(super) fn had_better_wait(
        &self,
        session: &Session,
        torrent: &Torrent,
        piece: PieceIndex,
        now: Instant,
    ) -> bool {
        let other = torrent.spread.getting(piece).filter(|other| *other != session.key);
        let other = other.and_then(|other| self.sessions.get(&other));
        other.is_some_and(|other| other.sent.rate(now).saturating_mul(AS_FAST) >= session.sent.rate(now))
    }

    /// `piece` can be had from others, or will not be soon: nobody waits for it any more.
    pub(super) fn spread_out(&mut self, piece: PieceIndex, now: Instant) {
        if !self.torrent.as_mut().is_some_and(|torrent| torrent.spread.arrived(piece)) {
            return;
        }
        let waited = |session: &mut Session| session.uploads.resume(piece.0).then_some(session.key);
        let waited: Vec<PeerKey> = self.sessions.values_mut().filter_map(waited).collect();
        for peer in waited {
            self.pump(peer, now);
        }
    }

    /// A peer gets nothing more from us: nobody waits for what it was getting, and others are named what it was to ask for.
    pub(super) fn stopped_getting(&mut self, peer: PeerKey, suggested: &[PieceIndex], now: Instant) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let pieces = torrent.spread.of(peer);
        for piece in suggested.iter().chain(&pieces) {
            torrent.spread.give_back(*piece);
        }
        for piece in pieces {
            self.spread_out(piece, now);
        }
    }

    /// Requests of a peer that were put off for too long are answered.
    pub(super) fn end_waits(&mut self, peer: PeerKey, now: Instant) {
        let overdue = self.sessions.get(&peer).map(|session| session.uploads.overdue(now)).unwrap_or_default();
        for piece in overdue {
            self.spread_out(PieceIndex(piece), now);
        }
    }
}

impl Session {
    /// It named a piece that it would like to be asked for.
    pub(crate) fn hint(&mut self, piece: PieceIndex) {
        self.hints.retain(|known| *known != piece);
        if self.hints.len() == SUGGESTIONS_MOST {
            self.hints.remove(0);
        }
        self.hints.push(piece);
    }
}
