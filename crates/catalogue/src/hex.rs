//! Fixed-length bytes as lower-case hexadecimal text, for serde and for headers.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// The bytes that `text` spells in either case, if there are exactly `N` of them.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// The lower-case form.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// For `#[serde(with = "hex")]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&encode(bytes))
}

/// For `#[serde(with = "hex")]`.
///
/// # Errors
/// Where the text is not `2 * N` hexadecimal digits.
pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    decode(&text).ok_or_else(|| D::Error::custom(format_args!("expected {} hexadecimal digits", 2 * N)))
}

/// For the two hashes of a torrent, each of which may be absent.
pub(crate) mod hashes {
    use obt_wire::{InfoHashes, Sha1Hash, Sha256Hash};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Form {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        v1: Option<Bytes<20>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        v2: Option<Bytes<32>>,
    }

    #[derive(Serialize, Deserialize)]
    struct Bytes<const N: usize>(#[serde(with = "super")] [u8; N]);

    pub(crate) fn serialize<S: Serializer>(hashes: &InfoHashes, serializer: S) -> Result<S::Ok, S::Error> {
        let InfoHashes { v1, v2 } = hashes;
        Form { v1: v1.map(|hash| Bytes(hash.0)), v2: v2.map(|hash| Bytes(hash.0)) }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<InfoHashes, D::Error> {
        let Form { v1, v2 } = Form::deserialize(deserializer)?;
        Ok(InfoHashes { v1: v1.map(|hash| Sha1Hash(hash.0)), v2: v2.map(|hash| Sha256Hash(hash.0)) })
    }
}

/// For the hashes of several torrents.
pub(crate) mod hashes_of_many {
    use obt_wire::InfoHashes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct One(#[serde(with = "super::hashes")] InfoHashes);

    pub(crate) fn serialize<S: Serializer>(hashes: &[InfoHashes], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(hashes.iter().map(|hashes| One(*hashes)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<InfoHashes>, D::Error> {
        Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|one| one.0).collect())
    }
}

/// For the name of a swarm.
pub(crate) mod swarm {
    use obt_wire::InfoHash;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(hash: &InfoHash, serializer: S) -> Result<S::Ok, S::Error> {
        super::serialize(&hash.0, serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<InfoHash, D::Error> {
        super::deserialize(deserializer).map(InfoHash)
    }
}
