//! Which peers an asker is told of, and under which addresses.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use fastrand::Rng;

use super::family::View;
use super::peer::{Marks, Peer};

/// Neighbours taken together: a few cache lines at one random place instead of one at each of many.
const RUN: usize = 8;

/// Whoever announces, as its datagram or connection shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Where it comes from, IPv4-mapped addresses as IPv4.
    pub ip: IpAddr,
    /// The address of ours that it reached, if it is known.
    pub reached: Option<IpAddr>,
}

impl Asker {
    /// An asker from `source` that reached us under `reached`.
    #[must_use]
    pub fn new(source: IpAddr, reached: Option<IpAddr>) -> Self {
        Self { ip: source.to_canonical(), reached: reached.map(|ip| ip.to_canonical()) }
    }

    /// Whether it runs on the tracker's host: it comes from loopback, or from the very address that it reached.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.ip.is_loopback() || Some(self.ip) == self.reached
    }
}

/// What others are told instead of the tracker's own addresses (`--advertise`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Advertised {
    /// For IPv4.
    pub v4: Option<std::net::Ipv4Addr>,
    /// For IPv6.
    pub v6: Option<std::net::Ipv6Addr>,
}

/// How peers on the tracker's own host are told to one asker, in one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locals<const N: usize> {
    /// As they announced: the asker is on the host too.
    AsKnown,
    /// Under the address of the host that the asker, which is on it too, reached.
    OnHost([u8; N]),
    /// Under this address.
    Under([u8; N]),
    /// Not at all if they are known by a loopback address, which leads the asker to itself.
    NotLoopback,
}

/// [`Locals`] of either address family.
pub(crate) trait LocalsOf {
    /// How `asker` is told of peers on the tracker's host.
    fn of(asker: &Asker, advertised: &Advertised) -> Self;
}

impl LocalsOf for Locals<4> {
    fn of(asker: &Asker, advertised: &Advertised) -> Self {
        match (advertised.v4, asker.reached) {
            _ if asker.ip.is_loopback() => Self::AsKnown,
            (_, Some(IpAddr::V4(ip))) if asker.is_local() => Self::OnHost(ip.octets()),
            (Some(ip), _) => Self::Under(ip.octets()),
            (None, Some(IpAddr::V4(ip))) if !ip.is_loopback() => Self::Under(ip.octets()),
            _ => Self::NotLoopback,
        }
    }
}

impl LocalsOf for Locals<16> {
    fn of(asker: &Asker, advertised: &Advertised) -> Self {
        match (advertised.v6, asker.reached) {
            _ if asker.ip.is_loopback() => Self::AsKnown,
            (_, Some(IpAddr::V6(ip))) if asker.is_local() => Self::OnHost(ip.octets()),
            (Some(ip), _) => Self::Under(ip.octets()),
            (None, Some(IpAddr::V6(ip))) if !ip.is_loopback() => Self::Under(ip.octets()),
            _ => Self::NotLoopback,
        }
    }
}

impl<const N: usize> Locals<N> {
    /// The address under which `peer` is told, if it is.
    pub(crate) fn shown(&self, peer: &Peer<N>) -> Option<[u8; N]> {
        if !peer.marks.has(Marks::LOCAL) {
            return Some(peer.ip);
        }
        match self {
            Self::AsKnown => Some(peer.ip),
            Self::OnHost(ip) => Some(*ip),
            _ if peer.marks.has(Marks::HOST_ONLY) => None,
            Self::Under(ip) => Some(*ip),
            Self::NotLoopback => (!is_loopback(&peer.ip)).then_some(peer.ip),
        }
    }
}

fn is_loopback<const N: usize>(ip: &[u8; N]) -> bool {
    match N {
        4 => ip.first() == Some(&127),
        _ => ip.split_last().is_some_and(|(last, rest)| *last == 1 && rest.iter().all(|byte| *byte == 0)),
    }
}

/// Compact peers (BEP 23, BEP 7), written into memory of the caller: no allocation, and never past its end.
#[derive(Debug)]
pub struct CompactPeers<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> CompactPeers<'a> {
    /// Writes into `out`, as many as fit.
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// What was written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.out[..self.len]
    }

    /// Room for `count` peers, as far as they fit.
    fn room<const N: usize>(&mut self, count: usize) -> &mut [u8] {
        let room = self.out.get_mut(self.len..).unwrap_or_default();
        let end = room.len().min(count * (N + 2));
        &mut room[..end]
    }

    /// The IPv4 peers that were written.
    pub fn v4(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.endpoints::<4>()
    }

    /// The IPv6 peers that were written.
    pub fn v6(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.endpoints::<16>()
    }

    fn endpoints<const N: usize>(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.as_bytes().chunks_exact(N + 2).filter_map(|entry| {
            let (ip, port) = entry.split_at(N);
            Some(SocketAddr::new(address(ip)?, u16::from_be_bytes(port.try_into().ok()?)))
        })
    }
}

