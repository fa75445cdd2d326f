//! Stores on real files in temporary folders. "Killed" means that a store is dropped without a word.

mod ahead;
mod changes;
mod download;
mod existing;
mod full;
mod hostile;
mod reuse;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use obt_wire::merkle::{block_hash, piece_layer_number, root_above};
use obt_wire::metainfo::{Draft, FileKind, Metainfo, Version};
use obt_wire::peer::Request;
use obt_wire::{BLOCK_SIZE, Bitfield, Block, PieceIndex, Sha1Hash, Sha256Hash};
use sha1::{Digest, Sha1};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Disk, Done, DownloadPlan, FullPiece, OnExisting, Proof, Selection, Store, StoreError};
use crate::buffers::{BlockBuf, Pool};

const PIECE: u32 = 2 * BLOCK_SIZE;

/// A torrent with its bytes.
struct Content {
    metainfo: Arc<Metainfo>,
    torrent: Bytes,
    pieces: Vec<Vec<u8>>,
    /// Data files: path below the torrent's folder, bytes.
    files: Vec<(Vec<String>, Vec<u8>)>,
}

/// Bytes that differ everywhere.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| rng.u8(..)).collect()
}

impl Content {
    fn file(version: Version, size: usize) -> Self {
        Self::new(Draft::file("file.bin", size as u64, PIECE, version).unwrap())
    }

    fn folder(version: Version, files: &[(&str, usize)]) -> Self {
        let files = files.iter().map(|(path, size)| (path.split('/').map(str::to_owned).collect(), *size as u64));
        Self::new(Draft::folder("folder", files.collect(), PIECE, version).unwrap())
    }

    fn new(draft: Draft) -> Self {
        Self::with(draft, |bytes| bytes)
    }

    /// `v2_bytes` changes what the v2 hashes are over: a hybrid of two contents.
    fn with(draft: Draft, v2_bytes: impl Fn(Vec<u8>) -> Vec<u8>) -> Self {
        let geometry = draft.geometry().clone();
        let length = geometry.piece_length();
        let mut pieces: Vec<Vec<u8>> =
            geometry.all().map(|piece| vec![0; geometry.piece_size(piece) as usize]).collect();
        let (mut files, mut layers) = (Vec::new(), Vec::new());
        for (seed, file) in (0..).zip(draft.files()).filter(|(_, file)| file.kind == FileKind::Data) {
            let bytes = noise(file.size as usize, seed);
            for (at, byte) in (file.offset..).zip(&bytes) {
                pieces[(at / u64::from(length)) as usize][(at % u64::from(length)) as usize] = *byte;
            }
            layers.push(layer(&v2_bytes(bytes.clone()), length));
            files.push((file.path.components().map(str::to_owned).collect(), bytes));
        }
        let v1: Vec<Sha1Hash> = pieces.iter().map(|piece| Sha1Hash(Sha1::digest(piece).into())).collect();
        let v1 = if draft.version() == Version::V2 { Vec::new() } else { v1 };
        let metainfo = draft.finish(&v1, layers).unwrap();
        let torrent = Bytes::from(metainfo.to_bytes());
        Self { metainfo: Arc::new(metainfo), torrent, pieces, files }
    }

    fn count(&self) -> u32 {
        self.metainfo.info.geometry.pieces()
    }

    fn all(&self) -> std::ops::Range<u32> {
        0..self.count()
    }

