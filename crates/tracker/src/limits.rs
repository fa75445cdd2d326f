//! Budgets of the tracker: one place, each with the reason for its number.

use std::time::Duration;

/// What strangers may make the tracker remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Ports that one address may hold in one swarm. Several peers on one host are normal here; an old one
    /// makes room.
    pub ports_per_address: u16,
    /// Swarms that one address (a /64 for IPv6) may bring into being within an hour by plain announces. Swarms of the
    /// catalogue exist already and cost nothing.
    pub torrents_per_hour: u16,
    /// Memory for swarms, bytes, over all shards. When it is spent, small and old swarms that nobody named go first.
    pub memory: usize,
    /// Leases of our own peers; a peer of a swarm has room for a number of so many.
    pub leases: u16,
    /// Leases from one address (a /64 for IPv6).
    pub leases_per_address: usize,
    /// Items in one lease.
    pub items_per_lease: usize,
    /// Items in all leases together: they are held outside of `memory`, at about 150 bytes each.
    pub leased_items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ports_per_address: 64,
            torrents_per_hour: 1_000,
            memory: 1 << 30,
            leases: 16_384,
            leases_per_address: 1_024,
            items_per_lease: 100_000,
            leased_items: 2_000_000,
        }
    }
}

/// Most peers of one address family in one answer (BEP 15 calls 200 high).
pub const NUM_WANT: usize = 200;
/// Peers in an answer to who does not say how many it wants (BEP 3).
pub const NUM_WANT_DEFAULT: usize = 50;
/// Longest UDP answer over IPv4, bytes: fits an Ethernet frame with room for tunnels.
pub const UDP_REPLY_V4: usize = 1_400;
/// Longest UDP answer over IPv6, bytes: the smallest MTU of IPv6, 1,280, less its header of 40 and UDP's of 8.
pub const UDP_REPLY_V6: usize = 1_232;
/// How long a connection id proves an address (BEP 15).
pub const CONNECTION_ID_LIFE: Duration = Duration::from_secs(120);
/// Hashes in one HTTP scrape; as many as fit a UDP scrape (BEP 15).
pub const SCRAPE_HASHES: usize = 74;
/// How often our own peers renew their lease.
pub const LEASE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a lease lasts after its last renewal: two renewals may be lost, and a killed peer is gone within 45 s.
pub const LEASE_LIFE: Duration = Duration::from_secs(40);
/// Addresses that one lease may advertise: two families, inside and outside.
pub const LEASE_ADDRESSES: usize = 4;
/// Hashes that one renewal may ask peers for.
pub const LEASE_WANTS: usize = 2_000;
/// Addresses in one answer to a lease, over all hashes: about 1 MB of JSON.
pub const LEASE_PEERS: usize = 40_000;
/// A stock swarm without a peer is remembered this long for its completed count.
pub const EMPTY_SWARM_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Connect requests answered per second and address, for public addresses: such a request proves nothing, and the
/// answer may go to a victim.
pub const CONNECTS_PER_SECOND: u32 = 20;
/// Connect requests answered at once.
pub const CONNECTS_BURST: u32 = 50;
/// How often the members of a cluster tell each other what they heard: half of the 2 s within which whoever asks any of
/// them is told of everybody.
pub const EXCHANGE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest batch between members, bytes: it is read within a millisecond.
pub const BATCH_BYTES: usize = 64 << 10;
/// Batches that a member may have sent to another and not yet heard of: 1 MiB, which a gigabit link with a round trip of
/// 8 ms holds. A channel to a member needs room for so many and for one more.
pub const BATCHES_UNDERWAY: usize = 16;
/// Time without a sign of life from a batch after which it is sent again. A link that loses nothing never needs it.
pub const BATCH_RETRY: Duration = Duration::from_secs(3);
/// News kept for members that cannot be reached, about 60 bytes each. Whoever missed more gets a full copy.
pub const EXCHANGE_LOG: usize = 1 << 18;
/// Stock clients that left and are remembered, about 100 bytes each. Where more leave, a member that was cut off
/// meanwhile may say that one of them is there, and it is listed until its time is over.
pub const DEPARTED: usize = 1 << 16;
/// Members of a cluster that tell each other who announces, this one included: as many as a cluster may have. Each sends all
/// that it hears to each.
pub const MEMBERS: usize = 16;
/// Oldest news, seconds: nobody is remembered longer.
pub const OLDEST_NEWS: u32 = 2 * 3600;
/// Swarms of which it is known how many downloads each member counted, at about 100 bytes each.
pub const COUNTED_SWARMS: usize = 1 << 20;
/// .torrents below this many bytes are given to everybody at once: they are not worth another round trip.
pub const TORRENT_BYTES_WORTH: usize = 32 << 10;
/// Copies of one .torrent that a crowd gets in one turn, to pass them on.
pub const TORRENT_COPIES: u32 = 4;
/// How long they have to pass them on, before as many more go out.
pub const TORRENT_TURN: Duration = Duration::from_secs(2);
/// .torrents that are kept account of; where more are asked for at once, nobody waits.
pub const TORRENT_TURNS: usize = 1_024;
