//! The hashes of pieces whose bytes lie in files: several threads, each with whole pieces.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use obt_wire::merkle::{block_hash, piece_layer_number, root_above};
use obt_wire::metainfo::{File as TorrentFile, FileKind, Version};
use obt_wire::{BLOCK_SIZE, Geometry, PieceIndex, Sha1Hash, Sha256Hash};
use sha1::{Digest, Sha1};

use super::holes::Holes;
use super::scan::io;
use super::{HashError, Watch};

/// Bytes read at once: half of a small second-level cache, so that the second hash finds them there.
const STRETCH: usize = 256 << 10;
/// Bytes of consecutive pieces that a thread takes at once: long enough for the read-ahead of a disk.
const TURN: u64 = 4 << 20;

/// Files on disk, laid out as pieces.
pub(super) struct Laid<'a> {
    /// In the torrent's order, pads included.
    pub(super) files: &'a [TorrentFile],
    /// The file on disk of each entry of `files`; None of pads, and of files that are not there.
    pub(super) paths: &'a [Option<PathBuf>],
    pub(super) geometry: &'a Geometry,
    pub(super) version: Version,
}

/// The hashes of one piece; those that the version lacks are zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PieceHashes {
    pub(super) v1: Sha1Hash,
    /// The node in the piece layer; of a file not longer than a piece its root.
    pub(super) v2: Sha256Hash,
}

/// What to do with a piece that cannot be read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnShort {
    /// The whole hashing ends.
    Fail,
    /// That piece has no hashes.
    Skip,
}

/// Hashes every piece; None for those that could not be read.
pub(super) fn hash_all(
    laid: &Laid<'_>,
    on_short: OnShort,
    watch: &Watch,
) -> Result<Vec<Option<PieceHashes>>, HashError> {
    let pieces = laid.geometry.pieces();
    let turn = u32::try_from(TURN / u64::from(laid.geometry.piece_length())).unwrap_or(1).max(1);
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(pieces.div_ceil(turn) as usize);
    let hashes = Mutex::new(vec![None; pieces as usize]);
    let next = AtomicU32::new(0);
    let turns = || -> Result<(), HashError> {
        let mut hasher = Hasher::new(laid);
        let mut done = Vec::with_capacity(turn as usize);
        loop {
            let first = next.fetch_add(turn, Ordering::Relaxed).min(pieces);
            let end = first.saturating_add(turn).min(pieces);
            if first == end {
                return Ok(());
            }
            done.clear();
            for piece in first..end {
                let hashed = match hasher.piece(PieceIndex(piece)) {
                    Ok(hashed) => Some(hashed),
                    Err(_) if on_short == OnShort::Skip => None,
                    Err(error) => return Err(error),
                };
                done.push(hashed);
                watch.add(u64::from(laid.geometry.data_size(PieceIndex(piece))))?;
            }
            let mut hashes = hashes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(place) = hashes.get_mut(first as usize..end as usize) {
                place.copy_from_slice(&done);
            }
        }
    };
    // When one thread fails, the others need not go on.
    let work = || turns().inspect_err(|_| next.store(pieces, Ordering::Relaxed));
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            let ended = other.join().unwrap_or(Err(HashError::Cancelled));
            result = result.and(ended);
        }
        result
    })?;
    Ok(hashes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// One thread's part.
struct Hasher<'a> {
    laid: &'a Laid<'a>,
    buffer: Vec<u8>,
    /// The file that was read last: consecutive pieces mostly lie in one.
    open: Option<Open>,
    blocks: Vec<Sha256Hash>,
    /// The hashes of a whole piece of zeros in a file longer than a piece, once they were needed.
    zeros: Option<PieceHashes>,
}

/// A file that is being read.
struct Open {
    number: usize,
    file: File,
    holes: Holes,
}

impl<'a> Hasher<'a> {
    fn new(laid: &'a Laid<'a>) -> Self {
        Self { laid, buffer: vec![0; STRETCH], open: None, blocks: Vec::new(), zeros: None }
    }

    fn piece(&mut self, piece: PieceIndex) -> Result<PieceHashes, HashError> {
        let laid = self.laid;
        let begin = u64::from(piece.0) * u64::from(laid.geometry.piece_length());
        let end = begin + u64::from(laid.geometry.piece_size(piece));
        let first = laid.files.partition_point(|file| file.offset + file.size <= begin);
        if !self.is_hole(first, begin, end)? {
            return self.read(first, begin, end);
        }
        let zeros = match self.zeros {
            Some(zeros) => zeros,
            None => self.read(first, begin, end)?,
        };
        self.zeros = Some(zeros);
        Ok(zeros)
    }

