//! `obt verify`: data on disk against a .torrent.

use std::path::PathBuf;

use obt_node::hash::{Checked, check};
use serde_json::json;

use crate::args::Verify;
use crate::commands::hashing::watched_blocking;
use crate::commands::inspect::read_torrent;
use crate::output::{Output, Status, Told, plain};
use crate::quantity::show_bytes;
use crate::stop::Stop;

pub(crate) async fn run(args: Verify, output: Output, stop: Stop) -> anyhow::Result<Status> {
    let (metainfo, _) = read_torrent(&args.torrent)?;
    let path = args.path.unwrap_or_else(|| PathBuf::from(&metainfo.info.name));
    if let Err(error) = std::fs::metadata(&path) {
        return Err(Told::failed(format!("cannot read {}: {error}", path.display()))
            .hint("name the file or folder itself after the .torrent")
            .into());
    }
    let name = metainfo.info.name.clone();
    let Some(checked) = watched_blocking(&name, output, &stop, move |watch| check(&path, &metainfo, watch)).await?
    else {
        output.talk("stopped");
        return Ok(Status::Incomplete);
    };
    report(&name, &checked, output)?;
    Ok(if checked.is_complete() { Status::Done } else { Status::Incomplete })
}

fn report(name: &str, checked: &Checked, output: Output) -> anyhow::Result<()> {
    let (good, pieces) = (checked.have.count(), checked.have.len());
    if output.is_json() {
        let files = checked.files.iter().map(|file| json!({"path": file.path, "size": file.size, "good": file.good}));
        return output.value(&json!({
            "name": name, "complete": checked.is_complete(), "pieces_good": good, "pieces": pieces,
            "files": files.collect::<Vec<_>>(),
        }));
    }
    for file in checked.files.iter().filter(|file| !file.good) {
        let found = match file.stamp {
            None => "missing".to_owned(),
            Some(stamp) if stamp.size != file.size => {
                format!("{} where {} should be", show_bytes(stamp.size), show_bytes(file.size))
            }
            Some(_) => "damaged".to_owned(),
        };
        output.line(format_args!("{}: {found}", plain(&file.path)))?;
    }
    let verdict = if checked.is_complete() { "all good" } else { "not complete" };
    output.talk(format_args!("{}: {verdict}, {good} of {pieces} pieces are good", plain(name)));
    Ok(())
}
