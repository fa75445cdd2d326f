//! What a tracker answers: written by ours, read from anybody's.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::announce::SwarmCounts;
use crate::bencode::{BencodeError, Document, Limits, Value, Writer};
use crate::compact::{is_dialable, v4_peers, v6_peers};
use crate::ids::{InfoHash, PeerId};
use crate::limits::{FAILURE_BYTES, TRACKER_PEERS, TRACKER_REPLY_BYTES, TRACKER_REPLY_TOKENS};
use crate::text::shown;

/// An answer to an announce, to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceReply<'a> {
    /// Seconds until the next announce.
    pub interval: u32,
    /// Least seconds until the next announce.
    pub min_interval: u32,
    /// How many there are.
    pub counts: SwarmCounts,
    /// The address by which the tracker sees the peer (BEP 24).
    pub external_ip: IpAddr,
    /// Others in the swarm.
    pub peers: Peers<'a>,
}

/// The peers of an answer, in the form that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers<'a> {
    /// 6 bytes each (BEP 23) and 18 bytes each (BEP 7).
    Compact {
        /// Whole v4 peers.
        v4: &'a [u8],
        /// Whole v6 peers.
        v6: &'a [u8],
    },
    /// A dictionary each (BEP 3).
    Full(&'a [FullPeer]),
}

/// A peer in the long form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullPeer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Left out where it was not wanted.
    pub peer_id: Option<PeerId>,
}

/// Appends an answer to an announce.
pub fn write_announce(reply: &AnnounceReply<'_>, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out);
    writer.dict();
    writer.key("complete").uint(reply.counts.seeders.into());
    writer.key("downloaded").uint(reply.counts.completed.into());
    writer.key("external ip");
    match reply.external_ip.to_canonical() {
        IpAddr::V4(ip) => writer.bytes(ip.octets()),
        IpAddr::V6(ip) => writer.bytes(ip.octets()),
    };
    writer.key("incomplete").uint(reply.counts.leechers.into());
    writer.key("interval").uint(reply.interval.into());
    writer.key("min interval").uint(reply.min_interval.into());
    match reply.peers {
        Peers::Compact { v4, v6 } => {
            writer.key("peers").bytes(v4);
            if !v6.is_empty() {
                writer.key("peers6").bytes(v6);
            }
        }
        Peers::Full(peers) => {
            writer.key("peers").list();
            peers.iter().for_each(|peer| write_peer(peer, &mut writer));
            writer.end();
        }
    }
    writer.end();
}

fn write_peer(peer: &FullPeer, writer: &mut Writer<'_>) {
    writer.dict().key("ip").bytes(peer.addr.ip().to_canonical().to_string());
    if let Some(peer_id) = peer.peer_id {
        writer.key("peer id").bytes(peer_id.0);
    }
    writer.key("port").uint(peer.addr.port().into()).end();
}

/// When a refused announce may be tried again (BEP 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryIn {
    /// After so many minutes.
    Minutes(u32),
    /// Not at all.
    Never,
}

/// Appends an answer that refuses. `reason` is cut to [`FAILURE_BYTES`]; it must not hold what the request said.
pub fn write_failure(reason: &str, retry: Option<RetryIn>, out: &mut Vec<u8>) {
    let reason = reason.get(..reason.floor_char_boundary(FAILURE_BYTES)).unwrap_or_default();
    let mut writer = Writer::new(out);
    writer.dict().key("failure reason").bytes(reason);
    match retry {
        Some(RetryIn::Minutes(minutes)) => drop(writer.key("retry in").uint(minutes.into())),
        Some(RetryIn::Never) => drop(writer.key("retry in").bytes("never")),
        None => {}
    }
    writer.end();
}

/// Appends the counts of swarms, which must come sorted by hash (BEP 48).
pub fn write_scrape(swarms: &[(InfoHash, SwarmCounts)], out: &mut Vec<u8>) {
    let mut writer = Writer::new(out);
    writer.dict().key("files").dict();
    for (hash, counts) in swarms {
        writer.key(hash.0).dict();
        writer.key("complete").uint(counts.seeders.into());
        writer.key("downloaded").uint(counts.completed.into());
        writer.key("incomplete").uint(counts.leechers.into());
        writer.end();
    }
    writer.end().end();
}

/// Why a tracker's answer holds nothing to use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// Longer than any honest answer.
    #[error("the tracker's answer is longer than 1 MiB")]
    TooLong,
    /// Not bencode: often a web page.
    #[error("the tracker's answer is not bencode: {0}")]
    Bencode(#[from] BencodeError),
    /// Bencode, but not an answer.
    #[error("the tracker's answer lacks {0}")]
    Lacks(&'static str),
    /// The tracker says no, in words that are fit to be shown.
    #[error("the tracker refused: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
        /// When to try again, if it said.
        retry: Option<RetryIn>,
    },
}

