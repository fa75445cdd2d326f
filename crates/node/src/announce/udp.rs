//! Announces over UDP (BEP 15).
//!
//! Each announce has a socket of its own, connected to the tracker, so the kernel drops what comes from anybody else
//! and says at once where nothing listens. A tracker with addresses of both families is asked at one of each, since it
//! keeps their peers apart.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use obt_swarm::{AnnounceEvent, AnnounceReply};
use obt_wire::announce::SwarmCounts;
use obt_wire::compact::{v4_peers, v6_peers};
use obt_wire::limits::TRACKER_PEERS;
use obt_wire::tracker_udp::{AnnounceRequest, ConnectionId, Family, Reply, TransactionId, connect_request};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use url::Url;

use super::resolve::{Bounds, believed, resolve};
use super::{Announce, AnnounceError, Trust, cause};
use crate::limits::{
    ANNOUNCE_FAMILY_GRACE, ANNOUNCE_UDP_FIRST, ANNOUNCE_UDP_TRIES, ANNOUNCES_UDP, CONNECTION_ID_LIFE, CONNECTION_IDS,
};

/// Longest datagram that a tracker sends: the peers that fit in an Ethernet frame, and more for jumbo ones.
const REPLY_BYTES: usize = 9_000;

/// What UDP trackers have told us to use with them.
pub(super) struct UdpTrackers {
    connections: Mutex<BTreeMap<SocketAddr, Connection>>,
    places: Semaphore,
    /// Time for the first answer; doubled for each try after it.
    first: Duration,
}

#[derive(Clone, Copy)]
struct Connection {
    id: ConnectionId,
    since: Instant,
}

/// One tracker's answer.
struct Answer {
    from: SocketAddr,
    interval: u32,
    counts: SwarmCounts,
    peers: Vec<SocketAddr>,
}

impl Default for UdpTrackers {
    fn default() -> Self {
        Self::patient(ANNOUNCE_UDP_FIRST)
    }
}

impl UdpTrackers {
    fn patient(first: Duration) -> Self {
        Self { connections: Mutex::default(), places: Semaphore::new(ANNOUNCES_UDP), first }
    }

    /// Announces to the tracker at both of its families' first addresses; one answer is enough.
    pub(super) async fn announce(
        &self,
        announce: &Announce,
        url: &Url,
        trust: Trust,
        key: u32,
    ) -> Result<AnnounceReply, AnnounceError> {
        let _place = self.places.acquire().await.map_err(|_| AnnounceError::Stopping)?;
        let host = url.host_str().ok_or(AnnounceError::BadUrl("no host"))?;
        let port = url.port().filter(|port| *port != 0).ok_or(AnnounceError::BadUrl("no port"))?;
        let addrs = resolve(host, port, Bounds::Anywhere).await?;
        let datagram = Datagram::new(announce, url, key);
        let v4 = addrs.iter().find(|addr| addr.is_ipv4()).map(|addr| self.exchange(*addr, &datagram));
        let v6 = addrs.iter().find(|addr| addr.is_ipv6()).map(|addr| self.exchange(*addr, &datagram));
        let answers = match (v4, v6) {
            (Some(v4), Some(v6)) => both(v4, v6).await?,
            (Some(only), None) => vec![only.await?],
            (None, Some(only)) => vec![only.await?],
            (None, None) => return Err(AnnounceError::Unresolved("the name has no address".into())),
        };
        Ok(merged(answers, trust))
    }

    /// Asks one address, again where it says nothing.
    async fn exchange(&self, tracker: SocketAddr, datagram: &Datagram) -> Result<Answer, AnnounceError> {
        let socket = connected(tracker).await.map_err(|error| AnnounceError::Unreachable(cause(&error)))?;
        let mut patience = self.first;
        for _ in 0..ANNOUNCE_UDP_TRIES {
            match tokio::time::timeout(patience, self.attempt(&socket, tracker, datagram)).await {
                Ok(answer) => return answer,
                // The id may have been the reason: a restarted tracker drops what it did not give out.
                Err(_) => self.forget(tracker),
            }
            patience *= 2;
        }
        Err(AnnounceError::Silent)
    }

    async fn attempt(
        &self,
        socket: &UdpSocket,
        tracker: SocketAddr,
        datagram: &Datagram,
    ) -> Result<Answer, AnnounceError> {
        let family = if tracker.is_ipv4() { Family::V4 } else { Family::V6 };
        let known = self.connection(tracker);
        let id = match known {
            Some(id) => id,
            None => connect(socket, family).await?,
        };
        if known.is_none() {
            self.remember(tracker, id);
        }
        let transaction = transaction()?;
        let request = datagram.encode(id, transaction);
        let reply = ask(socket, &request, transaction, family, |reply| match reply {
            Reply::Announce { interval, counts, peers } => {
                let peers = match family {
                    Family::V4 => v4_peers(peers).collect(),
                    Family::V6 => v6_peers(peers).collect(),
                };
                Some(Answer { from: tracker, interval, counts, peers })
            }
            _ => None,
        });
        let reply = reply.await;
        if matches!(reply, Err(AnnounceError::Refused(_))) {
            // Perhaps it refused the id, in words that are its own.
            self.forget(tracker);
        }
        reply
    }

