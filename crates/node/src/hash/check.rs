//! Data against a torrent: for `verify`, and for adopting a torrent that somebody published.

use std::path::Path;

use obt_storage::journal::Stamp;
use obt_wire::metainfo::{File, FileKind, Metainfo, Version};
use obt_wire::{Bitfield, PieceIndex, Sha256Hash};

use super::pieces::{Laid, OnShort, PieceHashes, hash_all};
use super::root::Root;
use super::{HashError, Watch, proof};
use crate::disk::Proof;

/// What data is worth to a torrent.
#[derive(Debug)]
pub struct Checked {
    /// The pieces that are whole.
    pub have: Bitfield,
    /// Each data file of the torrent, in its order.
    pub files: Vec<CheckedFile>,
}

/// What a file is worth to a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFile {
    /// Below the torrent's folder, `/`-separated.
    pub path: String,
    /// Bytes that it should have.
    pub size: u64,
    /// What is there; None where nothing is.
    pub stamp: Option<Stamp>,
    /// Whether it has its size and all of its pieces are whole.
    pub good: bool,
}

impl Checked {
    /// What spares hashing the same data again.
    #[must_use]
    pub fn proof(&self, metainfo: &Metainfo) -> Proof {
        let stamps: Vec<Option<Stamp>> = self.files.iter().map(|file| file.stamp).collect();
        proof(metainfo, &self.have, &stamps)
    }

    /// Whether it is all there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.files.iter().all(|file| file.good)
    }
}

/// Hashes what lies at `root`, the file or folder itself, against `metainfo`. Files that are missing, short or
/// unreadable are bad, not an error. Blocks; call it on a thread of its own.
///
/// # Errors
/// [`HashError::Cancelled`].
pub fn check(root: &Path, metainfo: &Metainfo, watch: &Watch) -> Result<Checked, HashError> {
    let info = &metainfo.info;
    let root = if info.single_file { Root::file(root) } else { Root::folder(root) };
    let stamp = |file: &File| root.stamp(file.path.as_str()).filter(|_| file.kind == FileKind::Data);
    let before: Vec<Option<Stamp>> = info.files.iter().map(stamp).collect();
    let there: Vec<bool> = before.iter().map(Option::is_some).collect();
    watch.set_total(info.size());
    let (geometry, version) = (&info.geometry, info.version);
    let laid = Laid { files: &info.files, root: &root, there: &there, geometry, version };
    let hashed = hash_all(&laid, OnShort::Skip, watch)?;
    let expected = Expected::new(metainfo, &hashed);
    let mut have = Bitfield::empty(info.geometry.pieces());
    for (piece, hashes) in info.geometry.all().zip(hashed) {
        if hashes.is_some_and(|hashes| expected.matches(piece, &hashes)) {
            have.set(piece);
        }
    }
    let mut files = Vec::new();
    for (number, file) in info.data_files() {
        let before = before.get(number).copied().flatten();
        let unchanged = stamp(file) == before;
        let length = u64::from(info.geometry.piece_length());
        let whole = (file.offset / length..(file.offset + file.size).div_ceil(length))
            .all(|piece| u32::try_from(piece).is_ok_and(|piece| have.has(PieceIndex(piece))));
        let whole = if file.size == 0 { root.open(file.path.as_str()).is_ok() } else { whole };
        let good = whole && unchanged && before.is_some_and(|stamp| stamp.size == file.size);
        files.push(CheckedFile { path: file.path.to_string(), size: file.size, stamp: before, good });
    }
    Ok(Checked { have, files })
}

/// What the pieces of a torrent should hash to.
struct Expected<'a> {
    metainfo: &'a Metainfo,
    /// By piece; empty for v1, and None where the layer is missing and the root does not match either.
    v2: Vec<Option<Sha256Hash>>,
}

impl<'a> Expected<'a> {
    fn new(metainfo: &'a Metainfo, hashed: &[Option<PieceHashes>]) -> Self {
        let info = &metainfo.info;
        let mut v2 = Vec::new();
        let files = info.data_files().filter(|_| info.version != Version::V1);
        for (_, file) in files {
            let pieces = usize::try_from(file.size.div_ceil(u64::from(info.geometry.piece_length()))).unwrap_or(0);
            let found = hashed.get(v2.len()..v2.len() + pieces).unwrap_or_default();
            match layer(metainfo, file, found) {
                Some(layer) => v2.extend(layer.into_iter().map(Some)),
                None => v2.extend(std::iter::repeat_n(None, pieces)),
            }
        }
        Self { metainfo, v2 }
    }

    /// Every hash that the torrent has for a piece must match, and there must be one.
    fn matches(&self, piece: PieceIndex, hashes: &PieceHashes) -> bool {
        let v1 = self.metainfo.info.piece_hash(piece).map(|expected| expected == hashes.v1);
        let v2 = self.v2.get(piece.0 as usize).copied().flatten().map(|expected| expected == hashes.v2);
        v1 != Some(false) && v2 != Some(false) && (v1.is_some() || v2.is_some())
    }
}

