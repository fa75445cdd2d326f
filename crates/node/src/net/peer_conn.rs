//! One connection: its task moves bytes both ways until either side ends it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use obt_swarm::PeerKey;
use obt_wire::peer::{Handshake, Message};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep_until;

use super::outbox::Outlook;
use super::reader::{self, ReadError, Reader};
use super::stream::PeerStream;
use super::upload::{self, Stretch, WriteError, Writer};
use super::{Item, Outbox, Report, Shared};
use crate::limits::{PROGRESS, TURN, WRITE_STALL};

/// Why a connection ended from this side.
#[derive(Debug, Error)]
enum Ended {
    #[error("the peer closed it")]
    ByPeer,
    #[error("the torrent closed it")]
    ByTorrent,
    #[error("the peer left our bytes unread")]
    Stalled,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// A connection whose handshakes are done, or whose answer to one is queued.
pub(crate) struct Connection {
    peer: PeerKey,
    stream: PeerStream,
    reader: Reader,
    writer: Writer,
    outbox: Arc<Outbox>,
    torrent: mpsc::Sender<Report>,
    shared: Arc<Shared>,
    /// Blocks that we asked for and that are not here, more or less: says how to read.
    expected: usize,
    items: Vec<Item>,
    progress: Instant,
    /// Since when the peer has taken nothing of what is to be written.
    stalled: Option<Instant>,
    /// A read from disk for the writer.
    warming: Option<Pin<Box<dyn Future<Output = io::Result<Stretch>> + Send>>>,
    /// The place among all connections of the process.
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Takes over a connected socket.
    pub(crate) fn new(
        peer: PeerKey,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        outbox: Arc<Outbox>,
        torrent: mpsc::Sender<Report>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            peer,
            stream: PeerStream::new(stream)?,
            reader: Reader::new(),
            writer: Writer::default(),
            outbox,
            torrent,
            shared,
            expected: 0,
            items: Vec::new(),
            progress: now,
            stalled: None,
            warming: None,
            _place: place,
        })
    }

    /// Queues our answer to a handshake in front of everything else.
    #[must_use]
    pub(crate) fn answering(mut self, handshake: &Handshake) -> Self {
        self.writer.queue().push_bytes(&handshake.encode());
        self
    }

    /// Runs until the connection ends, and tells the torrent so.
    pub(crate) async fn run(mut self) {
        let Err(ended) = self.converse().await;
        tracing::debug!(peer = self.peer.0, reason = %ended, "connection ended");
        // What came in before the end counts. A torrent that is gone needs no report.
        if self.report().await.is_ok() {
            let _ = self.torrent.send(Report::Gone(self.peer)).await;
        }
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, Ended> {
        loop {
            self.obey()?;
            let written = self.write()?;
            let read = self.read()?;
            self.report().await?;
            if read == reader::Turn::End {
                return Err(Ended::ByPeer);
            }
            if read != reader::Turn::More && !matches!(written, upload::Turn::More) {
                self.rest(read, written).await?;
            } else {
                tokio::task::consume_budget().await;
            }
        }
    }

    /// Queues what the torrent wants sent.
    fn obey(&mut self) -> Result<(), Ended> {
        if self.writer.is_long() {
            return if self.outbox.is_closed() { Err(Ended::ByTorrent) } else { Ok(()) };
        }
        if self.outbox.take(self.writer.queue()) == Outlook::Closed {
            return Err(Ended::ByTorrent);
        }
        self.expected += self.writer.queue().take_requests();
        Ok(())
    }

    fn write(&mut self) -> Result<upload::Turn, Ended> {
        if self.warming.is_some() || self.writer.is_empty() {
            return Ok(upload::Turn::Done);
        }
        let turn = self.writer.turn(&mut self.stream, self.shared.store.get(), &mut self.items)?;
        if matches!(turn, upload::Turn::Full) {
            self.stream.is_full(Instant::now())?;
        }
        self.stalled = match turn {
            upload::Turn::Full if self.items.is_empty() => self.stalled.or_else(|| Some(Instant::now())),
            _ => None,
        };
        Ok(turn)
    }

    fn read(&mut self) -> Result<reader::Turn, Ended> {
        let bitfield_bytes = self.shared.bitfield_bytes.load(Ordering::Relaxed);
        let mut turn = reader::Turn::More;
        for _ in 0..TURN {
            let from = self.items.len();
            turn = self.reader.turn(
                |into, room| self.stream.try_receive(into, room),
                &self.shared.pool,
                self.expected,
                bitfield_bytes,
                &mut self.items,
            )?;
            for item in self.items.iter().skip(from) {
                self.expected = match item {
                    Item::Block(..) | Item::Message(Message::Reject(_)) => self.expected.saturating_sub(1),
                    Item::Message(Message::Choke) => 0,
                    _ => continue,
                };
            }
            if turn != reader::Turn::More {
                self.reader.settle(self.expected);
                break;
            }
        }
        if self.items.is_empty() && self.reader.has_progressed() && self.progress.elapsed() >= PROGRESS {
            self.progress = Instant::now();
            self.items.push(Item::Progress);
        }
        Ok(turn)
    }

    /// Hands over what came of this turn. Waits while the torrent is busy, and meanwhile reads nothing.
    async fn report(&mut self) -> Result<(), Ended> {
        if self.items.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut self.items);
        self.torrent.send(Report::Items(self.peer, items)).await.map_err(|_| Ended::ByTorrent)
    }

    /// Waits for the socket, the torrent, a buffer, or the disk.
    async fn rest(&mut self, read: reader::Turn, written: upload::Turn) -> Result<(), Ended> {
        let full = matches!(written, upload::Turn::Full);
        if let upload::Turn::Cold(stretch) = written {
            self.warming = Some(Box::pin(read_cold(Arc::clone(&self.shared.cold_reads), stretch)));
        }
        let starved = read == reader::Turn::Starved;
        let interest = match (starved, full) {
            (false, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, true) => Some(Interest::WRITABLE),
            (true, false) => None,
        };
        tokio::select! {
            ready = self.stream.ready(interest.unwrap_or(Interest::ERROR)), if interest.is_some() => {
                ready?;
            }
            () = self.outbox.filled() => {}
            buffer = self.shared.pool.take(), if starved => self.reader.give(buffer),
            warm = maybe(self.warming.as_mut()) => {
                self.warming = None;
                self.writer.warmed(warm, &mut self.items);
            }
            () = maybe(self.stalled.map(|since| Box::pin(sleep_until((since + WRITE_STALL).into())))) => {
                return Err(Ended::Stalled);
            }
        }
        Ok(())
    }
}

/// Brings a stretch of a file into memory on a thread that may wait, when its turn among such reads has come.
async fn read_cold(reads: Arc<Semaphore>, stretch: Stretch) -> io::Result<Stretch> {
    let _turn = reads.acquire().await.map_err(io::Error::other)?;
    tokio::task::spawn_blocking(move || stretch.read()).await.map_err(io::Error::other)?
}

/// What the future gives, if there is one; else it never comes.
async fn maybe<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
