//! A path inside an item: as people type it, and as the item's torrent spells it.
//!
//! Names have a normal form (NFC), files have not: a torrent holds what its maker's disk held, on a Mac often letters
//! and accents apart. Who types such a path means the file, whichever way the letters come.

use obt_catalogue::names::same_letters;
use obt_wire::file_path::FilePath;
use obt_wire::metainfo::Info;

/// The file or folder of `info` that `typed` means, as the torrent spells it: these very letters, else the first that
/// looks the same. None where there is none, and where there are no paths because the item is one file.
pub(crate) fn spelled(info: &Info, typed: &[String]) -> Option<Vec<String>> {
    if info.single_file {
        return None;
    }
    let mut files = info.files.iter();
    if files.clone().any(|file| file.path.starts_with(typed)) {
        return Some(typed.to_vec());
    }
    let same = files.find(|file| looks_like(&file.path, typed))?;
    Some(same.path.components().take(typed.len()).map(str::to_owned).collect())
}

fn looks_like(path: &FilePath, typed: &[String]) -> bool {
    let mut components = path.components();
    typed.iter().all(|part| components.next().is_some_and(|component| same_letters(component, part)))
}

#[cfg(test)]
mod tests {
    use obt_wire::metainfo::{Draft, Version};

    use super::*;

    const COMPOSED: &str = "\u{e9}";
    const APART: &str = "e\u{301}";

    fn info(files: &[&str]) -> Info {
        let listed: Vec<(&str, u64)> = files.iter().map(|file| (*file, 0)).collect();
        let draft = Draft::folder_of("folder", listed, 16 << 10, Version::V1).unwrap();
        draft.finish(&[], Vec::new()).unwrap().info
    }

    fn read(info: &Info, typed: &str) -> Option<String> {
        let typed: Vec<String> = typed.split('/').map(str::to_owned).collect();
        spelled(info, &typed).map(|path| path.join("/"))
    }

    #[test]
    fn letters_that_are_composed_otherwise_are_found() {
        let info = info(&["a/x", &format!("{APART}/y"), &format!("z{COMPOSED}")]);
        assert_eq!(read(&info, "a"), Some("a".into()));
        assert_eq!(read(&info, &format!("{COMPOSED}/y")), Some(format!("{APART}/y")));
        assert_eq!(read(&info, COMPOSED), Some(APART.into()));
        assert_eq!(read(&info, &format!("z{APART}")), Some(format!("z{COMPOSED}")));
        assert_eq!(read(&info, "e/y"), None);
        assert_eq!(read(&info, &format!("{COMPOSED}/y/z")), None);
    }

    #[test]
    fn of_two_that_look_the_same_the_one_that_was_typed_is_meant() {
        let info = info(&[APART, COMPOSED]);
        assert_eq!(read(&info, COMPOSED), Some(COMPOSED.into()));
        assert_eq!(read(&info, APART), Some(APART.into()));
    }
}
