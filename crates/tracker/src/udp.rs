//! What a UDP tracker answers (BEP 15, 41): a datagram in, at most one out.
//!
//! Whatever is malformed, or whose connection id does not prove its address, is dropped in silence; the one answer to
//! an unproved address is the connect reply, which is as long as its request.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use obt_wire::announce::{AnnounceEvent, SwarmCounts};
use obt_wire::compact::{Reach, reach};
use obt_wire::tracker_udp::{
    ANNOUNCE_REPLY_HEAD, AnnounceRequest, ConnectionId, Request, ScrapeRequest, TransactionId, announce_reply_head,
    connect_reply, error_reply, scrape_entry, scrape_reply_head,
};

use crate::connection_id::ConnectionIds;
use crate::limits::{CONNECTS_BURST, CONNECTS_PER_SECOND, UDP_REPLY_V4, UDP_REPLY_V6};
use crate::policy;
use crate::store::{Announce, Asker, Client, CompactPeers, HashKey, PeerLists, Remember, Standing, SwarmStats};
use crate::swarms::{self, Shards};

/// A datagram as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Exactly the bytes that came.
    pub bytes: &'a [u8],
    /// Who sent it, it says.
    pub source: SocketAddr,
    /// The address of ours that it was sent to, where the system tells.
    pub reached: Option<IpAddr>,
}

/// Answers datagrams: one for each thread.
#[derive(Clone)]
pub struct UdpResponder {
    ids: ConnectionIds,
    connects: Option<ConnectBudget>,
}

impl UdpResponder {
    /// Proves addresses with `ids`. With a `budget` a public address gets only so many connect replies, since they may
    /// go to somebody who did not ask for them.
    #[must_use]
    pub fn new(ids: ConnectionIds, budget: Option<ConnectBudget>) -> Self {
        Self { ids, connects: budget }
    }

    /// Proves addresses with other `ids` from now on: the cluster has a new key.
    pub fn renew(&mut self, ids: ConnectionIds) {
        self.ids = ids;
    }

    /// Writes the answer to a datagram into `out` and says how long it is; None where there is none. An answer is cut to
    /// what fits a frame, and to `out`.
    pub fn respond(
        &mut self,
        datagram: &Datagram<'_>,
        shards: &mut impl Shards,
        out: &mut [u8],
        now: Instant,
    ) -> Option<usize> {
        let asker = Asker::new(datagram.source.ip(), datagram.reached);
        if datagram.source.port() == 0 {
            return None;
        }
        let request = Request::decode(datagram.bytes)?;
        let connection = match &request {
            Request::Connect(transaction) => return self.connect(*transaction, asker.ip, out, now),
            Request::Announce(announce) => announce.connection,
            Request::Scrape(scrape) => scrape.connection,
        };
        if !self.ids.is_valid(connection.0, asker.ip, now) {
            return None;
        }
        match request {
            Request::Announce(request) => announce(&request, asker, shards, out, now),
            Request::Scrape(request) => scrape(&request, shards, out, now),
            Request::Connect(_) => None,
        }
    }

    fn connect(&mut self, transaction: TransactionId, ip: IpAddr, out: &mut [u8], now: Instant) -> Option<usize> {
        if let Some(budget) = &mut self.connects
            && !budget.admit(ip, now)
        {
            return None;
        }
        put(out, &connect_reply(transaction, ConnectionId(self.ids.issue(ip, now))))
    }
}

