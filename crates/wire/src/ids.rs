//! The hashes and ids that name things on the wire: info-hashes, piece hashes, peer ids.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use thiserror::Error;

/// A text that is not the hexadecimal form of an id of the wanted length.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct ParseIdError {
    /// How many digits the id has.
    pub expected: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The id that `bytes` spell, if there are exactly [`Self::LEN`] of them.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The raw bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or(ParseIdError { expected: 2 * $len })
            }
        }
    };
}

id!(
    /// A SHA-1 digest: a v1 info-hash or the hash of a v1 piece (BEP 3).
    Sha1Hash, 20
);
id!(
    /// A SHA-256 digest: a v2 info-hash, a merkle root or node (BEP 52).
    Sha256Hash, 32
);
id!(
    /// What names a swarm in handshakes and announces: the v1 info-hash, or the first 20 bytes of the v2 one (BEP 52).
    InfoHash, 20
);
id!(
    /// A peer's name for itself (BEP 20).
    PeerId, 20
);

impl From<Sha1Hash> for InfoHash {
    fn from(hash: Sha1Hash) -> Self {
        Self(hash.0)
    }
}

impl From<Sha256Hash> for InfoHash {
    fn from(hash: Sha256Hash) -> Self {
        let mut short = [0; 20];
        short.copy_from_slice(&hash.0[..20]);
        Self(short)
    }
}

/// The info-hashes of one torrent. Invariant: at least one is there; a hybrid has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHashes {
    /// SHA-1 of the info dictionary, for v1 and hybrid torrents.
    pub v1: Option<Sha1Hash>,
    /// SHA-256 of the info dictionary, for v2 and hybrid torrents.
    pub v2: Option<Sha256Hash>,
}

impl InfoHashes {
    /// The names of the swarm, the one to use first in front: v1 of a hybrid, since stock clients meet there.
    pub fn short(&self) -> impl Iterator<Item = InfoHash> + use<> {
        let v1 = self.v1.map(InfoHash::from);
        let v2 = self.v2.map(InfoHash::from);
        v1.into_iter().chain(v2)
    }

    /// The first of [`short`](Self::short): what our own peers key a torrent by.
    #[must_use]
    pub fn primary(&self) -> InfoHash {
        self.short().next().unwrap_or_default()
    }

    /// Whether `hash` is one of this torrent's names.
    #[must_use]
    pub fn contains(&self, hash: InfoHash) -> bool {
        self.short().any(|own| own == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_in_either_case() {
        let hash = Sha1Hash([0xab; 20]);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        assert!("ab".parse::<Sha1Hash>().is_err());
        assert!("zz".repeat(20).parse::<Sha1Hash>().is_err());
    }

    #[test]
    fn a_hybrid_answers_to_both_of_its_names() {
        let hashes = InfoHashes { v1: Some(Sha1Hash([1; 20])), v2: Some(Sha256Hash([2; 32])) };
        assert_eq!(hashes.primary(), InfoHash([1; 20]));
        assert!(hashes.contains(InfoHash([2; 20])));
        assert!(!hashes.contains(InfoHash([3; 20])));
    }
}
