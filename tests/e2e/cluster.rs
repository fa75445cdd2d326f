//! Trackers that are one service, as processes: they join by a line, and go on when one of them is killed.

use std::fs;

use serde_json::Value;

use crate::harness::{Lab, SOON, Tracker, assert_holds, eventually, noise};

pub(crate) fn status(lab: &Lab, state: &str) -> Value {
    lab.run(["cluster", "status", "--json", "--state", state]).exits(0).last()
}

pub(crate) fn join(lab: &Lab, member: &str, state: &str) -> Tracker {
    let line = lab.run(["cluster", "invite", "--json", "--state", member]).exits(0).last();
    let line = line["join"].as_str().unwrap().to_owned();
    Tracker::of(lab.start(["tracker", "--json", "--state", state, "--join", &line]))
}

fn voters(status: &Value) -> usize {
    status["members"].as_array().unwrap().iter().filter(|member| member["role"] != "learner").count()
}

/// The states of [`three`] members.
pub(crate) const STATES: [&str; 3] = ["tracker", "two", "three"];

/// Three members, by the names of their states.
pub(crate) fn three(lab: &Lab) -> Vec<(&'static str, Tracker)> {
    let members = [lab.tracker(), join(lab, "tracker", "two"), join(lab, "two", "three")];
    for state in STATES {
        eventually("three vote", SOON, || (voters(&status(lab, state)) == 3).then_some(()));
    }
    STATES.into_iter().zip(members).collect()
}

#[test]
fn a_leader_that_is_killed_is_not_missed() {
    let lab = Lab::new();
    let mut members = three(&lab);
    let bytes = noise(1, 3_000_000);
    lab.file("data/x", &bytes);
    lab.file("data/y", b"later");
    let _one = lab.publish(&members[1].1, "one", ["data/x"]);

    // Who announces to one member is known to all.
    for (number, (_, member)) in members.iter().enumerate() {
        member.until_held("x", 1);
        lab.get(member, "x", &format!("early-{number}")).ends().exits(0);
        assert_holds(lab.path(format!("early-{number}")).join("x"), &bytes);
    }

    let led = status(&lab, "tracker");
    let is_leader = |state: &str| status(&lab, state)["id"] == led["leader"];
    let at = members.iter().position(|(state, _)| is_leader(state)).unwrap();
    members.remove(at).1.obt.kill();

    for (number, (_, member)) in members.iter().enumerate() {
        let state = format!("later-{number}");
        let _share = lab.publish(member, &state, ["data/y", "--as", &state]);
        member.until_held(&state, 1);
        lab.get(member, &state, &format!("got-{number}")).ends().exits(0);
        assert_holds(lab.path(format!("got-{number}")).join(&state), b"later");
    }
    // What was published before is there, and its holder, whichever member it had announced to.
    for (number, (_, member)) in members.iter().enumerate() {
        member.until_held("x", 1);
        lab.get(member, "x", &format!("again-{number}")).ends().exits(0);
        assert_holds(lab.path(format!("again-{number}")).join("x"), &bytes);
    }
}

#[test]
fn a_member_that_leaves_can_begin_anew() {
    let lab = Lab::new();
    let mut members = three(&lab);
    let (state, gone) = members.remove(2);
    lab.run(["cluster", "leave", "--state", state]).exits(0);
    gone.obt.ends().exits(0);
    eventually("it is gone", SOON, || {
        (status(&lab, "tracker")["members"].as_array().unwrap().len() == 2).then_some(())
    });
    assert!(lab.path("three/left/catalogue.sqlite").exists());
    let _back = join(&lab, "tracker", "three");
    eventually("it is a member again", SOON, || (voters(&status(&lab, "two")) == 3).then_some(()));
}

