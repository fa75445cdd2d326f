//! One peer: what it has said so far, what we have said to it, and which of its messages are legal as things stand.
//!
//! It knows its own connection only. What a message means for the swarm is decided by the owner.

mod allowance;
mod claims;
mod head_start;
mod uploads;

use std::net::SocketAddr;
use std::time::Instant;

use obt_wire::extension::ExtensionIds;
use obt_wire::peer::Handshake;
use obt_wire::{Bitfield, PeerId, PieceIndex};

use crate::event::{Direction, PeerKey};
use crate::limits::{
    ALLOWED_FAST, BAD_HINTS, EXTENSION_HANDSHAKE_BURST, EXTENSION_HANDSHAKE_EVERY, HASH_REQUEST_BURST,
    HASH_REQUEST_EVERY, IDLE, IDLE_MESSAGE_BURST, IDLE_MESSAGE_EVERY, KEEP_ALIVE, REJECTS, REQUESTS_INVALID,
    UNASKED_BLOCKS, UNKNOWN_MESSAGES,
};
use crate::picker::Trust;
use crate::pipeline::Pipeline;
use crate::rate::SpeedMeter;
pub(crate) use allowance::Allowance;
pub(crate) use claims::Claims;
pub(crate) use head_start::HeadStart;
pub(crate) use uploads::Uploads;

/// What a peer did that ends its connection; the text names the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offence(pub(crate) &'static str);

/// What the extension handshakes of a peer told (BEP 10); each replaces what earlier ones said about the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Told {
    /// Its program, fit to be shown.
    pub(crate) client: String,
    /// Its numbers for extension messages.
    pub(crate) ids: ExtensionIds,
    /// It wants nothing from anybody (BEP 21).
    pub(crate) upload_only: bool,
    /// It said how long the info dictionary is: it has it.
    pub(crate) has_metadata: bool,
}

/// Offences that are borne a few times.
#[derive(Debug, Default)]
struct Strikes {
    invalid_requests: u32,
    rejects: u32,
    unknown: u32,
    bad_hints: u32,
    unasked: u32,
}

/// One connection after the handshakes.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: PeerKey,
    pub(crate) addr: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) peer_id: PeerId,
    /// Both sides speak BEP 10.
    pub(crate) extensions: bool,
    /// Both sides speak BEP 6.
    pub(crate) fast: bool,
    /// Both sides mean the v2 info-hash (BEP 52).
    pub(crate) v2: bool,
    pub(crate) joined: Instant,
    pub(crate) last_heard: Instant,
    /// A message came after the handshake: it means to use this connection.
    pub(crate) has_spoken: bool,
    pub(crate) last_sent: Instant,
    /// Where it could be reached again: what we connected to, or the port that it named.
    pub(crate) listens: Option<SocketAddr>,
    /// Where else it was reached: in the other address family, or under another name. Not tried while it is connected.
    pub(crate) other_addresses: Vec<SocketAddr>,
    pub(crate) told: Told,
    pub(crate) claims: Claims,
    /// How many pieces it has that we want and lack.
    pub(crate) useful_pieces: u32,
    /// We said that we are interested.
    pub(crate) interesting: bool,
    /// It says that it is interested.
    pub(crate) interested: bool,
    /// It does not answer our requests.
    pub(crate) choking: bool,
    /// We do not answer its requests.
    pub(crate) choked: bool,
    /// Pieces that it serves while it chokes us (BEP 6).
    pub(crate) allowed_fast: Vec<PieceIndex>,
    /// What we serve it while we choke it.
    pub(crate) head_start: HeadStart,
    pub(crate) pipeline: Pipeline,
    pub(crate) uploads: Uploads,
    pub(crate) sent: SpeedMeter,
    /// Blocks of its that turned out good.
    pub(crate) good_blocks: u64,
    /// Whether its blocks may be mixed with those of others.
    pub(crate) trust: Trust,
    /// There was less to ask of it than it could take.
    pub(crate) hungry: bool,
    /// Pieces that it would like to be asked for, as it says.
    pub(crate) hints: Vec<PieceIndex>,
    /// Pieces that we would like it to ask for, and it has not yet.
    pub(crate) suggested: Vec<PieceIndex>,
    /// When it first refused a piece that it is not forgiven for.
    pub(crate) refused_at: Option<Instant>,
    /// Rejects that may come for requests that were taken back.
    pub(crate) stray_rejects_due: u64,
    /// How often it asked for metadata.
    pub(crate) metadata_requests: Option<Allowance>,
    /// How often it asked for hashes while choked.
    pub(crate) hash_requests: Allowance,
    idle_messages: Allowance,
    handshakes: Allowance,
    strikes: Strikes,
}

impl Session {
    pub(crate) fn new(
        key: PeerKey,
        addr: SocketAddr,
        direction: Direction,
        handshake: &Handshake,
        v2: bool,
        now: Instant,
    ) -> Self {
        Self {
            key,
            addr,
            direction,
            peer_id: handshake.peer_id,
            extensions: handshake.reserved.extensions,
            fast: handshake.reserved.fast,
            v2,
            joined: now,
            last_heard: now,
            has_spoken: false,
            last_sent: now,
            listens: (direction == Direction::Outgoing).then_some(addr),
            other_addresses: Vec::new(),
            told: Told::default(),
            claims: Claims::default(),
            useful_pieces: 0,
            interesting: false,
            interested: false,
            choking: true,
            choked: true,
            allowed_fast: Vec::new(),
            head_start: HeadStart::default(),
            pipeline: Pipeline::new(now),
            uploads: Uploads::default(),
            sent: SpeedMeter::new(now),
            good_blocks: 0,
            trust: Trust::Full,
            hungry: false,
            hints: Vec::new(),
            suggested: Vec::new(),
            refused_at: None,
            stray_rejects_due: 0,
            metadata_requests: None,
            hash_requests: Allowance::new(HASH_REQUEST_BURST, HASH_REQUEST_EVERY, now),
            idle_messages: Allowance::new(IDLE_MESSAGE_BURST, IDLE_MESSAGE_EVERY, now),
            handshakes: Allowance::new(EXTENSION_HANDSHAKE_BURST, EXTENSION_HANDSHAKE_EVERY, now),
            strikes: Strikes::default(),
        }
    }

