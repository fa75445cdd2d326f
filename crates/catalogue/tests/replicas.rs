//! Equal entry, equal catalogue; each command once; nothing lost between two openings of the file.

mod support;

use obt_catalogue::signing::PublicKey;
use obt_catalogue::{
    Applied, Authority, Catalogue, CatalogueError, Command, CommandId, Departure, Envelope, Outcome, PublishPolicy,
    Reader, Replace,
};
use obt_wire::InfoHash;
use proptest::prelude::*;
use support::{ALICE, Ledger, NOW, file, folder, name, publish};

fn commands() -> impl Strategy<Value = Command> {
    let names = prop_oneof![Just("a"), Just("a/b"), Just("a@2"), Just("b"), Just("c d")];
    let keys = (1u8..4).prop_map(|seed| PublicKey([seed; 32]));
    let replace = prop_oneof![Just(Replace::No), Just(Replace::Yes)];
    let content = (1u8..5, any::<bool>()).prop_map(|(seed, inside)| if inside { folder(seed) } else { file(seed) });
    let departure = (1u8..6, 0u64..9).prop_map(|(seed, at)| Departure {
        info_hash: InfoHash([seed; 20]),
        holder: format!("192.0.2.{seed}:{}", 6_881 + at),
        at_ms: NOW + at,
    });
    prop_oneof![
        8 => (keys.clone(), names.clone(), content, replace)
            .prop_map(|(key, name, content, replace)| publish(key, name, content, replace)),
        3 => (names, proptest::option::of(1u32..4), proptest::option::of(keys.clone())).prop_map(|(text, version, key)| {
            Command::Withdraw { name: name(text), version, by: key.map_or(Authority::Operator, Authority::Key) }
        }),
        2 => (keys.clone(), proptest::option::of(0u32..4))
            .prop_map(|(key, names)| Command::AddKey { key, label: "label".to_owned(), names }),
        1 => keys.prop_map(|key| Command::RevokeKey { key }),
        1 => any::<bool>().prop_map(|open| Command::SetPublishPolicy {
            policy: if open { PublishPolicy::Open } else { PublishPolicy::Keys },
        }),
        1 => proptest::collection::vec(departure, 0..4).prop_map(|departures| Command::RecordDepartures { departures }),
    ]
}

