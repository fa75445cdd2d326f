//! The few system calls that the rest of obt needs beyond std and cap-std, as safe functions.
//!
//! Linux first, with what other Unix systems have in its place. Nothing here decides anything.

mod beneath;
mod heap;
mod rename;
mod space;
mod udp_batch;

pub use beneath::{Access, make_folders, open_beneath, open_folder_beneath, stat_beneath};
pub use heap::bound_heap;
pub use rename::{Replaced, exchange, rename_to_free_name};
pub use space::{Room, is_hole, preallocate, room, sync_file_system};
pub use udp_batch::{Received, UdpBatch, udp_sockets};