#[test]
fn who_shares_may_join_and_publish_at_once() {
    let lab = Lab::new();
    let one = lab.tracker();
    lab.file("data/x", b"x");
    lab.file("folder/y", b"y");
    let line = || lab.run(["cluster", "invite", "--json", "--state", "tracker"]).exits(0).last();
    let joined = line();
    let _share = lab.start(["share", "data/x", "--state", "two", "--json", "--join", joined["join"].as_str().unwrap()]);
    one.until_held("x", 1);
    let joined = line();
    let _peer = lab.start(["peer", "folder", "--state", "three", "--json", "--join", joined["join"].as_str().unwrap()]);
    one.until_held("y", 1);
    eventually("three vote", SOON, || (voters(&status(&lab, "three")) == 3).then_some(()));
}

#[test]
fn what_is_left_of_a_cluster_is_recovered_and_others_join_it() {
    let lab = Lab::new();
    let mut members = three(&lab);
    lab.file("data/x", b"x");
    let share = lab.publish(&members[0].1, "one", ["data/x"]);
    members[2].1.until_held("x", 1);
    lab.run(["cluster", "recover", "--yes", "--state", "three"]).fails(2, "is in use");
    let (state, left) = members.pop().unwrap();
    for (_, member) in members {
        member.obt.kill();
    }
    left.obt.kill();
    lab.run(["cluster", "recover", "--state", state]).fails(2, "gives up what the other members had");
    let told = lab.run(["cluster", "recover", "--yes", "--json", "--state", state]).exits(0).last();
    assert!(told["log_lost"].is_null(), "{told}");
    drop(share);

    let left = Tracker::of(lab.start(["tracker", "--json", "--state", state]));
    let now = status(&lab, state);
    assert_eq!((now["cluster"].clone(), voters(&now)), (told["cluster"].clone(), 1));
    let _again = lab.publish(&left, "one", ["data/x"]);
    left.until_held("x", 1);
    let fourth = join(&lab, state, "four");
    lab.get(&fourth, "x", "got").ends().exits(0);
    assert_holds(lab.path("got/x"), b"x");

    // Who was lost and comes back is of another cluster.
    let _old = Tracker::of(lab.start(["tracker", "--json", "--state", "two"]));
    eventually("it finds nobody to lead", SOON, || (status(&lab, "two")["leader"].is_null()).then_some(()));
    let line = lab.run(["cluster", "invite", "--json", "--state", state]).exits(0).last();
    let other = ["tracker", "--state", "tracker", "--join", line["join"].as_str().unwrap()];
    lab.run(other).fails(2, "another cluster");
}

#[test]
fn a_tracker_that_does_not_run_cannot_be_asked_and_a_line_that_is_none_is_refused() {
    let lab = Lab::new();
    lab.run(["cluster", "status", "--state", "tracker"]).fails(2, "no tracker can be asked");
    lab.run(["tracker", "--state", "tracker", "--join", "nonsense"]).fails(2, "not a join line");
}

#[test]
fn a_tracker_alone_starts_without_a_warning() {
    let lab = Lab::new();
    let tracker = lab.tracker();
    let told = tracker.obt.stop().exits(0).err;
    assert!(!told.contains("WARN"), "{told}");
}

#[test]
fn one_short_question_is_enough_to_know_the_members_from_then_on() {
    let lab = Lab::new();
    let (first, _second) = (lab.tracker(), join(&lab, "tracker", "two"));
    let port = first.port.to_string();
    lab.publish(&first, "one", [lab.file("data/x", b"x")]).stop();
    let states: Vec<String> = (0..8).map(|number| format!("asker-{number}")).collect();
    let find = |state: &String| lab.run(["find", "--state", state, "127.0.0.1", &port]).exits(0);
    for state in &states {
        find(state);
        let kept: Vec<_> = fs::read_dir(lab.path(state).join("members")).unwrap().map(|file| file.unwrap()).collect();
        assert!(kept.len() == 1 && kept[0].path().extension().is_some_and(|end| end == "json"), "{kept:?}");
    }
    first.obt.kill();
    for state in &states {
        find(state);
    }
}
