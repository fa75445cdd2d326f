//! Announces over UDP at a rate, from as many peers as are asked for (`bench/cluster`).
//!
//!     cargo run --release -p obt-node --example announces -- RATE SECONDS SWARMS PEERS ADDR:PORT...
//!
//! PEERS is of all swarms together; they announce in turns, those of one address (10.64.0.0/10, which loopback must have)
//! all at one of the members, and begin anew after the last. 0 seconds is each peer once; rate 0 is as fast as it goes.
//! Prints one JSON object.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod udp;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use obt_wire::tracker_udp::{AnnounceRequest, Family, Reply, TransactionId};
use obt_wire::{InfoHash, PeerId};

type Failure = Box<dyn Error + Send + Sync>;

/// Peers of one address: as many ports as one address may have in a swarm.
const PER_ADDRESS: u64 = 64;
const THREADS: u64 = 2;
/// After this a datagram counts as lost.
const LOST: Duration = Duration::from_secs(1);

struct Plan {
    rate: u64,
    time: Duration,
    swarms: u64,
    peers: u64,
    members: Vec<SocketAddr>,
}

#[derive(Default)]
struct Counts {
    next: AtomicU64,
    sent: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rate, seconds, swarms, peers, members @ ..] = &arguments[..] else {
        return Err("usage: announces RATE SECONDS SWARMS PEERS ADDR:PORT...".into());
    };
    let plan = Arc::new(Plan {
        rate: rate.parse()?,
        time: Duration::from_secs(seconds.parse()?),
        swarms: swarms.parse()?,
        peers: peers.parse()?,
        members: members.iter().map(|member| member.parse()).collect::<Result<_, _>>()?,
    });
    let counts = Arc::new(Counts::default());
    let began = Instant::now();
    let threads = (0..THREADS).map(|_| {
        let (plan, counts) = (Arc::clone(&plan), Arc::clone(&counts));
        thread::spawn(move || run(&plan, &counts, began))
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    let seconds = began.elapsed().as_secs_f64();
    let [sent, answered, refused, late] =
        [&counts.sent, &counts.answered, &counts.refused, &counts.late].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{{\"sent\": {sent}, \"answered\": {answered}, \"refused\": {refused}, \"late_seconds\": {:.3}, \"seconds\": {seconds:.3}}}",
        late as f64 / 1e6
    );
    Ok(())
}

/// Addresses in turns, until the time is over or all have had theirs.
fn run(plan: &Plan, counts: &Counts, began: Instant) -> Result<(), Failure> {
    let addresses = plan.peers.div_ceil(PER_ADDRESS);
    loop {
        let turn = counts.next.fetch_add(1, Ordering::Relaxed);
        let over = if plan.time.is_zero() { turn >= addresses } else { began.elapsed() >= plan.time };
        if over {
            return Ok(());
        }
        let due = Duration::from_micros((turn * PER_ADDRESS * 1_000_000).checked_div(plan.rate).unwrap_or(0));
        match due.checked_sub(began.elapsed()) {
            Some(early) => thread::sleep(early),
            None => {
                let late = (began.elapsed() - due).as_micros();
                counts.late.fetch_max(u64::try_from(late)?.min(plan.rate * 1_000_000), Ordering::Relaxed);
            }
        }
        announce_all(turn % addresses, plan, counts)?;
    }
}

/// All peers of one address.
fn announce_all(address: u64, plan: &Plan, counts: &Counts) -> Result<(), Failure> {
    let member = plan.members[usize::try_from(address)? % plan.members.len()];
    let [_, high, middle, low] = u32::try_from(address + 1)?.to_be_bytes();
    let client = UdpSocket::bind((Ipv4Addr::new(10, 64 + high, middle, low), 0))?;
    client.connect(member)?;
    client.set_read_timeout(Some(LOST))?;
    let connection = udp::connect(&client)?;
    let first = address * PER_ADDRESS;
    let peers = first..plan.peers.min(first + PER_ADDRESS);
    let mut request = Vec::new();
    for peer in peers.clone() {
        request.clear();
        let port = 1_024 + u16::try_from(peer - first)?;
        let left = u64::from(!peer.is_multiple_of(3));
        let announce = AnnounceRequest {
            transaction: TransactionId(u32::from(port)),
            ..AnnounceRequest::started(connection, hash(peer % plan.swarms), peer_id(peer), port, left)
        };
        announce.encode("", &mut request);
        client.send(&request)?;
    }
    counts.sent.fetch_add(peers.end - peers.start, Ordering::Relaxed);
    let mut answer = [0; 2_048];
    for _ in peers {
        let Ok(length) = client.recv(&mut answer) else { break };
        match Reply::decode(answer.get(..length).unwrap_or_default(), Family::V4) {
            Some((_, Reply::Announce { .. })) => counts.answered.fetch_add(1, Ordering::Relaxed),
            _ => counts.refused.fetch_add(1, Ordering::Relaxed),
        };
    }
    Ok(())
}

fn hash(swarm: u64) -> InfoHash {
    let mut hash = InfoHash([5; 20]);
    hash.0[..8].copy_from_slice(&swarm.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    hash
}

fn peer_id(peer: u64) -> PeerId {
    let mut id = PeerId(*b"-XX0001-............");
    id.0[12..].copy_from_slice(&peer.to_be_bytes());
    id
}
