//! Magnet links (BEP 9, 53; BEP 52 for v2): parsed, capped and printed.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use data_encoding::{BASE32_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

use crate::ids::{InfoHashes, Sha1Hash, Sha256Hash};
use crate::limits::{MAGNET_BYTES, MAGNET_PEERS, MAGNET_RANGES, PATH_COMPONENT_BYTES, TRACKERS, WEB_SEEDS};
use crate::urls;

/// What `xt=urn:btmh:` begins with: SHA-256, 32 bytes (multihash).
const SHA256_MULTIHASH: &str = "1220";
/// What stands unescaped in a value.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a text is not a magnet link that we can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MagnetError {
    /// It does not begin with `magnet:?`.
    #[error("not a magnet link")]
    NotMagnet,
    /// It is longer than the limit.
    #[error("the magnet link is longer than {MAGNET_BYTES} bytes")]
    TooLong,
    /// A `%` is not followed by two hexadecimal digits, or what it stands for is no text.
    #[error("the magnet link has a malformed escape")]
    Escape,
    /// No `xt` names a torrent.
    #[error("the magnet link has no info-hash")]
    NoHash,
    /// An info-hash has the wrong length or wrong digits.
    #[error("the magnet link has a malformed info-hash")]
    Hash,
    /// Two different info-hashes of the same kind.
    #[error("the magnet link has two info-hashes")]
    TwoHashes,
    /// `so` is not a list of file numbers and ranges.
    #[error("the magnet link has a malformed file selection")]
    Selection,
}

/// What a magnet link says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Magnet {
    /// The torrent. Whether both hashes belong together shows only in the metadata.
    pub hashes: InfoHashes,
    /// What to call it until the metadata is there; unchecked, at most 255 bytes.
    pub name: Option<String>,
    /// Announce URLs, the supported ones only, each a tier of its own.
    pub trackers: Vec<String>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// Addresses of peers (`x.pe`). Whether a local one may be contacted is for the caller to decide.
    pub peers: Vec<SocketAddr>,
    /// Numbers of the files to fetch (BEP 53), sorted, neither touching nor overlapping. Empty means all.
    pub files: Vec<RangeInclusive<u32>>,
}

impl Magnet {
    /// A link to the torrent `hashes` and nothing else.
    #[must_use]
    pub fn new(hashes: InfoHashes) -> Self {
        let (trackers, web_seeds, peers, files) = Default::default();
        Self { hashes, name: None, trackers, web_seeds, peers, files }
    }

    /// Reads a link. What is not understood is skipped; lists are cut at their limits.
    ///
    /// # Errors
    /// Where it names no torrent, or is malformed.
    pub fn parse(text: &str) -> Result<Self, MagnetError> {
        if text.len() > MAGNET_BYTES {
            return Err(MagnetError::TooLong);
        }
        let (scheme, query) = text.split_once('?').ok_or(MagnetError::NotMagnet)?;
        if !scheme.eq_ignore_ascii_case("magnet:") {
            return Err(MagnetError::NotMagnet);
        }
        let mut magnet = Self::new(InfoHashes { v1: None, v2: None });
        let mut trackers = Vec::new();
        let mut web_seeds = Vec::new();
        for (key, value) in query.split('&').filter_map(|field| field.split_once('=')) {
            let decoded = || decode(value);
            match unnumbered(key) {
                "xt" => magnet.topic(&decoded()?)?,
                "dn" => {
                    magnet.name = Some(shortened(decode(&value.replace('+', " "))?)).filter(|name| !name.is_empty())
                }
                "tr" => trackers.push(decoded()?),
                "ws" => web_seeds.push(decoded()?),
                "x.pe" => magnet.peers.extend(decoded()?.parse().ok().filter(plausible)),
                "so" => magnet.files = selection(&decoded()?)?,
                _ => {}
            }
        }
        if magnet.hashes.v1.is_none() && magnet.hashes.v2.is_none() {
            return Err(MagnetError::NoHash);
        }
        magnet.trackers = urls::first(trackers.iter().map(String::as_str), TRACKERS, urls::tracker);
        magnet.web_seeds = urls::first(web_seeds.iter().map(String::as_str), WEB_SEEDS, urls::web_seed);
        magnet.peers.truncate(MAGNET_PEERS);
        Ok(magnet)
    }

