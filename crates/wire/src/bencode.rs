//! Bencode (BEP 3): a decoder that copies nothing and never recurses, and a writer.
//!
//! The decoder is strict where two readings of the same bytes could differ (leading zeros, `-0`, `+5`) and bounded
//! by [`Limits`]. Keys in the wrong order are accepted, since old software writes them, but a value says whether it
//! [is canonical](Value::is_canonical), so that whoever hashes a dictionary can refuse.

use thiserror::Error;

use crate::limits::{BENCODE_DEPTH, MESSAGE_DEPTH, MESSAGE_TOKENS, METAINFO_TOKENS};

/// How much a document may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Deepest nesting of lists and dictionaries.
    pub depth: usize,
    /// Most integers, strings (keys too), lists and dictionaries together. Each costs 8 bytes of memory.
    pub tokens: usize,
}

impl Limits {
    /// For a .torrent file or an info dictionary.
    pub const METAINFO: Self = Self { depth: BENCODE_DEPTH, tokens: METAINFO_TOKENS };
    /// For an extension message or a tracker's answer.
    pub const MESSAGE: Self = Self { depth: MESSAGE_DEPTH, tokens: MESSAGE_TOKENS };
}

/// Why bytes are not bencode. Offsets count from the start of the input, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BencodeError {
    /// The input ends inside a value.
    #[error("ends before its last value does")]
    Truncated,
    /// No value can begin, or go on, with this byte.
    #[error("unexpected byte at offset {0}")]
    Unexpected(usize),
    /// Not the one way to write an integer, or one that does not fit in 64 bits.
    #[error("malformed integer at offset {0}")]
    Integer(usize),
    /// Not the one way to write a length, or one that no input could hold.
    #[error("malformed string length at offset {0}")]
    Length(usize),
    /// A dictionary has a key that is not a string, or a key without a value.
    #[error("malformed dictionary at offset {0}")]
    Dict(usize),
    /// Lists and dictionaries nest deeper than the limit.
    #[error("nested too deeply at offset {0}")]
    TooDeep(usize),
    /// There are more values than the limit.
    #[error("too many values")]
    TooManyTokens,
    /// The input is 2 GiB or longer.
    #[error("too long")]
    TooLong,
    /// Bytes follow the value where nothing may.
    #[error("unexpected data after the end, at offset {0}")]
    Trailing(usize),
}

/// Where one value lies. Ends of containers carry [`DISORDER`] when a dictionary in them is not canonical.
#[derive(Debug, Clone, Copy)]
struct Token {
    start: u32,
    end: u32,
}

/// The flag in [`Token::end`]; inputs are shorter than 2 GiB so that the bit is free.
const DISORDER: u32 = 1 << 31;

impl Token {
    fn end(self) -> usize {
        (self.end & !DISORDER) as usize
    }
}

/// A decoded document: an index of 8 bytes per value over the bytes that were decoded.
#[derive(Debug, Clone)]
pub struct Document<'a> {
    input: &'a [u8],
    /// In the order of their first bytes; a container stands before what it holds.
    tokens: Vec<Token>,
}

impl<'a> Document<'a> {
    /// Decodes `input`, which must be one value and nothing else.
    ///
    /// # Errors
    /// Where it is not bencode, or over `limits`.
    pub fn decode(input: &'a [u8], limits: Limits) -> Result<Self, BencodeError> {
        let (document, rest) = Self::decode_prefix(input, limits)?;
        if !rest.is_empty() {
            return Err(BencodeError::Trailing(input.len() - rest.len()));
        }
        Ok(document)
    }

