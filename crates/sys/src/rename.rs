//! Renames that replace nothing, or swap.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

/// Whether the name that a rename was to take was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It was, and it is taken now.
    Nothing,
    /// Something has it; nothing was changed.
    Occupied,
}

/// Renames a file or folder to a name that is free, or does nothing.
///
/// # Errors
/// Of the system.
pub fn rename_to_free_name(from: (impl AsFd, &str), to: (impl AsFd, &str)) -> io::Result<Replaced> {
    let (from, to) = ((from.0.as_fd(), from.1), (to.0.as_fd(), to.1));
    let renamed = match no_replace(from, to) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => without_support(from, to),
        other => other,
    };
    match renamed {
        Ok(()) => Ok(Replaced::Nothing),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(Replaced::Occupied),
        Err(error) => Err(error.into()),
    }
}

/// Swaps two files or folders at once.
///
/// # Errors
/// Of the system; `EINVAL` or `ENOSYS` where the file system cannot do it.
pub fn exchange(one: (impl AsFd, &str), other: (impl AsFd, &str)) -> io::Result<()> {
    Ok(swap((one.0.as_fd(), one.1), (other.0.as_fd(), other.1))?)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn no_replace(from: (BorrowedFd<'_>, &str), to: (BorrowedFd<'_>, &str)) -> Result<(), Errno> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, rustix::fs::RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn no_replace(_from: (BorrowedFd<'_>, &str), _to: (BorrowedFd<'_>, &str)) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn swap(one: (BorrowedFd<'_>, &str), other: (BorrowedFd<'_>, &str)) -> Result<(), Errno> {
    rustix::fs::renameat_with(one.0, one.1, other.0, other.1, rustix::fs::RenameFlags::EXCHANGE)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn swap(_one: (BorrowedFd<'_>, &str), _other: (BorrowedFd<'_>, &str)) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Where the file system cannot refuse by itself (NFS, FUSE): a hard link never replaces a file, and the rename of a
/// folder replaces an empty folder at most.
fn without_support(from: (BorrowedFd<'_>, &str), to: (BorrowedFd<'_>, &str)) -> Result<(), Errno> {
    let found = rustix::fs::statat(from.0, from.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return match rustix::fs::statat(to.0, to.1, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(from.0, from.1, to.0, to.1),
            Err(error) => Err(error),
        };
    }
    rustix::fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty())?;
    rustix::fs::unlinkat(from.0, from.1, AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn f28_a_rename_never_replaces_with_or_without_support() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "a").unwrap();
        fs::write(path("taken"), "old").unwrap();
        fs::create_dir(path("dir")).unwrap();
        let handle = File::open(folder.path()).unwrap();
        let here = |name| (handle.as_fd(), name);

        assert_eq!(rename_to_free_name(here("a"), here("taken")).unwrap(), Replaced::Occupied);
        assert_eq!(without_support(here("a"), here("taken")), Err(Errno::EXIST));
        assert_eq!(without_support(here("dir"), here("taken")), Err(Errno::EXIST));
        assert_eq!(fs::read(path("taken")).unwrap(), b"old");

        assert_eq!(rename_to_free_name(here("a"), here("b")).unwrap(), Replaced::Nothing);
        without_support(here("b"), here("c")).unwrap();
        without_support(here("dir"), here("dir2")).unwrap();
        assert!(path("c").is_file() && path("dir2").is_dir() && !path("b").exists());
    }

    #[test]
    fn two_names_are_exchanged_at_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "a").unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        let handle = File::open(folder.path()).unwrap();
        match exchange((&handle, "a"), (&handle, "b")) {
            Ok(()) => assert!(folder.path().join("a").is_dir() && folder.path().join("b").is_file()),
            Err(error) => eprintln!("not tested: this file system cannot exchange names ({error})"),
        }
    }
}
