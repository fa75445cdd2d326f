//! A lane of their own for announces and scrapes as BitTorrent clients send them: read, answered and written in place,
//! without the tables, boxes and timers that the way through hyper and the router takes for each request.
//!
//! What is not a plain `GET /announce?…` or `GET /scrape?…` of HTTP/1.1 without a body is not judged here: from the
//! first byte of that request on, the connection is hyper's.

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::pin::pin;

use axum::http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::App;
use super::announce::{self, ANSWER_BYTES, Asked};
use super::connections::{Ends, Patient, Turns};
use super::limits;

/// First room for what comes in: the head of a usual client has 200 to 500 bytes.
const FIRST_ROOM: usize = 1 << 10;
/// Answers to pipelined requests are written together, up to about this many bytes.
const BATCH_BYTES: usize = 16 << 10;
/// What stands before the length of every answer: the same as on the other way, but for the date, which is for caches.
const ANSWER_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: text/plain; charset=iso-8859-1\r\n\
    cache-control: no-store\r\n\
    x-content-type-options: nosniff\r\n\
    referrer-policy: no-referrer\r\n\
    content-security-policy: default-src 'none'; frame-ancestors 'none'; sandbox\r\n";

/// How a connection leaves the lane.
pub(super) enum Left {
    /// It is over.
    Over,
    /// It sent these bytes, which are not for here, nor is what follows them.
    With(Vec<u8>),
}

/// What an answered batch of requests leaves to do once its answers are written.
enum Next {
    /// More of a request has to come.
    Read,
    /// More requests are here.
    Answer,
    /// The last answer said that the connection ends.
    End,
    /// A request is not for here.
    Leave,
}

/// Answers announces and scrapes for as long as nothing else comes.
///
/// # Errors
/// When the connection fails, or takes too long.
pub(super) async fn drive(stream: &mut Patient<'_>, ends: &Ends, turns: &Turns, app: &App) -> io::Result<Left> {
    let mut came = Vec::with_capacity(FIRST_ROOM);
    let (mut body, mut answers) = (Vec::new(), Vec::new());
    let mut late = pin!(sleep_until(Instant::now() + limits::HEAD));
    loop {
        let (read, next) = answer_all(&came, ends, turns, app, &mut body, &mut answers);
        came.drain(..read);
        if !answers.is_empty() {
            stream.write_all(&answers).await?;
            answers.clear();
            late.as_mut().reset(Instant::now() + limits::HEAD);
        }
        match next {
            Next::Answer => {}
            Next::End => return stream.shutdown().await.map(|()| Left::Over),
            Next::Leave => return Ok(Left::With(came)),
            Next::Read => {
                came.reserve(FIRST_ROOM);
                tokio::select! {
                    biased;
                    more = stream.read_buf(&mut came) => if more? == 0 {
                        return Ok(Left::Over);
                    },
                    () = late.as_mut() => return Err(io::ErrorKind::TimedOut.into()),
                }
            }
        }
    }
}

/// Answers the whole requests that `came` begins with; returns how many bytes of it they were.
fn answer_all(
    came: &[u8],
    ends: &Ends,
    turns: &Turns,
    app: &App,
    body: &mut Vec<u8>,
    answers: &mut Vec<u8>,
) -> (usize, Next) {
    let mut read = 0;
    while answers.len() < BATCH_BYTES {
        let request = match Head::read(&came[read..]) {
            Head::Whole(request) => request,
            Head::Partial => return (read, Next::Read),
            Head::Other => return (read, Next::Leave),
        };
        read += request.length;
        let last = turns.take() || request.closes || announce::is_crowded(app);
        body.clear();
        body.reserve(ANSWER_BYTES);
        announce::write_body(app, request.asked, request.query, ends, body);
        app.answered.count(StatusCode::OK);
        write_answer(body, last, answers);
        if last {
            return (read, Next::End);
        }
    }
    (read, Next::Answer)
}

fn write_answer(body: &[u8], last: bool, answers: &mut Vec<u8>) {
    answers.reserve(ANSWER_HEAD.len() + 64 + body.len());
    answers.extend_from_slice(ANSWER_HEAD);
    if last {
        answers.extend_from_slice(b"connection: close\r\n");
    }
    // Writing to memory does not fail.
    let _ = write!(answers, "content-length: {}\r\n\r\n", body.len());
    answers.extend_from_slice(body);
}

/// A request that is answered here.
#[derive(Debug, PartialEq, Eq)]
struct Request<'a> {
    asked: Asked,
    query: &'a [u8],
    /// The client wants no other answer.
    closes: bool,
    /// Bytes of its head, which is all of it.
    length: usize,
}

