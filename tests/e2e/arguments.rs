//! What is typed: help, mistakes, names and folders that are none. Each mistake gets one sentence and exit 2, at once.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Lab, Obt, noise};

/// A port of which nothing is expected.
const NOWHERE: [&str; 2] = ["127.0.0.1", "1"];

#[test]
fn c01_help_is_for_people_and_ends_with_0() {
    let lab = Lab::new();
    let help = lab.run(["--help"]).exits(0).text();
    for command in ["get", "share", "peer", "tracker", "find", "peers", "download", "create", "inspect", "verify"] {
        assert!(help.contains(&format!("\n  {command} ")), "no {command} in {help}");
        let help = lab.run([command, "--help"]).exits(0).text();
        assert!(help.contains("Usage: "), "{help}");
    }
    assert!(lab.run(["--version"]).exits(0).text().starts_with("obt "));
}

#[test]
fn c01_unknown_flags_are_refused_and_the_nearest_is_named() {
    let lab = Lab::new();
    let ended = lab.run(["--jsom"]).fails(2, "--jsom");
    assert!(ended.err.contains("--json"), "{ended}");
    assert!(ended.out.is_empty());
    lab.run(["fetch"]).fails(2, "fetch");
    let ended = lab.run::<&str>([]).exits(2);
    assert!(ended.err.contains("Usage: "), "{ended}");
}

#[test]
fn c02_names_that_are_none_are_refused() {
    let lab = Lab::new();
    for name in ["", " ", "a//b", "/a", "../a", "a/./b", "a/..", &"x".repeat(1_025), &"x".repeat(100_000)] {
        let ended = lab.run(["get", NOWHERE[0], NOWHERE[1], name]).fails(2, "is no name");
        assert!(ended.took < Duration::from_secs(2), "{ended}");
    }
}

#[test]
fn c03_names_may_look_like_flags_after_two_dashes() {
    let lab = Lab::new();
    let bytes = noise(1, 1_000);
    lab.file("-rf", &bytes);
    let share = lab.share("one", ["--", "-rf"]);
    let line = share.obt.event("sharing")["get"].as_str().unwrap().to_owned();
    assert!(line.ends_with(" -- -rf"), "{line}");
    let port = share.port.to_string();
    let out = lab.folder("out");
    let mut get = lab.command(["get", "127.0.0.1", &port, "-o"]);
    get.arg(&out).args(["--", "-rf"]);
    Obt::spawn(get).ends().exits(0);
    crate::harness::assert_holds(out.join("-rf"), &bytes);
}

#[test]
fn c04_control_characters_never_reach_the_terminal() {
    let lab = Lab::new();
    for (name, shown) in
        [("n\x1b]0;pwn\x07", r"n\x1b]0;pwn\x07"), ("a\nb", r"a\x0ab"), ("a\rb", r"a\x0db"), ("\u{9b}31m", r"\u{9b}31m")]
    {
        let ended = lab.run(["get", NOWHERE[0], NOWHERE[1], name]).fails(2, "control characters");
        assert!(ended.err.contains(&format!("\"{shown}\"")), "{ended}");
        assert!(!ended.err.contains(['\x1b', '\x07', '\r', '\u{9b}']), "{ended:?}");
    }
}

#[test]
fn c05_arguments_that_are_not_utf8_are_told_or_taken() {
    let lab = Lab::new();
    let broken = OsString::from_vec(vec![b'a', 0xff, 0xfe]);
    let name = ["get".into(), NOWHERE[0].into(), NOWHERE[1].into(), broken.clone()];
    lab.run(name).fails(2, "UTF-8");
    fs::write(lab.path(&broken), b"content").unwrap();
    lab.run(["share".into(), broken.clone()]).fails(2, "UTF-8");
    lab.start(["share".into(), "--json".into(), broken, "--as".into(), "content".into()]).event("sharing");
}

#[test]
fn c06_ports_are_numbers_from_1_to_65535() {
    let lab = Lab::new();
    for port in ["0", "65536", "-1", "80x", "٣", "0x50", "1e3", ""] {
        lab.run(["get", "127.0.0.1", port, "name"]).fails(2, "");
    }
    // As everywhere else, but not here.
    lab.run(["get", "127.0.0.1:6969", "name"]).fails(2, "a word of its own");
}

