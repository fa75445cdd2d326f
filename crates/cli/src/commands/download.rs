//! `obt download`: plain BitTorrent, with no catalogue.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use obt_node::disk::{DownloadPlan, OnExisting, Selection};
use obt_node::requester::{Patience, failing_trackers};
use obt_node::torrent::{AddTorrent, Afterwards, Finished, LocalAddresses, Place, Source, TorrentHandle, TrackerUrl};
use obt_node::torrent_url::fetch_torrent;
use obt_wire::magnet::Magnet;
use obt_wire::metainfo::Metainfo;
use serde_json::json;

use crate::args::Download;
use crate::commands::get::{check_folder, show_address, tell_finished};
use crate::commands::inspect::{as_magnet, data_size, read_torrent};
use crate::commands::service::start_node;
use crate::commands::transfer::{Followed, follow};
use crate::output::{Output, Status, Told, plain};
use crate::progress::Board;
use crate::settings::Settings;
use crate::stop::Stop;

pub(crate) async fn run(args: Download, settings: &Settings, output: Output, stop: Stop) -> anyhow::Result<Status> {
    check_folder(&args.output)?;
    let add = add_torrent(&args).await?;
    // Whoever stays can be called by others.
    if add.trackers.is_empty() && add.peers.is_empty() && !args.seed {
        return Err(Told::failed("this names no tracker and no peer, and obt has no other way to find one yet")
            .hint(
                "neither web seeds nor the DHT are asked: name a peer with --peer ADDR:PORT, or stay for others with --seed",
            )
            .into());
    }
    let node = start_node(settings).await?;
    let handle = node.add(add)?;
    let board = Board::new(output);
    let nobody = Duration::from_secs(args.patience);
    let patience = (!nobody.is_zero()).then(|| Patience::new(nobody, Instant::now()));
    let followed = follow(&handle, "download", &board, patience, &stop).await;
    let status = match followed {
        Ok(Followed::Finished(finished)) => {
            let serving_at = args.seed.then(|| node.port());
            report(&handle, &finished, serving_at, output)?;
            if let Some(port) = serving_at {
                output.talk(format_args!("serving it to others, peers reach us at port {port}; Ctrl-C stops"));
                stop.requested().await;
            }
            Ok(Status::Done)
        }
        Ok(Followed::GaveUp) => {
            for (url, why) in failing_trackers(&handle.stats().borrow()) {
                output.talk(format_args!("tracker {}: {}", plain(url), plain(why)));
            }
            let sentence = format!("no peer had anything for us for {} s", args.patience);
            Err(Told::incomplete(sentence).hint("the same command goes on from there; --patience 0 waits").into())
        }
        Ok(Followed::Stopped) => {
            output.talk("stopped; the same command goes on");
            Ok(Status::Incomplete)
        }
        Err(error) => Err(error),
    };
    node.shutdown().await;
    status
}

async fn add_torrent(args: &Download) -> anyhow::Result<AddTorrent> {
    let on_existing = if args.force { OnExisting::Replace } else { OnExisting::Refuse };
    let afterwards = if args.seed { Afterwards::Seed } else { Afterwards::Stop };
    let add = |source: Source, trackers: Vec<Vec<String>>, peers: Vec<SocketAddr>| AddTorrent {
        source,
        trackers: tiers(trackers),
        peers,
        local_addresses: LocalAddresses::Allowed,
        afterwards,
    };
    if let Some(link) = as_magnet(&args.source) {
        let magnet =
            Magnet::parse(link).map_err(|error| Told::failed(format!("this magnet link is unusable: {error}")))?;
        let place = Place { folder: args.output.clone(), name: None, selection: Selection::All, on_existing };
        let peers = magnet.peers.iter().chain(&args.peer).copied().collect();
        let trackers = magnet.trackers.into_iter().map(|url| vec![url]).collect();
        return Ok(add(Source::Magnet { hashes: magnet.hashes, place }, trackers, peers));
    }
    let (metainfo, torrent) = match args.source.to_str().filter(|text| is_url(text)) {
        Some(url) => {
            let bytes =
                fetch_torrent(url).await.map_err(|error| Told::failed(format!("cannot fetch {url}: {error}")))?;
            (
                Metainfo::parse_shared(&bytes)
                    .map_err(|error| Told::failed(format!("{url} is not a usable .torrent: {error}")))?,
                bytes,
            )
        }
        None => read_torrent(Path::new(&args.source))?,
    };
    let trackers = metainfo.trackers.clone();
    let plan = DownloadPlan {
        folder: args.output.clone(),
        name: None,
        metainfo: metainfo.into(),
        torrent,
        selection: Selection::All,
        on_existing,
    };
    Ok(add(Source::Download(Box::new(plan)), trackers, args.peer.clone()))
}

fn is_url(text: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

fn tiers(trackers: Vec<Vec<String>>) -> Vec<TrackerUrl> {
    let tiers = (0..).zip(trackers);
    tiers.flat_map(|(tier, urls)| urls.into_iter().map(move |url| TrackerUrl { url, tier })).collect()
}

fn report(handle: &TorrentHandle, finished: &Finished, serving_at: Option<u16>, output: Output) -> anyhow::Result<()> {
    let metainfo = handle.stats().borrow().metainfo.clone();
    let Some(metainfo) = metainfo else { return Ok(()) };
    let hashes = metainfo.info.hashes;
    let path = std::path::absolute(&finished.path).unwrap_or_else(|_| finished.path.clone());
    if output.is_json() {
        let from =
            finished.from.iter().map(|(address, bytes)| json!({"address": show_address(address), "bytes": bytes}));
        return output.value(&json!({
            "name": metainfo.info.name, "path": path, "size": data_size(&metainfo), "seconds": finished.seconds,
            "verified_seconds": finished.verified_seconds,
            "info_hash_v1": hashes.v1.map(|hash| hash.to_string()),
            "info_hash_v2": hashes.v2.map(|hash| hash.to_string()), "from": from.collect::<Vec<_>>(),
            "peer_port": serving_at,
        }));
    }
    output.line(path.display())?;
    tell_finished(&metainfo.info.name, data_size(&metainfo), finished, output);
    Ok(())
}
