//! What others tell, and how far they have heard us.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use obt_wire::InfoHash;

use super::departed::Source;
use super::log::Entry;
use super::member::Delay;
use super::wire::{self, BatchError, Head, Heard, LeaseNews, MemberId, News, PeerNews, Record};
use super::{Exchange, Store, count, move_slot};
use crate::leases::{LeaseWord, Part, Verdict, ago};
use crate::policy::LifeClass;
use crate::store::{Marks, Note, Said, Slot, Speaker};
use crate::swarms;

impl Exchange {
    pub(super) fn take_batch(
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
        if peers.iter().any(|peer| peer.news == News::Ceded(self.me)) {
            // Whether such a peer has left is not known before it was read.
            self.read_news(store, now);
        }
        let seconds = i64::from(store.shared().seconds(now));
        let aged = (i64::from(aged) + 500) / 1_000;
        let note = |peer: &PeerNews| {
            let at = i32::try_from(seconds - i64::from(peer.age) - aged).unwrap_or(i32::MIN);
            let (said, to, marks, life) = self.read_news_of(peer, speaker);
            (Note::about(hash, peer.addr, marks, life, said, at), to)
        };
        let mut notes: Vec<(Note, Slot)> = peers.iter().map(note).collect();
        for (note, _) in notes.iter_mut().filter(|(note, _)| note.said == Said::Ceded(Slot::HERE)) {
            // It came here and left again before the news of its old member did: nobody has it.
            if self.departed.has_left(&note.key(), note.at) {
                note.said = Said::Stopped;
            }
        }
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
