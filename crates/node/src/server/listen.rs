//! Where the tracker listens: v4 and v6, TCP and UDP, one port.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use tokio::net::TcpListener;

use crate::net::listen_at;

use super::limits::{TRACKER_PORT, TRACKER_PORTS};
use super::udp;

/// Connections that the kernel holds for us between two turns of the listener.
const BACKLOG: i32 = 1_024;
/// Tries to find a port that is free everywhere, where any will do.
const ANY_PORT_TRIES: usize = 16;

/// Where to listen for clients of the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackerListen {
    /// One address, or every one, v4 and v6.
    pub addr: Option<IpAddr>,
    /// Which port.
    pub port: TrackerPort,
}

/// Which port to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrackerPort {
    /// 6969, or the next free one: the user did not ask.
    #[default]
    Usual,
    /// This one or none; 0 is any free one.
    Exactly(u16),
}

impl fmt::Display for TrackerListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self.port {
            TrackerPort::Usual => TRACKER_PORT,
            TrackerPort::Exactly(port) => port,
        };
        match self.addr {
            Some(addr) => SocketAddr::new(addr, port).fmt(f),
            None => write!(f, "port {port}"),
        }
    }
}

/// The sockets, at least one, and the port that they share.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) sockets: Vec<TcpListener>,
    /// One for each thread and address.
    pub(super) datagrams: Vec<UdpSocket>,
    pub(super) port: u16,
}

/// Binds as asked.
pub(super) fn bind(listen: TrackerListen) -> io::Result<Bound> {
    match listen.port {
        TrackerPort::Exactly(0) => bind_any(listen.addr),
        TrackerPort::Exactly(port) => bind_port(listen.addr, port),
        TrackerPort::Usual => {
            for port in TRACKER_PORT..TRACKER_PORT.saturating_add(TRACKER_PORTS) {
                match bind_port(listen.addr, port) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                    done => return done,
                }
            }
            bind_any(listen.addr)
        }
    }
}

fn bind_any(addr: Option<IpAddr>) -> io::Result<Bound> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..ANY_PORT_TRIES {
        match bind_port(addr, 0) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            done => return done,
        }
    }
    Err(last)
}

/// Every address of the wanted ones that this machine can have, all at one port. A port that is taken at one of them
/// is taken.
fn bind_port(addr: Option<IpAddr>, port: u16) -> io::Result<Bound> {
    let addresses = match addr {
        Some(addr) => vec![addr],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let mut bound = Bound { sockets: Vec::new(), datagrams: Vec::new(), port };
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for addr in addresses {
        match listen_at(SocketAddr::new(addr, bound.port), BACKLOG) {
            Ok(socket) => {
                bound.port = socket.local_addr()?.port();
                bound.sockets.push(socket);
                bound.datagrams.extend(udp::bind(SocketAddr::new(addr, bound.port))?);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => failure = error,
        }
    }
    if bound.sockets.is_empty() { Err(failure) } else { Ok(bound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn any_port_is_the_same_one_for_both_families_and_a_taken_one_is_refused() {
        let bound = bind(TrackerListen { addr: None, port: TrackerPort::Exactly(0) }).unwrap();
        let ports: Vec<u16> = bound.sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == bound.port && *port != 0));
        let again = bind(TrackerListen { addr: None, port: TrackerPort::Exactly(bound.port) });
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
