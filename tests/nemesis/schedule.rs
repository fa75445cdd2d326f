//! When which fault happens: made of a seed, the same each time. What it meets is not.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::faults::{Fault, LANES, Trouble, inflict};
use crate::members::Members;

/// About how long a fault and the calm after it take.
const SLOT: Duration = Duration::from_secs(12);
/// How long after the time faults may begin that have not fired yet.
const LATE: Duration = Duration::from_secs(20);

/// A fault to come.
struct Planned {
    at: Duration,
    hold: Duration,
    fault: Fault,
    seed: u64,
}

/// The faults of one lane, one after the other; lanes run beside each other.
pub(crate) struct Lane(Vec<Planned>);

/// What has happened, with its proof.
#[derive(Default)]
pub(crate) struct Report {
    lines: Mutex<Vec<String>>,
    fired: Mutex<BTreeSet<Fault>>,
    broken: Mutex<Vec<String>>,
}

/// Every kind at least once, as often as the time allows, in another order each time.
pub(crate) fn plan(seed: u64, time: Duration) -> Vec<Lane> {
    let mut rng = Rng::with_seed(seed);
    LANES.iter().map(|faults| lane(faults, &mut rng, time)).collect()
}

fn lane(faults: &[Fault], rng: &mut Rng, time: Duration) -> Lane {
    let kinds = u32::try_from(faults.len()).unwrap_or(u32::MAX);
    let rounds = u32::try_from(time.as_secs() / (SLOT * kinds).as_secs()).unwrap_or(u32::MAX).max(1);
    let slot = time / (rounds * kinds);
    let order = (0..rounds).flat_map(|_| {
        let mut order = faults.to_vec();
        rng.shuffle(&mut order);
        order
    });
    let order: Vec<Fault> = order.collect();
    let planned = order.into_iter().zip(0_u32..).map(|(fault, number)| {
        let late = slot.mul_f64(rng.f64() / 4.0);
        Planned { at: slot * number + late, hold: slot.mul_f64(0.2 + rng.f64() / 2.0), fault, seed: rng.u64(..) }
    });
    Lane(planned.collect())
}

impl Lane {
    /// Has its faults happen; once more at the end those that others were in the way of.
    pub(crate) fn run(&self, members: &Members, time: Duration, report: &Report) {
        let began = Instant::now();
        for planned in &self.0 {
            thread::sleep(planned.at.saturating_sub(began.elapsed()));
            if began.elapsed() < time {
                planned.happen(members, began, report);
            }
        }
        for planned in &self.0 {
            if began.elapsed() < time + LATE && !report.has_fired(planned.fault) {
                planned.happen(members, began, report);
            }
        }
    }
}

impl Planned {
    fn happen(&self, members: &Members, began: Instant, report: &Report) {
        let Self { hold, fault, seed, .. } = self;
        let from = Instant::now();
        match inflict(*fault, members, &mut Rng::with_seed(*seed), *hold) {
            Ok(proof) => {
                report.fire(*fault);
                report.line(began, from, &format!("{fault:?}: {proof}"));
            }
            Err(Trouble::Missed(why)) => report.line(began, from, &format!("{fault:?} missed: {why}")),
            Err(Trouble::Broken(why)) => {
                report.line(began, from, &format!("{fault:?} BROKEN: {why}"));
                lock(&report.broken).push(format!("{fault:?}: {why}"));
            }
        }
    }
}

impl Report {
    fn line(&self, began: Instant, from: Instant, what: &str) {
        let (from, to) = (from - began, began.elapsed());
        let line = format!("{:>7.1} .. {:>7.1} s  {what}", from.as_secs_f64(), to.as_secs_f64());
        crate::say(&line);
        lock(&self.lines).push(line);
    }

    fn fire(&self, fault: Fault) {
        lock(&self.fired).insert(fault);
    }

    fn has_fired(&self, fault: Fault) -> bool {
        lock(&self.fired).contains(&fault)
    }

    /// Kinds of which none could be proved, and what the program did not do as it promises.
    pub(crate) fn findings(&self) -> Vec<String> {
        let fired = lock(&self.fired);
        let missing = LANES.iter().copied().flatten().filter(|fault| !fired.contains(fault));
        let missing = missing.map(|fault| format!("{fault:?} never fired: this run shows nothing of it"));
        missing.chain(lock(&self.broken).iter().cloned()).collect()
    }

    pub(crate) fn told(&self) -> String {
        lock(&self.lines).iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
