//! `obt share` with a tracker of its own: names, folders, handing over, ports, versions, and what is there already.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Lab, Obt, Tracker, assert_holds, eventually, noise};

#[test]
fn the_line_that_it_prints_fetches_what_it_shares() {
    let lab = Lab::new();
    let bytes = noise(1, 1_000_000);
    lab.file("data/it's a film @ 5: part 1.mkv", &bytes);
    let share = lab.share("one", ["data/it's a film @ 5: part 1.mkv"]);
    let line = share.obt.event("sharing")["get"].as_str().unwrap().to_owned();
    let line = line.strip_prefix("obt ").unwrap();
    let out = lab.folder("out");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("\"$0\" {line}")]).arg(crate::harness::binary()).current_dir(&out);
    shell.env("OBT_PEER_LISTEN", "127.0.0.1:0").stdin(std::process::Stdio::null());
    Obt::spawn(shell).ends().exits(0);
    assert_holds(out.join("it's a film @ 5: part 1.mkv"), &bytes);
}

#[test]
fn names_end_like_versions_and_have_colons_and_spaces() {
    let lab = Lab::new();
    let names = ["mail@2", "a b", "time 10:30", "größe.txt", "x@y.example", "100%"];
    for (seed, name) in (0..).zip(names) {
        lab.file(format!("data/{name}"), &noise(seed, 40_000));
    }
    let paths: Vec<_> = names.iter().map(|name| lab.path("data").join(name)).collect();
    let share = lab.share("one", &paths);
    share.obt.events("sharing", names.len());
    for (seed, name) in (0..).zip(names) {
        lab.get(&share, name, "out").ends().exits(0);
        assert_holds(lab.path("out").join(name), &noise(seed, 40_000));
    }
    // The exact name wins; its own version stands after another sign.
    assert_eq!(lab.get(&share, "mail@2@1", "again").ends().exits(0).last()["name"], "mail@2");
    lab.get(&share, "mail@2@3", "again").ends().fails(1, "no version");
    lab.get(&share, "mail", "again").ends().fails(1, "nobody shares \"mail\"");
}

#[test]
fn a_folder_comes_whole_and_in_parts() {
    let lab = Lab::new();
    lab.file("data/season/e1.mkv", &noise(1, 700_000));
    lab.file("data/season/e2.mkv", &noise(2, 300_001));
    lab.file("data/season/extras/a b.txt", b"hello\n");
    lab.file("data/season/extras/empty", b"");
    let share = lab.share("one", ["data/season"]);
    let item = share.obt.event("sharing");
    assert_eq!((&item["file_count"], &item["size"]), (&4.into(), &1_000_007.into()));

    lab.get(&share, "season", "whole").ends().exits(0);
    assert_holds(lab.path("whole/season/e1.mkv"), &noise(1, 700_000));
    assert_holds(lab.path("whole/season/e2.mkv"), &noise(2, 300_001));
    assert_holds(lab.path("whole/season/extras/a b.txt"), b"hello\n");
    assert_holds(lab.path("whole/season/extras/empty"), b"");

    let one = lab.get(&share, "season/e2.mkv", "one-file").ends().exits(0);
    assert_eq!(one.last()["size"], 300_001);
    assert_holds(lab.path("one-file/e2.mkv"), &noise(2, 300_001));
    lab.get(&share, "season/extras/empty", "one-file").ends().exits(0);
    assert_holds(lab.path("one-file/empty"), b"");
    lab.get(&share, "season/extras", "one-folder").ends().exits(0);
    assert_holds(lab.path("one-folder/extras/a b.txt"), b"hello\n");
    let missing = lab.get(&share, "season/e3.mkv", "nothing").ends().fails(1, "holds no \"e3.mkv\"");
    assert_eq!(fs::read_dir(lab.path("nothing")).unwrap().count(), 0);

    // The hint lists what could have been meant.
    assert!(missing.err.contains("--files"), "{missing}");
    let port = share.port.to_string();
    let find = ["find", "127.0.0.1", &port, "season", "--files"];
    let listed = lab.run(find).exits(0).text();
    for line in ["season  ", "  683.6 KiB  e1.mkv\n", "  6 B  extras/a b.txt\n"] {
        assert!(listed.contains(line), "no {line:?} in {listed}");
    }
    let listed = lab.run(find.into_iter().chain(["--json"])).exits(0).last();
    assert_eq!(listed[0]["files"].as_array().unwrap().len(), 4);
}