    /// Decodes the value at the start of `input`, and gives the bytes after it (BEP 9 puts raw bytes there).
    ///
    /// # Errors
    /// Where it is not bencode, or over `limits`.
    pub fn decode_prefix(input: &'a [u8], limits: Limits) -> Result<(Self, &'a [u8]), BencodeError> {
        if input.len() >= DISORDER as usize {
            return Err(BencodeError::TooLong);
        }
        let mut decoder = Decoder { input, at: 0, limits, tokens: Vec::new(), open: Vec::new() };
        decoder.run()?;
        let (input, rest) = input.split_at(decoder.at);
        Ok((Self { input, tokens: decoder.tokens }, rest))
    }

    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> Value<'_> {
        Value { document: self, at: 0 }
    }

    /// Number of the token after the one numbered `at` and all that it holds.
    fn after(&self, at: usize) -> usize {
        let Some(end) = self.tokens.get(at).map(|token| token.end()) else {
            return self.tokens.len();
        };
        let later = self.tokens.get(at + 1..).unwrap_or_default();
        // Most values hold little: look near first, with steps that double.
        let mut step = 1;
        while later.get(step - 1).is_some_and(|token| (token.start as usize) < end) {
            step *= 2;
        }
        let from = step / 2;
        let near = later.get(from..step.min(later.len())).unwrap_or_default();
        at + 1 + from + near.partition_point(|token| (token.start as usize) < end)
    }
}

/// A list or dictionary whose end has not come yet.
struct Open {
    token: usize,
    is_dict: bool,
    /// A key was read, its value was not.
    has_key: bool,
    /// Where the last key's bytes lie.
    last_key: Option<(usize, usize)>,
    disorder: bool,
}

struct Decoder<'a> {
    input: &'a [u8],
    at: usize,
    limits: Limits,
    tokens: Vec<Token>,
    open: Vec<Open>,
}

