//! Announces to trackers: one call for every kind of them.
//!
//! `http` and `https` trackers, `udp` ones, and `obt` ones: ours, which take leases. All of it is bounded in time and
//! memory, and what a stranger's URL may lead to is decided in [`resolve`].

mod http;
mod lease;
mod resolve;
mod udp;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use obt_swarm::{AnnounceEvent, AnnounceFailure, AnnounceReply, AnnounceRequest};
use obt_wire::tracker_http::ReplyError;
use obt_wire::{InfoHashes, PeerId, announce as wire};
use thiserror::Error;
use url::Url;

use self::http::HttpTrackers;
use self::lease::LeaseTrackers;
use self::udp::UdpTrackers;
use crate::members::MemberBook;
use crate::tracker_client::TrackerAddress;

/// What the URLs of trackers of ours begin with.
const LEASED: &str = "obt://";

/// Whether what is announced there stays announced until it is taken back.
pub(crate) fn is_leased(url: &str) -> bool {
    url.starts_with(LEASED)
}

/// An announce, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// The tracker.
    pub url: String,
    /// The torrent.
    pub hashes: InfoHashes,
    /// Our name.
    pub peer_id: PeerId,
    /// The port that we listen at.
    pub port: u16,
    /// What the core has to tell.
    pub request: AnnounceRequest,
}

/// Whose choice a tracker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The user's own: it may be any machine, and name any peer.
    Named,
    /// A torrent's or a magnet's: it must not lead to what only we can reach.
    Found,
}

