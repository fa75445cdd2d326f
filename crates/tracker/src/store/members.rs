//! The peers of one swarm in both address families. Up to three of them, as most swarms of a public tracker have, need no
//! heap.

use super::family::{Counts, Family, Room, View};
use super::key::HashKey;
use super::peer::{Marks, Peer, Slot, Source};

/// IPv4 peers that take no more room than one of IPv6.
const FEW: usize = 3;

/// Peers of one swarm.
pub(crate) enum Members {
    /// A few of IPv4, seeds in front.
    Few { len: u8, peers: [Peer<4>; FEW] },
    /// One of IPv6.
    One(Peer<16>),
    /// IPv4 only.
    V4(Box<Family<4>>),
    /// IPv6 only.
    V6(Box<Family<16>>),
    /// Both.
    Both(Box<(Family<4>, Family<16>)>),
}

const _: () = assert!(size_of::<Members>() == 32);

const NOBODY: Peer<4> = Peer { ip: [0; 4], port: [0; 2], marks: Marks::NONE, source: Source::NONE, due: 0 };

impl Default for Members {
    fn default() -> Self {
        Self::Few { len: 0, peers: [NOBODY; FEW] }
    }
}

/// Access to the peers of one address family.
pub(crate) trait Has<const N: usize> {
    /// The peers to read.
    fn view(&self) -> View<'_, N>;
    /// The family, if it is on the heap.
    fn on_heap(&mut self) -> Option<&mut Family<N>>;
    /// Adds a peer without using the heap, if there is room.
    fn push_inline(&mut self, peer: Peer<N>) -> Option<usize>;
    /// Changes a peer that is not on the heap.
    fn change_inline(&mut self, at: usize, peer: Peer<N>) -> usize;
    /// Removes a peer that is not on the heap.
    fn remove_inline(&mut self, at: usize) -> Option<Peer<N>>;
    /// Moves the peers to the heap, with this family there.
    fn to_heap(&mut self, key: HashKey) -> &mut Family<N>;
}

fn sides<const N: usize>(peers: &[Peer<N>]) -> View<'_, N> {
    View { peers, seeds: peers.iter().take_while(|peer| peer.is_seed()).count() }
}

fn tally<const N: usize>(peers: &[Peer<N>]) -> Counts {
    let counted = peers.iter().filter(|peer| peer.is_counted());
    counted.fold(Counts::default(), |sum, peer| {
        sum + Counts { seeds: u32::from(peer.is_seed()), leechers: u32::from(!peer.is_seed()) }
    })
}

impl Has<4> for Members {
    fn view(&self) -> View<'_, 4> {
        match self {
            Self::Few { len, peers } => sides(&peers[..usize::from(*len).min(FEW)]),
            Self::One(_) | Self::V6(_) => sides(&[]),
            Self::V4(family) => family.view(),
            Self::Both(both) => both.0.view(),
        }
    }

    fn on_heap(&mut self) -> Option<&mut Family<4>> {
        match self {
            Self::V4(family) => Some(family),
            Self::Both(both) => Some(&mut both.0),
            Self::Few { .. } | Self::One(_) | Self::V6(_) => None,
        }
    }

    fn push_inline(&mut self, peer: Peer<4>) -> Option<usize> {
        let Self::Few { len, peers } = self else {
            return None;
        };
        let at = usize::from(*len);
        *peers.get_mut(at)? = Peer { marks: peer.marks.with(Marks::SEED, false), ..peer };
        *len += 1;
        Some(self.change_inline(at, peer))
    }

    fn change_inline(&mut self, at: usize, peer: Peer<4>) -> usize {
        let Self::Few { len, peers } = self else {
            return at;
        };
        let peers = &mut peers[..usize::from(*len).min(FEW)];
        let Some(place) = peers.get_mut(at) else {
            return at;
        };
        let was_seed = std::mem::replace(place, peer).is_seed();
        // It changes places with whoever stands at the border.
        let others = peers.iter().enumerate().filter(|(other, known)| *other != at && known.is_seed()).count();
        let border = if peer.is_seed() == was_seed { at } else { others };
        peers.swap(at, border);
        border
    }

    fn remove_inline(&mut self, at: usize) -> Option<Peer<4>> {
        let Self::Few { len, peers } = self else {
            return None;
        };
        let rest = peers[..usize::from(*len).min(FEW)].get_mut(at..).filter(|rest| !rest.is_empty())?;
        let removed = rest[0];
        rest.rotate_left(1);
        *len -= 1;
        Some(removed)
    }

    fn to_heap(&mut self, key: HashKey) -> &mut Family<4> {
        *self = match std::mem::take(self) {
            Self::Few { len, peers } => Self::V4(Box::new(family_of(&peers[..usize::from(len).min(FEW)], key))),
            Self::One(peer) => Self::Both(Box::new((Family::default(), family_of(&[peer], key)))),
            Self::V6(family) => Self::Both(Box::new((Family::default(), *family))),
            heap @ (Self::V4(_) | Self::Both(_)) => heap,
        };
        match self {
            Self::V4(family) => family,
            Self::Both(both) => &mut both.0,
            Self::Few { .. } | Self::One(_) | Self::V6(_) => unreachable!("the match above leaves none of these"),
        }
    }
}

