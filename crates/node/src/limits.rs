//! Budgets and times of the IO: one place, each with the reason for its number.

use std::time::Duration;

/// Memory for block buffers, bytes, of the whole process: with everything else a process stays under 64 MiB, and it
/// is more than a 10 Gbit/s link brings while a 4 MiB piece is hashed and written.
pub const BUFFER_BYTES: usize = 48 << 20;

/// Time for a TCP connect. A SYN is repeated after 1, 3 and 7 s: three lost ones are forgiven.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Time for a whole handshake, from the first byte to the last (B-HS).
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a peer may leave our bytes unread before it is given up (W23): as long as it may be silent.
pub const WRITE_STALL: Duration = Duration::from_secs(120);

/// Connections of the process at once: with [`OTHER_DESCRIPTORS`] these are the usual 1,024.
pub const CONNECTIONS: usize = 500;
/// Descriptors for what is no connection of a peer: files, connections of the tracker, sockets of the process.
pub const OTHER_DESCRIPTORS: u64 = 524;
/// Connections of one torrent at once.
pub const TORRENT_CONNECTIONS: usize = 200;
/// Connects under way at once, of all torrents (B-HS).
pub const HALF_OPEN: usize = 100;
/// Connects under way at once, of one torrent: enough to fill its places within seconds, and others are served too.
pub const TORRENT_HALF_OPEN: usize = 30;
/// Incoming connections that have not named a torrent yet, at once; past it the oldest goes (B-HS).
pub const UNNAMED: usize = 256;
/// The same, of one address (B-HS).
pub const UNNAMED_PER_ADDRESS: usize = 8;
/// The same, of one /24 or /64 (B-HS).
pub const UNNAMED_PER_NETWORK: usize = 32;
/// The same, of this very host, where many peers may start at once.
pub const UNNAMED_LOOPBACK: usize = 128;
/// Pause of the listener after the system refused a connection (F40): short for a user, long for a processor.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Port that peers are reached at, by custom (BEP 3).
pub const PEER_PORT: u16 = 6881;
/// How many ports from [`PEER_PORT`] on are tried where none was asked for, before any free one is taken.
pub const PEER_PORTS: u16 = 32;

/// Batches from connections that wait for their torrent's task. When it is full, connections stop reading.
pub const INBOX_BATCHES: usize = 256;
/// Bytes of messages that wait for one connection to take them. A peer past it does not read: it is closed. Far above
/// what the core has under way with one peer (2,000 blocks, 2,000 requests) and 100,000 `have`s beside; B-CONN allows 2 MiB.
pub const OUTBOX_BYTES: usize = 1 << 20;
/// Bytes in the queue of a connection's writer above which it takes no more from the outbox.
pub const WRITE_QUEUE_BYTES: usize = 64 << 10;
/// Bytes that a slow socket holds beyond those that are on their way, more or less: they cannot be taken back when the
/// peer is choked or another one needs them more, and messages wait behind them.
pub const UNSENT_LEAST: u32 = 16 << 10;
/// The same of a fast one: some milliseconds of what memory can move, so that it does not wake us all the time.
pub const UNSENT_MOST: u32 = 1 << 20;
/// Blocks read by one system call at most: 128 KiB make its cost vanish, and fit in a core's own cache.
pub const READ_BLOCKS: usize = 8;
/// Reads and writes of one connection before others on its thread get their turn.
pub const TURN: usize = 4;
/// Shortest time between two reports that a block is coming in, for peers so slow that no whole one does.
pub const PROGRESS: Duration = Duration::from_secs(1);
/// Reads from disk for uploads at once, of data that is not in memory: what keeps an SSD busy.
pub const COLD_READS: usize = 16;

/// Shortest time between two snapshots of a torrent while nothing but its numbers changes.
pub const SNAPSHOT: Duration = Duration::from_millis(200);
/// Bytes after a reader's position that are fetched first: seconds of any video, and bounded.
pub const READ_AHEAD: u64 = 16 << 20;
/// Bytes that a reader gets at once.
pub const READ_STEP: u32 = 256 << 10;
/// Readers of one torrent at once.
pub const READERS: usize = 64;
/// How often the limits of the process are shared out anew among its torrents.
pub const RATE_SHARE: Duration = Duration::from_secs(1);
/// How long nobody must have needed a shared item before its files are closed: a peer that comes back after a pause
/// finds it open.
pub const REST_AFTER: Duration = Duration::from_secs(10);
/// Commands to a torrent that wait for its task; whoever sends one more waits.
pub const TORRENT_COMMANDS: usize = 64;

/// Names that are looked up with one question, by us and at trackers of ours: about a millisecond for a hundred.
pub const LOOK_UP_NAMES: usize = 1_000;
/// Paths that are hashed at once, each by one processor or more; others that are to be published wait.
pub const SHARES_HASHED: usize = 2;
/// Paths that are being shared at once: while one waits for the tracker's disk, others use the processors.
pub const SHARES: usize = 32;
/// How long a share waits for its first announce before it says that it shares: longer than an exchange with a tracker
/// that is well takes.
pub const SHARE_ANNOUNCE: Duration = Duration::from_secs(3);
/// Time for the `stopped` announces when the process stops: they are a courtesy (F03).
pub const STOP_ANNOUNCE: Duration = Duration::from_secs(1);
/// Time for a graceful stop as a whole (F03); what is not done then is left to the next start.
pub const STOP: Duration = Duration::from_secs(5);

