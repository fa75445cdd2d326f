//! Copies: whole, checked, and taken over at once while readers go on.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "files of copies are cut and changed here")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use obt_catalogue::{BlobHash, Catalogue, CatalogueError, Name, Reader, Selector, examine};
use obt_wire::InfoHash;
use support::{ALICE, Ledger, NOW};

fn newest(reader: &Reader, name: &str) -> Option<u32> {
    reader.entry(&Name::parse(name).unwrap(), &Selector::Newest).unwrap().map(|entry| entry.version)
}

#[test]
fn a_copy_takes_over_and_leaves_what_stands_beside_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = Ledger::of(Catalogue::open(&folder.path().join("source")).unwrap());
    source.publish(ALICE, "a", 1);
    let theirs = source.catalogue.put_blob(b"theirs", NOW).unwrap();
    let path = folder.path().join("copy");
    let made = source.catalogue.copy_to(&path).unwrap();
    assert_eq!(examine(&path).unwrap(), made);

    let live = folder.path().join("live");
    let mut target = Ledger::of(Catalogue::open(&live).unwrap());
    target.publish(ALICE, "b", 2);
    let ours = target.catalogue.put_blob(b"ours", NOW).unwrap();
    target.catalogue.record_downloads(&[(InfoHash([1; 20]), 7)]).unwrap();
    let reader = Reader::open(&live).unwrap();
    reader
        .snapshot::<(), CatalogueError>(|reader| {
            assert_eq!(newest(reader, "b"), Some(1));
            target.catalogue.become_copy(&path).unwrap();
            assert_eq!(newest(reader, "b"), Some(1), "an answer under way sees one state");
            Ok(())
        })
        .unwrap();
    assert_eq!((newest(&reader, "a"), newest(&reader, "b")), (Some(1), None));
    assert_eq!(target.catalogue.digest().unwrap(), made.digest);
    for (hash, bytes) in [(theirs, &b"theirs"[..]), (ours, b"ours")] {
        assert_eq!(reader.blob(hash).unwrap().unwrap(), bytes);
    }
    assert_eq!(reader.contents().unwrap()[0].1, 7);
    assert_eq!(target.names("a"), ["a"]);
    assert_eq!(reader.missing_blobs(9).unwrap(), [BlobHash([1; 32])]);

    drop(target);
    assert_eq!(Catalogue::open(&live).unwrap().digest().unwrap(), made.digest);
}

#[test]
fn a_copy_that_is_made_while_the_catalogue_changes_is_of_the_entry_that_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let mut source = Ledger::of(Catalogue::open(&live).unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                source.publish(ALICE, &format!("name {number}"), 1);
                number += 1;
            }
        });
        // Each by a reader that has read nothing yet, as copies for other members are.
        let copies = (0..40).map(|number| {
            let path = folder.path().join(format!("copy-{number}"));
            let made = Reader::open(&live).unwrap().copy_to(&path).unwrap();
            (examine(&path).unwrap(), made)
        });
        let copies: Vec<_> = copies.collect();
        done.store(true, Ordering::Relaxed);
        assert!(copies.iter().all(|(found, made)| found == made));
    });
}

#[test]
fn n05_a_copy_that_is_cut_or_changed_is_told_from_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = Ledger::of(Catalogue::open(&folder.path().join("source")).unwrap());
    for number in 0..100 {
        source.publish(ALICE, &format!("name {number}"), 1);
    }
    let path = folder.path().join("copy");
    let made = source.catalogue.copy_to(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let broken = folder.path().join("broken");
    for length in [0, 1, 100, 4_096, bytes.len() / 2, bytes.len() - 4_096] {
        std::fs::write(&broken, &bytes[..length]).unwrap();
        assert!(examine(&broken).is_err(), "{length} bytes");
    }
    let mut changed = bytes.clone();
    for place in 0..bytes.len() - 7 {
        if bytes[place..].starts_with(b"name 42") {
            changed[place] = b'l';
        }
    }
    std::fs::write(&broken, &changed).unwrap();
    assert!(examine(&broken).map_or(true, |found| found.digest != made.digest));
}