impl Has<16> for Members {
    fn view(&self) -> View<'_, 16> {
        match self {
            Self::One(peer) => sides(std::slice::from_ref(peer)),
            Self::Few { .. } | Self::V4(_) => sides(&[]),
            Self::V6(family) => family.view(),
            Self::Both(both) => both.1.view(),
        }
    }

    fn on_heap(&mut self) -> Option<&mut Family<16>> {
        match self {
            Self::V6(family) => Some(family),
            Self::Both(both) => Some(&mut both.1),
            Self::Few { .. } | Self::One(_) | Self::V4(_) => None,
        }
    }

    fn push_inline(&mut self, peer: Peer<16>) -> Option<usize> {
        let Self::Few { len: 0, .. } = self else {
            return None;
        };
        *self = Self::One(peer);
        Some(0)
    }

    fn change_inline(&mut self, at: usize, peer: Peer<16>) -> usize {
        if let Self::One(known) = self {
            *known = peer;
        }
        at
    }

    fn remove_inline(&mut self, _at: usize) -> Option<Peer<16>> {
        let Self::One(peer) = *self else {
            return None;
        };
        *self = Self::default();
        Some(peer)
    }

    fn to_heap(&mut self, key: HashKey) -> &mut Family<16> {
        *self = match std::mem::take(self) {
            Self::Few { len: 0, .. } => Self::V6(Box::default()),
            Self::Few { len, peers } => {
                Self::Both(Box::new((family_of(&peers[..usize::from(len).min(FEW)], key), Family::default())))
            }
            Self::One(peer) => Self::V6(Box::new(family_of(&[peer], key))),
            Self::V4(family) => Self::Both(Box::new((*family, Family::default()))),
            heap @ (Self::V6(_) | Self::Both(_)) => heap,
        };
        match self {
            Self::V6(family) => family,
            Self::Both(both) => &mut both.1,
            Self::Few { .. } | Self::One(_) | Self::V4(_) => unreachable!("the match above leaves none of these"),
        }
    }
}

fn family_of<const N: usize>(peers: &[Peer<N>], key: HashKey) -> Family<N> {
    let mut family = Family::default();
    for peer in peers {
        family.push(*peer, key);
    }
    family
}

/// The peer with this endpoint, by position in its family's view.
pub(crate) fn find<const N: usize>(members: &mut Members, endpoint: &Peer<N>, key: HashKey) -> Option<usize>
where
    Members: Has<N>,
{
    if let Some(family) = members.on_heap() {
        return family.find(endpoint, key);
    }
    members.view().peers.iter().position(|peer: &Peer<N>| peer.is_same_endpoint(endpoint))
}

