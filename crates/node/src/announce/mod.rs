//! Announces to trackers: one call for every kind of them.

use obt_swarm::{AnnounceReply, AnnounceRequest};
use obt_wire::{InfoHashes, PeerId};
use thiserror::Error;

/// An announce, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// The tracker.
    pub url: String,
    /// The torrent.
    pub hashes: InfoHashes,
    /// Our name.
    pub peer_id: PeerId,
    /// The port that we listen at.
    pub port: u16,
    /// What the core has to tell.
    pub request: AnnounceRequest,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AnnounceError {
    /// Nothing here speaks to such a tracker.
    #[error("cannot announce to {0}: unknown kind of tracker")]
    UnknownKind(String),
}

/// Announces for all torrents of a node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Announcer {}

impl Announcer {
    /// Announces, and waits for the answer within bounds.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn announce(&self, announce: Announce) -> Result<AnnounceReply, AnnounceError> {
        Err(AnnounceError::UnknownKind(announce.url))
    }
}