/// What the pieces of `file` should hash to. Without its piece layer that is what they do hash to, if the root above it
/// is right: the root says whether the whole file is, and nothing about one piece.
fn layer(metainfo: &Metainfo, file: &File, found: &[Option<PieceHashes>]) -> Option<Vec<Sha256Hash>> {
    let root = metainfo.info.root(file)?;
    if let Some(layer) = metainfo.piece_layers.get(&root) {
        return Some(layer.clone());
    }
    if found.len() == 1 {
        return Some(vec![root]);
    }
    let layer: Vec<Sha256Hash> = found.iter().map(|piece| Some((*piece)?.v2)).collect::<Option<_>>()?;
    metainfo.info.tree(file)?.has_piece_layer(&layer).then_some(layer)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{MakeOptions, make};
    use super::*;

    fn sample(version: Version) -> (tempfile::TempDir, Metainfo) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("a"), vec![1; 70_000]).unwrap();
        fs::write(folder.path().join("sub/b"), vec![2; 50_000]).unwrap();
        fs::write(folder.path().join("sub/empty"), b"").unwrap();
        let options = MakeOptions { version, piece_length: Some(16_384) };
        let metainfo = make(folder.path(), "x", options, &Watch::default()).unwrap().metainfo;
        (folder, metainfo)
    }

    #[test]
    fn what_was_hashed_is_whole_in_every_version() {
        for version in [Version::V1, Version::V2, Version::Hybrid] {
            let (folder, metainfo) = sample(version);
            let checked = check(folder.path(), &metainfo, &Watch::default()).unwrap();
            assert!(checked.is_complete(), "{version:?}");
            assert!(checked.have.is_full(), "{version:?}");
        }
    }

    #[test]
    fn one_wrong_byte_is_found_in_its_file_alone() {
        let (folder, metainfo) = sample(Version::Hybrid);
        let mut bytes = fs::read(folder.path().join("sub/b")).unwrap();
        bytes[20_000] ^= 1;
        fs::write(folder.path().join("sub/b"), bytes).unwrap();
        let checked = check(folder.path(), &metainfo, &Watch::default()).unwrap();
        let good: Vec<bool> = checked.files.iter().map(|file| file.good).collect();
        assert_eq!(good, [true, false, true]);
        assert_eq!(checked.have.count(), checked.have.len() - 1);
    }

    #[test]
    fn without_a_piece_layer_a_file_is_whole_or_unproven() {
        let (folder, mut metainfo) = sample(Version::V2);
        metainfo.piece_layers.clear();
        assert!(check(folder.path(), &metainfo, &Watch::default()).unwrap().is_complete());
        let mut bytes = fs::read(folder.path().join("a")).unwrap();
        bytes[69_999] ^= 1;
        fs::write(folder.path().join("a"), bytes).unwrap();
        let checked = check(folder.path(), &metainfo, &Watch::default()).unwrap();
        let good: Vec<bool> = checked.files.iter().map(|file| file.good).collect();
        assert_eq!(good, [false, true, true]);
        assert_eq!(checked.have.count(), 4);
    }

    #[test]
    fn links_below_the_path_are_not_followed_and_the_path_itself_may_be_one() {
        for version in [Version::V1, Version::V2, Version::Hybrid] {
            let (folder, metainfo) = sample(version);
            let other = tempfile::tempdir().unwrap();
            let named = other.path().join("named");
            std::os::unix::fs::symlink(folder.path(), &named).unwrap();
            assert!(check(&named, &metainfo, &Watch::default()).unwrap().is_complete());
            // The same bytes, but elsewhere: a file of the folder, and a folder of it.
            fs::rename(folder.path().join("sub"), other.path().join("sub")).unwrap();
            std::os::unix::fs::symlink(other.path().join("sub"), folder.path().join("sub")).unwrap();
            fs::rename(folder.path().join("a"), other.path().join("a")).unwrap();
            std::os::unix::fs::symlink(other.path().join("a"), folder.path().join("a")).unwrap();
            let checked = check(folder.path(), &metainfo, &Watch::default()).unwrap();
            assert!(checked.files.iter().all(|file| !file.good), "{version:?}: {:?}", checked.files);
            assert_eq!(checked.have.count(), 0);
        }
    }

    #[test]
    fn missing_short_and_long_files_are_bad_and_no_error() {
        let (folder, metainfo) = sample(Version::V1);
        fs::remove_file(folder.path().join("sub/empty")).unwrap();
        fs::write(folder.path().join("a"), vec![1; 69_999]).unwrap();
        fs::write(folder.path().join("sub/b"), vec![2; 50_001]).unwrap();
        let checked = check(folder.path(), &metainfo, &Watch::default()).unwrap();
        assert!(checked.files.iter().all(|file| !file.good));
    }
}
