//! Feeds what has happened to a torrent's swarm, and does what the swarm asks for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_swarm::{
    Action, AnnounceRequest, Config, Direction, Event, PeerKey, PeerSource, Start, Swarm, TrackerIndex, TrackerState,
    TrackerUrl, Verdict,
};
use obt_wire::limits::PIECES;
use obt_wire::metainfo::Metainfo;
use obt_wire::peer::{Handshake, PieceHeader};
use obt_wire::{Bitfield, Block, InfoHashes, PieceIndex};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Sleep, sleep_until};

use super::assembly::{Assembly, Kept};
use super::context::Context;
use super::error::TorrentError;
use super::handle::{Finished, Outcome, TorrentStats};
use super::inbox::{OrderSender, Orders};
use super::open::{self, AddTorrent, Afterwards, Opened, Place, Source};
use super::order::{Order, Ordered};
use super::peers::Peers;
use super::readers::Readers;
use crate::announce::Announce;
use crate::buffers::BlockBuf;
use crate::disk::{Done, FullPiece, Proof, Store, StoreError};
use crate::limits::{INBOX_BATCHES, SNAPSHOT, STOP_ANNOUNCE};
use crate::net::{Arrival, Connection, Dialed, Item, Report, Shared, answer};
use crate::rates::Rates;

/// Batches of connections that are taken at once.
const BATCHES: usize = 64;
/// How long the task sleeps where the swarm names no time.
const IDLE: Duration = Duration::from_secs(3600);

/// What connects a torrent's task with those who hold its handle, and with the tasks that it starts.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) to_self: OrderSender,
    pub(super) stats: watch::Sender<Arc<TorrentStats>>,
    pub(super) readers: Arc<Readers>,
}

/// How a driver's run ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nobody needs the torrent at the moment; this proves its data.
    Quiet(Proof),
    /// It has left its swarm.
    Over(Result<(), TorrentError>),
}

/// The state of a torrent's task.
pub(super) struct Driver {
    swarm: Swarm,
    context: Arc<Context>,
    hashes: InfoHashes,
    trackers: Vec<TrackerUrl>,
    afterwards: Afterwards,
    /// Where the content shall go, until it is known.
    place: Option<Place>,
    ends: Ends,
    /// What its connections share.
    shared: Arc<Shared>,
    /// Whether it may be put to rest.
    rests: bool,
    /// Since when nobody needs it.
    quiet: Option<Instant>,
    done_sender: UnboundedSender<Done>,
    reports_sender: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    metainfo: Option<Arc<Metainfo>>,
    /// What the user wants of it.
    wanted: Bitfield,
    store: Option<Store>,
    assembly: Assembly,
    /// Pieces that the core has just asked to verify, for the disk to have them all at once.
    full: Vec<FullPiece>,
    /// First blocks of pieces that it has just asked to store.
    first: Vec<(PieceIndex, Vec<(u32, BlockBuf)>)>,
    /// The bytes of the block that the core is being told about.
    held: Option<BlockBuf>,
    peers: Peers,
    /// Connections, dials, announces: ended with the torrent.
    tasks: JoinSet<()>,
    added: Instant,
    now: Instant,
    /// Whether the snapshot that others see is older than the last event, and when it was made.
    stale: bool,
    published: Instant,
    paused: Option<String>,
    path: Option<PathBuf>,
    finish: Finish,
    outcome: Result<(), TorrentError>,
    stopping: Option<Instant>,
    stopped: bool,
}

/// How far a download is on its way to its final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    Missing,
    /// Since when all of it is verified.
    Asked(Instant),
    Done,
}

