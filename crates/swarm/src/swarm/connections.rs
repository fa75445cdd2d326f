//! Connections come and go: whom we let in, which of two to the same peer stays, whom we connect to.

use std::net::SocketAddr;
use std::time::Instant;

use obt_wire::PeerId;
use obt_wire::peer::Message;

use super::Swarm;
use crate::action::{Action, CloseReason};
use crate::event::{Direction, PeerKey};
use crate::limits::{CONNECTIONS_PER_ADDRESS, DEPARTED, DUPLICATE_YOUNG, GOOD_PER_STRIKE, STRIKES, USELESS};
use crate::peer_list::Parting;
use crate::session::Session;
use crate::stats::Phase;

/// Which of two connections to one peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    Old,
    New,
    /// Neither yet: the other side decides.
    Neither,
}

impl Swarm {
    pub(super) fn connected(&mut self, mut session: Session, now: Instant) {
        let peer = session.key;
        if session.direction == Direction::Outgoing {
            self.peers.connected(session.addr);
        }
        if let Err(reason) = self.admit(&mut session, now) {
            self.turn_away(&session, reason, now);
            return;
        }
        let extensions = session.extensions;
        self.sessions.insert(peer, session);
        self.chores.connect = true;
        if extensions {
            self.send_extension_handshake(peer, now);
        }
        self.introduce(peer, now);
        self.consider_unchoke(peer, now);
        self.tick_within(now);
    }

    /// Whether a new connection may stay; one that it replaces is closed.
    fn admit(&mut self, session: &mut Session, now: Instant) -> Result<(), CloseReason> {
        if !self.is_running() {
            return Err(CloseReason::Stopping);
        }
        if session.peer_id == self.config.peer_id {
            return Err(CloseReason::Ourselves);
        }
        if self.peers.is_banned(session.addr, now) {
            return Err(CloseReason::Banned);
        }
        let same_host = self.sessions.values().filter(|other| other.addr.ip() == session.addr.ip()).count();
        if same_host >= CONNECTIONS_PER_ADDRESS {
            return Err(CloseReason::Full);
        }
        self.settle_duplicates(session, now)?;
        if self.sessions.len() >= self.config.connections && !self.make_room(now) {
            return Err(CloseReason::Full);
        }
        Ok(())
    }

    /// Closes the other connections to the same peer, or says that the new one goes. The one that stays inherits the
    /// addresses at which the peer can be reached.
    fn settle_duplicates(&mut self, new: &mut Session, now: Instant) -> Result<(), CloseReason> {
        let ours = self.config.peer_id;
        let mut gone = Vec::new();
        let mut undecided = 0;
        for old in self.sessions.values_mut().filter(|old| old.peer_id == new.peer_id) {
            match which_goes(ours, old, new, now) {
                Goes::Old => gone.push(old.key),
                Goes::Neither => undecided += 1,
                Goes::New => {
                    old.inherit(new);
                    return Err(CloseReason::Duplicate);
                }
            }
        }
        if undecided > 1 {
            return Err(CloseReason::Duplicate);
        }
        for old in gone {
            if let Some(old) = self.sessions.get_mut(&old) {
                new.inherit(old);
            }
            self.close(old, CloseReason::Duplicate, now);
        }
        Ok(())
    }

    fn turn_away(&mut self, session: &Session, reason: CloseReason, now: Instant) {
        match (session.listens, reason) {
            (Some(addr), CloseReason::Ourselves) => self.peers.ourselves(addr),
            (Some(addr), _) => self.peers.disconnected(addr, Parting::Fruitless, now),
            (None, _) => {}
        }
        self.closing.insert(session.key);
        self.actions.push_back(Action::Close { peer: session.key, reason });
        self.chores.connect = true;
    }

    /// Closes a connection of ours; nothing that it says counts from here on.
    pub(super) fn close(&mut self, peer: PeerKey, reason: CloseReason, now: Instant) {
        if !self.sessions.contains_key(&peer) {
            return;
        }
        self.forget(peer, reason, now);
        self.closing.insert(peer);
        self.actions.push_back(Action::Close { peer, reason });
    }

    pub(super) fn disconnected(&mut self, peer: PeerKey, now: Instant) {
        self.closing.remove(&peer);
        self.forget(peer, CloseReason::NotUseful, now);
        self.check_stopped();
    }

    fn forget(&mut self, peer: PeerKey, reason: CloseReason, now: Instant) {
        let Some(session) = self.sessions.remove(&peer) else {
            return;
        };
        if let Some(torrent) = &mut self.torrent {
            torrent.picker.peer_left(peer, session.has());
            torrent.layers.remove_source(peer);
        }
        if let Some(metadata) = &mut self.metadata {
            metadata.remove_source(peer);
        }
        self.stopped_getting(peer, &session.suggested, now);
        self.choker.peer_left(peer);
        if session.interested && !session.choked {
            self.rechoke_soon(now);
        }
        self.departed.push_back((peer, session.reached_at()));
        if self.departed.len() > DEPARTED {
            self.departed.pop_front();
        }
        for addr in session.listens.iter().chain(&session.other_addresses) {
            self.peers.disconnected(*addr, self.parting(&session, reason), now);
        }
        self.chores.refill = true;
        self.chores.ask = true;
        self.chores.connect = true;
    }

