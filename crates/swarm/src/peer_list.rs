//! Whom we could connect to: addresses with their source, their back-off and the bans of proven liars.
//!
//! It decides who is tried next and when. It knows nothing of what is said on a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;
use obt_wire::compact::{Reach, canonical, is_dialable, reach};

use crate::event::PeerSource;
use crate::limits::{BAN, BAN_MAX, BANS, CANDIDATES, CANDIDATES_PER_PEER, RECONNECT, RECONNECT_MAX, RECONNECT_NAMED};
use crate::swarm::LocalAddresses;

/// How a connection ended, as far as trying again goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// It was of use to one side.
    Useful,
    /// Nothing came of it.
    Fruitless,
    /// Both sides had everything.
    BothComplete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Untried,
    /// For the first time, or after failures.
    Connecting {
        first: bool,
    },
    Connected,
    /// Not before this.
    Waiting(Instant),
    /// Of no use while we miss nothing.
    Parked,
    /// It leads to ourselves.
    Ourselves,
}

#[derive(Debug)]
struct Candidate {
    source: PeerSource,
    state: State,
    /// Tries in a row that came to nothing.
    failures: u32,
    tried: Option<Instant>,
    /// Place among the untried of the same source.
    order: u32,
}

#[derive(Debug)]
struct Ban {
    until: Instant,
    times: u32,
}

/// What a ban covers: a v4 address or a v6 /64, but of this machine itself only one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum BanKey {
    Network(IpAddr),
    Local(SocketAddr),
}

/// The addresses of one swarm.
///
/// Invariants: `untried` holds exactly the candidates in `Untried`, `waiting` exactly those in `Waiting`;
/// `connecting` counts those in `Connecting`, `first_tries` those of them tried for the first time; no more than [`CANDIDATES`] are kept.
#[derive(Debug)]
pub(crate) struct PeerList {
    local: LocalAddresses,
    candidates: BTreeMap<SocketAddr, Candidate>,
    untried: BTreeSet<(PeerSource, u32, SocketAddr)>,
    waiting: BTreeSet<(Instant, SocketAddr)>,
    connecting: usize,
    first_tries: usize,
    told: BTreeMap<PeerSource, usize>,
    bans: BTreeMap<BanKey, Ban>,
    /// Proven lies of addresses that are not banned for them yet.
    strikes: BTreeMap<BanKey, u32>,
    rng: Rng,
}

impl PeerList {
    pub(crate) fn new(local: LocalAddresses, rng: Rng) -> Self {
        Self {
            local,
            candidates: BTreeMap::new(),
            untried: BTreeSet::new(),
            waiting: BTreeSet::new(),
            connecting: 0,
            first_tries: 0,
            told: BTreeMap::new(),
            bans: BTreeMap::new(),
            strikes: BTreeMap::new(),
            rng,
        }
    }

    /// Takes note of an address, unless nobody can be there or it is one that must not be tried.
    pub(crate) fn add(&mut self, addr: SocketAddr, source: PeerSource, now: Instant) {
        let addr = canonical(addr);
        if !self.acceptable(addr, source) || self.is_banned(addr, now) {
            return;
        }
        if self.candidates.contains_key(&addr) {
            self.named_again(addr, source, now);
            return;
        }
        let told = self.told.get(&source).copied().unwrap_or(0);
        if matches!(source, PeerSource::Peer(_)) && told >= CANDIDATES_PER_PEER {
            return;
        }
        if self.candidates.len() >= CANDIDATES && !self.drop_worst() {
            return;
        }
        let order = self.rng.u32(..);
        self.candidates.insert(addr, Candidate { source, state: State::Untried, failures: 0, tried: None, order });
        self.untried.insert((source, order, addr));
        *self.told.entry(source).or_insert(0) += 1;
    }

    fn acceptable(&self, addr: SocketAddr, source: PeerSource) -> bool {
        let near = reach(addr.ip()) < Reach::Global;
        let refused = self.local == LocalAddresses::Refused && source != PeerSource::User && near;
        is_dialable(addr) && !refused
    }

