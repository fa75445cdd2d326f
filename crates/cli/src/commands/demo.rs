//! `obt demo`: a tracker, three peers and a requester on loopback, on the real stack, in one command.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use obt_node::config::{NodeConfig, PeerListen, PeerPort};
use obt_node::disk::OnExisting;
use obt_node::hash::{MakeOptions, Watch, check};
use obt_node::names::NameArgument;
use obt_node::node::Node;
use obt_node::requester::{NOBODY, Patience, fetch_torrent, find};
use obt_node::server::{TrackerConfig, TrackerListen, TrackerPort, TrackerServer};
use obt_node::sharer::{How, ShareRequest, Sharer};
use obt_node::state::StateFolder;
use obt_node::torrent::Afterwards;
use obt_node::tracker_client::{Replace, TrackerAddress, TrackerClient};

use crate::args::Demo;
use crate::commands::create::own_name;
use crate::commands::get::{download, report, tell_finished};
use crate::commands::publish::{parse_name, quoted};
use crate::commands::service::tell_resolve;
use crate::commands::share::share;
use crate::commands::transfer::{Followed, follow};
use crate::output::{Output, Status, Told};
use crate::progress::Board;
use crate::quantity::show_bytes;
use crate::settings::Settings;
use crate::stop::Stop;

/// Size of the file that is made up, bytes.
const MADE_UP: usize = 64 << 20;
/// How many peers hold the file.
const HOLDERS: usize = 3;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) async fn run(args: Demo, settings: &Settings, output: Output, stop: Stop) -> anyhow::Result<Status> {
    let scratch =
        tempfile::Builder::new().prefix("obt-demo-").tempdir().context("the demo needs a temporary folder")?;
    let path = match args.path {
        Some(path) => path,
        None => made_up(scratch.path(), output)?,
    };
    let name = parse_name(&own_name(&path)?)?;

    let state = StateFolder::open(&scratch.path().join("tracker"))?;
    let mut config = TrackerConfig::new(state.clone());
    config.listen = TrackerListen { addr: Some(LOOPBACK), port: TrackerPort::Exactly(0) };
    let tracker = TrackerServer::start(config).await?;
    let address = TrackerAddress::new("127.0.0.1", tracker.port())?;
    output.talk(format_args!("1. a tracker starts at {address}"));

    let mut nodes = Vec::new();
    for number in 1..=HOLDERS {
        let node = start_peer(settings).await?;
        let own_state = StateFolder::open(&scratch.path().join(format!("peer-{number}")))?;
        let key = tracker.publisher().clone();
        let sharer = Sharer::new(node.clone(), TrackerClient::new(address.clone()), key, own_state);
        nodes.push(node.clone());
        let request = ShareRequest {
            path: path.clone(),
            name: name.clone(),
            replace: Replace::No,
            options: MakeOptions::default(),
        };
        let Some(shared) = share(&sharer, &request, output, &stop).await? else {
            return Ok(Status::Incomplete);
        };
        let how = if shared.how == How::Published { "publishes" } else { "recognises the same bytes and joins" };
        let port = node.port();
        output.talk(format_args!("2. peer {number}, 127.0.0.1:{port}, hashes {:?} and {how}", name.as_str()));
    }

    let (host, port) = (address.host(), address.port());
    output.talk(format_args!("3. a requester asks:  obt get {host} {port} {}", quoted(&name)));
    let requester = start_peer(settings).await?;
    nodes.push(requester.clone());
    let folder = scratch.path().join("requester");
    std::fs::create_dir(&folder)?;
    let status = fetch(&requester, address, &name.to_string(), &folder, output, &stop).await;
    for node in nodes {
        node.shutdown().await;
    }
    tracker.shutdown().await;
    status
}

async fn start_peer(settings: &Settings) -> anyhow::Result<Node> {
    let config = NodeConfig {
        listen: PeerListen { addr: Some(LOOPBACK), port: PeerPort::Exactly(0) },
        download_rate: settings.download_rate,
        upload_rate: settings.upload_rate,
        ..NodeConfig::default()
    };
    Ok(Node::start(config).await?)
}

async fn fetch(
    node: &Node,
    tracker: TrackerAddress,
    name: &str,
    folder: &Path,
    output: Output,
    stop: &Stop,
) -> anyhow::Result<Status> {
    let client = TrackerClient::new(tracker);
    let argument = NameArgument::parse(name)?;
    let found = find(&client, &argument).await.map_err(tell_resolve)?;
    let torrent = fetch_torrent(&client, &found).await.map_err(tell_resolve)?;
    let metainfo = Arc::clone(&torrent.metainfo);
    let add = download(client.address(), &found, torrent, folder, OnExisting::Refuse, Afterwards::Stop);
    let handle = node.add(add)?;
    let board = Board::new(output);
    let followed = follow(&handle, name, &board, Some(Patience::new(NOBODY, Instant::now())), stop).await?;
    let Followed::Finished(finished) = followed else {
        return Err(Told::incomplete("the demo did not finish").into());
    };
    let size = metainfo.info.size();
    if output.is_json() {
        report(&found, size, &finished, output)?;
    } else {
        tell_finished(name, size, &finished, output);
    }
    let root = finished.path.clone();
    let checked = tokio::task::spawn_blocking(move || check(&root, &metainfo, &Watch::default())).await??;
    if !checked.is_complete() {
        return Err(Told::failed("what arrived is not what was shared").into());
    }
    output.talk("4. hashed again from disk: the same bytes. The demo removes what it made.");
    Ok(Status::Done)
}

/// A file that nobody has seen before.
fn made_up(folder: &Path, output: Output) -> anyhow::Result<PathBuf> {
    let folder = folder.join("made-up");
    std::fs::create_dir(&folder)?;
    let path = folder.join("demo.bin");
    let mut file = BufWriter::new(File::create(&path)?);
    let mut random = fastrand::Rng::new();
    let mut block = vec![0; 1 << 20];
    for _ in 0..MADE_UP / block.len() {
        random.fill(&mut block);
        file.write_all(&block)?;
    }
    file.flush()?;
    output.talk(format_args!("0. a file of {} is made up", show_bytes(MADE_UP as u64)));
    Ok(path)
}
