//! Metainfo out of the catalogue, parsed: a bounded number at once, and those asked for last are kept.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use obt_catalogue::BlobHash;
use obt_wire::metainfo::Metainfo;
use tokio::sync::Semaphore;

use super::catalogue::CatalogueTasks;
use super::error::ApiError;
use super::limits::{METAINFO_BASE_BYTES, METAINFO_CACHE_BYTES, PARSERS};

/// The parsed metainfo of blobs.
pub(super) struct Metainfos {
    kept: Mutex<Kept>,
    parsers: Semaphore,
}

/// Invariant: `bytes` is the sum over `recent`, and within its limit.
#[derive(Default)]
struct Kept {
    /// Asked for last is last.
    recent: Vec<(BlobHash, usize, Arc<Metainfo>)>,
    bytes: usize,
}

impl Metainfos {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::default(), parsers: Semaphore::new(PARSERS) }
    }

    /// Does a piece of work that keeps a core busy, when it is its turn.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.parsers.acquire().await;
        let done = tokio::task::spawn_blocking(work).await;
        drop(turn);
        done.map_err(|error| ApiError::internal(&error))
    }

    /// The metainfo of a version.
    pub(super) async fn load(&self, catalogue: &CatalogueTasks, hash: BlobHash) -> Result<Arc<Metainfo>, ApiError> {
        if let Some(metainfo) = self.lock().find(hash) {
            return Ok(metainfo);
        }
        let blob = self.blob(catalogue, hash).await?;
        let bytes = blob.len() + METAINFO_BASE_BYTES;
        let parsed = self.work(move || Metainfo::parse_shared(&blob)).await?;
        let metainfo = Arc::new(parsed.map_err(|error| ApiError::internal(&error))?);
        self.lock().keep(hash, bytes, &metainfo);
        Ok(metainfo)
    }

    /// The .torrent file of a version, without trackers and web seeds.
    pub(super) async fn blob(&self, catalogue: &CatalogueTasks, hash: BlobHash) -> Result<Bytes, ApiError> {
        if let Some(blob) = catalogue.read(move |reader| reader.blob(hash)).await? {
            return Ok(blob.into());
        }
        // A name may be here before its torrent is.
        let missing =
            || ApiError::busy("the torrent of this item has not come here yet, and no member that has it answers");
        catalogue.fetch_blob(hash).await.ok_or_else(missing)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn find(&mut self, hash: BlobHash) -> Option<Arc<Metainfo>> {
        let at = self.recent.iter().rposition(|(kept, _, _)| *kept == hash)?;
        let found = self.recent.remove(at);
        let metainfo = Arc::clone(&found.2);
        self.recent.push(found);
        Some(metainfo)
    }

    fn keep(&mut self, hash: BlobHash, bytes: usize, metainfo: &Arc<Metainfo>) {
        if bytes > METAINFO_CACHE_BYTES || self.find(hash).is_some() {
            return;
        }
        self.recent.push((hash, bytes, Arc::clone(metainfo)));
        self.bytes += bytes;
        let mut over = 0;
        while self.bytes > METAINFO_CACHE_BYTES {
            self.bytes -= self.recent.get(over).map_or(self.bytes, |(_, bytes, _)| *bytes);
            over += 1;
        }
        self.recent.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use obt_wire::metainfo::{Draft, Version};

    use super::*;

    #[test]
    fn what_was_asked_for_longest_ago_makes_room() {
        let draft = Draft::file("a", 1, 16_384, Version::V1).unwrap();
        let metainfo = Arc::new(draft.finish(&[obt_wire::Sha1Hash([1; 20])], Vec::new()).unwrap());
        let mut kept = Kept::default();
        let third = METAINFO_CACHE_BYTES / 3;
        for number in 0..3 {
            kept.keep(BlobHash([number; 32]), third, &metainfo);
        }
        assert!(kept.find(BlobHash([0; 32])).is_some());
        kept.keep(BlobHash([3; 32]), third, &metainfo);
        assert!(kept.find(BlobHash([1; 32])).is_none());
        assert!(kept.find(BlobHash([0; 32])).is_some());
        kept.keep(BlobHash([4; 32]), METAINFO_CACHE_BYTES + 1, &metainfo);
        assert_eq!((kept.recent.len(), kept.bytes), (3, 3 * third));
    }
}
