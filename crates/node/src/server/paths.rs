//! Names in the paths of requests.
//!
//! An `@` that stands in a path as it is separates the name from a version or hash, one that belongs to the name is
//! written `%40` where it could be misread. `a/../b` is no name, whether its dots are escaped or not.

use obt_catalogue::{HashPrefix, NameArgument, NameError, Selector};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Characters of a name that may stand in a path as they are (RFC 3986 unreserved, and the slash between components).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// Digits of a whole info-hash, v1 and v2.
const WHOLE_HASHES: [usize; 2] = [40, 64];

/// `text`, to be put into a path.
pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// What `raw`, the end of a path as it came, names.
pub(super) fn argument(raw: &str) -> Result<NameArgument, NameError> {
    let split = raw.rsplit_once('@').filter(|(_, end)| !end.contains("%40"));
    if let Some((base, end)) = split
        && let Some(selector) = Selector::parse(end.strip_suffix('/').unwrap_or(end))
    {
        return NameArgument::split(&decoded(base)?, selector);
    }
    let whole = decoded(raw)?;
    // No name ends like a hash, so an escaped @ before one is that of a client which escapes more than it must.
    if let Some((base, hash)) = whole.strip_suffix('/').unwrap_or(&whole).rsplit_once('@')
        && let Some(selector @ Selector::Hash(_)) = Selector::parse(hash)
    {
        return NameArgument::split(base, selector);
    }
    NameArgument::split(&whole, Selector::Newest)
}

/// A name with a whole info-hash, and the path inside it: the form of a web seed, to which clients append the
/// torrent's name and a file's path (BEP 19).
pub(super) fn pinned(raw: &str) -> Result<Option<(NameArgument, String)>, NameError> {
    let signs = raw.match_indices('@').chain(raw.match_indices("%40"));
    for (at, sign) in signs {
        let Some((hash, inner)) = raw[at + sign.len()..].split_once('/') else {
            continue;
        };
        if let Some(prefix) = HashPrefix::parse(hash).filter(|_| WHOLE_HASHES.contains(&hash.len())) {
            let argument = NameArgument::split(&decoded(&raw[..at])?, Selector::Hash(prefix))?;
            return Ok(Some((argument, decoded(inner)?)));
        }
    }
    Ok(None)
}

fn decoded(raw: &str) -> Result<String, NameError> {
    let text = percent_decode_str(raw).decode_utf8().map_err(|_| NameError::Control)?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &str) -> Option<(String, String)> {
        let argument = argument(raw).ok()?;
        Some((argument.base().to_owned(), argument.selector.to_string()))
    }

    fn pair(base: &str, selector: &str) -> Option<(String, String)> {
        Some((base.to_owned(), selector.to_owned()))
    }

    #[test]
    fn an_escaped_at_sign_belongs_to_the_name() {
        assert_eq!(read("a%20b/c@2"), pair("a b/c", "@2"));
        assert_eq!(read("a%402"), pair("a@2", ""));
        assert_eq!(read("a%402@3"), pair("a@2", "@3"));
        assert_eq!(read("a@2%403"), pair("a@2@3", ""));
        assert_eq!(read("user@home"), pair("user@home", ""));
        assert_eq!(read("a@0123456789ab"), pair("a", "@0123456789ab"));
        assert_eq!(read("a%400123456789ab"), pair("a", "@0123456789ab"));
        assert_eq!(read("a/"), pair("a", ""));
        assert_eq!(read("%e6%97%a5"), pair("日", ""));
    }

    #[test]
    fn h08_a06_paths_that_climb_are_no_names() {
        for raw in ["../../etc/passwd", "%2e%2e/", "a/%2e%2e%2fb", "a%00", "%ff", "a//b", "", "/", "a%0d%0a", "."] {
            assert_eq!(read(raw), None, "{raw}");
        }
        assert!(pinned(&format!("a@{}/%ff", "ab".repeat(20))).is_err());
    }

    #[test]
    fn a_web_seed_has_the_hash_before_the_path_inside() {
        let hash = "ab".repeat(32);
        let (argument, inner) = pinned(&format!("a/b@{hash}/b/c%20d")).unwrap().unwrap();
        assert_eq!(
            (argument.base(), argument.selector.to_string(), inner.as_str()),
            ("a/b", format!("@{hash}"), "b/c d")
        );
        assert_eq!(pinned(&format!("a/b%40{hash}/b/c%20d")).unwrap().unwrap().1, "b/c d");
        assert_eq!(pinned(&format!("a/b@{hash}")), Ok(None));
        assert_eq!(pinned("a@abcdefabcdef/b"), Ok(None));
    }
}
