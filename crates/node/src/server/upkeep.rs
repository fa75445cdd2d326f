//! What the tracker does by itself: leases and old announces run out, changes are told and noted.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use obt_catalogue::{Command, Departure};
use obt_tracker::{Change as SwarmChange, Holder};
use obt_wire::InfoHash;
use tokio::time::{MissedTickBehavior, interval};

use super::App;
use super::catalogue::CatalogueFailure;
use super::clock::now_ms;
use super::events::Change;

/// How often leases are looked through, and changes told: a killed peer is gone within 45 s.
const BEAT: Duration = Duration::from_secs(1);
/// Beats between two walks over all swarms.
const SWARM_BEATS: u64 = 60;
/// Beats between two walks over blobs that nothing names.
const BLOB_BEATS: u64 = 3_600;
/// Blobs that are removed after one walk.
const BLOBS_SWEPT: u32 = 10_000;
/// Blobs that are removed in one transaction.
const BLOBS_AT_ONCE: usize = 100;
/// Departures in one command of the log.
const DEPARTURES: usize = 256;

/// Runs until the server is gone.
pub(super) async fn run(app: Weak<App>) {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beat: u64 = 0;
    loop {
        beats.tick().await;
        let Some(app) = app.upgrade() else {
            return;
        };
        let now = Instant::now();
        app.state.expire_leases(now);
        if beat % SWARM_BEATS == SWARM_BEATS - 1 {
            let app = Arc::clone(&app);
            // Thousands of swarms behind locks: nothing for a thread that serves connections.
            let _ = tokio::task::spawn_blocking(move || app.state.expire_swarms(now)).await;
        }
        note_changes(&app).await;
        if beat % BLOB_BEATS == BLOB_BEATS - 1
            && let Err(error) = sweep_blobs(&app).await
        {
            tracing::warn!(%error, "unused torrents cannot be removed");
        }
        beat += 1;
    }
}

/// They are looked for by a reader, so that nobody who publishes waits for a walk over all of them.
async fn sweep_blobs(app: &App) -> Result<(), CatalogueFailure> {
    let unnamed = app.catalogue.read(|reader| reader.unnamed_blobs(BLOBS_SWEPT)).await?;
    for part in unnamed.chunks(BLOBS_AT_ONCE) {
        let part = part.to_vec();
        app.catalogue.work(move |catalogue| catalogue.sweep_blobs(&part, now_ms())).await?;
    }
    Ok(())
}

/// Tells listeners what changed in swarms, and notes in the catalogue who left one without a holder and how often it
/// was downloaded.
pub(super) async fn note_changes(app: &App) {
    let changes = app.state.drain_changes();
    if changes.is_empty() {
        return;
    }
    let now = Instant::now();
    let now_ms = now_ms();
    let departures: Vec<Departure> = changes.iter().filter_map(|change| departure(change, now, now_ms)).collect();
    let downloads: Vec<(InfoHash, u32)> = changes
        .iter()
        .filter(|change| change.stats.completed > 0)
        .map(|change| (change.hash, change.stats.completed))
        .collect();
    for change in &changes {
        app.events.tell(told(change));
    }
    let cluster = app.catalogue.cluster();
    // One member notes it for all.
    let leads = cluster.leader() == Some(cluster.node());
    for part in departures.chunks(DEPARTURES).filter(|_| leads) {
        if let Err(error) = app.catalogue.apply_own(Command::RecordDepartures { departures: part.to_vec() }).await {
            tracing::warn!(%error, "who held items last cannot be noted");
        }
    }
    if !downloads.is_empty()
        && let Err(error) = app.catalogue.work(move |catalogue| catalogue.record_downloads(&downloads)).await
    {
        tracing::warn!(%error, "downloads cannot be noted");
    }
}

fn told(change: &SwarmChange) -> Change {
    Change::Swarm {
        info_hash: change.hash.to_string(),
        holders: u64::from(change.stats.seeds),
        downloaders: u64::from(change.stats.leechers),
        completed: u64::from(change.stats.completed),
    }
}

fn departure(change: &SwarmChange, now: Instant, now_ms: u64) -> Option<Departure> {
    let Holder { addr, at, .. } = change.holder.filter(|_| change.stats.seeds == 0)?;
    let ago = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
    Some(Departure { info_hash: change.hash, holder: addr.to_string(), at_ms: now_ms.saturating_sub(ago) })
}
