//! The catalogue, for tasks: changes go through the cluster's log, questions to a few readers of the local file.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use obt_catalogue::{BlobHash, Catalogue, CatalogueError, Command, CommandId, Outcome, Reader};
use obt_cluster::{Cluster, ClusterFailure};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::changes::Changes;
use super::limits;

/// Readers at once. Each question takes about a millisecond.
const READERS: usize = 4;

/// Why the catalogue did not answer.
#[derive(Debug, Clone, Error)]
pub(super) enum CatalogueFailure {
    /// The cluster did not take the change.
    #[error(transparent)]
    Cluster(#[from] ClusterFailure),
    /// Its file failed.
    #[error(transparent)]
    File(Arc<CatalogueError>),
    /// The server is stopping.
    #[error("the catalogue is closed")]
    Closed,
}

impl From<CatalogueError> for CatalogueFailure {
    fn from(error: CatalogueError) -> Self {
        Self::File(Arc::new(error))
    }
}

/// The catalogue, for tasks. Cheap to clone.
#[derive(Clone)]
pub(super) struct CatalogueTasks {
    cluster: Cluster,
    changes: Changes,
    readers: Arc<Readers>,
}

struct Readers {
    idle: Mutex<Vec<Reader>>,
    permits: Arc<Semaphore>,
}

impl CatalogueTasks {
    /// Reads the file at `path`, which `cluster` changes and tells `changes` of. Blocks.
    pub(super) fn new(cluster: Cluster, changes: Changes, path: &Path) -> Result<Self, CatalogueError> {
        let idle = (0..READERS).map(|_| Reader::open(path)).collect::<Result<Vec<_>, _>>()?;
        let readers = Readers { idle: Mutex::new(idle), permits: Arc::new(Semaphore::new(READERS)) };
        Ok(Self { cluster, changes, readers: Arc::new(readers) })
    }

    /// Has a command applied; durable on a majority when this returns, and to be seen here. The blob it names goes first.
    pub(super) async fn apply(
        &self,
        id: CommandId,
        command: Command,
        blob: Option<Bytes>,
    ) -> Result<Outcome, CatalogueFailure> {
        let seen = self.changes.expect(id);
        let outcome = self.propose(id, command, blob).await?;
        // This member may be behind the one that answered; where it stays so, what was asked for is done anyway.
        let _ = timeout(limits::OWN_TURN, seen.wait()).await;
        Ok(outcome)
    }

    async fn propose(&self, id: CommandId, command: Command, blob: Option<Bytes>) -> Result<Outcome, CatalogueFailure> {
        match self.cluster.propose(id, command.clone(), blob.clone()).await {
            // The same id: it is applied once, however often it is asked for.
            Err(ClusterFailure::Unknown) => {
                let again = self.cluster.propose(id, command, blob).await;
                // Where this try did nothing, the first one may have.
                Ok(again.map_err(|_| ClusterFailure::Unknown)?)
            }
            known => Ok(known?),
        }
    }

    /// Applies a command of the tracker itself, under an id that nobody repeats.
    pub(super) async fn apply_own(&self, command: Command) -> Result<Outcome, CatalogueFailure> {
        self.apply(own_id()?, command, None).await
    }

    /// The same before the server has started, when nobody looks at what is to be seen.
    pub(super) async fn settle_own(&self, command: Command) -> Result<Outcome, CatalogueFailure> {
        self.propose(own_id()?, command, None).await
    }

    /// Lets the catalogue's thread do something that is no command.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Catalogue) -> Result<T, CatalogueError> + Send + 'static,
    ) -> Result<T, CatalogueFailure> {
        Ok(self.cluster.work(work).await.ok_or(CatalogueFailure::Closed)??)
    }

    /// A .torrent that other members have, if it has not come here yet.
    pub(super) async fn fetch_blob(&self, hash: BlobHash) -> Option<Bytes> {
        self.cluster.fetch_blob(hash).await
    }

    /// The member that changes it.
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Asks the catalogue something.
    pub(super) async fn read<T, E>(&self, ask: impl FnOnce(&Reader) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<CatalogueError> + Send + 'static,
    {
        let closed = || E::from(CatalogueError::Damaged("a reader is gone"));
        let readers = Arc::clone(&self.readers);
        let permit = Arc::clone(&readers.permits).acquire_owned().await.map_err(|_| closed())?;
        let reader = readers.lock().pop().ok_or_else(closed)?;
        let home = Home { readers: Arc::clone(&readers), reader: Some(reader), _permit: permit };
        let answer = tokio::task::spawn_blocking(move || match &home.reader {
            Some(reader) => reader.snapshot(ask),
            None => Err(E::from(CatalogueError::Damaged("a reader is gone"))),
        });
        answer.await.map_err(|_| closed())?
    }
}

fn own_id() -> Result<CommandId, CatalogueFailure> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| CatalogueFailure::Closed)?;
    Ok(CommandId(id))
}

impl Readers {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings a reader back, also where its question panicked or nobody waits for the answer any more.
struct Home {
    readers: Arc<Readers>,
    reader: Option<Reader>,
    /// Goes after the reader is back: whoever gets it next finds one.
    _permit: OwnedSemaphorePermit,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.readers.lock().extend(self.reader.take());
    }
}

#[cfg(test)]
mod tests {
    use super::super::changes;
    use super::super::membership::test_member;
    use super::*;

    #[tokio::test]
    async fn what_was_applied_is_read_and_readers_come_home() {
        use obt_catalogue::PublishPolicy;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalogue");
        let (changes, _told) = changes::queue();
        let linked = test_member(&path, &changes).await;
        let catalogue = CatalogueTasks::new(linked.cluster.clone(), changes, &path).unwrap();
        let open = Command::SetPublishPolicy { policy: PublishPolicy::Open };
        assert_eq!(catalogue.apply_own(open).await.unwrap(), Outcome::Done);
        for _ in 0..3 * READERS {
            let policy = catalogue.read(Reader::publish_policy).await.unwrap();
            assert_eq!(policy, PublishPolicy::Open);
        }
        let refused: Result<(), CatalogueError> = catalogue.read(|_| Err(CatalogueError::NotCatalogue)).await;
        assert!(refused.is_err());
        assert_eq!(catalogue.readers.lock().len(), READERS);
        linked.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_question_whose_asker_is_gone_keeps_others_waiting_and_fails_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalogue");
        let (changes, _told) = changes::queue();
        let linked = test_member(&path, &changes).await;
        let catalogue = CatalogueTasks::new(linked.cluster.clone(), changes, &path).unwrap();
        let mut ends = Vec::new();
        for _ in 0..READERS {
            let (begun, has_begun) = tokio::sync::oneshot::channel();
            let (end, is_to_end) = std::sync::mpsc::channel::<()>();
            let asked = catalogue.clone();
            let asker = tokio::spawn(async move {
                let long = move |_: &Reader| {
                    let _ = begun.send(());
                    let _ = is_to_end.recv();
                    Ok::<_, CatalogueError>(())
                };
                asked.read(long).await
            });
            has_begun.await.unwrap();
            asker.abort();
            assert!(asker.await.unwrap_err().is_cancelled());
            ends.push(end);
        }
        let mut next = std::pin::pin!(catalogue.read(Reader::publish_policy));
        assert!(timeout(std::time::Duration::ZERO, &mut next).await.is_err(), "all readers are at work");
        drop(ends);
        assert!(next.await.is_ok());
        linked.stop().await;
    }
}
