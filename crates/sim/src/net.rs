//! Links between nodes: what a connection has in its socket, whose turn it is on an uplink, when bytes arrive.
//!
//! An uplink serves its connections in turn, one message or block each; a downlink serves what arrives in order. A
//! socket's send buffer is bounded: what is handed over waits for room in it in order, and what is in it can no longer be
//! taken back. A link with a queue is what a modem is: bytes wait in it on the way out and on the way in, packets have
//! headers and are acknowledged, and TCP sends no more to somebody than the queues hold.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use obt_swarm::PeerKey;
use obt_wire::peer::{Message, PieceHeader, Request};

use crate::node::NodeIndex;

/// Payload of a packet, bytes: an Ethernet frame without the headers of IPv4 and TCP.
const PACKET: u64 = 1_448;
/// The headers of Ethernet, IPv4 and TCP, bytes; an acknowledgement has nothing else.
const HEADERS: u64 = 66;
/// Bytes that an uplink with a queue takes from a connection before another has its turn: four packets, as TCP hands
/// them down.
const SEGMENT: u64 = 4 * PACKET;
/// Most bytes of one connection under way on links with queues.
const WINDOW: u64 = 128 << 10;
/// Packets of a parcel up to which a lost one is missed by a timeout alone: three behind it are needed (RFC 5681).
const FEW: u64 = 3;
/// Shortest retransmission timeout, as Linux has it.
const TIMEOUT: Duration = Duration::from_millis(200);

/// How a node is connected to the rest of the world.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Access {
    /// Bytes per second that it can send.
    pub up: u64,
    /// Bytes per second that it can receive.
    pub down: u64,
    /// Time from it to the middle of the net.
    pub latency: Duration,
    /// Most that is added to it, by chance.
    pub jitter: Duration,
    /// Share of its packets that are lost, either way.
    pub loss: f64,
    /// How long bytes may wait at either end of it; zero is a link without queue and headers.
    pub queue: Duration,
}

impl Access {
    /// A link of so many megabit per second in both directions, with this latency to the middle.
    #[must_use]
    pub fn mbit(megabits: u64, latency: Duration) -> Self {
        Self::rates(megabits * 125_000, megabits * 125_000, latency)
    }

    /// A link of so many bytes per second each way that loses nothing.
    #[must_use]
    pub fn rates(up: u64, down: u64, latency: Duration) -> Self {
        Self { up, down, latency, jitter: Duration::ZERO, loss: 0.0, queue: Duration::ZERO }
    }

    /// The same with a queue at either end that holds what it carries in this time.
    #[must_use]
    pub fn queued(self, queue: Duration) -> Self {
        Self { queue, ..self }
    }

    /// The same with latency that varies and packets that are lost.
    #[must_use]
    pub fn with(self, jitter: Duration, loss: f64) -> Self {
        Self { jitter, loss, ..self }
    }
}

/// What travels.
#[derive(Debug, Clone, PartialEq)]
pub enum Parcel {
    /// A message.
    Message(Message),
    /// A block, and how its bytes are wrong; 0 is not wrong.
    Block(PieceHeader, u64),
}

impl Parcel {
    /// Its length on the wire, bytes, without the headers of TCP and below.
    #[must_use]
    pub fn size(&self) -> u64 {
        let body = match self {
            Self::Block(header, _) => 9 + header.length as usize,
            Self::Message(message) => match message {
                Message::KeepAlive => 0,
                Message::Have(_) | Message::Suggest(_) | Message::AllowedFast(_) => 5,
                Message::Request(_) | Message::Cancel(_) | Message::Reject(_) => 13,
                Message::Bitfield(bits) => 1 + bits.len(),
                Message::Extended { payload, .. } => 2 + payload.len(),
                Message::HashRequest(_) | Message::HashReject(_) => 49,
                Message::Hashes(_, hashes) => 49 + 32 * hashes.len(),
                _ => 3,
            },
        };
        4 + body as u64
    }

    /// Bytes of payload in it.
    #[must_use]
    pub fn payload(&self) -> u64 {
        match self {
            Self::Block(header, _) => u64::from(header.length),
            Self::Message(_) => 0,
        }
    }
}

