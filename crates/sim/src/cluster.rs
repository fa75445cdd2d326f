//! Members of a tracker cluster in virtual time: their tracker cores, the exchange between them over links that delay,
//! lose and get cut, and clients that announce to any of them, move, leave and die.
//!
//! What must hold at every moment is checked twice a second: nobody who lives is missing for more than two seconds where
//! the member that it announced to is connected, and nobody who is gone is listed longer than its life.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_tracker::exchange::wire::{LeaseNews, MemberId, News, Record, Writer, batch, read};
use obt_tracker::exchange::{Action, Event, Exchange, ExchangeConfig, Memory, Store};
use obt_tracker::leases::{LeaseItem, LeaseRequest, Leases};
use obt_tracker::limits::{BATCHES_UNDERWAY, EXCHANGE_INTERVAL, LEASE_INTERVAL, LEASE_LIFE, Limits};
use obt_tracker::{
    Advertised, Announce, Asker, Client, CompactPeers, PeerLists, Remember, Standing, StoreConfig, SwarmStats, Swarms,
    swarms,
};
use obt_wire::{InfoHash, PeerId};

/// How long somebody new may be unknown at a member that is connected to the one it announced to.
const NEWS: Duration = Duration::from_secs(2);
/// How long a stock client of a small swarm is remembered.
const STOCK_LIFE: Duration = Duration::from_secs(720);
/// What rounding to seconds at two members, and a walk over leases once a second, may add to a life.
const ROUNDING: Duration = Duration::from_secs(3);
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

/// A mistake in what a member tells others (HOSTILE 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// It does not tell that a client left.
    KeepsStopsToItself,
    /// It tells nobody what it heard before they were connected.
    KeepsOldNewsToItself,
    /// It says of everything that it has just happened.
    MakesNewsYoung,
    /// It does not tell that a lease was renewed.
    ForgetsRenewals,
    /// It says that every seed lacks something.
    TellsOfNoSeeds,
    /// It counts its own completions twice.
    CountsTwice,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::KeepsStopsToItself,
        Self::KeepsOldNewsToItself,
        Self::MakesNewsYoung,
        Self::ForgetsRenewals,
        Self::TellsOfNoSeeds,
        Self::CountsTwice,
    ];

    /// What it makes of a batch.
    fn make(self, bytes: &[u8]) -> Vec<u8> {
        let Ok((mut head, records)) = read(bytes) else {
            return bytes.to_vec();
        };
        if self == Self::MakesNewsYoung {
            head.aged = 0;
        }
        let mut writer = Writer::default();
        records.flatten().filter_map(|record| self.say(record)).for_each(|record| writer.record(&record));
        batch(&head, &writer.take())
    }

    fn say(self, mut record: Record) -> Option<Record> {
        match (self, &mut record) {
            (Self::ForgetsRenewals, Record::Lease { news: LeaseNews::Renewed { whole: false, .. }, .. }) => None,
            (Self::CountsTwice, Record::Counted { own, .. }) => {
                *own *= 2;
                Some(record)
            }
            (Self::MakesNewsYoung, Record::Lease { age, .. }) => {
                *age = 0;
                Some(record)
            }
            (_, Record::Swarm { peers, .. }) => {
                peers.retain_mut(|peer| {
                    match (self, &mut peer.news) {
                        (Self::KeepsStopsToItself, News::Stopped) => return false,
                        (Self::KeepsOldNewsToItself, News::Alive { .. }) if peer.age > 3 => return false,
                        (Self::TellsOfNoSeeds, News::Alive { seed, .. }) => *seed = false,
                        (Self::MakesNewsYoung, _) => peer.age = 0,
                        _ => {}
                    }
                    true
                });
                Some(record).filter(|record| !matches!(record, Record::Swarm { peers, .. } if peers.is_empty()))
            }
            _ => Some(record),
        }
    }
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

/// What a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One that announces every minute.
    Stock,
    /// A peer of ours, with a lease.
    Ours,
}