/// Adds a peer whose endpoint is not there; says where it stands, and which one made room if one had to. None where
/// its address has all the ports it may have.
pub(crate) fn push<const N: usize>(members: &mut Members, peer: Peer<N>, ports: u16, key: HashKey) -> Option<usize>
where
    Members: Has<N>,
{
    if let Some(at) = members.push_inline(peer) {
        return Some(at);
    }
    let family: &mut Family<N> = members.to_heap(key);
    match family.room(&peer, ports, key) {
        Room::Free => Some(family.push(peer, key)),
        Room::Instead(at) => Some(family.replace(at, peer, key)),
        Room::Full => None,
    }
}

/// Replaces what is known of the peer at `at`; says where it stands then. Its endpoint stays.
pub(crate) fn change<const N: usize>(members: &mut Members, at: usize, peer: Peer<N>, key: HashKey) -> usize
where
    Members: Has<N>,
{
    let Some(family) = members.on_heap() else {
        return members.change_inline(at, peer);
    };
    family.remark(at, peer.marks, peer.due);
    family.set_source(at, peer.source);
    family.set_seed(at, peer.is_seed(), key)
}

/// Removes the peer at `at`.
pub(crate) fn remove<const N: usize>(members: &mut Members, at: usize, key: HashKey) -> Option<Peer<N>>
where
    Members: Has<N>,
{
    match members.on_heap() {
        Some(family) => family.remove(at, key),
        None => members.remove_inline(at),
    }
}

/// Removes every peer of the family that `gone` says so of.
pub(crate) fn remove_all<const N: usize>(members: &mut Members, mut gone: impl FnMut(&Peer<N>) -> bool, key: HashKey)
where
    Members: Has<N>,
{
    if let Some(family) = members.on_heap() {
        return family.remove_all(gone, key);
    }
    let mut at = 0;
    while let Some(peer) = members.view().peers.get(at) {
        if gone(peer) {
            members.remove_inline(at);
        } else {
            at += 1;
        }
    }
}

impl Members {
    /// Says of the plain peers that were heard of in one slot that they were in another.
    pub(crate) fn move_slot(&mut self, from: Slot, to: Slot) {
        fn all<const N: usize>(peers: &mut [Peer<N>], from: Slot, to: Slot) {
            for peer in peers.iter_mut().filter(|peer| peer.is_from(from)) {
                peer.source = peer.source.at_slot(to);
            }
        }
        match self {
            Self::Few { len, peers } => all(&mut peers[..usize::from(*len).min(FEW)], from, to),
            Self::One(peer) => all(std::slice::from_mut(peer), from, to),
            Self::V4(family) => all(family.peers_mut(), from, to),
            Self::V6(family) => all(family.peers_mut(), from, to),
            Self::Both(both) => {
                all(both.0.peers_mut(), from, to);
                all(both.1.peers_mut(), from, to);
            }
        }
    }

    /// Peers that count.
    pub(crate) fn counts(&self) -> Counts {
        match self {
            Self::Few { len, peers } => tally(&peers[..usize::from(*len).min(FEW)]),
            Self::One(peer) => tally(std::slice::from_ref(peer)),
            Self::V4(family) => family.counts(),
            Self::V6(family) => family.counts(),
            Self::Both(both) => both.0.counts() + both.1.counts(),
        }
    }

    /// How many addresses there are, those that do not count included.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few { len, .. } => usize::from(*len),
            Self::One(_) => 1,
            Self::V4(family) => family.len(),
            Self::V6(family) => family.len(),
            Self::Both(both) => both.0.len() + both.1.len(),
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Few { .. } | Self::One(_) => 0,
            Self::V4(family) => size_of::<Family<4>>() + family.heap_bytes(),
            Self::V6(family) => size_of::<Family<16>>() + family.heap_bytes(),
            Self::Both(both) => size_of::<(Family<4>, Family<16>)>() + both.0.heap_bytes() + both.1.heap_bytes(),
        }
    }

    /// Takes the smallest form that holds who is there.
    pub(crate) fn shrink(&mut self) {
        let [v4, v6] = [Has::<4>::view(self).peers.len(), Has::<16>::view(self).peers.len()];
        *self = match (std::mem::take(self), v4, v6) {
            (heap @ (Self::V4(_) | Self::Both(_)), 0..=FEW, 0) => {
                let mut few = Self::default();
                for peer in Has::<4>::view(&heap).peers {
                    few.push_inline(*peer);
                }
                few
            }
            (Self::V6(family), 0, 0..=1) => one_of(&family),
            (Self::Both(both), 0, 0..=1) => one_of(&both.1),
            (Self::Both(both), 0, _) => Self::V6(Box::new(both.1)),
            (Self::Both(both), _, 0) => Self::V4(Box::new(both.0)),
            (same, _, _) => same,
        };
        if let Some(family) = Has::<4>::on_heap(self) {
            family.shrink();
        }
        if let Some(family) = Has::<16>::on_heap(self) {
            family.shrink();
        }
    }
}

