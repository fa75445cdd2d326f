//! Hashes of info-hashes and addresses under a random key.
//!
//! Strangers choose info-hashes and ports. Without the key they cannot choose which of them collide in a table or
//! crowd one shard. Two folded multiplications are not a cryptographic hash; they need not be, since no output is told.

use obt_wire::InfoHash;

/// The key of a store: 24 random bytes.
#[derive(Clone, Copy)]
pub(crate) struct HashKey([u64; 3]);

impl HashKey {
    pub(crate) fn new(bytes: [u8; 24]) -> Self {
        // The last word multiplies: odd, so that it loses no bit.
        Self([word(&bytes[..8]), word(&bytes[8..16]), word(&bytes[16..]) | 1])
    }

    pub(crate) fn info_hash(&self, hash: &InfoHash) -> u64 {
        let [first, second, third] = self.0;
        let InfoHash(bytes) = hash;
        let high = fold(word(&bytes[..8]) ^ first, word(&bytes[8..16]) ^ second);
        fold(high ^ word(&bytes[16..]), third)
    }

    pub(crate) fn address<const N: usize>(&self, ip: &[u8; N], port: [u8; 2]) -> u64 {
        let [first, second, third] = self.0;
        let port = u64::from(u16::from_ne_bytes(port)) << 48;
        let (head, tail) = ip.split_at(N.min(8));
        let high = fold(word(head) ^ port ^ first, word(tail) ^ second);
        fold(high ^ port, third)
    }
}

/// Up to 8 bytes as a number; the byte order is the machine's, since no output leaves it.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the product")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u64) -> HashKey {
        let mut rng = fastrand::Rng::with_seed(seed);
        HashKey::new(std::array::from_fn(|_| rng.u8(..)))
    }

    #[test]
    fn neighbours_spread_over_a_small_table() {
        let key = key(7);
        let mut ports = [0u32; 256];
        let mut hashes = [0u32; 256];
        for port in 0..=u16::MAX {
            ports[(key.address(&[10, 0, 0, 1], port.to_be_bytes()) % 256) as usize] += 1;
            let mut hash = InfoHash([0; 20]);
            hash.0[18..].copy_from_slice(&port.to_be_bytes());
            hashes[(key.info_hash(&hash) >> 56) as usize] += 1;
        }
        for count in ports.into_iter().chain(hashes) {
            assert!((150..370).contains(&count), "{count} of 65,536 in one of 256 buckets");
        }
    }

    #[test]
    fn neighbours_spread_over_a_large_table_whatever_the_key() {
        for seed in 0..100 {
            let key = key(seed);
            let mut addresses = vec![0u32; 1 << 14];
            for number in 0..1_u32 << 17 {
                let hash = key.address(&(0x0a00_0000 + number).to_be_bytes(), [0; 2]);
                addresses[(hash >> 32 & 0x3fff) as usize] += 1;
            }
            let most = addresses.into_iter().max().unwrap_or(0);
            assert!(most < 40, "{most} of 131,072 addresses in one of 16,384 buckets, key {seed}");
        }
    }

    #[test]
    fn another_key_gives_other_collisions() {
        let (a, b) = (key(1), key(2));
        assert_ne!(a.info_hash(&InfoHash([3; 20])), b.info_hash(&InfoHash([3; 20])));
        assert_ne!(a.address(&[0; 16], [0, 1]), a.address(&[0; 16], [1, 0]));
    }
}
