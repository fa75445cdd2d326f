//! Texts of strangers, cut short and made fit for a log or a terminal.

use crate::files::escaped;

/// What the first `most` of `bytes` say, escaped; what is not UTF-8 in them becomes `\u{fffd}`.
pub(crate) fn shown(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..most).unwrap_or(bytes));
    escaped(&text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r04_a_strangers_text_neither_steers_the_terminal_nor_floods_it() {
        assert_eq!(shown("é ok".as_bytes(), 256), "é ok");
        assert_eq!(shown(b"a\x1b[2J\n\x7fb", 256), "a\\x1b[2J\\x0a\\x7fb");
        assert_eq!(shown("photo\u{202e}gpj.exe".as_bytes(), 256), "photo\\u{202e}gpj.exe");
        assert_eq!(shown(b"\xff\xfe", 256), "\u{fffd}\u{fffd}");
        assert_eq!(shown(&vec![b'x'; 1 << 20], 256).len(), 256);
        assert_eq!(shown("é".as_bytes(), 1), "\u{fffd}");
    }
}
