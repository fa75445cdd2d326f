//! What the nemesis does. Each fault is begun, proved to be there, held, and ended; one that cannot be proved has not
//! been.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use crate::members::{LOOK, Member, Members};
use crate::network::Place;

/// How long a change of members may take beside other faults.
const CHANGE: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Kill,
    Restart,
    PowerCut,
    Pause,
    DiskFull,
    DiskSlow,
    DiskStuck,
    Leave,
    LoseState,
    CutMinority,
    CutLeader,
    OneWay,
    Bridge,
    Clock,
}

/// Those of machines, and those of what is between and around them. One of each kind at a time, both at once.
pub(crate) const LANES: [&[Fault]; 2] = [
    &[
        Fault::Kill,
        Fault::Restart,
        Fault::PowerCut,
        Fault::Pause,
        Fault::DiskFull,
        Fault::DiskSlow,
        Fault::DiskStuck,
        Fault::Leave,
        Fault::LoseState,
    ],
    &[Fault::CutMinority, Fault::CutLeader, Fault::OneWay, Fault::Bridge, Fault::Clock],
];

/// Why a fault was not what it should have been.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It did not come about: another was in its way.
    Missed(String),
    /// The program did not do what it promises.
    Broken(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Missed(why)
    }
}

/// Has a fault happen to `members` for about `hold`; what proves that it did.
pub(crate) fn inflict(fault: Fault, members: &Members, rng: &mut Rng, hold: Duration) -> Result<String, Trouble> {
    match fault {
        Fault::Kill => kill(members, target(members, rng), hold),
        Fault::Restart => restart(members, target(members, rng), hold),
        Fault::PowerCut => cut_power(members, &most(members, rng), hold),
        Fault::Pause => pause(target(members, rng), hold),
        Fault::DiskFull => fill_disk(members, target(members, rng), hold),
        Fault::DiskSlow => slow_disk(target(members, rng), rng, hold),
        Fault::DiskStuck => stick_disk(target(members, rng), hold),
        Fault::Leave => leave(members, target(members, rng)),
        Fault::LoseState => lose_state(members, target(members, rng)),
        Fault::CutMinority | Fault::CutLeader | Fault::OneWay | Fault::Bridge => {
            cut(members, &cuts(fault, members, rng), hold)
        }
        Fault::Clock => set_clock(members, rng, hold),
    }
}

/// The leader, every other time.
fn target<'a>(members: &'a Members, rng: &mut Rng) -> &'a Member {
    let chosen = &members.all[rng.usize(..members.all.len())];
    if rng.bool() { members.leader().unwrap_or(chosen) } else { chosen }
}

/// All, or more than a half: fewer lose nothing that the others do not have.
fn most<'a>(members: &'a Members, rng: &mut Rng) -> Vec<&'a Member> {
    let mut several: Vec<&Member> = members.all.iter().collect();
    rng.shuffle(&mut several);
    let count = if rng.bool() { several.len() } else { rng.usize(several.len() / 2 + 1..=several.len()) };
    several.truncate(count);
    several
}

fn broken(why: String) -> Trouble {
    Trouble::Broken(why)
}

fn start(members: &Members, member: &Member) -> Result<(), Trouble> {
    member.start(&members.network).map_err(broken)
}

fn kill(members: &Members, member: &Member, hold: Duration) -> Result<String, Trouble> {
    let killed = member.kill();
    thread::sleep(hold / 4);
    start(members, member)?;
    killed?;
    Ok(format!("{} ended with signal 9", member.name()))
}

fn restart(members: &Members, member: &Member, hold: Duration) -> Result<String, Trouble> {
    let status = member.end(Signal::TERM).map_err(broken)?;
    if status.code() != Some(0) {
        return Err(broken(format!("{} was asked to stop and ended with {status}", member.name())));
    }
    thread::sleep(hold / 8);
    start(members, member)?;
    Ok(format!("{} ended with {status}", member.name()))
}