    fn connection(&self, tracker: SocketAddr) -> Option<ConnectionId> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connections.get(&tracker)?;
        (connection.since.elapsed() < CONNECTION_ID_LIFE).then_some(connection.id)
    }

    fn remember(&self, tracker: SocketAddr, id: ConnectionId) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.len() >= CONNECTION_IDS {
            connections.retain(|_, connection| connection.since.elapsed() < CONNECTION_ID_LIFE);
        }
        if connections.len() < CONNECTION_IDS {
            connections.insert(tracker, Connection { id, since: Instant::now() });
        }
    }

    fn forget(&self, tracker: SocketAddr) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&tracker);
    }
}

/// An announce but for what differs from try to try.
struct Datagram {
    request: AnnounceRequest<'static>,
    path: String,
}

impl Datagram {
    fn new(announce: &Announce, url: &Url, key: u32) -> Self {
        let told = &announce.request;
        let request = AnnounceRequest {
            connection: ConnectionId(0),
            transaction: TransactionId(0),
            info_hash: announce.hashes.primary(),
            peer_id: announce.peer_id,
            downloaded: told.downloaded,
            left: told.left,
            uploaded: told.uploaded,
            event: super::event(told.event),
            key,
            num_want: Some(if told.event == AnnounceEvent::Stopped { 0 } else { told.num_want }),
            port: announce.port,
            options: &[],
        };
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Self { request, path: format!("{}{query}", url.path()) }
    }

    fn encode(&self, connection: ConnectionId, transaction: TransactionId) -> Vec<u8> {
        let mut out = Vec::new();
        AnnounceRequest { connection, transaction, ..self.request }.encode(&self.path, &mut out);
        out
    }
}

/// Waits for both, but once one has answered not much longer for the other: many hosts have a v6 address, or a tracker's
/// name has one, that leads nowhere.
async fn both(
    v4: impl Future<Output = Result<Answer, AnnounceError>>,
    v6: impl Future<Output = Result<Answer, AnnounceError>>,
) -> Result<Vec<Answer>, AnnounceError> {
    match select(pin!(v4), pin!(v6)).await {
        Either::Left((first, other)) => settle(first, other).await,
        Either::Right((first, other)) => settle(first, other).await,
    }
}

async fn settle(
    first: Result<Answer, AnnounceError>,
    other: impl Future<Output = Result<Answer, AnnounceError>>,
) -> Result<Vec<Answer>, AnnounceError> {
    match first {
        Ok(first) => {
            let second = tokio::time::timeout(ANNOUNCE_FAMILY_GRACE, other).await;
            Ok([Some(first), second.ok().and_then(Result::ok)].into_iter().flatten().collect())
        }
        Err(_) => Ok(vec![other.await?]),
    }
}

/// The answers of one tracker's families as one.
fn merged(answers: Vec<Answer>, trust: Trust) -> AnnounceReply {
    let most = |of: fn(&Answer) -> u32| answers.iter().map(of).max();
    let mut reply = AnnounceReply {
        interval: Duration::from_secs(most(|answer| answer.interval).unwrap_or_default().into()),
        seeders: most(|answer| answer.counts.seeders),
        leechers: most(|answer| answer.counts.leechers),
        ..AnnounceReply::default()
    };
    for answer in answers {
        reply.peers.extend(believed(answer.peers, answer.from.ip(), trust).into_iter().take(TRACKER_PEERS));
    }
    reply
}

async fn connected(tracker: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = match tracker {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(tracker).await?;
    Ok(socket)
}

/// A number that nobody off the path can guess.
fn transaction() -> Result<TransactionId, AnnounceError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| AnnounceError::Unreachable(error.to_string()))?;
    Ok(TransactionId(u32::from_be_bytes(bytes)))
}

async fn connect(socket: &UdpSocket, family: Family) -> Result<ConnectionId, AnnounceError> {
    let transaction = transaction()?;
    let request = connect_request(transaction);
    let asked = ask(socket, &request, transaction, family, |reply| match reply {
        Reply::Connect(id) => Some(id),
        _ => None,
    });
    asked.await
}

/// Sends `request` and waits for what `wanted` finds in its reply. Whatever does not answer this very request is as if
/// it had not come.
async fn ask<T>(
    socket: &UdpSocket,
    request: &[u8],
    transaction: TransactionId,
    family: Family,
    wanted: impl Fn(Reply<'_>) -> Option<T>,
) -> Result<T, AnnounceError> {
    let unreachable = |error: std::io::Error| AnnounceError::Unreachable(cause(&error));
    socket.send(request).await.map_err(unreachable)?;
    let mut datagram = vec![0; REPLY_BYTES];
    loop {
        let length = socket.recv(&mut datagram).await.map_err(unreachable)?;
        match datagram.get(..length).and_then(|datagram| Reply::decode(datagram, family)) {
            Some((answered, Reply::Error(reason))) if answered == transaction => {
                return Err(AnnounceError::Refused(reason));
            }
            Some((answered, reply)) if answered == transaction => {
                if let Some(found) = wanted(reply) {
                    return Ok(found);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
