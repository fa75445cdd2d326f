//! `obt` alone on a terminal (one that `script` makes): a request a line, several at once, and sentences for bad ones.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Lab, Obt, SOON, Tracker, assert_holds, eventually, noise};

/// The prompt in a terminal, in the folder `out`.
fn prompt(lab: &Lab) -> Obt {
    let mut command = Command::new("script");
    command.args(["-qefc", "exec \"$OBT\"", "/dev/null"]);
    command.current_dir(lab.folder("out")).env("OBT", crate::harness::binary()).env("HOME", lab.path("home"));
    command.env("OBT_PEER_LISTEN", "127.0.0.1:0").env("SHELL", "/bin/sh").stdin(Stdio::piped());
    let prompt = Obt::spawn(command);
    prompt.prints("hostname port filename: ");
    prompt
}

fn share(lab: &Lab, names: &[&str]) -> Tracker {
    for (seed, name) in (0..).zip(names) {
        lab.file(format!("data/{name}"), &noise(seed, 2_000_000));
    }
    let share = lab.share("one", names.iter().map(|name| lab.path("data").join(name)));
    share.obt.events("sharing", names.len());
    for name in names {
        share.until_held(name, 1);
    }
    share
}

#[test]
fn several_requests_at_once_are_fetched_and_served_on() {
    let lab = Lab::new();
    let names = ["first.bin", "a film: part 1.mkv", "third@home"];
    let share = share(&lab, &names);
    let mut prompt = prompt(&lab);
    let mut keys = prompt.stdin();
    for name in names {
        keys.write_all(format!("127.0.0.1 {} {name}\n", share.port).as_bytes()).unwrap();
    }
    for (seed, name) in (0..).zip(names) {
        let path = lab.path("out").join(name);
        eventually(name, SOON, || path.exists().then_some(()));
        assert_holds(&path, &noise(seed, 2_000_000));
        share.until_held(name, 2);
    }
    prompt.prints("verified");
    keys.write_all(&[3]).unwrap();
    let asked = Instant::now();
    prompt.ends().exits(0);
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[test]
fn bad_lines_get_a_sentence_and_another_chance() {
    let lab = Lab::new();
    let share = share(&lab, &["good.bin"]);
    let port = share.port;
    let mut prompt = prompt(&lab);
    let mut keys = prompt.stdin();
    for (line, answer) in [
        ("hello".to_owned(), "three things, please"),
        ("127.0.0.1 x name".to_owned(), "\"x\" is not a port"),
        ("127.0.0.1 0 name".to_owned(), "\"0\" is not a port"),
        ("127.0.0.1 99999 name".to_owned(), "\"99999\" is not a port"),
        ("ho/st 1 name".to_owned(), "\"ho/st\" is not a host name"),
        (format!("127.0.0.1 {port} ../../etc/passwd"), "is no name"),
        (format!("127.0.0.1 {port} missing"), "nobody shares \"missing\""),
        ("127.0.0.1 1 name".to_owned(), "cannot reach the tracker"),
        (String::new(), "hostname port filename: "),
        (format!("  127.0.0.1   {port}   good.bin  "), "verified"),
    ] {
        keys.write_all(format!("{line}\n").as_bytes()).unwrap();
        prompt.prints(answer);
    }
    assert_holds(lab.path("out/good.bin"), &noise(0, 2_000_000));
    // The end of the input ends it.
    keys.write_all(&[4]).unwrap();
    prompt.ends().exits(0);
}

#[test]
fn without_a_terminal_it_says_how_it_is_used() {
    let lab = Lab::new();
    let ended = lab.run::<&str>([]).exits(2);
    assert!(ended.err.contains("Usage: obt"), "{ended}");
}
