//! Who shall be a member and who shall vote: one change at a time, decided from what is there.
//!
//! Pure. Whatever a crash interrupted is found again by looking at the membership, so nothing is remembered between two
//! calls. The leader asks about once a second and does what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::limits::MEMBERS;
use crate::raft::{Member, NodeId, VoterWish};

/// Most voters: more would make every command wait for more disks without surviving much more.
pub const VOTERS: usize = 5;
/// A learner that has this many entries still to come may become a voter.
const LAG: u64 = 64;
/// A member that was silent for this long is not made a voter.
const SILENT: Duration = Duration::from_secs(3);

/// What the leader sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The leader.
    pub me: NodeId,
    /// The sets of voters: one; two while the second follows the first.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// All members.
    pub members: BTreeMap<NodeId, Seen>,
    /// Let in, and not yet a member.
    pub admitted: BTreeMap<NodeId, Member>,
    /// To be demoted and removed.
    pub leaving: BTreeSet<NodeId>,
    /// How long a voter may be silent before another takes its place.
    pub replace_after: Duration,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether it may vote.
    pub wish: VoterWish,
    /// For how long it has not answered; nothing for the leader itself.
    pub silent: Duration,
    /// Entries that it does not have yet; None before the leader knows.
    pub lag: Option<u64>,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds it as a learner.
    Add(NodeId, Box<Member>),
    /// Makes these the voters; who votes no more stays as a learner.
    Voters(BTreeSet<NodeId>),
    /// Removes a learner.
    Remove(NodeId),
}

/// The next step, where one is due. Steps that it does not find safe are left to a later view.
#[must_use]
pub fn next_change(view: &View) -> Option<Change> {
    let [voters] = view.voters.as_slice() else {
        // Somebody began to change the voters and was stopped in the middle: both sets must agree until it is done.
        return view.voters.last().cloned().map(Change::Voters);
    };
    if view.members.len() < MEMBERS
        && let Some((node, member)) = view.admitted.iter().find(|(node, _)| !view.members.contains_key(node))
    {
        return Some(Change::Add(*node, Box::new(member.clone())));
    }
    let wanted = wanted_voters(view, voters);
    if wanted != *voters && !wanted.is_empty() {
        return Some(Change::Voters(wanted));
    }
    let gone = view.leaving.iter().find(|node| view.members.contains_key(node) && !voters.contains(node));
    gone.copied().map(Change::Remove)
}

/// The voters that there should be.
fn wanted_voters(view: &View, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let may_vote = |node: &NodeId| {
        let wish = view.members.get(node).map(|seen| seen.wish);
        wish == Some(VoterWish::Auto) && !view.leaving.contains(node)
    };
    let spares: Vec<NodeId> = view
        .members
        .keys()
        .filter(|node| !voters.contains(node) && may_vote(node) && view.is_ready(node))
        .copied()
        .collect();
    let mut spares = spares.into_iter();
    let mut wanted: BTreeSet<NodeId> = voters.iter().filter(|node| may_vote(node)).copied().collect();
    let dead: Vec<NodeId> = wanted.iter().filter(|node| view.is_dead(node)).copied().collect();
    for node in dead {
        let Some(spare) = spares.next() else { break };
        wanted.remove(&node);
        wanted.insert(spare);
    }
    let most = odd(wanted.len().saturating_add(spares.len()).min(VOTERS));
    while wanted.len() < most {
        let Some(spare) = spares.next() else { break };
        wanted.insert(spare);
    }
    if wanted.len() > 1 && wanted.len().is_multiple_of(2) {
        // An even number survives no more deaths than one less, and waits for one more. The most silent goes.
        let goes = wanted.iter().filter(|node| **node != view.me).max_by_key(|node| view.silence(node)).copied();
        goes.map(|node| wanted.remove(&node));
    }
    wanted
}

fn odd(number: usize) -> usize {
    if number.is_multiple_of(2) { number.saturating_sub(1) } else { number }
}

