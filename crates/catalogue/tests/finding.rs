//! Search, pages and cursors, and finding by hash.

mod support;

use obt_catalogue::{Authority, Command, Departure, QueryError, Replace};
use obt_wire::{InfoHash, Sha256Hash};
use proptest::prelude::*;
use support::{ALICE, BOB, Ledger, NOW, file, hashes, name, publish};
use unicode_normalization::UnicodeNormalization;

fn ledger(names: &[&str]) -> Ledger {
    let mut ledger = Ledger::new();
    for name in names {
        ledger.publish(ALICE, name, 1);
    }
    ledger
}

#[test]
fn words_are_found_in_any_order_whatever_their_case_and_accents() {
    let ledger = ledger(&["Amélie (2001).mkv", "The Matrix.mkv", "matrix/reloaded.mkv", "日本/映画.mp4", "a b"]);
    assert_eq!(ledger.names("amelie"), ["Amélie (2001).mkv"]);
    assert_eq!(ledger.names("AMÉLIE 2001"), ["Amélie (2001).mkv"]);
    assert_eq!(ledger.names("matrix the"), ["The Matrix.mkv"]);
    assert_eq!(ledger.names("trix"), ["The Matrix.mkv", "matrix/reloaded.mkv"]);
    assert_eq!(ledger.names("x/r"), ["matrix/reloaded.mkv"]);
    assert_eq!(ledger.names("映"), ["日本/映画.mp4"]);
    assert_eq!(ledger.names("日本 mp4"), ["日本/映画.mp4"]);
    assert_eq!(ledger.names("nothing"), [""; 0]);
    assert_eq!(ledger.names("").len(), 5);
    assert_eq!(ledger.names("  ").len(), 5);
}

#[test]
fn a_word_of_thousands_of_names_is_found_where_they_all_come_last() {
    let mut ledger = Ledger::new();
    let (early, late) = (10_050, 4_050);
    let names =
        (0..early).map(|number| format!("aa {number:05}")).chain((0..late).map(|number| format!("zebra {number:04}")));
    let commands: Vec<_> = names
        .enumerate()
        .map(|(at, name)| ledger.envelope(publish(if at < 7_500 { ALICE } else { BOB }, &name, file(1), Replace::No)))
        .collect();
    ledger.catalogue.apply(&commands).unwrap();
    let first = |text: &str, cursor: Option<&str>| {
        let page = ledger.catalogue.search(text, cursor, 2).unwrap();
        (page.entries.into_iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>(), page.cursor)
    };
    let (page, cursor) = first("zebra", None);
    assert_eq!(page, ["zebra 0000", "zebra 0001"]);
    assert_eq!(first("zebra", cursor.as_deref()).0, ["zebra 0002", "zebra 0003"]);
    assert_eq!(first("ebra z", None).0, ["zebra 0000", "zebra 0001"]);
    assert_eq!(first("zebra 49", None).0, ["zebra 0049", "zebra 0149"]);
    assert_eq!(first("ra 0", None).0, ["zebra 0000", "zebra 0001"], "a short word beside a common one");
    assert_eq!(first("aa zebra", None).0, [""; 0]);
    assert_eq!(first("aa", None).0, ["aa 00000", "aa 00001"]);
    assert_eq!(ledger.catalogue.count().unwrap(), early + late);
}

#[test]
fn q05_names_that_look_alike_know_of_each_other() {
    let mut ledger = ledger(&["Ubuntu 24.04", "Ubuntu 22.04", "plain"]);
    ledger.publish(BOB, "ubuntu 24.O4", 2);
    ledger.publish(BOB, "Ubu\u{43f}tu 24.04", 3);
    let similar = |ledger: &Ledger, text: &str| -> Vec<String> {
        ledger.catalogue.lookalikes(&name(text)).unwrap().into_iter().map(String::from).collect()
    };
    assert_eq!(similar(&ledger, "Ubuntu 24.04"), ["Ubu\u{43f}tu 24.04", "ubuntu 24.O4"]);
    assert_eq!(similar(&ledger, "ubuntu 24.O4"), ["Ubuntu 24.04", "Ubu\u{43f}tu 24.04"]);
    assert_eq!(similar(&ledger, "PLAIN"), ["plain"], "also of names that are not there yet");
    assert_eq!(similar(&ledger, "Ubuntu 22.04"), [""; 0]);
    let all = Command::Withdraw { name: name("ubuntu 24.O4"), version: None, by: Authority::Key(BOB) };
    ledger.run(all);
    assert_eq!(similar(&ledger, "Ubuntu 24.04"), ["Ubu\u{43f}tu 24.04"], "what was withdrawn misleads nobody");
}

