//! Publishing and withdrawing: signed requests (DESIGN §4), each of which counts once.
//!
//! A key that may not publish is refused before its body is taken, so strangers cost no memory.

use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use obt_catalogue::signing::{Authorization, Call, PublicKey, body_digest};
use obt_catalogue::{
    Authority, Command, CommandId, Content, Name, NameArgument, NameError, Outcome, Publish, Replace, Selector,
};
use obt_wire::limits::METAINFO_BYTES;
use obt_wire::metainfo::Metainfo;
use serde::Serialize;
use tokio::time::timeout;

use super::App;
use super::clock::now_ms;
use super::connections::Ends;
use super::error::ApiError;
use super::{items, limits, paths};
use crate::api_types::Published;

/// The answer to a withdrawal.
#[derive(Debug, Serialize)]
pub(super) struct Withdrawn {
    name: String,
    versions: Vec<u32>,
}

/// `PUT /api/v1/items/NAME`
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    Extension(ends): Extension<Ends>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let replace = replace(&uri)?;
    let (signed, body) = take(&app, Method::PUT, &uri, &headers, body).await?;
    pace(&app, signed.key, &ends)?;
    let name = whole_name(&uri)?;
    let (content, blob) = app.metainfos.work(move || clean(&body)).await??;
    let command = Command::Publish(Publish { name: name.clone(), content, key: signed.key, replace });
    let outcome = app.catalogue.apply(CommandId(signed.command_id()), command, Some(blob)).await?;
    match outcome {
        Outcome::Published { version } => {
            tracing::info!(%name, version, key = %signed.key, "published");
            let published = app.published(name, version, false).await?;
            Ok((StatusCode::CREATED, Json(published)).into_response())
        }
        Outcome::AlreadyThere { version } => Ok(Json(app.published(name, version, true).await?).into_response()),
        other => Err(refusal(&other, &name, signed.key)),
    }
}

/// `DELETE /api/v1/items/NAME[@VERSION]`
pub(super) async fn withdraw(
    State(app): State<Arc<App>>,
    Extension(ends): Extension<Ends>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Withdrawn>, ApiError> {
    let (signed, _) = take(&app, Method::DELETE, &uri, &headers, body).await?;
    pace(&app, signed.key, &ends)?;
    let argument = items::named(&uri, "/api/v1/items/", "")?;
    let name = Name::parse(argument.base())?;
    let version = match argument.selector {
        Selector::Newest => None,
        Selector::Version(version) => Some(version),
        Selector::Hash(_) => Some(app.find(argument).await?.entry.version),
    };
    let command = Command::Withdraw { name: name.clone(), version, by: Authority::Key(signed.key) };
    let outcome = app.catalogue.apply(CommandId(signed.command_id()), command, None).await?;
    let Outcome::Withdrawn { versions, .. } = outcome else {
        return Err(refusal(&outcome, &name, signed.key));
    };
    tracing::info!(%name, ?versions, key = %signed.key, "withdrawn");
    Ok(Json(Withdrawn { name: name.to_string(), versions }))
}

/// Counts a change by somebody who has proved to be `key`. The operator's own key is not held up: a folder of ten
/// thousand entries is shared at once.
fn pace(app: &App, key: PublicKey, ends: &Ends) -> Result<(), ApiError> {
    if key == app.own_key {
        return Ok(());
    }
    let admitted = app.pace.lock().unwrap_or_else(PoisonError::into_inner).admit(key, ends.client.ip(), now_ms());
    Ok(admitted?)
}

impl App {
    /// The answer to a publish, with the names that look like this one.
    async fn published(&self, name: Name, version: u32, existed: bool) -> Result<Published, ApiError> {
        let asked = name.clone();
        let similar = self.catalogue.read(move |reader| reader.lookalikes(&asked)).await?;
        let similar = similar.into_iter().map(String::from).collect();
        Ok(Published { name: name.into(), version, existed, similar })
    }
}

fn refusal(outcome: &Outcome, name: &Name, key: PublicKey) -> ApiError {
    match *outcome {
        Outcome::OwnedBy { key: owner } => ApiError::owned(name, owner),
        Outcome::NeedsReplace { version } => ApiError::needs_replace(name, version),
        Outcome::Forbidden { denial } => ApiError::denied(denial, key),
        Outcome::NotFound => ApiError::no_item(name.as_str()),
        // An id that was seen before with another command: an answer of that one means nothing here.
        Outcome::Published { .. }
        | Outcome::AlreadyThere { .. }
        | Outcome::Withdrawn { .. }
        | Outcome::Invalid
        | Outcome::Done => ApiError::bad_request("the request makes no sense"),
    }
}

/// `?replace=true`
fn replace(uri: &Uri) -> Result<Replace, ApiError> {
    match uri.query() {
        None | Some("" | "replace=false") => Ok(Replace::No),
        Some("replace=true") => Ok(Replace::Yes),
        Some(_) => Err(ApiError::bad_request("the query may be replace=true or replace=false")),
    }
}

/// The name to publish under: a version is given, not asked for.
fn whole_name(uri: &Uri) -> Result<Name, ApiError> {
    let raw = uri.path().strip_prefix("/api/v1/items/").ok_or_else(ApiError::no_route)?;
    let argument: NameArgument = paths::argument(raw)?;
    match argument.selector {
        Selector::Newest => Ok(Name::parse(argument.base())?),
        Selector::Version(_) => Err(ApiError::bad_request("a version is given by the tracker, not asked for")
            .hint("write an @ that belongs to the name as %40")),
        Selector::Hash(_) => Err(NameError::EndsLikeHash.into()),
    }
}

/// A .torrent file as the catalogue keeps it: checked, and without trackers and URLs.
fn clean(torrent: &Bytes) -> Result<(Content, Bytes), ApiError> {
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "bad_torrent", message);
    let metainfo = Metainfo::parse_shared(torrent).map_err(|error| bad(error.to_string()))?.without_urls();
    let files = metainfo.info.data_files().count();
    // Our own clients send it clean: then there need not be two of it.
    let parts = metainfo.to_parts();
    let blob = if are_parts_of(torrent, &parts) { torrent.clone() } else { parts.concat().into() };
    let content = Content {
        hashes: metainfo.info.hashes,
        size: metainfo.info.size(),
        files: u32::try_from(files).map_err(|_| bad("too many files".to_owned()))?,
        layout: items::layout(&metainfo),
        piece_length: metainfo.info.geometry.piece_length(),
        blob: obt_catalogue::BlobHash::of(&blob),
    };
    Ok((content, blob))
}

