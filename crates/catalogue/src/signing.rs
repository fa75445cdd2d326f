//! How a publisher proves that a request is its own: Ed25519 over method, path, time, nonce and body (RFC 8032).
//!
//! The secret stays in its file; a request carries the public key, the time, a nonce and the signature in its
//! `Authorization` header, so plain HTTP leaks nothing that could be used again. The caller brings time and randomness.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::hex;

/// How far the signer's clock may be from ours, and so how long a nonce is remembered, milliseconds.
pub const WINDOW_MS: u64 = 5 * 60 * 1_000;
/// Most signed requests that one window can hold: 200 a second. At the bound new ones are refused, since forgetting
/// an old one would let it be replayed.
pub const REPLAYS: usize = 65_536;

/// First word of a key file's line, and its format.
const KEY_FORMAT: &str = "obt-key-v1";
/// The scheme in the `Authorization` header.
const SCHEME: &str = "obt-ed25519";
/// First line of what is signed: a signature made for this purpose is good for no other.
const DOMAIN: &str = "obt-request-v1";

/// Who publishes: an Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(#[serde(with = "hex")] pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = hex::decode(text).ok_or(KeyError::NotPublicKey)?;
        let point = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::NotPublicKey)?;
        if point.is_weak() { Err(KeyError::NotPublicKey) } else { Ok(Self(bytes)) }
    }
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not the content of a key file.
    #[error("not a key file: expected one line, `{KEY_FORMAT}` and 64 hexadecimal digits")]
    NotKeyFile,
    /// Not a public key, or one of the few that sign anything.
    #[error("not a public key: expected the 64 hexadecimal digits that `obt tracker key list` shows")]
    NotPublicKey,
}

/// A publisher's secret and public key. Wiped from memory when dropped; never printed.
#[derive(Clone)]
pub struct Keypair(SigningKey);

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair(public {})", self.public())
    }
}

impl Keypair {
    /// The key pair of this secret: 32 bytes from the system's random source.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The half that others may know.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The content of a key file, secret included: to be written with mode 0600.
    #[must_use]
    pub fn to_file_text(&self) -> String {
        format!("{KEY_FORMAT} {}\n", hex::encode(self.0.as_bytes()))
    }

    /// The key pair in a key file.
    ///
    /// # Errors
    /// [`KeyError::NotKeyFile`] where the text is anything else than [`to_file_text`](Self::to_file_text) makes.
    pub fn from_file_text(text: &str) -> Result<Self, KeyError> {
        let seed = text.trim_end().strip_prefix(KEY_FORMAT).and_then(|rest| rest.strip_prefix(' '));
        let seed: [u8; 32] = seed.and_then(hex::decode).ok_or(KeyError::NotKeyFile)?;
        Ok(Self::from_seed(&seed))
    }

    /// Signs `call`. The nonce is 16 random bytes, new for each request.
    #[must_use]
    pub fn authorize(&self, call: &Call<'_>, nonce: [u8; 16], time_ms: u64) -> Authorization {
        let text = call.string_to_sign(&nonce, time_ms);
        Authorization { key: self.public(), time_ms, nonce, signature: self.0.sign(text.as_bytes()).to_bytes() }
    }
}

/// SHA-256 of a request's body, as [`Call`] wants it.
#[must_use]
pub fn body_digest(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// What a signature covers of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// In capitals.
    pub method: &'a str,
    /// As in the request line, escapes and query included.
    pub path_and_query: &'a str,
    /// See [`body_digest`]; that of no bytes where there is no body.
    pub body_sha256: [u8; 32],
}

impl Call<'_> {
    /// The text that is signed: one line per field, none of which can hold a line end.
    #[must_use]
    pub fn string_to_sign(&self, nonce: &[u8; 16], time_ms: u64) -> String {
        let Self { method, path_and_query, body_sha256 } = self;
        let (nonce, body) = (hex::encode(nonce), hex::encode(body_sha256));
        format!("{DOMAIN}\n{method}\n{path_and_query}\n{time_ms}\n{nonce}\n{body}\n")
    }
}

/// The `Authorization` header of a signed request; its text form is the header's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authorization {
    /// Who signed.
    pub key: PublicKey,
    /// When, by the signer's clock, milliseconds since 1970.
    pub time_ms: u64,
    /// Makes two equal requests differ.
    pub nonce: [u8; 16],
    /// Over [`Call::string_to_sign`].
    pub signature: [u8; 64],
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, time_ms, nonce, signature } = self;
        let (nonce, signature) = (hex::encode(nonce), hex::encode(signature));
        write!(f, "{SCHEME} key={key},time={time_ms},nonce={nonce},signature={signature}")
    }
}

