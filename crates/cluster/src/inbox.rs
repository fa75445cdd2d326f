//! A snapshot that arrives: into a file of its own, in order, within what was announced, checked before it counts.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::limits::SNAPSHOT_BYTES;
use crate::message::{PART_BYTES, Refusal, SnapshotPart};
use crate::raft::NodeId;
use crate::snapshot::{self, SnapshotError, SnapshotFacts, SnapshotFile};
use crate::state::Position;

/// Takes one snapshot at a time; a new one takes the place of one that stalled.
pub(crate) struct Inbox {
    folder: PathBuf,
    arriving: Mutex<Option<Arriving>>,
}

struct Arriving {
    from: NodeId,
    facts: SnapshotFacts,
    file: SnapshotFile,
    open: File,
    have: u64,
}

/// What a part came to.
#[derive(Debug)]
pub(crate) enum Taken {
    /// So many bytes are here.
    Partly(u64),
    /// All is here, and was found sound.
    Whole(Arc<SnapshotFile>, Box<Position>),
}

impl Inbox {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), arriving: Mutex::new(None) }
    }

    /// Takes a part. After a refusal the sender begins again.
    pub(crate) async fn take(&self, from: NodeId, part: &SnapshotPart, body: Bytes) -> Result<Taken, Refusal> {
        let mut arriving = self.arriving.lock().await;
        let nonsense = |what: &str| Refusal::Nonsense(what.to_owned());
        if part.facts.bytes == 0 || part.facts.bytes > SNAPSHOT_BYTES || body.len() > PART_BYTES {
            return Err(nonsense("a snapshot of this size is not taken"));
        }
        let current = match arriving.take() {
            Some(current) if part.offset > 0 && current.from == from && current.facts == part.facts => current,
            _ if part.offset == 0 => self.begin(from, &part.facts)?,
            _ => return Err(nonsense("it does not begin at its beginning")),
        };
        let end = part.offset.checked_add(body.len() as u64);
        if current.have != part.offset || end.is_none_or(|end| end > part.facts.bytes) || body.is_empty() {
            return Err(nonsense("its parts do not follow each other"));
        }
        let work = tokio::task::spawn_blocking(move || current.write(&body));
        let written = work.await.map_err(|_| Refusal::Stopping)?;
        match written {
            Ok(Written::More(current)) => {
                let have = current.have;
                *arriving = Some(current);
                Ok(Taken::Partly(have))
            }
            Ok(Written::All(file, position)) => Ok(Taken::Whole(file, position)),
            Err(error) => {
                tracing::warn!(%error, from, "a snapshot is refused");
                Err(Refusal::Nonsense(error.to_string()))
            }
        }
    }

    fn begin(&self, from: NodeId, facts: &SnapshotFacts) -> Result<Arriving, Refusal> {
        let file = SnapshotFile::new(&self.folder);
        let open = OpenOptions::new().write(true).create_new(true).open(file.path()).map_err(|error| {
            tracing::warn!(%error, "a snapshot cannot be stored");
            Refusal::Busy
        })?;
        Ok(Arriving { from, facts: facts.clone(), file, open, have: 0 })
    }
}

enum Written {
    More(Arriving),
    All(Arc<SnapshotFile>, Box<Position>),
}

impl Arriving {
    fn write(mut self, body: &[u8]) -> Result<Written, SnapshotError> {
        self.open.write_all(body)?;
        self.have = self.have.saturating_add(body.len() as u64);
        if self.have < self.facts.bytes {
            return Ok(Written::More(self));
        }
        drop(self.open);
        let (file, position) = snapshot::check(self.file, &self.facts)?;
        Ok(Written::All(file, Box::new(position)))
    }
}
