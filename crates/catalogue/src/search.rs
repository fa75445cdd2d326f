//! Finding names by what a person remembers of them.
//!
//! A name is found when every word of the search text stands somewhere in it, in any order, with case and accents
//! ignored. Words are text, never syntax: they reach SQL as parameters and the index as quoted strings. The index is
//! one of trigrams; a shorter word stands for the trigrams that begin with it.

use data_encoding::BASE64URL_NOPAD;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
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
/// Names that are walked over before the matches are sorted after all: they may all stand at the end.
const WALK: i64 = 10_000;
/// Most trigrams that a short word may stand for before it is looked for in the names alone.
const TERMS: usize = 200;
/// Entries of the index that a word of two characters may stand for: reading them takes some milliseconds. One of one
/// character may stand for [`COMMON`], since names that hold it are found at once.
const POSTINGS: i64 = 200_000;
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

/// The first `limit` names after `after` that hold all of the words.
fn matching(
    connection: &Connection,
    words: &[String],
    after: &str,
    limit: usize,
) -> Result<Vec<Entry>, CatalogueError> {
    let (mut indexed, mut others) = (Vec::new(), Vec::new());
    for word in words {
        match expression(connection, word)? {
            Lookup::Never => return Ok(Vec::new()),
            Lookup::Index(expression) => indexed.push(expression),
            Lookup::Names => others.push(word),
        }
    }
    let expression = (!indexed.is_empty()).then(|| indexed.join(" AND "));
    let question = Question { connection, words, others, expression };
    let Some(expression) = &question.expression else {
        return question.walk(after, None, limit);
    };
    if !is_common(connection, expression)? {
        return question.sort(expression, after, limit);
    }
    let upto = name_after(connection, after, WALK)?;
    let mut entries = question.walk(after, upto.as_deref(), limit)?;
    if let Some(upto) = upto.filter(|_| entries.len() < limit) {
        entries.extend(question.sort(expression, &upto, limit - entries.len())?);
    }
    Ok(entries)
}

/// Words, and how they are looked up.
struct Question<'a> {
    connection: &'a Connection,
    words: &'a [String],
    /// Those that the index is no help for.
    others: Vec<&'a String>,
    /// Of the index, for the rest, where there are any.
    expression: Option<String>,
}

impl Question<'_> {
    /// Looks at the names one by one, up to this one where one is named.
    fn walk(&self, after: &str, upto: Option<&str>, limit: usize) -> Result<Vec<Entry>, CatalogueError> {
        let mut parameters = vec![after.to_owned().into(), number(limit)];
        let mut condition = hold(self.words.iter(), &mut parameters);
        if let Some(upto) = upto {
            parameters.push(Value::from(upto.to_owned()));
            condition.push_str(&format!(" AND name.name <= ?{}", parameters.len()));
        }
        self.entries(
            &format!(
                "SELECT {ENTRY} FROM name
                 CROSS JOIN search ON search.id = name.id
                 CROSS JOIN version ON version.name = name.id AND version.number = name.newest
                 WHERE name.name > ?1{condition} ORDER BY name.name LIMIT ?2"
            ),
            parameters,
        )
    }

    /// Takes all that the index has, and sorts it.
    fn sort(&self, expression: &str, after: &str, limit: usize) -> Result<Vec<Entry>, CatalogueError> {
        let mut parameters = vec![after.to_owned().into(), number(limit), expression.to_owned().into()];
        let condition = hold(self.others.iter().copied(), &mut parameters);
        let search = if self.others.is_empty() { "" } else { "CROSS JOIN search ON search.id = name.id" };
        // What is sorted is short: versions are looked up for those that are in the page.
        self.entries(
            &format!(
                "SELECT {ENTRY} FROM
                 (SELECT name.id, name.name, newest FROM search_grams CROSS JOIN name ON name.id = search_grams.rowid {search}
                  WHERE search_grams MATCH ?3 AND name.name > ?1 AND newest IS NOT NULL{condition}
                  ORDER BY name.name LIMIT ?2) AS name
                 CROSS JOIN version ON version.name = name.id AND version.number = name.newest
                 ORDER BY name.name"
            ),
            parameters,
        )
    }

    fn entries(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Entry>, CatalogueError> {
        let mut select = self.connection.prepare_cached(sql)?;
        select.query_map(params_from_iter(parameters), read_entry)?.map(|entry| entry?).collect()
    }
}

fn number(limit: usize) -> Value {
    Value::from(i64::try_from(limit).unwrap_or(i64::MAX))
}

/// The condition that a name holds these words.
fn hold<'a>(words: impl Iterator<Item = &'a String>, parameters: &mut Vec<Value>) -> String {
    let conditions = words.map(|word| {
        parameters.push(Value::from(word.clone()));
        format!(" AND instr(search.folded, ?{})", parameters.len())
    });
    conditions.collect()
}

/// The name that comes `steps` after this one, where there are so many.
fn name_after(connection: &Connection, after: &str, steps: i64) -> Result<Option<String>, CatalogueError> {
    let mut select =
        connection.prepare_cached("SELECT name FROM name WHERE name > ?1 ORDER BY name LIMIT 1 OFFSET ?2 - 1")?;
    Ok(select.query_row((after, steps), |row| row.get(0)).optional()?)
}

/// How a word can be looked up.
enum Lookup {
    /// No name holds it.
    Never,
    /// By this expression of the index.
    Index(String),
    /// In the names themselves: it stands for so much of the index that looking there is the longer way.
    Names,
}

fn expression(connection: &Connection, word: &str) -> Result<Lookup, CatalogueError> {
    if word.chars().count() >= GRAM {
        return Ok(Lookup::Index(quoted(word)));
    }
    let most = if word.chars().count() == 1 { COMMON } else { POSTINGS };
    let mut select = connection.prepare_cached("SELECT term, doc FROM search_terms WHERE term BETWEEN ?1 AND ?2")?;
    let mut rows = select.query((word, format!("{word}{}", char::MAX)))?;
    let (mut terms, mut postings) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        terms.push(quoted(&row.get::<_, String>(0)?));
        postings += row.get::<_, i64>(1)?;
        if terms.len() > TERMS || postings >= most {
            return Ok(Lookup::Names);
        }
    }
    if terms.is_empty() { Ok(Lookup::Never) } else { Ok(Lookup::Index(format!("({})", terms.join(" OR ")))) }
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