fn cut_power(members: &Members, several: &[&Member], hold: Duration) -> Result<String, Trouble> {
    several.iter().for_each(|member| member.may_end());
    let cut: Vec<_> = several.iter().map(|member| member.disk.cut()).collect();
    for member in several {
        // Some see it before they are killed.
        let _ = member.end(Signal::KILL);
    }
    thread::sleep(hold / 8);
    several.iter().for_each(|member| member.disk.mount_again());
    for member in several {
        start(members, member)?;
    }
    cut.into_iter().collect::<Result<(), _>>()?;
    Ok(format!("nothing could be written at {}", names(several)))
}

fn pause(member: &Member, hold: Duration) -> Result<String, Trouble> {
    member.signal(Signal::STOP)?;
    thread::sleep(hold);
    let state = member.kernel_state();
    member.signal(Signal::CONT)?;
    match state {
        Some('T') => Ok(format!("{} was in state T", member.name())),
        other => Err(Trouble::Missed(format!("{} was in state {other:?}", member.name()))),
    }
}

fn fill_disk(members: &Members, member: &Member, hold: Duration) -> Result<String, Trouble> {
    member.may_end();
    let full = member.disk.fill();
    let deadline = Instant::now() + hold;
    while member.runs() && !member.is_over() && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    member.disk.empty();
    let ended = member.is_over();
    // It may be about to end.
    thread::sleep(LOOK);
    member.shall_run(&members.network).map_err(broken)?;
    full?;
    Ok(format!("a write ended with ENOSPC at {}, which {}", member.name(), if ended { "ended" } else { "went on" }))
}

fn slow_disk(member: &Member, rng: &mut Rng, hold: Duration) -> Result<String, Trouble> {
    let deadline = Instant::now() + hold;
    let mut slowest = Duration::ZERO;
    while Instant::now() < deadline {
        slowest = slowest.max(freeze(member, Duration::from_millis(rng.u64(50..700)))?);
        thread::sleep(Duration::from_millis(rng.u64(10..60)));
    }
    match slowest > Duration::from_millis(50) {
        true => Ok(format!("a write took {slowest:.1?} at {}", member.name())),
        false => Err(Trouble::Missed(format!("a write took {slowest:.1?}"))),
    }
}

fn stick_disk(member: &Member, hold: Duration) -> Result<String, Trouble> {
    let took = freeze(member, hold)?;
    match took > hold / 2 {
        true => Ok(format!("a write took {took:.1?} at {}", member.name())),
        false => Err(Trouble::Missed(format!("a write took {took:.1?}"))),
    }
}

/// Holds all writes for a time; how long one took that began meanwhile.
fn freeze(member: &Member, time: Duration) -> Result<Duration, Trouble> {
    member.disk.freeze()?;
    let probed = thread::scope(|scope| {
        let probe = scope.spawn(|| member.disk.probe());
        thread::sleep(time);
        member.disk.thaw();
        probe.join()
    });
    let probed = probed.map_err(|_| "the probe panicked".to_owned())?;
    Ok(probed.map_err(|error| error.to_string())?)
}

/// A member leaves in order, and a new one comes in its place.
fn leave(members: &Members, member: &Member) -> Result<String, Trouble> {
    let id = member.id().ok_or("its id is not known".to_owned())?;
    member.may_end();
    let deadline = Instant::now() + CHANGE;
    let mut why = String::new();
    while !member.is_over() {
        if Instant::now() > deadline {
            return Err(broken(format!("{} cannot leave within {CHANGE:?}: {why}", member.name())));
        }
        why = member.control(&["leave"]).err().unwrap_or_default();
        thread::sleep(LOOK);
    }
    let status = member.wait()?;
    if status.code() != Some(0) {
        return Err(broken(format!("{} left and ended with {status}", member.name())));
    }
    member.wipe();
    members.join(member, CHANGE).map_err(broken)?;
    until_gone(members, member, &id)?;
    Ok(format!("{id} is no member, and {} is at {}", member.id().unwrap_or_default(), member.name()))
}

/// A member loses all that it had, is let in as a new one, and the old one is removed.
fn lose_state(members: &Members, member: &Member) -> Result<String, Trouble> {
    let id = member.id().ok_or("its id is not known".to_owned())?;
    member.may_end();
    let _ = member.kill();
    member.wipe();
    members.join(member, CHANGE).map_err(broken)?;
    until_gone(members, member, &id)?;
    Ok(format!("{id} is no member, and {} is at {}", member.id().unwrap_or_default(), member.name()))
}