#[test]
fn q01_search_text_is_never_syntax() {
    let names = ["100% (a*b).mkv", "a_b", "O'Neill; DROP TABLE name", "x\"y\" OR z", "NEAR(a b)", "plain"];
    let ledger = ledger(&names);
    for (text, found) in [
        ("%", vec![0]),
        ("_", vec![1]),
        ("*", vec![0]),
        ("'; DROP TABLE", vec![]),
        ("o'neill; drop", vec![2]),
        ("\"y\"", vec![3]),
        ("\"y\" OR", vec![3]),
        ("NEAR(a", vec![4]),
        ("plain*", vec![]),
        ("^plain", vec![]),
        ("folded:plain", vec![]),
        ("plain OR a_b", vec![]),
        (".*.*.*(a+)+$", vec![]),
        ("\u{202e}nialp", vec![]),
        ("pla\0in", vec![]),
        ("\u{1b}[0m", vec![]),
        ("\\", vec![]),
        ("-plain", vec![]),
    ] {
        let mut expected: Vec<&str> = found.into_iter().map(|at: usize| names[at]).collect();
        expected.sort_unstable();
        assert_eq!(ledger.names(text), expected, "{text:?}");
    }
}

#[test]
fn q01_long_texts_are_refused_and_many_words_are_answered() {
    let ledger = ledger(&["abc"]);
    assert!(matches!(ledger.catalogue.search(&"x".repeat(257), None, 10), Err(QueryError::TooLong)));
    let words: Vec<String> = (0..128).map(|word| ((b'a' + word % 26) as char).to_string()).collect();
    assert_eq!(ledger.names(&words.join(" ")), [""; 0]);
    let words: Vec<String> = (0..64).map(|word| format!("{word:03}")).collect();
    assert_eq!(ledger.names(&words.join(" ")), [""; 0]);
}

#[test]
fn q02_limits_are_clamped_and_cursors_checked() {
    let names: Vec<String> = (0..230).map(|number| format!("item {number:03}")).collect();
    let ledger = ledger(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let page = |text: &str, cursor: Option<&str>, limit| ledger.catalogue.search(text, cursor, limit);
    let first = page("item", None, u32::MAX).unwrap();
    assert_eq!(first.entries.len(), 100);
    assert_eq!(page("item", None, 0).unwrap().entries.len(), 1);
    let second = page("item", first.cursor.as_deref(), 100).unwrap();
    let third = page("item", second.cursor.as_deref(), 100).unwrap();
    assert_eq!(third.entries.len(), 30);
    assert_eq!(third.cursor, None);
    assert!(matches!(page("items", first.cursor.as_deref(), 100), Err(QueryError::Cursor)));
    assert!(matches!(page("item", Some("forged"), 100), Err(QueryError::Cursor)));
    assert_eq!(ledger.names("item"), names);
    assert_eq!(page("22 item", None, 12).unwrap().cursor, None, "a page that is just full is the last");
}

#[test]
fn words_that_most_names_hold_are_found_like_others() {
    let mut ledger = Ledger::new();
    let names: Vec<String> = (0..4_100).map(|number| format!("common {number:04} qz")).collect();
    let commands: Vec<_> = names
        .iter()
        .map(|name| ledger.envelope(support::publish(ALICE, name, support::file(1), obt_catalogue::Replace::No)))
        .collect();
    ledger.catalogue.apply(&commands).unwrap();
    for text in ["common 4099", "common z", "q 4099", "qz 41 om", "zz", "common x"] {
        let found = ledger.catalogue.search(text, None, 100).unwrap().entries;
        let found: Vec<String> = found.into_iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(found, naive(&names, text).into_iter().take(100).collect::<Vec<_>>(), "{text:?}");
    }
}

#[test]
fn a_list_goes_on_where_it_was_though_names_come_and_go() {
    let mut ledger = ledger(&["a", "b", "c", "d"]);
    let page = ledger.catalogue.search("", None, 2).unwrap();
    ledger.publish(ALICE, "aa", 1);
    ledger.run(Command::Withdraw { name: name("b"), version: None, by: obt_catalogue::Authority::Operator });
    let rest = ledger.catalogue.search("", page.cursor.as_deref(), 10).unwrap();
    assert_eq!(rest.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["c", "d"]);
}

#[test]
fn a_content_is_found_by_either_name_of_its_swarm() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "a", 1);
    ledger.publish(BOB, "b", 1);
    ledger.replace(ALICE, "a", 2);
    let found = |hash: InfoHash| -> Vec<(String, u32)> {
        let entries = ledger.catalogue.by_info_hash(hash).unwrap().into_iter();
        entries.map(|entry| (entry.name.to_string(), entry.version)).collect()
    };
    let both = [("b".to_owned(), 1), ("a".to_owned(), 1)];
    assert_eq!(found(InfoHash([1; 20])), both);
    assert_eq!(found(InfoHash::from(Sha256Hash([1; 32]))), both);
    assert_eq!(found(InfoHash([2; 20])), [("a".to_owned(), 2)]);
    assert_eq!(found(InfoHash([9; 20])), []);
}

