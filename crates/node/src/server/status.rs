//! Who is here and how the tracker is: for people, for clients that look for its ports, for probes and for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use obt_catalogue::{CatalogueError, PublishPolicy, Reader};
use obt_cluster::{MemberStatus, Role};
use obt_tracker::{Endpoint, SwarmPeer};
use obt_wire::{InfoHash, InfoHashes};

use super::App;
use super::connections::Ends;
use super::error::ApiError;
use super::limits::{LISTED_ITEMS, LISTED_ITEMS_OF_ALL, LISTED_PEERS};
use crate::api_types::{PeerEntry, PeerItem, PeerList, Status, StatusMember};

/// `GET /api/v1/status`
pub(super) async fn status(State(app): State<Arc<App>>) -> Result<Json<Status>, ApiError> {
    let ask = |reader: &Reader| Ok::<_, CatalogueError>((reader.count()?, reader.publish_policy()?));
    let (names, policy) = app.catalogue.read(ask).await?;
    let size = app.state.size();
    let cluster = app.catalogue.cluster().status();
    Ok(Json(Status {
        version: concat!("obt/", env!("CARGO_PKG_VERSION")).to_owned(),
        uptime_seconds: app.started.elapsed().as_secs(),
        names,
        swarms: size.swarms as u64,
        peers: size.addresses as u64,
        leases: app.state.leases().len() as u64,
        udp_port: app.udp_port,
        publish: match policy {
            PublishPolicy::Keys => "keys".to_owned(),
            PublishPolicy::Open => "open".to_owned(),
        },
        members: cluster.members.iter().map(told_member).collect(),
        leader: cluster.leader.map(|leader| leader.to_string()),
        term: cluster.term,
        as_of_ms: cluster.as_of.age_ms,
        writable: cluster.writable,
        warnings: cluster.warnings,
    }))
}

fn told_member(status: &MemberStatus) -> StatusMember {
    let role = match status.role {
        Role::Leader => "leader",
        Role::Voter => "voter",
        Role::Learner => "learner",
    };
    let address = status.member.trackers.first().cloned().unwrap_or_default();
    StatusMember { id: status.node.to_string(), address, role: role.to_owned() }
}

/// `GET /healthz`: the process answers.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the catalogue answers; and whether names can be changed.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.catalogue.read(Reader::applied).await {
        Ok(_) if app.catalogue.cluster().status().writable => "ready\n".into_response(),
        Ok(_) => "ready to read; no majority of the cluster answers, so names cannot be changed\n".into_response(),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
        }
    }
}

/// `GET /metrics`, in the text format of Prometheus.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let names = app.catalogue.read(Reader::count).await?;
    let size = app.state.size();
    let gauges = [
        ("obt_uptime_seconds", "Seconds since the tracker started.", app.started.elapsed().as_secs()),
        ("obt_catalogue_names", "Items in the catalogue.", names),
        ("obt_swarms", "Swarms with anybody in them.", size.swarms as u64),
        ("obt_swarm_addresses", "Addresses in all swarms.", size.addresses as u64),
        ("obt_swarm_memory_bytes", "Memory of the swarms.", size.memory as u64),
        ("obt_leases", "Leases of peers of ours.", app.state.leases().len() as u64),
        ("obt_http_connections", "HTTP connections.", app.places.count() as u64),
        ("obt_event_listeners", "Listeners to live changes.", app.events.listeners() as u64),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    let _ = writeln!(
        text,
        "# HELP obt_http_requests_total Answered HTTP requests.\n# TYPE obt_http_requests_total counter"
    );
    for (class, count) in app.answered.counts() {
        let _ = writeln!(text, "obt_http_requests_total{{status=\"{class}xx\"}} {count}");
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// `GET /api/v1/peers`
pub(super) async fn peers(
    State(app): State<Arc<App>>,
    Extension(ends): Extension<Ends>,
) -> Result<impl IntoResponse, ApiError> {
    let contents = app.catalogue.read(Reader::contents).await?;
    let now = Instant::now();
    let walker = Arc::clone(&app);
    let mut peers = app.metainfos.work(move || walk(&walker, &contents, &ends, now)).await?;
    peers.sort_unstable_by_key(|peer| peer.address);
    peers.truncate(LISTED_PEERS);
    let mut room = LISTED_ITEMS_OF_ALL;
    for peer in &mut peers {
        peer.items.truncate(room);
        room -= peer.items.len();
    }
    let wanted: Vec<InfoHash> = peers.iter().flat_map(|peer| peer.items.iter().map(|(hash, _)| *hash)).collect();
    let names = app.catalogue.read(move |reader| names_of(reader, wanted)).await?;
    let json = app.metainfos.work(move || {
        let peers = peers.into_iter().map(|peer| peer.told(&names)).collect();
        serde_json::to_vec(&PeerList { peers })
    });
    let json = json.await?.map_err(|error| ApiError::internal(&error))?;
    let list = app.bulk.answer("application/json", json).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], list))
}

