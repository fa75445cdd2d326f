//! A path into a torrent.

use std::path::{Path, PathBuf};

use obt_storage::journal::{self, Stamp};
use obt_storage::spans::Layout;
use obt_wire::metainfo::{Draft, File, FileKind, Metainfo, Version};
use obt_wire::piece_length::piece_length;
use obt_wire::{Bitfield, Sha1Hash};

use super::pieces::{Laid, OnShort, PieceHashes, hash_all};
use super::root::Root;
use super::scan::{Found, Scan, scan};
use super::{HashError, Watch, proof};
use crate::disk::Proof;

/// How the torrent is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MakeOptions {
    /// Which protocols it speaks.
    pub version: Version,
    /// Bytes per piece, a power of two from 16 KiB; None is chosen by the sizes, the same on every machine.
    pub piece_length: Option<u32>,
}

impl Default for MakeOptions {
    fn default() -> Self {
        Self { version: Version::Hybrid, piece_length: None }
    }
}

/// A torrent that was made.
#[derive(Debug)]
pub struct Made {
    /// The torrent.
    pub metainfo: Metainfo,
    /// The stamp of each of its data files, in its order: what was hashed.
    pub stamps: Vec<Stamp>,
    /// What lies below the path and is neither file nor folder; it was left out.
    pub skipped: Vec<PathBuf>,
}

impl Made {
    /// What spares hashing the same data again.
    #[must_use]
    pub fn proof(&self) -> Proof {
        let have = Bitfield::full(self.metainfo.info.geometry.pieces());
        let stamps: Vec<Option<Stamp>> = self.stamps.iter().copied().map(Some).collect();
        proof(&self.metainfo, &have, &stamps)
    }
}

/// Whether the files at `path` have the paths and sizes of those of `metainfo`, no more and no less.
///
/// # Errors
/// See [`HashError`].
pub fn lists_same(path: &Path, metainfo: &Metainfo) -> Result<bool, HashError> {
    Ok(stamps_if_same(path, metainfo)?.is_some())
}

/// Whether `kept`, a proof that was made when all of `metainfo` was at `path`, holds for what is there now.
///
/// # Errors
/// See [`HashError`].
pub fn still_holds(kept: &Proof, path: &Path, metainfo: &Metainfo) -> Result<bool, HashError> {
    let Ok(journal) = journal::decode(&Layout::new(&metainfo.info), kept.as_bytes()) else { return Ok(false) };
    let Some(stamps) = stamps_if_same(path, metainfo)? else { return Ok(false) };
    Ok(journal.pieces.is_full() && journal.stamps.into_iter().eq(stamps.into_iter().map(Some)))
}