    /// Whether these bytes are a whole piece, in one file that is longer than a piece, and in a hole of it.
    fn is_hole(&mut self, number: usize, begin: u64, end: u64) -> Result<bool, HashError> {
        let piece_length = u64::from(self.laid.geometry.piece_length());
        let Some(file) = self.laid.files.get(number).filter(|file| file.kind == FileKind::Data) else {
            return Ok(false);
        };
        let inside = file.offset <= begin && end <= file.offset + file.size;
        if !inside || end - begin != piece_length || file.size <= piece_length {
            return Ok(false);
        }
        let (_, open) = open(self.laid, &mut self.open, number)?;
        Ok(open.holes.cover(&open.file, begin - file.offset..end - file.offset))
    }

    /// Reads and hashes a piece, whose first bytes are in the file numbered `first`.
    fn read(&mut self, first: usize, begin: u64, end: u64) -> Result<PieceHashes, HashError> {
        let laid = self.laid;
        let (with_v1, with_v2) = (laid.version != Version::V2, laid.version != Version::V1);
        let mut sha1 = Sha1::new();
        self.blocks.clear();
        let mut at = begin;
        let mut owner = None;
        for (number, file) in laid.files.iter().enumerate().skip(first) {
            if at >= end || file.offset >= end {
                break;
            }
            owner = owner.or(Some(file).filter(|file| file.kind == FileKind::Data && file.size > 0));
            let stop = (file.offset + file.size).min(end);
            while at < stop {
                let length = usize::try_from(stop - at).unwrap_or(STRETCH).min(STRETCH);
                self.fill(number, at - file.offset, length)?;
                let bytes = self.buffer.get(..length).unwrap_or_default();
                if with_v1 {
                    sha1.update(bytes);
                }
                if with_v2 && file.kind == FileKind::Data {
                    self.blocks.extend(bytes.chunks(BLOCK_SIZE as usize).map(block_hash));
                }
                at += length as u64;
            }
        }
        let v1 = if with_v1 { Sha1Hash(sha1.finalize().into()) } else { Sha1Hash::default() };
        let v2 = if with_v2 { self.node(owner) } else { Sha256Hash::default() };
        Ok(PieceHashes { v1, v2 })
    }

    /// The node above the blocks of a piece of `file`.
    fn node(&self, file: Option<&TorrentFile>) -> Sha256Hash {
        let piece_length = self.laid.geometry.piece_length();
        let alone = file.is_none_or(|file| file.size <= u64::from(piece_length));
        let top = if alone { self.blocks.len().next_power_of_two().ilog2() } else { piece_layer_number(piece_length) };
        root_above(&self.blocks, 0, top).unwrap_or_default()
    }

    /// Reads `length` bytes of a file into the buffer; a pad is zeros.
    fn fill(&mut self, number: usize, offset: u64, length: usize) -> Result<(), HashError> {
        if self.laid.files.get(number).is_some_and(|file| file.kind == FileKind::Pad) {
            self.buffer.get_mut(..length).unwrap_or_default().fill(0);
            return Ok(());
        }
        let (path, open) = open(self.laid, &mut self.open, number)?;
        let buffer = self.buffer.get_mut(..length).unwrap_or_default();
        match read_exact_at(&open.file, buffer, offset) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(HashError::Changed(path.clone())),
            read => read.map_err(io(path)),
        }
    }
}

/// The file with this number and its path; `last` is the one that is open.
fn open<'a, 'b>(
    laid: &'a Laid<'_>,
    last: &'b mut Option<Open>,
    number: usize,
) -> Result<(&'a PathBuf, &'b mut Open), HashError> {
    let name = || laid.files.get(number).map(|file| file.path.iter().collect()).unwrap_or_default();
    let path = laid.paths.get(number).and_then(Option::as_ref).ok_or_else(|| HashError::NotData(name()))?;
    let open = match last.take().filter(|open| open.number == number) {
        Some(open) => open,
        None => {
            let file = File::open(path).map_err(io(path))?;
            Open { number, holes: Holes::of(&file), file }
        }
    };
    Ok((path, last.insert(open)))
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}
