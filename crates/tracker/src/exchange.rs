//! The announces that members of a cluster tell each other, so that whoever asks any of them is told of everybody.
//!
//! Each member tells all others what it heard from clients itself, once a second, and never what it heard from members;
//! but who begins with nothing is told as well of those that announced to members that are not there to say so.
//! It owns no peer: it writes into the same shards and leases that answers come from. It does not know what a link is,
//! only that batches get there or do not; a batch that is lost, doubled or late changes nothing in the end.

mod completions;
mod copy;
mod departed;
mod hear;
mod log;
mod member;
mod tell;
pub mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use fastrand::Rng;
use obt_wire::InfoHash;

use self::completions::Completions;
use self::departed::Departed;
use self::log::Log;
use self::member::{Delay, Member};
use self::wire::{BatchError, MemberId};
use crate::leases::Leases;
use crate::limits::{BATCH_BYTES, EXCHANGE_INTERVAL, MEMBERS};
use crate::store::{Advertised, Shard, Slot};
use crate::swarms::{self, Shards, Shared, Swarms};

/// Bytes of records after which a batch is closed: the longest record, a part of a lease, still fits then.
const FULL: usize = BATCH_BYTES / 2;
/// Notes of a full copy that are read at once.
const READ: usize = 2_048;

/// What an exchange reads and writes: shards, and leases whose lock is taken before that of a shard.
pub trait Store: Shards + Sized {
    /// Lets `work` at the leases.
    fn with_leases<R>(&mut self, work: impl FnOnce(&mut Leases, &mut Self) -> R) -> R;
}

/// A store in plain memory.
pub struct Memory {
    /// The swarms.
    pub swarms: Swarms,
    /// The leases; None while they are worked at.
    pub leases: Option<Leases>,
}

impl Shards for Memory {
    fn shared(&self) -> &Shared {
        self.swarms.shared()
    }

    fn visit<R>(&mut self, place: usize, work: impl FnOnce(&mut Shard, &Shared) -> R) -> R {
        self.swarms.visit(place, work)
    }
}

impl Store for Memory {
    fn with_leases<R>(&mut self, work: impl FnOnce(&mut Leases, &mut Self) -> R) -> R {
        let limits = *self.shared().limits();
        let mut leases = self.leases.take().unwrap_or_else(|| Leases::new(limits));
        let done = work(&mut leases, self);
        self.leases = Some(leases);
        done
    }
}

