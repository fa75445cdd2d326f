//! Room on a file system, stretches of files that were never written, and what makes everything durable.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

/// How much a file system can still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this user may still write.
    pub free: u64,
    /// It is memory, not a disk.
    pub in_memory: bool,
}

/// The room on the file system of `file`.
///
/// # Errors
/// Of the system.
pub fn room(file: impl AsFd) -> io::Result<Room> {
    let stat = rustix::fs::fstatvfs(&file)?;
    Ok(Room { free: stat.f_bavail.saturating_mul(stat.f_frsize), in_memory: is_in_memory(&file) })
}

#[cfg(target_os = "linux")]
fn is_in_memory(file: impl AsFd) -> bool {
    /// `TMPFS_MAGIC` of `linux/magic.h`.
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == TMPFS))
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_file: impl AsFd) -> bool {
    false
}

/// Reserves the first `length` bytes of a file on its disk, and makes it this long. False where the file system cannot.
///
/// # Errors
/// Of the system: no room, no quota, a file too long.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
pub fn preallocate(file: &File, length: u64) -> io::Result<bool> {
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Nobody reserves here.
///
/// # Errors
/// None.
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
pub fn preallocate(_file: &File, _length: u64) -> io::Result<bool> {
    Ok(false)
}

/// Whether nothing was ever written to these bytes of a file, as far as the file system tells: they read as zeros.
#[cfg(any(target_os = "linux", target_os = "freebsd", target_vendor = "apple"))]
#[must_use]
pub fn is_hole(file: &File, offset: u64, length: u64) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => data >= offset.saturating_add(length),
        // No data from here to the end; which may be before these bytes are over.
        Err(Errno::NXIO) => file.metadata().is_ok_and(|found| found.len() >= offset.saturating_add(length)),
        Err(_) => false,
    }
}

/// Nobody tells here.
#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_vendor = "apple")))]
#[must_use]
pub fn is_hole(_file: &File, _offset: u64, _length: u64) -> bool {
    false
}

/// Makes everything on the file system of `file` durable. Linux (5.8 and later) reports here any write that failed since
/// `file` was opened, also of files that were closed meanwhile. False where there is no such call.
///
/// # Errors
/// Of the system.
pub fn sync_file_system(file: &File) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        rustix::fs::syncfs(file)?;
        Ok(true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn what_was_never_written_is_a_hole_and_what_was_is_not() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"x", 600_000).unwrap();
        assert!(!is_hole(&file, 590_000, 20_000));
        assert!(!is_hole(&file, 1 << 20, 1), "past the end is no hole");
        assert!(!is_hole(&file, (1 << 20) - 10, 11));
        if file.metadata().unwrap().blocks() < 100 {
            assert!(is_hole(&file, 0, 100_000));
            assert!(is_hole(&file, 700_000, 300_000));
        }
    }

    #[test]
    fn a_preallocated_file_has_its_length() {
        let file = tempfile::tempfile().unwrap();
        if preallocate(&file, 123_456).unwrap() {
            assert_eq!(file.metadata().unwrap().len(), 123_456);
        }
        assert!(room(&file).unwrap().free > 0);
        sync_file_system(&file).unwrap();
    }
}
