//! `obt tracker key`: which keys may publish to this machine's tracker.

use std::ffi::OsStr;
use std::path::Path;

use obt_node::control::{ControlReply, ControlRequest};
use obt_node::keyring::{self, KeyRecord, KeyringError, Standing};
use obt_node::signing::PublicKey;
use obt_node::state::{StateError, StateFolder};
use serde_json::json;

use crate::args::KeyAction;
use crate::commands::control::ask;
use crate::output::{Output, Status, Told, plain};

pub(crate) async fn run(action: KeyAction, state: &StateFolder, output: Output) -> anyhow::Result<Status> {
    match action {
        KeyAction::Add { key, label } => add(&key, &label, state, output).await?,
        KeyAction::Revoke { key } => {
            let key = revoke(state, key).await?;
            tell(output, &key, "may publish no longer; its names stay its own")?;
        }
        KeyAction::List => list(&keyring::list(state)?, output)?,
    }
    Ok(Status::Done)
}

/// Admits a public key as its publisher was shown it, or the key in a file, made if need be.
async fn add(key: &OsStr, label: &str, state: &StateFolder, output: Output) -> anyhow::Result<()> {
    if let Some(public) = key.to_str().and_then(|text| text.parse::<PublicKey>().ok()) {
        admit(state, public, label).await?;
        return tell(output, &public.to_string(), "may publish now");
    }
    let file = Path::new(key);
    let public = keyring::read_or_make_key(file)?.public();
    admit(state, public, label).await?;
    tell(output, &public.to_string(), "may publish now")?;
    output.talk(format_args!("give {} to whoever publishes; they use it with --key-file", file.display()));
    Ok(())
}

async fn admit(state: &StateFolder, key: PublicKey, label: &str) -> anyhow::Result<()> {
    match keyring::add(state, key, label) {
        Err(KeyringError::State(in_use @ StateError::InUse { .. })) => {
            let request = ControlRequest::AddKey { key: key.to_string(), label: label.to_owned() };
            ask_running(state, &request, in_use).await.map(|_| ())
        }
        done => Ok(done?),
    }
}

async fn revoke(state: &StateFolder, prefix: String) -> anyhow::Result<String> {
    match keyring::revoke(state, &prefix) {
        Err(KeyringError::State(in_use @ StateError::InUse { .. })) => {
            match ask_running(state, &ControlRequest::RevokeKey { prefix }, in_use).await? {
                ControlReply::Key { key } => Ok(key),
                _ => Err(Told::failed("the obt that runs with this state answered something else").into()),
            }
        }
        done => Ok(done?.to_string()),
    }
}

/// The tracker that runs makes the change: one behind its back would stop it.
async fn ask_running(
    state: &StateFolder,
    request: &ControlRequest,
    in_use: StateError,
) -> anyhow::Result<ControlReply> {
    let reply = ask(&state.control_socket(), request).await;
    match reply.map_err(|error| Told::failed(format!("{in_use}, and {error}")))? {
        ControlReply::Refused { message, hint } => Err(Told::failed(message).hint_if(hint).into()),
        reply => Ok(reply),
    }
}

fn tell(output: Output, key: &str, what: &str) -> anyhow::Result<()> {
    if output.is_json() {
        return output.value(&json!({"key": key}));
    }
    output.talk(what);
    output.line(key)
}

fn list(records: &[KeyRecord], output: Output) -> anyhow::Result<()> {
    let standing = |record: &KeyRecord| match record.standing {
        Standing::Listed => "listed",
        Standing::Unlisted => "unlisted",
        Standing::Revoked => "revoked",
    };
    if output.is_json() {
        let records = records.iter().map(|record| {
            json!({
                "key": record.key.to_string(), "standing": standing(record), "label": record.label,
                "names": record.names, "names_quota": record.names_quota,
            })
        });
        return output.value(&records.collect::<Vec<_>>());
    }
    for record in records {
        let (names, label) = (record.names, plain(&record.label));
        output.line(format_args!("{}  {:8}  {names} names  {label}", record.key, standing(record)))?;
    }
    Ok(())
}