#[test]
fn places_to_listen_at_are_addresses_with_a_port() {
    let lab = Lab::new();
    for place in ["6969", ":6969", "localhost:6969", "127.0.0.1"] {
        lab.run(["tracker", "--tracker-listen", place]).fails(2, "an address and a port");
    }
}

#[test]
fn a_mistake_in_the_settings_is_told_in_one_line() {
    let lab = Lab::new();
    lab.file("obt.toml", b"state = 'x'\nupload_rate = '1M'\n");
    let ended =
        lab.run(["tracker", "--config", "obt.toml"]).fails(2, "in obt.toml, line 2: unknown field `upload_rate`");
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
    assert!(!ended.err.contains("\\x0a"), "{ended}");
}

#[test]
fn c07_rates_are_quantities_of_bytes() {
    let lab = Lab::new();
    for rate in ["0", "NaN", "-5", "1e400", "10PB", "18446744073709551616", "9999999G", "M", ""] {
        let flag = format!("--download-rate={rate}");
        lab.run(["get", NOWHERE[0], NOWHERE[1], "name", &flag]).fails(2, "--download-rate");
    }
}

#[test]
fn c08_only_folders_take_what_is_fetched() {
    let lab = Lab::new();
    let file = lab.file("file", b"mine");
    let fifo = lab.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    for target in [file.to_str().unwrap(), fifo.to_str().unwrap(), "/dev/full", "/dev/stdin", "/proc/self/mem"] {
        let ended = lab.run(["get", NOWHERE[0], NOWHERE[1], "name", "-o", target]).fails(2, "is not a folder");
        assert!(ended.took < Duration::from_secs(2), "{ended}");
    }
    assert_eq!(fs::read(file).unwrap(), b"mine");
}

#[test]
fn c09_folders_are_not_made_of_typing_mistakes() {
    let lab = Lab::new();
    lab.run(["get", NOWHERE[0], NOWHERE[1], "name", "-o", "not/there"]).fails(2, "not/there");
    lab.run(["get", NOWHERE[0], NOWHERE[1], "name", "-o", ""]).fails(2, "");
    lab.run(["peer", "not/there"]).fails(2, "not/there");
    assert!(!lab.path("not").exists());
}

#[test]
fn c10_trackers_are_hosts_and_ports() {
    let lab = Lab::new();
    lab.file("file", b"mine");
    for tracker in ["http://[::1", "udp://:80", "x", ":1", "x:0", "x:65536", "a b:1", "", &"a".repeat(100_000)] {
        lab.run(["share", "file", "--tracker", tracker]).fails(2, "is not HOST:PORT");
    }
}

#[test]
fn c11_arguments_as_long_as_the_system_takes_are_refused_at_once() {
    let lab = Lab::new();
    // One argument may have 128 KiB with its end, all of them together 2 MiB.
    let longest = "a".repeat((128 << 10) - 1);
    for command in ["share", "verify", "find", "get", "create", "download", "publish", "peer"] {
        let mut arguments = vec![command];
        arguments.extend(std::iter::repeat_n(longest.as_str(), 12));
        let ended = lab.run(arguments).exits(2);
        assert!(ended.took < Duration::from_secs(2) && ended.out.is_empty(), "{command} took {:?}", ended.took);
        assert_eq!(ended.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{command}");
    }
    lab.run(["get", NOWHERE[0], NOWHERE[1], &longest]).fails(2, "is no name");
    lab.run(["find", NOWHERE[0], NOWHERE[1], &longest]).fails(2, "cannot be longer than 256 bytes");
    assert_eq!(fs::read_dir(lab.path("")).unwrap().count(), 0);
}

#[test]
fn c12_closed_and_full_outputs_end_it_without_a_panic() {
    let lab = Lab::new();
    lab.file("file", b"content");
    let program = crate::harness::binary();
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("OBT", &program).current_dir(lab.path("")).stdin(Stdio::null());
        Obt::spawn(command).ends()
    };
    shell("\"$OBT\" create file").exits(0);
    let full = shell("\"$OBT\" inspect file.torrent >/dev/full").exits(2);
    assert!(full.err.contains("cannot write"), "{full}");
    let share = lab.share("one", ["file"]);
    share.obt.event("sharing");
    let full = shell(&format!("\"$OBT\" get --state two 127.0.0.1 {} file --stdout >/dev/full", share.port)).exits(2);
    assert!(full.err.contains("cannot write to standard output"), "{full}");
    for script in [
        "\"$OBT\" inspect file.torrent | head -c 0",
        "\"$OBT\" --help <&- >&- 2>&-",
        "\"$OBT\" inspect file.torrent <&- 2>&-",
    ] {
        let ended = shell(script).exits(0);
        assert!(!ended.err.contains("panicked"), "{script}: {ended}");
    }
}

