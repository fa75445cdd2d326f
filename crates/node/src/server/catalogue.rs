//! The catalogue's file on threads of its own: one that writes, a few that read.
//!
//! Commands that come in while the disk is busy become one transaction, so many publishers share a sync.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use obt_catalogue::{Catalogue, CatalogueError, Command, CommandId, Envelope, Outcome, Reader};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::clock::now_ms;

/// Commands that wait for the writer; whoever sends one more waits.
const QUEUE: usize = 256;
/// Commands in one transaction: more would make the first of them wait for long.
const BATCH: usize = 64;
/// Readers at once. Each question takes about a millisecond.
const READERS: usize = 4;

/// Why the catalogue did not answer.
#[derive(Debug, Clone, Error)]
pub(super) enum CatalogueFailure {
    /// Its file failed. Every command of a batch hears of it.
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

type Answer = oneshot::Sender<Result<Outcome, CatalogueFailure>>;
type Work = Box<dyn FnOnce(&mut Catalogue) + Send>;

enum Job {
    Apply { envelope: Box<Envelope>, blob: Option<Bytes>, answer: Answer },
    Work(Work),
}

/// The catalogue, for tasks. Cheap to clone; when the last clone is dropped, the writer ends.
#[derive(Clone)]
pub(super) struct CatalogueTasks {
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
}

struct Readers {
    idle: Mutex<Vec<Reader>>,
    permits: Semaphore,
}

impl CatalogueTasks {
    /// Opens the file and starts its threads. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, CatalogueError> {
        let catalogue = Catalogue::open(path)?;
        let idle = (0..READERS).map(|_| Reader::open(path)).collect::<Result<Vec<_>, _>>()?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("catalogue".to_owned())
            .spawn(move || write(catalogue, queue))
            .map_err(|_| CatalogueError::Damaged("its thread cannot be started"))?;
        let readers = Readers { idle: Mutex::new(idle), permits: Semaphore::new(READERS) };
        Ok(Self { jobs, readers: Arc::new(readers) })
    }

    /// Applies a command; durable when this returns. The blob it names goes first.
    pub(super) async fn apply(
        &self,
        id: CommandId,
        command: Command,
        blob: Option<Bytes>,
    ) -> Result<Outcome, CatalogueFailure> {
        let (answer, outcome) = oneshot::channel();
        let envelope = Box::new(Envelope::new(id, now_ms(), command));
        let job = Job::Apply { envelope, blob, answer };
        self.jobs.send(job).await.map_err(|_| CatalogueFailure::Closed)?;
        outcome.await.map_err(|_| CatalogueFailure::Closed)?
    }

    /// Applies a command of the tracker itself, under an id that nobody repeats.
    pub(super) async fn apply_own(&self, command: Command) -> Result<Outcome, CatalogueFailure> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| CatalogueFailure::Closed)?;
        self.apply(CommandId(id), command, None).await
    }

    /// Lets the writer do something else with the catalogue.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Catalogue) -> Result<T, CatalogueError> + Send + 'static,
    ) -> Result<T, CatalogueFailure> {
        let (answer, done) = oneshot::channel();
        let job = Job::Work(Box::new(move |catalogue| {
            let _ = answer.send(work(catalogue));
        }));
        self.jobs.send(job).await.map_err(|_| CatalogueFailure::Closed)?;
        Ok(done.await.map_err(|_| CatalogueFailure::Closed)??)
    }

    /// Asks the catalogue something.
    pub(super) async fn read<T, E>(&self, ask: impl FnOnce(&Reader) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<CatalogueError> + Send + 'static,
    {
        let closed = || E::from(CatalogueError::Damaged("a reader is gone"));
        let readers = Arc::clone(&self.readers);
        let permit = readers.permits.acquire().await.map_err(|_| closed())?;
        let reader = readers.lock().pop().ok_or_else(closed)?;
        let home = Home { readers: Arc::clone(&readers), reader: Some(reader) };
        let answer = tokio::task::spawn_blocking(move || match &home.reader {
            Some(reader) => reader.snapshot(ask),
            None => Err(E::from(CatalogueError::Damaged("a reader is gone"))),
        });
        let answer = answer.await.map_err(|_| closed())?;
        drop(permit);
        answer
    }
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
}

impl Drop for Home {
    fn drop(&mut self) {
        self.readers.lock().extend(self.reader.take());
    }
}

fn write(mut catalogue: Catalogue, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
        let mut batch = Vec::new();
        for job in jobs.drain(..) {
            match job {
                Job::Apply { envelope, blob, answer } => batch.push((envelope, blob, answer)),
                Job::Work(work) => {
                    apply(&mut catalogue, std::mem::take(&mut batch));
                    work(&mut catalogue);
                }
            }
        }
        apply(&mut catalogue, batch);
    }
}

fn apply(catalogue: &mut Catalogue, batch: Vec<(Box<Envelope>, Option<Bytes>, Answer)>) {
    if batch.is_empty() {
        return;
    }
    let mut envelopes = Vec::with_capacity(batch.len());
    let mut blobs = Vec::new();
    let mut answers = Vec::with_capacity(batch.len());
    for (envelope, blob, answer) in batch {
        envelopes.push(*envelope);
        blobs.extend(blob);
        answers.push(answer);
    }
    let stored =
        if blobs.is_empty() { Ok(()) } else { catalogue.put_blobs(blobs.iter().map(|blob| &blob[..]), now_ms()) };
    match stored.and_then(|()| catalogue.apply(&envelopes)) {
        Ok(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(Ok(outcome));
            }
        }
        Err(error) => {
            tracing::error!(%error, "the catalogue cannot be written");
            let failure = CatalogueFailure::from(error);
            for answer in answers {
                let _ = answer.send(Err(failure.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use obt_catalogue::PublishPolicy;

    use super::*;

    #[tokio::test]
    async fn what_was_applied_is_read_and_readers_come_home() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = CatalogueTasks::open(&folder.path().join("catalogue")).unwrap();
        let open = Command::SetPublishPolicy { policy: PublishPolicy::Open };
        assert_eq!(catalogue.apply_own(open).await.unwrap(), Outcome::Done);
        for _ in 0..3 * READERS {
            let policy = catalogue.read(Reader::publish_policy).await.unwrap();
            assert_eq!(policy, PublishPolicy::Open);
        }
        let refused: Result<(), CatalogueError> = catalogue.read(|_| Err(CatalogueError::NotCatalogue)).await;
        assert!(refused.is_err());
        assert_eq!(catalogue.readers.lock().len(), READERS);
    }
}
