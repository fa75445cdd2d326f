//! Cores in virtual time: swarms, links, trackers and disks with faults, and whether the checks would notice a mistake.
//!
//! `SIM_SEED=n` replays one run; a failure names its seed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod clusters;
mod fan_out;
mod leases;
mod links;
mod mutants;
mod runs;
mod storage;
mod swarms;
