//! What happened to the stock clients of a shard since somebody last asked, for the other members of a cluster.
//!
//! It is off where there are none, and costs an announce one branch then. A note holds all that others have to be told,
//! so that nobody has to look the peer up again.

use std::net::{IpAddr, SocketAddr};

use obt_wire::InfoHash;

use super::handout::address;
use super::peer::{Marks, Peer, Slot};
use super::shard::{Announce, Standing};
use crate::policy::LifeClass;

/// Notes of one shard: 4,096 are 200 KiB, and a million announces a second over 256 shards. When there are more within
/// a second, what happened is known only by looking at everything.
const NOTES: usize = 4_096;

/// What there is to say of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It announced.
    Alive,
    /// It announced, and its download has just been counted as completed.
    Completed,
    /// It left.
    Stopped,
    /// It announced to the member of this slot instead.
    Ceded(Slot),
}

/// Something that happened to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) hash: InfoHash,
    /// 4 bytes and zeros, or 16.
    ip: [u8; 16],
    port: [u8; 2],
    v6: bool,
    pub(crate) marks: Marks,
    pub(crate) life: LifeClass,
    pub(crate) said: Said,
    /// When, in seconds of the store.
    pub(crate) at: i32,
}

const _: () = assert!(size_of::<Note>() == 48);

/// Which peer of which swarm a note is about.
pub(crate) type NoteKey = (InfoHash, bool, [u8; 16], [u8; 2]);

impl Note {
    /// A note about a peer that was heard of at this second of the store.
    pub(crate) fn of<const N: usize>(hash: &InfoHash, peer: &Peer<N>, said: Said, heard: i64) -> Self {
        let at = i32::try_from(heard).unwrap_or(i32::MIN);
        Self { at, ..Self::at(hash, &peer.ip, peer.port, peer.marks, peer.source.life(), said) }
    }

    fn at(hash: &InfoHash, from: &[u8], port: [u8; 2], marks: Marks, life: LifeClass, said: Said) -> Self {
        let mut ip = [0; 16];
        ip[..from.len().min(16)].copy_from_slice(&from[..from.len().min(16)]);
        Self { hash: *hash, ip, port, v6: from.len() == 16, marks, life, said, at: 0 }
    }

    /// A note about the peer at `addr`.
    pub(crate) fn about(hash: InfoHash, addr: SocketAddr, marks: Marks, life: LifeClass, said: Said, at: i32) -> Self {
        let port = addr.port().to_be_bytes();
        let note = match addr.ip() {
            IpAddr::V4(ip) => Self::at(&hash, &ip.octets(), port, marks, life, said),
            IpAddr::V6(ip) => Self::at(&hash, &ip.octets(), port, marks, life, said),
        };
        Self { at, ..note }
    }

    /// A note that this client left.
    pub(crate) fn stopped((hash, v6, ip, port): &NoteKey, at: i32) -> Self {
        let (marks, life, said) = (Marks::NONE, LifeClass::Short, Said::Stopped);
        Self { hash: *hash, ip: *ip, port: *port, v6: *v6, marks, life, said, at }
    }

    pub(crate) fn key(&self) -> NoteKey {
        (self.hash, self.v6, self.ip, self.port)
    }

    /// The address, 4 or 16 bytes.
    pub(crate) fn ip(&self) -> &[u8] {
        if self.v6 { &self.ip } else { &self.ip[..4] }
    }

    pub(crate) fn port(&self) -> [u8; 2] {
        self.port
    }

    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(address(self.ip())?, u16::from_be_bytes(self.port)))
    }

    /// The same at another address of its family.
    pub(crate) fn with_ip(mut self, ip: &[u8]) -> Self {
        self.ip[..ip.len().min(16)].copy_from_slice(&ip[..ip.len().min(16)]);
        self
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Journal {
    on: bool,
    notes: Vec<Note>,
    /// There was more than it holds.
    lost: bool,
}

impl Journal {
    /// Begins or ends to note.
    pub(crate) fn switch(&mut self, on: bool) {
        if self.on != on {
            *self = Self { on, ..Self::default() };
        }
    }

    /// Notes that a peer announced at this second.
    #[inline]
    pub(crate) fn alive<const N: usize>(&mut self, hash: &InfoHash, peer: &Peer<N>, completed: bool, at: i64) {
        if self.on {
            self.push(Note::of(hash, peer, if completed { Said::Completed } else { Said::Alive }, at));
        }
    }

    /// Notes that a peer left at this second.
    #[inline]
    pub(crate) fn stopped<const N: usize>(&mut self, hash: &InfoHash, peer: &Peer<N>, at: u32) {
        if self.on {
            self.push(Note::of(hash, peer, Said::Stopped, i64::from(at)));
        }
    }

    /// Notes that a peer left of which nothing is known here: another member may have heard of it.
    pub(crate) fn stopped_unknown(&mut self, announce: &Announce, at: u32) {
        if self.on && announce.standing == Standing::Stopped {
            let at = i32::try_from(at).unwrap_or(i32::MAX);
            let marks = Marks::NONE.with(Marks::LOCAL, announce.asker.is_local());
            let addr = SocketAddr::new(announce.asker.ip, announce.port);
            self.push(Note::about(announce.hash, addr, marks, LifeClass::Short, Said::Stopped, at));
        }
    }

    /// Notes that a peer, heard of at this second, announces elsewhere.
    pub(crate) fn ceded<const N: usize>(&mut self, hash: &InfoHash, peer: &Peer<N>, to: Slot, heard: i64) {
        if self.on {
            self.push(Note::of(hash, peer, Said::Ceded(to), heard));
        }
    }

    #[cold]
    fn lose(&mut self) {
        self.lost = true;
        self.notes = Vec::new();
    }

    fn push(&mut self, note: Note) {
        if self.lost {
            return;
        }
        if self.notes.len() >= NOTES {
            return self.lose();
        }
        self.notes.push(note);
    }

    /// Moves what was noted behind `out`; false where some of it is lost.
    pub(crate) fn drain(&mut self, out: &mut Vec<Note>) -> bool {
        out.append(&mut self.notes);
        !std::mem::take(&mut self.lost)
    }
}
