//! Whether a history of one name can be put into one order: the search of Wing and Gong with Lowe's cache of what was
//! tried ("Testing for linearizability", 2017).
//!
//! The published ones do not fit: todc-utils wants an answer to every call, and a cluster that fails owes some;
//! stateright's tester keeps no cache, and brings a web server with it. Neither ends by saying that it does not know.

use std::collections::HashSet;
use std::time::Duration;

use crate::model::{Answer, Call, NameState};

/// Steps of a search after which it is given up.
const STEPS: usize = 20_000_000;

/// A request and what came of it; times since the run began.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) call: Call,
    /// Not after this it began.
    pub(crate) called: Duration,
    /// The answer and when it was there; None where none came, and it may happen at any time or never.
    pub(crate) answered: Option<(Duration, Answer)>,
}

impl Operation {
    fn horizon(&self) -> Duration {
        self.answered.as_ref().map_or(Duration::MAX, |(at, _)| *at)
    }

    fn may_answer(&self, answer: &Answer) -> bool {
        self.answered.as_ref().is_none_or(|(_, given)| given == answer)
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// No order explains it; at most so many of the answers have one.
    Not {
        explained: usize,
    },
    /// The search was given up. That is not a pass.
    Unknown,
}

/// A choice of the search, to be taken back.
struct Choice {
    operation: usize,
    before: NameState,
}

/// Searches for an order of `operations`.
pub(crate) fn check(operations: &[Operation]) -> Verdict {
    check_within(operations, STEPS)
}

fn check_within(operations: &[Operation], steps: usize) -> Verdict {
    let mut operations: Vec<&Operation> = operations.iter().collect();
    // Those without an answer are tried last: most have not happened, or much later.
    operations.sort_by_key(|operation| (operation.answered.is_none(), operation.called));
    let mut search = Search::new(&operations);
    let mut next = 0;
    for _ in 0..steps {
        if search.explained == search.answers {
            return Verdict::Linearizable;
        }
        if let Some(at) = search.candidate(next) {
            next = if search.choose(at) { 0 } else { at + 1 };
        } else if let Some(choice) = search.choices.pop() {
            next = choice.operation + 1;
            search.take_back(choice);
        } else {
            return Verdict::Not { explained: search.most };
        }
    }
    Verdict::Unknown
}

struct Search<'a> {
    operations: &'a [&'a Operation],
    /// Which of them have a place in the order, a bit each.
    placed: Vec<u64>,
    state: NameState,
    choices: Vec<Choice>,
    tried: HashSet<(Vec<u64>, NameState)>,
    /// Operations with an answer, those of them with a place, and the most that ever had one.
    answers: usize,
    explained: usize,
    most: usize,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Operation]) -> Self {
        Self {
            operations,
            placed: vec![0; operations.len().div_ceil(64)],
            state: NameState::default(),
            choices: Vec::new(),
            tried: HashSet::new(),
            answers: operations.iter().filter(|operation| operation.answered.is_some()).count(),
            explained: 0,
            most: 0,
        }
    }

    fn is_placed(&self, at: usize) -> bool {
        self.placed[at / 64] & (1 << (at % 64)) != 0
    }

    /// The first operation from `from` on that may come next: it began before the end of all that have no place.
    fn candidate(&self, from: usize) -> Option<usize> {
        let (answered, _) = self.operations.split_at(self.answers);
        let mut horizon = Duration::MAX;
        for (at, operation) in answered.iter().enumerate() {
            if operation.called > horizon {
                break;
            }
            if !self.is_placed(at) {
                horizon = horizon.min(operation.horizon());
            }
        }
        (from..self.operations.len()).find(|at| !self.is_placed(*at) && self.operations[*at].called <= horizon)
    }

    /// Gives it the next place, where its answer allows that and it leads to something that was not tried.
    fn choose(&mut self, at: usize) -> bool {
        let operation = self.operations[at];
        let (state, answer) = self.state.step(&operation.call);
        if !operation.may_answer(&answer) {
            return false;
        }
        self.placed[at / 64] ^= 1 << (at % 64);
        if !self.tried.insert((self.placed.clone(), state.clone())) {
            self.placed[at / 64] ^= 1 << (at % 64);
            return false;
        }
        let before = std::mem::replace(&mut self.state, state);
        self.choices.push(Choice { operation: at, before });
        self.explained += usize::from(operation.answered.is_some());
        self.most = self.most.max(self.explained);
        true
    }

    fn take_back(&mut self, choice: Choice) {
        self.placed[choice.operation / 64] ^= 1 << (choice.operation % 64);
        self.explained -= usize::from(self.operations[choice.operation].answered.is_some());
        self.state = choice.before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_FOUND: Answer = Answer::NotFound;

    fn publish(content: u8) -> Call {
        Call::Publish { content, replace: true, by: 0 }
    }

    fn withdraw() -> Call {
        Call::Withdraw { version: None, by: 0 }
    }

    fn versions(versions: &[(u32, u8)]) -> Answer {
        Answer::Versions(versions.iter().copied().collect())
    }

    fn done(from: u64, to: u64, call: Call, answer: Answer) -> Operation {
        let answered = Some((Duration::from_millis(to), answer));
        Operation { call, called: Duration::from_millis(from), answered }
    }

    fn open(from: u64, call: Call) -> Operation {
        Operation { call, called: Duration::from_millis(from), answered: None }
    }

    fn passes(operations: &[Operation]) {
        assert_eq!(check(operations), Verdict::Linearizable);
    }

    fn fails(operations: &[Operation]) {
        assert!(matches!(check(operations), Verdict::Not { .. }), "{:?}", check(operations));
    }

    #[test]
    fn requests_one_after_the_other_have_their_answers() {
        passes(&[]);
        passes(&[
            done(0, 1, publish(0), Answer::Published(1)),
            done(2, 3, Call::Read, versions(&[(1, 0)])),
            done(4, 5, publish(1), Answer::Published(2)),
            done(6, 7, Call::Read, versions(&[(1, 0), (2, 1)])),
            done(8, 9, withdraw(), Answer::Withdrawn(vec![1, 2])),
            done(10, 11, Call::Read, NOT_FOUND),
        ]);
    }

    #[test]
    fn requests_at_the_same_time_may_come_in_any_order() {
        for (first, second) in [(1, 2), (2, 1)] {
            passes(&[
                done(0, 10, publish(0), Answer::Published(first)),
                done(0, 10, publish(1), Answer::Published(second)),
            ]);
        }
        passes(&[done(0, 10, publish(0), Answer::Published(1)), done(5, 6, Call::Read, NOT_FOUND)]);
        passes(&[done(0, 10, publish(0), Answer::Published(1)), done(5, 6, Call::Read, versions(&[(1, 0)]))]);
    }

    #[test]
    fn a_request_without_an_answer_happens_at_any_time_or_never() {
        let read = |from, found| done(from, from + 1, Call::Read, found);
        passes(&[open(0, publish(0)), read(5, NOT_FOUND), read(9, NOT_FOUND)]);
        passes(&[open(0, publish(0)), read(5, versions(&[(1, 0)]))]);
        passes(&[open(0, publish(0)), read(5, NOT_FOUND), read(9, versions(&[(1, 0)]))]);
        // Once it has happened it does not go away, and it happens once.
        fails(&[open(0, publish(0)), read(5, versions(&[(1, 0)])), read(9, NOT_FOUND)]);
        fails(&[open(0, publish(0)), read(5, versions(&[(1, 0), (2, 0)]))]);
        // Not before it was asked for.
        fails(&[read(0, versions(&[(1, 0)])), open(5, publish(0))]);
    }

    #[test]
    fn a_stale_read_is_found() {
        fails(&[done(0, 1, publish(0), Answer::Published(1)), done(2, 3, Call::Read, NOT_FOUND)]);
        fails(&[
            done(0, 9, publish(0), Answer::Published(1)),
            done(2, 3, Call::Read, versions(&[(1, 0)])),
            done(4, 5, Call::Read, NOT_FOUND),
        ]);
    }

    #[test]
    fn an_answer_that_was_lost_is_found() {
        fails(&[
            done(0, 1, publish(0), Answer::Published(1)),
            done(2, 3, publish(1), Answer::Published(1)),
            done(4, 5, Call::Read, versions(&[(1, 1)])),
        ]);
    }

    #[test]
    fn a_request_that_was_applied_twice_is_found() {
        fails(&[done(0, 1, publish(0), Answer::Published(2))]);
        fails(&[
            done(0, 1, publish(0), Answer::Published(1)),
            done(2, 3, withdraw(), Answer::Withdrawn(vec![1])),
            done(4, 5, withdraw(), Answer::Withdrawn(vec![2])),
        ]);
    }

    #[test]
    fn two_histories_at_once_are_found() {
        fails(&[
            done(0, 1, publish(0), Answer::Published(1)),
            done(2, 9, publish(1), Answer::Published(2)),
            done(2, 9, publish(2), Answer::Published(2)),
        ]);
    }

    #[test]
    fn what_cannot_be_searched_is_not_passed() {
        let many: Vec<Operation> = (0..12).map(|content| open(0, publish(content))).collect();
        let impossible = [many, vec![done(5, 6, Call::Read, versions(&[(13, 1)]))]].concat();
        assert_eq!(check_within(&impossible, 1_000), Verdict::Unknown);
    }

    #[test]
    fn long_histories_with_open_requests_are_searched_at_once() {
        let mut operations: Vec<Operation> =
            (0..8).map(|content| open(u64::from(content) * 10, publish(content))).collect();
        for turn in 0..60_u32 {
            let at = u64::from(turn) * 10;
            operations.push(done(
                at,
                at + 5,
                publish(20),
                if turn == 0 { Answer::Published(1) } else { Answer::AlreadyThere(1) },
            ));
        }
        passes(&operations);
    }
}