fn stamps_if_same(path: &Path, metainfo: &Metainfo) -> Result<Option<Vec<Stamp>>, HashError> {
    let found = match scan(path) {
        Ok(found) => found,
        Err(HashError::NoFiles(_) | HashError::NotUtf8(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let info = &metainfo.info;
    if found.single_file != info.single_file || found.files.len() != info.data_files().count() {
        return Ok(None);
    }
    let find = |path: &str| found.files.binary_search_by(|file| file.below.split('/').cmp(path.split('/'))).ok();
    let stamp = |file: &File| {
        let at = find(if info.single_file { "" } else { file.path.as_str() })?;
        found.files.get(at).map(|file| file.stamp)
    };
    let stamps = info.data_files().map(|(_, file)| stamp(file).filter(|stamp| stamp.size == file.size));
    Ok(stamps.collect())
}

/// Hashes the file or folder at `path` into a torrent called `name`. Takes as long as the disk and all processors take;
/// call it on a thread of its own.
///
/// # Errors
/// See [`HashError`].
pub fn make(path: &Path, name: &str, options: MakeOptions, watch: &Watch) -> Result<Made, HashError> {
    let Scan { single_file, files, skipped } = scan(path)?;
    watch.set_total(files.iter().map(|file| file.stamp.size).sum());
    let draft = draft(&files, single_file, name, options)?;
    // The data files of the draft are those that were found, in the same order.
    let there: Vec<bool> = draft.files().iter().map(|file| file.kind == FileKind::Data).collect();
    let root = if single_file { Root::file(path) } else { Root::folder(path) };
    let (geometry, version) = (draft.geometry(), draft.version());
    let laid = Laid { files: draft.files(), root: &root, there: &there, geometry, version };
    let hashes: Vec<PieceHashes> = hash_all(&laid, OnShort::Fail, watch)?.into_iter().flatten().collect();
    for file in &files {
        if root.stamp(&file.below) != Some(file.stamp) {
            return Err(HashError::Changed(root.shown(&file.below)));
        }
    }
    let stamps = files.iter().map(|file| file.stamp).collect();
    drop(files);
    Ok(Made { metainfo: finish(draft, &hashes)?, stamps, skipped })
}

fn draft(files: &[Found], single_file: bool, name: &str, options: MakeOptions) -> Result<Draft, HashError> {
    let listed: Vec<(&str, u64)> = files.iter().map(|file| (&*file.below, file.stamp.size)).collect();
    let sizes: Vec<u64> = listed.iter().map(|(_, size)| *size).collect();
    let length = options.piece_length.unwrap_or_else(|| piece_length(&sizes));
    Ok(if single_file {
        Draft::file(name, sizes.iter().sum(), length, options.version)?
    } else {
        Draft::folder_of(name, listed, length, options.version)?
    })
}

fn finish(draft: Draft, hashes: &[PieceHashes]) -> Result<Metainfo, HashError> {
    let version = draft.version();
    let v1: Vec<Sha1Hash> =
        if version == Version::V2 { Vec::new() } else { hashes.iter().map(|hash| hash.v1).collect() };
    let mut layers = Vec::new();
    if version != Version::V1 {
        let length = u64::from(draft.geometry().piece_length());
        let mut rest = hashes.iter().map(|hash| hash.v2);
        for file in draft.files().iter().filter(|file| file.kind == FileKind::Data) {
            let pieces = usize::try_from(file.size.div_ceil(length)).unwrap_or(usize::MAX);
            layers.push(rest.by_ref().take(pieces).collect());
        }
    }
    Ok(draft.finish(&v1, layers)?)
}

#[cfg(test)]
mod tests {
    use obt_wire::merkle::{block_hash, root_above};
    use sha1::Digest;

    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn make_default(path: &Path, name: &str) -> Made {
        make(path, name, MakeOptions::default(), &Watch::default()).unwrap()
    }

    fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    #[test]
    fn the_same_bytes_under_the_same_name_are_the_same_torrent_whenever_and_wherever() {
        let files: [(&str, &[u8]); 4] =
            [("b/2", &[2; 40_000]), ("a", &[1; 16_384]), ("empty", b""), ("b.txt", &[3; 100_001])];
        let (one, mut other) = (folder_with(&files), files);
        other.reverse();
        let other = folder_with(&other);
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(other.path().join("a")).unwrap().set_modified(old).unwrap();
        let (one, other) = (make_default(one.path(), "x"), make_default(other.path(), "x"));
        assert_eq!(one.metainfo.info.hashes, other.metainfo.info.hashes);
        assert_eq!(one.metainfo.to_bytes(), other.metainfo.to_bytes());
        assert!(one.metainfo.info.hashes.v1.is_some() && one.metainfo.info.hashes.v2.is_some());
    }

    #[test]
    fn versions_agree_about_the_pieces() {
        let folder = folder_with(&[("f", &vec![7; 200_000])]);
        let with = |version| {
            let options = MakeOptions { version, piece_length: Some(65_536) };
            make(&folder.path().join("f"), "f", options, &Watch::default()).unwrap().metainfo
        };
        let (v1, v2, hybrid) = (with(Version::V1), with(Version::V2), with(Version::Hybrid));
        assert!(v1.info.piece_hashes().eq(hybrid.info.piece_hashes()));
        assert_eq!(v2.piece_layers, hybrid.piece_layers);
        assert_eq!(v1.info.geometry.pieces(), 4);
    }

    #[test]
    fn pieces_side_by_side_hash_as_each_alone() {
        // More pieces than lanes, pieces of several files, files of several pieces, and an end that is no block.
        let mut random = fastrand::Rng::with_seed(5);
        let sizes = [1, 40_000, 0, 16_384, 900_000, 63, 64, 65, 300_001];
        let contents = sizes.map(|size| std::iter::repeat_with(|| random.u8(..)).take(size).collect::<Vec<u8>>());
        let names: Vec<String> = (0..sizes.len()).map(|number| format!("f{number}")).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
        let folder = folder_with(&files);
        let with = |version| {
            let options = MakeOptions { version, piece_length: Some(32_768) };
            make(folder.path(), "x", options, &Watch::default()).unwrap().metainfo.info
        };
        let alone: Vec<Sha1Hash> =
            contents.concat().chunks(32_768).map(|piece| Sha1Hash(sha1::Sha1::digest(piece).into())).collect();
        assert_eq!(with(Version::V1).piece_hashes().collect::<Vec<_>>(), alone);
        let v2 = with(Version::V2);
        for (file, content) in v2.files.iter().zip(&contents) {
            let leaves: Vec<_> = content.chunks(16_384).map(block_hash).collect();
            assert_eq!(v2.root(file), root_above(&leaves, 0, leaves.len().next_power_of_two().ilog2()));
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_left_out_and_named() {
        let folder = folder_with(&[("f", b"x")]);
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let made = make_default(folder.path(), "x");
        assert_eq!(made.skipped, [folder.path().join("link")]);
        assert_eq!(made.stamps.len(), 1);
    }

    #[test]
    fn f02_a_file_that_was_replaced_by_one_of_the_same_size_and_time_is_hashed_again() {
        let folder = folder_with(&[("f", b"one")]);
        let path = folder.path().join("f");
        let made = make_default(folder.path(), "x");
        assert!(still_holds(&made.proof(), folder.path(), &made.metainfo).unwrap());
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(folder.path().join("g"), b"two").unwrap();
        fs::rename(folder.path().join("g"), &path).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert!(!still_holds(&made.proof(), folder.path(), &made.metainfo).unwrap());
    }

    #[test]
    fn a_folder_without_files_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(folder.path(), "x", MakeOptions::default(), &Watch::default());
        assert!(matches!(made, Err(HashError::NoFiles(_))));
    }

    #[test]
    fn f03_hashing_can_be_stopped() {
        let folder = folder_with(&[("f", &[0; 1_000])]);
        let watch = Watch::default();
        watch.cancel();
        let made = make(folder.path(), "x", MakeOptions::default(), &watch);
        assert!(matches!(made, Err(HashError::Cancelled)));
    }

    #[cfg(unix)]
    #[test]
    fn holes_hash_as_the_zeros_that_they_read_as() {
        let folder = tempfile::tempdir().unwrap();
        let size = 40 * 65_536 + 5;
        let mut bytes = vec![0; size];
        bytes[20 * 65_536 + 7] = 1;
        fs::write(folder.path().join("full"), &bytes).unwrap();
        let sparse = fs::File::create(folder.path().join("sparse")).unwrap();
        sparse.set_len(size as u64).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[1], 20 * 65_536 + 7).unwrap();
        for version in [Version::V1, Version::V2, Version::Hybrid] {
            let options = MakeOptions { version, piece_length: Some(65_536) };
            let hashes =
                |file| make(&folder.path().join(file), "x", options, &Watch::default()).unwrap().metainfo.info.hashes;
            assert_eq!(hashes("sparse"), hashes("full"), "{version:?}");
        }
    }
}
