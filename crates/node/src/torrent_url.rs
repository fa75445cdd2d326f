//! A .torrent from an address that the user typed.

use std::time::Duration;

use bytes::Bytes;
use obt_wire::limits::METAINFO_BYTES;
use reqwest::Client;
use reqwest::redirect::{Attempt, Policy};
use thiserror::Error;

use crate::limits::{ANNOUNCE_CONNECT, ANNOUNCE_REDIRECTS};

/// Time for a .torrent of the largest size over a link of 5 Mbit/s.
const TORRENT: Duration = Duration::from_secs(120);

/// Why there is no .torrent.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The server is not there, or fails in the middle.
    #[error("{0}")]
    Http(String),
    /// It answered with something else.
    #[error("the server answered with HTTP status {0}")]
    Status(u16),
    /// More than any .torrent that we read.
    #[error("it is longer than {} MiB", METAINFO_BYTES >> 20)]
    TooLong,
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::Http(cause.to_string())
    }
}

/// Fetches `url`, over HTTP or HTTPS. Not checked yet whether it is a .torrent.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_torrent(url: &str) -> Result<Bytes, FetchError> {
    // Fails where a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .user_agent(concat!("obt/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(ANNOUNCE_CONNECT)
        .timeout(TORRENT)
        .redirect(Policy::custom(redirect))
        .referer(false)
        .build()?;
    let mut response = client.get(url).send().await?;
    if !response.status().is_success() {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await? {
        body.extend_from_slice(&part);
        if body.len() > METAINFO_BYTES {
            return Err(FetchError::TooLong);
        }
    }
    Ok(body.into())
}

/// What began encrypted stays so.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let left_tls = attempt.url().scheme() != "https" && attempt.previous().iter().any(|url| url.scheme() == "https");
    if left_tls {
        return attempt.error("redirected from https to http");
    }
    if attempt.previous().len() > ANNOUNCE_REDIRECTS {
        return attempt.error("redirected too often");
    }
    attempt.follow()
}
