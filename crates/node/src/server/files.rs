//! `GET /files/NAME`: the bytes of an item over HTTP, for curl and browsers, and as a web seed (BEP 19).
//!
//! Where the bytes come from is the node's business: a [`FileSource`] opens a range of a file as a stream. The stream
//! is polled as fast as the client reads, so a slow client slows its own download and nothing else.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use obt_catalogue::{Entry, NameArgument, Resolved};
use obt_wire::metainfo::{File, FileKind, Metainfo};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::error::ApiError;
use super::{App, limits, paths};
use crate::inner::spelled;

/// The bytes of a file, in order, each part as soon as it is verified.
pub type FileStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A browser may show a picture or play a film; nothing in a file may run.
const FILE_POLICY: &str = "default-src 'none'; img-src 'self'; media-src 'self'; frame-ancestors 'none'; sandbox";

/// Which bytes are wanted.
#[derive(Debug, Clone)]
pub struct FileRequest {
    /// Of which torrent.
    pub metainfo: Arc<Metainfo>,
    /// Of which file, by its number in the torrent's list; not a pad, and not empty.
    pub file: usize,
    /// Which bytes of it; not empty, and inside the file.
    pub range: Range<u64>,
}

/// Why a file cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FileUnavailable {
    /// Neither this node nor anybody it knows has it.
    #[error("nobody has it at the moment")]
    NobodyHasIt,
    /// This node serves as many as it can.
    #[error("too many files are being read")]
    Busy,
    /// It is here and cannot be read.
    #[error("it cannot be read")]
    Failed,
}

/// Opens files that this node has, or that it fetches from the swarm while they are read.
pub trait FileSource: Send + Sync + 'static {
    /// Opens a range of a file. Dropping the stream ends what it began.
    fn open(&self, request: FileRequest) -> Opening<'_>;
}

/// The future of [`FileSource::open`].
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<FileStream, FileUnavailable>> + Send + 'a>>;

/// `GET` and `HEAD /files/NAME`
pub(super) async fn serve(
    State(app): State<Arc<App>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let raw = uri.path().strip_prefix("/files/").ok_or_else(ApiError::no_route)?;
    let asked = Asked::read(raw).map_err(|_| ApiError::no_item(raw))?;
    let whole_name = asked.argument.base().to_owned();
    let Asked { argument, seed_path } = asked;
    let resolved = app.catalogue.read(move |reader| reader.resolve(&argument)).await?;
    let (entry, inner) = match resolved {
        Resolved::Found { entry, inner } => (entry, inner),
        Resolved::NoVersion { name, newest } => return Err(ApiError::no_version(&name, newest)),
        Resolved::NoItem => return Err(ApiError::no_item(&whole_name)),
    };
    let metainfo = app.metainfos.load(&app.catalogue, entry.content.blob).await?;
    let place = match &seed_path {
        Some(path) => below_seed_url(&metainfo, path),
        None => below(&metainfo, inner.as_deref().unwrap_or("")),
    };
    match place.ok_or_else(|| ApiError::no_item(&whole_name))? {
        Place::File(number, file) => {
            let file = Served { app: &app, metainfo: &metainfo, number, file, entry: &entry };
            file.answer(&method, &headers, raw.contains('@')).await
        }
        Place::Folder(path) if uri.path().ends_with('/') => Ok(index(&metainfo, &path)),
        Place::Folder(_) => {
            let there = HeaderValue::from_str(&format!("{}/", uri.path())).map_err(|_| ApiError::no_item(raw))?;
            Ok((StatusCode::PERMANENT_REDIRECT, [(LOCATION, there)]).into_response())
        }
    }
}

/// What a request names.
struct Asked {
    argument: NameArgument,
    /// What a client of the web seed appended to its URL.
    seed_path: Option<String>,
}

impl Asked {
    fn read(raw: &str) -> Result<Self, obt_catalogue::NameError> {
        match paths::pinned(raw)? {
            Some((argument, path)) => Ok(Self { argument, seed_path: Some(path) }),
            None => Ok(Self { argument: paths::argument(raw)?, seed_path: None }),
        }
    }
}

