//! Who gets a name, what a second publisher hears, and what outlives a withdrawal.

mod support;

use obt_catalogue::signing::PublicKey;
use obt_catalogue::{
    Authority, Command, Content, Denial, NameArgument, Outcome, PublishPolicy, Replace, Resolved, Selector,
};
use obt_wire::{InfoHashes, Sha256Hash};
use support::{ALICE, BOB, Ledger, file, folder, hashes, name, publish};

const PUBLISHED_1: Outcome = Outcome::Published { version: 1 };

fn withdraw(name: &str, version: Option<u32>, by: Authority) -> Command {
    Command::Withdraw { name: support::name(name), version, by }
}

#[test]
fn q03_a_name_is_owned_by_its_first_publisher() {
    let mut ledger = Ledger::new();
    assert_eq!(ledger.publish(ALICE, "movie.mkv", 1), PUBLISHED_1);
    assert_eq!(ledger.publish(BOB, "movie.mkv", 2), Outcome::OwnedBy { key: ALICE });
    assert_eq!(ledger.replace(BOB, "movie.mkv", 2), Outcome::OwnedBy { key: ALICE });
    assert_eq!(ledger.publish(BOB, "Movie.mkv", 2), PUBLISHED_1, "case makes another name");
}

#[test]
fn the_same_content_is_there_already_whoever_brings_it() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "movie.mkv", 1);
    assert_eq!(ledger.publish(ALICE, "movie.mkv", 1), Outcome::AlreadyThere { version: 1 });
    assert_eq!(ledger.publish(BOB, "movie.mkv", 1), Outcome::AlreadyThere { version: 1 });
    assert_eq!(ledger.publish(PublicKey([9; 32]), "movie.mkv", 1), Outcome::AlreadyThere { version: 1 });
    assert_eq!(ledger.publish(BOB, "other name.mkv", 1), PUBLISHED_1);
}

#[test]
fn a_v2_hash_decides_where_both_contents_have_one() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "movie.mkv", 1);
    let with = |hashes: InfoHashes| publish(BOB, "movie.mkv", Content { hashes, ..file(1) }, Replace::No);
    let same = Outcome::AlreadyThere { version: 1 };
    assert_eq!(ledger.run(with(InfoHashes { v2: None, ..hashes(1) })), same);
    assert_eq!(ledger.run(with(InfoHashes { v1: None, ..hashes(1) })), same);
    let collision = InfoHashes { v2: Some(Sha256Hash([9; 32])), ..hashes(1) };
    assert_eq!(ledger.run(with(collision)), Outcome::OwnedBy { key: ALICE });
}

#[test]
fn other_content_from_the_owner_needs_replace_and_old_versions_stay() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "movie.mkv", 1);
    assert_eq!(ledger.publish(ALICE, "movie.mkv", 2), Outcome::NeedsReplace { version: 1 });
    assert_eq!(ledger.replace(ALICE, "movie.mkv", 2), Outcome::Published { version: 2 });
    assert_eq!(ledger.publish(BOB, "movie.mkv", 1), Outcome::AlreadyThere { version: 1 });
    assert_eq!(ledger.replace(ALICE, "movie.mkv", 1), Outcome::Published { version: 3 }, "back to the old content");
    assert_eq!(ledger.replace(ALICE, "movie.mkv", 1), Outcome::AlreadyThere { version: 3 });

    let found = |text: &str| match ledger.catalogue.resolve(&NameArgument::parse(text).unwrap()).unwrap() {
        Resolved::Found { entry, inner: None } => (entry.version, entry.content.hashes),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(found("movie.mkv"), (3, hashes(1)));
    assert_eq!(found("movie.mkv@2"), (2, hashes(2)));
    assert_eq!(found("movie.mkv@1"), (1, hashes(1)));
    assert_eq!(found("movie.mkv@020202020202"), (2, hashes(2)));
    assert_eq!(found(&format!("movie.mkv@{}", "01".repeat(32))), (3, hashes(1)));
}