/// Commands with ids of which some repeat, and with times that go by hours.
fn log() -> impl Strategy<Value = Vec<Envelope>> {
    let entry = (commands(), 0u8..40, 0u64..48);
    proptest::collection::vec(entry, 1..40).prop_map(|entries| {
        let entries = entries.into_iter();
        entries
            .map(|(command, id, hours)| Envelope::new(CommandId([id; 16]), NOW + hours * 3_600_000, command))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_same_commands_make_the_same_catalogue(log in log(), cut in 0usize..40) {
        let mut one = Catalogue::in_memory().unwrap();
        let outcomes: Vec<Outcome> = log.iter().map(|entry| one.apply(std::slice::from_ref(entry)).unwrap().remove(0)).collect();

        let mut other = Catalogue::in_memory().unwrap();
        let decoded: Vec<Envelope> = log.iter().map(|entry| Envelope::decode(&entry.encode().unwrap()).unwrap()).collect();
        let (first, second) = decoded.split_at(cut.min(log.len()));
        let mut others = other.apply(first).unwrap();
        others.extend(other.apply(second).unwrap());

        prop_assert_eq!(outcomes, others);
        prop_assert_eq!(one.digest().unwrap(), other.digest().unwrap());
        for reader in [&one, &other] {
            for record in reader.keys().unwrap() {
                let entries = reader.search("", None, 100).unwrap().entries;
                let versions: Vec<_> = entries.iter().flat_map(|entry| reader.versions(&entry.name).unwrap()).collect();
                let own = versions.iter().filter(|entry| entry.publisher == record.key).count();
                prop_assert_eq!(record.versions as usize, own);
            }
        }
    }
}

#[test]
fn a_repeated_command_gets_its_first_answer_whatever_time_it_is() {
    let mut ledger = Ledger::new();
    let first = ledger.envelope(publish(ALICE, "a", file(1), Replace::No));
    let apply =
        |ledger: &mut Ledger, envelope: &Envelope| ledger.catalogue.apply(std::slice::from_ref(envelope)).unwrap();
    assert_eq!(apply(&mut ledger, &first), [Outcome::Published { version: 1 }]);
    ledger.run(Command::Withdraw { name: name("a"), version: None, by: Authority::Key(ALICE) });
    assert_eq!(apply(&mut ledger, &first), [Outcome::Published { version: 1 }]);
    assert_eq!(ledger.catalogue.count().unwrap(), 0, "it is not published again");
    // Another leader, whose clock is weeks off, and then one whose clock is right again.
    const DAY: u64 = 24 * 3_600_000;
    for now in [NOW + 20 * DAY, NOW - 20 * DAY, NOW] {
        ledger.now = now;
        ledger.run(Command::SetPublishPolicy { policy: PublishPolicy::Open });
        let mut again = first.clone();
        again.time_ms = now;
        assert_eq!(apply(&mut ledger, &again), [Outcome::Published { version: 1 }]);
        assert_eq!(ledger.catalogue.count().unwrap(), 0, "it is not published again");
    }
}

#[test]
fn ids_of_commands_are_forgotten_after_a_day_with_many_others() {
    let mut ledger = Ledger::new();
    let first = ledger.envelope(publish(ALICE, "a", file(1), Replace::No));
    ledger.catalogue.apply(std::slice::from_ref(&first)).unwrap();
    ledger.run(Command::Withdraw { name: name("a"), version: None, by: Authority::Key(ALICE) });
    ledger.now = NOW + 24 * 3_600_000 + 1;
    let others: Vec<Envelope> =
        (0..8_700).map(|_| ledger.envelope(Command::SetPublishPolicy { policy: PublishPolicy::Open })).collect();
    ledger.catalogue.apply(&others).unwrap();
    assert_eq!(ledger.catalogue.apply(&[first]).unwrap(), [Outcome::Published { version: 2 }]);
}

#[test]
fn a_catalogue_differs_when_anything_in_it_does() {
    let digest = |content, now| {
        let mut ledger = Ledger::new();
        ledger.now = now;
        ledger.publish(ALICE, "a", content);
        ledger.catalogue.digest().unwrap()
    };
    assert_eq!(digest(1, NOW), digest(1, NOW));
    assert_ne!(digest(1, NOW), digest(2, NOW));
    assert_ne!(digest(1, NOW), digest(1, NOW + 1));
}

#[test]
fn a_replicated_log_goes_forward_only_and_keeps_its_position() {
    let mut ledger = Ledger::new();
    let at = ledger.catalogue.applied().unwrap().entry;
    assert_eq!(at, 2);
    let command = ledger.envelope(publish(ALICE, "a", file(1), Replace::No));
    let to = |entry| Applied { entry, position: b"term 3".to_vec() };
    ledger.catalogue.apply_through(&[command], &to(4)).unwrap();
    ledger.catalogue.apply_through(&[], &to(5)).unwrap();
    assert_eq!(ledger.catalogue.applied().unwrap(), to(5));
    let command = ledger.envelope(publish(ALICE, "b", file(1), Replace::No));
    for entry in [4, 5] {
        let refused = ledger.catalogue.apply_through(std::slice::from_ref(&command), &to(entry));
        assert!(matches!(refused, Err(CatalogueError::OutOfStep { at: 5, .. })));
    }
    assert_eq!(ledger.catalogue.count().unwrap(), 1);
}

#[test]
fn a_file_keeps_what_was_applied_and_readers_see_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue.db");
    assert!(Reader::open(&path).is_err());
    let mut catalogue = Catalogue::open(&path).unwrap();
    let reader = Reader::open(&path).unwrap();
    let key = Envelope::new(CommandId([1; 16]), NOW, Command::AddKey { key: ALICE, label: String::new(), names: None });
    let item = Envelope::new(CommandId([2; 16]), NOW, publish(ALICE, "a", file(1), Replace::No));
    catalogue.apply(&[key, item]).unwrap();
    assert_eq!(reader.count().unwrap(), 1);
    let digest = catalogue.digest().unwrap();
    drop(catalogue);
    let mut second = Catalogue::open(&path).unwrap();
    assert_eq!(second.digest().unwrap(), digest);
    let mut third = Catalogue::open(&path).unwrap();
    let item = |id, name| Envelope::new(CommandId([id; 16]), NOW, publish(ALICE, name, file(1), Replace::No));
    second.apply(&[item(3, "b")]).unwrap();
    third.apply(&[item(4, "c")]).unwrap();
    assert_eq!(reader.count().unwrap(), 3);
    assert_eq!(reader.digest().unwrap(), second.digest().unwrap());
}

#[test]
fn files_of_others_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)").unwrap();
    assert!(matches!(Catalogue::open(&path), Err(CatalogueError::NotCatalogue)));
    assert!(matches!(Reader::open(&path), Err(CatalogueError::NotCatalogue)));
    let newer = folder.path().join("newer.db");
    drop(Catalogue::open(&newer).unwrap());
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Catalogue::open(&newer), Err(CatalogueError::NewerSchema { schema: 99 })));
}

#[test]
fn blobs_stand_beside_the_log_and_go_when_nothing_names_them() {
    let mut ledger = Ledger::new();
    let digest = ledger.catalogue.digest().unwrap();
    let kept = ledger.catalogue.put_blob(b"kept", NOW).unwrap();
    let lost = ledger.catalogue.put_blob(b"lost", NOW).unwrap();
    assert_eq!(ledger.catalogue.put_blob(b"kept", NOW).unwrap(), kept);
    assert_eq!(ledger.catalogue.digest().unwrap(), digest);
    let content = obt_catalogue::Content { blob: kept, ..file(1) };
    ledger.run(publish(ALICE, "a", content, Replace::No));
    let later = NOW + 2 * 3_600_000;
    assert_eq!(ledger.catalogue.unnamed_blobs(9).unwrap(), [lost]);
    assert_eq!(ledger.catalogue.sweep_blobs(&[lost], NOW + 1).unwrap(), 0, "its command may be under way");
    assert_eq!(ledger.catalogue.sweep_blobs(&[kept, lost], later).unwrap(), 1, "and none that is named meanwhile");
    assert_eq!(ledger.catalogue.blob(kept).unwrap().as_deref(), Some(&b"kept"[..]));
    assert_eq!(ledger.catalogue.blob(lost).unwrap(), None);
}

#[test]
fn downloads_are_counted_beside_the_log() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "a", 1);
    ledger.publish(ALICE, "b", 1);
    ledger.replace(ALICE, "a", 2);
    let digest = ledger.catalogue.digest().unwrap();
    ledger.catalogue.record_downloads(&[(InfoHash([1; 20]), 4), (InfoHash([9; 20]), 5)]).unwrap();
    ledger.catalogue.record_downloads(&[(InfoHash([1; 20]), 6)]).unwrap();
    let mut contents = ledger.catalogue.contents().unwrap();
    contents.sort_unstable();
    assert_eq!(contents, [(support::hashes(1), 6), (support::hashes(2), 0)]);
    assert_eq!(ledger.catalogue.digest().unwrap(), digest);
}
