//! Every kernel that this processor has, against the crates that hash one message.

use proptest::prelude::*;
use sha1::Digest;

use crate::jobs::{Job, Kernel, compress_each_with};
use crate::{Algorithm, Hashers, Message, Sha1, Sha256, digest_each};

fn kernels() -> Vec<Kernel> {
    #[cfg(target_arch = "x86_64")]
    let all = [Kernel::One, Kernel::Pair, Kernel::Avx2, Kernel::Avx512];
    #[cfg(not(target_arch = "x86_64"))]
    let all = [Kernel::One];
    all.into_iter().filter(|kernel| kernel.is_available()).collect()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// The states after whole blocks of `messages`, with one kernel wherever as many messages are left as it has lanes.
fn compressed<A: Algorithm>(messages: &[Vec<u8>], kernel: Kernel) -> Vec<A::Digest> {
    let mut states = vec![A::INITIAL; messages.len()];
    let mut jobs: Vec<_> =
        states.iter_mut().zip(messages).map(|(state, message)| Job { state, blocks: message.as_chunks().0 }).collect();
    compress_each_with::<A>(&mut jobs, |left| {
        let fits = left >= if kernel.lanes() == 2 { 2 } else { 1 };
        if fits { kernel } else { Kernel::One }
    });
    states.iter().map(A::digest).collect()
}

fn every_kernel_agrees<A: Algorithm>(messages: &[Vec<u8>]) {
    let expected = compressed::<A>(messages, Kernel::One);
    for kernel in kernels() {
        assert_eq!(compressed::<A>(messages, kernel), expected, "{kernel:?}");
    }
}

#[test]
fn known_answers() {
    let messages: [&[u8]; 3] = [b"", b"abc", &[b'a'; 1_000_000]];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let sha1: Vec<_> = digest_each::<Sha1>(&messages).iter().map(|digest| hex(digest)).collect();
    assert_eq!(sha1[0], "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    assert_eq!(sha1[1], "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(sha1[2], "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
    let sha256: Vec<_> = digest_each::<Sha256>(&messages).iter().map(|digest| hex(digest)).collect();
    assert_eq!(sha256[0], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(sha256[1], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(sha256[2], "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

#[test]
fn all_lanes_of_every_kernel_agree_with_one() {
    let messages: Vec<_> = (0..40).map(|seed| noise(seed, 16_384)).collect();
    every_kernel_agrees::<Sha1>(&messages);
    every_kernel_agrees::<Sha256>(&messages);
}

#[test]
fn nothing_is_hashed_to_nothing() {
    assert!(digest_each::<Sha1>(&[]).is_empty());
    assert_eq!(Hashers::<Sha256>::new(2).finish().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn kernels_agree_on_messages_of_different_lengths(lengths in proptest::collection::vec(0usize..40, 0..40)) {
        let messages: Vec<_> = lengths.iter().zip(0..).map(|(blocks, seed)| noise(seed, blocks * 64)).collect();
        every_kernel_agrees::<Sha1>(&messages);
        every_kernel_agrees::<Sha256>(&messages);
    }

    #[test]
    fn messages_may_come_in_any_parts(
        lengths in proptest::collection::vec(0usize..600, 1..20),
        cuts in proptest::collection::vec(0usize..200, 0..12),
    ) {
        let messages: Vec<_> = lengths.iter().zip(0..).map(|(length, seed)| noise(seed, *length)).collect();
        let mut sha1 = Hashers::<Sha1>::new(messages.len());
        let mut sha256 = Hashers::<Sha256>::new(messages.len());
        let mut from = 0;
        for cut in cuts.into_iter().chain([usize::MAX / 2]) {
            let part = |message: &Vec<u8>| from.min(message.len())..(from + cut).min(message.len());
            let parts: Vec<_> = messages.iter().map(|message| &message[part(message)]).collect();
            sha1.update(&parts);
            sha256.update(&parts);
            // Beside others, and alone again.
            let mut beside = sha1.into_messages();
            beside.insert(0, Message::default());
            let mut messages = Hashers::from(beside).into_messages();
            messages.remove(0);
            sha1 = Hashers::from(messages);
            from += cut;
        }
        let expected: Vec<[u8; 20]> = messages.iter().map(|message| sha1::Sha1::digest(message).into()).collect();
        prop_assert_eq!(sha1.finish(), expected);
        let expected: Vec<[u8; 32]> = messages.iter().map(|message| sha2::Sha256::digest(message).into()).collect();
        prop_assert_eq!(sha256.finish(), expected);
    }
}
