//! From what was typed to what it means: flags over `OBT_*` variables over the configuration file over defaults.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use obt_node::members::MemberBook;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::args::Common;
use crate::output::Told;
use crate::quantity::Rate;

/// Largest configuration file, bytes: far more than all its keys need.
const CONFIG_BYTES: u64 = 1 << 20;
/// Where peers connect to each other, if it is free.
pub(crate) const PEER_PORT: u16 = 6881;
/// Where a tracker listens, if it is free.
pub(crate) const TRACKER_PORT: u16 = 6969;

/// The keys of a configuration file: those of the common flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileSettings {
    state: Option<PathBuf>,
    peer_listen: Option<SocketAddr>,
    tracker_listen: Option<SocketAddr>,
    cluster_listen: Option<SocketAddr>,
    advertise: Option<String>,
    key_file: Option<PathBuf>,
    download_rate: Option<Rate>,
    upload_rate: Option<Rate>,
    #[serde(default, deserialize_with = "connections")]
    max_peers: Option<u16>,
}

/// How many peers may be connected, in words for people: serde would speak of a `u16`.
fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let number = i64::deserialize(deserializer).ok().and_then(|number| u16::try_from(number).ok());
    let number = number.filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| D::Error::custom("`max-peers` is a number from 1 to 65535"))
}

/// An address to listen on, and whether it was asked for: a default that is taken falls forward to the next free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Where.
    pub(crate) addr: SocketAddr,
    /// Whether the user named it.
    pub(crate) named: bool,
}

impl Listen {
    /// The address that was asked for; None is every one, v4 and v6.
    pub(crate) fn addr_if_named(self) -> Option<IpAddr> {
        Some(self.addr.ip()).filter(|addr| self.named && *addr != IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }

    fn new(asked: Option<SocketAddr>, default_port: u16) -> Self {
        match asked {
            Some(addr) => Self { addr, named: true },
            None => Self { addr: SocketAddr::from((Ipv6Addr::UNSPECIFIED, default_port)), named: false },
        }
    }
}

/// What the common flags mean.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The state folder, if one was named.
    state: Option<PathBuf>,
    /// Where other peers reach us.
    pub(crate) peer_listen: Listen,
    /// Where our own tracker serves.
    pub(crate) tracker_listen: Listen,
    /// Where other members reach our own tracker.
    pub(crate) cluster_listen: Option<SocketAddr>,
    /// What others are told instead of the address they reached.
    pub(crate) advertise: Option<String>,
    /// The key to publish with.
    pub(crate) key_file: Option<PathBuf>,
    /// Bytes per second.
    pub(crate) download_rate: Option<u64>,
    /// Bytes per second.
    pub(crate) upload_rate: Option<u64>,
    /// Connections at once.
    pub(crate) max_peers: Option<u16>,
    /// Where else trackers can be asked.
    pub(crate) members: MemberBook,
}

impl Settings {
    /// Reads the configuration file, if one was named, and puts the flags over it.
    pub(crate) fn new(common: &Common) -> anyhow::Result<Self> {
        let file = common.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let rate = |flag: Option<Rate>, file: Option<Rate>| flag.or(file).map(|rate| rate.0);
        let mut settings = Self {
            state: common.state.clone().or(file.state),
            peer_listen: Listen::new(common.peer_listen.or(file.peer_listen), PEER_PORT),
            tracker_listen: Listen::new(common.tracker_listen.or(file.tracker_listen), TRACKER_PORT),
            cluster_listen: common.cluster_listen.or(file.cluster_listen),
            advertise: common.advertise.clone().or(file.advertise),
            key_file: common.key_file.clone().or(file.key_file),
            download_rate: rate(common.download_rate, file.download_rate),
            upload_rate: rate(common.upload_rate, file.upload_rate),
            max_peers: common.max_peers.or(file.max_peers),
            members: MemberBook::default(),
        };
        if let Ok(state) = settings.state() {
            settings.members = MemberBook::in_state(&state);
        }
        Ok(settings)
    }

    /// The state folder: the one named, or the platform's data folder.
    pub(crate) fn state(&self) -> anyhow::Result<PathBuf> {
        if let Some(state) = &self.state {
            if state.as_os_str().is_empty() {
                return Err(Told::failed("--state needs a folder, not an empty name").into());
            }
            return Ok(state.clone());
        }
        data_folder().ok_or_else(|| {
            Told::failed("there is no home folder to keep state in").hint("name one with --state DIR").into()
        })
    }
}

/// `$XDG_DATA_HOME/obt`, or `~/.local/share/obt`; what the platform has in its place elsewhere.
fn data_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if cfg!(windows) {
        return absolute("LOCALAPPDATA").map(|base| base.join("obt"));
    }
    if cfg!(target_os = "macos") {
        return absolute("HOME").map(|home| home.join("Library/Application Support/obt"));
    }
    absolute("XDG_DATA_HOME").map(|base| base.join("obt")).or_else(|| Some(absolute("HOME")?.join(".local/share/obt")))
}

fn read_file(path: &Path) -> anyhow::Result<FileSettings> {
    let cannot = || format!("cannot read the settings in {}", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(cannot)?;
    if !file.metadata().with_context(cannot)?.is_file() {
        return Err(Told::failed(format!("{}: settings are read from a plain file", path.display())).into());
    }
    file.take(CONFIG_BYTES + 1).read_to_string(&mut text).with_context(cannot)?;
    if text.len() as u64 > CONFIG_BYTES {
        return Err(Told::failed(format!("{}: a settings file has at most 1 MiB", path.display())).into());
    }
    parse(&text).map_err(|error| Told::failed(format!("{}{}", cannot(), fault(&text, &error))).into())
}

/// ", line 3: what is wrong with it": the parser's own text draws the line, in several.
fn fault(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(String::new(), |before| format!(", line {}", before.matches('\n').count() + 1));
    format!("{line}: {}", error.message().trim_end())
}

fn parse(text: &str) -> Result<FileSettings, toml::de::Error> {
    toml::from_str(text.strip_prefix('\u{feff}').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k01_empty_files_comments_marks_and_crlf_are_defaults() {
        for text in ["", "# nothing\n", "\u{feff}upload-rate = \"1M\"\n", "upload-rate = '1M'\r\n"] {
            assert!(parse(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn k02_unknown_keys_duplicates_and_wrong_types_are_errors_with_their_line() {
        for text in
            ["upload_rate = '1M'", "state = 'a'\nstate = 'b'", "peer-listen = 5", "max-peers = 0", "peer-listen = 'x'"]
        {
            let error = fault(text, &parse(text).map(|_| ()).unwrap_err());
            let line = text.matches('\n').count() + 1;
            assert!(error.starts_with(&format!(", line {line}: ")) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn k03_deep_nesting_is_an_error() {
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn a_default_port_is_not_a_named_one() {
        assert!(!Listen::new(None, 1).named);
        assert!(Listen::new(Some(([127, 0, 0, 1], 6881).into()), 1).named);
    }
}
