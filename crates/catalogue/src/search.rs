//! Finding names by what a person remembers of them.
//!
//! A name is found when every word of the search text stands somewhere in it, in any order, with case and accents
//! ignored. Words are text, never syntax: they reach SQL as parameters and the index as quoted strings. The index is
//! one of trigrams; a shorter word stands for the trigrams that begin with it.

use data_encoding::BASE64URL_NOPAD;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

use crate::error::{CatalogueError, QueryError};
use crate::names::NAME_BYTES;
use crate::query::{ENTRY, Entry, PAGE, Page, Reader, read_entry};

/// Longest search text, bytes.
pub const QUERY_BYTES: usize = 256;
/// Shortest word that a trigram index can find, characters.
const GRAM: usize = 3;
/// From this many matches on it is quicker to walk the names in order until a page is full than to sort the matches.
const COMMON: i64 = 4_000;
/// Most trigrams that a short word may stand for before it counts as common.
const TERMS: usize = 200;
/// Bytes of checksum at the end of a cursor.
const CHECKSUM: usize = 8;

/// Lower case, compatibility forms and the accents of Latin, Greek and Cyrillic letters removed.
pub(crate) fn fold(text: &str) -> String {
    text.nfkd().filter(|letter| !('\u{300}'..='\u{36f}').contains(letter)).flat_map(char::to_lowercase).collect()
}

/// What the index holds of a name: with two spaces at the end, every character of the name begins a trigram.
pub(crate) fn indexed(name: &str) -> String {
    fold(name) + "  "
}

fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = fold(text).split_whitespace().map(str::to_owned).collect();
    words.sort_unstable();
    words.dedup();
    words
}

impl Reader {
    /// The newest versions of all items whose name matches `text`, in the order of their names: up to `limit` (1 to
    /// 100) of those after `cursor`. No text matches all.
    ///
    /// # Errors
    /// [`QueryError::TooLong`]; [`QueryError::Cursor`] where the cursor comes from another search or from nowhere.
    pub fn search(&self, text: &str, cursor: Option<&str>, limit: u32) -> Result<Page, QueryError> {
        if text.len() > QUERY_BYTES {
            return Err(QueryError::TooLong);
        }
        let words = words(text);
        let after = cursor.map(|cursor| read_cursor(cursor, &words).ok_or(QueryError::Cursor)).transpose()?;
        if text.contains(char::is_control) {
            return Ok(Page::default());
        }
        let limit = limit.clamp(1, PAGE) as usize;
        let after = after.as_deref().unwrap_or("");
        let mut entries = self.snapshot(|reader| matching(&reader.connection, &words, after, limit + 1))?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        let last = entries.last().filter(|_| more);
        let cursor = last.map(|entry| write_cursor(entry.name.as_str(), &words));
        Ok(Page { entries, cursor })
    }
}

fn matching(
    connection: &Connection,
    words: &[String],
    after: &str,
    limit: usize,
) -> Result<Vec<Entry>, CatalogueError> {
    let mut rare = Vec::new();
    let mut common = Vec::new();
    for word in words {
        match expression(connection, word)? {
            Frequency::Never => return Ok(Vec::new()),
            Frequency::Rare(expression) => rare.push(expression),
            Frequency::Common => common.push(word),
        }
    }
    let expression = rare.join(" AND ");
    let mut parameters = vec![Value::from(after.to_owned()), Value::from(i64::try_from(limit).unwrap_or(i64::MAX))];
    let (tables, found, looked_for) = if !rare.is_empty() && !is_common(connection, &expression)? {
        parameters.push(Value::from(expression));
        ("search_grams CROSS JOIN name ON name.id = search_grams.rowid", "search_grams MATCH ?3", common)
    } else {
        ("name", "TRUE", words.iter().collect())
    };
    let mut condition = String::new();
    for word in looked_for {
        parameters.push(Value::from(word.clone()));
        condition.push_str(&format!(" AND instr(search.folded, ?{})", parameters.len()));
    }
    let mut select = connection.prepare_cached(&format!(
        "SELECT {ENTRY} FROM {tables}
         CROSS JOIN search ON search.id = name.id
         CROSS JOIN version ON version.name = name.id AND version.number = name.newest
         WHERE {found} AND name.name > ?1{condition} ORDER BY name.name LIMIT ?2"
    ))?;
    select.query_map(params_from_iter(parameters), read_entry)?.map(|entry| entry?).collect()
}

