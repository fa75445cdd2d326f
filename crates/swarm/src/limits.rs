//! Budgets and times of a swarm: one place, each with the reason for its number.

use std::time::Duration;

/// Requests of one peer that wait for an answer from us; told as `reqq` (BEP 10): 2.5 Gbit/s over a round trip of 100 ms.
/// libtorrent takes as many, Transmission 500.
pub const REQUESTS_QUEUED: usize = 2_000;
/// Silence after which a connection is closed (BEP 3: keep-alives come every two minutes).
pub const IDLE: Duration = Duration::from_secs(120);
/// Silence of ours after which we send a keep-alive: well inside the 120 s of others.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Addresses kept of one swarm (libtorrent's number too).
pub const CANDIDATES: usize = 3_000;
/// Most of them that one peer may have told of: a quarter, so that it cannot choose whom we talk to.
pub const CANDIDATES_PER_PEER: usize = CANDIDATES / 4;
/// Wait after a connect that failed, doubled for each in a row: a peer that restarts is back within seconds.
pub const RECONNECT: Duration = Duration::from_secs(5);
/// Longest wait between two tries of an address.
pub const RECONNECT_MAX: Duration = Duration::from_secs(30 * 60);
/// Shortest wait between two tries of an address that a tracker has just named again: it believes the peer to be alive.
pub const RECONNECT_NAMED: Duration = Duration::from_secs(15);
/// First ban of an address that is proven to lie, doubled each time.
pub const BAN: Duration = Duration::from_secs(3_600);
/// Longest ban.
pub const BAN_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Bans kept at once; the one that ends first makes room.
pub const BANS: usize = 3_000;
/// Connections from one address: several peers on one machine are normal here.
pub const CONNECTIONS_PER_ADDRESS: usize = 64;

/// Shortest time between two announces to a tracker of ours: its leases are renewed as often.
pub const LEASE_INTERVAL: Duration = Duration::from_secs(15);
/// Shortest time between two announces to any other tracker, whatever it says.
pub const ANNOUNCE_MIN: Duration = Duration::from_secs(30);
/// Shortest time between two announces to any other tracker that names none.
pub const ANNOUNCE_MIN_UNNAMED: Duration = Duration::from_secs(60);
/// Longest time between two announces, whatever the tracker says: half of what trackers commonly remember a peer for.
pub const ANNOUNCE_MAX: Duration = Duration::from_secs(3_600);
/// First wait after an announce that failed, doubled for each in a row.
pub const ANNOUNCE_RETRY: Duration = Duration::from_secs(15);
/// Longest wait after announces that failed.
pub const ANNOUNCE_RETRY_MAX: Duration = Duration::from_secs(30 * 60);
/// Longest wait after an announce that was refused, whatever the tracker says (BEP 31).
pub const ANNOUNCE_DEFER_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Peers that one announce asks for.
pub const NUM_WANT: u32 = 100;
/// Peers taken from one answer of a tracker.
pub const ANNOUNCE_PEERS: usize = 200;
/// How long good-byes to trackers and peers may take: SIGINT has to be done within 5 s.
pub const STOPPING: Duration = Duration::from_secs(3);

