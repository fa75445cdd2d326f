//! The hashes of pieces whose bytes lie in files: several threads, each with several whole pieces side by side.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use obt_digest::{Hashers, LANES, Sha1, Sha256, digest_each};
use obt_wire::merkle::{piece_layer_number, root_above};
use obt_wire::metainfo::{File as TorrentFile, FileKind, Version};
use obt_wire::{BLOCK_SIZE, Geometry, PieceIndex, Sha1Hash, Sha256Hash};

use super::holes::Holes;
use super::root::Root;
use super::scan::io;
use super::{HashError, Watch};

/// Bytes of a piece that are read at once, whole blocks. All lanes together are half of a second-level cache, so that the hashes
/// find them there.
const STRETCH: usize = 2 * BLOCK_SIZE as usize;
/// Bytes of consecutive pieces that a thread takes at once at most: it reads here and there in them, and the disk is asked for
/// all of them before.
const TURN: u64 = 64 << 20;

/// Files on disk, laid out as pieces.
pub(super) struct Laid<'a> {
    /// In the torrent's order, pads included.
    pub(super) files: &'a [TorrentFile],
    /// Where they are.
    pub(super) root: &'a Root,
    /// Which of `files` are there; no pad is.
    pub(super) there: &'a [bool],
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
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let turn = turn(laid.geometry, cores);
    let threads = cores.min(pieces.div_ceil(turn) as usize);
    let hashes = Mutex::new(vec![None; pieces as usize]);
    let next = AtomicU32::new(0);
    let turns = || -> Result<(), HashError> {
        let mut hasher = Hasher::new(laid, on_short);
        loop {
            let first = next.fetch_add(turn, Ordering::Relaxed).min(pieces);
            let end = first.saturating_add(turn).min(pieces);
            if first == end {
                return Ok(());
            }
            let done = hasher.pieces(first..end)?;
            let bytes = (first..end).map(|piece| u64::from(laid.geometry.data_size(PieceIndex(piece)))).sum();
            let mut hashes = hashes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(place) = hashes.get_mut(first as usize..end as usize) {
                place.copy_from_slice(&done);
            }
            drop(hashes);
            watch.add(bytes)?;
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

/// Pieces that a thread takes at once: as many as are hashed side by side, if that leaves none of the threads without.
fn turn(geometry: &Geometry, threads: usize) -> u32 {
    let near = u32::try_from(TURN / u64::from(geometry.piece_length())).unwrap_or(1);
    let fair = geometry.pieces().div_ceil(u32::try_from(threads).unwrap_or(1));
    near.min(fair).clamp(1, LANES as u32)
}

/// One thread's part.
struct Hasher<'a> {
    laid: &'a Laid<'a>,
    on_short: OnShort,
    lanes: Vec<Lane>,
    /// The hashes of a whole piece of zeros in a file longer than a piece, once they were needed.
    zeros: Option<PieceHashes>,
}

/// A piece that is being read.
struct Lane {
    /// What is left of it, in the torrent's bytes.
    left: Range<u64>,
    /// The file that its next byte is in.
    number: usize,
    /// The file that holds its first data, if the piece has any.
    owner: Option<usize>,
    /// The file that was read last: consecutive pieces mostly lie in one.
    open: Option<Open>,
    buffer: Vec<u8>,
    /// How much of the buffer is of the piece, and how much of that is data and not padding.
    filled: usize,
    data: usize,
    blocks: Vec<Sha256Hash>,
    hole: bool,
    what: What,
}

/// What becomes of a lane's piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Hashed,
    /// It is in a hole: its hashes are known.
    Zeros,
    /// It could not be read.
    Short,
}

/// A file that is being read.
struct Open {
    number: usize,
    file: File,
    holes: Holes,
}

impl<'a> Hasher<'a> {
    fn new(laid: &'a Laid<'a>, on_short: OnShort) -> Self {
        Self { laid, on_short, lanes: Vec::new(), zeros: None }
    }

    /// The hashes of up to [`LANES`] consecutive pieces.
    fn pieces(&mut self, pieces: Range<u32>) -> Result<Vec<Option<PieceHashes>>, HashError> {
        let count = pieces.len();
        while self.lanes.len() < count {
            self.lanes.push(Lane::new());
        }
        for (lane, piece) in self.lanes.iter_mut().zip(pieces) {
            lane.begin(self.laid, PieceIndex(piece));
            let hole = lane.is_hole(self.laid);
            lane.hole = lane.or_short(hole, self.on_short)?.unwrap_or(false);
            // Once the hashes of zeros are known, holes are not read.
            if lane.hole && self.zeros.is_some() {
                lane.what = What::Zeros;
            } else {
                lane.will_need(self.laid);
            }
        }
        let sha1 = self.read(count)?;
        Ok(self.results(count, sha1))
    }

