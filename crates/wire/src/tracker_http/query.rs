//! What stands after the `?` of an announce or a scrape.

use std::fmt::Write as _;
use std::net::IpAddr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use thiserror::Error;

use crate::announce::AnnounceEvent;
use crate::ids::{InfoHash, PeerId};
use crate::tracker_udp::SCRAPE_HASHES;

/// What may stand in a query as it is (RFC 3986, "unreserved").
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a query is not one. Never repeats what came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QueryError {
    /// This parameter has to be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// This parameter may come once.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// This parameter has a value that it cannot have.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// A scrape names no swarm, and nobody gets the list of all.
    #[error("full scrape is disabled: name an info_hash")]
    FullScrape,
    /// A scrape names more swarms than one may.
    #[error("too many info_hashes: at most 74 at once")]
    TooMany,
}

/// The parameters of an announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceQuery {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The peer.
    pub peer_id: PeerId,
    /// Where it listens; not 0.
    pub port: u16,
    /// Bytes sent.
    pub uploaded: u64,
    /// Bytes received.
    pub downloaded: u64,
    /// Bytes missing.
    pub left: u64,
    /// What happened.
    pub event: AnnounceEvent,
    /// How many peers are welcome; None leaves it to the tracker.
    pub num_want: Option<u32>,
    /// By which the tracker may know the peer under another address: up to 8 hexadecimal digits, others count as none.
    pub key: Option<u32>,
    /// Whether peers are to be listed in 6 or 18 bytes each (BEP 23); so where the query does not say.
    pub compact: bool,
    /// Whether the peers' ids are not wanted in the long form.
    pub no_peer_id: bool,
    /// The address that the peer claims to have. To be believed only of whom the operator trusts.
    pub ip: Option<IpAddr>,
}

/// The parameters that were seen so far, each at most once.
#[derive(Default)]
struct Seen<'a> {
    info_hash: Option<&'a [u8]>,
    peer_id: Option<&'a [u8]>,
    port: Option<&'a [u8]>,
    uploaded: Option<&'a [u8]>,
    downloaded: Option<&'a [u8]>,
    left: Option<&'a [u8]>,
    event: Option<&'a [u8]>,
    num_want: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    compact: Option<&'a [u8]>,
    no_peer_id: Option<&'a [u8]>,
    ip: Option<&'a [u8]>,
}

impl<'a> Seen<'a> {
    fn of(query: &'a [u8]) -> Result<Self, QueryError> {
        let mut seen = Self::default();
        for (name, value) in parameters(query) {
            let Some((slot, name)) = seen.slot(name) else {
                continue;
            };
            if slot.replace(value).is_some() {
                return Err(QueryError::Twice(name));
            }
        }
        Ok(seen)
    }

    fn slot(&mut self, name: &[u8]) -> Option<(&mut Option<&'a [u8]>, &'static str)> {
        Some(match name {
            b"info_hash" => (&mut self.info_hash, "info_hash"),
            b"peer_id" => (&mut self.peer_id, "peer_id"),
            b"port" => (&mut self.port, "port"),
            b"uploaded" => (&mut self.uploaded, "uploaded"),
            b"downloaded" => (&mut self.downloaded, "downloaded"),
            b"left" => (&mut self.left, "left"),
            b"event" => (&mut self.event, "event"),
            b"numwant" => (&mut self.num_want, "numwant"),
            b"key" => (&mut self.key, "key"),
            b"compact" => (&mut self.compact, "compact"),
            b"no_peer_id" => (&mut self.no_peer_id, "no_peer_id"),
            b"ip" => (&mut self.ip, "ip"),
            _ => return None,
        })
    }
}