fn one_of(family: &Family<16>) -> Members {
    family.view().peers.first().map_or_else(Members::default, |peer| Members::One(*peer))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Add4(u8, bool),
        Add6(u8, bool),
        Remove4(u8),
        Remove6(u8),
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let number = 0u8..5;
        let step = prop_oneof![
            (number.clone(), any::<bool>()).prop_map(|(number, seed)| Step::Add4(number, seed)),
            (number.clone(), any::<bool>()).prop_map(|(number, seed)| Step::Add6(number, seed)),
            number.clone().prop_map(Step::Remove4),
            number.prop_map(Step::Remove6),
            Just(Step::Shrink),
        ];
        prop::collection::vec(step, 0..60)
    }

    fn add<const N: usize>(members: &mut Members, known: &mut Vec<(Peer<N>, bool)>, number: u8, seed: bool)
    where
        Members: Has<N>,
    {
        let key = HashKey::new([1; 24]);
        let peer = Peer { marks: Marks::NONE.with(Marks::SEED, seed), ..Peer::at([number; N], [0, 1]) };
        let at = match find(members, &peer, key) {
            Some(at) => change(members, at, peer, key),
            None => push(members, peer, 64, key).unwrap(),
        };
        assert_eq!(members.view().peers[at], peer);
        known.retain(|(known, _)| !known.is_same_endpoint(&peer));
        known.push((peer, seed));
    }

    fn take<const N: usize>(members: &mut Members, known: &mut Vec<(Peer<N>, bool)>, number: u8)
    where
        Members: Has<N>,
    {
        let key = HashKey::new([1; 24]);
        let endpoint = Peer::at([number; N], [0, 1]);
        let found = find(members, &endpoint, key).and_then(|at| remove(members, at, key));
        assert_eq!(found.is_some(), known.iter().any(|(known, _)| known.is_same_endpoint(&endpoint)));
        known.retain(|(known, _)| !known.is_same_endpoint(&endpoint));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_form_holds_the_same_peers(steps in steps()) {
            let mut members = Members::default();
            let (mut v4, mut v6) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Add4(number, seed) => add::<4>(&mut members, &mut v4, number, seed),
                    Step::Add6(number, seed) => add::<16>(&mut members, &mut v6, number, seed),
                    Step::Remove4(number) => take(&mut members, &mut v4, number),
                    Step::Remove6(number) => take(&mut members, &mut v6, number),
                    Step::Shrink => members.shrink(),
                }
                let seeds = v4.iter().map(|(_, seed)| *seed).chain(v6.iter().map(|(_, seed)| *seed));
                let seeds = u32::try_from(seeds.filter(|seed| *seed).count()).unwrap();
                let all = u32::try_from(v4.len() + v6.len()).unwrap();
                prop_assert_eq!(members.counts(), Counts { seeds, leechers: all - seeds });
                prop_assert_eq!(members.len(), v4.len() + v6.len());
                let view: View<'_, 4> = members.view();
                prop_assert!(view.peers.iter().enumerate().all(|(at, peer)| peer.is_seed() == (at < view.seeds)));
            }
            members.shrink();
            prop_assert_eq!(members.heap_bytes() == 0, (v4.len() <= FEW && v6.is_empty()) || (v4.is_empty() && v6.len() == 1));
        }
    }
}
