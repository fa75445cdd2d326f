//! When to announce to which tracker (BEP 12): tiers, back-off, and the events of BEP 3.
//!
//! In each tier the trackers up to the first that works are in use, and every `obt` one; where a whole tier fails,
//! the next is in use too. It knows nothing of transports: a tracker of ours is one whose URL begins with `obt:`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fastrand::Rng;
use obt_wire::tracker_http::RetryIn;

use crate::action::AnnounceEvent;
use crate::event::{AnnounceFailure, AnnounceReply, TrackerIndex, TrackerUrl};
use crate::limits::{
    ANNOUNCE_DEFER_MAX, ANNOUNCE_MAX, ANNOUNCE_MIN, ANNOUNCE_MIN_UNNAMED, ANNOUNCE_RETRY, ANNOUNCE_RETRY_MAX,
    LEASE_INTERVAL,
};
use crate::stats::{TrackerState, TrackerStats};

/// Whether more peers would be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Pieces are missing and few peers are known.
    Peers,
    /// An announce now and then is enough.
    Nothing,
}

#[derive(Debug)]
struct Tracker {
    url: String,
    tier: u32,
    /// Takes leases: shorter intervals, and all of a tier are told.
    ours: bool,
    /// Place in its tier; one that works moves to the front.
    order: i64,
    /// Announces on the way, oldest first: one, or two when we stop meanwhile.
    asked: VecDeque<AnnounceEvent>,
    /// It has answered a `Started`.
    started: bool,
    /// It is to be told that the download is complete.
    completed_due: bool,
    failures: u32,
    /// It said never to ask it again (BEP 31).
    refuses: bool,
    last: Option<Instant>,
    /// When it wants to hear from us, or when its back-off ends.
    next: Instant,
    min_interval: Duration,
    state: TrackerState,
    seeders: Option<u32>,
    leechers: Option<u32>,
    peers: usize,
}

impl Tracker {
    fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// When it is announced to next, given it is in use.
    fn due(&self, need: Need) -> Instant {
        let last = match self.last {
            Some(last) if !self.is_failing() => last,
            _ => return self.next,
        };
        if self.completed_due {
            return last;
        }
        match need {
            Need::Peers => self.next.min(last + self.min_interval),
            Need::Nothing => self.next,
        }
    }
}

/// The trackers of one swarm.
///
/// Invariant: `order` holds every tracker once, by tier, then by place in the tier.
#[derive(Debug)]
pub(crate) struct Announcer {
    trackers: Vec<Tracker>,
    order: Vec<usize>,
    need: Need,
    stopping: bool,
    /// The next announce, kept so that asking costs nothing.
    due: Option<Instant>,
    rng: Rng,
}

impl Announcer {
    pub(crate) fn new(urls: &[TrackerUrl], mut rng: Rng, now: Instant) -> Self {
        let trackers = urls.iter().map(|url| Tracker {
            url: url.url.clone(),
            tier: url.tier,
            ours: url.url.starts_with("obt:"),
            order: i64::from(rng.u32(..)),
            asked: VecDeque::new(),
            started: false,
            completed_due: false,
            failures: 0,
            refuses: false,
            last: None,
            next: now,
            min_interval: ANNOUNCE_MIN_UNNAMED,
            state: TrackerState::Unused,
            seeders: None,
            leechers: None,
            peers: 0,
        });
        let trackers: Vec<Tracker> = trackers.collect();
        let order = (0..trackers.len()).collect();
        let mut this = Self { trackers, order, need: Need::Nothing, stopping: false, due: None, rng };
        this.sort();
        this.refresh();
        this
    }

    fn sort(&mut self) {
        let trackers = &self.trackers;
        self.order.sort_by_key(|&at| trackers.get(at).map(|tracker| (tracker.tier, tracker.order)));
    }

