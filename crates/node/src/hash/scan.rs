//! Which files lie below a path.

use std::fs;
use std::path::{Path, PathBuf};

use obt_storage::journal::Stamp;

use super::{HashError, stamp_of};

/// What was found at a path.
#[derive(Debug)]
pub(super) struct Scan {
    /// Whether the path is a file itself.
    pub(super) single_file: bool,
    /// In the order of a torrent's files: component by component.
    pub(super) files: Vec<Found>,
    /// What is neither file nor folder, and stays out.
    pub(super) skipped: Vec<PathBuf>,
}

/// A file below a path.
#[derive(Debug)]
pub(super) struct Found {
    /// Below the path, components with `/` between them; of a path that is a file itself, nothing.
    pub(super) below: Box<str>,
    pub(super) stamp: Stamp,
}

/// Looks through `root`. Links below it are not followed: where they lead is nobody's who shares this folder.
pub(super) fn scan(root: &Path) -> Result<Scan, HashError> {
    let metadata = fs::metadata(root).map_err(io(root))?;
    let mut scan = Scan { single_file: metadata.is_file(), files: Vec::new(), skipped: Vec::new() };
    if metadata.is_file() {
        let stamp = stamp_of(&metadata);
        scan.files.push(Found { below: Box::default(), stamp });
        return Ok(scan);
    }
    if !metadata.is_dir() {
        return Err(HashError::NotData(root.to_owned()));
    }
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, below)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io(&folder))? {
            let entry = entry.map_err(io(&folder))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(io(&path))?;
            if !kind.is_file() && !kind.is_dir() {
                scan.skipped.push(path);
                continue;
            }
            let name = entry.file_name().into_string().map_err(|_| HashError::NotUtf8(path.clone()))?;
            let below = if below.is_empty() { name } else { format!("{below}/{name}") };
            if kind.is_dir() {
                folders.push((path, below));
            } else {
                let stamp = stamp_of(&entry.metadata().map_err(io(&path))?);
                scan.files.push(Found { below: below.into(), stamp });
            }
        }
    }
    if scan.files.is_empty() {
        return Err(HashError::NoFiles(root.to_owned()));
    }
    scan.files.sort_unstable_by(|a, b| a.below.split('/').cmp(b.below.split('/')));
    scan.files.shrink_to_fit();
    scan.skipped.sort();
    Ok(scan)
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HashError + '_ {
    move |source| HashError::Io { path: path.to_owned(), source }
}
