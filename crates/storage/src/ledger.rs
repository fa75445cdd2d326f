//! In which order the bytes of a download become durable, and what may be claimed when.
//!
//! The order is: data, its sync (in batches), a journal record, its sync, and only then does a later process
//! believe it; at the end a rename that replaces nothing, and the sync of the folder. The ledger decides all of it
//! and does none: the shell runs each [`Action`] and answers with an [`Event`]. One sync, record or rename is under
//! way at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use obt_wire::{Bitfield, PieceIndex};
use thiserror::Error;

use crate::journal::{self, Journal, Slot, Stamp};
use crate::spans::{FileIndex, Layout};

/// Bytes that are written before they are synced: what a power cut may cost, against one flush of the disk's cache.
pub const SYNC_BYTES: u64 = 64 << 20;
/// Longest time that written bytes wait for a sync.
pub const SYNC_AFTER: Duration = Duration::from_secs(5);
/// First wait before a disk that failed is tried again: room may appear at any moment, and a probe is cheap.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait between two tries.
pub const RETRY_LONGEST: Duration = Duration::from_secs(15);
/// Room that a probe asks for, bytes, but no more than is still missing: less would stop and go with every block.
const PROBE_BYTES: u64 = 4 << 20;
/// Least that a probe asks for, bytes: one page.
const PROBE_LEAST: u64 = 4096;

/// Why the disk takes no more. The texts end the sentence "paused: ...".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// No room, no inodes, or the file would be longer than allowed.
    #[error("the disk is full")]
    Full,
    /// The user's quota is spent.
    #[error("the disk quota is used up")]
    Quota,
    /// The file system is read-only.
    #[error("the file system is read-only")]
    ReadOnly,
    /// The user may not write there.
    #[error("permission denied")]
    Denied,
    /// Anything else: a failing device, a network file system that went away.
    #[error("the disk fails ({0})")]
    Failing(String),
}

/// Why a download could not be finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishError {
    /// Wanted pieces are not stored.
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// Something else has the final name.
    Occupied,
    /// Somebody else changed a file.
    Changed {
        /// Which.
        file: FileIndex,
    },
    /// The rename or the sync of the folder failed.
    Disk(Fault),
}

/// What has happened on the disk, or what the owner wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A piece is verified and written, but not synced.
    Stored {
        /// Which.
        piece: PieceIndex,
        /// What its files look like after the write.
        stamps: Vec<(FileIndex, Stamp)>,
    },
    /// Files were written to, and nothing is to be claimed for it: unverified blocks, a write that failed half-way.
    Touched {
        /// What their files look like after the write.
        stamps: Vec<(FileIndex, Stamp)>,
    },
    /// A write failed; what it was to store is missing.
    WriteFailed {
        /// Why.
        fault: Fault,
    },
    /// A file was changed by somebody else and hashed again.
    Rechecked {
        /// Which.
        file: FileIndex,
        /// What it looked like while it was hashed; None where it is gone.
        stamp: Option<Stamp>,
        /// Pieces that it has no more.
        lost: Vec<PieceIndex>,
    },
    /// Answers [`Action::Sync`].
    Synced(Result<(), Fault>),
    /// Answers [`Action::WriteJournal`].
    JournalWritten(Result<(), Fault>),
    /// Answers [`Action::Probe`].
    Probed(Result<(), Fault>),
    /// Answers [`Action::Rename`].
    Renamed(Result<(), FinishError>),
    /// Answers [`Action::SyncFolder`].
    FolderSynced(Result<(), Fault>),
    /// Make durable what is stored, note it, and say so.
    Flush,
    /// Make everything durable and give it its final name.
    Finish,
}

/// Something for the shell to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make everything durable that was written so far.
    Sync,
    /// Write this record to this slot and sync it.
    WriteJournal {
        /// Where to.
        slot: Slot,
        /// The whole record.
        bytes: Vec<u8>,
    },
    /// These pieces are not had any more, and can be fetched again: no record on disk claims them.
    Withdraw {
        /// Which.
        pieces: Vec<PieceIndex>,
    },
    /// Tell everybody to stop fetching.
    Pause {
        /// Why.
        fault: Fault,
    },
    /// Find out whether the disk takes this many more bytes.
    Probe {
        /// How many.
        bytes: u64,
    },
    /// Tell everybody to go on.
    Resume,
    /// Give the data its final name, replacing nothing that the user did not allow to be replaced.
    Rename,
    /// Make the rename durable.
    SyncFolder,
    /// [`Event::Flush`] is done, as far as the disk allowed.
    Flushed,
    /// [`Event::Finish`] is done: the partial folder can go.
    Finished,
    /// [`Event::Finish`] came to nothing.
    FinishFailed(FinishError),
}

