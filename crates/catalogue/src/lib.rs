//! Names, versions, owners and keys: deterministic commands over one SQLite file.
//!
//! A [`Command`] carries its time and its id, and [`Catalogue::apply`] is one function of the file and the command, so
//! replicas that apply the same commands hold the same catalogue. Who is in a swarm at the moment is not here: that is
//! soft state of the tracker.

mod apply;
mod blobs;
mod command;
mod digest;
mod downloads;
mod error;
pub mod hex;
mod lookalikes;
pub mod names;
mod owners;
mod pace;
mod query;
mod schema;
mod search;
pub mod signing;
mod snapshot;

pub use apply::{Applied, Catalogue};
pub use blobs::BlobHash;
pub use command::{
    Authority, Command, CommandId, Content, Denial, Departure, Envelope, FORMAT, Layout, Outcome, Publish,
    PublishPolicy, Replace,
};
pub use error::{CatalogueError, QueryError};
pub use names::{HashPrefix, Name, NameArgument, NameError, Selector, Target};
pub use owners::{KeyRecord, Standing};
pub use pace::{Pace, TooFast};
pub use query::{Entry, LastHolder, Page, Reader, Resolved};
pub use search::QUERY_BYTES;
pub use snapshot::{Copied, examine};
