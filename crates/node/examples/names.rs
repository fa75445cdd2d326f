//! Many names for a tracker: a catalogue that is written at once, and publishers over HTTP (`bench/cluster`).
//!
//!     cargo run --release -p obt-node --example names -- fill STATE 1000000
//!     cargo run --release -p obt-node --example names -- publish 64 90 FROM ADDR:PORT...
//!
//! `fill` goes on where the catalogue of a stopped tracker ends, with the commands that publishing would have put there.
//! `publish` has so many publishers, each with a key and an address (127.9.0.0/16) of its own, publish so many names each
//! at the members in turn; names are counted from FROM. It prints one JSON object.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use obt_catalogue::signing::{Call, Keypair, body_digest};
use obt_catalogue::{
    BlobHash, Catalogue, Command, CommandId, Content, Envelope, Layout, Name, Outcome, Publish, PublishPolicy, Replace,
};
use obt_wire::metainfo::{Draft, Metainfo, Version};
use obt_wire::{Sha1Hash, Sha256Hash};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

type Failure = Box<dyn Error + Send + Sync>;

/// Names in one transaction of `fill`.
const BATCH: u64 = 20_000;
/// Names of one key in `fill`: what a key may own.
const NAMES_PER_KEY: u64 = 10_000;
/// Pieces of an item: as many small ones as large ones, on a logarithmic scale.
const PIECES: f64 = 64.0;
/// Bytes of a piece.
const PIECE: u32 = 256 << 10;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["fill", state, count] => fill(Path::new(state), count.parse()?, PIECES),
        ["fill", state, count, pieces] => fill(Path::new(state), count.parse()?, pieces.parse()?),
        ["publish", publishers, each, from, ref members @ ..] if !members.is_empty() => {
            let members = members.iter().map(|member| member.parse()).collect::<Result<Vec<_>, _>>()?;
            publish(publishers.parse()?, each.parse()?, from.parse()?, &members)
        }
        _ => Err("usage: names fill STATE COUNT [PIECES] | names publish PUBLISHERS EACH FROM ADDR:PORT...".into()),
    }
}

/// An item that exists in no other place than its torrent.
struct Item {
    name: String,
    torrent: Metainfo,
}

impl Item {
    fn new(number: u64, most_pieces: f64) -> Result<Self, Failure> {
        let mut random = fastrand::Rng::with_seed(number);
        let name = name(number, &mut random);
        let pieces = most_pieces.powf(random.f64()).round().max(1.0) as u64;
        let size = (pieces - 1) * u64::from(PIECE) + random.u64(1..=u64::from(PIECE));
        let draft = Draft::file(&name.replace('/', " "), size, PIECE, Version::Hybrid)?;
        let v1: Vec<Sha1Hash> = (0..pieces).map(|_| Sha1Hash(std::array::from_fn(|_| random.u8(..)))).collect();
        let v2 = (0..pieces).map(|_| Sha256Hash(std::array::from_fn(|_| random.u8(..)))).collect();
        Ok(Self { name, torrent: draft.finish(&v1, vec![v2])? })
    }

    fn content(&self, blob: &[u8]) -> Content {
        let info = &self.torrent.info;
        Content {
            hashes: info.hashes,
            size: info.size(),
            files: 1,
            layout: Layout::File,
            piece_length: PIECE,
            blob: BlobHash::of(blob),
        }
    }
}

/// As people name things: a few words of which some are much more common than others, and what tells one from the next.
fn name(number: u64, random: &mut fastrand::Rng) -> String {
    let mut word = || word((random.f64().powi(4) * 5_000.0) as u64);
    let (one, two, three) = (word(), word(), word());
    match number % 4 {
        0 => format!("{one}-{two}-{number:07}.tar.gz"),
        1 => format!("{one} {two} {three} ({}) {number:x}.mkv", 1950 + number % 75),
        2 => format!("{one}/{two}/s{:02}e{:02} {three} {number}.mp4", number % 12, number % 24),
        _ => format!("{one}_{two}_v{}.{}.{number}.safetensors", number % 7, number % 10),
    }
}

