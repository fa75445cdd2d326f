//! What is asked besides blocks, in both directions: the info dictionary (BEP 9) and hashes of trees (BEP 52).

use std::time::Instant;

use bytes::Bytes;
use obt_wire::extension::{METADATA_PIECE, MetadataMessage, metadata_piece_size, metadata_pieces};
use obt_wire::peer::{HashRequest, Message};
use obt_wire::{PieceIndex, Sha256Hash};

use super::Swarm;
use crate::action::Action;
use crate::block_hashes::Asked;
use crate::event::PeerKey;
use crate::layers::{Answer, Proven};
use crate::limits::{METADATA_TWICE, SEEDS_SPARED};
use crate::metadata::Gathered;
use crate::session::{Allowance, Offence, Session};
use crate::stats::Phase;

/// Who is asked for the info dictionary, and for hashes that it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sources {
    Everybody,
    /// Those that lack something: the torrent comes from elsewhere, and the seed has better to do.
    Leechers,
    /// The same, until then.
    LeechersUntil(Instant),
}

impl Sources {
    /// As they are once the torrent is known, `complete` with all hashes or not.
    pub(super) fn torrent_known(self, complete: bool, now: Instant) -> Self {
        if self == Self::Leechers && !complete { Self::LeechersUntil(now + SEEDS_SPARED) } else { Self::Everybody }
    }

    fn may_be_asked(self, session: &Session, now: Instant) -> bool {
        match self {
            Self::Everybody => true,
            Self::LeechersUntil(end) if end <= now => true,
            Self::Leechers | Self::LeechersUntil(_) => session.told.has_metadata && session.claims.lacks_something(),
        }
    }

    /// When others may be asked.
    fn due(self, now: Instant) -> Option<Instant> {
        match self {
            Self::LeechersUntil(end) if end > now => Some(end),
            _ => None,
        }
    }
}

impl Swarm {
    /// Asks whoever is to be asked, as of now.
    pub(super) fn ask(&mut self, now: Instant) {
        self.due.ask = None;
        match self.phase {
            Phase::Metadata => self.ask_metadata(now),
            Phase::Downloading | Phase::Seeding => self.ask_hashes(now),
            _ => {}
        }
    }

    fn ask_metadata(&mut self, now: Instant) {
        let Some(metadata) = &mut self.metadata else {
            return;
        };
        let (sessions, sources) = (&self.sessions, self.sources);
        let may_ask = |peer| sessions.get(&peer).is_some_and(|session| sources.may_be_asked(session, now));
        let requests = metadata.requests(may_ask, now);
        self.due.ask = metadata.due();
        for (peer, piece) in requests {
            self.send_metadata(peer, &MetadataMessage::Request { piece }, now);
        }
    }