#[test]
fn what_is_left_out_of_a_folder_is_told_also_by_the_one_that_hands_it_over() {
    let lab = Lab::new();
    for folder in ["one", "two"] {
        lab.file(format!("data/{folder}/x"), folder.as_bytes());
        std::os::unix::fs::symlink("x", lab.path(format!("data/{folder}/link"))).unwrap();
    }
    let share = lab.share("state", ["data/one"]);
    share.obt.event("sharing");
    share.obt.says("data/one/link");
    let handed = lab.run(["share", "--state", "state", "data/two"]).exits(0);
    assert!(handed.err.contains("left out") && handed.err.contains("data/two/link"), "{handed}");
}

#[test]
fn a_get_says_which_file_came_and_that_an_empty_one_is() {
    let lab = Lab::new();
    lab.file("data/set/x", b"content");
    lab.file("data/set/empty", b"");
    let share = lab.share("one", ["data/set"]);
    share.obt.event("sharing");
    let port = share.port.to_string();
    let get = |name: &str| lab.run(["get", "127.0.0.1", &port, name, "-o", lab.folder("got").to_str().unwrap()]);
    let file = get("set/x").exits(0);
    assert!(file.err.starts_with("set/x: 7 B in "), "{file}");
    let empty = get("set/empty").exits(0);
    assert!(empty.err.starts_with("set/empty: empty, nothing to fetch"), "{empty}");
}

#[test]
fn a_file_inside_is_found_however_its_letters_are_composed() {
    let lab = Lab::new();
    let (composed, apart) = ("\u{e9}", "e\u{301}");
    lab.file(format!("data/mac/{apart}.txt"), b"apart");
    lab.file("data/both/e\u{301}", b"apart");
    lab.file("data/both/\u{e9}", b"composed");
    let share = lab.share("one", ["data/mac", "data/both"]);
    share.obt.events("sharing", 2);
    for (number, letters) in [composed, apart].into_iter().enumerate() {
        let got = format!("got-{number}");
        lab.get(&share, &format!("mac/{letters}.txt"), &got).ends().exits(0);
        assert_holds(lab.path(&got).join(format!("{apart}.txt")), b"apart");
        let answer = crate::http::get(share.socket(), &format!("/files/mac/{}.txt", crate::http::escaped(letters)));
        assert_eq!(answer.body, b"apart");
    }
    for (letters, bytes) in [(composed, "composed"), (apart, "apart")] {
        lab.get(&share, &format!("both/{letters}"), bytes).ends().exits(0);
        assert_holds(lab.path(bytes).join(letters), bytes.as_bytes());
        let answer = crate::http::get(share.socket(), &format!("/files/both/{}", crate::http::escaped(letters)));
        assert_eq!(answer.body, bytes.as_bytes());
    }
}

#[test]
fn sizes_around_the_borders_of_blocks_and_pieces_come_whole() {
    let lab = Lab::new();
    let sizes = [0, 1, 16_383, 16_384, 16_385, 32_768, 65_537, 1_048_575, 1_048_577];
    for size in sizes {
        lab.file(format!("data/{size}"), &noise(1, size));
    }
    let paths: Vec<_> = sizes.iter().map(|size| lab.path(format!("data/{size}"))).collect();
    let share = lab.share("one", &paths);
    share.obt.events("sharing", sizes.len());
    for size in sizes {
        lab.get(&share, &size.to_string(), "out").ends().exits(0);
        assert_holds(lab.path(format!("out/{size}")), &noise(1, size));
    }
    lab.run(["share", "--json", "--state", "one", "data"]).exits(0);
    let folder = lab.get(&share, "data", "out").ends().exits(0);
    let content = sizes.iter().sum::<usize>() as u64;
    assert_eq!(folder.from().iter().map(|(_, bytes)| bytes).sum::<u64>(), content, "padding is not content");
}