    /// Reads the pieces of the first lanes, a stretch of each at a time, and hashes what was read.
    fn read(&mut self, count: usize) -> Result<Vec<Sha1Hash>, HashError> {
        let (with_v1, with_v2) = (self.laid.version != Version::V2, self.laid.version != Version::V1);
        let mut sha1 = Hashers::<Sha1>::new(if with_v1 { count } else { 0 });
        let lanes = self.lanes.get_mut(..count).unwrap_or_default();
        loop {
            for lane in &mut *lanes {
                let filled = lane.fill(self.laid);
                lane.or_short(filled, self.on_short)?;
            }
            if lanes.iter().all(|lane| lane.filled == 0) {
                let hashes = sha1.finish();
                return Ok(hashes.into_iter().map(Sha1Hash).collect());
            }
            if with_v1 {
                sha1.update(&lanes.iter().map(Lane::bytes).collect::<Vec<_>>());
            }
            if with_v2 {
                hash_blocks(lanes);
            }
        }
    }

    fn results(&mut self, count: usize, sha1: Vec<Sha1Hash>) -> Vec<Option<PieceHashes>> {
        let mut sha1 = sha1.into_iter();
        let mut results = Vec::with_capacity(count);
        for lane in self.lanes.iter_mut().take(count) {
            let v1 = sha1.next().unwrap_or_default();
            results.push(match lane.what {
                What::Hashed => {
                    let hashes = PieceHashes { v1, v2: lane.node(self.laid) };
                    self.zeros = self.zeros.or(Some(hashes).filter(|_| lane.hole));
                    Some(hashes)
                }
                What::Zeros => self.zeros,
                What::Short => None,
            });
        }
        results
    }
}

