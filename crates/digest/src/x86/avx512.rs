//! Sixteen messages in the lanes of AVX-512 registers: three-input logic and rotations are one instruction each.

use std::arch::x86_64::*;

kernels!(16, "avx512f,avx512bw", Avx512);

type V = __m512i;

macro_rules! operations {
    ($($name:ident $(<$($n:ident),*>)? ($($x:ident),*) = $body:expr;)*) => {$(
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        fn $name $(<$(const $n: i32),*>)? ($($x: V),*) -> V { $body }
    )*};
}

operations! {
    add(x, y) = _mm512_add_epi32(x, y);
    xor(x, y) = _mm512_xor_si512(x, y);
    xor3(x, y, z) = _mm512_ternarylogic_epi32::<0x96>(x, y, z);
    choose(x, y, z) = _mm512_ternarylogic_epi32::<0xca>(x, y, z);
    majority(x, y, z) = _mm512_ternarylogic_epi32::<0xe8>(x, y, z);
    rol<N, _REST>(x) = _mm512_rol_epi32::<N>(x);
    ror<N, _REST>(x) = _mm512_ror_epi32::<N>(x);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shr<const N: u32>(x: V) -> V {
    _mm512_srli_epi32::<N>(x)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn all(word: u32) -> V {
    _mm512_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(words: &[u32; 16]) -> V {
    // SAFETY: 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store(words: &mut [u32; 16], x: V) {
    // SAFETY: 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), x) }
}

/// The next block of each lane, as rows of one word of every lane; moves the lanes on.
///
/// # Safety
/// Each lane must have 64 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load_block(lanes: &mut Lanes) -> [V; 16] {
    let mut rows = [_mm512_setzero_si512(); 16];
    for (row, lane) in rows.iter_mut().zip(lanes.iter_mut()) {
        // SAFETY: the caller's promise; the end of the block is in the same slice, or just behind it.
        unsafe {
            *row = _mm512_loadu_si512(lane.cast());
            *lane = lane.add(64);
        }
    }
    transpose(rows)
}

/// Words of lanes to lanes of words, big-endian.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(mut rows: [V; 16]) -> [V; 16] {
    let mut mixed = [_mm512_setzero_si512(); 16];
    for pair in 0..8 {
        let (x, y) = (rows[2 * pair], rows[2 * pair + 1]);
        mixed[2 * pair] = _mm512_unpacklo_epi32(x, y);
        mixed[2 * pair + 1] = _mm512_unpackhi_epi32(x, y);
    }
    // After this a quarter of row 4 * i + j holds word j, counted from its own start, of the lanes 4 * i to 4 * i + 3.
    for four in 0..4 {
        let at = 4 * four;
        rows[at] = _mm512_unpacklo_epi64(mixed[at], mixed[at + 2]);
        rows[at + 1] = _mm512_unpackhi_epi64(mixed[at], mixed[at + 2]);
        rows[at + 2] = _mm512_unpacklo_epi64(mixed[at + 1], mixed[at + 3]);
        rows[at + 3] = _mm512_unpackhi_epi64(mixed[at + 1], mixed[at + 3]);
    }
    for word in 0..4 {
        let (x, y, z, u) = (rows[word], rows[4 + word], rows[8 + word], rows[12 + word]);
        let even = (_mm512_shuffle_i32x4::<0x88>(x, y), _mm512_shuffle_i32x4::<0x88>(z, u));
        let odd = (_mm512_shuffle_i32x4::<0xdd>(x, y), _mm512_shuffle_i32x4::<0xdd>(z, u));
        mixed[word] = _mm512_shuffle_i32x4::<0x88>(even.0, even.1);
        mixed[4 + word] = _mm512_shuffle_i32x4::<0x88>(odd.0, odd.1);
        mixed[8 + word] = _mm512_shuffle_i32x4::<0xdd>(even.0, even.1);
        mixed[12 + word] = _mm512_shuffle_i32x4::<0xdd>(odd.0, odd.1);
    }
    let swap = _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3));
    for row in &mut mixed {
        *row = _mm512_shuffle_epi8(*row, swap);
    }
    mixed
}
