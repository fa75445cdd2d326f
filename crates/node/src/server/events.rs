//! Live changes as server-sent events: names that come and go, swarms that grow and shrink.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use super::App;
use super::connections::stopped;
use super::error::ApiError;
use super::limits::{LISTENER_BACKLOG, LISTENER_BEAT, LISTENERS};

/// Something changed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(super) enum Change {
    /// A version of a name was published.
    Published { name: String, version: u32 },
    /// Versions of a name were withdrawn.
    Withdrawn { name: String, versions: Vec<u32> },
    /// The swarm of a content that has a name is not what it was.
    Swarm { info_hash: String, holders: u64, downloaders: u64, completed: u64 },
}

impl Change {
    fn name(&self) -> &'static str {
        match self {
            Self::Published { .. } => "published",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Swarm { .. } => "swarm",
        }
    }
}

/// Those who listen.
pub(super) struct Events {
    sender: broadcast::Sender<Change>,
    places: Arc<Semaphore>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::Sender::new(LISTENER_BACKLOG), places: Arc::new(Semaphore::new(LISTENERS)) }
    }

    /// Tells everybody who listens.
    pub(super) fn tell(&self, change: Change) {
        // An error says that nobody listens.
        let _ = self.sender.send(change);
    }

    pub(super) fn listeners(&self) -> usize {
        LISTENERS - self.places.available_permits()
    }
}

/// `GET /api/v1/events`
pub(super) async fn listen(State(app): State<Arc<App>>) -> Response {
    let Ok(place) = Arc::clone(&app.events.places).try_acquire_owned() else {
        return ApiError::busy(format!("{LISTENERS} listeners are here already")).into_response();
    };
    let changes = stream(app.events.sender.subscribe(), app.stop.clone(), place);
    Sse::new(changes).keep_alive(KeepAlive::new().interval(LISTENER_BEAT)).into_response()
}

/// Ends with the server, and when the listener is too far behind: it asks again and begins with the present.
fn stream(
    changes: broadcast::Receiver<Change>,
    stop: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    futures_util::stream::unfold((changes, stop, place), |(mut changes, mut stop, place)| async move {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = stopped(&mut stop) => return None,
        };
        let change = match change {
            Ok(change) => change,
            Err(RecvError::Lagged(_) | RecvError::Closed) => return None,
        };
        let event = Event::default().event(change.name()).json_data(&change).unwrap_or_default();
        Some((Ok(event), (changes, stop, place)))
    })
}
