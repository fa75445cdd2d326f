//! A cluster of trackers, as processes, while everything around them fails at once: they are killed, stopped, restarted
//! and cut off, lose power, room on their disks, and all that they had; their clocks jump; members come and go. Clients
//! write down what they are told, and that has to be linearizable for each name (HOSTILE F52 to F64).
//!
//! `OBT_NEMESIS_SECONDS` (120) is how long it fails, `OBT_NEMESIS_SEED` repeats a schedule, `OBT_NEMESIS_MEMBERS` (5) is
//! how many there are, `OBT_NEMESIS_OUT` a folder for what was seen, `OBT_BIN` another program than the one that cargo
//! built. It takes root; where it cannot be, it says so.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod checker;
mod clients;
mod convergence;
mod disk;
mod faults;
mod history;
mod http;
mod isolation;
mod members;
mod model;
mod network;
mod schedule;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::clients::{Client, Wares};
use crate::history::History;
use crate::members::{LOOK, Members};
use crate::schedule::Report;

/// Clients that work at once, and such that only look. More make the search longer, and the machine busier than the
/// members need.
const CLIENTS: u64 = 6;
const LOOKERS: u64 = 2;

/// The program: the one that was built with the tests, or the one that `OBT_BIN` names.
fn binary() -> PathBuf {
    let built = option_env!("CARGO_BIN_EXE_obt").map(PathBuf::from);
    std::env::var_os("OBT_BIN").map(PathBuf::from).or(built).unwrap()
}

/// Past the capture of output: an hour is followed, and a seed is there however the run ends.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "nemesis: {line}");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn names_stay_linearizable_whatever_fails() {
    isolation::alone("names_stay_linearizable_whatever_fails", || {
        let seed = setting("OBT_NEMESIS_SEED").unwrap_or_else(|| fastrand::u64(..));
        let time = Duration::from_secs(setting("OBT_NEMESIS_SECONDS").unwrap_or(120));
        let count = usize::try_from(setting("OBT_NEMESIS_MEMBERS").unwrap_or(5)).unwrap();
        say(&format!("OBT_NEMESIS_SEED={seed} OBT_NEMESIS_SECONDS={} OBT_NEMESIS_MEMBERS={count}", time.as_secs()));
        let folder = tempfile::Builder::new().prefix("obt-nemesis-").tempdir().unwrap();
        let members = Members::found(folder.path(), count);
        let (history, report) = (History::new(), Report::default());
        let mut findings = convergence::all_vote(&members).err().into_iter().collect::<Vec<_>>();
        findings.extend(run(&members, seed, time, &history, &report));
        say(&format!("{} names; {}", history.names().len(), history.counts()));
        findings.extend(report.findings());
        findings.extend(history.findings());
        let asked = std::env::var_os("OBT_NEMESIS_OUT").is_some();
        let kept = (asked || !findings.is_empty()).then(|| keep(folder.path(), seed, &history, &report, &findings));
        if !findings.is_empty() {
            let (kept, findings) = (kept.unwrap_or_default(), findings.join("\n  "));
            panic!("OBT_NEMESIS_SEED={seed} found, {kept}:\n  {findings}\n{}", report.told());
        }
    });
}

/// Faults and clients until the time is over, then calm. What was wrong besides the history.
fn run(members: &Members, seed: u64, time: Duration, history: &History, report: &Report) -> Vec<String> {
    let wares = Wares::new(&mut Rng::with_seed(seed));
    let client = |number| Client { members, history, wares: &wares, rng: Rng::with_seed(seed ^ (number + 1)) };
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut findings = Vec::new();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let stop = &stop;
            scope.spawn(move || client(number).work(stop));
        }
        for number in 0..LOOKERS {
            let stop = &stop;
            scope.spawn(move || client(CLIENTS + number).look(stop));
        }
        let watch = scope.spawn(|| {
            let mut surprises = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for surprise in members.surprises() {
                    say(&format!("SURPRISE {surprise}"));
                    surprises.push(surprise);
                }
                thread::sleep(LOOK);
            }
            surprises
        });
        let lanes = schedule::plan(seed, time);
        let lanes: Vec<_> =
            lanes.into_iter().map(|lane| scope.spawn(move || lane.run(members, time, report))).collect();
        // Whatever comes of them, clients end.
        let lanes: Vec<_> = lanes.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        over.store(true, Ordering::Relaxed);
        findings.extend(watch.join().unwrap());
        findings.extend(lanes.into_iter().filter(Result::is_err).map(|_| "a lane of faults panicked".to_owned()));
    });
    let calm = Instant::now();
    findings.extend(convergence::all_vote(members).err());
    findings.extend(
        client(CLIENTS + LOOKERS)
            .publish_everywhere(convergence::WITHIN)
            .into_iter()
            .map(|name| format!("{name} publishes nothing {:?} after the last fault", convergence::WITHIN)),
    );
    findings.extend(convergence::all_agree(members).err());
    say(&format!("calm after {:.1?}", calm.elapsed()));
    for name in history.names() {
        for member in &members.all {
            if !client(CLIENTS + LOOKERS).read(&name, member.place) {
                findings.push(format!("{} answers no consistent read of {name}", member.name()));
            }
        }
    }
    findings
}

/// Keeps what is needed to understand a failure; where.
fn keep(folder: &Path, seed: u64, history: &History, report: &Report, findings: &[String]) -> String {
    let out = std::env::var_os("OBT_NEMESIS_OUT").map_or_else(std::env::temp_dir, PathBuf::from);
    let out = out.join(format!("nemesis-{seed}"));
    let kept = fs::create_dir_all(&out)
        .and_then(|()| fs::write(out.join("history"), history.told()))
        .and_then(|()| fs::write(out.join("faults"), report.told()))
        .and_then(|()| fs::write(out.join("findings"), findings.join("\n")))
        .and_then(|()| {
            for entry in
                fs::read_dir(folder)?.flatten().filter(|entry| entry.path().extension().is_some_and(|ext| ext == "log"))
            {
                fs::copy(entry.path(), out.join(entry.file_name()))?;
            }
            Ok(())
        });
    match kept {
        Ok(()) => format!("see {}", out.display()),
        Err(error) => format!("and nothing could be kept: {error}"),
    }
}