impl Decoder<'_> {
    fn run(&mut self) -> Result<(), BencodeError> {
        loop {
            self.step()?;
            if self.open.is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads one key, one value without contents, or one end of a container.
    fn step(&mut self) -> Result<(), BencodeError> {
        let byte = *self.input.get(self.at).ok_or(BencodeError::Truncated)?;
        if let Some(open) = self.open.last_mut() {
            if byte == b'e' {
                return self.close();
            }
            if open.is_dict && !open.has_key {
                return self.key(byte);
            }
            open.has_key = false;
        }
        match byte {
            b'0'..=b'9' => self.string().map(drop),
            b'i' => self.integer(),
            b'l' | b'd' => self.container(byte == b'd'),
            _ => Err(BencodeError::Unexpected(self.at)),
        }
    }

    fn push(&mut self, end: usize) -> Result<(), BencodeError> {
        if self.tokens.len() >= self.limits.tokens {
            return Err(BencodeError::TooManyTokens);
        }
        self.tokens.push(Token { start: offset(self.at)?, end: offset(end)? });
        Ok(())
    }

    fn container(&mut self, is_dict: bool) -> Result<(), BencodeError> {
        if self.open.len() >= self.limits.depth {
            return Err(BencodeError::TooDeep(self.at));
        }
        self.push(self.at)?;
        let token = self.tokens.len() - 1;
        self.open.push(Open { token, is_dict, has_key: false, last_key: None, disorder: false });
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), BencodeError> {
        let Some(open) = self.open.pop() else {
            return Err(BencodeError::Unexpected(self.at));
        };
        if open.has_key {
            return Err(BencodeError::Dict(self.at));
        }
        self.at += 1;
        let end = offset(self.at)?;
        if let Some(token) = self.tokens.get_mut(open.token) {
            token.end = if open.disorder { end | DISORDER } else { end };
        }
        if let Some(outer) = self.open.last_mut() {
            outer.disorder |= open.disorder;
        }
        Ok(())
    }

    fn key(&mut self, byte: u8) -> Result<(), BencodeError> {
        if !byte.is_ascii_digit() {
            return Err(BencodeError::Dict(self.at));
        }
        let (start, end) = self.string()?;
        let key = self.input.get(start..end);
        if let Some(open) = self.open.last_mut() {
            let last = open.last_key.and_then(|(start, end)| self.input.get(start..end));
            open.disorder |= last.is_some() && last >= key;
            open.last_key = Some((start, end));
            open.has_key = true;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(usize, usize), BencodeError> {
        let (start, end) = string_span(self.input, self.at)?;
        self.push(end)?;
        self.at = end;
        Ok((start, end))
    }

    fn integer(&mut self) -> Result<(), BencodeError> {
        let (_, end) = integer(self.input, self.at)?;
        self.push(end)?;
        self.at = end;
        Ok(())
    }
}

fn offset(at: usize) -> Result<u32, BencodeError> {
    u32::try_from(at).map_err(|_| BencodeError::TooLong)
}

/// Where the bytes of the string at `at` begin and end.
fn string_span(input: &[u8], at: usize) -> Result<(usize, usize), BencodeError> {
    let mut length = 0usize;
    for (digits, byte) in input.get(at..).unwrap_or_default().iter().enumerate() {
        match byte {
            b':' if digits > 0 => {
                let start = at + digits + 1;
                let end = start.checked_add(length).ok_or(BencodeError::Length(at))?;
                return if end <= input.len() { Ok((start, end)) } else { Err(BencodeError::Truncated) };
            }
            b'0'..=b'9' if digits == 0 || length > 0 => {
                length = length * 10 + usize::from(byte - b'0');
                if length >= DISORDER as usize {
                    return Err(BencodeError::Length(at));
                }
            }
            _ => return Err(BencodeError::Length(at)),
        }
    }
    Err(BencodeError::Truncated)
}

/// The integer at `at`, and where it ends.
fn integer(input: &[u8], at: usize) -> Result<(i64, usize), BencodeError> {
    let malformed = BencodeError::Integer(at);
    let rest = input.get(at + 1..).unwrap_or_default();
    let negative = rest.first() == Some(&b'-');
    let digits = rest.get(usize::from(negative)..).unwrap_or_default();
    // Summed as a negative number, which has room for the smallest one.
    let mut value = 0i64;
    for (count, byte) in digits.iter().enumerate() {
        match byte {
            b'e' if count > 0 => {
                let value = if negative { Some(value) } else { value.checked_neg() };
                let minus_zero = negative && value == Some(0);
                let end = at + 1 + usize::from(negative) + count + 1;
                return value.filter(|_| !minus_zero).map(|value| (value, end)).ok_or(malformed);
            }
            b'0'..=b'9' if count == 0 || value != 0 => {
                let digit = i64::from(byte - b'0');
                value = value.checked_mul(10).and_then(|value| value.checked_sub(digit)).ok_or(malformed)?;
            }
            _ => return Err(malformed),
        }
    }
    Err(BencodeError::Truncated)
}

/// One value of a [`Document`]; cheap to copy. Asking for the wrong kind gives `None`.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    document: &'a Document<'a>,
    at: usize,
}

impl<'a> Value<'a> {
    fn token(self) -> Token {
        // Values are made only for tokens that exist.
        self.document.tokens.get(self.at).copied().unwrap_or(Token { start: 0, end: 0 })
    }

    /// The bytes that encode this value, exactly as they were in the input.
    #[must_use]
    pub fn raw(self) -> &'a [u8] {
        let token = self.token();
        self.document.input.get(token.start as usize..token.end()).unwrap_or_default()
    }

    /// Whether the keys of every dictionary in it are sorted and unique, so that no other bytes mean the same.
    #[must_use]
    pub fn is_canonical(self) -> bool {
        self.token().end & DISORDER == 0
    }

    /// The integer.
    #[must_use]
    pub fn as_int(self) -> Option<i64> {
        let raw = self.raw();
        if raw.first() != Some(&b'i') {
            return None;
        }
        integer(raw, 0).ok().map(|(value, _)| value)
    }

    /// The integer, where it is not negative.
    #[must_use]
    pub fn as_uint(self) -> Option<u64> {
        self.as_int().and_then(|value| u64::try_from(value).ok())
    }

    /// The string's bytes.
    #[must_use]
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        let raw = self.raw();
        if !raw.first()?.is_ascii_digit() {
            return None;
        }
        let (start, end) = string_span(raw, 0).ok()?;
        raw.get(start..end)
    }

    /// Where the string's bytes begin in the document's input.
    pub(crate) fn bytes_at(self) -> Option<usize> {
        let raw = self.raw();
        if !raw.first()?.is_ascii_digit() {
            return None;
        }
        let (start, _) = string_span(raw, 0).ok()?;
        Some(self.start() + start)
    }

    /// Where the value begins in the document's input.
    pub(crate) fn start(self) -> usize {
        self.token().start as usize
    }

    /// The string, where it is UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// What the list holds, in order.
    #[must_use]
    pub fn as_list(self) -> Option<List<'a>> {
        (self.raw().first() == Some(&b'l')).then(|| List { values: self.contents() })
    }

    /// What the dictionary holds.
    #[must_use]
    pub fn as_dict(self) -> Option<Dict<'a>> {
        (self.raw().first() == Some(&b'd')).then_some(Dict { value: self })
    }

    /// The value under `key`, where this is a dictionary that has it.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Self> {
        self.as_dict()?.get(key)
    }

    fn contents(self) -> Contents<'a> {
        Contents { document: self.document, at: self.at + 1, end: self.document.after(self.at) }
    }
}

