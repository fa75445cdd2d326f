//! Crashes a download everywhere: after each operation on a virtual disk, with every choice of what was not yet
//! synced being lost. Whatever is left, resuming claims no piece whose bytes are not there (HOSTILE F22, F24).

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_storage::journal::{self, Slot, Stamp};
use obt_storage::ledger::{Action, Event, Fault, FinishError, Ledger};
use obt_storage::resume::resume;
use obt_storage::{FileIndex, Layout};
use obt_wire::metainfo::{File, FileKind, Info, Version};
use obt_wire::{Bitfield, FilePath, Geometry, InfoHashes, PieceIndex, Sha1Hash};
use proptest::prelude::*;

/// Three files; piece 2 lies in the first two, piece 4 in the last two.
const SIZES: [u64; 3] = [40, 30, 26];
const PIECE: u32 = 16;
const PIECES: u32 = 6;
/// Crash states tried at one point; beyond this many choices they are sampled.
const STATES: u32 = 256;

#[expect(clippy::disallowed_methods, reason = "a moment to count from")]
fn start() -> Instant {
    Instant::now()
}

fn layout() -> Layout {
    let mut at = 0;
    let files = SIZES.iter().map(|size| {
        let file = File {
            path: FilePath::new([at.to_string().as_str()]).unwrap(),
            size: *size,
            kind: FileKind::Data,
            offset: at,
            root: None,
        };
        at += size;
        file
    });
    Layout::new(&Info {
        name: "name".into(),
        version: Version::V1,
        single_file: false,
        private: false,
        files: files.collect(),
        geometry: Geometry::contiguous(SIZES.iter().sum(), PIECE).unwrap(),
        symlinks: 0,
        pieces: None,
        hashes: InfoHashes { v1: Some(Sha1Hash([1; 20])), v2: None },
        bytes: Bytes::new(),
    })
}

/// What was done to the disk.
#[derive(Debug, Clone)]
enum Op {
    /// The bytes of a piece were written, right ones or not.
    Write { piece: PieceIndex, good: bool },
    /// Somebody else damaged a piece at this time. Nothing shows it after a power cut but the time of its files, so
    /// that is kept with it.
    Damage { piece: PieceIndex, time: i64 },
    /// A slot of the journal was overwritten.
    Record { slot: Slot, bytes: Vec<u8> },
    /// The data got its final name.
    Rename,
}

/// What a crash does to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// May be there or not.
    Open,
    /// Is there.
    Durable,
}

/// A disk that remembers every operation and what a crash may still do to it.
#[derive(Debug, Clone, Default)]
struct Disk {
    ops: Vec<(Op, Fate)>,
    /// Every stamp that each file ever had: after a crash it has any of them.
    stamps: [Vec<Stamp>; 3],
    clock: i64,
}

impl Disk {
    fn write(&mut self, layout: &Layout, piece: PieceIndex, good: bool) -> Vec<(FileIndex, Stamp)> {
        self.ops.push((Op::Write { piece, good }, Fate::Open));
        self.touch(layout, piece)
    }

    fn touch(&mut self, layout: &Layout, piece: PieceIndex) -> Vec<(FileIndex, Stamp)> {
        self.clock += 1;
        let stamped = layout.files_of(piece).map(|file| {
            (file, Stamp { size: layout.file(file).map_or(0, |file| file.size), mtime_ns: self.clock, inode: 1 })
        });
        let stamped: Vec<_> = stamped.collect();
        for (file, stamp) in &stamped {
            self.stamps[file.0 as usize].push(*stamp);
        }
        stamped
    }

    fn settle(&mut self, upto: usize, which: impl Fn(&Op) -> bool) {
        for (_, fate) in self.ops[..upto].iter_mut().filter(|(op, _)| which(op)) {
            *fate = Fate::Durable;
        }
    }

