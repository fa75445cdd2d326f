//! Announces over HTTP and HTTPS (BEP 3).
//!
//! Redirects are followed here and not by the library, because each one is judged: the first hop that leaves for the
//! internet must not lead back to the machines around us, and none leaves TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use obt_swarm::{AnnounceEvent, AnnounceReply};
use obt_wire::compact::{Reach, reach};
use obt_wire::limits::TRACKER_REPLY_BYTES;
use obt_wire::tracker_http::{AnnounceQuery, Announced, ReplyError};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::LOCATION;
use reqwest::{Client, Response};
use tokio::sync::Semaphore;
use url::{Host, Url};

use super::resolve::{Bounds, believed, resolve};
use super::{Announce, AnnounceError, Trust, cause};
use crate::limits::{ANNOUNCE_CONNECT, ANNOUNCE_HTTP, ANNOUNCE_REDIRECTS, ANNOUNCES_HTTP};

/// HTTP clients for trackers. Each is made when it is first needed: the one for TLS loads the system's certificates,
/// which takes longer than a whole plain announce.
pub(super) struct HttpTrackers {
    /// By [`Bounds`]: anywhere, global.
    plain: [OnceLock<Client>; 2],
    tls: [OnceLock<Client>; 2],
    places: Semaphore,
}

impl Default for HttpTrackers {
    fn default() -> Self {
        Self { plain: Default::default(), tls: Default::default(), places: Semaphore::new(ANNOUNCES_HTTP) }
    }
}

