//! What follows from changes of the catalogue, whichever member was asked for them: swarms are held or let go, listeners
//! are told.
//!
//! The catalogue's thread only queues here, and never waits: where the queue is full, all swarms are looked through.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use obt_catalogue::{CatalogueError, Command, CommandId, Outcome, Reader};
use obt_cluster::{ChangeHook, Changed};
use obt_wire::InfoHashes;
use tokio::sync::{mpsc, oneshot};

use super::App;
use super::events::Change;
use super::limits::CHANGES;

/// Where the catalogue's thread leaves word. Cheap to clone.
#[derive(Clone)]
pub(super) struct Changes(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<Told>,
    /// More happened than the queue could hold, or everything is different.
    anything: AtomicBool,
    /// Who waits for a command of theirs.
    expected: Mutex<BTreeMap<CommandId, oneshot::Sender<()>>>,
}

/// One command that was applied. Whoever waits for it goes on when it is dropped.
pub(super) struct Told {
    follows: Option<Follows>,
    _waiting: Option<oneshot::Sender<()>>,
}

enum Follows {
    Published { name: String, version: u32, hashes: InfoHashes },
    Withdrawn { name: String, versions: Vec<u32>, contents: Vec<InfoHashes> },
}

/// The queue and its end, for [`run`].
pub(super) fn queue() -> (Changes, mpsc::Receiver<Told>) {
    let (queue, told) = mpsc::channel(CHANGES);
    (Changes(Arc::new(Inner { queue, anything: AtomicBool::new(false), expected: Mutex::default() })), told)
}

/// Waits for a command to be applied here.
pub(super) struct Expected {
    inner: Arc<Inner>,
    id: CommandId,
    applied: oneshot::Receiver<()>,
}

impl Expected {
    pub(super) async fn wait(mut self) {
        let _ = (&mut self.applied).await;
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.inner.expected().remove(&self.id);
    }
}

impl Changes {
    /// To be called before the command is proposed.
    pub(super) fn expect(&self, id: CommandId) -> Expected {
        let (waiting, applied) = oneshot::channel();
        self.0.expected().insert(id, waiting);
        Expected { inner: Arc::clone(&self.0), id, applied }
    }

    /// For the cluster to call.
    pub(super) fn hook(&self) -> ChangeHook {
        let inner = Arc::clone(&self.0);
        Arc::new(move |changed| match changed {
            Changed::Applied { commands, outcomes } => {
                for (envelope, outcome) in commands.iter().zip(outcomes) {
                    let waiting = inner.expected().remove(&envelope.id);
                    inner.tell(Told { follows: follows(&envelope.command, outcome), _waiting: waiting });
                }
            }
            Changed::Replaced => {
                inner.anything.store(true, Ordering::Relaxed);
                inner.expected().clear();
                // Full is as good: what is in it has the same look follow.
                let _ = inner.queue.try_send(Told { follows: None, _waiting: None });
            }
        })
    }
}

impl Inner {
    fn tell(&self, told: Told) {
        if told.follows.is_none() && told._waiting.is_none() {
            return;
        }
        if self.queue.try_send(told).is_err() {
            self.anything.store(true, Ordering::Relaxed);
        }
    }

    fn expected(&self) -> std::sync::MutexGuard<'_, BTreeMap<CommandId, oneshot::Sender<()>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follows(command: &Command, outcome: &Outcome) -> Option<Follows> {
    match (command, outcome) {
        (Command::Publish(publish), Outcome::Published { version }) => Some(Follows::Published {
            name: publish.name.to_string(),
            version: *version,
            hashes: publish.content.hashes,
        }),
        (Command::Withdraw { name, .. }, Outcome::Withdrawn { versions, contents }) => {
            Some(Follows::Withdrawn { name: name.to_string(), versions: versions.clone(), contents: contents.clone() })
        }
        _ => None,
    }
}

/// Does what follows, in the log's order, until the server is gone.
pub(super) async fn run(app: Weak<App>, changes: Changes, mut told: mpsc::Receiver<Told>) {
    while let Some(told) = told.recv().await {
        let Some(app) = app.upgrade() else { return };
        let done = match &told.follows {
            Some(Follows::Published { name, version, hashes }) => {
                app.state.pin(hashes, 0, Instant::now());
                app.events.tell(Change::Published { name: name.clone(), version: *version });
                Ok(())
            }
            Some(Follows::Withdrawn { name, versions, contents }) => {
                let done = let_go(&app, contents).await;
                app.events.tell(Change::Withdrawn { name: name.clone(), versions: versions.clone() });
                done
            }
            None => Ok(()),
        };
        drop(told);
        let anything = changes.0.anything.swap(false, Ordering::Relaxed);
        let done = if anything { done.and(hold_what_is_named(&app).await) } else { done };
        if let Err(error) = done {
            tracing::warn!(%error, "which swarms have names cannot be read");
        }
    }
}

/// Unpins the swarms of contents that have no name any more.
async fn let_go(app: &App, contents: &[InfoHashes]) -> Result<(), CatalogueError> {
    for hashes in contents {
        let swarm = hashes.primary();
        let named = app.catalogue.read(move |reader| reader.by_info_hash(swarm)).await?;
        if named.is_empty() {
            app.state.unpin(hashes, Instant::now());
        }
    }
    Ok(())
}

/// Has exactly the swarms held that have a name.
pub(super) async fn hold_what_is_named(app: &Arc<App>) -> Result<(), CatalogueError> {
    let contents = app.catalogue.read(Reader::contents).await?;
    let app = Arc::clone(app);
    let walk = move || {
        let now = Instant::now();
        let named: BTreeSet<_> = contents.iter().map(|(hashes, _)| hashes.primary()).collect();
        for hash in app.state.pinned().into_iter().filter(|hash| !named.contains(hash)) {
            let first = obt_wire::Sha1Hash(hash.0);
            app.state.unpin(&InfoHashes { v1: Some(first), v2: None }, now);
        }
        for (hashes, downloads) in &contents {
            app.state.pin(hashes, *downloads, now);
        }
    };
    // Thousands of swarms behind locks: nothing for a thread that serves connections.
    let _ = tokio::task::spawn_blocking(walk).await;
    Ok(())
}