/// Where a path inside an item leads.
enum Place<'a> {
    File(usize, &'a File),
    /// The components of a folder's path.
    Folder(Vec<String>),
}

/// What lies at `inner` in an item; the item itself where it is empty.
fn below<'a>(metainfo: &'a Metainfo, inner: &str) -> Option<Place<'a>> {
    let info = &metainfo.info;
    let path: Vec<String> = inner.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if info.single_file {
        let (number, file) = info.data_files().next()?;
        return path.is_empty().then_some(Place::File(number, file));
    }
    let path = spelled(info, &path)?;
    if let Some((number, file)) = info.data_files().find(|(_, file)| file.path == path) {
        return Some(Place::File(number, file));
    }
    let is_folder = path.is_empty() || info.data_files().any(|(_, file)| file.path.starts_with(&path));
    is_folder.then_some(Place::Folder(path))
}

/// What lies at a path that begins with the torrent's name, as clients of a web seed ask (BEP 19); people leave the
/// name out. Of a single file with v2 alone, libtorrent asks for its name below the URL, as if it were in a folder.
fn below_seed_url<'a>(metainfo: &'a Metainfo, path: &str) -> Option<Place<'a>> {
    let name = metainfo.info.name.as_str();
    if metainfo.info.single_file && path == name {
        return below(metainfo, "");
    }
    let inside = path.strip_prefix(name).and_then(|rest| rest.strip_prefix('/'));
    let found = inside.and_then(|inside| below(metainfo, inside).or_else(|| pad(metainfo, inside)));
    found.or_else(|| below(metainfo, path))
}

/// The pad that is called after its length: clients that know nothing of pads ask for them like for any file (BEP 47).
fn pad<'a>(metainfo: &'a Metainfo, inside: &str) -> Option<Place<'a>> {
    let size: u64 = inside.strip_prefix(".pad/")?.parse().ok()?;
    let mut files = metainfo.info.files.iter().enumerate();
    let found = files.find(|(_, file)| file.kind == FileKind::Pad && file.size == size);
    found.map(|(number, file)| Place::File(number, file))
}

/// A file that was found.
struct Served<'a> {
    app: &'a Arc<App>,
    metainfo: &'a Arc<Metainfo>,
    number: usize,
    file: &'a File,
    entry: &'a Entry,
}

