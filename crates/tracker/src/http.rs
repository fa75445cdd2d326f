//! What an HTTP tracker answers (BEP 3, 7, 23, 24, 31, 48): a raw query in, a bencoded dictionary out.
//!
//! A refusal is an answer like others, with status 200: that is what clients show to their users. It never repeats what
//! came in.

use std::net::SocketAddr;
use std::time::Instant;

use obt_wire::PeerId;
use obt_wire::announce::AnnounceEvent;
use obt_wire::tracker_http::{
    AnnounceQuery, AnnounceReply, FullPeer, Peers, QueryError, RetryIn, scrape_query, write_announce, write_failure,
    write_scrape,
};

use crate::limits::NUM_WANT;
use crate::policy::{self, MIN_INTERVAL};
use crate::store::{Announce, Answer, Asker, Client, CompactPeers, Identity, PeerLists, Remember};
use crate::swarms::{self, Shards};
use crate::udp::{counts, standing};

/// When an address that made too many swarms may try again, minutes: its share is counted by the hour.
const RETRY_MINUTES: u32 = 60;

/// Answers `GET /announce?query`: appends the body to `out`. An address in the query is not believed. `leases` knows the
/// id of the peer of ours whose lease has this number; it is asked while no shard is held.
pub fn announce(
    query: &[u8],
    asker: Asker,
    shards: &mut impl Shards,
    leases: impl Fn(u16) -> Option<PeerId>,
    out: &mut Vec<u8>,
    now: Instant,
) {
    let query = match AnnounceQuery::decode(query) {
        Ok(query) => query,
        Err(error) => return refuse(&error, out),
    };
    let announce = Announce {
        hash: query.info_hash,
        asker,
        port: query.port,
        standing: standing(query.event, query.left),
        completed: query.event == AnnounceEvent::Completed,
        want: policy::num_want(query.num_want.map(i64::from)),
        client: Client { peer_id: query.peer_id, key: query.key },
        remember: Remember::All,
    };
    let (mut v4, mut v6) = ([0; 6 * NUM_WANT], [0; 18 * NUM_WANT]);
    let mut lists = PeerLists { v4: CompactPeers::new(&mut v4), v6: CompactPeers::new(&mut v6) };
    match swarms::announce(shards, &announce, &mut lists, now) {
        Ok(answer) if query.compact => {
            let peers = Peers::Compact { v4: lists.v4.as_bytes(), v6: lists.v6.as_bytes() };
            write_announce(&reply(&answer, &asker, peers), out);
        }
        Ok(answer) => {
            let told: Vec<SocketAddr> = lists.v4.v4().chain(lists.v6.v6()).collect();
            let identities = if query.no_peer_id {
                vec![None; told.len()]
            } else {
                swarms::identify(shards, &query.info_hash, &asker, &told)
            };
            let peer_id = |identity| match identity {
                Identity::Client(peer_id) => Some(peer_id),
                Identity::Lease(lease) => leases(lease),
            };
            let peers = told.into_iter().zip(identities);
            let peers = peers.map(|(addr, identity)| FullPeer { addr, peer_id: identity.and_then(peer_id) });
            write_announce(&reply(&answer, &asker, Peers::Full(&peers.collect::<Vec<_>>())), out);
        }
        Err(refused) => write_failure(&refused.to_string(), Some(RetryIn::Minutes(RETRY_MINUTES)), out),
    }
}

fn reply<'a>(answer: &Answer, asker: &Asker, peers: Peers<'a>) -> AnnounceReply<'a> {
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    AnnounceReply {
        interval: seconds(answer.interval),
        min_interval: seconds(MIN_INTERVAL),
        counts: counts(answer.stats),
        external_ip: asker.ip,
        peers,
    }
}

/// Answers `GET /scrape?query`: appends the body to `out`.
pub fn scrape(query: &[u8], shards: &mut impl Shards, out: &mut Vec<u8>, now: Instant) {
    let mut hashes = match scrape_query(query) {
        Ok(hashes) => hashes,
        Err(error) => return refuse(&error, out),
    };
    hashes.sort_unstable();
    hashes.dedup();
    let stats = |hash| (hash, counts(swarms::stats(shards, &hash, now)));
    let swarms: Vec<_> = hashes.into_iter().map(stats).collect();
    write_scrape(&swarms, out);
}

/// A query that is wrong stays wrong.
fn refuse(error: &QueryError, out: &mut Vec<u8>) {
    write_failure(&error.to_string(), Some(RetryIn::Never), out);
}

#[cfg(test)]
mod tests;
