//! What the catalogue holds, for programs: lists, single items, their .torrent files and magnet links.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, Request, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use obt_catalogue::{
    CatalogueError, Entry, LastHolder, Layout, Name, NameArgument, QueryError, Reader, Resolved, Selector,
};
use obt_tracker::SwarmStats;
use obt_wire::InfoHash;
use obt_wire::metainfo::Metainfo;
use serde::Deserialize;
use tokio::time::timeout;

use super::App;
use super::clock::rfc3339;
use super::connections::Ends;
use super::error::ApiError;
use super::origin::Origin;
use super::{limits, paths};
use crate::api_types::{Item, ItemFile, ItemPage, ItemVersion, LastHeld, Names};
use crate::limits::LOOK_UP_NAMES;

/// How old an answer may be, milliseconds: what was acknowledged anywhere in the cluster so long before is in it.
const AS_OF: HeaderName = HeaderName::from_static("obt-as-of");

/// The query of a list.
#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    q: String,
    cursor: Option<String>,
    #[serde(default = "default_limit")]
    limit: u32,
    #[serde(default)]
    consistent: Consistent,
}

/// Whether an answer may be as old as this member's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
enum Consistent {
    /// As old as `Obt-As-Of` says.
    #[default]
    #[serde(rename = "0")]
    No,
    /// It has everything that was acknowledged anywhere before the request.
    #[serde(rename = "1")]
    Yes,
}

fn default_limit() -> u32 {
    100
}

/// `GET /api/v1/items?q=&cursor=&limit=`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<ItemPage>, ApiError> {
    let Query(ListQuery { q, cursor, limit, consistent }) =
        query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    app.be_consistent(consistent).await?;
    let search = move |reader: &Reader| -> Result<_, QueryError> {
        let page = reader.search(&q, cursor.as_deref(), limit)?;
        let similar = page.entries.iter().map(|entry| reader.lookalikes(&entry.name)).collect::<Result<Vec<_>, _>>()?;
        Ok((page, similar))
    };
    let (page, similar) = app.catalogue.read(search).await?;
    let now = Instant::now();
    let items = page.entries.iter().zip(similar);
    let items = items.map(|(entry, similar)| item(entry, similar, app.state.stats(&entry.content.hashes, now)));
    Ok(Json(ItemPage { items: items.collect(), cursor: page.cursor }))
}

/// `POST /api/v1/items`: the newest versions of those of the names that there are, in the order of the question.
pub(super) async fn look_up(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let body = timeout(limits::BODY_STALL, to_bytes(body, limits::LOOK_UP_BYTES)).await;
    let body = body.map_err(|_| ApiError::timeout("the request's body stopped coming"))?;
    let body = body.map_err(|_| ApiError::bad_request("the request's body is broken or too long"))?;
    let Names { names } = serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if names.len() > LOOK_UP_NAMES {
        return Err(ApiError::bad_request(format!("at most {LOOK_UP_NAMES} names can be looked up at once")));
    }
    let names = names.iter().map(|name| Name::parse(name)).collect::<Result<Vec<_>, _>>()?;
    let ask = move |reader: &Reader| -> Result<Vec<_>, CatalogueError> {
        let newest = names.iter().map(|name| reader.entry(name, &Selector::Newest));
        newest.filter_map(Result::transpose).collect()
    };
    let entries = app.catalogue.read(ask).await?;
    let now = Instant::now();
    let items = entries.iter().map(|entry| item(entry, Vec::new(), app.state.stats(&entry.content.hashes, now)));
    let page = ItemPage { items: items.collect(), cursor: None };
    let json = serde_json::to_vec(&page).map_err(|error| ApiError::internal(&error))?;
    app.bulk.answer("application/json", json).await
}

/// The query of an item.
#[derive(Debug, Deserialize)]
pub(super) struct ItemQuery {
    #[serde(default = "yes")]
    files: bool,
    #[serde(default)]
    consistent: Consistent,
}

fn yes() -> bool {
    true
}

/// `GET /api/v1/items/NAME[@VERSION]?files=`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    uri: Uri,
    query: Result<Query<ItemQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ItemQuery { files: with_files, consistent }) =
        query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    app.be_consistent(consistent).await?;
    let found = app.find(named(&uri, "/api/v1/items/", "")?).await?;
    let stats = app.state.stats(&found.entry.content.hashes, Instant::now());
    let mut item = item(&found.entry, found.similar, stats);
    if item.holders == 0 {
        item.last_held = found.last_holder.map(|last| LastHeld { address: last.holder, at: rfc3339(last.at_ms) });
    }
    let newest = found.versions.last().map(|version| version.version);
    item.newest = newest.filter(|newest| *newest != item.version);
    let others = found.versions.iter().filter(|version| version.version != item.version);
    item.versions = others.map(version).collect();
    if !with_files {
        return Ok(Json(item).into_response());
    }
    let metainfo = app.metainfos.load(&app.catalogue, found.entry.content.blob).await?;
    let json = app.metainfos.work(move || {
        item.files = ItemFile::all_of(&metainfo);
        serde_json::to_vec(&item)
    });
    let json = json.await?.map_err(|error| ApiError::internal(&error))?;
    app.bulk.answer("application/json", json).await
}

/// The query of an export.
#[derive(Debug, Deserialize)]
pub(super) struct ExportQuery {
    /// Whoever asks can have the .torrent from others too.
    #[serde(default)]
    patient: Patient,
}

/// Whether somebody can wait for a .torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
enum Patient {
    /// It gets it at once.
    #[default]
    #[serde(rename = "0")]
    No,
    /// It may be told to ask others for a moment.
    #[serde(rename = "1")]
    Yes,
}