/// The values directly inside a container, keys included.
#[derive(Debug, Clone)]
struct Contents<'a> {
    document: &'a Document<'a>,
    at: usize,
    end: usize,
}

impl<'a> Iterator for Contents<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.at >= self.end {
            return None;
        }
        let value = Value { document: self.document, at: self.at };
        self.at = self.document.after(self.at);
        Some(value)
    }
}

/// An iterator over the values of a list.
#[derive(Debug, Clone)]
pub struct List<'a> {
    values: Contents<'a>,
}

impl<'a> Iterator for List<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.values.next()
    }
}

/// A dictionary of a [`Document`].
#[derive(Debug, Clone, Copy)]
pub struct Dict<'a> {
    value: Value<'a>,
}

impl<'a> Dict<'a> {
    /// The first value under `key`. Takes time in the number of keys: walk [`iter`](Self::iter) to look up many.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.iter().find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
    }

    /// Keys and values, as they stand in the input.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'a> {
        let mut contents = self.value.contents();
        std::iter::from_fn(move || {
            let key = contents.next()?.as_bytes()?;
            Some((key, contents.next()?))
        })
    }
}

/// Writes bencode at the end of a vector. Keys of a dictionary must come sorted; nothing here checks it.
///
/// ```
/// let mut out = Vec::new();
/// obt_wire::bencode::Writer::new(&mut out).dict().key("a").int(-1).key("b").list().bytes("x").end().end();
/// assert_eq!(out, b"d1:ai-1e1:bl1:xee");
/// ```
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// A writer that appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Begins a dictionary.
    pub fn dict(&mut self) -> &mut Self {
        self.out.push(b'd');
        self
    }

    /// Begins a list.
    pub fn list(&mut self) -> &mut Self {
        self.out.push(b'l');
        self
    }

    /// Ends the innermost dictionary or list.
    pub fn end(&mut self) -> &mut Self {
        self.out.push(b'e');
        self
    }

    /// Writes a key; its value comes next.
    pub fn key(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.bytes(key)
    }

    /// Writes a string.
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.decimal(bytes.len() as u64);
        self.out.push(b':');
        self.out.extend_from_slice(bytes);
        self
    }

    /// Writes an integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.out.push(b'i');
        if value < 0 {
            self.out.push(b'-');
        }
        self.decimal(value.unsigned_abs());
        self.out.push(b'e');
        self
    }

    /// Writes an integer that is not negative.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.out.push(b'i');
        self.decimal(value);
        self.out.push(b'e');
        self
    }

    /// Writes a value that is encoded already.
    pub fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.out.extend_from_slice(encoded);
        self
    }

    fn decimal(&mut self, mut value: u64) {
        // u64::MAX has 20 digits.
        let mut digits = [0u8; 20];
        let mut used = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
            used += 1;
            if value == 0 {
                break;
            }
        }
        self.out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(input: &[u8]) -> Result<Document<'_>, BencodeError> {
        Document::decode(input, Limits::METAINFO)
    }

    #[test]
    fn values_are_found_by_key_and_in_order() {
        let document = decode(b"d1:ai-42e1:bl3:onei2elee1:cd1:d0:e1:e2:\xff\xfee").unwrap();
        let root = document.root();
        assert_eq!(root.get("a").and_then(Value::as_int), Some(-42));
        assert_eq!(root.get("a").and_then(Value::as_uint), None);
        let list: Vec<_> = root.get("b").and_then(Value::as_list).unwrap().map(Value::raw).collect();
        assert_eq!(list, [&b"3:one"[..], b"i2e", b"le"]);
        assert_eq!(root.get("c").map(Value::raw), Some(&b"d1:d0:e"[..]));
        assert_eq!(root.get("c").and_then(|c| c.get("d")).and_then(Value::as_str), Some(""));
        assert_eq!(root.get("e").and_then(Value::as_bytes), Some(&b"\xff\xfe"[..]));
        assert_eq!(root.get("e").and_then(Value::as_str), None);
        assert!(root.get("f").is_none() && root.as_list().is_none() && root.as_int().is_none());
        let keys: Vec<_> = root.as_dict().unwrap().iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"a", b"b", b"c", b"e"]);
    }

    #[test]
    fn a_prefix_leaves_the_bytes_after_it() {
        let (document, rest) = Document::decode_prefix(b"d5:piecei3eexyz", Limits::MESSAGE).unwrap();
        assert_eq!(document.root().get("piece").and_then(Value::as_int), Some(3));
        assert_eq!(document.root().raw(), b"d5:piecei3ee");
        assert_eq!(rest, b"xyz");
    }

    #[test]
    fn m01_every_truncation_is_an_error() {
        let whole = b"d4:infod6:lengthi5e4:name1:xe4:listl1:a2:bcli1ei-2eeee";
        assert!(decode(whole).is_ok());
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]).err(), Some(BencodeError::Truncated), "{end}");
        }
        assert_eq!(decode(b"").err(), Some(BencodeError::Truncated));
    }

    #[test]
    fn m02_m03_deep_nesting_is_an_error_and_costs_nothing() {
        let mut nested = vec![b'l'; 20_000];
        nested.extend(vec![b'e'; 20_000]);
        assert_eq!(decode(&nested).err(), Some(BencodeError::TooDeep(64)));
        assert_eq!(decode(&vec![b'l'; 1_000_000]).err(), Some(BencodeError::TooDeep(64)));
        assert_eq!(decode(&b"d1:a".repeat(200_000)).err(), Some(BencodeError::TooDeep(256)));
        let at_the_limit = [vec![b'l'; 64], vec![b'e'; 64]].concat();
        assert!(decode(&at_the_limit).is_ok());
    }

    #[test]
    fn m04_too_many_tokens_are_an_error() {
        let mut lists = vec![b'l'];
        lists.extend(b"le".repeat(METAINFO_TOKENS));
        lists.push(b'e');
        assert_eq!(decode(&lists).err(), Some(BencodeError::TooManyTokens));
        assert_eq!(
            Document::decode(b"l0:0:0:e", Limits { depth: 9, tokens: 3 }).err(),
            Some(BencodeError::TooManyTokens)
        );
        assert!(Document::decode(b"l0:0:0:e", Limits { depth: 9, tokens: 4 }).is_ok());
    }

    #[test]
    fn m05_false_string_lengths_are_errors() {
        for text in
            ["9223372036854775807:", "99999999999999999999999999:", "-1:", "04:abcd", "4294967299:", "00:", "1x", ":"]
        {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(decode(b"9:abc").err(), Some(BencodeError::Truncated));
        assert_eq!(decode(b"0:").unwrap().root().as_bytes(), Some(&b""[..]));
    }

    #[test]
    fn m06_false_integers_are_errors() {
        let nines = format!("i{}e", "9".repeat(100));
        let false_ones =
            ["i016384e", "i-0e", "i+5e", "ie", "i-e", "i--1e", "i1", "i 1e", "i00e", &nines, "i9223372036854775808e"];
        for text in false_ones {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
        for value in [0, 1, -1, 10, i64::MIN, i64::MAX] {
            assert_eq!(decode(format!("i{value}e").as_bytes()).unwrap().root().as_int(), Some(value));
        }
    }

    #[test]
    fn m07_disorder_is_noted_where_it_is_and_trailing_bytes_are_errors() {
        let document = decode(b"d1:ad1:bi1e1:ai2ee1:cd1:ai1e1:bi2eee").unwrap();
        assert!(!document.root().is_canonical());
        assert!(!document.root().get("a").unwrap().is_canonical());
        assert!(document.root().get("c").unwrap().is_canonical());
        assert!(!decode(b"d1:ai1e1:ai2ee").unwrap().root().is_canonical());
        assert!(!decode(b"d0:i1e0:i2ee").unwrap().root().is_canonical());
        assert_eq!(decode(b"lei1e").err(), Some(BencodeError::Trailing(2)));
    }

    #[test]
    fn m08_keys_must_be_strings_with_values() {
        for text in ["di1ei2ee", "d1:ae", "dlee", "d1:ai1e1:be", "e", "x", "lxe"] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    fn write(node: &Node, writer: &mut Writer<'_>) {
        match node {
            Node::Int(value) => drop(writer.int(*value)),
            Node::Bytes(bytes) => drop(writer.bytes(bytes)),
            Node::List(nodes) => {
                writer.list();
                nodes.iter().for_each(|node| write(node, writer));
                writer.end();
            }
            Node::Dict(nodes) => {
                writer.dict();
                for (key, node) in nodes {
                    write(node, writer.key(key));
                }
                writer.end();
            }
        }
    }

    fn read(value: Value<'_>) -> Node {
        if let Some(value) = value.as_int() {
            return Node::Int(value);
        }
        if let Some(bytes) = value.as_bytes() {
            return Node::Bytes(bytes.to_vec());
        }
        if let Some(list) = value.as_list() {
            return Node::List(list.map(read).collect());
        }
        Node::Dict(value.as_dict().unwrap().iter().map(|(key, value)| (key.to_vec(), read(value))).collect())
    }

    #[derive(Debug, Clone, PartialEq)]
    enum Node {
        Int(i64),
        Bytes(Vec<u8>),
        List(Vec<Node>),
        Dict(std::collections::BTreeMap<Vec<u8>, Node>),
    }

    fn node() -> impl Strategy<Value = Node> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Node::Int),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Node::Bytes)
        ];
        leaf.prop_recursive(5, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Node::List),
                prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..5), inner, 0..8).prop_map(Node::Dict),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(node in node()) {
            let mut out = Vec::new();
            write(&node, &mut Writer::new(&mut out));
            let document = decode(&out).unwrap();
            prop_assert!(document.root().is_canonical());
            prop_assert_eq!(document.root().raw(), &out[..]);
            prop_assert_eq!(read(document.root()), node);
        }

        #[test]
        fn no_input_makes_it_panic_and_what_is_canonical_has_one_encoding(
            input in prop::collection::vec(prop::sample::select(b"dleiiee0123:-a\xff".to_vec()), 0..60)
        ) {
            if let Ok((document, rest)) = Document::decode_prefix(&input, Limits::MESSAGE) {
                prop_assert_eq!(&[document.root().raw(), rest].concat(), &input);
                if document.root().is_canonical() {
                    let mut out = Vec::new();
                    write(&read(document.root()), &mut Writer::new(&mut out));
                    prop_assert_eq!(&out[..], document.root().raw());
                }
            }
        }
    }
}
