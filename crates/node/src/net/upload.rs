//! From a queue to a stream of bytes: small messages are gathered into one write, and blocks go from the page cache
//! to the socket without passing through user space.
//!
//! A block's place on disk is looked up, and checked, when its turn comes: until its header is sent it can still be
//! given up without harm to the connection.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use obt_wire::peer::{PieceHeader, Request};
use obt_wire::{BLOCK_SIZE, PieceIndex};
use thiserror::Error;

use super::outgoing::Part;
use super::stream::{FileSent, Follow, PeerStream};
use super::{Item, Outgoing};
use crate::disk::{Store, StoreError, UploadPlan, UploadSlice};
use crate::limits::{READ_BLOCKS, TURN, WRITE_QUEUE_BYTES};

/// Bytes that are brought into memory, or looked for there, at once: sixteen blocks, a stretch that a disk reads as fast
/// as one.
const STRETCH: u64 = 256 << 10;
/// How long a stretch that was in memory is taken to be there still.
const FRESH: Duration = Duration::from_secs(1);
/// Blocks written before others on the thread get their turn.
const BLOCKS_A_TURN: usize = TURN * READ_BLOCKS;

/// What padding is sent from.
static ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];

/// Why a connection cannot be written any more.
#[derive(Debug, Error)]
pub(super) enum WriteError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("cannot read a block whose header is sent")]
    Read(#[source] io::Error),
    #[error("a file became shorter while a block of it was sent")]
    Shrunk,
}

impl WriteError {
    /// Whether the file is to blame, and not the socket: the kernel that sends from one to the other has one error for
    /// both, and sockets do not have this code.
    fn is_of_the_disk(&self) -> bool {
        match self {
            Self::Io(error) => error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()),
            Self::Read(_) => true,
            Self::Shrunk => false,
        }
    }
}

/// How a write went.
#[derive(Debug)]
pub(super) enum Turn {
    /// There is more to write, and room for it.
    More,
    /// The socket is full.
    Full,
    /// Nothing is left to write.
    Done,
    /// The next block is not in memory: [`Stretch::read`] brings it there, and [`Writer::warmed`] is told.
    Cold(Stretch),
}

/// A part of a file that has to be in memory, or is.
#[derive(Debug)]
pub(super) struct Stretch {
    file: Arc<File>,
    from: u64,
    to: u64,
    seen: Instant,
}

impl Stretch {
    /// The bytes of a block, and those after it that are read along.
    fn of_block(file: &Arc<File>, from: u64, end: u64) -> Self {
        let to = end.max(from.saturating_add(STRETCH));
        Self { file: Arc::clone(file), from, to, seen: Instant::now() }
    }

    /// Reads it, so that it is in the page cache. Blocks.
    pub(super) fn read(self) -> io::Result<Self> {
        let mut scratch = vec![0; BLOCK_SIZE as usize];
        let mut at = self.from;
        while at < self.to {
            match self.file.read_at(&mut scratch, at) {
                Ok(0) => break,
                Ok(read) => at += read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { seen: Instant::now(), ..self })
    }

    fn covers(&self, file: &Arc<File>, from: u64, end: u64) -> bool {
        Arc::ptr_eq(&self.file, file) && self.from <= from && end <= self.to && self.seen.elapsed() < FRESH
    }
}

/// A block whose place on disk is known.
#[derive(Debug)]
struct Sending {
    request: Request,
    header: [u8; PieceHeader::LEN],
    header_sent: usize,
    plan: UploadPlan,
    /// Which slice of the plan is being sent, and how much of it is.
    slice: usize,
    slice_sent: u32,
}

/// The writing half of a connection.
#[derive(Debug, Default)]
pub(super) struct Writer {
    queue: Outgoing,
    sending: Option<Sending>,
    /// A stretch that was in memory a moment ago: its blocks need not be looked for one by one.
    warm: Option<Stretch>,
}

impl Writer {
    /// What is to be written, in order.
    pub(super) fn queue(&mut self) -> &mut Outgoing {
        &mut self.queue
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.sending.is_none()
    }

    /// Whether it is better to write before more is queued.
    pub(super) fn is_long(&self) -> bool {
        self.queue.memory() > WRITE_QUEUE_BYTES
    }

    /// What a [`Turn::Cold`] asked for is done.
    pub(super) fn warmed(&mut self, warm: io::Result<Stretch>, items: &mut Vec<Item>) {
        let error = match warm {
            Ok(warm) => {
                self.warm = Some(warm);
                return;
            }
            Err(error) => error,
        };
        tracing::warn!(%error, "cannot read a block to send it");
        if let Some(sending) = self.sending.take_if(|sending| sending.header_sent == 0) {
            items.push(Item::UploadFailed(PieceIndex(sending.request.piece)));
        }
    }