/// Somebody who announces.
struct Peer {
    kind: Kind,
    addr: SocketAddr,
    swarm: u8,
    seed: bool,
    alive: bool,
    /// The member that it announced to last, and when that was.
    told: Option<(usize, u32, Instant)>,
    /// When it left, and where it said so.
    left: Option<(usize, u32, Instant)>,
    /// Those that have to know it, with their lives, and the last of its words that they have to know.
    known_at: BTreeMap<(usize, u32), Instant>,
    revision: u64,
    /// Where its next lease request has to say everything.
    full: bool,
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

fn lease_of(peer: usize) -> PeerId {
    let mut id = [1; 20];
    id[..4].copy_from_slice(&u32::try_from(peer).unwrap_or(0).to_be_bytes());
    PeerId(id)
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

    /// A client that begins to announce to some member.
    pub fn join(&mut self, ours: bool) {
        let number = self.peers.len();
        let [.., high, low] = number.to_be_bytes();
        let kind = if ours { Kind::Ours } else { Kind::Stock };
        let swarm = self.rng.u8(..SWARMS);
        let seed = self.rng.bool();
        self.peers.push(Peer {
            kind,
            addr: ([10, 1, high, low], 6_881).into(),
            swarm,
            seed,
            alive: true,
            told: None,
            left: None,
            known_at: BTreeMap::new(),
            revision: 1,
            full: true,
        });
        self.later(Duration::ZERO, Happening::Announce(number));
    }

    /// A client dies without a word, or says that it leaves.
    pub fn leave(&mut self, says_so: bool) {
        let alive: Vec<usize> = (0..self.peers.len()).filter(|peer| self.peers[*peer].alive).collect();
        let Some(peer) = self.rng.choice(alive) else {
            return;
        };
        self.peers[peer].alive = false;
        self.peers[peer].known_at.clear();
        if says_so && let Some(member) = self.member_for(peer) {
            // Nobody can prove that a lease is its own where that is not known: it stays until its time is over.
            let is_known = self.peers[peer].kind == Kind::Stock || self.knows_lease(member, peer);
            self.say(peer, member, Standing::Stopped, false);
            if !is_known {
                return;
            }
            let life = self.lives[member];
            self.peers[peer].left = Some((member, life, self.now));
        }
    }

    fn knows_lease(&self, member: usize, peer: usize) -> bool {
        let leases = self.seats[member].as_ref().and_then(|seat| seat.store.leases.as_ref());
        leases.is_some_and(|leases| leases.iter().any(|lease| lease.peer_id() == lease_of(peer)))
    }

    /// A client completes its download and says so.
    pub fn complete(&mut self) {
        let behind: Vec<usize> = (0..self.peers.len())
            .filter(|peer| self.peers[*peer].alive && !self.peers[*peer].seed && self.peers[*peer].told.is_some())
            .collect();
        let Some(peer) = self.rng.choice(behind) else {
            return;
        };
        self.peers[peer].seed = true;
        self.peers[peer].revision += 1;
        if let Some(member) = self.member_for(peer) {
            self.say(peer, member, Standing::Seed, true);
        }
    }

    /// Where a client announces: where it did, unless that member is gone or it fancies another.
    fn member_for(&mut self, peer: usize) -> Option<usize> {
        let running: Vec<usize> = (0..self.setup.members).filter(|member| self.runs(*member)).collect();
        let last = self.peers[peer].told.map(|(member, ..)| member).filter(|member| running.contains(member));
        match last {
            Some(last) if self.rng.u8(..10) > 0 => Some(last),
            _ => self.rng.choice(running),
        }
    }

    fn say(&mut self, peer: usize, member: usize, standing: Standing, completed: bool) {
        let now = self.now;
        let Some(seat) = &mut self.seats[member] else {
            return;
        };
        let client = &mut self.peers[peer];
        let before = swarms::stats(&mut seat.store, &hash(client.swarm), now).completed;
        let asker = Asker::new(client.addr.ip(), None);
        match client.kind {
            Kind::Stock => {
                let announce = Announce {
                    hash: hash(client.swarm),
                    asker,
                    port: client.addr.port(),
                    standing,
                    completed,
                    want: 0,
                    client: Client { peer_id: PeerId([3; 20]), key: None },
                    remember: Remember::Named,
                };
                let mut lists = PeerLists { v4: CompactPeers::new(&mut []), v6: CompactPeers::new(&mut []) };
                let _ = swarms::announce(&mut seat.store, &announce, &mut lists, now);
            }
            Kind::Ours => {
                let item = LeaseItem { hash: hash(client.swarm), left: u64::from(!client.seed), completed };
                let mut request = LeaseRequest {
                    peer_id: lease_of(peer),
                    secret: [7; 16],
                    port: client.addr.port(),
                    advertise: Vec::new(),
                    revision: client.revision,
                    full: client.full,
                    set: if client.full || completed { vec![item] } else { Vec::new() },
                    removed: Vec::new(),
                    want: Vec::new(),
                    num_want: 0,
                    stopped: standing == Standing::Stopped,
                };
                let mut renew = |request: &LeaseRequest| {
                    seat.store.with_leases(|leases, store| leases.renew(request, &asker, store, now))
                };
                if renew(&request).is_ok_and(|reply| reply.resync) {
                    (request.full, request.set) = (true, vec![item]);
                    let _ = renew(&request);
                }
                client.full = false;
            }
        }
        let after = swarms::stats(&mut seat.store, &hash(client.swarm), now).completed;
        *self.completed.entry(client.swarm).or_default() += after.saturating_sub(before);
        if standing != Standing::Stopped {
            client.told = Some((member, seat.life, now));
            client.known_at.insert((member, seat.life), now);
        }
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
                let interval = match self.peers[peer].kind {
                    Kind::Stock => Duration::from_secs(60),
                    Kind::Ours => LEASE_INTERVAL,
                };
                self.later(interval, Happening::Announce(peer));
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

    fn listed(&mut self, member: usize, swarm: u8) -> BTreeMap<SocketAddr, bool> {
        let now = self.now;
        let Some(seat) = &mut self.seats[member] else {
            return BTreeMap::new();
        };
        let peers = swarms::peers(&mut seat.store, &hash(swarm), now);
        peers.iter().map(|peer| (peer.addr, peer.seed)).collect()
    }

    fn life_of(kind: Kind) -> Duration {
        match kind {
            Kind::Stock => STOCK_LIFE,
            Kind::Ours => LEASE_LIFE,
        }
    }

    /// What must hold at every moment.
    fn check(&mut self) -> Result<(), String> {
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
                let over = Self::life_of(peer.kind);
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
                    is_orphan || over.abs_diff(Self::life_of(peer.kind)) <= ROUNDING + EXCHANGE_INTERVAL
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
