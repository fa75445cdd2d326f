//! Kernels for x86-64. The only unsafe code of the crate: instructions that not every processor has, and loads at pointers.
#![allow(unsafe_code)]

/// Rounds are written out: with indices that are known, words stay in registers.
macro_rules! twenty {
    ($do:ident, $from:literal, $f:ident, $k:literal) => {
        twenty!(@five $do, $from, $f, $k);
        twenty!(@five $do, $from + 5, $f, $k);
        twenty!(@five $do, $from + 10, $f, $k);
        twenty!(@five $do, $from + 15, $f, $k);
    };
    (@five $do:ident, $from:expr, $f:ident, $k:literal) => {
        $do!($from, $f, $k);
        $do!($from + 1, $f, $k);
        $do!($from + 2, $f, $k);
        $do!($from + 3, $f, $k);
        $do!($from + 4, $f, $k);
    };
}

macro_rules! sixteen {
    ($do:ident) => {
        $do!(0);
        $do!(1);
        $do!(2);
        $do!(3);
        $do!(4);
        $do!(5);
        $do!(6);
        $do!(7);
        $do!(8);
        $do!(9);
        $do!(10);
        $do!(11);
        $do!(12);
        $do!(13);
        $do!(14);
        $do!(15);
    };
}

macro_rules! kernels {
    ($lanes:literal, $features:literal, $kernel:ident) => {
        use crate::jobs::{Job, Kernel};

        /// Where the next block of each lane lies. Invariant: at each, there are as many readable bytes as blocks are asked of the
        /// kernel, times 64.
        type Lanes = [*const u8; $lanes];

        /// Takes in as many SHA-1 blocks of each job as the shortest has.
        pub(crate) fn sha1(jobs: &mut [Job<'_, [u32; 5]>]) {
            run(jobs, |state, lanes, blocks| {
                // SAFETY: `run` has checked the features, and that each lane has so many blocks.
                unsafe { sha1_blocks(state, lanes, blocks) }
            });
        }

        /// Takes in as many SHA-256 blocks of each job as the shortest has.
        pub(crate) fn sha256(jobs: &mut [Job<'_, [u32; 8]>]) {
            run(jobs, |state, lanes, blocks| {
                // SAFETY: as above.
                unsafe { sha256_blocks(state, lanes, blocks) }
            });
        }

        /// Lays the states of up to as many jobs as there are lanes side by side. Lanes without a job do what the first one does,
        /// and it is dropped.
        fn run<const WORDS: usize>(
            jobs: &mut [Job<'_, [u32; WORDS]>],
            kernel: impl FnOnce(&mut [[u32; $lanes]; WORDS], Lanes, usize),
        ) {
            assert!(Kernel::$kernel.is_available() && jobs.len() <= $lanes, "the kernel does not fit");
            let Some(first) = jobs.first() else { return };
            let mut lanes = [first.blocks.as_ptr().cast(); $lanes];
            let blocks = jobs.iter().map(|job| job.blocks.len()).min().unwrap_or_default();
            let mut state = [[0; $lanes]; WORDS];
            for (lane, (at, job)) in lanes.iter_mut().zip(jobs.iter()).enumerate() {
                *at = job.blocks.as_ptr().cast();
                for (row, word) in state.iter_mut().zip(job.state.iter()) {
                    row[lane] = *word;
                }
            }
            kernel(&mut state, lanes, blocks);
            for (lane, job) in jobs.iter_mut().enumerate() {
                for (row, word) in state.iter().zip(job.state.iter_mut()) {
                    *word = row[lane];
                }
                job.advance(blocks);
            }
        }

        /// # Safety
        /// `lanes` must keep its invariant for `blocks`.
        #[target_feature(enable = $features)]
        unsafe fn sha1_blocks(state: &mut [[u32; $lanes]; 5], mut lanes: Lanes, blocks: usize) {
            let mut sums = [load(&state[0]), load(&state[1]), load(&state[2]), load(&state[3]), load(&state[4])];
            for _ in 0..blocks {
                // SAFETY: the caller's promise.
                let mut w = unsafe { load_block(&mut lanes) };
                let [mut a, mut b, mut c, mut d, mut e] = sums;
                macro_rules! round {
                    ($round:expr, $f:ident, $k:literal) => {
                        let at = $round & 15;
                        if $round >= 16 {
                            let mixed = xor3(w[($round + 13) & 15], w[($round + 8) & 15], w[($round + 2) & 15]);
                            w[at] = rol::<1, 31>(xor(mixed, w[at]));
                        }
                        let mixed = add(rol::<5, 27>(a), $f(b, c, d));
                        let next = add(mixed, add(e, add(w[at], all($k))));
                        (e, d, c, b, a) = (d, c, rol::<30, 2>(b), a, next);
                    };
                }
                twenty!(round, 0, choose, 0x5a82_7999);
                twenty!(round, 20, xor3, 0x6ed9_eba1);
                twenty!(round, 40, majority, 0x8f1b_bcdc);
                twenty!(round, 60, xor3, 0xca62_c1d6);
                for (sum, word) in sums.iter_mut().zip([a, b, c, d, e]) {
                    *sum = add(*sum, word);
                }
            }
            for (row, sum) in state.iter_mut().zip(sums) {
                store(row, sum);
            }
        }

        /// # Safety
        /// `lanes` must keep its invariant for `blocks`.
        #[target_feature(enable = $features)]
        unsafe fn sha256_blocks(state: &mut [[u32; $lanes]; 8], mut lanes: Lanes, blocks: usize) {
            let mut sums = [
                load(&state[0]),
                load(&state[1]),
                load(&state[2]),
                load(&state[3]),
                load(&state[4]),
                load(&state[5]),
                load(&state[6]),
                load(&state[7]),
            ];
            for _ in 0..blocks {
                // SAFETY: the caller's promise.
                let mut w = unsafe { load_block(&mut lanes) };
                let mut v = sums;
                for (turn, constants) in super::SHA256_ROUNDS.iter().enumerate() {
                    macro_rules! round {
                        ($at:literal) => {
                            if turn > 0 {
                                let (x, y) = (w[($at + 1) & 15], w[($at + 14) & 15]);
                                let s0 = xor3(ror::<7, 25>(x), ror::<18, 14>(x), shr::<3>(x));
                                let s1 = xor3(ror::<17, 15>(y), ror::<19, 13>(y), shr::<10>(y));
                                w[$at] = add(add(w[$at], s0), add(w[($at + 9) & 15], s1));
                            }
                            let [a, b, c, d, e, f, g, h] = v;
                            let s1 = xor3(ror::<6, 26>(e), ror::<11, 21>(e), ror::<25, 7>(e));
                            let t1 = add(add(h, add(w[$at], all(constants[$at]))), add(s1, choose(e, f, g)));
                            let s0 = xor3(ror::<2, 30>(a), ror::<13, 19>(a), ror::<22, 10>(a));
                            let t2 = add(s0, majority(a, b, c));
                            v = [add(t1, t2), a, b, c, add(d, t1), e, f, g];
                        };
                    }
                    sixteen!(round);
                }
                for (sum, word) in sums.iter_mut().zip(v) {
                    *sum = add(*sum, word);
                }
            }
            for (row, sum) in state.iter_mut().zip(sums) {
                store(row, sum);
            }
        }
    };
}

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod sha_ni;

/// FIPS 180-4 §4.2.2.
const SHA256_ROUNDS: [[u32; 16]; 4] = [
    [
        0x428a_2f98,
        0x7137_4491,
        0xb5c0_fbcf,
        0xe9b5_dba5,
        0x3956_c25b,
        0x59f1_11f1,
        0x923f_82a4,
        0xab1c_5ed5,
        0xd807_aa98,
        0x1283_5b01,
        0x2431_85be,
        0x550c_7dc3,
        0x72be_5d74,
        0x80de_b1fe,
        0x9bdc_06a7,
        0xc19b_f174,
    ],
    [
        0xe49b_69c1,
        0xefbe_4786,
        0x0fc1_9dc6,
        0x240c_a1cc,
        0x2de9_2c6f,
        0x4a74_84aa,
        0x5cb0_a9dc,
        0x76f9_88da,
        0x983e_5152,
        0xa831_c66d,
        0xb003_27c8,
        0xbf59_7fc7,
        0xc6e0_0bf3,
        0xd5a7_9147,
        0x06ca_6351,
        0x1429_2967,
    ],
    [
        0x27b7_0a85,
        0x2e1b_2138,
        0x4d2c_6dfc,
        0x5338_0d13,
        0x650a_7354,
        0x766a_0abb,
        0x81c2_c92e,
        0x9272_2c85,
        0xa2bf_e8a1,
        0xa81a_664b,
        0xc24b_8b70,
        0xc76c_51a3,
        0xd192_e819,
        0xd699_0624,
        0xf40e_3585,
        0x106a_a070,
    ],
    [
        0x19a4_c116,
        0x1e37_6c08,
        0x2748_774c,
        0x34b0_bcb5,
        0x391c_0cb3,
        0x4ed8_aa4a,
        0x5b9c_ca4f,
        0x682e_6ff3,
        0x748f_82ee,
        0x78a5_636f,
        0x84c8_7814,
        0x8cc7_0208,
        0x90be_fffa,
        0xa450_6ceb,
        0xbef9_a3f7,
        0xc671_78f2,
    ],
];
