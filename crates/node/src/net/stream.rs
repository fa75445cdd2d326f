//! A socket of a peer, as its connection needs it: vectored reads, gathered writes, and files to the socket without
//! passing through user space.
//!
//! Nothing here waits but [`PeerStream::ready`]. Where the kernel took or gave less than it was offered, the socket is
//! known to be full or empty, and the call that would say so once more is saved.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use crate::limits::{UNSENT_LEAST, UNSENT_MOST};

/// A socket that takes no more again after this time has little room for how fast it is. On a long path the kernel wakes
/// us only when a third of its buffer is free, and all that it holds beyond the room waits for acknowledgements: room for
/// 5 ms fills 120 Mbit/s over 100 ms and 1 % loss to nine tenths of what this does.
const EMPTIED_FAST: Duration = Duration::from_millis(20);
/// One that takes so long has much room for how slow it is; a lost packet alone may take as long as a round trip.
const EMPTIED_SLOWLY: Duration = Duration::from_millis(200);

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes, as many as there was room for: there may be more.
    Full(usize),
    /// So many bytes, and that was all; may be 0.
    Drained(usize),
    /// The other side sends nothing more.
    End,
}

/// Whether more bytes follow at once, which lets the kernel wait for a full packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    More,
    Nothing,
}

/// What became of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileSent {
    /// So many of them are handed to the kernel.
    Bytes(usize),
    /// The file ended before.
    Short,
    /// This file, or this system, cannot do it.
    Unsupported,
}

/// A TCP connection to a peer. Another transport becomes another variant of what is inside.
#[derive(Debug)]
pub(super) struct PeerStream {
    tcp: TcpStream,
    /// Bytes that the socket takes beyond those that are on their way.
    unsent: u32,
    /// When it last took no more, and what it has taken since.
    full_at: Instant,
    taken: usize,
}

impl PeerStream {
    /// Takes over a connected socket. Blocks and requests are gathered here, so the kernel must not wait for more; and
    /// whom to send what is decided above, so it must not hold more than it can send.
    pub(super) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let mut this = Self { tcp, unsent: 0, full_at: Instant::now(), taken: 0 };
        this.limit_unsent(UNSENT_LEAST)?;
        Ok(this)
    }

    /// The socket takes no more. One that was emptied faster than we are woken gets more room, and a slow one less.
    pub(super) fn is_full(&mut self, now: Instant) -> io::Result<()> {
        if std::mem::take(&mut self.taken) == 0 {
            return Ok(());
        }
        let took = now.saturating_duration_since(std::mem::replace(&mut self.full_at, now));
        let unsent = match took {
            _ if took < EMPTIED_FAST => (self.unsent * 2).min(UNSENT_MOST),
            _ if took > EMPTIED_SLOWLY => (self.unsent / 2).max(UNSENT_LEAST),
            _ => self.unsent,
        };
        self.limit_unsent(unsent)
    }

    fn limit_unsent(&mut self, bytes: u32) -> io::Result<()> {
        if std::mem::replace(&mut self.unsent, bytes) != bytes {
            #[cfg(target_os = "linux")]
            socket2::SockRef::from(&self.tcp).set_tcp_notsent_lowat(bytes)?;
        }
        Ok(())
    }

    /// Waits until the socket can do one of `interest`.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.tcp.ready(interest).await
    }

    /// Reads what is there into `into`, whose lengths add up to `room`.
    pub(super) fn try_receive(&self, into: &mut [IoSliceMut<'_>], room: usize) -> io::Result<Received> {
        let mut got = 0;
        let result = self.tcp.try_io(Interest::READABLE, || {
            got = retry(|| rustix::io::readv(&self.tcp, into))?;
            // The runtime is to wait for the next packet, not to try again: same as if the kernel had said so.
            if got > 0 && got < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match result {
            Ok(()) if got == 0 => Ok(Received::End),
            Ok(()) => Ok(Received::Full(got)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Drained(got)),
            Err(error) => Err(error),
        }
    }

    /// Writes bytes; None where the socket is full.
    pub(super) fn try_send(&mut self, bytes: &[u8], follow: Follow) -> io::Result<Option<usize>> {
        let flags = SendFlags::NOSIGNAL | if follow == Follow::More { SendFlags::MORE } else { SendFlags::empty() };
        let sent =
            would_block(self.tcp.try_io(Interest::WRITABLE, || retry(|| rustix::net::send(&self.tcp, bytes, flags))))?;
        self.taken += sent.unwrap_or(0);
        Ok(sent)
    }

    /// Sends bytes of a file; None where the socket is full.
    #[cfg(target_os = "linux")]
    pub(super) fn try_send_file(&mut self, file: &File, offset: u64, length: usize) -> io::Result<Option<FileSent>> {
        let sent = self.tcp.try_io(Interest::WRITABLE, || {
            let mut at = offset;
            match retry(|| rustix::fs::sendfile(&self.tcp, file, Some(&mut at), length)) {
                Ok(0) => Ok(FileSent::Short),
                Ok(bytes) => {
                    self.taken += bytes;
                    Ok(FileSent::Bytes(bytes))
                }
                Err(error) if matches!(error.raw_os_error(), Some(raw) if unsupported(raw)) => {
                    Ok(FileSent::Unsupported)
                }
                Err(error) => Err(error),
            }
        });
        would_block(sent)
    }

    /// Elsewhere files are read and written.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn try_send_file(&mut self, _: &File, _: u64, _: usize) -> io::Result<Option<FileSent>> {
        Ok(Some(FileSent::Unsupported))
    }
}

#[cfg(target_os = "linux")]
fn unsupported(raw: i32) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].iter().any(|errno| errno.raw_os_error() == raw)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_does_not_read_leaves_little_in_the_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        SockRef::from(&listener).set_recv_buffer_size(64 << 10).unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut ours, _theirs) = (PeerStream::new(ours.unwrap()).unwrap(), theirs.unwrap());
        ours.ready(Interest::WRITABLE).await.unwrap();
        let mut sent = 0;
        while let Some(bytes) = ours.try_send(&[0; 16_384], Follow::Nothing).unwrap() {
            sent += bytes;
        }
        assert!(sent < 512 << 10, "{sent} bytes cannot be taken back");
    }

    #[tokio::test]
    async fn a_socket_has_room_for_some_milliseconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut ours = PeerStream::new(tcp).unwrap();
        let mut now = ours.full_at;
        for (wait, room) in
            [(1, 2 * UNSENT_LEAST), (100, 2 * UNSENT_LEAST), (10, 4 * UNSENT_LEAST), (250, 2 * UNSENT_LEAST)]
        {
            now += Duration::from_millis(wait);
            ours.is_full(now).unwrap();
            ours.taken = 1;
            ours.is_full(now).unwrap();
            assert_eq!(SockRef::from(&ours.tcp).tcp_notsent_lowat().unwrap(), room);
        }
        for _ in 0..20 {
            ours.taken = 1;
            ours.is_full(now).unwrap();
        }
        assert_eq!(ours.unsent, UNSENT_MOST);
        for _ in 0..20 {
            now += Duration::from_secs(1);
            ours.taken = 1;
            ours.is_full(now).unwrap();
        }
        assert_eq!(ours.unsent, UNSENT_LEAST);
    }
}