fn word(number: u64) -> String {
    let mut random = fastrand::Rng::with_seed(!number);
    let syllables = 2 + number % 3;
    (0..syllables)
        .flat_map(|_| [random.choice(b"bdfgklmnprstvz"), random.choice(b"aeiou")])
        .flatten()
        .map(|letter| char::from(*letter))
        .collect()
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

fn key(number: u64) -> Keypair {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    Keypair::from_seed(&seed)
}

fn fill(state: &Path, count: u64, most_pieces: f64) -> Result<(), Failure> {
    std::fs::create_dir_all(state)?;
    let mut catalogue = Catalogue::open(&state.join("catalogue.sqlite"))?;
    if catalogue.publish_policy()? != PublishPolicy::Open {
        let open = Command::SetPublishPolicy { policy: PublishPolicy::Open };
        catalogue.apply(&[Envelope::new(CommandId(fastrand::u128(..).to_be_bytes()), now_ms(), open)])?;
    }
    let began = Instant::now();
    let mut next = catalogue.count()?;
    while next < count {
        let batch = next..count.min(next + BATCH);
        let (mut blobs, mut commands) = (Vec::new(), Vec::new());
        for number in batch.clone() {
            let item = Item::new(number, most_pieces)?;
            let blob = item.torrent.to_bytes();
            let command = Command::Publish(Publish {
                name: Name::parse(&item.name)?,
                content: item.content(&blob),
                key: key(number / NAMES_PER_KEY).public(),
                replace: Replace::No,
            });
            commands.push(Envelope::new(CommandId(fastrand::u128(..).to_be_bytes()), now_ms(), command));
            blobs.push(blob);
        }
        catalogue.put_blobs(blobs.iter().map(Vec::as_slice), now_ms())?;
        let outcomes = catalogue.apply(&commands)?;
        if let Some(refused) = outcomes.iter().find(|outcome| !matches!(outcome, Outcome::Published { .. })) {
            return Err(format!("refused: {refused:?}").into());
        }
        next = batch.end;
    }
    println!("{next} names after {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn publish(publishers: u64, each: u64, from: u64, members: &[SocketAddr]) -> Result<(), Failure> {
    let start = Arc::new(Barrier::new(usize::try_from(publishers)? + 1));
    let threads: Vec<_> = (0..publishers)
        .map(|number| {
            let member = members[usize::try_from(number).unwrap_or_default() % members.len()];
            let start = Arc::clone(&start);
            thread::spawn(move || {
                let publisher = Publisher::new(from + number * each, each, member);
                start.wait();
                publisher?.run()
            })
        })
        .collect();
    start.wait();
    let began = Instant::now();
    let mut waits = Vec::new();
    for thread in threads {
        waits.extend(thread.join().map_err(|_| "a publisher panicked")??);
    }
    let seconds = began.elapsed().as_secs_f64();
    waits.sort_unstable();
    let ms = |share: f64| {
        let at = ((waits.len() as f64 * share) as usize).min(waits.len().saturating_sub(1));
        waits.get(at).map_or(0.0, |wait: &Duration| wait.as_secs_f64() * 1e3)
    };
    println!(
        "{{\"published\": {}, \"seconds\": {seconds:.3}, \"per_second\": {:.1}, \"p50_ms\": {:.3}, \"p99_ms\": {:.3}, \"max_ms\": {:.3}}}",
        waits.len(),
        waits.len() as f64 / seconds,
        ms(0.5),
        ms(0.99),
        ms(1.0)
    );
    Ok(())
}

/// One connection, from an address of its own, with all requests ready to be sent.
struct Publisher {
    stream: BufReader<TcpStream>,
    member: SocketAddr,
    key: Keypair,
    items: Vec<(String, Bytes)>,
}

impl Publisher {
    fn new(from: u64, each: u64, member: SocketAddr) -> Result<Self, Failure> {
        let items = (from..from + each).map(|number| {
            let item = Item::new(number, PIECES)?;
            Ok((item.name, Bytes::from(item.torrent.to_bytes())))
        });
        // A key and an address that nothing was published from lately: both are held to ten changes a second.
        let [.., high, low] = (from / each).to_be_bytes();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 9, high, low), 0)).into())?;
        socket.connect(&member.into())?;
        socket.set_tcp_nodelay(true)?;
        let items = items.collect::<Result<_, Failure>>()?;
        Ok(Self { stream: BufReader::new(socket.into()), member, key: key(from + (1 << 40)), items })
    }

    /// How long each answer took.
    fn run(mut self) -> Result<Vec<Duration>, Failure> {
        let items = std::mem::take(&mut self.items);
        items.iter().map(|(name, torrent)| self.put(name, torrent)).collect()
    }

    fn put(&mut self, name: &str, torrent: &[u8]) -> Result<Duration, Failure> {
        let path = format!("/api/v1/items/{}", utf8_percent_encode(name, NON_ALPHANUMERIC));
        let call = Call { method: "PUT", path_and_query: &path, body_sha256: body_digest(torrent) };
        let authorization = self.key.authorize(&call, fastrand::u128(..).to_be_bytes(), now_ms());
        let mut request = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {authorization}\r\nContent-Length: {}\r\n\r\n",
            self.member,
            torrent.len()
        )
        .into_bytes();
        request.extend_from_slice(torrent);
        let began = Instant::now();
        self.stream.get_mut().write_all(&request)?;
        let status = self.answer()?;
        if status.contains(" 201 ") { Ok(began.elapsed()) } else { Err(format!("{name}: {status}").into()) }
    }

    fn answer(&mut self) -> Result<String, Failure> {
        let (mut status, mut length) = (String::new(), 0);
        self.stream.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(format!("{} {}", status.trim_end(), String::from_utf8_lossy(&body)))
    }
}
