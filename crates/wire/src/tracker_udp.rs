//! The UDP tracker protocol (BEP 15) with its options (BEP 41), as the tracker and as the client see it.
//!
//! Reading a request and writing a reply allocate nothing: a tracker does both for every datagram. Whatever has the
//! wrong length or an unknown action is nothing at all, and gets no answer.

use std::borrow::Cow;

use crate::announce::{AnnounceEvent, SwarmCounts};
use crate::ids::{InfoHash, PeerId};
use crate::limits::{FAILURE_BYTES, TRACKER_PATH_BYTES, UDP_REQUEST_BYTES};
use crate::text::shown;

/// What a connect request carries in place of a connection id.
const PROTOCOL: u64 = 0x0417_2710_1980;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// Most info-hashes in one scrape: as many as fit in a datagram that no link fragments.
pub const SCRAPE_HASHES: usize = 74;

/// The number by which a tracker knows that a sender receives at its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// The number by which a client knows which request a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub u32);

/// A well-formed datagram to a tracker. Its connection id is not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Asks for a connection id.
    Connect(TransactionId),
    /// Tells of a peer, asks for others.
    Announce(AnnounceRequest<'a>),
    /// Asks for counts.
    Scrape(ScrapeRequest<'a>),
}

/// The fields of an announce. The address in it is not read: nobody may announce for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceRequest<'a> {
    /// From the tracker's last connect reply.
    pub connection: ConnectionId,
    /// To be repeated in the reply.
    pub transaction: TransactionId,
    /// The swarm.
    pub info_hash: InfoHash,
    /// The peer.
    pub peer_id: PeerId,
    /// Bytes received.
    pub downloaded: u64,
    /// Bytes missing.
    pub left: u64,
    /// Bytes sent.
    pub uploaded: u64,
    /// What happened; unknown numbers are [`AnnounceEvent::Regular`].
    pub event: AnnounceEvent,
    /// By which the tracker may know the peer under another address.
    pub key: u32,
    /// How many peers are welcome; None leaves it to the tracker.
    pub num_want: Option<u32>,
    /// Where the peer listens; 0 is for the tracker to refuse.
    pub port: u16,
    /// BEP 41, unchecked; see [`path`](Self::path).
    pub options: &'a [u8],
}

/// The fields of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeRequest<'a> {
    /// From the tracker's last connect reply.
    pub connection: ConnectionId,
    /// To be repeated in the reply.
    pub transaction: TransactionId,
    hashes: &'a [[u8; InfoHash::LEN]],
}

impl<'a> ScrapeRequest<'a> {
    /// The swarms in question, 1 to [`SCRAPE_HASHES`].
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = InfoHash> + use<'a> {
        self.hashes.iter().map(|hash| InfoHash(*hash))
    }
}

/// Takes numbers and ids off the front of a datagram whose length is checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Request<'a> {
    /// Reads a datagram; None for one to be dropped in silence.
    #[must_use]
    pub fn decode(datagram: &'a [u8]) -> Option<Self> {
        if datagram.len() > UDP_REQUEST_BYTES {
            return None;
        }
        let mut fields = Fields(datagram);
        let connection = fields.u64()?;
        let action = fields.u32()?;
        let transaction = TransactionId(fields.u32()?);
        match action {
            CONNECT => (connection == PROTOCOL && fields.0.is_empty()).then_some(Self::Connect(transaction)),
            ANNOUNCE => AnnounceRequest::decode(ConnectionId(connection), transaction, fields).map(Self::Announce),
            SCRAPE => {
                let (hashes, rest) = fields.rest().as_chunks();
                let whole = rest.is_empty() && (1..=SCRAPE_HASHES).contains(&hashes.len());
                let connection = ConnectionId(connection);
                whole.then_some(Self::Scrape(ScrapeRequest { connection, transaction, hashes }))
            }
            _ => None,
        }
    }
}

impl AnnounceRequest<'static> {
    /// The first announce of a peer that listens at `port` and lacks `left` bytes: all else is as if it had said nothing.
    #[must_use]
    pub fn started(connection: ConnectionId, info_hash: InfoHash, peer_id: PeerId, port: u16, left: u64) -> Self {
        Self {
            connection,
            transaction: TransactionId(0),
            info_hash,
            peer_id,
            downloaded: 0,
            left,
            uploaded: 0,
            event: AnnounceEvent::Started,
            key: 0,
            num_want: None,
            port,
            options: &[],
        }
    }
}

