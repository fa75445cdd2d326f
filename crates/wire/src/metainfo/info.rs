//! The info dictionary: read, checked, hashed.

use bytes::Bytes;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::tree::{self, Leaf};
use super::{File, FileKind, InBytes, Info, MetainfoError, Version};
use crate::bencode::{Document, Limits, Value};
use crate::file_path::{FilePath, PathText};
use crate::files::{self, PathError};
use crate::geometry::{BLOCK_SIZE, Geometry};
use crate::ids::{InfoHashes, Sha1Hash, Sha256Hash};
use crate::limits::{FILES, INFO_BYTES, PATHS_BYTES, PATHS_COMPONENTS, PIECE_LENGTH, PIECE_LENGTH_LEAST, PIECES};

impl Info {
    /// Reads an info dictionary, and computes its hashes.
    ///
    /// # Errors
    /// Where it cannot be used, see [`MetainfoError`].
    pub fn parse(bytes: Bytes) -> Result<Self, MetainfoError> {
        if bytes.len() > INFO_BYTES {
            return Err(MetainfoError::TooLong(INFO_BYTES));
        }
        let document = Document::decode(&bytes, Limits::METAINFO)?;
        let unhashed = parse(document.root())?;
        drop(document);
        Ok(unhashed.with_bytes(bytes))
    }

    /// Reads the info dictionary of a .torrent file that is decoded already; `bytes` are those of `value`.
    pub(super) fn parse_decoded(value: Value<'_>, bytes: Bytes) -> Result<Self, MetainfoError> {
        if bytes.len() > INFO_BYTES {
            return Err(MetainfoError::TooLong(INFO_BYTES));
        }
        Ok(parse(value)?.with_bytes(bytes))
    }

    /// Reads the info dictionary of a torrent of which only hashes are known (BEP 9).
    ///
    /// # Errors
    /// [`MetainfoError::WrongHash`] where it is not that torrent's: whoever sent it lied, or the two hashes of a magnet
    /// do not belong together. Other errors where it is, and cannot be used.
    pub fn parse_expecting(bytes: Bytes, wanted: &InfoHashes) -> Result<Self, MetainfoError> {
        if bytes.len() > INFO_BYTES {
            return Err(MetainfoError::TooLong(INFO_BYTES));
        }
        let v1 = wanted.v1.is_none_or(|hash| hash.0 == <[u8; 20]>::from(Sha1::digest(&bytes)));
        let v2 = wanted.v2.is_none_or(|hash| hash.0 == <[u8; 32]>::from(Sha256::digest(&bytes)));
        if !(v1 && v2) {
            return Err(MetainfoError::WrongHash);
        }
        let info = Self::parse(bytes)?;
        let speaks_v1 = wanted.v1.is_none() || info.hashes.v1.is_some();
        let speaks_v2 = wanted.v2.is_none() || info.hashes.v2.is_some();
        if speaks_v1 && speaks_v2 { Ok(info) } else { Err(MetainfoError::WrongHash) }
    }

    fn with_bytes(mut self, bytes: Bytes) -> Self {
        let v1 = (self.version != Version::V2).then(|| Sha1Hash(Sha1::digest(&bytes).into()));
        let v2 = (self.version != Version::V1).then(|| Sha256Hash(Sha256::digest(&bytes).into()));
        self.hashes = InfoHashes { v1, v2 };
        self.bytes = bytes;
        self
    }
}

/// The fields that are read, as they stand.
#[derive(Default)]
struct Fields<'a> {
    name: Option<Value<'a>>,
    name_utf8: Option<Value<'a>>,
    piece_length: Option<Value<'a>>,
    pieces: Option<Value<'a>>,
    length: Option<Value<'a>>,
    files: Option<Value<'a>>,
    file_tree: Option<Value<'a>>,
    private: Option<Value<'a>>,
}