impl Served<'_> {
    async fn answer(&self, method: &Method, headers: &HeaderMap, pinned: bool) -> Result<Response, ApiError> {
        let tag = format!("\"{}-{}\"", self.metainfo.info.hashes.primary(), self.number);
        if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
            return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
        }
        // A part of what the client began to fetch is of no use to it if it is something else now.
        let same = headers.get(IF_RANGE).is_none_or(|known| known.as_bytes() == tag.as_bytes());
        let size = self.file.size;
        let wanted = match headers.get(RANGE).filter(|_| same) {
            Some(range) => requested(range.as_bytes(), size),
            None => Wanted::All,
        };
        let (status, range) = match wanted {
            Wanted::All => (StatusCode::OK, 0..size),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Nothing => return Ok(unsatisfiable(size)),
        };
        let content_range = (status == StatusCode::PARTIAL_CONTENT)
            .then(|| format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)));
        let length = range.end - range.start;
        let body = match self.file.kind {
            _ if *method == Method::HEAD || length == 0 => Body::empty(),
            FileKind::Pad => Body::from_stream(zeros(length)),
            FileKind::Data => self.body(range).await?,
        };
        let name = self.file.path.last().unwrap_or_default();
        let mut response = (status, body).into_response();
        let mut put = |header, value: String| {
            HeaderValue::try_from(value).map(|value| response.headers_mut().insert(header, value))
        };
        let lasting = if pinned { "public, max-age=31536000, immutable" } else { "no-cache" };
        let disposition = format!("inline; filename*=UTF-8''{}", paths::escaped(name));
        let all = [
            (CONTENT_SECURITY_POLICY, FILE_POLICY.to_owned()),
            (CONTENT_TYPE, media_type(name).to_owned()),
            (CONTENT_LENGTH, length.to_string()),
            (ACCEPT_RANGES, "bytes".to_owned()),
            (ETAG, tag),
            (CACHE_CONTROL, lasting.to_owned()),
            (CONTENT_DISPOSITION, disposition),
        ];
        for (header, value) in all.into_iter().chain(content_range.map(|value| (CONTENT_RANGE, value))) {
            put(header, value).map_err(|error| ApiError::internal(&error))?;
        }
        Ok(response)
    }

    /// The bytes, once the first of them are there: until then there may be a reason why they never come.
    async fn body(&self, range: Range<u64>) -> Result<Body, ApiError> {
        let name = self.entry.name.as_str();
        let unavailable = |why: &dyn std::fmt::Display| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("{name:?} cannot be served: {why}"))
                .hint("try again when somebody shares it")
        };
        let Some(source) = self.app.files.get() else {
            return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "no_files", "this tracker serves no files")
                .hint(format!("fetch it from its peers: /items/{}.torrent", paths::escaped(name))));
        };
        let place = Arc::clone(&self.app.streams).try_acquire_owned();
        let place = place.map_err(|_| ApiError::busy("too many files are being sent"))?;
        let request = FileRequest { metainfo: Arc::clone(self.metainfo), file: self.number, range };
        let begin = async {
            let mut stream = source.open(request).await?;
            let first = stream.next().await;
            Ok::<_, FileUnavailable>((first, stream))
        };
        let known = self.app.state.stats(&self.metainfo.info.hashes, Instant::now());
        let somebody = known.seeds > 0 || known.leechers > 0;
        let patience = if somebody { limits::FIRST_BYTE } else { limits::FIRST_BYTE_OF_NOBODY };
        let begun = timeout(patience, begin).await;
        let silence = if somebody { "no peer sent anything in time" } else { "nobody has it at the moment" };
        let begun = begun.map_err(|_| unavailable(&silence))?;
        let (first, stream) = begun.map_err(|error| unavailable(&error))?;
        match first {
            Some(Ok(first)) => Ok(Body::from_stream(rest(first, stream, place))),
            Some(Err(error)) => {
                tracing::debug!(%error, name, "a file cannot be read");
                Err(unavailable(&FileUnavailable::Failed))
            }
            None => Err(unavailable(&FileUnavailable::Failed)),
        }
    }
}

/// What a pad is made of.
fn zeros(length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    const ZEROS: &[u8] = &[0; 16 << 10];
    let parts = futures_util::stream::unfold(length, |left| async move {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        let part = Bytes::from_static(ZEROS.get(..part)?);
        (!part.is_empty()).then_some((part.clone(), left - part.len() as u64))
    });
    parts.map(Ok)
}