impl<'a> AnnounceRequest<'a> {
    fn decode(connection: ConnectionId, transaction: TransactionId, mut fields: Fields<'a>) -> Option<Self> {
        let info_hash = InfoHash(fields.take()?);
        let peer_id = PeerId(fields.take()?);
        let [downloaded, left, uploaded] = [fields.u64()?, fields.u64()?, fields.u64()?];
        let event = event_of(fields.u32()?);
        let _address = fields.u32()?;
        let key = fields.u32()?;
        // -1 leaves it to the tracker, and other negative numbers mean nothing better.
        let num_want = fields.u32().map(|number| i32::try_from(number).ok().map(i32::unsigned_abs))?;
        let port = fields.u16()?;
        Some(Self {
            connection,
            transaction,
            info_hash,
            peer_id,
            downloaded,
            left,
            uploaded,
            event,
            key,
            num_want,
            port,
            options: fields.rest(),
        })
    }

    /// Appends the datagram. `path` is the path and query of the tracker's URL, sent as options where it says more than
    /// `/announce` (BEP 41).
    pub fn encode(&self, path: &str, out: &mut Vec<u8>) {
        put_head(out, self.connection.0, ANNOUNCE, self.transaction);
        out.extend_from_slice(&self.info_hash.0);
        out.extend_from_slice(&self.peer_id.0);
        for number in [self.downloaded, self.left, self.uploaded] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        let num_want = self.num_want.and_then(|number| i32::try_from(number).ok()).unwrap_or(-1);
        out.extend_from_slice(&event_number(self.event).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.key.to_be_bytes());
        out.extend_from_slice(&num_want.to_be_bytes());
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(self.options);
        if !matches!(path, "" | "/" | "/announce") {
            put_path(out, path);
        }
    }

    /// Path and query of the URL by which the client knows the tracker (BEP 41). None where it does not say, or says
    /// it in malformed options or at more than [`TRACKER_PATH_BYTES`].
    #[must_use]
    pub fn path(&self) -> Option<Cow<'a, [u8]>> {
        let mut path: Option<Cow<'a, [u8]>> = None;
        let mut options = self.options;
        while let Some((kind, rest)) = options.split_first() {
            match *kind {
                END_OF_OPTIONS => break,
                NOP => options = rest,
                kind => {
                    let (length, rest) = rest.split_first()?;
                    let (data, rest) = rest.split_at_checked(usize::from(*length))?;
                    if kind == URL_DATA {
                        path = Some(joined(path, data)?);
                    }
                    options = rest;
                }
            }
        }
        path
    }
}

const END_OF_OPTIONS: u8 = 0;
const NOP: u8 = 1;
const URL_DATA: u8 = 2;

/// `path` with `data` at its end, where it does not get too long.
fn joined<'a>(path: Option<Cow<'a, [u8]>>, data: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let path = match path {
        None => Cow::Borrowed(data),
        Some(mut path) => {
            path.to_mut().extend_from_slice(data);
            path
        }
    };
    (path.len() <= TRACKER_PATH_BYTES).then_some(path)
}

fn put_path(out: &mut Vec<u8>, path: &str) {
    let path = path.as_bytes();
    for part in path.get(..TRACKER_PATH_BYTES).unwrap_or(path).chunks(255) {
        out.push(URL_DATA);
        out.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(part);
    }
    out.push(END_OF_OPTIONS);
}

fn put_head(out: &mut Vec<u8>, connection: u64, action: u32, transaction: TransactionId) {
    out.extend_from_slice(&connection.to_be_bytes());
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction.0.to_be_bytes());
}

fn event_of(number: u32) -> AnnounceEvent {
    match number {
        1 => AnnounceEvent::Completed,
        2 => AnnounceEvent::Started,
        3 => AnnounceEvent::Stopped,
        4 => AnnounceEvent::Paused,
        _ => AnnounceEvent::Regular,
    }
}

fn event_number(event: AnnounceEvent) -> u32 {
    match event {
        AnnounceEvent::Regular => 0,
        AnnounceEvent::Completed => 1,
        AnnounceEvent::Started => 2,
        AnnounceEvent::Stopped => 3,
        AnnounceEvent::Paused => 4,
    }
}

/// The datagram that asks for a connection id.
#[must_use]
pub fn connect_request(transaction: TransactionId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&PROTOCOL.to_be_bytes());
    bytes[12..].copy_from_slice(&transaction.0.to_be_bytes());
    bytes
}

/// Appends a datagram that asks for the counts of these swarms, at most [`SCRAPE_HASHES`] of them.
pub fn scrape_request(
    connection: ConnectionId,
    transaction: TransactionId,
    hashes: impl IntoIterator<Item = InfoHash>,
    out: &mut Vec<u8>,
) {
    put_head(out, connection.0, SCRAPE, transaction);
    for hash in hashes.into_iter().take(SCRAPE_HASHES) {
        out.extend_from_slice(&hash.0);
    }
}

