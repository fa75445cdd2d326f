//! Which messages go through which kernel together.

use crate::LANES;
use crate::algorithm::BLOCK;
use crate::algorithm::sealed::Kernels;

/// Whole blocks that continue one message.
#[derive(Debug)]
pub struct Job<'a, State> {
    pub(crate) state: &'a mut State,
    pub(crate) blocks: &'a [[u8; BLOCK]],
}

impl<State> Job<'_, State> {
    /// Drops the first blocks, which were taken in.
    pub(crate) fn advance(&mut self, blocks: usize) {
        self.blocks = self.blocks.get(blocks..).unwrap_or_default();
    }
}

/// The code that takes in blocks, by what it needs of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// One message: the crates `sha1` and `sha2`, which use the SHA instructions where there are any.
    One,
    /// Two messages with the SHA instructions, interleaved.
    #[cfg(target_arch = "x86_64")]
    Pair,
    /// Eight messages in the lanes of AVX2 registers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Sixteen messages in the lanes of AVX-512 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Kernel {
    /// Messages that it takes in at once.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::One => 1,
            #[cfg(target_arch = "x86_64")]
            Self::Pair => 2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => LANES,
        }
    }

    /// The fastest for this many messages, where sixteen lanes are worth it from `wide` messages on.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn choose(messages: usize, wide: usize) -> Self {
        match messages {
            0 | 1 => Self::One,
            _ if messages >= wide && Self::Avx512.is_available() => Self::Avx512,
            _ if Self::Pair.is_available() => Self::Pair,
            // Without the SHA instructions one message goes at about a third of the speed.
            4.. if Self::Avx2.is_available() => Self::Avx2,
            _ => Self::One,
        }
    }

    /// The only one.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn choose(_: usize, _: usize) -> Self {
        Self::One
    }

    /// Whether this processor has what it needs. The answer is kept by std: it costs a load.
    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::One => true,
            #[cfg(target_arch = "x86_64")]
            Self::Pair => {
                is_x86_feature_detected!("sha")
                    && is_x86_feature_detected!("ssse3")
                    && is_x86_feature_detected!("sse4.1")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
        }
    }
}

/// Takes in the blocks of all jobs, each with the kernel that is the fastest for as many as are left.
pub(crate) fn compress_each<A: Kernels>(jobs: &mut [Job<'_, A::State>]) {
    compress_each_with::<A>(jobs, A::kernel);
}

/// The same with a given choice of kernels.
pub(crate) fn compress_each_with<A: Kernels>(jobs: &mut [Job<'_, A::State>], kernel: impl Fn(usize) -> Kernel) {
    // Those that end together begin together.
    jobs.sort_unstable_by_key(|job| job.blocks.len());
    let mut left = jobs;
    loop {
        let ended = left.iter().take_while(|job| job.blocks.is_empty()).count();
        let Some(rest) = left.get_mut(ended..).filter(|rest| !rest.is_empty()) else {
            return;
        };
        left = rest;
        let kernel = kernel(left.len());
        let group = left.len().min(kernel.lanes());
        // The longest first: what is left over at the end is short.
        let at = left.len() - group;
        if let Some(group) = left.get_mut(at..) {
            A::compress_lanes(kernel, group);
        }
        left.sort_unstable_by_key(|job| job.blocks.len());
    }
}

/// Takes in all blocks of jobs, one after the other.
pub(crate) fn compress_one<A: Kernels>(jobs: &mut [Job<'_, A::State>]) {
    for job in jobs {
        A::compress(job.state, job.blocks);
        job.blocks = &[];
    }
}
