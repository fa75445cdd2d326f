//! What members of a cluster tell each other, as bytes.
//!
//! A batch is a head of 42 bytes and records. Numbers are little-endian in the head and LEB128 in records; what belongs
//! to one swarm stands behind its hash, so that a peer of a large swarm takes 8 bytes and one of a small swarm 30. A
//! member is authenticated and may still be broken: every count is bounded by the bytes that are there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use obt_wire::{InfoHash, PeerId};
use thiserror::Error;

use crate::limits::{BATCH_BYTES, LEASE_ADDRESSES, OLDEST_NEWS};
use crate::policy::LifeClass;

/// The only version so far; a member that meets another one ends the link.
const VERSION: u8 = 1;
/// Bytes of a head.
pub(crate) const HEAD: usize = 42;

/// A member of the cluster, by the number that it got with its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// Why a batch cannot be read. The link that it came over is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// It ends too soon.
    #[error("a batch ends within a record")]
    Short,
    /// It is longer than any batch.
    #[error("a batch is too long")]
    Long,
    /// It is of a version that this program does not know.
    #[error("a batch has version {0}")]
    Version(u8),
    /// A number that means nothing.
    #[error("a batch has an impossible number")]
    Number,
    /// A peer that nobody can reach.
    #[error("a batch has an impossible address")]
    Address,
    /// A record of a kind that does not exist.
    #[error("a batch has a record of kind {0}")]
    Kind(u8),
    /// Its sender begins anew again and again.
    #[error("a member begins anew too often")]
    Restless,
}

/// How far a stream of batches was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// Which start of its sender it is of; 0 where it was never heard.
    pub incarnation: u64,
    /// Which of its streams.
    pub stream: u32,
    /// Its last batch that was heard; the first has 1.
    pub batch: u32,
}

/// What every batch begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which start of its sender this is.
    pub incarnation: u64,
    /// What its sender has heard of the receiver.
    pub heard: Heard,
    /// The stream of this batch. Each begins with a full copy.
    pub stream: u32,
    /// Its number in the stream; 0 where there are no records.
    pub batch: u32,
    /// Time since the ages in the records were right, milliseconds.
    pub aged: u32,
    /// When it was sent by the sender's clock, milliseconds since any moment and modulo 2^32.
    pub clock: u32,
    /// There is more: its sender waits to hear of it.
    pub hurry: bool,
    /// The receiver renewed a lease that its sender does not know: it is to tell all its leases again.
    pub lacks_leases: bool,
}

/// What a member says of a stock client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerNews {
    /// Where the peer is, as those on other hosts find it.
    pub addr: SocketAddr,
    /// What there is to say.
    pub news: News,
    /// Seconds since then.
    pub age: u32,
}

/// What there is to say of a stock client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It announced.
    Alive {
        /// It has everything.
        seed: bool,
        /// It is one more address of a client that counts with another.
        extra: bool,
        /// How long it is remembered: 0, 1 or 2.
        life: u8,
        /// Its download has just been counted as completed.
        completed: bool,
    },
    /// It announced to a member that does not say so itself: one that is gone, or began anew. Part of full copies.
    Told {
        /// As above.
        seed: bool,
        /// As above.
        extra: bool,
        /// As above.
        life: u8,
    },
    /// It left.
    Stopped,
    /// It announced to this member instead.
    Ceded(MemberId),
}

/// What a member says of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseNews {
    /// Whose it is and where; everything that it holds follows.
    Begin {
        /// What proves it.
        secret: [u8; 16],
        /// Where the peer is, as those on other hosts find it.
        endpoints: Vec<SocketAddr>,
    },
    /// Some items: bytes missing, None where one is gone.
    Items(Vec<(InfoHash, Option<u64>)>),
    /// It was renewed.
    Renewed {
        /// Its last change.
        revision: u64,
        /// All that it holds has been said.
        whole: bool,
    },
    /// It is over.
    Ended,
}

