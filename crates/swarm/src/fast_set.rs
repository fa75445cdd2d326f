//! Which pieces a new peer may have while it is choked (BEP 6, "allowed fast"): the same for all peers of a network, so
//! that nobody gets more by connecting from many addresses.

use std::net::IpAddr;

use obt_wire::{InfoHash, PieceIndex};
use sha1::{Digest, Sha1};

/// Digests that are tried: each has five numbers, and nearly all of them are new where there are more pieces than asked
/// for.
const DIGESTS: usize = 64;

/// Up to `count` of the `pieces` pieces of a torrent for the peer at `ip`, in the order of BEP 6; all of them where there
/// are no more. IPv6, of which BEP 6 does not speak, is cut to the 64 bits that name a network.
pub(crate) fn fast_set(ip: IpAddr, info_hash: InfoHash, pieces: u32, count: usize) -> Vec<PieceIndex> {
    if pieces as usize <= count {
        return (0..pieces).map(PieceIndex).collect();
    }
    let mut seed = match ip.to_canonical() {
        IpAddr::V4(ip) => [&ip.octets()[..3], &[0]].concat(),
        IpAddr::V6(ip) => ip.octets()[..8].to_vec(),
    };
    seed.extend_from_slice(&info_hash.0);
    let mut digest: [u8; 20] = Sha1::digest(&seed).into();
    let mut set = Vec::with_capacity(count);
    for _ in 0..DIGESTS {
        let (numbers, _) = digest.as_chunks::<4>();
        for number in numbers {
            let piece = PieceIndex(u32::from_be_bytes(*number) % pieces);
            if set.len() < count && !set.contains(&piece) {
                set.push(piece);
            }
        }
        if set.len() == count {
            break;
        }
        digest = Sha1::digest(digest).into();
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_bep_6_come_out() {
        let of = |count| {
            let set = fast_set([80, 4, 4, 200].into(), InfoHash([0xaa; 20]), 1_313, count);
            set.into_iter().map(|piece| piece.0).collect::<Vec<_>>()
        };
        assert_eq!(of(7), [1059, 431, 808, 1217, 287, 376, 1188]);
        assert_eq!(of(9), [1059, 431, 808, 1217, 287, 376, 1188, 353, 508]);
    }

    #[test]
    fn a_network_has_one_set_and_a_small_torrent_is_all_of_it() {
        let of = |ip: &str| fast_set(ip.parse().unwrap(), InfoHash([7; 20]), 1_000, 10);
        assert_eq!(of("80.4.4.200"), of("80.4.4.1"));
        assert_eq!(of("::ffff:80.4.4.200"), of("80.4.4.1"));
        assert_ne!(of("80.4.4.200"), of("80.4.5.200"));
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:9::"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        for pieces in [0, 1, 10, 11, 12] {
            let set = fast_set([1, 2, 3, 4].into(), InfoHash([7; 20]), pieces, 10);
            assert_eq!(set.len(), pieces.min(10) as usize);
            assert!(set.iter().all(|piece| piece.0 < pieces));
        }
    }
}
