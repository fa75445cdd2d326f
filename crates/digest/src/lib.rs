//! SHA-1 and SHA-256 of many messages side by side.
//!
//! A SHA is one chain of dependent steps, so a message alone leaves most of a core idle. Pieces and blocks of a torrent are
//! independent of each other: sixteen in the lanes of AVX-512 registers are hashed at 2.5 (SHA-256) to 5 times (SHA-1) the speed of
//! one with the SHA instructions, two with those instructions at 1.8 times (`cargo run --release -p obt-digest --example speed`).
//! The crates `sha1` and `sha2` hash what is alone, and everything on other processors.
//!
//! No IO and no threads: who has more cores calls it from each.

mod algorithm;
mod hashers;
mod jobs;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use algorithm::{Algorithm, Sha1, Sha256};
pub use hashers::{Hashers, Message, digest_each, side_by_side};

/// Messages that are hashed side by side at most; more are taken in groups of this many.
pub const LANES: usize = 16;
