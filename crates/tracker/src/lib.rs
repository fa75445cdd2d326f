//! Who is in which swarm, as a core without IO.
//!
//! The soft state of a tracker ([`swarms`]), and what it answers: to stock clients over UDP and HTTP, to peers of ours
//! by their leases. Time is a parameter, randomness comes from a seed, and every answer is written into memory of the
//! caller. The catalogue of names is elsewhere; it only pins the swarms that have names.

mod connection_id;
pub mod exchange;
pub mod http;
pub mod leases;
pub mod limits;
pub mod policy;
mod store;
pub mod swarms;
#[cfg(test)]
mod testing;
pub mod turns;
pub mod udp;

pub use connection_id::ConnectionIds;
pub use store::{
    Advertised, Announce, Answer, Asker, Change, Client, CompactPeers, Endpoint, Holder, Identity, PeerLists, Refused,
    Remember, Shard, Slot, Standing, SwarmPeer, SwarmStats,
};
pub use swarms::{Shards, StoreConfig, Swarms};
