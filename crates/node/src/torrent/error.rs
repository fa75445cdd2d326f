//! Why a torrent ends before it is done.

use std::sync::Arc;

use obt_wire::PieceIndex;
use thiserror::Error;

use crate::disk::StoreError;

/// Why a torrent ended, or a part of it cannot be had. Cheap to clone: everyone who waits for it is told.
#[derive(Debug, Clone, Error)]
pub enum TorrentError {
    /// The disk, or what is on it.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// What peers sent as info dictionary has the right hash, and is no usable torrent.
    #[error("the torrent that this magnet names is unusable: {0}")]
    Metadata(String),
    /// v1 and v2 hashes of a hybrid disagree.
    #[error("the torrent contradicts itself: the two hashes of piece {} are of different bytes", .0.0)]
    Inconsistent(PieceIndex),
    /// It was told to stop.
    #[error("stopped")]
    Stopped,
}

impl From<StoreError> for TorrentError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Why bytes of a torrent cannot be read.
#[derive(Debug, Clone, Error)]
pub enum ReadError {
    /// There is no such file, or it is shorter.
    #[error("there are no such bytes in the torrent")]
    OutOfRange,
    /// Too many others read the same torrent.
    #[error("too many readers at once")]
    Busy,
    /// The torrent ended before they came.
    #[error(transparent)]
    Torrent(#[from] TorrentError),
}
