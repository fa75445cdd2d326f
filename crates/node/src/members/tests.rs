use super::*;

fn address(text: &str) -> TrackerAddress {
    text.parse().unwrap()
}

/// A tracker's state in which these are its members, by id and address.
fn status(members: &[(&str, &str)]) -> Vec<u8> {
    let member = |(id, address): &(&str, &str)| serde_json::json!({"id": id, "address": address, "role": "voter"});
    let members: Vec<_> = members.iter().map(member).collect();
    serde_json::to_vec(&serde_json::json!({"version": "obt/1", "members": members})).unwrap()
}

fn shown(members: &Members) -> Vec<String> {
    let mut shown: Vec<_> = members.in_order().iter().map(TrackerAddress::to_string).collect();
    shown.sort();
    shown
}

/// What a new process finds in a state whose file for `lab:6969` has this content.
fn found(content: &[u8]) -> Vec<String> {
    let state = tempfile::tempdir().unwrap();
    fs::create_dir(state.path().join("members")).unwrap();
    fs::write(state.path().join("members/lab_6969.json"), content).unwrap();
    shown(&MemberBook::in_state(state.path()).of(&address("lab:6969")))
}

fn file(members: &[String]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({"tracker": "lab:6969", "members": members, "ids": ["a"]})).unwrap()
}