/// Time for the name of a tracker: resolvers themselves give up after 5 s a try.
pub const RESOLVE: Duration = Duration::from_secs(10);
/// Time for a tracker's TCP connect, and TLS.
pub const ANNOUNCE_CONNECT: Duration = Duration::from_secs(10);
/// Time for a whole announce over HTTP, redirects included (R01).
pub const ANNOUNCE_HTTP: Duration = Duration::from_secs(30);
/// Most redirects of one announce (R05).
pub const ANNOUNCE_REDIRECTS: usize = 5;
/// Announces over HTTP at once, of all torrents: each is a connection.
pub const ANNOUNCES_HTTP: usize = 16;
/// Announces over UDP at once, of all torrents: each is a socket or two, and a dead tracker holds its own for long.
pub const ANNOUNCES_UDP: usize = 64;
/// Time for the first answer of a UDP tracker; twice that for the next (BEP 15).
pub const ANNOUNCE_UDP_FIRST: Duration = Duration::from_secs(15);
/// Tries at a UDP tracker: 45 s in all, after which its tier's next one is worth more than patience.
pub const ANNOUNCE_UDP_TRIES: u32 = 2;
/// How much longer than the first of a tracker's two address families the second may take.
pub const ANNOUNCE_FAMILY_GRACE: Duration = Duration::from_secs(1);
/// How long a connection id may be used (BEP 15).
pub const CONNECTION_ID_LIFE: Duration = Duration::from_secs(60);
/// Connection ids remembered at once.
pub const CONNECTION_IDS: usize = 1_000;

/// Least time between two messages of a lease: the first change goes out at once, those close behind it together.
pub const LEASE_PAUSE: Duration = Duration::from_millis(10);
/// Time for a lease's whole exchange: less than a renewal's interval.
pub const LEASE_EXCHANGE: Duration = Duration::from_secs(10);
/// Time for a lease's TCP connect.
pub const LEASE_CONNECT: Duration = Duration::from_secs(5);
/// Items in one message of a lease, under 100 bytes each; more go in messages after it.
pub const LEASE_ITEMS: usize = 5_000;
/// Swarms for which one message asks for peers; as many as a tracker of ours answers.
pub const LEASE_WANTS: usize = 2_000;
/// Addresses that a lease may advertise; as many as a tracker of ours takes.
pub const LEASE_ADDRESSES: usize = 4;
/// Commands that wait for the task of one lease; whoever sends one more waits.
pub const LEASE_COMMANDS: usize = 1_024;
/// Largest answer to a lease, bytes: 40,000 addresses.
pub const LEASE_REPLY_BYTES: usize = 4 << 20;
/// Time until a lease is tried again after the first failure; doubled up to the interval.
pub const LEASE_RETRY: Duration = Duration::from_secs(1);
/// Least and most seconds between renewals, whatever the tracker says: one that forgets us after 40 s may miss one.
pub const LEASE_INTERVAL_SECONDS: std::ops::RangeInclusive<u64> = 5..=30;

/// Members of a tracker that are remembered beside the address that was typed: five voters, and learners.
pub const MEMBERS: usize = 16;
/// Longest id of a member, bytes.
pub const MEMBER_ID_BYTES: usize = 128;
/// Largest file that remembers a tracker's members, bytes: host names of 253.
pub const MEMBER_FILE_BYTES: u64 = 16 << 10;
/// Trackers whose members are remembered; the one that changed least recently gives way.
pub const MEMBER_FILES: usize = 64;
/// Largest answer in which a tracker says who its members are, bytes.
pub const MEMBER_STATUS_BYTES: usize = 64 << 10;
/// Time after which a tracker is asked again who its members are.
pub const MEMBERS_FRESH: Duration = Duration::from_secs(300);
/// The same where it did not say.
pub const MEMBERS_RETRY: Duration = Duration::from_secs(15);
/// How long a member may take to accept a connection before the next one is asked too.
pub const MEMBER_CONNECT: Duration = Duration::from_millis(500);
/// How long a member may take to begin its answer, the connection included, before the next one is asked too.
pub const MEMBER_ANSWER: Duration = Duration::from_millis(1_500);
/// How long a member may take for a change of the catalogue, beside the time that its bytes take: a new leader is there
/// within 2 s, and takes changes within 5 s.
pub const MEMBER_CHANGE: Duration = Duration::from_secs(6);
/// The slowest link that a change is given time for, bytes per second.
pub const MEMBER_RATE: usize = 625_000;
/// How long a change is repeated while no member can make it.
pub const CHANGE_REPEATED: Duration = Duration::from_secs(10);
/// Pause before a change that no member could make is asked for again.
pub const CHANGE_PAUSE: Duration = Duration::from_millis(500);