    fn parting(&self, session: &Session, reason: CloseReason) -> Parting {
        if self.phase == Phase::Seeding && session.wants_nothing() {
            return Parting::BothComplete;
        }
        let welcome = matches!(reason, CloseReason::NotUseful | CloseReason::Idle | CloseReason::Duplicate);
        if welcome && session.was_useful() { Parting::Useful } else { Parting::Fruitless }
    }

    /// What a fresh connection is told about our pieces, and what we make of what it told already.
    pub(super) fn introduce(&mut self, peer: PeerKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let Some(torrent) = &mut self.torrent else {
            if session.fast {
                self.send(peer, Message::HaveNone, now);
            }
            return;
        };
        let have = &torrent.have;
        let message = match (session.fast, have.count()) {
            (true, 0) => Some(Message::HaveNone),
            (false, 0) => None,
            (true, count) if count == have.len() => Some(Message::HaveAll),
            _ => Some(Message::Bitfield(bytes::Bytes::copy_from_slice(have.as_wire()))),
        };
        // A new session has told nothing, so there is nothing that could be wrong.
        let _ = session.claims.torrent_known(have.len());
        torrent.picker.peer_joined(peer, session.has());
        if session.v2 {
            torrent.layers.add_source(peer);
            self.chores.ask = true;
        }
        if let Some(message) = message {
            self.send(peer, message, now);
        }
    }

    // Whom we connect to.

    fn has_room(&self) -> bool {
        self.is_running()
            && self.peers.connecting() < self.config.half_open
            && self.sessions.len() + self.peers.connecting() < self.config.connections
    }

    pub(super) fn connect(&mut self, now: Instant) {
        while self.has_room() {
            let Some(addr) = self.peers.next(now) else {
                return;
            };
            self.actions.push_back(Action::Connect { addr });
        }
    }

    pub(super) fn connect_due(&self) -> Option<Instant> {
        if self.has_room() { self.peers.due() } else { None }
    }

    pub(super) fn connect_failed(&mut self, addr: SocketAddr, now: Instant) {
        self.peers.failed(addr, now);
        self.chores.connect = true;
    }

    /// Both sides have all that they want: the connection serves nobody.
    pub(super) fn drop_if_complete(&mut self, peer: PeerKey, now: Instant) {
        let useless = self.phase == Phase::Seeding
            && self.sessions.get(&peer).is_some_and(|session| session.wants_nothing() && session.useful_pieces == 0);
        if useless {
            self.close(peer, CloseReason::NotUseful, now);
        }
    }

    /// Every place is taken and somebody else waits: a connection that was of no use for long goes. False if none is.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        let useless = |session: &&Session| {
            let old = now.saturating_duration_since(session.joined) >= USELESS;
            old && !session.interested && !session.interesting
        };
        let Some(peer) = self.sessions.values().find(useless).map(|session| session.key) else {
            return false;
        };
        self.close(peer, CloseReason::NotUseful, now);
        true
    }

    // Liars.

    /// A peer is proven to have sent a bad block. One may be an accident of its disk or the network; who does it again,
    /// or never sent anything good, is banned.
    pub(super) fn convict(&mut self, peer: PeerKey, now: Instant) {
        let Some(addr) = self.address_of(peer) else {
            return;
        };
        let good = self.sessions.get(&peer).map_or(0, |session| session.good_blocks);
        let strikes = self.peers.strike(addr);
        let accident = good >= u64::from(strikes) * GOOD_PER_STRIKE;
        if good == 0 || (strikes >= STRIKES && !accident) {
            self.ban(peer, now);
        }
    }

    /// Refuses the peer and its address from here on.
    pub(super) fn ban(&mut self, peer: PeerKey, now: Instant) {
        if let Some(addr) = self.address_of(peer) {
            self.peers.ban(addr, now);
            self.close(peer, CloseReason::Banned, now);
        }
    }

    /// Where a peer is or was reached.
    pub(super) fn address_of(&self, peer: PeerKey) -> Option<SocketAddr> {
        let session = self.sessions.get(&peer).map(Session::reached_at);
        session.or_else(|| self.departed.iter().rev().find(|(key, _)| *key == peer).map(|(_, addr)| *addr))
    }
}

/// Which of two connections to the same peer goes; both sides come to the same answer. An old connection that is alive
/// stays, lest somebody who knows a peer's id cut it off. What we opened, and the peer has spoken on, stays too, for it may
/// carry requests already: the peer gets no answer on the one that it opened meanwhile, so that it has nothing to settle.
fn which_goes(ours: PeerId, old: &Session, new: &Session, now: Instant) -> Goes {
    let young = now.saturating_duration_since(old.joined) < DUPLICATE_YOUNG;
    let alive = now.saturating_duration_since(old.last_heard) < DUPLICATE_YOUNG;
    match (young, alive) {
        (false, true) => return Goes::New,
        (false, false) => return Goes::Old,
        (true, _) => {}
    }
    match (old.direction, new.direction) {
        // Whoever opened both closes one.
        (Direction::Outgoing, Direction::Outgoing) => Goes::New,
        (Direction::Incoming, Direction::Incoming) => Goes::Neither,
        (Direction::Outgoing, Direction::Incoming) if old.has_spoken => Goes::New,
        // Neither side knew that the other had called: what the higher id opened stays.
        (Direction::Outgoing, Direction::Incoming) if ours > new.peer_id => Goes::New,
        (Direction::Incoming, Direction::Outgoing) if ours < new.peer_id => Goes::New,
        (Direction::Outgoing, Direction::Incoming) | (Direction::Incoming, Direction::Outgoing) => Goes::Old,
    }
}
