//! openraft's log storage over a [`LogFile`] that a thread of its own holds.
//!
//! Whatever waits while the disk is busy becomes one transaction with one sync; nobody is told that something is
//! stored before that sync has returned. The first failure is the last: it goes to the [`FatalHook`], and every later
//! request is refused.

mod file;

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::thread;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError};
use tokio::sync::{mpsc, oneshot};

use file::Change;
pub use file::{Beginning, Identity, LogError, LogFile};

use crate::fatal::{FatalError, FatalHook};
use crate::raft::{Entry, LogId, StorageError, TypeConfig, Vote};

/// Requests that wait for the thread; whoever has one more waits.
const QUEUE: usize = 256;
/// Requests in one transaction.
const BATCH: usize = 64;
/// Bytes of entries in one answer to a reader: with what surrounds them they fit in a frame between members.
const READ_BYTES: usize = 4 * 1_024 * 1_024;

/// What failed, for all who ask afterwards.
type Failure = Arc<str>;
type Done = oneshot::Sender<Result<(), Failure>>;

/// Answers by itself; what it gives back is a failure of the file.
type ReadJob = Box<dyn FnOnce(Result<&LogFile, Failure>) -> Result<(), LogError> + Send>;

enum Job {
    Write(Change, Notify),
    Read(ReadJob),
    Joined(Done),
    Close(oneshot::Sender<()>),
}

enum Notify {
    Flushed(LogFlushed<TypeConfig>),
    Done(Done),
}

/// The log, for openraft. Cheap to clone; when the last clone is dropped, the thread closes the file.
#[derive(Clone)]
pub struct LogStore {
    jobs: mpsc::Sender<Job>,
}

impl LogStore {
    /// Gives the file to a thread.
    ///
    /// # Errors
    /// Where there can be no more threads.
    pub fn start(file: LogFile, fatal: FatalHook) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        thread::Builder::new().name("raft-log".to_owned()).spawn(move || run(file, queue, &fatal))?;
        Ok(Self { jobs })
    }

    /// Notes that the cluster has let this member in.
    pub(crate) async fn set_joined(&self) -> Result<(), Failure> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Joined(done)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Closes the file; later requests are refused.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn write(&self, change: Change) -> Result<(), Failure> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Write(change, Notify::Done(done))).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&LogFile) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, Failure> {
        let (done, answer) = oneshot::channel();
        let job = move |file: Result<&LogFile, Failure>| match file.map(read) {
            Ok(Ok(value)) => {
                let _ = done.send(Ok(value));
                Ok(())
            }
            Ok(Err(error)) => {
                let _ = done.send(Err(Failure::from(error.to_string())));
                Err(error)
            }
            Err(failure) => {
                let _ = done.send(Err(failure));
                Ok(())
            }
        };
        self.jobs.send(Job::Read(Box::new(job))).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn entries(&self, start: u64, end: u64, most_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        self.read(move |file| file.read(start, end, most_bytes))
            .await
            .map_err(|failure| StorageIOError::read_logs(any(&failure)).into())
    }
}

fn closed() -> Failure {
    Failure::from("it is closed")
}

fn any(failure: &Failure) -> AnyError {
    AnyError::error(failure.as_ref())
}

fn run(mut file: LogFile, mut queue: mpsc::Receiver<Job>, fatal: &FatalHook) {
    let mut jobs = Vec::with_capacity(BATCH);
    let mut failed: Option<Failure> = None;
    while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
        let (mut changes, mut notify) = (Vec::new(), Vec::new());
        for job in jobs.drain(..) {
            match job {
                Job::Write(change, who) => {
                    changes.push(change);
                    notify.push(who);
                }
                Job::Read(read) => {
                    write(&mut file, &mut changes, &mut notify, &mut failed, fatal);
                    let outcome = read(failed.clone().map_or(Ok(&file), Err));
                    note(outcome, &mut failed, fatal);
                }
                Job::Joined(done) => {
                    write(&mut file, &mut changes, &mut notify, &mut failed, fatal);
                    if failed.is_none() {
                        let outcome = file.set_joined();
                        note(outcome, &mut failed, fatal);
                    }
                    let _ = done.send(failed.clone().map_or(Ok(()), Err));
                }
                Job::Close(done) => {
                    write(&mut file, &mut changes, &mut notify, &mut failed, fatal);
                    drop(file);
                    let _ = done.send(());
                    return;
                }
            }
        }
        write(&mut file, &mut changes, &mut notify, &mut failed, fatal);
    }
}

fn note(outcome: Result<(), LogError>, failed: &mut Option<Failure>, fatal: &FatalHook) {
    if let Err(error) = outcome {
        fatal.call(&FatalError::Log(error.to_string()));
        *failed = Some(Failure::from(error.to_string()));
    }
}

fn write(
    file: &mut LogFile,
    changes: &mut Vec<Change>,
    notify: &mut Vec<Notify>,
    failed: &mut Option<Failure>,
    fatal: &FatalHook,
) {
    if failed.is_none() && !changes.is_empty() {
        let outcome = file.write(changes);
        note(outcome, failed, fatal);
    }
    changes.clear();
    for who in notify.drain(..) {
        let outcome = failed.clone().map_or(Ok(()), Err);
        match who {
            Notify::Flushed(callback) => {
                callback.log_io_completed(outcome.map_err(|failure| std::io::Error::other(failure.as_ref())));
            }
            Notify::Done(done) => {
                let _ = done.send(outcome);
            }
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.entries(start, end, READ_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let ends = self.read(LogFile::ends).await.map_err(|failure| StorageIOError::read_logs(any(&failure)))?;
        Ok(LogState { last_purged_log_id: ends.purged, last_log_id: ends.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = self.write(Change::Vote(*vote)).await;
        saved.map_err(|failure| StorageIOError::write_vote(any(&failure)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = self.read(LogFile::vote).await.map_err(|failure| StorageIOError::read_vote(any(&failure)))?;
        Ok((vote != Vote::default()).then_some(vote))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let job = Job::Write(Change::Append(entries.into_iter().collect()), Notify::Flushed(callback));
        self.jobs.send(job).await.map_err(|_| StorageIOError::write_logs(any(&closed())).into())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let done = self.write(Change::Truncate(log_id.index)).await;
        done.map_err(|failure| StorageIOError::write_logs(any(&failure)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let done = self.write(Change::Purge(log_id)).await;
        done.map_err(|failure| StorageIOError::write_logs(any(&failure)).into())
    }
}
