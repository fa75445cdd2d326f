//! Names of items, and how an argument like `shows/s1/e2.mkv@3` is read (DESIGN §2, §3).
//!
//! What is decided here, once: which texts are names; where a version or a hash ends a name; that the exact name wins,
//! then the longest item that is a path prefix. Which names exist, the caller says through a closure.

use std::fmt;
use std::str::FromStr;

use obt_wire::InfoHashes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use unicode_normalization::UnicodeNormalization;

use crate::hex;

/// Longest name, bytes of UTF-8.
pub const NAME_BYTES: usize = 1_024;
/// Most digits of a version after the `@`: all of them fit in `u32`.
const VERSION_DIGITS: usize = 9;
/// Fewest hexadecimal digits of a hash after the `@`: 48 bits.
const HASH_DIGITS: usize = 12;
/// Hexadecimal digits of a whole v2 info-hash.
const HASH_DIGITS_MAX: usize = 64;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// No text at all.
    #[error("a name cannot be empty")]
    Empty,
    /// More than [`NAME_BYTES`].
    #[error("a name cannot be longer than {NAME_BYTES} bytes")]
    TooLong,
    /// `a//b`, `/a`, `a/` or a component of spaces only.
    #[error("a name cannot have an empty part between its slashes")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("a name cannot have `.` or `..` between its slashes")]
    DotComponent,
    /// A character that would act on a terminal.
    #[error("a name cannot hold control characters")]
    Control,
    /// `movie@0123456789ab`: such an end always means the hash of a content.
    #[error("a name cannot end with `@` and {HASH_DIGITS} or more hexadecimal digits: that reads as a hash")]
    EndsLikeHash,
}

/// What an item is shared under.
///
/// Invariants: UTF-8 in NFC, 1 to [`NAME_BYTES`] bytes, no control character; the components between its slashes are
/// neither blank nor `.` nor `..`; it does not end like a hash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name that `text` spells, brought into NFC: the same letters are the same name, whichever way a file system
    /// stores them.
    ///
    /// # Errors
    /// What keeps it from being a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > 3 * NAME_BYTES {
            return Err(NameError::TooLong);
        }
        Self::try_from(text.nfc().collect::<String>())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands after the last slash: the name of the file or folder.
    #[must_use]
    pub fn last_component(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The name whose version this one would be read as, if it ends like a version: `a` of `a@2`.
    #[must_use]
    pub fn reads_as_version_of(&self) -> Option<&str> {
        let (base, selector) = split_selector(&self.0);
        matches!(selector, Selector::Version(_)).then_some(base)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    /// Checks everything but the normal form. Replicas read names of a command through this: which characters compose
    /// may differ between their releases, and must not make them differ.
    fn try_from(text: String) -> Result<Self, NameError> {
        check(&text)?;
        if matches!(split_selector(&text).1, Selector::Hash(_)) {
            return Err(NameError::EndsLikeHash);
        }
        Ok(Self(text))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({:?})", self.0)
    }
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES {
        return Err(NameError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    for component in text.split('/') {
        if component.trim().is_empty() {
            return Err(NameError::EmptyComponent);
        }
        if component == "." || component == ".." {
            return Err(NameError::DotComponent);
        }
    }
    Ok(())
}

/// The beginning of an info-hash, v1 or v2, in lower-case hexadecimal digits: 12 to 64 of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashPrefix(String);

impl HashPrefix {
    /// The prefix that `text` spells, in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (HASH_DIGITS..=HASH_DIGITS_MAX).contains(&text.len());
        (fits && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| Self(text.to_ascii_lowercase()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of these hashes begins like this. A client that was given a hash checks what it is told with it.
    #[must_use]
    pub fn matches(&self, hashes: &InfoHashes) -> bool {
        let v1 = hashes.v1.is_some_and(|hash| hex::encode(&hash.0).starts_with(&self.0));
        v1 || hashes.v2.is_some_and(|hash| hex::encode(&hash.0).starts_with(&self.0))
    }
}

/// Which content of a name is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// The one published last.
    Newest,
    /// This one, counted from 1.
    Version(u32),
    /// The one whose info-hash begins like this.
    Hash(HashPrefix),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => Ok(()),
            Self::Version(number) => write!(f, "@{number}"),
            Self::Hash(prefix) => write!(f, "@{}", prefix.as_str()),
        }
    }
}

impl Selector {
    /// What `text`, which stands after an `@`, selects: up to 9 digits are a version, 12 or more hexadecimal digits a
    /// hash.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() <= VERSION_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().map(Self::Version);
        }
        HashPrefix::parse(text).map(Self::Hash)
    }
}

fn split_selector(text: &str) -> (&str, Selector) {
    let split = text.rsplit_once('@').filter(|(base, _)| !base.is_empty() && !base.ends_with('/'));
    let selected = split.and_then(|(base, end)| Some((base, Selector::parse(end)?)));
    selected.unwrap_or((text, Selector::Newest))
}