/// One thing that a member says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Peers of one swarm.
    Swarm {
        /// Its hash.
        hash: InfoHash,
        /// What happened.
        peers: Vec<PeerNews>,
    },
    /// A lease.
    Lease {
        /// Whose.
        peer_id: PeerId,
        /// Milliseconds since then.
        age: u32,
        /// What happened.
        news: LeaseNews,
    },
    /// How many downloads the sender has counted in a swarm by itself, since it started.
    Counted {
        /// Its hash.
        hash: InfoHash,
        /// All of them.
        own: u32,
    },
    /// How many downloads of a swarm are known.
    Total {
        /// Its hash.
        hash: InfoHash,
        /// All of them.
        completed: u32,
        /// Those that each member counted by itself since it started, as far as known.
        counted: Vec<(MemberId, u32)>,
    },
    /// The full copy is complete.
    CopyEnd,
}

const SWARM: u8 = 1;
const LEASE_BEGIN: u8 = 2;
const LEASE_ITEMS: u8 = 3;
const LEASE_RENEWED: u8 = 4;
const LEASE_WHOLE: u8 = 5;
const LEASE_ENDED: u8 = 6;
const COUNTED: u8 = 7;
const TOTAL: u8 = 8;
const COPY_END: u8 = 9;

const HURRY: u8 = 1;
const LACKS_LEASES: u8 = 2;

const V6: u8 = 1;
const STOPPED: u8 = 2;
const CEDED: u8 = 4;
const SEED: u8 = 8;
const EXTRA: u8 = 16;
const COMPLETED: u8 = 32;
/// Who left was not ceded, so both mean something else.
const TOLD: u8 = STOPPED | CEDED;

/// Whether anybody can announce from there. Where only few can dial it is none of our business.
pub(crate) fn is_possible(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && ip.to_canonical() == ip
}

/// Writes records behind each other.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    /// Where the count of the open swarm stands, and whose it is.
    open: Option<(usize, InfoHash)>,
}

impl Writer {
    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What was written; begins anew.
    pub fn take(&mut self) -> Vec<u8> {
        self.open = None;
        std::mem::take(&mut self.out)
    }

    /// Writes a record.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Swarm { hash, peers } => peers.iter().for_each(|peer| self.peer(hash, peer)),
            Record::Lease { peer_id, age, news } => self.lease(peer_id, *age, news),
            Record::Counted { hash, own } => {
                self.begin(COUNTED);
                self.out.extend(hash.0);
                self.number(u64::from(*own));
            }
            Record::Total { hash, completed, counted } => {
                self.begin(TOTAL);
                self.out.extend(hash.0);
                self.number(u64::from(*completed));
                self.number(counted.len() as u64);
                for (MemberId(member), own) in counted {
                    self.out.extend(member.to_le_bytes());
                    self.number(u64::from(*own));
                }
            }
            Record::CopyEnd => self.begin(COPY_END),
        }
    }

    /// Writes what is said of one peer, behind those of its swarm if they were written last.
    pub fn peer(&mut self, hash: &InfoHash, peer: &PeerNews) {
        let at = match self.open {
            Some((at, open)) if open == *hash && self.out.get(at).is_some_and(|count| *count < u8::MAX) => at,
            _ => {
                self.begin(SWARM);
                self.out.extend(hash.0);
                self.out.push(0);
                self.open = Some((self.out.len() - 1, *hash));
                self.out.len() - 1
            }
        };
        if let Some(count) = self.out.get_mut(at) {
            *count += 1;
        }
        let mark = |is: bool, mark: u8| if is { mark } else { 0 };
        let marks = match peer.news {
            News::Alive { seed, extra, life, completed } => {
                mark(seed, SEED) | mark(extra, EXTRA) | mark(completed, COMPLETED) | (life & 3) << 6
            }
            News::Told { seed, extra, life } => TOLD | mark(seed, SEED) | mark(extra, EXTRA) | (life & 3) << 6,
            News::Stopped => STOPPED,
            News::Ceded(_) => CEDED,
        };
        self.out.push(marks | mark(peer.addr.is_ipv6(), V6));
        self.addr(&peer.addr);
        self.number(u64::from(peer.age));
        if let News::Ceded(MemberId(member)) = peer.news {
            self.out.extend(member.to_le_bytes());
        }
    }

    fn lease(&mut self, peer_id: &PeerId, age: u32, news: &LeaseNews) {
        self.begin(match news {
            LeaseNews::Begin { .. } => LEASE_BEGIN,
            LeaseNews::Items(_) => LEASE_ITEMS,
            LeaseNews::Renewed { whole: false, .. } => LEASE_RENEWED,
            LeaseNews::Renewed { whole: true, .. } => LEASE_WHOLE,
            LeaseNews::Ended => LEASE_ENDED,
        });
        self.out.extend(peer_id.0);
        self.number(u64::from(age));
        match news {
            LeaseNews::Begin { secret, endpoints } => {
                self.out.extend(secret);
                self.number(endpoints.len() as u64);
                for addr in endpoints {
                    self.out.push(u8::from(addr.is_ipv6()));
                    self.addr(addr);
                }
            }
            LeaseNews::Items(items) => {
                self.number(items.len() as u64);
                for (hash, left) in items {
                    self.out.extend(hash.0);
                    // 0 is gone, 1 is complete.
                    self.number(left.map_or(0, |left| left.saturating_add(1)));
                }
            }
            LeaseNews::Renewed { revision, .. } => self.number(*revision),
            LeaseNews::Ended => {}
        }
    }

    fn begin(&mut self, kind: u8) {
        self.open = None;
        self.out.push(kind);
    }

    fn addr(&mut self, addr: &SocketAddr) {
        match addr.ip() {
            IpAddr::V4(ip) => self.out.extend(ip.octets()),
            IpAddr::V6(ip) => self.out.extend(ip.octets()),
        }
        self.out.extend(addr.port().to_be_bytes());
    }

    fn number(&mut self, mut number: u64) {
        while number >= 128 {
            self.out.push(number.to_le_bytes()[0] | 128);
            number >>= 7;
        }
        self.out.push(number.to_le_bytes()[0]);
    }
}