    /// The trackers in use, in the order in which they are asked.
    fn in_use(&self) -> Vec<usize> {
        let mut used = Vec::new();
        let of = |at: &usize| self.trackers.get(*at);
        for tier in self.order.chunk_by(|a, b| of(a).map(|t| t.tier) == of(b).map(|t| t.tier)) {
            let mut answered = false;
            for &at in tier {
                let Some(tracker) = self.trackers.get(at).filter(|tracker| !tracker.refuses) else { continue };
                if tracker.ours || !answered {
                    used.push(at);
                }
                answered |= !tracker.ours && !tracker.is_failing();
            }
            let alive = tier.iter().filter_map(of).any(|tracker| !tracker.is_failing());
            if alive {
                break;
            }
        }
        used
    }

    fn refresh(&mut self) {
        let used = if self.stopping { Vec::new() } else { self.in_use() };
        let idle = used.iter().filter_map(|&at| self.trackers.get(at)).filter(|tracker| tracker.asked.is_empty());
        self.due = idle.map(|tracker| tracker.due(self.need)).min();
    }

    /// Whether more peers would help: announces come sooner then, as often as each tracker allows.
    pub(crate) fn set_need(&mut self, need: Need) {
        if self.need != need {
            self.need = need;
            self.refresh();
        }
    }

    /// When [`announce`](Self::announce) has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The announces whose time has come.
    pub(crate) fn announce(&mut self, now: Instant) -> Vec<(TrackerIndex, AnnounceEvent)> {
        let mut out = Vec::new();
        for at in if self.stopping { Vec::new() } else { self.in_use() } {
            let need = self.need;
            let Some(tracker) = self.trackers.get_mut(at) else { continue };
            if !tracker.asked.is_empty() || tracker.due(need) > now {
                continue;
            }
            tracker.last = Some(now);
            if tracker.state == TrackerState::Unused {
                tracker.state = TrackerState::Asking;
            }
            let event = match (tracker.started, tracker.completed_due) {
                (false, _) => AnnounceEvent::Started,
                (true, true) => AnnounceEvent::Completed,
                (true, false) => AnnounceEvent::Regular,
            };
            tracker.asked.push_back(event);
            out.push((index(at), event));
        }
        self.refresh();
        out
    }

    /// The last wanted piece came in: every tracker that heard of us is told at once.
    pub(crate) fn completed(&mut self) {
        for tracker in &mut self.trackers {
            // One that is being asked hears `Started` with what was missing: it is told afterwards.
            tracker.completed_due = tracker.started || !tracker.asked.is_empty();
        }
        self.refresh();
    }

    /// A tracker answered, or did not.
    pub(crate) fn announced(
        &mut self,
        tracker: TrackerIndex,
        result: &Result<AnnounceReply, AnnounceFailure>,
        now: Instant,
    ) {
        let jitter = 0.75 + self.rng.f64() / 2.0;
        let front = self.trackers.iter().map(|tracker| tracker.order).min().unwrap_or(0) - 1;
        let Some(tracker) = self.trackers.get_mut(tracker.0 as usize) else {
            return;
        };
        let Some(event) = tracker.asked.pop_front() else {
            return;
        };
        match result {
            Ok(reply) => {
                tracker.answered(event, reply, now);
                tracker.order = front;
            }
            Err(failure) => tracker.failed(failure, jitter, now),
        }
        self.sort();
        self.refresh();
    }

    /// Says good-bye, once, to every tracker that knows us; nothing is announced after it.
    pub(crate) fn stop(&mut self) -> Vec<TrackerIndex> {
        let mut out = Vec::new();
        if std::mem::replace(&mut self.stopping, true) {
            return out;
        }
        for (at, tracker) in self.trackers.iter_mut().enumerate() {
            if tracker.started || !tracker.asked.is_empty() {
                tracker.asked.push_back(AnnounceEvent::Stopped);
                out.push(index(at));
            }
        }
        self.refresh();
        out
    }

    /// Announces that are not answered yet.
    pub(crate) fn asked(&self) -> usize {
        self.trackers.iter().map(|tracker| tracker.asked.len()).sum()
    }

    /// Whether every tracker in use has answered or failed since it was first asked.
    pub(crate) fn all_heard(&self) -> bool {
        let used = self.in_use();
        let heard = |at: &usize| {
            let state = self.trackers.get(*at).map(|tracker| &tracker.state);
            matches!(state, Some(TrackerState::Working(_) | TrackerState::Failing(_)))
        };
        used.iter().all(heard)
    }

