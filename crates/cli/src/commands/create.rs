//! `obt create`: a .torrent of a file or folder.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use obt_node::hash::{MakeOptions, make};
use obt_wire::magnet::Magnet;
use obt_wire::metainfo::{Metainfo, Version};
use obt_wire::urls;
use serde_json::json;

use crate::args::{Create, Protocol};
use crate::commands::hashing::watched_blocking;
use crate::commands::inspect::protocol;
use crate::output::{Output, Status, Told, plain};
use crate::quantity::show_bytes;
use crate::stop::Stop;

pub(crate) async fn run(args: Create, output: Output, stop: Stop) -> anyhow::Result<Status> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => own_name(&args.path)?,
    };
    if let Some(url) = args.announce.iter().find(|url| urls::tracker(url).is_none()) {
        return Err(Told::failed(format!("\"{}\" is no announce URL", plain(url)))
            .hint("for example http://tracker.lab:6969/announce or udp://tracker.lab:6969/announce")
            .into());
    }
    let target = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.torrent")));
    if !args.force && target.symlink_metadata().is_ok() {
        return Err(taken(&target));
    }
    let options = MakeOptions { version: version(args.protocol), piece_length: args.piece_length };
    let (path, torrent_name) = (args.path.clone(), name.clone());
    let made = watched_blocking(&name, output, &stop, move |watch| make(&path, &torrent_name, options, watch)).await?;
    let Some(made) = made else {
        output.talk("stopped; nothing was written");
        return Ok(Status::Incomplete);
    };
    for path in &made.skipped {
        output.talk(format_args!("left out, neither file nor folder: {}", plain(&path.to_string_lossy())));
    }
    let mut metainfo = made.metainfo;
    metainfo.trackers = args.announce.iter().map(|url| vec![url.clone()]).collect();
    write(&target, &metainfo.to_bytes(), args.force)?;
    report(&metainfo, &target, output)?;
    Ok(Status::Done)
}

/// The last component of a path, which becomes a name.
pub(crate) fn own_name(path: &Path) -> anyhow::Result<String> {
    let full = std::fs::canonicalize(path)
        .map_err(|error| Told::failed(format!("cannot read {}: {error}", path.display())))?;
    // A link is shared under its own name, what `.` or `a/..` mean under theirs.
    let name = path.file_name().or_else(|| full.file_name());
    let name = name.ok_or_else(|| {
        Told::failed(format!("{} has no name of its own", path.display())).hint("give it one with --as")
    })?;
    let name = name.to_str().ok_or_else(|| {
        Told::failed(format!("the name of {} is not UTF-8", path.display())).hint("give it one with --as")
    })?;
    Ok(name.to_owned())
}

/// What is made for these protocols.
pub(crate) fn version(protocol: Protocol) -> Version {
    match protocol {
        Protocol::V1 => Version::V1,
        Protocol::V2 => Version::V2,
        Protocol::Hybrid => Version::Hybrid,
    }
}

fn taken(path: &Path) -> anyhow::Error {
    Told::failed(format!("{} is already there", path.display())).hint("--force overwrites it").into()
}

fn write(path: &Path, bytes: &[u8], force: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let written = options.open(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => taken(path),
        _ => Told::failed(format!("cannot write {}: {error}", path.display())).into(),
    })
}

fn report(metainfo: &Metainfo, target: &Path, output: Output) -> anyhow::Result<()> {
    let info = &metainfo.info;
    let mut magnet = Magnet::new(info.hashes);
    magnet.name = Some(info.name.clone());
    magnet.trackers = metainfo.trackers.concat();
    if output.is_json() {
        return output.value(&json!({
            "torrent": target, "name": info.name, "protocol": protocol(info.version), "size": info.size(),
            "piece_length": info.geometry.piece_length(), "pieces": info.geometry.pieces(),
            "info_hash_v1": info.hashes.v1.map(|hash| hash.to_string()),
            "info_hash_v2": info.hashes.v2.map(|hash| hash.to_string()), "magnet": magnet.to_string(),
        }));
    }
    let pieces = info.geometry.pieces();
    let length = show_bytes(info.geometry.piece_length().into());
    output.talk(format_args!(
        "{}: {} in {pieces} piece{} of {length}",
        plain(&info.name),
        show_bytes(info.size()),
        if pieces == 1 { "" } else { "s" }
    ));
    output.line(target.display())?;
    output.line(magnet)
}
