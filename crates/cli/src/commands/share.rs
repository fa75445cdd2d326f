//! `obt share`: publish and serve, through a tracker elsewhere or one of our own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use obt_node::control::{ControlReply, ControlRequest};
use obt_node::hash::{MakeOptions, Watch};
use obt_node::sharer::{ShareError, ShareRequest, Shared, Sharer};
use obt_node::state::{StateError, StateFolder};
use obt_node::tracker_client::{Replace, TrackerAddress};

use crate::args::Share;
use crate::commands::control::ask;
use crate::commands::create::{own_name, version};
use crate::commands::daemon::{Daemon, announce_listening, announce_shared, tell_skipped};
use crate::commands::hashing::watched;
use crate::commands::inspect::protocol;
use crate::commands::publish::parse_name;
use crate::output::{Output, Status, Told};
use crate::settings::Settings;
use crate::stop::Stop;

pub(crate) async fn run(args: Share, settings: &Settings, output: Output, stop: Stop) -> anyhow::Result<Status> {
    let requests = requests(&args)?;
    let state = StateFolder::open(&settings.state()?)?;
    let lock = match state.lock() {
        Ok(lock) => lock,
        Err(in_use @ StateError::InUse { .. }) => return hand_over(&state, &requests, in_use, output).await,
        Err(error) => return Err(error.into()),
    };
    let daemon =
        Daemon::start(args.tracker.as_deref(), args.publish, args.join.as_deref(), settings, state, lock).await?;
    let control = daemon.serve_control(&stop);
    announce_listening(&daemon, output)?;
    let status = serve(&daemon, &requests, output, &stop).await;
    daemon.stop(control).await?;
    status
}

async fn serve(daemon: &Daemon, requests: &[ShareRequest], output: Output, stop: &Stop) -> anyhow::Result<Status> {
    // Told in their order, as soon as the line that is told finds a holder.
    let mut untold = VecDeque::new();
    for request in requests {
        let Some(shared) = share(&daemon.sharer, request, output, stop).await? else {
            return Ok(Status::Incomplete);
        };
        untold.push_back(shared);
        while let Some(shared) = untold.pop_front_if(|shared| shared.is_known_to_tracker()) {
            announce_shared(daemon, &shared, output)?;
        }
    }
    for shared in untold {
        shared.until_known_to_tracker().await;
        announce_shared(daemon, &shared, output)?;
    }
    output.talk("serving; Ctrl-C stops");
    stop.requested().await;
    Ok(Status::Done)
}

/// Shares one path, with a progress bar for the hashing. None where the user stopped it.
pub(crate) async fn share(
    sharer: &Sharer,
    request: &ShareRequest,
    output: Output,
    stop: &Stop,
) -> anyhow::Result<Option<Shared>> {
    let (sharer, asked) = (sharer.clone(), request.clone());
    let shared = watched(request.name.as_str(), output, stop, move |watch: Arc<Watch>| async move {
        sharer.share(&asked, watch).await
    });
    shared.await.map_err(tell_share)
}

/// Tells why something cannot be shared.
pub(crate) fn tell_share(error: ShareError) -> anyhow::Error {
    Told::failed(error.to_string()).hint_if(error.hint()).into()
}

fn requests(args: &Share) -> anyhow::Result<Vec<ShareRequest>> {
    if args.name.is_some() && args.paths.len() > 1 {
        return Err(Told::failed("--as names one PATH, and there are several").into());
    }
    let replace = if args.replace { Replace::Yes } else { Replace::No };
    let options = MakeOptions { version: version(args.protocol), piece_length: None };
    let request = |path: &PathBuf| -> anyhow::Result<ShareRequest> {
        let name = args.name.clone().map_or_else(|| own_name(path), Ok)?;
        Ok(ShareRequest { path: path.clone(), name: parse_name(&name)?, replace, options })
    };
    args.paths.iter().map(request).collect()
}

/// Gives the paths to the daemon that runs with the same state.
async fn hand_over(
    state: &StateFolder,
    requests: &[ShareRequest],
    in_use: StateError,
    output: Output,
) -> anyhow::Result<Status> {
    for request in requests {
        let ShareRequest { path, name, replace, options } = request;
        let asked = ControlRequest::Share {
            path: absolute(path)?,
            name: name.to_string(),
            replace: *replace == Replace::Yes,
            protocol: protocol(options.version).to_owned(),
        };
        let reply = ask(&state.control_socket(), &asked).await.map_err(|error| {
            Told::failed(format!("{in_use}, and {error}")).hint("give this one another folder with --state")
        })?;
        match reply {
            ControlReply::Refused { message, hint } => {
                return Err(Told::failed(message).hint_if(hint).into());
            }
            ControlReply::Shared { item, how, tracker, skipped } => {
                let tracker: TrackerAddress = tracker.parse()?;
                output.talk(format_args!("handed to the obt that runs already ({})", path.display()));
                for path in &skipped {
                    tell_skipped(path, output);
                }
                crate::commands::daemon::announce_item(&item, how, &tracker, output)?;
            }
            _ => return Err(Told::failed("the obt that runs with this state answered something else").into()),
        }
    }
    Ok(Status::Done)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path)
        .map_err(|error| Told::failed(format!("cannot share {}: {error}", path.display())).into())
}
