//! `obt get`: the requester.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use obt_node::api_types::Item;
use obt_node::disk::{DownloadPlan, OnExisting, Selection, Store};
use obt_node::names::{NameArgument, Selector};
use obt_node::node::Node;
use obt_node::requester::{
    self, Found, ItemTorrent, NOBODY, Patience, ResolveError, fetch_torrent, find, find_version, is_held, nobody_has,
    supply,
};
use obt_node::torrent::{AddTorrent, Afterwards, Finished, LocalAddresses, Place, Source, TorrentHandle, TrackerUrl};
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
    node.approach(client.address());
    let Some(found) = find_patiently(client, argument, wait, output, stop).await? else {
        return Ok(Status::Incomplete);
    };
    let (found, begun) = version_begun(client, node, found, argument, &args.output, output).await?;
    if !is_held(&found.item) && wait == Wait::No && begun != Begun::Whole {
        return Err(nobody(&found.item));
    }
    let on_existing = if args.force { OnExisting::Replace } else { OnExisting::Refuse };
    let afterwards = if args.seed { Afterwards::Seed } else { Afterwards::Stop };
    let handle = match begun {
        // What is here is looked at before anybody hears of us.
        Begun::Partly | Begun::Whole => {
            let torrent = fetch_torrent(client, &found).await.map_err(tell_resolve)?;
            node.add(download(client.address(), &found, torrent, &args.output, on_existing, afterwards))?
        }
        Begun::No => node.add(awaited(client.address(), &found, &args.output, on_existing, afterwards))?,
    };
    let board = Board::new(output);
    let patience = (wait == Wait::No).then(|| Patience::new(NOBODY, Instant::now()));
    let followed = follow(&handle, argument.text(), &board, patience, stop);
    let followed = match begun {
        Begun::Partly | Begun::Whole => followed.await?,
        Begun::No => supplied(supply(client, &found, &handle), followed).await?,
    };
    match followed {
        Followed::Finished(finished) => report(&found, wanted_size(&found, &handle), &finished, output)?,
        Followed::GaveUp => return Err(gave_up(client, &found, &handle).await),
        Followed::Stopped => return Ok(stopped(&handle, &found, output)),
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

/// Follows a download while its torrent is supplied, or says why it cannot be.
async fn supplied(
    supplied: impl Future<Output = Result<(), ResolveError>>,
    followed: impl Future<Output = anyhow::Result<Followed>>,
) -> anyhow::Result<Followed> {
    tokio::pin!(followed);
    tokio::select! {
        supplied = supplied => supplied.map_err(tell_resolve)?,
        followed = &mut followed => return followed,
    }
    followed.await
}

/// Asks what a name means; where `wait` says so again and again, until it means something and somebody has it. None where
/// the user stopped the waiting.
pub(crate) async fn find_patiently(
    client: &TrackerClient,
    argument: &NameArgument,
    wait: Wait,
    output: Output,
    stop: &Stop,
) -> anyhow::Result<Option<Found>> {
    let mut said = false;
    loop {
        let waiting_for = match find(client, argument).await {
            Ok(found) if wait == Wait::No || is_held(&found.item) => return Ok(Some(found)),
            Ok(found) => nobody_has(&found.item),
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

/// Whether anything of a download lies where it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    /// In a partial folder.
    Partly,
    /// Something has the final name.
    Whole,
}

/// The final name: of a file inside an item its last component, else that of the item.
fn final_name(found: &Found) -> &str {
    let inner = found.inner.as_ref().and_then(|path| path.last());
    inner.map_or_else(|| found.name.last_component(), String::as_str)
}

/// A download that was begun stays with its version, unless another one was asked for.
async fn version_begun(
    client: &TrackerClient,
    node: &Node,
    found: Found,
    argument: &NameArgument,
    folder: &Path,
    output: Output,
) -> anyhow::Result<(Found, Begun)> {
    let name = final_name(&found);
    let torrent = Store::begun(node.disk(), folder, name).await.map_err(|error| tell_torrent(error.into()))?;
    let is_there = std::fs::symlink_metadata(folder.join(name)).is_ok();
    let begun = match (is_there, &torrent) {
        (true, _) => Begun::Whole,
        (false, Some(_)) => Begun::Partly,
        (false, None) => Begun::No,
    };
    let Some(version) = torrent.and_then(|torrent| requester::version_of(&found, &torrent)) else {
        return Ok((found, begun));
    };
    if argument.selector != Selector::Newest || version == found.item.version {
        return Ok((found, begun));
    }
    let earlier = find_version(client, &found, &Selector::Version(version)).await.map_err(tell_resolve)?;
    let newest = found.item.version;
    let goes_on = match earlier {
        Some(earlier) => {
            output.talk(format_args!("going on with version {version}, which was begun; the newest is {newest}"));
            earlier
        }
        None => found,
    };
    Ok((goes_on, begun))
}

/// A download of what was found, announced to the tracker that knows it.
pub(crate) fn download(
    tracker: &TrackerAddress,
    found: &Found,
    torrent: ItemTorrent,
    folder: &Path,
    on_existing: OnExisting,
    afterwards: Afterwards,
) -> AddTorrent {
    let Place { folder, name, selection, on_existing } = place(found, folder, on_existing);
    let ItemTorrent { metainfo, torrent } = torrent;
    let plan = DownloadPlan { folder, name, metainfo, torrent, selection, on_existing };
    announced(tracker, Source::Download(Box::new(plan)), afterwards)
}

/// The same while its torrent is still to come.
fn awaited(
    tracker: &TrackerAddress,
    found: &Found,
    folder: &Path,
    on_existing: OnExisting,
    afterwards: Afterwards,
) -> AddTorrent {
    let source = Source::Awaited { hashes: found.hashes, place: place(found, folder, on_existing) };
    announced(tracker, source, afterwards)
}

fn place(found: &Found, folder: &Path, on_existing: OnExisting) -> Place {
    Place {
        folder: folder.to_owned(),
        name: Some(final_name(found).to_owned()),
        selection: found.inner.clone().map_or(Selection::All, Selection::Path),
        on_existing,
    }
}

fn announced(tracker: &TrackerAddress, source: Source, afterwards: Afterwards) -> AddTorrent {
    AddTorrent {
        source,
        trackers: vec![TrackerUrl { url: format!("obt://{tracker}"), tier: 0 }],
        peers: Vec::new(),
        local_addresses: LocalAddresses::Allowed,
        afterwards,
    }
}

fn nobody(item: &Item) -> anyhow::Error {
    Told::incomplete(nobody_has(item)).hint("`--wait` waits until somebody has it").into()
}

async fn gave_up(client: &TrackerClient, found: &Found, handle: &TorrentHandle) -> anyhow::Error {
    let have = have_bytes(handle);
    let now = client.item(&found.name, &Selector::Version(found.item.version)).await.ok().flatten();
    let item = now.as_ref().unwrap_or(&found.item);
    let sentence = if is_held(item) && item.holders > 0 {
        match item.holders {
            1 => format!("the one peer that should have {:?} could not be reached, or stopped answering", item.name),
            holders => {
                format!("none of the {holders} peers that should have {:?} could be reached, or answers", item.name)
            }
        }
    } else if item.downloaders > 1 {
        format!("all peers together do not have the whole of {:?}", item.name)
    } else {
        nobody_has(item)
    };
    let kept = if have == 0 { String::new() } else { format!("; {} of it are kept", show_bytes(have)) };
    let hint = match item.newest {
        Some(newest) if have > 0 => {
            format!(
                "this is version {}; for version {newest} delete the .obt-part folder, or use `-o DIR`",
                item.version
            )
        }
        _ => "the same command goes on from there; `--wait` waits".to_owned(),
    };
    Told::incomplete(format!("{sentence}{kept}")).hint(hint).into()
}

fn have_bytes(handle: &TorrentHandle) -> u64 {
    let stats = handle.stats();
    let stats = stats.borrow();
    stats.swarm.as_ref().map_or(0, |swarm| swarm.wanted_bytes.saturating_sub(swarm.left_bytes))
}

fn stopped(handle: &TorrentHandle, found: &Found, output: Output) -> Status {
    let have = show_bytes(have_bytes(handle));
    output.talk(format_args!("stopped; {have} of {:?} are kept, the same command goes on", found.item.name));
    Status::Incomplete
}

/// What a `get` ends with.
pub(crate) fn report(found: &Found, size: u64, finished: &Finished, output: Output) -> anyhow::Result<()> {
    let Found { item, .. } = found;
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
    let inner = found.inner.as_ref().map_or_else(String::new, |inner| format!("/{}", inner.join("/")));
    tell_finished(&format!("{}{inner}", item.name), size, finished, output);
    let hash = item.info_hash_v2.as_ref().or(item.info_hash_v1.as_ref());
    if let Some(hash) = hash {
        output.talk(format_args!("version {}, info-hash {hash}", item.version));
    }
    if let Some(newest) = item.newest {
        output.talk(format_args!("version {newest} is newer"));
    }
    Ok(())
}

/// "1.0 GiB in 1.2 s from 3 peers, verified", and a line for each of them; "1.0 GiB, of which 5.0 MiB came in 0.1 s" where the rest was here.
pub(crate) fn tell_finished(name: &str, size: u64, finished: &Finished, output: Output) {
    let name = plain(name);
    if size == 0 {
        output.talk(format_args!("{name}: empty, nothing to fetch"));
        return;
    }
    if finished.from.is_empty() {
        output.talk(format_args!("{name}: {} were here already, verified", show_bytes(size)));
        return;
    }
    let peers = finished.from.len();
    let fetched = finished.from.iter().map(|(_, bytes)| bytes).sum::<u64>().min(size);
    let part = if fetched < size { format!(", of which {} came", show_bytes(fetched)) } else { String::new() };
    let rate = fetched as f64 / finished.seconds.max(0.001);
    output.talk(format_args!(
        "{name}: {}{part} in {:.1} s ({}/s) from {peers} peer{}, verified",
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

/// The size of what was asked for, once the torrent is known.
fn wanted_size(found: &Found, handle: &TorrentHandle) -> u64 {
    let metainfo = handle.stats().borrow().metainfo.clone();
    let (Some(inner), Some(metainfo)) = (&found.inner, metainfo) else { return found.item.size };
    let files = metainfo.info.files.iter().filter(|file| file.path.starts_with(inner));
    files.map(|file| file.size).sum()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