/// The address that 4 or 16 bytes spell.
pub(crate) fn address(ip: &[u8]) -> Option<IpAddr> {
    match ip.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(ip).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(ip).ok()?)),
    }
}

/// Who asks for peers of one family, and for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taker<const N: usize> {
    /// The asker's own place in the family.
    pub(crate) own: Option<usize>,
    /// The asker's own lease.
    pub(crate) lease: Option<u16>,
    /// It reached us in this family.
    pub(crate) own_family: bool,
    /// It has everything: other seeds are of no use to it.
    pub(crate) seed: bool,
    /// How many peers it wants.
    pub(crate) want: usize,
    pub(crate) locals: Locals<N>,
}

/// Writes a random subset of the peers, but never the asker itself; the work is in proportion to what is wanted, not
/// to how many there are.
pub(crate) fn hand_out<const N: usize>(view: View<'_, N>, taker: &Taker<N>, rng: &mut Rng, out: &mut CompactPeers<'_>) {
    // One more than wanted, since the asker may be among those that are chosen.
    let total = view.peers.len();
    let want = (taker.want + 1).min(total);
    let odd = taker.odd();
    let mut left = taker.want;
    let mut give = |range: Range<usize>| {
        let room = out.room::<N>(left);
        let given = tell(view.peers.get(range).unwrap_or_default(), taker, odd, room);
        left -= given;
        out.len += given * (N + 2);
    };
    let mut give = |range: Range<usize>| match taker.own {
        Some(own) if range.contains(&own) => {
            give(range.start..own);
            give(own + 1..range.end);
        }
        _ => give(range),
    };
    if taker.seed {
        return spread(view.seeds..total, want, rng, &mut give);
    }
    let seeds = share_of_seeds(view.seeds, total - view.seeds, want);
    spread(0..view.seeds, seeds, rng, &mut give);
    spread(view.seeds..total, want - seeds, rng, &mut give);
}

/// Writes neighbours into `room`, as many as fit; says how many. Those with `odd` marks are looked at.
fn tell<const N: usize>(peers: &[Peer<N>], taker: &Taker<N>, odd: Marks, room: &mut [u8]) -> usize {
    let mut places = room.chunks_exact_mut(N + 2);
    let all = places.len();
    for peer in peers {
        let ip = if peer.marks.has(odd) { taker.shown(peer) } else { Some(peer.ip) };
        let Some(ip) = ip else {
            continue;
        };
        let Some(place) = places.next() else {
            return all;
        };
        place[..N].copy_from_slice(&ip);
        place[N..].copy_from_slice(&peer.port);
    }
    all - places.len()
}

impl<const N: usize> Taker<N> {
    /// The marks of peers that have to be looked at before they are told; others are told as they are.
    fn odd(&self) -> Marks {
        Marks::NONE
            .with(Marks::LOCAL, !matches!(self.locals, Locals::AsKnown))
            .with(Marks::LEASED, self.lease.is_some())
            .with(Marks::TWIN, !self.own_family)
    }

    /// The address under which a peer is told, if it is.
    fn shown(&self, peer: &Peer<N>) -> Option<[u8; N]> {
        let own = self.lease.is_some_and(|lease| peer.is_leased_by(lease));
        let told_elsewhere = !self.own_family && peer.marks.has(Marks::TWIN);
        if own || told_elsewhere { None } else { self.locals.shown(peer) }
    }
}

/// How many of `want` are seeds: their share of the swarm, and at least an eighth, since a piece may be nowhere else.
fn share_of_seeds(seeds: usize, leechers: usize, want: usize) -> usize {
    let share = (want * seeds).div_ceil((seeds + leechers).max(1));
    share.max(want.div_ceil(8)).max(want.saturating_sub(leechers)).min(seeds).min(want)
}