    /// What is left when the open operations are kept or lost as the bits of `choice` say.
    fn crash(&self, choice: u32) -> Remains {
        let mut remains = Remains::default();
        let mut open = 0;
        for (op, fate) in &self.ops {
            let kept = *fate == Fate::Durable || choice >> open & 1 == 1;
            open += u32::from(*fate == Fate::Open);
            match op {
                Op::Write { piece, good } if kept => remains.good[piece.0 as usize] = *good,
                Op::Damage { piece, time } if kept => {
                    remains.good[piece.0 as usize] = false;
                    remains.not_before = *time;
                }
                Op::Record { slot, bytes } if kept => remains.slots[slot.index()] = bytes.clone(),
                // A record that did not make it as a whole may be there in part, over the older one.
                Op::Record { slot, bytes } => {
                    let old = &mut remains.slots[slot.index()];
                    let torn = (choice as usize).wrapping_mul(31) % bytes.len();
                    old.resize(bytes.len(), 0);
                    old[..torn].copy_from_slice(&bytes[..torn]);
                }
                Op::Rename if kept => remains.renamed = true,
                _ => {}
            }
        }
        remains
    }

    fn open(&self) -> u32 {
        self.ops.iter().filter(|(_, fate)| *fate == Fate::Open).count() as u32
    }
}

#[derive(Debug, Default)]
struct Remains {
    good: [bool; PIECES as usize],
    slots: [Vec<u8>; 2],
    renamed: bool,
    /// Damaged files are not older than this.
    not_before: i64,
}

/// A download on the virtual disk, driven by a script of bytes.
struct World {
    layout: Arc<Layout>,
    ledger: Ledger,
    disk: Disk,
    now: Instant,
    /// Actions that the disk has not answered yet, with the number of operations before them.
    pending: Vec<(Action, usize)>,
    /// What the swarm has been told that it has.
    have: Bitfield,
}

impl World {
    fn new() -> Self {
        let layout = Arc::new(layout());
        let empty = Bitfield::empty(PIECES);
        let ledger = Ledger::new(Arc::clone(&layout), Bitfield::full(PIECES), empty.clone(), vec![None; 3], None);
        Self { layout, ledger, disk: Disk::default(), now: start(), pending: Vec::new(), have: empty }
    }

    fn tell(&mut self, event: Event) {
        self.ledger.handle_event(event, self.now);
        while let Some(action) = self.ledger.poll_action() {
            if let Action::Withdraw { pieces } = &action {
                for piece in pieces {
                    self.have.clear(*piece);
                }
            }
            self.pending.push((action, self.disk.ops.len()));
        }
    }

    fn step(&mut self, command: u8) {
        let piece = PieceIndex(u32::from(command / 16) % PIECES);
        let renamed = self.disk.ops.iter().any(|(op, _)| matches!(op, Op::Rename));
        match command % 16 {
            0..=4 if !self.have.has(piece) && !renamed => {
                let stamps = self.disk.write(&self.layout, piece, true);
                self.have.set(piece);
                self.tell(Event::Stored { piece, stamps });
            }
            5 if !self.have.has(piece) && !renamed => {
                let stamps = self.disk.write(&self.layout, piece, false);
                self.tell(Event::Touched { stamps });
            }
            6 => {
                self.now += Duration::from_secs(5);
                self.ledger.handle_timeout(self.now);
                self.tell(Event::Flush);
            }
            7 => self.tell(Event::Finish),
            8 if !renamed => self.damage(piece),
            9 => self.answer(false),
            _ => self.answer(true),
        }
    }

    /// Somebody else overwrites a piece; the shell sees it, and hashes the files again.
    fn damage(&mut self, piece: PieceIndex) {
        let stamps = self.disk.touch(&self.layout, piece);
        self.disk.ops.push((Op::Damage { piece, time: self.disk.clock }, Fate::Open));
        for (file, stamp) in stamps {
            self.tell(Event::Rechecked { file, stamp: Some(stamp), lost: vec![piece] });
        }
    }

