//! What things are called on disk: final names, the partial folder and what is in it, and names that a file system
//! which folds case cannot keep apart.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use unicode_normalization::UnicodeNormalization;

/// The data inside a partial folder: a file, or the folder of a torrent with several files.
pub const DATA: &str = "data";
/// The torrent inside a partial folder.
pub const METAINFO: &str = "metainfo.torrent";
/// The journal's two slots inside a partial folder, written in turn.
pub const JOURNALS: [&str; 2] = ["journal-a", "journal-b"];
/// Whoever holds the lock on this file inside a partial folder owns the download.
pub const LOCK: &str = "lock";
/// What a pause probes the disk with, inside a partial folder.
pub const PROBE: &str = "probe";

/// Ends the name of every partial folder.
const SUFFIX: &str = ".obt-part";
/// Longest name that common file systems take, bytes.
const NAME_BYTES: usize = 255;
/// Longest extension that is kept when a name is shortened, bytes with the dot: longer ones are no extensions.
const EXTENSION_BYTES: usize = 16;

/// The name under which something called `name` appears: itself, or shortened where no file system takes it.
#[must_use]
pub fn final_name(name: &str) -> Cow<'_, str> {
    shortened(name, NAME_BYTES)
}

/// The name of the folder in which something called `name` is downloaded, beside its final place.
#[must_use]
pub fn partial_folder(name: &str) -> String {
    format!("{}{SUFFIX}", shortened(name, NAME_BYTES - SUFFIX.len()))
}

/// Whether this is the name of a partial folder: what scans a folder for things to share passes over it.
#[must_use]
pub fn is_partial_folder(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

/// `name` in at most `limit` bytes: the same for the same name, its extension kept, a checksum of the whole name in
/// place of what was cut, so that two long names stay apart.
fn shortened(name: &str, limit: usize) -> Cow<'_, str> {
    if name.len() <= limit {
        return Cow::Borrowed(name);
    }
    let extension = name.rfind('.').map_or("", |dot| &name[dot..]);
    let extension = if extension.len() <= EXTENSION_BYTES { extension } else { "" };
    let tail = format!("~{:08x}{extension}", crc32fast::hash(name.as_bytes()));
    let stem = name.floor_char_boundary(limit.saturating_sub(tail.len()));
    Cow::Owned(format!("{}{tail}", &name[..stem]))
}

/// What is at the final path before a download begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A file or folder with every byte that is wanted.
    Same,
    /// A file or folder with other content.
    Different,
    /// A symbolic link, device, pipe or socket, or a folder where a file should be: never written through, never
    /// replaced.
    Foreign,
}

/// What to do about what is at the final path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Download, and take the name at the end.
    Free,
    /// Nothing to download: it is all there.
    Adopt,
    /// Download, and replace what is there at the end.
    Replace,
    /// Tell the user, before anything is fetched.
    Refuse,
}

/// Decides about the final path; `force` is the user's word that other content may go.
#[must_use]
pub fn place(found: Found, force: bool) -> Place {
    match found {
        Found::Nothing => Place::Free,
        Found::Same => Place::Adopt,
        Found::Different if force => Place::Replace,
        Found::Different | Found::Foreign => Place::Refuse,
    }
}

/// A path with everything folded that some file system folds: case (with `ß` like `ss`) and Unicode form.
fn folded(path: &[String]) -> Vec<String> {
    path.iter().map(|part| part.nfc().collect::<String>().to_uppercase().to_lowercase().nfc().collect()).collect()
}

