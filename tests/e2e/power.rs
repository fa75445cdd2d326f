//! Power cuts: a real file system forgets whatever was not made durable, at any moment, and the same command goes on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use obt_storage::{Journal, Layout, journal, names};
use obt_wire::metainfo::Metainfo;
use obt_wire::{Bitfield, PieceIndex};

use crate::disk_image::DiskImage;
use crate::harness::{Lab, SOON, assert_holds, noise};
use crate::http;

const MIB: usize = 1 << 20;
/// What a download may fetch twice: blocks that several peers were asked for at its end.
const TWICE: usize = 2 * MIB;

/// A download on a disk: what lies in its partial folder.
struct Partial {
    folder: PathBuf,
}

impl Partial {
    fn of(final_path: &Path) -> Self {
        let name = final_path.file_name().unwrap().to_str().unwrap();
        Self { folder: final_path.with_file_name(names::partial_folder(name)) }
    }

    fn data(&self) -> PathBuf {
        self.folder.join(names::DATA)
    }

    /// The whole records of the journal, the older one first.
    fn records(&self) -> Vec<Journal> {
        let Ok(torrent) = fs::read(self.folder.join(names::METAINFO)) else {
            return Vec::new();
        };
        let Ok(metainfo) = Metainfo::parse(&torrent) else {
            return Vec::new();
        };
        let layout = Layout::new(&metainfo.info);
        let slots = names::JOURNALS.map(|name| fs::read(self.folder.join(name)).unwrap_or_default());
        let mut records: Vec<Journal> = slots.iter().filter_map(|slot| journal::decode(&layout, slot).ok()).collect();
        records.sort_by_key(|record| record.generation);
        records
    }

    /// Which pieces of `bytes` are there, as far as one page of each tells.
    fn stored(&self, bytes: &[u8], piece_length: usize) -> usize {
        let Ok(file) = fs::File::open(self.data()) else {
            return 0;
        };
        let mut page = [0; 4096];
        let there = |piece: &[u8], at: usize| {
            let probe = piece.len().min(page.len());
            file.read_exact_at(&mut page[..probe], at as u64).is_ok() && page[..probe] == piece[..probe]
        };
        let mut there = there;
        bytes.chunks(piece_length).enumerate().filter(|(at, piece)| there(piece, at * piece_length)).count()
    }
}

/// Something to wait for before the power goes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// This many pieces are written.
    Stored(usize),
    /// The journal has a record of this run.
    Record,
}

/// Waits for a moment, looking without a pause: what happens between two looks is what is to be cut.
fn wait_for(what: &str, mut come: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !come() {
        assert!(Instant::now() < deadline, "waited for {what}");
        thread::yield_now();
    }
}

/// The pieces that are claimed by the records that surely were whole on the disk: a record is begun when the one
/// before is durable.
fn durable(records: &[Journal], pieces: u32) -> Bitfield {
    match records {
        [older, _] => older.pieces.clone(),
        _ => Bitfield::empty(pieces),
    }
}

#[test]
fn f22_after_power_cuts_nothing_is_claimed_that_is_not_there_and_the_same_command_goes_on() {
    let lab = Lab::new();
    let Some(disk) = DiskImage::mount(&lab, "out", 160) else { return };
    let bytes = noise(22, 48 * MIB);
    let share = lab.serve("big.bin", &bytes, "2500k");
    let final_path = lab.path("out/big.bin");
    let partial = Partial::of(&final_path);
    let metainfo = Metainfo::parse(&http::get(share.socket(), "/items/big.bin.torrent").body).unwrap();
    let (pieces, piece_length) = (metainfo.info.geometry.pieces(), metainfo.info.geometry.piece_length() as usize);
    let mut kept = Bitfield::empty(pieces);

    for moment in [
        Moment::Stored(1),
        Moment::Stored(pieces as usize / 5),
        Moment::Record,
        Moment::Record,
        Moment::Stored(pieces as usize * 4 / 5),
    ] {
        let generation = partial.records().last().map_or(0, |record| record.generation);
        let get = lab.get(&share, "big.bin", "out");
        wait_for(&format!("{moment:?}"), || match moment {
            Moment::Stored(count) => partial.stored(&bytes, piece_length) >= count,
            Moment::Record => partial.records().last().is_some_and(|record| record.generation > generation),
        });
        let durable = durable(&partial.records(), pieces);
        disk.cut();
        get.kill();
        disk.mount_again();

        assert!(!final_path.exists(), "{moment:?}: a final name before its time");
        let newest = partial.records().pop().map_or_else(|| Bitfield::empty(pieces), |record| record.pieces);
        assert!(!durable.has_more_than(&newest) && !kept.has_more_than(&newest), "{moment:?}: a record was lost");
        if newest.count() > 0 {
            let data = fs::read(partial.data()).unwrap();
            for PieceIndex(piece) in newest.iter() {
                let at = piece as usize * piece_length;
                let end = bytes.len().min(at + piece_length);
                assert!(data[at..end] == bytes[at..end], "{moment:?}: piece {piece} is claimed and not there");
            }
        }
        kept = newest;
    }

    assert!(kept.count() as usize * piece_length > bytes.len() / 3, "records lag behind: {} pieces", kept.count());
    let ended = lab.get(&share, "big.bin", "out").ends().exits(0);
    let missing = bytes.len() - kept.count() as usize * piece_length;
    assert!(ended.fetched() <= missing + TWICE, "fetched {}, missing {missing}", ended.fetched());
    disk.cut();
    disk.mount_again();
    assert_holds(&final_path, &bytes);
    // The folder that it grew in may be there again, without a use: the same command takes it away.
    assert!(lab.get(&share, "big.bin", "out").ends().exits(0).from().is_empty());
    assert!(!partial.folder.exists());
}

