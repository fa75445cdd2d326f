//! Consensus over the catalogue: openraft, its log, its links, its membership.
//!
//! Members agree on the order of commands ([`log`]), apply them to their catalogues ([`machine`]) and take copies of
//! each other's ([`snapshot`]). What is decided here is which entries become part of the log and who keeps it; what a
//! command does, `obt-catalogue` decides.

mod blobs;
mod cluster;
mod config;
mod cut;
mod directory;
mod failure;
mod fatal;
mod inbox;
mod invite;
mod keeper;
pub mod limits;
pub mod links;
pub mod log;
pub mod machine;
pub mod membership;
pub mod message;
mod network;
mod propose;
pub mod raft;
mod recover;
mod serve;
mod shared;
pub mod snapshot;
mod start;
pub mod state;
mod status;
pub mod transport;

pub use cluster::{Cluster, Incoming};
pub use config::{Clock, Config, Origin, Timing};
pub use directory::{Directory, Members};
pub use failure::{ClusterFailure, StartError};
pub use fatal::{FatalError, FatalHook};
pub use invite::JoinLine;
pub use machine::{ChangeHook, Changed};
pub use recover::{Recovered, recover};
pub use status::{AsOf, ClusterStatus, MemberStatus, Role};
