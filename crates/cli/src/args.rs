//! What can be typed: commands, flags and their help. What it means is decided in `settings` and `commands`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::quantity::{Rate, parse_rate};

/// The BitTorrent you can address by name.
#[derive(Debug, Parser)]
#[command(
    name = "obt",
    version,
    about = "The BitTorrent you can address by name",
    long_about = "The BitTorrent you can address by name: type a host, a port and a file name, and the file comes, \
                  verified, from every machine that has it.\n\n\
                  Share a file:            obt share movie.mkv\n\
                  Get it elsewhere:        obt get HOST PORT movie.mkv\n\
                  See what there is:       obt find HOST PORT\n\
                  See it work, on its own: obt demo\n\n\
                  Without a command, on a terminal, obt asks for `hostname port filename:`, again and again.",
    after_help = "Exit status: 0 done, 1 not found, unavailable or incomplete, 2 usage or error.",
    propagate_version = true,
    arg_required_else_help = false
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Flags that every command takes.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Where obt keeps its state (keys, catalogue); never a folder with shared data [default: the platform's data
    /// folder]
    #[arg(long, global = true, value_name = "DIR", env = "OBT_STATE", hide_env = true)]
    pub(crate) state: Option<PathBuf>,
    /// Settings to read; flags and OBT_* variables win over it
    #[arg(long, global = true, value_name = "FILE", env = "OBT_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON on standard output, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Listen for other peers here; port 0 is any free one [default: port 6881, or the next free one]
    #[arg(long, global = true, value_name = "ADDR:PORT", value_parser = parse_listen, env = "OBT_PEER_LISTEN", hide_env = true)]
    pub(crate) peer_listen: Option<SocketAddr>,
    /// Serve as tracker here, TCP and UDP; port 0 is any free one [default: port 6969, or the next free one]
    #[arg(long, global = true, value_name = "ADDR:PORT", value_parser = parse_listen, env = "OBT_TRACKER_LISTEN", hide_env = true)]
    pub(crate) tracker_listen: Option<SocketAddr>,
    /// Let other members of our tracker's cluster reach us here, once there are others; port 0 is any free one [default:
    /// any free port at the tracker's address]
    #[arg(long, global = true, value_name = "ADDR:PORT", value_parser = parse_listen, env = "OBT_CLUSTER_LISTEN", hide_env = true)]
    pub(crate) cluster_listen: Option<SocketAddr>,
    /// The address that others are told, where it is not the one they reached
    #[arg(long, global = true, value_name = "HOST[:PORT]", env = "OBT_ADVERTISE", hide_env = true)]
    pub(crate) advertise: Option<String>,
    /// The key to publish with [default: this machine's own, STATE/publish.key]
    #[arg(long, global = true, value_name = "FILE", env = "OBT_KEY_FILE", hide_env = true)]
    pub(crate) key_file: Option<PathBuf>,
    /// Fetch no faster than this, bytes per second (10M, 512KiB) [default: no limit]
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate, env = "OBT_DOWNLOAD_RATE", hide_env = true)]
    pub(crate) download_rate: Option<Rate>,
    /// Send no faster than this, bytes per second [default: no limit]
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate, env = "OBT_UPLOAD_RATE", hide_env = true)]
    pub(crate) upload_rate: Option<Rate>,
    /// Be connected to at most this many peers, of all torrents and of one [default: 500 of all, 200 of one]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), env = "OBT_MAX_PEERS", hide_env = true)]
    pub(crate) max_peers: Option<u16>,
    /// Say more on standard error: -v state changes, -vv peers, -vvv packets
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch a file or folder by name from everyone who has it
    Get(Get),
    /// Publish files and folders under their names, and serve them
    Share(Share),
    /// Serve every entry of a folder, as a daemon, and fetch on request
    Peer(Peer),
    /// Run the tracker alone
    Tracker(Tracker),
    /// List and search what a tracker's catalogue has
    Find(Find),
    /// Show who is in the network and what each one holds
    Peers(Peers),
    /// Fetch a magnet link or a .torrent, with no catalogue
    Download(Download),
    /// Make a .torrent of a file or folder
    Create(Create),
    /// Show what a .torrent or magnet link says
    Inspect(Inspect),
    /// Check data on disk against a .torrent
    Verify(Verify),
    /// Put an existing .torrent into a tracker's catalogue
    Publish(Publish),
    /// Make several trackers one that survives the death of some
    Cluster(Cluster),
    /// Show the whole thing at work on this machine: a tracker, three peers and a requester
    Demo(Demo),
}

