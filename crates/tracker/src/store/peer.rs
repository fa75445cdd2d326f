//! One peer of one swarm, as small as it gets.

use crate::limits::MEMBERS;
use crate::policy::LifeClass;

/// A peer with an IPv4 (`N` = 4) or IPv6 (`N` = 16) address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer<const N: usize> {
    pub(crate) ip: [u8; N],
    /// In network order, as it goes out.
    pub(crate) port: [u8; 2],
    pub(crate) marks: Marks,
    pub(crate) source: Source,
    /// Of a plain peer the low half of the second of the store at which it is forgotten; of a leased one the number of
    /// its lease.
    pub(crate) due: u16,
}

// More than half of what is remembered of a stranger is its address.
const _: () = assert!(size_of::<Peer<4>>() == 10);
const _: () = assert!(size_of::<Peer<16>>() == 22);

/// The part of a second of the store that a peer keeps.
#[expect(clippy::cast_possible_truncation, reason = "the low half, from which `Peer::due_after` finds the whole")]
pub(crate) fn low(second: u32) -> u16 {
    second as u16
}

/// The tracker that a peer announced to: this one, or a stream of news from another member of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Slot(pub(crate) u8);

// Beside these two each other member has one, and another while it starts anew.
const _: () = assert!(2 + 2 * (MEMBERS - 1) <= Slot::COUNT);

impl Slot {
    /// This tracker.
    pub const HERE: Self = Self(0);
    /// A member that is not what it was: nobody speaks for the peer any more, and it goes when its time is over.
    pub(crate) const NOBODY: Self = Self(1);
    /// How many there are.
    pub(crate) const COUNT: usize = 32;

    /// Its place in a table of slots.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0) % Self::COUNT
    }
}

/// Where a plain peer was heard of, and for how long it is remembered after that: a slot in the low five bits, the class
/// of its life in the next two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Source(u8);

impl Source {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn new(slot: Slot, life: LifeClass) -> Self {
        Self(slot.0 & 31 | life.number() << 5)
    }

    pub(crate) fn slot(self) -> Slot {
        Slot(self.0 & 31)
    }

    pub(crate) fn life(self) -> LifeClass {
        LifeClass::from_number(self.0 >> 5 & 3)
    }

    pub(crate) fn at_slot(self, slot: Slot) -> Self {
        Self::new(slot, self.life())
    }
}

/// What else is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks(u8);

impl Marks {
    pub(crate) const NONE: Self = Self(0);
    /// It has everything.
    pub(crate) const SEED: Self = Self(1);
    /// A peer of ours: it stays as long as its lease, and plain announces do not touch it.
    pub(crate) const LEASED: Self = Self(2);
    /// One more address of a leased peer: it is handed out, and not counted.
    pub(crate) const EXTRA: Self = Self(4);
    /// It announced from the tracker's own host.
    pub(crate) const LOCAL: Self = Self(8);
    /// Only for those on the tracker's own host: others get what the peer advertises.
    pub(crate) const HOST_ONLY: Self = Self(16);
    /// It has an address in the other family too: an asker is told of the one in its own.
    pub(crate) const TWIN: Self = Self(32);

    pub(crate) fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    pub(crate) fn with(self, mark: Self, present: bool) -> Self {
        Self(if present { self.0 | mark.0 } else { self.0 & !mark.0 })
    }
}

impl<const N: usize> Peer<N> {
    pub(crate) fn at(ip: [u8; N], port: [u8; 2]) -> Self {
        Self { ip, port, marks: Marks::default(), source: Source::NONE, due: 0 }
    }

    /// When a plain peer is forgotten, in seconds of the store. `earliest` is no later than that, and by no more than
    /// 18 hours earlier: a swarm knows when its first peer is due, and nobody is remembered longer than an hour after that.
    pub(crate) fn due_after(&self, earliest: u32) -> u32 {
        earliest.saturating_add(u32::from(self.due.wrapping_sub(low(earliest))))
    }

    /// When a plain peer announced, in seconds of the store; before it began, if another member heard that.
    pub(crate) fn heard(&self, earliest: u32) -> i64 {
        i64::from(self.due_after(earliest)) - i64::from(self.source.life().seconds())
    }

    /// Whether it is forgotten before another plain peer of its swarm.
    pub(crate) fn is_due_before(&self, other: &Self) -> bool {
        self.due.wrapping_sub(other.due).cast_signed() < 0
    }

    pub(crate) fn is_seed(&self) -> bool {
        self.marks.has(Marks::SEED)
    }

    pub(crate) fn is_leased(&self) -> bool {
        self.marks.has(Marks::LEASED)
    }

    pub(crate) fn is_leased_by(&self, lease: u16) -> bool {
        self.is_leased() && self.due == lease
    }

    /// Whether it is a plain peer that was heard of in this slot.
    pub(crate) fn is_from(&self, slot: Slot) -> bool {
        !self.is_leased() && self.source.slot() == slot
    }

    pub(crate) fn is_counted(&self) -> bool {
        !self.marks.has(Marks::EXTRA)
    }

    pub(crate) fn is_same_endpoint(&self, other: &Self) -> bool {
        self.ip == other.ip && self.port == other.port
    }
}