/// Why the ledger wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Written bytes have waited long enough for their sync.
    SyncDue,
    /// A disk that failed may work again.
    Retry,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    Syncing,
    Journaling(Slot),
    Renaming,
    SyncingFolder,
}

/// A pause of the download.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// When to probe; None while a probe is under way.
    retry_at: Option<Instant>,
}

/// How far the final name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placing {
    Partial,
    Renamed,
    Durable,
}

/// What is stored, synced and claimed of one download.
///
/// Invariant: `synced`, `syncing` and `unsynced` are disjoint and together are `stored`; a record claims what was
/// `synced` when it was encoded, so nothing else is ever claimed.
#[derive(Debug)]
pub struct Ledger {
    layout: Arc<Layout>,
    wanted: Bitfield,
    stored: Bitfield,
    synced: Bitfield,
    /// Stored since the last sync began.
    unsynced: Vec<PieceIndex>,
    /// Covered by the sync that is under way.
    syncing: Vec<PieceIndex>,
    unsynced_bytes: u64,
    /// When the oldest of `unsynced` was stored.
    unsynced_since: Option<Instant>,
    stamps: Vec<Option<Stamp>>,
    /// What the record that a later process would find may claim.
    claimed: Bitfield,
    /// What the record that is being written claims.
    claiming: Bitfield,
    /// Lost, but perhaps still claimed by a record: nothing may be written in their place yet. After a power cut the
    /// new bytes might be there without the time of the write.
    withheld: Vec<PieceIndex>,
    generation: u64,
    slot: Slot,
    /// `synced` or `stamps` differ from the last record in a way that a later process would want to know.
    note_pieces: bool,
    note_stamps: bool,
    step: Step,
    pause: Option<Pause>,
    /// A sync or a record failed: nothing is tried again before a probe succeeds.
    halted: bool,
    backoff: Duration,
    flush: bool,
    finish: bool,
    placing: Placing,
    actions: VecDeque<Action>,
}

impl Ledger {
    /// The ledger of a download of the `wanted` pieces that begins with these pieces on disk, all of them durable:
    /// `journal` is the newest record and where it is, `stored` what resuming found, `stamps` what the files look
    /// like.
    #[must_use]
    pub fn new(
        layout: Arc<Layout>,
        wanted: Bitfield,
        stored: Bitfield,
        stamps: Vec<Option<Stamp>>,
        journal: Option<&(Slot, Journal)>,
    ) -> Self {
        let (generation, slot) = journal.map_or((0, Slot::A), |(slot, record)| (record.generation, slot.other()));
        // What resuming hashed was perhaps never synced by the process that wrote it.
        let proven = |piece: &PieceIndex| journal.is_some_and(|(_, record)| record.pieces.has(*piece));
        let unsynced: Vec<PieceIndex> = stored.iter().filter(|piece| !proven(piece)).collect();
        let mut synced = stored.clone();
        for piece in &unsynced {
            synced.clear(*piece);
        }
        Self {
            note_stamps: journal.is_none_or(|(_, record)| record.stamps != stamps),
            note_pieces: journal.is_some_and(|(_, record)| record.pieces != synced),
            unsynced_bytes: if unsynced.is_empty() { 0 } else { SYNC_BYTES },
            layout,
            wanted,
            stored,
            claimed: journal.map_or_else(|| Bitfield::empty(synced.len()), |(_, record)| record.pieces.clone()),
            claiming: Bitfield::default(),
            withheld: Vec::new(),
            synced,
            unsynced,
            syncing: Vec::new(),
            unsynced_since: None,
            stamps,
            generation,
            slot,
            step: Step::Nothing,
            pause: None,
            halted: false,
            backoff: RETRY_FIRST,
            flush: false,
            finish: false,
            placing: Placing::Partial,
            actions: VecDeque::new(),
        }
    }

    /// Pieces that are verified and written.
    #[must_use]
    pub fn stored(&self) -> &Bitfield {
        &self.stored
    }

    /// What each file looked like after the last write to it.
    #[must_use]
    pub fn stamps(&self) -> &[Option<Stamp>] {
        &self.stamps
    }

