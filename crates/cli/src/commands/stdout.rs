//! `obt get --stdout`: the bytes of one file, in order, as they come in and are verified. What passes through is kept in
//! the cache folder until the end, and then removed.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use obt_node::disk::OnExisting;
use obt_node::names::NameArgument;
use obt_node::requester::{Found, ItemTorrent, NOBODY, Patience, Prospect, fetch_torrent, is_held, nobody_has};
use obt_node::state::StateFolder;
use obt_node::torrent::{Afterwards, TorrentHandle};
use obt_node::tracker_client::TrackerClient;
use obt_wire::metainfo::FileKind;
use tokio::io::AsyncWriteExt;

use crate::commands::get::{Wait, download, find_patiently};
use crate::commands::service::{start_node, tell_resolve};
use crate::output::{CANNOT_WRITE, Output, Status, Told};
use crate::settings::Settings;
use crate::stop::Stop;

pub(crate) async fn run(
    client: &TrackerClient,
    argument: &NameArgument,
    wait: bool,
    settings: &Settings,
    output: Output,
    stop: Stop,
) -> anyhow::Result<Status> {
    if output.is_json() {
        return Err(Told::failed("--stdout and --json both want standard output").into());
    }
    let wait = if wait { Wait::UntilSomebodyHasIt } else { Wait::No };
    let Some(found) = find_patiently(client, argument, wait, output, &stop).await? else {
        return Ok(Status::Incomplete);
    };
    if !is_held(&found.item) && wait == Wait::No {
        return Err(Told::incomplete(nobody_has(&found.item)).hint("`--wait` waits until somebody has it").into());
    }
    let torrent = fetch_torrent(client, &found).await.map_err(tell_resolve)?;
    let (file, size) = one_file(&found, &torrent)?;
    let cache = Cache::new(&StateFolder::open(&settings.state()?)?)?;
    let node = start_node(settings).await?;
    let add = download(client.address(), &found, torrent, &cache.path, OnExisting::Refuse, Afterwards::Seed);
    let handle = node.add(add)?;
    let patience = (wait == Wait::No).then(|| Patience::new(NOBODY, Instant::now()));
    let status = tokio::select! {
        copied = copy(&handle, file, size) => copied.map(|()| Status::Done),
        () = stop.requested() => Ok(Status::Incomplete),
        () = nobody(&handle, patience) => Err(Told::incomplete(nobody_has(&found.item)).into()),
    };
    node.shutdown().await;
    status
}

/// The number and size of the one file that is meant.
fn one_file(found: &Found, torrent: &ItemTorrent) -> anyhow::Result<(usize, u64)> {
    let inner = found.inner.as_deref().unwrap_or_default();
    let files = torrent.metainfo.info.files.iter().enumerate();
    let mut files = files.filter(|(_, file)| file.kind == FileKind::Data && file.path.starts_with(inner));
    match (files.next(), files.next()) {
        (Some((number, file)), None) => Ok((number, file.size)),
        _ => Err(Told::failed(format!("{:?} is a folder; --stdout takes one file", found.item.name))
            .hint("name a file in it: FOLDER/inner/file")
            .into()),
    }
}

async fn copy(handle: &TorrentHandle, file: usize, size: u64) -> anyhow::Result<()> {
    let mut reader = handle.read(file, 0..size).await?;
    let mut out = tokio::io::stdout();
    while let Some(bytes) = reader.next().await? {
        let written = out.write_all(&bytes).await;
        if written.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            return Ok(());
        }
        written.context(CANNOT_WRITE)?;
    }
    out.flush().await.context(CANNOT_WRITE)
}

async fn nobody(handle: &TorrentHandle, patience: Option<Patience>) {
    let Some(mut patience) = patience else { return std::future::pending().await };
    let stats = handle.stats();
    let mut look = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        look.tick().await;
        let now = stats.borrow().clone();
        if patience.look(&now, Instant::now()) == Prospect::None {
            return;
        }
    }
}

/// A folder of this process, removed with it.
struct Cache {
    path: PathBuf,
}

impl Cache {
    fn new(state: &StateFolder) -> anyhow::Result<Self> {
        let path = state.cache().join(format!("stdout-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