/// Whether `whole` is these parts, one after the other.
fn are_parts_of(whole: &[u8], parts: &[Bytes]) -> bool {
    let rest = parts.iter().try_fold(whole, |rest, part| rest.strip_prefix(&part[..]));
    rest.is_some_and(<[u8]>::is_empty)
}

/// The body of a request that was signed by somebody who may publish, and has not been seen before.
async fn take(
    app: &App,
    method: Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Authorization, Bytes), ApiError> {
    let signed = match admit(app, headers).await {
        Ok(signed) => signed,
        Err(error) => {
            // A client that is still sending would see a reset connection in place of the reason.
            let _ = timeout(limits::BODY_STALL, discard(body)).await;
            return Err(error);
        }
    };
    let expected = expected(&body)?;
    let room = u32::try_from(expected.div_ceil(1_024)).unwrap_or(u32::MAX);
    let room = timeout(limits::ANSWER, app.uploads.acquire_many(room)).await;
    let Ok(Ok(_room)) = room else {
        return Err(ApiError::busy("too many torrents are being published"));
    };
    let late = || ApiError::timeout("the request's body took too long");
    let body = timeout(limits::UPLOAD, receive(body, expected)).await.map_err(|_| late())??;
    let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
    let call = Call { method: method.as_str(), path_and_query, body_sha256: body_digest(&body) };
    let now = now_ms();
    signed.verify(&call, now)?;
    app.replays.lock().unwrap_or_else(PoisonError::into_inner).admit(&signed, now)?;
    Ok((signed, body))
}

async fn admit(app: &App, headers: &HeaderMap) -> Result<Authorization, ApiError> {
    let unsigned = || {
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "this request must be signed")
            .hint("publish with `obt share` or `obt publish` and a key file")
    };
    let header = headers.get(AUTHORIZATION).ok_or_else(unsigned)?;
    let signed: Authorization = header.to_str().map_err(|_| unsigned())?.parse()?;
    let key = signed.key;
    match app.catalogue.read(move |reader| reader.denial(key)).await? {
        Some(denial) => Err(ApiError::denied(denial, key)),
        None => Ok(signed),
    }
}

/// How long the body may become: what the request says, if it says something.
fn expected(body: &Body) -> Result<usize, ApiError> {
    let most = body.size_hint().upper().unwrap_or(METAINFO_BYTES as u64);
    match usize::try_from(most) {
        Ok(most) if most <= METAINFO_BYTES => Ok(most),
        _ => {
            let message = format!("a .torrent file cannot be longer than {METAINFO_BYTES} bytes");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message))
        }
    }
}

async fn receive(mut body: Body, most: usize) -> Result<Bytes, ApiError> {
    // A buffer that grows is there twice while it does; what is not written to takes no memory.
    let mut whole = BytesMut::with_capacity(most);
    loop {
        let frame = timeout(limits::BODY_STALL, body.frame()).await;
        let stalled = || ApiError::timeout("the request's body stopped coming");
        let Some(frame) = frame.map_err(|_| stalled())? else {
            return Ok(whole.freeze());
        };
        let frame = frame.map_err(|_| ApiError::bad_request("the request's body is broken"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + data.len() > most {
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the request's body is too long"));
        }
        whole.extend_from_slice(&data);
    }
}

async fn discard(mut body: Body) {
    let mut room = METAINFO_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        room = room.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if room == 0 {
            return;
        }
    }
}
