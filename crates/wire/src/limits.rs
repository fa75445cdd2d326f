//! Budgets for what a stranger can send: one place, each with the reason for its number.

/// Largest .torrent file that is parsed, bytes. 100,000 files with v2 roots and piece layers need tens of MiB.
pub const METAINFO_BYTES: usize = 64 << 20;
/// Largest info dictionary, bytes, also by ut_metadata (BEP 9).
pub const INFO_BYTES: usize = 32 << 20;
/// Deepest nesting of bencoded lists and dictionaries in a metainfo.
pub const BENCODE_DEPTH: usize = 64;
/// Deepest nesting in extension messages.
pub const MESSAGE_DEPTH: usize = 32;
/// Most bencoded tokens in a metainfo: 200,000 files at five tokens each, and room for the rest.
pub const METAINFO_TOKENS: usize = 4_000_000;
/// Most bencoded tokens in an extension message or a tracker's answer.
pub const MESSAGE_TOKENS: usize = 2_000;
/// Most files in one torrent.
pub const FILES: usize = 200_000;
/// Most pieces in one torrent (libtorrent's limit too).
pub const PIECES: u32 = 2_097_152;
/// Longest piece, bytes: a piece is held in memory to be checked.
pub const PIECE_LENGTH: u32 = 256 << 20;
/// Shortest piece of a v1 torrent, bytes; v2 has 16 KiB (BEP 52).
pub const PIECE_LENGTH_LEAST: u32 = 1 << 10;
/// Deepest file path, in components.
pub const PATH_DEPTH: usize = 64;
/// Longest path component, bytes: what common file systems take.
pub const PATH_COMPONENT_BYTES: usize = 255;
/// Longest path, bytes.
pub const PATH_BYTES: usize = 4_096;
/// Most path components in one torrent: 200,000 files in five folders each.
pub const PATHS_COMPONENTS: usize = 1_000_000;
/// Most bytes of paths in one torrent; a file tree says a folder's name once for all its files.
pub const PATHS_BYTES: usize = 32 << 20;
/// Longest announce URL kept, bytes.
pub const URL_BYTES: usize = 2_048;
/// Trackers kept of one torrent or magnet.
pub const TRACKERS: usize = 100;
/// Web seeds kept of one torrent or magnet.
pub const WEB_SEEDS: usize = 20;
/// Longest magnet link, bytes.
pub const MAGNET_BYTES: usize = 2 << 20;
/// Most ranges in a magnet's file selection.
pub const MAGNET_RANGES: usize = 10_000;
/// Peers kept of one magnet's `x.pe`.
pub const MAGNET_PEERS: usize = 50;
/// Largest peer message that is not a bitfield, bytes after the length prefix: a block with its header, or an
/// extension message with a 16 KiB metadata piece. Twice a block leaves room for foreign extension messages.
pub const PEER_MESSAGE_BYTES: usize = 2 * 16_384 + 1_024;
/// Most hashes in one `hashes` message (BEP 52).
pub const HASHES: u32 = 512;
/// Most layers of proof in one `hashes` message (BEP 52): a tree over 2^64 bytes has fewer.
pub const PROOF_LAYERS: u32 = 64;
/// Longest body of a message with an unknown id that is skipped; a longer one ends the connection.
pub const UNKNOWN_MESSAGE_BYTES: usize = 16_384;
/// Largest extension handshake, bytes: real ones have a few hundred.
pub const EXTENSION_HANDSHAKE_BYTES: usize = 16_384;
/// Kept of a client's name for itself, bytes.
pub const CLIENT_NAME_BYTES: usize = 64;
/// Most requests that we believe a peer to queue: 64 MiB of blocks in flight, more than a connection needs.
pub const REQUEST_QUEUE: u32 = 4_096;
/// Longest datagram that a UDP tracker reads, bytes: a scrape of 74 swarms, and an announce with all the options that
/// anybody sends is shorter.
pub const UDP_REQUEST_BYTES: usize = 16 + 74 * 20;
/// Longest path of a tracker's URL in BEP 41 options, bytes.
pub const TRACKER_PATH_BYTES: usize = 512;
/// Kept, and sent, of a tracker's reason for a failure, bytes.
pub const FAILURE_BYTES: usize = 256;
/// Longest answer of a tracker, bytes, after decompression.
pub const TRACKER_REPLY_BYTES: usize = 1 << 20;
/// Most bencoded tokens in a tracker's answer: 2,000 peers in the long form.
pub const TRACKER_REPLY_TOKENS: usize = 20_000;
/// Peers used of one answer of a tracker: four times what clients ask for.
pub const TRACKER_PEERS: usize = 200;