#[test]
fn the_last_holder_of_a_content_is_remembered_until_the_content_goes() {
    let mut ledger = Ledger::new();
    ledger.publish(ALICE, "a", 1);
    let departure = |hash, holder: &str, at_ms| Departure { info_hash: hash, holder: holder.to_owned(), at_ms };
    let departures = vec![
        departure(InfoHash([1; 20]), "192.0.2.1:6881", NOW + 5),
        departure(InfoHash([1; 20]), "192.0.2.2:6881", NOW + 4),
        departure(InfoHash([9; 20]), "192.0.2.3:6881", NOW + 9),
        departure(InfoHash([1; 20]), &"x".repeat(301), NOW + 9),
    ];
    ledger.run(Command::RecordDepartures { departures });
    let last = ledger.catalogue.last_holder(&hashes(1)).unwrap().unwrap();
    assert_eq!((last.holder.as_str(), last.at_ms), ("192.0.2.1:6881", NOW + 5));
    assert_eq!(ledger.catalogue.last_holder(&hashes(9)).unwrap(), None);
    ledger.run(Command::Withdraw { name: name("a"), version: None, by: obt_catalogue::Authority::Operator });
    assert_eq!(ledger.catalogue.last_holder(&hashes(1)).unwrap(), None);
}

/// What a person expects, written without an index.
fn naive(names: &[String], text: &str) -> Vec<String> {
    let fold = |text: &str| -> String {
        let plain = text.nfkd().filter(|letter| !('\u{300}'..='\u{36f}').contains(letter));
        plain.flat_map(char::to_lowercase).collect()
    };
    let words: Vec<String> = fold(text).split_whitespace().map(str::to_owned).collect();
    let mut found: Vec<String> =
        names.iter().filter(|name| words.iter().all(|word| fold(name).contains(word))).cloned().collect();
    found.sort_unstable();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn search_finds_what_a_walk_over_all_names_finds(
        mut names in proptest::collection::vec("[aAbBéÉ%_\"* 本/]{1,12}", 1..30),
        texts in proptest::collection::vec("[aAbBéÉ%_\"* 本/]{0,8}", 1..10),
    ) {
        names.retain(|text| obt_catalogue::Name::parse(text).is_ok());
        names.sort_unstable();
        names.dedup();
        let ledger = ledger(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for text in texts {
            prop_assert_eq!(ledger.names(&text), naive(&names, &text), "{:?}", text);
        }
    }

    #[test]
    fn q01_no_text_makes_a_search_fail(text in "\\PC{0,60}") {
        let ledger = ledger(&["abc"]);
        prop_assert!(ledger.catalogue.search(&text, None, 10).is_ok());
    }
}
