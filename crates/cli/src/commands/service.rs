//! What several commands begin with: a client of a tracker, a node, a key; and how their errors are told.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use obt_node::config::{NodeConfig, PeerListen, PeerPort};
use obt_node::keyring::{read_key, read_or_make_key};
use obt_node::node::{Node, NodeError};
use obt_node::requester::ResolveError;
use obt_node::server::{
    FileSource, ParseAdvertiseError, StartError, TrackerConfig, TrackerListen, TrackerPort, TrackerServer,
};
use obt_node::signing::Keypair;
use obt_node::state::StateFolder;
use obt_node::tracker_client::{TrackerAddress, TrackerClient, TrackerError};
use tokio::time::timeout;

use crate::args::{self, PublishPolicy};
use crate::commands::daemon::outward_address;
use crate::output::Told;
use crate::settings::Settings;

/// How much longer than its answer a command may take to learn the tracker's members.
const LEARN: Duration = Duration::from_millis(250);

/// A client of the tracker that was typed as two words.
pub(crate) fn tracker_client(typed: &args::TrackerAddress, settings: &Settings) -> anyhow::Result<TrackerClient> {
    let address = TrackerAddress::new(&typed.host, typed.port);
    let address = address.map_err(|_| Told::failed(format!("{:?} is not a host name or address", typed.host)))?;
    Ok(TrackerClient::of(settings.members.of(&address)))
}

/// The answer to the one question of a command. Beside it the client learns where else it could be asked, for the next
/// time that this tracker is.
pub(crate) async fn asked<T, E>(client: &TrackerClient, question: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let (mut question, mut learning) = (pin!(question), pin!(client.learn_members()));
    let answer = tokio::select! {
        answer = &mut question => answer?,
        () = &mut learning => return question.await,
    };
    let _ = timeout(LEARN, learning).await;
    Ok(answer)
}

/// The tracker that was typed as `HOST:PORT`.
pub(crate) fn tracker_address(typed: &str) -> anyhow::Result<TrackerAddress> {
    typed.parse().map_err(|error: obt_node::tracker_client::ParseAddressError| {
        Told::failed(error.to_string()).hint("for example tracker.lab:6969 or [2001:db8::1]:6969").into()
    })
}

/// Tells what a tracker did not do.
pub(crate) fn tell_tracker(error: TrackerError) -> anyhow::Error {
    let told = match &error {
        TrackerError::NotFound(_) => Told::incomplete(error.to_string()),
        _ => Told::failed(error.to_string()),
    };
    told.hint_if(error.hint()).into()
}

/// Tells why a name means nothing.
pub(crate) fn tell_resolve(error: ResolveError) -> anyhow::Error {
    let told = match &error {
        ResolveError::Tracker(TrackerError::NotFound(_))
        | ResolveError::Unknown { .. }
        | ResolveError::NoVersion { .. }
        | ResolveError::NoInner { .. } => Told::incomplete(error.to_string()),
        ResolveError::Tracker(_) | ResolveError::BadTorrent { .. } => Told::failed(error.to_string()),
    };
    told.hint_if(error.hint()).into()
}

/// Starts a node as the settings say.
pub(crate) async fn start_node(settings: &Settings) -> anyhow::Result<Node> {
    let listen = settings.peer_listen;
    let port = if listen.named { PeerPort::Exactly(listen.addr.port()) } else { PeerPort::Usual };
    let default = NodeConfig::default();
    let max_peers = settings.max_peers.map(usize::from);
    let config = NodeConfig {
        listen: PeerListen { addr: listen.addr_if_named(), port },
        connections: max_peers.unwrap_or(default.connections),
        torrent_connections: max_peers.unwrap_or(default.torrent_connections),
        download_rate: settings.download_rate,
        upload_rate: settings.upload_rate,
        advertise: settings.advertise.iter().cloned().collect(),
        members: settings.members.clone(),
        ..default
    };
    Node::start(config).await.map_err(|error| {
        let hint = match &error {
            NodeError::Descriptors { .. } => "`--max-peers` with a smaller number, or `ulimit -Hn` with a larger one",
            _ => "`--peer-listen ADDR:PORT` chooses another place, port 0 any free one",
        };
        anyhow::Error::new(error).context(Told::failed("cannot start").hint(hint))
    })
}

/// Starts a tracker as the settings say.
pub(crate) async fn start_tracker(
    settings: &Settings,
    state: &StateFolder,
    publish: Option<PublishPolicy>,
    join: Option<&str>,
    files: Arc<dyn FileSource>,
) -> anyhow::Result<TrackerServer> {
    let listen = settings.tracker_listen;
    let port = if listen.named { TrackerPort::Exactly(listen.addr.port()) } else { TrackerPort::Usual };
    let advertise = settings.advertise.as_deref().map(str::parse).transpose();
    let mut config = TrackerConfig::new(state.clone());
    config.listen = TrackerListen { addr: listen.addr_if_named(), port };
    config.advertise = advertise.map_err(|error: ParseAdvertiseError| Told::failed(error.to_string()))?;
    config.publish = publish.map(|policy| match policy {
        PublishPolicy::Keys => obt_node::server::PublishPolicy::Keys,
        PublishPolicy::Open => obt_node::server::PublishPolicy::Open,
    });
    config.files = Some(files);
    config.cluster.listen = settings.cluster_listen;
    config.cluster.join = join.map(str::to_owned);
    // An address that was named is the one to be told; of all of them, the one that others have a route to.
    config.cluster.host = config.listen.addr.is_none().then(|| outward_address().to_string());
    let hint = "`--tracker-listen ADDR:PORT` chooses another place, port 0 any free one";
    TrackerServer::start(config).await.map_err(|error| {
        let told = Told::failed("the tracker cannot start");
        let told = if matches!(error, StartError::Listen { .. }) { told.hint(hint) } else { told };
        anyhow::Error::new(error).context(told)
    })
}

/// The key to publish with: the one that the user named, or this machine's own.
pub(crate) fn publishing_key(settings: &Settings, state: &StateFolder) -> anyhow::Result<Keypair> {
    Ok(match &settings.key_file {
        Some(file) => read_key(file)?,
        None => read_or_make_key(&state.publish_key())?,
    })
}
