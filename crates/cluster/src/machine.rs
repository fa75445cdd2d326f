//! openraft's state machine: the catalogue, on a thread of its own.
//!
//! Entries that are committed while the disk is busy become one transaction, with the position that they lead to; so do
//! blobs. An entry that this release cannot read stops the member before it: one that skipped it would differ from the others.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use obt_catalogue::{Applied, BlobHash, Catalogue, CatalogueError, Command, Envelope, Outcome};
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageIOError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::fatal::{FatalError, FatalHook};
use crate::raft::{Answer, Entry, LogId, Member, NodeId, Proposal, StorageError, StoredMembership, TypeConfig};
pub use crate::snapshot::SnapshotSource;
use crate::snapshot::{self, SnapshotFile, entry_of};
use crate::state::Position;

/// Requests that wait for the thread; whoever has one more waits.
const QUEUE: usize = 256;
/// Bytes of blobs after which a transaction takes no more of them: hundreds of usual ones, and a large one holds up few.
const STORED_BYTES: usize = 1 << 20;
/// Blobs known to be missing that wait to be fetched; those beyond are found again by looking through all.
const MISSING: usize = 1_024;

/// What a change of the catalogue was, for those who keep something in step with it.
#[derive(Debug)]
pub enum Changed<'a> {
    /// These commands were applied.
    Applied {
        /// In the log's order.
        commands: &'a [Envelope],
        /// What came of each.
        outcomes: &'a [Outcome],
    },
    /// All of it may be different: a snapshot took its place.
    Replaced,
}

/// Is told of changes once they are durable, on the catalogue's own thread: nothing is applied until it returns.
pub type ChangeHook = Arc<dyn Fn(Changed<'_>) + Send + Sync>;

type Failure = Arc<str>;
type Work = Box<dyn FnOnce(&mut Catalogue) + Send>;

enum Job {
    /// Blobs wait in a queue of their own.
    Store,
    Apply(Vec<Entry>, oneshot::Sender<Result<Vec<Answer>, Failure>>),
    Install(Arc<SnapshotFile>, oneshot::Sender<Result<(), Failure>>),
    Work(Work),
    Close(oneshot::Sender<()>),
}

/// A blob, and who waits for it to be stored.
struct Arriving {
    blob: Bytes,
    now_ms: u64,
    stored: oneshot::Sender<Result<(), Arc<CatalogueError>>>,
}

/// The catalogue, for openraft and for tasks. Cheap to clone; when the last clone is dropped, the thread ends.
#[derive(Clone)]
pub struct Machine {
    jobs: mpsc::Sender<Job>,
    blobs: mpsc::Sender<Arriving>,
    position: watch::Receiver<Arc<Position>>,
    /// The catalogue's file.
    path: Arc<Path>,
}

/// What the thread works with.
struct Keeper {
    catalogue: Catalogue,
    blobs: mpsc::Receiver<Arriving>,
    position: watch::Sender<Arc<Position>>,
    changed: ChangeHook,
    missing: mpsc::Sender<BlobHash>,
    fatal: FatalHook,
    failed: Option<Failure>,
}

impl Machine {
    /// Gives the catalogue at `path` to a thread. Blobs that turn out to be missing come out of the receiver.
    ///
    /// # Errors
    /// Where its position cannot be read, or there can be no more threads.
    pub fn start(
        catalogue: Catalogue,
        path: &Path,
        changed: ChangeHook,
        fatal: FatalHook,
    ) -> Result<(Self, mpsc::Receiver<BlobHash>), CatalogueError> {
        let applied = catalogue.applied()?;
        let position = Position::decode(&applied.position).map_err(CatalogueError::Malformed)?;
        let (position, watched) = watch::channel(Arc::new(position));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (blobs, arrived) = mpsc::channel(QUEUE);
        let (missing, wanted) = mpsc::channel(MISSING);
        let keeper = Keeper { catalogue, blobs: arrived, position, changed, missing, fatal, failed: None };
        thread::Builder::new()
            .name("catalogue".to_owned())
            .spawn(move || keeper.run(queue))
            .map_err(|_| CatalogueError::Damaged("its thread cannot be started"))?;
        Ok((Self { jobs, blobs, position: watched, path: Arc::from(path) }, wanted))
    }

    /// How far entries are applied, and the cluster's state there.
    #[must_use]
    pub fn position(&self) -> watch::Receiver<Arc<Position>> {
        self.position.clone()
    }

    /// The catalogue's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the thread do something with the catalogue that stands beside the log. None where it is closed.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce(&mut Catalogue) -> T + Send + 'static) -> Option<T> {
        let (answer, done) = oneshot::channel();
        let job = Job::Work(Box::new(move |catalogue| {
            let _ = answer.send(work(catalogue));
        }));
        self.jobs.send(job).await.ok()?;
        done.await.ok()
    }

    /// Stores a blob, with others that wait; it is durable when this returns. None where the catalogue is closed.
    pub(crate) async fn store(&self, blob: Bytes, now_ms: u64) -> Option<Result<(), Arc<CatalogueError>>> {
        let (stored, done) = oneshot::channel();
        self.blobs.send(Arriving { blob, now_ms, stored }).await.ok()?;
        self.jobs.send(Job::Store).await.ok()?;
        done.await.ok()
    }

    /// Closes the file; later requests are refused.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Job) -> Result<T, Failure> {
        let (answer, done) = oneshot::channel();
        self.jobs.send(job(answer)).await.map_err(|_| Failure::from("it is closed"))?;
        done.await.map_err(|_| Failure::from("it is closed"))?
    }

    /// The newest snapshot is the catalogue as it is.
    fn newest(&self) -> Snapshot<TypeConfig> {
        let position = self.position.borrow().clone();
        let meta = SnapshotMeta {
            last_log_id: position.log_id,
            last_membership: position.membership.clone(),
            snapshot_id: position.log_id.map(|id| id.to_string()).unwrap_or_default(),
        };
        Snapshot { meta, snapshot: Box::new(SnapshotSource::Live(Arc::clone(&self.path))) }
    }
}

