//! The first 68 bytes of a connection (BEP 3), and the capabilities in them (BEP 5, 6, 10, 52).

use thiserror::Error;

use super::{Handshake, Reserved};
use crate::ids::{InfoHash, PeerId};

/// What every connection begins with: the length of the protocol's name, and the name.
const PROTOCOL: [u8; 20] = *b"\x13BitTorrent protocol";

const EXTENSIONS: (usize, u8) = (5, 0x10);
const DHT: (usize, u8) = (7, 0x01);
const FAST: (usize, u8) = (7, 0x04);
const V2: (usize, u8) = (7, 0x10);

/// The bytes are not a handshake: something else talks on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not the BitTorrent protocol")]
pub struct NotBitTorrent;

impl Reserved {
    fn encode(self) -> [u8; 8] {
        let mut bits = [0; 8];
        let flags = [(self.extensions, EXTENSIONS), (self.dht, DHT), (self.fast, FAST), (self.v2, V2)].into_iter();
        for (_, (byte, mask)) in flags.filter(|(set, _)| *set) {
            bits[byte] |= mask;
        }
        bits
    }

    fn decode(bits: [u8; 8]) -> Self {
        let set = |(byte, mask): (usize, u8)| bits[byte] & mask != 0;
        Self { extensions: set(EXTENSIONS), fast: set(FAST), dht: set(DHT), v2: set(V2) }
    }
}

impl Handshake {
    /// Length, bytes.
    pub const LEN: usize = 68;

    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..20].copy_from_slice(&PROTOCOL);
        bytes[20..28].copy_from_slice(&self.reserved.encode());
        bytes[28..48].copy_from_slice(&self.info_hash.0);
        bytes[48..].copy_from_slice(&self.peer_id.0);
        bytes
    }

    /// What the other side sent. Bits that nobody here knows are ignored.
    ///
    /// # Errors
    /// Where the protocol's name is another one.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, NotBitTorrent> {
        let mut parts = (PROTOCOL, [0; 8], InfoHash::default(), PeerId::default());
        parts.0.copy_from_slice(&bytes[..20]);
        parts.1.copy_from_slice(&bytes[20..28]);
        parts.2.0.copy_from_slice(&bytes[28..48]);
        parts.3.0.copy_from_slice(&bytes[48..]);
        let (protocol, reserved, info_hash, peer_id) = parts;
        if protocol != PROTOCOL {
            return Err(NotBitTorrent);
        }
        Ok(Self { reserved: Reserved::decode(reserved), info_hash, peer_id })
    }

    /// Whether a handshake can begin with these bytes. A connection on which it cannot is closed at once: a browser
    /// or a scanner does not hold its place until the time for handshakes is over.
    #[must_use]
    pub fn can_begin_with(bytes: &[u8]) -> bool {
        let named = bytes.len().min(PROTOCOL.len());
        bytes.get(..named) == PROTOCOL.get(..named)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handshake(reserved: Reserved) -> Handshake {
        Handshake { reserved, info_hash: InfoHash([7; 20]), peer_id: PeerId(*b"-OB0100-abcdefghijkl") }
    }

    #[test]
    fn each_capability_has_its_bit() {
        let bits = |reserved| {
            let bytes = handshake(reserved).encode();
            <[u8; 8]>::try_from(&bytes[20..28]).unwrap()
        };
        let none = Reserved::default();
        assert_eq!(bits(none), [0; 8]);
        assert_eq!(bits(Reserved { extensions: true, ..none }), [0, 0, 0, 0, 0, 0x10, 0, 0]);
        assert_eq!(bits(Reserved { dht: true, ..none }), [0, 0, 0, 0, 0, 0, 0, 0x01]);
        assert_eq!(bits(Reserved { fast: true, ..none }), [0, 0, 0, 0, 0, 0, 0, 0x04]);
        assert_eq!(bits(Reserved { v2: true, ..none }), [0, 0, 0, 0, 0, 0, 0, 0x10]);
    }

    #[test]
    fn w25_only_known_bits_are_read_from_all_bits_set() {
        let all = Reserved { extensions: true, fast: true, dht: true, v2: true };
        let mut bytes = handshake(Reserved::default()).encode();
        bytes[20..28].fill(0xff);
        let decoded = Handshake::decode(&bytes).unwrap();
        assert_eq!(decoded.reserved, all);
        assert_eq!(decoded.encode()[20..28], [0, 0, 0, 0, 0, 0x10, 0, 0x15]);
    }

    #[test]
    fn w02_w03_other_protocols_are_known_by_their_first_bytes() {
        let good = handshake(Reserved::default()).encode();
        for end in 0..=good.len() {
            assert!(Handshake::can_begin_with(&good[..end]));
        }
        for begin in [&b"GET / HTTP/1.1"[..], b"\x16\x03\x01", b"SSH-2.0", b"\x13BitTorrent protocoX", b"\0", b"\xff"] {
            assert!(!Handshake::can_begin_with(begin));
            let mut bytes = good;
            bytes[..begin.len()].copy_from_slice(begin);
            assert_eq!(Handshake::decode(&bytes), Err(NotBitTorrent));
        }
    }

    proptest! {
        #[test]
        fn a_handshake_round_trips(bits: [bool; 4], info_hash: [u8; 20], peer_id: [u8; 20]) {
            let [extensions, fast, dht, v2] = bits;
            let handshake = Handshake {
                reserved: Reserved { extensions, fast, dht, v2 },
                info_hash: InfoHash(info_hash),
                peer_id: PeerId(peer_id),
            };
            prop_assert_eq!(Handshake::decode(&handshake.encode()), Ok(handshake));
        }
    }
}