    /// Whether the file with this number is to be fetched.
    #[must_use]
    pub fn selects(&self, file: u32) -> bool {
        self.files.is_empty() || self.files.iter().any(|range| range.contains(&file))
    }

    /// Takes one `xt`; other networks' names are skipped.
    fn topic(&mut self, topic: &str) -> Result<(), MagnetError> {
        if let Some(text) = strip(topic, "urn:btih:") {
            return fill(&mut self.hashes.v1, btih(text).ok_or(MagnetError::Hash)?);
        }
        if let Some(text) = strip(topic, "urn:btmh:") {
            return fill(&mut self.hashes.v2, btmh(text).ok_or(MagnetError::Hash)?);
        }
        Ok(())
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("magnet:?")?;
        let v1 = self.hashes.v1.map(|hash| format!("urn:btih:{hash}"));
        let v2 = self.hashes.v2.map(|hash| format!("urn:btmh:{SHA256_MULTIHASH}{}", HEXLOWER.encode(&hash.0)));
        let mut separator = "";
        for topic in v1.into_iter().chain(v2) {
            write!(f, "{separator}xt={topic}")?;
            separator = "&";
        }
        let named = |key, value| format!("&{key}={}", utf8_percent_encode(value, ESCAPED));
        self.name.iter().try_for_each(|name| f.write_str(&named("dn", name)))?;
        self.trackers.iter().try_for_each(|url| f.write_str(&named("tr", url)))?;
        self.web_seeds.iter().try_for_each(|url| f.write_str(&named("ws", url)))?;
        self.peers.iter().try_for_each(|peer| write!(f, "&x.pe={peer}"))?;
        for (at, range) in self.files.iter().enumerate() {
            f.write_str(if at == 0 { "&so=" } else { "," })?;
            write!(f, "{}", range.start())?;
            if range.end() > range.start() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(text: &str) -> Result<Self, MagnetError> {
        Self::parse(text)
    }
}

/// `tr` of `tr.1`: some programs number what stands several times.
fn unnumbered(key: &str) -> &str {
    match key.rsplit_once('.') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => key,
    }
}

fn decode(value: &str) -> Result<String, MagnetError> {
    let mut escapes = value.split('%');
    escapes.next();
    for escape in escapes {
        let digits = escape.as_bytes().get(..2).ok_or(MagnetError::Escape)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(MagnetError::Escape);
        }
    }
    let text = percent_decode_str(value).decode_utf8().map_err(|_| MagnetError::Escape)?;
    if text.contains('\0') { Err(MagnetError::Escape) } else { Ok(text.into_owned()) }
}

fn shortened(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(PATH_COMPONENT_BYTES));
    name
}

fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn fill<T: PartialEq>(slot: &mut Option<T>, hash: T) -> Result<(), MagnetError> {
    if slot.as_ref().is_some_and(|other| *other != hash) {
        return Err(MagnetError::TwoHashes);
    }
    *slot = Some(hash);
    Ok(())
}

fn btih(text: &str) -> Option<Sha1Hash> {
    if text.len() == 32 {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
        return Sha1Hash::from_slice(&bytes);
    }
    text.parse().ok()
}

fn btmh(text: &str) -> Option<Sha256Hash> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.strip_prefix(SHA256_MULTIHASH)?.as_bytes()).ok()?;
    Sha256Hash::from_slice(&bytes)
}

