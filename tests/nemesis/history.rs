//! What clients did and were told, by name; and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::checker::{Operation, Verdict, check};
use crate::model::Call;

/// After so many requests, or so many without an answer, clients go on with another name: a search stays short.
const REQUESTS: usize = 90;
const OPEN: usize = 7;
/// Names that clients use at the same time.
const NAMES: usize = 3;

/// A request, and who was asked.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) operation: Operation,
    /// How old the answer said it may be, where it was asked for no consistent one.
    pub(crate) age: Option<Duration>,
    pub(crate) asked: String,
}

pub(crate) struct History {
    began: Instant,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    names: BTreeMap<String, Vec<Recorded>>,
    active: [usize; NAMES],
    made: usize,
    /// Broken promises that need no search.
    broken: Vec<String>,
    counts: BTreeMap<String, usize>,
}

impl History {
    pub(crate) fn new() -> Self {
        let log = Log { active: [0, 1, 2], made: NAMES, ..Log::default() };
        Self { began: Instant::now(), log: Mutex::new(log) }
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name to do something with.
    pub(crate) fn name(&self, turn: usize) -> String {
        let mut log = self.log();
        let slot = turn % NAMES;
        let current = log.names.get(&name(log.active[slot]));
        let firm = |recorded: &&Recorded| recorded.age.is_none();
        let open = |recorded: &&Recorded| recorded.operation.answered.is_none();
        let over = |all: &Vec<Recorded>| {
            all.iter().filter(firm).count() >= REQUESTS || all.iter().filter(open).count() >= OPEN
        };
        let over = current.is_some_and(over);
        if over {
            log.active[slot] = log.made;
            log.made += 1;
        }
        name(log.active[slot])
    }

    pub(crate) fn record(&self, name: &str, recorded: Recorded) {
        self.log().names.entry(name.to_owned()).or_default().push(recorded);
    }

    pub(crate) fn count(&self, what: impl Into<String>) {
        *self.log().counts.entry(what.into()).or_default() += 1;
    }

    pub(crate) fn broken(&self, what: String) {
        let at = self.now();
        self.log().broken.push(format!("{at:.3?} {what}"));
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.log().names.keys().cloned().collect()
    }

    pub(crate) fn counts(&self) -> String {
        self.log().counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    }

    /// Everything that is wrong, in sentences.
    pub(crate) fn findings(&self) -> Vec<String> {
        let log = self.log();
        let mut findings = log.broken.clone();
        for (name, recorded) in &log.names {
            findings.extend(judge(recorded).into_iter().map(|finding| format!("{name}: {finding}")));
        }
        findings
    }

    /// All of it, for reading.
    pub(crate) fn told(&self) -> String {
        let mut text = String::new();
        for (name, recorded) in &self.log().names {
            let _ = writeln!(text, "{name}");
            let mut recorded: Vec<&Recorded> = recorded.iter().collect();
            recorded.sort_by_key(|recorded| recorded.operation.called);
            for one in recorded {
                let _ = writeln!(text, "  {}", line(one));
            }
        }
        text
    }
}

fn name(number: usize) -> String {
    format!("name-{number:05}")
}

fn line(recorded: &Recorded) -> String {
    let Recorded { operation: Operation { call, called, answered }, age, asked } = recorded;
    let age = age.map_or_else(String::new, |age| format!(" as of {age:?} before"));
    match answered {
        Some((at, answer)) => format!("{called:.4?} .. {at:.4?} {asked} {call:?}{age} -> {answer:?}"),
        None => format!("{called:.4?} ..        {asked} {call:?} -> nothing"),
    }
}

/// What is wrong with the history of one name.
fn judge(recorded: &[Recorded]) -> Vec<String> {
    let firm: Vec<Operation> =
        recorded.iter().filter(|one| one.age.is_none()).map(|one| one.operation.clone()).collect();
    match check(&firm) {
        Verdict::Linearizable => recorded.iter().filter_map(|one| stale(&firm, one)).collect(),
        Verdict::Not { explained } => {
            vec![format!("not linearizable; of {} answers at most {explained} have an order", firm.len())]
        }
        Verdict::Unknown => vec!["the search for an order was given up".to_owned()],
    }
}

/// A read that may be old has to be true at some time between the age that it claims and its answer: it is held against
/// the history as if it had been asked for so much earlier. Each for itself; no order among them is promised.
fn stale(firm: &[Operation], one: &Recorded) -> Option<String> {
    /// Ages are cut to milliseconds.
    const SLACK: Duration = Duration::from_millis(2);
    let age = one.age?;
    let mut earlier = one.operation.clone();
    earlier.called = earlier.called.saturating_sub(age + SLACK);
    let found = check(&[firm, &[earlier]].concat());
    (found != Verdict::Linearizable).then(|| format!("older than it says ({found:?}): {}", line(one)))
}

/// How many requests of each kind there are in a history, and how many have no answer.
pub(crate) fn kind(call: &Call) -> &'static str {
    match call {
        Call::Publish { replace: false, .. } => "publish",
        Call::Publish { replace: true, .. } => "replace",
        Call::Withdraw { .. } => "withdraw",
        Call::Read => "read",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Answer;

    fn at(from: u64, to: u64, call: Call, answer: Answer, age: Option<u64>) -> Recorded {
        let ms = Duration::from_millis;
        let operation = Operation { call, called: ms(from), answered: Some((ms(to), answer)) };
        Recorded { operation, age: age.map(ms), asked: "m1".to_owned() }
    }

    #[test]
    fn a_read_may_be_as_old_as_it_says_and_no_older() {
        let publish = || at(0, 10, Call::Publish { content: 0, replace: false, by: 0 }, Answer::Published(1), None);
        let read = |age| at(100, 101, Call::Read, Answer::NotFound, Some(age));
        assert!(judge(&[publish(), read(95)]).is_empty());
        assert_eq!(judge(&[publish(), read(80)]).len(), 1);
        assert_eq!(judge(&[publish(), at(100, 101, Call::Read, Answer::NotFound, None)]).len(), 1);
    }

    #[test]
    fn a_read_is_not_of_the_future() {
        let versions = Answer::Versions([(1, 0)].into());
        let publish = at(50, 60, Call::Publish { content: 0, replace: false, by: 0 }, Answer::Published(1), None);
        assert_eq!(judge(&[at(0, 10, Call::Read, versions, Some(5_000)), publish]).len(), 1);
    }
}