/// Why a request is not taken as signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The header is not one that [`Authorization`] makes.
    #[error("the Authorization header is not a valid `{SCHEME}` one")]
    Malformed,
    /// The signer's clock and ours differ by more than [`WINDOW_MS`].
    #[error("the request was signed {} s {}", .off_ms.unsigned_abs() / 1_000, if *.off_ms > 0 { "in the future" } else { "ago" })]
    OutsideWindow {
        /// The signer's time less ours, milliseconds.
        off_ms: i64,
    },
    /// It does not fit the key, the request or the body.
    #[error("the signature does not match the request")]
    Mismatch,
    /// The same request was seen before.
    #[error("this signed request was used before")]
    Replayed,
    /// More than [`REPLAYS`] in one window.
    #[error("too many signed requests in the last minutes")]
    TooMany,
}

impl FromStr for Authorization {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        parse_authorization(text).ok_or(SignatureError::Malformed)
    }
}

fn parse_authorization(text: &str) -> Option<Authorization> {
    let mut fields = text.strip_prefix(SCHEME)?.strip_prefix(' ')?.split(',').map(|field| field.trim().split_once('='));
    let mut next = |wanted: &str| fields.next().flatten().filter(|(name, _)| *name == wanted).map(|(_, value)| value);
    let key = PublicKey(hex::decode(next("key")?)?);
    let time = next("time")?;
    let time_ms = time.bytes().all(|byte| byte.is_ascii_digit()).then(|| time.parse().ok())??;
    let nonce = hex::decode(next("nonce")?)?;
    let signature = hex::decode(next("signature")?)?;
    fields.next().is_none().then_some(Authorization { key, time_ms, nonce, signature })
}

impl Authorization {
    /// Checks time and signature. Whether the request was seen before is for [`ReplayGuard::admit`] to say.
    ///
    /// # Errors
    /// [`SignatureError::OutsideWindow`] or [`SignatureError::Mismatch`].
    pub fn verify(&self, call: &Call<'_>, now_ms: u64) -> Result<(), SignatureError> {
        if self.time_ms.abs_diff(now_ms) > WINDOW_MS {
            let off = i128::from(self.time_ms) - i128::from(now_ms);
            let off_ms = i64::try_from(off).unwrap_or(i64::MAX);
            return Err(SignatureError::OutsideWindow { off_ms });
        }
        let key = VerifyingKey::from_bytes(&self.key.0).map_err(|_| SignatureError::Mismatch)?;
        let text = call.string_to_sign(&self.nonce, self.time_ms);
        key.verify_strict(text.as_bytes(), &Signature::from_bytes(&self.signature))
            .map_err(|_| SignatureError::Mismatch)
    }

    /// The id of the command that this request makes: the same request, replayed to a restarted tracker or to another
    /// member of the cluster, has no second effect.
    #[must_use]
    pub fn command_id(&self) -> [u8; 16] {
        let mut hasher = Sha256::new();
        hasher.update(self.key.0);
        hasher.update(self.time_ms.to_be_bytes());
        hasher.update(self.nonce);
        let digest: [u8; 32] = hasher.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        id
    }
}

/// The signed requests of the last [`WINDOW_MS`], so that none counts twice.
///
/// Invariant: at most [`REPLAYS`] entries; everything that [`Authorization::verify`] would still take is in it if it
/// was admitted.
#[derive(Debug, Default)]
pub struct ReplayGuard {
    seen: BTreeSet<(u64, PublicKey, [u8; 16])>,
}

