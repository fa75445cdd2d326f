//! Eight messages in the lanes of AVX2 registers, for processors without the SHA instructions.

use std::arch::x86_64::*;

kernels!(8, "avx2", Avx2);

type V = __m256i;

macro_rules! operations {
    ($($name:ident $(<$($n:ident),*>)? ($($x:ident),*) = $body:expr;)*) => {$(
        #[inline]
        #[target_feature(enable = "avx2")]
        fn $name $(<$(const $n: i32),*>)? ($($x: V),*) -> V { $body }
    )*};
}

operations! {
    add(x, y) = _mm256_add_epi32(x, y);
    xor(x, y) = _mm256_xor_si256(x, y);
    xor3(x, y, z) = xor(xor(x, y), z);
    choose(x, y, z) = xor(z, _mm256_and_si256(x, xor(y, z)));
    majority(x, y, z) = _mm256_or_si256(_mm256_and_si256(x, y), _mm256_and_si256(z, _mm256_or_si256(x, y)));
    rol<N, REST>(x) = _mm256_or_si256(_mm256_slli_epi32::<N>(x), _mm256_srli_epi32::<REST>(x));
    ror<N, REST>(x) = _mm256_or_si256(_mm256_srli_epi32::<N>(x), _mm256_slli_epi32::<REST>(x));
    shr<N>(x) = _mm256_srli_epi32::<N>(x);
}

#[inline]
#[target_feature(enable = "avx2")]
fn all(word: u32) -> V {
    _mm256_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(words: &[u32; 8]) -> V {
    // SAFETY: 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(words: &mut [u32; 8], x: V) {
    // SAFETY: 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), x) }
}

/// The next block of each lane, as rows of one word of every lane; moves the lanes on.
///
/// # Safety
/// Each lane must have 64 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_block(lanes: &mut Lanes) -> [V; 16] {
    let mut halves = [[_mm256_setzero_si256(); 8]; 2];
    for (at, lane) in lanes.iter_mut().enumerate() {
        // SAFETY: the caller's promise; the end of the block is in the same slice, or just behind it.
        unsafe {
            halves[0][at] = _mm256_loadu_si256(lane.cast());
            halves[1][at] = _mm256_loadu_si256(lane.add(32).cast());
            *lane = lane.add(64);
        }
    }
    let (low, high) = (transpose(halves[0]), transpose(halves[1]));
    let mut rows = [_mm256_setzero_si256(); 16];
    rows[..8].copy_from_slice(&low);
    rows[8..].copy_from_slice(&high);
    rows
}

/// Words of lanes to lanes of words, big-endian.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(mut rows: [V; 8]) -> [V; 8] {
    let mut mixed = [_mm256_setzero_si256(); 8];
    for pair in 0..4 {
        let (x, y) = (rows[2 * pair], rows[2 * pair + 1]);
        mixed[2 * pair] = _mm256_unpacklo_epi32(x, y);
        mixed[2 * pair + 1] = _mm256_unpackhi_epi32(x, y);
    }
    for at in [0, 4] {
        rows[at] = _mm256_unpacklo_epi64(mixed[at], mixed[at + 2]);
        rows[at + 1] = _mm256_unpackhi_epi64(mixed[at], mixed[at + 2]);
        rows[at + 2] = _mm256_unpacklo_epi64(mixed[at + 1], mixed[at + 3]);
        rows[at + 3] = _mm256_unpackhi_epi64(mixed[at + 1], mixed[at + 3]);
    }
    let half = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    let swap = _mm256_broadcastsi128_si256(half);
    for word in 0..4 {
        let (x, y) = (rows[word], rows[4 + word]);
        mixed[word] = _mm256_shuffle_epi8(_mm256_permute2x128_si256::<0x20>(x, y), swap);
        mixed[4 + word] = _mm256_shuffle_epi8(_mm256_permute2x128_si256::<0x31>(x, y), swap);
    }
    mixed
}
