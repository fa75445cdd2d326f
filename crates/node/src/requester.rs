//! From a NAME and a tracker to the item that is meant, and to its torrent: the first half of `get`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_catalogue::names::{Name, NameArgument, Selector, Target};
use obt_swarm::{PeerStats, TrackerState};
use obt_wire::metainfo::Metainfo;
use obt_wire::{InfoHashes, Sha1Hash, Sha256Hash};
use thiserror::Error;

use crate::api_types::{Item, ItemVersion, LastHeld};
use crate::inner::spelled;
use crate::torrent::{TorrentHandle, TorrentStats};
use crate::tracker_client::{TrackerClient, TrackerError};

/// What a NAME means at a tracker.
#[derive(Debug, Clone)]
pub struct Found {
    /// As the catalogue has it.
    pub item: Item,
    /// The checked name.
    pub name: Name,
    /// The file or folder inside it, as path components; None is all of it. Whether there is one is not known yet.
    pub inner: Option<Vec<String>>,
    /// The item's.
    pub hashes: InfoHashes,
}

/// The torrent of an item.
#[derive(Debug, Clone)]
pub struct ItemTorrent {
    /// Its hashes are the item's, and what was asked for is in it.
    pub metainfo: Arc<Metainfo>,
    /// The .torrent file.
    pub torrent: Bytes,
}

/// Why a NAME means nothing.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The tracker did not answer, or refused.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
    /// The catalogue has no such name.
    #[error("nobody shares {name:?}: the catalogue of {tracker} has no such name")]
    Unknown {
        /// As it was typed.
        name: String,
        /// Which tracker.
        tracker: String,
    },
    /// The name is there, this version or hash is not.
    #[error("{name:?} has no version {selector}")]
    NoVersion {
        /// The item.
        name: String,
        /// `@2`, `@<hash>`.
        selector: String,
    },
    /// The item is there, this file in it is not.
    #[error("{name:?} holds no {inner:?}")]
    NoInner {
        /// The item.
        name: String,
        /// What was asked for inside.
        inner: String,
    },
    /// What the tracker sent as .torrent is none.
    #[error("the tracker's .torrent of {name:?} is unusable: {reason}")]
    BadTorrent {
        /// The item.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ResolveError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tracker(error) => error.hint(),
            Self::Unknown { .. } => Some("`obt find HOST PORT` lists what there is".into()),
            Self::NoVersion { .. } => Some("leave the version out for the newest".into()),
            Self::NoInner { .. } => Some("`obt find HOST PORT NAME --files` lists what is in it".into()),
            Self::BadTorrent { .. } => None,
        }
    }
}

/// How long others have to pass a torrent on, before the tracker is asked for it whatever it has to do.
const FROM_OTHERS: Duration = Duration::from_secs(2);

/// Asks `client` what `argument` means: the exact name, or the longest item that is a prefix of its path.
///
/// # Errors
/// See [`ResolveError`].
pub async fn find(client: &TrackerClient, argument: &NameArgument) -> Result<Found, ResolveError> {
    let mut seen = BTreeMap::<Name, Option<Item>>::new();
    let target = loop {
        match argument.read(|name| seen.get(name).map(Option::is_some).ok_or_else(|| name.clone())) {
            Ok(target) => break target,
            Err(unseen) => {
                let item = client.item(&unseen, &Selector::Newest).await?;
                seen.insert(unseen, item);
            }
        }
    };
    let unknown = || ResolveError::Unknown { name: argument.text().to_owned(), tracker: client.address().to_string() };
    let Target { name, selector, inner } = target.ok_or_else(unknown)?;
    let newest = seen.remove(&name).flatten().ok_or_else(unknown)?;
    let item = match &selector {
        Selector::Newest => newest,
        _ => client
            .item(&name, &selector)
            .await?
            .ok_or_else(|| ResolveError::NoVersion { name: name.to_string(), selector: selector.to_string() })?,
    };
    let wrong = || TrackerError::WrongTorrent { tracker: client.address().clone() };
    let hashes = item_hashes(&item).ok_or_else(wrong)?;
    if let Selector::Hash(prefix) = &selector
        && !prefix.matches(&hashes)
    {
        return Err(wrong().into());
    }
    let inner: Option<Vec<String>> = inner.map(|inner| inner.split('/').map(str::to_owned).collect());
    let found = Found { item, name, inner, hashes };
    let is_plain = |inner: &Vec<String>| inner.iter().all(|part| part.is_ascii());
    if found.inner.as_ref().is_none_or(is_plain) {
        return Ok(found);
    }
    // Letters beyond ASCII may be composed otherwise in the torrent, and only it says how.
    let torrent = fetch_torrent(client, &found).await?;
    let inner = found.inner.as_ref().and_then(|inner| spelled(&torrent.metainfo.info, inner));
    Ok(Found { inner, ..found })
}

