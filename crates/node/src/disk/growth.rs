//! A download on its way to its final name: runs what the ledger decides.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use obt_storage::ledger::{Action, Event, Fault, FinishError, Ledger};
use obt_storage::{FileIndex, Slot};
use obt_wire::PieceIndex;
use tokio::sync::oneshot;

use super::coming::Coming;
use super::files::Base;
use super::partial::{Partial, fault, io_error};
use super::store::Data;
use super::workers::Lane;
use super::{Done, OnExisting, StoreError};

/// Those who wait for the ledger.
#[derive(Debug, Default)]
struct Waiting {
    finish: Vec<oneshot::Sender<Result<(), FinishError>>>,
    flush: Vec<oneshot::Sender<()>>,
}

/// What a download has beyond its data.
#[derive(Debug)]
pub(super) struct Growth {
    partial: Partial,
    final_name: String,
    /// What of the torrent gets the final name: the path below its folder, nothing for all of it.
    selected: Vec<String>,
    on_existing: OnExisting,
    ledger: Mutex<Ledger>,
    pub(super) coming: Mutex<Coming>,
    /// How many syncs failed: what was written before them may be lost (HOSTILE F16).
    pub(super) failed_syncs: AtomicU32,
    waiting: Mutex<Waiting>,
    /// When the ledger is woken next.
    alarm: Mutex<Option<Instant>>,
    /// It has its final name for good: nothing is written any more.
    finished: AtomicBool,
}

impl Growth {
    pub(super) fn new(
        partial: Partial,
        final_name: String,
        selected: Vec<String>,
        on_existing: OnExisting,
        ledger: Ledger,
    ) -> Self {
        Self {
            partial,
            final_name,
            selected,
            on_existing,
            ledger: Mutex::new(ledger),
            coming: Mutex::default(),
            failed_syncs: AtomicU32::new(0),
            waiting: Mutex::default(),
            alarm: Mutex::new(None),
            finished: AtomicBool::new(false),
        }
    }

    pub(super) fn lock_ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn final_path(&self) -> PathBuf {
        self.partial.folder_path().join(&self.final_name)
    }
}

impl Data {
    /// The download, while it is one.
    pub(super) fn growing(&self) -> Option<&Growth> {
        self.growth.get().filter(|growth| !growth.finished.load(Ordering::Acquire))
    }

    /// Tells the ledger what has happened, and begins what it wants.
    pub(super) fn tell(self: &Arc<Self>, event: Event) {
        let Some(growth) = self.growing() else {
            return;
        };
        if matches!(event, Event::Synced(Err(_))) {
            growth.failed_syncs.fetch_add(1, Ordering::Release);
        }
        let mut ledger = growth.lock_ledger();
        ledger.handle_event(event, Instant::now());
        self.act(growth, &mut ledger);
    }

    /// Begins what the ledger wants. Its lock is held, so that others hear of things in their order.
    pub(super) fn act(self: &Arc<Self>, growth: &Growth, ledger: &mut Ledger) {
        while let Some(action) = ledger.poll_action() {
            match action {
                Action::Sync => self.answer(|data, growth| {
                    Event::Synced(data.files.sync(growth.partial.anchor()).map_err(|error| fault(&error)))
                }),
                Action::WriteJournal { slot, bytes } => {
                    self.answer(move |_, growth| write_journal(growth, slot, &bytes))
                }
                Action::Probe { bytes } => self
                    .answer(move |_, growth| Event::Probed(growth.partial.probe(bytes).map_err(|error| fault(&error)))),
                Action::Rename => self.answer(|data, growth| Event::Renamed(data.rename(growth))),
                Action::SyncFolder => self.answer(|_, growth| {
                    Event::FolderSynced(growth.partial.sync_folder().map_err(|error| fault(&error)))
                }),
                Action::Withdraw { pieces } => {
                    self.unset_have(&pieces);
                    self.tell_done(Done::Withdrawn { pieces });
                }
                Action::Pause { .. } if growth.partial.is_removed() => {
                    self.tell_done(Done::Removed { path: growth.partial.path() });
                }
                Action::Pause { fault } => self.tell_done(Done::Paused { reason: fault.to_string() }),
                Action::Resume => self.tell_done(Done::Resumed),
                Action::Flushed => {
                    growth.end_flush();
                }
                Action::Finished => self.finished(growth),
                Action::FinishFailed(error) => growth.end_finish(&Err(error)),
            }
        }
        self.set_alarm(growth, ledger);
    }