/// Where a tracker is: two words, as in the prompt.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrackerAddress {
    /// The tracker's host name or address
    #[arg(value_name = "HOST")]
    pub(crate) host: String,
    /// The tracker's port
    #[arg(value_name = "PORT", value_parser = parse_port)]
    pub(crate) port: u16,
}

/// A port. Who writes `HOST:PORT`, as everywhere else, has the name in its place.
fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "a port is a number from 1 to 65535, and a word of its own: HOST PORT NAME".into())
}

/// An address to listen at.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address and a port, like 0.0.0.0:6969 or [::1]:6969".into())
}

/// `obt get`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    obt get tracker.lab 6969 imagenet-val.tar\n  \
    obt get tracker.lab 6969 movie.mkv@2          the second version\n  \
    obt get tracker.lab 6969 season-1/e03.mkv     one file of a shared folder\n  \
    obt get tracker.lab 6969 -o /data -- -odd-name\n\n\
    A get that was stopped goes on where it was: repeat the command.")]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) tracker: TrackerAddress,
    /// The name, `NAME@VERSION`, `NAME@HASH`, or `FOLDER/inner/file`
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
    /// Put it into this folder
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) output: PathBuf,
    /// If nobody has it, wait until somebody does
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stay after it is complete, and serve it to others
    #[arg(long)]
    pub(crate) seed: bool,
    /// Write the file's bytes to standard output, in order, and keep no copy
    #[arg(long, conflicts_with_all = ["seed", "output", "force"])]
    pub(crate) stdout: bool,
    /// Replace what is there under the final name, if it differs; of a folder, also files that do not belong to it
    #[arg(long)]
    pub(crate) force: bool,
}

/// `obt share`.
#[derive(Debug, Args)]
#[command(after_help = "Without --tracker, one is started inside, and the line to paste elsewhere is printed.")]
pub(crate) struct Share {
    /// Files and folders
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Publish to this tracker instead of one of our own
    #[arg(long, value_name = "HOST:PORT", env = "OBT_TRACKER", hide_env = true, conflicts_with = "join")]
    pub(crate) tracker: Option<String>,
    /// Make our own tracker a member of the cluster whose `obt cluster invite` printed this
    #[arg(long, value_name = "LINE")]
    pub(crate) join: Option<String>,
    /// The name to publish under (one PATH) [default: the path's last component]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where the name is taken by other content of ours, make this its next version
    #[arg(long)]
    pub(crate) replace: bool,
    /// What the torrent is made for; v1 is for clients that cannot read hybrids: aria2, Transmission before 4.0
    #[arg(long, value_name = "WHICH", default_value = "hybrid")]
    pub(crate) protocol: Protocol,
    /// With our own tracker: who may publish; remembered until it is changed [default at first: keys]
    #[arg(long, value_name = "WHO")]
    pub(crate) publish: Option<PublishPolicy>,
}

/// `obt peer`.
#[derive(Debug, Args)]
pub(crate) struct Peer {
    /// The folder whose entries are shared, and into which requests are fetched
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Use this tracker instead of one of our own
    #[arg(long, value_name = "HOST:PORT", env = "OBT_TRACKER", hide_env = true, conflicts_with = "join")]
    pub(crate) tracker: Option<String>,
    /// Make our own tracker a member of the cluster whose `obt cluster invite` printed this
    #[arg(long, value_name = "LINE")]
    pub(crate) join: Option<String>,
    /// With our own tracker: who may publish; remembered until it is changed [default at first: keys]
    #[arg(long, value_name = "WHO")]
    pub(crate) publish: Option<PublishPolicy>,
}

/// `obt tracker`.
#[derive(Debug, Args)]
pub(crate) struct Tracker {
    /// What to do instead of running
    #[command(subcommand)]
    pub(crate) action: Option<TrackerAction>,
    /// Who may publish; remembered until it is changed [default at first: keys]
    #[arg(long, value_name = "WHO")]
    pub(crate) publish: Option<PublishPolicy>,
    /// Become a member of the cluster whose `obt cluster invite` printed this
    #[arg(long, value_name = "LINE")]
    pub(crate) join: Option<String>,
}

/// `obt cluster`.
#[derive(Debug, Args)]
#[command(
    after_help = "It speaks with the tracker, share or peer that runs with the same --state on this machine; only `recover` wants it stopped."
)]
pub(crate) struct Cluster {
    /// What to do
    #[command(subcommand)]
    pub(crate) action: ClusterAction,
}

