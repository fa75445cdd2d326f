//! One other member: the stream of batches to it, and how far its own was heard.
//!
//! A stream begins with a full copy and goes on until either side starts anew or the receiver has missed more than the
//! log keeps. Batches are numbered; those that were not heard of are kept, bounded, and sent again: after a link was
//! lost the stream goes on where it was, without another copy.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_wire::PeerId;

use super::wire::Heard;
use crate::limits::{BATCH_RETRY, BATCHES_UNDERWAY, EXCHANGE_INTERVAL};
use crate::store::{NoteKey, Slot};

/// Streams that one member may begin within [`RESTLESS`]: each makes us walk over all peers once.
const STREAMS: u32 = 30;
const RESTLESS: Duration = Duration::from_secs(60);
/// For how long the fastest batch says how fast batches can be.
const DELAY_WINDOW: Duration = Duration::from_secs(30);

/// A batch that was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) batch: u32,
    pub(super) records: Bytes,
    /// When the ages in it were right.
    pub(super) made: Instant,
}

/// How far a full copy is.
#[derive(Debug, Default)]
pub(super) struct Copy {
    pub(super) stage: Stage,
    /// Parts that are to be sent.
    pub(super) ready: VecDeque<(Bytes, Instant)>,
}

/// What of a full copy is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The stock clients of this shard.
    Shard(usize),
    /// Those that left here, behind this one.
    Departed(Option<NoteKey>),
    /// The lease behind this one.
    Lease(Option<PeerId>),
    /// Nothing.
    End,
}

impl Default for Stage {
    fn default() -> Self {
        Self::Shard(0)
    }
}

/// The stream to a member.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Its number; 0 before the first.
    pub(super) stream: u32,
    next: u32,
    /// The last batch that was heard of.
    pub(super) acked: u32,
    pub(super) underway: VecDeque<Sent>,
    /// What it was told of the log is before this position.
    pub(super) cursor: u64,
    pub(super) copy: Option<Copy>,
    /// It missed too much: the stream is over.
    pub(super) abandoned: bool,
    progress: Instant,
    /// When all leases were told again.
    repeated: Option<Instant>,
}

impl Outgoing {
    fn new(now: Instant) -> Self {
        Self {
            stream: 0,
            next: 1,
            acked: 0,
            underway: VecDeque::new(),
            cursor: 0,
            copy: None,
            abandoned: true,
            progress: now,
            repeated: None,
        }
    }

    /// Begins a stream: everything, and what happens from this position of the log on.
    pub(super) fn begin(&mut self, cursor: u64, now: Instant) {
        let stream = self.stream.wrapping_add(1).max(1);
        *self = Self { stream, cursor, copy: Some(Copy::default()), abandoned: false, ..Self::new(now) };
    }

    /// Tells all leases again, without another stream: what is in the log is told too.
    pub(super) fn repeat_leases(&mut self, now: Instant) {
        // What was asked for before the last answer can have come is answered by that.
        let answered = self.repeated.is_some_and(|at| now.saturating_duration_since(at) < EXCHANGE_INTERVAL);
        if self.abandoned || answered {
            return;
        }
        self.repeated = Some(now);
        let copy = self.copy.get_or_insert_with(|| Copy { stage: Stage::Lease(None), ready: VecDeque::new() });
        if let Stage::Lease(_) | Stage::End = copy.stage {
            copy.stage = Stage::Lease(None);
        }
    }

    /// Gives the stream up.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.copy = None;
        self.underway.clear();
    }

    pub(super) fn has_room(&self) -> bool {
        !self.abandoned && self.underway.len() < BATCHES_UNDERWAY
    }

    /// Numbers a batch.
    pub(super) fn push(&mut self, records: Bytes, made: Instant, now: Instant) -> Sent {
        if self.underway.is_empty() {
            self.progress = now;
        }
        let sent = Sent { batch: self.next, records, made };
        self.next = self.next.wrapping_add(1);
        self.underway.push_back(sent.clone());
        sent
    }

    /// Takes how far it was heard; whether that was of this stream.
    pub(super) fn take(&mut self, heard: &Heard, incarnation: u64, now: Instant) -> bool {
        let is_this = heard.incarnation == incarnation && heard.stream == self.stream && !self.abandoned;
        if is_this && heard.batch > self.acked && heard.batch < self.next {
            self.acked = heard.batch;
            self.progress = now;
            while self.underway.front().is_some_and(|sent| sent.batch <= heard.batch) {
                self.underway.pop_front();
            }
        }
        is_this
    }

    /// Whether nothing was heard of batches for so long that they are to be sent again.
    pub(super) fn is_overdue(&mut self, now: Instant) -> bool {
        let overdue = !self.underway.is_empty() && now.saturating_duration_since(self.progress) >= BATCH_RETRY;
        if overdue {
            self.progress = now;
        }
        overdue
    }
}

/// How long a batch was under way beyond the fastest one of late: a link that has lost something holds back what it
/// carries for seconds, and its news are older by that than they say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delay {
    /// Smallest difference between the clocks in this window and in the one before, milliseconds.
    least: Option<u32>,
    before: Option<u32>,
    since: Option<Instant>,
}

impl Delay {
    /// Takes that a batch which was sent at `clock` came at `here`, by this member's clock, both in milliseconds.
    pub(super) fn take(&mut self, clock: u32, here: u32, now: Instant) -> u32 {
        let earlier = |a: u32, b: u32| if a.wrapping_sub(b).cast_signed() < 0 { a } else { b };
        // Clocks drift, and some stand still while their machine does: nothing is remembered for long.
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= DELAY_WINDOW) {
            (self.before, self.least, self.since) = (self.least, None, Some(now));
        }
        let difference = here.wrapping_sub(clock);
        let least = self.least.map_or(difference, |least| earlier(least, difference));
        self.least = Some(least);
        difference.wrapping_sub(self.before.map_or(least, |before| earlier(before, least)))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) linked: bool,
    /// It has said on this link how far it heard us.
    pub(super) greeted: bool,
    pub(super) out: Outgoing,
    /// How far it was heard; its incarnation is 0 before it was.
    pub(super) heard: Heard,
    /// Under which slot is noted what it says.
    pub(super) slot: Option<Slot>,
    /// What it said before the copy that is coming in; what is not in the copy is gone then.
    pub(super) former: Option<Slot>,
    pub(super) delay: Delay,
    /// It waits to hear how far it was heard.
    pub(super) owed: bool,
    /// It renewed a lease that is not known here.
    pub(super) lacks_leases: bool,
    streams: u32,
    counted_since: Instant,
}

impl Member {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            linked: false,
            greeted: false,
            out: Outgoing::new(now),
            heard: Heard::default(),
            slot: None,
            former: None,
            delay: Delay::default(),
            owed: false,
            lacks_leases: false,
            streams: 0,
            counted_since: now,
        }
    }

    /// Counts one more stream that it begins; false where it begins too many.
    pub(super) fn may_begin(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.counted_since) >= RESTLESS {
            (self.streams, self.counted_since) = (0, now);
        }
        self.streams += 1;
        self.streams <= STREAMS
    }

    /// What it says is in one of these.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        self.slot.into_iter().chain(self.former)
    }
}