/// Blocks of one swarm that may be requested or unverified at a time: 64 MiB.
pub const BLOCK_BUDGET: usize = 4_096;
/// Blocks of a piece that are asked for together, and stored together where the piece is longer: 512 KiB. Sixteen of them hashed
/// side by side, as many waiting for that and as many on their way are a usual budget.
pub const STRETCH: u32 = 32;
/// Bytes per second from which on a peer is asked for several long pieces side by side. Hashing one alone takes a seventh of a core at
/// that rate; and no single disk that has to seek between them is as fast.
pub const RATE_SIDE_BY_SIDE: u64 = 256 << 20;
/// Blocks of all pieces that are fetched at a time, in whatever state: 1 GiB, for which 3 MiB are kept in mind. Of the longest pieces
/// these are four. Where pieces that do not get on fill it and a peer has only others, the one of which least is lost is given up.
pub const OPEN_BLOCKS: usize = 1 << 16;
/// Peers asked for one block at a time in the endgame: two may both be stalling, the third is then honest enough.
pub const REQUESTERS_PER_BLOCK: usize = 3;
/// Pieces looked at in order of rarity before a peer that lacks them is served from its own list instead, and pieces of
/// that list looked at.
pub const RARITY_STEPS: usize = 256;
/// Pieces at a reader's position whose blocks are asked for twice where the first peer is slow.
pub const URGENT_PIECES: u32 = 2;
/// Requests in flight to a peer that has not proven itself: two of the smallest usual pieces.
pub const REQUESTS_FIRST: usize = 8;
/// Fewest requests in flight to a peer that delivers, however slow: the next block is under way when one has come. With
/// four, the last of 48 peers that share out 32 MiB of a slow seed is done 3 % later (`makespan` of `obt-sim`).
pub const REQUESTS_LEAST: usize = 2;
/// Most requests in flight to a peer that names no limit of its own (Transmission's usual number).
pub const REQUESTS_MOST: usize = 500;
/// Blocks that a peer sends within a round trip above which its path is long and wide, and a lost packet holds up much.
/// On narrow ones longer queues make a file's last blocks wait at slow peers.
pub const REQUESTS_WIDE: usize = 16;
/// How long a full piece waits for others, to be hashed side by side with them: what sixteen of 1 MiB take at 10 Gbit/s.
pub const VERIFY_WAIT: Duration = Duration::from_millis(16);
/// Pieces that have to become full in that time for the wait to be worth it: fewer are hashed hardly faster together.
pub const VERIFY_WORTH: u64 = 4;
/// How long a new piece waits to be told together with others to those who lack it, where some of them have it already.
pub const HAVE_WAIT: Duration = Duration::from_millis(300);
/// The same for those who lack nothing.
pub const HAVE_WAIT_SEEDS: Duration = Duration::from_secs(1);
/// Time that a peer's queue of requests covers beyond the round trip: it hides our own scheduling and its disk.
pub const REQUEST_SLACK: Duration = Duration::from_millis(300);
/// Silence of a peer that owes blocks after which all of them go to others (HOSTILE W18: 25 to 60 s).
pub const SNUB: Duration = Duration::from_secs(30);
/// Time without a whole block after which a peer is snubbed even if bytes trickle in.
pub const SNUB_TRICKLE: Duration = Duration::from_secs(60);
/// A block that takes this many times what its peer's rate predicts is given to others.
pub const LATE_FACTOR: u32 = 4;
/// What is never called late: a disk that spins up takes as long.
pub const LATE_LEAST: Duration = Duration::from_secs(3);
/// Requests taken back from a peer that are remembered, so that their blocks are no offence when they come late.
pub const LATE_REMEMBERED: usize = 2 * REQUESTS_QUEUED;
/// Time between two looks at who is choked (BEP 3).
pub const RECHOKE: Duration = Duration::from_secs(10);
/// Time between two optimistic unchokes, and what a seed's peer keeps its slot for (BEP 3: long enough to reciprocate).
pub const UNCHOKE_TURN: Duration = Duration::from_secs(30);
/// Time in which a seed's peer that is unchoked has to ask for something: a slot that is not used goes to who waits for one.
pub const SLOT_UNUSED: Duration = Duration::from_secs(5);
/// Peers unchoked at a time by one who lacks pieces, however slow the upload: others give to those who give much.
pub const UNCHOKED_LEAST: usize = 16;
/// Peers unchoked at a time until it is known how fast the upload is, and by a seed however slow it is: with 16, half of
/// 32 peers wait for a turn of [`UNCHOKE_TURN`], and the last is done 4 % later (`makespan` of `obt-sim`).
pub const UNCHOKED_FIRST: usize = 40;
/// Most peers unchoked at a time: beyond it each gets too little.
pub const UNCHOKED_MOST: usize = 200;
/// Upload per unchoked peer, bytes per second, above which there is room for another: a block each second.
pub const UPLOAD_PER_SLOT: u64 = 16 * 1024;
/// Digests of blocks of failed pieces that are kept: 64 bytes each, so 2 MiB.
pub const SUSPECT_BLOCKS: usize = 32_768;

