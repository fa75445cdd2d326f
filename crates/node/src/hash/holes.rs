//! Holes of sparse files: stretches that take no room on disk and read as zeros.
//!
//! Reading them costs as much as reading data. The hash of a piece of zeros is known, so it is enough to ask where the
//! holes are. Files without holes are never asked.

use std::fs::File;
use std::ops::Range;

/// What is known about the holes of one open file.
#[derive(Debug)]
pub(super) struct Holes {
    sparse: bool,
    /// The hole that was found last, bytes.
    hole: Range<u64>,
}

impl Holes {
    /// Looks whether `file` takes less room than its size.
    pub(super) fn of(file: &File) -> Self {
        Self { sparse: is_sparse(file), hole: 0..0 }
    }

    /// Whether `stretch` of `file` lies in one hole. False where the system does not say.
    pub(super) fn cover(&mut self, file: &File, stretch: Range<u64>) -> bool {
        if !self.sparse || stretch.is_empty() {
            return false;
        }
        if !self.hole.contains(&stretch.start) {
            self.hole = stretch.start..next_data(file, stretch.start).unwrap_or(stretch.start);
        }
        stretch.end <= self.hole.end
    }
}

#[cfg(target_os = "linux")]
fn is_sparse(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|metadata| metadata.blocks().saturating_mul(512) < metadata.size())
}

/// Where the first data at or after `from` begins; past the last, the end of the file.
#[cfg(target_os = "linux")]
fn next_data(file: &File, from: u64) -> Option<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(at) => Some(at),
        Err(rustix::io::Errno::NXIO) => Some(file.metadata().ok()?.len()),
        Err(_) => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn is_sparse(_: &File) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn next_data(_: &File, _: u64) -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_found_before_between_and_after_data() {
        const M: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * M).unwrap();
        file.write_all_at(&[1; 4_096], 32 * M).unwrap();
        file.sync_all().unwrap();
        let mut holes = Holes::of(&file);
        // A file system without holes is allowed to say that all is data.
        if holes.cover(&file, 0..M) {
            assert!(holes.cover(&file, M..32 * M));
            assert!(holes.cover(&file, 63 * M..64 * M));
        }
        assert!(!holes.cover(&file, 31 * M..33 * M));
        assert!(!holes.cover(&file, 32 * M..32 * M + 1));
        assert!(!holes.cover(&file, 63 * M..65 * M));
        assert!(!holes.cover(&file, M..M));
    }
}