/// The item's version `selector`, for a `get` that goes on with the version it began; None where it is gone.
///
/// # Errors
/// See [`ResolveError`].
pub async fn find_version(
    client: &TrackerClient,
    newest: &Found,
    selector: &Selector,
) -> Result<Option<Found>, ResolveError> {
    let Some(item) = client.item(&newest.name, selector).await? else {
        return Ok(None);
    };
    let wrong = || TrackerError::WrongTorrent { tracker: client.address().clone() };
    let hashes = item_hashes(&item).ok_or_else(wrong)?;
    Ok(Some(Found { item, hashes, ..newest.clone() }))
}

/// Which version of the item `torrent` is, a .torrent that an earlier `get` began with; None where it is none of them.
#[must_use]
pub fn version_of(found: &Found, torrent: &[u8]) -> Option<u32> {
    let hashes = Metainfo::parse(torrent).ok()?.info.hashes;
    if hashes == found.hashes {
        return Some(found.item.version);
    }
    let same = |version: &&ItemVersion| {
        let ItemVersion { info_hash_v1, info_hash_v2, .. } = version;
        parse_hashes(info_hash_v1.as_deref(), info_hash_v2.as_deref()) == Some(hashes)
    };
    found.item.versions.iter().find(same).map(|version| version.version)
}

/// The torrent of what was found, from the tracker.
///
/// # Errors
/// See [`ResolveError`].
pub async fn fetch_torrent(client: &TrackerClient, found: &Found) -> Result<ItemTorrent, ResolveError> {
    check(client, found, client.torrent(&found.name, &Selector::Version(found.item.version)).await?)
}

/// Gives `handle`, which awaits it, the torrent of what was found. It comes from the tracker, unless that one has a crowd
/// of others who come for it: then one of them has it for us soon. Returns when it is known.
///
/// # Errors
/// See [`ResolveError`].
pub async fn supply(client: &TrackerClient, found: &Found, handle: &TorrentHandle) -> Result<(), ResolveError> {
    let version = Selector::Version(found.item.version);
    let torrent = match client.torrent_if_few_want_it(&found.name, &version).await? {
        Some(torrent) => check(client, found, torrent)?,
        None => match tokio::time::timeout(FROM_OTHERS, handle.known()).await {
            Ok(Some(metainfo)) => return check_inner(found, &metainfo),
            _ => fetch_torrent(client, found).await?,
        },
    };
    handle.give(torrent.metainfo, torrent.torrent).await;
    Ok(())
}

fn check(client: &TrackerClient, found: &Found, torrent: Bytes) -> Result<ItemTorrent, ResolveError> {
    let bad = |reason: String| ResolveError::BadTorrent { name: found.name.to_string(), reason };
    let metainfo = Metainfo::parse_shared(&torrent).map_err(|error| bad(error.to_string()))?;
    if metainfo.info.hashes != found.hashes {
        return Err(TrackerError::WrongTorrent { tracker: client.address().clone() }.into());
    }
    check_inner(found, &metainfo)?;
    Ok(ItemTorrent { metainfo: Arc::new(metainfo), torrent })
}

fn check_inner(found: &Found, metainfo: &Metainfo) -> Result<(), ResolveError> {
    let Some(inner) = &found.inner else { return Ok(()) };
    if spelled(&metainfo.info, inner).is_some() {
        return Ok(());
    }
    Err(ResolveError::NoInner { name: found.name.to_string(), inner: inner.join("/") })
}

