//! What `share` and `peer` have in common: a node, a tracker of our own or elsewhere, and the control socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::Context;
use obt_node::api_types::Item;
use obt_node::files::NodeFiles;
use obt_node::names::Name;
use obt_node::node::Node;
use obt_node::server::TrackerServer;
use obt_node::sharer::{How, Shared, Sharer};
use obt_node::state::{StateFolder, StateLock};
use obt_node::tracker_client::{TrackerAddress, TrackerClient};
use serde::Serialize;
use serde_json::json;

use crate::args::PublishPolicy;
use crate::commands::control::{self, Controlled, Serving};
use crate::commands::publish::quoted;
use crate::commands::service::{publishing_key, start_node, start_tracker, tracker_address};
use crate::output::{Output, plain};
use crate::quantity::show_bytes;
use crate::settings::Settings;
use crate::stop::Stop;

/// A process that serves until it is stopped.
pub(crate) struct Daemon {
    /// The peer.
    pub(crate) node: Node,
    /// Shares paths.
    pub(crate) sharer: Sharer,
    /// Where others find what is shared.
    pub(crate) public: TrackerAddress,
    state: StateFolder,
    tracker: Option<TrackerServer>,
    _lock: StateLock,
}

impl Daemon {
    /// Starts a node and, where no tracker is named, one of our own.
    pub(crate) async fn start(
        tracker: Option<&str>,
        publish: Option<PublishPolicy>,
        join: Option<&str>,
        settings: &Settings,
        state: StateFolder,
        lock: StateLock,
    ) -> anyhow::Result<Self> {
        let elsewhere = tracker.map(tracker_address).transpose()?;
        let node = start_node(settings).await?;
        let (address, public, key, tracker) = match elsewhere {
            Some(address) => (address.clone(), address, publishing_key(settings, &state)?, None),
            None => {
                let files = Arc::new(NodeFiles::new(node.clone(), state.cache()));
                let server = start_tracker(settings, &state, publish, join, files.clone()).await?;
                let key = server.publisher().clone();
                let local = local_address(&server)?;
                files.fetch_through(local.clone());
                (local, public_address(&server, settings)?, key, Some(server))
            }
        };
        let sharer = Sharer::new(node.clone(), TrackerClient::new(address), key, state.clone());
        Ok(Self { node, sharer, public, state, tracker, _lock: lock })
    }

    /// Leaves the swarms, then stops the tracker, which has heard of it by then. Requests of other processes are answered
    /// until the end.
    pub(crate) async fn stop(self, control: Option<Serving>) -> anyhow::Result<()> {
        self.node.shutdown().await;
        if let Some(tracker) = self.tracker {
            tracker.shutdown().await;
        }
        Ok(control.map_or(Ok(()), |control| control.end(&self.state))?)
    }

    /// Takes requests of other processes, until the result is dropped.
    pub(crate) fn serve_control(&self, stop: &Stop) -> Option<Serving> {
        let share = Some((self.sharer.clone(), self.public.to_string()));
        let operator = self.tracker.as_ref().map(TrackerServer::operator);
        control::serve(&self.state, Controlled { share, operator }, stop)
    }
}

fn bound(server: &TrackerServer) -> anyhow::Result<SocketAddr> {
    let bound = server.addresses().first().copied();
    bound.context("the tracker listens nowhere")
}

/// Where our own tracker is, for ourselves.
pub(crate) fn local_address(server: &TrackerServer) -> anyhow::Result<TrackerAddress> {
    let bound = bound(server)?;
    let ip = match bound.ip().to_canonical() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    Ok(TrackerAddress::new(&ip.to_string(), bound.port())?)
}