    /// Writes it where `root` is the file or the folder.
    fn write_to(&self, root: &Path) {
        for (path, bytes) in &self.files {
            let path = if self.metainfo.info.single_file { root.to_owned() } else { root.join(path.join("/")) };
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    fn assert_at(&self, root: &Path) {
        for (path, bytes) in &self.files {
            let path = if self.metainfo.info.single_file { root.to_owned() } else { root.join(path.join("/")) };
            assert!(std::fs::read(&path).unwrap() == *bytes, "{} differs", path.display());
        }
    }
}

/// What a v2 torrent keeps of a file: the hashes of its pieces, or its root.
fn layer(bytes: &[u8], length: u32) -> Vec<Sha256Hash> {
    let one = bytes.len() <= length as usize;
    let pieces = bytes.chunks(length as usize).map(|piece| {
        let leaves: Vec<_> = piece.chunks(BLOCK_SIZE as usize).map(block_hash).collect();
        let top = if one { leaves.len().next_power_of_two().ilog2() } else { piece_layer_number(length) };
        root_above(&leaves, 0, top).unwrap()
    });
    pieces.collect()
}

/// A store and what it says.
struct Opened {
    store: Store,
    have: Bitfield,
    done: UnboundedReceiver<Done>,
}

impl Opened {
    /// The next thing it says; a test that waits for longer than this has failed.
    async fn next(&mut self) -> Done {
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, self.done.recv()).await.unwrap().unwrap()
    }

    /// Sends a piece and waits for the verdict.
    async fn send(&mut self, content: &Content, piece: u32) -> Done {
        self.store.verify([full(piece, blocks(content, piece), false)]);
        self.next().await
    }

    async fn send_all(&mut self, content: &Content, pieces: impl IntoIterator<Item = u32>) {
        for piece in pieces {
            let done = self.send(content, piece).await;
            assert!(is_good(&done), "{done:?}");
        }
    }

    fn read(&self, content: &Content, piece: u32) -> Result<(), StoreError> {
        let bytes = &content.pieces[piece as usize];
        let begin = usize::from(bytes.len() > 1);
        let mut out = vec![0; bytes.len() - begin];
        let request = Request { piece, begin: begin as u32, length: out.len() as u32 };
        self.store.read_blocking(&request, &mut out)?;
        assert!(out == bytes[begin..], "piece {piece} is read wrongly");
        Ok(())
    }
}

fn is_good(done: &Done) -> bool {
    matches!(done, Done::Verified { verdict: obt_swarm::Verdict::Good, .. })
}

fn buffer(bytes: &[u8]) -> BlockBuf {
    thread_local! {
        static POOL: Pool = Pool::bounded(10_000);
    }
    let mut buffer = POOL.with(Pool::try_take).unwrap();
    buffer.fill(0xee);
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer
}

/// The blocks of a piece that are fetched, last first.
fn blocks(content: &Content, piece: u32) -> Vec<(u32, BlockBuf)> {
    let geometry = &content.metainfo.info.geometry;
    let piece = PieceIndex(piece);
    let blocks = (0..geometry.blocks(piece)).rev().map(|index| {
        let block = Block { piece, index };
        let begin = block.begin() as usize;
        let end = begin + geometry.block_size(block) as usize;
        (index, buffer(&content.pieces[piece.0 as usize][begin..end]))
    });
    blocks.collect()
}

fn full(piece: u32, blocks: Vec<(u32, BlockBuf)>, digests: bool) -> FullPiece {
    FullPiece { piece: PieceIndex(piece), blocks, digests }
}

fn plan(folder: &TempDir, content: &Content) -> DownloadPlan {
    DownloadPlan {
        folder: folder.path().to_owned(),
        name: None,
        metainfo: Arc::clone(&content.metainfo),
        torrent: content.torrent.clone(),
        selection: Selection::All,
        on_existing: OnExisting::Refuse,
    }
}

async fn open(disk: &Disk, plan: DownloadPlan) -> Result<Opened, StoreError> {
    let (tell, done) = unbounded_channel();
    let (store, have) = Store::download(disk, plan, tell).await?;
    Ok(Opened { store, have, done })
}

/// The same after another store of it was dropped, whose jobs may hold its lock for a moment longer.
async fn open_unlocked(disk: &Disk, plan: &DownloadPlan) -> Opened {
    loop {
        match open(disk, plan.clone()).await {
            Err(StoreError::InUse { .. }) => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
}

async fn open_existing(disk: &Disk, root: &Path, content: &Content, proof: Option<Proof>) -> Opened {
    let (tell, done) = unbounded_channel();
    let metainfo = Arc::clone(&content.metainfo);
    let (store, have) = Store::existing(disk, root, metainfo, proof, tell).await.unwrap();
    Opened { store, have, done }
}

fn numbers(pieces: &Bitfield) -> Vec<u32> {
    pieces.iter().map(|piece| piece.0).collect()
}