impl Driver {
    pub(super) fn new(
        context: Arc<Context>,
        add: AddTorrent,
        config: Config,
        opened: Option<Opened>,
        ends: Ends,
        done_sender: UnboundedSender<Done>,
        added: Instant,
    ) -> Self {
        let now = Instant::now();
        let hashes = add.source.hashes();
        let start = match (&opened, &add.source) {
            (Some(opened), _) => Start::Content(opened.content.clone()),
            (None, Source::Awaited { .. }) => Start::Awaited(hashes),
            (None, _) => Start::Hashes(hashes),
        };
        let (reports_sender, reports) = mpsc::channel(INBOX_BATCHES);
        let shared = Arc::new(Shared {
            pool: context.pool.clone(),
            store: OnceLock::new(),
            bitfield_bytes: AtomicUsize::new(PIECES.div_ceil(8) as usize),
            cold_reads: Arc::clone(&context.cold_reads),
        });
        let mut this = Self {
            swarm: Swarm::new(config, start, fastrand::u64(..), now),
            context,
            hashes,
            rests: add.may_rest(),
            quiet: None,
            trackers: add.trackers,
            afterwards: add.afterwards,
            place: match add.source {
                Source::Magnet { place, .. } | Source::Awaited { place, .. } => Some(place),
                Source::Download(_) | Source::Existing { .. } => None,
            },
            ends,
            shared,
            done_sender,
            reports_sender,
            reports,
            metainfo: None,
            wanted: Bitfield::default(),
            store: None,
            assembly: Assembly::default(),
            full: Vec::new(),
            first: Vec::new(),
            held: None,
            peers: Peers::default(),
            tasks: JoinSet::new(),
            added,
            now,
            stale: true,
            published: now,
            paused: None,
            path: None,
            finish: Finish::Missing,
            outcome: Ok(()),
            stopping: None,
            stopped: false,
        };
        if let Some(opened) = opened {
            this.adopt(opened);
        }
        this.act();
        this.feed(Event::PeersFound { source: PeerSource::User, addrs: add.peers });
        this.publish();
        this
    }