    /// A tracker or the user believes that a peer is there: its back-off is cut short.
    fn named_again(&mut self, addr: SocketAddr, source: PeerSource, now: Instant) {
        let Some(candidate) = self.candidates.get(&addr) else {
            return;
        };
        let (State::Waiting(at), PeerSource::User | PeerSource::Tracker) = (candidate.state, source) else {
            return;
        };
        let soonest = candidate.tried.map_or(now, |tried| tried + RECONNECT_NAMED).max(now);
        if soonest < at {
            self.set_state(addr, State::Waiting(soonest));
        }
    }

    /// Makes room by dropping the address that failed most often; false where none ever failed.
    fn drop_worst(&mut self) -> bool {
        let worst = self
            .waiting
            .iter()
            .filter_map(|(_, addr)| Some((self.candidates.get(addr)?.failures, *addr)))
            .max()
            .filter(|(failures, _)| *failures > 0);
        let Some((_, addr)) = worst else {
            return false;
        };
        self.remove(addr);
        true
    }

    fn remove(&mut self, addr: SocketAddr) {
        self.set_state(addr, State::Ourselves);
        if let Some(candidate) = self.candidates.remove(&addr)
            && let Some(told) = self.told.get_mut(&candidate.source)
        {
            *told = told.saturating_sub(1);
        }
    }

    /// Moves a candidate, keeping the indices in step. An address that is not known changes nothing.
    fn set_state(&mut self, addr: SocketAddr, state: State) {
        let Some(candidate) = self.candidates.get_mut(&addr) else {
            return;
        };
        match std::mem::replace(&mut candidate.state, state) {
            State::Untried => {
                self.untried.remove(&(candidate.source, candidate.order, addr));
            }
            State::Waiting(at) => {
                self.waiting.remove(&(at, addr));
            }
            State::Connecting { first } => {
                self.connecting -= 1;
                self.first_tries -= usize::from(first);
            }
            State::Connected | State::Parked | State::Ourselves => {}
        }
        match state {
            State::Untried => {
                self.untried.insert((candidate.source, candidate.order, addr));
            }
            State::Waiting(at) => {
                self.waiting.insert((at, addr));
            }
            State::Connecting { first } => {
                self.connecting += 1;
                self.first_tries += usize::from(first);
            }
            State::Connected | State::Parked | State::Ourselves => {}
        }
    }

