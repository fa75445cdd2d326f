//! A tracker that may be down, spoken to as over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use obt_swarm::{AnnounceEvent, AnnounceReply, AnnounceRequest};
use obt_tracker::leases::{LeaseReply, LeaseRequest, Leases};
use obt_tracker::limits::Limits;
use obt_tracker::{Advertised, Asker, StoreConfig, SwarmStats, Swarms, http, swarms};
use obt_wire::announce::AnnounceEvent as WireEvent;
use obt_wire::tracker_http::{AnnounceQuery, Announced};
use obt_wire::{InfoHash, PeerId};

/// One tracker.
pub struct Tracker {
    swarms: Swarms,
    leases: Leases,
    /// It does not answer.
    pub down: bool,
}

/// Who announces.
#[derive(Debug, Clone, Copy)]
pub struct Announcer {
    /// Which swarm.
    pub hash: InfoHash,
    /// Its name for itself.
    pub peer_id: PeerId,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Tracker {
    /// A tracker that has heard of nobody.
    #[must_use]
    pub fn new(seed: u64, now: Instant) -> Self {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&seed.to_le_bytes());
        let config =
            StoreConfig { shard_bits: 1, limits: Limits::default(), advertised: Advertised::default(), secret };
        Self { swarms: Swarms::new(&config, now), leases: Leases::new(config.limits), down: false }
    }

    /// Answers an announce.
    ///
    /// # Errors
    /// A sentence where it does not.
    pub fn announce(
        &mut self,
        announcer: &Announcer,
        request: &AnnounceRequest,
        now: Instant,
    ) -> Result<AnnounceReply, String> {
        if self.down {
            return Err("connection refused".into());
        }
        let url = query(announcer, request).url("http://tracker/announce");
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let mut body = Vec::new();
        let asker = Asker::new(announcer.addr.ip(), None);
        http::announce(query.as_bytes(), asker, &mut self.swarms, |_| None, &mut body, now);
        let reply = Announced::decode(&body).map_err(|error| error.to_string())?;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Ok(AnnounceReply {
            interval: seconds(reply.interval.unwrap_or(1_800)),
            min_interval: reply.min_interval.map(seconds),
            seeders: reply.seeders,
            leechers: reply.leechers,
            peers: reply.peers,
            warning: reply.warning,
        })
    }

    /// Answers a lease.
    ///
    /// # Errors
    /// A sentence where it does not.
    pub fn lease(&mut self, request: &LeaseRequest, from: IpAddr, now: Instant) -> Result<LeaseReply, String> {
        if self.down {
            return Err("connection refused".into());
        }
        let renewed = self.leases.renew(request, &Asker::new(from, None), &mut self.swarms, now);
        renewed.map_err(|error| error.to_string())
    }

    /// Ends the leases that are over.
    pub fn expire(&mut self, now: Instant) {
        self.leases.expire(&mut self.swarms, now);
    }

    /// Whether it knows a lease of this peer.
    #[must_use]
    pub fn has_lease_of(&self, peer_id: PeerId) -> bool {
        self.leases.iter().any(|lease| lease.peer_id() == peer_id)
    }

    /// What it counts in a swarm.
    #[must_use]
    pub fn stats(&mut self, hash: &InfoHash, now: Instant) -> SwarmStats {
        swarms::stats(&mut self.swarms, hash, now)
    }
}

fn query(announcer: &Announcer, request: &AnnounceRequest) -> AnnounceQuery {
    AnnounceQuery {
        info_hash: announcer.hash,
        peer_id: announcer.peer_id,
        port: announcer.addr.port(),
        uploaded: request.uploaded,
        downloaded: request.downloaded,
        left: request.left,
        event: match request.event {
            AnnounceEvent::Regular => WireEvent::Regular,
            AnnounceEvent::Started => WireEvent::Started,
            AnnounceEvent::Completed => WireEvent::Completed,
            AnnounceEvent::Stopped => WireEvent::Stopped,
        },
        num_want: Some(request.num_want),
        key: None,
        compact: true,
        no_peer_id: true,
        ip: None,
    }
}
