//! Following a download: show how it goes, give up when nothing comes of it, stop when asked.

use std::time::{Duration, Instant};

use obt_node::requester::{Patience, Prospect};
use obt_node::torrent::{Finished, TorrentError, TorrentHandle, TorrentStats};

use crate::output::Told;
use crate::progress::{Board, Progress, Shown, plural};
use crate::stop::Stop;

/// How often the display and the patience look.
const LOOK: Duration = Duration::from_millis(200);

/// How following a download ended.
#[derive(Debug)]
pub(crate) enum Followed {
    /// It is here under its final name.
    Finished(Finished),
    /// Nobody had anything for it for too long.
    GaveUp,
    /// The user asked to stop.
    Stopped,
}

/// Follows `handle` to its end. Without `patience` it waits for ever.
pub(crate) async fn follow(
    handle: &TorrentHandle,
    name: &str,
    board: &Board,
    mut patience: Option<Patience>,
    stop: &Stop,
) -> anyhow::Result<Followed> {
    let mut progress = board.add(name);
    let stats = handle.stats();
    let finished = handle.finished();
    tokio::pin!(finished);
    let mut look = tokio::time::interval(LOOK);
    let mut paused = None;
    let followed = loop {
        tokio::select! {
            ended = &mut finished => break ended.map(Followed::Finished).map_err(tell_torrent),
            () = stop.requested() => break Ok(Followed::Stopped),
            _ = look.tick() => {
                let now = stats.borrow().clone();
                say_pause(&now, &mut paused, board);
                show(&mut progress, &now);
                let prospect = patience.as_mut().map(|patience| patience.look(&now, Instant::now()));
                if prospect == Some(Prospect::None) {
                    break Ok(Followed::GaveUp);
                }
            }
        }
    };
    progress.clear();
    followed
}

fn say_pause(stats: &TorrentStats, said: &mut Option<String>, board: &Board) {
    if stats.paused == *said {
        return;
    }
    match &stats.paused {
        Some(reason) => board.say(&format!("paused: {reason}; it goes on by itself")),
        None => board.say("going on"),
    }
    said.clone_from(&stats.paused);
}

fn show(progress: &mut Progress, stats: &TorrentStats) {
    progress.show(&shown(stats));
}

fn shown(stats: &TorrentStats) -> Shown {
    match &stats.swarm {
        None => Shown { doing: Some("checking what is there".into()), ..Shown::default() },
        Some(swarm) if stats.metainfo.is_none() => {
            let peers = swarm.peers.len();
            let doing = format!("asking {peers} peer{} what it is", plural(peers));
            Shown { doing: Some(doing), ..Shown::default() }
        }
        Some(swarm) => Shown {
            done: swarm.wanted_bytes.saturating_sub(swarm.left_bytes),
            total: Some(swarm.wanted_bytes),
            rate: swarm.download_rate,
            peers: swarm.peers.len(),
            doing: match &stats.paused {
                Some(reason) => Some(format!("paused: {reason}")),
                None => (swarm.left_bytes == 0).then(|| "making it durable".into()),
            },
        },
    }
}

/// Tells why a torrent ended.
pub(crate) fn tell_torrent(error: TorrentError) -> anyhow::Error {
    use obt_node::disk::StoreError;

    let told = Told::failed(error.to_string());
    let told = match &error {
        TorrentError::Store(store) => match &**store {
            StoreError::Occupied { .. } => {
                told.hint("`--force` replaces it and fetches only what differs, `-o DIR` puts it elsewhere")
            }
            StoreError::InUse { .. } => told.hint("wait for the other one, or stop it"),
            StoreError::OtherTorrent { path } => {
                told.hint(format!("delete {} to begin anew, or use `-o DIR`", path.display()))
            }
            _ => told,
        },
        _ => told,
    };
    anyhow::Error::new(error).context(told)
}
