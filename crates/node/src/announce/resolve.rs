//! From a host's name to addresses that may be contacted.
//!
//! Announce URLs come from strangers too, and the machines around us answer requests that the internet could not send
//! them. So what may be reached is decided on the very addresses that are connected to, after the name is resolved.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use obt_wire::compact::{Reach, canonical, is_dialable, reach};

use super::{AnnounceError, Trust};
use crate::limits::{LEASE_ADDRESSES, RESOLVE};

/// Where a connection may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bounds {
    /// To any machine, this one and those around it too.
    Anywhere,
    /// Only to machines that the whole internet can reach.
    Global,
}

impl Bounds {
    pub(super) fn admit(self, ip: IpAddr) -> bool {
        match self {
            Self::Anywhere => reach(ip) != Reach::Nowhere,
            Self::Global => reach(ip) == Reach::Global,
        }
    }
}

/// The addresses of `host`, those out of bounds left out; never none.
pub(super) async fn resolve(host: &str, port: u16, bounds: Bounds) -> Result<Vec<SocketAddr>, AnnounceError> {
    // Brackets belong to the URL, not to the address.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((bare, port))).await;
    let found = found.map_err(|_| AnnounceError::Unresolved("no answer in time".into()))?;
    let found: Vec<_> = found.map_err(|error| AnnounceError::Unresolved(error.to_string()))?.map(canonical).collect();
    let known = !found.is_empty();
    let admitted: Vec<_> = found.into_iter().filter(|addr| bounds.admit(addr.ip())).collect();
    match admitted.is_empty() {
        false => Ok(admitted),
        true if known => Err(AnnounceError::OutOfBounds),
        true => Err(AnnounceError::Unresolved("the name has no address".into())),
    }
}

/// The addresses that others are to be told instead of ours: `HOST` or `HOST:PORT` each, `port` where it is left out.
/// A tracker looks up no names for strangers, so they are looked up here. One that means nothing is left out.
pub(super) async fn advertised(texts: &[String], port: u16) -> Vec<SocketAddr> {
    let mut addrs = Vec::new();
    for text in texts {
        let (host, port) = host_and_port(text, port);
        match resolve(host, port, Bounds::Anywhere).await {
            Ok(found) => addrs.extend(found),
            Err(error) => tracing::warn!(%text, %error, "an address to advertise means nothing"),
        }
    }
    addrs.truncate(LEASE_ADDRESSES);
    addrs
}

fn host_and_port(text: &str, port: u16) -> (&str, u16) {
    let is_v6 = text.parse::<Ipv6Addr>().is_ok();
    let split = text.rsplit_once(':').filter(|_| !is_v6);
    split.and_then(|(host, port)| Some((host, port.parse().ok()?))).unwrap_or((text, port))
}

/// The peers of `told` that are to be believed: a tracker out in the internet does not know the machines around us, so
/// it names none that are nearer than itself. One that the user named may name any.
pub(super) fn believed(told: Vec<SocketAddr>, tracker: IpAddr, trust: Trust) -> Vec<SocketAddr> {
    let far_enough = |addr: &SocketAddr| trust == Trust::Named || reach(addr.ip()) >= reach(tracker);
    told.into_iter().filter(|addr| is_dialable(*addr) && far_enough(addr)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn r03_a_tracker_in_the_internet_names_no_peer_around_us() {
        let told = peers(&["1.1.1.1:1", "10.0.0.1:1", "127.0.0.1:22", "169.254.169.254:80", "[2a00::1]:1", "[::1]:1"]);
        let believe = |tracker: &str, trust| believed(told.clone(), tracker.parse().unwrap(), trust);
        assert_eq!(believe("8.8.8.8", Trust::Found), peers(&["1.1.1.1:1", "[2a00::1]:1"]));
        assert_eq!(believe("192.168.1.1", Trust::Found), peers(&["1.1.1.1:1", "10.0.0.1:1", "[2a00::1]:1"]));
        assert_eq!(believe("127.0.0.1", Trust::Found), told);
        assert_eq!(believe("8.8.8.8", Trust::Named), told);
        assert_eq!(believed(peers(&["1.1.1.1:0", "0.0.0.0:1"]), "127.0.0.1".parse().unwrap(), Trust::Named), []);
    }

    #[tokio::test]
    async fn addresses_to_advertise_are_looked_up_and_take_our_port() {
        let texts = ["1.2.3.4", "1.2.3.4:5", "[2a00::1]:5", "2a00::1", "no-such-host.invalid:1"].map(String::from);
        let expected = peers(&["1.2.3.4:6881", "1.2.3.4:5", "[2a00::1]:5", "[2a00::1]:6881"]);
        assert_eq!(advertised(&texts, 6881).await, expected);
        assert!(
            advertised(&["localhost".into()], 7).await.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 7)
        );
    }

    #[tokio::test]
    async fn r08_every_spelling_of_loopback_is_out_of_global_bounds() {
        for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"] {
            let global = resolve(host, 80, Bounds::Global).await;
            assert!(matches!(global, Err(AnnounceError::OutOfBounds)), "{host}: {global:?}");
            assert!(resolve(host, 80, Bounds::Anywhere).await.is_ok(), "{host}");
        }
        // Numbers are no names to everybody, but to whom they are, they lead to loopback.
        for host in ["2130706433", "0x7f.1", "127.1"] {
            assert!(resolve(host, 80, Bounds::Global).await.is_err(), "{host}");
        }
        assert!(resolve("[::1", 80, Bounds::Anywhere).await.is_err());
    }
}
