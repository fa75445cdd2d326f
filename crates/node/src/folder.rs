//! A watched folder: which of its entries are to be shared, from what it looks like time after time.
//!
//! Looking again and again sees what no notification of a network file system tells, and asks nothing of the system but
//! to list a folder. An entry is shared once it has not changed for a while: nobody shares half a copy.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::hash::stamp_of;

/// How long an entry must look the same before it is shared.
const QUIET: Duration = Duration::from_secs(2);
/// End of the names of downloads that are not done (see `obt-storage`).
const PARTIAL: &str = ".obt-part";

/// What the entries of a folder look like.
pub type Look = BTreeMap<String, Sight>;

/// What one entry looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Of all names, sizes and times below it.
    digest: u64,
    /// How long ago anything of that changed last, by the clock of the machine.
    age: Duration,
}

/// What is to be done about an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is there and quiet: share it.
    Share(String),
    /// It was shared and is being changed, or is gone: stop serving it.
    Withdraw(String),
}

/// Decides what is to be done about the entries of a folder.
#[derive(Debug, Default)]
pub struct FolderWatch {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    look: u64,
    since: Instant,
    shared: bool,
}

impl FolderWatch {
    /// Takes a look at the folder.
    pub fn look(&mut self, look: &Look, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let gone: Vec<String> = self.entries.keys().filter(|name| !look.contains_key(*name)).cloned().collect();
        for name in gone {
            if self.entries.remove(&name).is_some_and(|entry| entry.shared) {
                changes.push(Change::Withdraw(name));
            }
        }
        for (name, look) in look {
            let new = Entry { look: look.digest, since: now, shared: false };
            let Some(entry) = self.entries.get_mut(name) else {
                // What was left alone for long before we came need not be watched for as long again.
                let shared = look.age >= QUIET;
                if shared {
                    changes.push(Change::Share(name.clone()));
                }
                self.entries.insert(name.clone(), Entry { shared, ..new });
                continue;
            };
            if entry.look != look.digest {
                if entry.shared {
                    changes.push(Change::Withdraw(name.clone()));
                }
                *entry = new;
            } else if !entry.shared && now.saturating_duration_since(entry.since) >= QUIET {
                entry.shared = true;
                changes.push(Change::Share(name.clone()));
            }
        }
        changes
    }

    /// Sharing an entry failed: it is tried again once it has been quiet for as long anew.
    pub fn failed(&mut self, name: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.shared = false;
            // Far longer than for a change: what fails, such as a name that belongs to somebody else, mostly stays so.
            entry.since = now + 30 * QUIET;
        }
    }
}

/// Looks at the entries of `folder`. Hidden ones, links, and downloads that are not done are left out, and so is what
/// cannot be read.
///
/// # Errors
/// Where the folder itself cannot be read.
pub fn look_at(folder: &Path) -> io::Result<Look> {
    let mut look = Look::new();
    let now = SystemTime::now();
    for entry in fs::read_dir(folder)? {
        let Ok(entry) = entry else { continue };
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || name.ends_with(PARTIAL) {
            continue;
        }
        let mut seen = Seen::default();
        if seen.look_at(&entry).is_ok() && seen.files > 0 {
            let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seen.changed);
            // A time to come tells nothing: the clock was set, or it is another machine's.
            let age = now.duration_since(changed).unwrap_or_default();
            look.insert(name, Sight { digest: seen.hasher.finish(), age });
        }
    }
    Ok(look)
}

/// What is below an entry.
#[derive(Default)]
struct Seen {
    hasher: DefaultHasher,
    files: u64,
    /// When the last of them changed, seconds since 1970, rounded up. Nobody can set this time, as opposed to that of the
    /// last modification.
    changed: u64,
}

impl Seen {
    fn add(&mut self, file: &fs::DirEntry) -> io::Result<()> {
        let metadata = file.metadata()?;
        let stamp = stamp_of(&metadata);
        (file.path(), stamp.size, stamp.mtime_ns).hash(&mut self.hasher);
        self.files += 1;
        self.changed = self.changed.max(u64::try_from(metadata.ctime() + 1).unwrap_or_default());
        Ok(())
    }

    fn look_at(&mut self, entry: &fs::DirEntry) -> io::Result<()> {
        let kind = entry.file_type()?;
        if kind.is_file() {
            return self.add(entry);
        }
        if !kind.is_dir() {
            return Ok(());
        }
        let mut folders = vec![entry.path()];
        while let Some(folder) = folders.pop() {
            let mut below: Vec<fs::DirEntry> = fs::read_dir(&folder)?.collect::<io::Result<_>>()?;
            below.sort_by_key(fs::DirEntry::file_name);
            for entry in below {
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    self.add(&entry)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(entries: &[(&str, u64)]) -> Look {
        let young = |digest| Sight { digest, age: Duration::ZERO };
        entries.iter().map(|(name, digest)| ((*name).to_owned(), young(*digest))).collect()
    }

    fn share(name: &str) -> Change {
        Change::Share(name.to_owned())
    }

    fn withdraw(name: &str) -> Change {
        Change::Withdraw(name.to_owned())
    }

    #[test]
    fn an_entry_is_shared_once_it_is_quiet_and_withdrawn_when_it_changes_or_goes() {
        let (mut watch, start) = (FolderWatch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watch.look(&look(&[("a", 1)]), at(0)), []);
        assert_eq!(watch.look(&look(&[("a", 2)]), at(2)), []);
        assert_eq!(watch.look(&look(&[("a", 2)]), at(4)), [share("a")]);
        assert_eq!(watch.look(&look(&[("a", 2)]), at(6)), []);
        assert_eq!(watch.look(&look(&[("a", 3)]), at(8)), [withdraw("a")]);
        assert_eq!(watch.look(&look(&[("a", 3)]), at(10)), [share("a")]);
        assert_eq!(watch.look(&look(&[]), at(12)), [withdraw("a")]);
    }

    #[test]
    fn what_was_left_alone_for_long_is_shared_at_first_sight() {
        let old = Sight { digest: 1, age: QUIET };
        let (mut watch, now) = (FolderWatch::default(), Instant::now());
        let first = [("a".to_owned(), old), ("b".to_owned(), Sight { age: QUIET / 2, ..old })].into();
        assert_eq!(watch.look(&first, now), [share("a")]);
        assert_eq!(watch.look(&first, now), []);
        assert_eq!(watch.look(&first, now + QUIET), [share("b")]);
    }

    #[test]
    fn what_failed_is_tried_again_later() {
        let (mut watch, start) = (FolderWatch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        watch.look(&look(&[("a", 1)]), at(0));
        assert_eq!(watch.look(&look(&[("a", 1)]), at(2)), [share("a")]);
        watch.failed("a", at(2));
        assert_eq!(watch.look(&look(&[("a", 1)]), at(10)), []);
        assert_eq!(watch.look(&look(&[("a", 1)]), at(64)), [share("a")]);
    }

    #[test]
    fn hidden_entries_links_and_unfinished_downloads_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".hidden", "file", "sub/inner", "x.obt-part/data", "empty/"] {
            let path = folder.path().join(name);
            fs::create_dir_all(if name.ends_with('/') { &path } else { path.parent().unwrap() }).unwrap();
            if !name.ends_with('/') {
                fs::write(path, b"x").unwrap();
            }
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let names: Vec<String> = look_at(folder.path()).unwrap().into_keys().collect();
        assert_eq!(names, ["file", "sub"]);
    }
}
