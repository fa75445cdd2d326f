//! What sixteen blocks of 16 KiB cost to hash side by side, and one alone.
#![allow(missing_docs)]

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use obt_digest::{LANES, Sha1, Sha256, digest_each};

const BLOCK: usize = 16 << 10;

fn main() {
    divan::main();
}

/// The operations that are measured: functions of their own, so that callgrind sees where each begins and ends.
mod work {
    use super::*;

    #[inline(never)]
    pub(super) fn sixteen_by_sha1(blocks: &[&[u8]]) {
        black_box(digest_each::<Sha1>(blocks));
    }

    #[inline(never)]
    pub(super) fn sixteen_by_sha256(blocks: &[&[u8]]) {
        black_box(digest_each::<Sha256>(blocks));
    }

    #[inline(never)]
    pub(super) fn one_by_sha1(blocks: &[&[u8]]) {
        assert_eq!(black_box(digest_each::<Sha1>(blocks)).len(), 1);
    }

    #[inline(never)]
    pub(super) fn one_by_sha256(blocks: &[&[u8]]) {
        assert_eq!(black_box(digest_each::<Sha256>(blocks)).len(), 1);
    }
}

fn run(bencher: Bencher<'_, '_>, count: usize, work: fn(&[&[u8]])) {
    let data: Vec<u8> = (0..count * BLOCK).map(|at| (at * 31 + at / 77) as u8).collect();
    let blocks: Vec<&[u8]> = data.chunks(BLOCK).collect();
    bencher.counter(BytesCount::new(data.len())).bench_local(|| work(black_box(&blocks)));
}

#[divan::bench]
fn sixteen_by_sha1(bencher: Bencher<'_, '_>) {
    run(bencher, LANES, work::sixteen_by_sha1);
}

#[divan::bench]
fn sixteen_by_sha256(bencher: Bencher<'_, '_>) {
    run(bencher, LANES, work::sixteen_by_sha256);
}

#[divan::bench]
fn one_by_sha1(bencher: Bencher<'_, '_>) {
    run(bencher, 1, work::one_by_sha1);
}

#[divan::bench]
fn one_by_sha256(bencher: Bencher<'_, '_>) {
    run(bencher, 1, work::one_by_sha256);
}