/// What an uplink takes at a time from one connection.
#[derive(Debug)]
pub struct Segment {
    /// Bytes of it, without headers.
    pub bytes: u64,
    /// What ends in it.
    pub parcels: Vec<Parcel>,
}

/// What the shell was given and the socket has no room for.
#[derive(Debug)]
enum Handed {
    Message(Message),
    Block(Request, u64),
}

/// The number of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnIndex(pub usize);

/// One direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// Which connection.
    pub conn: ConnIndex,
    /// Which of its ends sends.
    pub from: usize,
}

impl Way {
    /// The other direction.
    #[must_use]
    pub fn back(self) -> Self {
        Self { conn: self.conn, from: 1 - self.from }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    /// Whose it is.
    pub node: NodeIndex,
    /// What that node calls it.
    pub key: PeerKey,
    /// It has not been closed here.
    pub open: bool,
    /// Handed to the shell, and no room in the socket.
    waiting: VecDeque<Handed>,
    /// In the socket.
    socket: VecDeque<Parcel>,
    socket_bytes: u64,
    /// Bytes of the first of them that have left.
    begun: u64,
    /// Bytes that have left and are not read.
    under_way: u64,
    /// When the last of what was sent arrives: TCP keeps the order, so nothing overtakes it.
    arrives: Option<Instant>,
}

/// A connection: both its ends.
#[derive(Debug)]
pub struct Conn {
    /// The one that dialled, and the other.
    pub ends: [End; 2],
}

#[derive(Debug)]
struct Line {
    access: Access,
    /// Ways with something in their socket, in turn.
    turn: VecDeque<Way>,
    sending: bool,
    up_free: Instant,
    down_free: Instant,
    /// Bytes that are under way to it.
    coming: u64,
    /// Bytes of acknowledgements that it owes.
    acks: u64,
}

impl Line {
    fn is_queued(&self) -> bool {
        !self.access.queue.is_zero()
    }

    fn wire_bytes(&self, bytes: u64) -> u64 {
        if self.is_queued() { bytes + HEADERS * bytes.div_ceil(PACKET) } else { bytes }
    }
}

/// All links and connections.
///
/// Invariant: every payload byte that entered a socket is in `sent`, and in exactly one of `delivered`, `lost` and
/// `flying`.
#[derive(Debug)]
pub struct Net {
    lines: Vec<Line>,
    conns: Vec<Conn>,
    socket_buffer: u64,
    /// Payload that entered a socket, bytes.
    pub sent: u64,
    /// Payload that was read on the other side, bytes.
    pub delivered: u64,
    /// Payload that was under way when its connection ended, bytes.
    pub lost: u64,
    /// Payload under way, bytes.
    pub flying: u64,
}

impl Net {
    /// No node yet; sockets that hold this many bytes.
    #[must_use]
    pub fn new(socket_buffer: u64) -> Self {
        Self { lines: Vec::new(), conns: Vec::new(), socket_buffer, sent: 0, delivered: 0, lost: 0, flying: 0 }
    }

    /// Connects a node; nodes are numbered in this order.
    pub fn add_node(&mut self, access: Access, now: Instant) {
        self.lines.push(Line {
            access,
            turn: VecDeque::new(),
            sending: false,
            up_free: now,
            down_free: now,
            coming: 0,
            acks: 0,
        });
    }

    /// Time from one node to another.
    #[must_use]
    pub fn latency(&self, from: NodeIndex, to: NodeIndex) -> Duration {
        self.lines[from.0].access.latency + self.lines[to.0].access.latency
    }

