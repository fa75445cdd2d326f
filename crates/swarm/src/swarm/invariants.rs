//! What holds between any two calls, checked by tests and the simulator.

use super::Swarm;
use crate::session::Session;
use crate::stats::Phase;
use crate::torrent::Torrent;

impl Swarm {
    pub(super) fn check_invariants(&self) -> Result<(), String> {
        self.peers.check()?;
        let known = matches!(self.phase, Phase::Downloading | Phase::Seeding);
        if known && self.torrent.is_none() {
            return Err(format!("{:?} without a torrent", self.phase));
        }
        if !self.is_running() && !self.sessions.is_empty() {
            return Err(format!("{:?} with {} connections", self.phase, self.sessions.len()));
        }
        if self.sessions.len() > self.config.connections {
            return Err(format!("{} connections, {} are allowed", self.sessions.len(), self.config.connections));
        }
        for session in self.sessions.values() {
            session.uploads.check()?;
            if self.closing.contains(&session.key) {
                return Err(format!("{:?} is open and closing", session.key));
            }
            if let Some(torrent) = &self.torrent {
                check_session(session, torrent).map_err(|fault| format!("{:?}: {fault}", session.key))?;
            }
        }
        match &self.torrent {
            Some(torrent) => self.check_torrent(torrent),
            None => Ok(()),
        }
    }

    fn check_torrent(&self, torrent: &Torrent) -> Result<(), String> {
        torrent.picker.check()?;
        torrent.layers.check()?;
        if torrent.geometry().all().any(|piece| torrent.picker.has(piece) != torrent.have.has(piece)) {
            return Err("the picker has other pieces than we".into());
        }
        if self.phase == Phase::Seeding && !torrent.picker.is_done() {
            return Err("seeding, and wanted pieces are missing".into());
        }
        for (block, peer) in torrent.picker.requests() {
            let Some(session) = self.sessions.get(&peer) else {
                return Err(format!("{block:?} is owed by {peer:?}, who is gone"));
            };
            if !session.has().has(block.piece) || !session.pipeline.is_outstanding(block) {
                return Err(format!("{block:?} was not asked of {peer:?}, or it has not got it"));
            }
        }
        Ok(())
    }
}

fn check_session(session: &Session, torrent: &Torrent) -> Result<(), String> {
    let (owes, counted) = (session.pipeline.outstanding(), torrent.picker.outstanding(session.key));
    if owes != counted {
        return Err(format!("owes {owes} blocks, the picker counts {counted}"));
    }
    if session.choking && !session.fast && owes > 0 {
        return Err(format!("owes {owes} blocks and chokes us"));
    }
    let useful = torrent.useful(session.has());
    if useful != session.useful_pieces {
        return Err(format!("has {useful} useful pieces, counted {}", session.useful_pieces));
    }
    if session.interesting != (useful > 0) {
        return Err(format!("has {useful} useful pieces, and interesting is {}", session.interesting));
    }
    // Those for what it was given to begin with are answered all the same.
    if session.choked && session.uploads.is_waiting() && !session.head_start.is_given() {
        return Err("is choked, and requests of its wait".into());
    }
    Ok(())
}
