//! `obt inspect`: what a .torrent or a magnet link says.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use obt_wire::limits::METAINFO_BYTES;
use obt_wire::magnet::Magnet;
use obt_wire::metainfo::{FileKind, Metainfo, Version};
use serde_json::{Value, json};

use crate::args::Inspect;
use crate::output::{Output, Status, Told, plain};
use crate::quantity::show_bytes;

/// Longest comment that is shown, characters.
const COMMENT: usize = 1_024;

pub(crate) fn run(args: Inspect, output: Output) -> anyhow::Result<Status> {
    match as_magnet(&args.source) {
        Some(link) => magnet(link, output),
        None => torrent(Path::new(&args.source), output),
    }?;
    Ok(Status::Done)
}

/// The text, if it is meant as a magnet link.
pub(crate) fn as_magnet(source: &OsString) -> Option<&str> {
    source.to_str().filter(|text| text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("magnet:")))
}

/// Reads and checks a .torrent, whatever its name is.
pub(crate) fn read_torrent(path: &Path) -> anyhow::Result<(Metainfo, Bytes)> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    if !file.metadata().with_context(cannot)?.is_file() {
        return Err(Told::failed(format!("{} is not a .torrent file", path.display())).into());
    }
    let mut bytes = Vec::new();
    file.take(METAINFO_BYTES as u64 + 1).read_to_end(&mut bytes).with_context(cannot)?;
    let bytes = Bytes::from(bytes);
    let metainfo =
        Metainfo::parse_shared(&bytes).with_context(|| format!("{} is not a usable .torrent", path.display()))?;
    Ok((metainfo, bytes))
}

/// The protocols' name, as `--protocol` takes it.
pub(crate) fn protocol(version: Version) -> &'static str {
    match version {
        Version::V1 => "v1",
        Version::V2 => "v2",
        Version::Hybrid => "hybrid",
    }
}

fn magnet(link: &str, output: Output) -> anyhow::Result<()> {
    let magnet = Magnet::parse(link).context("this is not a usable magnet link")?;
    let (v1, v2) = (magnet.hashes.v1.map(|hash| hash.to_string()), magnet.hashes.v2.map(|hash| hash.to_string()));
    if output.is_json() {
        return output.value(&json!({
            "name": magnet.name, "info_hash_v1": v1, "info_hash_v2": v2, "trackers": magnet.trackers,
            "web_seeds": magnet.web_seeds,
            "peers": magnet.peers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    let rows = [
        ("name", magnet.name.as_deref().map(plain)),
        ("info-hash v1", v1),
        ("info-hash v2", v2),
        ("trackers", joined(&magnet.trackers)),
        ("web seeds", joined(&magnet.web_seeds)),
        ("peers", joined(&magnet.peers.iter().map(ToString::to_string).collect::<Vec<_>>())),
    ];
    table(output, &rows)
}

fn torrent(path: &Path, output: Output) -> anyhow::Result<()> {
    let (metainfo, _) = read_torrent(path)?;
    if output.is_json() {
        return output.value(&as_json(&metainfo));
    }
    let info = &metainfo.info;
    let rows = [
        ("name", Some(plain(&info.name))),
        ("protocol", Some(protocol(info.version).to_owned())),
        ("size", Some(show_bytes(data_size(&metainfo)))),
        ("pieces", Some(format!("{} of {}", info.geometry.pieces(), show_bytes(info.geometry.piece_length().into())))),
        ("info-hash v1", info.hashes.v1.map(|hash| hash.to_string())),
        ("info-hash v2", info.hashes.v2.map(|hash| hash.to_string())),
        ("private", info.private.then(|| "yes".to_owned())),
        ("trackers", joined(&metainfo.trackers.concat())),
        ("web seeds", joined(&metainfo.web_seeds)),
        ("comment", metainfo.comment.as_deref().map(|text| plain(&text.chars().take(COMMENT).collect::<String>()))),
        ("made by", metainfo.created_by.as_deref().map(plain)),
    ];
    table(output, &rows)?;
    for file in info.files.iter().filter(|file| file.kind == FileKind::Data) {
        output.line(format_args!("{:>12}  {}", show_bytes(file.size), plain(file.path.as_str())))?;
    }
    Ok(())
}

fn as_json(metainfo: &Metainfo) -> Value {
    let info = &metainfo.info;
    let files = info.files.iter().filter(|file| file.kind == FileKind::Data).map(|file| {
        let root = info.root(file).map(|root| root.to_string());
        json!({"path": file.path.as_str(), "size": file.size, "pieces_root": root})
    });
    json!({
        "name": info.name, "protocol": protocol(info.version), "size": data_size(metainfo),
        "piece_length": info.geometry.piece_length(), "pieces": info.geometry.pieces(),
        "info_hash_v1": info.hashes.v1.map(|hash| hash.to_string()),
        "info_hash_v2": info.hashes.v2.map(|hash| hash.to_string()),
        "private": info.private, "single_file": info.single_file, "trackers": metainfo.trackers,
        "web_seeds": metainfo.web_seeds, "comment": metainfo.comment, "created_by": metainfo.created_by,
        "created_at": metainfo.created_at, "files": files.collect::<Vec<_>>(),
    })
}

/// Bytes of all files, padding aside.
pub(crate) fn data_size(metainfo: &Metainfo) -> u64 {
    let data = metainfo.info.files.iter().filter(|file| file.kind == FileKind::Data);
    data.fold(0, |total, file| total.saturating_add(file.size))
}

fn joined(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| texts.iter().map(|text| plain(text)).collect::<Vec<_>>().join(", "))
}

fn table(output: Output, rows: &[(&str, Option<String>)]) -> anyhow::Result<()> {
    for (label, value) in rows.iter().filter_map(|(label, value)| Some((label, value.as_ref()?))) {
        output.line(format_args!("{label:>12}  {value}"))?;
    }
    Ok(())
}
