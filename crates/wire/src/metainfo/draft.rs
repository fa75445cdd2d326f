//! Making a torrent: the layout first, so that others can hash, then the info dictionary from the hashes.
//!
//! The same files under the same name give the same bytes on every machine, so nothing goes in but names, sizes and
//! hashes; hybrids and v2 torrents come out as libtorrent makes them.

use bytes::Bytes;

use super::{File, FileKind, Info, Metainfo, MetainfoError, Version};
use crate::bencode::Writer;
use crate::file_path::{FilePath, PathText};
use crate::files;
use crate::geometry::{BLOCK_SIZE, Geometry};
use crate::ids::{Sha1Hash, Sha256Hash};
use crate::limits::{PIECE_LENGTH, PIECES};
use crate::merkle::{piece_layer_number, root_above};

/// A torrent whose files are known and not yet hashed.
#[derive(Debug, Clone)]
pub struct Draft {
    name: String,
    version: Version,
    single_file: bool,
    private: bool,
    files: Vec<File>,
    geometry: Geometry,
}

impl Draft {
    /// One file of `size` bytes, called `name`.
    ///
    /// # Errors
    /// Where a reader would refuse the name or the size.
    pub fn file(name: &str, size: u64, piece_length: u32, version: Version) -> Result<Self, MetainfoError> {
        files::component(name.as_bytes())?;
        Self::new(name, vec![(name, size)], true, piece_length, version)
    }

    /// A folder called `name` with files of these paths and sizes, in any order.
    ///
    /// # Errors
    /// Where there is no file, or a reader would refuse a path or the sizes.
    pub fn folder(
        name: &str,
        files: Vec<(Vec<String>, u64)>,
        piece_length: u32,
        version: Version,
    ) -> Result<Self, MetainfoError> {
        for name in files.iter().flat_map(|(path, _)| path) {
            files::component(name.as_bytes())?;
        }
        let joined: Vec<(String, u64)> = files.into_iter().map(|(path, size)| (path.join("/"), size)).collect();
        Self::folder_of(name, joined.iter().map(|(path, size)| (path.as_str(), *size)).collect(), piece_length, version)
    }

    /// The same of paths whose components have `/` between them.
    ///
    /// # Errors
    /// As [`folder`](Self::folder).
    pub fn folder_of(
        name: &str,
        files: Vec<(&str, u64)>,
        piece_length: u32,
        version: Version,
    ) -> Result<Self, MetainfoError> {
        Self::new(name, files, false, piece_length, version)
    }

    fn new(
        name: &str,
        mut files: Vec<(&str, u64)>,
        single_file: bool,
        piece_length: u32,
        version: Version,
    ) -> Result<Self, MetainfoError> {
        files::component(name.as_bytes())?;
        if files.is_empty() {
            return Err(MetainfoError::NoFiles);
        }
        if !piece_length.is_power_of_two() || !(BLOCK_SIZE..=PIECE_LENGTH).contains(&piece_length) {
            return Err(MetainfoError::Invalid("piece length"));
        }
        // Component by component: the order in which a reader meets the files of a file tree.
        files.sort_unstable_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
        if let Some(path) = files::collision(files.iter().map(|(path, _)| *path)) {
            return Err(MetainfoError::Collision(path.to_owned()));
        }
        let alone = matches!(&files[..], [(path, _)] if *path == name);
        if version == Version::V2 && alone && !single_file {
            return Err(MetainfoError::Ambiguous);
        }
        let (files, geometry) = layout(files, piece_length, version)?;
        Ok(Self { name: name.to_owned(), version, single_file, private: false, files, geometry })
    }

    /// The same, with peers from its trackers alone (BEP 27).
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// The files in the torrent's order, pads included.
    #[must_use]
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// How the files are cut into pieces.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Which hashes it needs.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The torrent.
    ///
    /// `pieces` holds the SHA-1 of each piece, pads included, for v1 and hybrids. `layers` holds, for v2 and hybrids
    /// and for each file but pads in the order of [`files`](Self::files), the hashes of its pieces: the node above a
    /// piece's blocks in the piece layer, of a file not longer than a piece its root, of an empty file nothing.
    ///
    /// # Errors
    /// [`MetainfoError::HashCount`] where these are too few or too many hashes.
    pub fn finish(self, pieces: &[Sha1Hash], layers: Vec<Vec<Sha256Hash>>) -> Result<Metainfo, MetainfoError> {
        let v1_pieces = if self.version == Version::V2 { 0 } else { self.geometry.pieces() };
        if pieces.len() != v1_pieces as usize {
            return Err(MetainfoError::HashCount);
        }
        if self.version != Version::V1 {
            self.check_layers(&layers)?;
        }
        let bytes = Bytes::from(self.info(pieces, &layers));
        let version = self.version;
        // The same files come out of the bytes.
        drop(self);
        let info = Info::parse(bytes)?;
        let mut metainfo = Metainfo::new(info);
        if version != Version::V1 {
            let data = metainfo.info.files.iter().filter(|file| file.kind == FileKind::Data);
            let rooted = data.zip(layers).filter(|(_, layer)| layer.len() > 1);
            metainfo.piece_layers =
                rooted.filter_map(|(file, layer)| Some((metainfo.info.root(file)?, layer))).collect();
        }
        Ok(metainfo)
    }

