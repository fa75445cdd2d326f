//! `obt get`: the requester.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use obt_node::api_types::Item;
use obt_node::disk::{DownloadPlan, OnExisting, Selection, Store};
use obt_node::names::{NameArgument, Selector};
use obt_node::node::Node;
use obt_node::requester::{
    self, NOBODY, Patience, ResolveError, Resolved, is_held, nobody_has, resolve, resolve_version,
};
use obt_node::torrent::{AddTorrent, Afterwards, Finished, LocalAddresses, Source, TorrentHandle, TrackerUrl};
use obt_node::tracker_client::{TrackerAddress, TrackerClient};
use serde_json::json;

use crate::args::Get;
use crate::commands::service::{start_node, tell_resolve, tracker_client};
use crate::commands::stdout;
use crate::commands::transfer::{Followed, follow, tell_torrent};
use crate::output::{Output, Status, Told, plain};
use crate::progress::Board;
use crate::quantity::show_bytes;
use crate::settings::Settings;
use crate::stop::Stop;

/// How often a `--wait` asks again whether anybody has it.
const ASK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: Get, settings: &Settings, output: Output, stop: Stop) -> anyhow::Result<Status> {
    let argument = name_argument(&args.name)?;
    let client = tracker_client(&args.tracker, settings)?;
    if args.stdout {
        return stdout::run(&client, &argument, args.wait, settings, output, stop).await;
    }
    check_folder(&args.output)?;
    let node = start_node(settings).await?;
    let status = get(&args, &argument, &client, &node, output, &stop).await;
    node.shutdown().await;
    status
}

async fn get(
    args: &Get,
    argument: &NameArgument,
    client: &TrackerClient,
    node: &Node,
    output: Output,
    stop: &Stop,
) -> anyhow::Result<Status> {
    let wait = if args.wait { Wait::UntilSomebodyHasIt } else { Wait::No };
    let Some(resolved) = resolve_patiently(client, argument, wait, output, stop).await? else {
        return Ok(Status::Incomplete);
    };
    let resolved = version_begun(client, node, resolved, argument, &args.output, output).await?;
    if !is_held(&resolved.item) && wait == Wait::No && !is_begun(&args.output, &resolved) {
        return Err(nobody(&resolved.item));
    }
    let on_existing = if args.force { OnExisting::Replace } else { OnExisting::Refuse };
    let afterwards = if args.seed { Afterwards::Seed } else { Afterwards::Stop };
    let handle = node.add(download(client.address(), &resolved, &args.output, on_existing, afterwards))?;
    let board = Board::new(output);
    let patience = (wait == Wait::No).then(|| Patience::new(NOBODY, Instant::now()));
    match follow(&handle, argument.text(), &board, patience, stop).await? {
        Followed::Finished(finished) => report(&resolved, &finished, output)?,
        Followed::GaveUp => return Err(gave_up(client, &resolved, &handle).await),
        Followed::Stopped => return Ok(stopped(&handle, &resolved, output)),
    }
    if args.seed {
        output.talk("serving it to others; Ctrl-C stops");
        stop.requested().await;
    }
    Ok(Status::Done)
}

/// Whether to wait where nobody has what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Say so and end.
    No,
    /// Ask again, until somebody has it or the user stops.
    UntilSomebodyHasIt,
}

/// The name as it was typed, which must be UTF-8.
pub(crate) fn name_argument(typed: &std::ffi::OsStr) -> anyhow::Result<NameArgument> {
    let text = typed.to_str().ok_or_else(|| Told::failed("names are UTF-8, and this one is not"))?;
    NameArgument::parse(text).map_err(|error| Told::failed(format!("\"{}\" is no name: {error}", plain(text))).into())
}

/// That `folder` is there: a mistyped one is not made.
pub(crate) fn check_folder(folder: &Path) -> anyhow::Result<()> {
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Told::failed(format!("{} is not a folder", folder.display())).into()),
        Err(error) => Err(Told::failed(format!("cannot put anything into {:?}: {error}", folder.display()))
            .hint("make the folder first, or leave -o out for this one")
            .into()),
    }
}

