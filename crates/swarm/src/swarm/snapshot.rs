//! A swarm as others may see it.

use std::time::Instant;

use obt_wire::Bitfield;

use super::Swarm;
use crate::session::Session;
use crate::stats::{PeerStats, Stats};

impl Swarm {
    pub(super) fn stats(&self, now: Instant) -> Stats {
        let torrent = self.torrent.as_ref();
        Stats {
            phase: self.phase,
            pieces: torrent.map_or(0, |torrent| torrent.have.len()),
            pieces_have: torrent.map_or(0, |torrent| torrent.have.count()),
            pieces_left: torrent.map_or(0, |torrent| torrent.useful(&torrent.wanted)),
            pieces_unavailable: self.pieces_unavailable(),
            wanted_bytes: torrent.map_or(0, |torrent| torrent.wanted_bytes()),
            left_bytes: torrent.map_or(0, |torrent| torrent.picker.wanted_left()),
            downloaded: self.downloaded.total(),
            wasted: self.wasted,
            uploaded: self.uploaded.total(),
            download_rate: self.downloaded.rate(now),
            upload_rate: self.uploaded.rate(now),
            metadata: self.metadata.as_ref().and_then(|metadata| metadata.progress()),
            peers: self.sessions.values().map(|session| peer_stats(session, now)).collect(),
            connecting: self.peers.connecting(),
            candidates: self.peers.candidates(),
            untried: self.peers.untried(),
            banned: self.peers.banned(now),
            trackers: self.announcer.stats(now),
            alone_since: self.alone_since,
            from: self.from.clone(),
        }
    }

    /// Wanted pieces that are missing and that nobody connected has.
    fn pieces_unavailable(&self) -> u32 {
        let Some(torrent) = &self.torrent else {
            return 0;
        };
        if self.sessions.values().any(|session| session.has().is_full() && !torrent.have.is_empty()) {
            return 0;
        }
        let missing = |piece: &obt_wire::PieceIndex| torrent.is_missing(*piece);
        let lacking = torrent.wanted.iter().filter(missing).filter(|piece| torrent.picker.availability(*piece) == 0);
        u32::try_from(lacking.count()).unwrap_or(u32::MAX)
    }
}

fn peer_stats(session: &Session, now: Instant) -> PeerStats {
    let has: &Bitfield = session.has();
    PeerStats {
        peer: session.key,
        addr: session.addr,
        direction: session.direction,
        connected: now.saturating_duration_since(session.joined),
        peer_id: session.peer_id,
        client: session.told.client.clone(),
        pieces: has.count(),
        seed: has.is_full() && !has.is_empty(),
        downloaded: session.pipeline.received_bytes(),
        uploaded: session.sent.total(),
        download_rate: session.pipeline.rate(now),
        upload_rate: session.sent.rate(now),
        requests: session.pipeline.outstanding(),
        queued: session.uploads.queued(),
        choked: session.choked,
        choking: session.choking,
        interested: session.interested,
        interesting: session.interesting,
        snubbed: session.pipeline.is_snubbed(),
    }
}