    /// Runs something that waits for the disk, and tells the ledger what came of it.
    fn answer(self: &Arc<Self>, job: impl FnOnce(&Arc<Self>, &Growth) -> Event + Send + 'static) {
        let data = Arc::clone(self);
        self.disk.run(Lane::Waiting, move || {
            let Some(growth) = data.growth.get() else {
                return;
            };
            let event = job(&data, growth);
            data.tell(event);
        });
    }

    fn set_alarm(self: &Arc<Self>, growth: &Growth, ledger: &Ledger) {
        let Some((at, _)) = ledger.poll_timeout() else {
            return;
        };
        let mut alarm = growth.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if alarm.is_some_and(|set| set <= at) {
            return;
        }
        *alarm = Some(at);
        let data = Arc::downgrade(self);
        self.disk.run_at(at, move || {
            let Some(data) = data.upgrade() else {
                return;
            };
            let Some(growth) = data.growing() else {
                return;
            };
            growth.alarm.lock().unwrap_or_else(PoisonError::into_inner).take_if(|set| *set == at);
            let mut ledger = growth.lock_ledger();
            ledger.handle_timeout(Instant::now());
            data.act(growth, &mut ledger);
        });
    }

    pub(super) async fn flush(self: &Arc<Self>) {
        let Some(growth) = self.growing() else {
            return;
        };
        let (done, flushed) = oneshot::channel();
        growth.lock_waiting().flush.push(done);
        self.tell(Event::Flush);
        let _ = flushed.await;
    }

    pub(super) async fn finish(self: &Arc<Self>) -> Result<PathBuf, StoreError> {
        if let Some(path) = self.place() {
            return Ok(path);
        }
        let growth = self.growing().ok_or(StoreError::Stopped)?;
        let data = Arc::clone(self);
        self.disk.ask(Lane::Existing, move || data.create_empty_files()).await.ok_or(StoreError::Stopped)??;
        let mut changed = None;
        loop {
            let (done, finished) = oneshot::channel();
            growth.lock_waiting().finish.push(done);
            self.tell(Event::Finish);
            match finished.await.map_err(|_| StoreError::Stopped)? {
                Ok(()) => return self.place().ok_or(StoreError::Stopped),
                Err(FinishError::Changed { .. }) if changed.is_none() => changed = Some(self.settle().await?),
                // What is missing is what the changed files lost.
                Err(FinishError::Incomplete { .. }) if let Some(Some(file)) = changed => {
                    return Err(StoreError::Changed { path: self.files.shown(file) });
                }
                Err(error) => return Err(self.finish_error(growth, error)),
            }
        }
    }

    /// Hashes again what somebody else changed (HOSTILE F21). Returns one of these files.
    async fn settle(self: &Arc<Self>) -> Result<Option<FileIndex>, StoreError> {
        let data = Arc::clone(self);
        let changed = self.disk.ask(Lane::Existing, move || data.changed_files()).await.ok_or(StoreError::Stopped)?;
        for file in &changed {
            self.recheck_now(*file).await;
        }
        Ok(changed.first().copied())
    }

    /// Nothing is ever written to files without bytes.
    fn create_empty_files(self: &Arc<Self>) -> Result<(), StoreError> {
        let empty = self.layout.indices().zip(self.layout.files()).filter(|(_, known)| known.size == 0);
        let mut selected = empty.map(|(file, _)| file).filter(|file| self.is_selected(*file));
        selected.try_for_each(|file| self.files.touch(file))
    }

    fn changed_files(&self) -> Vec<FileIndex> {
        let had = |file: &FileIndex| self.layout.pieces_of(*file).any(|piece| self.has(PieceIndex(piece)));
        self.layout.indices().filter(|file| had(file) && self.is_changed(*file)).collect()
    }

    /// Whether somebody else changed a file, and what it holds is not known again.
    fn is_changed(&self, file: FileIndex) -> bool {
        !self.files.is_unchanged(file, self.files.changes(file)) || self.files.is_suspect(file)
    }

    fn finish_error(&self, growth: &Growth, error: FinishError) -> StoreError {
        match error {
            FinishError::Incomplete { missing } => StoreError::Incomplete { missing },
            FinishError::Occupied => StoreError::Occupied { path: growth.final_path() },
            FinishError::Changed { file } => StoreError::Changed { path: self.files.shown(file) },
            FinishError::Disk(fault) => io_error("rename to", &growth.final_path(), io::Error::other(fault)),
        }
    }