    /// The address to try, if there is one whose time has come; it counts as connecting from here on.
    pub(crate) fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        loop {
            let untried = self.untried.first().map(|(_, _, addr)| *addr);
            let waited = || self.waiting.first().filter(|(at, _)| *at <= now).map(|(_, addr)| *addr);
            let addr = untried.or_else(waited)?;
            if self.is_banned(addr, now) {
                self.remove(addr);
                continue;
            }
            let candidate = self.candidates.get_mut(&addr)?;
            let first = candidate.tried.replace(now).is_none();
            self.set_state(addr, State::Connecting { first });
            return Some(addr);
        }
    }

    /// When the first address that was tried before may be tried again. Untried ones may be at any time.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// A connection to `addr` stands; for one that came in, `addr` is where the peer says it listens.
    pub(crate) fn connected(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        if self.candidates.get(&addr).is_some_and(|candidate| candidate.state != State::Ourselves) {
            self.set_state(addr, State::Connected);
        }
    }

    /// A connect came to nothing.
    pub(crate) fn failed(&mut self, addr: SocketAddr, now: Instant) {
        self.back_off(canonical(addr), now);
    }

    /// The address leads to ourselves.
    pub(crate) fn ourselves(&mut self, addr: SocketAddr) {
        self.set_state(canonical(addr), State::Ourselves);
    }

    /// A connection is gone.
    pub(crate) fn disconnected(&mut self, addr: SocketAddr, parting: Parting, now: Instant) {
        let addr = canonical(addr);
        let Some(candidate) = self.candidates.get_mut(&addr) else {
            return;
        };
        if candidate.state != State::Connected {
            return;
        }
        match parting {
            Parting::Useful => {
                candidate.failures = 0;
                let at = now + self.jittered(RECONNECT);
                self.set_state(addr, State::Waiting(at));
            }
            Parting::Fruitless => self.back_off(addr, now),
            Parting::BothComplete => self.set_state(addr, State::Parked),
        }
    }

    fn back_off(&mut self, addr: SocketAddr, now: Instant) {
        let Some(candidate) = self.candidates.get_mut(&addr) else {
            return;
        };
        if candidate.state == State::Ourselves {
            return;
        }
        candidate.failures = candidate.failures.saturating_add(1);
        let wait = RECONNECT.saturating_mul(1 << (candidate.failures - 1).min(16)).min(RECONNECT_MAX);
        let at = now + self.jittered(wait);
        self.set_state(addr, State::Waiting(at));
    }

    /// Between three quarters and five quarters of `wait`, so that a crowd that failed together comes back spread out.
    fn jittered(&mut self, wait: Duration) -> Duration {
        wait.mul_f64(0.75 + self.rng.f64() / 2.0)
    }

    /// Pieces are missing again: those that were of no use may be tried.
    pub(crate) fn unpark(&mut self, now: Instant) {
        let parked: Vec<SocketAddr> =
            self.candidates.iter().filter(|(_, c)| c.state == State::Parked).map(|(addr, _)| *addr).collect();
        for addr in parked {
            self.set_state(addr, State::Waiting(now));
        }
    }

    /// Notes a proven lie of whoever is at `addr`; how many there were.
    pub(crate) fn strike(&mut self, addr: SocketAddr) -> u32 {
        if self.strikes.len() >= BANS {
            self.strikes.clear();
        }
        let strikes = self.strikes.entry(ban_key(canonical(addr))).or_insert(0);
        *strikes += 1;
        *strikes
    }

    /// Refuses whoever is at `addr`: an hour, twice as long each time.
    pub(crate) fn ban(&mut self, addr: SocketAddr, now: Instant) {
        if self.bans.len() >= BANS
            && let Some(key) = self.bans.iter().min_by_key(|(_, ban)| ban.until).map(|(key, _)| *key)
        {
            self.bans.remove(&key);
        }
        self.strikes.remove(&ban_key(canonical(addr)));
        let ban = self.bans.entry(ban_key(canonical(addr))).or_insert(Ban { until: now, times: 0 });
        ban.until = now + BAN.saturating_mul(1 << ban.times.min(16)).min(BAN_MAX);
        ban.times = ban.times.saturating_add(1);
    }

    /// Whether whoever is at `addr` is refused.
    pub(crate) fn is_banned(&self, addr: SocketAddr, now: Instant) -> bool {
        self.bans.get(&ban_key(canonical(addr))).is_some_and(|ban| now < ban.until)
    }

    /// Connects under way.
    pub(crate) fn connecting(&self) -> usize {
        self.connecting
    }

    /// Connects under way to addresses that were never tried before.
    pub(crate) fn first_tries(&self) -> usize {
        self.first_tries
    }

    /// Addresses that are neither connected nor connecting, but could be.
    pub(crate) fn candidates(&self) -> usize {
        self.untried.len() + self.waiting.len()
    }

    /// Addresses that were never tried.
    pub(crate) fn untried(&self) -> usize {
        self.untried.len()
    }

    /// Addresses that are refused.
    pub(crate) fn banned(&self, now: Instant) -> usize {
        self.bans.values().filter(|ban| now < ban.until).count()
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let count = |wanted: fn(&State) -> bool| self.candidates.values().filter(|c| wanted(&c.state)).count();
        let untried = count(|state| matches!(state, State::Untried));
        let waiting = count(|state| matches!(state, State::Waiting(_)));
        let connecting = count(|state| matches!(state, State::Connecting { .. }));
        let first_tries = count(|state| matches!(state, State::Connecting { first: true }));
        if (untried, waiting) != (self.untried.len(), self.waiting.len())
            || (connecting, first_tries) != (self.connecting, self.first_tries)
        {
            return Err("peer list: an index does not match the candidates' states".into());
        }
        if self.candidates.len() > CANDIDATES {
            return Err("peer list: more candidates than the limit".into());
        }
        Ok(())
    }
}