/// The info dictionary `root`, without its bytes and their hashes.
pub(super) fn parse(root: Value<'_>) -> Result<Info, MetainfoError> {
    let dict = root.as_dict().ok_or(MetainfoError::Invalid("info"))?;
    // First of all: a newer version may break every other rule.
    let meta_version = meta_version(dict.get("meta version"))?;
    if !root.is_canonical() {
        return Err(MetainfoError::NotCanonical);
    }
    let mut fields = Fields::default();
    for (key, value) in dict.iter() {
        let field = match key {
            b"name" => &mut fields.name,
            b"name.utf-8" => &mut fields.name_utf8,
            b"piece length" => &mut fields.piece_length,
            b"pieces" => &mut fields.pieces,
            b"length" => &mut fields.length,
            b"files" => &mut fields.files,
            b"file tree" => &mut fields.file_tree,
            b"private" => &mut fields.private,
            _ => continue,
        };
        *field = Some(value);
    }
    let version = fields.version(meta_version)?;
    let name = fields.name()?;
    let piece_length = fields.piece_length(version)?;
    let (mut listing, single_file) = fields.listing(version, name, root.start())?;
    let geometry = listing.geometry(version, piece_length)?;
    if version == Version::V2 {
        listing.align(piece_length);
    }
    let pieces = fields.piece_hashes(version, &geometry)?.and_then(|at| InBytes::new(at - root.start()));
    Ok(Info {
        name: name.to_owned(),
        version,
        single_file,
        private: fields.private.and_then(Value::as_int) == Some(1),
        files: listing.files,
        symlinks: listing.symlinks,
        geometry,
        pieces,
        hashes: InfoHashes { v1: None, v2: None },
        bytes: Bytes::new(),
    })
}

fn meta_version(value: Option<Value<'_>>) -> Result<i64, MetainfoError> {
    let version = value.map_or(Some(1), Value::as_int).ok_or(MetainfoError::Invalid("meta version"))?;
    match version {
        1 | 2 => Ok(version),
        3.. => Err(MetainfoError::NewerVersion(version)),
        _ => Err(MetainfoError::Invalid("meta version")),
    }
}

impl<'a> Fields<'a> {
    fn version(&self, meta_version: i64) -> Result<Version, MetainfoError> {
        let v1 = self.pieces.is_some() || self.length.is_some() || self.files.is_some();
        match (meta_version, self.file_tree) {
            (1, None) => Ok(Version::V1),
            (1, Some(_)) => Err(MetainfoError::Missing("meta version")),
            (_, None) => Err(MetainfoError::Missing("file tree")),
            (_, Some(_)) if v1 => Ok(Version::Hybrid),
            (_, Some(_)) => Ok(Version::V2),
        }
    }

    fn name(&self) -> Result<&'a str, MetainfoError> {
        let name = self.name.ok_or(MetainfoError::Missing("name"))?;
        component(name, self.name_utf8)
    }

    fn piece_length(&self, version: Version) -> Result<u32, MetainfoError> {
        let value = self.piece_length.ok_or(MetainfoError::Missing("piece length"))?;
        let length = value.as_uint().and_then(|length| u32::try_from(length).ok());
        let length = length.filter(|length| (PIECE_LENGTH_LEAST..=PIECE_LENGTH).contains(length));
        length
            .filter(|length| version == Version::V1 || (*length >= BLOCK_SIZE && length.is_power_of_two()))
            .ok_or(MetainfoError::Invalid("piece length"))
    }

    /// The files, and whether there is one without a folder.
    fn listing(&self, version: Version, name: &str, begin: usize) -> Result<(Listing, bool), MetainfoError> {
        let mut listing = Listing { begin, ..Listing::default() };
        if version == Version::V2 {
            listing.read_tree(self.file_tree.ok_or(MetainfoError::Missing("file tree"))?)?;
            listing.share_paths();
            // A file that is called as the torrent is the torrent (BEP 52).
            let single_file = matches!(&listing.files[..], [file] if file.path == [name]) && listing.symlinks == 0;
            return Ok((listing, single_file));
        }
        let single_file = match (self.length, self.files) {
            (Some(length), None) => {
                let size = length.as_uint().ok_or(MetainfoError::Invalid("length"))?;
                listing.push([name.as_bytes()], size, None)?;
                listing.share_paths();
                true
            }
            (None, Some(files)) => {
                listing.read_list(files)?;
                false
            }
            (Some(_), Some(_)) => return Err(MetainfoError::Invalid("files")),
            (None, None) => return Err(MetainfoError::Missing("length")),
        };
        if version == Version::Hybrid {
            listing.agree_with(self.file_tree.ok_or(MetainfoError::Missing("file tree"))?)?;
        }
        Ok((listing, single_file))
    }

    /// Where the hashes of v1 begin in what was decoded.
    fn piece_hashes(&self, version: Version, geometry: &Geometry) -> Result<Option<usize>, MetainfoError> {
        if version == Version::V2 {
            return Ok(None);
        }
        let pieces = self.pieces.ok_or(MetainfoError::Missing("pieces"))?;
        let hashes = pieces.as_bytes().ok_or(MetainfoError::Invalid("pieces"))?;
        if hashes.len() != geometry.pieces() as usize * Sha1Hash::LEN {
            return Err(MetainfoError::HashCount);
        }
        Ok(pieces.bytes_at())
    }
}

