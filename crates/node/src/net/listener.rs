//! The sockets that peers connect to: v4 and v6 on one port, with bounds on those who have not said yet what they want.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use obt_wire::peer::Handshake;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::sleep;

use super::handshake;
use crate::config::{PeerListen, PeerPort};
use crate::limits;
use crate::torrent::Registry;

/// Connections that the kernel holds for us between two turns of the listener.
const BACKLOG: i32 = 1024;
/// Tries to find a port that is free for both v4 and v6 where any will do.
const ANY_PORT_TRIES: usize = 16;

/// A peer that connected and named a torrent.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The connected socket; nothing after the handshake is read yet.
    pub(crate) stream: TcpStream,
    /// The remote end.
    pub(crate) addr: SocketAddr,
    /// What it sent; it waits for the answer.
    pub(crate) handshake: Handshake,
    /// Its place among all connections.
    pub(crate) place: OwnedSemaphorePermit,
}

/// Binds as asked; returns the sockets, at least one, and the port that they share.
pub(crate) fn bind(listen: PeerListen) -> io::Result<(Vec<TcpListener>, u16)> {
    match listen.port {
        PeerPort::Exactly(0) => bind_any(listen.addr),
        PeerPort::Exactly(port) => bind_port(listen.addr, port),
        PeerPort::Usual => {
            let usual = limits::PEER_PORT..limits::PEER_PORT.saturating_add(limits::PEER_PORTS);
            for port in usual {
                match bind_port(listen.addr, port) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                    done => return done,
                }
            }
            bind_any(listen.addr)
        }
    }
}

fn bind_any(addr: Option<IpAddr>) -> io::Result<(Vec<TcpListener>, u16)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..ANY_PORT_TRIES {
        match bind_port(addr, 0) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            done => return done,
        }
    }
    Err(last)
}

fn bind_port(addr: Option<IpAddr>, port: u16) -> io::Result<(Vec<TcpListener>, u16)> {
    if let Some(addr) = addr {
        let socket = listen_at(SocketAddr::new(addr, port), BACKLOG)?;
        let port = socket.local_addr()?.port();
        return Ok((vec![socket], port));
    }
    let v4 = listen_at(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), BACKLOG);
    let port = match &v4 {
        Ok(socket) => socket.local_addr()?.port(),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return v4.map(|_| (Vec::new(), port)),
        Err(_) => port,
    };
    match (v4, listen_at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), BACKLOG)) {
        (Ok(v4), Ok(v6)) => Ok((vec![v4, v6], port)),
        (Ok(_), Err(error)) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // A machine without one of the two families is served by the other.
        (Ok(v4), Err(error)) => {
            tracing::debug!(%error, "no IPv6");
            Ok((vec![v4], port))
        }
        (Err(error), Ok(v6)) => {
            tracing::debug!(%error, "no IPv4");
            let port = v6.local_addr()?.port();
            Ok((vec![v6], port))
        }
        (Err(error), Err(_)) => Err(error),
    }
}

/// A listening socket at exactly this address: an IPv6 one takes no IPv4.
pub(crate) fn listen_at(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted process gets its port back while old connections linger; two at once still cannot have it.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections, reads their handshakes, and hands them to the torrents that they name. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    registry: Arc<Registry>,
    handshake_within: Duration,
    /// One permit for each connection of the process.
    places: Arc<Semaphore>,
    unnamed: Arc<Unnamed>,
}

impl Listener {
    pub(crate) fn new(registry: Arc<Registry>, handshake_within: Duration, places: Arc<Semaphore>) -> Self {
        Self { registry, handshake_within, places, unnamed: Arc::default() }
    }

