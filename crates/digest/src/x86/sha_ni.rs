//! Two messages with the SHA instructions: while a step of one waits for the step before it, the other's is done.

use std::arch::x86_64::*;

use super::SHA256_ROUNDS;
use crate::jobs::{Job, Kernel};

/// Takes in as many SHA-1 blocks of two jobs as the shorter has.
pub(crate) fn sha1_pair(jobs: &mut [Job<'_, [u32; 5]>]) {
    run(jobs, |states, lanes, blocks| {
        // SAFETY: `run` has checked the features, and that both lanes have so many blocks.
        unsafe { sha1_blocks(states, lanes, blocks) }
    });
}

/// Takes in as many SHA-256 blocks of two jobs as the shorter has.
pub(crate) fn sha256_pair(jobs: &mut [Job<'_, [u32; 8]>]) {
    run(jobs, |states, lanes, blocks| {
        // SAFETY: as above.
        unsafe { sha256_blocks(states, lanes, blocks) }
    });
}

fn run<const WORDS: usize>(
    jobs: &mut [Job<'_, [u32; WORDS]>],
    kernel: impl FnOnce([&mut [u32; WORDS]; 2], [*const u8; 2], usize),
) {
    assert!(Kernel::Pair.is_available(), "the kernel does not fit");
    let [first, second] = jobs else { return };
    let blocks = first.blocks.len().min(second.blocks.len());
    let lanes = [first.blocks.as_ptr().cast(), second.blocks.as_ptr().cast()];
    kernel([first.state, second.state], lanes, blocks);
    first.advance(blocks);
    second.advance(blocks);
}

/// The words `[first, second, third, fourth]`, the first highest.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn high_first(words: [u32; 4]) -> __m128i {
    let [a, b, c, d] = words.map(u32::cast_signed);
    _mm_set_epi32(a, b, c, d)
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn words(x: __m128i) -> [u32; 4] {
    let words =
        [_mm_extract_epi32::<3>(x), _mm_extract_epi32::<2>(x), _mm_extract_epi32::<1>(x), _mm_extract_epi32::<0>(x)];
    words.map(i32::cast_unsigned)
}

/// The next block of a lane in four rows, their bytes put in the order of `swap`; moves the lane on.
///
/// # Safety
/// The lane must have 64 readable bytes.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
unsafe fn load_block(lane: &mut *const u8, swap: __m128i) -> [__m128i; 4] {
    let mut rows = [_mm_setzero_si128(); 4];
    for row in &mut rows {
        // SAFETY: the caller's promise; the end of the block is in the same slice, or just behind it.
        unsafe {
            *row = _mm_shuffle_epi8(_mm_loadu_si128(lane.cast()), swap);
            *lane = lane.add(16);
        }
    }
    rows
}

/// # Safety
/// Each lane must have `blocks` blocks of readable bytes.
#[target_feature(enable = "sha,ssse3,sse4.1")]
unsafe fn sha1_blocks(states: [&mut [u32; 5]; 2], mut lanes: [*const u8; 2], blocks: usize) {
    let swap = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    let mut abcd = [_mm_setzero_si128(); 2];
    let mut e = [_mm_setzero_si128(); 2];
    for (lane, state) in states.iter().enumerate() {
        let [a, b, c, d, last] = **state;
        abcd[lane] = high_first([a, b, c, d]);
        e[lane] = high_first([last, 0, 0, 0]);
    }
    for _ in 0..blocks {
        let before = (abcd, e);
        // SAFETY: the caller's promise.
        let mut w = unsafe { [load_block(&mut lanes[0], swap), load_block(&mut lanes[1], swap)] };
        macro_rules! rounds {
            ($($four:literal)*, $function:literal) => {$(
                for lane in 0..2 {
                    let w = &mut w[lane];
                    if $four >= 4 {
                        let mixed = _mm_xor_si128(_mm_sha1msg1_epu32(w[$four & 3], w[($four + 1) & 3]), w[($four + 2) & 3]);
                        w[$four & 3] = _mm_sha1msg2_epu32(mixed, w[($four + 3) & 3]);
                    }
                    let sum = if $four == 0 {
                        _mm_add_epi32(e[lane], w[0])
                    } else {
                        _mm_sha1nexte_epu32(e[lane], w[$four & 3])
                    };
                    e[lane] = abcd[lane];
                    abcd[lane] = _mm_sha1rnds4_epu32::<$function>(abcd[lane], sum);
                }
            )*};
        }
        rounds!(0 1 2 3 4, 0);
        rounds!(5 6 7 8 9, 1);
        rounds!(10 11 12 13 14, 2);
        rounds!(15 16 17 18 19, 3);
        for lane in 0..2 {
            abcd[lane] = _mm_add_epi32(abcd[lane], before.0[lane]);
            e[lane] = _mm_sha1nexte_epu32(e[lane], before.1[lane]);
        }
    }
    for (lane, state) in states.into_iter().enumerate() {
        let [a, b, c, d] = words(abcd[lane]);
        let [last, ..] = words(e[lane]);
        *state = [a, b, c, d, last];
    }
}

/// # Safety
/// Each lane must have `blocks` blocks of readable bytes.
#[target_feature(enable = "sha,ssse3,sse4.1")]
unsafe fn sha256_blocks(states: [&mut [u32; 8]; 2], mut lanes: [*const u8; 2], blocks: usize) {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut abef = [_mm_setzero_si128(); 2];
    let mut cdgh = [_mm_setzero_si128(); 2];
    for (lane, state) in states.iter().enumerate() {
        let [a, b, c, d, e, f, g, h] = **state;
        abef[lane] = high_first([a, b, e, f]);
        cdgh[lane] = high_first([c, d, g, h]);
    }
    for _ in 0..blocks {
        let before = (abef, cdgh);
        // SAFETY: the caller's promise.
        let mut w = unsafe { [load_block(&mut lanes[0], swap), load_block(&mut lanes[1], swap)] };
        for (turn, constants) in SHA256_ROUNDS.iter().enumerate() {
            let (fours, _) = constants.as_chunks::<4>();
            for (four, &[k0, k1, k2, k3]) in fours.iter().enumerate() {
                let constants = high_first([k3, k2, k1, k0]);
                for lane in 0..2 {
                    let w = &mut w[lane];
                    if turn > 0 {
                        let mixed = _mm_sha256msg1_epu32(w[four], w[(four + 1) & 3]);
                        let shifted = _mm_alignr_epi8::<4>(w[(four + 3) & 3], w[(four + 2) & 3]);
                        w[four] = _mm_sha256msg2_epu32(_mm_add_epi32(mixed, shifted), w[(four + 3) & 3]);
                    }
                    let sum = _mm_add_epi32(w[four], constants);
                    let half = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sum);
                    cdgh[lane] = abef[lane];
                    abef[lane] = half;
                    let half = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], _mm_shuffle_epi32::<0x0e>(sum));
                    cdgh[lane] = abef[lane];
                    abef[lane] = half;
                }
            }
        }
        for lane in 0..2 {
            abef[lane] = _mm_add_epi32(abef[lane], before.0[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], before.1[lane]);
        }
    }
    for (lane, state) in states.into_iter().enumerate() {
        let [a, b, e, f] = words(abef[lane]);
        let [c, d, g, h] = words(cdgh[lane]);
        *state = [a, b, c, d, e, f, g, h];
    }
}