/// The parts of a body, none of which may be too long in coming.
fn rest(first: Bytes, stream: FileStream, place: OwnedSemaphorePermit) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let later = futures_util::stream::unfold(Some((stream, place)), |state| async move {
        let (mut stream, place) = state?;
        let part = timeout(limits::STREAM_STALL, stream.next()).await;
        match part.unwrap_or_else(|_| Some(Err(io::ErrorKind::TimedOut.into())))? {
            Ok(part) => Some((Ok(part), Some((stream, place)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    futures_util::stream::once(std::future::ready(Ok(first))).chain(later)
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    Nothing,
}

/// One range of bytes (RFC 9110 §14). Other units are ignored; several ranges are refused, since many small ones are
/// an attack more often than a wish.
fn requested(range: &[u8], size: u64) -> Wanted {
    let Some(spec) = std::str::from_utf8(range).ok().and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Wanted::Nothing;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let range = match (number(first.trim()), number(last.trim())) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.trim().is_empty() => first..size,
        (None, Some(length)) if first.trim().is_empty() => size.saturating_sub(length)..size,
        _ => return Wanted::Nothing,
    };
    if range.is_empty() { Wanted::Nothing } else { Wanted::Part(range) }
}

fn unsatisfiable(size: u64) -> Response {
    let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", format!("the file has {size} bytes"))
        .hint("ask for one range inside of it");
    ([(CONTENT_RANGE, format!("bytes */{size}"))], error).into_response()
}

/// By the end of the name. What a browser would run stays plain bytes.
fn media_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "mp4" | "m4v" => "video/mp4",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "avi" => "video/x-msvideo",
        "mov" => "video/quicktime",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "flac" => "audio/flac",
        "ogg" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "pdf" => "application/pdf",
        "txt" | "log" | "md" | "csv" | "srt" | "nfo" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "xz" => "application/x-xz",
        "zst" => "application/zstd",
        "tar" => "application/x-tar",
        "iso" => "application/x-iso9660-image",
        _ => "application/octet-stream",
    }
}

/// A page that lists what is directly in a folder: for browsers, and for `wget -r`.
fn index(metainfo: &Metainfo, path: &[String]) -> Response {
    let mut names: Vec<(String, Option<u64>)> = Vec::new();
    for (_, file) in metainfo.info.data_files().filter(|(_, file)| file.path.starts_with(path)) {
        let mut below = file.path.components().skip(path.len());
        let Some(name) = below.next() else {
            continue;
        };
        let is_folder = below.next().is_some();
        names.push(if is_folder { (format!("{name}/"), None) } else { (name.to_owned(), Some(file.size)) });
    }
    names.sort_unstable();
    names.dedup();
    let title = path.last().map_or(metainfo.info.name.as_str(), String::as_str);
    let mut page = format!("<!doctype html><meta charset=utf-8><title>{0}</title><h1>{0}</h1><ul>\n", text(title));
    for (name, size) in names.iter().take(limits::LISTED_FILES) {
        let size = size.map_or(String::new(), |size| format!(" {size} bytes"));
        page.push_str(&format!("<li><a href=\"./{}\">{}</a>{size}\n", paths::escaped(name), text(name)));
    }
    page.push_str("</ul>\n");
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// Text for HTML.
fn text(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a16_one_range_inside_the_file_or_416() {
        let part = |range| Wanted::Part(range);
        for (text, wanted) in [
            ("bytes=0-0", part(0..1)),
            ("bytes=0-", part(0..100)),
            ("bytes=99-", part(99..100)),
            ("bytes=10-1000", part(10..100)),
            ("bytes=-1", part(99..100)),
            ("bytes=-1000", part(0..100)),
            ("bytes= 5 - 6 ", part(5..7)),
            ("bytes=0-18446744073709551615", part(0..100)),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=18446744073709551615-", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=0-0,1-1", Wanted::Nothing),
            ("bytes=5-4", Wanted::Nothing),
            ("bytes=-", Wanted::Nothing),
            ("bytes=", Wanted::Nothing),
            ("bytes=+1-2", Wanted::Nothing),
            ("bytes=a-b", Wanted::Nothing),
            ("items=0-1", Wanted::All),
        ] {
            assert_eq!(requested(text.as_bytes(), 100), wanted, "{text}");
        }
        assert_eq!(requested(b"bytes=0-", 0), Wanted::Nothing);
        let many = format!("bytes={}", "0-0,".repeat(100_000));
        assert_eq!(requested(many.as_bytes(), 100), Wanted::Nothing);
    }

    #[test]
    fn a13_names_are_text_in_pages_and_bytes_to_browsers() {
        assert_eq!(text("<script>\"'&"), "&lt;script&gt;&quot;&#39;&amp;");
        for name in ["a.html", "a.svg", "a.xhtml", "a.js", "a", "a.exe"] {
            assert_eq!(media_type(name), "application/octet-stream");
        }
        assert_eq!(media_type("MOVIE.MKV"), "video/x-matroska");
    }
}