/// The datagram that gives a connection id. No longer than its request, since that may have come from anybody.
#[must_use]
pub fn connect_reply(transaction: TransactionId, connection: ConnectionId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&transaction.0.to_be_bytes());
    bytes[8..].copy_from_slice(&connection.0.to_be_bytes());
    bytes
}

/// Bytes of an announce reply before its peers.
pub const ANNOUNCE_REPLY_HEAD: usize = 20;

/// What goes before the compact peers of an announce reply; `interval` in seconds.
#[must_use]
pub fn announce_reply_head(
    transaction: TransactionId,
    interval: u32,
    counts: SwarmCounts,
) -> [u8; ANNOUNCE_REPLY_HEAD] {
    let mut bytes = [0; ANNOUNCE_REPLY_HEAD];
    let fields = [ANNOUNCE, transaction.0, interval, counts.leechers, counts.seeders];
    for (place, field) in bytes.as_chunks_mut().0.iter_mut().zip(fields) {
        *place = field.to_be_bytes();
    }
    bytes
}

/// What goes before the counts of a scrape reply.
#[must_use]
pub fn scrape_reply_head(transaction: TransactionId) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&SCRAPE.to_be_bytes());
    bytes[4..].copy_from_slice(&transaction.0.to_be_bytes());
    bytes
}

/// The counts of one swarm in a scrape reply, in the order of the request.
#[must_use]
pub fn scrape_entry(counts: SwarmCounts) -> [u8; 12] {
    let mut bytes = [0; 12];
    let fields = [counts.seeders, counts.completed, counts.leechers];
    for (place, field) in bytes.as_chunks_mut().0.iter_mut().zip(fields) {
        *place = field.to_be_bytes();
    }
    bytes
}

/// Appends a datagram that says why there is no better one.
pub fn error_reply(transaction: TransactionId, reason: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&ERROR.to_be_bytes());
    out.extend_from_slice(&transaction.0.to_be_bytes());
    out.extend_from_slice(reason.as_bytes().get(..FAILURE_BYTES).unwrap_or(reason.as_bytes()));
}

/// Which kind of peers a tracker's reply lists: that of the address it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// 6 bytes a peer.
    V4,
    /// 18 bytes a peer.
    V6,
}

/// A well-formed datagram from a tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Gives a connection id.
    Connect(ConnectionId),
    /// Answers an announce.
    Announce {
        /// Seconds, unchecked.
        interval: u32,
        /// `completed` is 0 here.
        counts: SwarmCounts,
        /// Compact, of the family that was asked for: whole ones.
        peers: &'a [u8],
    },
    /// Answers a scrape.
    Scrape(Vec<SwarmCounts>),
    /// Refuses; the text is fit to be shown.
    Error(String),
}

impl<'a> Reply<'a> {
    /// Reads a datagram; None for one to be dropped: wrong length, unknown action. The caller compares the transaction
    /// and whether the reply fits its request.
    #[must_use]
    pub fn decode(datagram: &'a [u8], family: Family) -> Option<(TransactionId, Self)> {
        let mut fields = Fields(datagram);
        let action = fields.u32()?;
        let transaction = TransactionId(fields.u32()?);
        let reply = match action {
            CONNECT => Self::connect(fields)?,
            ANNOUNCE => Self::announce(fields, family)?,
            SCRAPE => Self::scrape(fields.rest())?,
            ERROR => Self::Error(shown(fields.rest(), FAILURE_BYTES)),
            _ => return None,
        };
        Some((transaction, reply))
    }

    /// BEP 15 asks for "at least 16 bytes", so bytes after them are for the future.
    fn connect(mut fields: Fields<'a>) -> Option<Self> {
        fields.u64().map(|connection| Self::Connect(ConnectionId(connection)))
    }

    fn announce(mut fields: Fields<'a>, family: Family) -> Option<Self> {
        let [interval, leechers, seeders] = [fields.u32()?, fields.u32()?, fields.u32()?];
        let peers = fields.rest();
        let size = match family {
            Family::V4 => crate::compact::V4_PEER,
            Family::V6 => crate::compact::V6_PEER,
        };
        let counts = SwarmCounts { seeders, leechers, completed: 0 };
        peers.len().is_multiple_of(size).then_some(Self::Announce { interval, counts, peers })
    }

    fn scrape(entries: &'a [u8]) -> Option<Self> {
        let (entries, rest) = entries.as_chunks::<12>();
        if !rest.is_empty() || !(1..=SCRAPE_HASHES).contains(&entries.len()) {
            return None;
        }
        let counts = entries.iter().filter_map(|entry| {
            let mut fields = Fields(entry);
            let [seeders, completed, leechers] = [fields.u32()?, fields.u32()?, fields.u32()?];
            Some(SwarmCounts { seeders, leechers, completed })
        });
        Some(Self::Scrape(counts.collect()))
    }
}

#[cfg(test)]
mod tests;
