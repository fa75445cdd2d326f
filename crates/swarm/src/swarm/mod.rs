//! The owner of one swarm's parts: routes each [`Event`] to one of them and queues the [`Action`]s that come of it.

mod asks;
mod connections;
mod crowd;
mod downloads;
mod full_pieces;
mod goodbye;
mod haves;
mod invariants;
mod messages;
mod snapshot;
mod uploads;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use fastrand::Rng;
use obt_wire::peer::Message;
use obt_wire::{BLOCK_SIZE, Bitfield, Block, InfoHashes, PeerId};

use crate::action::{Action, AnnounceEvent, AnnounceRequest, CloseReason};
use crate::announcer::{Announcer, Need};
use crate::block_hashes::BlockHashes;
use crate::choker::{Choker, Slots};
use crate::event::{
    AnnounceFailure, AnnounceReply, Content, Event, PeerKey, PeerSource, ReadRange, TrackerIndex, TrackerUrl,
};
use crate::limits::{
    ANNOUNCE_PEERS, FEW_PEERS, METADATA_ASKED, NUM_WANT, RATE_BURST_LEAST, REQUESTERS_PER_BLOCK, TICK, TICK_IDLE,
};
use crate::metadata::MetadataFetch;
use crate::peer_list::PeerList;
use crate::picker::PickerConfig;
use crate::rate::{SpeedMeter, TokenBucket};
use crate::session::Session;
use crate::stats::{Phase, Stats};
use crate::torrent::Torrent;
use asks::Sources;
use full_pieces::FullPieces;
use haves::Haves;

/// What a swarm is told about its surroundings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our name in handshakes.
    pub peer_id: PeerId,
    /// Port that others reach us at, told in the extension handshake; None where nobody can.
    pub listen_port: Option<u16>,
    /// Our program and its version, told in the extension handshake.
    pub client: String,
    /// Most connections of this swarm at once.
    pub connections: usize,
    /// Most connects under way at once.
    pub half_open: usize,
    /// Payload to receive, bytes per second; None is no limit.
    pub download_rate: Option<u64>,
    /// Payload to send, bytes per second; None is no limit.
    pub upload_rate: Option<u64>,
    /// Buffers of the shell that this swarm may fill, in blocks of 16 KiB: asked for and not yet stored or spilled.
    pub block_budget: u32,
    /// How many pieces the shell hashes with SHA-1 in about the time of one; 1 or 0 where each takes its own time.
    pub hashed_together: usize,
    /// Blocks of a piece that are asked for together, at least 1; of a longer one they are hashed and stored together too, while
    /// the rest comes.
    pub stretch: u32,
    /// Where to announce.
    pub trackers: Vec<TrackerUrl>,
    /// Whether loopback, private and link-local addresses may be connected to.
    pub local_addresses: LocalAddresses,
}

/// Whether loopback, private and link-local addresses may be connected to, where others than the user name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalAddresses {
    /// They are taken like any other: the user chose a tracker that is local itself.
    Allowed,
    /// They are dropped.
    Refused,
}

/// What a swarm begins with.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// The torrent is known and its storage is ready.
    Content(Content),
    /// Only its info-hashes are: the info dictionary comes from peers (BEP 9).
    Hashes(InfoHashes),
    /// Only its info-hashes are, and the torrent is [given](Event::ContentReady) by somebody else. Until then those peers
    /// that lack something themselves are asked for the info dictionary: they have time while nobody asks them for blocks.
    Awaited(InfoHashes),
}

/// Why the core wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Who is unchoked is to be decided anew.
    Choke,
    /// A tracker is due.
    Announce,
    /// A candidate may be connected to.
    Connect,
    /// A peer owes an answer, is silent for too long, or is owed a keep-alive.
    Peer,
    /// A rate limit lets more through.
    Rate,
    /// Full pieces have waited long enough for others.
    Verify,
    /// Peers are to hear of new pieces.
    Have,
    /// Somebody is to be asked again for metadata or hashes.
    Ask,
    /// Good-byes took too long.
    Stop,
}

