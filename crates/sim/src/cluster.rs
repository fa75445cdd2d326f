//! Members of a tracker cluster in virtual time: their tracker cores, the exchange between them over links that delay,
//! lose and get cut, and clients that announce to any of them, move, leave and die.
//!
//! What must hold at every moment is checked twice a second: nobody who lives is missing for more than two seconds where
//! the member that it announced to is connected, and nobody who is gone is listed longer than its life.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use obt_tracker::exchange::wire::MemberId;
use obt_tracker::exchange::{Action, Event, Exchange, ExchangeConfig, Memory, Store};
use obt_tracker::leases::Leases;
use obt_tracker::limits::{BATCHES_UNDERWAY, EXCHANGE_INTERVAL, Limits};
use obt_tracker::{Advertised, Standing, StoreConfig, Swarms, swarms};
use obt_wire::InfoHash;

use self::clients::Peer;
pub use self::mistake::Mistake;

mod check;
mod clients;
mod mistake;

/// How often what must hold is checked.
const CHECK: Duration = Duration::from_millis(500);
/// Shortest retransmission timeout, as Linux has it.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Swarms that clients are in.
const SWARMS: u8 = 3;

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
pub struct ClusterSetup {
    /// Everything that is random comes from it.
    pub seed: u64,
    /// How many members.
    pub members: usize,
    /// Time from one member to another.
    pub latency: Duration,
    /// Most that is added to it, by chance.
    pub jitter: Duration,
    /// Share of batches that are lost at first: TCP sends them again.
    pub loss: f64,
    /// What is wrong with every member.
    pub mistake: Option<Mistake>,
}

/// A member.
struct Seat {
    exchange: Exchange,
    store: Memory,
    /// Which of its lives this is.
    life: u32,
}

/// One direction between two members.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    /// Since when it is up.
    up: Option<Instant>,
    /// Which of its lives this is: what was under way in an earlier one is lost.
    life: u32,
    /// Nothing overtakes anything.
    arrives: Option<Instant>,
    underway: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrived { from: usize, to: usize, life: u32, bytes: Vec<u8> },
    Announce(usize),
    Check,
    Expire,
}

/// See the module.
pub struct Cluster {
    setup: ClusterSetup,
    rng: fastrand::Rng,
    start: Instant,
    now: Instant,
    seats: Vec<Option<Seat>>,
    lives: Vec<u32>,
    links: Vec<Vec<Link>>,
    peers: Vec<Peer>,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    happened: u64,
    frozen: bool,
    completed: BTreeMap<u8, u32>,
    /// A link had more under way than its channel holds.
    overflows: usize,
    /// Bytes that were sent.
    pub sent: usize,
}

fn id(member: usize) -> MemberId {
    MemberId(member as u64 + 1)
}

fn hash(swarm: u8) -> InfoHash {
    InfoHash([swarm + 1; 20])
}

