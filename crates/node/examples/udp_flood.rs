//! How long honest announces wait while a UDP tracker is flooded (HOSTILE U07).
//!
//! Connects come from a hundred thousand addresses of 127.0.0.0/8 at a rate, and one client announces a hundred times
//! a second beside them. Prints the wait of the announces without and with the flood, and what the flood got back.
//!
//!     obt tracker --tracker-listen 127.0.0.1:6969 &
//!     cargo run --release -p obt-node --example udp_flood -- 127.0.0.1:6969 200000 10
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod udp;

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use obt_wire::announce::AnnounceEvent;
use obt_wire::tracker_udp::{AnnounceRequest, ConnectionId, Family, Reply, TransactionId, connect_request};
use obt_wire::{InfoHash, PeerId};

/// Addresses that the flood comes from.
const SOURCES: u32 = 100_000;
/// Datagrams of one address in a row.
const IN_A_ROW: u64 = 16;
/// Sockets that are kept open to see what the flood gets back.
const OPEN: usize = 256;
/// Between two honest announces.
const EVERY: Duration = Duration::from_millis(10);
/// After this an announce counts as lost.
const LOST: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let tracker: SocketAddr = arguments.next().ok_or("usage: udp_flood ADDR:PORT [PER_SECOND [SECONDS]]")?.parse()?;
    let rate: u64 = arguments.next().map_or(Ok(200_000), |rate| rate.parse())?;
    let time = Duration::from_secs(arguments.next().map_or(Ok(10), |seconds| seconds.parse())?);

    announce_for(tracker, time)?.print("quiet");
    let flood = Arc::new(Flood::default());
    let flooding = {
        let flood = Arc::clone(&flood);
        thread::spawn(move || flood.run(tracker, rate))
    };
    let waits = announce_for(tracker, time);
    flood.stop.store(true, Ordering::Relaxed);
    flooding.join().map_err(|_| "the flood panicked")??;
    waits?.print("flooded");
    let sent = flood.sent.load(Ordering::Relaxed);
    println!(
        "flood: {} connects a second, {} bytes in the longest of the answers seen",
        sent / time.as_secs().max(1),
        flood.longest.load(Ordering::Relaxed)
    );
    Ok(())
}

#[derive(Default)]
struct Flood {
    stop: AtomicBool,
    sent: AtomicU64,
    longest: AtomicU64,
}

impl Flood {
    fn run(&self, tracker: SocketAddr, rate: u64) -> io::Result<()> {
        let begun = Instant::now();
        let mut open: VecDeque<UdpSocket> = VecDeque::new();
        let (mut sent, mut source) = (0, 0);
        while !self.stop.load(Ordering::Relaxed) {
            let due = begun.elapsed().as_micros() as u64 * rate / 1_000_000;
            if sent >= due {
                thread::sleep(Duration::from_micros(500));
                continue;
            }
            let [_, a, b, c] = (source % SOURCES + 2).to_be_bytes();
            source += 1;
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 1 + a, b, c), 0))?;
            for number in 0..IN_A_ROW {
                // A full queue is the tracker's to suffer from, not ours.
                let _ = socket.send_to(&connect_request(TransactionId(number as u32)), tracker);
            }
            sent += IN_A_ROW;
            self.sent.store(sent, Ordering::Relaxed);
            open.push_back(socket);
            if open.len() > OPEN
                && let Some(oldest) = open.pop_front()
            {
                self.hear(&oldest)?;
            }
        }
        Ok(())
    }

    fn hear(&self, socket: &UdpSocket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let mut answer = [0; 2_048];
        while let Ok(length) = socket.recv(&mut answer) {
            self.longest.fetch_max(length as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// How long announces took, sorted; those that nobody answered took for ever.
struct Waits(Vec<Duration>);

impl Waits {
    fn print(&self, when: &str) {
        let at = |share: f64| {
            let index = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
            self.0.get(index).copied().unwrap_or_default()
        };
        println!(
            "{when}: {} announces, p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}, longest {:.2?}, {} lost",
            self.0.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            self.0.iter().filter(|wait| **wait >= LOST).count(),
        );
    }
}

fn announce_for(tracker: SocketAddr, time: Duration) -> io::Result<Waits> {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    client.connect(tracker)?;
    client.set_read_timeout(Some(LOST))?;
    let connection = udp::connect(&client)?;
    let mut waits = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let number = waits.len() as u32;
        waits.push(announce(&client, connection, TransactionId(number))?);
        thread::sleep(EVERY);
    }
    waits.sort_unstable();
    Ok(Waits(waits))
}

fn announce(client: &UdpSocket, connection: ConnectionId, transaction: TransactionId) -> io::Result<Duration> {
    let announce = AnnounceRequest {
        transaction,
        event: AnnounceEvent::Regular,
        ..AnnounceRequest::started(connection, InfoHash([7; 20]), PeerId(*b"-XX0001-............"), 6_881, 1)
    };
    let mut request = Vec::new();
    announce.encode("", &mut request);
    let sent = Instant::now();
    client.send(&request)?;
    let mut answer = [0; 2_048];
    loop {
        let Ok(length) = client.recv(&mut answer) else {
            return Ok(LOST);
        };
        let reply = Reply::decode(answer.get(..length).unwrap_or_default(), Family::V4);
        if reply.is_some_and(|(of, _)| of == transaction) {
            return Ok(sent.elapsed());
        }
    }
}
