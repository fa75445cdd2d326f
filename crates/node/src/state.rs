//! The state folder: keys, catalogue, what is shared. Apart from shared data, and one daemon's at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a state folder cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another daemon has it.
    #[error("the state in {} is in use by the obt with process id {pid}", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// As the other wrote it; `?` where it did not.
        pid: String,
    },
    /// Shared data and state would lie in each other.
    #[error("the state in {} and the data in {} must be apart", .state.display(), .data.display())]
    NotApart {
        /// The state folder.
        state: PathBuf,
        /// The folder with data.
        data: PathBuf,
    },
    /// It has no usable content under a name of ours.
    #[error("{} is not what obt keeps there: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system refused.
    #[error("cannot use {}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl StateError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// A state folder that is there.
#[derive(Debug, Clone)]
pub struct StateFolder {
    path: PathBuf,
}

/// Held while a daemon runs; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateFolder {
    /// Makes the folder if it is not there, for its owner alone.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(StateError::io(path))?;
        let path = fs::canonicalize(path).map_err(StateError::io(path))?;
        Ok(Self { path })
    }

    /// Where it is, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key that the tracker here always admits.
    #[must_use]
    pub fn publish_key(&self) -> PathBuf {
        self.path.join("publish.key")
    }

    /// The catalogue of the tracker here.
    #[must_use]
    pub fn catalogue(&self) -> PathBuf {
        self.path.join("catalogue.sqlite")
    }

    /// The log of the cluster that the tracker here belongs to.
    #[must_use]
    pub fn cluster_log(&self) -> PathBuf {
        self.path.join("raft.db")
    }

    /// What the tracker here proves to other members.
    #[must_use]
    pub fn member_key(&self) -> PathBuf {
        self.path.join("member.key")
    }

    /// Makes room for another tracker: what the last one was is kept in `left`, in place of what was there.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn set_tracker_aside(&self) -> Result<(), StateError> {
        let aside = self.path.join("left");
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StateError::io(&aside)(error)),
            _ => fs::create_dir(&aside).map_err(StateError::io(&aside))?,
        }
        // The log last: without a catalogue a log is an error, so a crash in between is one that says so.
        for file in [self.member_key(), self.catalogue(), self.cluster_log()] {
            for suffix in ["-wal", "-shm", ""] {
                let mut name = file.file_name().unwrap_or_default().to_owned();
                name.push(suffix);
                let from = self.path.join(&name);
                match fs::rename(&from, aside.join(&name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StateError::io(&from)(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Data of others that this node fetched to pass on (`/files`, `--stdout`); may be deleted at any time.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// What is shared from here, with the proofs that spare hashing it again.
    #[must_use]
    pub fn shares(&self) -> PathBuf {
        self.path.join("shares")
    }

    /// Where the daemon here takes requests of other processes of the same user.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Takes the folder for one daemon.
    ///
    /// # Errors
    /// [`StateError::InUse`] where another has it.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.path.join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(StateError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.take(20).read_to_string(&mut pid);
                let pid = pid.trim();
                let known = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
                return Err(StateError::InUse {
                    path: self.path.clone(),
                    pid: if known { pid } else { "?" }.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(StateError::Io { path, source }),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(StateError::io(&path))?;
        Ok(StateLock { _file: file })
    }

    /// That `data` is neither in the state folder nor around it.
    ///
    /// # Errors
    /// [`StateError::NotApart`] where it is.
    pub fn check_apart(&self, data: &Path) -> Result<(), StateError> {
        let data = fs::canonicalize(data).map_err(StateError::io(data))?;
        if data.starts_with(&self.path) || (data.is_dir() && self.path.starts_with(&data)) {
            return Err(StateError::NotApart { state: self.path.clone(), data });
        }
        Ok(())
    }
}

/// Writes a file that its owner alone may read, whole or not at all.
///
/// # Errors
/// [`StateError::Io`].
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), StateError> {
    write_private_parts(path, &[content])
}

/// The same of a content in parts.
///
/// # Errors
/// [`StateError::Io`].
pub fn write_private_parts(path: &Path, parts: &[impl AsRef<[u8]>]) -> Result<(), StateError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let write = || {
        let mut file = options.open(&temporary)?;
        parts.iter().try_for_each(|part| file.write_all(part.as_ref()))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(StateError::io(path))
}

/// Reads a small file that must be its owner's alone: a secret that others can read is none (HOSTILE K04).
///
/// # Errors
/// [`StateError::Damaged`] where others may read or write it, or it is too long; [`StateError::Io`].
pub fn read_private(path: &Path, limit: u64) -> Result<String, StateError> {
    let damaged = |reason: &str| StateError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let file = File::open(path).map_err(StateError::io(path))?;
    let metadata = file.metadata().map_err(StateError::io(path))?;
    if !metadata.is_file() {
        return Err(damaged("not a plain file"));
    }
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
        return Err(damaged("others may read it; chmod 600 it if it is still secret"));
    }
    let mut text = String::new();
    let read = file.take(limit + 1).read_to_string(&mut text).map_err(StateError::io(path))?;
    if read as u64 > limit {
        return Err(damaged("too long"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c14_a_second_daemon_is_told_who_has_the_state() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&folder.path().join("state")).unwrap();
        let lock = state.lock().unwrap();
        let Err(StateError::InUse { pid, .. }) = state.lock() else { panic!("locked twice") };
        assert_eq!(pid, std::process::id().to_string());
        drop(lock);
        assert!(state.lock().is_ok());
    }

    #[test]
    fn k07_data_and_state_are_apart() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&folder.path().join("state")).unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        assert!(state.check_apart(&data).is_ok());
        assert!(state.check_apart(folder.path()).is_err());
        assert!(state.check_apart(state.path()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn k04_a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"secret").unwrap();
        assert_eq!(read_private(&path, 10).unwrap(), "secret");
        assert!(read_private(&path, 3).is_err());
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(read_private(&path, 10).is_err());
    }
}