    /// The disk does the oldest action, or fails at it.
    fn answer(&mut self, works: bool) {
        if self.pending.is_empty() {
            return;
        }
        let (action, before) = self.pending.remove(0);
        let result = if works { Ok(()) } else { Err(Fault::Failing("I/O error".into())) };
        match action {
            // Only what was written before the sync began is durable after it. After a failed one, writes stay open
            // for good: a later sync finds their pages clean.
            Action::Sync if works => {
                self.disk.settle(before, |op| matches!(op, Op::Write { .. } | Op::Damage { .. }));
                self.tell(Event::Synced(result));
            }
            Action::Sync => self.tell(Event::Synced(result)),
            Action::WriteJournal { slot, bytes } => {
                self.disk.ops.push((Op::Record { slot, bytes }, Fate::Open));
                let upto = self.disk.ops.len();
                if works {
                    self.disk.settle(upto, |op| matches!(op, Op::Record { slot: other, .. } if *other == slot));
                }
                self.tell(Event::JournalWritten(result));
            }
            Action::Probe { .. } => self.tell(Event::Probed(result)),
            // The shell looks at the files before it renames them.
            Action::Rename if self.disk.ops[before..].iter().any(|(op, _)| matches!(op, Op::Damage { .. })) => {
                self.tell(Event::Renamed(Err(FinishError::Changed { file: FileIndex(0) })));
            }
            Action::Rename => {
                if works {
                    self.disk.ops.push((Op::Rename, Fate::Open));
                }
                self.tell(Event::Renamed(result.map_err(FinishError::Disk)));
            }
            Action::SyncFolder => {
                if works {
                    self.disk.settle(self.disk.ops.len(), |op| matches!(op, Op::Rename));
                }
                self.tell(Event::FolderSynced(result));
            }
            _ => self.answer(works),
        }
    }

    /// Crashes here in every way that is possible, and checks what a new process would believe.
    fn check(&self) {
        let open = self.disk.open();
        let states = if open < STATES.ilog2() { 1 << open } else { STATES };
        for state in 0..states {
            // The first and the last keep nothing and everything; those between are spread over all choices.
            let choice = if open < STATES.ilog2() || state == 0 { state } else { state.wrapping_mul(0x9e37_79b1) | 1 };
            let remains = self.disk.crash(if state + 1 == states { u32::MAX } else { choice });
            let record = journal::newest(&self.layout, [&remains.slots[0], &remains.slots[1]]);
            // The worst case: each file has the very stamp that the record wants, if it ever had it.
            let wanted = |file: usize| {
                let stamp = record.as_ref().and_then(|(_, record)| record.stamps[file]);
                let had =
                    |stamp: &Stamp| self.disk.stamps[file].contains(stamp) && stamp.mtime_ns >= remains.not_before;
                stamp.filter(had).or(self.disk.stamps[file].last().copied())
            };
            let found: Vec<Option<Stamp>> = (0..3).map(wanted).collect();
            let resume = resume(&self.layout, record.as_ref().map(|(_, record)| record), &found);
            for piece in resume.proven.iter() {
                assert!(remains.good[piece.0 as usize], "claimed without its bytes: {piece:?} of {remains:?}");
            }
            assert!(!remains.renamed || remains.good.iter().all(|good| *good), "a final name over a hole: {remains:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f22_f24_no_crash_makes_resuming_claim_what_is_not_there(script in prop::collection::vec(any::<u8>(), 1..80)) {
        let mut world = World::new();
        for command in script {
            world.step(command);
            world.check();
        }
    }
}

#[test]
fn f24_a_download_without_faults_ends_with_its_final_name_whatever_is_lost_on_the_way() {
    let mut world = World::new();
    for piece in 0..PIECES as u8 {
        for command in [piece * 16, 15, 6, 15, 15, 15] {
            world.step(command);
            world.check();
        }
    }
    world.tell(Event::Finish);
    while !world.pending.is_empty() {
        world.answer(true);
        world.check();
    }
    let remains = world.disk.crash(0);
    assert!(remains.renamed && remains.good.iter().all(|good| *good));
}

#[test]
fn a_flush_lets_the_next_process_trust_everything() {
    let mut world = World::new();
    for command in [0, 16, 48, 6, 15, 15, 15, 15, 15] {
        world.step(command);
    }
    let remains = world.disk.crash(0);
    let (_, record) = journal::newest(&world.layout, [&remains.slots[0], &remains.slots[1]]).unwrap();
    let found: Vec<Option<Stamp>> = world.disk.stamps.iter().map(|stamps| stamps.last().copied()).collect();
    let resume = resume(&world.layout, Some(&record), &found);
    assert_eq!(resume.proven.iter().map(|piece| piece.0).collect::<Vec<_>>(), [0, 1, 3]);
}
