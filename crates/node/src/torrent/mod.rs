//! Torrents: each has one task, which owns its swarm core and its storage, and a handle for everybody else.
//!
//! What a torrent does is decided in `obt-swarm`; here events are fed to it and its actions are carried out.

mod assembly;
mod context;
mod driver;
mod error;
mod file_reader;
mod handle;
mod inbox;
mod open;
mod order;
mod peers;
mod readers;
mod registry;
mod rest;
mod task;

pub use obt_swarm::{LocalAddresses, Stats, TrackerUrl};

pub use error::{ReadError, TorrentError};
pub use file_reader::FileReader;
pub use handle::{Finished, TorrentHandle, TorrentStats};
pub use open::{AddTorrent, Afterwards, Place, Source};

pub(crate) use context::Context;
pub(crate) use registry::Registry;
pub(crate) use task::start;
