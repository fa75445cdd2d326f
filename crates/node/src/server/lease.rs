//! `POST /api/v1/lease`: our own peers say what they hold. What is answered is decided in `obt_tracker::leases`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use obt_tracker::Asker;
use obt_tracker::leases::{self, LeaseRefused};
use obt_tracker::limits::{LEASE_INTERVAL, LEASE_LIFE};
use obt_wire::{InfoHash, PeerId};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::announce::{asker, leave_when_crowded};
use super::connections::Ends;
use super::error::ApiError;
use super::state::TrackerState;
use super::{App, limits};
use crate::api_types::{LeaseEvent, LeaseItem, LeaseReply, LeaseRequest};

/// Longest message, bytes: 5,000 items that are new and as many that are gone, with 2,000 that are wanted, are 0.8 MB.
const MESSAGE_BYTES: usize = 2 << 20;
/// Memory for messages that are coming in, KiB.
const MESSAGES_KIB: usize = 64 << 10;
/// Messages above this many bytes are read where nobody else waits: a lease with thousands of items takes milliseconds.
const SMALL_BYTES: usize = 32 << 10;
/// Time for a message to come in: less than the interval between two.
const MESSAGE: Duration = Duration::from_secs(10);

/// Room for messages that are coming in.
type Room = Arc<Semaphore>;

/// The route. It has room of its own, so that nothing else that comes in delays a renewal.
pub(super) fn routes() -> Router<Arc<App>> {
    let room: Room = Arc::new(Semaphore::new(MESSAGES_KIB));
    Router::new().route("/api/v1/lease", post(renew).layer(Extension(room)))
}

/// Why a message says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum Unreadable {
    #[error("peer_id is not 40 hexadecimal digits")]
    PeerId,
    #[error("secret is not 32 hexadecimal digits")]
    Secret,
    #[error("an info-hash is not 40 hexadecimal digits")]
    Hash,
    #[error("an address in advertise is neither IP nor IP:PORT")]
    Advertise,
}

async fn renew(
    State(app): State<Arc<App>>,
    Extension(ends): Extension<Ends>,
    Extension(room): Extension<Room>,
    body: Body,
) -> Result<Response, ApiError> {
    let body = receive(body, &room).await?;
    let asker = asker(&ends);
    let (status, reply) = if body.len() <= SMALL_BYTES {
        answer(&body, &asker, &app.state)
    } else {
        let state = Arc::clone(&app.state);
        let work = move || answer(&body, &asker, &state);
        tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))?
    };
    let mut response = (status, Json(reply)).into_response();
    leave_when_crowded(&app, &mut response);
    Ok(response)
}

async fn receive(body: Body, room: &Semaphore) -> Result<Bytes, ApiError> {
    let too_long = || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the message is too long");
    let most = hyper::body::Body::size_hint(&body).upper().unwrap_or(MESSAGE_BYTES as u64);
    let most = usize::try_from(most).ok().filter(|most| *most <= MESSAGE_BYTES).ok_or_else(too_long)?;
    let kib = u32::try_from(most.div_ceil(1_024)).unwrap_or(u32::MAX);
    let Ok(Ok(_room)) = timeout(limits::BODY_STALL, room.acquire_many(kib)).await else {
        return Err(ApiError::busy("too many leases come in at once"));
    };
    let body = timeout(MESSAGE, to_bytes(body, most)).await;
    let body = body.map_err(|_| ApiError::timeout("the message took too long"))?;
    body.map_err(|_| ApiError::bad_request("the message is broken or too long"))
}

fn answer(body: &[u8], asker: &Asker, state: &TrackerState) -> (StatusCode, LeaseReply) {
    let request = match serde_json::from_slice::<LeaseRequest>(body) {
        Ok(request) => read(&request).map_err(|error| error.to_string()),
        Err(_) => Err("the message is not a lease in JSON".to_owned()),
    };
    let request = match request {
        Ok(request) => request,
        Err(reason) => return (StatusCode::BAD_REQUEST, refusal(reason)),
    };
    match state.leases().renew(&request, asker, &mut &*state, Instant::now()) {
        Ok(reply) => (StatusCode::OK, told(reply)),
        Err(refused) => (status(refused), refusal(refused.to_string())),
    }
}

fn read(request: &LeaseRequest) -> Result<leases::LeaseRequest, Unreadable> {
    let peer_id: PeerId = request.peer_id.parse().map_err(|_| Unreadable::PeerId)?;
    let secret = data_encoding::HEXLOWER_PERMISSIVE.decode(request.secret.as_bytes()).ok();
    let secret = secret.and_then(|secret| secret.try_into().ok()).ok_or(Unreadable::Secret)?;
    let hashes = |list: &[String]| list.iter().map(|hash| read_hash(hash)).collect::<Result<Vec<_>, _>>();
    let advertise = request.advertise.iter().map(|text| read_address(text, request.port));
    Ok(leases::LeaseRequest {
        peer_id,
        secret,
        port: request.port,
        advertise: advertise.collect::<Result<_, _>>()?,
        revision: request.revision,
        full: request.full,
        set: request.set.iter().map(read_item).collect::<Result<_, _>>()?,
        removed: hashes(&request.removed)?,
        want: hashes(&request.want)?,
        num_want: request.num_want as usize,
        stopped: request.stopped,
    })
}

fn read_item(item: &LeaseItem) -> Result<leases::LeaseItem, Unreadable> {
    let completed = item.event == Some(LeaseEvent::Completed);
    Ok(leases::LeaseItem { hash: read_hash(&item.hash)?, left: item.left, completed })
}