fn ban_key(addr: SocketAddr) -> BanKey {
    match addr.ip() {
        ip if ip.is_loopback() => BanKey::Local(addr),
        IpAddr::V4(ip) => BanKey::Network(ip.into()),
        IpAddr::V6(ip) => BanKey::Network(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PeerKey;

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn moment() -> Instant {
        Instant::now()
    }

    fn list(local: LocalAddresses) -> PeerList {
        PeerList::new(local, Rng::with_seed(1))
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn host(n: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::V4((0x0b00_0000 + n).into()), 6881)
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn better_sources_come_first_and_untried_before_tried() {
        let (mut list, now) = (list(LocalAddresses::Refused), moment());
        list.add(host(1), PeerSource::Incoming, now);
        list.add(host(2), PeerSource::Tracker, now);
        list.add(host(3), PeerSource::User, now);
        assert_eq!(list.next(now), Some(host(3)));
        list.failed(host(3), now);
        assert_eq!(list.next(now + secs(60)), Some(host(2)));
        assert_eq!(list.next(now + secs(60)), Some(host(1)));
        assert_eq!(list.next(now + secs(60)), Some(host(3)));
        assert_eq!(list.next(now + secs(60)), None);
        list.check().unwrap();
    }

    #[test]
    fn the_wait_after_failures_doubles_up_to_half_an_hour() {
        let (mut list, mut now) = (list(LocalAddresses::Refused), moment());
        list.add(host(1), PeerSource::Incoming, now);
        for n in 0..20u32 {
            assert_eq!(list.next(now), Some(host(1)));
            list.failed(host(1), now);
            let wait = list.due().unwrap() - now;
            let plain = RECONNECT.saturating_mul(1 << n.min(10)).min(RECONNECT_MAX);
            assert!(wait >= plain.mul_f64(0.75) && wait <= plain.mul_f64(1.25), "{n}: {wait:?}");
            assert_eq!(list.next(now), None);
            now += wait;
        }
    }

    #[test]
    fn a_tracker_that_names_a_peer_again_cuts_its_back_off_short() {
        let (mut list, now) = (list(LocalAddresses::Refused), moment());
        list.add(host(1), PeerSource::Tracker, now);
        for _ in 0..6 {
            list.next(now + secs(10_000));
            list.failed(host(1), now + secs(10_000));
        }
        assert!(list.due().unwrap() > now + secs(10_060));
        list.add(host(1), PeerSource::Tracker, now + secs(10_001));
        assert_eq!(list.due(), Some(now + secs(10_000) + RECONNECT_NAMED));
    }

    #[test]
    fn addresses_where_nobody_can_be_are_dropped() {
        let (mut list, now) = (list(LocalAddresses::Allowed), moment());
        for bad in ["0.0.0.0:1", "1.2.3.4:0", "224.0.0.1:5", "255.255.255.255:5", "[::]:5", "[ff02::1]:5"] {
            list.add(addr(bad), PeerSource::User, now);
        }
        assert_eq!(list.candidates(), 0);
    }

    #[test]
    fn local_addresses_need_permission_or_the_users_word() {
        let (mut list, now) = (list(LocalAddresses::Refused), moment());
        for local in
            ["127.0.0.1:22", "10.1.1.1:80", "192.168.0.1:80", "169.254.1.1:1", "[::1]:1", "[fd00::1]:1", "[fe80::1]:1"]
        {
            list.add(addr(local), PeerSource::Tracker, now);
        }
        assert_eq!(list.candidates(), 0);
        list.add(addr("127.0.0.1:6881"), PeerSource::User, now);
        assert_eq!(list.candidates(), 1);
    }

    #[test]
    fn one_address_in_two_notations_is_one_candidate() {
        let (mut list, now) = (list(LocalAddresses::Allowed), moment());
        list.add(addr("11.2.3.4:5"), PeerSource::Tracker, now);
        list.add(addr("[::ffff:11.2.3.4]:5"), PeerSource::Tracker, now);
        assert_eq!(list.candidates(), 1);
    }

    #[test]
    fn w17_a_ban_covers_the_v4_address_or_the_v6_network_and_doubles() {
        let (mut list, now) = (list(LocalAddresses::Allowed), moment());
        list.ban(addr("11.0.0.1:1000"), now);
        list.ban(addr("[2001:db8:1:2:3::1]:5"), now);
        assert!(list.is_banned(addr("11.0.0.1:2000"), now + secs(3_599)));
        assert!(!list.is_banned(addr("11.0.0.1:2000"), now + secs(3_600)));
        assert!(!list.is_banned(addr("11.0.0.2:1000"), now));
        assert!(list.is_banned(addr("[2001:db8:1:2:ffff::9]:7"), now));
        assert!(!list.is_banned(addr("[2001:db8:1:3::1]:5"), now));
        list.ban(addr("11.0.0.1:1"), now + secs(3_600));
        assert!(list.is_banned(addr("11.0.0.1:1"), now + secs(3_600 + 7_199)));
        list.add(addr("[::ffff:11.0.0.1]:9"), PeerSource::Tracker, now);
        assert_eq!(list.candidates(), 0);
    }

    #[test]
    fn a_ban_on_this_machine_covers_one_port_only() {
        let (mut list, now) = (list(LocalAddresses::Allowed), moment());
        list.ban(addr("127.0.0.1:1000"), now);
        assert!(list.is_banned(addr("127.0.0.1:1000"), now));
        assert!(!list.is_banned(addr("127.0.0.1:1001"), now));
    }

    #[test]
    fn the_list_is_bounded_and_failed_addresses_make_room() {
        let (mut list, now) = (list(LocalAddresses::Refused), moment());
        for n in 0..CANDIDATES as u32 + 100 {
            list.add(host(n), PeerSource::Tracker, now);
        }
        assert_eq!(list.candidates(), CANDIDATES);
        let tried = list.next(now).unwrap();
        list.failed(tried, now);
        list.add(host(1_000_000), PeerSource::Tracker, now);
        assert_eq!((list.candidates(), list.untried()), (CANDIDATES, CANDIDATES));
        list.check().unwrap();
    }

    #[test]
    fn one_peer_tells_of_no_more_than_a_quarter() {
        let (mut list, now) = (list(LocalAddresses::Refused), moment());
        for n in 0..2_000 {
            list.add(host(n), PeerSource::Peer(PeerKey(7)), now);
        }
        assert_eq!(list.candidates(), CANDIDATES_PER_PEER);
    }

    #[test]
    fn seeds_are_left_alone_until_pieces_are_missing_again() {
        let (mut list, now) = (list(LocalAddresses::Refused), moment());
        list.add(host(1), PeerSource::Tracker, now);
        assert_eq!(list.next(now), Some(host(1)));
        assert_eq!(list.connecting(), 1);
        list.connected(host(1));
        list.disconnected(host(1), Parting::BothComplete, now);
        list.add(host(1), PeerSource::Tracker, now + secs(100));
        assert_eq!(list.due(), None);
        list.unpark(now);
        assert_eq!(list.next(now), Some(host(1)));
        list.check().unwrap();
    }

    #[test]
    fn w04_our_own_address_is_not_tried_again() {
        let (mut list, now) = (list(LocalAddresses::Refused), moment());
        list.add(host(1), PeerSource::Tracker, now);
        list.next(now);
        list.ourselves(host(1));
        list.disconnected(host(1), Parting::Fruitless, now);
        list.add(host(1), PeerSource::Tracker, now);
        assert_eq!((list.due(), list.connecting()), (None, 0));
    }
}