    /// Obeys what was ordered already, and runs until the torrent has stopped or nobody has needed it for a while.
    pub(super) async fn run(
        &mut self,
        ordered: Vec<Ordered>,
        orders: &mut Orders,
        mut done: UnboundedReceiver<Done>,
        outcome: &Outcome,
    ) -> Ended {
        for order in ordered {
            self.obey(*order, outcome);
        }
        let mut batches = Vec::with_capacity(BATCHES);
        let readers = Arc::clone(&self.ends.readers);
        let mut timer = Box::pin(sleep_until(self.now.into()));
        loop {
            if self.swarm.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                self.swarm.handle_timeout(self.now);
                self.act();
            }
            self.peers.flush();
            self.publish_when_due();
            if self.is_over() {
                break;
            }
            if let Some(proof) = self.quiet_for_long(orders) {
                return Ended::Quiet(proof);
            }
            self.arm(&mut timer);
            tokio::select! {
                _ = self.reports.recv_many(&mut batches, BATCHES) => self.now = Instant::now(),
                Some(done) = done.recv() => {
                    self.now = Instant::now();
                    self.disk_done(done);
                }
                order = orders.recv() => {
                    self.now = Instant::now();
                    self.obey(*order, outcome);
                }
                () = readers.moved() => {
                    self.now = Instant::now();
                    self.feed(Event::ReadersMoved { ranges: readers.windows() });
                }
                Some(ended) = self.tasks.join_next() => note_panic(ended),
                () = timer.as_mut() => self.now = Instant::now(),
            }
            for report in batches.drain(..) {
                self.hear(report);
            }
            while let Ok(done) = done.try_recv() {
                self.disk_done(done);
            }
        }
        self.tasks.shutdown().await;
        self.publish();
        Ended::Over(std::mem::replace(&mut self.outcome, Ok(())))
    }

    /// The proof of the data, once all of it is here and nobody has needed it for a while.
    fn quiet_for_long(&mut self, orders: &Orders) -> Option<Proof> {
        let quiet = self.rests
            && self.finish == Finish::Done
            && self.stopping.is_none()
            && self.peers.is_empty()
            && self.tasks.is_empty()
            && self.ends.readers.is_idle()
            && orders.is_empty();
        if !quiet {
            self.quiet = None;
            return None;
        }
        let since = *self.quiet.get_or_insert(self.now);
        let store = self.store.as_ref().filter(|_| since + self.context.rest_after <= self.now)?;
        if !store.have().is_full() {
            self.rests = false;
            return None;
        }
        Some(store.proof())
    }

    /// Makes durable what is verified.
    pub(super) async fn flush(&self) {
        if let Some(store) = &self.store {
            store.flush().await;
        }
    }

    fn is_over(&self) -> bool {
        self.stopped || self.stopping.is_some_and(|deadline| deadline <= self.now)
    }

    /// Sets the timer to the next time that something is due. One that rings too early does no harm, so it is only
    /// ever moved forward, or after it has rung.
    fn arm(&self, timer: &mut std::pin::Pin<Box<Sleep>>) {
        let swarm = self.swarm.poll_timeout().map(|(at, _)| at);
        let snapshot = self.stale.then(|| self.published + SNAPSHOT);
        let rest = self.quiet.map(|since| since + self.context.rest_after);
        let next = [swarm, snapshot, rest, self.stopping].into_iter().flatten().min().unwrap_or(self.now + IDLE);
        if timer.is_elapsed() || timer.deadline() > next.into() {
            timer.as_mut().reset(next.into());
        }
    }

    /// Tells the core something, and does what comes of it.
    fn feed(&mut self, event: Event) {
        self.swarm.handle_event(event, self.now);
        self.act();
    }

    fn act(&mut self) {
        self.stale = true;
        while let Some(action) = self.swarm.poll_action() {
            self.perform(action);
        }
        if !self.first.is_empty() {
            let first = std::mem::take(&mut self.first);
            self.with_store(|store| store.store_ahead(first));
        }
        if !self.full.is_empty() {
            let full = std::mem::take(&mut self.full);
            self.with_store(|store| store.verify(full));
        }
    }

    fn hear(&mut self, report: Report) {
        match report {
            Report::Items(peer, items) => {
                for item in items {
                    self.hear_item(peer, item);
                }
            }
            Report::Gone(peer) => {
                if self.peers.leave(peer) {
                    self.feed(Event::Disconnected { peer });
                }
            }
        }
    }

    fn hear_item(&mut self, peer: PeerKey, item: Item) {
        match item {
            Item::Block(header, bytes) => self.hear_block(peer, header, bytes),
            Item::Message(message) => self.feed(Event::Message { peer, message }),
            Item::Progress => self.feed(Event::BlockProgress { peer }),
            Item::Uploaded(bytes) => self.feed(Event::Uploaded { peer, bytes }),
            Item::UploadFailed(piece) => {
                self.feed(Event::UploadFailed { peer, piece });
                if let Some(store) = &self.store {
                    store.doubt(piece);
                }
            }
        }
    }

    /// The core says whether the bytes are kept.
    fn hear_block(&mut self, peer: PeerKey, header: PieceHeader, bytes: BlockBuf) {
        self.held = Some(bytes);
        self.feed(Event::Block { peer, header });
        self.held = None;
    }

    fn obey(&mut self, order: Order, outcome: &Outcome) {
        match order {
            Order::Arrived(arrival) => self.welcome(arrival),
            Order::Dialed(addr, Some(dialed)) => self.dialed(addr, dialed),
            Order::Dialed(addr, None) => self.feed(Event::ConnectFailed { addr }),
            Order::Announced(tracker, result) => self.feed(Event::Announced { tracker, result }),
            Order::Given(metainfo, torrent) => self.open_given(metainfo, torrent),
            Order::Opened(Ok(opened)) => self.begin(*opened),
            Order::Opened(Err(error)) => self.fail(error),
            Order::Finished(result) => self.finished(result, outcome),
            Order::AddPeers(source, addrs) => self.feed(Event::PeersFound { source, addrs }),
            Order::Limit(Rates { download, upload }) => self.feed(Event::RatesChanged { download, upload }),
            Order::Wake => {}
            Order::Stop => self.stop(),
        }
    }

    fn disk_done(&mut self, done: Done) {
        match done {
            Done::Verified { piece, verdict, block_digests } => {
                if verdict == Verdict::Good {
                    self.ends.readers.arrived(piece);
                }
                self.feed(Event::Verified { piece, verdict, block_digests });
            }
            Done::StoredAhead { piece, blocks } => self.feed(Event::StoredAhead { piece, blocks }),
            Done::StoreFailed { piece, error } => {
                tracing::debug!(piece = piece.0, error, "cannot store a piece");
                self.feed(Event::StoreFailed { piece });
            }
            Done::BlocksHashed { piece, hashes } => self.feed(Event::BlocksHashed { piece, hashes }),
            Done::Paused { reason } => {
                tracing::warn!(torrent = %self.hashes.primary(), reason, "paused");
                self.paused = Some(reason);
                self.feed(Event::DiskPaused);
                self.publish();
            }
            Done::Resumed => {
                tracing::info!(torrent = %self.hashes.primary(), "the disk takes data again");
                self.paused = None;
                self.feed(Event::DiskResumed);
                self.publish();
            }
            Done::Withdrawn { pieces } => self.withdrawn(pieces),
            Done::Removed { path } => self.fail(StoreError::Removed { path }.into()),
        }
    }

    fn withdrawn(&mut self, pieces: Vec<PieceIndex>) {
        for piece in &pieces {
            self.ends.readers.withdrawn(*piece);
        }
        // Until it has its final name it is ours to repair.
        let ours = self.store.as_ref().is_some_and(Store::is_unfinished);
        self.feed(if ours { Event::Lost { pieces } } else { Event::Withdrawn { pieces } });
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Connect { addr } => self.dial(addr),
            Action::Close { peer, reason } => {
                tracing::debug!(peer = peer.0, ?reason, "closing a connection");
                self.peers.close(peer);
            }
            Action::Send { peer, message } => {
                if let Some(outgoing) = self.peers.outgoing(peer) {
                    outgoing.push(&message);
                }
            }
            Action::Upload { peer, request } => {
                if let Some(outgoing) = self.peers.outgoing(peer) {
                    outgoing.push_block(request);
                }
            }
            Action::Accept { block } => self.accept(block),
            Action::Verify { piece, digests } => {
                self.full.push(FullPiece { piece, blocks: self.assembly.take(piece), digests });
            }
            Action::HashBlocks { piece } => self.with_store(|store| store.hash_blocks(piece)),
            Action::Spill { piece } => {
                let blocks = self.assembly.spill(piece);
                self.with_store(|store| store.spill(piece, blocks));
            }
            Action::StoreAhead { piece, blocks } => self.first.push((piece, self.assembly.take_first(piece, blocks))),
            Action::Forget { piece } => {
                drop(self.assembly.take(piece));
                self.first.retain(|(first, _)| *first != piece);
                self.with_store(|store| store.forget(piece));
            }
            Action::Announce { tracker, request } => self.announce(tracker, request),
            Action::MetadataReady { info } => self.open(info),
            Action::PieceLayerReady { pieces_root, hashes } => {
                self.with_store(|store| store.add_piece_layer(pieces_root, hashes));
            }
            Action::Completed => self.complete(),
            Action::Inconsistent { piece } => self.fail(TorrentError::Inconsistent(piece)),
            Action::Stopped => self.stopped = true,
        }
    }

    /// The core asks for storage only after it was told that it is open.
    fn with_store(&self, act: impl FnOnce(&Store)) {
        match &self.store {
            Some(store) => act(store),
            None => debug_assert!(false, "the core stores pieces before there is a store"),
        }
    }

    fn accept(&mut self, block: Block) {
        let (Some(bytes), Some(metainfo)) = (self.held.take(), &self.metainfo) else {
            debug_assert!(false, "the core accepts a block that nobody sent");
            return;
        };
        let of = metainfo.info.geometry.blocks(block.piece);
        if let Kept::Spill(blocks) = self.assembly.accept(block, bytes, of) {
            self.with_store(|store| store.spill(block.piece, blocks));
        }
    }
}