/// The info-hashes of an item; None where its JSON holds none or something else.
#[must_use]
pub fn item_hashes(item: &Item) -> Option<InfoHashes> {
    parse_hashes(item.info_hash_v1.as_deref(), item.info_hash_v2.as_deref())
}

fn parse_hashes(v1: Option<&str>, v2: Option<&str>) -> Option<InfoHashes> {
    let v1 = v1.map(str::parse::<Sha1Hash>).transpose().ok()?;
    let v2 = v2.map(str::parse::<Sha256Hash>).transpose().ok()?;
    (v1.is_some() || v2.is_some()).then_some(InfoHashes { v1, v2 })
}

/// The trackers that do not answer, each with a sentence that says why: in the order in which they are asked.
#[must_use]
pub fn failing_trackers(stats: &TorrentStats) -> Vec<(&str, &str)> {
    let trackers = stats.swarm.iter().flat_map(|swarm| &swarm.trackers);
    let failing = trackers.filter_map(|tracker| match &tracker.state {
        TrackerState::Failing(why) => Some((tracker.url.as_str(), why.as_str())),
        _ => None,
    });
    failing.collect()
}

/// Whether anybody is there to fetch from: a complete peer, or several that may have it all together.
#[must_use]
pub fn is_held(item: &Item) -> bool {
    item.holders > 0 || item.downloaders > 0
}

/// "Nobody has it", with who had it last.
#[must_use]
pub fn nobody_has(item: &Item) -> String {
    let last = match &item.last_held {
        Some(LastHeld { address, at }) => format!("; {address} had it last, at {at}"),
        None => String::new(),
    };
    format!("nobody has {:?} at the moment{last}", item.name)
}

/// How long nobody may have anything for us before a download gives up: connects time out within it, a lease that is
/// not renewed ends soon after, and a tracker is asked again within it.
pub const NOBODY: Duration = Duration::from_secs(20);
/// How long a peer has to be connected to count as one that may have something for us.
const STAYS: Duration = Duration::from_secs(1);
/// How long connected peers that have what we want may send nothing at all: longer than the silence after which a
/// connection is closed, so that a queue at a slow seed is not taken for death.
pub const NOTHING: Duration = Duration::from_secs(180);

/// Whether anything will come of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// Somebody has something for us, or had a moment ago.
    Some,
    /// Nobody has, for too long.
    None,
}

/// Decides when a download that does not move is given up.
#[derive(Debug, Clone)]
pub struct Patience {
    nobody: Duration,
    /// When somebody last had something for us.
    hope: Instant,
    /// When payload or metadata last came in.
    moved: Instant,
    received: u64,
}

impl Patience {
    /// Gives up `nobody` after the last peer that had something for us.
    #[must_use]
    pub fn new(nobody: Duration, now: Instant) -> Self {
        Self { nobody, hope: now, moved: now, received: 0 }
    }

    /// Takes a look at how the torrent stands.
    pub fn look(&mut self, stats: &TorrentStats, now: Instant) -> Prospect {
        let busy = stats.paused.is_some() || stats.swarm.as_ref().is_none_or(|swarm| swarm.left_bytes == 0);
        if busy && stats.metainfo.is_some() {
            // The disk is at work: hashing what is there, waiting for room, making the last pieces durable.
            (self.hope, self.moved) = (now, now);
            return Prospect::Some;
        }
        if let Some(swarm) = &stats.swarm {
            let metadata = swarm.metadata.map_or(0, |(have, _)| u64::from(have));
            let received = swarm.downloaded.saturating_add(metadata);
            if received > self.received {
                (self.received, self.moved, self.hope) = (received, now, now);
            }
            // One that refuses all it is asked for is gone within a moment, and comes back again and again.
            let promising = |peer: &PeerStats| {
                !peer.snubbed && peer.connected >= STAYS && (peer.interesting || stats.metainfo.is_none())
            };
            if swarm.peers.iter().any(promising) {
                self.hope = now;
            }
        }
        let given_up = now.saturating_duration_since(self.hope) >= self.nobody
            || now.saturating_duration_since(self.moved) >= NOTHING.max(self.nobody);
        if given_up { Prospect::None } else { Prospect::Some }
    }
}
