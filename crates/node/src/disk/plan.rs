//! What a download is to become: where, under which name, and how much of the torrent.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use obt_wire::metainfo::Metainfo;

/// How much of a torrent is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection {
    /// All of it.
    #[default]
    All,
    /// The file or folder at this path below the torrent's folder. It gets its final name alone: of `DIR/a/b`, `b`.
    Path(Vec<String>),
}

/// What to do where the final name is taken by other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExisting {
    /// Fail with [`StoreError::Occupied`](super::StoreError::Occupied), before anything is fetched.
    #[default]
    Refuse,
    /// Replace it, at the very end.
    Replace,
}

/// A download: what and where to.
#[derive(Debug, Clone)]
pub struct DownloadPlan {
    /// The folder in which the final name appears; it must be there.
    pub folder: PathBuf,
    /// The final name, one path component; None for the torrent's own.
    pub name: Option<String>,
    /// The torrent.
    pub metainfo: Arc<Metainfo>,
    /// The torrent as a .torrent file, kept in the partial folder so that [`Store::begun`](super::Store::begun)
    /// finds it again.
    pub torrent: Bytes,
    /// How much of it.
    pub selection: Selection,
    /// What if the final name is taken.
    pub on_existing: OnExisting,
}
