//! The simulated world: owns nodes, net and trackers, and carries out what the cores ask for, event by event.

mod carry;
mod lives;
mod storing;
mod tracking;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use obt_storage::Layout;
use obt_swarm::{Action, AnnounceRequest, Event, PeerKey, TrackerIndex};
use obt_wire::metainfo::Metainfo;
use obt_wire::{Bitfield, Block};

use crate::invariants::{Check, INVARIANTS};
use crate::net::{ConnIndex, Net, Segment, Way};
use crate::node::{Conduct, Node, NodeIndex, Spec};
use crate::platter::Job;
use crate::torrent::Torrent;
use crate::trace::Trace;
use crate::tracker::Tracker;

/// A dialled host that does not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Way to a tracker.
const TRACKER_LATENCY: Duration = Duration::from_millis(10);
/// Timeouts in a row at one moment after which a core is said to spin.
const SPINS: u32 = 1_000;

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Everything that is random comes from it.
    pub seed: u64,
    /// What is shared.
    pub torrent: Torrent,
    /// How many trackers there are, each in a tier of its own.
    pub trackers: usize,
    /// What a socket holds to send, bytes.
    pub socket_buffer: u64,
    /// Buffers of each node, blocks.
    pub block_budget: u32,
    /// Blocks of a piece that cores ask for and store together.
    pub stretch: u32,
    /// A node's state is checked once in so many of the world's events.
    pub check_every: u64,
    /// Peers hold leases instead of announcing like stock clients, and how those end that are not renewed.
    pub leases: Option<Expiry>,
}

/// How a tracker ends leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// In time.
    Honest,
    /// Never (a mutant).
    Never,
}

impl Setup {
    /// A world with one tracker around `torrent`.
    #[must_use]
    pub fn new(seed: u64, torrent: Torrent) -> Self {
        Self {
            seed,
            torrent,
            trackers: 1,
            socket_buffer: 16 << 10,
            block_budget: 4_096,
            stretch: obt_swarm::limits::STRETCH,
            check_every: 61,
            leases: None,
        }
    }
}

/// Something that is done to the world.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A node joins.
    Join(Spec),
    /// Its process dies: connections are reset.
    Kill(NodeIndex),
    /// Its cable is pulled: nobody is told anything.
    Vanish(NodeIndex),
    /// Its power goes, and with it whatever is not durable.
    PowerCut(NodeIndex),
    /// The node whose power went comes back with what is left, as a new node.
    Restart(NodeIndex),
    /// It is asked to stop.
    Leave(NodeIndex),
    /// All connections between the two are reset.
    Reset(NodeIndex, NodeIndex),
    /// A tracker does not answer any more.
    TrackerDown(usize),
    /// It does again.
    TrackerUp(usize),
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The world's seed.
    pub seed: u64,
    /// Time since the beginning.
    pub at: Duration,
    /// Which one, and how.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIM_SEED={} at {:?}: {}", self.seed, self.at, self.what)
    }
}

impl std::error::Error for Broken {}

/// The seed in the environment variable `SIM_SEED`, else `default`.
#[must_use]
pub fn seed_of_run(default: u64) -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default)
}

#[derive(Debug)]
enum Happening {
    /// A node's shell has something to tell.
    Told(NodeIndex, Event),
    /// A node's core wants to be woken.
    Wake(NodeIndex, Instant),
    /// A handshake reaches the one that was dialled.
    Dialled {
        from: NodeIndex,
        addr: SocketAddr,
    },
    /// The answer to it reaches the one that dialled.
    Answered {
        conn: ConnIndex,
        addr: SocketAddr,
    },
    /// The end that sends on this way learns that the connection is gone.
    Gone(Way),
    /// An uplink is free.
    UpFree(NodeIndex),
    /// A segment reaches a downlink.
    Arrived(Way, Segment),
    /// A segment is read from the socket.
    Read(Way, Segment),
    /// A disk has done something.
    Stored(NodeIndex, Job),
    /// An announce reaches a tracker.
    Announced(NodeIndex, TrackerIndex, AnnounceRequest),
    /// A lease is to be renewed.
    Renew(NodeIndex, TrackerIndex),
    /// The trackers look whose lease is over.
    Tick,
    Fault(Fault),
}