/// A head with records behind it.
#[must_use]
pub fn batch(head: &Head, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + records.len());
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    out.extend([VERSION, flag(head.hurry, HURRY) | flag(head.lacks_leases, LACKS_LEASES)]);
    out.extend(head.incarnation.to_le_bytes());
    out.extend(head.heard.incarnation.to_le_bytes());
    out.extend(head.heard.stream.to_le_bytes());
    out.extend(head.heard.batch.to_le_bytes());
    out.extend(head.stream.to_le_bytes());
    out.extend(head.batch.to_le_bytes());
    out.extend(head.aged.to_le_bytes());
    out.extend(head.clock.to_le_bytes());
    out.extend(records);
    out
}

/// Reads a batch: its head, and its records to be read.
///
/// # Errors
/// Where it is no batch of this version.
pub fn read(bytes: &[u8]) -> Result<(Head, Records<'_>), BatchError> {
    if bytes.len() > HEAD + BATCH_BYTES {
        return Err(BatchError::Long);
    }
    let mut left = Records { left: bytes };
    match left.byte()? {
        VERSION => {}
        other => return Err(BatchError::Version(other)),
    }
    let flags = left.byte()?;
    let head = Head {
        incarnation: u64::from_le_bytes(left.array()?),
        heard: Heard {
            incarnation: u64::from_le_bytes(left.array()?),
            stream: u32::from_le_bytes(left.array()?),
            batch: u32::from_le_bytes(left.array()?),
        },
        stream: u32::from_le_bytes(left.array()?),
        batch: u32::from_le_bytes(left.array()?),
        aged: u32::from_le_bytes(left.array()?),
        clock: u32::from_le_bytes(left.array()?),
        hurry: flags & HURRY != 0,
        lacks_leases: flags & LACKS_LEASES != 0,
    };
    if flags > HURRY | LACKS_LEASES || head.incarnation == 0 || head.batch == 0 && !left.left.is_empty() {
        return Err(BatchError::Number);
    }
    Ok((head, left))
}

/// The records of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    left: &'a [u8],
}

impl Iterator for Records<'_> {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.left = &[];
        }
        Some(record)
    }
}