    pub(crate) fn stats(&self, now: Instant) -> Vec<TrackerStats> {
        let used = if self.stopping { Vec::new() } else { self.in_use() };
        let stats = |(at, tracker): (usize, &Tracker)| TrackerStats {
            url: tracker.url.clone(),
            tier: tracker.tier,
            state: tracker.state.clone(),
            failures: tracker.failures,
            next: (used.contains(&at) && tracker.asked.is_empty())
                .then(|| tracker.due(self.need).saturating_duration_since(now)),
            seeders: tracker.seeders,
            leechers: tracker.leechers,
            peers: tracker.peers,
        };
        self.trackers.iter().enumerate().map(stats).collect()
    }
}

impl Tracker {
    fn answered(&mut self, event: AnnounceEvent, reply: &AnnounceReply, now: Instant) {
        let (floor, unnamed) =
            if self.ours { (LEASE_INTERVAL, LEASE_INTERVAL) } else { (ANNOUNCE_MIN, ANNOUNCE_MIN_UNNAMED) };
        let interval = reply.interval.clamp(floor, ANNOUNCE_MAX);
        self.min_interval = reply.min_interval.unwrap_or(unnamed).max(floor).min(interval);
        self.next = now + interval;
        self.failures = 0;
        self.started = true;
        self.completed_due &= event != AnnounceEvent::Completed;
        self.state = TrackerState::Working(reply.warning.clone());
        self.seeders = reply.seeders;
        self.leechers = reply.leechers;
        self.peers = reply.peers.len();
    }

    fn failed(&mut self, failure: &AnnounceFailure, jitter: f64, now: Instant) {
        let wait = ANNOUNCE_RETRY.saturating_mul(1 << self.failures.min(16)).min(ANNOUNCE_RETRY_MAX);
        self.next = match failure.retry {
            Some(RetryIn::Minutes(minutes)) => {
                now + Duration::from_secs(60 * u64::from(minutes)).clamp(ANNOUNCE_MIN, ANNOUNCE_DEFER_MAX)
            }
            Some(RetryIn::Never) | None => now + wait.mul_f64(jitter),
        };
        self.refuses |= failure.retry == Some(RetryIn::Never);
        self.failures = self.failures.saturating_add(1);
        self.state = TrackerState::Failing(failure.reason.clone());
    }
}

