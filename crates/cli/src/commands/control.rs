//! What another process of the same user may ask of the one that runs with a state folder, and how it is answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use obt_node::control::{ControlReply, ControlRequest};
use obt_node::hash::{MakeOptions, Watch};
use obt_node::names::Name;
use obt_node::server::{Operator, OperatorError};
use obt_node::sharer::{ShareRequest, Sharer};
use obt_node::signing::PublicKey;
use obt_node::state::{StateError, StateFolder};
use obt_node::tracker_client::Replace;
use obt_wire::metainfo::Version;

use crate::stop::Stop;

/// What of this process can be asked for.
#[derive(Clone)]
pub(crate) struct Controlled {
    /// Shares paths, at this tracker.
    pub(crate) share: Option<(Sharer, String)>,
    /// The tracker of this process.
    pub(crate) operator: Option<Operator>,
}

/// Ends what it serves when it is dropped.
pub(crate) struct Serving {
    task: tokio::task::JoinHandle<()>,
    left: Arc<AtomicBool>,
}

impl Serving {
    /// Ends it, when the tracker has stopped: one that left its cluster is put aside.
    pub(crate) fn end(self, state: &StateFolder) -> Result<(), StateError> {
        if self.left.load(Ordering::Relaxed) { state.set_tracker_aside() } else { Ok(()) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes requests, until the result is dropped.
#[cfg(unix)]
pub(crate) fn serve(state: &StateFolder, controlled: Controlled, stop: &Stop) -> Option<Serving> {
    let server = match obt_node::control::ControlServer::bind(&state.control_socket()) {
        Ok(server) => server,
        Err(error) => {
            tracing::warn!(%error, "no control socket: this obt cannot be asked for anything by another one");
            return None;
        }
    };
    let left = Arc::new(AtomicBool::new(false));
    let (stop, leaving) = (stop.clone(), Arc::clone(&left));
    let answer = move |request| answer(controlled.clone(), request);
    let answered = move |reply: &ControlReply| {
        if *reply == ControlReply::Left {
            leaving.store(true, Ordering::Relaxed);
            stop.request();
        }
    };
    Some(Serving { task: tokio::spawn(server.serve(answer, answered)), left })
}

/// Takes no requests: that needs a Unix socket.
#[cfg(not(unix))]
pub(crate) fn serve(_: &StateFolder, _: Controlled, _: &Stop) -> Option<Serving> {
    None
}

/// Asks the process that runs with a state folder.
#[cfg(unix)]
pub(crate) async fn ask(socket: &Path, request: &ControlRequest) -> Result<ControlReply, String> {
    obt_node::control::ask(socket, request).await.map_err(|error| error.to_string())
}

#[cfg(not(unix))]
pub(crate) async fn ask(_: &Path, _: &ControlRequest) -> Result<ControlReply, String> {
    Err("asking another obt needs a Unix socket".into())
}

fn refused(message: impl Into<String>, hint: Option<String>) -> ControlReply {
    ControlReply::Refused { message: message.into(), hint }
}

async fn answer(controlled: Controlled, request: ControlRequest) -> ControlReply {
    match (request, controlled.share, controlled.operator) {
        (ControlRequest::Share { path, name, replace, protocol }, Some((sharer, tracker)), _) => {
            let replace = if replace { Replace::Yes } else { Replace::No };
            share(&sharer, tracker, path, &name, replace, &protocol).await
        }
        (ControlRequest::Share { .. }, None, _) => {
            let hint = "share with another --state, and with --tracker this tracker's address";
            refused("the obt that runs with this state is a tracker alone", Some(hint.to_owned()))
        }
        (request, _, Some(operator)) => match operate(&operator, request).await {
            Ok(reply) => reply,
            Err(error) => refused(error.to_string(), None),
        },
        (_, _, None) => {
            refused("the obt that runs with this state uses a tracker elsewhere, and has none itself", None)
        }
    }
}

async fn operate(operator: &Operator, request: ControlRequest) -> Result<ControlReply, OperatorError> {
    Ok(match request {
        ControlRequest::ClusterStatus => ControlReply::ClusterStatus { status: Box::new(operator.status()) },
        ControlRequest::ClusterInvite { seconds } => {
            ControlReply::Invited { line: operator.invite(Duration::from_secs(seconds)).await? }
        }
        ControlRequest::ClusterLeave { member } => {
            let member = member.unwrap_or_else(|| operator.node());
            operator.leave(member).await?;
            if member == operator.node() { ControlReply::Left } else { ControlReply::Done }
        }
        ControlRequest::AddKey { key, label } => match key.parse::<PublicKey>() {
            Ok(key) => {
                operator.add_key(key, &label).await?;
                ControlReply::Done
            }
            Err(error) => refused(error.to_string(), None),
        },
        ControlRequest::RevokeKey { prefix } => {
            ControlReply::Key { key: operator.revoke_key(&prefix).await?.to_string() }
        }
        ControlRequest::Share { .. } => refused("nothing is shared here", None),
    })
}

async fn share(
    sharer: &Sharer,
    tracker: String,
    path: PathBuf,
    name: &str,
    replace: Replace,
    protocol: &str,
) -> ControlReply {
    let name = match Name::parse(name) {
        Ok(name) => name,
        Err(error) => return refused(error.to_string(), None),
    };
    let version = match protocol {
        "v1" => Version::V1,
        "v2" => Version::V2,
        _ => Version::Hybrid,
    };
    let options = MakeOptions { version, piece_length: None };
    match sharer.share(&ShareRequest { path, name, replace, options }, Arc::new(Watch::default())).await {
        Ok(shared) => {
            shared.until_known_to_tracker().await;
            let skipped = shared.skipped.iter().map(|path| path.to_string_lossy().into_owned()).collect();
            ControlReply::Shared { how: shared.how, item: Box::new(shared.full_item()), tracker, skipped }
        }
        Err(error) => refused(error.to_string(), error.hint()),
    }
}