impl Keeper {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            match job {
                Job::Apply(entries, answer) => {
                    let answers = self.apply_all(entries);
                    let _ = answer.send(answers);
                }
                Job::Install(file, answer) => {
                    let installed = self.install(&file);
                    let _ = answer.send(installed);
                }
                Job::Work(work) => work(&mut self.catalogue),
                Job::Store => self.store_arrived(),
                Job::Close(done) => {
                    drop(self);
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    /// Stores all blobs that have arrived: whose turn comes later finds that it is done.
    fn store_arrived(&mut self) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for _ in 0..self.blobs.len() {
            let Ok(arriving) = self.blobs.try_recv() else { break };
            bytes += arriving.blob.len();
            batch.push(arriving);
            if bytes >= STORED_BYTES {
                self.store(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        self.store(batch);
    }

    /// Stores blobs in one transaction. Where that fails each has one of its own: one that the disk has no room for is no
    /// reason to refuse the others.
    fn store(&mut self, batch: Vec<Arriving>) {
        let Some(now_ms) = batch.iter().map(|arriving| arriving.now_ms).max() else { return };
        let together = self.catalogue.put_blobs(batch.iter().map(|arriving| &arriving.blob[..]), now_ms);
        let alone = batch.len() == 1;
        let together = together.map_err(Arc::new);
        for Arriving { blob, now_ms, stored } in batch {
            let outcome = match &together {
                Err(_) if !alone => self.catalogue.put_blobs([&blob[..]], now_ms).map_err(Arc::new),
                together => together.clone(),
            };
            let _ = stored.send(outcome);
        }
    }

    fn fail(&mut self, error: &FatalError) -> Failure {
        self.fatal.call(error);
        let failure = Failure::from(error.to_string());
        self.failed = Some(Arc::clone(&failure));
        failure
    }

    /// All of them in one transaction; up to the first that cannot be read, where there is one.
    fn apply_all(&mut self, entries: Vec<Entry>) -> Result<Vec<Answer>, Failure> {
        if let Some(failure) = &self.failed {
            return Err(Arc::clone(failure));
        }
        let mut position = Position::clone(&self.position.borrow());
        let (batch, unreadable) = Batch::of(entries, &mut position);
        let answers = self.commit(batch, position)?;
        match unreadable {
            Some(error) => Err(self.fail(&error)),
            None => Ok(answers),
        }
    }

    fn commit(&mut self, batch: Batch, position: Position) -> Result<Vec<Answer>, Failure> {
        let entry = position.log_id.map_or(0, entry_of);
        let applied = Applied { entry, position: position.encode() };
        let outcomes = match self.catalogue.apply_through(&batch.commands, &applied) {
            Ok(outcomes) => outcomes,
            Err(error) => return Err(self.fail(&FatalError::Catalogue(Arc::new(error)))),
        };
        self.position.send_replace(Arc::new(position));
        if !batch.commands.is_empty() {
            (self.changed)(Changed::Applied { commands: &batch.commands, outcomes: &outcomes });
            self.note_missing(&batch.commands, &outcomes);
        }
        Ok(batch.answers(outcomes))
    }

    fn note_missing(&self, commands: &[Envelope], outcomes: &[Outcome]) {
        for (envelope, outcome) in commands.iter().zip(outcomes) {
            if let (Command::Publish(publish), Outcome::Published { .. }) = (&envelope.command, outcome)
                && !self.catalogue.has_blob(publish.content.blob).unwrap_or(true)
            {
                let _ = self.missing.try_send(publish.content.blob);
            }
        }
    }

    fn install(&mut self, file: &SnapshotFile) -> Result<(), Failure> {
        if let Some(failure) = &self.failed {
            return Err(Arc::clone(failure));
        }
        let taken = self.catalogue.become_copy(file.path()).and_then(|()| self.catalogue.applied());
        let position = taken.and_then(|applied| Position::decode(&applied.position).map_err(CatalogueError::Malformed));
        match position {
            Ok(position) => {
                self.position.send_replace(Arc::new(position));
                (self.changed)(Changed::Replaced);
                Ok(())
            }
            Err(error) => Err(self.fail(&FatalError::Catalogue(Arc::new(error)))),
        }
    }
}

/// Applies entries where no thread has the catalogue, and nobody waits for answers.
pub(crate) fn replay(
    catalogue: &mut Catalogue,
    entries: Vec<Entry>,
    position: &mut Position,
) -> Result<(), FatalError> {
    let (batch, unreadable) = Batch::of(entries, position);
    let applied = Applied { entry: position.log_id.map_or(0, entry_of), position: position.encode() };
    let done = catalogue.apply_through(&batch.commands, &applied);
    done.map_err(|error| FatalError::Catalogue(Arc::new(error)))?;
    unreadable.map_or(Ok(()), Err)
}

/// Commands of some entries, and where their outcomes belong.
#[derive(Default)]
struct Batch {
    commands: Vec<Envelope>,
    /// For each entry its answer; those of the catalogue follow from the outcomes of so many commands.
    parts: Vec<Part>,
}

enum Part {
    Commands(usize),
    Answer(Answer),
}

impl Batch {
    /// Up to the first entry that cannot be read, where there is one. `position` is moved on.
    fn of(entries: Vec<Entry>, position: &mut Position) -> (Self, Option<FatalError>) {
        let mut batch = Self::default();
        for entry in entries {
            let log_id = entry.log_id;
            if let Err(cause) = batch.add(entry, position) {
                return (batch, Some(FatalError::NewerEntry { index: log_id.index, cause: Arc::new(cause) }));
            }
            position.log_id = Some(log_id);
        }
        (batch, None)
    }

    fn add(&mut self, entry: Entry, position: &mut Position) -> Result<(), CatalogueError> {
        let malformed = |error: serde_json::Error| CatalogueError::Malformed(error.to_string());
        let part = match entry.payload {
            EntryPayload::Blank => Part::Answer(Answer::Nothing),
            EntryPayload::Membership(membership) => {
                position.set_membership(StoredMembership::new(Some(entry.log_id), membership));
                Part::Answer(Answer::Nothing)
            }
            EntryPayload::Normal(Proposal::Cluster(text)) => {
                let command = serde_json::from_str(&text).map_err(malformed)?;
                Part::Answer(Answer::Cluster(position.apply(command)))
            }
            EntryPayload::Normal(Proposal::Catalogue(texts)) => {
                let commands = texts.iter().map(|text| Envelope::decode(text.as_bytes()));
                let commands = commands.collect::<Result<Vec<_>, _>>()?;
                let part = Part::Commands(commands.len());
                self.commands.extend(commands);
                part
            }
        };
        self.parts.push(part);
        Ok(())
    }

    fn answers(self, outcomes: Vec<Outcome>) -> Vec<Answer> {
        let mut outcomes = outcomes.into_iter();
        let answer = |part| match part {
            Part::Answer(answer) => answer,
            Part::Commands(count) => Answer::Catalogue(outcomes.by_ref().take(count).collect()),
        };
        self.parts.into_iter().map(answer).collect()
    }
}

fn any(failure: &Failure) -> AnyError {
    AnyError::error(failure.as_ref())
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        Ok(self.newest())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let position = self.position.borrow().clone();
        Ok((position.log_id, position.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(Vec::new()) };
        let answers = self.ask(|answer| Job::Apply(entries, answer)).await;
        answers.map_err(|failure| StorageIOError::apply(last, any(&failure)).into())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotSource>, StorageError> {
        Ok(Box::new(SnapshotSource::Live(Arc::clone(&self.path))))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, Member>,
        snapshot: Box<SnapshotSource>,
    ) -> Result<(), StorageError> {
        let failed = |error: AnyError| StorageIOError::write_snapshot(Some(meta.signature()), error);
        let file = match *snapshot {
            SnapshotSource::Checked(file) => file,
            SnapshotSource::Live(live) => {
                let folder = self.path.parent().map(Path::to_owned).unwrap_or_default();
                let made = tokio::task::spawn_blocking(move || snapshot::make(&live, &folder)).await;
                let made = made.map_err(|error| failed(AnyError::new(&error)))?;
                Arc::new(made.map_err(|error| failed(AnyError::new(&error)))?.0)
            }
        };
        let installed = self.ask(|answer| Job::Install(file, answer)).await;
        installed.map_err(|failure| failed(any(&failure)).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        Ok(Some(self.newest()).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    /// Blobs that come while the thread is busy.
    const WAITING: usize = 100;

    #[tokio::test]
    async fn blobs_that_wait_are_stored_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalogue");
        let fatal = FatalHook::new(|error| panic!("{error}"));
        let catalogue = Catalogue::open(&path).unwrap();
        let (machine, _missing) = Machine::start(catalogue, &path, Arc::new(|_| ()), fatal).unwrap();
        let written = || std::fs::metadata(folder.path().join("catalogue-wal")).unwrap().len();
        let before = written();

        let (busy, is_busy) = oneshot::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let holding = machine.clone();
        let held = tokio::spawn(async move {
            holding.work(move |_| (busy.send(()), released.recv())).await;
        });
        is_busy.await.unwrap();
        let blobs: Vec<Bytes> = (0..WAITING).map(|number| Bytes::from(vec![number as u8; 500])).collect();
        let mut stores = JoinSet::new();
        for blob in blobs.clone() {
            let machine = machine.clone();
            stores.spawn(async move { machine.store(blob, 1).await.unwrap().unwrap() });
        }
        while machine.jobs.capacity() > QUEUE - WAITING {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        stores.join_all().await;
        held.await.unwrap();

        let all_there = machine.work(move |catalogue| {
            blobs.iter().all(|blob| catalogue.blob(BlobHash::of(blob)).unwrap().as_deref() == Some(&blob[..]))
        });
        assert!(all_there.await.unwrap());
        // Each transaction writes a page, and the log's file does not shrink.
        assert!(written() - before < WAITING as u64 * 4_096, "they were not stored together");
        machine.close().await;
        assert!(machine.store(Bytes::from_static(b"late"), 1).await.is_none());
    }
}
