//! The folder in which a download grows, beside its final place: who owns it, what is in it, and how its data gets
//! the final name.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cap_std::fs::Dir;
use obt_storage::journal::{self, Journal, Slot};
use obt_storage::ledger::{Fault, FinishError};
use obt_storage::{Layout, names};
use obt_sys::{Access, Replaced};
use obt_wire::metainfo::Metainfo;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::files::is_regular;
use super::{OnExisting, StoreError};

/// Largest torrent or journal that is read back, bytes: more than either can be.
const READ_LIMIT: u64 = 256 << 20;
/// What a new torrent is called before it takes the place of the old one.
const METAINFO_NEW: &str = "metainfo.new";
/// What was at the final name, where the file system cannot exchange two names.
const REPLACED: &str = "replaced";

/// A partial folder that this process owns until this value is gone.
#[derive(Debug)]
pub(super) struct Partial {
    /// The folder that the user named.
    folder: OwnedFd,
    folder_path: PathBuf,
    /// The partial folder in it, and its name there.
    inside: OwnedFd,
    name: String,
    /// Locked as long as it is open, and open since before the first write.
    lock: File,
}

impl Partial {
    /// Opens the partial folder of a download to `final_name` in `folder_path`, or makes it, and takes it.
    pub(super) fn take(folder_path: &Path, final_name: &str) -> Result<Self, StoreError> {
        let name = names::partial_folder(final_name);
        let folder_path = folder_path.to_path_buf();
        let path = folder_path.join(&name);
        let folder = OwnedFd::from(File::open(&folder_path).map_err(|error| io_error("open", &folder_path, error))?);
        loop {
            make_folder(&folder, &name).map_err(|error| io_error("create", &path, error))?;
            let inside = obt_sys::open_folder_beneath(&folder, &[&name]).map_err(|error| unexpected(&path, error))?;
            let lock = open_or_create(&inside, names::LOCK).map_err(|error| unexpected(&path, error))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path }),
                Err(TryLockError::Error(error)) => return Err(io_error("lock", &path, error)),
            }
            // Its last owner may have finished and removed it between our opening and our locking it.
            if is_same(&folder, &name, &inside) {
                return Ok(Self { folder, folder_path, inside, name, lock });
            }
        }
    }

    /// The path of the partial folder, for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.folder_path.join(&self.name)
    }

    /// Whether somebody removed the partial folder: what is written into it has no name and is lost.
    pub(super) fn is_removed(&self) -> bool {
        rustix::fs::fstat(&self.inside).is_ok_and(|found| found.st_nlink == 0)
    }

    /// A handle of the partial folder.
    pub(super) fn inside(&self) -> io::Result<OwnedFd> {
        self.inside.try_clone()
    }

    /// A handle of the folder that the user named.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        self.folder.try_clone()
    }

    /// The path of the folder that the user named.
    pub(super) fn folder_path(&self) -> &Path {
        &self.folder_path
    }

    /// A file on the same file system that has been open since before the first write.
    pub(super) fn anchor(&self) -> &File {
        &self.lock
    }

    /// Makes sure that the folder is for this torrent, and keeps `torrent` in it.
    pub(super) fn claim(&self, metainfo: &Metainfo, torrent: &[u8]) -> Result<(), StoreError> {
        let there = read(&self.inside, names::METAINFO).map_err(|error| io_error("read", &self.path(), error))?;
        if there.as_deref() == Some(torrent) {
            return Ok(());
        }
        // One that cannot be parsed was torn by a crash; the journal still tells whose data it is.
        let begun = there.and_then(|there| Metainfo::parse(&there).ok());
        if begun.is_some_and(|begun| begun.info.hashes != metainfo.info.hashes) {
            return Err(StoreError::OtherTorrent { path: self.path() });
        }
        self.replace_metainfo(torrent).map_err(|error| io_error("write to", &self.path(), error))
    }

    fn replace_metainfo(&self, torrent: &[u8]) -> io::Result<()> {
        let mut file = self.emptied(METAINFO_NEW)?;
        file.write_all(torrent)?;
        Ok(rustix::fs::renameat(&self.inside, METAINFO_NEW, &self.inside, names::METAINFO)?)
    }

    fn emptied(&self, name: &str) -> io::Result<File> {
        let file = open_or_create(&self.inside, name)?;
        file.set_len(0)?;
        Ok(file)
    }

    /// The newest whole record of the journal, and where it is.
    pub(super) fn journal(&self, layout: &Layout) -> Option<(Slot, Journal)> {
        let [a, b] = names::JOURNALS.map(|name| read(&self.inside, name).ok().flatten().unwrap_or_default());
        journal::newest(layout, [&a, &b])
    }

    /// Writes a record of the journal and syncs it.
    pub(super) fn write_journal(&self, slot: Slot, bytes: &[u8]) -> io::Result<()> {
        let name = names::JOURNALS.get(slot.index()).ok_or(io::ErrorKind::NotFound)?;
        let file = open_or_create(&self.inside, name)?;
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_data()
    }

    /// Whether the disk takes `bytes` more: takes that room for a moment. Where room cannot be reserved, writes.
    pub(super) fn probe(&self, bytes: u64) -> io::Result<()> {
        let file = self.emptied(names::PROBE)?;
        let probed = obt_sys::preallocate(&file, bytes).and_then(|reserved| match reserved {
            true => Ok(()),
            false => write_zeros(&file, bytes).and_then(|()| file.sync_data()),
        });
        drop(file);
        let removed = rustix::fs::unlinkat(&self.inside, names::PROBE, rustix::fs::AtFlags::empty());
        probed.and(removed.map_err(io::Error::from))
    }

    /// Gives what is at `selected` below the data its final name.
    pub(super) fn rename(
        &self,
        selected: &[String],
        final_name: &str,
        on_existing: OnExisting,
    ) -> Result<(), FinishError> {
        self.try_rename(selected, final_name, on_existing).map_err(|error| FinishError::Disk(fault(&error)))?
    }

    fn try_rename(
        &self,
        selected: &[String],
        final_name: &str,
        on_existing: OnExisting,
    ) -> io::Result<Result<(), FinishError>> {
        let below = selected.split_last();
        let mut path = vec![names::DATA];
        let name = match below {
            None => path.pop().unwrap_or(names::DATA),
            Some((last, folders)) => {
                path.extend(folders.iter().map(String::as_str));
                last.as_str()
            }
        };
        let from = obt_sys::open_folder_beneath(&self.inside, &path)?;
        if obt_sys::rename_to_free_name((&from, name), (&self.folder, final_name))? == Replaced::Nothing {
            return Ok(Ok(()));
        }
        if on_existing == OnExisting::Refuse || !self.is_ordinary(final_name)? {
            return Ok(Err(FinishError::Occupied));
        }
        // What was there goes away with the partial folder.
        let exchanged = obt_sys::exchange((&from, name), (&self.folder, final_name));
        let unsupported = |error: &io::Error| {
            let code = error.raw_os_error();
            [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP].iter().any(|known| code == Some(known.raw_os_error()))
        };
        match exchanged {
            Err(error) if unsupported(&error) => {
                rustix::fs::renameat(&self.folder, final_name, &self.inside, REPLACED)?;
                match obt_sys::rename_to_free_name((&from, name), (&self.folder, final_name))? {
                    Replaced::Nothing => Ok(Ok(())),
                    Replaced::Occupied => Ok(Err(FinishError::Occupied)),
                }
            }
            other => other.map(Ok),
        }
    }

    fn is_ordinary(&self, name: &str) -> io::Result<bool> {
        let found = obt_sys::stat_beneath(&self.folder, &[name])?;
        let kind = FileType::from_raw_mode(found.st_mode);
        Ok(matches!(kind, FileType::RegularFile | FileType::Directory))
    }

    /// Makes the final name durable.
    pub(super) fn sync_folder(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    /// Removes the partial folder and what is left in it.
    pub(super) fn remove(&self) -> io::Result<()> {
        Dir::from_std_file(File::from(self.folder.try_clone()?)).remove_dir_all(&self.name)
    }

    /// Whether this file system has one file for two names that differ in case or Unicode form.
    pub(super) fn folds_names(&self) -> io::Result<bool> {
        const PAIRS: [(&str, &str); 2] = [("probe-case", "PROBE-CASE"), ("probe-\u{e9}", "probe-e\u{301}")];
        let mut folds = false;
        for (made, other) in PAIRS {
            drop(self.emptied(made)?);
            folds |= obt_sys::stat_beneath(&self.inside, &[other]).is_ok();
            rustix::fs::unlinkat(&self.inside, made, rustix::fs::AtFlags::empty())?;
        }
        Ok(folds)
    }
}

