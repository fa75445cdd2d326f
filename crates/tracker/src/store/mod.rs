//! The soft state, laid out for speed: who is in which swarm.
//!
//! A shard is a dense array of 64-byte swarms and a table of positions; one or two peers lie in the swarm itself,
//! 12 bytes each, more of them in one array, seeds in front. Nothing in it points back, and nothing is hashed twice.

mod budget;
mod clients;
mod family;
mod handout;
mod heard;
mod held;
mod journal;
mod key;
mod members;
mod peer;
mod places;
mod quota;
mod shard;
mod tenants;
mod torrent;

pub(crate) use budget::Budget;
pub use clients::Client;
pub use handout::{Advertised, Asker, CompactPeers};
pub(crate) use heard::Speaker;
pub use held::{Change, Holder};
pub(crate) use journal::{Note, NoteKey, Said};
pub(crate) use key::HashKey;
pub(crate) use peer::Marks;
pub use peer::Slot;
pub(crate) use quota::Quota;
pub use shard::{Announce, Answer, Identity, PeerLists, Refused, Remember, Shard, Standing, SwarmStats};
pub(crate) use shard::{Frame, LeaseWant};
pub use tenants::Endpoint;
pub(crate) use tenants::Tenant;

pub use torrent::SwarmPeer;