/// Resolves a name; where `wait` says so again and again, until it means something and somebody has it. None where the
/// user stopped the waiting.
pub(crate) async fn resolve_patiently(
    client: &TrackerClient,
    argument: &NameArgument,
    wait: Wait,
    output: Output,
    stop: &Stop,
) -> anyhow::Result<Option<Resolved>> {
    let mut said = false;
    loop {
        let waiting_for = match resolve(client, argument).await {
            Ok(resolved) if wait == Wait::No || is_held(&resolved.item) => return Ok(Some(resolved)),
            Ok(resolved) => nobody_has(&resolved.item),
            Err(error @ (ResolveError::Unknown { .. } | ResolveError::NoVersion { .. })) if wait != Wait::No => {
                error.to_string()
            }
            Err(error) => return Err(tell_resolve(error)),
        };
        if !said {
            output.talk(format_args!("{}; waiting", plain(&waiting_for)));
            said = true;
        }
        tokio::select! {
            () = stop.requested() => return Ok(None),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
}

/// The final name: of a file inside an item its last component, else that of the item.
fn final_name(resolved: &Resolved) -> &str {
    let inner = resolved.inner.as_ref().and_then(|path| path.last());
    inner.map_or_else(|| resolved.name.last_component(), String::as_str)
}

fn is_begun(folder: &Path, resolved: &Resolved) -> bool {
    std::fs::symlink_metadata(folder.join(final_name(resolved))).is_ok()
}

/// A download that was begun stays with its version, unless another one was asked for.
async fn version_begun(
    client: &TrackerClient,
    node: &Node,
    resolved: Resolved,
    argument: &NameArgument,
    folder: &Path,
    output: Output,
) -> anyhow::Result<Resolved> {
    if argument.selector != Selector::Newest {
        return Ok(resolved);
    }
    let begun =
        Store::begun(node.disk(), folder, final_name(&resolved)).await.map_err(|error| tell_torrent(error.into()))?;
    let Some(begun) = begun.and_then(|torrent| requester::version_of(&resolved, &torrent)) else {
        return Ok(resolved);
    };
    if begun == resolved.item.version {
        return Ok(resolved);
    }
    let earlier = resolve_version(client, &resolved, &Selector::Version(begun)).await.map_err(tell_resolve)?;
    let newest = resolved.item.version;
    Ok(match earlier {
        Some(earlier) => {
            output.talk(format_args!("going on with version {begun}, which was begun; the newest is {newest}"));
            earlier
        }
        None => resolved,
    })
}

/// A download of what was resolved, announced to the tracker that knows it.
pub(crate) fn download(
    tracker: &TrackerAddress,
    resolved: &Resolved,
    folder: &Path,
    on_existing: OnExisting,
    afterwards: Afterwards,
) -> AddTorrent {
    let plan = DownloadPlan {
        folder: folder.to_owned(),
        name: Some(final_name(resolved).to_owned()),
        metainfo: resolved.metainfo.clone(),
        torrent: Bytes::clone(&resolved.torrent),
        selection: resolved.inner.clone().map_or(Selection::All, Selection::Path),
        on_existing,
    };
    AddTorrent {
        source: Source::Download(Box::new(plan)),
        trackers: vec![TrackerUrl { url: format!("obt://{tracker}"), tier: 0 }],
        peers: Vec::new(),
        local_addresses: LocalAddresses::Allowed,
        afterwards,
    }
}

fn nobody(item: &Item) -> anyhow::Error {
    Told::incomplete(nobody_has(item)).hint("`--wait` waits until somebody has it").into()
}

async fn gave_up(client: &TrackerClient, resolved: &Resolved, handle: &TorrentHandle) -> anyhow::Error {
    let have = have_bytes(handle);
    let now = client.item(&resolved.name, &Selector::Version(resolved.item.version)).await.ok().flatten();
    let item = now.as_ref().unwrap_or(&resolved.item);
    let sentence = if is_held(item) && item.holders > 0 {
        let holders = item.holders;
        format!("none of the {holders} peers that should have {:?} could be reached", item.name)
    } else if item.downloaders > 1 {
        format!("all peers together do not have the whole of {:?}", item.name)
    } else {
        nobody_has(item)
    };
    let kept = if have == 0 { String::new() } else { format!("; {} of it are kept", show_bytes(have)) };
    Told::incomplete(format!("{sentence}{kept}")).hint("the same command goes on from there; `--wait` waits").into()
}

fn have_bytes(handle: &TorrentHandle) -> u64 {
    let stats = handle.stats();
    let stats = stats.borrow();
    stats.swarm.as_ref().map_or(0, |swarm| swarm.wanted_bytes.saturating_sub(swarm.left_bytes))
}

fn stopped(handle: &TorrentHandle, resolved: &Resolved, output: Output) -> Status {
    let have = show_bytes(have_bytes(handle));
    output.talk(format_args!("stopped; {have} of {:?} are kept, the same command goes on", resolved.item.name));
    Status::Incomplete
}

/// What a `get` ends with.
pub(crate) fn report(resolved: &Resolved, finished: &Finished, output: Output) -> anyhow::Result<()> {
    let Resolved { item, .. } = resolved;
    let size = wanted_size(resolved);
    if output.is_json() {
        let from =
            finished.from.iter().map(|(address, bytes)| json!({"address": show_address(address), "bytes": bytes}));
        return output.value(&json!({
            "name": item.name, "version": item.version, "path": absolute(&finished.path), "size": size,
            "seconds": finished.seconds, "verified_seconds": finished.verified_seconds,
            "info_hash_v1": item.info_hash_v1, "info_hash_v2": item.info_hash_v2,
            "from": from.collect::<Vec<_>>(),
        }));
    }
    output.line(absolute(&finished.path).display())?;
    tell_finished(&item.name, size, finished, output);
    let hash = item.info_hash_v2.as_ref().or(item.info_hash_v1.as_ref());
    if let Some(hash) = hash {
        output.talk(format_args!("version {}, info-hash {hash}", item.version));
    }
    if let Some(newest) = item.newest {
        output.talk(format_args!("version {newest} is newer"));
    }
    Ok(())
}

/// "1.0 GiB in 1.2 s from 3 peers, verified", and a line for each of them.
pub(crate) fn tell_finished(name: &str, size: u64, finished: &Finished, output: Output) {
    let name = plain(name);
    if finished.from.is_empty() {
        output.talk(format_args!("{name}: {} were here already, verified", show_bytes(size)));
        return;
    }
    let peers = finished.from.len();
    let rate = size as f64 / finished.seconds.max(0.001);
    output.talk(format_args!(
        "{name}: {} in {:.1} s ({}/s) from {peers} peer{}, verified",
        show_bytes(size),
        finished.seconds,
        show_bytes(rate as u64),
        if peers == 1 { "" } else { "s" },
    ));
    for (address, bytes) in &finished.from {
        output.talk(format_args!("  {:>10} from {}", show_bytes(*bytes), show_address(address)));
    }
}

/// An address as people write it: v4 where it is one.
pub(crate) fn show_address(address: &SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

fn wanted_size(resolved: &Resolved) -> u64 {
    let Some(inner) = &resolved.inner else { return resolved.item.size };
    let files = resolved.metainfo.info.files.iter().filter(|file| file.path.starts_with(inner));
    files.map(|file| file.size).sum()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
