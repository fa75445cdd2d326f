//! Names that a person takes for another one: the same letters in another case, or letters of another script that look
//! the same (HOSTILE Q05).
//!
//! Two names are lookalikes where their [`skeleton`]s are equal. This is a small part of Unicode's table of confusable
//! characters (UTS 39): the letters and digits that are hard to tell apart in common fonts. A warning follows from it and
//! nothing else, so a pair that it misses costs a warning, and one that it finds wrongly costs a line.

use unicode_normalization::UnicodeNormalization;

use crate::error::CatalogueError;
use crate::names::Name;
use crate::query::Reader;

/// Most lookalikes that are named.
const NAMED: u32 = 5;

/// Letters, and what looks like them, in lower case and compatibility form: digits, and letters of Latin, Greek, Cyrillic
/// and Armenian.
const LIKENESSES: [(char, &str); 24] = [
    ('a', "аαɑ"),
    ('b', "ьвβ"),
    ('c', "сϲ"),
    ('d', "ԁ"),
    ('e', "еҽ"),
    ('g', "ɡց"),
    ('h', "һհн"),
    ('j', "ј"),
    ('k', "кκ"),
    ('l', "1i|ıіιӏǀ"),
    ('m', "мϻ"),
    ('n', "ոпη"),
    ('o', "0оοօ"),
    ('p', "рρ"),
    ('q', "ԛզ"),
    ('r', "гᴦ"),
    ('s', "ѕ"),
    ('t', "тτ"),
    ('u', "υս"),
    ('v', "ѵν"),
    ('w', "ԝѡա"),
    ('x', "хχ"),
    ('y', "уүγ"),
    ('z', "ᴢ"),
];

/// What is left of a name when everything is gone that the eye passes over.
pub(crate) fn skeleton(name: &str) -> String {
    let letters = name.nfkc().flat_map(char::to_lowercase).filter(|letter| !is_invisible(*letter));
    let mut skeleton = String::with_capacity(name.len());
    for letter in letters.map(likeness) {
        // Several spaces look like one.
        if !(letter == ' ' && skeleton.ends_with(' ')) {
            skeleton.push(letter);
        }
    }
    skeleton
}

fn likeness(letter: char) -> char {
    if letter.is_whitespace() {
        return ' ';
    }
    let known = LIKENESSES.iter().find(|(_, others)| others.contains(letter));
    known.map_or(letter, |(like, _)| *like)
}

/// Joiners, marks of direction, soft hyphens, variation selectors, and blanks that have no width.
fn is_invisible(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

impl Reader {
    /// Other names with at least one version that look like this one, in their order: the first few.
    ///
    /// # Errors
    /// Those of the file.
    pub fn lookalikes(&self, name: &Name) -> Result<Vec<Name>, CatalogueError> {
        let mut select = self.connection.prepare_cached(
            "SELECT name.name FROM search JOIN name ON name.id = search.id
             WHERE search.skeleton = ?1 AND name.name <> ?2 AND name.newest IS NOT NULL ORDER BY name.name LIMIT ?3",
        )?;
        let names = select.query_map((skeleton(name.as_str()), name.as_str(), NAMED), |row| row.get::<_, String>(0))?;
        names.map(|name| Name::try_from(name?).map_err(|_| CatalogueError::Damaged("a name is not valid"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q05_letters_that_look_alike_have_one_skeleton() {
        for (one, other) in [
            ("Ubuntu 24.04.iso", "ubuntu 24.04.ISO"),
            ("paypal", "раураӏ"),
            ("Movie 10", "Movie lO"),
            ("a b", "a\u{a0}\u{200b} b"),
            ("setup.exe", "ѕеtuр.ехе"),
            ("ｆｕｌｌ", "full"),
            ("no\u{ad}te", "note"),
            ("αβγ", "ΑΒΓ"),
            ("ВАНК", "BAHK"),
        ] {
            assert_eq!(skeleton(one), skeleton(other), "{one:?} and {other:?}");
        }
    }

    #[test]
    fn q05_names_that_a_person_tells_apart_have_skeletons_of_their_own() {
        let names =
            ["a.mkv", "b.mkv", "a.mkv ", "e02", "e03", "Bär", "Bar", "日本", "日木", "", "nota", "note", "season/2"];
        for (at, one) in names.iter().enumerate() {
            for other in &names[at + 1..] {
                assert_ne!(skeleton(one), skeleton(other), "{one:?} and {other:?}");
            }
        }
    }
}
