//! Full copies, for members that know nothing or have missed too much: a part of the store at a time, while the log goes on.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use obt_wire::PeerId;

use super::member::Stage;
use super::tell::write_lease;
use super::wire::{MemberId, Record, Writer};
use super::{Exchange, FULL, READ, Store};
use crate::store::{Note, NoteKey, Slot};

impl Exchange {
    /// The next part of the full copy for a member; None where there is no more.
    pub(super) fn write_copy(
        &mut self,
        id: MemberId,
        store: &mut impl Store,
        now: Instant,
    ) -> Option<(Bytes, Instant)> {
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
}