/// What an exchange is made of.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeConfig {
    /// This member.
    pub me: MemberId,
    /// Under which addresses other members' clients reach the peers on this host: what the tracker advertises, else the
    /// addresses of its links.
    pub home: Advertised,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The committed members of the cluster, this one among them or not. More than [`MEMBERS`] are not spoken to.
    Members(&'a [MemberId]),
    /// There is a link to a member, on which batches arrive in the order in which they are sent.
    LinkUp(MemberId),
    /// There is none any more.
    LinkDown(MemberId),
    /// A batch came over the link to this member.
    Batch(MemberId, &'a [u8]),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a batch over the link to a member. It may be dropped where the link is full.
    Send {
        /// To whom.
        to: MemberId,
        /// All of it.
        batch: Vec<u8>,
    },
    /// Close the link to a member that says what no member says.
    Close {
        /// Whose.
        member: MemberId,
        /// What is wrong.
        why: BatchError,
    },
}

/// Why it wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// It is time to tell what happened.
    Tell,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExchangeSize {
    /// News that some member has not been told, with long ones counted for more.
    pub log: usize,
    /// Batches under way, over all members.
    pub underway: usize,
    /// Swarms of which it is known what each member counted.
    pub counted: usize,
    /// Full copies that are being sent.
    pub copies: usize,
    /// Stock clients that are remembered to have left.
    pub departed: usize,
}

/// See the module.
///
/// Invariants: `slots[n]` is a member exactly if that member has slot n now or had it before its copy; what is in the
/// log is after the cursor of some member.
pub struct Exchange {
    me: MemberId,
    home: Advertised,
    incarnation: u64,
    /// When it began: its clock counts from there.
    epoch: Instant,
    members: BTreeMap<MemberId, Member>,
    slots: [Option<MemberId>; Slot::COUNT],
    ranks: [u8; Slot::COUNT],
    log: Log,
    /// The last part of the log that was written, for those who are as far.
    written: Option<(u64, u64, Bytes, Instant)>,
    completions: Completions,
    departed: Departed,
    tell_at: Instant,
    actions: VecDeque<Action>,
}

impl Exchange {
    /// Alone so far. `seed` has to be another one at every start: it tells the others that this one knows nothing.
    #[must_use]
    pub fn new(config: &ExchangeConfig, seed: u64, now: Instant) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self {
            me: config.me,
            home: config.home,
            incarnation: rng.u64(1..),
            epoch: now,
            members: BTreeMap::new(),
            slots: [None; Slot::COUNT],
            ranks: [0; Slot::COUNT],
            log: Log::default(),
            written: None,
            completions: Completions::default(),
            departed: Departed::default(),
            tell_at: now + EXCHANGE_INTERVAL.mul_f64(rng.f64()),
            actions: VecDeque::new(),
        }
    }

    /// Takes something that happened.
    pub fn handle_event(&mut self, event: Event<'_>, store: &mut impl Store, now: Instant) {
        match event {
            Event::Members(members) => self.set_members(members, store, now),
            Event::LinkUp(member) => self.link_up(member, now),
            Event::LinkDown(member) => self.link_down(member),
            Event::Batch(member, bytes) => {
                if let Err(why) = self.take_batch(member, bytes, store, now) {
                    self.link_down(member);
                    self.actions.push_back(Action::Close { member, why });
                }
            }
        }
    }

    /// Tells what happened, if it is time.
    pub fn handle_timeout(&mut self, store: &mut impl Store, now: Instant) {
        if self.members.is_empty() || now < self.tell_at {
            return;
        }
        self.tell_at = (self.tell_at + EXCHANGE_INTERVAL).max(now + EXCHANGE_INTERVAL / 2);
        self.read_news(store, now);
        let members: Vec<MemberId> = self.members.keys().copied().collect();
        for member in &members {
            self.tell(*member, store, now);
        }
        self.bound_log();
        self.departed.expire(i64::from(store.shared().seconds(now)));
        self.completions.expire(|hash| swarms::stats(store, hash, now).completed > 0, now);
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Wake)> {
        (!self.members.is_empty()).then_some((self.tell_at, Wake::Tell))
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How much there is of it.
    #[must_use]
    pub fn size(&self) -> ExchangeSize {
        ExchangeSize {
            log: self.log.weight(),
            underway: self.members.values().map(|member| member.out.underway.len()).sum(),
            counted: self.completions.len(),
            copies: self.members.values().filter(|member| member.out.copy.is_some()).count(),
            departed: self.departed.len(),
        }
    }

    /// Whether what it keeps is within its budgets and of one piece.
    ///
    /// # Errors
    /// A sentence where it is not.
    pub fn check(&self) -> Result<(), String> {
        for (id, member) in &self.members {
            if member.out.underway.len() > crate::limits::BATCHES_UNDERWAY {
                return Err(format!("{} batches under way to {id:?}", member.out.underway.len()));
            }
            if let Some(slot) = member.slots().find(|slot| self.slots[slot.index()] != Some(*id)) {
                return Err(format!("{slot:?} of {id:?} is of {:?}", self.slots[slot.index()]));
            }
        }
        let taken = self.slots.iter().flatten().count();
        let owned = self.members.values().flat_map(Member::slots).count();
        if taken != owned {
            return Err(format!("{taken} slots taken, {owned} used"));
        }
        if self.log.weight() > crate::limits::EXCHANGE_LOG {
            return Err(format!("{} news kept", self.log.weight()));
        }
        Ok(())
    }

    fn set_members(&mut self, members: &[MemberId], store: &mut impl Store, now: Instant) {
        let others = || members.iter().filter(|member| **member != self.me).take(MEMBERS - 1);
        let gone: Vec<MemberId> =
            self.members.keys().filter(|id| !others().any(|other| other == *id)).copied().collect();
        let new: Vec<MemberId> = others().filter(|id| !self.members.contains_key(id)).copied().collect();
        for member in gone {
            self.retire(member, store);
            self.completions.forget(member);
            self.members.remove(&member);
        }
        if self.members.is_empty() && !new.is_empty() {
            self.tell_at = self.tell_at.max(now);
        }
        for member in new {
            self.members.insert(member, Member::new(now));
        }
        let alone = self.members.is_empty();
        for place in store.shared().places() {
            store.visit(place, |shard, _| shard.note_announces(!alone));
        }
        store.with_leases(|leases, _| leases.note_changes(!alone));
        if alone {
            (self.log, self.departed) = (Log::default(), Departed::default());
        }
        self.rank();
    }

    /// News as old as each other's are those of the member with the highest number.
    fn rank(&mut self) {
        let mut ids: Vec<MemberId> = self.members.keys().copied().chain([self.me]).collect();
        ids.sort_unstable();
        let rank = |id: MemberId| u8::try_from(ids.iter().filter(|other| **other <= id).count()).unwrap_or(u8::MAX);
        for (at, slot) in self.slots.iter().enumerate() {
            self.ranks[at] = slot.map_or(0, rank);
        }
        self.ranks[Slot::HERE.index()] = rank(self.me);
    }

    fn link_up(&mut self, id: MemberId, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        (member.linked, member.greeted, member.delay) = (true, false, Delay::default());
        self.send(id, None, false, now);
    }

    fn link_down(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(&id) {
            (member.linked, member.greeted) = (false, false);
        }
    }

    /// Milliseconds, modulo 2^32.
    fn clock(&self, now: Instant) -> u32 {
        let millis = now.saturating_duration_since(self.epoch).as_millis() & u128::from(u32::MAX);
        u32::try_from(millis).unwrap_or(0)
    }

    /// Lets those of whom a member spoke be spoken for by nobody.
    fn retire(&mut self, id: MemberId, store: &mut impl Store) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let slots: Vec<Slot> = member.slots().collect();
        (member.slot, member.former) = (None, None);
        for slot in slots {
            self.slots[slot.index()] = None;
            move_slot(slot, Slot::NOBODY, store);
        }
        self.rank();
    }
}

fn count(store: &mut impl Store, hash: &InfoHash, more: i64, now: Instant) {
    if more != 0 {
        swarms::count_completed(store, hash, more, now);
    }
}

fn move_slot(from: Slot, to: Slot, store: &mut impl Store) {
    for place in store.shared().places() {
        store.visit(place, |shard, _| shard.move_slot(from, to));
    }
    store.with_leases(|leases, _| leases.move_slot(from, to));
}

#[cfg(test)]
mod tests;
