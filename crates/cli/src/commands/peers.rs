//! `obt peers`: who is in the network, and what each one holds.

use obt_node::api_types::{PeerEntry, PeerItem};

use crate::args::Peers;
use crate::commands::service::{asked, tell_tracker, tracker_client};
use crate::output::{Output, Status, plain};
use crate::quantity::show_bytes;
use crate::settings::Settings;

pub(crate) async fn run(args: Peers, settings: &Settings, output: Output) -> anyhow::Result<Status> {
    let client = tracker_client(&args.tracker, settings)?;
    let list = asked(&client, client.peers()).await.map_err(tell_tracker)?;
    let status = if list.peers.is_empty() { Status::Incomplete } else { Status::Done };
    if output.is_json() {
        output.value(&list.peers)?;
        return Ok(status);
    }
    if list.peers.is_empty() {
        output.talk(format_args!("nobody is in the network of {}", client.address()));
    }
    for peer in &list.peers {
        output.line(headline(peer))?;
        for item in &peer.items {
            output.line(format_args!("    {}", describe(item)))?;
        }
    }
    Ok(status)
}

fn headline(peer: &PeerEntry) -> String {
    let kind = if peer.lease { "obt" } else { "other client" };
    format!("{}  {kind}, heard of {} s ago", plain(&peer.address), peer.seen_seconds_ago)
}

fn describe(item: &PeerItem) -> String {
    let name = match (&item.name, item.version) {
        (Some(name), Some(version)) => format!("{} (version {version})", plain(name)),
        (Some(name), None) => plain(name),
        (None, _) => item.info_hash.clone(),
    };
    match item.left {
        0 => format!("has {name}"),
        left => format!("fetches {name}, {} left", show_bytes(left)),
    }
}