#[test]
fn f22_a_final_name_is_there_only_with_all_its_bytes() {
    let lab = Lab::new();
    let Some(disk) = DiskImage::mount(&lab, "out", 64) else { return };
    let bytes = noise(23, 3 * MIB);
    let share = lab.serve("small.bin", &bytes, "1G");
    let mut ends = [0; 2];
    for round in 0..24 {
        let folder = format!("out/{round}");
        let final_path = lab.path(&folder).join("small.bin");
        let partial = Partial::of(&final_path);
        let get = lab.get(&share, "small.bin", &folder);
        // Later from round to round, until past the end.
        let seen = |path: &Path| path.exists();
        wait_for("the moment of a round", || match round % 5 {
            0 => seen(&partial.folder),
            1 => seen(&partial.data()),
            2 => partial.stored(&bytes, MIB) == 3,
            3 => seen(&final_path),
            _ => seen(&final_path) && !seen(&partial.folder),
        });
        disk.cut();
        get.kill();
        disk.mount_again();
        let there = final_path.exists();
        ends[usize::from(there)] += 1;
        if there {
            assert_holds(&final_path, &bytes);
        }
        let again = lab.get(&share, "small.bin", &folder).ends().exits(0);
        assert!(!there || again.from().is_empty(), "round {round}: all was there: {again}");
        assert_holds(&final_path, &bytes);
        fs::remove_dir_all(lab.path(&folder)).unwrap();
    }
    assert!(ends.iter().all(|count| *count > 0), "cuts before and after the name was durable: {ends:?}");
}

#[test]
fn f22_what_a_tracker_has_acknowledged_is_there_after_a_power_cut() {
    let lab = Lab::new();
    let Some(disk) = DiskImage::mount(&lab, "tracker", 64) else { return };
    lab.file("x", &noise(24, 100_000));
    let made = lab.run(["create", "--json", "x"]).exits(0).last();
    let mut names: Vec<String> = Vec::new();
    let mut key = None;
    for round in 0..6 {
        let tracker = lab.tracker();
        let key_file = lab.path("tracker/publish.key");
        let key_there = fs::read(&key_file).unwrap();
        assert_eq!(key.get_or_insert_with(|| key_there.clone()), &key_there, "the key is another one");
        for number in 0..round + 1 {
            let name = format!("round {round}/{number}");
            let mut publish = lab.command(["publish", "x.torrent", "--as", &name, "--tracker", &tracker.address()]);
            publish.arg("--key-file").arg(&key_file);
            crate::harness::Obt::spawn(publish).ends().exits(0);
            names.push(name);
        }
        disk.cut();
        tracker.obt.kill();
        disk.mount_again();
    }
    let tracker = lab.tracker();
    for name in &names {
        let item = http::get(tracker.socket(), &format!("/api/v1/items/{}", http::escaped(name))).json();
        assert_eq!((&item["version"], &item["info_hash_v2"]), (&1.into(), &made["info_hash_v2"]), "{name}");
        let torrent = http::get(tracker.socket(), &format!("/items/{}.torrent", http::escaped(name)));
        assert_eq!(torrent.status, 200, "{name}");
    }
}
