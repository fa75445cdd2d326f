//! How long the pieces of what we share are: a fixed function of the file sizes.
//!
//! Whoever shares the same files gets the same info-hash, so a change here splits swarms: the vectors in the tests
//! hold for ever.

use crate::geometry::BLOCK_SIZE;
use crate::limits::PIECE_LENGTH;

/// Longest piece that is chosen for the sake of the number of pieces that is aimed at, bytes.
const LONGEST: u32 = 16 << 20;
/// Aimed at: a piece is checked and passed on as a whole, so there should be many, but the metainfo grows with them.
const PIECES_AIMED_AT: u64 = 2_048;
/// Never more than these, whatever the padding.
const PIECES_AT_MOST: u64 = 1 << 20;
/// How many piece hashes there is room for in an info dictionary, 30 MiB.
const ROOM: u64 = 3 << 19;
/// How many piece hashes take the room of a file's description, about 200 bytes in a hybrid with its pad.
const PER_FILE: u64 = 10;
/// Padding of a hybrid may be this part of the files, at most.
const PADDING_PART: u64 = 100;

/// The piece length, bytes, for files of these sizes in bytes.
///
/// A power of two: the shortest of 16 KiB to 16 MiB that makes 2,048 pieces or fewer; for several files then as short
/// as it takes to keep the padding of a hybrid within 1 % of the files, as far as 16 KiB, 2^20 pieces and the largest
/// info dictionary allow.
#[must_use]
pub fn piece_length(sizes: &[u64]) -> u32 {
    let total = sizes.iter().fold(0u64, |total, size| total.saturating_add(*size));
    let mut length = BLOCK_SIZE;
    while length < LONGEST && total.div_ceil(u64::from(length)) > PIECES_AIMED_AT {
        length *= 2;
    }
    while length > BLOCK_SIZE && padding(sizes, length) > total / PADDING_PART {
        length /= 2;
    }
    let files = sizes.len() as u64;
    // A file takes a piece at least, so that longer pieces do not help below this.
    let room = ROOM.saturating_sub(PER_FILE.saturating_mul(files)).max(files.saturating_mul(2));
    while length < PIECE_LENGTH && pieces(sizes, length) > PIECES_AT_MOST.min(room) {
        length *= 2;
    }
    length
}

/// Bytes that fill the files up to piece borders in a hybrid; a single file needs none.
fn padding(sizes: &[u64], length: u32) -> u64 {
    if sizes.len() < 2 {
        return 0;
    }
    let length = u64::from(length);
    sizes.iter().map(|size| (length - size % length) % length).fold(0, u64::saturating_add)
}

fn pieces(sizes: &[u64], length: u32) -> u64 {
    sizes.iter().map(|size| size.div_ceil(u64::from(length))).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const K: u64 = 1 << 10;
    const M: u64 = 1 << 20;
    const G: u64 = 1 << 30;
    const T: u64 = 1 << 40;

    /// Frozen: a vector that changes splits the swarms of everything that was ever shared.
    #[test]
    fn the_vectors_hold_for_ever() {
        let single = [
            (0, 16 * K),
            (1, 16 * K),
            (32 * M, 16 * K),
            (32 * M + 1, 32 * K),
            (64 * M, 32 * K),
            (700_000_000, 512 * K),
            (G, 512 * K),
            (2 * G, M),
            (2 * G + 1, 2 * M),
            (10_000_000_000, 8 * M),
            (32 * G, 16 * M),
            (100 * G, 16 * M),
            (16 * T, 16 * M),
            (16 * T + 1, 32 * M),
            (u64::MAX, 256 * M),
        ];
        for (size, length) in single {
            assert_eq!(u64::from(piece_length(&[size])), length, "{size}");
        }
        let several: [(&[u64], u64); 10] = [
            (&[], 16 * K),
            (&[0, 0], 16 * K),
            (&[G, G], M),
            (&[G, G - 1], M),
            (&[G, G, 1], 2 * M),
            (&[2_000_000_000, 100, 3_000, 50_000_000], M),
            (&[5_000_000; 200], 64 * K),
            (&[1_500; 100_000], 16 * K),
            (&[1_000_000; 20_000], 32 * K),
            (&[1_000_000; 100_000], 256 * K),
        ];
        for (sizes, length) in several {
            assert_eq!(u64::from(piece_length(sizes)), length, "{} files", sizes.len());
        }
        assert_eq!(piece_length(&vec![16 * K; 1 << 20]), 16_384);
        assert_eq!(piece_length(&vec![16 * K + 1; 1 << 20]), 32_768);
    }

    proptest! {
        #[test]
        fn it_is_a_power_of_two_and_keeps_its_promises(sizes in prop::collection::vec(0u64..1 << 36, 0..20)) {
            let length = piece_length(&sizes);
            let total: u64 = sizes.iter().sum();
            prop_assert!(length.is_power_of_two() && (BLOCK_SIZE..=LONGEST).contains(&length));
            prop_assert!(length == BLOCK_SIZE || padding(&sizes, length) <= total / 100);
            prop_assert!(pieces(&sizes, length) <= PIECES_AT_MOST);
            let mut other_order = sizes.clone();
            other_order.reverse();
            prop_assert_eq!(piece_length(&other_order), length);
        }
    }
}