/// The library's view of [`resolve`].
struct Resolver(Bounds);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let bounds = self.0;
        Box::pin(async move {
            // The port is the URL's; the library puts it in.
            let found = resolve(name.as_str(), 0, bounds).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Which machines the hops so far have led to, and what that forbids.
struct Path {
    trust: Trust,
    left_for_internet: bool,
    encrypted: bool,
}

impl Path {
    /// Where `url` may lead.
    fn bounds(&self, url: &Url) -> Bounds {
        // A torrent may name a tracker around us, but no other service there: a tracker's path says little to those.
        let plain_announce =
            url.path() == "/announce" && url.query().is_none_or(|query| query.starts_with("info_hash="));
        if self.left_for_internet || (self.trust == Trust::Found && !plain_announce) {
            Bounds::Global
        } else {
            Bounds::Anywhere
        }
    }

    /// Takes one step to `url`.
    fn step(&mut self, url: &Url) -> Result<Bounds, AnnounceError> {
        match url.scheme() {
            "https" => self.encrypted = true,
            "http" if self.encrypted => return Err(AnnounceError::Redirect("from https to http")),
            "http" => {}
            _ => return Err(AnnounceError::Redirect("to something that is not HTTP")),
        }
        let bounds = self.bounds(url);
        // A number is not resolved, so nobody else judges it.
        let number = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::from(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::from(ip)),
            _ => None,
        };
        if number.is_some_and(|ip| !bounds.admit(ip)) { Err(AnnounceError::OutOfBounds) } else { Ok(bounds) }
    }

    /// A connection was made to `addr`.
    fn reached(&mut self, addr: SocketAddr) {
        self.left_for_internet |= reach(addr.ip()) == Reach::Global;
    }
}

impl HttpTrackers {
    /// Announces, within [`ANNOUNCE_HTTP`].
    pub(super) async fn announce(
        &self,
        announce: &Announce,
        trust: Trust,
        key: u32,
    ) -> Result<AnnounceReply, AnnounceError> {
        let _place = self.places.acquire().await.map_err(|_| AnnounceError::Stopping)?;
        let fetched = tokio::time::timeout(ANNOUNCE_HTTP, self.fetch(announce, trust, key)).await;
        let (answer, tracker) = fetched.map_err(|_| AnnounceError::Silent)??;
        Ok(AnnounceReply {
            interval: Duration::from_secs(answer.interval.unwrap_or_default().into()),
            min_interval: answer.min_interval.map(|seconds| Duration::from_secs(seconds.into())),
            seeders: answer.seeders,
            leechers: answer.leechers,
            peers: believed(answer.peers, tracker, trust),
            warning: answer.warning,
        })
    }

    async fn fetch(&self, announce: &Announce, trust: Trust, key: u32) -> Result<(Announced, IpAddr), AnnounceError> {
        let mut path = Path { trust, left_for_internet: false, encrypted: false };
        let text = query(announce, key).url(&announce.url);
        let mut url = Url::parse(&text).map_err(|_| AnnounceError::BadUrl("it is none"))?;
        for _ in 0..=ANNOUNCE_REDIRECTS {
            let bounds = path.step(&url)?;
            let client = self.client(url.scheme() == "https", bounds)?;
            let response = client.get(url.clone()).send().await.map_err(unreachable)?;
            let tracker = response.remote_addr().ok_or(AnnounceError::Silent)?;
            path.reached(tracker);
            if !response.status().is_redirection() {
                return Ok((read(response).await?, tracker.ip()));
            }
            let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            url = location.and_then(|to| url.join(to).ok()).ok_or(AnnounceError::Redirect("to nowhere"))?;
        }
        Err(AnnounceError::Redirect("too often"))
    }

    fn client(&self, tls: bool, bounds: Bounds) -> Result<&Client, AnnounceError> {
        let slots = if tls { &self.tls } else { &self.plain };
        let [anywhere, global] = slots;
        let slot = if bounds == Bounds::Anywhere { anywhere } else { global };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        // Where another task was faster, its client is used.
        let made = client(tls, bounds).map_err(unreachable)?;
        Ok(slot.get_or_init(|| made))
    }
}

fn client(tls: bool, bounds: Bounds) -> Result<Client, reqwest::Error> {
    // Fails where a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("obt/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Resolver(bounds))
        .connect_timeout(ANNOUNCE_CONNECT)
        // A proxy would resolve names for us, and nobody would judge their addresses.
        .no_proxy()
        .referer(false)
        .http1_only();
    // Without TLS no certificate is believed, so none is loaded.
    let builder = if tls { builder.https_only(true) } else { builder.tls_certs_only([]) };
    builder.build()
}

fn query(announce: &Announce, key: u32) -> AnnounceQuery {
    let request = &announce.request;
    AnnounceQuery {
        info_hash: announce.hashes.primary(),
        peer_id: announce.peer_id,
        port: announce.port,
        uploaded: request.uploaded,
        downloaded: request.downloaded,
        left: request.left,
        event: super::event(request.event),
        num_want: Some(if request.event == AnnounceEvent::Stopped { 0 } else { request.num_want }),
        key: Some(key),
        compact: true,
        no_peer_id: false,
        ip: None,
    }
}

/// Reads the body, as far as an honest one goes.
async fn read(mut response: Response) -> Result<Announced, AnnounceError> {
    let status = response.status();
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&part);
        if body.len() > TRACKER_REPLY_BYTES {
            return Err(ReplyError::TooLong.into());
        }
    }
    match Announced::decode(&body) {
        // Some trackers refuse with a status and a reason; the reason says more.
        Err(ReplyError::Bencode(_) | ReplyError::Lacks(_)) if !status.is_success() => {
            Err(AnnounceError::Status(status.as_u16()))
        }
        Ok(_) if !status.is_success() => Err(AnnounceError::Status(status.as_u16())),
        answer => Ok(answer?),
    }
}

/// The library's errors name the URL, which holds the user's passkey: only the cause is told.
fn unreachable(error: reqwest::Error) -> AnnounceError {
    let error = error.without_url();
    if error.is_timeout() {
        return AnnounceError::Silent;
    }
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(link) = source {
        match link.downcast_ref() {
            Some(AnnounceError::OutOfBounds) => return AnnounceError::OutOfBounds,
            Some(AnnounceError::Unresolved(reason)) => return AnnounceError::Unresolved(reason.clone()),
            _ => source = link.source(),
        }
    }
    AnnounceError::Unreachable(cause(&error))
}

#[cfg(test)]
mod tests;
