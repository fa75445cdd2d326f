//! The real program, as users run it: processes, sockets of the loopback, files, signals and kills.
//!
//! Every test has a folder and ports of its own, waits for what it wants to see and not for time to pass, and ends what
//! it started. `OBT_BIN` names another program to test than the one that cargo built.
#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod arguments;
mod catalogue;
mod cluster;
mod cluster_power;
mod crowd;
mod disk_image;
mod disks;
mod harness;
mod http;
mod ipv6;
mod power;
mod prompt;
mod resume;
mod scenarios;
mod share;
mod signals;
mod torrents;
