//! Every message of a peer, to the part that it concerns; and what we tell peers about ourselves.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use obt_wire::PieceIndex;
use obt_wire::extension::{self, ExtensionHandshake, ExtensionIds, MetadataMessage};
use obt_wire::peer::Message;

use super::Swarm;
use crate::action::CloseReason;
use crate::event::{Content, Direction, PeerKey, PeerSource};
use crate::limits::REQUESTS_QUEUED;
use crate::session::Offence;
use crate::stats::Phase;

impl Swarm {
    pub(super) fn message(&mut self, peer: PeerKey, message: Message, now: Instant) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        session.last_heard = now;
        session.has_spoken = true;
        if let Err(Offence(rule)) = self.dispatch(peer, message, now) {
            self.close(peer, CloseReason::Misbehaved(rule), now);
        }
    }

    fn dispatch(&mut self, peer: PeerKey, message: Message, now: Instant) -> Result<(), Offence> {
        match message {
            Message::KeepAlive | Message::Port(_) => self.idle_message(peer, now),
            Message::Choke => self.choked_by(peer, now),
            Message::Unchoke => self.unchoked_by(peer, now),
            Message::Interested => self.interested(peer, now),
            Message::NotInterested => self.not_interested(peer, now),
            Message::Have(piece) => self.have(peer, piece, now),
            Message::Bitfield(bytes) => self.bitfield(peer, bytes, now),
            Message::Request(request) => self.request(peer, request, now),
            Message::Cancel(request) => self.cancel_request(peer, request, now),
            Message::Suggest(piece) => self.suggested(peer, piece),
            Message::HaveAll => self.summary(peer, true, now),
            Message::HaveNone => self.summary(peer, false, now),
            Message::Reject(request) => {
                self.needs_fast(peer)?;
                self.rejected(peer, request, now)
            }
            Message::AllowedFast(piece) => self.allowed_fast(peer, piece, now),
            Message::Extended { id, payload } => self.extended(peer, id, &payload, now),
            Message::HashRequest(request) => self.hash_request(peer, request, now),
            Message::Hashes(request, hashes) => self.hashes(peer, &request, &hashes, now),
            Message::HashReject(request) => self.hash_reject(peer, &request, now),
            Message::Unknown(_) => self.sessions.get_mut(&peer).map_or(Ok(()), |session| session.unknown_message()),
        }
    }

    pub(super) fn idle_message(&mut self, peer: PeerKey, now: Instant) -> Result<(), Offence> {
        self.sessions.get_mut(&peer).map_or(Ok(()), |session| session.idle_message(now))
    }

    fn needs_fast(&self, peer: PeerKey) -> Result<(), Offence> {
        self.sessions.get(&peer).map_or(Ok(()), |session| session.needs_fast())
    }

    // Pieces that a peer has.

    fn have(&mut self, peer: PeerKey, piece: u32, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        if let Some(piece) = session.claims.have(piece)? {
            self.peer_gained(peer, piece, now);
            self.drop_if_complete(peer, now);
        }
        Ok(())
    }

    fn bitfield(&mut self, peer: PeerKey, bytes: Bytes, now: Instant) -> Result<(), Offence> {
        // What it lacks may decide whether it is asked for the torrent.
        self.chores.ask |= self.metadata.is_some();
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        if session.claims.adds() {
            let news = session.claims.news(&bytes)?;
            return self.haves(peer, &news, now);
        }
        if session.claims.bitfield(bytes)? {
            self.claims_known(peer, now);
        }
        Ok(())
    }

    /// Pieces that a later summary told of; one that tells nothing new counts as idle talk.
    fn haves(&mut self, peer: PeerKey, pieces: &[PieceIndex], now: Instant) -> Result<(), Offence> {
        if pieces.is_empty() {
            return self.idle_message(peer, now);
        }
        pieces.iter().try_for_each(|piece| self.have(peer, piece.0, now))
    }

    fn summary(&mut self, peer: PeerKey, all: bool, now: Instant) -> Result<(), Offence> {
        self.chores.ask |= self.metadata.is_some();
        self.needs_fast(peer)?;
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        if session.claims.adds() {
            let news = if all { session.claims.missing() } else { Vec::new() };
            return self.haves(peer, &news, now);
        }
        if !session.claims.summary(all)? {
            return session.idle_message(now);
        }
        self.claims_known(peer, now);
        Ok(())
    }

    /// A peer said for the first time what it has, and the torrent is known: the picker, which took it for one that has
    /// nothing, is told anew.
    fn claims_known(&mut self, peer: PeerKey, now: Instant) {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return;
        };
        torrent.picker.peer_left(peer, &obt_wire::Bitfield::empty(session.has().len()));
        torrent.picker.peer_joined(peer, session.has());
        self.recount(peer, now);
        self.fill(peer, now);
        self.drop_if_complete(peer, now);
    }

    fn suggested(&mut self, peer: PeerKey, piece: u32) -> Result<(), Offence> {
        if let (Some(piece), Some(session)) = (self.hint(peer, piece)?, self.sessions.get_mut(&peer)) {
            session.hint(piece);
        }
        Ok(())
    }

    /// A hint about a piece; the piece, if there is such a one.
    fn hint(&mut self, peer: PeerKey, piece: u32) -> Result<Option<PieceIndex>, Offence> {
        self.needs_fast(peer)?;
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &self.torrent) else {
            return Ok(None);
        };
        let known = torrent.geometry().piece(piece);
        if known.is_none() {
            session.bad_hint()?;
        }
        Ok(known)
    }

    fn allowed_fast(&mut self, peer: PeerKey, piece: u32, now: Instant) -> Result<(), Offence> {
        if let (Some(piece), Some(session)) = (self.hint(peer, piece)?, self.sessions.get_mut(&peer)) {
            session.allow_fast(piece);
            self.fill(peer, now);
        }
        Ok(())
    }

    /// It has a piece no more (BEP 54).
    fn lost(&mut self, peer: PeerKey, piece: u32, now: Instant) -> Result<(), Offence> {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return Ok(());
        };
        session.idle_message(now)?;
        let before = session.has().clone();
        if session.claims.lost(piece)?.is_none() {
            return Ok(());
        }
        let mut void = Vec::new();
        session.pipeline.choked(&mut void);
        session.stray_rejects_due += void.len() as u64;
        session.hungry = true;
        torrent.picker.peer_left(peer, &before);
        torrent.picker.peer_joined(peer, session.has());
        // It may never have heard of it from us, as it had it then.
        if torrent.have.has(PieceIndex(piece)) {
            self.send(peer, Message::Have(piece), now);
        }
        self.recount(peer, now);
        self.chores.refill = true;
        Ok(())
    }

    // Extensions.

    fn extended(&mut self, peer: PeerKey, id: u8, payload: &Bytes, now: Instant) -> Result<(), Offence> {
        if self.sessions.get(&peer).is_some_and(|session| !session.extensions) {
            return Err(Offence("an extension message without the extension protocol"));
        }
        match id {
            extension::id::HANDSHAKE => self.extension_handshake(peer, payload, now),
            extension::id::UT_METADATA => match MetadataMessage::decode(payload) {
                Ok(Some(message)) => self.metadata_message(peer, message, now),
                Ok(None) => self.idle_message(peer, now),
                Err(_) => Err(Offence("a metadata message that makes no sense")),
            },
            extension::id::LT_DONTHAVE => match extension::decode_dont_have(payload) {
                Ok(piece) => self.lost(peer, piece, now),
                Err(_) => Err(Offence("a don't have message that makes no sense")),
            },
            extension::id::UPLOAD_ONLY => match extension::decode_upload_only(payload) {
                Ok(flag) => self.upload_only(peer, flag, now),
                Err(_) => Err(Offence("an upload only message that makes no sense")),
            },
            _ => self.idle_message(peer, now),
        }
    }

    fn extension_handshake(&mut self, peer: PeerKey, payload: &Bytes, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        session.extension_handshake(now)?;
        let Ok(said) = ExtensionHandshake::decode(payload) else {
            return session.unknown_message();
        };
        let told = &mut session.told;
        told.ids = later(told.ids, said.ids);
        if let Some(client) = said.client {
            told.client = client;
        }
        if let Some(requests) = said.request_queue {
            session.pipeline.set_most(requests as usize);
        }
        let ut_metadata = told.ids.ut_metadata;
        if let (Some(port), Direction::Incoming) = (said.port, session.direction) {
            let addr = SocketAddr::new(session.addr.ip(), port);
            session.listens = Some(addr);
            self.peers.add(addr, PeerSource::Incoming, now);
            self.peers.connected(addr);
        }
        told.has_metadata |= said.metadata_size.is_some();
        if let (Some(metadata), Some(size), Some(1..)) = (&mut self.metadata, said.metadata_size, ut_metadata) {
            metadata.add_source(peer, size);
            self.chores.ask = true;
        }
        if let Some(flag) = said.upload_only {
            self.upload_only(peer, flag, now)?;
        }
        Ok(())
    }

    fn upload_only(&mut self, peer: PeerKey, flag: bool, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        session.idle_message(now)?;
        session.told.upload_only = flag;
        self.drop_if_complete(peer, now);
        Ok(())
    }

    // What we tell.

    /// Whether we fetch nothing though pieces are missing (BEP 21).
    fn is_partial_seed(&self) -> bool {
        self.phase == Phase::Seeding && self.torrent.as_ref().is_some_and(|torrent| !torrent.have.is_full())
    }

    pub(super) fn send_extension_handshake(&mut self, peer: PeerKey, now: Instant) {
        let Some(session) = self.sessions.get(&peer) else {
            return;
        };
        // Who lacks hashes sends those that need both to others.
        let whole = self.torrent.as_ref().filter(|torrent| torrent.layers.are_complete());
        let info = whole.map(|torrent| torrent.metainfo.info.bytes.len());
        let handshake = ExtensionHandshake {
            ids: ExtensionIds::OURS,
            port: self.config.listen_port,
            client: Some(self.config.client.clone()),
            request_queue: Some(REQUESTS_QUEUED as u32),
            your_ip: Some(session.addr.ip().to_canonical()),
            metadata_size: info.and_then(|size| u32::try_from(size).ok()),
            upload_only: self.is_partial_seed().then_some(true),
            ..ExtensionHandshake::default()
        };
        let mut payload = Vec::new();
        handshake.encode(&mut payload);
        self.send(peer, Message::Extended { id: extension::id::HANDSHAKE, payload: payload.into() }, now);
    }

    /// Tells everybody that the torrent can be had from us, once all hashes are here.
    pub(super) fn offer_torrent(&mut self, now: Instant) {
        if self.torrent.as_ref().is_none_or(|torrent| !torrent.layers.are_complete()) {
            return;
        }
        let peers: Vec<PeerKey> =
            self.sessions.values().filter(|session| session.extensions).map(|session| session.key).collect();
        for peer in peers {
            self.send_extension_handshake(peer, now);
        }
    }

    /// Sends an extension message to a peer that gave it a number.
    pub(super) fn send_extension(
        &mut self,
        peer: PeerKey,
        id: impl FnOnce(&ExtensionIds) -> Option<u8>,
        payload: Bytes,
        now: Instant,
    ) {
        let id = self.sessions.get(&peer).and_then(|session| id(&session.told.ids)).filter(|id| *id != 0);
        if let Some(id) = id {
            self.send(peer, Message::Extended { id, payload }, now);
        }
    }

    /// Whether we fetch anything has changed, or may have.
    pub(super) fn tell_upload_only(&mut self, now: Instant) {
        // Those who have all that there is know it from the pieces.
        if self.torrent.as_ref().is_none_or(|torrent| torrent.have.is_full()) {
            return;
        }
        let payload = Bytes::copy_from_slice(&extension::upload_only(self.is_partial_seed()));
        let peers: Vec<PeerKey> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.send_extension(peer, |ids| ids.upload_only, payload.clone(), now);
        }
    }

    /// We have these pieces no more.
    pub(super) fn tell_lost(&mut self, pieces: &[PieceIndex], now: Instant) {
        let peers: Vec<PeerKey> = self.sessions.keys().copied().collect();
        for peer in peers {
            for piece in pieces {
                let payload = Bytes::copy_from_slice(&extension::dont_have(piece.0));
                self.send_extension(peer, |ids| ids.lt_donthave, payload, now);
            }
        }
    }

    /// The torrent is known: so is what everybody's claims mean, and everybody hears what we have.
    pub(super) fn content_ready(&mut self, content: Content, now: Instant) {
        if !matches!(self.phase, Phase::Metadata | Phase::Preparing) {
            return;
        }
        self.begin(content);
        let complete = self.torrent.as_ref().is_some_and(|torrent| torrent.layers.are_complete());
        self.sources = self.sources.torrent_known(complete, now);
        let peers: Vec<PeerKey> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.meet_again(peer, now);
        }
        if self.phase == Phase::Seeding {
            self.completed(now);
        }
        self.chores.connect = true;
        self.chores.ask = true;
    }

    /// A peer that connected before the torrent was known.
    fn meet_again(&mut self, peer: PeerKey, now: Instant) {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return;
        };
        if let Err(Offence(rule)) = session.claims.torrent_known(torrent.have.len()) {
            return self.close(peer, CloseReason::Misbehaved(rule), now);
        }
        torrent.picker.peer_joined(peer, session.has());
        if session.v2 {
            torrent.layers.add_source(peer);
        }
        let has: Vec<PieceIndex> = torrent.have.iter().filter(|piece| !session.has().has(*piece)).collect();
        for piece in has {
            self.send(peer, Message::Have(piece.0), now);
        }
        if self.sessions.get(&peer).is_some_and(|session| session.extensions) {
            self.send_extension_handshake(peer, now);
        }
        self.recount(peer, now);
        self.consider_unchoke(peer, now);
        self.fill(peer, now);
    }
}

/// What `said` names replaces what was `told`.
fn later(told: ExtensionIds, said: ExtensionIds) -> ExtensionIds {
    ExtensionIds {
        ut_metadata: said.ut_metadata.or(told.ut_metadata),
        lt_donthave: said.lt_donthave.or(told.lt_donthave),
        upload_only: said.upload_only.or(told.upload_only),
    }
}