#[derive(Debug)]
struct Queued {
    at: Instant,
    number: u64,
    happening: Happening,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// See the module.
pub struct World {
    setup: Setup,
    start: Instant,
    now: Instant,
    queue: BinaryHeap<Reverse<Queued>>,
    numbers: u64,
    keys: u64,
    events: u64,
    /// The machines.
    pub nodes: Vec<Node>,
    /// What is between them.
    pub net: Net,
    layout: Arc<Layout>,
    trackers: Vec<Tracker>,
    by_addr: BTreeMap<SocketAddr, NodeIndex>,
    /// Nodes that went without saying good-bye.
    sudden_deaths: usize,
    rng: fastrand::Rng,
    trace: Trace,
}

type Checked = Result<(), String>;

impl World {
    /// An empty world.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "one moment to count virtual time from; no decision depends on it")]
    pub fn new(setup: Setup) -> Self {
        let start = Instant::now();
        let mut rng = fastrand::Rng::with_seed(setup.seed);
        let mut this = Self {
            start,
            now: start,
            queue: BinaryHeap::new(),
            numbers: 0,
            keys: 0,
            events: 0,
            nodes: Vec::new(),
            net: Net::new(setup.socket_buffer),
            layout: Arc::new(Layout::new(&setup.torrent.metainfo.info)),
            trackers: (0..setup.trackers).map(|_| Tracker::new(rng.u64(..), start)).collect(),
            by_addr: BTreeMap::new(),
            sudden_deaths: 0,
            rng,
            trace: Trace::default(),
            setup,
        };
        if this.setup.leases.is_some() {
            this.push(start, Happening::Tick);
        }
        this
    }

    /// The moment.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// The fingerprint of all that was done so far.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// What is shared.
    #[must_use]
    pub fn torrent(&self) -> &Torrent {
        &self.setup.torrent
    }

    /// What it is made of.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// One of the nodes.
    #[must_use]
    pub fn node(&self, node: NodeIndex) -> &Node {
        &self.nodes[node.0]
    }

    /// All nodes.
    pub fn indices(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        (0..self.nodes.len()).map(NodeIndex)
    }

    /// The nodes whose process runs.
    pub fn alive(&self) -> impl Iterator<Item = (NodeIndex, &Node)> {
        self.indices().zip(&self.nodes).filter(|(_, node)| node.alive)
    }

    fn broken(&self, what: String) -> Broken {
        Broken { seed: self.setup.seed, at: self.elapsed(), what }
    }

    // Time.

    /// Lets something happen `after` this moment.
    pub fn later(&mut self, after: Duration, fault: Fault) {
        self.push(self.now + after, Happening::Fault(fault));
    }

    /// Lets something happen now.
    ///
    /// # Errors
    /// Where it breaks an invariant.
    pub fn apply(&mut self, fault: Fault) -> Result<(), Broken> {
        self.fault(fault).map_err(|what| self.broken(what))
    }

    /// A node joins now.
    ///
    /// # Errors
    /// Where its first actions break an invariant.
    pub fn join(&mut self, spec: Spec) -> Result<NodeIndex, Broken> {
        self.enter(spec).map_err(|what| self.broken(what))
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        self.numbers += 1;
        self.queue.push(Reverse(Queued { at, number: self.numbers, happening }));
    }

    /// Runs for `limit`, or until `done`; whether `done` came true.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<bool, Broken> {
        let end = self.now + limit;
        while !done(self) {
            match self.queue.pop() {
                Some(Reverse(queued)) if queued.at <= end => {
                    self.now = self.now.max(queued.at);
                    self.events += 1;
                    self.happen(queued.happening).map_err(|what| self.broken(what))?;
                }
                next => {
                    self.queue.extend(next);
                    self.now = end;
                    return Ok(done(self));
                }
            }
        }
        Ok(true)
    }

