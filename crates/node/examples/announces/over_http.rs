//! Announces over HTTP/1.1: the peers of an address in turns, on one connection that is kept.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use obt_wire::announce::AnnounceEvent;
use obt_wire::tracker_http::{AnnounceQuery, Announced};
use socket2::{Domain, Socket, Type};

use crate::Failure;
use crate::load::{Host, LOST, Load, PER_ADDRESS, Peer};

/// Connections at once: with those of a second load like this one, a member still has more than half of its places free, and
/// keeps them.
pub(crate) const CONNECTIONS: u64 = 64;

/// Every so many-th address, until the time is over or all have had theirs.
pub(crate) fn run(load: &Load, number: u64) -> Result<(), Failure> {
    for round in 0.. {
        let Some(host) = load.host(round * CONNECTIONS + number)? else {
            break;
        };
        let mut connection = None;
        for (place, peer) in (round * PER_ADDRESS..).zip(&host.peers) {
            let Some(began) = load.begin(place * CONNECTIONS + number) else {
                return Ok(());
            };
            load.sent(1);
            if connection.is_none() {
                connection = Connection::open(&host)?;
            }
            match connection.as_mut().and_then(|connection| connection.announce(peer).ok()) {
                Some(true) => load.answered(began),
                Some(false) => load.refused(),
                // A member that is dead, or does not answer in time.
                None => {}
            }
            connection = connection.filter(|connection| connection.is_kept);
        }
    }
    Ok(())
}

struct Connection {
    stream: BufReader<TcpStream>,
    member: SocketAddr,
    /// Whether another announce may follow the last one.
    is_kept: bool,
}

impl Connection {
    /// None where the member does not take it.
    fn open(host: &Host) -> io::Result<Option<Self>> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((host.source, 0)).into())?;
        if socket.connect_timeout(&host.member.into(), LOST).is_err() {
            return Ok(None);
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(LOST))?;
        Ok(Some(Self { stream: BufReader::new(socket.into()), member: host.member, is_kept: true }))
    }

    /// Whether the answer is a good one.
    fn announce(&mut self, peer: &Peer) -> io::Result<bool> {
        self.is_kept = false;
        let path = query(peer).url("/announce");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.member);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let is_good = line.starts_with("HTTP/1.1 200 ");
        let (mut length, mut is_kept) = (0, true);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            line.make_ascii_lowercase();
            match line.trim_end().split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().map_err(io::Error::other)?,
                Some(("connection", value)) => is_kept = value.trim() != "close",
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        self.is_kept = is_kept;
        Ok(is_good && Announced::decode(&body).is_ok())
    }
}

fn query(peer: &Peer) -> AnnounceQuery {
    AnnounceQuery {
        info_hash: peer.hash,
        peer_id: peer.id,
        port: peer.port,
        uploaded: 0,
        downloaded: 0,
        left: peer.left,
        event: AnnounceEvent::Started,
        num_want: None,
        key: None,
        compact: true,
        no_peer_id: false,
        ip: None,
    }
}
