//! What we get from others: which blocks are asked of whom, what becomes of those that come, and of whole pieces.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_wire::peer::{Message, PieceHeader, Request};
use obt_wire::{BLOCK_SIZE, Block, PieceIndex, Sha256Hash};

use super::Swarm;
use crate::action::{Action, CloseReason};
use crate::event::{PeerKey, Verdict};
use crate::limits::{ASK_AGAIN, FROM_ADDRESSES, SPILL_AFTER, STARVED_FILLS};
use crate::picker::{Asker, Received, Trust};
use crate::pipeline::Arrival;
use crate::session::{Offence, Session};
use crate::stats::Phase;
use crate::torrent::Torrent;

impl Swarm {
    // Asking.

    /// Asks a peer for as many blocks as it should owe, if it serves us.
    pub(super) fn fill(&mut self, peer: PeerKey, now: Instant) {
        self.picked.clear();
        if self.paused || self.phase != Phase::Downloading {
            return;
        }
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return;
        };
        if session.useful_pieces == 0 || (session.choking && session.allowed_fast.is_empty()) {
            return;
        }
        let room = session.pipeline.room();
        if room == 0 {
            session.hungry = false;
            return;
        }
        let mut peek = self.download;
        let block = u64::from(BLOCK_SIZE);
        let granted = usize::try_from(peek.take(room as u64 * block, now) / block).unwrap_or(usize::MAX);
        let asker = Asker {
            peer,
            has: session.claims.served(),
            rate: session.pipeline.rate(now),
            only: session.choking.then_some(session.allowed_fast.as_slice()),
            trust: session.trust,
            hints: &session.hints,
        };
        torrent.picker.pick(&asker, granted, &mut self.picked);
        self.download.take(self.picked.len() as u64 * block, now);
        if granted < room && self.picked.len() == granted {
            let next = self.download.next(block, now);
            self.due.rate = self.due.rate.into_iter().chain(next).min();
        }
        session.hungry = self.picked.len() < room;
        if self.picked.len() < granted {
            self.starved_fills += u32::from(torrent.picker.is_starved());
            // A look at all open pieces each time would cost more than the blocks themselves.
            self.chores.spill |= session.pipeline.outstanding() == 0 || self.starved_fills >= STARVED_FILLS;
        }
        for block in &self.picked {
            session.pipeline.sent(*block, now);
            let message = Message::Request(request_for(torrent, *block));
            self.actions.push_back(Action::Send { peer, message });
        }
        if !self.picked.is_empty() {
            session.last_sent = now;
            self.tick_within(now);
        }
    }

    /// Asks those that could be asked for more than there was, each time beginning where the last time ended.
    pub(super) fn refill(&mut self, now: Instant) {
        let hungry = |(peer, session): (&PeerKey, &Session)| session.hungry.then_some(*peer);
        let last = self.refilled;
        let mut turn: Vec<PeerKey> = self.sessions.range(last..).filter_map(hungry).collect();
        turn.extend(self.sessions.range(..last).filter_map(hungry));
        for peer in turn {
            self.refilled = peer;
            self.fill(peer, now);
            // The budget is spent: nobody else gets more, but for blocks that have room already. Others may be the first to be
            // asked for those next time, not this one again.
            if self.picked.is_empty() && self.torrent.as_ref().is_some_and(|torrent| torrent.picker.is_starved()) {
                self.refilled = PeerKey(peer.0.wrapping_add(1));
                return;
            }
        }
    }

    /// Asks everybody, after something changed that concerns all.
    pub(super) fn ask_everybody(&mut self, now: Instant) {
        let peers: Vec<PeerKey> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.fill(peer, now);
        }
    }

    /// Bytes that come within a time at the rate of now.
    pub(super) fn expected(&self, within: Duration, now: Instant) -> u64 {
        let bytes = u128::from(self.downloaded.rate(now)) * within.as_nanos() / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Makes room in the buffers where they hold peers up, or among the open pieces where those do.
    pub(super) fn spill(&mut self, now: Instant) {
        let soon = self.expected(SPILL_AFTER, now) / u64::from(BLOCK_SIZE);
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        self.starved_fills = 0;
        let mut made_room = false;
        while let Some(piece) = torrent.picker.spill_candidate(soon) {
            torrent.picker.spilled(piece);
            self.actions.push_back(Action::Spill { piece });
            made_room = true;
        }
        if let Some(piece) = torrent.picker.abandon_candidate() {
            self.wasted += torrent.picker.senders(piece).len() as u64 * u64::from(BLOCK_SIZE);
            torrent.picker.abandon(piece);
            self.full.forget(piece);
            self.actions.push_back(Action::Forget { piece });
            made_room = true;
        }
        if made_room {
            self.refill(now);
        }
    }

    /// We do not want this block of this peer any more.
    pub(super) fn cancel(&mut self, peer: PeerKey, block: Block, now: Instant) {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &self.torrent) else {
            return;
        };
        if session.pipeline.cancelled(block) {
            session.hungry = true;
            session.taken_back(1);
            let request = request_for(torrent, block);
            self.send(peer, Message::Cancel(request), now);
        }
    }

    /// Requests that are late go to others.
    pub(super) fn take_late(&mut self, peer: PeerKey, now: Instant) {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return;
        };
        if session.refused_at.is_some_and(|at| now.saturating_duration_since(at) >= ASK_AGAIN) {
            session.refused_at = None;
            session.claims.forgive();
            session.hungry = true;
        }
        if session.pipeline.outstanding() == 0 {
            return;
        }
        torrent.picker.set_rate(peer, session.pipeline.rate(now));
        if session.pipeline.next_timeout().is_none_or(|at| at > now) {
            return;
        }
        let mut late = Vec::new();
        let picker = &torrent.picker;
        session.pipeline.take_late(|block| picker.has_other_source(block.piece), &mut late, now);
        session.taken_back(late.len());
        session.hungry = true;
        for block in late {
            torrent.picker.release(peer, block);
            let message = Message::Cancel(request_for(torrent, block));
            session.last_sent = now;
            self.actions.push_back(Action::Send { peer, message });
        }
        self.chores.refill = true;
    }

    // Choked and unchoked.

    pub(super) fn choked_by(&mut self, peer: PeerKey, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        session.idle_message(now)?;
        session.choking = true;
        // With BEP 6 each request is rejected or answered; without, all are void.
        if !session.fast {
            let mut void = Vec::new();
            session.pipeline.choked(&mut void);
            session.taken_back(void.len());
            if let Some(torrent) = &mut self.torrent {
                for block in void {
                    torrent.picker.release(peer, block);
                }
            }
            self.chores.refill = true;
        }
        Ok(())
    }

    pub(super) fn unchoked_by(&mut self, peer: PeerKey, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        session.idle_message(now)?;
        session.choking = false;
        session.refused_at = None;
        session.claims.forgive();
        self.fill(peer, now);
        Ok(())
    }

    pub(super) fn rejected(&mut self, peer: PeerKey, request: Request, now: Instant) -> Result<(), Offence> {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return Err(Offence("a reject of nothing"));
        };
        let Some(block) = torrent.geometry().block(request.piece, request.begin, request.length) else {
            return session.stray_reject();
        };
        if !session.pipeline.rejected(block) {
            return session.stray_reject();
        }
        torrent.picker.release(peer, block);
        session.hungry = true;
        self.chores.refill = true;
        if session.choking {
            session.allowed_fast.retain(|piece| *piece != block.piece);
            return Ok(());
        }
        session.claims.refuses(block.piece);
        session.refused_at.get_or_insert(now);
        session.rejected()
    }

    // Blocks.

    pub(super) fn block(&mut self, peer: PeerKey, header: PieceHeader, now: Instant) {
        if let Err(Offence(rule)) = self.take_block(peer, header, now) {
            self.close(peer, CloseReason::Misbehaved(rule), now);
        }
    }

    fn take_block(&mut self, peer: PeerKey, header: PieceHeader, now: Instant) -> Result<(), Offence> {
        self.downloaded.add(u64::from(header.length), now);
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            self.wasted += u64::from(header.length);
            let known = self.sessions.contains_key(&peer);
            return if known { Err(Offence("a block of a torrent that is not known yet")) } else { Ok(()) };
        };
        session.last_heard = now;
        let Some(block) = torrent.geometry().block(header.piece, header.begin, header.length) else {
            self.wasted += u64::from(header.length);
            return Err(Offence("bytes that are no block of this torrent"));
        };
        if session.pipeline.received(block, header.length, now) == Arrival::Unasked {
            self.wasted += u64::from(header.length);
            return session.unasked_block();
        }
        session.answered();
        match torrent.picker.received(peer, block) {
            Received::Unwanted => self.wasted += u64::from(header.length),
            Received::Accepted { cancel } => {
                self.actions.push_back(Action::Accept { block });
                self.gather(block.piece, now);
                for other in cancel {
                    self.cancel(other, block, now);
                    self.fill(other, now);
                }
            }
        }
        self.fill(peer, now);
        Ok(())
    }

    pub(super) fn block_progress(&mut self, peer: PeerKey, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.last_heard = now;
            session.pipeline.progress(now);
        }
    }

    // Pieces.

    pub(super) fn verified(&mut self, piece: PieceIndex, verdict: &Verdict, digests: &[[u8; 32]], now: Instant) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        if torrent.geometry().piece(piece.0).is_none() || torrent.have.has(piece) {
            return;
        }
        match verdict {
            Verdict::Good => self.piece_good(piece, digests, now),
            Verdict::Bad => self.piece_bad(piece, digests, now),
            Verdict::Inconsistent => self.inconsistent(piece, now),
        }
    }

    fn piece_good(&mut self, piece: PieceIndex, digests: &[[u8; 32]], now: Instant) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let senders = torrent.picker.senders(piece);
        let wanted = torrent.wanted.has(piece);
        self.chores.refill |= torrent.picker.is_starved();
        torrent.picker.verified(piece);
        torrent.have.set(piece);
        self.fetched = true;
        if let Some(proven) = only_one(&senders).and_then(|peer| self.sessions.get_mut(&peer)) {
            proven.trust = Trust::Full;
        }
        self.credit(piece, &senders);
        self.resolve_blame(piece, digests, now);
        self.gained(piece, wanted, now);
        self.update_phase(now);
    }

    /// Notes whose blocks turned out good.
    fn credit(&mut self, piece: PieceIndex, senders: &[PeerKey]) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let mut shares: BTreeMap<PeerKey, (u64, u64)> = BTreeMap::new();
        for (index, sender) in (0..).zip(senders) {
            let share = shares.entry(*sender).or_default();
            share.0 += 1;
            share.1 += u64::from(torrent.geometry().block_data(Block { piece, index }));
        }
        for (peer, (blocks, bytes)) in shares {
            if let Some(session) = self.sessions.get_mut(&peer) {
                session.good_blocks += blocks;
            }
            if let Some(addr) = self.address_of(peer) {
                self.count_from(addr, bytes);
            }
        }
    }

    fn count_from(&mut self, addr: SocketAddr, bytes: u64) {
        if let Some((_, total)) = self.from.iter_mut().find(|(from, _)| *from == addr) {
            *total += bytes;
        } else if self.from.len() < FROM_ADDRESSES {
            self.from.push((addr, bytes));
        }
    }

    /// Counts the piece out with those who have it, and notes that others are to hear of it.
    fn gained(&mut self, piece: PieceIndex, wanted: bool, now: Instant) {
        let is_first = self.torrent.as_ref().is_some_and(|torrent| torrent.picker.leechers_with(piece) == 0);
        self.haves.push(piece, is_first, now);
        let Self { sessions, actions, .. } = self;
        for (peer, session) in sessions.iter_mut() {
            if !session.has().has(piece) {
                continue;
            }
            session.useful_pieces -= u32::from(wanted);
            if session.useful_pieces == 0 && session.interesting {
                session.interesting = false;
                session.last_sent = now;
                actions.push_back(Action::Send { peer: *peer, message: Message::NotInterested });
            }
        }
    }

    fn piece_bad(&mut self, piece: PieceIndex, digests: &[[u8; 32]], now: Instant) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        self.wasted += u64::from(torrent.geometry().piece_size(piece));
        self.chores.refill = true;
        let senders = torrent.picker.failed(piece);
        let guilty = torrent.blame.failed(piece.0, &senders, digests);
        if guilty.is_none() && torrent.blame.is_suspect(piece.0) {
            torrent.layers.want_blocks(piece);
            self.chores.ask = true;
        }
        match guilty {
            Some(peer) => self.convict(peer, now),
            None => self.suspect(&senders),
        }
    }

    /// One of these lied: each gets pieces of its own until one of them is good.
    fn suspect(&mut self, senders: &[PeerKey]) {
        for sender in senders {
            if let Some(session) = self.sessions.get_mut(sender) {
                session.trust = Trust::Parole;
            }
        }
    }

    /// The digests of the piece's blocks are known: whoever sent others lied.
    pub(super) fn resolve_blame(&mut self, piece: PieceIndex, digests: &[[u8; 32]], now: Instant) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        torrent.layers.forget_blocks(piece);
        if digests.is_empty() || !torrent.blame.is_suspect(piece.0) {
            return;
        }
        for peer in torrent.blame.resolve(piece.0, digests) {
            self.convict(peer, now);
        }
    }

    /// The first blocks of a piece are stored while the rest comes.
    pub(super) fn stored_ahead(&mut self, piece: PieceIndex, blocks: u32) {
        if let Some(torrent) = &mut self.torrent {
            self.chores.refill |= torrent.picker.is_starved();
            torrent.picker.stored(piece, blocks);
        }
    }

    /// A file's piece hashes are here: its pieces can be fetched.
    pub(super) fn layer_ready(
        &mut self,
        pieces_root: Sha256Hash,
        hashes: Vec<Sha256Hash>,
        pieces: Vec<std::ops::Range<u32>>,
        now: Instant,
    ) {
        self.actions.push_back(Action::PieceLayerReady { pieces_root, hashes });
        if let Some(torrent) = &mut self.torrent {
            for range in pieces {
                torrent.picker.set_verifiable(range);
            }
        }
        self.offer_torrent(now);
        self.ask_everybody(now);
    }

    pub(super) fn store_failed(&mut self, piece: PieceIndex) {
        if let Some(torrent) = self.torrent.as_mut().filter(|torrent| !torrent.have.has(piece)) {
            torrent.picker.store_failed(piece);
            self.chores.refill = true;
        }
    }

    pub(super) fn disk_resumed(&mut self) {
        self.paused = false;
        for session in self.sessions.values_mut() {
            session.hungry = true;
        }
        self.chores.refill = true;
    }

    /// Pieces that are gone are not wanted either, until the user says so: fetching them would overwrite what somebody
    /// has made of the file.
    pub(super) fn withdrawn(&mut self, pieces: &[PieceIndex], now: Instant) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let mut wanted = torrent.wanted.clone();
        for piece in pieces {
            wanted.clear(*piece);
        }
        let gone = torrent.take_back(pieces);
        self.haves.forget(&gone);
        self.wanted_changed(wanted, now);
        self.tell_lost(&gone, now);
    }

    /// Pieces of what we fetch are gone: they are fetched again.
    pub(super) fn lost_pieces(&mut self, pieces: &[PieceIndex], now: Instant) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let gone = torrent.take_back(pieces);
        self.haves.forget(&gone);
        if gone.is_empty() {
            return;
        }
        self.recount_useful(now);
        self.update_phase(now);
        self.tell_lost(&gone, now);
        self.ask_everybody(now);
    }

    // Interest.

    /// Another peer has one more piece.
    pub(super) fn peer_gained(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return;
        };
        torrent.picker.peer_have(peer, piece);
        if torrent.is_missing(piece) {
            session.useful_pieces += 1;
            session.hungry = true;
            self.update_interest(peer, now);
            self.fill(peer, now);
        }
        self.spread_out(piece, now);
    }

    /// Counts anew what a peer could send us, and says whether we are interested.
    pub(super) fn recount(&mut self, peer: PeerKey, now: Instant) {
        if let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &self.torrent) {
            session.useful_pieces = torrent.useful(session.has());
            self.update_interest(peer, now);
        }
    }

    pub(super) fn recount_useful(&mut self, now: Instant) {
        let peers: Vec<PeerKey> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.recount(peer, now);
        }
    }

    fn update_interest(&mut self, peer: PeerKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let interesting = session.useful_pieces > 0;
        if std::mem::replace(&mut session.interesting, interesting) != interesting {
            let message = if interesting { Message::Interested } else { Message::NotInterested };
            self.send(peer, message, now);
        }
    }

    /// What is missing may have changed: whether we download or seed.
    pub(super) fn update_phase(&mut self, now: Instant) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        let done = torrent.picker.is_done();
        match (self.phase, done) {
            (Phase::Downloading, true) => self.completed(now),
            (Phase::Seeding, false) => {
                self.phase = Phase::Downloading;
                self.peers.unpark(now);
                self.tell_upload_only(now);
                self.chores.connect = true;
            }
            _ => {}
        }
    }

    /// Everything that is wanted is here.
    pub(super) fn completed(&mut self, now: Instant) {
        self.phase = Phase::Seeding;
        self.actions.push_back(Action::Completed);
        if self.fetched {
            self.announcer.completed();
            self.announce(now);
        }
        self.tell_upload_only(now);
        let peers: Vec<PeerKey> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.drop_if_complete(peer, now);
        }
        self.rechoke_soon(now);
        self.chores.connect = true;
    }
}

/// The peer that sent all of it, if one did.
fn only_one(senders: &[PeerKey]) -> Option<PeerKey> {
    let first = *senders.first()?;
    senders.iter().all(|sender| *sender == first).then_some(first)
}

fn request_for(torrent: &Torrent, block: Block) -> Request {
    Request { piece: block.piece.0, begin: block.begin(), length: torrent.geometry().block_size(block) }
}

impl Session {
    /// Requests were taken back without an answer: as many rejects may come out of turn.
    fn taken_back(&mut self, requests: usize) {
        self.stray_rejects_due += requests as u64;
    }
}