/// Has the others remove `id` until they do not know it.
fn until_gone(members: &Members, member: &Member, id: &str) -> Result<(), Trouble> {
    let deadline = Instant::now() + CHANGE;
    let mut why = String::new();
    while Instant::now() < deadline {
        for other in members.others(member) {
            let known = other.told().map(|told| told["members"].as_array().cloned().unwrap_or_default());
            match known {
                Some(known) if !known.iter().any(|known| known["id"] == id) => return Ok(()),
                Some(_) => why = other.control(&["leave", "--member", id]).err().unwrap_or_default(),
                None => {}
            }
        }
        thread::sleep(LOOK);
    }
    Err(broken(format!("{id} cannot be removed within {CHANGE:?}: {why}")))
}

/// Who is not heard by whom.
fn cuts(fault: Fault, members: &Members, rng: &mut Rng) -> BTreeSet<(Place, Place)> {
    let count = members.all.len();
    let mut places: Vec<Place> = (0..count).collect();
    rng.shuffle(&mut places);
    if let Some(leader) = members.leader().map(|leader| leader.place) {
        places.retain(|place| *place != leader);
        places.insert(if fault == Fault::CutMinority { count - 1 } else { 0 }, leader);
    }
    let minority = rng.usize(1..=(count - 1) / 2);
    let (few, many) = places.split_at(minority);
    let both = |one: &[Place], other: &[Place]| -> BTreeSet<(Place, Place)> {
        let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (*one, *other)));
        pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect()
    };
    match fault {
        // The leader, one time in two, or its followers are not heard; by all others or by one.
        Fault::OneWay => {
            let others = if rng.bool() { &places[1..] } else { &places[1..2] };
            let hears = rng.bool();
            others.iter().map(|other| if hears { (places[0], *other) } else { (*other, places[0]) }).collect()
        }
        // Two halves, and one member that hears both.
        Fault::Bridge => {
            let bridge = rng.usize(..count);
            let rest: Vec<Place> = places.iter().copied().filter(|place| *place != bridge).collect();
            let (one, other) = rest.split_at(rest.len() / 2);
            both(one, other)
        }
        _ => both(few, many),
    }
}

fn cut(members: &Members, cuts: &BTreeSet<(Place, Place)>, hold: Duration) -> Result<String, Trouble> {
    let network = &members.network;
    let dropped = || (0..members.all.len()).map(|place| network.dropped(place)).sum::<u64>();
    let before = dropped();
    network.cut(cuts);
    let there = network.prove(cuts);
    thread::sleep(hold);
    network.cut(&BTreeSet::new());
    let lost = dropped() - before;
    let over = network.prove(&BTreeSet::new());
    there.and(over)?;
    let cuts: Vec<String> = cuts.iter().map(|(from, to)| format!("{}>{}", from + 1, to + 1)).collect();
    Ok(format!("probes were lost exactly at {}; {lost} packets in all", cuts.join(" ")))
}

fn set_clock(members: &Members, rng: &mut Rng, hold: Duration) -> Result<String, Trouble> {
    const JUMPS: [i64; 6] = [40, 200, 3_600, 90_000, 864_000, 40_000_000];
    let member = target(members, rng);
    let jump = JUMPS[rng.usize(..JUMPS.len())] * if rng.bool() { 1 } else { -1 };
    member.set_clock(jump);
    let deadline = Instant::now() + hold;
    let mut seen = None;
    while Instant::now() < deadline {
        // To the second, and so long its clock may be remembered.
        seen = member.clock_off().filter(|off| off.abs_diff(jump) <= 2).or(seen);
        thread::sleep(LOOK);
    }
    member.set_clock(0);
    let seen = seen.ok_or_else(|| format!("{} never told of it", member.name()))?;
    Ok(format!("{} told a time {seen} s off", member.name()))
}

fn names(members: &[&Member]) -> String {
    members.iter().map(|member| member.name()).collect::<Vec<_>>().join(", ")
}