impl AnnounceQuery {
    /// Reads what stands after the `?`. Unknown parameters are ignored. Allocates nothing.
    ///
    /// # Errors
    /// Where a parameter is missing, malformed, or there twice.
    pub fn decode(query: &[u8]) -> Result<Self, QueryError> {
        let seen = Seen::of(query)?;
        let port = number(seen.port, "port")?.ok_or(QueryError::Missing("port"))?;
        Ok(Self {
            info_hash: InfoHash(id(seen.info_hash, "info_hash")?),
            peer_id: PeerId(id(seen.peer_id, "peer_id")?),
            port: u16::try_from(port).ok().filter(|port| *port != 0).ok_or(QueryError::Malformed("port"))?,
            uploaded: number(seen.uploaded, "uploaded")?.unwrap_or(0),
            downloaded: number(seen.downloaded, "downloaded")?.unwrap_or(0),
            left: number(seen.left, "left")?.ok_or(QueryError::Missing("left"))?,
            event: event(seen.event)?,
            num_want: num_want(seen.num_want)?,
            key: seen.key.and_then(key),
            compact: flag(seen.compact, "compact")?.unwrap_or(true),
            no_peer_id: flag(seen.no_peer_id, "no_peer_id")?.unwrap_or(false),
            ip: seen.ip.and_then(ip),
        })
    }

    /// The URL to fetch, made of a tracker's announce URL, which may hold a query of its own (a passkey).
    #[must_use]
    pub fn url(&self, announce: &str) -> String {
        let mut url = begun(announce);
        let info_hash = percent_encode(&self.info_hash.0, ESCAPED);
        let peer_id = percent_encode(&self.peer_id.0, ESCAPED);
        let Self { port, uploaded, downloaded, left, .. } = self;
        // Writing to a string does not fail.
        let _ = write!(
            url,
            "info_hash={info_hash}&peer_id={peer_id}&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}"
        );
        let _ = write!(url, "&compact={}", u8::from(self.compact));
        if self.no_peer_id {
            url.push_str("&no_peer_id=1");
        }
        if let Some(name) = event_name(self.event) {
            let _ = write!(url, "&event={name}");
        }
        if let Some(num_want) = self.num_want {
            let _ = write!(url, "&numwant={num_want}");
        }
        if let Some(key) = self.key {
            let _ = write!(url, "&key={key:08x}");
        }
        if let Some(ip) = self.ip {
            let _ = write!(url, "&ip={}", percent_encode(ip.to_string().as_bytes(), ESCAPED));
        }
        url
    }
}

/// `url` without its fragment, ready to take parameters.
fn begun(url: &str) -> String {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    let joint = match url.split_once('?') {
        None => "?",
        Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{url}{joint}")
}

/// Names and raw values, in order; a name without `=` has an empty value.
fn parameters(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|byte| *byte == b'&').map(|parameter| {
        let at = parameter.iter().position(|byte| *byte == b'=').unwrap_or(parameter.len());
        let (name, value) = parameter.split_at(at);
        (name, value.get(1..).unwrap_or_default())
    })
}

/// Undoes percent-encoding into `out`; None where an escape is malformed or there are more bytes than `out` holds. A
/// `+` is a plus: ids hold any byte, and clients escape what they must.
fn unescaped<'o>(value: &[u8], out: &'o mut [u8]) -> Option<&'o [u8]> {
    let mut bytes = value.iter();
    let mut length = 0;
    for slot in out.iter_mut() {
        *slot = match bytes.next() {
            Some(b'%') => escaped(*bytes.next()?, *bytes.next()?)?,
            Some(byte) => *byte,
            None => break,
        };
        length += 1;
    }
    if bytes.next().is_some() { None } else { out.get(..length) }
}