/// Why there is no answer.
#[derive(Debug, Clone, Error)]
pub enum AnnounceError {
    /// Nothing here speaks to such a tracker.
    #[error("unknown kind of tracker")]
    UnknownKind,
    /// The URL has no host, or one in letters that others could be taken for.
    #[error("the tracker's URL is unusable: {0}")]
    BadUrl(&'static str),
    /// Its name means nothing.
    #[error("cannot resolve the tracker's name: {0}")]
    Unresolved(String),
    /// It leads to a machine that only we can reach, and the user did not name it.
    #[error("the tracker leads to an address that is not in the internet")]
    OutOfBounds,
    /// It is not there.
    #[error("cannot reach the tracker: {0}")]
    Unreachable(String),
    /// It says nothing.
    #[error("the tracker does not answer")]
    Silent,
    /// It sends us from one place to another, or to one that is forbidden.
    #[error("the tracker redirects {0}")]
    Redirect(&'static str),
    /// It answered with an HTTP status and nothing else.
    #[error("the tracker answered with HTTP status {0}")]
    Status(u16),
    /// What it answered is no answer, or refuses.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// It has several members, and none of them answers.
    #[error("none of the tracker's {tried} members answers; the last: {last}")]
    Members {
        /// How many were asked.
        tried: usize,
        /// Why not the last.
        last: Box<AnnounceError>,
    },
    /// Something answers that takes no leases.
    #[error("what answers is not an obt tracker: {0}")]
    Foreign(String),
    /// The tracker says no.
    #[error("the tracker refused: {0}")]
    Refused(String),
    /// The process stops.
    #[error("stopping")]
    Stopping,
}

impl AnnounceError {
    /// What a swarm is told of it.
    #[must_use]
    pub fn to_failure(&self) -> AnnounceFailure {
        let retry = match self {
            Self::Reply(ReplyError::Refused { retry, .. }) => *retry,
            _ => None,
        };
        AnnounceFailure { reason: self.to_string(), retry }
    }
}

/// Announces for all torrents of a node. Cheap to clone.
#[derive(Clone)]
pub struct Announcer {
    shared: Arc<Shared>,
}

struct Shared {
    /// URLs of trackers that the user named.
    named: Mutex<BTreeSet<String>>,
    http: HttpTrackers,
    udp: UdpTrackers,
    leases: LeaseTrackers,
    /// By which a tracker may know us under another address (BEP 7, 15).
    key: u32,
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").finish_non_exhaustive()
    }
}

impl Default for Announcer {
    fn default() -> Self {
        Self::new(Vec::new(), MemberBook::default())
    }
}

impl Announcer {
    /// `advertise` is what trackers of ours tell others instead of the address that we come from: `HOST` or `HOST:PORT`
    /// each. A lease at a tracker that has several members in `members` moves among them.
    #[must_use]
    pub fn new(advertise: Vec<String>, members: MemberBook) -> Self {
        let mut key = [0; 4];
        // Without randomness every peer has the same key, which then tells trackers nothing.
        if let Err(error) = getrandom::fill(&mut key) {
            tracing::warn!(%error, "no random key for announces");
        }
        let shared = Shared {
            named: Mutex::default(),
            http: HttpTrackers::default(),
            udp: UdpTrackers::default(),
            leases: LeaseTrackers::new(advertise, members),
            key: u32::from_be_bytes(key),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The user named this tracker: it may be a machine around us, and tell of such machines.
    pub fn trust(&self, url: &str) {
        self.shared.named.lock().unwrap_or_else(PoisonError::into_inner).insert(url.to_owned());
    }

    /// Announces, and waits for the answer within bounds. At a tracker of ours the item is on our lease from then on,
    /// renewed until it is `Stopped`.
    ///
    /// # Errors
    /// Where there is no answer, or one that refuses.
    pub async fn announce(&self, announce: Announce) -> Result<AnnounceReply, AnnounceError> {
        if let Some(address) = announce.url.strip_prefix(LEASED) {
            let address =
                address.trim_end_matches('/').parse().map_err(|_| AnnounceError::BadUrl("no host and port"))?;
            return self.shared.leases.announce(&address, &announce).await;
        }
        let url = Url::parse(&announce.url).map_err(|_| AnnounceError::BadUrl("it is none"))?;
        let trust = self.trust_in(&announce.url);
        check_host(&url, &announce.url, trust)?;
        // On the heap: ten thousand items go on a lease at once, and would each hold the room of these exchanges.
        match url.scheme() {
            "http" | "https" => Box::pin(self.shared.http.announce(&announce, trust, self.shared.key)).await,
            "udp" => Box::pin(self.shared.udp.announce(&announce, &url, trust, self.shared.key)).await,
            _ => Err(AnnounceError::UnknownKind),
        }
    }

    /// Connects to a tracker of ours to which there will soon be something to announce.
    pub fn approach(&self, tracker: &TrackerAddress, peer_id: PeerId, port: u16) {
        self.shared.leases.approach(tracker, peer_id, port);
    }

    /// Shows us to a tracker of ours even while we hold nothing, until [`stop`](Self::stop).
    ///
    /// # Errors
    /// Where it does not answer, or refuses; it is asked again until it does.
    pub async fn join(&self, tracker: &TrackerAddress, peer_id: PeerId, port: u16) -> Result<(), AnnounceError> {
        self.shared.leases.join(tracker, peer_id, port).await
    }

    /// The process stops soon: what is to be said goes out at once instead of waiting for more to say.
    pub async fn hurry(&self) {
        self.shared.leases.hurry().await;
    }

    /// Ends all leases, which takes as long as a tracker needs to answer: the caller bounds it.
    pub async fn stop(&self) {
        self.shared.leases.stop().await;
    }

    fn trust_in(&self, url: &str) -> Trust {
        let named = self.shared.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.contains(url) { Trust::Named } else { Trust::Found }
    }
}

/// Hosts in letters beyond ASCII can look like others: only the user may name such a one.
fn check_host(url: &Url, text: &str, trust: Trust) -> Result<(), AnnounceError> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(AnnounceError::BadUrl("no host"))?;
    let beyond_ascii = !text.is_ascii() || host.split('.').any(|label| label.starts_with("xn--"));
    if beyond_ascii && trust == Trust::Found {
        return Err(AnnounceError::BadUrl("letters beyond ASCII in its host"));
    }
    Ok(())
}

/// The event as trackers spell it.
fn event(event: AnnounceEvent) -> wire::AnnounceEvent {
    match event {
        AnnounceEvent::Regular => wire::AnnounceEvent::Regular,
        AnnounceEvent::Started => wire::AnnounceEvent::Started,
        AnnounceEvent::Completed => wire::AnnounceEvent::Completed,
        AnnounceEvent::Stopped => wire::AnnounceEvent::Stopped,
    }
}

/// The sentence at the end of an error's chain, which names the cause.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    obt_wire::files::escaped(&innermost.to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use obt_wire::tracker_http::RetryIn;

    use super::*;

    #[test]
    fn a_swarm_hears_when_a_refused_announce_may_be_tried_again() {
        let refused = ReplyError::Refused { reason: "full".into(), retry: Some(RetryIn::Minutes(5)) };
        let failure = AnnounceError::Reply(refused).to_failure();
        let told = AnnounceFailure { reason: "the tracker refused: full".into(), retry: Some(RetryIn::Minutes(5)) };
        assert_eq!(failure, told);
        assert_eq!(AnnounceError::Silent.to_failure().retry, None);
    }
}
