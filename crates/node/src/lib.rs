//! The IO of obt: sockets, disks, HTTP, and the tasks that run the cores.
//!
//! A shell moves bytes and runs actions; what to do is decided in `swarm`, `storage`, `tracker` and `catalogue`.

pub mod buffers;
pub mod disk;
pub mod api_types;
pub mod config;
pub mod limits;
pub mod announce;
mod net;
pub mod node;
pub mod rates;
pub mod torrent;
