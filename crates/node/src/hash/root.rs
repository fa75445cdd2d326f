//! What the user named, a file or a folder: its files are reached below the folder's handle and through no link, also
//! where somebody swaps one in meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use obt_storage::journal::Stamp;
use obt_sys::Access;
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::disk::stamp_of_stat;

/// A path that the user named. It may be a link itself.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File,
    Folder(OwnedFd),
    /// A folder that cannot be opened.
    Nothing,
}

impl Root {
    /// The file at `path`.
    pub(super) fn file(path: &Path) -> Self {
        Self { path: path.to_owned(), place: Place::File }
    }

    /// The folder at `path`; where there is none, nothing is below it.
    pub(super) fn folder(path: &Path) -> Self {
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let place = opened.map_or(Place::Nothing, Place::Folder);
        Self { path: path.to_owned(), place }
    }

    /// The path of a file, to name it; its components have `/` between them.
    pub(super) fn shown(&self, below: &str) -> PathBuf {
        match self.place {
            Place::File => self.path.clone(),
            Place::Folder(_) | Place::Nothing => self.path.join(below),
        }
    }

    /// Opens a file to read it; a pipe or device, which could wait for ever or act, is none.
    pub(super) fn open(&self, below: &str) -> io::Result<File> {
        let file = match &self.place {
            Place::File => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
                File::from(rustix::fs::open(&self.path, flags, Mode::empty())?)
            }
            Place::Folder(folder) => obt_sys::open_beneath(folder, &components(below), Access::Read)?,
            Place::Nothing => return Err(io::ErrorKind::NotFound.into()),
        };
        match is_regular(&rustix::fs::fstat(&file)?) {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    /// What a file looks like; None where there is none.
    pub(super) fn stamp(&self, below: &str) -> Option<Stamp> {
        let found = match &self.place {
            Place::File => rustix::fs::stat(&self.path).ok(),
            Place::Folder(folder) => obt_sys::stat_beneath(folder, &components(below)).ok(),
            Place::Nothing => None,
        };
        found.filter(is_regular).map(|found| stamp_of_stat(&found))
    }
}

fn components(below: &str) -> Vec<&str> {
    below.split_terminator('/').collect()
}

fn is_regular(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
}