    fn check_layers(&self, layers: &[Vec<Sha256Hash>]) -> Result<(), MetainfoError> {
        let piece_length = u64::from(self.geometry.piece_length());
        let data = self.files.iter().filter(|file| file.kind == FileKind::Data);
        let pieces = data.map(|file| file.size.div_ceil(piece_length));
        if pieces.eq(layers.iter().map(|layer| layer.len() as u64)) { Ok(()) } else { Err(MetainfoError::HashCount) }
    }

    /// The info dictionary.
    fn info(&self, pieces: &[Sha1Hash], layers: &[Vec<Sha256Hash>]) -> Vec<u8> {
        let mut out = Vec::with_capacity(pieces.len() * Sha1Hash::LEN + self.files.len() * 150 + 256);
        let mut writer = Writer::new(&mut out);
        writer.dict();
        let (v1, v2) = (self.version != Version::V2, self.version != Version::V1);
        if v2 {
            self.write_tree(writer.key("file tree"), layers);
        }
        if v1 && !self.single_file {
            self.write_list(writer.key("files"));
        }
        if let Some(file) = self.files.first().filter(|_| v1 && self.single_file) {
            writer.key("length").uint(file.size);
        }
        if v2 {
            writer.key("meta version").int(2);
        }
        writer.key("name").bytes(&self.name);
        writer.key("piece length").uint(u64::from(self.geometry.piece_length()));
        if v1 {
            writer.key("pieces").bytes(pieces.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>());
        }
        if self.private {
            writer.key("private").int(1);
        }
        writer.end();
        out
    }

    fn write_list(&self, writer: &mut Writer<'_>) {
        writer.list();
        for file in &self.files {
            writer.dict();
            if file.kind == FileKind::Pad {
                writer.key("attr").bytes("p");
            }
            writer.key("length").uint(file.size).key("path").list();
            match file.kind {
                FileKind::Data => file.path.components().for_each(|name| _ = writer.bytes(name)),
                FileKind::Pad => _ = writer.bytes(".pad").bytes(file.size.to_string()),
            }
            writer.end().end();
        }
        writer.end();
    }

    fn write_tree(&self, writer: &mut Writer<'_>, layers: &[Vec<Sha256Hash>]) {
        writer.dict();
        let mut folder: Vec<&str> = Vec::new();
        let data = self.files.iter().filter(|file| file.kind == FileKind::Data);
        for (file, layer) in data.zip(layers) {
            let mut parents: Vec<&str> = file.path.components().collect();
            let Some(name) = parents.pop() else {
                continue;
            };
            let shared = folder.iter().zip(&parents).take_while(|(open, wanted)| open == wanted).count();
            folder.iter().skip(shared).for_each(|_| _ = writer.end());
            parents.iter().skip(shared).for_each(|name| _ = writer.key(name).dict());
            folder = parents;
            writer.key(name).dict().key("").dict().key("length").uint(file.size);
            if let Some(root) = root(layer, self.geometry.piece_length()) {
                writer.key("pieces root").bytes(root.0);
            }
            writer.end().end();
        }
        folder.iter().for_each(|_| _ = writer.end());
        writer.end();
    }
}

/// The root above the hashes of a file's pieces.
fn root(layer: &[Sha256Hash], piece_length: u32) -> Option<Sha256Hash> {
    match layer {
        [] => None,
        [root] => Some(*root),
        layer => {
            let layer_number = piece_layer_number(piece_length);
            root_above(layer, layer_number, layer_number + layer.len().next_power_of_two().ilog2())
        }
    }
}

/// The files with their offsets and the pads that a hybrid needs, and how they are cut.
fn layout(
    files: Vec<(&str, u64)>,
    piece_length: u32,
    version: Version,
) -> Result<(Vec<File>, Geometry), MetainfoError> {
    let sizes: Vec<u64> = files.iter().map(|(_, size)| *size).collect();
    let total = sizes.iter().try_fold(0u64, |total, size| total.checked_add(*size));
    let total = total.filter(|total| i64::try_from(*total).is_ok()).ok_or(MetainfoError::Invalid("length"))?;
    // As libtorrent has it: every file of several is padded, the last one too, and a single one is not.
    let pads = version == Version::Hybrid && files.len() > 1;
    let geometry = match version {
        Version::V1 => Geometry::contiguous(total, piece_length),
        Version::V2 => Geometry::aligned(sizes.iter().copied(), piece_length),
        Version::Hybrid => Geometry::padded(&sizes, piece_length, pads),
    };
    let geometry = geometry.filter(|geometry| geometry.pieces() <= PIECES).ok_or(MetainfoError::TooMany("pieces"))?;
    let piece_length = u64::from(piece_length);
    let mut laid = Vec::with_capacity(if pads { 2 * files.len() } else { files.len() });
    let mut paths = PathText::default();
    let mut offset = 0;
    for (path, size) in files {
        let path = paths.push(path.split('/').map(str::as_bytes))?;
        laid.push(File { path, size, kind: FileKind::Data, offset, root: None });
        offset += size;
        let pad = (piece_length - offset % piece_length) % piece_length;
        if pad == 0 || version == Version::V1 {
            continue;
        }
        if pads {
            laid.push(File { path: FilePath::default(), size: pad, kind: FileKind::Pad, offset, root: None });
        }
        offset += pad;
    }
    let data = laid.iter_mut().filter(|file| file.kind == FileKind::Data);
    paths.share(data.map(|file| &mut file.path));
    laid.shrink_to_fit();
    Ok((laid, geometry))
}