/// The value of each byte as a hexadecimal digit; 16 where it is none.
static HEX: [u8; 256] = {
    let mut values = [16; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        values[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

fn escaped(high: u8, low: u8) -> Option<u8> {
    let (high, low) = (HEX[usize::from(high)], HEX[usize::from(low)]);
    ((high | low) < 16).then_some(high << 4 | low)
}

fn hex(digit: u8) -> Option<u8> {
    Some(HEX[usize::from(digit)]).filter(|value| *value < 16)
}

/// A value of exactly 20 bytes.
fn id(value: Option<&[u8]>, name: &'static str) -> Result<[u8; 20], QueryError> {
    let value = value.ok_or(QueryError::Missing(name))?;
    let mut out = [0; 20];
    let length = unescaped(value, &mut out).map(<[u8]>::len);
    if length == Some(out.len()) { Ok(out) } else { Err(QueryError::Malformed(name)) }
}

/// A number in plain digits.
fn number(value: Option<&[u8]>, name: &'static str) -> Result<Option<u64>, QueryError> {
    let Some(value) = value else {
        return Ok(None);
    };
    digits(value).map(Some).ok_or(QueryError::Malformed(name))
}

fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// -1 leaves it to the tracker, as in the UDP protocol.
fn num_want(value: Option<&[u8]>) -> Result<Option<u32>, QueryError> {
    if value == Some(b"-1") {
        return Ok(None);
    }
    let number = number(value, "numwant")?;
    Ok(number.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
}

fn key(value: &[u8]) -> Option<u32> {
    if value.is_empty() || value.len() > 8 {
        return None;
    }
    value.iter().try_fold(0, |key, digit| Some(key << 4 | u32::from(hex(*digit)?)))
}

fn flag(value: Option<&[u8]>, name: &'static str) -> Result<Option<bool>, QueryError> {
    match value {
        None => Ok(None),
        Some(b"0") => Ok(Some(false)),
        Some(b"1") => Ok(Some(true)),
        Some(_) => Err(QueryError::Malformed(name)),
    }
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    // The longest v6 address in text is 45 bytes.
    let mut text = [0; 45];
    std::str::from_utf8(unescaped(value, &mut text)?).ok()?.parse().ok()
}

fn event(value: Option<&[u8]>) -> Result<AnnounceEvent, QueryError> {
    match value {
        None | Some(b"" | b"empty") => Ok(AnnounceEvent::Regular),
        Some(b"completed") => Ok(AnnounceEvent::Completed),
        Some(b"started") => Ok(AnnounceEvent::Started),
        Some(b"stopped") => Ok(AnnounceEvent::Stopped),
        Some(b"paused") => Ok(AnnounceEvent::Paused),
        Some(_) => Err(QueryError::Malformed("event")),
    }
}

fn event_name(event: AnnounceEvent) -> Option<&'static str> {
    match event {
        AnnounceEvent::Regular => None,
        AnnounceEvent::Completed => Some("completed"),
        AnnounceEvent::Started => Some("started"),
        AnnounceEvent::Stopped => Some("stopped"),
        AnnounceEvent::Paused => Some("paused"),
    }
}

/// The swarms that a scrape asks for, 1 to [`SCRAPE_HASHES`].
///
/// # Errors
/// Where there is none, too many, or one is malformed.
pub fn scrape_query(query: &[u8]) -> Result<Vec<InfoHash>, QueryError> {
    let mut hashes = Vec::new();
    for (_, value) in parameters(query).filter(|(name, _)| *name == b"info_hash") {
        if hashes.len() == SCRAPE_HASHES {
            return Err(QueryError::TooMany);
        }
        hashes.push(InfoHash(id(Some(value), "info_hash")?));
    }
    if hashes.is_empty() { Err(QueryError::FullScrape) } else { Ok(hashes) }
}

/// The URL to fetch for the counts of these swarms; None where the tracker's announce URL does not end in `announce`,
/// which says that it takes no scrapes (BEP 48).
#[must_use]
pub fn scrape_url(announce: &str, hashes: impl IntoIterator<Item = InfoHash>) -> Option<String> {
    let path_end = announce.find(['?', '#']).unwrap_or(announce.len());
    let (path, rest) = announce.split_at(path_end);
    let (folder, last) = path.rsplit_once('/')?;
    let suffix = last.strip_prefix("announce")?;
    let mut url = begun(&format!("{folder}/scrape{suffix}{rest}"));
    for (at, hash) in hashes.into_iter().enumerate() {
        let joint = if at == 0 { "" } else { "&" };
        let _ = write!(url, "{joint}info_hash={}", percent_encode(&hash.0, ESCAPED));
    }
    Some(url)
}