#[test]
fn what_was_learnt_is_there_at_the_next_start() {
    let state = tempfile::tempdir().unwrap();
    let lab = address("lab:6969");
    let members = MemberBook::in_state(state.path()).of(&lab);
    members.learn(&lab, &status(&[("a", "10.0.0.1:6969"), ("b", "[fd00::2]:7")]));
    let all = ["10.0.0.1:6969", "[fd00::2]:7", "lab:6969"];
    assert_eq!(shown(&members), all);
    assert_eq!(members.in_order().first(), Some(&lab), "it has just answered");
    let second = address("[fd00::2]:7");
    members.failed(&lab);
    members.answered(&second);
    let next = MemberBook::in_state(state.path()).of(&lab);
    assert_eq!((next.in_order().first(), shown(&next)), (Some(&second), all.map(String::from).to_vec()));
    next.learn(&lab, br#"{"version":"obt/1"}"#);
    assert_eq!(shown(&next), ["lab:6969"], "it is alone by now");
    assert_eq!(fs::read_dir(state.path().join("members")).unwrap().count(), 0);
}

#[test]
fn a_tracker_on_this_machine_is_asked_first() {
    let state = tempfile::tempdir().unwrap();
    let here = address("127.0.0.1:6969");
    let members = MemberBook::in_state(state.path()).of(&here);
    members.learn(&here, &status(&[("a", "10.0.0.1:6969"), ("b", "10.0.0.2:6969")]));
    members.answered(&address("10.0.0.1:6969"));
    assert_eq!(MemberBook::in_state(state.path()).of(&here).in_order().first(), Some(&here));
}

#[test]
fn a_member_is_believed_while_it_knows_one_that_we_know() {
    let lab = address("lab:6969");
    let members = Members::alone(lab.clone());
    let first = address("10.0.0.1:6969");
    members.learn(&first, &status(&[("x", "6.6.6.6:6")]));
    assert_eq!(shown(&members), ["lab:6969"]);
    members.learn(&lab, &status(&[("a", "10.0.0.1:6969"), ("b", "10.0.0.2:6969")]));
    members.learn(&first, &status(&[("x", "6.6.6.6:6")]));
    members.learn(&first, br#"{"version":"obt/1","members":[]}"#);
    assert_eq!(shown(&members), ["10.0.0.1:6969", "10.0.0.2:6969", "lab:6969"]);
    members.learn(&first, &status(&[("b", "10.0.0.2:6969"), ("c", "10.0.0.3:6969")]));
    assert_eq!(shown(&members), ["10.0.0.2:6969", "10.0.0.3:6969", "lab:6969"]);
}

#[test]
fn a_tracker_sends_nobody_to_what_is_no_place() {
    let lab = address("lab:6969");
    let bad = [
        "10.0.0.1:0",
        "10.0.0.1",
        ":1",
        "0.0.0.0:1",
        "224.0.0.1:1",
        "[::]:1",
        "255.255.255.255:1",
        "2130706433:1",
        "0x7f.1:1",
        "host.127:1",
        "a b:1",
        "host\n:1",
        "\u{1b}[2J:1",
        "user@host:1",
        "host/path:1",
        "http://host:1",
        "h\u{f6}st:1",
        "host:65536",
        "127.0.0.1:22",
        "[::1]:22",
        "localhost:22",
        "",
    ];
    for text in bad {
        let members = Members::alone(lab.clone());
        members.learn(&lab, &status(&[("a", text), ("b", "node-2.lab:1")]));
        assert_eq!(shown(&members), ["lab:6969", "node-2.lab:1"], "{text:?}");
        assert_eq!(
            found(&file(&[text.to_owned(), "node-2.lab:1".to_owned()])),
            ["lab:6969", "node-2.lab:1"],
            "{text:?}"
        );
    }
}

#[test]
fn no_more_members_are_known_than_a_tracker_can_have() {
    let lab = address("lab:6969");
    let members = Members::alone(lab.clone());
    let many: Vec<_> = (0..1_000).map(|n| (n.to_string(), format!("10.0.{}.{}:6969", n / 250, n % 250))).collect();
    let mut told: Vec<_> =
        many.iter().map(|(id, at)| serde_json::json!({"id": id, "address": at, "role": "learner"})).collect();
    told.push(serde_json::json!({"id": "v", "address": "10.9.9.9:1", "role": "voter"}));
    members.learn(&lab, &serde_json::to_vec(&serde_json::json!({"version": "obt/1", "members": told})).unwrap());
    assert_eq!(members.in_order().len(), MEMBERS + 1);
    assert!(shown(&members).contains(&"10.9.9.9:1".to_owned()), "voters first");
    for nonsense in [&b""[..], b"[", b"null", b"[]", br#"{}"#, br#"{"version":"1","members":7}"#] {
        members.learn(&lab, nonsense);
        assert_eq!(members.in_order().len(), MEMBERS + 1, "{nonsense:?}");
    }
}

#[test]
fn a_file_that_we_would_not_write_counts_as_absent() {
    let good = |count: usize| (0..count).map(|n| format!("10.0.0.{n}:1")).collect::<Vec<_>>();
    assert_eq!(found(&file(&good(MEMBERS))).len(), MEMBERS + 1);
    let alone = ["lab:6969"];
    assert_eq!(found(&file(&(0..1_000).map(|n| format!("h{n}:1")).collect::<Vec<_>>())), alone);
    assert_eq!(found(&file(&good(MEMBERS + 2))), alone);
    let huge = serde_json::json!({"tracker": "lab:6969", "members": ["h:1"], "ids": [], "more": "x".repeat(1 << 20)});
    assert_eq!(found(huge.to_string().as_bytes()), alone);
    let other = serde_json::json!({"tracker": "other:6969", "members": ["h:1"], "ids": []});
    assert_eq!(found(other.to_string().as_bytes()), alone);
    for nonsense in [&b""[..], b"\xff\xfe", b"[[[[", br#"{"tracker":"lab:6969"}"#] {
        assert_eq!(found(nonsense), alone, "{nonsense:?}");
    }
    let state = tempfile::tempdir().unwrap();
    fs::create_dir_all(state.path().join("members/lab_6969.json")).unwrap();
    assert_eq!(shown(&MemberBook::in_state(state.path()).of(&address("lab:6969"))), alone);
}

#[test]
fn the_folder_holds_a_bounded_number_of_trackers() {
    let state = tempfile::tempdir().unwrap();
    let book = MemberBook::in_state(state.path());
    for port in 1..=u16::try_from(MEMBER_FILES).unwrap() + 10 {
        let tracker = TrackerAddress::new("lab", port).unwrap();
        book.of(&tracker).learn(&tracker, &status(&[("a", "10.0.0.1:1")]));
    }
    assert_eq!(fs::read_dir(state.path().join("members")).unwrap().count(), MEMBER_FILES);
}

#[test]
fn the_list_is_asked_for_once_and_again_after_a_while() {
    let lab = address("lab:6969");
    let members = Members::alone(lab.clone());
    let now = Instant::now();
    assert!(members.is_due(now));
    assert!(!members.is_due(now));
    assert!(members.is_due(now + MEMBERS_RETRY), "it did not say");
    members.learn(&lab, &status(&[("a", "10.0.0.1:1")]));
    assert!(!members.is_due(now + MEMBERS_FRESH / 2));
    members.answered(&address("10.0.0.1:1"));
    assert!(members.is_due(Instant::now()), "one has gone");
}
