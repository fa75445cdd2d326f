//! Names of files that strangers chose: which are accepted, which clash, and how they are shown.
//!
//! A path is a list of components, and each is checked here before anybody joins or opens it. Nothing is rewritten:
//! two readers that repair a name differently would end up with different files.

use std::fmt;

use thiserror::Error;

use crate::file_path::components;
use crate::limits::{PATH_BYTES, PATH_COMPONENT_BYTES, PATH_DEPTH};

/// Why a name is not accepted as a path component, or components not as a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// It has no byte, or the path no component.
    #[error("a file name is empty")]
    Empty,
    /// It is `.` or `..`.
    #[error("a file name is '.' or '..'")]
    Dots,
    /// It holds a `/` or a NUL.
    #[error("a file name holds a '/' or a NUL")]
    Separator,
    /// It is not UTF-8.
    #[error("a file name is not UTF-8")]
    NotUtf8,
    /// It is longer than a file system takes.
    #[error("a file name is longer than {PATH_COMPONENT_BYTES} bytes")]
    TooLong,
    /// The path has more components than the limit.
    #[error("a path is deeper than {PATH_DEPTH} folders")]
    TooDeep,
    /// The path is longer than the limit.
    #[error("a path is longer than {PATH_BYTES} bytes")]
    PathTooLong,
}

/// Checks one component as it stands in a torrent.
///
/// # Errors
/// Where it could leave the folder, or no file could have this name.
pub fn component(name: &[u8]) -> Result<&str, PathError> {
    if name.is_empty() {
        return Err(PathError::Empty);
    }
    if name == b"." || name == b".." {
        return Err(PathError::Dots);
    }
    if name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(PathError::Separator);
    }
    if name.len() > PATH_COMPONENT_BYTES {
        return Err(PathError::TooLong);
    }
    std::str::from_utf8(name).map_err(|_| PathError::NotUtf8)
}

/// Checks a path that is given as components, at least one, and appends it to `text` with `/` between them.
///
/// # Errors
/// Where a component is not acceptable, or the whole is too deep or too long; `text` may have got a part of it.
pub(crate) fn append_path<'a>(
    text: &mut String,
    components: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), PathError> {
    let (mut depth, mut bytes) = (0, 0);
    for name in components {
        if depth == PATH_DEPTH {
            return Err(PathError::TooDeep);
        }
        let name = component(name)?;
        bytes += name.len() + 1;
        if depth > 0 {
            text.push('/');
        }
        text.push_str(name);
        depth += 1;
    }
    match bytes {
        0 => Err(PathError::Empty),
        1..=PATH_BYTES => Ok(()),
        _ => Err(PathError::PathTooLong),
    }
}

/// The first path that stands twice in `paths`, or that another one needs as a folder. Components have `/` between them.
#[must_use]
pub fn collision<'a>(paths: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut paths: Vec<&str> = paths.into_iter().collect();
    // Most lists are in order.
    let order = |a: &&str, b: &&str| components(a).cmp(components(b));
    if !paths.is_sorted_by(|a, b| order(a, b).is_le()) {
        paths.sort_unstable_by(order);
    }
    // In this order all paths below a folder follow it directly.
    let below = |folder: &str, path: &str| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let clash = paths.windows(2).find(|pair| matches!(pair, [first, second] if below(first, second)))?;
    clash.first().copied()
}

/// Whether some common system cannot have a file of this name, or has another one for it: names of devices, forbidden
/// characters, dots and spaces at the end.
#[must_use]
pub fn is_portable(name: &str) -> bool {
    const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_uppercase();
    let port = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    let is_port = port.is_some_and(|digit| {
        let mut digits = digit.chars();
        matches!(digits.next(), Some('0'..='9' | '¹' | '²' | '³')) && digits.next().is_none()
    });
    let forbidden = |char: char| matches!(char, '<' | '>' | ':' | '"' | '\\' | '|' | '?' | '*') || char < ' ';
    !is_port && !DEVICES.contains(&stem.as_str()) && !name.contains(forbidden) && !name.ends_with(['.', ' '])
}