#[test]
fn as_gives_another_name_with_folders_in_it() {
    let lab = Lab::new();
    let bytes = noise(1, 50_000);
    lab.file("data/x", &bytes);
    let share = lab.share("one", ["data/x", "--as", "sets/train/part 1.tar"]);
    assert_eq!(share.obt.event("sharing")["name"], "sets/train/part 1.tar");
    lab.get(&share, "sets/train/part 1.tar", "out").ends().exits(0);
    assert_holds(lab.path("out/part 1.tar"), &bytes);
}

#[test]
fn c14_a_second_share_with_the_same_state_hands_its_paths_over() {
    let lab = Lab::new();
    let bytes = noise(2, 100_000);
    lab.file("data/first", &noise(1, 100_000));
    lab.file("data/second", &bytes);
    let share = lab.share("one", ["data/first"]);
    share.obt.event("sharing");
    let second = lab.run(["share", "--json", "--state", "one", "data/second"]).exits(0);
    assert_eq!((&second.last()["name"], &second.last()["published"]), (&"second".into(), &true.into()));
    let again = lab.run(["share", "--json", "--state", "one", "data/second"]).exits(0);
    assert_eq!(again.last()["published"], false, "it was there already");
    assert!(second.last()["get"].as_str().unwrap().contains(&share.port.to_string()), "{second}");
    lab.get(&share, "second", "out").ends().exits(0);
    assert_holds(lab.path("out/second"), &bytes);
    lab.run(["share", "--state", "one", "data/missing"]).fails(2, "data/missing");
    // Nothing listens for a tracker's paths: it says who has the state.
    lab.run(["tracker", "--state", "one"]).fails(2, "in use");
    lab.run(["peer", "--state", "one", "data"]).fails(2, "in use");
}

#[test]
fn a_taken_port_that_was_asked_for_is_an_error() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--tracker-listen", "--peer-listen"] {
        let ended = lab.run(["share", "data/x", "--state", "one", flag, &address]).fails(2, "");
        assert!(ended.err.contains(&taken.local_addr().unwrap().port().to_string()), "{ended}");
        assert!(ended.err.contains(flag), "{ended}");
    }
}

#[test]
fn a_taken_port_that_was_not_asked_for_falls_forward() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    let usual = |state: &str| {
        let mut command = lab.command(["share", "--json", "data/x", "--state", state]);
        command.env_remove("OBT_TRACKER_LISTEN").env_remove("OBT_PEER_LISTEN");
        Obt::spawn(command)
    };
    let (one, two) = (usual("one"), usual("two"));
    let (one, two) = (one.event("listening"), two.event("listening"));
    for port in ["tracker_port", "peer_port"] {
        assert_ne!(one[port], two[port], "{port}");
    }
}

#[test]
fn what_is_there_already_is_not_fetched_again() {
    let lab = Lab::new();
    let bytes = noise(1, 500_000);
    lab.file("data/x", &bytes);
    lab.file("out/x", &bytes);
    let share = lab.share("one", ["data/x"]);
    share.obt.event("sharing");
    let again = lab.get(&share, "x", "out").ends().exits(0);
    assert!(again.from().is_empty(), "{again}");
}