#[test]
fn c13_without_a_home_it_works_or_says_what_it_needs() {
    let lab = Lab::new();
    lab.file("file", b"content");
    let mut share = lab.command(["share", "file"]);
    share.env_remove("HOME");
    let ended = Obt::spawn(share).ends().fails(2, "home");
    assert!(ended.err.contains("--state"), "{ended}");
    let mut create = lab.command(["create", "file"]);
    create.env_remove("HOME").env("TMPDIR", "/nonexistent").env("LANG", "C").env("TERM", "dumb").env("COLUMNS", "0");
    Obt::spawn(create).ends().exits(0);
}

#[test]
fn c13_in_a_folder_that_was_deleted_it_works_or_says_so() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    let share = lab.share("one", ["data/x"]);
    share.obt.event("sharing");
    share.until_held("x", 1);
    let out = lab.folder("out");
    let in_no_folder = |arguments: &[&str]| {
        let gone = lab.folder("gone");
        let mut shell = Command::new("sh");
        shell.args(["-c", "rmdir \"$PWD\" && exec \"$0\" \"$@\""]).arg(crate::harness::binary()).args(arguments);
        shell
            .current_dir(gone)
            .stdin(Stdio::null())
            .env("HOME", lab.path("home"))
            .env("OBT_PEER_LISTEN", "127.0.0.1:0");
        Obt::spawn(shell).ends()
    };
    let port = share.port.to_string();
    in_no_folder(&["get", "127.0.0.1", &port, "x"]).fails(2, "x.obt-part: No such file or directory");
    in_no_folder(&["get", "127.0.0.1", &port, "x", "-o", out.to_str().unwrap()]).exits(0);
    crate::harness::assert_holds(out.join("x"), b"content");
    in_no_folder(&["find", "127.0.0.1", &port]).exits(0);
    in_no_folder(&["share", "x"]).fails(2, "cannot read x");
    in_no_folder(&["create", out.join("x").to_str().unwrap()]).fails(2, "cannot write");
    in_no_folder(&["peer"]).fails(2, "No such file or directory");
    in_no_folder(&["tracker", "--state", "state"]).fails(2, "No such file or directory");
}

#[test]
fn c15_no_flag_takes_a_secret() {
    let help = Lab::new().run(["share", "--help"]).exits(0).text();
    assert!(help.contains("--key-file <FILE>"), "{help}");
    assert!(!help.contains("--key <") && !help.contains("--token"), "{help}");
}

#[test]
fn what_cannot_be_read_is_named_and_nothing_is_touched() {
    let lab = Lab::new();
    lab.file("text", b"not a torrent");
    symlink("nowhere", lab.path("dangling")).unwrap();
    for (arguments, part) in [
        (vec!["share", "missing"], "missing"),
        (vec!["share", "dangling"], "dangling"),
        (vec!["create", "missing"], "missing"),
        (vec!["inspect", "missing.torrent"], "missing.torrent"),
        (vec!["inspect", "text"], "not a usable .torrent"),
        (vec!["inspect", "magnet:?dn=x"], "magnet"),
        (vec!["verify", "text", "text"], "not a usable .torrent"),
        (vec!["download", "text"], "not a usable .torrent"),
        (vec!["publish", "text", "--tracker", "127.0.0.1:1"], "not a usable .torrent"),
        (vec!["share", "text", "dangling", "--as", "x"], "--as"),
        (vec!["get", "ho st", "1", "x"], "ho st"),
    ] {
        lab.run(arguments).fails(2, part);
    }
    assert_eq!(fs::read_dir(lab.path("")).unwrap().count(), 2);
}