    /// Whether a file gets the final name, or is below what gets it.
    fn is_selected(&self, file: FileIndex) -> bool {
        let selected = self.growth.get().map_or(&[][..], |growth| &growth.selected);
        let listed = self.layout.file(file).and_then(|file| self.metainfo.info.files.get(file.listed as usize));
        listed.is_some_and(|file| file.path.starts_with(selected))
    }

    fn rename(self: &Arc<Self>, growth: &Growth) -> Result<(), FinishError> {
        // At the last moment.
        let is_written = |file: &FileIndex| self.files.stamp(*file).is_some() && self.is_selected(*file);
        if let Some(file) = self.layout.indices().find(|file| is_written(file) && self.is_changed(*file)) {
            return Err(FinishError::Changed { file });
        }
        let disk = |error: io::Error| FinishError::Disk(fault(&error));
        let moved = self.final_base(growth).map_err(disk)?;
        if !self.metainfo.info.single_file {
            self.sync_folders(growth).map_err(disk)?;
        }
        growth.partial.rename(&growth.selected, &growth.final_name, growth.on_existing)?;
        self.files.moved(moved);
        Ok(())
    }

    /// Makes the folders inside the data durable, with all that is in them.
    fn sync_folders(&self, growth: &Growth) -> io::Result<()> {
        if self.files.has_durable_names() || obt_sys::sync_file_system(growth.partial.anchor())? {
            return Ok(());
        }
        let inside = growth.partial.inside()?;
        let paths = self.metainfo.info.data_files().map(|(_, file)| file.path.as_str());
        // What ends before a `/`, and the folder of all.
        let above = |path: &'_ str| path.rmatch_indices('/').map(|(at, _)| at).chain([0]).collect::<Vec<_>>();
        let folders: std::collections::BTreeSet<&str> =
            paths.flat_map(|path| above(path).into_iter().map(|end| &path[..end])).collect();
        for folder in folders {
            let mut path = vec![obt_storage::names::DATA];
            path.extend(folder.split_terminator('/'));
            rustix::fs::fsync(obt_sys::open_folder_beneath(&inside, &path)?)?;
        }
        Ok(())
    }

    /// Where the files are found after the rename.
    fn final_base(&self, growth: &Growth) -> io::Result<Base> {
        let single = self.metainfo.info.single_file;
        Ok(Base {
            folder: growth.partial.folder()?,
            shown: growth.partial.folder_path().to_path_buf(),
            prefix: vec![growth.final_name.clone().into()],
            strip: if single { 1 } else { growth.selected.len() },
            only_below: growth.selected.clone(),
        })
    }

    /// The final name is durable. What else lies in the partial folder goes away with it.
    fn finished(self: &Arc<Self>, growth: &Growth) {
        self.set_place(growth.final_path());
        growth.finished.store(true, Ordering::Release);
        growth.end_flush();
        let gone = self.pieces_outside(growth);
        if !gone.is_empty() {
            self.unset_have(&gone);
            self.tell_done(Done::Withdrawn { pieces: gone });
        }
        let data = Arc::clone(self);
        self.disk.run(Lane::Waiting, move || {
            let Some(growth) = data.growth.get() else {
                return;
            };
            if let Err(error) = growth.partial.remove() {
                tracing::warn!(path = %growth.partial.path().display(), %error, "cannot remove the partial folder");
            }
            growth.end_finish(&Ok(()));
        });
    }

    /// Pieces that are had and have bytes of files that do not get the final name.
    fn pieces_outside(&self, growth: &Growth) -> Vec<PieceIndex> {
        if growth.selected.is_empty() {
            return Vec::new();
        }
        let have = self.have();
        let outside = |piece: &PieceIndex| self.layout.files_of(*piece).any(|file| !self.is_selected(file));
        have.iter().filter(outside).collect()
    }
}

impl Growth {
    fn end_flush(&self) {
        for waiting in std::mem::take(&mut self.lock_waiting().flush) {
            let _ = waiting.send(());
        }
    }

    fn end_finish(&self, result: &Result<(), FinishError>) {
        for waiting in std::mem::take(&mut self.lock_waiting().finish) {
            let _ = waiting.send(result.clone());
        }
    }
}

fn write_journal(growth: &Growth, slot: Slot, bytes: &[u8]) -> Event {
    let written: Result<(), Fault> = growth.partial.write_journal(slot, bytes).map_err(|error| fault(&error));
    Event::JournalWritten(written)
}
