//! What a node's disk is made of: a storage ledger, the writes that it has asked for, and what of them a power cut would
//! leave.
//!
//! A write is in memory until a sync that began after it is done; a record of the journal until its own sync is. A cut
//! keeps or loses each of those by chance, and may tear a record. What a new process then believes is decided by
//! `obt_storage`, and checked against what is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use obt_storage::journal;
use obt_storage::ledger::{Action, Event, Fault, FinishError, Ledger};
use obt_storage::resume::resume;
use obt_storage::{FileIndex, Journal, Layout, Slot, Stamp};
use obt_wire::{Bitfield, PieceIndex};

/// Time for a sync of data.
const SYNC: Duration = Duration::from_millis(20);
/// Time for anything smaller.
const SMALL: Duration = Duration::from_millis(5);

/// Something that the disk is busy with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// A sync of the writes up to this one.
    Sync {
        /// How many writes there were when it began.
        upto: usize,
        /// What comes of it.
        result: Result<(), Fault>,
    },
    /// A record is written and synced.
    Record(Slot),
    /// A look whether the disk works again.
    Probe,
    /// The data gets its final name.
    Rename,
    /// The folder is synced.
    SyncFolder,
    /// The ledger wants to be woken.
    Wake,
}

/// What the owner of a platter has to tell its core, or to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Come back with this after a while.
    Later(Duration, Job),
    /// Tell that these pieces are not had any more.
    Lost(Vec<PieceIndex>),
    /// Tell to stop asking.
    Pause,
    /// Tell to go on.
    Resume,
    /// The data has its final name for good.
    Finished,
}

/// How syncs go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Syncing {
    /// They make durable what was written.
    Honest,
    /// This share of them fails; what they were to make durable may be lost, whatever later ones say.
    Fails(f64),
    /// They say that they did and do nothing (a mutant).
    Lies,
}

