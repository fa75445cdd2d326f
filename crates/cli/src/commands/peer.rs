//! `obt peer`: a folder whose entries are items, watched for change; on a terminal it also asks for what to fetch.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use obt_node::folder::{Change, FolderWatch, look_at};
use obt_node::hash::{MakeOptions, Watch};
use obt_node::limits::{LOOK_UP_NAMES, SHARES};
use obt_node::sharer::{Resumed, ShareRequest, Shared};
use obt_node::state::StateFolder;
use obt_node::torrent::TorrentHandle;
use obt_node::tracker_client::Replace;
use tokio::task::JoinSet;

use crate::args::Peer;
use crate::commands::daemon::{Daemon, announce_listening, announce_shared};
use crate::commands::get::check_folder;
use crate::commands::prompt;
use crate::commands::publish::parse_name;
use crate::output::{Output, Status, plain, sentence};
use crate::settings::Settings;
use crate::stop::Stop;

/// Shortest time between two looks at the folder.
const LOOK: Duration = Duration::from_secs(1);
/// A look may take this part of the time at most: a folder of a million files is looked at less often.
const SHARE_OF_TIME: u32 = 20;

pub(crate) async fn run(args: Peer, settings: &Settings, output: Output, stop: Stop) -> anyhow::Result<Status> {
    check_folder(&args.folder)?;
    let state = StateFolder::open(&settings.state()?)?;
    state.check_apart(&args.folder)?;
    let lock = state.lock()?;
    let daemon =
        Daemon::start(args.tracker.as_deref(), args.publish, args.join.as_deref(), settings, state, lock).await?;
    let control = daemon.serve_control(&stop);
    announce_listening(&daemon, output)?;
    let mut items = Items { daemon: &daemon, served: BTreeMap::new(), watch: FolderWatch::default(), output };
    tokio::select! {
        () = stop.requested() => {}
        watched = items.watch(&args.folder) => watched?,
        () = ask(&daemon, &args.folder, output, &stop) => {}
    }
    drop(items);
    daemon.stop(control).await?;
    Ok(Status::Done)
}

/// The prompt, where there is somebody to answer it.
async fn ask(daemon: &Daemon, folder: &Path, output: Output, stop: &Stop) {
    if std::io::stdin().is_terminal() && !output.is_json() {
        prompt::ask(&daemon.node, folder, output, stop).await;
    }
    std::future::pending().await
}

struct Items<'a> {
    daemon: &'a Daemon,
    served: BTreeMap<String, TorrentHandle>,
    watch: FolderWatch,
    output: Output,
}

impl Items<'_> {
    async fn watch(&mut self, folder: &Path) -> anyhow::Result<()> {
        loop {
            let began = Instant::now();
            let owned = folder.to_owned();
            match tokio::task::spawn_blocking(move || look_at(&owned)).await? {
                Ok(look) => {
                    let pause = LOOK.max(began.elapsed() * SHARE_OF_TIME);
                    let changes = self.watch.look(&look, Instant::now());
                    self.apply(folder, changes).await?;
                    tokio::time::sleep(pause).await;
                }
                Err(error) => {
                    self.output.talk(format_args!("cannot look into {}: {error}; trying again", folder.display()));
                    tokio::time::sleep(LOOK * SHARE_OF_TIME).await;
                }
            }
        }
    }

    async fn apply(&mut self, folder: &Path, changes: Vec<Change>) -> anyhow::Result<()> {
        let mut requests = Vec::new();
        for change in changes {
            match change {
                Change::Withdraw(name) => self.withdraw(&name).await,
                Change::Share(name) => match request(folder, &name) {
                    Ok(request) => requests.push(request),
                    Err(error) => self.failed(&name, &sentence(&error)),
                },
            }
        }
        // So many at a time that nobody notices the memory.
        while !requests.is_empty() {
            let some = requests.split_off(requests.len().saturating_sub(LOOK_UP_NAMES));
            self.resume(some).await?;
        }
        Ok(())
    }

    /// Shares what was shared before and has not changed, then the rest.
    async fn resume(&mut self, requests: Vec<ShareRequest>) -> anyhow::Result<()> {
        let entries: Vec<String> = requests.iter().map(entry).collect();
        match self.daemon.sharer.resume(requests).await {
            Ok(Resumed { shared, others }) => {
                for (request, shared) in shared {
                    self.shared(&request, shared)?;
                }
                self.share(others).await
            }
            Err(error) => {
                self.output.talk(format_args!("nothing new can be shared: {}", plain(&error.to_string())));
                let now = Instant::now();
                entries.iter().for_each(|entry| self.watch.failed(entry, now));
                Ok(())
            }
        }
    }

    async fn withdraw(&mut self, name: &str) {
        if let Some(handle) = self.served.remove(name) {
            handle.stop().await;
            handle.ended().await;
        }
        self.output.talk(format_args!("{} changed or went: not served at the moment", plain(name)));
    }

    /// Hashes and publishes, several at a time.
    async fn share(&mut self, requests: Vec<ShareRequest>) -> anyhow::Result<()> {
        let mut waiting = requests.into_iter();
        let mut sharing = JoinSet::new();
        loop {
            for request in waiting.by_ref().take(SHARES - sharing.len()) {
                let sharer = self.daemon.sharer.clone();
                sharing.spawn(async move {
                    let shared = sharer.share(&request, Arc::new(Watch::default())).await;
                    (request, shared)
                });
            }
            match sharing.join_next().await {
                Some(shared) => match shared? {
                    (request, Ok(shared)) => self.shared(&request, shared)?,
                    (request, Err(error)) => self.failed(&entry(&request), &sentence(&error.into())),
                },
                None => return Ok(()),
            }
        }
    }

    fn shared(&mut self, request: &ShareRequest, shared: Shared) -> anyhow::Result<()> {
        announce_shared(self.daemon, &shared, self.output)?;
        self.served.insert(entry(request), shared.handle);
        Ok(())
    }

    fn failed(&mut self, name: &str, why: &str) {
        self.watch.failed(name, Instant::now());
        self.output.talk(format_args!("{}: {}", plain(name), plain(why)));
    }
}

fn request(folder: &Path, name: &str) -> anyhow::Result<ShareRequest> {
    let path = folder.join(name);
    Ok(ShareRequest { path, name: parse_name(name)?, replace: Replace::Yes, options: MakeOptions::default() })
}

/// The entry of the folder that a request is for, as it is spelt there: its name may be spelt otherwise.
fn entry(request: &ShareRequest) -> String {
    request.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