    /// Takes in what has happened.
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Stored { piece, stamps } => self.stored_piece(piece, &stamps, now),
            Event::Touched { stamps } => self.note(&stamps),
            Event::WriteFailed { fault } => self.pause(fault, now),
            Event::Rechecked { file, stamp, lost } => self.rechecked(file, stamp, lost, now),
            Event::Synced(result) => self.on_synced(result, now),
            Event::JournalWritten(result) => self.on_journal_written(result, now),
            Event::Probed(result) => self.on_probed(result, now),
            Event::Renamed(result) => self.on_renamed(result),
            Event::FolderSynced(result) => self.on_folder_synced(result),
            Event::Flush => self.flush = true,
            Event::Finish => self.finish = true,
        }
        self.advance(now);
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let probe_due = |pause: &mut Pause| pause.retry_at.take_if(|at| *at <= now).is_some();
        if self.pause.as_mut().is_some_and(probe_due) {
            let bytes = self.probe_bytes();
            self.actions.push_back(Action::Probe { bytes });
        }
        self.advance(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Wake)> {
        let idle = self.step == Step::Nothing && !self.halted;
        let sync = self.unsynced_since.filter(|_| idle).map(|since| (since + SYNC_AFTER, Wake::SyncDue));
        let retry = self.pause.and_then(|pause| pause.retry_at).map(|at| (at, Wake::Retry));
        sync.into_iter().chain(retry).min_by_key(|(at, _)| *at)
    }

    /// The next thing to do, if there is one.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn stored_piece(&mut self, piece: PieceIndex, stamps: &[(FileIndex, Stamp)], now: Instant) {
        self.note(stamps);
        if !self.stored.set(piece) {
            return;
        }
        self.unsynced.push(piece);
        self.unsynced_bytes += u64::from(self.layout.geometry().piece_size(piece));
        self.unsynced_since.get_or_insert(now);
    }

    fn note(&mut self, stamps: &[(FileIndex, Stamp)]) {
        for (file, stamp) in stamps {
            if let Some(slot) = self.stamps.get_mut(file.0 as usize) {
                *slot = Some(*stamp);
                self.note_stamps = true;
            }
        }
    }

    fn rechecked(&mut self, file: FileIndex, stamp: Option<Stamp>, lost: Vec<PieceIndex>, now: Instant) {
        if let Some(slot) = self.stamps.get_mut(file.0 as usize) {
            *slot = stamp;
            self.note_stamps = true;
        }
        self.withdraw(lost);
        // Whoever changed the file did not sync it: what is left of it is synced once more before it is claimed.
        let pieces = self.layout.pieces_of(file);
        self.unsynced.retain(|piece| !pieces.contains(&piece.0));
        self.syncing.retain(|piece| !pieces.contains(&piece.0));
        for piece in pieces.map(PieceIndex).filter(|piece| self.stored.has(*piece)) {
            self.note_pieces |= self.synced.clear(piece);
            self.unsynced.push(piece);
            self.unsynced_bytes += u64::from(self.layout.geometry().piece_size(piece));
            self.unsynced_since.get_or_insert(now);
        }
    }

    /// Takes pieces back; each is told of as soon as nothing on disk claims it.
    fn withdraw(&mut self, mut pieces: Vec<PieceIndex>) {
        pieces.retain(|piece| self.stored.clear(*piece));
        if pieces.is_empty() {
            return;
        }
        for piece in &pieces {
            self.synced.clear(*piece);
        }
        let stored = &self.stored;
        self.unsynced.retain(|piece| stored.has(*piece));
        self.syncing.retain(|piece| stored.has(*piece));
        self.withheld.append(&mut pieces);
        self.note_pieces |= self.withheld.iter().any(|piece| self.claimed.has(*piece));
        self.release();
    }

    /// Tells of the lost pieces that no record claims any more.
    fn release(&mut self) {
        let (withheld, free) =
            std::mem::take(&mut self.withheld).into_iter().partition(|piece| self.claimed.has(*piece));
        self.withheld = withheld;
        let pieces: Vec<PieceIndex> = free;
        if !pieces.is_empty() {
            self.actions.push_back(Action::Withdraw { pieces });
        }
    }

    fn on_synced(&mut self, result: Result<(), Fault>, now: Instant) {
        self.step = Step::Nothing;
        let mut covered = std::mem::take(&mut self.syncing);
        match result {
            Ok(()) => {
                self.backoff = RETRY_FIRST;
                for piece in covered {
                    self.note_pieces |= self.synced.set(piece);
                }
            }
            // The kernel may have dropped the pages and called them clean (HOSTILE F16): a second sync that succeeds
            // proves nothing about them.
            Err(fault) => {
                covered.append(&mut self.unsynced);
                self.unsynced_bytes = 0;
                self.unsynced_since = None;
                self.halt(fault, now);
                self.withdraw(covered);
            }
        }
    }

    fn on_journal_written(&mut self, result: Result<(), Fault>, now: Instant) {
        let Step::Journaling(slot) = self.step else {
            return;
        };
        self.step = Step::Nothing;
        match result {
            Ok(()) => {
                self.slot = slot.other();
                self.claimed = std::mem::take(&mut self.claiming);
                self.note_pieces |= self.withheld.iter().any(|piece| self.claimed.has(*piece));
                self.release();
            }
            // The same slot again: the other one holds the last record that is known to be whole.
            Err(fault) => {
                (self.note_pieces, self.note_stamps) = (true, true);
                self.halt(fault, now);
            }
        }
    }

    fn on_probed(&mut self, result: Result<(), Fault>, now: Instant) {
        match result {
            Ok(()) => {
                self.halted = false;
                if self.pause.take().is_some() {
                    self.actions.push_back(Action::Resume);
                }
            }
            Err(_) => {
                self.backoff = (self.backoff * 2).min(RETRY_LONGEST);
                self.pause = self.pause.map(|_| Pause { retry_at: Some(now + self.backoff) });
            }
        }
    }

    fn on_renamed(&mut self, result: Result<(), FinishError>) {
        self.step = Step::Nothing;
        match result {
            Ok(()) => self.placing = Placing::Renamed,
            Err(error) => self.finish_failed(error),
        }
    }

    fn on_folder_synced(&mut self, result: Result<(), Fault>) {
        self.step = Step::Nothing;
        match result {
            Ok(()) => self.placing = Placing::Durable,
            Err(fault) => self.finish_failed(FinishError::Disk(fault)),
        }
    }

    fn finish_failed(&mut self, error: FinishError) {
        self.finish = false;
        self.actions.push_back(Action::FinishFailed(error));
    }

    /// Stops syncs and records until a probe succeeds; a flush ends with what could be done.
    fn halt(&mut self, fault: Fault, now: Instant) {
        self.halted = true;
        self.pause(fault, now);
    }

    fn pause(&mut self, fault: Fault, now: Instant) {
        if self.pause.is_some() {
            return;
        }
        self.pause = Some(Pause { retry_at: Some(now + self.backoff) });
        self.backoff = (self.backoff * 2).min(RETRY_LONGEST);
        self.actions.push_back(Action::Pause { fault });
    }

    /// Room for some pieces, but not for more than is missing: the last piece must fit into the last free bytes.
    fn probe_bytes(&self) -> u64 {
        let geometry = self.layout.geometry();
        let piece = u64::from(geometry.piece_length());
        let missing = self.wanted.count().saturating_sub(self.stored.count());
        let enough = (2 * piece).max(PROBE_BYTES);
        (u64::from(missing) * piece).clamp(PROBE_LEAST, enough)
    }

    /// Begins the next step, if nothing is under way.
    fn advance(&mut self, now: Instant) {
        debug_assert!(!self.synced.has_more_than(&self.stored), "synced pieces are stored");
        if self.step != Step::Nothing {
            return;
        }
        if self.halted {
            self.end_flush();
        } else if self.sync_due(now) {
            self.sync();
        } else if self.finish && !self.wanted.has_more_than(&self.stored) {
            // The final name says more than a record could.
            self.place();
        } else if self.note_pieces || (self.note_stamps && (self.flush || self.finish)) {
            self.write_journal();
        } else if self.finish {
            self.place();
        } else {
            self.end_flush();
        }
    }

    fn sync_due(&self, now: Instant) -> bool {
        let old = self.unsynced_since.is_some_and(|since| since + SYNC_AFTER <= now);
        let due = self.flush || self.finish || old || self.unsynced_bytes >= SYNC_BYTES;
        due && !self.unsynced.is_empty()
    }

    fn sync(&mut self) {
        self.syncing = std::mem::take(&mut self.unsynced);
        self.unsynced_bytes = 0;
        self.unsynced_since = None;
        self.begin(Step::Syncing, Action::Sync);
    }

    fn write_journal(&mut self) {
        self.generation += 1;
        (self.note_pieces, self.note_stamps) = (false, false);
        let bytes = journal::encode(&self.layout, self.generation, &self.synced, &self.stamps);
        self.claiming.clone_from(&self.synced);
        for piece in self.synced.iter() {
            self.claimed.set(piece);
        }
        self.begin(Step::Journaling(self.slot), Action::WriteJournal { slot: self.slot, bytes });
    }

    /// The steps after everything is durable.
    fn place(&mut self) {
        let missing = self.wanted.iter().filter(|piece| !self.stored.has(*piece)).count();
        match self.placing {
            Placing::Partial if missing > 0 => {
                let missing = u32::try_from(missing).unwrap_or(u32::MAX);
                self.finish_failed(FinishError::Incomplete { missing });
            }
            Placing::Partial => self.begin(Step::Renaming, Action::Rename),
            Placing::Renamed => self.begin(Step::SyncingFolder, Action::SyncFolder),
            Placing::Durable => {
                self.finish = false;
                self.actions.push_back(Action::Finished);
                self.end_flush();
            }
        }
    }

    fn begin(&mut self, step: Step, action: Action) {
        self.step = step;
        self.actions.push_back(action);
    }

    fn end_flush(&mut self) {
        if std::mem::take(&mut self.flush) {
            self.actions.push_back(Action::Flushed);
        }
    }
}

#[cfg(test)]
mod tests;
