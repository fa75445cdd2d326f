//! `obt tracker`: the tracker alone.

use std::sync::Arc;

use obt_node::files::NodeFiles;
use obt_node::state::StateFolder;
use obt_node::tracker_client::TrackerAddress;
use serde_json::json;

use crate::args::{Tracker, TrackerAction};
use crate::commands::control::{self, Controlled};
use crate::commands::daemon::{local_address, public_address};
use crate::commands::keys;
use crate::commands::service::{start_node, start_tracker};
use crate::output::{Output, Status, Told};
use crate::settings::Settings;
use crate::stop::Stop;

pub(crate) async fn run(args: Tracker, settings: &Settings, output: Output, stop: Stop) -> anyhow::Result<Status> {
    let state = StateFolder::open(&settings.state()?)?;
    if let Some(TrackerAction::Key(action)) = args.action {
        if args.publish.is_some() || args.join.is_some() {
            return Err(Told::failed("--publish and --join are for a tracker that runs, not for its keys").into());
        }
        return keys::run(action, &state, output).await;
    }
    let _lock = state.lock()?;
    // The node passes on, over HTTP, what its tracker's peers hold.
    let node = start_node(settings).await?;
    let files = Arc::new(NodeFiles::new(node.clone(), state.cache()));
    let server = start_tracker(settings, &state, args.publish, args.join.as_deref(), files.clone()).await?;
    files.fetch_through(local_address(&server)?);
    // Before it is told that it is here: others may ask it for something at once.
    let control = control::serve(&state, Controlled { share: None, operator: Some(server.operator()) }, &stop);
    listening(&public_address(&server, settings)?, &state, node.port(), output)?;
    stop.requested().await;
    node.shutdown().await;
    server.shutdown().await;
    control.map_or(Ok(()), |control| control.end(&state))?;
    Ok(Status::Done)
}

fn listening(tracker: &TrackerAddress, state: &StateFolder, peer_port: u16, output: Output) -> anyhow::Result<()> {
    let key = state.publish_key();
    if output.is_json() {
        return output.value(&json!({
            "event": "listening", "tracker_host": tracker.host(), "tracker_port": tracker.port(),
            "peer_port": peer_port, "key_file": key, "page": format!("http://{tracker}/"),
        }));
    }
    output.talk(format_args!(
        "tracker at {tracker}: announces over HTTP and UDP, catalogue and page at http://{tracker}/"
    ));
    output.talk(format_args!("publish to it:  obt share PATH --tracker {tracker} --key-file {}", key.display()));
    output.talk(format_args!("see what it has: obt find {} {}", tracker.host(), tracker.port()));
    Ok(())
}
