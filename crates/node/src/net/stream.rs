//! A socket of a peer, as its connection needs it: vectored reads, gathered writes, and files to the socket without
//! passing through user space.
//!
//! Nothing here waits but [`PeerStream::ready`]. Where the kernel took or gave less than it was offered, the socket is
//! known to be full or empty, and the call that would say so once more is saved.

use std::fs::File;
use std::io::{self, IoSliceMut};

use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

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
}

impl PeerStream {
    /// Takes over a connected socket. Blocks and requests are gathered here, so the kernel must not wait for more.
    pub(super) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self { tcp })
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
    pub(super) fn try_send(&self, bytes: &[u8], follow: Follow) -> io::Result<Option<usize>> {
        let flags = SendFlags::NOSIGNAL | if follow == Follow::More { SendFlags::MORE } else { SendFlags::empty() };
        would_block(self.tcp.try_io(Interest::WRITABLE, || retry(|| rustix::net::send(&self.tcp, bytes, flags))))
    }

    /// Sends bytes of a file; None where the socket is full.
    #[cfg(target_os = "linux")]
    pub(super) fn try_send_file(&self, file: &File, offset: u64, length: usize) -> io::Result<Option<FileSent>> {
        let sent = self.tcp.try_io(Interest::WRITABLE, || {
            let mut at = offset;
            match retry(|| rustix::fs::sendfile(&self.tcp, file, Some(&mut at), length)) {
                Ok(0) => Ok(FileSent::Short),
                Ok(bytes) => Ok(FileSent::Bytes(bytes)),
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
    pub(super) fn try_send_file(&self, _: &File, _: u64, _: usize) -> io::Result<Option<FileSent>> {
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
