//! Those who read a torrent while it comes in: which pieces they want next, and who waits for which.
//!
//! The torrent's task and its readers share this table; it is locked for the time of a change only. What the readers
//! want first reaches the core as one event, whenever it has changed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use obt_swarm::ReadRange;
use obt_wire::{Bitfield, PieceIndex};
use tokio::sync::{Notify, oneshot};

use crate::disk::Store;
use crate::limits::READERS;

/// The readers of one torrent.
#[derive(Debug, Default)]
pub(super) struct Readers {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// What each reader wants first.
    windows: BTreeMap<u64, ReadRange>,
    /// Who waits for a piece.
    waiting: BTreeMap<PieceIndex, Vec<oneshot::Sender<()>>>,
    /// Where they are read from, from when the content is known until the torrent ends or rests. Nobody else keeps it for longer:
    /// while it lives, no other process can go on with the download.
    store: Option<Store>,
    /// Pieces that can be read.
    have: Bitfield,
    /// Nothing more comes.
    ended: bool,
}

impl Readers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more reader; None where there are too many.
    pub(super) fn enter(&self) -> Option<u64> {
        let mut state = self.state();
        if state.windows.len() >= READERS {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.windows.insert(id, ReadRange { first: 0, end: 0 });
        Some(id)
    }

    /// A reader wants other pieces first than before.
    pub(super) fn set_window(&self, id: u64, window: ReadRange) {
        if self.state().windows.insert(id, window) != Some(window) {
            self.moved.notify_one();
        }
    }

    /// A reader is gone.
    pub(super) fn leave(&self, id: u64) {
        if self.state().windows.remove(&id).is_some() {
            self.moved.notify_one();
        }
    }

    /// Waits until `piece` can be read; false where it never will.
    pub(super) async fn wait(&self, piece: PieceIndex) -> bool {
        let arrived = {
            let mut state = self.state();
            if state.have.has(piece) {
                return true;
            }
            if state.ended {
                return false;
            }
            let (arrives, arrived) = oneshot::channel();
            let waiting = state.waiting.entry(piece).or_default();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.push(arrives);
            arrived
        };
        arrived.await.is_ok()
    }

    /// Waits until [`windows`](Self::windows) are others than before.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// What readers want first, in the order they came.
    pub(super) fn windows(&self) -> Vec<ReadRange> {
        self.state().windows.values().filter(|window| window.first < window.end).copied().collect()
    }

    /// Whether nobody reads.
    pub(super) fn is_idle(&self) -> bool {
        self.state().windows.is_empty()
    }

    /// Whether nothing more comes.
    pub(super) fn have_ended(&self) -> bool {
        self.state().ended
    }

    /// Lets go of the storage until [`begin`](Self::begin).
    pub(super) fn rest(&self) {
        self.state().store = None;
    }

    /// Where to read from; None before the content is known, and after the torrent has ended.
    pub(super) fn store(&self) -> Option<Store> {
        self.state().store.clone()
    }

    /// The content is known, and these pieces of it can be read.
    pub(super) fn begin(&self, store: Store, have: Bitfield) {
        let mut state = self.state();
        state.store = Some(store);
        state.add(have);
    }

    /// A piece can be read.
    pub(super) fn arrived(&self, piece: PieceIndex) {
        let mut state = self.state();
        state.have.set(piece);
        state.wake(piece);
    }

    /// A piece cannot be read any more.
    pub(super) fn withdrawn(&self, piece: PieceIndex) {
        self.state().have.clear(piece);
    }

    /// Nothing more comes: those who wait are told.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.store = None;
        state.waiting.clear();
    }
}

impl State {
    fn add(&mut self, have: Bitfield) {
        let arrived: Vec<PieceIndex> = self.waiting.keys().copied().filter(|piece| have.has(*piece)).collect();
        self.have = have;
        for piece in arrived {
            self.wake(piece);
        }
    }

    fn wake(&mut self, piece: PieceIndex) {
        for waiter in self.waiting.remove(&piece).unwrap_or_default() {
            let _ = waiter.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_piece_is_told_when_it_comes_or_never_will() {
        let readers = Readers::default();
        readers.state().add(Bitfield::empty(4));
        let first = readers.wait(PieceIndex(1));
        let second = readers.wait(PieceIndex(2));
        let all = async {
            tokio::join!(first, second, async {
                readers.arrived(PieceIndex(1));
                readers.end();
            })
        };
        let (first, second, ()) = all.await;
        assert!(first);
        assert!(!second);
        assert!(readers.wait(PieceIndex(1)).await);
        assert!(!readers.wait(PieceIndex(3)).await);
    }

    #[tokio::test]
    async fn windows_of_readers_that_left_are_gone() {
        let readers = Readers::default();
        let id = readers.enter().unwrap();
        assert!(readers.windows().is_empty());
        readers.set_window(id, ReadRange { first: 1, end: 3 });
        readers.moved().await;
        assert_eq!(readers.windows(), [ReadRange { first: 1, end: 3 }]);
        readers.leave(id);
        readers.moved().await;
        assert!(readers.windows().is_empty());
    }
}