    /// When a segment arrives that leaves an uplink at `left`. What is lost on the way comes later: after a round trip
    /// where packets behind it show the gap, else after a timeout, which doubles. What was sent behind it waits for it.
    pub fn arrival(&mut self, way: Way, segment: &Segment, left: Instant, rng: &mut fastrand::Rng) -> Instant {
        let (from, to) = (self.end(way).node, self.end(way.back()).node);
        let (one, other) = (self.lines[from.0].access, self.lines[to.0].access);
        let trip = one.latency + other.latency;
        let jitter = one.jitter + other.jitter;
        let mut delay = if jitter.is_zero() { trip } else { trip + jitter.mul_f64(rng.f64()) };
        let loss = 1.0 - (1.0 - one.loss) * (1.0 - other.loss);
        let packets = segment.bytes.div_ceil(PACKET);
        if loss > 0.0 && rng.f64() < 1.0 - (1.0 - loss).powf(packets as f64) {
            delay += if packets > FEW { 2 * trip } else { TIMEOUT + 2 * trip };
            let mut timeout = TIMEOUT + 2 * trip;
            while rng.f64() < loss {
                delay += timeout;
                timeout *= 2;
            }
        }
        let end = self.end_mut(way);
        let at = end.arrives.map_or(left + delay, |last| last.max(left + delay));
        end.arrives = Some(at);
        at
    }

    /// A new connection.
    pub fn connect(&mut self, dialler: (NodeIndex, PeerKey), listener: (NodeIndex, PeerKey)) -> ConnIndex {
        let end = |(node, key)| End {
            node,
            key,
            open: true,
            waiting: VecDeque::new(),
            socket: VecDeque::new(),
            socket_bytes: 0,
            begun: 0,
            under_way: 0,
            arrives: None,
        };
        self.conns.push(Conn { ends: [end(dialler), end(listener)] });
        ConnIndex(self.conns.len() - 1)
    }

    /// The end that sends on `way`.
    #[must_use]
    pub fn end(&self, way: Way) -> &End {
        &self.conns[way.conn.0].ends[way.from]
    }

    fn end_mut(&mut self, way: Way) -> &mut End {
        &mut self.conns[way.conn.0].ends[way.from]
    }

    /// Closes one end; what is in its socket is lost. False if it was closed.
    pub fn close(&mut self, way: Way) -> bool {
        let end = self.end_mut(way);
        let was = std::mem::replace(&mut end.open, false);
        end.waiting.clear();
        (end.socket_bytes, end.begun) = (0, 0);
        let lost: u64 = end.socket.drain(..).map(|parcel| parcel.payload()).sum();
        self.lost += lost;
        self.flying -= lost;
        was
    }

    /// Puts a message into the socket, before the blocks that wait for room in it; a choke comes after them, and so does what
    /// follows it.
    pub fn send(&mut self, way: Way, message: Message) {
        let waits = |handed: &Handed| matches!(handed, Handed::Message(_)) || message == Message::Choke;
        if !self.end(way).waiting.iter().any(waits) {
            self.push(way, Parcel::Message(message));
        } else {
            self.end_mut(way).waiting.push_back(Handed::Message(message));
        }
    }

    /// A block to be sent as soon as the socket has room for it.
    pub fn upload(&mut self, way: Way, request: Request, flip: u64) {
        self.end_mut(way).waiting.push_back(Handed::Block(request, flip));
    }

    /// Moves one waiting block into the socket with the messages around it, if there is room: its length.
    pub fn fill_socket(&mut self, way: Way) -> Option<u32> {
        self.fill_messages(way);
        let most = self.socket_buffer;
        let end = self.end_mut(way);
        let Handed::Block(request, flip) = *end.waiting.front()? else {
            return None;
        };
        if !end.open || (end.socket_bytes > 0 && end.socket_bytes + u64::from(request.length) > most) {
            return None;
        }
        end.waiting.pop_front();
        let header = PieceHeader { piece: request.piece, begin: request.begin, length: request.length };
        self.sent += u64::from(request.length);
        self.flying += u64::from(request.length);
        self.push(way, Parcel::Block(header, flip));
        self.fill_messages(way);
        Some(request.length)
    }

    fn fill_messages(&mut self, way: Way) {
        while matches!(self.end(way).waiting.front(), Some(Handed::Message(_))) {
            if let Some(Handed::Message(message)) = self.end_mut(way).waiting.pop_front() {
                self.push(way, Parcel::Message(message));
            }
        }
    }

