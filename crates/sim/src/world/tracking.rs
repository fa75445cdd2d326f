//! What is between nodes and trackers: announces, or leases that are renewed.

use std::time::{Duration, Instant};

use obt_swarm::{AnnounceReply, AnnounceRequest, Event, TrackerIndex};
use obt_tracker::leases::LeaseRequest;
use obt_tracker::limits::{LEASE_INTERVAL, LEASE_LIFE};
use obt_wire::{InfoHash, PeerId};

use super::{Expiry, Happening, TRACKER_LATENCY, World};
use crate::node::NodeIndex;
use crate::tracker::Announcer;

/// How often a tracker looks whose lease is over.
const TICK: Duration = Duration::from_secs(1);

impl World {
    /// What the trackers that answer count: complete and incomplete peers. None where they cannot know yet, because
    /// nodes died without telling them.
    pub fn tracker_counts(&mut self) -> Option<Vec<(u32, u32)>> {
        let hash = self.hash();
        let now = self.now;
        let known = match self.setup.leases {
            None => self.sudden_deaths == 0,
            Some(_) => self.nodes.iter().all(|node| node.died_at.is_none_or(|at| is_forgotten(at, now))),
        };
        let up = self.trackers.iter_mut().filter(|tracker| !tracker.down);
        let counts = up.map(|tracker| tracker.stats(&hash, now)).map(|stats| (stats.seeds, stats.leechers)).collect();
        known.then_some(counts)
    }

    /// Nodes that died so long ago that no tracker should know them, and one does.
    #[must_use]
    pub fn ghost(&self) -> Option<NodeIndex> {
        let leased = |id: PeerId| self.trackers.iter().any(|tracker| tracker.has_lease_of(id));
        let dead = self
            .indices()
            .zip(&self.nodes)
            .filter(|(_, node)| node.died_at.is_some_and(|at| is_forgotten(at, self.now)));
        dead.filter(|(_, node)| leased(node.id)).map(|(index, _)| index).next()
    }

    fn hash(&self) -> InfoHash {
        self.setup.torrent.metainfo.info.hashes.primary()
    }

    pub(super) fn announced(&mut self, node: NodeIndex, tracker: TrackerIndex, request: &AnnounceRequest) {
        let result = match self.setup.leases {
            None => self.announce(node, tracker, request),
            Some(_) => self.lease(node, tracker, request),
        };
        self.push(
            self.now + TRACKER_LATENCY,
            Happening::Told(node, Event::Announced { tracker, result: result.map_err(Into::into) }),
        );
    }

    fn announce(
        &mut self,
        node: NodeIndex,
        tracker: TrackerIndex,
        request: &AnnounceRequest,
    ) -> Result<AnnounceReply, String> {
        let announcer = Announcer { hash: self.hash(), peer_id: self.nodes[node.0].id, addr: self.nodes[node.0].addr };
        let tracker = self.trackers.get_mut(tracker.0 as usize).ok_or("no such tracker")?;
        tracker.announce(&announcer, request, self.now)
    }

    /// An announce of a core becomes a change of its lease.
    fn lease(
        &mut self,
        node: NodeIndex,
        tracker: TrackerIndex,
        request: &AnnounceRequest,
    ) -> Result<AnnounceReply, String> {
        let hash = self.hash();
        let this = &mut self.nodes[node.0];
        let first = !this.leases[tracker.0 as usize].is_held();
        let message = this.leases[tracker.0 as usize].announce(hash, this.id, this.addr.port(), request);
        let mut peers = self.send_lease(node, tracker, &message)?;
        if first {
            self.push(self.now + LEASE_INTERVAL, Happening::Renew(node, tracker));
        }
        peers.retain(|(of, _)| *of == hash);
        Ok(AnnounceReply {
            interval: LEASE_INTERVAL,
            peers: peers.into_iter().flat_map(|(_, peers)| peers).collect(),
            ..AnnounceReply::default()
        })
    }

    /// Renews a lease, for as long as its node lives.
    pub(super) fn renew(&mut self, node: NodeIndex, tracker: TrackerIndex) {
        if !self.nodes[node.0].alive {
            return;
        }
        self.push(self.now + LEASE_INTERVAL, Happening::Renew(node, tracker));
        if let Some(message) = self.renewal(node, tracker) {
            // A tracker that is down is told with the next one.
            let _ = self.send_lease(node, tracker, &message);
        }
    }

    fn renewal(&self, node: NodeIndex, tracker: TrackerIndex) -> Option<LeaseRequest> {
        let this = &self.nodes[node.0];
        this.leases[tracker.0 as usize].renewal(self.hash(), this.id, this.addr.port())
    }

    fn send_lease(
        &mut self,
        node: NodeIndex,
        tracker: TrackerIndex,
        message: &LeaseRequest,
    ) -> Result<Vec<(InfoHash, Vec<std::net::SocketAddr>)>, String> {
        let place = tracker.0 as usize;
        let ip = self.nodes[node.0].addr.ip();
        let reply = match self.trackers[place].lease(message, ip, self.now) {
            Ok(reply) => reply,
            Err(error) => {
                self.nodes[node.0].leases[place].failed();
                return Err(error);
            }
        };
        if self.nodes[node.0].leases[place].answered(reply.resync)
            && let Some(everything) = self.renewal(node, tracker)
        {
            let everything = LeaseRequest { want: message.want.clone(), ..everything };
            let reply = self.trackers[place].lease(&everything, ip, self.now)?;
            self.nodes[node.0].leases[place].answered(reply.resync);
            return Ok(reply.peers);
        }
        Ok(reply.peers)
    }

    pub(super) fn tick(&mut self) {
        if self.setup.leases == Some(Expiry::Honest) {
            for tracker in &mut self.trackers {
                tracker.expire(self.now);
            }
        }
        self.push(self.now + TICK, Happening::Tick);
    }
}

/// Whether a tracker should know nothing any more of somebody who died at this time.
fn is_forgotten(died_at: Instant, now: Instant) -> bool {
    died_at + LEASE_LIFE + 2 * TICK < now
}