/// What to tell others: `--advertise`, the address we listen on, or the one that reaches beyond this machine.
pub(crate) fn public_address(server: &TrackerServer, settings: &Settings) -> anyhow::Result<TrackerAddress> {
    let bound = bound(server)?;
    if let Some(advertise) = &settings.advertise {
        let with_port = advertise.parse().or_else(|_| TrackerAddress::new(advertise, bound.port()));
        return with_port.with_context(|| format!("--advertise {advertise:?} is not HOST or HOST:PORT"));
    }
    let ip = match bound.ip().to_canonical() {
        ip if ip.is_unspecified() => outward_address(),
        ip => ip,
    };
    Ok(TrackerAddress::new(&ip.to_string(), bound.port())?)
}

/// The address that this machine has towards others: that of the route outward, or in a network without one that of an
/// interface.
pub(crate) fn outward_address() -> IpAddr {
    let interfaces = || if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|interface| interface.ip());
    route_outward().or_else(|| reachable(interfaces())).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Connecting a UDP socket sends nothing; it asks the routing table.
fn route_outward() -> Option<IpAddr> {
    const DOCUMENTATION: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(DOCUMENTATION).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The first address that others can have a route to, v4 before v6.
fn reachable(addresses: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let is_reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    };
    addresses.filter(is_reachable).min_by_key(IpAddr::is_ipv6)
}

/// Says which ports are in use.
pub(crate) fn announce_listening(daemon: &Daemon, output: Output) -> anyhow::Result<()> {
    let (tracker, peer_port) = (&daemon.public, daemon.node.port());
    if output.is_json() {
        return output.value(&json!({
            "event": "listening", "peer_port": peer_port, "tracker_host": tracker.host(), "tracker_port": tracker.port(),
            "own_tracker": daemon.tracker.is_some(),
        }));
    }
    let whose = if daemon.tracker.is_some() { "our own tracker" } else { "the tracker" };
    output.talk(format_args!("{whose} is {tracker}, peers reach us at port {peer_port}"));
    Ok(())
}

/// Says what is shared, and how others get it.
pub(crate) fn announce_shared(daemon: &Daemon, shared: &Shared, output: Output) -> anyhow::Result<()> {
    for path in &shared.skipped {
        tell_skipped(&path.to_string_lossy(), output);
    }
    let full = output.is_json().then(|| shared.full_item());
    announce_item(full.as_ref().unwrap_or(&shared.item), shared.how, &daemon.public, output)
}

/// Says that a path below what is shared is not part of it.
pub(crate) fn tell_skipped(path: &str, output: Output) {
    output.talk(format_args!("left out, neither file nor folder: {}", plain(path)));
}

/// An item under `--json`, when others can get it.
#[derive(Serialize)]
struct Sharing<'a> {
    event: &'a str,
    published: bool,
    get: &'a str,
    #[serde(flatten)]
    item: &'a Item,
}

/// Says how others get an item.
pub(crate) fn announce_item(item: &Item, how: How, tracker: &TrackerAddress, output: Output) -> anyhow::Result<()> {
    let name = Name::parse(&item.name)?;
    let line = format!("obt get {} {} {}", tracker.host(), tracker.port(), quoted(&name));
    if output.is_json() {
        return output.value(&Sharing { event: "sharing", published: how == How::Published, get: &line, item });
    }
    let how = match how {
        How::Published => "published",
        How::Joined => "published already, one more holder",
    };
    let size = show_bytes(item.size);
    output.talk(format_args!("{} version {}, {size}: {how}. Elsewhere:", plain(&item.name), item.version));
    output.line(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_route_outward_an_interface_tells_the_address() {
        let find = |texts: &[&str]| reachable(texts.iter().map(|text| text.parse().unwrap()));
        let lab = Some("10.77.0.1".parse().unwrap());
        assert_eq!(find(&["127.0.0.1", "fd00::1", "169.254.3.4", "10.77.0.1", "192.168.1.1"]), lab);
        assert_eq!(find(&["::1", "fe80::1", "fd00::1"]), Some("fd00::1".parse().unwrap()));
        assert_eq!(find(&["127.0.0.1", "::1", "fe80::1"]), None);
    }
}
