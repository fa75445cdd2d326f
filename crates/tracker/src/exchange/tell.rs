//! What is told: what happened here goes into a log, and from there to each member as far as it has room.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::departed::Source;
use super::log::Entry;
use super::member::Sent;
use super::wire::{self, Head, LeaseNews, MemberId, News, PeerNews, Record, Writer};
use super::{Action, Exchange, FULL, Store, count};
use crate::leases::{LeaseChanges, LeaseWord, Part, outside_ip};
use crate::limits::OLDEST_NEWS;
use crate::store::{Marks, Note, Said, Slot};

impl Exchange {
    /// Moves what happened in shards and leases to the log.
    pub(super) fn read_news(&mut self, store: &mut impl Store, now: Instant) {
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

    pub(super) fn log_leases(&mut self, news: LeaseChanges) {
        for hash in news.completed {
            self.completions.count(&hash);
            self.log.push(Entry::Counted(hash));
        }
        for word in news.words {
            self.log.push(Entry::Lease(Box::new(word)));
        }
    }

    pub(super) fn abandon_all(&mut self) {
        for member in self.members.values_mut() {
            member.out.abandon();
        }
    }

    /// Moves notes, sorted by peer, to the log: of each peer the last one.
    pub(super) fn log_notes(&mut self, notes: &[Note], store: &mut impl Store, now: Instant) {
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
            match last.said {
                Said::Stopped => self.departed.note(last.key(), last.at, Source::Here),
                Said::Alive | Said::Completed => self.departed.came_back(&last.key()),
                Said::Ceded(_) => {}
            }
            self.log.push(Entry::Peer(last));
        }
    }

    /// The note as others are told it: with the address under which they find the peer.
    pub(super) fn outside(&self, note: &Note) -> Option<Note> {
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
    pub(super) fn bound_log(&mut self) {
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
    pub(super) fn tell(&mut self, id: MemberId, store: &mut impl Store, now: Instant) {
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

    pub(super) fn send_again(&mut self, id: MemberId, now: Instant) {
        let underway: Vec<Sent> =
            self.members.get(&id).map(|member| member.out.underway.iter().cloned().collect()).unwrap_or_default();
        for sent in &underway {
            self.send(id, Some(sent), true, now);
        }
    }

    /// Sends what there is for a member as far as there is room; whether anything was.
    pub(super) fn pump(&mut self, id: MemberId, store: &mut impl Store, now: Instant) -> bool {
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

    pub(super) fn send(&mut self, to: MemberId, sent: Option<&Sent>, hurry: bool, now: Instant) {
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
    pub(super) fn write_note(&self, note: &Note, slot: Slot, seconds: i64, writer: &mut Writer) {
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
}

pub(super) fn write_lease(word: &LeaseWord, now: Instant, writer: &mut Writer) {
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