/// The .torrent file in the partial folder of a download to `final_name`, if one was begun. Takes nothing.
pub(super) fn begun(folder: &Path, final_name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let name = names::partial_folder(final_name);
    let path = folder.join(&name);
    let opened = File::open(folder).map_err(|error| io_error("open", folder, error))?;
    match obt_sys::open_folder_beneath(&opened, &[&name]) {
        Ok(inside) => read(&inside, names::METAINFO).map_err(|error| io_error("read", &path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unexpected(&path, error)),
    }
}

/// What an error of the system means for a download.
pub(super) fn fault(error: &io::Error) -> Fault {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    match code {
        Some(Errno::NOSPC | Errno::FBIG) => Fault::Full,
        Some(Errno::DQUOT) => Fault::Quota,
        Some(Errno::ROFS) => Fault::ReadOnly,
        Some(Errno::ACCESS | Errno::PERM) => Fault::Denied,
        _ => Fault::Failing(error.to_string()),
    }
}

pub(super) fn io_error(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { doing, path: path.to_path_buf(), source }
}

/// Says that a link is no folder, rather than that there are too many levels of them.
fn unexpected(path: &Path, error: io::Error) -> StoreError {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    match code {
        Some(Errno::LOOP | Errno::NOTDIR) => StoreError::Unexpected { path: path.to_path_buf(), expected: "folder" },
        _ => io_error("open", path, error),
    }
}

fn make_folder(folder: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::mkdirat(folder, name, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_or_create(folder: &OwnedFd, name: &str) -> io::Result<File> {
    let opened = match obt_sys::open_beneath(folder, &[name], Access::Create) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            obt_sys::open_beneath(folder, &[name], Access::Write)?
        }
        other => other?,
    };
    let found = rustix::fs::fstat(&opened)?;
    if !is_regular(&found) || found.st_nlink > 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not a plain file")));
    }
    Ok(opened)
}

fn is_same(folder: &OwnedFd, name: &str, opened: &OwnedFd) -> bool {
    let (Ok(there), Ok(here)) = (obt_sys::stat_beneath(folder, &[name]), rustix::fs::fstat(opened)) else {
        return false;
    };
    (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
}

fn read(folder: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match obt_sys::open_beneath(folder, &[name], Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(READ_LIMIT).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn write_zeros(mut file: &File, mut bytes: u64) -> io::Result<()> {
    let zeros = [0; 1 << 16];
    while bytes > 0 {
        let some = usize::try_from(bytes).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all(zeros.get(..some).unwrap_or(&zeros))?;
        bytes -= some as u64;
    }
    Ok(())
}
