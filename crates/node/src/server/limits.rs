//! Budgets of the tracker's HTTP side, each with the reason for its number.

use std::time::Duration;

/// Connections at once: with those of peers they fit in the usual 1,024 descriptors.
pub(super) const CONNECTIONS: usize = 384;
/// Connections of one address (a /64 for IPv6): many peers may be behind one.
pub(super) const CONNECTIONS_PER_ADDRESS: usize = 96;
/// Connections of this very host, where proxies and many peers may be.
pub(super) const CONNECTIONS_LOOPBACK: usize = 320;
/// Requests that are being answered at once; more are told to come back (A12).
pub(super) const REQUESTS: usize = 256;
/// Requests that one connection sends without waiting for an answer, then it is closed: others get their turn (H05).
pub(super) const PIPELINED: u32 = 100;
/// Requests of one connection, then it is closed: nobody keeps a place for good. A proxy that keeps its connections makes
/// one new connection for so many announces, as to nginx with its defaults.
pub(super) const REQUESTS_PER_CONNECTION: u32 = 1_000;
/// Bytes of a request's head: a name of 1,024 bytes escaped three times over, a cursor, and the usual headers.
pub(super) const HEAD_BYTES: usize = 16 << 10;
/// Headers of a request (B-HTTP).
pub(super) const HEADERS: usize = 64;
/// Time for a request's head, and for the next request to begin (B-HTTP).
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// Time for an answer that is not a stream (B-HTTP).
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// Longest list of names to look up, bytes: a thousand of the longest, with room for escapes.
pub(super) const LOOK_UP_BYTES: usize = 2 << 20;
/// Time for a .torrent to come in: the largest one, over a link of 5 Mbit/s.
pub(super) const UPLOAD: Duration = Duration::from_secs(120);
/// Time between two parts of a body that comes in (B-HTTP).
pub(super) const BODY_STALL: Duration = Duration::from_secs(10);
/// How long a client may leave our bytes unread.
pub(super) const WRITE_STALL: Duration = Duration::from_secs(60);
/// Time for answers under way when the server stops.
pub(super) const STOP: Duration = Duration::from_secs(2);
/// Pause after the system refused a connection (F40).
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Memory for .torrent files that are coming in, KiB: two of the largest size.
pub(super) const UPLOAD_KIB: u32 = 128 << 10;
/// Metainfos being parsed or written at once: each keeps a core busy.
pub(super) const PARSERS: usize = 4;
/// Parsed metainfos that are kept, bytes of their .torrent files, with [`METAINFO_BASE_BYTES`] for each: one of 100,000
/// files, or thousands of usual ones. In memory they take about half as much again.
pub(super) const METAINFO_CACHE_BYTES: usize = 16 << 20;
/// What the smallest parsed metainfo takes in memory, bytes.
pub(super) const METAINFO_BASE_BYTES: usize = 1 << 10;

/// Memory for large answers that clients are reading, KiB: four .torrent files of the largest size.
pub(super) const BULK_KIB: u32 = 256 << 10;
/// Answers up to this many bytes are not counted: as many as there are connections fit in 100 MB.
pub(super) const SMALL_BYTES: usize = 256 << 10;

/// Files being sent at once.
pub(super) const STREAMS: usize = 128;
/// Time until the first byte of a file, or an answer that says why not.
pub(super) const FIRST_BYTE: Duration = Duration::from_secs(20);
/// The same where the tracker lists nobody who could have it.
pub(super) const FIRST_BYTE_OF_NOBODY: Duration = Duration::from_secs(2);
/// Time between two parts of a file that comes from the swarm.
pub(super) const STREAM_STALL: Duration = Duration::from_secs(60);
/// Files that a folder's page lists.
pub(super) const LISTED_FILES: usize = 10_000;

/// Listeners to live changes (A05).
pub(super) const LISTENERS: usize = 32;
/// Changes that a listener may be behind, about 256 KiB; then it is dropped (A05).
pub(super) const LISTENER_BACKLOG: usize = 1_024;
/// A listener hears something this often, so that proxies keep its connection.
pub(super) const LISTENER_BEAT: Duration = Duration::from_secs(15);

/// Peers in the list of who is here.
pub(super) const LISTED_PEERS: usize = 10_000;
/// Items of one peer in it.
pub(super) const LISTED_ITEMS: usize = 10_000;
/// Items of all peers in it together: about 20 MB of JSON.
pub(super) const LISTED_ITEMS_OF_ALL: usize = 100_000;

/// Default port of a tracker, by custom.
pub(super) const TRACKER_PORT: u16 = 6969;
/// How many ports from [`TRACKER_PORT`] on are tried where none was asked for, before any free one is taken.
pub(super) const TRACKER_PORTS: u16 = 32;
/// How long an answer to a change waits until this member has made it too, after the cluster has.
pub(super) const OWN_TURN: Duration = Duration::from_secs(1);
/// Changes of the catalogue whose consequences wait; where there are more, all swarms are looked through.
pub(super) const CHANGES: usize = 4_096;
/// How long a new member waits for its cluster to let it in.
pub(super) const JOIN: Duration = Duration::from_secs(20);
/// How long a start waits for the cluster to know which key this machine has.
pub(super) const SETTLED: Duration = Duration::from_secs(5);
/// Between two tries to tell the cluster which key this machine has.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// Names that the tracker's own key may own: every file of a large folder that its machine shares.
pub(super) const OWN_NAMES: u32 = 1_000_000;

/// Time until a member that did not take announces is tried again: as long as news wait anyway.
pub(super) const LINK_PAUSE: Duration = Duration::from_secs(1);