/// Requests in a row that were refused for want of room, or because the peer is choked, before it is closed. A peer
/// that was just choked may have as many on the way as we told it that we take.
pub const REQUESTS_REFUSED: u32 = 2 * REQUESTS_QUEUED as u32;
/// Requests outside the torrent, or for pieces that we lack, before a peer is closed (libtorrent's number).
pub const REQUESTS_INVALID: u32 = 300;
/// Longest block that we send, bytes: everybody asks for 16 KiB.
pub const REQUEST_BYTES: u32 = 16_384;
/// Bytes that the shell may be busy sending to one peer, however slow the peer.
pub const UPLOAD_WINDOW_LEAST: u32 = 64 << 10;
/// Bytes that the shell may be busy sending to one peer, however fast the peer.
pub const UPLOAD_WINDOW_MOST: u32 = 1 << 20;
/// Rejects of requests in a row, from a peer that does not choke us, before it is closed (libtorrent's number).
pub const REJECTS: u32 = 50;
/// Messages with an unknown id before a peer is closed.
pub const UNKNOWN_MESSAGES: u32 = 64;
/// Hints about pieces that do not exist before a peer is closed.
pub const BAD_HINTS: u32 = 16;
/// Pieces that a peer without any gets while it waits for a slot (BEP 6): what most clients give.
pub const ALLOWED_FAST_GIVEN: usize = 10;
/// Allowed-fast pieces kept of one peer; BEP 6 suggests ten.
pub const ALLOWED_FAST: usize = 16;
/// Blocks that nobody asked for before a peer is closed: one may be a slip of its bookkeeping.
pub const UNASKED_BLOCKS: u32 = 4;
/// Messages that change nothing (keep-alives, flips of choke and interest, unknown cancels): one each of these.
pub const IDLE_MESSAGE_EVERY: Duration = Duration::from_millis(100);
/// How many of these may come at once.
pub const IDLE_MESSAGE_BURST: u32 = 200;
/// Extension handshakes: one each of these; the port or the number of wanted requests may change.
pub const EXTENSION_HANDSHAKE_EVERY: Duration = Duration::from_secs(6);
/// How many extension handshakes may come at once.
pub const EXTENSION_HANDSHAKE_BURST: u32 = 10;
/// Piece numbers that can be told before the torrent is known: as many as a torrent may have pieces.
pub const EARLY_PIECES: u32 = obt_wire::limits::PIECES;

