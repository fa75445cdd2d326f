//! What must hold among members, at every moment and after everything has healed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_tracker::limits::EXCHANGE_INTERVAL;
use obt_tracker::{SwarmStats, swarms};

use super::{Cluster, SWARMS, TIMEOUT, hash};

/// How long somebody new may be unknown at a member that is connected to the one it announced to.
const NEWS: Duration = Duration::from_secs(2);
/// What rounding to seconds at two members, and a walk over leases once a second, may add to a life.
const ROUNDING: Duration = Duration::from_secs(3);

impl Cluster {
    fn listed(&mut self, member: usize, swarm: u8) -> BTreeMap<SocketAddr, bool> {
        let now = self.now;
        let Some(seat) = &mut self.seats[member] else {
            return BTreeMap::new();
        };
        let peers = swarms::peers(&mut seat.store, &hash(swarm), now);
        peers.iter().map(|peer| (peer.addr, peer.seed)).collect()
    }

    /// What must hold at every moment.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.note_who_has_to_know();
        let slow = if self.setup.loss > 0.0 { TIMEOUT * 12 } else { Duration::ZERO };
        for member in 0..self.setup.members {
            let Some(seat) = &self.seats[member] else {
                continue;
            };
            let life = seat.life;
            seat.exchange.check().map_err(|what| format!("member {member}: {what}"))?;
            let listed: Vec<BTreeMap<SocketAddr, bool>> = (0..SWARMS).map(|swarm| self.listed(member, swarm)).collect();
            for (number, peer) in self.peers.iter().enumerate() {
                let is_listed = listed[usize::from(peer.swarm)].contains_key(&peer.addr);
                let Some((_, _, told)) = peer.told else {
                    continue;
                };
                let age = self.now - told;
                let over = peer.kind.life();
                let known = peer.known_at.get(&(member, life)).map(|told| self.now - *told);
                if let Some(age) = known.filter(|age| peer.alive && !is_listed && *age + ROUNDING < over) {
                    return Err(format!(
                        "live peer {number} is missing at member {member}, {age:?} after it announced"
                    ));
                }
                if is_listed && age > over + EXCHANGE_INTERVAL + ROUNDING + slow {
                    return Err(format!("peer {number} is listed at member {member} {age:?} after it announced"));
                }
                // Whoever has not heard that it left may tell others that it is there.
                if let Some((at, at_life, left)) = peer.left
                    && is_listed
                    && (0..self.setup.members)
                        .filter(|other| self.runs(*other))
                        .all(|other| self.heard_since(at, at_life, other, left, 2 * NEWS + slow))
                {
                    return Err(format!(
                        "peer {number} ({:?}) left {:?} ago and is listed at member {member}; it announced last to {:?} and said it to {at}",
                        peer.kind,
                        self.now - left,
                        peer.told.map(|(member, ..)| member)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether `member` is the one where something was said at `since`, or was connected to it from then on for `long`.
    fn heard_since(&self, at: usize, at_life: u32, member: usize, since: Instant, long: Duration) -> bool {
        let lives = self.seats[at].as_ref().is_some_and(|seat| seat.life == at_life);
        let up = self.links[at][member].up;
        let connected = up.is_some_and(|up| self.now.saturating_duration_since(up.max(since)) >= long);
        lives && (at == member || connected)
    }

    fn note_who_has_to_know(&mut self) {
        let slow = if self.setup.loss > 0.0 { TIMEOUT * 12 } else { Duration::ZERO };
        for number in 0..self.peers.len() {
            let Some((at, at_life, told)) = self.peers[number].told.filter(|_| self.peers[number].alive) else {
                continue;
            };
            for member in 0..self.setup.members {
                let life = self.lives[member];
                if self.runs(member) && self.heard_since(at, at_life, member, told, NEWS + slow) {
                    self.peers[number].known_at.insert((member, life), told);
                }
            }
        }
    }

    /// Whether all members agree, and none of them counted a download twice.
    ///
    /// # Errors
    /// A sentence where they do not.
    pub fn agree(&mut self) -> Result<(), String> {
        let now = self.now;
        for swarm in 0..SWARMS {
            let on_the_edge: BTreeSet<SocketAddr> = self
                .peers
                .iter()
                .filter(|peer| {
                    let over = peer.told.map_or(Duration::ZERO, |(.., told)| now - told);
                    // Whoever has just started is not told of those that announced to an earlier life of some member.
                    let is_orphan = peer.told.is_some_and(|(member, life, _)| self.lives[member] != life);
                    is_orphan || over.abs_diff(peer.kind.life()) <= ROUNDING + EXCHANGE_INTERVAL
                })
                .map(|peer| peer.addr)
                .collect();
            let mut first: Option<(BTreeMap<SocketAddr, bool>, SwarmStats)> = None;
            for member in 0..self.setup.members {
                let mut listed = self.listed(member, swarm);
                listed.retain(|addr, _| !on_the_edge.contains(addr));
                let Some(seat) = &mut self.seats[member] else {
                    continue;
                };
                let mut stats = swarms::stats(&mut seat.store, &hash(swarm), now);
                if !on_the_edge.is_empty() {
                    (stats.seeds, stats.leechers) = (0, 0);
                }
                let counted = self.completed.get(&swarm).copied().unwrap_or(0);
                if stats.completed > counted {
                    return Err(format!("member {member} counts {} downloads of {counted}", stats.completed));
                }
                if self.lives.iter().any(|life| *life > 1) {
                    // What one counted just before it died, some others have heard and some have not.
                    stats.completed = 0;
                }
                match &first {
                    None => first = Some((listed, stats)),
                    Some(first) if *first == (listed.clone(), stats) => {}
                    Some((others, counts)) => {
                        let only: Vec<_> =
                            listed.iter().filter(|(addr, seed)| others.get(*addr) != Some(*seed)).collect();
                        let missing: Vec<_> =
                            others.iter().filter(|(addr, seed)| listed.get(*addr) != Some(*seed)).collect();
                        return Err(format!(
                            "members disagree: {member} has {only:?} and {stats:?}, the first {missing:?} and {counts:?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