fn index(at: usize) -> TrackerIndex {
    TrackerIndex(u32::try_from(at).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn moment() -> Instant {
        Instant::now()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn announcer(urls: &[(&str, u32)], now: Instant) -> Announcer {
        let urls: Vec<TrackerUrl> =
            urls.iter().map(|(url, tier)| TrackerUrl { url: (*url).to_owned(), tier: *tier }).collect();
        Announcer::new(&urls, Rng::with_seed(3), now)
    }

    fn reply(interval: u64) -> Result<AnnounceReply, AnnounceFailure> {
        Ok(AnnounceReply { interval: secs(interval), ..AnnounceReply::default() })
    }

    fn refusal() -> Result<AnnounceReply, AnnounceFailure> {
        Err("connection refused".into())
    }

    fn refusal_until(retry: RetryIn) -> Result<AnnounceReply, AnnounceFailure> {
        Err(AnnounceFailure { reason: "too many torrents".into(), retry: Some(retry) })
    }

    const T0: TrackerIndex = TrackerIndex(0);
    const T1: TrackerIndex = TrackerIndex(1);

    #[test]
    fn one_tracker_hears_started_then_regular_announces_then_stopped() {
        let now = moment();
        let mut announcer = announcer(&[("http://a/announce", 0)], now);
        assert_eq!(announcer.due(), Some(now));
        assert_eq!(announcer.announce(now), [(T0, AnnounceEvent::Started)]);
        assert_eq!((announcer.due(), announcer.all_heard()), (None, false));
        announcer.announced(T0, &reply(1_800), now);
        assert_eq!((announcer.due(), announcer.all_heard()), (Some(now + secs(1_800)), true));
        assert!(announcer.announce(now + secs(1_799)).is_empty());
        assert_eq!(announcer.announce(now + secs(1_800)), [(T0, AnnounceEvent::Regular)]);
        assert_eq!(announcer.stop(), [T0]);
        assert!(announcer.stop().is_empty());
        assert_eq!((announcer.asked(), announcer.due()), (2, None));
        announcer.announced(T0, &reply(1_800), now);
        announcer.announced(T0, &reply(1_800), now);
        assert_eq!(announcer.asked(), 0);
    }

    #[test]
    fn need_of_peers_shortens_the_interval_to_what_the_tracker_allows() {
        let now = moment();
        for (url, min, wanted) in [
            ("http://a", None, ANNOUNCE_MIN_UNNAMED),
            ("http://a", Some(secs(90)), secs(90)),
            ("http://a", Some(secs(1)), ANNOUNCE_MIN),
            ("http://a", Some(secs(999_999)), secs(1_800)),
            ("obt://a:1", None, LEASE_INTERVAL),
        ] {
            let mut announcer = announcer(&[(url, 0)], now);
            announcer.announce(now);
            let reply = AnnounceReply { interval: secs(1_800), min_interval: min, ..AnnounceReply::default() };
            announcer.announced(T0, &Ok(reply), now);
            assert_eq!(announcer.due(), Some(now + secs(1_800)));
            announcer.set_need(Need::Peers);
            assert_eq!(announcer.due(), Some(now + wanted), "{url} {min:?}");
        }
    }

    #[test]
    fn intervals_without_sense_are_clamped() {
        let now = moment();
        for (said, taken) in [(0, ANNOUNCE_MIN), (u64::MAX / 4, ANNOUNCE_MAX)] {
            let mut announcer = announcer(&[("udp://a:1", 0)], now);
            announcer.announce(now);
            announcer.announced(T0, &reply(said), now);
            assert_eq!(announcer.due(), Some(now + taken));
        }
    }

    #[test]
    fn failures_back_off_from_15_s_to_half_an_hour_and_started_is_said_again() {
        let mut now = moment();
        let mut announcer = announcer(&[("http://a", 0)], now);
        announcer.set_need(Need::Peers);
        for n in 0..12u32 {
            assert_eq!(announcer.announce(now), [(T0, AnnounceEvent::Started)]);
            announcer.announced(T0, &refusal(), now);
            let wait = announcer.due().unwrap() - now;
            let plain = ANNOUNCE_RETRY.saturating_mul(1 << n).min(ANNOUNCE_RETRY_MAX);
            assert!(wait >= plain.mul_f64(0.75) && wait <= plain.mul_f64(1.25), "{n}: {wait:?}");
            now += wait;
        }
        announcer.announce(now);
        announcer.announced(T0, &reply(600), now);
        assert_eq!(announcer.due(), Some(now + ANNOUNCE_MIN_UNNAMED));
    }

    #[test]
    fn a_tracker_that_names_a_time_is_left_alone_until_then_within_reason() {
        for (minutes, wait) in [(0, ANNOUNCE_MIN), (7, secs(420)), (u32::MAX, ANNOUNCE_DEFER_MAX)] {
            let now = moment();
            let mut announcer = announcer(&[("http://a", 0)], now);
            announcer.set_need(Need::Peers);
            announcer.announce(now);
            announcer.announced(T0, &refusal_until(RetryIn::Minutes(minutes)), now);
            assert_eq!(announcer.due(), Some(now + wait));
        }
    }

    #[test]
    fn a_tracker_that_says_never_is_not_asked_again_and_the_next_tier_is() {
        let now = moment();
        let mut announcer = announcer(&[("http://a", 0), ("http://b", 1)], now);
        announcer.announce(now);
        announcer.announced(T0, &refusal_until(RetryIn::Never), now);
        assert_eq!(announcer.announce(now), [(T1, AnnounceEvent::Started)]);
        announcer.announced(T1, &refusal_until(RetryIn::Never), now);
        assert_eq!((announcer.due(), announcer.all_heard()), (None, true));
        announcer.completed();
        assert!(announcer.announce(now + secs(99_999)).is_empty());
        let states = announcer.stats(now).into_iter().map(|stats| (stats.state, stats.next));
        let refused = (TrackerState::Failing("too many torrents".into()), None);
        assert_eq!(states.collect::<Vec<_>>(), [refused.clone(), refused]);
    }

    #[test]
    fn a_completed_download_is_told_at_once_and_once() {
        let now = moment();
        let mut announcer = announcer(&[("http://a", 0)], now);
        announcer.announce(now);
        announcer.completed();
        assert_eq!(announcer.due(), None);
        announcer.announced(T0, &reply(600), now + secs(1));
        assert!(announcer.due().unwrap() <= now + secs(1));
        assert_eq!(announcer.announce(now + secs(1)), [(T0, AnnounceEvent::Completed)]);
        announcer.announced(T0, &reply(600), now + secs(2));
        assert_eq!(announcer.announce(now + secs(602)), [(T0, AnnounceEvent::Regular)]);
    }

    #[test]
    fn the_next_of_a_tier_is_asked_at_once_and_one_that_works_moves_to_the_front() {
        let now = moment();
        let mut announcer = announcer(&[("http://a", 0), ("http://b", 0)], now);
        let first = announcer.announce(now);
        let [(first, AnnounceEvent::Started)] = first[..] else { panic!("{first:?}") };
        announcer.announced(first, &refusal(), now);
        let second = if first == T0 { T1 } else { T0 };
        assert_eq!(announcer.announce(now), [(second, AnnounceEvent::Started)]);
        announcer.announced(second, &reply(600), now);
        assert_eq!(announcer.due(), Some(now + secs(600)), "the one that failed is left alone");
        assert_eq!(announcer.announce(now + secs(600)), [(second, AnnounceEvent::Regular)]);
        announcer.announced(second, &refusal(), now + secs(600));
        assert_eq!(announcer.announce(now + secs(600)), [(first, AnnounceEvent::Started)]);
    }

    #[test]
    fn a_later_tier_is_asked_only_while_the_earlier_ones_fail() {
        let now = moment();
        let mut announcer = announcer(&[("http://b", 5), ("http://a", 1)], now);
        assert_eq!(announcer.announce(now), [(T1, AnnounceEvent::Started)]);
        announcer.announced(T1, &refusal(), now);
        assert_eq!(announcer.announce(now), [(T0, AnnounceEvent::Started)]);
        announcer.announced(T0, &reply(600), now);
        let retry = announcer.due().unwrap();
        assert!(retry < now + secs(20));
        assert_eq!(announcer.announce(retry), [(T1, AnnounceEvent::Started)]);
        announcer.announced(T1, &reply(1_000), retry);
        assert_eq!(announcer.due(), Some(retry + secs(1_000)));
    }

    #[test]
    fn every_tracker_of_ours_in_a_tier_is_told() {
        let now = moment();
        let mut announcer = announcer(&[("obt://a:1", 0), ("obt://b:1", 0), ("http://c", 1)], now);
        let mut asked = announcer.announce(now);
        asked.sort_by_key(|(tracker, _)| *tracker);
        assert_eq!(asked, [(T0, AnnounceEvent::Started), (T1, AnnounceEvent::Started)]);
        announcer.announced(T0, &refusal(), now);
        announcer.announced(T1, &reply(15), now);
        assert!(announcer.announce(now).is_empty(), "one of the tier works");
    }

    #[test]
    fn trackers_that_never_heard_of_us_hear_no_good_bye() {
        let now = moment();
        let mut announcer = announcer(&[("http://a", 0), ("http://b", 1)], now);
        assert!(announcer.stop().is_empty());
        assert!(announcer.announce(now + secs(9_999)).is_empty());
        announcer.announced(T0, &reply(600), now);
        announcer.announced(TrackerIndex(99), &reply(600), now);
    }

    #[test]
    fn no_tracker_at_all_is_fine() {
        let now = moment();
        let mut announcer = announcer(&[], now);
        assert_eq!((announcer.due(), announcer.all_heard()), (None, true));
        assert!(announcer.announce(now).is_empty());
        announcer.completed();
        assert!(announcer.stats(now).is_empty());
    }
}
