//! The path of a file in a torrent: checked components, kept as one text for all files together.
//!
//! There may be 200,000 of them. A `String` for each component would be the largest part of a torrent in memory.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::files::{self, PathError};

/// Checked components of a path, at least one; none for what has no path (a pad). Cheap to clone.
///
/// Invariant: `start..end` lies in `text` on borders of characters, and holds the components with `/` between them. No
/// component holds one.
#[derive(Clone, Default)]
pub struct FilePath {
    text: Option<Arc<Box<str>>>,
    start: u32,
    end: u32,
}

impl FilePath {
    /// The path of these components.
    ///
    /// # Errors
    /// Where one is not acceptable, or the whole is too deep or too long.
    pub fn new<'a>(components: impl IntoIterator<Item = &'a str>) -> Result<Self, PathError> {
        let mut text = PathText::default();
        let mut path = text.push(components.into_iter().map(str::as_bytes))?;
        text.share([&mut path]);
        Ok(path)
    }

    /// The components with `/` between them.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.text.as_ref().map_or("", |text| text);
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The components in order.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        components(self.as_str())
    }

    /// The last component: the file's name.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.components().next_back()
    }

    /// Whether these are its first components.
    #[must_use]
    pub fn starts_with(&self, folders: &[impl AsRef<str>]) -> bool {
        let mut components = self.components();
        folders.iter().all(|folder| components.next() == Some(folder.as_ref()))
    }
}

/// The components of a text that has `/` between them; none of an empty one.
pub(crate) fn components(text: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    text.split_terminator('/')
}

impl<T: AsRef<str>> PartialEq<[T]> for FilePath {
    fn eq(&self, other: &[T]) -> bool {
        self.components().eq(other.iter().map(AsRef::as_ref))
    }
}

impl<T: AsRef<str>> PartialEq<Vec<T>> for FilePath {
    fn eq(&self, other: &Vec<T>) -> bool {
        *self == **other
    }
}

impl<T: AsRef<str>, const N: usize> PartialEq<[T; N]> for FilePath {
    fn eq(&self, other: &[T; N]) -> bool {
        *self == other[..]
    }
}

impl PartialEq for FilePath {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for FilePath {}

impl Hash for FilePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// Component by component, the order in which a file tree lists them.
impl Ord for FilePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for FilePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The text of many paths while it grows.
#[derive(Debug, Default)]
pub(crate) struct PathText {
    text: String,
}

impl PathText {
    /// Checks and adds a path; it is empty until the text is [shared](Self::share).
    pub(crate) fn push<'a>(&mut self, components: impl IntoIterator<Item = &'a [u8]>) -> Result<FilePath, PathError> {
        let start = self.text.len();
        let added = files::append_path(&mut self.text, components);
        let range = added.and_then(|()| Ok((offset(start)?, offset(self.text.len())?)));
        let (start, end) = range.inspect_err(|_| self.text.truncate(start))?;
        Ok(FilePath { text: None, start, end })
    }

    /// How many bytes it is.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Gives the text to all the paths that were added to it.
    pub(crate) fn share<'a>(&mut self, paths: impl IntoIterator<Item = &'a mut FilePath>) {
        let text = Arc::new(std::mem::take(&mut self.text).into_boxed_str());
        for path in paths {
            path.text = Some(Arc::clone(&text));
        }
    }
}

fn offset(at: usize) -> Result<u32, PathError> {
    u32::try_from(at).map_err(|_| PathError::PathTooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FilePath {
        FilePath::new(text.split('/')).unwrap()
    }

    #[test]
    fn a_path_is_its_components() {
        let path = path("a/b c/d");
        assert_eq!(path, ["a", "b c", "d"]);
        assert_eq!(path.components().rev().collect::<Vec<_>>(), ["d", "b c", "a"]);
        assert_eq!((path.last(), path.as_str()), (Some("d"), "a/b c/d"));
        assert!(
            path.starts_with(&["a", "b c"]) && path.starts_with(&[] as &[&str]) && path.starts_with(&["a", "b c", "d"])
        );
        assert!(!path.starts_with(&["a", "b"]) && !path.starts_with(&["a", "b c", "d", "e"]));
        assert_eq!(FilePath::default().components().count(), 0);
        assert_eq!(FilePath::default().last(), None);
    }

    #[test]
    fn p01_a_component_that_is_a_path_is_refused() {
        assert_eq!(FilePath::new(["a/b"]), Err(PathError::Separator));
        assert_eq!(FilePath::new(["a", ".."]), Err(PathError::Dots));
        assert_eq!(FilePath::new([]), Err(PathError::Empty));
    }

    #[test]
    fn paths_are_ordered_by_components() {
        let mut paths = ["a.b", "a/c", "a-", "a/b/c", "a"].map(path);
        paths.sort();
        assert_eq!(paths.map(|path| path.as_str().to_owned()), ["a", "a/b/c", "a/c", "a-", "a.b"]);
    }

    #[test]
    fn a_path_that_is_refused_leaves_the_others_as_they_are() {
        let mut text = PathText::default();
        let mut first = text.push([&b"a"[..], b"b"]).unwrap();
        assert_eq!(text.push([&b"c"[..], b".."]), Err(PathError::Dots));
        let mut second = text.push([&b"d"[..]]).unwrap();
        text.share([&mut first, &mut second]);
        assert_eq!((first.as_str(), second.as_str()), ("a/b", "d"));
    }
}