fn announce(
    request: &AnnounceRequest<'_>,
    asker: Asker,
    shards: &mut impl Shards,
    out: &mut [u8],
    now: Instant,
) -> Option<usize> {
    if request.port == 0 {
        return fail(request.transaction, "port 0 cannot be reached", out);
    }
    let announce = Announce {
        hash: request.info_hash,
        asker,
        port: request.port,
        standing: standing(request.event, request.left),
        completed: request.event == AnnounceEvent::Completed,
        want: policy::num_want(request.num_want.map(i64::from)),
        client: Client { peer_id: request.peer_id, key: Some(request.key) },
        remember: Remember::Named,
    };
    let longest = if asker.ip.is_ipv4() { UDP_REPLY_V4 } else { UDP_REPLY_V6 };
    let end = longest.min(out.len());
    let (head, peers) = out.get_mut(..end)?.split_at_mut_checked(ANNOUNCE_REPLY_HEAD)?;
    let (v4, v6): (&mut [u8], &mut [u8]) = if asker.ip.is_ipv4() { (peers, &mut []) } else { (&mut [], peers) };
    let mut lists = PeerLists { v4: CompactPeers::new(v4), v6: CompactPeers::new(v6) };
    match swarms::announce(shards, &announce, &mut lists, now) {
        Ok(answer) => {
            let written = lists.v4.as_bytes().len() + lists.v6.as_bytes().len();
            let interval = u32::try_from(answer.interval.as_secs()).unwrap_or(u32::MAX);
            head.copy_from_slice(&announce_reply_head(request.transaction, interval, counts(answer.stats)));
            Some(ANNOUNCE_REPLY_HEAD + written)
        }
        Err(refused) => fail(request.transaction, &refused.to_string(), out),
    }
}

/// What the event and the bytes still missing make of a peer.
pub(crate) fn standing(event: AnnounceEvent, left: u64) -> Standing {
    match event {
        AnnounceEvent::Stopped => Standing::Stopped,
        // A partial seed (BEP 21) lacks something too, and other seeds are of no use to others like it.
        _ if left == 0 => Standing::Seed,
        _ => Standing::Leecher,
    }
}

pub(crate) fn counts(stats: SwarmStats) -> SwarmCounts {
    SwarmCounts { seeders: stats.seeds, leechers: stats.leechers, completed: stats.completed }
}

fn scrape(request: &ScrapeRequest<'_>, shards: &mut impl Shards, out: &mut [u8], now: Instant) -> Option<usize> {
    let mut len = put(out, &scrape_reply_head(request.transaction))?;
    for hash in request.hashes() {
        let stats = swarms::stats(shards, &hash, now);
        len += put(out.get_mut(len..)?, &scrape_entry(counts(stats)))?;
    }
    Some(len)
}

fn fail(transaction: TransactionId, reason: &str, out: &mut [u8]) -> Option<usize> {
    let mut reply = Vec::new();
    error_reply(transaction, reason, &mut reply);
    put(out, &reply)
}

fn put(out: &mut [u8], bytes: &[u8]) -> Option<usize> {
    out.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(bytes.len())
}

/// Buckets of [`ConnectBudget`]: 128 KiB.
const BUCKETS: usize = 1 << 14;

/// How many connect replies each public address gets. Addresses that are of no use outside of their network cannot be
/// victims elsewhere, and have no budget.
#[derive(Clone)]
pub struct ConnectBudget {
    key: HashKey,
    epoch: Instant,
    /// For each bucket the time, in microseconds since `epoch`, at which all that was answered is paid for.
    paid: Box<[u64]>,
}

impl ConnectBudget {
    /// With random bytes as its key.
    #[must_use]
    pub fn new(key: [u8; 24], now: Instant) -> Self {
        Self { key: HashKey::new(key), epoch: now, paid: vec![0; BUCKETS].into_boxed_slice() }
    }

    fn admit(&mut self, ip: IpAddr, now: Instant) -> bool {
        const COST: u64 = 1_000_000 / CONNECTS_PER_SECOND as u64;
        const CREDIT: u64 = COST * (CONNECTS_BURST as u64 - 1);
        if reach(ip) != Reach::Global {
            return true;
        }
        let hash = match ip {
            IpAddr::V4(ip) => self.key.address(&ip.octets(), [0; 2]),
            IpAddr::V6(ip) => self.key.address(&ip.octets(), [0; 2]),
        };
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX - CREDIT);
        let Some(paid) = usize::try_from(hash).ok().and_then(|hash| self.paid.get_mut(hash % BUCKETS)) else {
            return true;
        };
        if *paid > now + CREDIT {
            return false;
        }
        *paid = now.max(*paid) + COST;
        true
    }
}

#[cfg(test)]
mod tests;
