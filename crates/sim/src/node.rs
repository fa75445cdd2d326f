//! One machine of the simulated world: a swarm core, its disk, and how honest it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use obt_swarm::{CloseReason, Event, PeerKey, Phase, Swarm};
use obt_wire::{Bitfield, PeerId};

use crate::disk::{Disk, DiskSpec};
use crate::lease::Holder;
use crate::net::{Access, Way};
use crate::sabotage::Sabotage;

/// The number of a node: in the order in which they joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub usize);

/// What a node does to others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Conduct {
    /// What its core decides.
    Honest,
    /// This share of the blocks that it sends has a flipped bit.
    Lies(f64),
    /// It unchokes and takes requests, and never sends a block (HOSTILE W18).
    Stalls,
}

/// A node to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Its links.
    pub access: Access,
    /// What it holds at the beginning; None is everything.
    pub have: Option<Bitfield>,
    /// It begins with the info-hash alone (BEP 9).
    pub magnet: bool,
    /// Its disk.
    pub disk: DiskSpec,
    /// How honest it is.
    pub conduct: Conduct,
    /// Upload limit of its core, bytes per second.
    pub upload_rate: Option<u64>,
    /// How its core is broken.
    pub sabotage: Option<Sabotage>,
}

impl Spec {
    /// An honest node that has everything.
    #[must_use]
    pub fn seed(access: Access) -> Self {
        Self {
            access,
            have: None,
            magnet: false,
            disk: DiskSpec::default(),
            conduct: Conduct::Honest,
            upload_rate: None,
            sabotage: None,
        }
    }

    /// An honest node that has nothing of a torrent of `pieces` pieces.
    #[must_use]
    pub fn leecher(access: Access, pieces: u32) -> Self {
        Self { have: Some(Bitfield::empty(pieces)), ..Self::seed(access) }
    }

    /// The same with a core that is broken.
    #[must_use]
    pub fn broken(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }

    /// The same with another conduct.
    #[must_use]
    pub fn that(mut self, conduct: Conduct) -> Self {
        self.conduct = conduct;
        self
    }
}

/// What a connection was told, seen from one side of it.
#[derive(Debug)]
pub struct Link {
    /// The way from here.
    pub way: Way,
    /// The other node.
    pub to: NodeIndex,
    /// The last that came from the other side: it does not answer requests.
    pub choked_by: bool,
    /// The last that went to the other side: we do not answer its requests.
    pub choking: bool,
    /// Pieces that the other side serves while it chokes us.
    pub allowed_fast: BTreeSet<u32>,
    /// Pieces that we serve while we choke the other side.
    pub gives_fast: BTreeSet<u32>,
    /// What the other side said that it has.
    pub told: Bitfield,
}

/// One machine.
#[derive(Debug)]
pub struct Node {
    /// Its core.
    pub swarm: Swarm,
    /// Its storage.
    pub disk: Disk,
    /// How honest it is.
    pub conduct: Conduct,
    /// How its core is broken.
    pub sabotage: Option<Sabotage>,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its name for itself.
    pub id: PeerId,
    /// Its process runs.
    pub alive: bool,
    /// Its open connections.
    pub links: BTreeMap<PeerKey, Link>,
    /// Connections that it closed, with whom and why.
    pub closed: Vec<(NodeIndex, CloseReason)>,
    /// When it had all that it wanted.
    pub completed_at: Option<Instant>,
    /// When all of it had its final name for good.
    pub durable_at: Option<Instant>,
    /// When it went without a word.
    pub died_at: Option<Instant>,
    /// Its power went: its disk is elsewhere.
    pub unplugged: bool,
    /// What that left of its disk, until it comes back.
    pub remains: Option<Disk>,
    /// What it tells trackers that take leases.
    pub(crate) leases: Vec<Holder>,
    /// What it was made of.
    pub(crate) spec: Spec,
    /// When its core wants to be woken, as far as that is scheduled.
    pub(crate) wake: Option<Instant>,
    /// Wakes in a row without time passing.
    pub(crate) spins: u32,
}

impl Node {
    /// What its core hears of an event.
    pub(crate) fn hear(&self, event: Event) -> Option<Event> {
        match self.sabotage {
            None => Some(event),
            Some(sabotage) => sabotage.hear(event),
        }
    }

    /// Whether it has all that it wants.
    #[must_use]
    pub fn is_complete(&self, now: Instant) -> bool {
        self.swarm.snapshot(now).phase == Phase::Seeding
    }

    /// The nodes that it has banned.
    #[must_use]
    pub fn banned(&self) -> BTreeSet<NodeIndex> {
        let banned = self.closed.iter().filter(|(_, reason)| *reason == CloseReason::Banned);
        banned.map(|(node, _)| *node).collect()
    }
}