    /// The messages of BEP 6 are legal only if both sides announced it.
    pub(crate) fn needs_fast(&self) -> Result<(), Offence> {
        if self.fast { Ok(()) } else { Err(Offence("a fast message without the fast extension")) }
    }

    /// The messages of BEP 52 are legal only if both sides mean the v2 torrent.
    pub(crate) fn needs_v2(&self) -> Result<(), Offence> {
        if self.v2 { Ok(()) } else { Err(Offence("a hash message in a v1 torrent")) }
    }

    /// A message that changes nothing, or may do so only now and then.
    pub(crate) fn idle_message(&mut self, now: Instant) -> Result<(), Offence> {
        if self.idle_messages.take(now) { Ok(()) } else { Err(Offence("a flood of messages that say nothing")) }
    }

    /// An extension handshake; the first is one of them.
    pub(crate) fn extension_handshake(&mut self, now: Instant) -> Result<(), Offence> {
        if self.handshakes.take(now) { Ok(()) } else { Err(Offence("a flood of extension handshakes")) }
    }

    /// A request that no torrent of this shape could answer, or for a piece that we never said to have.
    pub(crate) fn invalid_request(&mut self) -> Result<(), Offence> {
        self.strikes.invalid_requests += 1;
        borne(self.strikes.invalid_requests, REQUESTS_INVALID, "invalid requests")
    }

    /// A reject that no choke explains.
    pub(crate) fn rejected(&mut self) -> Result<(), Offence> {
        self.strikes.rejects += 1;
        borne(self.strikes.rejects, REJECTS, "rejects of requests that it should answer")
    }

    /// A reject of something that it does not owe: legal for what was taken back.
    pub(crate) fn stray_reject(&mut self) -> Result<(), Offence> {
        if let Some(due) = self.stray_rejects_due.checked_sub(1) {
            self.stray_rejects_due = due;
            return Ok(());
        }
        self.rejected()
    }

    /// A block came as asked: it does not reject everything.
    pub(crate) fn answered(&mut self) {
        self.strikes.rejects = 0;
    }

    /// A message with an unknown id.
    pub(crate) fn unknown_message(&mut self) -> Result<(), Offence> {
        self.strikes.unknown += 1;
        borne(self.strikes.unknown, UNKNOWN_MESSAGES, "unknown messages")
    }

    /// A hint about a piece that does not exist.
    pub(crate) fn bad_hint(&mut self) -> Result<(), Offence> {
        self.strikes.bad_hints += 1;
        borne(self.strikes.bad_hints, BAD_HINTS, "hints about pieces that do not exist")
    }

    /// A block that was never asked for.
    pub(crate) fn unasked_block(&mut self) -> Result<(), Offence> {
        self.strikes.unasked += 1;
        borne(self.strikes.unasked, UNASKED_BLOCKS, "blocks that nobody asked for")
    }

    /// It serves `piece` even while it chokes us.
    pub(crate) fn allow_fast(&mut self, piece: PieceIndex) {
        if self.allowed_fast.len() < ALLOWED_FAST && !self.allowed_fast.contains(&piece) {
            self.allowed_fast.push(piece);
        }
    }

    /// What it has, once the torrent is known.
    pub(crate) fn has(&self) -> &Bitfield {
        self.claims.has()
    }

    /// Where it can be reached, as far as that is known, else where it connected from.
    pub(crate) fn reached_at(&self) -> SocketAddr {
        self.listens.unwrap_or(self.addr)
    }

    /// `same` is a connection to the same peer that ends: its addresses are this one's.
    pub(crate) fn inherit(&mut self, same: &mut Self) {
        self.other_addresses.append(&mut same.other_addresses);
        match (self.listens, same.listens.take()) {
            (None, address) => self.listens = address,
            (Some(ours), Some(address)) if ours != address => self.other_addresses.push(address),
            (Some(_), _) => {}
        }
    }

    /// Whether it can lack nothing that it wants.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.told.upload_only || (!self.has().is_empty() && self.has().is_full())
    }

    /// Whether one side got something from the other.
    pub(crate) fn was_useful(&self) -> bool {
        self.pipeline.received_bytes() > 0 || self.sent.total() > 0
    }

    /// Whether one side owes the other a block.
    pub(crate) fn is_busy(&self) -> bool {
        self.pipeline.outstanding() > 0 || self.uploads.is_waiting()
    }

    /// Whether nothing came for too long.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_heard) >= IDLE
    }

    /// Whether it is owed a sign of life.
    pub(crate) fn needs_keep_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_sent) >= KEEP_ALIVE
    }
}

fn borne(times: u32, limit: u32, rule: &'static str) -> Result<(), Offence> {
    if times < limit { Ok(()) } else { Err(Offence(rule)) }
}
