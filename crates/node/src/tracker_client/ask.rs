//! A question to a tracker: who is asked, when the next member is, and whose answer counts.
//!
//! Questions that change nothing are put to the next member as soon as one is slow, and the first answer counts. A
//! change is at one member at a time. It is signed once: wherever the same signature arrives again, it is the same
//! change.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, HttpConnector, capture_connection};

use super::{TrackerAddress, TrackerClient, TrackerError};
use crate::api_types::ErrorBody;
use crate::limits::{MEMBER_ANSWER, MEMBER_CHANGE, MEMBER_RATE};
use crate::members::slow;

/// Largest JSON answer, bytes: a full item with 200,000 files of long names, or thousands of peers.
const JSON_BYTES: usize = 64 << 20;

pub(super) type Http = Client<HttpConnector, Parts>;

/// The body of a request.
pub(super) type Parts = UnsyncBoxBody<Bytes, Infallible>;

fn in_parts(parts: &[Bytes]) -> Parts {
    let frames: Vec<_> = parts.iter().cloned().map(|part| Ok(Frame::data(part))).collect();
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// What is asked, of whichever member.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) body: &'a [Bytes],
    /// Of a change: the signature, which is the same at every member.
    pub(super) authorization: Option<String>,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// When to ask again, where it says so in seconds.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

impl Question<'_> {
    fn is_change(&self) -> bool {
        self.authorization.is_some()
    }

    fn length(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }

    /// How long a member that has taken the connection may be silent before the next one is asked.
    fn silence(&self) -> Duration {
        if !self.is_change() {
            return MEMBER_ANSWER;
        }
        MEMBER_CHANGE + Duration::from_secs_f64(self.length() as f64 / MEMBER_RATE as f64)
    }

    fn to(&self, member: &TrackerAddress) -> Result<Request<Parts>, hyper::http::Error> {
        let authority = member.to_string();
        let json = self.method == Method::POST;
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(format!("http://{authority}{}", self.path))
            .header(HOST, &authority)
            .header(CONTENT_TYPE, if json { "application/json" } else { "application/x-bittorrent" });
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let length = self.length();
        if length > 0 {
            request = request.header(CONTENT_LENGTH, length);
        }
        request.body(in_parts(self.body))
    }
}

type Asking<'a> = Pin<Box<dyn Future<Output = (TrackerAddress, Result<Response<Incoming>, TrackerError>)> + Send + 'a>>;

/// The members that were asked a question, and those that were not yet.
struct Round<'a> {
    client: &'a TrackerClient,
    question: &'a Question<'a>,
    next: std::vec::IntoIter<TrackerAddress>,
    asking: FuturesUnordered<Asking<'a>>,
    /// Whether the one that was asked last has taken the connection, and when it was asked.
    connection: Option<CaptureConnection>,
    since: Instant,
    tried: usize,
    /// That there is no such thing, as somebody said. Others may know better: who is behind the rest, or has left them.
    missing: Option<(TrackerAddress, Answer)>,
    /// Why there is no answer: what a member says counts for more than what is wrong with one.
    failure: Option<TrackerError>,
}

impl TrackerClient {
    /// The first good answer of a member, and whose it is.
    pub(super) async fn ask_members(
        &self,
        question: &Question<'_>,
        patience: Duration,
    ) -> Result<(TrackerAddress, Answer), TrackerError> {
        let mut round = Round {
            client: self,
            question,
            next: self.members.in_order().into_iter(),
            asking: FuturesUnordered::new(),
            connection: None,
            since: Instant::now(),
            tried: 0,
            missing: None,
            failure: None,
        };
        if let Ok(answered) = tokio::time::timeout(patience, round.answer()).await {
            return answered;
        }
        round.missing.take().ok_or_else(|| round.failed())
    }
}