/// Connections.
impl Driver {
    fn dial(&mut self, addr: SocketAddr) {
        let dialer = self.context.dialer.clone();
        let to_self = self.ends.to_self.clone();
        let hashes = self.hashes;
        self.tasks.spawn(async move {
            let dialed = dialer.dial(addr, hashes).await;
            if let Err(error) = &dialed {
                tracing::debug!(%addr, %error, "cannot connect");
            }
            to_self.send(Order::Dialed(addr, dialed.ok()).into()).await;
        });
    }

    fn dialed(&mut self, addr: SocketAddr, dialed: Dialed) {
        let Dialed { stream, agreed, place } = dialed;
        let joined = self.join(stream, place, None, |peer| Event::Connected {
            peer,
            addr,
            direction: Direction::Outgoing,
            handshake: agreed.theirs,
            v2: agreed.v2,
        });
        if !joined {
            self.feed(Event::ConnectFailed { addr });
        }
    }

    fn welcome(&mut self, arrival: Arrival) {
        let Arrival { stream, addr, handshake, place } = arrival;
        let (ours, agreed) = answer(handshake, self.hashes, self.context.dialer.peer_id);
        self.join(stream, place, Some(ours), |peer| Event::Connected {
            peer,
            addr,
            direction: Direction::Incoming,
            handshake: agreed.theirs,
            v2: agreed.v2,
        });
    }

