//! What others get from us: who is unchoked, which requests are taken, when their blocks go out.

use std::time::Instant;

use obt_wire::peer::{Message, Request};
use obt_wire::{Geometry, PieceIndex};

use super::Swarm;
use crate::action::{Action, CloseReason};
use crate::choker::{Choking, PeerView, Role, is_upload_short};
use crate::event::PeerKey;
use crate::fast_set::fast_set;
use crate::limits::{ALLOWED_FAST_GIVEN, CHOKE_SOON, GREEDY, REQUEST_BYTES};
use crate::session::{HeadStart, Offence, Session};
use crate::stats::Phase;

impl Swarm {
    // Choking.

    pub(super) fn choke_due(&self) -> Option<Instant> {
        if self.sessions.is_empty() || self.torrent.is_none() {
            return None;
        }
        let next = self.choker.next_rechoke();
        Some(self.due.choke.map_or(next, |soon| soon.min(next)))
    }

    /// There is a slot for another, or may be: it gets it soon, though not as often as peers may come and go.
    pub(super) fn rechoke_soon(&mut self, now: Instant) {
        self.due.choke.get_or_insert(now + CHOKE_SOON);
    }

    pub(super) fn interested(&mut self, peer: PeerKey, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        session.idle_message(now)?;
        session.interested = true;
        if session.choked {
            self.consider_unchoke(peer, now);
        } else {
            // Its slot was nothing to it before; but nobody gets a new turn by taking a word back.
            if session.sent.total() == 0 {
                self.choker.turn_begins(peer, now);
            }
            self.suggest(peer, now);
        }
        self.give_head_start(peer, now);
        Ok(())
    }

