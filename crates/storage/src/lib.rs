//! Where each block lies and what is durable, as a core without IO.
//!
//! [`spans`] maps blocks to files, [`names`] decides what things are called on disk, [`ledger`] in which order
//! bytes become durable and may be claimed, [`journal`] and [`resume`] what a later process may believe of it. The
//! shell moves the bytes; a test crashes this order anywhere.

pub mod journal;
pub mod ledger;
pub mod names;
pub mod resume;
pub mod spans;
#[cfg(test)]
mod testing;

pub use journal::{Journal, Slot, Stamp};
pub use ledger::Ledger;

pub use spans::{FileIndex, Layout, Slice};
