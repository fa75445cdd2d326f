//! The threads that hash and touch files.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::handles::Handles;

/// Threads that wait for the disk: syncs, journal records, renames. They use no processor to speak of, so they are
/// beside those that hash; two, so that one slow disk does not stop the downloads to another.
const WAITING_THREADS: usize = 2;

/// Something to do on a thread of the disk.
type Job = Box<dyn FnOnce() + Send>;

/// Which jobs come first, and on which threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Pieces that came in: somebody waits for the buffers.
    Pieces,
    /// Data that was there before: long, and cut into short jobs.
    Existing,
    /// What waits for the disk itself.
    Waiting,
}

/// Worker threads for hashing and files. Cheap to clone; they end when the last clone and the last [`Store`] are gone.
///
/// [`Store`]: super::Store
#[derive(Debug, Clone)]
pub struct Disk {
    owner: Arc<Owner>,
}

/// Stops the threads when nobody can give them work any more.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    threads: usize,
}

#[derive(Debug)]
struct Shared {
    queues: Mutex<Queues>,
    hashing: Condvar,
    waiting: Condvar,
    handles: Handles,
}

#[derive(Default)]
struct Queues {
    pieces: VecDeque<Job>,
    existing: VecDeque<Job>,
    waiting: VecDeque<Job>,
    alarms: BinaryHeap<Reverse<Alarm>>,
    alarms_set: u64,
    closed: bool,
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{} jobs", self.pieces.len(), self.existing.len(), self.waiting.len())
    }
}

/// A job for later. Ordered by time, then by the order in which they were set.
struct Alarm {
    at: Instant,
    number: u64,
    job: Job,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Disk {
    /// Starts `threads` workers; 0 means one for each core.
    #[must_use]
    pub fn start(threads: usize) -> Self {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let wanted = if threads == 0 { cores() } else { threads };
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            hashing: Condvar::new(),
            waiting: Condvar::new(),
            handles: Handles::new(),
        });
        let started = (0..wanted).filter(|_| spawn(&shared, "obt-hash", Shared::hash)).count();
        for _ in 0..WAITING_THREADS {
            spawn(&shared, "obt-disk", Shared::wait);
        }
        Self { owner: Arc::new(Owner { shared, threads: started.max(1) }) }
    }

    /// How many workers hash.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.owner.threads
    }

    /// The files that are open for all stores together.
    pub(super) fn handles(&self) -> &Handles {
        &self.owner.shared.handles
    }

    /// Queues a job.
    pub(super) fn run(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        let shared = &self.owner.shared;
        let mut queues = shared.lock();
        match lane {
            Lane::Pieces => queues.pieces.push_back(Box::new(job)),
            Lane::Existing => queues.existing.push_back(Box::new(job)),
            Lane::Waiting => queues.waiting.push_back(Box::new(job)),
        }
        drop(queues);
        match lane {
            Lane::Pieces | Lane::Existing => shared.hashing.notify_one(),
            Lane::Waiting => shared.waiting.notify_one(),
        }
    }

    /// Queues a job for later.
    pub(super) fn run_at(&self, at: Instant, job: impl FnOnce() + Send + 'static) {
        let shared = &self.owner.shared;
        let mut queues = shared.lock();
        queues.alarms_set += 1;
        let number = queues.alarms_set;
        queues.alarms.push(Reverse(Alarm { at, number, job: Box::new(job) }));
        drop(queues);
        shared.waiting.notify_one();
    }

    /// Runs `job` on a thread of `lane` and waits for what it returns; None where the threads are gone.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        lane: Lane,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.run(lane, move || drop(answer.send(job())));
        answered.await.ok()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.hashing.notify_all();
        self.shared.waiting.notify_all();
    }
}

fn spawn(shared: &Arc<Shared>, name: &str, body: fn(&Shared)) -> bool {
    let shared = Arc::clone(shared);
    let spawned: io::Result<_> = thread::Builder::new().name(name.to_owned()).spawn(move || body(&shared));
    if let Err(error) = &spawned {
        tracing::warn!(%error, "cannot start a thread for the disk");
    }
    spawned.is_ok()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self) {
        let mut queues = self.lock();
        loop {
            if let Some(job) = queues.pieces.pop_front().or_else(|| queues.existing.pop_front()) {
                drop(queues);
                run(job);
                queues = self.lock();
            } else if queues.closed {
                return;
            } else {
                queues = self.hashing.wait(queues).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn wait(&self) {
        let mut queues = self.lock();
        loop {
            let now = Instant::now();
            if let Some(job) = queues.due(now) {
                drop(queues);
                run(job);
                queues = self.lock();
            } else if queues.closed {
                return;
            } else if let Some(Reverse(next)) = queues.alarms.peek() {
                let time = next.at.saturating_duration_since(now);
                queues = self.waiting.wait_timeout(queues, time).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                queues = self.waiting.wait(queues).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Queues {
    /// The next job of the waiting threads.
    fn due(&mut self, now: Instant) -> Option<Job> {
        if self.alarms.peek().is_some_and(|Reverse(next)| next.at <= now) {
            return self.alarms.pop().map(|Reverse(alarm)| alarm.job);
        }
        self.waiting.pop_front()
    }
}

/// A job that panics ends itself and not the thread: the others still have to be done.
fn run(job: Job) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        tracing::error!("a job of the disk panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn pieces_come_before_existing_data() {
        let disk = Disk::start(1);
        let (tell, told) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        disk.run(Lane::Pieces, move || gate.recv().unwrap_or_default());
        for (lane, name) in [(Lane::Existing, "existing"), (Lane::Pieces, "piece")] {
            let tell = tell.clone();
            disk.run(lane, move || tell.send(name).unwrap());
        }
        open.send(()).unwrap();
        assert_eq!((told.recv().unwrap(), told.recv().unwrap()), ("piece", "existing"));
    }

    #[test]
    fn jobs_that_wait_and_alarms_run_beside_those_that_hash() {
        let disk = Disk::start(1);
        let (tell, told) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        disk.run(Lane::Pieces, move || gate.recv().unwrap_or_default());
        let late = tell.clone();
        disk.run_at(Instant::now() + Duration::from_millis(1), move || late.send("alarm").unwrap());
        assert_eq!(told.recv().unwrap(), "alarm");
        disk.run(Lane::Waiting, move || tell.send("waiting").unwrap());
        assert_eq!(told.recv().unwrap(), "waiting");
        drop(open);
    }

    #[test]
    fn f06_a_job_that_panics_does_not_take_the_thread_with_it() {
        let disk = Disk::start(1);
        let (tell, told) = mpsc::channel();
        disk.run(Lane::Pieces, || panic!("a test"));
        disk.run(Lane::Pieces, move || tell.send(()).unwrap());
        told.recv().unwrap();
    }
}