/// A NAME as a person types it: perhaps with a version or a hash, perhaps with a path inside the item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameArgument {
    text: String,
    base: String,
    /// `base` before it was brought into NFC: the same slashes, but paths inside an item are spelled as on its disk.
    typed: String,
    /// Whether `text` as a whole may be a name, though it ends like a version.
    literal: bool,
    /// What stands after the last `@`, where that is a version or a hash.
    pub selector: Selector,
}

/// What an argument means, now that it is known which names exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The item.
    pub name: Name,
    /// Which content of it.
    pub selector: Selector,
    /// The file or folder inside the item, `/`-separated, as it was typed: unlike names, files have no normal form.
    /// None is all of the item.
    pub inner: Option<String>,
}

/// Whether two texts are the same letters, however they are composed.
#[must_use]
pub fn same_letters(one: &str, other: &str) -> bool {
    one == other || one.nfc().eq(other.nfc())
}

impl NameArgument {
    /// Splits version or hash from the end. A slash at the end, as shells complete folders, is not part of the name.
    ///
    /// # Errors
    /// Where what remains is no name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > 3 * NAME_BYTES + HASH_DIGITS_MAX {
            return Err(NameError::TooLong);
        }
        let typed = text.strip_suffix('/').unwrap_or(text);
        let text: String = typed.nfc().collect();
        let (base, selector) = split_selector(&text);
        check(base)?;
        let typed = split_selector(typed).0.to_owned();
        Ok(Self { base: base.to_owned(), typed, selector, literal: true, text })
    }

    /// An argument of which it is known where the name ends, as in a URL, where an `@` of the name is escaped.
    ///
    /// # Errors
    /// Where `base` is no name.
    pub fn split(base: &str, selector: Selector) -> Result<Self, NameError> {
        if base.len() > 3 * NAME_BYTES {
            return Err(NameError::TooLong);
        }
        let typed = base.strip_suffix('/').unwrap_or(base).to_owned();
        let base: String = typed.nfc().collect();
        check(&base)?;
        let literal = selector == Selector::Newest;
        Ok(Self { text: format!("{base}{selector}"), base, typed, literal, selector })
    }

    /// The text that means `selector` of `name` to [`parse`](Self::parse), for messages that are to be pasted.
    #[must_use]
    pub fn spell(name: &Name, selector: &Selector) -> String {
        format!("{name}{selector}")
    }

    /// The whole text, version or hash included.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text before version or hash.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What is meant, in the order in which names are tried: the exact text, though it may end like a version; the
    /// text before version or hash; the longest path prefix of that. `exists` says whether an item has this name.
    ///
    /// # Errors
    /// Those of `exists`.
    pub fn read<E>(&self, mut exists: impl FnMut(&Name) -> Result<bool, E>) -> Result<Option<Target>, E> {
        if self.literal
            && let Ok(name) = Name::try_from(self.text.clone())
            && exists(&name)?
        {
            return Ok(Some(Target { name, selector: Selector::Newest, inner: None }));
        }
        let ends = self.base.char_indices().rev().filter(|(_, letter)| *letter == '/').map(|(at, _)| at);
        for end in std::iter::once(self.base.len()).chain(ends) {
            let item = &self.base[..end];
            if let Ok(name) = Name::try_from(item.to_owned())
                && exists(&name)?
            {
                let components = item.split('/').count();
                let inner = self.typed.splitn(components + 1, '/').nth(components).map(str::to_owned);
                return Ok(Some(Target { name, selector: self.selector.clone(), inner }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use obt_wire::{Sha1Hash, Sha256Hash};
    use proptest::prelude::*;

    use super::*;

    fn read(argument: &str, names: &[&str]) -> Option<(String, String, Option<String>)> {
        let argument = NameArgument::parse(argument).unwrap();
        let exists = |name: &Name| Ok::<_, std::convert::Infallible>(names.contains(&name.as_str()));
        let Ok(target) = argument.read(exists);
        target.map(|target| (target.name.to_string(), target.selector.to_string(), target.inner))
    }

    fn target(name: &str, selector: &str, inner: Option<&str>) -> Option<(String, String, Option<String>)> {
        Some((name.to_owned(), selector.to_owned(), inner.map(str::to_owned)))
    }

    #[test]
    fn a_path_inside_stays_as_it_was_typed() {
        let (composed, apart) = ("\u{e9}", "e\u{301}");
        let names = ["\u{e9}/x"];
        assert_eq!(read(&format!("{apart}/x/{apart}/y"), &names), target("\u{e9}/x", "", Some("e\u{301}/y")));
        assert_eq!(read(&format!("{apart}/x/{composed}@2"), &names), target("\u{e9}/x", "@2", Some(composed)));
        assert!(same_letters(composed, apart) && !same_letters(composed, "e"));
    }

    #[test]
    fn names_may_hold_spaces_colons_and_at_signs() {
        for name in ["a", "movie.mkv", "a b/c: d", "user@home", "icon@2x.png", "-rf", "…", "a@", "@2", "日本/語"] {
            assert_eq!(Name::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn q03_what_is_no_name_is_refused() {
        for (text, error) in [
            ("", NameError::Empty),
            (" ", NameError::EmptyComponent),
            ("/etc/passwd", NameError::EmptyComponent),
            ("a//b", NameError::EmptyComponent),
            ("a/", NameError::EmptyComponent),
            ("a/../b", NameError::DotComponent),
            (".", NameError::DotComponent),
            ("a\x1b]0;pwn\x07", NameError::Control),
            ("a\nb", NameError::Control),
            ("a\0", NameError::Control),
            ("a\u{85}b", NameError::Control),
            ("a@0123456789ab", NameError::EndsLikeHash),
        ] {
            assert_eq!(Name::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Name::parse(&"x".repeat(10_000)), Err(NameError::TooLong));
        assert_eq!(Name::parse(&"x".repeat(1_025)), Err(NameError::TooLong));
        assert!(Name::parse(&"x".repeat(1_024)).is_ok());
    }

    #[test]
    fn the_same_letters_are_the_same_name() {
        assert_eq!(Name::parse("e\u{301}te\u{301}").unwrap(), Name::parse("été").unwrap());
    }

    #[test]
    fn up_to_nine_digits_are_a_version_and_twelve_hex_digits_a_hash() {
        for (text, base, selector) in [
            ("movie.mkv@2", "movie.mkv", "@2"),
            ("movie.mkv@123456789", "movie.mkv", "@123456789"),
            ("movie.mkv@1234567890", "movie.mkv@1234567890", ""),
            ("movie.mkv@12345678901", "movie.mkv@12345678901", ""),
            ("movie.mkv@123456789012", "movie.mkv", "@123456789012"),
            ("movie.mkv@ABCDEF012345", "movie.mkv", "@abcdef012345"),
            ("movie.mkv@abcdef", "movie.mkv@abcdef", ""),
            ("a@2@3", "a@2", "@3"),
            ("a@2/b", "a@2/b", ""),
            ("a@", "a@", ""),
            ("@2", "@2", ""),
            ("a@-1", "a@-1", ""),
            ("a@٣", "a@٣", ""),
            ("dir/", "dir", ""),
        ] {
            let argument = NameArgument::parse(text).unwrap();
            assert_eq!((argument.base(), argument.selector.to_string().as_str()), (base, selector), "{text}");
        }
    }

    #[test]
    fn the_exact_name_wins_then_the_longest_prefix() {
        let names = ["shows", "shows/s1", "shows/s1/e1.mkv", "photo@2", "photo"];
        assert_eq!(read("shows/s1/e1.mkv", &names), target("shows/s1/e1.mkv", "", None));
        assert_eq!(read("shows/s1/e2.mkv", &names), target("shows/s1", "", Some("e2.mkv")));
        assert_eq!(read("shows/s2/e2.mkv@3", &names), target("shows", "@3", Some("s2/e2.mkv")));
        assert_eq!(read("shows/", &names), target("shows", "", None));
        assert_eq!(read("photo@2", &names), target("photo@2", "", None));
        assert_eq!(read("photo@3", &names), target("photo", "@3", None));
        assert_eq!(read("showstopper", &names), None);
        assert_eq!(read("photo@0123456789ab", &names), target("photo", "@0123456789ab", None));
    }

    #[test]
    fn a_split_argument_means_the_version_though_a_name_looks_like_it() {
        let exists = |name: &Name| Ok::<_, std::convert::Infallible>(["photo", "photo@2"].contains(&name.as_str()));
        let read = |base: &str, selector: Selector| {
            let Ok(target) = NameArgument::split(base, selector).unwrap().read(exists);
            target.map(|target| (target.name.to_string(), target.selector))
        };
        assert_eq!(read("photo", Selector::Version(2)), Some(("photo".to_owned(), Selector::Version(2))));
        assert_eq!(read("photo@2", Selector::Newest), Some(("photo@2".to_owned(), Selector::Newest)));
        assert_eq!(read("photo@3", Selector::Newest), None);
    }

    #[test]
    fn a_hash_prefix_matches_either_hash() {
        let hashes = InfoHashes { v1: Some(Sha1Hash([0xab; 20])), v2: Some(Sha256Hash([0xcd; 32])) };
        for (text, fits) in [("abababababab", true), ("CDCDCDCDCDCD", true), ("abababababcd", false)] {
            assert_eq!(HashPrefix::parse(text).unwrap().matches(&hashes), fits);
        }
        assert!(HashPrefix::parse(&"ab".repeat(20)).unwrap().matches(&hashes));
        assert!(!HashPrefix::parse(&"ab".repeat(21)).unwrap().matches(&hashes));
        assert_eq!(HashPrefix::parse(&"a".repeat(65)), None);
    }

    proptest! {
        #[test]
        fn every_name_is_reachable_by_its_version(text in "[a-c@/0-9. ]{1,20}", number in 1u32..1_000_000_000) {
            let Ok(name) = Name::parse(&text) else { return Ok(()) };
            let spelled = NameArgument::spell(&name, &Selector::Version(number));
            let argument = NameArgument::parse(&spelled).unwrap();
            prop_assert_eq!(argument.base(), name.as_str());
            prop_assert_eq!(argument.selector, Selector::Version(number));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name));
            }
            let _ = NameArgument::parse(&text);
        }
    }
}