fn read_hash(text: &str) -> Result<InfoHash, Unreadable> {
    text.parse().map_err(|_| Unreadable::Hash)
}

/// Names are for the peer to look up: a tracker does not ask other servers for strangers.
fn read_address(text: &str, port: u16) -> Result<SocketAddr, Unreadable> {
    let plain = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    text.parse().or_else(|_| plain()).map_err(|_| Unreadable::Advertise)
}

fn status(refused: LeaseRefused) -> StatusCode {
    match refused {
        LeaseRefused::PortZero | LeaseRefused::TooManyWanted => StatusCode::BAD_REQUEST,
        LeaseRefused::WrongSecret => StatusCode::FORBIDDEN,
        LeaseRefused::TooManyItems | LeaseRefused::TooManyLeases => StatusCode::TOO_MANY_REQUESTS,
    }
}

fn refusal(reason: String) -> LeaseReply {
    LeaseReply { failure: Some(reason), ..times() }
}

fn times() -> LeaseReply {
    LeaseReply { interval: LEASE_INTERVAL.as_secs(), ttl: LEASE_LIFE.as_secs(), ..LeaseReply::default() }
}

fn told(reply: leases::LeaseReply) -> LeaseReply {
    let peers = reply.peers.into_iter().map(|(hash, peers)| {
        let peers = peers.into_iter().map(|peer| peer.to_string()).collect();
        (hash.to_string(), peers)
    });
    LeaseReply { revision: reply.revision, resync: reply.resync, peers: peers.collect(), ..times() }
}

#[cfg(test)]
mod tests {
    use obt_tracker::limits::Limits;
    use obt_tracker::{Advertised, StoreConfig};

    use super::*;

    const HASH: &str = "0101010101010101010101010101010101010101";

    fn state() -> TrackerState {
        let limits = Limits::default();
        let config = StoreConfig { shard_bits: 2, limits, advertised: Advertised::default(), secret: [3; 32] };
        TrackerState::new(&config, Instant::now())
    }

    fn lease(state: &TrackerState, from: &str, peer: u8, rest: &str) -> (StatusCode, LeaseReply) {
        let (id, secret) = (hex(peer, 20), hex(peer, 16));
        let body = format!(r#"{{"peer_id":"{id}","secret":"{secret}","port":6881,"revision":1{rest}}}"#);
        answer(body.as_bytes(), &Asker::new(from.parse().unwrap(), None), state)
    }

    fn hex(byte: u8, count: usize) -> String {
        format!("{byte:02x}").repeat(count)
    }

    #[test]
    fn a_peer_is_told_of_others_with_their_ports() {
        let state = state();
        let seed = format!(r#","full":true,"set":[{{"hash":"{HASH}","left":0,"event":"completed"}}]"#);
        assert_eq!(lease(&state, "10.0.0.1", 1, &seed).0, StatusCode::OK);
        let ask = format!(r#","full":true,"set":[{{"hash":"{HASH}","left":9}}],"want":["{HASH}"]"#);
        let (status, reply) = lease(&state, "10.0.0.2", 2, &ask);
        assert_eq!((status, reply.interval, reply.ttl, reply.resync), (StatusCode::OK, 15, 40, false));
        assert_eq!(reply.peers[HASH], ["10.0.0.1:6881"]);
        assert_eq!(lease(&state, "10.0.0.3", 3, "").1, LeaseReply { resync: true, ..times() });
    }

    #[test]
    fn what_is_no_lease_is_refused_with_a_reason() {
        let state = state();
        let reason = |body: &str| {
            let (status, reply) = answer(body.as_bytes(), &Asker::new([10, 0, 0, 1].into(), None), &state);
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
            reply.failure.unwrap()
        };
        assert!(reason("").contains("JSON"));
        assert!(reason(r#"{"peer_id":7}"#).contains("JSON"));
        assert!(reason(&"[".repeat(100_000)).contains("JSON"));
        let with = |id: &str, secret: &str, rest: &str| {
            reason(&format!(r#"{{"peer_id":"{id}","secret":"{secret}","port":1,"revision":1{rest}}}"#))
        };
        let (id, secret) = (hex(1, 20), hex(1, 16));
        assert!(with("ab", &secret, "").contains("peer_id"));
        assert!(with(&id, "ab", "").contains("secret"));
        assert!(with(&id, &secret, r#","want":["x"]"#).contains("info-hash"));
        assert!(with(&id, &secret, r#","advertise":["host.example:1"]"#).contains("advertise"));
    }

    #[test]
    fn refusals_have_a_status_of_their_own() {
        let state = state();
        lease(&state, "10.0.0.1", 1, r#","full":true"#);
        let (status, reply) = answer(
            format!(r#"{{"peer_id":"{}","secret":"{}","port":1,"revision":1}}"#, hex(1, 20), hex(2, 16)).as_bytes(),
            &Asker::new([10, 0, 0, 1].into(), None),
            &state,
        );
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert!(reply.failure.unwrap().contains("somebody else"));
    }

    #[test]
    fn addresses_may_leave_the_port_to_the_lease() {
        assert_eq!(read_address("10.0.0.1", 7), Ok("10.0.0.1:7".parse().unwrap()));
        assert_eq!(read_address("10.0.0.1:8", 7), Ok("10.0.0.1:8".parse().unwrap()));
        assert_eq!(read_address("fd00::1", 7), Ok("[fd00::1]:7".parse().unwrap()));
        assert_eq!(read_address("name", 7), Err(Unreadable::Advertise));
    }
}
