//! The catalogue of a tracker of ours, from the client's side: find, item, .torrent, publish, withdraw, peers.
//!
//! Plain HTTP to an address that the user typed, by hyper alone: a `get` of a small file must not pay for loading
//! root certificates that it never uses. What comes back is bounded before it is read.

mod ask;

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use obt_catalogue::QUERY_BYTES;
use obt_catalogue::names::{Name, Selector};
use obt_catalogue::signing::{Call, Keypair};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use thiserror::Error;

use self::ask::{Answer, Http, Question};
use crate::api_types::{ErrorBody, ErrorDetail, Item, ItemFile, ItemPage, Names, PeerList, Published, Status};
use crate::limits::{CHANGE_PAUSE, CHANGE_REPEATED, LOOK_UP_NAMES};
use crate::members::{Members, STATUS_PATH};

/// Time for a connection to the tracker: "nobody has it" must come within 2 s where there is a tracker at all.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for a small answer, connect included.
const ANSWER: Duration = Duration::from_secs(15);
/// Time for a .torrent of the largest size in either direction, over a link of 5 Mbit/s.
const TORRENT: Duration = Duration::from_secs(120);
/// Longest pause that a tracker may ask for between two publishes.
const PAUSE: Duration = Duration::from_secs(10);
/// Items asked for at once.
const PAGE: u32 = 500;

/// Characters of a name that may stand in a path as they are (RFC 3986 unreserved, and the slash between components).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// The same of a query's value.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a tracker is, as a person types it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerAddress {
    host: String,
    port: u16,
}

/// A text that is not `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not HOST:PORT")]
pub struct ParseAddressError(String);

impl TrackerAddress {
    /// A host name or address, and a port from 1 up.
    ///
    /// # Errors
    /// Where no host could have that name.
    pub fn new(host: &str, port: u16) -> Result<Self, ParseAddressError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let address = bare.parse::<Ipv6Addr>().is_ok();
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let named = !host.is_empty() && host.len() <= 253 && host.bytes().all(letters);
        if port == 0 || !(address || named) {
            return Err(ParseAddressError(format!("{host}:{port}")));
        }
        Ok(Self { host: bare.to_owned(), port })
    }

    /// Name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for TrackerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for TrackerAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let wrong = || ParseAddressError(text.chars().take(80).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(wrong());
        }
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        Self::new(host, port.parse().map_err(|_| wrong())?).map_err(|_| wrong())
    }
}

/// Why a tracker did not do what it was asked.
#[derive(Debug, Error)]
pub enum TrackerError {
    /// Nothing listens there, or the name does not resolve.
    #[error("cannot reach the tracker at {tracker}: {reason}")]
    Unreachable {
        /// Which.
        tracker: TrackerAddress,
        /// The system's reason.
        reason: String,
    },
    /// It did not answer in time.
    #[error("the tracker at {tracker} does not answer")]
    Silent {
        /// Which.
        tracker: TrackerAddress,
    },
    /// Something answers there that is no tracker of ours.
    #[error("what answers at {tracker} is not an obt tracker: {reason}")]
    Foreign {
        /// Which.
        tracker: TrackerAddress,
        /// What is wrong with its answer.
        reason: String,
    },
    /// It has no such name or version.
    #[error("{0}")]
    NotFound(String),
    /// The name has other content.
    #[error("{}", .0.message)]
    Conflict(ErrorDetail),
    /// It refused, and says why.
    #[error("{}", .detail.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        detail: ErrorDetail,
    },
    /// It has several members, and none of them answers.
    #[error("none of the {tried} members of the tracker at {tracker} can answer; the last of them: {last}")]
    Members {
        /// As it was typed.
        tracker: TrackerAddress,
        /// How many were asked.
        tried: usize,
        /// Why not the last, or the last that said why.
        last: Box<TrackerError>,
    },
    /// A .torrent whose info-hash is not the one that was asked for.
    #[error("the tracker at {tracker} sent another torrent than it promised")]
    WrongTorrent {
        /// Which.
        tracker: TrackerAddress,
    },
}

impl TrackerError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => Some("check host and port, and that the tracker runs".into()),
            Self::Silent { .. } => Some("the machine is overloaded, or something on the way drops packets".into()),
            Self::Foreign { .. } => Some("the port of an obt tracker is 6969 unless it was told otherwise".into()),
            Self::Conflict(detail) | Self::Refused { detail, .. } => detail.hint.clone(),
            Self::Members { last, .. } => last.hint(),
            Self::NotFound(_) | Self::WrongTorrent { .. } => None,
        }
    }
}

/// A tracker of ours, all its members. Cheap to clone; connections are kept and reused.
#[derive(Debug, Clone)]
pub struct TrackerClient {
    members: Members,
    http: Http,
}

/// SHA-256 of a body in parts.
fn body_digest(parts: &[Bytes]) -> [u8; 32] {
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize().into()
}