/// One swarm, without IO.
///
/// The shell tells what has happened ([`handle_event`](Self::handle_event)) or that time has passed
/// ([`handle_timeout`](Self::handle_timeout), at [`poll_timeout`](Self::poll_timeout) at the latest), then drains
/// [`poll_action`](Self::poll_action) before the next event.
///
/// Invariants: `torrent` is there in every phase but `Metadata` and `Preparing` (and what follows them directly);
/// a connection is in `sessions` from `Connected` until either side closes it, and in `closing` from our `Close` until
/// `Disconnected`.
#[derive(Debug)]
pub struct Swarm {
    config: Config,
    phase: Phase,
    torrent: Option<Torrent>,
    metadata: Option<MetadataFetch>,
    /// Who is asked for the info dictionary and for hashes.
    sources: Sources,
    block_hashes: BlockHashes,
    sessions: BTreeMap<PeerKey, Session>,
    closing: BTreeSet<PeerKey>,
    /// Where connections that are gone led to, newest last: what they sent may still turn out to be a lie.
    departed: VecDeque<(PeerKey, SocketAddr)>,
    peers: PeerList,
    announcer: Announcer,
    choker: Choker,
    download: TokenBucket,
    upload: TokenBucket,
    downloaded: SpeedMeter,
    uploaded: SpeedMeter,
    /// Payload that was of no use, bytes.
    wasted: u64,
    /// Useful payload by address, in the order of first bytes.
    from: Vec<(SocketAddr, u64)>,
    /// Full pieces that wait for others, to be verified together.
    full: FullPieces,
    /// Verified pieces that others have not heard of.
    haves: Haves,
    /// What readers wait for, also before the torrent is known.
    readers: Vec<ReadRange>,
    /// The disk takes no more.
    paused: bool,
    /// Some piece was fetched and verified: the tracker is to hear of the completion.
    fetched: bool,
    alone_since: Option<Instant>,
    due: Due,
    chores: Chores,
    actions: VecDeque<Action>,
    /// Whom the last refill ended with.
    refilled: PeerKey,
    /// Times since the last look at what could be spilled that the budget kept a peer from being asked.
    starved_fills: u32,
    /// What the last pick chose; reused.
    picked: Vec<Block>,
    rng: Rng,
}

/// When the owner itself has something to do.
#[derive(Debug, Default)]
struct Due {
    /// Look at every peer.
    tick: Option<Instant>,
    /// Choke anew before the choker's own time, because a slot is free.
    choke: Option<Instant>,
    /// A rate limit lets more through.
    rate: Option<Instant>,
    /// Metadata or hashes.
    ask: Option<Instant>,
    /// Good-byes end.
    stop: Option<Instant>,
}

/// What is done once after the event at hand, however often it was asked for.
#[derive(Debug, Default)]
struct Chores {
    /// Blocks or budget are free: ask those that could have been asked for more.
    refill: bool,
    /// The budget holds peers up: spilling may help.
    spill: bool,
    /// Peers came or went.
    connect: bool,
    /// Metadata or hashes are to be asked for.
    ask: bool,
}

impl Swarm {
    /// A swarm that has not said anything to anybody yet.
    #[must_use]
    pub fn new(config: Config, start: Start, seed: u64, now: Instant) -> Self {
        let mut rng = Rng::with_seed(seed);
        let announcer = Announcer::new(&config.trackers, rng.fork(), now);
        let peers = PeerList::new(config.local_addresses, rng.fork());
        let mut this = Self {
            phase: Phase::Metadata,
            torrent: None,
            metadata: None,
            sources: Sources::Everybody,
            block_hashes: BlockHashes::new(now),
            sessions: BTreeMap::new(),
            closing: BTreeSet::new(),
            departed: VecDeque::new(),
            peers,
            announcer,
            choker: Choker::new(Slots::default(), now),
            download: TokenBucket::new(config.download_rate, burst(config.download_rate), now),
            upload: TokenBucket::new(config.upload_rate, burst(config.upload_rate), now),
            downloaded: SpeedMeter::new(now),
            uploaded: SpeedMeter::new(now),
            wasted: 0,
            from: Vec::new(),
            full: FullPieces::default(),
            haves: Haves::default(),
            readers: Vec::new(),
            paused: false,
            fetched: false,
            alone_since: None,
            due: Due::default(),
            chores: Chores::default(),
            actions: VecDeque::new(),
            refilled: PeerKey(0),
            starved_fills: 0,
            picked: Vec::new(),
            rng,
            config,
        };
        match start {
            Start::Content(content) => this.begin(content),
            Start::Hashes(hashes) => this.metadata = Some(MetadataFetch::new(hashes, METADATA_ASKED)),
            Start::Awaited(hashes) => {
                // Who is slow is no loss: the torrent is on its way.
                this.metadata = Some(MetadataFetch::new(hashes, 1));
                this.sources = Sources::Leechers;
            }
        }
        this.update_need();
        this
    }

    /// The torrent is known: what is missing decides the phase.
    fn begin(&mut self, content: Content) {
        let config = PickerConfig {
            block_budget: self.config.block_budget as usize,
            requesters: REQUESTERS_PER_BLOCK,
            stretch: self.config.stretch,
            // The blocks of v2 are hashed side by side within a piece.
            side_by_side: content.metainfo.info.hashes.v1.map_or(1, |_| self.config.hashed_together),
        };
        let mut torrent = Torrent::new(content, config, self.rng.u64(..));
        torrent.picker.set_readers(&self.readers);
        self.phase = if torrent.picker.is_done() { Phase::Seeding } else { Phase::Downloading };
        self.torrent = Some(torrent);
        self.metadata = None;
    }