    fn push(&mut self, way: Way, parcel: Parcel) {
        let end = self.end_mut(way);
        if !end.open {
            return;
        }
        if end.socket.is_empty() {
            let node = end.node;
            self.lines[node.0].turn.push_back(way);
        }
        let end = self.end_mut(way);
        end.socket_bytes += parcel.size();
        end.socket.push_back(parcel);
    }

    /// Takes what a node's uplink sends next, if it has room: the way, the segment, when it will have left, and when
    /// there is room for another.
    pub fn next_up(&mut self, node: NodeIndex, now: Instant) -> Option<(Way, Segment, Instant, Instant)> {
        if self.lines.get(node.0)?.sending {
            return None;
        }
        for _ in 0..self.lines[node.0].turn.len() {
            let way = self.lines[node.0].turn.pop_front()?;
            if self.end(way).socket.is_empty() {
                continue;
            }
            if !self.may_send(way) {
                self.lines[node.0].turn.push_back(way);
                continue;
            }
            let segment = self.take_segment(way);
            if !self.end(way).socket.is_empty() {
                self.lines[node.0].turn.push_back(way);
            }
            let line = &mut self.lines[node.0];
            line.sending = true;
            let acks = std::mem::take(&mut line.acks);
            line.up_free = line.up_free.max(now) + time(line.wire_bytes(segment.bytes) + acks, line.access.up);
            let room = line.up_free.checked_sub(line.access.queue).unwrap_or(now).max(now);
            return Some((way, segment, line.up_free, room));
        }
        None
    }

    /// Whether TCP lets a connection send a segment: one is always under way, more only as far as the queues hold it.
    fn may_send(&self, way: Way) -> bool {
        let end = self.end(way);
        if !self.lines[end.node.0].is_queued() || end.under_way == 0 {
            return true;
        }
        let to = &self.lines[self.end(way.back()).node.0];
        let held = to.access.down as f64 * 2.0 * to.access.queue.as_secs_f64();
        end.under_way + SEGMENT <= WINDOW && (to.coming + SEGMENT) as f64 <= held
    }

    /// Takes the first whole parcel of a socket, or on a link with a queue what fits in a segment: TCP knows no messages.
    fn take_segment(&mut self, way: Way) -> Segment {
        let most = if self.lines[self.end(way).node.0].is_queued() { SEGMENT } else { u64::MAX };
        let to = self.end(way.back()).node;
        let end = self.end_mut(way);
        let mut segment = Segment { bytes: 0, parcels: Vec::new() };
        while let Some(parcel) = end.socket.front() {
            let left = parcel.size() - end.begun;
            let bytes = left.min(most - segment.bytes);
            segment.bytes += bytes;
            end.begun += bytes;
            if bytes < left {
                break;
            }
            end.begun = 0;
            segment.parcels.extend(end.socket.pop_front());
            if most == u64::MAX {
                break;
            }
        }
        end.socket_bytes -= segment.bytes;
        end.under_way += segment.bytes;
        self.lines[to.0].coming += segment.bytes;
        segment
    }

    /// The uplink has room for another segment.
    pub fn up_done(&mut self, node: NodeIndex) {
        self.lines[node.0].sending = false;
    }

    /// When a segment that reaches a node's downlink at this moment is read.
    pub fn arrive(&mut self, node: NodeIndex, segment: &Segment, now: Instant) -> Instant {
        let line = &mut self.lines[node.0];
        line.down_free = line.down_free.max(now) + time(line.wire_bytes(segment.bytes), line.access.down);
        if line.is_queued() {
            line.acks += HEADERS;
        }
        line.down_free
    }

    /// A segment is read, or thrown away because the connection has ended.
    pub fn segment_landed(&mut self, way: Way, segment: &Segment) {
        let to = self.end(way.back()).node;
        self.end_mut(way).under_way -= segment.bytes;
        self.lines[to.0].coming -= segment.bytes;
    }

    /// A parcel is read, or thrown away because the connection has ended.
    pub fn landed(&mut self, parcel: &Parcel, read: bool) {
        self.flying -= parcel.payload();
        if read {
            self.delivered += parcel.payload();
        } else {
            self.lost += parcel.payload();
        }
    }
}

fn time(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1))
}