/// What stands at the beginning of the bytes that came.
#[derive(Debug, PartialEq, Eq)]
enum Head<'a> {
    Whole(Request<'a>),
    /// Perhaps the beginning of one that is answered here.
    Partial,
    Other,
}

impl<'a> Head<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let beginnings = [(Asked::Announce, &b"GET /announce?"[..]), (Asked::Scrape, b"GET /scrape?")];
        let Some((asked, beginning)) = beginnings.into_iter().find(|(_, beginning)| {
            let both = beginning.len().min(bytes.len());
            bytes[..both] == beginning[..both]
        }) else {
            return Self::Other;
        };
        if bytes.len() < beginning.len() {
            return Self::Partial;
        }
        let mut headers = [const { MaybeUninit::uninit() }; limits::HEADERS];
        let mut head = httparse::Request::new(&mut []);
        match head.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(length)) if length <= limits::HEAD_BYTES => {
                Request::plain(asked, beginning.len(), length, &head).map_or(Self::Other, Self::Whole)
            }
            Ok(httparse::Status::Partial) if bytes.len() < limits::HEAD_BYTES => Self::Partial,
            _ => Self::Other,
        }
    }
}

impl<'a> Request<'a> {
    /// The request, if nothing about it is unusual. `beginning` counts the bytes up to the query, the method's among them.
    fn plain(asked: Asked, beginning: usize, length: usize, head: &httparse::Request<'_, 'a>) -> Option<Self> {
        if head.version != Some(1) {
            return None;
        }
        let query = head.path?.as_bytes().get(beginning - "GET ".len()..).filter(|query| !query.contains(&b'#'))?;
        let (mut closes, mut hosts) = (false, 0);
        for header in head.headers.iter() {
            let named = |name: &str| header.name.eq_ignore_ascii_case(name);
            if named("connection") {
                closes |= header.value.eq_ignore_ascii_case(b"close");
                if !closes && !header.value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            }
            hosts += usize::from(named("host"));
            if ["content-length", "transfer-encoding", "expect", "upgrade"].into_iter().any(named) {
                return None;
            }
        }
        (hosts <= 1).then_some(Self { asked, query, closes, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(head: &str) -> (Asked, String, bool) {
        match Head::read(head.as_bytes()) {
            Head::Whole(request) => {
                assert_eq!(request.length, head.len());
                (request.asked, String::from_utf8(request.query.to_vec()).unwrap(), request.closes)
            }
            other => panic!("{other:?} of {head:?}"),
        }
    }

    #[test]
    fn what_clients_send_is_answered_in_the_lane() {
        let head = "GET /announce?port=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nAccept-Encoding: gzip\r\n\r\n";
        assert_eq!(whole(head), (Asked::Announce, "port=1".to_owned(), false));
        assert_eq!(whole("GET /scrape? HTTP/1.1\r\nConnection: Close\r\n\r\n"), (Asked::Scrape, String::new(), true));
        assert!(!whole("GET /scrape?a HTTP/1.1\r\nConnection: keep-alive\r\n\r\n").2);
    }

    #[test]
    fn every_beginning_of_a_request_waits_for_the_rest() {
        let head = b"GET /announce?port=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        for length in 0..head.len() {
            assert_eq!(Head::read(&head[..length]), Head::Partial, "{length}");
        }
    }

    #[test]
    fn h04_what_is_unusual_is_left_to_hyper() {
        for head in [
            "GET /announce HTTP/1.1\r\n\r\n",
            "GET /announced?a HTTP/1.1\r\n\r\n",
            "GET //announce?a HTTP/1.1\r\n\r\n",
            "get /announce?a HTTP/1.1\r\n\r\n",
            "HEAD /announce?a HTTP/1.1\r\n\r\n",
            "GET /announce?a HTTP/1.0\r\n\r\n",
            "GET /announce?a HTTP/9.9\r\n\r\n",
            "GET /announce?a\r\n\r\n",
            "GET /announce?a#b HTTP/1.1\r\n\r\n",
            "GET /announce?a HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            "GET /announce?a HTTP/1.1\r\nContent-Length: 1\r\n\r\na",
            "GET /announce?a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /announce?a HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET /announce?a HTTP/1.1\r\nConnection: upgrade, keep-alive\r\n\r\n",
            "GET /announce?a HTTP/1.1\r\nHost: a\0b\r\n\r\n",
            "\r\nGET /announce?a HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(Head::read(head.as_bytes()), Head::Other, "{head:?}");
        }
        let many = format!("GET /scrape?a HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(limits::HEADERS + 1));
        assert_eq!(Head::read(many.as_bytes()), Head::Other);
        let long = format!("GET /scrape?{}", "a".repeat(limits::HEAD_BYTES));
        assert_eq!(Head::read(long.as_bytes()), Head::Other);
    }
}