    /// Starts the task of a connection, and tells the core. False where the socket is dead already.
    fn join(
        &mut self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        answer: Option<Handshake>,
        connected: impl FnOnce(PeerKey) -> Event,
    ) -> bool {
        let (peer, outbox) = self.peers.enter();
        let reports = self.reports_sender.clone();
        let shared = Arc::clone(&self.shared);
        let connection = match Connection::new(peer, stream, place, outbox, reports, shared) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "a connection died before it began");
                self.peers.leave(peer);
                return false;
            }
        };
        let connection = match answer {
            Some(answer) => connection.answering(&answer),
            None => connection,
        };
        // The core first: where it turns the peer away, nothing answers the handshake.
        self.feed(connected(peer));
        self.tasks.spawn(connection.run());
        true
    }

    fn announce(&mut self, tracker: TrackerIndex, request: AnnounceRequest) {
        let Some(url) = self.trackers.get(tracker.0 as usize).map(|tracker| tracker.url.clone()) else {
            return;
        };
        let announcer = self.context.announcer.clone();
        let peer_id = self.context.dialer.peer_id;
        let announce = Announce { url, hashes: self.hashes, peer_id, port: self.context.port, request };
        let to_self = self.ends.to_self.clone();
        self.tasks.spawn(async move {
            let result = announcer.announce(announce).await.map_err(|error| error.to_failure());
            to_self.send(Order::Announced(tracker, result).into()).await;
        });
    }
}

/// From a magnet, through a download, to the end.
impl Driver {
    /// Peers sent the info dictionary: opens the storage, unless the torrent was given meanwhile.
    fn open(&mut self, info: Bytes) {
        let Some(place) = self.place.take() else { return };
        let (disk, hashes, done) = (self.context.disk.clone(), self.hashes, self.done_sender.clone());
        self.open_by(async move { open::magnet(&disk, place, hashes, info, done).await });
    }

    /// The torrent was given: opens the storage, unless peers were faster.
    fn open_given(&mut self, metainfo: Arc<Metainfo>, torrent: Bytes) {
        if metainfo.info.hashes != self.hashes {
            return;
        }
        let Some(place) = self.place.take() else { return };
        let (disk, done) = (self.context.disk.clone(), self.done_sender.clone());
        self.open_by(async move { open::download(&disk, place.plan(metainfo, torrent), done).await });
    }

    fn open_by(&mut self, open: impl Future<Output = Result<Opened, TorrentError>> + Send + 'static) {
        let to_self = self.ends.to_self.clone();
        self.tasks.spawn(async move {
            let opened = open.await.map(Box::new);
            to_self.send(Order::Opened(opened).into()).await;
        });
    }