/// Chooses `want` positions of `range` in short runs, each from a random place of its own part of the range and around
/// the end of it, so that none is chosen twice and each as often as the others.
fn spread(range: Range<usize>, want: usize, rng: &mut Rng, give: &mut impl FnMut(Range<usize>)) {
    let (len, want) = (range.len(), want.min(range.len()));
    // Who gets all gets them in one run.
    let parts = if want == len { want.min(1) } else { want.div_ceil(RUN) };
    let (mut from, mut len, mut want) = (range.start, len, want);
    for rest in (1..=parts).rev() {
        let to = from + len / rest;
        let run = want / rest;
        let first = rng.usize(from..to);
        let end = (first + run).min(to);
        give(first..end);
        give(from..from + run - (end - first));
        (from, len, want) = (to, range.end - to, want - run);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn swarm(seeds: usize, leechers: usize) -> Vec<Peer<4>> {
        let peer = |at: usize| {
            let [.., high, low] = at.to_be_bytes();
            Peer { marks: Marks::NONE.with(Marks::SEED, at < seeds), ..Peer::at([10, 1, high, low], [0, 1]) }
        };
        (0..seeds + leechers).map(peer).collect()
    }

    fn told(peers: &[Peer<4>], seeds: usize, taker: &Taker<4>, seed: u64) -> Vec<usize> {
        let mut buffer = [0; 6 * 300];
        let mut out = CompactPeers::new(&mut buffer);
        hand_out(View { peers, seeds }, taker, &mut Rng::with_seed(seed), &mut out);
        out.as_bytes().chunks(6).map(|entry| usize::from(u16::from_be_bytes([entry[2], entry[3]]))).collect()
    }

    const TAKER: Taker<4> =
        Taker { own: None, lease: None, own_family: true, seed: false, want: 50, locals: Locals::AsKnown };

    #[test]
    fn an_answer_holds_nobody_twice_and_never_the_asker() {
        for (seeds, leechers) in [(0, 0), (1, 0), (0, 1), (3, 60), (50, 1), (500, 500), (1, 999), (26, 26)] {
            let peers = swarm(seeds, leechers);
            for (seed, own) in [(1, None), (2, Some(0)), (3, Some(seeds)), (4, Some((seeds + leechers) / 2))] {
                let told = told(&peers, seeds, &Taker { own, ..TAKER }, seed);
                let others = peers.len() - usize::from(own.is_some_and(|own| own < peers.len()));
                assert_eq!(told.len(), others.min(50), "{seeds} seeds, {leechers} leechers, asker at {own:?}");
                assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len());
                assert!(own.is_none_or(|own| !told.contains(&own)));
            }
        }
    }

    #[test]
    fn seeds_are_not_told_of_seeds_and_leechers_always_are() {
        let peers = swarm(2, 1_000);
        assert!(told(&peers, 2, &Taker { seed: true, ..TAKER }, 1).iter().all(|at| *at >= 2));
        assert_eq!(told(&peers, 2, &TAKER, 1).iter().filter(|at| **at < 2).count(), 2);
        let peers = swarm(900, 100);
        assert!(told(&peers, 900, &TAKER, 1).iter().any(|at| *at >= 900));
    }

    #[test]
    fn everybody_is_told_about_as_often() {
        let peers = swarm(20, 380);
        let mut times = vec![0u32; peers.len()];
        for seed in 0..4_000 {
            for at in told(&peers, 20, &TAKER, seed) {
                times[at] += 1;
            }
        }
        for (at, times) in times.into_iter().enumerate().skip(20) {
            assert!((200..800).contains(&times), "peer {at} was told {times} times of 4,000, about 470 expected");
        }
    }

    #[test]
    fn peers_on_the_trackers_host_are_told_under_the_address_that_the_asker_reached() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let local = Peer { marks: Marks::LOCAL, ..Peer::at([127, 0, 0, 1], [0, 1]) };
        let own = Peer { marks: Marks::LOCAL, ..Peer::at([192, 168, 0, 2], [0, 1]) };
        let inside = Peer { marks: Marks::LOCAL.with(Marks::HOST_ONLY, true), ..local };
        let none = Advertised::default();
        let shown = |asker: Asker, advertised: &Advertised, peer| Locals::<4>::of(&asker, advertised).shown(peer);

        let remote = Asker::new(ip("10.0.0.9"), Some(ip("10.0.0.1")));
        assert_eq!(shown(remote, &none, &local), Some([10, 0, 0, 1]));
        assert_eq!(shown(remote, &none, &own), Some([10, 0, 0, 1]));
        assert_eq!(shown(remote, &none, &inside), None);
        let advertised = Advertised { v4: Some([7, 7, 7, 7].into()), v6: None };
        assert_eq!(shown(remote, &advertised, &local), Some([7, 7, 7, 7]));

        let loopback = Asker::new(ip("127.0.0.1"), Some(ip("127.0.0.1")));
        assert!(loopback.is_local());
        assert_eq!(shown(loopback, &advertised, &local), Some([127, 0, 0, 1]));
        assert_eq!(shown(loopback, &advertised, &inside), Some([127, 0, 0, 1]));

        let neighbour = Asker::new(ip("192.168.0.2"), Some(ip("192.168.0.2")));
        assert_eq!(shown(neighbour, &advertised, &local), Some([192, 168, 0, 2]));
        assert_eq!(shown(neighbour, &advertised, &inside), Some([192, 168, 0, 2]));

        let blind = Asker::new(ip("2001:db8::9"), Some(ip("2001:db8::1")));
        assert_eq!(shown(blind, &none, &local), None);
        assert_eq!(shown(blind, &none, &own), Some([192, 168, 0, 2]));
        assert!(Asker::new(ip("::ffff:10.0.0.1"), Some(ip("10.0.0.1"))).is_local());
    }
}
