//! Connections of HTTP clients: how many there may be, and how long each may take (HOSTILE B-HTTP).
//!
//! hyper parses and frames; what is decided here is who gets a place, when a slow one loses it, and what is put on
//! every answer.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, TRANSFER_ENCODING,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};
use tower::ServiceExt;

use super::App;
use super::error::ApiError;
use super::lane::{self, Left};
use super::limits;

/// Nothing that this server sends may run as a page of its own, but for the page that says so itself.
const NO_CONTENT: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");

/// Both ends of the connection that a request came through; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// The client, an IPv4-mapped address as IPv4.
    pub(super) client: SocketAddr,
    /// The address of ours that it reached.
    pub(super) reached: SocketAddr,
}

/// The places for connections.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<BTreeMap<IpAddr, usize>>,
    /// The sum of `taken`; changed while that is locked.
    all: AtomicUsize,
}

struct Place {
    places: Arc<Places>,
    ip: IpAddr,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let ip = network(ip);
        let mut taken = self.lock();
        let own = taken.get(&ip).copied().unwrap_or(0);
        let most = if ip.is_loopback() { limits::CONNECTIONS_LOOPBACK } else { limits::CONNECTIONS_PER_ADDRESS };
        if self.count() >= limits::CONNECTIONS || own >= most {
            return None;
        }
        taken.insert(ip, own + 1);
        self.all.fetch_add(1, Ordering::Relaxed);
        Some(Place { places: Arc::clone(self), ip })
    }

    pub(super) fn count(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        self.places.all.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = taken.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.ip);
            }
        }
    }
}

/// What counts as one address: who has one of a /64 has them all.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            let mut bytes = ip.octets();
            bytes[8..].fill(0);
            bytes.into()
        }
        ip => ip,
    }
}

/// How many requests were answered, by the first digit of the status.
#[derive(Debug, Default)]
pub(super) struct Answered([AtomicU64; 5]);

impl Answered {
    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).wrapping_sub(1);
        if let Some(counter) = self.0.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.0.iter().enumerate().map(|(class, count)| (class + 1, count.load(Ordering::Relaxed)))
    }
}

/// What every connection is served with.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) routes: Router,
    pub(super) app: Arc<App>,
}

/// The requests of one connection, counted (H05).
#[derive(Debug, Default)]
pub(super) struct Turns {
    all: AtomicU32,
    /// Since the client last kept us waiting.
    pipelined: AtomicU32,
}

impl Turns {
    /// Counts a request; whether it is the last one.
    pub(super) fn take(&self) -> bool {
        let all = self.all.fetch_add(1, Ordering::Relaxed) + 1;
        let pipelined = self.pipelined.fetch_add(1, Ordering::Relaxed) + 1;
        all >= limits::REQUESTS_PER_CONNECTION || pipelined >= limits::PIPELINED
    }

    fn waited(&self) {
        self.pipelined.store(0, Ordering::Relaxed);
    }
}

/// Accepts connections of `socket` until `stop` says so, each served in a task of its own.
pub(super) async fn accept(socket: TcpListener, front: Front, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = stopped(&mut stop) => return,
        };
        match accepted {
            Ok((stream, client)) => {
                let ip = client.ip().to_canonical();
                match front.app.places.take(ip) {
                    Some(place) => {
                        let connection = serve(stream, client, front.clone(), stop.clone());
                        tokio::spawn(async move {
                            connection.await;
                            drop(place);
                        });
                    }
                    None => tracing::debug!(%ip, "too many connections"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Returns when the server stops, or is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve(stream: TcpStream, client: SocketAddr, front: Front, mut stop: watch::Receiver<bool>) {
    let Ok(reached) = stream.local_addr() else {
        return;
    };
    // An answer that waits for the acknowledgement of the one before would add 40 ms to each request.
    let _ = stream.set_nodelay(true);
    let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let ends = Ends { client: canonical(client), reached: canonical(reached) };
    let turns = Turns::default();
    let mut stream = Patient::new(stream, &turns);
    let left = tokio::select! {
        biased;
        left = lane::drive(&mut stream, &ends, &turns, &front.app) => left,
        () = stopped(&mut stop) => return,
    };
    let done = match left {
        Ok(Left::Over) => return,
        Ok(Left::With(came)) => {
            stream.before = came;
            // Boxed: hyper's state is many times as large as the lane's.
            Box::pin(serve_with_hyper(stream, ends, &turns, &front, stop)).await.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = done {
        tracing::debug!(%error, client = %ends.client, "an HTTP connection ended");
    }
}

async fn serve_with_hyper(
    stream: Patient<'_>,
    ends: Ends,
    turns: &Turns,
    front: &Front,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let last = turns.take();
        let routes = front.routes.clone();
        async move {
            let mut response = answer(request.map(Body::new), ends, routes).await;
            front.app.answered.count(response.status());
            if last {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD)
        .max_headers(limits::HEADERS)
        .max_buf_size(limits::HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        done = connection.as_mut() => done,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            timeout(limits::STOP, connection.as_mut()).await.unwrap_or(Ok(()))
        }
    }
}

async fn answer(mut request: Request, ends: Ends, routes: Router) -> Response {
    let mut response = if is_ambiguous(&request) {
        let mut response = ApiError::bad_request("a request has one length").into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    } else if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this method is not served").into_response()
    } else {
        request.extensions_mut().insert(ends);
        routes.oneshot(request).await.unwrap_or_else(|never| match never {})
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(NO_CONTENT);
    response
}

/// Whether a proxy before us could see another end of this request than we do (HOSTILE H04).
fn is_ambiguous(request: &Request) -> bool {
    let headers = request.headers();
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let hosts = headers.get_all(HOST).iter().count();
    lengths > 1 || hosts > 1 || (lengths == 1 && headers.contains_key(TRANSFER_ENCODING))
}

/// A connection that fails when the client reads nothing of what it asked for, for too long.
pub(super) struct Patient<'a> {
    stream: TcpStream,
    /// What was read of it and is to be read again.
    before: Vec<u8>,
    turns: &'a Turns,
    /// How long the client may go on reading nothing, while it does.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<'a> Patient<'a> {
    fn new(stream: TcpStream, turns: &'a Turns) -> Self {
        Self { stream, before: Vec::new(), turns, patience: None }
    }

    /// Passes `written` on; while it is pending, the time runs.
    fn wait<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(limits::WRITE_STALL)));
        ready!(patience.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient<'_> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let length = self.before.len().min(into.remaining());
            into.put_slice(&self.before[..length]);
            self.before.drain(..length);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if read.is_pending() {
            self.turns.waited();
        }
        read
    }
}

impl AsyncWrite for Patient<'_> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wait(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wait(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.wait(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.wait(shut, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h03_one_address_cannot_take_all_places() {
        let places = Arc::new(Places::default());
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let own: Vec<_> = std::iter::from_fn(|| places.take(ip)).take(10_000).collect();
        assert_eq!(own.len(), limits::CONNECTIONS_PER_ADDRESS);
        let one = places.take("2001:db8::1".parse().unwrap());
        assert!(one.is_some());
        assert_eq!(places.count(), limits::CONNECTIONS_PER_ADDRESS + 1);
        drop((own, one));
        assert_eq!(places.count(), 0);
    }

    #[test]
    fn a_network_of_one_client_is_one_address() {
        let places = Arc::new(Places::default());
        let taken = (0..10_000u16).map_while(|number| places.take(format!("2001:db8::{number:x}").parse().unwrap()));
        assert_eq!(taken.collect::<Vec<_>>().len(), limits::CONNECTIONS_PER_ADDRESS);
    }
}