    /// The storage of what was not known at first is open.
    fn begin(&mut self, opened: Opened) {
        let content = opened.content.clone();
        self.adopt(opened);
        self.feed(Event::ContentReady(content));
        self.publish();
    }

    /// Takes over open storage.
    fn adopt(&mut self, opened: Opened) {
        let Opened { store, content, path } = opened;
        let pieces = content.metainfo.info.geometry.pieces();
        self.shared.bitfield_bytes.store(pieces.div_ceil(8) as usize, Ordering::Relaxed);
        let _ = self.shared.store.set(store.clone());
        self.ends.readers.begin(store.clone(), content.have.clone());
        self.store = Some(store);
        self.metainfo = Some(Arc::clone(&content.metainfo));
        self.wanted.clone_from(&content.wanted);
        self.path = path;
        self.complete_if_all_is_here();
    }

    fn complete_if_all_is_here(&mut self) {
        if self.store.as_ref().is_some_and(|store| !self.wanted.has_more_than(&store.have())) {
            self.complete();
        }
    }

    /// All that is wanted is verified and stored: asks for its final name.
    fn complete(&mut self) {
        let Some(store) = self.store.clone() else {
            return;
        };
        if self.finish != Finish::Missing {
            return;
        }
        self.finish = Finish::Asked(self.now);
        let path = self.path.clone();
        let to_self = self.ends.to_self.clone();
        self.tasks.spawn(async move {
            let finished = match path {
                Some(path) => Ok(path),
                None => store.finish().await,
            };
            to_self.send(Order::Finished(finished).into()).await;
        });
    }

    fn finished(&mut self, result: Result<PathBuf, StoreError>, outcome: &Outcome) {
        match result {
            Ok(path) => {
                tracing::info!(torrent = %self.hashes.primary(), path = %path.display(), "complete");
                let since_added = |at: Instant| at.saturating_duration_since(self.added).as_secs_f64();
                let verified_seconds = match self.finish {
                    Finish::Asked(verified) => since_added(verified),
                    Finish::Missing | Finish::Done => since_added(self.now),
                };
                let seconds = since_added(self.now);
                self.finish = Finish::Done;
                self.path = Some(path.clone());
                self.publish();
                let from = self.swarm.snapshot(self.now).from;
                outcome.tell(|| Ok(Finished { path, from, seconds, verified_seconds }));
                if self.afterwards == Afterwards::Stop {
                    self.stop();
                }
            }
            // What it lost is withdrawn and fetched again; then the core says once more that all is here. It says nothing
            // where nothing was lost, or all of it has come back already.
            Err(error @ (StoreError::Changed { .. } | StoreError::Incomplete { .. })) => {
                tracing::warn!(%error, "not complete yet");
                self.finish = Finish::Missing;
                self.complete_if_all_is_here();
            }
            Err(error) => self.fail(error.into()),
        }
    }

    /// Ends the torrent with an error.
    fn fail(&mut self, error: TorrentError) {
        if self.outcome.is_ok() {
            self.outcome = Err(error);
        }
        self.stop();
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(self.now + STOP_ANNOUNCE);
            self.feed(Event::Stopping);
        }
    }
}

/// What others see.
impl Driver {
    fn publish_when_due(&mut self) {
        if self.stale && self.published + SNAPSHOT <= self.now {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.stale = false;
        self.published = self.now;
        let swarm = self.swarm.snapshot(self.now);
        let answered = |state: &TrackerState| matches!(state, TrackerState::Working(_) | TrackerState::Failing(_));
        self.ends.stats.send_replace(Arc::new(TorrentStats {
            metainfo: self.metainfo.clone(),
            paused: self.paused.clone(),
            path: self.path.clone(),
            announced: swarm.trackers.iter().any(|tracker| answered(&tracker.state)),
            swarm: Some(Box::new(swarm)),
        }));
    }
}

fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a task of a torrent panicked");
    }
}