    /// Serves one socket until the task is dropped.
    pub(crate) async fn serve(self, socket: TcpListener) {
        // Given up to close a connection that cannot be accepted for want of descriptors (F40).
        let mut reserve = File::open("/dev/null").ok();
        loop {
            match socket.accept().await {
                Ok((stream, addr)) => {
                    tokio::spawn(self.clone().welcome(stream, addr));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    if out_of_descriptors(&error) && reserve.take().is_some() {
                        drop(socket.accept().await);
                        reserve = File::open("/dev/null").ok();
                    }
                    sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Says nothing until the peer has named a torrent that is here; otherwise closes without a byte (W02, W03).
    async fn welcome(self, mut stream: TcpStream, addr: SocketAddr) {
        let mut ticket = self.unnamed.admit(addr.ip());
        let received = tokio::select! {
            received = handshake::receive(&mut stream, self.handshake_within) => received,
            _ = &mut ticket.evicted => {
                tracing::debug!(%addr, "closed a silent connection in favour of a newer one");
                return;
            }
        };
        drop(ticket);
        let handshake = match received {
            Ok(handshake) => handshake,
            Err(error) => {
                tracing::debug!(%addr, %error, "no handshake");
                return;
            }
        };
        let Some(torrent) = self.registry.find(handshake.info_hash) else {
            tracing::debug!(%addr, info_hash = %handshake.info_hash, "asked for a torrent that is not here");
            return;
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::debug!(%addr, "no connection is left for it");
            return;
        };
        torrent.arrive(Arrival { stream, addr, handshake, place }).await;
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|full| Some(full.raw_os_error()) == errno)
}

/// The connections that have not named a torrent yet.
///
/// An honest peer names it at once, so where there are too many the oldest goes: whoever holds connections open in
/// silence drives out his own.
#[derive(Debug, Default)]
struct Unnamed {
    state: Mutex<UnnamedState>,
}

#[derive(Debug, Default)]
struct UnnamedState {
    next: u64,
    /// In the order they came.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    addr: IpAddr,
    /// Dropped to evict the connection.
    _evict: oneshot::Sender<()>,
}

/// A place among the unnamed; given back on drop.
#[derive(Debug)]
struct Ticket {
    id: u64,
    /// Completes when the place is wanted for another.
    evicted: oneshot::Receiver<()>,
    unnamed: Arc<Unnamed>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.unnamed.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.retain(|waiting| waiting.id != self.id);
    }
}

impl Unnamed {
    fn admit(self: &Arc<Self>, addr: IpAddr) -> Ticket {
        let (evict, evicted) = oneshot::channel();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (same_address, same_network) = if addr.is_loopback() {
            (limits::UNNAMED_LOOPBACK, limits::UNNAMED_LOOPBACK)
        } else {
            (limits::UNNAMED_PER_ADDRESS, limits::UNNAMED_PER_NETWORK)
        };
        state.make_room(same_address, |waiting| waiting.addr == addr);
        state.make_room(same_network, |waiting| network(waiting.addr) == network(addr));
        state.make_room(limits::UNNAMED, |_| true);
        let id = state.next;
        state.next += 1;
        state.waiting.push_back(Waiting { id, addr, _evict: evict });
        Ticket { id, evicted, unnamed: Arc::clone(self) }
    }
}

impl UnnamedState {
    /// Drops the oldest of a group where it has `most` already.
    fn make_room(&mut self, most: usize, of_group: impl Fn(&Waiting) -> bool) {
        if self.waiting.iter().filter(|waiting| of_group(waiting)).count() >= most
            && let Some(oldest) = self.waiting.iter().position(of_group)
        {
            self.waiting.remove(oldest);
        }
    }
}

/// What one subscriber usually has: a /24 of v4, a /64 of v6.
fn network(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn b_hs_an_address_with_too_many_silent_connections_loses_its_oldest() {
        let unnamed = Arc::new(Unnamed::default());
        let bad: IpAddr = "192.0.2.1".parse().unwrap();
        let good: IpAddr = "192.0.2.2".parse().unwrap();
        let mut good = unnamed.admit(good);
        let mut bad: Vec<Ticket> = (0..=limits::UNNAMED_PER_ADDRESS).map(|_| unnamed.admit(bad)).collect();
        assert!((&mut bad[0].evicted).await.is_err());
        assert!(bad[1].evicted.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        assert!(good.evicted.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop(bad);
        assert_eq!(unnamed.state.lock().unwrap().waiting.len(), 1);
    }

    #[tokio::test]
    async fn f41_a_port_that_is_taken_is_an_error_if_it_was_asked_for_and_else_the_next_one_serves() {
        let any = PeerListen { addr: None, port: PeerPort::Exactly(0) };
        let (_sockets, port) = bind(any).unwrap();
        let taken = bind(PeerListen { addr: None, port: PeerPort::Exactly(port) }).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let (_first, first) = bind(PeerListen::default()).unwrap();
        let (_second, second) = bind(PeerListen::default()).unwrap();
        assert_ne!(first, second);
    }
}
