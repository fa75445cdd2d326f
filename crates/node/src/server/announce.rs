//! `GET /announce` and `/scrape`, for BitTorrent clients. What is answered is decided in `obt_tracker::http`.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use obt_tracker::leases::Lease;
use obt_tracker::{Asker, http};

use super::App;
use super::connections::Ends;
use super::limits::CONNECTIONS;

/// Room for an answer to an announce with 50 peers of each family, bytes.
pub(super) const ANSWER_BYTES: usize = 1_536;

/// What a client asks of the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Announce,
    Scrape,
}

/// The routes, for what the [lane](super::lane) leaves. They take microseconds and no memory to speak of, so nothing bounds
/// them but the places for connections.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/announce", get(announce)).route("/scrape", get(scrape))
}

async fn announce(State(app): State<Arc<App>>, Extension(ends): Extension<Ends>, uri: Uri) -> Response {
    answer(&app, Asked::Announce, &uri, &ends)
}

async fn scrape(State(app): State<Arc<App>>, Extension(ends): Extension<Ends>, uri: Uri) -> Response {
    answer(&app, Asked::Scrape, &uri, &ends)
}

/// Appends what is answered to a query.
pub(super) fn write_body(app: &App, asked: Asked, query: &[u8], ends: &Ends, body: &mut Vec<u8>) {
    let now = Instant::now();
    match asked {
        Asked::Announce => {
            let leases = |number| app.state.leases().lease(number).map(Lease::peer_id);
            http::announce(query, asker(ends), &mut &*app.state, leases, body, now);
        }
        Asked::Scrape => http::scrape(query, &mut &*app.state, body, now),
    }
}

/// Whoever is at the other end of the connection. What the request says of it (`ip=`, `X-Forwarded-For`) does not
/// count.
pub(super) fn asker(ends: &Ends) -> Asker {
    Asker::new(ends.client.ip(), Some(ends.reached.ip()))
}

fn answer(app: &App, asked: Asked, uri: &Uri, ends: &Ends) -> Response {
    let mut body = Vec::with_capacity(ANSWER_BYTES);
    write_body(app, asked, uri.query().unwrap_or_default().as_bytes(), ends, &mut body);
    let headers = [(CONTENT_TYPE, "text/plain; charset=iso-8859-1"), (CACHE_CONTROL, "no-store")];
    let mut response = (headers, body).into_response();
    leave_when_crowded(app, &mut response);
    response
}

/// Whether others may soon want the place of who comes back in minutes.
pub(super) fn is_crowded(app: &App) -> bool {
    app.places.count() > CONNECTIONS / 2
}

/// Closes the connection of who comes back in minutes, if others may want its place before.
pub(super) fn leave_when_crowded(app: &App, response: &mut Response) {
    if is_crowded(app) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
