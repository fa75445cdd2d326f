//! Where the tracker is, as the one who asks sees it: the host of its request, or what `--advertise` says.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use obt_catalogue::{Entry, Layout};
use thiserror::Error;

use super::App;
use super::connections::Ends;
use super::paths;

/// What others are told instead of the address that they reached: `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    /// A name or an address, without brackets.
    pub host: String,
    /// None is the port that the tracker has.
    pub port: Option<u16>,
}

/// A text that is neither `HOST` nor `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is neither HOST nor HOST:PORT")]
pub struct ParseAdvertiseError(String);

impl FromStr for Advertise {
    type Err = ParseAdvertiseError;

    fn from_str(text: &str) -> Result<Self, ParseAdvertiseError> {
        let wrong = || ParseAdvertiseError(text.chars().take(80).collect());
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: None });
        }
        let (host, port) = split(text).ok_or_else(wrong)?;
        if port == Some(0) { Err(wrong()) } else { Ok(Self { host, port }) }
    }
}

/// Host, without brackets, and port of a `Host` header. None where no host could be called so.
fn split(text: &str) -> Option<(String, Option<u16>)> {
    let authority: Authority = text.parse().ok()?;
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    let fits = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => named,
    };
    let rest = text.strip_prefix(host)?;
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??),
        None if rest.is_empty() => None,
        None => return None,
    };
    fits.then(|| (bare.unwrap_or(host).to_owned(), port))
}

/// `HOST:PORT`, with brackets where the host needs them.
pub(super) fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The tracker's host and ports as somebody sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    host: String,
    port: u16,
    udp_port: Option<u16>,
}

impl Origin {
    /// As the sender of a request sees it.
    pub(super) fn of(app: &App, headers: &HeaderMap, ends: &Ends) -> Self {
        let udp_port = app.udp_port;
        if let Some(Advertise { host, port }) = &app.advertise {
            let udp_port = udp_port.map(|own| port.unwrap_or(own));
            return Self { host: host.clone(), port: port.unwrap_or(app.port), udp_port };
        }
        let asked = headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(split);
        match asked {
            Some((host, port)) => Self { host, port: port.unwrap_or(80), udp_port },
            None => Self { host: ends.reached.ip().to_string(), port: ends.reached.port(), udp_port },
        }
    }

    fn with_port(&self, port: u16) -> String {
        with_port(&self.host, port)
    }

    /// Announce URLs, one tier of them: they are one tracker.
    pub(super) fn trackers(&self) -> Vec<String> {
        let udp = self.udp_port.map(|port| format!("udp://{}/announce", self.with_port(port)));
        std::iter::once(format!("{self}/announce")).chain(udp).collect()
    }

    /// Announce URLs of all members of the cluster, a tier each, this one first: whichever dies, clients go on with the
    /// next.
    pub(super) fn tiers(&self, app: &App) -> Vec<Vec<String>> {
        let cluster = app.catalogue.cluster();
        let members = std::sync::Arc::clone(&cluster.members().borrow());
        let others = members.all.iter().filter(|(node, _)| **node != cluster.node());
        let other = |address: &String| vec![format!("http://{address}/announce"), format!("udp://{address}/announce")];
        let others = others.filter_map(|(_, member)| member.trackers.first().map(other));
        std::iter::once(self.trackers()).chain(others).collect()
    }

    /// Where the bytes of a version are served over HTTP (BEP 19). The hash pins it: what is published under the name
    /// later is something else. A folder's URL ends with a slash, to which clients append the torrent's name and the
    /// path of a file.
    pub(super) fn web_seed(&self, entry: &Entry) -> String {
        let hashes = entry.content.hashes;
        let hash = hashes.v2.map(|hash| hash.to_string()).or(hashes.v1.map(|hash| hash.to_string()));
        let slash = if entry.content.layout == Layout::Folder { "/" } else { "" };
        format!("{self}/files/{}@{}{slash}", paths::escaped(entry.name.as_str()), hash.unwrap_or_default())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.with_port(self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_and_nothing_else() {
        let host = |text: &str| split(text).map(|(host, port)| format!("{host} {port:?}"));
        assert_eq!(host("tracker.lab:6969").as_deref(), Some("tracker.lab Some(6969)"));
        assert_eq!(host("tracker.lab").as_deref(), Some("tracker.lab None"));
        assert_eq!(host("[::1]:80").as_deref(), Some("::1 Some(80)"));
        for text in ["", "a b", "user@host", "host:99999", "host:", "<script>", "a/b", "[::1", "::1", "host:+80"] {
            assert_eq!(host(text), None, "{text}");
        }
    }

    #[test]
    fn an_advertised_host_is_read_as_people_type_it() {
        let read = |text: &str| text.parse().map(|Advertise { host, port }| (host, port));
        assert_eq!(read("203.0.113.5"), Ok(("203.0.113.5".to_owned(), None)));
        assert_eq!(read("2001:db8::1"), Ok(("2001:db8::1".to_owned(), None)));
        assert_eq!(read("[2001:db8::1]:7000"), Ok(("2001:db8::1".to_owned(), Some(7_000))));
        assert_eq!(read("tracker.lab:7000"), Ok(("tracker.lab".to_owned(), Some(7_000))));
        for text in ["", ":7000", "a:0", "a:b", "http://a"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
