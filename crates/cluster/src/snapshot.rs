//! Copies of the catalogue that travel between members, and how one is told from a broken one.
//!
//! The catalogue's file is itself the newest snapshot, durable after every entry. So openraft is told of a snapshot at
//! no cost ([`SnapshotSource::Live`]), and a copy is made only when a member needs it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use obt_catalogue::{CatalogueError, Reader, examine};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::raft::LogId;
use crate::state::Position;

/// Bytes read at once to hash a file.
const READ: usize = 256 * 1_024;
/// The names of copies in the state directory begin with this; those of an earlier run are removed.
const PREFIX: &str = "snapshot-";

/// A snapshot is no good.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// It is not what was announced.
    #[error("the snapshot is not the one that was announced: {0}")]
    Differs(&'static str),
    /// It is no whole catalogue, or one of another release.
    #[error("the snapshot cannot be used")]
    Catalogue(#[from] CatalogueError),
    /// The disk failed.
    #[error("the snapshot cannot be stored")]
    Io(#[from] io::Error),
}

/// Where openraft's snapshots are.
#[derive(Debug, Clone)]
pub enum SnapshotSource {
    /// This catalogue's file, as it is when somebody wants it.
    Live(Arc<Path>),
    /// A file that is all there, and was checked.
    Checked(Arc<SnapshotFile>),
}

/// What a copy is announced with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// The last entry in it.
    pub log_id: Option<LogId>,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// [`Reader::digest`] of it, in hex.
    pub digest: String,
}

/// A file that is removed when it is dropped.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
}

impl SnapshotFile {
    /// A name in `folder` that no other has, without a file yet.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { path: folder.join(format!("{PREFIX}{:016x}", fastrand::u64(..))) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(suffix);
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes copies that an earlier run left.
pub(crate) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a copy of the catalogue at `live` in `folder`. Takes as long as the disk needs; the catalogue goes on.
pub(crate) fn make(live: &Path, folder: &Path) -> Result<(SnapshotFile, SnapshotFacts), SnapshotError> {
    let file = SnapshotFile::new(folder);
    let copied = Reader::open(live)?.copy_to(&file.path)?;
    let (bytes, sha256) = hash(&file.path)?;
    let log_id = position(&copied.applied.position)?.log_id;
    let facts = SnapshotFacts { log_id, bytes, sha256, digest: hex(&copied.digest) };
    Ok((file, facts))
}

/// Checks a file that arrived: its size and hash, that SQLite finds it whole, what it holds. Reads it twice.
pub(crate) fn check(file: SnapshotFile, facts: &SnapshotFacts) -> Result<(Arc<SnapshotFile>, Position), SnapshotError> {
    let (bytes, sha256) = hash(&file.path)?;
    if bytes != facts.bytes || sha256 != facts.sha256 {
        return Err(SnapshotError::Differs("its bytes have another hash"));
    }
    let found = examine(&file.path)?;
    if hex(&found.digest) != facts.digest {
        return Err(SnapshotError::Differs("its content has another digest"));
    }
    let position = position(&found.applied.position)?;
    let log_id = position.log_id;
    if log_id != facts.log_id || found.applied.entry != log_id.map_or(0, entry_of) {
        return Err(SnapshotError::Differs("it is of another entry"));
    }
    Ok((Arc::new(file), position))
}

/// The catalogue counts entries from 1; 0 is none.
pub(crate) fn entry_of(log_id: LogId) -> u64 {
    log_id.index.saturating_add(1)
}

fn position(bytes: &[u8]) -> Result<Position, SnapshotError> {
    Position::decode(bytes).map_err(|_| SnapshotError::Differs("its position cannot be read"))
}

fn hash(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; READ];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hex(&hasher.finalize())));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        bytes = bytes.saturating_add(read as u64);
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
