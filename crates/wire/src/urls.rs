//! Which addresses of trackers and web seeds are taken from torrents and magnets.
//!
//! They come from strangers and we would send requests to them, so anything but a plain tracker or web seed is left
//! out: other schemes, credentials, control characters. Whether a host may be contacted is decided where it is
//! resolved, not here.

use url::Url;

use crate::limits::URL_BYTES;

/// The announce URL that `text` is: `http`, `https` or `udp`.
#[must_use]
pub fn tracker(text: &str) -> Option<String> {
    checked(text, &["http", "https", "udp"])
}

/// The web seed that `text` is: `http` or `https` (BEP 19).
#[must_use]
pub fn web_seed(text: &str) -> Option<String> {
    checked(text, &["http", "https"])
}

/// The first `most` URLs of `texts` that `accept` takes, each once.
pub(crate) fn first<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    most: usize,
    accept: fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut urls = Vec::new();
    for text in texts {
        if urls.len() == most {
            break;
        }
        if let Some(url) = accept(text).filter(|url| !urls.contains(url)) {
            urls.push(url);
        }
    }
    urls
}

/// The URL as it was written where it is ASCII, else in its ASCII form.
fn checked(text: &str, schemes: &[&str]) -> Option<String> {
    if text.len() > URL_BYTES || text.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let plain = schemes.contains(&url.scheme()) && url.username().is_empty() && url.password().is_none();
    let host = url.host_str().is_some_and(|host| !host.is_empty());
    let port = url.port_or_known_default().is_some_and(|port| port != 0);
    if !(plain && host && port) {
        return None;
    }
    let ascii = if text.is_ascii() { text.to_owned() } else { String::from(url) };
    (ascii.is_ascii() && ascii.len() <= URL_BYTES).then_some(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trackers_and_web_seeds_keep_their_spelling() {
        for url in
            ["http://t.example/announce", "HTTPS://T.example:443/a?x=%20y", "udp://[::1]:6969", "udp://t:1/announce"]
        {
            assert_eq!(tracker(url).as_deref(), Some(url));
        }
        assert_eq!(web_seed("http://h/a%2fb/").as_deref(), Some("http://h/a%2fb/"));
        assert_eq!(web_seed("udp://h:1/"), None);
        assert_eq!(tracker("http://bücher.example/a").as_deref(), Some("http://xn--bcher-kva.example/a"));
    }

    #[test]
    fn m23_urls_that_are_no_trackers_are_left_out() {
        let long = format!("http://h/{}", "x".repeat(100_000));
        let bad = [
            "file:///etc/passwd",
            "gopher://127.0.0.1:6379/_FLUSHALL",
            "unix:///run/docker.sock",
            "http://a/\r\nX: y",
            "http://u:p@h/",
            "http://u@h/",
            "http://h/\0",
            "http://h:0/",
            "http://h:99999/",
            "http://[::1",
            "udp://:80",
            "udp://h",
            "javascript:1",
            "http://",
            "http:///x y",
            "",
            &long,
        ];
        for url in bad {
            assert_eq!(tracker(url), None, "{url:.40}");
        }
    }
}