/// How a word can be looked up.
enum Frequency {
    /// No name holds it.
    Never,
    /// By this expression of the index.
    Rare(String),
    /// In the names themselves: it stands for so much of the index that looking there is the longer way.
    Common,
}

fn expression(connection: &Connection, word: &str) -> Result<Frequency, CatalogueError> {
    if word.chars().count() >= GRAM {
        return Ok(Frequency::Rare(quoted(word)));
    }
    let mut select = connection.prepare_cached("SELECT term, doc FROM search_terms WHERE term BETWEEN ?1 AND ?2")?;
    let mut rows = select.query((word, format!("{word}{}", char::MAX)))?;
    let (mut terms, mut matches) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        terms.push(quoted(&row.get::<_, String>(0)?));
        matches += row.get::<_, i64>(1)?;
        if terms.len() > TERMS || matches >= COMMON {
            return Ok(Frequency::Common);
        }
    }
    if terms.is_empty() { Ok(Frequency::Never) } else { Ok(Frequency::Rare(format!("({})", terms.join(" OR ")))) }
}

/// A string of the index's query language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn is_common(connection: &Connection, expression: &str) -> Result<bool, CatalogueError> {
    let mut select = connection
        .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM search_grams WHERE search_grams MATCH ?1 LIMIT ?2)")?;
    Ok(select.query_row((expression, COMMON), |row| row.get::<_, i64>(0))? >= COMMON)
}

/// A cursor is the last name of a page and a checksum of it and the search: enough to tell a mangled one, and one
/// that belongs to another list. It opens nothing that cannot be asked for directly, so it needs no secret.
fn write_cursor(name: &str, words: &[String]) -> String {
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend_from_slice(&checksum(name.as_bytes(), words));
    BASE64URL_NOPAD.encode(&bytes)
}

fn read_cursor(cursor: &str, words: &[String]) -> Option<String> {
    if cursor.len() > 2 * NAME_BYTES {
        return None;
    }
    let bytes = BASE64URL_NOPAD.decode(cursor.as_bytes()).ok()?;
    let (name, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    (checksum(name, words) == sum).then(|| String::from_utf8(name.to_vec()).ok())?
}

fn checksum(name: &[u8], words: &[String]) -> [u8; CHECKSUM] {
    let mut hasher = Sha256::new();
    hasher.update(b"obt-cursor-v1\0");
    for word in words {
        hasher.update(word.as_bytes());
        hasher.update([0]);
    }
    hasher.update([0]);
    hasher.update(name);
    let digest: [u8; 32] = hasher.finalize().into();
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&digest[..CHECKSUM]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_accents_are_ignored_and_other_scripts_are_kept() {
        assert_eq!(fold("Éléonore Ångström ﬁle ΑΒΓ Й"), "eleonore angstrom file αβγ и");
        assert_eq!(fold("日本語 हिन्दी"), "日本語 हिन्दी");
    }

    #[test]
    fn q02_a_cursor_is_good_for_its_own_search_only() {
        let words = words("a b");
        let cursor = write_cursor("name", &words);
        assert_eq!(read_cursor(&cursor, &words).as_deref(), Some("name"));
        assert_eq!(read_cursor(&cursor, &self::words("a c")), None);
        for at in 0..cursor.len() {
            let mut forged = cursor.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(read_cursor(std::str::from_utf8(&forged).unwrap(), &words), None);
        }
        for forged in ["", "A", "####", &"A".repeat(5_000)] {
            assert_eq!(read_cursor(forged, &words), None);
        }
    }
}