impl ReplayGuard {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request that was verified. Call it for keys that may publish only: strangers must not fill it.
    ///
    /// # Errors
    /// [`SignatureError::Replayed`] or [`SignatureError::TooMany`].
    pub fn admit(&mut self, signed: &Authorization, now_ms: u64) -> Result<(), SignatureError> {
        let oldest = now_ms.saturating_sub(WINDOW_MS);
        self.seen = self.seen.split_off(&(oldest, PublicKey([0; 32]), [0; 16]));
        let entry = (signed.time_ms, signed.key, signed.nonce);
        if self.seen.contains(&entry) {
            return Err(SignatureError::Replayed);
        }
        if self.seen.len() >= REPLAYS {
            return Err(SignatureError::TooMany);
        }
        self.seen.insert(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000_000;

    fn keypair() -> Keypair {
        Keypair::from_seed(&[7; 32])
    }

    fn call(path: &str) -> Call<'_> {
        Call { method: "PUT", path_and_query: path, body_sha256: body_digest(b"body") }
    }

    #[test]
    fn a_key_file_round_trips_and_anything_else_is_refused() {
        let text = keypair().to_file_text();
        assert_eq!(Keypair::from_file_text(&text).unwrap().public(), keypair().public());
        for bad in ["", "obt-key-v1", "obt-key-v1 07", "obt-key-v2 0707", &text[1..], &format!("{text}{text}")] {
            assert_eq!(Keypair::from_file_text(bad).unwrap_err(), KeyError::NotKeyFile, "{bad:?}");
        }
    }

    #[test]
    fn a_secret_is_not_in_the_debug_form() {
        assert!(!format!("{:?}", keypair()).contains("0707"));
    }

    #[test]
    fn the_public_key_is_that_of_rfc_8032() {
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(Keypair::from_seed(&seed).public().to_string(), public);
        assert_eq!(public.parse::<PublicKey>().unwrap().to_string(), public);
    }

    #[test]
    fn keys_that_sign_anything_are_no_publishers() {
        let identity = format!("01{}", "00".repeat(31));
        assert_eq!(identity.parse::<PublicKey>(), Err(KeyError::NotPublicKey));
    }

    #[test]
    fn a_signed_request_passes_its_header_and_verifies() {
        let signed = keypair().authorize(&call("/api/v1/items/a%20b"), [3; 16], NOW);
        let header = signed.to_string();
        assert_eq!(header.parse::<Authorization>().unwrap(), signed);
        assert_eq!(signed.verify(&call("/api/v1/items/a%20b"), NOW + 1_000), Ok(()));
    }

    #[test]
    fn q04_any_change_of_the_request_breaks_the_signature() {
        let signed = keypair().authorize(&call("/a"), [3; 16], NOW);
        let check = |signed: Authorization, call: Call<'_>| signed.verify(&call, NOW);
        assert_eq!(check(signed, call("/b")), Err(SignatureError::Mismatch));
        assert_eq!(check(signed, Call { method: "DELETE", ..call("/a") }), Err(SignatureError::Mismatch));
        assert_eq!(
            check(signed, Call { body_sha256: body_digest(b"other"), ..call("/a") }),
            Err(SignatureError::Mismatch)
        );
        assert_eq!(check(Authorization { time_ms: NOW + 1, ..signed }, call("/a")), Err(SignatureError::Mismatch));
        assert_eq!(check(Authorization { nonce: [4; 16], ..signed }, call("/a")), Err(SignatureError::Mismatch));
        let other = Keypair::from_seed(&[8; 32]).public();
        assert_eq!(check(Authorization { key: other, ..signed }, call("/a")), Err(SignatureError::Mismatch));
    }

    #[test]
    fn q04_old_and_future_requests_are_refused() {
        let signed = keypair().authorize(&call("/a"), [3; 16], NOW);
        let late = signed.verify(&call("/a"), NOW + WINDOW_MS + 1_000).unwrap_err();
        assert_eq!(late.to_string(), "the request was signed 301 s ago");
        let early = signed.verify(&call("/a"), NOW - WINDOW_MS - 1_000).unwrap_err();
        assert_eq!(early.to_string(), "the request was signed 301 s in the future");
        let forever = keypair().authorize(&call("/a"), [3; 16], u64::MAX);
        assert!(matches!(forever.verify(&call("/a"), NOW), Err(SignatureError::OutsideWindow { .. })));
    }

    #[test]
    fn q04_a_replay_is_refused_as_long_as_it_would_verify() {
        let mut guard = ReplayGuard::new();
        let signed = keypair().authorize(&call("/a"), [3; 16], NOW);
        assert_eq!(guard.admit(&signed, NOW), Ok(()));
        assert_eq!(guard.admit(&signed, NOW + WINDOW_MS), Err(SignatureError::Replayed));
        let again = keypair().authorize(&call("/a"), [4; 16], NOW);
        assert_eq!(guard.admit(&again, NOW), Ok(()));
        assert_ne!(signed.command_id(), again.command_id());
    }

    #[test]
    fn the_guard_is_bounded_and_forgets_what_no_longer_verifies() {
        let mut guard = ReplayGuard::new();
        let mut signed = keypair().authorize(&call("/a"), [0; 16], NOW);
        for number in 0..REPLAYS as u64 {
            signed.nonce[..8].copy_from_slice(&number.to_be_bytes());
            assert_eq!(guard.admit(&signed, NOW), Ok(()));
        }
        signed.nonce = [0xff; 16];
        assert_eq!(guard.admit(&signed, NOW), Err(SignatureError::TooMany));
        signed.time_ms = NOW + WINDOW_MS + 1;
        assert_eq!(guard.admit(&signed, NOW + WINDOW_MS + 1), Ok(()));
    }

    #[test]
    fn a01_malformed_headers_are_refused() {
        let good = keypair().authorize(&call("/a"), [3; 16], NOW).to_string();
        for bad in [
            String::new(),
            "Basic YTpi".to_owned(),
            good.replace("obt-ed25519 ", "obt-ed25519"),
            good.replace("time=", "time=+"),
            good.replace("nonce=", "nonce=0"),
            good.replace("key=", "key=zz"),
            format!("{good},more=1"),
            good[..good.len() - 1].to_owned(),
        ] {
            assert_eq!(bad.parse::<Authorization>(), Err(SignatureError::Malformed), "{bad}");
        }
    }
}
