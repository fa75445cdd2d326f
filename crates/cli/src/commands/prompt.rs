//! `obt` alone, on a terminal: `hostname port filename:`, again and again; each line a download in the background, and
//! what has come is served while the program runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use obt_node::disk::OnExisting;
use obt_node::names::NameArgument;
use obt_node::node::Node;
use obt_node::requester::{NOBODY, Patience, Prospect, fetch_torrent, find, is_held, nobody_has};
use obt_node::torrent::{Afterwards, TorrentHandle};
use obt_node::tracker_client::TrackerAddress;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::commands::get::{download, tell_finished};
use crate::commands::service::{start_node, tell_resolve};
use crate::commands::transfer::tell_torrent;
use crate::output::{Output, Status, plain, sentence};
use crate::progress::plural;
use crate::quantity::show_bytes;
use crate::settings::Settings;
use crate::stop::Stop;

/// What the program asks.
const PROMPT: &str = "hostname port filename: ";
/// Longest line that is read, bytes: a name of 1,024 bytes, a host, a port.
const LINE: usize = 4_096;
/// How often a download says how far it is.
const TELL: Duration = Duration::from_secs(3);
/// Downloads at once: each has connections and buffers.
const AT_ONCE: usize = 32;

pub(crate) async fn run(settings: &Settings, output: Output, stop: Stop) -> anyhow::Result<Status> {
    let node = start_node(settings).await?;
    output.talk("Type the tracker's host, its port and a name, for example: tracker.lab 6969 movie.mkv");
    output.talk("What has come is served to others while this runs. Ctrl-D or Ctrl-C ends it.");
    ask(&node, Path::new("."), output, &stop).await;
    node.shutdown().await;
    Ok(Status::Done)
}

/// Asks for lines until the input ends or the user stops, and fetches what they name into `folder`.
pub(crate) async fn ask(node: &Node, folder: &Path, output: Output, stop: &Stop) {
    let mut lines = lines();
    let mut downloads = JoinSet::new();
    prompt();
    loop {
        tokio::select! {
            () = stop.requested() => return,
            Some(_) = downloads.join_next(), if !downloads.is_empty() => {}
            line = lines.recv() => match line {
                None => break,
                Some(line) => {
                    if downloads.len() >= AT_ONCE {
                        say(output, "that many at once are enough; wait for one to end");
                    } else {
                        begin(&line, node, folder, output, &mut downloads);
                    }
                }
            }
        }
    }
    // The input ended: what was asked for still comes.
    while !downloads.is_empty() {
        tokio::select! {
            () = stop.requested() => return,
            _ = downloads.join_next() => {}
        }
    }
}

fn begin(line: &str, node: &Node, folder: &Path, output: Output, downloads: &mut JoinSet<()>) {
    match parse(line) {
        Ok(None) => prompt(),
        Ok(Some((tracker, name))) => {
            let (node, folder) = (node.clone(), folder.to_owned());
            downloads.spawn(async move {
                let shown = plain(name.text());
                match fetch(&node, tracker, &name, folder, output).await {
                    Ok(()) => prompt(),
                    Err(error) => say(output, &format!("{shown}: {}", plain(&sentence(&error)))),
                }
            });
            prompt();
        }
        Err(problem) => say(output, &problem),
    }
}

/// What a line asks for: a host, a port, and the rest is a name, which may hold spaces. None of an empty line.
fn parse(line: &str) -> Result<Option<(TrackerAddress, NameArgument)>, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    let usage = || "three things, please: the tracker's host, its port, and a name".to_owned();
    let (host, rest) = line.split_once(char::is_whitespace).ok_or_else(usage)?;
    let (port, name) = rest.trim_start().split_once(char::is_whitespace).ok_or_else(usage)?;
    let wrong_port = || format!("\"{}\" is not a port: a number from 1 to 65535", plain(port));
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong_port());
    }
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong_port)?;
    let tracker =
        TrackerAddress::new(host, port).map_err(|_| format!("\"{}\" is not a host name or address", plain(host)))?;
    let name = NameArgument::parse(name.trim()).map_err(|error| format!("\"{}\" is no name: {error}", plain(name)))?;
    Ok(Some((tracker, name)))
}

