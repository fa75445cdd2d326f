//! Datagrams in batches: many in and many out with two system calls, each answered from the address that it reached.
//!
//! A tracker that answers a datagram at a time spends most of its time entering the kernel. Where the system has no
//! batches, or a sandbox forbids them, one datagram at a time does the same.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

#[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
mod mmsg;

/// Datagrams in one batch: above this the cost of a call no longer shows.
const BATCH: usize = 64;
/// Room for one datagram that comes in, bytes: an Ethernet frame. A longer one is cut, and still too long for whoever
/// takes less.
const REQUEST_BYTES: usize = 1_536;
/// Room for one datagram that goes out, bytes.
const REPLY_BYTES: usize = 1_536;
/// Memory that the kernel is asked for to hold what comes in while a thread is busy, bytes: some ten thousand small
/// datagrams. The kernel gives less where its limit is lower.
const QUEUE_BYTES: usize = 4 << 20;

/// A datagram that came in.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Exactly what came.
    pub bytes: &'a [u8],
    /// Who sent it, it says.
    pub source: SocketAddr,
    /// The address of ours that it was sent to, where the system tells and the socket has more than one.
    pub reached: Option<IpAddr>,
}

/// Sockets that share one UDP port, for one thread each. The kernel spreads senders over them.
///
/// # Errors
/// Of the system; where anybody else has the port, also if they are ready to share it.
pub fn udp_sockets(addr: SocketAddr, count: usize, timeout: Duration) -> io::Result<Vec<UdpSocket>> {
    // The first one shares only once it has the port, so that it does not join the sockets of another process.
    let first = udp_socket(addr)?;
    first.bind(&SockAddr::from(addr))?;
    let bound: UdpSocket = first.into();
    let addr = bound.local_addr()?;
    let mut sockets = vec![bound];
    for _ in 1..if SHARES { count } else { 1 } {
        let socket = udp_socket(addr)?;
        share(&Socket::from(sockets[0].try_clone()?))?;
        share(&socket)?;
        socket.bind(&SockAddr::from(addr))?;
        sockets.push(socket.into());
    }
    for socket in &sockets {
        socket.set_read_timeout(Some(timeout))?;
        #[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
        tune(socket, addr)?;
    }
    Ok(sockets)
}

fn udp_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A short queue loses datagrams; it is no reason not to serve.
    let _ = socket.set_recv_buffer_size(QUEUE_BYTES);
    Ok(socket)
}

#[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
fn tune(socket: &UdpSocket, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv4() {
        // A kernel that does not know it sends what is asked of it all the same.
        let _ = mmsg::keep_whole(socket);
    }
    // Whoever reaches one address only has reached that one.
    if addr.ip().is_unspecified() { mmsg::tell_reached(socket, addr.is_ipv6()) } else { Ok(()) }
}

/// Whether sockets that share a port share its senders too.
const SHARES: bool = cfg!(target_os = "linux");

#[cfg(target_os = "linux")]
fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(target_os = "linux"))]
fn share(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Room for a batch. One for each thread.
pub struct UdpBatch {
    requests: Box<[[u8; REQUEST_BYTES]]>,
    replies: Box<[[u8; REPLY_BYTES]]>,
    /// Whether the system takes batches.
    #[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
    heads: Option<Box<mmsg::Heads>>,
}

impl Default for UdpBatch {
    fn default() -> Self {
        Self {
            requests: vec![[0; REQUEST_BYTES]; BATCH].into_boxed_slice(),
            replies: vec![[0; REPLY_BYTES]; BATCH].into_boxed_slice(),
            #[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
            heads: Some(Box::default()),
        }
    }
}

impl UdpBatch {
    /// Waits for datagrams, has `respond` answer each (it writes the answer and says how long it is), and sends the
    /// answers. Says how many came; 0 when the socket's timeout passed. What cannot be sent is lost, as datagrams are.
    ///
    /// # Errors
    /// Of the system, when it receives.
    pub fn answer(
        &mut self,
        socket: &UdpSocket,
        mut respond: impl FnMut(&Received<'_>, &mut [u8]) -> Option<usize>,
    ) -> io::Result<usize> {
        #[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
        if let Some(heads) = &mut self.heads {
            match heads.answer(socket, &mut self.requests, &mut self.replies, &mut respond) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => self.heads = None,
                done => return quiet(done),
            }
        }
        quiet(self.answer_one(socket, &mut respond))
    }

    fn answer_one(
        &mut self,
        socket: &UdpSocket,
        respond: &mut impl FnMut(&Received<'_>, &mut [u8]) -> Option<usize>,
    ) -> io::Result<usize> {
        let (Some(request), Some(reply)) = (self.requests.first_mut(), self.replies.first_mut()) else {
            return Ok(0);
        };
        let (length, source) = socket.recv_from(request)?;
        let received = Received { bytes: request.get(..length).unwrap_or_default(), source, reached: None };
        if let Some(reply) = respond(&received, reply).and_then(|length| reply.get(..length)) {
            let _ = socket.send_to(reply, source);
        }
        Ok(1)
    }
}

/// Neither a timeout nor a signal is an error, nor that an answer of before found nobody.
fn quiet(done: io::Result<usize>) -> io::Result<usize> {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    match done {
        Err(error)
            if matches!(error.kind(), WouldBlock | TimedOut | Interrupted | ConnectionRefused | ConnectionReset) =>
        {
            Ok(0)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests;
