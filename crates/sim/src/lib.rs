//! Swarms of real cores in virtual time: many [`obt_swarm::Swarm`]s and an [`obt_tracker`] behind simulated links,
//! disks and faults, all of it drawn from one seed.
//!
//! What must hold whatever happens is a table ([`invariants`]); a run that breaks one stops with a sentence that names
//! the seed.

pub mod bound;
pub mod cluster;
pub mod disk;
pub mod invariants;
pub mod lease;
pub mod net;
pub mod node;
pub mod platter;
pub mod sabotage;
pub mod torrent;
pub mod trace;
pub mod tracker;
pub mod world;

pub use bound::{Share, fluid_bound};
pub use invariants::{Check, INVARIANTS, Invariant};
pub use net::Access;
pub use node::{Conduct, Node, NodeIndex, Spec};
pub use platter::Syncing;
pub use sabotage::Sabotage;
pub use torrent::Torrent;
pub use world::{Broken, Expiry, Fault, Setup, World, seed_of_run};