#[test]
fn owner_and_version_counter_outlive_a_withdrawal() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "movie.mkv", 1);
    ledger.replace(ALICE, "movie.mkv", 2);
    assert_eq!(
        ledger.run(withdraw("movie.mkv", None, Authority::Key(ALICE))),
        Outcome::Withdrawn { versions: vec![1, 2], contents: vec![hashes(1), hashes(2)] }
    );
    assert_eq!(ledger.catalogue.entry(&name("movie.mkv"), &Selector::Newest).unwrap(), None);
    assert_eq!(ledger.names(""), Vec::<String>::new());
    assert_eq!(ledger.catalogue.owner(&name("movie.mkv")).unwrap(), Some(ALICE));
    assert_eq!(ledger.publish(BOB, "movie.mkv", 3), Outcome::OwnedBy { key: ALICE });
    assert_eq!(ledger.publish(ALICE, "movie.mkv", 3), Outcome::Published { version: 3 });
    assert_eq!(ledger.names("movie"), ["movie.mkv"]);
}

#[test]
fn without_its_newest_version_an_item_is_what_it_was_before() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "movie.mkv", 1);
    ledger.replace(ALICE, "movie.mkv", 2);
    assert_eq!(
        ledger.run(withdraw("movie.mkv", Some(2), Authority::Key(ALICE))),
        Outcome::Withdrawn { versions: vec![2], contents: vec![hashes(2)] }
    );
    let newest = ledger.catalogue.entry(&name("movie.mkv"), &Selector::Newest).unwrap().unwrap();
    assert_eq!((newest.version, newest.content.hashes), (1, hashes(1)));
    assert_eq!(ledger.replace(ALICE, "movie.mkv", 2), Outcome::Published { version: 3 });
}

#[test]
fn q06_only_the_owner_and_the_operator_withdraw() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "movie.mkv", 1);
    assert_eq!(ledger.run(withdraw("movie.mkv", None, Authority::Key(BOB))), Outcome::OwnedBy { key: ALICE });
    assert_eq!(ledger.run(withdraw("nothing", None, Authority::Key(BOB))), Outcome::NotFound);
    assert_eq!(ledger.run(withdraw("movie.mkv", Some(2), Authority::Key(ALICE))), Outcome::NotFound);
    assert_eq!(
        ledger.run(withdraw("movie.mkv", None, Authority::Operator)),
        Outcome::Withdrawn { versions: vec![1], contents: vec![hashes(1)] }
    );
    assert_eq!(ledger.run(withdraw("movie.mkv", None, Authority::Key(ALICE))), Outcome::NotFound);
}

#[test]
fn q04_unknown_and_revoked_keys_do_not_publish() {
    let mut ledger = Ledger::new();
    let stranger = PublicKey([9; 32]);
    let unlisted = Outcome::Forbidden { denial: Denial::Unlisted };
    let revoked = Outcome::Forbidden { denial: Denial::Revoked };
    assert_eq!(ledger.publish(stranger, "a", 1), unlisted);
    ledger.run(Command::SetPublishPolicy { policy: PublishPolicy::Open });
    assert_eq!(ledger.publish(stranger, "a", 1), PUBLISHED_1);
    ledger.run(Command::RevokeKey { key: stranger });
    assert_eq!(ledger.publish(stranger, "b", 1), revoked);
    assert_eq!(ledger.run(withdraw("a", None, Authority::Key(stranger))), revoked);
    ledger.run(Command::SetPublishPolicy { policy: PublishPolicy::Keys });
    assert_eq!(ledger.catalogue.denial(stranger).unwrap(), Some(Denial::Revoked));
    ledger.run(Command::AddKey { key: stranger, label: "back again".to_owned(), names: None });
    assert_eq!(ledger.publish(stranger, "b", 1), PUBLISHED_1);
    let records = ledger.catalogue.keys().unwrap();
    assert_eq!(
        records.iter().map(|record| (record.names, record.versions)).collect::<Vec<_>>(),
        [(0, 0), (0, 0), (2, 2)]
    );
    assert_eq!(records[2].label, "back again");
}