impl View {
    fn silence(&self, node: &NodeId) -> Duration {
        self.members.get(node).map_or(Duration::MAX, |seen| seen.silent)
    }

    /// Whether it could vote at once.
    fn is_ready(&self, node: &NodeId) -> bool {
        self.members.get(node).is_some_and(|seen| seen.silent < SILENT && seen.lag.is_some_and(|lag| lag <= LAG))
    }

    fn is_dead(&self, node: &NodeId) -> bool {
        *node != self.me && self.silence(node) >= self.replace_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Duration = Duration::from_secs(700);

    fn seen(wish: VoterWish, silent: Duration, lag: Option<u64>) -> Seen {
        Seen { wish, silent, lag }
    }

    fn well() -> Seen {
        seen(VoterWish::Auto, Duration::from_millis(80), Some(0))
    }

    /// Members that are all well; the first leads.
    fn view(members: &[NodeId], voters: &[NodeId]) -> View {
        View {
            me: members[0],
            voters: vec![voters.iter().copied().collect()],
            members: members.iter().map(|node| (*node, well())).collect(),
            admitted: BTreeMap::new(),
            leaving: BTreeSet::new(),
            replace_after: Duration::from_secs(600),
        }
    }

    fn voters(nodes: &[NodeId]) -> Option<Change> {
        Some(Change::Voters(nodes.iter().copied().collect()))
    }

    #[test]
    fn the_number_of_voters_is_odd_and_at_most_five() {
        for (members, before, after) in [
            (1, 1, None),
            (2, 1, None),
            (3, 1, voters(&[1, 2, 3])),
            (4, 1, voters(&[1, 2, 3])),
            (4, 3, None),
            (5, 3, voters(&[1, 2, 3, 4, 5])),
            (5, 1, voters(&[1, 2, 3, 4, 5])),
            (9, 5, None),
            (2, 2, voters(&[1])),
            (4, 4, voters(&[1, 2, 3])),
        ] {
            let ids: Vec<NodeId> = (1..=members).collect();
            let mut view = view(&ids, &ids[..before]);
            // Of those who are equally well the last goes.
            if before == members as usize {
                view.members.insert(members, seen(VoterWish::Auto, Duration::from_millis(90), Some(0)));
            }
            assert_eq!(next_change(&view), after, "{members} members, {before} voters");
        }
    }

    #[test]
    fn a_learner_that_is_behind_silent_unknown_or_unwilling_does_not_become_a_voter() {
        for learner in [
            seen(VoterWish::Auto, Duration::from_millis(80), Some(LAG + 1)),
            seen(VoterWish::Auto, Duration::from_millis(80), None),
            seen(VoterWish::Auto, SILENT, Some(0)),
            seen(VoterWish::Never, Duration::from_millis(80), Some(0)),
        ] {
            let mut view = view(&[1, 2, 3], &[1]);
            view.members.insert(3, learner);
            assert_eq!(next_change(&view), None, "{learner:?}");
        }
    }

    #[test]
    fn who_was_let_in_becomes_a_learner_before_anything_else() {
        let mut view = view(&[1, 2, 3], &[1]);
        view.admitted.insert(9, Member::default());
        assert_eq!(next_change(&view), Some(Change::Add(9, Box::default())));
        view.members.insert(9, well());
        assert_eq!(next_change(&view), voters(&[1, 2, 3]));
    }

    #[test]
    fn f62_a_change_that_was_stopped_in_the_middle_is_finished_first() {
        let mut view = view(&[1, 2, 3, 4], &[1]);
        view.voters.push([1, 2, 3].into());
        view.admitted.insert(9, Member::default());
        assert_eq!(next_change(&view), voters(&[1, 2, 3]));
    }

    #[test]
    fn a_dead_voter_is_replaced_where_there_is_a_spare() {
        let mut view = view(&[1, 2, 3], &[1, 2, 3]);
        view.members.insert(3, seen(VoterWish::Auto, DEAD, Some(9_999)));
        assert_eq!(next_change(&view), None, "no spare: five to three is an operator's word");
        view.members.insert(4, well());
        assert_eq!(next_change(&view), voters(&[1, 2, 4]));
        view.members.insert(3, seen(VoterWish::Auto, Duration::from_secs(599), Some(9_999)));
        assert_eq!(next_change(&view), None, "not yet");
    }

    #[test]
    fn two_dead_voters_are_replaced_as_far_as_spares_go() {
        let mut view = view(&[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4, 5]);
        for node in [4, 5] {
            view.members.insert(node, seen(VoterWish::Auto, DEAD, None));
        }
        assert_eq!(next_change(&view), voters(&[1, 2, 3, 5, 6]));
    }

    #[test]
    fn who_leaves_is_demoted_replaced_and_removed() {
        let mut view = view(&[1, 2, 3, 4], &[1, 2, 3]);
        view.leaving.insert(2);
        assert_eq!(next_change(&view), voters(&[1, 3, 4]));
        view.voters = vec![[1, 3, 4].into()];
        assert_eq!(next_change(&view), Some(Change::Remove(2)));
        view.members.remove(&2);
        assert_eq!(next_change(&view), None);
    }

    #[test]
    fn of_three_that_are_left_by_one_a_single_voter_remains() {
        let mut view = view(&[1, 2, 3], &[1, 2, 3]);
        view.leaving.insert(3);
        assert_eq!(next_change(&view), voters(&[1]));
    }

    #[test]
    fn the_leader_itself_may_leave_and_the_last_voter_may_not() {
        let mut view = view(&[1, 2, 3, 4], &[1, 2, 3]);
        view.leaving.insert(1);
        assert_eq!(next_change(&view), voters(&[2, 3, 4]));
        let mut alone = self::view(&[1], &[1]);
        alone.leaving.insert(1);
        assert_eq!(next_change(&alone), None, "n10: nobody would vote");
        let mut two = self::view(&[1, 2], &[1]);
        two.leaving.insert(1);
        assert_eq!(next_change(&two), voters(&[2]));
    }

    #[test]
    fn a_voter_that_wants_to_vote_no_more_is_demoted() {
        let mut view = view(&[1, 2, 3, 4], &[1, 2, 3]);
        view.members.insert(3, seen(VoterWish::Never, Duration::ZERO, Some(0)));
        assert_eq!(next_change(&view), voters(&[1, 2, 4]));
    }

    #[test]
    fn steps_lead_to_rest() {
        // Whatever the beginning, so many steps are enough, and no step leaves nobody to vote.
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let count = random.u64(1..9);
            let ids: Vec<NodeId> = (1..=count).collect();
            let voters = random.usize(1..=count.min(5) as usize);
            let mut view = view(&ids, &ids[..voters]);
            for node in &ids[1..] {
                let wish = if random.u8(0..4) == 0 { VoterWish::Never } else { VoterWish::Auto };
                let silent = if random.u8(0..4) == 0 { DEAD } else { Duration::ZERO };
                view.members.insert(*node, seen(wish, silent, Some(0)));
                if random.u8(0..5) == 0 {
                    view.leaving.insert(*node);
                }
            }
            let mut steps = 0;
            while let Some(change) = next_change(&view) {
                match change {
                    Change::Voters(next) => {
                        assert!(!next.is_empty() && next.len() <= VOTERS);
                        view.voters = vec![next];
                    }
                    Change::Remove(node) => {
                        assert!(!view.voters[0].contains(&node));
                        view.members.remove(&node);
                    }
                    Change::Add(..) => unreachable!("nobody was let in"),
                }
                steps += 1;
                assert!(steps < 20, "{view:?}");
            }
            // Where nobody is left who wants to vote, those who do go on.
            let stuck = wanted_voters(&view, &view.voters[0]).is_empty();
            assert!(stuck || view.voters[0].len() % 2 == 1, "{view:?}");
        }
    }
}
