//! The JSON of the tracker's API, as server and client both see it. Hashes and keys are lower-case hex.

use obt_wire::metainfo::Metainfo;
use serde::{Deserialize, Serialize};

/// One version of an item, in the API and under `--json` alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The name it was published under.
    pub name: String,
    /// Counts up from 1.
    pub version: u32,
    /// Bytes, without padding.
    pub size: u64,
    /// Every file; in lists, where it would be long, empty.
    #[serde(default)]
    pub files: Vec<ItemFile>,
    /// How many files there are, also where `files` is left out.
    pub file_count: u64,
    /// 40 digits; absent for v2-only items.
    pub info_hash_v1: Option<String>,
    /// 64 digits; absent for v1-only items.
    pub info_hash_v2: Option<String>,
    /// Complete peers.
    pub holders: u64,
    /// Incomplete peers.
    pub downloaders: u64,
    /// How often a download of it was completed.
    pub completed: u64,
    /// Public key of whoever published it.
    pub publisher: String,
    /// RFC 3339, UTC.
    pub published_at: String,
    /// Other names that a person may take for this one: in another case, or of letters that look the same. The first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub similar: Vec<String>,
    /// Who held it last, where nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_held: Option<LastHeld>,
    /// The newest version under this name, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
    /// Other versions that can be fetched, oldest first; only where one item was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<ItemVersion>,
}

/// A file of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFile {
    /// Below the item's folder, `/`-separated; the name itself for a single file.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

impl ItemFile {
    /// The files of a torrent.
    #[must_use]
    pub fn all_of(metainfo: &Metainfo) -> Vec<Self> {
        let files = metainfo.info.data_files();
        files.map(|(_, file)| Self { path: file.path.to_string(), size: file.size }).collect()
    }
}

/// A version that an item has or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemVersion {
    /// Its number.
    pub version: u32,
    /// 40 digits.
    pub info_hash_v1: Option<String>,
    /// 64 digits.
    pub info_hash_v2: Option<String>,
    /// RFC 3339, UTC.
    pub published_at: String,
}

/// Who had an item complete, and when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastHeld {
    /// Address and port.
    pub address: String,
    /// RFC 3339, UTC.
    pub at: String,
}

/// A page of items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemPage {
    /// In the order of names.
    pub items: Vec<Item>,
    /// Asks for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Names to look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// At most a thousand.
    pub names: Vec<String>,
}

/// What came of a publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Whether this content was there already.
    pub existed: bool,
    /// Other names that a person may take for this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub similar: Vec<String>,
}

/// Everybody in the network, by address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerList {
    /// In the order of addresses.
    pub peers: Vec<PeerEntry>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// Address and port that others are told.
    pub address: String,
    /// 40 digits.
    pub peer_id: String,
    /// Whether it holds a lease (a peer of ours) or announces like any client.
    pub lease: bool,
    /// Seconds since it was last heard.
    pub seen_seconds_ago: u64,
    /// What it holds or fetches.
    pub items: Vec<PeerItem>,
}

/// An item in the hands of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerItem {
    /// The name, if the catalogue has one for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The version under that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// 40 digits.
    pub info_hash: String,
    /// Bytes still missing; 0 of a holder.
    pub left: u64,
}

/// State of a tracker, for people and for clients that look for its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The program and its version.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Names in the catalogue.
    pub names: u64,
    /// Swarms with anybody in them.
    pub swarms: u64,
    /// Peers in all swarms together.
    pub peers: u64,
    /// Leases of our own peers.
    pub leases: u64,
    /// UDP port; absent where UDP is not served.
    pub udp_port: Option<u16>,
    /// `keys` or `open`.
    pub publish: String,
    /// All members of the tracker's cluster, itself among them.
    #[serde(default)]
    pub members: Vec<StatusMember>,
    /// The id of the member that leads, if that is known.
    #[serde(default)]
    pub leader: Option<String>,
    /// Counts elections.
    #[serde(default)]
    pub term: u64,
    /// How old what it says of names may be, milliseconds; absent where no leader with a majority was found
    /// since its start.
    #[serde(default)]
    pub as_of_ms: Option<u64>,
    /// Whether names can be changed, as far as this member knows.
    #[serde(default)]
    pub writable: bool,
    /// What an operator should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A member of a tracker's cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusMember {
    /// Which: digits, more than numbers in JavaScript have.
    pub id: String,
    /// `HOST:PORT` of its tracker, TCP and UDP.
    pub address: String,
    /// `leader`, `voter` or `learner`.
    pub role: String,
}

/// What every failed request is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// An error for programs and people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs: `not_found`, `conflict`, ...
    pub code: String,
    /// One sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The owner's public key, where a name belongs to somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// What a peer of ours tells its tracker: `POST /api/v1/lease`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// 40 digits.
    pub peer_id: String,
    /// 32 digits that only this peer knows; a lease is changed only with those that made it.
    pub secret: String,
    /// Port that it listens on.
    pub port: u16,
    /// Addresses to hand out instead of the one it comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<String>,
    /// Counts the changes; a renewal without changes repeats the last one.
    pub revision: u64,
    /// `set` is everything, not a change.
    #[serde(default)]
    pub full: bool,
    /// Items that are new or different.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<LeaseItem>,
    /// Info-hashes of items that are gone, 40 digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Info-hashes for which peers are wanted, 40 digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub want: Vec<String>,
    /// How many peers are welcome for each.
    #[serde(default)]
    pub num_want: u32,
    /// The peer leaves.
    #[serde(default)]
    pub stopped: bool,
}

/// One item of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseItem {
    /// 40 digits.
    pub hash: String,
    /// Bytes still missing; 0 of a holder.
    pub left: u64,
    /// What happened to it, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<LeaseEvent>,
}

/// What happened to an item of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseEvent {
    /// Its download began.
    Started,
    /// Its download is complete: counted.
    Completed,
}

/// A tracker's answer to a lease.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseReply {
    /// The revision that the tracker has now.
    pub revision: u64,
    /// Seconds until the next renewal.
    pub interval: u64,
    /// Seconds after which the lease ends without one.
    pub ttl: u64,
    /// The tracker does not know this lease or missed a change: send everything.
    #[serde(default)]
    pub resync: bool,
    /// By info-hash: addresses and ports.
    #[serde(default)]
    pub peers: std::collections::BTreeMap<String, Vec<String>>,
    /// Why the lease was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}
