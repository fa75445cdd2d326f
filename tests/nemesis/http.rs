//! One request to a member, and whether it can have had an effect.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a connection may take to a member that is there: no fault lies between members and clients.
const CONNECT: Duration = Duration::from_millis(500);

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Heard {
    Answer(Response),
    /// It was never sent.
    NotSent,
    /// It was sent, and there is no answer.
    Nothing,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) authorization: Option<&'a str>,
    pub(crate) body: &'a [u8],
    /// For all of it.
    pub(crate) patience: Duration,
}

impl<'a> Request<'a> {
    pub(crate) fn get(path: &'a str, patience: Duration) -> Self {
        Self { method: "GET", path, authorization: None, body: &[], patience }
    }

    pub(crate) fn send(&self, to: SocketAddr) -> Heard {
        let deadline = Instant::now() + self.patience;
        let Ok(stream) = TcpStream::connect_timeout(&to, CONNECT) else { return Heard::NotSent };
        self.exchange(stream, to, deadline).map_or(Heard::Nothing, Heard::Answer)
    }

    fn exchange(&self, mut stream: TcpStream, to: SocketAddr, deadline: Instant) -> Option<Response> {
        let Self { method, path, body, .. } = self;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
        if let Some(authorization) = self.authorization {
            head += &format!("Authorization: {authorization}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.set_write_timeout(Some(self.patience)).ok()?;
        stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
        let mut answer = Vec::new();
        let mut room = [0; 4096];
        loop {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            stream.set_read_timeout(Some(left)).ok()?;
            match stream.read(&mut room).ok()? {
                0 => break,
                count => answer.extend_from_slice(&room[..count]),
            }
        }
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let body = answer.split_off(end);
        let head = String::from_utf8(answer).ok()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let response = Response { status, head, body };
        // Cut short, it is none.
        let whole = response.header("content-length")?.parse() == Ok(response.body.len());
        whole.then_some(response)
    }
}