impl Round<'_> {
    async fn answer(&mut self) -> Result<(TrackerAddress, Answer), TrackerError> {
        self.ask_next();
        loop {
            let response = tokio::select! {
                response = self.asking.next() => response,
                () = slow(self.connection.as_ref(), self.since, self.question.silence()),
                    if self.is_more() || self.missing.is_some() =>
                {
                    if self.is_more() {
                        self.ask_next();
                        continue;
                    }
                    None
                }
            };
            let Some((member, response)) = response else { return self.missing.take().ok_or_else(|| self.failed()) };
            match self.take(&member, response).await {
                Ok(answer) if self.may_be_elsewhere(&answer) => {
                    self.missing = Some((member, answer));
                    self.ask_next();
                }
                Ok(answer) => {
                    self.client.members.answered(&member);
                    return Ok((member, answer));
                }
                Err(error) => {
                    self.client.members.failed(&member);
                    self.note(error);
                    self.ask_next();
                }
            }
        }
    }

    fn is_more(&self) -> bool {
        !self.next.as_slice().is_empty()
    }

    /// Whether there is somebody who may have what this one has not.
    fn may_be_elsewhere(&self, answer: &Answer) -> bool {
        let others = self.is_more() || !self.asking.is_empty();
        answer.status == StatusCode::NOT_FOUND && others && !self.question.is_change()
    }

    /// Asks one more. Of a change, the one before is left: it has not taken the connection, or has had its time.
    fn ask_next(&mut self) {
        let Some(member) = self.next.next() else { return };
        if self.question.is_change() {
            self.asking.clear();
        }
        self.tried += 1;
        self.since = Instant::now();
        let mut request = match self.question.to(&member) {
            Ok(request) => request,
            Err(error) => return self.note(foreign(&member, &error)),
        };
        self.connection = Some(capture_connection(&mut request));
        let response = self.client.http.request(request);
        self.asking.push(Box::pin(async move {
            let response = response.await.map_err(|error| unreachable(&member, &error));
            (member, response)
        }));
    }

    /// The whole answer, where the member is one and has an answer.
    async fn take(
        &mut self,
        member: &TrackerAddress,
        response: Result<Response<Incoming>, TrackerError>,
    ) -> Result<Answer, TrackerError> {
        let response = response?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let stall = self.is_more().then_some(MEMBER_ANSWER);
        let body = received(response.into_body(), member, stall).await?;
        if status.is_success() {
            return Ok(Answer { status, retry_after, body });
        }
        let Ok(ErrorBody { error: detail }) = serde_json::from_slice(&body) else {
            return Err(foreign(member, &format_args!("HTTP status {}", status.as_u16())));
        };
        // A signature that was seen before is refused by who saw it: another one knows what came of it.
        let is_repeat = status == StatusCode::UNAUTHORIZED && self.tried > 1;
        if status.is_server_error() || is_repeat {
            return Err(TrackerError::Refused { status: status.as_u16(), detail });
        }
        Ok(Answer { status, retry_after, body })
    }

    fn note(&mut self, error: TrackerError) {
        let says_why = |error: &TrackerError| matches!(error, TrackerError::Refused { .. });
        if says_why(&error) || !self.failure.as_ref().is_some_and(says_why) {
            self.failure = Some(error);
        }
    }

    /// Why nobody answered.
    fn failed(&mut self) -> TrackerError {
        let tracker = self.client.address().clone();
        let silent = || TrackerError::Silent { tracker: tracker.clone() };
        let last = self.failure.take().unwrap_or_else(silent);
        match self.tried {
            0 | 1 => last,
            tried => TrackerError::Members { tracker, tried, last: Box::new(last) },
        }
    }
}

/// A body of bounded length. Where there are others to ask, it must not stall.
async fn received(body: Incoming, member: &TrackerAddress, stall: Option<Duration>) -> Result<Bytes, TrackerError> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(JSON_BYTES).min(JSON_BYTES);
    let mut received = BytesMut::with_capacity(expected);
    let mut body = Limited::new(body, JSON_BYTES);
    loop {
        let frame = match stall {
            Some(stall) => tokio::time::timeout(stall, body.frame()).await,
            None => Ok(body.frame().await),
        };
        let frame = frame.map_err(|_| TrackerError::Silent { tracker: member.clone() })?;
        let Some(frame) = frame else { return Ok(received.freeze()) };
        if let Ok(data) = frame.map_err(|error| foreign(member, &error))?.into_data() {
            received.extend_from_slice(&data);
        }
    }
}

fn foreign(tracker: &TrackerAddress, reason: &dyn std::fmt::Display) -> TrackerError {
    TrackerError::Foreign { tracker: tracker.clone(), reason: reason.to_string() }
}

fn unreachable(tracker: &TrackerAddress, error: &hyper_util::client::legacy::Error) -> TrackerError {
    if !error.is_connect() {
        return foreign(tracker, innermost(error));
    }
    TrackerError::Unreachable { tracker: tracker.clone(), reason: innermost(error).to_string() }
}

fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
