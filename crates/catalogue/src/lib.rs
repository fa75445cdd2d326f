//! Names, versions, owners and keys: deterministic commands over one SQLite file.
//!
//! A [`Command`](command::Command) carries its time and its id, [`Catalogue::apply`](apply::Catalogue::apply) is one
//! function of the file and the command, so that replicas which apply the same commands hold the same catalogue.
//! Who is in a swarm at the moment is not here: that is soft state of the tracker.

pub mod hex;
pub mod signing;
