//! How many files are open: bounded for all torrents together, the ones that were not used for longest closed first.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, Weak};

use obt_storage::FileIndex;

use super::files::Files;

/// Most files that are kept open; enough for every torrent in motion, far below what systems allow by default.
const OPEN_FILES: usize = 256;
/// The share of the process's descriptors that files may take where few are allowed: peers need the others.
const SHARE: u64 = 4;

/// The files that are open, in the order in which they were opened or last found in use.
#[derive(Debug)]
pub(super) struct Handles {
    open: Mutex<VecDeque<(Weak<Files>, FileIndex)>>,
    limit: usize,
}

impl Handles {
    pub(super) fn new() -> Self {
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let share = allowed.map_or(OPEN_FILES, |allowed| usize::try_from(allowed / SHARE).unwrap_or(OPEN_FILES));
        Self { open: Mutex::default(), limit: share.clamp(4, OPEN_FILES) }
    }

    /// Notes that a file was opened, and closes others where there are too many. A file that was used since it came
    /// to the front goes to the back once more.
    pub(super) fn opened(&self, files: Weak<Files>, file: FileIndex) {
        // Closed when nobody waits for the lock: on a network file system that can take a while.
        let mut closed = Vec::new();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back((files, file));
        let mut second_chances = open.len();
        while open.len() > self.limit {
            let Some((files, file)) = open.pop_front() else {
                break;
            };
            let Some(owner) = files.upgrade() else {
                continue;
            };
            if second_chances > 0 && owner.was_used(file) {
                second_chances -= 1;
                open.push_back((files, file));
            } else {
                closed.push(owner.close(file));
            }
        }
        drop(open);
        drop(closed);
    }
}
