//! What a peer does in one swarm, as a core without IO.
//!
//! [`Event`]s go in, [`Action`]s come out, time is a parameter, and randomness comes from a seed: the same events
//! give the same actions. The core never sees the bytes of a block; it knows which block came from whom.

mod action;
mod announcer;
pub mod blame;
mod block_hashes;
pub mod choker;
mod event;
mod fast_set;
mod layers;
pub mod limits;
mod metadata;
mod peer_list;
pub mod picker;
pub mod pipeline;
pub mod rate;
mod session;
mod spread;
mod stats;
mod swarm;
mod torrent;

pub use action::{Action, AnnounceEvent, AnnounceRequest, CloseReason};
pub use event::{
    AnnounceFailure, AnnounceReply, Content, Direction, Event, PeerKey, PeerSource, ReadRange, TrackerIndex,
    TrackerUrl, Verdict,
};
pub use stats::{PeerStats, Phase, Stats, TrackerState, TrackerStats};
pub use swarm::{Config, LocalAddresses, Start, Swarm, Why};