    /// Gives a peer that has next to nothing, and for which there is no slot, a few pieces to begin with. A seed that
    /// tells each of a crowd what to ask for does not: all of them would get the same.
    fn give_head_start(&mut self, peer: PeerKey, now: Instant) {
        let (Some(session), Some(torrent)) = (self.sessions.get(&peer), &self.torrent) else {
            return;
        };
        let new = session.fast && session.choked && session.has().count() < ALLOWED_FAST_GIVEN as u32;
        let spreading = self.phase == Phase::Seeding && !torrent.spread.is_exhausted() && self.is_crowded();
        if !new || spreading || session.head_start.is_given() {
            return;
        }
        let geometry = torrent.geometry();
        let hash = torrent.metainfo.info.hashes.primary();
        let mut pieces = fast_set(session.addr.ip(), hash, geometry.pieces(), ALLOWED_FAST_GIVEN);
        pieces.retain(|piece| torrent.have.has(*piece) && !session.has().has(*piece));
        let bytes = pieces.iter().map(|piece| u64::from(geometry.piece_size(*piece))).sum();
        for piece in &pieces {
            self.send(peer, Message::AllowedFast(piece.0), now);
        }
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.head_start = HeadStart::of(pieces, bytes);
        }
    }

    /// Unchokes a peer where a slot is free. One that is not interested too, so that it need not ask first when it is; its
    /// slot counts as free to those who are.
    pub(super) fn consider_unchoke(&mut self, peer: PeerKey, now: Instant) {
        let Some(session) = self.sessions.get(&peer) else {
            return;
        };
        let serving = matches!(self.phase, Phase::Downloading | Phase::Seeding);
        if !session.choked || !serving {
            return;
        }
        let interested = session.interested;
        let holds_slot = |other: &&Session| !other.choked && (other.interested || !interested);
        let unchoked = self.sessions.values().filter(holds_slot).count();
        if self.choker.unchoke_at_once(peer, unchoked, now) {
            self.unchoke(peer, now);
        } else if interested && !self.is_upload_short() {
            // There may be slots for more once those who have one have had the time to ask.
            self.rechoke_soon(now);
        }
    }

    fn is_upload_short(&self) -> bool {
        let served = self.sessions.values().filter(|session| session.interested && !session.choked);
        let waiting = served.clone().filter(|session| session.uploads.queued() > 0);
        is_upload_short(served.clone().count(), waiting.count())
    }

    pub(super) fn not_interested(&mut self, peer: PeerKey, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        session.idle_message(now)?;
        let had_slot = session.interested && !session.choked;
        session.interested = false;
        if had_slot {
            self.rechoke_soon(now);
        }
        Ok(())
    }

    pub(super) fn rechoke(&mut self, now: Instant) {
        self.due.choke = None;
        let role = if self.phase == Phase::Downloading { Role::Leeching } else { Role::Seeding };
        let plenty =
            self.torrent.as_ref().map_or(u64::MAX, |torrent| torrent.geometry().wire_bytes().saturating_mul(GREEDY));
        let greedy = |session: &Session| session.sent.total() > plenty;
        let others_wait =
            self.sessions.values().any(|session| session.interested && session.choked && !greedy(session));
        let views: Vec<PeerView> = self
            .sessions
            .values()
            .map(|session| PeerView {
                peer: session.key,
                // Who has taken the torrent several times over comes after everybody else.
                interested: session.interested && !(others_wait && greedy(session)),
                unchoked: !session.choked,
                received_rate: session.pipeline.rate(now),
                sent_rate: session.sent.rate(now),
                waits: session.uploads.queued() > 0,
                snubbed: session.pipeline.is_snubbed(),
                joined: session.joined,
            })
            .collect();
        for (peer, choking) in self.choker.rechoke(role, &views, &mut self.rng, now) {
            match choking {
                Choking::Choke => self.choke(peer, now),
                Choking::Unchoke => self.unchoke(peer, now),
            }
        }
    }

    fn unchoke(&mut self, peer: PeerKey, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.choked = false;
            session.uploads.unchoked();
            // What to ask for is said first, so that not even the first request is a draw.
            self.suggest(peer, now);
            self.send(peer, Message::Unchoke, now);
        }
    }

    fn choke(&mut self, peer: PeerKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        session.choked = true;
        let fast = session.fast;
        let waiting = session.uploads.clear();
        let suggested = std::mem::take(&mut session.suggested);
        self.send(peer, Message::Choke, now);
        self.stopped_getting(peer, &suggested, now);
        // Without BEP 6 the choke says it all.
        for request in waiting.filter(|_| fast) {
            self.send(peer, Message::Reject(request), now);
        }
    }

    // Requests.

    pub(super) fn request(&mut self, peer: PeerKey, request: Request, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        let fast = session.fast;
        let serving = matches!(self.phase, Phase::Downloading | Phase::Seeding);
        let valid = self.torrent.as_ref().is_some_and(|torrent| {
            in_torrent(torrent.geometry(), &request) && torrent.have.has(PieceIndex(request.piece))
        });
        let taken = if !valid {
            session.invalid_request()?;
            false
        } else if !serving || (session.choked && !session.head_start.take(&request)) {
            session.uploads.refuse()?;
            false
        } else {
            session.uploads.push(request)?
        };
        if taken {
            self.asked_for(peer, PieceIndex(request.piece), now);
            self.pump(peer, now);
            self.tick_within(now);
        } else if fast {
            self.send(peer, Message::Reject(request), now);
        }
        Ok(())
    }

    pub(super) fn cancel_request(&mut self, peer: PeerKey, request: Request, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        if !session.uploads.cancel(request) {
            // It may have been answered meanwhile.
            return session.idle_message(now);
        }
        if session.fast {
            self.send(peer, Message::Reject(request), now);
        }
        Ok(())
    }

    /// Hands the peer's requests to the shell, as far as it is not busy with it and the rate allows.
    pub(super) fn pump(&mut self, peer: PeerKey, now: Instant) {
        while self.pump_one(peer, now) {}
    }

    /// Hands one request to the shell; false where nothing more goes.
    fn pump_one(&mut self, peer: PeerKey, now: Instant) -> bool {
        let (Some(session), Some(torrent)) = (self.sessions.get(&peer), &self.torrent) else {
            return false;
        };
        let Some(request) = session.uploads.next(session.sent.rate(now)) else {
            return false;
        };
        let waits = self.had_better_wait(session, torrent, PieceIndex(request.piece), now);
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &self.torrent) else {
            return false;
        };
        if waits {
            session.uploads.put_off(now);
            return true;
        }
        if !torrent.have.has(PieceIndex(request.piece)) {
            session.uploads.drop_next();
            if session.fast {
                self.send(peer, Message::Reject(request), now);
            }
            return true;
        }
        if !self.upload.take_all(u64::from(request.length), now) {
            let next = self.upload.next(u64::from(request.length), now);
            self.due.rate = self.due.rate.into_iter().chain(next).min();
            return false;
        }
        session.uploads.sent();
        session.last_sent = now;
        self.actions.push_back(Action::Upload { peer, request });
        true
    }

    /// The rate lets more through: one block for each peer in turn, beginning with another one each time.
    pub(super) fn pump_all(&mut self, now: Instant) {
        let waits: Vec<PeerKey> =
            self.sessions.values().filter(|session| session.uploads.is_waiting()).map(|session| session.key).collect();
        if waits.is_empty() {
            return;
        }
        let first = self.rng.usize(..waits.len());
        let mut turn: Vec<PeerKey> = waits.iter().cycle().skip(first).take(waits.len()).copied().collect();
        while !turn.is_empty() {
            turn.retain(|peer| self.pump_one(*peer, now));
        }
    }

    pub(super) fn uploaded(&mut self, peer: PeerKey, bytes: u32, now: Instant) {
        self.uploaded.add(u64::from(bytes), now);
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.sent.add(u64::from(bytes), now);
            session.uploads.uploaded();
            session.last_sent = now;
            self.pump(peer, now);
        }
    }

    /// The block could not be read: who has BEP 6 is told; anybody else would wait for it, and has to ask others.
    pub(super) fn upload_failed(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let request = session.uploads.failed(piece.0);
        match request {
            Some(request) if session.fast => {
                self.send(peer, Message::Reject(request), now);
                self.pump(peer, now);
            }
            Some(_) => self.close(peer, CloseReason::NotUseful, now),
            None => {}
        }
    }
}

fn in_torrent(geometry: &Geometry, request: &Request) -> bool {
    request.length <= REQUEST_BYTES && geometry.in_piece(request.piece, request.begin, request.length)
}
