//! The tracker's HTTP side over real sockets: what programs, people and strangers get.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod catalogue;
mod cluster;
mod files;
mod hostile;
mod support;
mod swarms;