async fn fetch(
    node: &Node,
    tracker: TrackerAddress,
    name: &NameArgument,
    folder: PathBuf,
    output: Output,
) -> anyhow::Result<()> {
    let client = node.tracker_client(&tracker);
    let found = find(&client, name).await.map_err(tell_resolve)?;
    if !is_held(&found.item) {
        anyhow::bail!("{}", nobody_has(&found.item));
    }
    let torrent = fetch_torrent(&client, &found).await.map_err(tell_resolve)?;
    let size = torrent.metainfo.info.size();
    let handle =
        node.add(download(client.address(), &found, torrent, &folder, OnExisting::Refuse, Afterwards::Seed))?;
    let shown = plain(name.text());
    say(output, &format!("{shown}: fetching {}", show_bytes(size)));
    tokio::select! {
        finished = handle.finished() => {
            let finished = finished.map_err(tell_torrent)?;
            clear();
            tell_finished(&shown, size, &finished, output);
            Ok(())
        }
        () = tell_progress(&handle, &shown, output) => {
            handle.stop().await;
            anyhow::bail!("nobody has anything of it any more; what came is kept, ask again later")
        }
    }
}

/// Says how far it is, now and then; returns when nothing will come of it.
async fn tell_progress(handle: &TorrentHandle, name: &str, output: Output) {
    let stats = handle.stats();
    let mut patience = Patience::new(NOBODY, Instant::now());
    let mut tell = tokio::time::interval_at(tokio::time::Instant::now() + TELL, TELL);
    loop {
        tell.tick().await;
        let now = stats.borrow().clone();
        if patience.look(&now, Instant::now()) == Prospect::None {
            return;
        }
        if let Some(swarm) = &now.swarm {
            let have = show_bytes(swarm.wanted_bytes.saturating_sub(swarm.left_bytes));
            let (total, rate) = (show_bytes(swarm.wanted_bytes), show_bytes(swarm.download_rate));
            let (peers, s) = (swarm.peers.len(), plural(swarm.peers.len()));
            say(output, &format!("{name}: {have} of {total}, {rate}/s from {peers} peer{s}"));
        }
    }
}

/// Says a sentence above the prompt.
fn say(output: Output, text: &str) {
    clear();
    output.talk(text);
    prompt();
}

fn clear() {
    let _ = write!(std::io::stderr(), "\r\x1b[K");
}

fn prompt() {
    let mut err = std::io::stderr();
    let _ = write!(err, "\r\x1b[K{PROMPT}");
    let _ = err.flush();
}

/// Lines of standard input, read on a thread of their own: a read of a terminal cannot be cancelled.
fn lines() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        let stdin = std::io::stdin();
        let mut line = Vec::new();
        while let Ok(true) = read_line(&mut stdin.lock(), &mut line) {
            let text = String::from_utf8_lossy(&line).into_owned();
            if send.blocking_send(text).is_err() {
                return;
            }
        }
    });
    receive
}

/// Reads one line, of which [`LINE`] bytes are kept. False at the end of the input.
fn read_line(input: &mut impl std::io::BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        line.extend(part.iter().take(LINE.saturating_sub(line.len())));
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_host_a_port_and_a_name_with_spaces() {
        let (tracker, name) = parse("  tracker.lab  6969   a film: part 1.mkv ").unwrap().unwrap();
        assert_eq!((tracker.to_string().as_str(), name.text()), ("tracker.lab:6969", "a film: part 1.mkv"));
        assert!(parse("   ").unwrap().is_none());
    }

    #[test]
    fn bad_lines_get_a_sentence() {
        for line in
            ["host", "host 6969", "host port name", "host 0 name", "host 65536 name", "ho/st 1 name", "h 1 ../x"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn endless_lines_are_cut_and_the_next_one_is_read() {
        let mut input = std::io::Cursor::new([vec![b'x'; 100_000], b"\nnext\n".to_vec()].concat());
        let mut line = Vec::new();
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line.len(), LINE);
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line, b"next");
        assert!(!read_line(&mut input, &mut line).unwrap());
    }
}