    /// Writes as much as the socket takes, within a turn.
    pub(super) fn turn(
        &mut self,
        stream: &mut PeerStream,
        store: Option<&Store>,
        items: &mut Vec<Item>,
    ) -> Result<Turn, WriteError> {
        for _ in 0..BLOCKS_A_TURN {
            if let Some(turn) = self.step(stream, store, items)? {
                return Ok(turn);
            }
        }
        Ok(Turn::More)
    }

    /// One block, or the small messages before the next. None where more may follow.
    fn step(
        &mut self,
        stream: &mut PeerStream,
        store: Option<&Store>,
        items: &mut Vec<Item>,
    ) -> Result<Option<Turn>, WriteError> {
        if let Some(sending) = &mut self.sending {
            if let Some(cold) = sending.cold(&mut self.warm) {
                return Ok(Some(Turn::Cold(cold)));
            }
            match sending.send(stream) {
                Ok(true) => {}
                Ok(false) => return Ok(Some(Turn::Full)),
                Err(error) => {
                    if error.is_of_the_disk() {
                        items.push(Item::UploadFailed(PieceIndex(sending.request.piece)));
                    }
                    return Err(error);
                }
            }
            items.push(Item::Uploaded(sending.request.length));
            self.sending = None;
            return Ok(None);
        }
        match self.queue.first() {
            None => return Ok(Some(Turn::Done)),
            Some((Part::Bytes(length), more)) => {
                let follow = if more { Follow::More } else { Follow::Nothing };
                let Some(sent) = stream.try_send(self.queue.bytes(length), follow)? else {
                    return Ok(Some(Turn::Full));
                };
                self.queue.advance(sent);
            }
            Some((Part::Block(request), _)) => {
                self.queue.pop_block();
                match store.map(|store| store.upload(&request)) {
                    Some(Ok(plan)) => self.sending = Some(Sending::new(request, plan)),
                    failed => {
                        give_up(&request, failed.and_then(Result::err));
                        items.push(Item::UploadFailed(PieceIndex(request.piece)));
                    }
                }
            }
        }
        Ok(None)
    }
}

fn give_up(request: &Request, error: Option<StoreError>) {
    match error {
        // A peer asks for hundreds of blocks of it; that the file changed is told once, where it is found out.
        Some(error @ StoreError::Changed { .. }) => {
            tracing::debug!(piece = request.piece, %error, "cannot send a block");
        }
        Some(error) => tracing::warn!(piece = request.piece, %error, "cannot send a block"),
        None => tracing::debug!(piece = request.piece, "a block is wanted before there is a store"),
    }
}

impl Sending {
    fn new(request: Request, plan: UploadPlan) -> Self {
        let header = PieceHeader { piece: request.piece, begin: request.begin, length: request.length }.encode();
        Self { request, header, header_sent: 0, plan, slice: 0, slice_sent: 0 }
    }

    /// What has to be read before the block can be sent without waiting for the disk. Looks only before the first byte
    /// is sent: until then the block can be given up.
    fn cold(&self, warm: &mut Option<Stretch>) -> Option<Stretch> {
        if self.header_sent > 0 {
            return None;
        }
        for slice in self.plan.slices() {
            let UploadSlice::File { file, offset, length } = slice else {
                continue;
            };
            let end = offset.saturating_add(u64::from(*length));
            if *length == 0 || warm.as_ref().is_some_and(|warm| warm.covers(file, *offset, end)) {
                continue;
            }
            let stretch = Stretch::of_block(file, *offset, end);
            if !is_resident(file, end - 1) {
                return Some(stretch);
            }
            // Readahead brings pages in order: where both ends are here, so is what lies between.
            if is_resident(file, stretch.to - 1) {
                *warm = Some(stretch);
            }
        }
        None
    }

