//! Nodes that transfer over loopback, and what strangers can do to one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod hostile;
mod raw_peer;
mod support;
mod transfers;