/// Requests for metadata that one peer owes at a time (BEP 9): 128 KiB, the delay of a wide link.
pub const METADATA_REQUESTS: usize = 8;
/// Peers asked for one piece of metadata at a time: the first answer counts.
pub const METADATA_ASKED: usize = 3;
/// Time to answer a request for metadata or hashes before others are asked.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a new piece of metadata after which it is fetched from each peer alone: somebody lies or stalls.
pub const METADATA_STALL: Duration = Duration::from_secs(10);
/// How long a peer that rejected a request for metadata or hashes is not asked again.
pub const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Peers from which the metadata is fetched alone at a time.
pub const METADATA_ALONE: usize = 8;
/// Bytes of metadata that may be gathered at a time: two of the longest.
pub const METADATA_BYTES: u64 = 2 * obt_wire::limits::INFO_BYTES as u64;
/// How long seeds are not asked for the hashes of a torrent that a leecher gave us: that one has them.
pub const SEEDS_SPARED: Duration = Duration::from_secs(2);
/// Hash requests that one peer owes at a time (BEP 52): 64 KiB of hashes.
pub const HASH_REQUESTS: usize = 4;
/// Hash requests of a choked peer: one each of these. An unchoked one has a share of the upload rate.
pub const HASH_REQUEST_EVERY: Duration = Duration::from_millis(100);
/// How many hash requests of a choked peer may come at once.
pub const HASH_REQUEST_BURST: u32 = 64;
/// Pieces that are hashed at a time to answer hash requests below the piece layer: the disk takes them one by one.
pub const BLOCK_HASH_PIECES: usize = 4;
/// Bytes per second of pieces that are read and hashed to answer hash requests: a few hundredths of a core.
pub const BLOCK_HASH_RATE: u64 = 32 << 20;
/// Bytes of such pieces that are taken at once: four of the longest usual length.
pub const BLOCK_HASH_BURST: u64 = 64 << 20;
/// Hashes of trees kept to answer hash requests: 16 MiB of them.
pub const TREE_HASHES: u64 = 1 << 19;
/// Requests for metadata from one peer: the whole of it twice in this time (HOSTILE E11).
pub const METADATA_TWICE: Duration = Duration::from_secs(60);

/// Known peers below which a download asks its trackers for more as often as they allow: the usual number of slots.
pub const FEW_PEERS: usize = 20;
/// Time between two looks at peers that owe us blocks.
pub const TICK: Duration = Duration::from_secs(1);
/// Time between two looks at peers that owe us nothing.
pub const TICK_IDLE: Duration = Duration::from_secs(10);
/// Time from a slot's becoming free, or from a newcomer for whom there may be another, to the next look at who is choked: peers
/// that come and go cost little.
pub const CHOKE_SOON: Duration = Duration::from_millis(500);
/// Least bytes that a rate limit lets through at once: four blocks.
pub const RATE_BURST_LEAST: u64 = 4 * 16_384;
/// Age up to which two connections to one peer count as opened at the same time.
pub const DUPLICATE_YOUNG: Duration = Duration::from_secs(10);
/// Time without use to either side after which a connection may make room for another.
pub const USELESS: Duration = Duration::from_secs(60);
/// Connections that are gone and whose addresses are remembered, to ban those found to have lied.
pub const DEPARTED: usize = 1_000;
/// Proven bad blocks after which an address is banned (HOSTILE F35).
pub const STRIKES: u32 = 3;
/// Good blocks of a peer for each bad one that mean that its memory or the network is at fault, and not the peer: who lies
/// for a purpose has to lie more often (HOSTILE F33, F35).
pub const GOOD_PER_STRIKE: u64 = 300;
/// Addresses whose share of the useful payload is told apart.
pub const FROM_ADDRESSES: usize = 1_000;
/// Times its size that one connection may take of a torrent before everybody else comes first (HOSTILE W13, W26).
pub const GREEDY: u64 = 2;
/// How long a piece may stand still, while buffers are short, before it leaves them: on a fast network a peer pauses as long for
/// want of a processor, while thousands of other blocks come.
pub const SPILL_AFTER: Duration = Duration::from_millis(250);
/// Times that the budget may keep a peer from being asked between two looks at what could be spilled.
pub const STARVED_FILLS: u32 = 64;
/// Interested peers from which on a seed tells each of them which pieces to ask for.
pub const CROWD: usize = 2;
/// Pieces that a peer is told in advance, beside as many as it has asked for: it begins one while the next is under way.
pub const SUGGESTIONS: usize = 2;
/// How long a request may wait because another peer is getting the piece: well below what others take for a stall.
pub const UPLOAD_PUT_OFF: Duration = Duration::from_secs(3);
/// Most pieces that a peer is told in advance.
pub const SUGGESTIONS_MOST: usize = 64;
/// A peer that gets a piece at less than one of so many parts of another's rate keeps nobody waiting for it.
pub const AS_FAST: u64 = 4;
