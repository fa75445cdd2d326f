//! The announces that members of a cluster tell each other, so that whoever asks any of them is told of everybody.
//!
//! Each member tells all others what it heard from clients itself, once a second, and never what it heard from members;
//! but who begins with nothing is told as well of those that announced to members that are not there to say so.
//! It owns no peer: it writes into the same shards and leases that answers come from. It does not know what a link is,
//! only that batches get there or do not; a batch that is lost, doubled or late changes nothing in the end.

mod completions;
mod departed;
mod log;
mod member;
pub mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use obt_wire::{InfoHash, PeerId};

use self::completions::Completions;
use self::departed::{Departed, Source};
use self::log::{Entry, Log};
use self::member::{Delay, Member, Sent, Stage};
use self::wire::{BatchError, Head, Heard, LeaseNews, MemberId, News, PeerNews, Record, Writer};
use crate::leases::{LeaseChanges, LeaseWord, Leases, Part, Verdict, ago, outside_ip};
use crate::limits::{BATCH_BYTES, EXCHANGE_INTERVAL, MEMBERS, OLDEST_NEWS};
use crate::policy::LifeClass;
use crate::store::{Advertised, Marks, Note, NoteKey, Said, Shard, Slot, Speaker};
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

    /// Moves what happened in shards and leases to the log.
    fn read_news(&mut self, store: &mut impl Store, now: Instant) {
        let mut lost = false;
        let mut notes: Vec<Note> = Vec::new();
        for place in store.shared().places() {
            lost |= !store.visit(place, |shard, _| shard.drain_notes(&mut notes));
            notes.sort_by_key(Note::key);
            self.log_notes(&notes, store, now);
            notes.clear();
        }
        let news = store.with_leases(|leases, _| leases.drain_news(&self.home));
        self.log_leases(news);
        if lost {
            self.abandon_all();
        }
    }

    fn log_leases(&mut self, news: LeaseChanges) {
        for hash in news.completed {
            self.completions.count(&hash);
            self.log.push(Entry::Counted(hash));
        }
        for word in news.words {
            self.log.push(Entry::Lease(Box::new(word)));
        }
    }

    fn abandon_all(&mut self) {
        for member in self.members.values_mut() {
            member.out.abandon();
        }
    }

    /// Moves notes, sorted by peer, to the log: of each peer the last one.
    fn log_notes(&mut self, notes: &[Note], store: &mut impl Store, now: Instant) {
        for same in notes.chunk_by(|a, b| a.key() == b.key()) {
            let Some(last) = same.last() else {
                continue;
            };
            let Some(mut last) = self.outside(last) else {
                continue;
            };
            let completed = same.iter().filter(|note| note.said == Said::Completed);
            for note in completed {
                if self.completions.count_client(last.key(), now) {
                    self.log.push(Entry::Counted(note.hash));
                } else {
                    count(store, &note.hash, -1, now);
                }
                // Others have to hear of whom it is, also where more happened since.
                match last.said {
                    Said::Alive => last.said = Said::Completed,
                    Said::Completed => {}
                    Said::Stopped | Said::Ceded(_) => {
                        let mut told = last;
                        (told.said, told.at, told.marks) = (note.said, note.at, note.marks);
                        self.log.push(Entry::Peer(told));
                    }
                }
            }
            if last.said == Said::Stopped {
                self.departed.note(last.key(), last.at, Source::Here);
            }
            self.log.push(Entry::Peer(last));
        }
    }

    /// The note as others are told it: with the address under which they find the peer.
    fn outside(&self, note: &Note) -> Option<Note> {
        if !note.marks.has(Marks::LOCAL) {
            return Some(*note);
        }
        let ip = note.addr()?.ip();
        match outside_ip(ip, true, note.marks.has(Marks::HOST_ONLY), &self.home)? {
            std::net::IpAddr::V4(ip) => Some(note.with_ip(&ip.octets())),
            std::net::IpAddr::V6(ip) => Some(note.with_ip(&ip.octets())),
        }
    }

    /// Forgets what everybody was told, and gives up on those who missed too much.
    fn bound_log(&mut self) {
        if self.log.is_over_full() {
            let middle = self.log.middle();
            for member in self.members.values_mut().filter(|member| member.out.cursor < middle) {
                member.out.abandon();
            }
        }
        let told = self.members.values().filter(|member| !member.out.abandoned).map(|member| member.out.cursor).min();
        self.log.trim(told.unwrap_or(self.log.head()));
    }

    /// Tells a member what it has not been told, or at least that we are here.
    fn tell(&mut self, id: MemberId, store: &mut impl Store, now: Instant) {
        let Some(member) = self.members.get_mut(&id).filter(|member| member.linked) else {
            return;
        };
        if member.greeted && member.out.abandoned {
            member.out.begin(self.log.head(), now);
        }
        if member.greeted && member.out.is_overdue(now) {
            self.send_again(id, now);
        }
        if !self.pump(id, store, now) {
            self.send(id, None, false, now);
        }
    }

    fn send_again(&mut self, id: MemberId, now: Instant) {
        let underway: Vec<Sent> =
            self.members.get(&id).map(|member| member.out.underway.iter().cloned().collect()).unwrap_or_default();
        for sent in &underway {
            self.send(id, Some(sent), true, now);
        }
    }

    /// Sends what there is for a member as far as there is room; whether anything was.
    fn pump(&mut self, id: MemberId, store: &mut impl Store, now: Instant) -> bool {
        let mut any = false;
        loop {
            let Some(member) = self.members.get(&id) else {
                return any;
            };
            if !member.linked || !member.greeted || !member.out.has_room() {
                return any;
            }
            let (cursor, copying) = (member.out.cursor, member.out.copy.is_some());
            let next = if cursor < self.log.head() {
                let (to, records, made) = self.write_log(cursor, store, now);
                Some((records, made, to))
            } else if copying {
                self.write_copy(id, store, now).map(|(records, made)| (records, made, cursor))
            } else {
                None
            };
            let Some((records, made, cursor)) = next else {
                return any;
            };
            let head = self.log.head();
            let Some(member) = self.members.get_mut(&id) else {
                return any;
            };
            if member.out.abandoned {
                return any;
            }
            member.out.cursor = cursor;
            if records.is_empty() {
                continue;
            }
            let sent = member.out.push(records, made, now);
            let hurry = member.out.copy.is_some() || cursor < head;
            self.send(id, Some(&sent), hurry, now);
            any = true;
        }
    }

    fn send(&mut self, to: MemberId, sent: Option<&Sent>, hurry: bool, now: Instant) {
        let clock = self.clock(now);
        let Some(member) = self.members.get_mut(&to) else {
            return;
        };
        member.owed = false;
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let head = Head {
            incarnation: self.incarnation,
            heard: member.heard,
            stream: member.out.stream,
            batch: sent.map_or(0, |sent| sent.batch),
            aged: sent.map_or(0, |sent| millis(now.saturating_duration_since(sent.made))),
            clock,
            hurry,
            lacks_leases: std::mem::take(&mut member.lacks_leases),
        };
        let batch = wire::batch(&head, sent.map_or(&[], |sent| &sent.records));
        self.actions.push_back(Action::Send { to, batch });
    }

    /// Milliseconds, modulo 2^32.
    fn clock(&self, now: Instant) -> u32 {
        let millis = now.saturating_duration_since(self.epoch).as_millis() & u128::from(u32::MAX);
        u32::try_from(millis).unwrap_or(0)
    }

    /// Writes the log from a position on, as much as fits a batch; up to where.
    fn write_log(&mut self, from: u64, store: &impl Store, now: Instant) -> (u64, Bytes, Instant) {
        if let Some((start, to, records, made)) = &self.written
            && *start == from
        {
            return (*to, records.clone(), *made);
        }
        let seconds = i64::from(store.shared().seconds(now));
        let mut writer = Writer::default();
        let mut to = self.log.head();
        for (at, entry) in self.log.from(from) {
            if writer.len() >= FULL {
                to = at;
                break;
            }
            match entry {
                Entry::Peer(note) => self.write_note(note, Slot::HERE, seconds, &mut writer),
                Entry::Lease(word) => write_lease(word, now, &mut writer),
                Entry::Counted(hash) => {
                    writer.record(&Record::Counted { hash: *hash, own: self.completions.own(hash) });
                }
            }
        }
        let records = Bytes::from(writer.take());
        self.written = Some((from, to, records.clone(), now));
        (to, records, now)
    }

    /// Writes what happened to a peer that announced in `slot`.
    fn write_note(&self, note: &Note, slot: Slot, seconds: i64, writer: &mut Writer) {
        let age = u32::try_from((seconds - i64::from(note.at)).max(0)).unwrap_or(u32::MAX);
        let is_over = |life: u32| age >= life.min(OLDEST_NEWS);
        let news = match note.said {
            Said::Alive | Said::Completed if is_over(note.life.seconds()) => return,
            Said::Alive | Said::Completed => {
                let (seed, extra) = (note.marks.has(Marks::SEED), note.marks.has(Marks::EXTRA));
                let (life, completed) = (note.life.number(), note.said == Said::Completed);
                match slot {
                    Slot::HERE => News::Alive { seed, extra, life, completed },
                    _ => News::Told { seed, extra, life },
                }
            }
            // Whoever it could matter to has forgotten the peer by then.
            Said::Stopped | Said::Ceded(_) if is_over(OLDEST_NEWS) => return,
            Said::Stopped => News::Stopped,
            Said::Ceded(to) => News::Ceded(self.slots.get(to.index()).copied().flatten().unwrap_or(MemberId(0))),
        };
        if let Some(addr) = note.addr().filter(wire::is_possible) {
            writer.peer(&note.hash, &PeerNews { addr, news, age });
        }
    }

    /// The next part of the full copy for a member; None where there is no more.
    fn write_copy(&mut self, id: MemberId, store: &mut impl Store, now: Instant) -> Option<(Bytes, Instant)> {
        let mut copy = self.members.get_mut(&id)?.out.copy.take()?;
        while copy.ready.is_empty() && copy.stage != Stage::End {
            copy.stage = match copy.stage {
                Stage::Shard(place) => self.copy_shards(place, &mut copy.ready, store, now),
                Stage::Departed(after) => self.copy_departed(after, &mut copy.ready, store, now),
                Stage::Lease(after) => self.copy_leases(after, &mut copy.ready, store, now),
                Stage::End => Stage::End,
            };
        }
        let part = copy.ready.pop_front();
        let is_over = copy.ready.is_empty() && copy.stage == Stage::End;
        if !is_over && let Some(member) = self.members.get_mut(&id).filter(|member| !member.out.abandoned) {
            member.out.copy = Some(copy);
        }
        part
    }

    fn copy_shards(
        &mut self,
        mut place: usize,
        ready: &mut VecDeque<(Bytes, Instant)>,
        store: &mut impl Store,
        now: Instant,
    ) -> Stage {
        self.read_news(store, now);
        let (mut notes, mut completed, mut fresh, mut lost) = (Vec::new(), Vec::new(), Vec::new(), false);
        let end = store.shared().places().end;
        // Of those who announced elsewhere only those whom nobody else would tell of.
        let told: [bool; Slot::COUNT] = std::array::from_fn(|at| {
            let speaks = self.slots[at].and_then(|id| self.members.get(&id));
            at == Slot::HERE.index() || !speaks.is_some_and(|member| member.linked)
        });
        // What is counted in a swarm has to be what has been read of its completions, so nothing comes between.
        let news = store.with_leases(|leases, store| {
            while place < end && notes.len() + completed.len() < READ {
                lost |= !store.visit(place, |shard, _| {
                    shard.write_down(|slot| told[slot.index()], &mut notes, &mut completed);
                    shard.drain_notes(&mut fresh)
                });
                place += 1;
            }
            leases.drain_news(&self.home)
        });
        fresh.sort_by_key(Note::key);
        self.log_notes(&fresh, store, now);
        self.log_leases(news);
        if lost {
            self.abandon_all();
        }
        let seconds = i64::from(store.shared().seconds(now));
        let mut writer = Writer::default();
        let mut close = |writer: &mut Writer, full: usize| {
            if writer.len() >= full {
                ready.push_back((Bytes::from(writer.take()), now));
            }
        };
        for (note, slot) in &notes {
            if let Some(note) = self.outside(note) {
                self.write_note(&note, *slot, seconds, &mut writer);
                close(&mut writer, FULL);
            }
        }
        for (hash, completed) in completed {
            let counted = self.completions.counted(&hash, self.me);
            writer.record(&Record::Total { hash, completed, counted });
            close(&mut writer, FULL);
        }
        close(&mut writer, 1);
        if place < end { Stage::Shard(place) } else { Stage::Departed(None) }
    }

    fn copy_departed(
        &self,
        after: Option<NoteKey>,
        ready: &mut VecDeque<(Bytes, Instant)>,
        store: &mut impl Store,
        now: Instant,
    ) -> Stage {
        let seconds = i64::from(store.shared().seconds(now));
        let mut writer = Writer::default();
        let mut last = None;
        for (client, at) in self.departed.own(after).take(READ) {
            self.write_note(&Note::stopped(client, at), Slot::HERE, seconds, &mut writer);
            last = Some(*client);
            if writer.len() >= FULL {
                break;
            }
        }
        if !writer.is_empty() {
            ready.push_back((Bytes::from(writer.take()), now));
        }
        if last.is_some() { Stage::Departed(last) } else { Stage::Lease(None) }
    }

    fn copy_leases(
        &self,
        mut after: Option<PeerId>,
        ready: &mut VecDeque<(Bytes, Instant)>,
        store: &mut impl Store,
        now: Instant,
    ) -> Stage {
        let mut writer = Writer::default();
        while ready.is_empty() {
            let Some((peer_id, words)) = store.with_leases(|leases, _| leases.write_down(after, &self.home)) else {
                writer.record(&Record::CopyEnd);
                ready.push_back((Bytes::from(writer.take()), now));
                return Stage::End;
            };
            after = Some(peer_id);
            for word in &words {
                write_lease(word, now, &mut writer);
                if writer.len() >= FULL {
                    ready.push_back((Bytes::from(writer.take()), now));
                }
            }
        }
        if !writer.is_empty() {
            ready.push_back((Bytes::from(writer.take()), now));
        }
        Stage::Lease(after)
    }

    fn take_batch(
        &mut self,
        from: MemberId,
        bytes: &[u8],
        store: &mut impl Store,
        now: Instant,
    ) -> Result<(), BatchError> {
        let (mut head, records) = wire::read(bytes)?;
        // All of it is read before anything is done.
        let records: Vec<Record> = records.collect::<Result<_, _>>()?;
        let here = self.clock(now);
        let Some(member) = self.members.get_mut(&from) else {
            // A member whose coming has not been applied here yet; it says again what is not heard.
            return Ok(());
        };
        if !member.linked {
            return Ok(());
        }
        let is_new = member.heard.incarnation != head.incarnation;
        if is_new {
            member.delay = Delay::default();
        }
        head.aged = head.aged.saturating_add(member.delay.take(head.clock, here, now));
        if is_new {
            self.begin_incarnation(from, head.incarnation, store);
        }
        self.take_heard(from, &head.heard, is_new, now);
        if head.batch > 0 {
            self.take_records(from, &head, records, store, now)?;
        }
        if head.lacks_leases
            && let Some(member) = self.members.get_mut(&from)
        {
            member.out.repeat_leases(now);
        }
        self.pump(from, store, now);
        if self.members.get(&from).is_some_and(|member| member.owed && head.hurry || member.lacks_leases) {
            self.send(from, None, false, now);
        }
        Ok(())
    }

    /// A member that started anew says nothing of those that it heard of before: they stay until their time is over.
    fn begin_incarnation(&mut self, id: MemberId, incarnation: u64, store: &mut impl Store) {
        self.retire(id, store);
        // Of one that was never heard, others may have told what it counted.
        if self.members.get(&id).is_some_and(|member| member.heard.incarnation != 0) {
            self.completions.forget(id);
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.heard = Heard { incarnation, stream: 0, batch: 0 };
        }
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

    /// Takes how far a member has heard us, on a link that may be new.
    fn take_heard(&mut self, id: MemberId, heard: &Heard, is_new: bool, now: Instant) {
        let head = self.log.head();
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let first = !std::mem::replace(&mut member.greeted, true);
        let knows = member.out.take(heard, self.incarnation, now);
        let forgot = member.out.acked > 0 && heard.incarnation != self.incarnation;
        if is_new && !knows || forgot || member.out.abandoned {
            member.out.begin(head, now);
        } else if first {
            self.send_again(id, now);
        }
    }

    fn take_records(
        &mut self,
        id: MemberId,
        head: &Head,
        records: Vec<Record>,
        store: &mut impl Store,
        now: Instant,
    ) -> Result<(), BatchError> {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        member.owed = true;
        if head.stream != member.heard.stream && head.batch == 1 && head.stream > member.heard.stream {
            if !member.may_begin(now) {
                return Err(BatchError::Restless);
            }
            self.begin_stream(id, head.stream, store);
        }
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        // What comes twice was done, and what comes too soon comes again.
        let is_next = head.stream == member.heard.stream && head.batch == member.heard.batch.wrapping_add(1);
        let (true, Some(slot)) = (is_next, member.slot) else {
            return Ok(());
        };
        member.heard.batch = head.batch;
        let former = member.former;
        for record in records {
            let (ranks, home) = (self.ranks, self.home);
            let speaker = Speaker { slot, former, ranks: &ranks, home: &home };
            self.take_record(id, record, head.aged, &speaker, store, now);
        }
        Ok(())
    }

    /// What a member says from now on is all that it has to say: what it said before is kept until its copy is here.
    fn begin_stream(&mut self, id: MemberId, stream: u32, store: &mut impl Store) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        (member.heard.stream, member.heard.batch) = (stream, 0);
        match (member.slot, member.former) {
            // Another copy instead of one that was not complete.
            (Some(slot), Some(former)) => move_slot(slot, former, store),
            (Some(slot), None) => member.former = Some(slot),
            (None, _) => {}
        }
        if member.former.is_some() && member.slot != member.former {
            return;
        }
        // Twelve at most are taken, two for each member.
        let free = (2..Slot::COUNT).find(|at| self.slots[*at].is_none()).and_then(|at| u8::try_from(at).ok());
        member.slot = free.map(Slot);
        if let Some(slot) = member.slot {
            self.slots[slot.index()] = Some(id);
        }
        self.rank();
    }

    fn take_record(
        &mut self,
        id: MemberId,
        record: Record,
        aged: u32,
        speaker: &Speaker<'_>,
        store: &mut impl Store,
        now: Instant,
    ) {
        match record {
            Record::Swarm { hash, peers } => {
                let (told, own): (Vec<PeerNews>, Vec<PeerNews>) =
                    peers.into_iter().partition(|peer| matches!(peer.news, News::Told { .. }));
                self.take_peers(id, hash, &own, aged, speaker, store, now);
                // Whoever is told of by others has nobody who would say that it is gone.
                let nobody = Speaker { slot: Slot::NOBODY, former: None, ..*speaker };
                self.take_peers(id, hash, &told, aged, &nobody, store, now);
            }
            Record::Lease { peer_id, age, news } => {
                let age = Duration::from_millis(u64::from(age) + u64::from(aged));
                let word = LeaseWord { peer_id, at: ago(age, now).unwrap_or(now), part: part(news) };
                let verdict = store.with_leases(|leases, store| leases.hear(&word, speaker, store, now));
                if let (Verdict::Unknown, Some(member)) = (verdict, self.members.get_mut(&id)) {
                    member.lacks_leases = true;
                }
            }
            Record::Counted { hash, own } => self.take_counted(id, &hash, own, store, now),
            Record::Total { hash, completed, counted } if !self.completions.adopted => {
                let total = swarms::stats(store, &hash, now).completed;
                let more = self.completions.adopt(&hash, completed, &counted, self.me, total);
                count(store, &hash, more, now);
            }
            Record::Total { hash, counted, .. } => {
                let own = counted.iter().find(|(member, _)| *member == id).map_or(0, |(_, own)| *own);
                self.take_counted(id, &hash, own, store, now);
            }
            Record::CopyEnd => {
                self.completions.adopted = true;
                let former = self.members.get_mut(&id).and_then(|member| member.former.take());
                if let Some(former) = former {
                    self.slots[former.index()] = None;
                    for place in store.shared().places() {
                        store.visit(place, |shard, _| shard.forget_slot(former, now));
                    }
                    store.with_leases(|leases, store| leases.forget_slot(former, store, now));
                    self.rank();
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call")]
    fn take_peers(
        &mut self,
        id: MemberId,
        hash: InfoHash,
        peers: &[PeerNews],
        aged: u32,
        speaker: &Speaker<'_>,
        store: &mut impl Store,
        now: Instant,
    ) {
        if peers.is_empty() {
            return;
        }
        let seconds = i64::from(store.shared().seconds(now));
        let aged = (i64::from(aged) + 500) / 1_000;
        let note = |peer: &PeerNews| {
            let at = i32::try_from(seconds - i64::from(peer.age) - aged).unwrap_or(i32::MIN);
            let (said, to, marks, life) = self.read_news_of(peer, speaker);
            (Note::about(hash, peer.addr, marks, life, said, at), to)
        };
        let mut notes: Vec<(Note, Slot)> = peers.iter().map(note).collect();
        notes.retain(|(note, _)| match note.said {
            Said::Alive | Said::Completed => !self.departed.has_left(&note.key(), note.at),
            Said::Stopped | Said::Ceded(_) => true,
        });
        for (note, _) in notes.iter().filter(|(note, _)| note.said == Said::Stopped) {
            self.departed.note(note.key(), note.at, Source::Elsewhere);
        }
        swarms::hear(store, &hash, notes.iter().map(|(note, to)| (note, *to)), speaker, now);
        // A client tells all trackers of its torrent that it has completed it; the member with the lower number counts.
        for (note, _) in notes.iter().filter(|(note, _)| note.said == Said::Completed && id < self.me) {
            if self.completions.take_back(note.key(), now) {
                count(store, &hash, -1, now);
                self.log.push(Entry::Counted(hash));
            }
        }
    }

    fn read_news_of(&self, peer: &PeerNews, speaker: &Speaker<'_>) -> (Said, Slot, Marks, LifeClass) {
        match peer.news {
            News::Alive { seed, extra, life, completed } => {
                let marks = Marks::NONE.with(Marks::SEED, seed).with(Marks::EXTRA, extra);
                let said = if completed { Said::Completed } else { Said::Alive };
                (said, speaker.slot, marks, LifeClass::from_number(life))
            }
            News::Told { seed, extra, life } => {
                let marks = Marks::NONE.with(Marks::SEED, seed).with(Marks::EXTRA, extra);
                (Said::Alive, speaker.slot, marks, LifeClass::from_number(life))
            }
            News::Stopped => (Said::Stopped, speaker.slot, Marks::NONE, LifeClass::Short),
            News::Ceded(to) => {
                let slot = match self.members.get(&to).and_then(|member| member.slot) {
                    _ if to == self.me => Slot::HERE,
                    slot => slot.unwrap_or(Slot::NOBODY),
                };
                (Said::Ceded(slot), slot, Marks::NONE, LifeClass::Short)
            }
        }
    }

    fn take_counted(&mut self, id: MemberId, hash: &InfoHash, own: u32, store: &mut impl Store, now: Instant) {
        let more = self.completions.hear(id, hash, own);
        count(store, hash, more, now);
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

fn write_lease(word: &LeaseWord, now: Instant, writer: &mut Writer) {
    let age = now.saturating_duration_since(word.at).as_millis();
    let age = u32::try_from(age).unwrap_or(u32::MAX).min(OLDEST_NEWS * 1_000);
    let news = match &word.part {
        Part::Begin { secret, endpoints } => LeaseNews::Begin { secret: *secret, endpoints: endpoints.clone() },
        Part::Items(items) => LeaseNews::Items(items.clone()),
        Part::Renewed { revision, whole } => LeaseNews::Renewed { revision: *revision, whole: *whole },
        Part::Ended => LeaseNews::Ended,
    };
    writer.record(&Record::Lease { peer_id: word.peer_id, age, news });
}

fn part(news: LeaseNews) -> Part {
    match news {
        LeaseNews::Begin { secret, endpoints } => Part::Begin { secret, endpoints: canonical(endpoints) },
        LeaseNews::Items(items) => Part::Items(items),
        LeaseNews::Renewed { revision, whole } => Part::Renewed { revision, whole },
        LeaseNews::Ended => Part::Ended,
    }
}

/// Each once.
fn canonical(mut endpoints: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut at = 0;
    while at < endpoints.len() {
        if endpoints[..at].contains(&endpoints[at]) {
            endpoints.remove(at);
        } else {
            at += 1;
        }
    }
    endpoints
}

#[cfg(test)]
mod tests;