#[test]
fn q03_a_publisher_has_a_quota_of_names_and_of_versions() {
    let mut ledger = Ledger::new();
    ledger.run(Command::AddKey { key: ALICE, label: String::new(), names: Some(2) });
    assert_eq!(ledger.publish(ALICE, "a", 1), PUBLISHED_1);
    assert_eq!(ledger.publish(ALICE, "b", 1), PUBLISHED_1);
    let full = Outcome::Forbidden { denial: Denial::NameQuota { names: 2 } };
    assert_eq!(ledger.publish(ALICE, "c", 1), full);
    ledger.run(withdraw("a", None, Authority::Key(ALICE)));
    assert_eq!(ledger.publish(ALICE, "c", 1), full, "a withdrawn name is owned still");
    for content in 2..21 {
        assert!(matches!(ledger.replace(ALICE, "b", content), Outcome::Published { .. }));
    }
    let full = Outcome::Forbidden { denial: Denial::VersionQuota { versions: 20 } };
    assert_eq!(ledger.replace(ALICE, "b", 21), full);
    assert_eq!(ledger.publish(BOB, "c", 1), PUBLISHED_1);
}

#[test]
fn nobody_puts_content_in_front_of_anothers() {
    let mut ledger = Ledger::new();
    ledger.run(publish(ALICE, "shows", folder(1), Replace::No));
    ledger.publish(ALICE, "movie", 2);
    let alices = Outcome::OwnedBy { key: ALICE };
    assert_eq!(ledger.publish(BOB, "shows/s1/e1.mkv", 9), alices);
    assert_eq!(ledger.publish(BOB, "movie@2", 9), alices);
    assert_eq!(ledger.publish(BOB, "movie/extras", 9), PUBLISHED_1, "there is nothing inside a file");
    assert_eq!(ledger.publish(BOB, "photo@2", 9), PUBLISHED_1);
    assert_eq!(ledger.publish(ALICE, "shows/s1/e1.mkv", 9), PUBLISHED_1);
}

#[test]
fn contents_that_cannot_be_are_refused() {
    let mut ledger = Ledger::new();
    for content in [
        Content { hashes: InfoHashes { v1: None, v2: None }, ..file(1) },
        Content { size: u64::MAX, ..file(1) },
        Content { files: 0, ..file(1) },
        Content { piece_length: 0, ..file(1) },
    ] {
        assert_eq!(ledger.run(publish(ALICE, "a", content, Replace::No)), Outcome::Invalid);
    }
    let label = "x".repeat(129);
    assert_eq!(ledger.run(Command::AddKey { key: ALICE, label, names: None }), Outcome::Invalid);
}

#[test]
fn a_name_leads_to_an_item_a_version_or_a_place_inside() {
    let mut ledger = Ledger::new();
    ledger.run(publish(ALICE, "shows", folder(1), Replace::No));
    ledger.publish(ALICE, "icon@2", 2);
    let resolve = |text: &str| ledger.catalogue.resolve(&NameArgument::parse(text).unwrap()).unwrap();
    let Resolved::Found { entry, inner } = resolve("shows/s1/e1.mkv@1") else { panic!("not found") };
    assert_eq!((entry.name, inner.as_deref()), (name("shows"), Some("s1/e1.mkv")));
    assert!(matches!(resolve("icon@2"), Resolved::Found { entry, inner: None } if entry.name == name("icon@2")));
    assert_eq!(resolve("shows@7"), Resolved::NoVersion { name: name("shows"), newest: 1 });
    assert_eq!(resolve("shows@ffffffffffff"), Resolved::NoVersion { name: name("shows"), newest: 1 });
    assert_eq!(resolve("show"), Resolved::NoItem);
}
