//! The files of one torrent on disk: opened below a folder's handle, and watched for changes by others.
//!
//! A file's size and modification time after our own last write are known; whatever else shows up there was done by
//! somebody else, and the file is suspect until it is hashed again.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use obt_storage::{FileIndex, Layout, Stamp};
use obt_sys::Access;
use obt_wire::metainfo::Metainfo;
use rustix::fs::{FileType, Stat};

use super::{Disk, StoreError};

/// Most buffers in one vectored write: what Linux takes (`IOV_MAX`).
const WRITE_BUFFERS: usize = 1_024;
/// Files shorter than this gain nothing from being laid out in one go, bytes.
const PREALLOCATE_FROM: u64 = 1 << 20;

/// Where the files of a torrent are found.
#[derive(Debug)]
pub(super) struct Base {
    /// The folder below which everything happens.
    pub(super) folder: OwnedFd,
    /// The path of that folder, to name files in errors.
    pub(super) shown: PathBuf,
    /// Components that stand for the first `strip` components of each path.
    pub(super) prefix: Vec<OsString>,
    /// How many components of a path in the torrent `prefix` stands for. Files with other beginnings than
    /// `only_below` are not here.
    pub(super) strip: usize,
    /// What the paths of all files that are here begin with; empty for all.
    pub(super) only_below: Vec<String>,
}

impl Base {
    /// `listed` has its components with `/` between them.
    fn path<'a>(&'a self, listed: &'a str) -> Option<Vec<&'a OsStr>> {
        let components = listed.split_terminator('/');
        let mut path: Vec<&OsStr> = self.prefix.iter().map(OsString::as_os_str).collect();
        let mut only_below = self.only_below.iter();
        let mut stripped = 0;
        for component in components {
            if only_below.next().is_some_and(|folder| folder != component) {
                return None;
            }
            if stripped < self.strip {
                stripped += 1;
            } else {
                path.push(OsStr::new(component));
            }
        }
        (stripped == self.strip && only_below.next().is_none()).then_some(path)
    }
}

/// What a look at a file says.
#[derive(Debug)]
pub(super) enum Look {
    /// It is as we left it.
    Same(Arc<File>),
    /// Somebody changed it just now, and it is suspect from here on.
    Changed,
    /// It is suspect already.
    Suspect,
}

/// What a write found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// The file was as we left it.
    Same,
    /// Somebody else had changed it; it is suspect from here on.
    Changed,
}

#[derive(Debug, Default)]
struct State {
    handle: Option<Arc<File>>,
    /// After our last write, or as it was found; None where there is no such file.
    stamp: Option<Stamp>,
    /// Our writes so far, and whether one is under way: they move the time too. Like `changes` only compared with what it
    /// was a moment before, so that it may wrap.
    writes: u32,
    writing: bool,
    /// Changes by others so far, and whether what they left was not hashed yet.
    changes: u32,
    suspect: bool,
    /// Used since the handles were last looked through.
    used: bool,
    /// Written since the last sync.
    dirty: bool,
    /// Closed after that: a new handle might not learn that its writes failed.
    closed_dirty: bool,
}