/// `GET /items/NAME.torrent[?patient=1]` and `/items/NAME.magnet`
pub(super) async fn export(
    State(app): State<Arc<App>>,
    Extension(ends): Extension<Ends>,
    query: Result<Query<ExportQuery>, QueryRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let magnet = uri.path().ends_with(".magnet");
    let suffix = if magnet { ".magnet" } else { ".torrent" };
    let found = app.find(named(&uri, "/items/", suffix)?).await?;
    let blob = found.entry.content.blob;
    let origin = Origin::of(&app, &headers, &ends);
    let trackers = origin.tiers(&app);
    let web_seed = origin.web_seed(&found.entry);
    if magnet {
        let metainfo = app.metainfos.load(&app.catalogue, blob).await?;
        let mut magnet = metainfo.magnet();
        (magnet.trackers, magnet.web_seeds) = (trackers.concat(), vec![web_seed]);
        return Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{magnet}\n")).into_response());
    }
    let disposition = attachment(&format!("{}.torrent", found.entry.name.last_component()));
    let clean = app.metainfos.blob(&app.catalogue, blob).await?;
    // What else is in the query is no reason not to give a browser its file.
    let patient = query.map_or(Patient::No, |Query(query)| query.patient);
    if patient == Patient::Yes && app.had_better_wait(found.entry.content.hashes.primary(), clean.len()) {
        return Err(ApiError::ask_others());
    }
    let torrent = Metainfo::add_urls(&clean, &trackers, &[web_seed]);
    let torrent = torrent.ok_or_else(|| ApiError::internal(&CatalogueError::Damaged("a blob is no torrent")))?;
    let torrent = app.bulk.answer_parts("application/x-bittorrent", torrent).await?;
    Ok(([(CONTENT_DISPOSITION, disposition)], torrent).into_response())
}

/// `Content-Disposition` of a file to be kept under this name (RFC 6266).
fn attachment(name: &str) -> String {
    format!("attachment; filename*=UTF-8''{}", paths::escaped(name))
}

/// The name in a request's path between `prefix` and `suffix`.
pub(super) fn named(uri: &Uri, prefix: &str, suffix: &str) -> Result<NameArgument, ApiError> {
    let raw = uri.path().strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
    let raw = raw.ok_or_else(ApiError::no_route)?;
    paths::argument(raw).map_err(|_| ApiError::no_item(raw))
}

/// A version, with what is shown beside it.
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) versions: Vec<Entry>,
    pub(super) similar: Vec<Name>,
    pub(super) last_holder: Option<LastHolder>,
}

/// Says with every answer how old it may be.
pub(super) async fn as_of(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // Before it is read: what arrives meanwhile makes the answer newer than it says.
    let age = app.catalogue.cluster().as_of().age_ms;
    let mut response = next.run(request).await;
    if let Some(age) = age {
        response.headers_mut().insert(AS_OF, age.into());
    }
    response
}

impl App {
    fn had_better_wait(&self, torrent: InfoHash, bytes: usize) -> bool {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.had_better_wait(torrent, bytes, Instant::now())
    }

    async fn be_consistent(&self, consistent: Consistent) -> Result<(), ApiError> {
        if consistent == Consistent::Yes {
            self.catalogue.cluster().read_index().await?;
        }
        Ok(())
    }

    /// The version with exactly this name.
    pub(super) async fn find(&self, argument: NameArgument) -> Result<Found, ApiError> {
        let name = argument.base().to_owned();
        let ask = move |reader: &Reader| -> Result<_, CatalogueError> {
            let resolved = reader.resolve(&argument)?;
            let Resolved::Found { entry, inner: None } = resolved else {
                return Ok(Err(resolved));
            };
            let versions = reader.versions(&entry.name)?;
            let last_holder = reader.last_holder(&entry.content.hashes)?;
            let similar = reader.lookalikes(&entry.name)?;
            Ok(Ok(Found { entry: *entry, versions, similar, last_holder }))
        };
        match self.catalogue.read(ask).await? {
            Ok(found) => Ok(found),
            Err(Resolved::NoVersion { name, newest }) => Err(ApiError::no_version(&name, newest)),
            Err(Resolved::NoItem | Resolved::Found { .. }) => Err(ApiError::no_item(&name)),
        }
    }
}

fn item(entry: &Entry, similar: Vec<Name>, stats: SwarmStats) -> Item {
    let content = &entry.content;
    Item {
        name: entry.name.to_string(),
        version: entry.version,
        size: content.size,
        files: Vec::new(),
        file_count: u64::from(content.files),
        info_hash_v1: content.hashes.v1.map(|hash| hash.to_string()),
        info_hash_v2: content.hashes.v2.map(|hash| hash.to_string()),
        holders: u64::from(stats.seeds),
        downloaders: u64::from(stats.leechers),
        completed: u64::from(stats.completed),
        publisher: entry.publisher.to_string(),
        published_at: rfc3339(entry.published_ms),
        similar: similar.into_iter().map(String::from).collect(),
        last_held: None,
        newest: None,
        versions: Vec::new(),
    }
}

fn version(entry: &Entry) -> ItemVersion {
    ItemVersion {
        version: entry.version,
        info_hash_v1: entry.content.hashes.v1.map(|hash| hash.to_string()),
        info_hash_v2: entry.content.hashes.v2.map(|hash| hash.to_string()),
        published_at: rfc3339(entry.published_ms),
    }
}

/// What the catalogue keeps of a metainfo, but for where its blob is.
pub(super) fn layout(metainfo: &Metainfo) -> Layout {
    if metainfo.info.single_file { Layout::File } else { Layout::Folder }
}