/// A write, until it is durable.
#[derive(Debug, Clone, Copy)]
struct Write {
    piece: PieceIndex,
    good: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Platter {
    layout: Arc<Layout>,
    ledger: Ledger,
    syncing: Syncing,
    /// Whose right bytes are on the disk for good.
    durable: Bitfield,
    /// In memory, in the order of their writes, and how many there were before.
    writes: Vec<Write>,
    written: usize,
    /// Of syncs that failed: perhaps there, whatever later syncs say, which find their pages clean.
    doubtful: Vec<Write>,
    slots: [Vec<u8>; 2],
    record: Option<(Slot, Vec<u8>)>,
    /// Has its final name, in memory and for good.
    renamed: bool,
    placed: bool,
    /// Modification time of the file: counts the writes.
    mtime: i64,
    wake: Option<Instant>,
    rng: fastrand::Rng,
}

impl Platter {
    /// A disk with the pieces of `stored` on it, durable and, but for an empty one, under their final name.
    #[must_use]
    pub fn new(layout: &Arc<Layout>, stored: &Bitfield, syncing: Syncing, seed: u64) -> Self {
        let wanted = Bitfield::full(stored.len());
        let stamps = vec![None; layout.files().len()];
        Self {
            ledger: Ledger::new(Arc::clone(layout), wanted, stored.clone(), stamps, None),
            layout: Arc::clone(layout),
            syncing,
            durable: stored.clone(),
            writes: Vec::new(),
            written: 0,
            doubtful: Vec::new(),
            slots: [Vec::new(), Vec::new()],
            record: None,
            renamed: stored.is_full(),
            placed: stored.is_full(),
            mtime: 0,
            wake: None,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// A piece is written, with the right bytes or not.
    pub fn write(&mut self, piece: PieceIndex, good: bool, now: Instant, orders: &mut Vec<Order>) {
        self.mtime += 1;
        self.writes.push(Write { piece, good });
        let stamps = vec![(FileIndex(0), self.stamp())];
        self.tell(Event::Stored { piece, stamps }, now, orders);
    }

    /// A write failed: what it was to store is missing.
    pub fn fail(&mut self, now: Instant, orders: &mut Vec<Order>) {
        self.tell(Event::WriteFailed { fault: Fault::Full }, now, orders);
    }

    /// Everything is here: asks for the final name.
    pub fn finish(&mut self, now: Instant, orders: &mut Vec<Order>) {
        if !self.placed {
            self.tell(Event::Finish, now, orders);
        }
    }

    /// Whether the data has its final name for good.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.placed
    }

    /// A job is done.
    pub fn done(&mut self, job: Job, now: Instant, orders: &mut Vec<Order>) {
        let event = match job {
            Job::Sync { upto, result } => {
                self.settle(upto, result.is_ok());
                Event::Synced(result)
            }
            Job::Record(slot) => {
                if let Some((_, bytes)) = self.record.take_if(|(of, _)| *of == slot) {
                    self.slots[slot.index()] = bytes;
                }
                Event::JournalWritten(Ok(()))
            }
            Job::Probe => Event::Probed(Ok(())),
            Job::Rename => {
                self.renamed = true;
                Event::Renamed(Ok::<(), FinishError>(()))
            }
            Job::SyncFolder => {
                self.placed = true;
                Event::FolderSynced(Ok(()))
            }
            Job::Wake => {
                self.wake = None;
                self.ledger.handle_timeout(now);
                self.act(now, orders);
                return;
            }
        };
        self.tell(event, now, orders);
    }

    fn tell(&mut self, event: Event, now: Instant, orders: &mut Vec<Order>) {
        self.ledger.handle_event(event, now);
        self.act(now, orders);
    }

    fn act(&mut self, now: Instant, orders: &mut Vec<Order>) {
        while let Some(action) = self.ledger.poll_action() {
            orders.push(match action {
                Action::Sync => {
                    let upto = self.written + self.writes.len();
                    Order::Later(SYNC, Job::Sync { upto, result: self.outcome() })
                }
                Action::WriteJournal { slot, bytes } => {
                    self.record = Some((slot, bytes));
                    Order::Later(SMALL, Job::Record(slot))
                }
                Action::Probe { .. } => Order::Later(SMALL, Job::Probe),
                Action::Rename => Order::Later(SMALL, Job::Rename),
                Action::SyncFolder => Order::Later(SMALL, Job::SyncFolder),
                Action::Withdraw { pieces } => Order::Lost(pieces),
                Action::Pause { .. } => Order::Pause,
                Action::Resume => Order::Resume,
                Action::Finished => Order::Finished,
                Action::Flushed | Action::FinishFailed(_) => continue,
            });
        }
        if let Some((at, _)) = self.ledger.poll_timeout()
            && self.wake.is_none_or(|wake| wake > at)
        {
            self.wake = Some(at);
            orders.push(Order::Later(at.saturating_duration_since(now), Job::Wake));
        }
    }

    fn outcome(&mut self) -> Result<(), Fault> {
        match self.syncing {
            Syncing::Fails(share) if self.rng.f64() < share => Err(Fault::Failing("I/O error".into())),
            _ => Ok(()),
        }
    }

    /// A sync of the writes up to this one has ended.
    fn settle(&mut self, upto: usize, works: bool) {
        let covered = upto.saturating_sub(self.written).min(self.writes.len());
        self.written += covered;
        let covered = self.writes.drain(..covered);
        if !works || self.syncing == Syncing::Lies {
            self.doubtful.extend(covered);
            return;
        }
        for write in covered {
            place(&mut self.durable, write);
        }
    }

    fn stamp(&self) -> Stamp {
        let size = self.layout.files().first().map_or(0, |file| file.size);
        Stamp { size, mtime_ns: self.mtime, inode: 0 }
    }

    fn newest_record(&self) -> Option<(Slot, Journal)> {
        journal::newest(&self.layout, [&self.slots[0], &self.slots[1]])
    }

    /// That nothing on the disk claims what a power cut could take.
    ///
    /// # Errors
    /// What is claimed and not durable.
    pub fn check(&self) -> Result<(), String> {
        if self.placed && !self.durable.is_full() {
            return Err("a final name over a hole".into());
        }
        let Some((_, record)) = self.newest_record() else {
            return Ok(());
        };
        match record.pieces.iter().find(|piece| !self.durable.has(*piece)) {
            Some(piece) => Err(format!("{piece:?} is in the journal and not durable")),
            None => Ok(()),
        }
    }

    /// The power goes, and comes back: what a new process finds, and believes. Returns the pieces that it has.
    ///
    /// # Errors
    /// Where it believes what is not there.
    pub fn cut(&mut self) -> Result<Bitfield, String> {
        let Self { doubtful, writes, durable, rng, .. } = self;
        for write in doubtful.drain(..).chain(writes.drain(..)).filter(|_| rng.bool()) {
            place(durable, write);
        }
        if let Some((slot, bytes)) = self.record.take() {
            // All of it, none of it, or a part over the older one.
            let there = [0, bytes.len(), rng.usize(..=bytes.len())][rng.usize(..3)];
            let old = &mut self.slots[slot.index()];
            old.resize(old.len().max(there), 0);
            old[..there].copy_from_slice(&bytes[..there]);
        }
        self.placed = self.placed || (self.renamed && self.rng.bool());
        self.renamed = self.placed;
        if self.placed && !self.durable.is_full() {
            return Err("a final name over a hole".into());
        }
        self.reopen()
    }

    fn reopen(&mut self) -> Result<Bitfield, String> {
        let record = self.newest_record();
        // The worst case: the file has the very time that the record wants, if it ever had it.
        let wanted = record.as_ref().and_then(|(_, record)| record.stamps[0]);
        let found = wanted.filter(|_| self.rng.bool()).or((self.mtime > 0).then(|| self.stamp()));
        let believed = resume(&self.layout, record.as_ref().map(|(_, record)| record), &[found]);
        if let Some(piece) = believed.proven.iter().find(|piece| !self.durable.has(*piece)) {
            return Err(format!("after a power cut {piece:?} is believed to be there"));
        }
        // What is not proven is hashed.
        let mut stored = believed.proven.clone();
        for piece in believed.unproven.iter().filter(|piece| self.durable.has(*piece)) {
            stored.set(piece);
        }
        if self.placed {
            stored = Bitfield::full(stored.len());
        }
        let full = Bitfield::full(stored.len());
        self.ledger = Ledger::new(Arc::clone(&self.layout), full, stored.clone(), vec![found], record.as_ref());
        (self.written, self.wake) = (0, None);
        Ok(stored)
    }
}

/// Right bytes are there after a write of right ones, and not after one of wrong ones.
fn place(durable: &mut Bitfield, write: Write) {
    if write.good {
        durable.set(write.piece)
    } else {
        durable.clear(write.piece)
    };
}
