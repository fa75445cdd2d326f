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
const ANSWER_BYTES: usize = 1_536;

/// The routes. They take microseconds and no memory to speak of, so nothing bounds them but the places for connections.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/announce", get(announce)).route("/scrape", get(scrape))
}

async fn announce(State(app): State<Arc<App>>, Extension(ends): Extension<Ends>, uri: Uri) -> Response {
    let mut body = Vec::with_capacity(ANSWER_BYTES);
    let leases = |number| app.state.leases().lease(number).map(Lease::peer_id);
    http::announce(query(&uri), asker(&ends), &mut &*app.state, leases, &mut body, Instant::now());
    answer(&app, body)
}

async fn scrape(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let mut body = Vec::with_capacity(ANSWER_BYTES);
    http::scrape(query(&uri), &mut &*app.state, &mut body, Instant::now());
    answer(&app, body)
}

fn query(uri: &Uri) -> &[u8] {
    uri.query().unwrap_or_default().as_bytes()
}

/// Whoever is at the other end of the connection. What the request says of it (`ip=`, `X-Forwarded-For`) does not
/// count.
pub(super) fn asker(ends: &Ends) -> Asker {
    Asker::new(ends.client.ip(), Some(ends.reached.ip()))
}

fn answer(app: &App, body: Vec<u8>) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain; charset=iso-8859-1"), (CACHE_CONTROL, "no-store")];
    let mut response = (headers, body).into_response();
    leave_when_crowded(app, &mut response);
    response
}

/// Closes the connection of who comes back in minutes, if others may want its place before.
pub(super) fn leave_when_crowded(app: &App, response: &mut Response) {
    if app.places.count() > CONNECTIONS / 2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
