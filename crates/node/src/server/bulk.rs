//! Answers of many megabytes: they wait in memory for clients that may read slowly, so there is a budget for them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::ApiError;
use super::limits::{BODY_STALL, BULK_KIB, SMALL_BYTES};

/// Bytes handed to the connection at once.
const PART: usize = 64 << 10;

/// Room for large answers.
pub(super) struct Bulk {
    kib: Arc<Semaphore>,
}

impl Bulk {
    pub(super) fn new() -> Self {
        Self { kib: Arc::new(Semaphore::new(BULK_KIB as usize)) }
    }

    /// An answer of these bytes. A large one waits for room, and holds it until its last part is taken.
    pub(super) async fn answer(&self, media_type: &'static str, bytes: Vec<u8>) -> Result<Response, ApiError> {
        self.answer_parts(media_type, [bytes.into()]).await
    }

    /// The same of bytes that lie in several places.
    pub(super) async fn answer_parts<const N: usize>(
        &self,
        media_type: &'static str,
        parts: [Bytes; N],
    ) -> Result<Response, ApiError> {
        let length: usize = parts.iter().map(Bytes::len).sum();
        let body = if length <= SMALL_BYTES { Body::from(parts.concat()) } else { self.body(length, parts).await? };
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        Ok(response)
    }

    async fn body<const N: usize>(&self, length: usize, parts: [Bytes; N]) -> Result<Body, ApiError> {
        let kib = u32::try_from(length.div_ceil(1_024)).unwrap_or(u32::MAX).min(BULK_KIB);
        let room = timeout(BODY_STALL, Arc::clone(&self.kib).acquire_many_owned(kib)).await;
        let Ok(Ok(room)) = room else {
            return Err(ApiError::busy("too many large answers are being sent"));
        };
        let parts = VecDeque::from(parts);
        let parts = futures_util::stream::unfold((parts, room), |(mut parts, room)| async move {
            parts.retain(|part| !part.is_empty());
            let rest = parts.front_mut()?;
            let part = rest.split_to(PART.min(rest.len()));
            Some((Ok::<_, Infallible>(part), (parts, room)))
        });
        Ok(Body::from_stream(parts))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn large_answers_hold_room_until_they_are_taken() {
        let bulk = Bulk::new();
        let room = || BULK_KIB as usize - bulk.kib.available_permits();
        let small = bulk.answer("text/plain", vec![7; SMALL_BYTES]).await.unwrap();
        assert_eq!(room(), 0);
        let large = bulk.answer("text/plain", vec![7; 3 << 20]).await.unwrap();
        let dropped = bulk.answer("text/plain", vec![7; 5 << 20]).await.unwrap();
        assert_eq!(room(), 8 << 10);
        drop((small, dropped));
        let body = large.into_body().collect().await.unwrap().to_bytes();
        assert!(body.len() == 3 << 20 && body.iter().all(|byte| *byte == 7));
        assert_eq!(room(), 0);
    }
}