    /// Checks what must hold when all is quiet, and the state of every node.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check_end(&mut self) -> Result<(), Broken> {
        // Of a node whose power went nothing is left to look at.
        for index in self.indices().filter(|index| !self.node(*index).unplugged).collect::<Vec<_>>() {
            self.check_node(index).map_err(|what| self.broken(what))?;
        }
        for invariant in INVARIANTS {
            if let Check::End(check) = invariant.check {
                check(self).map_err(|what| self.broken(format!("{}: {what}", invariant.name)))?;
            }
        }
        Ok(())
    }

    fn check_node(&self, node: NodeIndex) -> Checked {
        for invariant in INVARIANTS {
            if let Check::Node(check) = invariant.check {
                check(self, &self.nodes[node.0]).map_err(|what| format!("{}: {node:?}: {what}", invariant.name))?;
            }
        }
        Ok(())
    }

    // What happens.

    fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Told(node, event) => self.told(node, event),
            Happening::Stored(node, job) => self.stored(node, job),
            Happening::Renew(node, tracker) => {
                self.renew(node, tracker);
                Ok(())
            }
            Happening::Tick => {
                self.tick();
                Ok(())
            }
            Happening::Wake(node, at) => self.wake(node, at),
            Happening::Dialled { from, addr } => self.dialled(from, addr),
            Happening::Answered { conn, addr } => self.answered(conn, addr),
            Happening::Gone(way) => self.gone(way),
            Happening::UpFree(node) => {
                self.net.up_done(node);
                self.pump(node);
                Ok(())
            }
            Happening::Arrived(way, segment) => {
                let at = self.net.arrive(self.net.end(way.back()).node, &segment, self.now);
                self.push(at, Happening::Read(way, segment));
                Ok(())
            }
            Happening::Read(way, segment) => self.read(way, segment),
            Happening::Announced(node, tracker, request) => {
                self.announced(node, tracker, &request);
                Ok(())
            }
            Happening::Fault(fault) => self.fault(fault),
        }
    }

    fn fault(&mut self, fault: Fault) -> Checked {
        match fault {
            Fault::Join(spec) => self.enter(spec).map(|_| ()),
            Fault::Kill(node) => self.die(node, true),
            Fault::Vanish(node) => self.die(node, false),
            Fault::PowerCut(node) => self.cut(node),
            Fault::Restart(node) => self.restart(node).map(|_| ()),
            Fault::Leave(node) => self.tell(node, Event::Stopping, None),
            Fault::Reset(one, other) => self.reset(one, other),
            Fault::TrackerDown(tracker) => {
                self.trackers[tracker].down = true;
                Ok(())
            }
            Fault::TrackerUp(tracker) => {
                self.trackers[tracker].down = false;
                Ok(())
            }
        }
    }

    // Cores.

    fn tell(&mut self, node: NodeIndex, event: Event, block: Option<(Block, u64)>) -> Checked {
        if !self.nodes[node.0].alive {
            return Ok(());
        }
        let Some(event) = self.nodes[node.0].hear(event) else {
            return Ok(());
        };
        self.nodes[node.0].spins = 0;
        self.nodes[node.0].swarm.handle_event(event, self.now);
        self.act(node, block)
    }

    fn wake(&mut self, node: NodeIndex, at: Instant) -> Checked {
        let this = &mut self.nodes[node.0];
        if this.wake != Some(at) || !this.alive {
            return Ok(());
        }
        this.wake = None;
        if this.swarm.poll_timeout().is_some_and(|(due, _)| due <= self.now) {
            this.swarm.handle_timeout(self.now);
            this.spins += 1;
            if this.spins > SPINS {
                return Err(format!("{node:?} spins on {:?}", this.swarm.poll_timeout().map(|(_, why)| why)));
            }
        }
        self.act(node, None)
    }

    fn act(&mut self, node: NodeIndex, block: Option<(Block, u64)>) -> Checked {
        while let Some(action) = self.nodes[node.0].swarm.poll_action() {
            match self.nodes[node.0].sabotage {
                None => self.do_one(node, action, block)?,
                Some(sabotage) => {
                    let peers: Vec<PeerKey> = self.nodes[node.0].links.keys().copied().collect();
                    for action in sabotage.act(action, self.setup.torrent.geometry().pieces(), &peers) {
                        self.do_one(node, action, block)?;
                    }
                }
            }
        }
        if self.events.is_multiple_of(self.setup.check_every) {
            self.check_node(node)?;
        }
        let this = &mut self.nodes[node.0];
        if let Some((due, _)) = this.swarm.poll_timeout() {
            let at = due.max(self.now);
            if at > self.now {
                this.spins = 0;
            }
            if this.wake.is_none_or(|wake| wake > at) {
                this.wake = Some(at);
                self.push(at, Happening::Wake(node, at));
            }
        }
        Ok(())
    }

    fn do_one(&mut self, node: NodeIndex, action: Action, block: Option<(Block, u64)>) -> Checked {
        self.trace.action(self.elapsed(), node.0, &action);
        for invariant in INVARIANTS {
            if let Check::Action(check) = invariant.check {
                check(self, node, &action).map_err(|what| format!("{}: {node:?}: {what}", invariant.name))?;
            }
        }
        self.perform(node, action, block)
    }

    fn perform(&mut self, node: NodeIndex, action: Action, block: Option<(Block, u64)>) -> Checked {
        let this = &mut self.nodes[node.0];
        match action {
            Action::Connect { addr } => self.dial(node, addr),
            Action::Close { peer, reason } => self.close(node, peer, reason),
            Action::Send { peer, message } => self.send(node, peer, message),
            Action::Upload { peer, request } => {
                let flip = match this.conduct {
                    Conduct::Stalls => return Ok(()),
                    Conduct::Lies(share) if self.rng.f64() < share => self.rng.u64(1..),
                    _ => 0,
                };
                if let Some(way) = this.links.get(&peer).map(|link| link.way) {
                    self.net.upload(way, request, flip);
                    self.feed(way);
                }
            }
            Action::Accept { block: accepted } => match block {
                Some((block, flip)) if block == accepted => this.disk.accept(block, flip)?,
                _ => return Err(format!("{accepted:?} is accepted, and {block:?} came")),
            },
            Action::Verify { piece, digests } => {
                let (at, event) = this.disk.verify(piece, digests, &self.setup.torrent, &mut self.rng, self.now)?;
                self.push(at, Happening::Told(node, event));
            }
            Action::StoreAhead { piece, blocks } => {
                let (at, event) = this.disk.store_ahead(piece, blocks, self.now)?;
                self.push(at, Happening::Told(node, event));
            }
            Action::Spill { piece } => this.disk.spill(piece),
            Action::Forget { piece } => this.disk.forget(piece),
            Action::Announce { tracker, request } => {
                self.push(self.now + TRACKER_LATENCY, Happening::Announced(node, tracker, request));
            }
            Action::MetadataReady { info } => {
                if info != self.setup.torrent.metainfo.info.bytes {
                    return Err("metadata of another torrent".into());
                }
                let none = Bitfield::empty(self.setup.torrent.geometry().pieces());
                let mut content = lives::content(&self.setup.torrent, none);
                content.metainfo = Metainfo::new(self.setup.torrent.metainfo.info.clone()).into();
                self.push(self.now, Happening::Told(node, Event::ContentReady(content)));
            }
            Action::Completed => {
                this.completed_at = Some(self.now);
                let orders = this.disk.finish(self.now);
                self.carry_out(node, orders)?;
            }
            Action::Stopped => this.alive = false,
            Action::PieceLayerReady { .. } => {}
            Action::HashBlocks { piece } => {
                let hashes = self.setup.torrent.block_hashes(piece);
                self.push(self.now, Happening::Told(node, Event::BlocksHashed { piece, hashes }));
            }
            Action::Inconsistent { piece } => return Err(format!("{piece:?} is said to be inconsistent")),
        }
        Ok(())
    }
}
