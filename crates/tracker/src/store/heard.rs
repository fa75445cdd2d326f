//! What other members of a cluster say of stock clients, and what there is to tell them.
//!
//! Whoever heard of a peer last speaks for it. The clocks of members need not agree: each says how old its news are, and
//! news that are as old as others to a second are those of the member with the higher rank, everywhere.

use std::net::IpAddr;
use std::time::Instant;

use obt_wire::InfoHash;

use super::handout::Advertised;
use super::journal::{Note, Said};
use super::members::{self, Has, Members};
use super::peer::{Marks, Peer, Slot, Source, low};
use super::shard::Shard;
use super::torrent::Torrent;

/// Seconds by which the ages of the same news may differ at two members: each rounds to whole ones.
const ROUNDING: i64 = 1;

/// The member that says something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speaker<'a> {
    /// What it says is noted under this slot.
    pub(crate) slot: Slot,
    /// What it said before a full copy began.
    pub(crate) former: Option<Slot>,
    /// Which of two members wins where their news are as old, by slot; 0 where nobody speaks.
    pub(crate) ranks: &'a [u8; Slot::COUNT],
    /// Under which address others know the peers on this host.
    pub(crate) home: &'a Advertised,
}

impl Speaker<'_> {
    /// Whether it is the one that speaks for what is noted under this slot.
    pub(crate) fn is(&self, slot: Slot) -> bool {
        slot == self.slot || self.former == Some(slot)
    }

    /// Whether it heard of a peer at `at`, and whoever has it in `slot` at `known`, so that what it says counts.
    fn wins(&self, at: i64, slot: Slot, known: i64) -> bool {
        if self.slot == Slot::NOBODY {
            // What is passed on in place of somebody else moves nothing but what is older.
            return at > known + ROUNDING;
        }
        if self.is(slot) || (at - known).abs() > ROUNDING {
            return self.is(slot) || at > known;
        }
        self.rank(self.slot) > self.rank(slot)
    }

    fn rank(&self, slot: Slot) -> u8 {
        self.ranks.get(slot.index()).copied().unwrap_or(0)
    }
}

/// A swarm with the downloads that were completed in it.
pub(crate) type Completed = (InfoHash, u32);

impl Shard {
    /// Takes what a member says of a peer. `to` is the slot of who has it now, where the member gave it up.
    pub(crate) fn hear(&mut self, hash: InfoHash, note: &Note, to: Slot, speaker: &Speaker<'_>, now: Instant) {
        let port = note.port();
        match note.addr().map(|addr| addr.ip()) {
            Some(IpAddr::V4(ip)) => {
                let home = speaker.home.v4.is_some_and(|home| home == ip);
                let inside = home.then_some(Peer::at([127, 0, 0, 1], port));
                self.hear_at::<4>(hash, Peer::at(ip.octets(), port), inside, note, to, speaker, now);
            }
            Some(IpAddr::V6(ip)) => {
                let home = speaker.home.v6.is_some_and(|home| home == ip);
                let inside = home.then_some(Peer::at(std::net::Ipv6Addr::LOCALHOST.octets(), port));
                self.hear_at::<16>(hash, Peer::at(ip.octets(), port), inside, note, to, speaker, now);
            }
            None => {}
        }
    }