/// What is known of a file; there may be 200,000 of them. Held for moments only.
#[derive(Debug, Default)]
struct Slot(Mutex<State>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held over a write, so that a change by somebody else can be told from our own. Several files share one.
type Turn = Mutex<()>;

/// Many more than threads that write, so that they seldom meet at one.
const TURNS: usize = 64;

/// The data files of one torrent.
#[derive(Debug)]
pub(super) struct Files {
    metainfo: Arc<Metainfo>,
    layout: Arc<Layout>,
    disk: Disk,
    writable: bool,
    base: RwLock<Arc<Base>>,
    /// Files that have another path than listed, because the file system cannot keep their names apart.
    renamed: BTreeMap<usize, String>,
    preallocate: AtomicBool,
    slots: Vec<Slot>,
    turns: [Turn; TURNS],
    /// Files that were written since the last sync, each once.
    dirty: Mutex<Vec<FileIndex>>,
    /// Files that were created here, and how many of them a sync of the whole file system has made durable by name.
    created: AtomicU64,
    durable: AtomicU64,
}

impl Files {
    pub(super) fn new(
        disk: &Disk,
        metainfo: Arc<Metainfo>,
        layout: Arc<Layout>,
        base: Base,
        renamed: BTreeMap<usize, String>,
        writable: bool,
    ) -> Self {
        let slots = layout.indices().map(|_| Slot::default()).collect();
        let turns = std::array::from_fn(|_| Turn::default());
        let base = RwLock::new(Arc::new(base));
        let (preallocate, dirty) = (AtomicBool::new(false), Mutex::default());
        // What an earlier process created is not known to be durable by name.
        let (created, durable) = (AtomicU64::new(1), AtomicU64::new(0));
        Self {
            metainfo,
            layout,
            disk: disk.clone(),
            writable,
            base,
            renamed,
            preallocate,
            slots,
            turns,
            dirty,
            created,
            durable,
        }
    }

    /// Whether files that are created from here on get their room at once.
    pub(super) fn set_preallocate(&self, yes: bool) {
        self.preallocate.store(yes, Ordering::Relaxed);
    }

    /// Finds the files elsewhere from here on: they were renamed. Open handles stay good.
    pub(super) fn moved(&self, base: Base) {
        *self.base.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(base);
    }

    fn base(&self) -> Arc<Base> {
        Arc::clone(&self.base.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn listed(&self, file: FileIndex) -> &str {
        let listed = self.layout.file(file).map_or(usize::MAX, |file| file.listed as usize);
        let renamed = self.renamed.get(&listed).map(String::as_str);
        renamed.or_else(|| Some(self.metainfo.info.files.get(listed)?.path.as_str())).unwrap_or_default()
    }

    /// What a file looked like after our last write.
    pub(super) fn stamp(&self, file: FileIndex) -> Option<Stamp> {
        self.slots.get(file.0 as usize)?.lock().stamp
    }

    /// The path of a file, to name it in errors.
    pub(super) fn shown(&self, file: FileIndex) -> PathBuf {
        let base = self.base();
        let path = base.path(self.listed(file)).unwrap_or_default();
        path.iter().fold(base.shown.clone(), |shown, name| shown.join(name))
    }

    fn error(&self, doing: &'static str, file: FileIndex, source: io::Error) -> StoreError {
        StoreError::Io { doing, path: self.shown(file), source }
    }

    fn slot(&self, file: FileIndex) -> io::Result<&Slot> {
        self.slots.get(file.0 as usize).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn size(&self, file: FileIndex) -> u64 {
        self.layout.file(file).map_or(0, |file| file.size)
    }

    /// [`find`](Self::find) for every file. Where not even the folder above them is there, they are not looked for one by
    /// one.
    pub(super) fn find_all(&self) -> Result<Vec<Option<Stamp>>, StoreError> {
        let base = self.base();
        let above = obt_sys::stat_beneath(&base.folder, &base.prefix);
        if above.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(vec![None; self.slots.len()]);
        }
        let find = |file| self.find(file).map_err(|error| self.error("look at", file, error));
        self.layout.indices().map(find).collect()
    }

    /// Looks what is there, without opening anything, and takes it as what the file should look like from here on.
    /// None where there is no regular file.
    pub(super) fn find(&self, file: FileIndex) -> io::Result<Option<Stamp>> {
        let found = self.stat(file)?.filter(is_regular).map(|found| stamp(&found));
        self.slot(file)?.lock().stamp = found;
        Ok(found)
    }

    fn stat(&self, file: FileIndex) -> io::Result<Option<Stat>> {
        let base = self.base();
        let Some(path) = base.path(self.listed(file)) else {
            return Ok(None);
        };
        match obt_sys::stat_beneath(&base.folder, &path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at the file under its name. Whether it is as we left it, and nobody else changed it since its change
    /// number `changes`; if not, it is suspect from here on.
    pub(super) fn is_unchanged(&self, file: FileIndex, changes: u32) -> bool {
        let Ok(slot) = self.slot(file) else {
            return false;
        };
        let found = self.stat(file).ok().flatten().filter(is_regular).map(|found| stamp(&found));
        let mut state = slot.lock();
        if found != state.stamp && !state.writing {
            state.note_change(found);
        }
        state.changes == changes
    }

    /// What every file looked like after our last write.
    pub(super) fn stamps(&self) -> Vec<Option<Stamp>> {
        self.slots.iter().map(|slot| slot.lock().stamp).collect()
    }

    /// Opens a file that is there.
    pub(super) fn open(self: &Arc<Self>, file: FileIndex) -> io::Result<Arc<File>> {
        let slot = self.slot(file)?;
        {
            let mut state = slot.lock();
            state.used = true;
            if let Some(handle) = &state.handle {
                return Ok(Arc::clone(handle));
            }
        }
        let access = if self.writable { Access::Write } else { Access::Read };
        let opened = self.open_as(file, access)?;
        Ok(self.keep(file, slot, opened))
    }

    fn open_as(&self, file: FileIndex, access: Access) -> io::Result<File> {
        let base = self.base();
        let path = base.path(self.listed(file)).ok_or(io::ErrorKind::NotFound)?;
        let opened = obt_sys::open_beneath(&base.folder, &path, access)?;
        let found = rustix::fs::fstat(&opened)?;
        if !is_regular(&found) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // A second name means that somebody else's file was linked here: writing to it would write to theirs.
        if self.writable && found.st_nlink > 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file has a second name"));
        }
        Ok(opened)
    }

    fn keep(self: &Arc<Self>, file: FileIndex, slot: &Slot, opened: File) -> Arc<File> {
        let opened = Arc::new(opened);
        slot.lock().handle = Some(Arc::clone(&opened));
        self.disk.handles().opened(Arc::downgrade(self), file);
        opened
    }

    /// Whether the file was used since this was last asked.
    pub(super) fn was_used(&self, file: FileIndex) -> bool {
        self.slot(file).is_ok_and(|slot| std::mem::take(&mut slot.lock().used))
    }

    /// Forgets a file's handle; it is closed when nobody uses it.
    pub(super) fn close(&self, file: FileIndex) -> Option<Arc<File>> {
        self.slot(file).ok()?.lock().close()
    }

    /// Looks at a file that is to be read for others.
    pub(super) fn look(self: &Arc<Self>, file: FileIndex) -> io::Result<Look> {
        let slot = self.slot(file)?;
        let (stamp_before, writes_before) = {
            let state = slot.lock();
            if state.suspect {
                return Ok(Look::Suspect);
            }
            (state.stamp, state.writes)
        };
        let handle = match self.open(file) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                slot.lock().note_change(None);
                return Ok(Look::Changed);
            }
            Err(error) => return Err(error),
        };
        let found = rustix::fs::fstat(&*handle)?;
        let there = (found.st_nlink > 0).then(|| stamp(&found));
        if there.is_some() && there == stamp_before {
            return Ok(Look::Same(handle));
        }
        let mut state = slot.lock();
        // Our own write moves the time while it is under way; what it writes is no piece that anybody reads.
        if there.is_some() && (state.writing || state.writes != writes_before) {
            return Ok(Look::Same(handle));
        }
        state.note_change(there);
        Ok(Look::Changed)
    }

    /// How often others changed the file so far.
    pub(super) fn changes(&self, file: FileIndex) -> u32 {
        self.slot(file).map_or(0, |slot| slot.lock().changes)
    }

    /// Whether somebody changed the file and it was not hashed since.
    pub(super) fn is_suspect(&self, file: FileIndex) -> bool {
        self.slot(file).is_ok_and(|slot| slot.lock().suspect)
    }

    /// The file was hashed: it is not suspect any more.
    pub(super) fn clear(&self, file: FileIndex) {
        if let Ok(slot) = self.slot(file) {
            slot.lock().suspect = false;
        }
    }

    /// Writes buffers to a file, in order, from `offset`; creates it, and the folders on the way, where they are not
    /// there.
    pub(super) fn write(
        self: &Arc<Self>,
        file: FileIndex,
        offset: u64,
        buffers: &mut [IoSlice<'_>],
    ) -> io::Result<Before> {
        let slot = self.slot(file)?;
        let turn = self.turns.get(file.0 as usize % TURNS).map(Mutex::lock);
        let _turn = turn.map(|turn| turn.unwrap_or_else(PoisonError::into_inner));
        let expected = {
            let mut state = slot.lock();
            state.writing = true;
            state.stamp
        };
        let outcome = self.write_in_turn(file, slot, expected, offset, buffers);
        let mut state = slot.lock();
        state.writing = false;
        state.writes = state.writes.wrapping_add(1);
        if let Some(found) = state.handle.as_ref().and_then(|handle| rustix::fs::fstat(&**handle).ok()) {
            state.stamp = Some(stamp(&found));
        }
        let before = outcome?;
        if before == Before::Changed {
            state.changes = state.changes.wrapping_add(1);
            state.suspect = true;
        }
        if !std::mem::replace(&mut state.dirty, true) {
            drop(state);
            self.lock_dirty().push(file);
        }
        Ok(before)
    }

    fn write_in_turn(
        self: &Arc<Self>,
        file: FileIndex,
        slot: &Slot,
        expected: Option<Stamp>,
        offset: u64,
        buffers: &mut [IoSlice<'_>],
    ) -> io::Result<Before> {
        if expected.is_none()
            && let Some(handle) = self.create(file, slot)?
        {
            // A write of all of a file gives it its size too.
            let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
            if offset > 0 || length as u64 != self.size(file) {
                self.set_size(&handle, self.size(file))?;
            }
            write_all(&handle, offset, buffers)?;
            return Ok(Before::Same);
        }
        let mut handle = self.open_or_create(file, slot)?;
        let mut found = rustix::fs::fstat(&*handle)?;
        let mut changed = expected.is_some_and(|expected| expected != stamp(&found));
        if found.st_nlink == 0 {
            // Somebody deleted it: what was in it is lost, and more would be lost with it.
            changed = true;
            slot.lock().close();
            handle = self.open_or_create(file, slot)?;
            found = rustix::fs::fstat(&*handle)?;
        }
        if u64::try_from(found.st_size).ok() != Some(self.size(file)) {
            self.set_size(&handle, self.size(file))?;
        }
        write_all(&handle, offset, buffers)?;
        Ok(if changed { Before::Changed } else { Before::Same })
    }

    fn set_size(&self, file: &File, size: u64) -> io::Result<()> {
        let gain = size >= PREALLOCATE_FROM && self.preallocate.load(Ordering::Relaxed);
        if gain && obt_sys::preallocate(file, size).unwrap_or(false) && file.metadata()?.len() == size {
            return Ok(());
        }
        file.set_len(size)
    }

    fn open_or_create(self: &Arc<Self>, file: FileIndex, slot: &Slot) -> io::Result<Arc<File>> {
        match self.open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create(file, slot)?.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
            }
            other => other,
        }
    }

    /// Creates a file, and the folders on the way; None where something is there.
    fn create(self: &Arc<Self>, file: FileIndex, slot: &Slot) -> io::Result<Option<Arc<File>>> {
        let base = self.base();
        let path = base.path(self.listed(file)).ok_or(io::ErrorKind::NotFound)?;
        let create = || obt_sys::open_beneath(&base.folder, &path, Access::Create);
        let created = create().or_else(|error| match path.split_last() {
            Some((_, folders)) if error.kind() == io::ErrorKind::NotFound => {
                obt_sys::make_folders(&base.folder, folders)?;
                create()
            }
            _ => Err(error),
        });
        match created {
            Ok(created) => {
                self.created.fetch_add(1, Ordering::Release);
                Ok(Some(self.keep(file, slot, created)))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the names of all files, and of the folders on the way, are durable.
    pub(super) fn has_durable_names(&self) -> bool {
        self.created.load(Ordering::Acquire) == self.durable.load(Ordering::Acquire)
    }

    /// Makes sure that a file is there with its size, though nothing was written to it: empty files.
    pub(super) fn touch(self: &Arc<Self>, file: FileIndex) -> Result<(), StoreError> {
        let there = self.stat(file).map_err(|error| self.error("look at", file, error))?;
        if there.is_some_and(|found| is_regular(&found) && found.st_size == 0) {
            return Ok(());
        }
        self.write(file, 0, &mut []).map(drop).map_err(|error| self.error("create", file, error))
    }

    /// Reads all of `out` from `offset`; [`io::ErrorKind::UnexpectedEof`] where the file is shorter.
    pub(super) fn read(self: &Arc<Self>, file: FileIndex, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.open(file)?.read_exact_at(out, offset)
    }

    fn lock_dirty(&self) -> MutexGuard<'_, Vec<FileIndex>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable all that was written. `anchor` is any file on the same file system that has been open since
    /// before the first write.
    pub(super) fn sync(self: &Arc<Self>, anchor: &File) -> io::Result<()> {
        /// More files than this are cheaper to sync with everything else on the file system.
        const ONE_BY_ONE: usize = 64;
        let created = self.created.load(Ordering::Acquire);
        let dirty = std::mem::take(&mut *self.lock_dirty());
        let mut all_at_once = dirty.len() > ONE_BY_ONE;
        for file in &dirty {
            let mut state = self.slot(*file)?.lock();
            state.dirty = false;
            all_at_once |= std::mem::take(&mut state.closed_dirty);
        }
        if all_at_once && obt_sys::sync_file_system(anchor)? {
            self.durable.store(created, Ordering::Release);
            return Ok(());
        }
        dirty.iter().try_for_each(|file| self.open(*file)?.sync_data())
    }
}

impl State {
    fn note_change(&mut self, found: Option<Stamp>) {
        self.stamp = found;
        self.changes = self.changes.wrapping_add(1);
        self.suspect = true;
        self.close();
    }

    fn close(&mut self) -> Option<Arc<File>> {
        self.closed_dirty |= self.dirty;
        self.handle.take()
    }
}

pub(super) fn is_regular(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
}

/// What shows whether a file is still the one that was looked at.
pub(crate) fn stamp(found: &Stat) -> Stamp {
    // The types of these fields differ between systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions)]
    let (seconds, nanoseconds, inode) = (
        i64::try_from(found.st_mtime).unwrap_or(0),
        i64::try_from(found.st_mtime_nsec).unwrap_or(0),
        u64::try_from(found.st_ino).unwrap_or(0),
    );
    let size = u64::try_from(found.st_size).unwrap_or(0);
    let mtime_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    Stamp { size, mtime_ns, inode }
}

/// Writes everything, however little the system takes at a time (HOSTILE F18).
fn write_all(file: &File, mut offset: u64, mut buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !buffers.is_empty() {
        let some = buffers.get(..WRITE_BUFFERS).unwrap_or(buffers);
        match rustix::io::pwritev(file, some, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut buffers, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
