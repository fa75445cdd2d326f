//! What one name does, one request after the other: the sequential specification that histories are held against.

use std::collections::BTreeMap;

/// A content, by its place among those that clients publish.
pub(crate) type Content = u8;
/// A publisher, by its place among the keys of the clients.
pub(crate) type Publisher = u8;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Publish {
        content: Content,
        replace: bool,
        by: Publisher,
    },
    /// None is all versions.
    Withdraw {
        version: Option<u32>,
        by: Publisher,
    },
    Read,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Published(u32),
    AlreadyThere(u32),
    NeedsReplace(u32),
    Owned,
    Withdrawn(Vec<u32>),
    NotFound,
    /// All versions that can be fetched.
    Versions(BTreeMap<u32, Content>),
}

/// A name between two requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct NameState {
    owner: Option<Publisher>,
    counter: u32,
    versions: BTreeMap<u32, Content>,
}

impl NameState {
    /// The one state and the one answer that a request leads to.
    pub(crate) fn step(&self, call: &Call) -> (Self, Answer) {
        match *call {
            Call::Publish { content, replace, by } => self.publish(content, replace, by),
            Call::Withdraw { version, by } => self.withdraw(version, by),
            Call::Read if self.versions.is_empty() => (self.clone(), Answer::NotFound),
            Call::Read => (self.clone(), Answer::Versions(self.versions.clone())),
        }
    }

    fn publish(&self, content: Content, replace: bool, by: Publisher) -> (Self, Answer) {
        let newest = self.versions.keys().last().copied();
        let there = self.versions.iter().rev().find(|(_, this)| **this == content).map(|(version, _)| *version);
        if let Some(version) = there {
            let back_to_an_old_one = self.owner == Some(by) && replace && newest != Some(version);
            if !back_to_an_old_one {
                return (self.clone(), Answer::AlreadyThere(version));
            }
        }
        if self.owner.is_some_and(|owner| owner != by) {
            return (self.clone(), Answer::Owned);
        }
        if let Some(version) = newest
            && !replace
        {
            return (self.clone(), Answer::NeedsReplace(version));
        }
        let counter = self.counter + 1;
        let mut versions = self.versions.clone();
        versions.insert(counter, content);
        (Self { owner: Some(by), counter, versions }, Answer::Published(counter))
    }

    fn withdraw(&self, version: Option<u32>, by: Publisher) -> (Self, Answer) {
        match self.owner {
            None => return (self.clone(), Answer::NotFound),
            Some(owner) if owner != by => return (self.clone(), Answer::Owned),
            Some(_) => {}
        }
        let (gone, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.versions.iter().partition(|(number, _)| version.is_none_or(|version| version == **number));
        if gone.is_empty() {
            return (self.clone(), Answer::NotFound);
        }
        (Self { versions: kept, ..self.clone() }, Answer::Withdrawn(gone.into_keys().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_owner_and_its_counter() {
        let publish = |content, replace, by| Call::Publish { content, replace, by };
        let mut state = NameState::default();
        let versions = |versions: &[(u32, Content)]| Answer::Versions(versions.iter().copied().collect());
        for (call, expected) in [
            (Call::Read, Answer::NotFound),
            (Call::Withdraw { version: None, by: 0 }, Answer::NotFound),
            (publish(0, false, 0), Answer::Published(1)),
            (publish(0, true, 1), Answer::AlreadyThere(1)),
            (publish(1, false, 0), Answer::NeedsReplace(1)),
            (publish(1, true, 1), Answer::Owned),
            (publish(1, true, 0), Answer::Published(2)),
            (publish(0, true, 0), Answer::Published(3)),
            (Call::Read, versions(&[(1, 0), (2, 1), (3, 0)])),
            (Call::Withdraw { version: Some(1), by: 0 }, Answer::Withdrawn(vec![1])),
            (Call::Withdraw { version: Some(1), by: 0 }, Answer::NotFound),
            (Call::Withdraw { version: None, by: 1 }, Answer::Owned),
            (Call::Withdraw { version: None, by: 0 }, Answer::Withdrawn(vec![2, 3])),
            (publish(1, false, 1), Answer::Owned),
            (publish(1, false, 0), Answer::Published(4)),
        ] {
            let (next, answer) = state.step(&call);
            assert_eq!(answer, expected, "{call:?}");
            state = next;
        }
    }
}