#[test]
fn other_content_under_the_final_name_is_kept_unless_forced() {
    let lab = Lab::new();
    let bytes = noise(1, 500_000);
    lab.file("data/x", &bytes);
    let share = lab.share("one", ["data/x"]);
    share.obt.event("sharing");
    for (folder, mine) in [("shorter", b"mine".to_vec()), ("as-long", noise(2, 500_000)), ("longer", noise(1, 500_001))]
    {
        lab.file(format!("{folder}/x"), &mine);
        let refused = lab.get(&share, "x", folder).ends().fails(2, "x");
        assert!(refused.err.contains("--force") && !refused.err.contains("WARN"), "{refused}");
        assert_holds(lab.path(format!("{folder}/x")), &mine);
        assert_eq!(fs::read_dir(lab.path(folder)).unwrap().count(), 1, "{folder}: nothing else was touched");
        lab.get_with(&share, "x", folder, &["--force"]).ends().exits(0);
        assert_holds(lab.path(format!("{folder}/x")), &bytes);
        assert_eq!(fs::read_dir(lab.path(folder)).unwrap().count(), 1, "{folder}: nothing else is left");
    }
}

#[test]
fn a_file_that_changed_while_nobody_wanted_it_is_told_where_it_is_shared() {
    let lab = Lab::new();
    let share = lab.serve("x", &noise(1, 300_000), "100M");
    lab.get(&share, "x", "out").ends().exits(0);
    // At rest it holds no file open.
    let descriptors = format!("/proc/{}/fd", share.obt.id());
    let is_open = || {
        let links = fs::read_dir(&descriptors).unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        links.into_iter().any(|path| path.ends_with("data/x"))
    };
    eventually("it to rest", Duration::from_secs(90), || (!is_open()).then_some(()));
    lab.file("data/x", &noise(2, 300_000));
    let again = lab.get(&share, "x", "again");
    share.obt.says("data/x changed since it was shared");
    again.stop().exits(1);
    assert!(!lab.path("again/x").exists());
}

#[test]
fn force_fetches_of_the_next_version_only_what_changed() {
    let lab = Lab::new();
    let mut bytes = noise(1, 4 << 20);
    let tracker = lab.serve("x", &bytes, "100M");
    lab.get(&tracker, "x", "out").ends().exits(0);
    bytes[1 << 20] ^= 1;
    lab.file("newer/x", &bytes);
    lab.run(["share", "--json", "--state", "one", "newer/x", "--replace"]).exits(0);
    lab.get(&tracker, "x", "out").ends().fails(2, "");
    let forced = lab.get_with(&tracker, "x", "out", &["--force"]).ends().exits(0);
    assert!(forced.fetched() < 300_000, "{forced}");
    assert_holds(lab.path("out/x"), &bytes);
}

#[test]
fn replace_makes_the_next_version_and_the_first_can_still_be_fetched() {
    let lab = Lab::new();
    let (first, second) = (noise(1, 300_000), noise(2, 400_000));
    lab.file("first/x", &first);
    lab.file("second/x", &second);
    let share = lab.share("one", ["first/x"]);
    assert_eq!(share.obt.event("sharing")["version"], 1);

    let refused = lab.run(["share", "--json", "--state", "one", "second/x"]).fails(2, "x");
    assert!(refused.err.contains("--replace"), "{refused}");
    let replaced = lab.run(["share", "--json", "--state", "one", "second/x", "--replace"]).exits(0);
    assert_eq!(replaced.last()["version"], 2);

    assert_eq!(lab.get(&share, "x", "newest").ends().exits(0).last()["version"], 2);
    assert_holds(lab.path("newest/x"), &second);
    assert_eq!(lab.get(&share, "x@1", "older").ends().exits(0).last()["version"], 1);
    assert_holds(lab.path("older/x"), &first);
    let hash = replaced.last()["info_hash_v2"].as_str().unwrap().get(..16).unwrap().to_owned();
    lab.get(&share, &format!("x@{hash}"), "by-hash").ends().exits(0);
    assert_holds(lab.path("by-hash/x"), &second);
    lab.get(&share, "x@3", "none").ends().fails(1, "no version");
}