    /// Takes note of what has happened.
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::ContentReady(content) => self.content_ready(content, now),
            Event::PeersFound { source, addrs } => self.peers_found(source, &addrs, now),
            Event::Connected { peer, addr, direction, handshake, v2 } => {
                let session = Session::new(peer, addr, direction, &handshake, v2, now);
                self.connected(session, now);
            }
            Event::ConnectFailed { addr } => self.connect_failed(addr, now),
            Event::Disconnected { peer } => self.disconnected(peer, now),
            Event::Message { peer, message } => self.message(peer, message, now),
            Event::Block { peer, header } => self.block(peer, header, now),
            Event::BlockProgress { peer } => self.block_progress(peer, now),
            Event::Uploaded { peer, bytes } => self.uploaded(peer, bytes, now),
            Event::UploadFailed { peer, piece } => self.upload_failed(peer, piece, now),
            Event::Verified { piece, verdict, block_digests } => self.verified(piece, &verdict, &block_digests, now),
            Event::StoreFailed { piece } => self.store_failed(piece),
            Event::StoredAhead { piece, blocks } => self.stored_ahead(piece, blocks),
            Event::BlocksHashed { piece, hashes } => self.blocks_hashed(piece, &hashes, now),
            Event::DiskPaused => self.paused = true,
            Event::DiskResumed => self.disk_resumed(),
            Event::Withdrawn { pieces } => self.withdrawn(&pieces, now),
            Event::Lost { pieces } => self.lost_pieces(&pieces, now),
            Event::Announced { tracker, result } => self.announced(tracker, &result, now),
            Event::ReadersMoved { ranges } => self.readers_moved(ranges, now),
            Event::WantedChanged { wanted } => self.wanted_changed(wanted, now),
            Event::RatesChanged { download, upload } => self.rates_changed(download, upload, now),
            Event::Stopping => self.stop(now),
        }
        self.settle(now);
    }

    /// Takes note that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.due.stop) {
            self.finish_stopping();
        }
        if is_due(self.due.tick) {
            self.tick(now);
        }
        if is_due(self.choke_due()) {
            self.rechoke(now);
        }
        if is_due(self.due.rate) {
            self.due.rate = None;
            self.pump_all(now);
            self.chores.refill = true;
        }
        if is_due(self.due.ask) {
            self.chores.ask = true;
        }
        if is_due(self.announcer.due()) {
            self.announce(now);
        }
        self.chores.connect = true;
        self.settle(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and what for. May lie in the past: at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Why)> {
        let dues = [
            (self.choke_due(), Why::Choke),
            (self.announcer.due(), Why::Announce),
            (self.connect_due(), Why::Connect),
            (self.due.tick, Why::Peer),
            (self.due.rate, Why::Rate),
            (self.full.due(), Why::Verify),
            (self.haves.due(), Why::Have),
            (self.due.ask, Why::Ask),
            (self.due.stop, Why::Stop),
        ];
        dues.into_iter().filter_map(|(at, why)| Some((at?, why))).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What it is busy with.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How things stand.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Stats {
        self.stats(now)
    }

    /// What must hold between any two calls, for tests and the simulator.
    ///
    /// # Errors
    /// A sentence that names the invariant that does not hold.
    pub fn check(&self) -> Result<(), String> {
        self.check_invariants()
    }

    /// Does what the event at hand left to be done.
    fn settle(&mut self, now: Instant) {
        self.verify_full(now);
        self.tell_haves(now);
        if std::mem::take(&mut self.chores.refill) {
            self.refill(now);
        }
        if std::mem::take(&mut self.chores.spill) {
            self.spill(now);
        }
        if std::mem::take(&mut self.chores.ask) {
            self.ask(now);
        }
        if std::mem::take(&mut self.chores.connect) {
            self.connect(now);
            self.update_need();
            self.update_alone(now);
        }
    }

    /// Whether peers may be connected, asked and answered.
    fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Metadata | Phase::Preparing | Phase::Downloading | Phase::Seeding)
    }

    /// Sends a message; silence is counted from here.
    fn send(&mut self, peer: PeerKey, message: Message, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.last_sent = now;
            self.actions.push_back(Action::Send { peer, message });
        }
    }

    // Trackers.

    fn announce(&mut self, now: Instant) {
        for (tracker, event) in self.announcer.announce(now) {
            let request = self.announce_request(event);
            self.actions.push_back(Action::Announce { tracker, request });
        }
    }

    fn announce_request(&self, event: AnnounceEvent) -> AnnounceRequest {
        let full = self.sessions.len() >= self.config.connections;
        let leaving = event == AnnounceEvent::Stopped;
        AnnounceRequest {
            event,
            uploaded: self.uploaded.total(),
            downloaded: self.downloaded.total(),
            left: self.torrent.as_ref().map_or(u64::MAX / 2, |torrent| torrent.picker.left()),
            num_want: if full || leaving { 0 } else { NUM_WANT },
        }
    }

    fn announced(&mut self, tracker: TrackerIndex, result: &Result<AnnounceReply, AnnounceFailure>, now: Instant) {
        self.announcer.announced(tracker, result, now);
        if let (Ok(reply), true) = (result, self.is_running()) {
            self.peers_found(PeerSource::Tracker, &reply.peers, now);
        }
        self.chores.connect = true;
        self.announce(now);
        self.check_stopped();
    }

    fn peers_found(&mut self, source: PeerSource, addrs: &[SocketAddr], now: Instant) {
        if !self.is_running() {
            return;
        }
        let most = if source == PeerSource::User { usize::MAX } else { ANNOUNCE_PEERS };
        for addr in addrs.iter().take(most) {
            self.peers.add(*addr, source, now);
        }
        self.chores.connect = true;
    }

    fn update_need(&mut self) {
        let known = self.sessions.len() + self.peers.connecting() + self.peers.candidates();
        let fetching = matches!(self.phase, Phase::Metadata | Phase::Downloading);
        self.announcer.set_need(if fetching && known < FEW_PEERS { Need::Peers } else { Need::Nothing });
    }

    fn update_alone(&mut self, now: Instant) {
        let alone = self.sessions.is_empty()
            && self.peers.first_tries() == 0
            && self.peers.untried() == 0
            && self.announcer.all_heard();
        self.alone_since = if alone { self.alone_since.or(Some(now)) } else { None };
    }

    // What the user wants.

    fn readers_moved(&mut self, ranges: Vec<ReadRange>, now: Instant) {
        if let Some(torrent) = &mut self.torrent {
            torrent.picker.set_readers(&ranges);
        }
        self.readers = ranges;
        self.ask_everybody(now);
    }

    fn wanted_changed(&mut self, wanted: Bitfield, now: Instant) {
        let Some(torrent) = &mut self.torrent else {
            return;
        };
        if wanted.len() != torrent.wanted.len() {
            return;
        }
        let dropped = torrent.picker.set_wanted(&wanted);
        torrent.wanted = wanted;
        for piece in dropped.pieces {
            self.full.forget(piece);
            self.actions.push_back(Action::Forget { piece });
        }
        for (peer, block) in dropped.requests {
            self.cancel(peer, block, now);
        }
        self.recount_useful(now);
        self.update_phase(now);
        self.ask_everybody(now);
    }

    fn rates_changed(&mut self, download: Option<u64>, upload: Option<u64>, now: Instant) {
        self.download.set_rate(download, burst(download), now);
        self.upload.set_rate(upload, burst(upload), now);
        self.due.rate = Some(now);
    }

    // Time.

    /// Looks at every peer soon, at the latest when requests may be late.
    fn tick_within(&mut self, now: Instant) {
        let at = now + TICK;
        if self.due.tick.is_none_or(|tick| tick > at) {
            self.due.tick = Some(at);
        }
    }

    /// Looks at every peer: who is silent, who owes, who is owed a sign of life.
    fn tick(&mut self, now: Instant) {
        let keys: Vec<PeerKey> = self.sessions.keys().copied().collect();
        let mut busy = false;
        for peer in keys {
            self.look_at(peer, now);
            busy |= self.sessions.get(&peer).is_some_and(Session::is_busy);
        }
        if self.sessions.len() >= self.config.connections && self.peers.untried() > 0 {
            self.make_room(now);
        }
        self.chores.refill = true;
        self.chores.spill = true;
        self.due.tick = match (self.sessions.is_empty(), busy) {
            (true, _) => None,
            (false, true) => Some(now + TICK),
            (false, false) => Some(now + TICK_IDLE),
        };
    }

    fn look_at(&mut self, peer: PeerKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        if session.is_idle(now) {
            return self.close(peer, CloseReason::Idle, now);
        }
        if session.needs_keep_alive(now) {
            self.send(peer, Message::KeepAlive, now);
        }
        self.take_late(peer, now);
        self.end_waits(peer, now);
    }
}

/// What a limit lets through at once: a fifth of a second's worth.
fn burst(rate: Option<u64>) -> u64 {
    (rate.unwrap_or(0) / 5).max(RATE_BURST_LEAST).max(u64::from(BLOCK_SIZE))
}