impl TrackerClient {
    /// A client of the tracker at `address`; connects when it is first asked something.
    #[must_use]
    pub fn new(address: TrackerAddress) -> Self {
        Self::of(Members::alone(address))
    }

    /// A client of the tracker whose members these are: what one cannot answer is asked of the next.
    #[must_use]
    pub fn of(members: Members) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        Self { members, http: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Where it is, as it was typed.
    #[must_use]
    pub fn address(&self) -> &TrackerAddress {
        self.members.typed()
    }

    /// Asks who the members are, where that is not known well enough.
    pub async fn learn_members(&self) {
        if !self.members.is_due(Instant::now()) {
            return;
        }
        let question = Question { method: Method::GET, path: STATUS_PATH, body: &[], authorization: None };
        if let Ok((member, answer)) = self.ask_members(&question, ANSWER).await
            && answer.status.is_success()
        {
            self.members.learn(&member, &answer.body);
        }
    }

    /// The tracker's state.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn status(&self) -> Result<Status, TrackerError> {
        self.json("/api/v1/status").await
    }

    /// At most `limit` items whose names match `text`; all of them where it is empty.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn find(&self, text: &str, limit: usize) -> Result<Vec<Item>, TrackerError> {
        if text.len() > QUERY_BYTES {
            let message = format!("a search text cannot be longer than {QUERY_BYTES} bytes");
            let detail = ErrorDetail { code: "bad_request".into(), message, hint: None, owner: None };
            return Err(TrackerError::Refused { status: 400, detail });
        }
        let mut found = Vec::new();
        let mut cursor = None::<String>;
        while found.len() < limit {
            let wanted = PAGE.min(u32::try_from(limit - found.len()).unwrap_or(PAGE));
            let mut path = format!("/api/v1/items?limit={wanted}&q={}", utf8_percent_encode(text, QUERY));
            if let Some(cursor) = &cursor {
                path.push_str("&cursor=");
                path.extend(utf8_percent_encode(cursor, QUERY));
            }
            let page: ItemPage = self.json(&path).await?;
            let more = !page.items.is_empty();
            found.extend(page.items);
            match page.cursor {
                Some(next) if more => cursor = Some(next),
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The item of this very name, without its list of files; None where there is no such name or version.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn item(&self, name: &Name, selector: &Selector) -> Result<Option<Item>, TrackerError> {
        match self.json(&format!("/api/v1/items/{}?files=false", spell(name, selector))).await {
            Ok(item) => Ok(Some(item)),
            Err(TrackerError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The files of a version of an item; none of one that is not there.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn files(&self, name: &Name, version: u32) -> Result<Vec<ItemFile>, TrackerError> {
        match self.json::<Item>(&format!("/api/v1/items/{}", spell(name, &Selector::Version(version)))).await {
            Ok(item) => Ok(item.files),
            Err(TrackerError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The newest versions of those of these names that there are, without their files; one question for up to
    /// [`LOOK_UP_NAMES`] of them.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn look_up(&self, names: impl Iterator<Item = &Name>) -> Result<Vec<Item>, TrackerError> {
        let names: Vec<String> = names.map(Name::to_string).collect();
        let mut found = Vec::new();
        for names in names.chunks(LOOK_UP_NAMES) {
            let body = serde_json::to_vec(&Names { names: names.to_vec() }).map_err(|error| self.foreign(&error))?;
            let answer = self.ask(Method::POST, "/api/v1/items", &[Bytes::from(body)], ANSWER).await?;
            let page: ItemPage = self.parse(&self.accepted(answer)?)?;
            found.extend(page.items);
        }
        Ok(found)
    }

    /// The .torrent of an item, unchecked.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn torrent(&self, name: &Name, selector: &Selector) -> Result<Bytes, TrackerError> {
        let path = format!("/items/{}.torrent", spell(name, selector));
        let answer = self.ask(Method::GET, &path, &[], TORRENT).await?;
        self.accepted(answer)
    }

    /// The same for somebody who can have it from others: None where the tracker gives it to a few of a crowd already.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn torrent_if_few_want_it(
        &self,
        name: &Name,
        selector: &Selector,
    ) -> Result<Option<Bytes>, TrackerError> {
        let path = format!("/items/{}.torrent?patient=1", spell(name, selector));
        let answer = self.ask(Method::GET, &path, &[], TORRENT).await?;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            return Ok(None);
        }
        self.accepted(answer).map(Some)
    }

    /// Who is in the network.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn peers(&self) -> Result<PeerList, TrackerError> {
        self.json("/api/v1/peers").await
    }

    /// Publishes `torrent`, a .torrent file in parts, under `name`.
    ///
    /// # Errors
    /// [`TrackerError::Conflict`] where the name has other content; see [`TrackerError`].
    pub async fn publish(
        &self,
        name: &Name,
        torrent: &[Bytes],
        replace: Replace,
        key: &Keypair,
    ) -> Result<Published, TrackerError> {
        let mut path = format!("/api/v1/items/{}", spell(name, &Selector::Newest));
        if replace == Replace::Yes {
            path.push_str("?replace=true");
        }
        let answer = self.change(Method::PUT, &path, torrent, key, TORRENT).await?;
        let body = self.accepted(answer)?;
        self.parse(&body)
    }

    /// Withdraws `name`.
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub async fn withdraw(&self, name: &Name, key: &Keypair) -> Result<(), TrackerError> {
        let path = format!("/api/v1/items/{}", spell(name, &Selector::Newest));
        let answer = self.change(Method::DELETE, &path, &[], key, ANSWER).await?;
        self.accepted(answer).map(|_| ())
    }

    /// Asks for a change until it is made or refused: whoever shares a large folder is held up, and where the leader
    /// has gone there is soon another.
    async fn change(
        &self,
        method: Method,
        path: &str,
        body: &[Bytes],
        key: &Keypair,
        patience: Duration,
    ) -> Result<Answer, TrackerError> {
        let begun = Instant::now();
        loop {
            let call = Call { method: method.as_str(), path_and_query: path, body_sha256: body_digest(body) };
            let authorization = Some(sign(key, &call).map_err(|error| self.foreign(&error))?);
            let question = Question { method: method.clone(), path, body, authorization };
            let (answer, repeated, pause) = match self.ask_members(&question, patience).await {
                Ok((_, answer)) if answer.status == StatusCode::TOO_MANY_REQUESTS && answer.retry_after.is_some() => {
                    let pause = answer.retry_after.unwrap_or_default().min(PAUSE);
                    (Ok(answer), TORRENT, pause)
                }
                Err(error) if is_unavailable(&error) => (Err(error), CHANGE_REPEATED, CHANGE_PAUSE),
                answered => return answered.map(|(_, answer)| answer),
            };
            if begun.elapsed() + pause >= repeated {
                return answer;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, TrackerError> {
        let answer = self.ask(Method::GET, path, &[], ANSWER).await?;
        let body = self.accepted(answer)?;
        self.parse(&body)
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, TrackerError> {
        serde_json::from_slice(body).map_err(|error| self.foreign(&error))
    }

    fn foreign(&self, reason: &dyn fmt::Display) -> TrackerError {
        TrackerError::Foreign { tracker: self.address().clone(), reason: reason.to_string() }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &[Bytes],
        patience: Duration,
    ) -> Result<Answer, TrackerError> {
        let question = Question { method, path, body, authorization: None };
        self.ask_members(&question, patience).await.map(|(_, answer)| answer)
    }

    fn accepted(&self, answer: Answer) -> Result<Bytes, TrackerError> {
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let status = answer.status.as_u16();
        let Ok(ErrorBody { error: detail }) = serde_json::from_slice::<ErrorBody>(&answer.body) else {
            return Err(self.foreign(&format_args!("HTTP status {status}")));
        };
        Err(match answer.status {
            StatusCode::NOT_FOUND => TrackerError::NotFound(detail.message),
            StatusCode::CONFLICT => TrackerError::Conflict(detail),
            _ => TrackerError::Refused { status, detail },
        })
    }
}

/// Whether a publish may make the next version of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Other content under the name is a conflict.
    No,
    /// It becomes the version before.
    Yes,
}

/// Whether no member could make a change, while one may soon.
fn is_unavailable(error: &TrackerError) -> bool {
    match error {
        TrackerError::Members { last, .. } => is_unavailable(last),
        TrackerError::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        _ => false,
    }
}

fn spell(name: &Name, selector: &Selector) -> String {
    format!("{}{selector}", utf8_percent_encode(name.as_str(), PATH))
}

fn sign(key: &Keypair, call: &Call<'_>) -> Result<String, getrandom::Error> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    Ok(key.authorize(call, nonce, time_ms).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_type_them() {
        for (text, shown) in
            [("tracker.lab:6969", "tracker.lab:6969"), ("[::1]:1", "[::1]:1"), ("127.0.0.1:65535", "127.0.0.1:65535")]
        {
            assert_eq!(text.parse::<TrackerAddress>().map(|address| address.to_string()), Ok(shown.to_owned()));
        }
    }

    #[test]
    fn c10_what_is_no_address_is_refused() {
        for text in
            ["", "host", "host:", ":1", "host:0", "host:65536", "::1:80", "a b:1", "h:٣", "h:+1", "x/y:1", "u@h:1"]
        {
            assert!(text.parse::<TrackerAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_spelled_so_that_nothing_of_them_acts_in_a_url() {
        let name = Name::parse("a b/c?d#e%/ü@x").unwrap();
        assert_eq!(spell(&name, &Selector::Version(2)), "a%20b/c%3Fd%23e%25/%C3%BC%40x@2");
    }
}