/// A tracker's answer to an announce, as read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announced {
    /// Seconds until it wants to hear from us again, unchecked.
    pub interval: Option<u32>,
    /// Least seconds between two announces, unchecked.
    pub min_interval: Option<u32>,
    /// Complete peers.
    pub seeders: Option<u32>,
    /// Incomplete peers.
    pub leechers: Option<u32>,
    /// At most [`TRACKER_PEERS`], each a machine and a port ([`is_dialable`]); whether they may be dialled is for the
    /// caller to say, who knows what sort of tracker it is.
    pub peers: Vec<SocketAddr>,
    /// The address by which the tracker sees us.
    pub external_ip: Option<IpAddr>,
    /// A sentence for the user, fit to be shown.
    pub warning: Option<String>,
}

impl Announced {
    /// Reads a body. Values of the wrong kind are as good as absent.
    ///
    /// # Errors
    /// Where it is no answer, or refuses.
    pub fn decode(body: &[u8]) -> Result<Self, ReplyError> {
        let document = document(body)?;
        let root = answered(&document)?;
        let count = |key| root.get(key).and_then(Value::as_uint).map(clamped);
        Ok(Self {
            interval: count("interval"),
            min_interval: count("min interval"),
            seeders: count("complete"),
            leechers: count("incomplete"),
            peers: peers(root),
            external_ip: root.get("external ip").and_then(Value::as_bytes).and_then(ip_of),
            warning: root.get("warning message").and_then(Value::as_bytes).map(|text| shown(text, FAILURE_BYTES)),
        })
    }
}

fn document(body: &[u8]) -> Result<Document<'_>, ReplyError> {
    if body.len() > TRACKER_REPLY_BYTES {
        return Err(ReplyError::TooLong);
    }
    // Some trackers end their answers with a line break.
    let limits = Limits { tokens: TRACKER_REPLY_TOKENS, ..Limits::MESSAGE };
    Ok(Document::decode_prefix(body, limits)?.0)
}

/// The answer's dictionary, where it does not refuse.
fn answered<'a>(document: &'a Document<'a>) -> Result<Value<'a>, ReplyError> {
    let root = document.root();
    if root.as_dict().is_none() {
        return Err(ReplyError::Lacks("a dictionary"));
    }
    let Some(reason) = root.get("failure reason") else {
        return Ok(root);
    };
    let reason = shown(reason.as_bytes().unwrap_or_default(), FAILURE_BYTES);
    let retry = root.get("retry in").and_then(|retry| match retry.as_bytes() {
        Some(b"never") => Some(RetryIn::Never),
        _ => retry.as_uint().map(|minutes| RetryIn::Minutes(clamped(minutes))),
    });
    Err(ReplyError::Refused { reason, retry })
}

fn clamped(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)).map(|ip| ip.to_canonical())
}

fn peers(root: Value<'_>) -> Vec<SocketAddr> {
    let listed = root.get("peers");
    let v4 = listed.and_then(Value::as_bytes).unwrap_or_default();
    let v6 = root.get("peers6").and_then(Value::as_bytes).unwrap_or_default();
    let full = listed.and_then(Value::as_list).into_iter().flatten().filter_map(full_peer);
    v4_peers(v4).chain(full).chain(v6_peers(v6)).filter(|addr| is_dialable(*addr)).take(TRACKER_PEERS).collect()
}

/// A peer in the long form; one that is named and not numbered is nobody, since no name is resolved for a peer.
fn full_peer(peer: Value<'_>) -> Option<SocketAddr> {
    let ip: IpAddr = peer.get("ip")?.as_str()?.parse().ok()?;
    let port = u16::try_from(peer.get("port")?.as_uint()?).ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// Reads an answer to a scrape: the swarms that the tracker knows.
///
/// # Errors
/// Where it is no answer, or refuses.
pub fn read_scrape(body: &[u8]) -> Result<Vec<(InfoHash, SwarmCounts)>, ReplyError> {
    let document = document(body)?;
    let root = answered(&document)?;
    let files = root.get("files").and_then(Value::as_dict).ok_or(ReplyError::Lacks("files"))?;
    let swarms = files.iter().filter_map(|(hash, file)| {
        let count = |key| file.get(key).and_then(Value::as_uint).map_or(0, clamped);
        let counts =
            SwarmCounts { seeders: count("complete"), leechers: count("incomplete"), completed: count("downloaded") };
        Some((InfoHash::from_slice(hash)?, counts))
    });
    Ok(swarms.collect())
}
