use std::time::{Duration, Instant};

use super::*;
use crate::testing::layout;

const PIECE: u32 = 32 << 20;

/// A ledger of one file of eight pieces of 32 MiB, and a clock.
struct Download {
    ledger: Ledger,
    now: Instant,
}

impl Download {
    fn new() -> Self {
        let layout = Arc::new(layout(&[8 * u64::from(PIECE)], PIECE));
        let ledger = Ledger::new(layout, Bitfield::full(8), Bitfield::empty(8), vec![None], None);
        Self { ledger, now: start() }
    }

    fn tell(&mut self, event: Event) {
        self.ledger.handle_event(event, self.now);
    }

    fn store(&mut self, piece: u32) {
        let stamp = Stamp { size: 8 * u64::from(PIECE), mtime_ns: i64::from(piece), inode: 1 };
        self.tell(Event::Stored { piece: PieceIndex(piece), stamps: vec![(FileIndex(0), stamp)] });
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.ledger.poll_action()).collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.ledger.handle_timeout(self.now);
    }

    /// The pieces and the slot of the one record among the actions.
    fn record(&mut self) -> (Slot, Journal) {
        match &self.actions()[..] {
            [Action::WriteJournal { slot, bytes }] => (*slot, journal::decode(&self.ledger.layout, bytes).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a moment to count from")]
fn start() -> Instant {
    Instant::now()
}

fn pieces(numbers: &[u32]) -> Vec<PieceIndex> {
    numbers.iter().copied().map(PieceIndex).collect()
}

#[test]
fn nothing_is_claimed_before_it_is_synced() {
    let mut download = Download::new();
    download.store(3);
    assert_eq!(download.actions(), []);
    download.store(5);
    assert_eq!(download.actions(), [Action::Sync]);
    download.store(6);
    download.tell(Event::Synced(Ok(())));
    let (slot, record) = download.record();
    assert_eq!(slot, Slot::A);
    assert_eq!(record.pieces.iter().collect::<Vec<_>>(), pieces(&[3, 5]));
    download.tell(Event::JournalWritten(Ok(())));
    assert_eq!(download.actions(), []);
}

#[test]
fn written_bytes_wait_five_seconds_at_most() {
    let mut download = Download::new();
    download.store(0);
    download.pass(Duration::from_secs(3));
    assert_eq!(download.actions(), []);
    assert_eq!(download.ledger.poll_timeout(), Some((download.now + Duration::from_secs(2), Wake::SyncDue)));
    download.pass(Duration::from_secs(2));
    assert_eq!(download.actions(), [Action::Sync]);
    assert_eq!(download.ledger.poll_timeout(), None);
}

#[test]
fn records_go_to_the_slots_in_turn_but_never_over_the_last_good_one() {
    let mut download = Download::new();
    let mut slots = Vec::new();
    for (pair, outcome) in [(0, Ok(())), (2, Err(Fault::Full)), (4, Ok(()))] {
        download.store(pair);
        download.store(pair + 1);
        assert_eq!(download.actions(), [Action::Sync]);
        download.tell(Event::Synced(Ok(())));
        slots.push(download.record().0);
        let failed = outcome.is_err();
        download.tell(Event::JournalWritten(outcome));
        if failed {
            assert_eq!(download.actions(), [Action::Pause { fault: Fault::Full }]);
            download.pass(RETRY_FIRST);
            assert!(matches!(download.actions()[..], [Action::Probe { .. }]));
            download.tell(Event::Probed(Ok(())));
            let actions = download.actions();
            assert!(matches!(actions[..], [Action::Resume, Action::WriteJournal { slot: Slot::B, .. }]), "{actions:?}");
            download.tell(Event::JournalWritten(Ok(())));
        }
    }
    assert_eq!(slots, [Slot::A, Slot::B, Slot::A]);
}

#[test]
fn f16_a_failed_sync_withdraws_everything_since_the_last_good_one() {
    let mut download = Download::new();
    download.store(0);
    download.store(1);
    download.actions();
    download.tell(Event::Synced(Ok(())));
    download.actions();
    download.tell(Event::JournalWritten(Ok(())));
    download.store(2);
    download.store(3);
    assert_eq!(download.actions(), [Action::Sync]);
    download.store(4);
    let fault = Fault::Failing("I/O error".into());
    download.tell(Event::Synced(Err(fault.clone())));
    assert_eq!(download.actions(), [Action::Pause { fault }, Action::Withdraw { pieces: pieces(&[2, 3, 4]) }]);
    assert_eq!(download.ledger.stored().iter().collect::<Vec<_>>(), pieces(&[0, 1]));

    download.store(2);
    download.store(3);
    assert_eq!(download.actions(), [], "no sync is tried on a disk that failed");
    download.pass(RETRY_FIRST);
    download.actions();
    download.tell(Event::Probed(Ok(())));
    assert_eq!(download.actions(), [Action::Resume, Action::Sync]);
    download.tell(Event::Synced(Ok(())));
    assert_eq!(download.record().1.pieces.iter().collect::<Vec<_>>(), pieces(&[0, 1, 2, 3]));
}

#[test]
fn f10_a_full_disk_pauses_once_and_goes_on_by_itself() {
    let mut download = Download::new();
    for _ in 0..3 {
        download.tell(Event::WriteFailed { fault: Fault::Full });
    }
    assert_eq!(download.actions(), [Action::Pause { fault: Fault::Full }]);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let (at, why) = download.ledger.poll_timeout().unwrap();
        assert_eq!(why, Wake::Retry);
        waits.push((at - download.now).as_secs());
        download.pass(at - download.now);
        assert_eq!(download.actions(), [Action::Probe { bytes: 64 << 20 }]);
        assert_eq!(download.ledger.poll_timeout(), None);
        download.tell(Event::Probed(Err(Fault::Full)));
    }
    assert_eq!(waits, [1, 4, 8, 15, 15, 15]);
    download.pass(RETRY_LONGEST);
    download.tell(Event::Probed(Ok(())));
    assert_eq!(download.actions(), [Action::Probe { bytes: 64 << 20 }, Action::Resume]);
    assert_eq!(download.ledger.poll_timeout(), None);
}

#[test]
fn f10_a_probe_asks_for_no_more_than_is_missing() {
    let layout = Arc::new(layout(&[10_000], 16_384));
    let ledger = Ledger::new(layout, Bitfield::full(1), Bitfield::empty(1), vec![None], None);
    assert_eq!(ledger.probe_bytes(), 16_384);
}

#[test]
fn finishing_syncs_renames_and_syncs_the_folder_in_this_order_and_notes_nothing_more() {
    let mut download = Download::new();
    for piece in 0..7 {
        download.store(piece);
    }
    download.tell(Event::Finish);
    download.tell(Event::Synced(Ok(())));
    download.tell(Event::Synced(Ok(())));
    download.tell(Event::JournalWritten(Ok(())));
    assert_eq!(download.actions().last(), Some(&Action::FinishFailed(FinishError::Incomplete { missing: 1 })));

    download.store(7);
    download.tell(Event::Finish);
    assert_eq!(download.actions(), [Action::Sync]);
    download.tell(Event::Synced(Ok(())));
    assert_eq!(download.actions(), [Action::Rename]);
    download.tell(Event::Renamed(Ok(())));
    assert_eq!(download.actions(), [Action::SyncFolder]);
    download.tell(Event::FolderSynced(Ok(())));
    assert_eq!(download.actions(), [Action::Finished]);
}

#[test]
fn a_taken_name_ends_finishing_and_it_can_be_tried_again() {
    let mut download = Download::new();
    (0..8).for_each(|piece| download.store(piece));
    download.tell(Event::Finish);
    download.tell(Event::Synced(Ok(())));
    download.tell(Event::Synced(Ok(())));
    download.actions();
    download.tell(Event::Renamed(Err(FinishError::Occupied)));
    let actions = download.actions();
    let [Action::FinishFailed(FinishError::Occupied), Action::WriteJournal { .. }] = &actions[..] else {
        panic!("what is kept is noted: {actions:?}");
    };
    download.tell(Event::Finish);
    download.tell(Event::JournalWritten(Ok(())));
    assert_eq!(download.actions(), [Action::Rename]);
}

#[test]
fn a_flush_ends_even_on_a_disk_that_fails() {
    let mut download = Download::new();
    download.store(0);
    download.tell(Event::Flush);
    assert_eq!(download.actions(), [Action::Sync]);
    download.tell(Event::Synced(Err(Fault::ReadOnly)));
    let actions = download.actions();
    assert_eq!(actions.last(), Some(&Action::Flushed), "{actions:?}");
}

#[test]
fn a_flush_notes_the_stamps_so_that_nothing_is_hashed_again() {
    let mut download = Download::new();
    let stamp = Stamp { size: 1, mtime_ns: 99, inode: 1 };
    download.tell(Event::Touched { stamps: vec![(FileIndex(0), stamp)] });
    assert_eq!(download.actions(), []);
    download.tell(Event::Flush);
    assert_eq!(download.record().1.stamps, [Some(stamp)]);
    download.tell(Event::JournalWritten(Ok(())));
    assert_eq!(download.actions(), [Action::Flushed]);
}

#[test]
fn f21_what_a_changed_file_lost_is_withdrawn_and_the_rest_is_synced_again() {
    let mut download = Download::new();
    download.store(0);
    download.store(1);
    download.actions();
    download.tell(Event::Synced(Ok(())));
    download.actions();
    download.tell(Event::JournalWritten(Ok(())));
    let stamp = Stamp { size: 8 * u64::from(PIECE), mtime_ns: 77, inode: 1 };
    download.tell(Event::Rechecked { file: FileIndex(0), stamp: Some(stamp), lost: pieces(&[1]) });
    let (_, before) = download.record();
    assert_eq!(before.pieces.count(), 0, "nothing of the file is claimed until it is synced again");
    download.tell(Event::JournalWritten(Ok(())));
    let withdrawn = [Action::Withdraw { pieces: pieces(&[1]) }];
    assert_eq!(download.actions(), withdrawn, "nothing is written over a piece that a record claims");
    download.pass(SYNC_AFTER);
    assert_eq!(download.actions(), [Action::Sync]);
    download.tell(Event::Synced(Ok(())));
    let (_, record) = download.record();
    assert_eq!((record.pieces.iter().collect(), record.stamps), (pieces(&[0]), vec![Some(stamp)]));
}

#[test]
fn what_resuming_hashed_is_synced_before_it_is_claimed() {
    let layout = Arc::new(layout(&[8 * u64::from(PIECE)], PIECE));
    let mut stored = Bitfield::empty(8);
    stored.set(PieceIndex(0));
    let record = Journal { generation: 4, pieces: stored.clone(), stamps: vec![None] };
    stored.set(PieceIndex(1));
    let mut ledger = Ledger::new(layout, Bitfield::full(8), stored, vec![None], Some(&(Slot::A, record)));
    ledger.handle_timeout(start());
    assert_eq!(ledger.poll_action(), Some(Action::Sync));
}
