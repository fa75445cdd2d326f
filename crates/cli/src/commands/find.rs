//! `obt find`: what a tracker's catalogue has.

use obt_node::api_types::{Item, ItemFile};
use obt_node::names::Name;

use crate::args::Find;
use crate::commands::service::{asked, tell_tracker, tracker_client};
use crate::output::{Output, Status, plain};
use crate::quantity::show_bytes;
use crate::settings::Settings;

pub(crate) async fn run(args: Find, settings: &Settings, output: Output) -> anyhow::Result<Status> {
    let client = tracker_client(&args.tracker, settings)?;
    let text = args.text.join(" ");
    let mut items = asked(&client, client.find(&text, args.limit as usize)).await.map_err(tell_tracker)?;
    if args.files {
        for item in &mut items {
            item.files = client.files(&Name::parse(&item.name)?, item.version).await.map_err(tell_tracker)?;
        }
    }
    let status = if items.is_empty() { Status::Incomplete } else { Status::Done };
    if output.is_json() {
        output.value(&items)?;
        return Ok(status);
    }
    if items.is_empty() {
        output.talk(nothing(&text, &client.address().to_string()));
        return Ok(status);
    }
    let width = items.iter().map(|item| plain(&item.name).chars().count()).max().unwrap_or(0).min(60);
    for item in &items {
        output.line(row(item, width))?;
        for ItemFile { path, size } in &item.files {
            output.line(format_args!("  {:>10}  {}", show_bytes(*size), plain(path)))?;
        }
        if let Some(warning) = lookalikes(&item.name, &item.similar) {
            output.talk(warning);
        }
    }
    Ok(status)
}

fn nothing(text: &str, tracker: &str) -> String {
    if text.is_empty() {
        return format!("the catalogue of {tracker} is empty");
    }
    format!("no name in the catalogue of {tracker} matches \"{}\"", plain(text))
}

/// That other names could be taken for this one.
pub(crate) fn lookalikes(name: &str, similar: &[String]) -> Option<String> {
    let others: Vec<String> = similar.iter().map(|other| format!("{:?}", plain(other))).collect();
    let (name, others) = (plain(name), others.join(", "));
    (!similar.is_empty())
        .then(|| format!("warning: {name:?} looks like {others}: make sure that it is the one you mean"))
}

fn row(item: &Item, width: usize) -> String {
    let name = plain(&item.name);
    let size = show_bytes(item.size);
    let files = if item.file_count == 1 { String::new() } else { format!("  {} files", item.file_count) };
    let held = match (item.holders, item.downloaders) {
        (0, 0) => "nobody has it".to_owned(),
        (holders, 0) => format!("{holders} holder{}", if holders == 1 { "" } else { "s" }),
        (holders, fetching) => format!("{holders} holder{}, {fetching} fetching", if holders == 1 { "" } else { "s" }),
    };
    format!("{name:width$}  {size:>10}  version {}  {held}{files}", item.version)
}
