//! The two algorithms, as the rest of the crate sees them.

use std::fmt::Debug;

use crate::jobs::{Job, Kernel};

/// Bytes of a block of either algorithm.
pub(crate) const BLOCK: usize = 64;

/// A hash function with 64-byte blocks and a state of `WORDS` words of 32 bits, big-endian (FIPS 180-4).
pub trait Algorithm: Sized + sealed::Kernels {
    /// What a message hashes to.
    type Digest: Copy + Debug + PartialEq + Eq + Send;

    /// The digest in a final state.
    fn digest(state: &Self::State) -> Self::Digest;
}

pub(crate) mod sealed {
    use super::{Debug, Job, Kernel};

    /// How the blocks of one or more messages are taken in.
    pub trait Kernels {
        /// The words between blocks.
        type State: Copy + Debug + Send;
        /// The words before the first block.
        const INITIAL: Self::State;

        /// Takes in the blocks of one message.
        fn compress(state: &mut Self::State, blocks: &[[u8; 64]]);
        /// The kernel for the next blocks of `messages` messages.
        fn kernel(messages: usize) -> Kernel;
        /// Takes in as many blocks of each job as the shortest has, with a kernel of at least as many lanes as there are jobs.
        fn compress_lanes(kernel: Kernel, jobs: &mut [Job<'_, Self::State>]);
    }
}

/// SHA-1: pieces of v1 torrents (BEP 3).
#[derive(Debug)]
pub struct Sha1;

/// SHA-256: blocks and trees of v2 torrents (BEP 52).
#[derive(Debug)]
pub struct Sha256;

impl Algorithm for Sha1 {
    type Digest = [u8; 20];

    fn digest(state: &[u32; 5]) -> [u8; 20] {
        bytes(state)
    }
}

impl Algorithm for Sha256 {
    type Digest = [u8; 32];

    fn digest(state: &[u32; 8]) -> [u8; 32] {
        bytes(state)
    }
}

fn bytes<const WORDS: usize, const BYTES: usize>(state: &[u32; WORDS]) -> [u8; BYTES] {
    let mut digest = [0; BYTES];
    for (to, word) in digest.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

impl sealed::Kernels for Sha1 {
    type State = [u32; 5];
    const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

    fn compress(state: &mut [u32; 5], blocks: &[[u8; BLOCK]]) {
        sha1::block_api::compress(state, blocks);
    }

    fn kernel(messages: usize) -> Kernel {
        // Sixteen lanes take the time of five or six messages by pairs (example `speed`).
        Kernel::choose(messages, 6)
    }

    fn compress_lanes(kernel: Kernel, jobs: &mut [Job<'_, [u32; 5]>]) {
        match kernel {
            Kernel::One => crate::jobs::compress_one::<Self>(jobs),
            #[cfg(target_arch = "x86_64")]
            Kernel::Pair => crate::x86::sha_ni::sha1_pair(jobs),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => crate::x86::avx2::sha1(jobs),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => crate::x86::avx512::sha1(jobs),
        }
    }
}

impl sealed::Kernels for Sha256 {
    type State = [u32; 8];
    const INITIAL: [u32; 8] =
        [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

    fn compress(state: &mut [u32; 8], blocks: &[[u8; BLOCK]]) {
        sha2::block_api::compress256(state, blocks);
    }

    fn kernel(messages: usize) -> Kernel {
        // Of eight or nine.
        Kernel::choose(messages, 9)
    }

    fn compress_lanes(kernel: Kernel, jobs: &mut [Job<'_, [u32; 8]>]) {
        match kernel {
            Kernel::One => crate::jobs::compress_one::<Self>(jobs),
            #[cfg(target_arch = "x86_64")]
            Kernel::Pair => crate::x86::sha_ni::sha256_pair(jobs),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => crate::x86::avx2::sha256(jobs),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => crate::x86::avx512::sha256(jobs),
        }
    }
}