impl Records<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let (bytes, left) = self.left.split_first_chunk().ok_or(BatchError::Short)?;
        self.left = left;
        Ok(*bytes)
    }

    fn byte(&mut self) -> Result<u8, BatchError> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, BatchError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 127);
            if shift == 63 && bits > 1 || byte == 0 && shift > 0 {
                return Err(BatchError::Number);
            }
            number |= bits << shift;
            if byte < 128 {
                return Ok(number);
            }
        }
        Err(BatchError::Number)
    }

    fn small(&mut self) -> Result<u32, BatchError> {
        u32::try_from(self.number()?).map_err(|_| BatchError::Number)
    }

    /// How many things follow, of which each takes at least `size` bytes.
    fn count(&mut self, size: usize) -> Result<usize, BatchError> {
        let count = usize::try_from(self.number()?).map_err(|_| BatchError::Number)?;
        if count > self.left.len() / size { Err(BatchError::Short) } else { Ok(count) }
    }

    fn addr(&mut self, v6: bool) -> Result<SocketAddr, BatchError> {
        let ip = if v6 {
            IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))
        };
        let port = u16::from_be_bytes(self.array()?);
        let addr = SocketAddr::new(ip, port);
        if is_possible(&addr) { Ok(addr) } else { Err(BatchError::Address) }
    }

    fn hash(&mut self) -> Result<InfoHash, BatchError> {
        self.array().map(InfoHash)
    }

    fn record(&mut self) -> Result<Record, BatchError> {
        let kind = self.byte()?;
        Ok(match kind {
            SWARM => {
                let hash = self.hash()?;
                let count = self.byte()?;
                if count == 0 {
                    return Err(BatchError::Number);
                }
                let peers = (0..count).map(|_| self.peer()).collect::<Result<_, _>>()?;
                Record::Swarm { hash, peers }
            }
            LEASE_BEGIN..=LEASE_ENDED => {
                let peer_id = PeerId(self.array()?);
                let age = self.small()?;
                if age > OLDEST_NEWS * 1_000 {
                    return Err(BatchError::Number);
                }
                Record::Lease { peer_id, age, news: self.lease(kind)? }
            }
            COUNTED => Record::Counted { hash: self.hash()?, own: self.small()? },
            TOTAL => {
                let (hash, completed) = (self.hash()?, self.small()?);
                let count = self.count(9)?;
                let counted = (0..count).map(|_| Ok((MemberId(u64::from_le_bytes(self.array()?)), self.small()?)));
                Record::Total { hash, completed, counted: counted.collect::<Result<_, _>>()? }
            }
            COPY_END => Record::CopyEnd,
            other => return Err(BatchError::Kind(other)),
        })
    }

    fn peer(&mut self) -> Result<PeerNews, BatchError> {
        let marks = self.byte()?;
        let addr = self.addr(marks & V6 != 0)?;
        let age = self.small()?;
        if age > OLDEST_NEWS {
            return Err(BatchError::Number);
        }
        let news = match marks & !V6 {
            STOPPED => News::Stopped,
            CEDED => News::Ceded(MemberId(u64::from_le_bytes(self.array()?))),
            marks => {
                let (life, has) = (marks >> 6, |mark: u8| marks & mark != 0);
                if usize::from(life) >= LifeClass::ALL.len() {
                    return Err(BatchError::Number);
                }
                let (seed, extra, completed) = (has(SEED), has(EXTRA), has(COMPLETED));
                match marks & TOLD {
                    0 => News::Alive { seed, extra, completed, life },
                    TOLD if !completed => News::Told { seed, extra, life },
                    _ => return Err(BatchError::Number),
                }
            }
        };
        Ok(PeerNews { addr, news, age })
    }

    fn lease(&mut self, kind: u8) -> Result<LeaseNews, BatchError> {
        Ok(match kind {
            LEASE_BEGIN => {
                let secret = self.array()?;
                let count = self.count(7)?;
                if count > 2 * LEASE_ADDRESSES {
                    return Err(BatchError::Number);
                }
                let endpoint = |_| match self.byte()? {
                    family @ 0..=1 => self.addr(family == 1),
                    _ => Err(BatchError::Number),
                };
                LeaseNews::Begin { secret, endpoints: (0..count).map(endpoint).collect::<Result<_, _>>()? }
            }
            LEASE_ITEMS => {
                let count = self.count(21)?;
                let item = |_| Ok((self.hash()?, self.number()?.checked_sub(1)));
                LeaseNews::Items((0..count).map(item).collect::<Result<_, _>>()?)
            }
            LEASE_RENEWED => LeaseNews::Renewed { revision: self.number()?, whole: false },
            LEASE_WHOLE => LeaseNews::Renewed { revision: self.number()?, whole: true },
            _ => LeaseNews::Ended,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr() -> impl Strategy<Value = SocketAddr> {
        let v4 = (1u8..=223, any::<[u8; 3]>(), 1u16..).prop_map(|(a, [b, c, d], port)| ([a, b, c, d], port).into());
        let v6 = (any::<[u16; 7]>(), 1u16..)
            .prop_map(|([b, c, d, e, f, g, h], port)| SocketAddr::from(([0x2001, b, c, d, e, f, g, h], port)));
        prop_oneof![v4, v6]
    }

    fn news() -> impl Strategy<Value = PeerNews> {
        let alive = (any::<bool>(), any::<bool>(), 0u8..3, any::<bool>())
            .prop_map(|(seed, extra, life, completed)| News::Alive { seed, extra, life, completed });
        let told =
            (any::<bool>(), any::<bool>(), 0u8..3).prop_map(|(seed, extra, life)| News::Told { seed, extra, life });
        let news = prop_oneof![4 => alive, 1 => told, 1 => Just(News::Stopped), 1 => any::<u64>().prop_map(|id| News::Ceded(MemberId(id)))];
        (addr(), news, 0..=OLDEST_NEWS).prop_map(|(addr, news, age)| PeerNews { addr, news, age })
    }

    fn hash() -> impl Strategy<Value = InfoHash> {
        any::<[u8; 20]>().prop_map(InfoHash)
    }

    fn record() -> impl Strategy<Value = Record> {
        let left = prop::option::of(0..u64::MAX - 1);
        let lease = prop_oneof![
            (any::<[u8; 16]>(), prop::collection::vec(addr(), 0..=4))
                .prop_map(|(secret, endpoints)| LeaseNews::Begin { secret, endpoints }),
            prop::collection::vec((hash(), left), 0..5).prop_map(LeaseNews::Items),
            (any::<u64>(), any::<bool>()).prop_map(|(revision, whole)| LeaseNews::Renewed { revision, whole }),
            Just(LeaseNews::Ended),
        ];
        let counted = prop::collection::vec((any::<u64>().prop_map(MemberId), any::<u32>()), 0..4);
        prop_oneof![
            (hash(), prop::collection::vec(news(), 1..5)).prop_map(|(hash, peers)| Record::Swarm { hash, peers }),
            (any::<[u8; 20]>(), 0..=OLDEST_NEWS * 1_000, lease).prop_map(|(id, age, news)| Record::Lease {
                peer_id: PeerId(id),
                age,
                news
            }),
            (hash(), any::<u32>()).prop_map(|(hash, own)| Record::Counted { hash, own }),
            (hash(), any::<u32>(), counted).prop_map(|(hash, completed, counted)| Record::Total {
                hash,
                completed,
                counted
            }),
            Just(Record::CopyEnd),
        ]
    }

    fn head() -> impl Strategy<Value = Head> {
        let heard =
            any::<(u64, u32, u32)>().prop_map(|(incarnation, stream, batch)| Heard { incarnation, stream, batch });
        (1u64.., heard, any::<u32>(), 1u32.., any::<(u32, u32, bool, bool)>()).prop_map(
            |(incarnation, heard, stream, batch, (aged, clock, hurry, lacks_leases))| Head {
                incarnation,
                heard,
                stream,
                batch,
                aged,
                clock,
                hurry,
                lacks_leases,
            },
        )
    }

    fn written(head: &Head, records: &[Record]) -> Vec<u8> {
        let mut writer = Writer::default();
        records.iter().for_each(|record| writer.record(record));
        batch(head, &writer.take())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn batches_round_trip_and_are_broken_at_every_other_length(
            head in head(), records in prop::collection::vec(record(), 0..6)
        ) {
            // Neighbours of one swarm are written as one.
            let mut records = records;
            records.dedup_by(|b, a| matches!((a, b), (Record::Swarm { hash: a, .. }, Record::Swarm { hash: b, .. }) if a == b));
            let bytes = written(&head, &records);
            let (read_head, rest) = read(&bytes).unwrap();
            prop_assert_eq!(read_head, head);
            prop_assert_eq!(rest.collect::<Result<Vec<_>, _>>().unwrap(), &records[..]);
            let mut ends = vec![HEAD];
            for count in 1..=records.len() {
                ends.push(written(&head, &records[..count]).len());
            }
            for length in 0..bytes.len() {
                let whole = read(&bytes[..length]).and_then(|(_, rest)| rest.collect::<Result<Vec<_>, _>>());
                prop_assert_eq!(whole.is_ok(), ends.contains(&length), "{} of {} bytes", length, bytes.len());
            }
        }

        #[test]
        fn n02_no_bytes_make_it_panic_or_reserve_more_than_there_is(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0u8..11
        ) {
            if let [version, flags, rest @ ..] = &mut bytes[..] {
                (*version, *flags) = (VERSION, 0);
                if let Some(first) = rest.get_mut(HEAD - 2) {
                    *first = kind;
                }
            }
            if let Ok((_, records)) = read(&bytes) {
                let records: Vec<_> = records.collect();
                prop_assert!(records.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_peer_of_a_small_swarm_takes_30_bytes_and_one_of_a_large_swarm_8() {
        let alive = News::Alive { seed: true, extra: false, life: 0, completed: false };
        let peer = |last: u8| PeerNews { addr: ([10, 0, 0, last], 6_881).into(), news: alive, age: 1 };
        let mut writer = Writer::default();
        writer.peer(&InfoHash([1; 20]), &peer(1));
        assert_eq!(writer.len(), 30);
        writer.peer(&InfoHash([1; 20]), &peer(2));
        assert_eq!(writer.len(), 38);
    }

    #[test]
    fn n02_what_no_member_sends_is_refused() {
        let head = Head {
            incarnation: 1,
            heard: Heard::default(),
            stream: 1,
            batch: 1,
            aged: 0,
            clock: 0,
            hurry: false,
            lacks_leases: false,
        };
        let refused = |records: &[u8]| {
            let bytes = batch(&head, records);
            read(&bytes).and_then(|(_, records)| records.collect::<Result<Vec<_>, _>>()).unwrap_err()
        };
        assert_eq!(refused(&vec![COPY_END; BATCH_BYTES + 1]), BatchError::Long);
        assert_eq!(refused(&[77]), BatchError::Kind(77));
        let swarm = |count: u8, rest: &[u8]| [&[SWARM][..], &[1; 20], &[count], rest].concat();
        assert_eq!(refused(&swarm(0, &[])), BatchError::Number);
        assert_eq!(refused(&swarm(2, &[SEED, 10, 0, 0, 1, 0, 1, 0])), BatchError::Short);
        assert_eq!(refused(&swarm(1, &[SEED, 10, 0, 0, 1, 0, 0, 0])), BatchError::Address);
        assert_eq!(refused(&swarm(1, &[SEED, 224, 0, 0, 1, 0, 1, 0])), BatchError::Address);
        assert_eq!(refused(&swarm(1, &[SEED, 10, 0, 0, 1, 0, 1, 0xff, 0xff, 3])), BatchError::Number);
        assert_eq!(refused(&swarm(1, &[STOPPED | SEED, 10, 0, 0, 1, 0, 1, 0])), BatchError::Number);
        assert_eq!(refused(&swarm(1, &[TOLD | COMPLETED, 10, 0, 0, 1, 0, 1, 0])), BatchError::Number);
        assert_eq!(refused(&swarm(1, &[192, 10, 0, 0, 1, 0, 1, 0])), BatchError::Number);
        assert_eq!(read(&[2]).unwrap_err(), BatchError::Version(2));
        assert_eq!(read(&batch(&Head { incarnation: 0, ..head }, &[])).unwrap_err(), BatchError::Number);
    }
}