/// New paths for the files that a folding file system would mix up with an earlier one, by their place in `paths`:
/// the first keeps its name, the next become `name (2).ext` and so on. Empty for most torrents.
///
/// A folder that is spelled in two ways becomes one folder there, which mixes nothing up.
#[must_use]
pub fn unfolded<'a>(paths: impl Iterator<Item = &'a [String]> + Clone) -> BTreeMap<usize, Vec<String>> {
    let mut taken: BTreeSet<Vec<String>> = BTreeSet::new();
    for path in paths.clone() {
        let path = folded(path);
        taken.extend((1..path.len()).map(|depth| path[..depth].to_vec()));
    }
    let mut renamed = BTreeMap::new();
    for (at, path) in paths.enumerate() {
        if taken.insert(folded(path)) {
            continue;
        }
        let mut copies = (2u32..).map(|copy| numbered(path, copy));
        if let Some(free) = copies.find(|path| taken.insert(folded(path))) {
            renamed.insert(at, free);
        }
    }
    renamed
}

fn numbered(path: &[String], copy: u32) -> Vec<String> {
    let mut path = path.to_vec();
    if let Some(name) = path.last_mut() {
        let dot = name.rfind('.').filter(|dot| *dot > 0).unwrap_or(name.len());
        *name = shortened(&format!("{} ({copy}){}", &name[..dot], &name[dot..]), NAME_BYTES).into_owned();
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(paths: &[&[&str]]) -> Vec<(usize, String)> {
        let paths: Vec<Vec<String>> =
            paths.iter().map(|path| path.iter().map(|part| (*part).to_owned()).collect()).collect();
        unfolded(paths.iter().map(Vec::as_slice)).into_iter().map(|(at, path)| (at, path.join("/"))).collect()
    }

    #[test]
    fn p03_long_names_are_shortened_the_same_way_each_time_and_keep_their_extension() {
        let exact = format!("{}.mkv", "a".repeat(251));
        assert_eq!(final_name(&exact), exact);
        let partial = partial_folder(&exact);
        assert_eq!(partial.len(), 255);
        assert!(partial.ends_with(".mkv.obt-part"), "{partial}");
        for length in [300, 5_000] {
            let name = format!("{}.tar.gz", "ü".repeat(length));
            let short = final_name(&name);
            assert!(short.len() <= 255 && short.ends_with(".gz"), "{short}");
            assert_eq!(short, final_name(&name));
            assert_ne!(short, final_name(&format!("x{name}")));
            assert!(partial_folder(&name).len() <= 255);
        }
    }

    #[test]
    fn p03_two_long_names_that_end_alike_stay_apart() {
        let one = format!("{}1{}", "a".repeat(300), "b".repeat(300));
        let two = format!("{}2{}", "a".repeat(300), "b".repeat(300));
        assert_ne!(partial_folder(&one), partial_folder(&two));
    }

    #[test]
    fn p08_a_name_that_looks_like_ours_is_only_a_name() {
        assert_eq!(partial_folder("x.obt-part"), "x.obt-part.obt-part");
        assert!(is_partial_folder(&partial_folder("journal-a")));
        assert!(!is_partial_folder("journal-a"));
    }

    #[test]
    fn p05_names_that_differ_only_in_case_or_form_get_numbers() {
        assert_eq!(renamed(&[&["README"], &["readme"]]), [(1, "readme (2)".to_owned())]);
        assert_eq!(renamed(&[&["\u{e9}.txt"], &["e\u{301}.txt"]]), [(1, "e\u{301} (2).txt".to_owned())]);
        assert_eq!(renamed(&[&["stra\u{df}e"], &["STRASSE"]]), [(1, "STRASSE (2)".to_owned())]);
        assert_eq!(renamed(&[&["a", "x"], &["A", "y"]]), []);
        assert_eq!(renamed(&[&["a", "x"], &["A"]]), [(1, "A (2)".to_owned())]);
        assert_eq!(renamed(&[&[".a"], &[".A"], &[".A (2)"]]).len(), 2);
    }

    #[test]
    fn p09_only_ordinary_content_is_ever_replaced() {
        assert_eq!(place(Found::Nothing, false), Place::Free);
        assert_eq!(place(Found::Same, true), Place::Adopt);
        assert_eq!(place(Found::Different, false), Place::Refuse);
        assert_eq!(place(Found::Different, true), Place::Replace);
        assert_eq!(place(Found::Foreign, true), Place::Refuse);
    }
}