/// Whether something could listen there.
fn plausible(peer: &SocketAddr) -> bool {
    let ip = peer.ip().to_canonical();
    let broadcast = matches!(ip, std::net::IpAddr::V4(ip) if ip.is_broadcast());
    peer.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

fn selection(text: &str) -> Result<Vec<RangeInclusive<u32>>, MagnetError> {
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (file_number(first)?, file_number(last)?);
        if last < first || ranges.len() == MAGNET_RANGES {
            return Err(MagnetError::Selection);
        }
        ranges.push((first, last));
    }
    ranges.sort_unstable();
    let mut merged: Vec<RangeInclusive<u32>> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.end().saturating_add(1) => {
                *before = *before.start()..=last.max(*before.end());
            }
            _ => merged.push(first..=last),
        }
    }
    Ok(merged)
}

fn file_number(text: &str) -> Result<u32, MagnetError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(MagnetError::Selection);
    }
    text.parse().map_err(|_| MagnetError::Selection)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789ABCDEF01234567";

    fn parse(query: &str) -> Result<Magnet, MagnetError> {
        Magnet::parse(&format!("magnet:?{query}"))
    }

    fn with(query: &str) -> Result<Magnet, MagnetError> {
        parse(&format!("xt=urn:btih:{HEX}&{query}"))
    }

    #[test]
    fn a_link_says_what_it_says() {
        let v2 = format!("1220{}", "ab".repeat(32));
        let magnet = with(&format!(
            "xt=urn:btmh:{v2}&dn=a+b%20c&tr=http%3A%2F%2Ft%2Fannounce&tr.1=udp://t:1&ws=http://w/&x.pe=1.2.3.4:5&so=4,0-2"
        ))
        .unwrap();
        assert_eq!(magnet.hashes.v1, Some(HEX.parse().unwrap()));
        assert_eq!(magnet.hashes.v2, Some(Sha256Hash([0xab; 32])));
        assert_eq!(magnet.name.as_deref(), Some("a b c"));
        assert_eq!(magnet.trackers, ["http://t/announce", "udp://t:1"]);
        assert_eq!(magnet.web_seeds, ["http://w/"]);
        assert_eq!(magnet.peers, ["1.2.3.4:5".parse().unwrap()]);
        assert_eq!(magnet.files, [0..=2, 4..=4]);
        assert!(magnet.selects(1) && !magnet.selects(3));
        assert_eq!(magnet.to_string().parse(), Ok(magnet));
    }

    #[test]
    fn g01_info_hashes_of_the_wrong_form_are_errors() {
        assert_eq!(parse(""), Err(MagnetError::NoHash));
        assert_eq!(parse("xt="), Err(MagnetError::NoHash));
        assert_eq!(parse("xt=urn:sha1:abc"), Err(MagnetError::NoHash));
        assert_eq!(Magnet::parse("http://x/?xt=urn:btih:1"), Err(MagnetError::NotMagnet));
        assert_eq!(Magnet::parse("magnet:"), Err(MagnetError::NotMagnet));
        for length in [0, 31, 33, 39, 41] {
            assert_eq!(parse(&format!("xt=urn:btih:{}", "a".repeat(length))), Err(MagnetError::Hash), "{length}");
        }
        assert_eq!(parse(&format!("xt=urn:btih:{}", "x".repeat(40))), Err(MagnetError::Hash));
        assert_eq!(parse(&format!("xt=urn:btih:{}", "1".repeat(32))), Err(MagnetError::Hash));
        let base32 = BASE32_NOPAD.encode(&HEX.parse::<Sha1Hash>().unwrap().0);
        for text in [&base32, &base32.to_lowercase()] {
            assert_eq!(parse(&format!("xt=urn:btih:{text}")), parse(&format!("xt=urn:btih:{HEX}")));
        }
        assert!(Magnet::parse(&format!("MAGNET:?xt=URN:BTIH:{HEX}")).is_ok());
        assert_eq!(with(&format!("xt=urn:btih:{}", "0".repeat(40))), Err(MagnetError::TwoHashes));
    }

    #[test]
    fn g02_multihashes_other_than_sha256_are_errors() {
        assert_eq!(parse(&format!("xt=urn:btmh:1220{}", "a".repeat(63))), Err(MagnetError::Hash));
        assert_eq!(parse(&format!("xt=urn:btmh:1420{}", "a".repeat(64))), Err(MagnetError::Hash));
        assert_eq!(parse("xt=urn:btmh:12"), Err(MagnetError::Hash));
        assert!(parse(&format!("xt=urn:btmh:1220{}", "a".repeat(64))).is_ok());
    }

    #[test]
    fn g03_lists_are_capped_and_impossible_peers_dropped() {
        let many: String =
            (0..1_000).map(|n| format!("&tr=udp://t:{}&ws=http://w/{n}&x.pe=9.9.9.9:{}", n + 1, n + 1)).collect();
        let magnet = with(&many).unwrap();
        assert_eq!((magnet.trackers.len(), magnet.web_seeds.len(), magnet.peers.len()), (100, 20, 50));
        for peer in
            ["[::1]:0", "224.0.0.1:1", "0.0.0.0:1", "255.255.255.255:1", "[ff02::1]:1", "[::ffff:224.0.0.1]:1", "x"]
        {
            assert_eq!(with(&format!("x.pe={peer}")).unwrap().peers, [], "{peer}");
        }
    }

    #[test]
    fn g04_names_are_cut_and_selections_stay_ranges() {
        let name = with(&format!("dn={}", "ü".repeat(500_000))).unwrap().name.unwrap();
        assert_eq!(name.len(), 254);
        assert_eq!(with("dn=").unwrap().name, None);
        assert_eq!(with("so=0-4294967295").unwrap().files, [0..=u32::MAX]);
        assert_eq!(with("so=3,2,0-1,9,8-9,7-4294967295,5").unwrap().files, [0..=3, 5..=5, 7..=u32::MAX]);
        for so in ["5-1", "-1", "1-", "", "+1", "a", "1-2-3", "4294967296", "1,,2"] {
            assert_eq!(with(&format!("so={so}")), Err(MagnetError::Selection), "{so}");
        }
        let many = vec!["1"; 100_000].join(",");
        assert_eq!(with(&format!("so={many}")), Err(MagnetError::Selection));
    }

    #[test]
    fn g05_malformed_escapes_and_huge_links_are_errors() {
        for value in ["%", "a%2", "%ZZ", "%00", "\0", "%+1", "%ff%fe"] {
            assert_eq!(with(&format!("dn={value}")), Err(MagnetError::Escape), "{value}");
        }
        assert_eq!(with("dn=%2541").unwrap().name.as_deref(), Some("%41"));
        assert_eq!(with(&"x".repeat(10 << 20)), Err(MagnetError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            v1 in any::<Option<[u8; 20]>>(), v2 in any::<[u8; 32]>(), name in "[^\0]{1,60}",
            ports in prop::collection::vec(1u16.., 0..4), files in prop::collection::vec(0u32..50, 0..6)
        ) {
            let mut magnet = Magnet::new(InfoHashes { v1: v1.map(Sha1Hash), v2: Some(Sha256Hash(v2)) });
            magnet.name = Some(name);
            magnet.trackers = ports.iter().map(|port| format!("udp://t:{port}/a?b=c&d")).collect();
            magnet.trackers.sort();
            magnet.trackers.dedup();
            magnet.peers = ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
            let numbers: Vec<_> = files.iter().map(u32::to_string).collect();
            magnet.files = if files.is_empty() { Vec::new() } else { selection(&numbers.join(",")).unwrap() };
            prop_assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(magnet:\\?)?(xt=urn:bt[im]h:[0-9a-f%&=-]{0,70}|.{0,20}|so=[0-9,-]{0,12}|&){0,5}") {
            let _ = Magnet::parse(&text);
        }
    }
}
