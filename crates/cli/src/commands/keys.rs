//! `obt tracker key`: which keys may publish to this machine's tracker.

use std::ffi::OsStr;
use std::path::Path;

use obt_node::keyring::{self, KeyRecord, Standing};
use obt_node::signing::PublicKey;
use obt_node::state::StateFolder;
use serde_json::json;

use crate::args::KeyAction;
use crate::output::{Output, Status, plain};

pub(crate) async fn run(action: KeyAction, state: &StateFolder, output: Output) -> anyhow::Result<Status> {
    match action {
        KeyAction::Add { key, label } => add(&key, &label, state, output)?,
        KeyAction::Revoke { key } => {
            let key = keyring::revoke(state, &key)?;
            tell(output, &key.to_string(), "may publish no longer; its names stay its own")?;
        }
        KeyAction::List => list(&keyring::list(state)?, output)?,
    }
    Ok(Status::Done)
}

/// Admits a public key as its publisher was shown it, or the key in a file, made if need be.
fn add(key: &OsStr, label: &str, state: &StateFolder, output: Output) -> anyhow::Result<()> {
    if let Some(public) = key.to_str().and_then(|text| text.parse::<PublicKey>().ok()) {
        keyring::add(state, public, label)?;
        return tell(output, &public.to_string(), "may publish now");
    }
    let file = Path::new(key);
    let public = keyring::read_or_make_key(file)?.public();
    keyring::add(state, public, label)?;
    tell(output, &public.to_string(), "may publish now")?;
    output.talk(format_args!("give {} to whoever publishes; they use it with --key-file", file.display()));
    Ok(())
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