/// Hashes what lanes have read as blocks of v2.
fn hash_blocks(lanes: &mut [Lane]) {
    let blocks: Vec<&[u8]> = lanes.iter().flat_map(|lane| lane.data_bytes().chunks(BLOCK_SIZE as usize)).collect();
    let mut hashes = digest_each::<Sha256>(&blocks).into_iter().map(Sha256Hash);
    for lane in lanes {
        let count = lane.data.div_ceil(BLOCK_SIZE as usize);
        lane.blocks.extend(hashes.by_ref().take(count));
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            left: 0..0,
            number: 0,
            owner: None,
            open: None,
            buffer: vec![0; STRETCH],
            filled: 0,
            data: 0,
            blocks: Vec::new(),
            hole: false,
            what: What::Hashed,
        }
    }

    fn begin(&mut self, laid: &Laid<'_>, piece: PieceIndex) {
        let begin = u64::from(piece.0) * u64::from(laid.geometry.piece_length());
        self.left = begin..begin + u64::from(laid.geometry.piece_size(piece));
        self.number = laid.files.partition_point(|file| file.offset + file.size <= begin);
        let inside = |number: &usize| laid.files.get(*number).is_some_and(|file| file.offset < self.left.end);
        let has_data =
            |number: &usize| laid.files.get(*number).is_some_and(|file| file.kind == FileKind::Data && file.size > 0);
        self.owner = (self.number..).take_while(inside).find(has_data);
        self.blocks.clear();
        self.what = What::Hashed;
    }

    /// Notes that a piece cannot be read, where that is no error.
    fn or_short<T>(&mut self, result: Result<T, HashError>, on_short: OnShort) -> Result<Option<T>, HashError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(_) if on_short == OnShort::Skip => {
                self.what = What::Short;
                self.filled = 0;
                self.data = 0;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the piece is a whole one, in one file that is longer than a piece, and in a hole of it.
    fn is_hole(&mut self, laid: &Laid<'_>) -> Result<bool, HashError> {
        let piece_length = u64::from(laid.geometry.piece_length());
        let Some(file) = laid.files.get(self.number).filter(|file| file.kind == FileKind::Data) else {
            return Ok(false);
        };
        let Range { start, end } = self.left;
        let inside = file.offset <= start && end <= file.offset + file.size;
        if !inside || end - start != piece_length || file.size <= piece_length {
            return Ok(false);
        }
        let open = open(laid, &mut self.open, self.number)?;
        Ok(open.holes.cover(&open.file, start - file.offset..end - file.offset))
    }

    /// Asks the disk for what the piece has in its first file: lanes read in turn, which no read-ahead sees through.
    fn will_need(&mut self, laid: &Laid<'_>) {
        let Some(file) = laid.files.get(self.number).filter(|file| file.kind == FileKind::Data) else { return };
        let from = self.left.start.saturating_sub(file.offset);
        let until = (self.left.end - file.offset).min(file.size);
        if until - from > STRETCH as u64
            && let Ok(open) = open(laid, &mut self.open, self.number)
        {
            advise(&open.file, from..until);
        }
    }

    /// Reads the next stretch of the piece; nothing of one that needs no reading.
    fn fill(&mut self, laid: &Laid<'_>) -> Result<(), HashError> {
        (self.filled, self.data) = (0, 0);
        if self.what != What::Hashed {
            return Ok(());
        }
        while self.filled < STRETCH && !self.left.is_empty() {
            let Some(file) = laid.files.get(self.number) else { break };
            let file_end = file.offset + file.size;
            if file_end <= self.left.start {
                self.number += 1;
                continue;
            }
            let room = (STRETCH - self.filled) as u64;
            let length = room.min(file_end.min(self.left.end) - self.left.start);
            let end = self.filled + usize::try_from(length).unwrap_or(STRETCH);
            let offset = self.left.start - file.offset;
            self.read(laid, offset, self.filled..end)?;
            if file.kind == FileKind::Data {
                self.data = end;
            }
            self.filled = end;
            self.left.start += length;
        }
        Ok(())
    }

    /// Reads from the file with the lane's number into a part of its buffer; a pad is zeros.
    fn read(&mut self, laid: &Laid<'_>, offset: u64, part: Range<usize>) -> Result<(), HashError> {
        let buffer = self.buffer.get_mut(part).unwrap_or_default();
        if laid.files.get(self.number).is_some_and(|file| file.kind == FileKind::Pad) {
            buffer.fill(0);
            return Ok(());
        }
        let open = open(laid, &mut self.open, self.number)?;
        read_exact_at(&open.file, buffer, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => HashError::Changed(laid.shown(self.number)),
            _ => io(&laid.shown(self.number))(error),
        })
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    /// Without padding, which v2 and hybrid torrents have at the end of pieces only.
    fn data_bytes(&self) -> &[u8] {
        self.buffer.get(..self.data).unwrap_or_default()
    }

    /// The node above the blocks of the piece.
    fn node(&self, laid: &Laid<'_>) -> Sha256Hash {
        if laid.version == Version::V1 {
            return Sha256Hash::default();
        }
        let piece_length = laid.geometry.piece_length();
        let file = self.owner.and_then(|owner| laid.files.get(owner));
        let alone = file.is_none_or(|file| file.size <= u64::from(piece_length));
        let top = if alone { self.blocks.len().next_power_of_two().ilog2() } else { piece_layer_number(piece_length) };
        root_above(&self.blocks, 0, top).unwrap_or_default()
    }
}

/// The file with this number; `last` is the one that is open.
fn open<'a>(laid: &Laid<'_>, last: &'a mut Option<Open>, number: usize) -> Result<&'a mut Open, HashError> {
    let open = match last.take().filter(|open| open.number == number) {
        Some(open) => open,
        None if laid.there.get(number) != Some(&true) => return Err(HashError::NotData(laid.shown(number))),
        None => {
            let file = laid.root.open(laid.below(number)).map_err(|error| io(&laid.shown(number))(error))?;
            Open { number, holes: Holes::of(&file), file }
        }
    };
    Ok(last.insert(open))
}

impl Laid<'_> {
    fn below(&self, number: usize) -> &str {
        self.files.get(number).map(|file| file.path.as_str()).unwrap_or_default()
    }

    fn shown(&self, number: usize) -> PathBuf {
        self.root.shown(self.below(number))
    }
}

#[cfg(target_os = "linux")]
fn advise(file: &File, stretch: Range<u64>) {
    let length = std::num::NonZeroU64::new(stretch.end - stretch.start);
    // Advice: where it is not taken, reading is slower.
    let _ = rustix::fs::fadvise(file, stretch.start, length, rustix::fs::Advice::WillNeed);
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &File, _: Range<u64>) {}

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