    /// `inside` is how a peer on this host may be known here.
    #[expect(clippy::too_many_arguments, reason = "one call, from the two families")]
    fn hear_at<const N: usize>(
        &mut self,
        hash: InfoHash,
        endpoint: Peer<N>,
        inside: Option<Peer<N>>,
        note: &Note,
        to: Slot,
        speaker: &Speaker<'_>,
        now: Instant,
    ) where
        Members: Has<N>,
    {
        let seconds = self.frame.seconds(now);
        let alive = matches!(note.said, Said::Alive | Said::Completed);
        // Nobody heard of anybody later than now.
        let heard = i64::from(note.at).min(seconds.into());
        let due = u32::try_from(heard + i64::from(note.life.seconds())).unwrap_or(0);
        if alive && due <= seconds {
            return;
        }
        let room = !alive || self.make_room(&hash);
        let at = match self.find(&hash) {
            Some(at) => at,
            None if alive && room => self.create(hash, seconds),
            None => return,
        };
        let key = self.frame.key;
        let before = self.before(at);
        let expired = self.torrents[at].expire(seconds, key);
        let torrent = &mut self.torrents[at];
        let earliest = torrent.next_due;
        let local = inside.and_then(|inside| {
            let own = members::find(&mut torrent.members, &inside, key)?;
            let known = *Has::<N>::view(&torrent.members).peers.get(own)?;
            known.marks.has(Marks::LOCAL).then_some((own, known))
        });
        let found = local.or_else(|| {
            let own = members::find(&mut torrent.members, &endpoint, key)?;
            Some((own, *Has::<N>::view(&torrent.members).peers.get(own)?))
        });
        let mut seed = expired;
        match (note.said, found) {
            (_, Some((_, known))) if known.is_leased() => {}
            (Said::Ceded(_), Some((_, known))) if !speaker.is(known.source.slot()) => {}
            (Said::Ceded(_), Some((own, known))) if to == Slot::HERE => {
                // It announced to both in the same moment, and each took the other's news for newer.
                if speaker.rank(Slot::HERE) > speaker.rank(speaker.slot) {
                    let peer = Peer { source: known.source.at_slot(Slot::HERE), ..known };
                    members::change(&mut torrent.members, own, peer, key);
                    self.journal.alive(&hash, &peer, false, known.heard(earliest));
                }
            }
            (Said::Ceded(_), Some((own, known))) => {
                let source = known.source.at_slot(to);
                members::change(&mut torrent.members, own, Peer { source, ..known }, key);
            }
            (Said::Stopped, Some((own, known))) => {
                let slot = known.source.slot();
                if speaker.is(slot) || i64::from(note.at) > known.heard(earliest) {
                    members::remove(&mut torrent.members, own, key);
                    torrent.members.shrink();
                    if known.is_seed() {
                        seed = known_addr(&known);
                    }
                    if slot == Slot::HERE {
                        // Whoever has it from here is told so from here.
                        let at = u32::try_from(note.at).unwrap_or(0);
                        self.journal.stopped(&hash, &known, at);
                    }
                }
            }
            (Said::Alive | Said::Completed, found) => {
                let marks = Marks::NONE
                    .with(Marks::SEED, note.marks.has(Marks::SEED))
                    .with(Marks::EXTRA, note.marks.has(Marks::EXTRA));
                let source = Source::new(speaker.slot, note.life);
                let placed = match found {
                    None => {
                        let peer = Peer { marks, source, due: low(due), ..endpoint };
                        members::push(&mut torrent.members, peer, self.frame.ports_per_address, key).is_some()
                    }
                    Some((own, known))
                        if speaker.wins(i64::from(note.at), known.source.slot(), known.heard(earliest)) =>
                    {
                        let marks = marks.with(Marks::LOCAL, known.marks.has(Marks::LOCAL));
                        members::change(&mut torrent.members, own, Peer { marks, source, due: low(due), ..known }, key);
                        if known.source.slot() == Slot::HERE {
                            self.journal.ceded(&hash, &known, speaker.slot, known.heard(earliest));
                        }
                        true
                    }
                    Some(_) => false,
                };
                if placed {
                    torrent.next_due = torrent.next_due.min(due);
                    if !torrent.is_held() {
                        torrent.touched = seconds;
                    }
                    if marks.has(Marks::SEED) {
                        seed = note.addr().or(expired);
                    }
                }
            }
            (Said::Stopped | Said::Ceded(_), None) => {}
        }
        self.settle(at, &before, seed, now);
    }