impl Cluster {
    /// Members that are all connected, and know nobody.
    #[must_use]
    pub fn new(setup: ClusterSetup, start: Instant) -> Self {
        let links = vec![vec![Link::default(); setup.members]; setup.members];
        let mut this = Self {
            setup,
            rng: fastrand::Rng::with_seed(setup.seed),
            start,
            now: start,
            seats: (0..setup.members).map(|_| None).collect(),
            lives: vec![0; setup.members],
            links,
            peers: Vec::new(),
            queue: BinaryHeap::new(),
            happened: 0,
            frozen: false,
            completed: BTreeMap::new(),
            overflows: 0,
            sent: 0,
        };
        for member in 0..setup.members {
            this.start(member);
        }
        this.later(CHECK, Happening::Check);
        this.later(Duration::from_secs(1), Happening::Expire);
        this
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Within what time all members agree after the last link came up: both ends greet each other and send what the
    /// other missed, a round trip and a half at most; what a client says meanwhile waits for the next interval.
    #[must_use]
    pub fn agreement(&self) -> Duration {
        let one_way = self.setup.latency + self.setup.jitter;
        let lost = if self.setup.loss > 0.0 { TIMEOUT * 12 } else { Duration::ZERO };
        EXCHANGE_INTERVAL + one_way * 4 + lost
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.happened += 1;
        self.queue.push(Reverse((self.now + after, self.happened, happening)));
    }

    /// Starts a member with nothing, and connects it to all that run.
    pub fn start(&mut self, member: usize) {
        self.lives[member] += 1;
        let life = self.lives[member];
        let limits = Limits { torrents_per_hour: u16::MAX, ..Limits::default() };
        let mut secret = [0; 32];
        self.rng.fill(&mut secret);
        let config = StoreConfig { shard_bits: 2, limits, advertised: Advertised::default(), secret };
        let mut store = Memory { swarms: Swarms::new(&config, self.now), leases: Some(Leases::new(limits)) };
        for swarm in 0..SWARMS {
            // In the catalogue: completed counts outlive the peers.
            swarms::pin(&mut store, &hash(swarm), 0, self.now);
        }
        let config = ExchangeConfig { me: id(member), home: Advertised::default() };
        let mut exchange = Exchange::new(&config, self.rng.u64(..), self.now);
        let members: Vec<MemberId> = (0..self.setup.members).map(id).collect();
        exchange.handle_event(Event::Members(&members), &mut store, self.now);
        self.seats[member] = Some(Seat { exchange, store, life });
        for other in 0..self.setup.members {
            self.connect(member, other);
        }
    }

    /// Ends a member; what it knew is lost.
    pub fn kill(&mut self, member: usize) {
        for other in 0..self.setup.members {
            self.cut(member, other);
        }
        self.seats[member] = None;
    }

    /// Whether a member runs.
    #[must_use]
    pub fn runs(&self, member: usize) -> bool {
        self.seats[member].is_some()
    }

    /// Connects two members that run.
    pub fn connect(&mut self, one: usize, other: usize) {
        if one == other || !self.runs(one) || !self.runs(other) || self.links[one][other].up.is_some() {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            let life = self.links[from][to].life + 1;
            self.links[from][to] = Link { up: Some(self.now), life, ..Link::default() };
        }
        for (from, to) in [(one, other), (other, one)] {
            self.tell(from, Event::LinkUp(id(to)));
        }
    }

    /// Cuts the link between two members; what is under way is lost.
    pub fn cut(&mut self, one: usize, other: usize) {
        if one == other || self.links[one][other].up.is_none() {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            self.links[from][to].up = None;
            self.tell(from, Event::LinkDown(id(to)));
        }
    }

    /// Starts and connects everybody, and lets no client say anything any more.
    pub fn heal(&mut self) {
        self.frozen = true;
        for member in 0..self.setup.members {
            if !self.runs(member) {
                self.start(member);
            }
            for other in 0..self.setup.members {
                self.connect(member, other);
            }
        }
    }

    /// Lets clients go on.
    pub fn thaw(&mut self) {
        self.frozen = false;
    }

    fn tell(&mut self, member: usize, event: Event<'_>) {
        if let Some(seat) = &mut self.seats[member] {
            seat.exchange.handle_event(event, &mut seat.store, self.now);
        }
        self.act(member);
    }

    fn act(&mut self, from: usize) {
        while let Some(action) = self.seats[from].as_mut().and_then(|seat| seat.exchange.poll_action()) {
            match action {
                Action::Send { to, batch } => self.send(from, to, batch),
                Action::Close { member, .. } => {
                    let other = usize::try_from(member.0 - 1).unwrap_or(usize::MAX);
                    self.cut(from, other);
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: MemberId, bytes: Vec<u8>) {
        let to = usize::try_from(to.0 - 1).unwrap_or(usize::MAX);
        let mut delay = self.setup.latency + self.setup.jitter.mul_f64(self.rng.f64());
        let mut timeout = TIMEOUT;
        while self.rng.f64() < self.setup.loss {
            delay += timeout;
            timeout *= 2;
        }
        let link = &mut self.links[from][to];
        if link.up.is_none() {
            return;
        }
        // A channel with this much room is full: the batch is dropped.
        if link.underway > 2 * BATCHES_UNDERWAY {
            self.overflows += 1;
            return;
        }
        link.underway += 1;
        self.sent += bytes.len();
        let at = link.arrives.map_or(self.now + delay, |last| last.max(self.now + delay));
        link.arrives = Some(at);
        let life = link.life;
        let bytes = self.setup.mistake.map_or_else(|| bytes.clone(), |mistake| mistake.make(&bytes));
        self.later(at - self.now, Happening::Arrived { from, to, life, bytes });
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// A sentence where something does not hold.
    pub fn run(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        loop {
            let happening = self.queue.peek().map(|Reverse((at, ..))| *at);
            let wake = self
                .seats
                .iter()
                .enumerate()
                .filter_map(|(member, seat)| Some((seat.as_ref()?.exchange.poll_timeout()?.0, member)));
            let wake = wake.min();
            let next = happening.into_iter().chain(wake.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return Ok(());
            };
            self.now = self.now.max(next);
            match wake.filter(|(at, _)| *at <= self.now) {
                Some((_, member)) => {
                    if let Some(seat) = &mut self.seats[member] {
                        seat.exchange.handle_timeout(&mut seat.store, self.now);
                    }
                    self.act(member);
                }
                None => {
                    let Some(Reverse((_, _, happening))) = self.queue.pop() else {
                        continue;
                    };
                    self.happen(happening)?;
                }
            }
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Arrived { from, to, life, bytes } => {
                if self.links[from][to].life == life && self.links[from][to].up.is_some() {
                    self.links[from][to].underway -= 1;
                    self.tell(to, Event::Batch(id(from), &bytes));
                }
            }
            Happening::Announce(peer) if !self.peers[peer].alive => {}
            Happening::Announce(peer) if self.frozen => {
                self.later(Duration::from_secs(5), Happening::Announce(peer));
            }
            Happening::Announce(peer) => {
                if let Some(member) = self.member_for(peer) {
                    let standing = if self.peers[peer].seed { Standing::Seed } else { Standing::Leecher };
                    self.say(peer, member, standing, false);
                }
                self.later(self.peers[peer].kind.interval(), Happening::Announce(peer));
            }
            Happening::Check => {
                self.check()?;
                self.later(CHECK, Happening::Check);
            }
            Happening::Expire => {
                for seat in self.seats.iter_mut().flatten() {
                    let now = self.now;
                    seat.store.with_leases(|leases, store| leases.expire(store, now));
                }
                self.later(Duration::from_secs(1), Happening::Expire);
            }
        }
        Ok(())
    }

    /// Downloads of all swarms that a member counts, and those that there were.
    pub fn completed(&mut self, member: usize) -> (u32, u32) {
        let now = self.now;
        let Some(seat) = &mut self.seats[member] else {
            return (0, 0);
        };
        let counted = (0..SWARMS).map(|swarm| swarms::stats(&mut seat.store, &hash(swarm), now).completed).sum();
        (counted, self.completed.values().sum())
    }

    /// Batches that were dropped since a channel was full.
    #[must_use]
    pub fn overflows(&self) -> usize {
        self.overflows
    }
}
