//! The `file tree` of v2 (BEP 52): walked without recursion and without building paths that nobody keeps.

use super::MetainfoError;
use crate::bencode::{Dict, Value};
use crate::files::{PathError, component};
use crate::ids::Sha256Hash;
use crate::limits::PATH_DEPTH;

const INVALID: MetainfoError = MetainfoError::Invalid("file tree");

/// What stands at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    /// `root` is where its root begins in what was decoded.
    File {
        size: u64,
        root: Option<usize>,
    },
    Symlink,
}

/// Calls `visit` with the path and contents of every leaf, in the tree's order.
pub(super) fn walk<'a>(
    tree: Value<'a>,
    mut visit: impl FnMut(&[&'a str], Leaf) -> Result<(), MetainfoError>,
) -> Result<(), MetainfoError> {
    let mut open = vec![tree.as_dict().ok_or(INVALID)?.iter()];
    let mut path = Vec::new();
    while let Some(entries) = open.last_mut() {
        let Some((key, value)) = entries.next() else {
            open.pop();
            path.pop();
            continue;
        };
        // An empty key marks a file: the root cannot be one, and a folder cannot hold one beside others.
        if key.is_empty() {
            return Err(INVALID);
        }
        if path.len() == PATH_DEPTH {
            return Err(PathError::TooDeep.into());
        }
        path.push(component(key)?);
        let dict = value.as_dict().ok_or(INVALID)?;
        match leaf(dict)? {
            Some(leaf) => {
                visit(&path, leaf)?;
                path.pop();
            }
            None => open.push(dict.iter()),
        }
    }
    Ok(())
}

/// The leaf that `dict` is, if it is not a folder.
fn leaf(dict: Dict<'_>) -> Result<Option<Leaf>, MetainfoError> {
    let mut entries = dict.iter();
    let Some((b"", properties)) = entries.next() else {
        return Ok(None);
    };
    if entries.next().is_some() {
        return Err(INVALID);
    }
    let properties = properties.as_dict().ok_or(INVALID)?;
    let attributes = properties.get("attr").and_then(Value::as_bytes).unwrap_or_default();
    if attributes.contains(&b'l') {
        return Ok(Some(Leaf::Symlink));
    }
    // Alignment is built into v2; there is nothing to pad.
    if attributes.contains(&b'p') {
        return Err(INVALID);
    }
    let size = properties.get("length").ok_or(MetainfoError::Missing("length"))?;
    let size = size.as_uint().ok_or(MetainfoError::Invalid("length"))?;
    let root = if size == 0 { None } else { Some(root_at(properties)?) };
    Ok(Some(Leaf::File { size, root }))
}

fn root_at(properties: Dict<'_>) -> Result<usize, MetainfoError> {
    let root = properties.get("pieces root").ok_or(MetainfoError::Missing("pieces root"))?;
    // All zeros is what stands for a missing block: no file can have it.
    root.as_bytes()
        .and_then(Sha256Hash::from_slice)
        .filter(|root| *root != Sha256Hash::default())
        .and_then(|_| root.bytes_at())
        .ok_or(MetainfoError::Invalid("pieces root"))
}