    /// Counts downloads that another member counted, or takes back what it took back.
    pub(crate) fn count_completed(&mut self, hash: InfoHash, more: i64, now: Instant) {
        let seconds = self.frame.seconds(now);
        let at = match self.find(&hash) {
            Some(at) => at,
            None if more > 0 && self.make_room(&hash) => self.create(hash, seconds),
            None => return,
        };
        let before = self.before(at);
        let torrent = &mut self.torrents[at];
        let completed = i64::from(torrent.completed).saturating_add(more).max(0);
        torrent.completed = u32::try_from(completed).unwrap_or(u32::MAX);
        self.settle(at, &before, None, now);
    }

    /// Writes down every stock client that was heard of in a slot that is `told`, for who begins with nothing, and what
    /// was completed.
    pub(crate) fn write_down(
        &self,
        told: impl Fn(Slot) -> bool,
        notes: &mut Vec<(Note, Slot)>,
        completed: &mut Vec<Completed>,
    ) {
        fn own<const N: usize>(torrent: &Torrent, told: impl Fn(Slot) -> bool, notes: &mut Vec<(Note, Slot)>)
        where
            Members: Has<N>,
        {
            let peers = Has::<N>::view(&torrent.members).peers.iter();
            let plain = peers.filter(|peer| !peer.is_leased() && told(peer.source.slot()));
            let note = |peer: &Peer<N>| Note::of(&torrent.hash, peer, Said::Alive, peer.heard(torrent.next_due));
            notes.extend(plain.map(|peer| (note(peer), peer.source.slot())));
        }
        for torrent in &self.torrents {
            own::<4>(torrent, &told, notes);
            own::<16>(torrent, &told, notes);
            if torrent.completed > 0 {
                completed.push((torrent.hash, torrent.completed));
            }
        }
    }

    /// Forgets the stock clients that were heard of in this slot.
    pub(crate) fn forget_slot(&mut self, slot: Slot, now: Instant) {
        let key = self.frame.key;
        let mut at = 0;
        while let Some(hash) = self.torrents.get(at).map(|torrent| torrent.hash) {
            let before = self.before(at);
            let members = &mut self.torrents[at].members;
            let mut seed = None;
            members::remove_all::<4>(members, |peer| is_over(peer, slot, &mut seed), key);
            members::remove_all::<16>(members, |peer| is_over(peer, slot, &mut seed), key);
            if self.torrents[at].members.len() != before.addresses() {
                self.torrents[at].members.shrink();
                self.settle(at, &before, seed, now);
            }
            // What takes the place of a dropped swarm has not been looked at, so `at` stays.
            at += usize::from(self.torrents.get(at).is_some_and(|torrent| torrent.hash == hash));
        }
    }

    /// Says of the stock clients that were heard of in one slot that they were in another.
    pub(crate) fn move_slot(&mut self, from: Slot, to: Slot) {
        for torrent in &mut self.torrents {
            torrent.members.move_slot(from, to);
        }
    }

    /// Begins or ends to note what happens, for other members.
    pub(crate) fn note_announces(&mut self, on: bool) {
        self.journal.switch(on);
    }

    /// Moves what happened since the last call behind `out`; false where some of it is lost.
    pub(crate) fn drain_notes(&mut self, out: &mut Vec<Note>) -> bool {
        self.journal.drain(out)
    }
}

fn is_over<const N: usize>(peer: &Peer<N>, slot: Slot, seed: &mut Option<std::net::SocketAddr>) -> bool {
    let over = peer.is_from(slot);
    if over && peer.is_seed() {
        *seed = known_addr(peer);
    }
    over
}

fn known_addr<const N: usize>(peer: &Peer<N>) -> Option<std::net::SocketAddr> {
    let ip = super::handout::address(&peer.ip)?;
    Some(std::net::SocketAddr::new(ip, u16::from_be_bytes(peer.port)))
}