    fn ask_hashes(&mut self, now: Instant) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        let (sessions, sources) = (&self.sessions, self.sources);
        let may_ask = |peer| sessions.get(&peer).is_some_and(|session| sources.may_be_asked(session, now));
        let requests = torrent.layers.requests(may_ask, now);
        let others = if torrent.layers.are_complete() { None } else { sources.due(now) };
        self.due.ask = torrent.layers.due().into_iter().chain(others).min();
        for (peer, request) in requests {
            self.send(peer, Message::HashRequest(request), now);
        }
    }

    fn send_metadata(&mut self, peer: PeerKey, message: &MetadataMessage, now: Instant) {
        let mut payload = Vec::new();
        message.encode(&mut payload);
        self.send_extension(peer, |ids| ids.ut_metadata, payload.into(), now);
    }

    // Metadata.

    pub(super) fn metadata_message(
        &mut self,
        peer: PeerKey,
        message: MetadataMessage,
        now: Instant,
    ) -> Result<(), Offence> {
        match message {
            MetadataMessage::Request { piece } => self.metadata_request(peer, piece, now),
            MetadataMessage::Data { piece, total_size, payload } => {
                self.metadata_data(peer, piece, total_size, payload, now)
            }
            MetadataMessage::Reject { piece } => {
                self.idle_message(peer, now)?;
                if let Some(metadata) = &mut self.metadata {
                    metadata.rejected(peer, piece, now);
                    self.chores.ask = true;
                }
                Ok(())
            }
        }
    }

    fn metadata_request(&mut self, peer: PeerKey, piece: u32, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        let info = self.torrent.as_ref().map(|torrent| torrent.metainfo.info.bytes.clone());
        let answer = info.and_then(|info| metadata_piece(&info, piece)).filter(|answer| {
            let MetadataMessage::Data { total_size, .. } = answer else { return false };
            session.may_ask_metadata(*total_size, now)
        });
        if answer.is_none() {
            session.idle_message(now)?;
        }
        self.send_metadata(peer, &answer.unwrap_or(MetadataMessage::Reject { piece }), now);
        Ok(())
    }

    fn metadata_data(
        &mut self,
        peer: PeerKey,
        piece: u32,
        size: u32,
        payload: Bytes,
        now: Instant,
    ) -> Result<(), Offence> {
        let Some(metadata) = self.metadata.as_mut().filter(|_| self.phase == Phase::Metadata) else {
            // Others were asked for it too.
            return self.idle_message(peer, now);
        };
        self.chores.ask = true;
        match metadata.data(peer, piece, size, payload, now) {
            Gathered::Part => Ok(()),
            Gathered::Unasked => self.idle_message(peer, now),
            Gathered::Lie(liar) => {
                self.ban(liar, now);
                Ok(())
            }
            Gathered::Whole(info) => {
                self.phase = Phase::Preparing;
                self.metadata = None;
                self.due.ask = None;
                self.actions.push_back(Action::MetadataReady { info });
                Ok(())
            }
        }
    }

    // Hashes.

    pub(super) fn hash_request(&mut self, peer: PeerKey, request: HashRequest, now: Instant) -> Result<(), Offence> {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return Ok(());
        };
        session.needs_v2()?;
        // An unchoked peer's hashes take from what it would get in blocks.
        let bytes = u64::from(request.length).saturating_mul(Sha256Hash::LEN as u64);
        let allowed = if session.choked {
            session.hash_requests.take(now)
        } else {
            bytes <= u64::from(METADATA_PIECE) && self.upload.take_all(bytes, now)
        };
        let answer = match &mut self.torrent {
            Some(torrent) if allowed => torrent.layers.answer(&request, &torrent.have),
            _ => Answer::Reject,
        };
        match answer {
            Answer::Hashes(hashes) => self.send(peer, Message::Hashes(request, hashes), now),
            Answer::NeedsBlocks(piece) if self.hash_blocks(peer, request, piece, now) => {}
            Answer::NeedsBlocks(_) | Answer::Reject => {
                self.idle_message(peer, now)?;
                self.send(peer, Message::HashReject(request), now);
            }
        }
        Ok(())
    }

    /// Whether the request is answered once the blocks of `piece` are hashed.
    fn hash_blocks(&mut self, peer: PeerKey, request: HashRequest, piece: PieceIndex, now: Instant) -> bool {
        let bytes = self.torrent.as_ref().map_or(0, |torrent| torrent.geometry().data_size(piece));
        match self.block_hashes.ask(peer, request, piece, bytes, now) {
            Asked::Hash => self.actions.push_back(Action::HashBlocks { piece }),
            Asked::Joined => {}
            Asked::Refused => return false,
        }
        true
    }

    pub(super) fn blocks_hashed(&mut self, piece: PieceIndex, hashes: &[Sha256Hash], now: Instant) {
        for (peer, request) in self.block_hashes.hashed(piece) {
            let here = self.torrent.as_mut().filter(|torrent| torrent.have.has(piece));
            let answer = here.and_then(|torrent| torrent.layers.answer_with_blocks(&request, hashes));
            let message = answer.map_or(Message::HashReject(request), |hashes| Message::Hashes(request, hashes));
            self.send(peer, message, now);
        }
    }

    pub(super) fn hashes(
        &mut self,
        peer: PeerKey,
        request: &HashRequest,
        hashes: &[Sha256Hash],
        now: Instant,
    ) -> Result<(), Offence> {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return Err(Offence("hashes that nobody asked for"));
        };
        session.needs_v2()?;
        self.chores.ask = true;
        match torrent.layers.answered(peer, request, hashes) {
            Proven::Part => {}
            Proven::Unasked => return session.unasked_block(),
            Proven::False => self.ban(peer, now),
            Proven::Layer(root, hashes, pieces) => self.layer_ready(root, hashes, pieces, now),
            Proven::Blocks(piece, hashes) => {
                let digests: Vec<[u8; 32]> = hashes.iter().map(|hash| hash.0).collect();
                self.resolve_blame(piece, &digests, now);
            }
        }
        Ok(())
    }

    pub(super) fn hash_reject(&mut self, peer: PeerKey, request: &HashRequest, now: Instant) -> Result<(), Offence> {
        let (Some(session), Some(torrent)) = (self.sessions.get_mut(&peer), &mut self.torrent) else {
            return Err(Offence("a reject of nothing"));
        };
        session.needs_v2()?;
        if !torrent.layers.rejected(peer, request, now) {
            session.idle_message(now)?;
        }
        self.chores.ask = true;
        Ok(())
    }
}

fn metadata_piece(info: &Bytes, piece: u32) -> Option<MetadataMessage> {
    let total_size = u32::try_from(info.len()).ok()?;
    let begin = piece.checked_mul(METADATA_PIECE)? as usize;
    let size = metadata_piece_size(piece, total_size)? as usize;
    Some(MetadataMessage::Data { piece, total_size, payload: info.slice(begin..begin + size) })
}

impl Session {
    /// Whether another piece of an info dictionary of `size` bytes may be sent: the whole of it twice in a minute.
    fn may_ask_metadata(&mut self, size: u32, now: Instant) -> bool {
        let twice = 2 * metadata_pieces(size).max(1);
        self.metadata_requests.get_or_insert_with(|| Allowance::new(twice, METADATA_TWICE / twice, now)).take(now)
    }
}
