//! Every failed request gets one form of answer: `{"error":{"code","message","hint"}}`.
//!
//! Bodies say what the asker can use, and nothing of this machine: no paths, no causes from below (HOSTILE A15).
//! Those go to the log.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use obt_catalogue::signing::{PublicKey, SignatureError};
use obt_catalogue::{CatalogueError, Denial, Name, NameError, QueryError, TooFast};
use obt_cluster::ClusterFailure;

use super::catalogue::CatalogueFailure;
use crate::api_types::{ErrorBody, ErrorDetail};

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    detail: ErrorDetail,
    /// When to come back, seconds.
    retry_after: Option<u64>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let detail = ErrorDetail { code: code.to_owned(), message: message.into(), hint: None, owner: None };
        Self { status, detail, retry_after: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.detail.hint = Some(hint.into());
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
            .hint("/openapi.json lists what there is")
    }

    pub(super) fn no_item(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no item {name:?}"))
            .hint("/api/v1/items?q= lists what there is")
    }

    pub(super) fn no_version(name: &Name, newest: u32) -> Self {
        let message = format!("{:?} has no such version; its newest is {newest}", name.as_str());
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn ask_others() -> Self {
        let message = "others are getting this .torrent at the moment; they can pass it on";
        Self { retry_after: Some(1), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "ask_others", message) }
    }

    pub(super) fn owned(name: &Name, owner: PublicKey) -> Self {
        let message = format!("the name {:?} belongs to the publisher {owner}", name.as_str());
        let mut error = Self::new(StatusCode::CONFLICT, "owned", message)
            .hint("publish under another name (--as NAME), or with the key file of its owner (--key-file)");
        error.detail.owner = Some(owner.to_string());
        error
    }

    pub(super) fn needs_replace(name: &Name, version: u32) -> Self {
        let message = format!("{:?} is there with other content (version {version})", name.as_str());
        let hint = format!("--replace makes yours version {}; the old one stays fetchable", version.saturating_add(1));
        Self::new(StatusCode::CONFLICT, "exists", message).hint(hint)
    }

    pub(super) fn denied(denial: Denial, key: PublicKey) -> Self {
        let forbidden = |message: String| Self::new(StatusCode::FORBIDDEN, "forbidden", message);
        match denial {
            Denial::Unlisted => forbidden(format!("the key {key} may not publish here"))
                .hint(format!("on the tracker's machine: obt tracker key add {key}")),
            Denial::Revoked => forbidden(format!("the key {key} was revoked")),
            Denial::NameQuota { names } => forbidden(format!("the key {key} owns {names} names, as many as it may")),
            Denial::VersionQuota { versions } => {
                forbidden(format!("the key {key} has published {versions} versions, as many as it may"))
                    .hint("withdraw versions that nobody needs")
            }
        }
    }

    pub(super) fn busy(message: impl Into<String>) -> Self {
        let busy = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).hint("try again in a few seconds");
        Self { retry_after: Some(2), ..busy }
    }

    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
    }

    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(%error, source = error.source().map(tracing::field::display), "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the tracker failed to answer; its log says why")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.detail })).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("obt-ed25519"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_name", error.to_string())
    }
}

impl From<SignatureError> for ApiError {
    fn from(error: SignatureError) -> Self {
        let refused = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", error.to_string());
        match error {
            SignatureError::OutsideWindow { .. } => {
                refused.hint("set the clock of the publishing machine; it may be 5 minutes off")
            }
            SignatureError::TooMany => Self::busy(error.to_string()),
            SignatureError::Malformed | SignatureError::Mismatch | SignatureError::Replayed => refused,
        }
    }
}

impl From<TooFast> for ApiError {
    fn from(error: TooFast) -> Self {
        let seconds = error.retry_after_ms.div_ceil(1_000).max(1);
        let message = format!("this publisher or its address makes {error}");
        let hint = format!("go on in {seconds} s; the tracker's own machine is not held up");
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_fast", message).hint(hint) }
    }
}

impl From<CatalogueError> for ApiError {
    fn from(error: CatalogueError) -> Self {
        Self::internal(&error)
    }
}

impl From<CatalogueFailure> for ApiError {
    fn from(error: CatalogueFailure) -> Self {
        match error {
            CatalogueFailure::Cluster(failure) => failure.into(),
            CatalogueFailure::File(_) | CatalogueFailure::Closed => Self::internal(&error),
        }
    }
}

impl From<ClusterFailure> for ApiError {
    fn from(failure: ClusterFailure) -> Self {
        let message = failure.to_string();
        match failure {
            ClusterFailure::NoLeader
            | ClusterFailure::NoQuorum
            | ClusterFailure::Unknown
            | ClusterFailure::Stopping => {
                let refused = Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_majority", message)
                    .hint("names can still be read; `obt cluster status` on a member's machine says who is missing");
                Self { retry_after: Some(2), ..refused }
            }
            ClusterFailure::Disk(_) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_room", message)
                .hint("make room on the disk of the tracker's machine"),
            ClusterFailure::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message),
            ClusterFailure::Refused(_) => Self::bad_request(message),
        }
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::TooLong | QueryError::Cursor => Self::bad_request(error.to_string()),
            QueryError::Catalogue(error) => error.into(),
        }
    }
}