/// Shows text of a stranger so that it can neither steer a terminal nor look like other text.
///
/// Control characters, line breaks, marks of text direction and invisible characters come out as `\x1b` or
/// `\u{202e}`. A backslash stays as it is: the result is to be read, not to be parsed.
#[must_use]
pub fn escaped(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// What [`escaped`] gives; write it with `{}`.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(deceives) {
            let (plain, tail) = rest.split_at(at);
            f.write_str(plain)?;
            let mut chars = tail.chars();
            match chars.next() {
                Some(char) if char.is_ascii() => write!(f, "\\x{:02x}", u32::from(char))?,
                Some(char) => write!(f, "\\u{{{:x}}}", u32::from(char))?,
                None => {}
            }
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

/// Characters that move the cursor, change the direction of text, or cannot be seen.
fn deceives(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path<'a>(components: impl IntoIterator<Item = &'a [u8]>) -> Result<String, PathError> {
        let mut text = String::new();
        append_path(&mut text, components).map(|()| text)
    }

    #[test]
    fn p01_components_that_leave_the_folder_are_refused() {
        assert_eq!(component(b".."), Err(PathError::Dots));
        assert_eq!(component(b"."), Err(PathError::Dots));
        assert_eq!(component(b""), Err(PathError::Empty));
        assert_eq!(component(b"/etc/passwd"), Err(PathError::Separator));
        assert_eq!(component(b"a/../../x"), Err(PathError::Separator));
        assert_eq!(component(b"a\0b"), Err(PathError::Separator));
        assert_eq!(component(b"..."), Ok("..."));
        assert_eq!(component("..\\x".as_bytes()), Ok("..\\x"));
        assert_eq!(path([&b"a"[..], b".."]), Err(PathError::Dots));
        assert_eq!(path([]), Err(PathError::Empty));
        assert_eq!(path([&b"a"[..], b"b"]), Ok("a/b".to_owned()));
    }

    #[test]
    fn p02_names_that_are_not_utf8_are_refused_and_lookalikes_stay_what_they_are() {
        assert_eq!(component(b"\xc0\xae\xc0\xae"), Err(PathError::NotUtf8));
        assert_eq!(component(b"\xff\xfe"), Err(PathError::NotUtf8));
        assert_eq!(component("．．".as_bytes()), Ok("．．"));
    }

    #[test]
    fn p03_names_and_paths_have_a_longest_form() {
        assert!(component(&[b'x'; 255]).is_ok());
        assert_eq!(component(&[b'x'; 256]), Err(PathError::TooLong));
        assert!(path(std::iter::repeat_n(&b"x"[..], PATH_DEPTH)).is_ok());
        assert_eq!(path(std::iter::repeat_n(&b"x"[..], 2_000)), Err(PathError::TooDeep));
        assert_eq!(path(std::iter::repeat_n(&[b'x'; 255][..], 17)), Err(PathError::PathTooLong));
    }

    #[test]
    fn p04_names_that_other_systems_lack_are_told() {
        for name in
            ["CON", "aux.txt", "COM¹", "lpt9.tar.gz", "end.", "end ", "f:stream", "a\\b", "..\\..\\x", "C:\\x", "a\tb"]
        {
            assert!(!is_portable(name), "{name}");
        }
        for name in ["CONSOLE", "auxiliary", "COM", "COM10", ".hidden", "übung.txt", "a b"] {
            assert!(is_portable(name), "{name}");
        }
    }

    #[test]
    fn p06_a_file_is_there_once_and_is_no_folder() {
        assert_eq!(collision(["a", "a/b"]), Some("a"));
        assert_eq!(collision(["x/a/b", "x/a-b", "x/a"]), Some("x/a"));
        assert_eq!(collision(["b", "a", "b"]), Some("b"));
        assert_eq!(collision(["a/b", "a.b", "a-b", "ab", "b"]), None);
    }

    #[test]
    fn p07_names_cannot_steer_a_terminal() {
        assert_eq!(escaped("photo\u{202e}gpj.exe").to_string(), "photo\\u{202e}gpj.exe");
        assert_eq!(escaped("a\x1b]0;pwn\x07\nb").to_string(), "a\\x1b]0;pwn\\x07\\x0ab");
        assert_eq!(escaped("x\u{200b}y\u{9b}z").to_string(), "x\\u{200b}y\\u{9b}z");
        assert_eq!(escaped("grüße — 日本 <b>").to_string(), "grüße — 日本 <b>");
    }

    proptest! {
        #[test]
        fn escaped_text_holds_nothing_that_deceives(text in any::<String>()) {
            let shown = escaped(&text).to_string();
            prop_assert!(!shown.contains(deceives));
            if !text.contains(deceives) {
                prop_assert_eq!(shown, text);
            }
        }

        #[test]
        fn collisions_are_those_that_a_comparison_of_all_finds(
            texts in prop::collection::vec("[ab.-]{1,2}(/[ab.-]{1,2}){0,2}", 0..8)
        ) {
            let paths: Vec<Vec<&str>> = texts.iter().map(|text| text.split('/').collect()).collect();
            let clashes = paths.iter().enumerate().any(|(at, first)| {
                paths.iter().enumerate().any(|(other, second)| at != other && second.starts_with(first))
            });
            prop_assert_eq!(collision(texts.iter().map(String::as_str)).is_some(), clashes);
        }
    }
}