/// The name in `value`, or in `utf8` where old software wrote the first in another encoding.
fn component<'a>(value: Value<'a>, utf8: Option<Value<'a>>) -> Result<&'a str, MetainfoError> {
    let bytes = value.as_bytes().ok_or(MetainfoError::Invalid("name"))?;
    match (files::component(bytes), utf8.and_then(Value::as_bytes)) {
        (Err(PathError::NotUtf8), Some(utf8)) => Ok(files::component(utf8)?),
        (name, _) => Ok(name?),
    }
}

/// The files as they are collected.
#[derive(Default)]
struct Listing {
    files: Vec<File>,
    symlinks: u32,
    data_files: usize,
    /// Bytes up to here, pads included.
    size: u64,
    /// Components and text of all paths: a few bytes of a file tree can stand for long paths.
    components: usize,
    paths: PathText,
    /// Where the info dictionary begins in what was decoded.
    begin: usize,
}

impl Listing {
    /// Adds a file; it has its path once all are there and [shared](Self::share_paths).
    fn push<'a>(
        &mut self,
        path: impl IntoIterator<Item = &'a [u8]>,
        size: u64,
        root: Option<usize>,
    ) -> Result<(), MetainfoError> {
        let mut depth = 0;
        let path = self.paths.push(path.into_iter().inspect(|_| depth += 1))?;
        self.components += depth;
        self.data_files += 1;
        // Between components stands one byte more each.
        let bytes = self.paths.len() + self.data_files - self.components;
        if self.data_files > FILES || self.components > PATHS_COMPONENTS || bytes > PATHS_BYTES {
            return Err(MetainfoError::TooMany("files"));
        }
        let root = self.in_bytes(root);
        self.add(File { path, size, kind: FileKind::Data, offset: self.size, root })
    }

    fn in_bytes(&self, at: Option<usize>) -> Option<InBytes> {
        InBytes::new(at?.checked_sub(self.begin)?)
    }

    fn add(&mut self, file: File) -> Result<(), MetainfoError> {
        self.size = self.size.checked_add(file.size).ok_or(MetainfoError::Invalid("length"))?;
        self.files.push(file);
        Ok(())
    }

    /// The `files` of v1.
    fn read_list(&mut self, list: Value<'_>) -> Result<(), MetainfoError> {
        for entry in list.as_list().ok_or(MetainfoError::Invalid("files"))? {
            self.read_entry(entry)?;
        }
        self.share_paths();
        let data = self.files.iter().filter(|file| file.kind == FileKind::Data);
        if let Some(path) = files::collision(data.map(|file| file.path.as_str())) {
            return Err(MetainfoError::Collision(path.to_owned()));
        }
        Ok(())
    }

    /// Gives the files their paths, when all of them are there.
    fn share_paths(&mut self) {
        let data = self.files.iter_mut().filter(|file| file.kind == FileKind::Data);
        self.paths.share(data.map(|file| &mut file.path));
        self.files.shrink_to_fit();
    }

    fn read_entry(&mut self, entry: Value<'_>) -> Result<(), MetainfoError> {
        let dict = entry.as_dict().ok_or(MetainfoError::Invalid("files"))?;
        let (mut length, mut path, mut path_utf8, mut attributes) = (None, None, None, &b""[..]);
        for (key, value) in dict.iter() {
            match key {
                b"length" => length = Some(value.as_uint().ok_or(MetainfoError::Invalid("length"))?),
                b"path" => path = Some(value.as_list().ok_or(MetainfoError::Invalid("path"))?),
                b"path.utf-8" => path_utf8 = value.as_list(),
                b"attr" => attributes = value.as_bytes().unwrap_or_default(),
                _ => {}
            }
        }
        let path = path.ok_or(MetainfoError::Missing("path"))?;
        if attributes.contains(&b'l') {
            self.symlinks = self.symlinks.saturating_add(1);
            return Ok(());
        }
        let size = length.ok_or(MetainfoError::Missing("length"))?;
        if attributes.contains(&b'p') {
            return self.pad(size);
        }
        match (self.push_names(path, size), path_utf8) {
            (Err(MetainfoError::Path(PathError::NotUtf8)), Some(utf8)) => self.push_names(utf8, size),
            (pushed, _) => pushed,
        }
    }

    fn push_names<'a>(&mut self, path: impl Iterator<Item = Value<'a>>, size: u64) -> Result<(), MetainfoError> {
        let mut invalid = false;
        let names = path.map_while(|name| {
            let bytes = name.as_bytes();
            invalid |= bytes.is_none();
            bytes
        });
        let pushed = self.push(names, size, None);
        if invalid { Err(MetainfoError::Invalid("path")) } else { pushed }
    }

    /// Pads of no length say nothing, and there cannot be more of the others than files between which they stand.
    fn pad(&mut self, size: u64) -> Result<(), MetainfoError> {
        if size == 0 {
            return Ok(());
        }
        if size >= u64::from(PIECE_LENGTH) || self.files.len() > 2 * self.data_files {
            return Err(MetainfoError::Invalid("attr"));
        }
        self.add(File { path: FilePath::default(), size, kind: FileKind::Pad, offset: self.size, root: None })
    }

    /// The `file tree` of v2.
    fn read_tree(&mut self, tree: Value<'_>) -> Result<(), MetainfoError> {
        tree::walk(tree, |path, leaf| match leaf {
            Leaf::File { size, root } => self.push(path.iter().map(|name| name.as_bytes()), size, root),
            Leaf::Symlink => {
                self.symlinks = self.symlinks.saturating_add(1);
                Ok(())
            }
        })
    }

    /// Takes the roots from the `file tree` of a hybrid, which must hold the same files in the same order.
    fn agree_with(&mut self, tree: Value<'_>) -> Result<(), MetainfoError> {
        let begin = self.begin;
        let mut data = self.files.iter_mut().filter(|file| file.kind == FileKind::Data);
        tree::walk(tree, |path, leaf| {
            let Leaf::File { size, root } = leaf else {
                return Ok(());
            };
            let file = data.next().ok_or(MetainfoError::Inconsistent)?;
            if file.size != size || file.path != *path {
                return Err(MetainfoError::Inconsistent);
            }
            file.root = root.and_then(|at| InBytes::new(at.checked_sub(begin)?));
            Ok(())
        })?;
        if data.next().is_some() { Err(MetainfoError::Inconsistent) } else { Ok(()) }
    }

    /// Moves each file of a v2 torrent to the piece that it begins.
    fn align(&mut self, piece_length: u32) {
        let piece_length = u64::from(piece_length);
        let mut piece = 0;
        for file in &mut self.files {
            file.offset = piece * piece_length;
            piece += file.size.div_ceil(piece_length);
        }
    }

    /// How the files are cut into pieces.
    fn geometry(&self, version: Version, piece_length: u32) -> Result<Geometry, MetainfoError> {
        if self.data_files == 0 {
            return Err(MetainfoError::NoFiles);
        }
        let sizes = || self.files.iter().filter(|file| file.kind == FileKind::Data).map(|file| file.size);
        let geometry = match version {
            Version::V1 => Geometry::contiguous(self.size, piece_length),
            Version::V2 => Geometry::aligned(sizes(), piece_length),
            Version::Hybrid => {
                let data_ends = self.files.iter().rev().find(|file| file.kind == FileKind::Data && file.size > 0);
                let tail_pad = data_ends.is_some_and(|file| file.offset + file.size < self.size);
                Geometry::padded(&sizes().collect::<Vec<_>>(), piece_length, tail_pad)
            }
        };
        let geometry =
            geometry.filter(|geometry| geometry.pieces() <= PIECES).ok_or(MetainfoError::TooMany("pieces"))?;
        self.check_pads(version, &geometry)?;
        Ok(geometry)
    }

    fn check_pads(&self, version: Version, geometry: &Geometry) -> Result<(), MetainfoError> {
        let piece_length = u64::from(geometry.piece_length());
        if self.files.iter().any(|file| file.kind == FileKind::Pad && file.size >= piece_length) {
            return Err(MetainfoError::Invalid("attr"));
        }
        if version != Version::Hybrid {
            return Ok(());
        }
        let aligned =
            |file: &File| file.kind == FileKind::Pad || file.size == 0 || file.offset.is_multiple_of(piece_length);
        let whole = self.size == geometry.wire_bytes();
        if whole && self.files.iter().all(aligned) { Ok(()) } else { Err(MetainfoError::Inconsistent) }
    }
}
