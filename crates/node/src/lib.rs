//! The IO of obt: sockets, disks, HTTP, and the tasks that run the cores.
//!
//! A shell moves bytes and runs actions; what to do is decided in `swarm`, `storage`, `tracker` and `catalogue`.

pub mod announce;
pub mod api_types;
pub mod buffers;
pub mod config;
pub mod control;
pub mod disk;
pub mod files;
pub mod folder;
pub mod hash;
mod inner;
pub mod keyring;
pub mod limits;
pub mod members;
mod net;
pub mod node;
pub mod rates;
pub mod requester;
pub mod server;
pub mod sharer;
pub mod state;
pub mod torrent;
pub mod torrent_url;
pub mod tracker_client;

pub use obt_catalogue::{names, signing};
pub use obt_sys::bound_heap;