/// `obt cluster ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterAction {
    /// Print the line with which one more machine joins
    Invite {
        /// For how many minutes it is good
        #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_080))]
        minutes: u64,
    },
    /// Show members, leader and health
    Status,
    /// Leave the cluster; the tracker here stops, and its copy of the catalogue is put aside
    Leave {
        /// Have another member leave, which does not come back
        #[arg(long, value_name = "ID")]
        member: Option<u64>,
    },
    /// Found a new cluster with the names that this machine has, when the majority of the old one is gone for good
    Recover {
        /// Yes, the others are gone: what they had and this machine has not is lost
        #[arg(long)]
        yes: bool,
    },
}

/// `obt tracker ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum TrackerAction {
    /// Say which keys may publish to this machine's tracker
    #[command(subcommand)]
    Key(KeyAction),
}

/// `obt tracker key ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Let a key publish here
    Add {
        /// A public key, as its publisher was told it; or a key file, which is made if it is not there
        #[arg(value_name = "KEY|FILE")]
        key: OsString,
        /// A name for people to recognise it by
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
    /// List the keys that may publish
    List,
    /// Let a key publish no longer
    Revoke {
        /// The public key, or the first 8 or more digits of it
        #[arg(value_name = "KEY")]
        key: String,
    },
}

/// Who may publish to a tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishPolicy {
    /// Those whose keys it knows
    Keys,
    /// Anyone with a key, known or not
    Open,
}

/// `obt find`.
#[derive(Debug, Args)]
pub(crate) struct Find {
    #[command(flatten)]
    pub(crate) tracker: TrackerAddress,
    /// Only names with these words, or this part of a word
    #[arg(value_name = "TEXT")]
    pub(crate) text: Vec<String>,
    /// Print the files in each, too
    #[arg(long)]
    pub(crate) files: bool,
    /// Print at most this many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
}

/// `obt peers`.
#[derive(Debug, Args)]
pub(crate) struct Peers {
    #[command(flatten)]
    pub(crate) tracker: TrackerAddress,
}

/// `obt download`.
#[derive(Debug, Args)]
pub(crate) struct Download {
    /// A magnet link, a .torrent file, or an http(s) URL of one
    #[arg(value_name = "MAGNET|FILE|URL")]
    pub(crate) source: OsString,
    /// Put it into this folder
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) output: PathBuf,
    /// A peer to try, besides those that trackers name
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) peer: Vec<SocketAddr>,
    /// Stay after it is complete, and serve it to others
    #[arg(long)]
    pub(crate) seed: bool,
    /// Give up when no peer had anything for us for this many seconds (0: never)
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) patience: u64,
    /// Replace what is there under the final name, if it differs; of a folder, also files that do not belong to it
    #[arg(long)]
    pub(crate) force: bool,
}

/// Which protocols a torrent is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// BitTorrent v1 alone
    V1,
    /// BitTorrent v2 alone
    V2,
    /// Both in one
    Hybrid,
}

/// `obt create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// A file or folder
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Write the torrent here [default: PATH's name with .torrent, in this folder]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The name inside [default: the path's last component]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Which protocols it is for
    #[arg(long, value_name = "WHICH", default_value = "hybrid")]
    pub(crate) protocol: Protocol,
    /// Bytes per piece, a power of two from 16KiB to 16MiB [default: chosen by size]
    #[arg(long, value_name = "BYTES", value_parser = crate::quantity::parse_piece_length)]
    pub(crate) piece_length: Option<u32>,
    /// A tracker's announce URL; repeated, each is a tier of its own
    #[arg(long, value_name = "URL")]
    pub(crate) announce: Vec<String>,
    /// Overwrite FILE
    #[arg(long)]
    pub(crate) force: bool,
}

/// `obt inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A .torrent file or a magnet link
    #[arg(value_name = "FILE|MAGNET")]
    pub(crate) source: OsString,
}

/// `obt verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The .torrent
    #[arg(value_name = "FILE.torrent")]
    pub(crate) torrent: PathBuf,
    /// The data: the file or folder itself [default: the torrent's name, in this folder]
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
}

/// `obt publish`.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The .torrent
    #[arg(value_name = "FILE.torrent")]
    pub(crate) torrent: PathBuf,
    /// The tracker
    #[arg(long, value_name = "HOST:PORT", env = "OBT_TRACKER", hide_env = true)]
    pub(crate) tracker: String,
    /// The name to publish under [default: the torrent's own]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where the name is taken by other content of ours, make this its next version
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `obt demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// A file or folder to move around [default: 64 MiB made up on the spot]
    #[arg(value_name = "FILE")]
    pub(crate) path: Option<PathBuf>,
}