    /// Whether the block is whole in the hands of the kernel.
    fn send(&mut self, stream: &mut PeerStream) -> Result<bool, WriteError> {
        while let Some(rest @ [_, ..]) = self.header.get(self.header_sent..) {
            let Some(sent) = stream.try_send(rest, Follow::More)? else {
                return Ok(false);
            };
            self.header_sent += sent;
        }
        while let Some(slice) = self.plan.slices().nth(self.slice) {
            let (UploadSlice::File { length, .. } | UploadSlice::Zeros { length }) = slice;
            let left = length.saturating_sub(self.slice_sent);
            if left == 0 {
                self.slice += 1;
                self.slice_sent = 0;
                continue;
            }
            match send_slice(stream, slice, self.slice_sent, left)? {
                Some(sent) => self.slice_sent = self.slice_sent.saturating_add(u32::try_from(sent).unwrap_or(left)),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Sends some of the `left` bytes of a slice that follow its first `done`; None where the socket is full.
fn send_slice(stream: &mut PeerStream, slice: &UploadSlice, done: u32, left: u32) -> Result<Option<usize>, WriteError> {
    let length = left as usize;
    match slice {
        UploadSlice::Zeros { .. } => {
            let zeros = ZEROS.get(..length).unwrap_or(&ZEROS);
            Ok(stream.try_send(zeros, Follow::Nothing)?)
        }
        UploadSlice::File { file, offset, .. } => {
            let offset = offset.saturating_add(u64::from(done));
            match stream.try_send_file(file, offset, length)? {
                None => Ok(None),
                Some(FileSent::Bytes(sent)) => Ok(Some(sent)),
                Some(FileSent::Short) => Err(WriteError::Shrunk),
                Some(FileSent::Unsupported) => copy_slice(stream, file, offset, length),
            }
        }
    }
}

/// Where the kernel cannot send from a file: reads and writes.
fn copy_slice(stream: &mut PeerStream, file: &File, offset: u64, length: usize) -> Result<Option<usize>, WriteError> {
    let mut bytes = [0; BLOCK_SIZE as usize];
    let room = bytes.get_mut(..length.min(BLOCK_SIZE as usize)).unwrap_or_default();
    let read = file.read_at(room, offset).map_err(WriteError::Read)?;
    match room.get(..read) {
        Some(read @ [_, ..]) => Ok(stream.try_send(read, Follow::Nothing)?),
        _ => Err(WriteError::Shrunk),
    }
}

/// Whether the byte at `offset` can be read without waiting for a disk; so can what lies past the end.
#[cfg(target_os = "linux")]
fn is_resident(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    rustix::io::preadv2(file, &mut [io::IoSliceMut::new(&mut byte)], offset, flags).is_ok()
}

/// Elsewhere nobody can tell.
#[cfg(not(target_os = "linux"))]
fn is_resident(_: &File, _: u64) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, Interest};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (PeerStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (PeerStream::new(ours.unwrap()).unwrap(), theirs.unwrap().0)
    }

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn f18_bytes_of_files_arrive_the_same_with_and_without_the_help_of_the_kernel() {
        let (mut ours, mut theirs) = pair().await;
        let bytes: Vec<u8> = (0..50_000_u32).map(|at| (at % 251) as u8).collect();
        let file = file(&bytes);
        let slice = UploadSlice::File { file: Arc::clone(&file), offset: 100, length: 16_384 };
        let mut received = vec![0; 16_384];
        for by_kernel in [true, false] {
            let mut done = 0;
            while done < 16_384 {
                ours.ready(Interest::WRITABLE).await.unwrap();
                let left = 16_384 - done;
                let sent = match by_kernel {
                    true => send_slice(&mut ours, &slice, done, left).unwrap(),
                    false => copy_slice(&mut ours, &file, 100 + u64::from(done), left as usize).unwrap(),
                };
                done += sent.unwrap_or(0) as u32;
            }
            theirs.read_exact(&mut received).await.unwrap();
            assert_eq!(received, bytes[100..100 + 16_384]);
        }
    }

    #[tokio::test]
    async fn f20_a_file_that_was_cut_is_an_error_and_not_zeros() {
        let (mut ours, _theirs) = pair().await;
        ours.ready(Interest::WRITABLE).await.unwrap();
        let file = file(&[1; 100]);
        let slice = UploadSlice::File { file: Arc::clone(&file), offset: 0, length: 16_384 };
        assert_eq!(send_slice(&mut ours, &slice, 0, 16_384).unwrap(), Some(100));
        assert!(matches!(send_slice(&mut ours, &slice, 100, 16_284), Err(WriteError::Shrunk)));
        assert!(matches!(copy_slice(&mut ours, &file, 100, 16_284), Err(WriteError::Shrunk)));
    }

    #[test]
    fn a_stretch_that_was_read_covers_its_blocks_for_a_while() {
        let file = file(&[1; 40_000]);
        let stretch = Stretch::of_block(&file, 16_384, 32_768).read().unwrap();
        assert!(stretch.covers(&file, 16_384, 32_768));
        assert!(stretch.covers(&file, 200_000, 216_384));
        assert!(!stretch.covers(&file, 0, 16_384));
        assert!(!stretch.covers(&Arc::new(tempfile::tempfile().unwrap()), 16_384, 32_768));
        let old = Stretch { seen: Instant::now().checked_sub(FRESH).unwrap(), ..stretch };
        assert!(!old.covers(&file, 16_384, 32_768));
    }
}
