//! What the announce exchange costs: bytes and CPU time per announce, and a full copy.
//!
//! One thread, no link: wall time is CPU time. `cargo run --release -p obt-tracker --example exchange`
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::expect_used, reason = "it measures and prints")]

use std::time::{Duration, Instant};

use obt_tracker::exchange::wire::MemberId;
use obt_tracker::exchange::{Action, Event, Exchange, ExchangeConfig, Memory};
use obt_tracker::leases::Leases;
use obt_tracker::limits::{EXCHANGE_INTERVAL, Limits};
use obt_tracker::{
    Advertised, Announce, Asker, Client, CompactPeers, PeerLists, Remember, Standing, StoreConfig, Swarms, swarms,
};
use obt_wire::{InfoHash, PeerId};

/// Announces of one interval.
const BURST: u32 = 50_000;
/// Intervals.
const ROUNDS: u32 = 10;

struct Node {
    exchange: Exchange,
    store: Memory,
}

fn node(member: u64, members: &[MemberId], now: Instant) -> Node {
    let limits = Limits { torrents_per_hour: u16::MAX, memory: 4 << 30, ..Limits::default() };
    let secret = [u8::try_from(member).unwrap_or(0); 32];
    let config = StoreConfig { shard_bits: 8, limits, advertised: Advertised::default(), secret };
    let mut store = Memory { swarms: Swarms::new(&config, now), leases: Some(Leases::new(limits)) };
    let config = ExchangeConfig { me: MemberId(member), home: Advertised::default() };
    let mut exchange = Exchange::new(&config, member, now);
    exchange.handle_event(Event::Members(members), &mut store, now);
    Node { exchange, store }
}

/// Peer `number`: three neighbours share each of 100,000 swarms, and every further 300,000 peers add three to each.
fn announce(node: &mut Node, number: u32, now: Instant) {
    let swarm = number % 300_000 / 3;
    let mut hash = InfoHash([5; 20]);
    hash.0[..4].copy_from_slice(&swarm.wrapping_mul(0x9e37_79b1).to_be_bytes());
    let [a, b, c, d] = number.wrapping_mul(0x85eb_ca6b).to_be_bytes();
    let announce = Announce {
        hash,
        asker: Asker::new([a | 1, b, c, d].into(), None),
        port: 6_881,
        standing: if number.is_multiple_of(3) { Standing::Seed } else { Standing::Leecher },
        completed: false,
        want: 50,
        client: Client { peer_id: PeerId([7; 20]), key: None },
        remember: Remember::Named,
    };
    let mut buffer = [0; 300];
    let mut lists = PeerLists { v4: CompactPeers::new(&mut buffer), v6: CompactPeers::new(&mut []) };
    let _ = swarms::announce(&mut node.store, &announce, &mut lists, now);
}

/// Carries batches between two until there are none: bytes of the first, and the time that each took.
fn carry(nodes: &mut [Node; 2], now: Instant) -> (usize, [Duration; 2]) {
    let (mut bytes, mut took) = (0, [Duration::ZERO; 2]);
    loop {
        let mut any = false;
        for from in 0..2 {
            while let Some(action) = nodes[from].exchange.poll_action() {
                let Action::Send { batch, .. } = action else {
                    continue;
                };
                any = true;
                bytes += if from == 0 { batch.len() } else { 0 };
                let to = &mut nodes[1 - from];
                let start = Instant::now();
                to.exchange.handle_event(Event::Batch(MemberId(from as u64 + 1), &batch), &mut to.store, now);
                took[1 - from] += start.elapsed();
            }
        }
        if !any {
            return (bytes, took);
        }
    }
}

fn link(nodes: &mut [Node; 2], now: Instant) {
    for (at, other) in [(0, 2), (1, 1)] {
        let node: &mut Node = &mut nodes[at];
        node.exchange.handle_event(Event::LinkUp(MemberId(other)), &mut node.store, now);
    }
}

fn nanos(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(count)
}

fn deltas(now: Instant) {
    let members = [MemberId(1), MemberId(2)];
    for (name, members) in [("alone", &members[..1]), ("with a member", &members[..])] {
        let mut nodes = [node(1, members, now), node(2, members, now)];
        if members.len() > 1 {
            link(&mut nodes, now);
            carry(&mut nodes, now);
        }
        let (mut now, mut own, mut sender, mut receiver, mut bytes) =
            (now, Duration::ZERO, Duration::ZERO, Duration::ZERO, 0);
        for round in 0..ROUNDS {
            let start = Instant::now();
            (0..BURST).for_each(|number| announce(&mut nodes[0], round * BURST + number, now));
            own += start.elapsed();
            now += EXCHANGE_INTERVAL + EXCHANGE_INTERVAL / 2;
            let start = Instant::now();
            let [first, _] = &mut nodes;
            first.exchange.handle_timeout(&mut first.store, now);
            sender += start.elapsed();
            let (sent, took) = carry(&mut nodes, now);
            bytes += sent;
            sender += took[0];
            receiver += took[1];
        }
        let all = BURST * ROUNDS;
        println!(
            "{name}: announce {:.0} ns, sender {:.0} ns, receiver {:.0} ns, {:.1} bytes an announce",
            nanos(own, all),
            nanos(sender, all),
            nanos(receiver, all),
            bytes as f64 / f64::from(all)
        );
    }
}

fn copy(peers: u32, now: Instant) {
    let members = [MemberId(1), MemberId(2)];
    let mut nodes = [node(1, &members, now), node(2, &members, now)];
    for number in 0..peers {
        announce(&mut nodes[0], number, now);
    }
    // What was noted meanwhile is of no interest to who gets everything.
    let [first, _] = &mut nodes;
    first.exchange.handle_timeout(&mut first.store, now + EXCHANGE_INTERVAL * 2);
    let now = now + EXCHANGE_INTERVAL * 2;
    link(&mut nodes, now);
    let start = Instant::now();
    let (bytes, took) = carry(&mut nodes, now);
    let size = swarms::size(&mut nodes[1].store);
    println!(
        "full copy of {peers}: {:.3} s, of it sender {:.3} s, receiver {:.3} s; {:.1} MB; {} addresses arrived",
        start.elapsed().as_secs_f64(),
        took[0].as_secs_f64(),
        took[1].as_secs_f64(),
        bytes as f64 / 1e6,
        size.addresses
    );
}

fn main() {
    let now = Instant::now();
    for _ in 0..3 {
        deltas(now);
    }
    copy(100_000, now);
    copy(1_000_000, now);
}