/// A peer on its way into the list.
struct Seen {
    address: SocketAddr,
    peer_id: String,
    lease: bool,
    seen_seconds_ago: u64,
    /// Bytes missing, by swarm; of stock peers it is known only whether any are.
    items: Vec<(InfoHash, Option<u64>)>,
}

/// Name, version and size of contents.
type Names = BTreeMap<InfoHash, (String, u32, u64)>;

impl Seen {
    /// A stock client, by what its announces say.
    fn stock(address: SocketAddr, peer: &SwarmPeer, seen_seconds_ago: u64) -> Self {
        let peer_id = peer.client.map(|id| id.to_string()).unwrap_or_default();
        Self { address, peer_id, lease: false, seen_seconds_ago, items: Vec::new() }
    }

    fn told(self, names: &Names) -> PeerEntry {
        let item = |(hash, left): (InfoHash, Option<u64>)| {
            let named = names.get(&hash);
            PeerItem {
                name: named.map(|(name, _, _)| name.clone()),
                version: named.map(|(_, version, _)| *version),
                info_hash: hash.to_string(),
                left: left.or(named.map(|(_, _, size)| *size)).unwrap_or(u64::MAX),
            }
        };
        PeerEntry {
            address: self.address.to_string(),
            peer_id: self.peer_id,
            lease: self.lease,
            seen_seconds_ago: self.seen_seconds_ago,
            items: self.items.into_iter().map(item).collect(),
        }
    }
}

/// Peers of ours by their leases, and stock peers of the swarms that have a name.
fn walk(app: &App, contents: &[(InfoHashes, u32)], ends: &Ends, now: Instant) -> Vec<Seen> {
    let mut seen: Vec<Seen> = app
        .state
        .leases()
        .iter()
        .take(LISTED_PEERS)
        .filter_map(|lease| {
            let address = lease.endpoints().first().map(|endpoint| shown(endpoint, ends))?;
            let items = lease.items().iter().take(LISTED_ITEMS).map(|(hash, left)| (*hash, Some(*left)));
            Some(Seen {
                address,
                peer_id: lease.peer_id().to_string(),
                lease: true,
                seen_seconds_ago: now.saturating_duration_since(lease.renewed()).as_secs(),
                items: items.collect(),
            })
        })
        .collect();
    let mut stock: BTreeMap<SocketAddr, Seen> = BTreeMap::new();
    for (hashes, _) in contents {
        for peer in app.state.peers(hashes, now).into_iter().filter(|peer| peer.lease.is_none()) {
            let endpoint = Endpoint { addr: peer.addr, local: peer.local, host_only: false };
            let address = shown(&endpoint, ends);
            if stock.len() < LISTED_PEERS || stock.contains_key(&address) {
                let seconds = peer.seen.map_or(0, |seen| seen.as_secs());
                let known = stock.entry(address).or_insert_with(|| Seen::stock(address, &peer, seconds));
                known.seen_seconds_ago = known.seen_seconds_ago.min(seconds);
                if known.items.len() < LISTED_ITEMS {
                    known.items.push((hashes.primary(), peer.seed.then_some(0)));
                }
            }
        }
    }
    seen.extend(stock.into_values());
    seen
}

/// The address of a peer as this asker can use it: one on the tracker's host is under the address that was reached.
fn shown(endpoint: &Endpoint, ends: &Ends) -> SocketAddr {
    let known: IpAddr = endpoint.addr.ip().to_canonical();
    let hidden = endpoint.local && known.is_loopback() && !ends.client.ip().is_loopback();
    SocketAddr::new(if hidden { ends.reached.ip() } else { known }, endpoint.addr.port())
}

fn names_of(reader: &Reader, mut hashes: Vec<InfoHash>) -> Result<Names, CatalogueError> {
    hashes.sort_unstable();
    hashes.dedup();
    let mut names = Names::new();
    for hash in hashes {
        if let Some(entry) = reader.by_info_hash(hash)?.into_iter().next() {
            names.insert(hash, (entry.name.to_string(), entry.version, entry.content.size));
        }
    }
    Ok(names)
}