#[test]
fn a_path_that_is_not_utf8_is_shared_under_a_name_that_is() {
    let lab = Lab::new();
    let bytes = noise(1, 100_000);
    let path = Path::new("data").join(OsStr::from_bytes(b"film \xff.mkv"));
    fs::create_dir_all(lab.path("data")).unwrap();
    fs::write(lab.path("").join(&path), &bytes).unwrap();
    lab.run([OsStr::new("share"), path.as_os_str()]).fails(2, "UTF-8");
    let share = lab.share("one", [path.as_os_str(), OsStr::new("--as"), OsStr::new("film.mkv")]);
    share.obt.event("sharing");
    lab.get(&share, "film.mkv", "out").ends().exits(0);
    assert_holds(lab.path("out/film.mkv"), &bytes);
}

#[test]
fn a_machine_whose_key_is_not_known_is_told_how_to_be_admitted() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    let tracker = lab.tracker();
    let share = ["share", "--json", "data/x", "--state", "one", "--tracker", &tracker.address()];
    let refused = lab.run(share).fails(2, "may not publish here");
    let hint = refused.err.split("obt tracker key add ").nth(1).expect("a command to paste");
    let key = hint.split_whitespace().next().unwrap();
    let file = fs::metadata(lab.path("one/publish.key")).unwrap();
    assert_eq!(file.permissions().mode() & 0o077, 0, "the key is for its owner alone");

    lab.run(["tracker", "--state", "tracker", "key", "add", key]).exits(0);
    assert!(!lab.path(key).exists(), "a public key is not taken for a file's name");
    let sharing = lab.start(share).event("sharing");
    assert_eq!(sharing["publisher"], key);
}

#[test]
fn a_tracker_that_is_open_takes_what_any_machine_publishes() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    let tracker = Tracker::of(lab.start(["tracker", "--json", "--state", "tracker", "--publish", "open"]));
    lab.start(["share", "--json", "data/x", "--state", "one", "--tracker", &tracker.address()]).event("sharing");
}

#[test]
fn a_key_that_the_tracker_made_publishes_until_it_is_revoked() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    lab.file("data/y", b"other content");
    let added =
        lab.run(["tracker", "--json", "--state", "tracker", "key", "add", "her.key", "--label", "her"]).exits(0);
    let key = added.last()["key"].as_str().unwrap().to_owned();
    let tracker = lab.tracker();
    let publish = |path: &str, state: &str| {
        lab.start(["share", "--json", path, "--state", state, "--tracker", &tracker.address(), "--key-file", "her.key"])
    };
    publish("data/x", "one").event("sharing");
    let listed = lab.run(["tracker", "--json", "--state", "tracker", "key", "list"]).exits(0).last();
    assert!(
        listed.as_array().unwrap().iter().any(|one| one["key"] == key.as_str() && one["label"] == "her"),
        "{listed}"
    );
    lab.run(["tracker", "--state", "tracker", "key", "revoke", &key]).exits(0);
    publish("data/y", "two").ends().fails(2, "");
}

#[test]
fn state_and_data_are_apart() {
    let lab = Lab::new();
    lab.file("data/x", b"content");
    lab.run(["share", "data", "--state", "data/state"]).fails(2, "must be apart");
    lab.run(["peer", "data", "--state", "data"]).fails(2, "must be apart");
}

#[test]
fn a_share_that_is_started_again_goes_on_under_the_same_name() {
    let lab = Lab::new();
    let bytes = noise(1, 3_000_000);
    lab.file("data/x", &bytes);
    let before = lab.share("one", ["data/x"]);
    let first = before.obt.event("sharing");
    before.obt.kill();
    let again = lab.share("one", ["data/x"]);
    let second = again.obt.event("sharing");
    assert_eq!((&first["info_hash_v2"], &first["version"]), (&second["info_hash_v2"], &second["version"]));
    lab.get(&again, "x", "out").ends().exits(0);
    assert_holds(lab.path("out/x"), &bytes);
}
