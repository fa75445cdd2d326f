//! Announces over UDP or HTTP at a rate, from as many peers as are asked for (`bench/cluster`).
//!
//!     cargo run --release -p obt-node --example announces -- udp|http RATE SECONDS SWARMS [FROM..]PEERS ADDR:PORT...
//!
//! PEERS is of all swarms together, those before FROM (a multiple of 64) left out; they announce in turns, those of one
//! address (10.64.0.0/10, which loopback must have) all at one of the members, and begin anew after the last. 0 seconds is
//! each peer once; rate 0 is as fast as it goes. A member that dies meanwhile leaves announces unanswered, nothing more.
//! Prints one JSON object.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod load;
mod over_http;
mod over_udp;
#[path = "../udp/mod.rs"]
mod udp;
mod waits;

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use load::{Load, PER_ADDRESS, Plan};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, rate, seconds, swarms, peers, members @ ..] = &arguments[..] else {
        return Err("usage: announces udp|http RATE SECONDS SWARMS [FROM..]PEERS ADDR:PORT...".into());
    };
    let plan = Plan {
        rate: rate.parse()?,
        time: Duration::from_secs(seconds.parse()?),
        swarms: swarms.parse()?,
        peers: range(peers)?,
        members: members.iter().map(|member| member.parse()).collect::<Result<_, _>>()?,
    };
    let (threads, run) = match protocol.as_str() {
        "udp" => (over_udp::threads(&plan), over_udp::run as fn(&Load, u64) -> Result<(), Failure>),
        "http" => (over_http::CONNECTIONS, over_http::run as _),
        other => return Err(format!("announces go over udp or http, not {other}").into()),
    };
    let load = Arc::new(Load::new(plan));
    let threads = (0..threads).map(|number| {
        let load = Arc::clone(&load);
        thread::spawn(move || run(&load, number))
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    print(&load)
}

fn range(peers: &str) -> Result<Range<u64>, Failure> {
    let (from, to) = peers.split_once("..").unwrap_or(("0", peers));
    let range: Range<u64> = from.parse()?..to.parse()?;
    if range.is_empty() || !range.start.is_multiple_of(PER_ADDRESS) {
        return Err(format!("{peers} are no peers of whole addresses").into());
    }
    Ok(range)
}

fn print(load: &Load) -> Result<(), Failure> {
    let seconds = load.began.elapsed().as_secs_f64();
    let counts = &load.counts;
    let [sent, answered, refused, late] =
        [&counts.sent, &counts.answered, &counts.refused, &counts.late].map(|count| count.load(Ordering::Relaxed));
    if sent > 0 && answered == 0 {
        return Err(format!("none of {sent} announces was answered, {refused} were refused").into());
    }
    let [p50, p99] = [0.5, 0.99].map(|share| load.waits.quantile(share).as_secs_f64() * 1e3);
    let longest: Vec<String> =
        load.waits.longest().map(|longest| format!("{:.1}", longest.as_secs_f64() * 1e3)).collect();
    println!(
        "{{\"sent\": {sent}, \"answered\": {answered}, \"refused\": {refused}, \"late_seconds\": {:.3}, \
         \"seconds\": {seconds:.3}, \"p50_ms\": {p50:.1}, \"p99_ms\": {p99:.1}, \"longest_ms_by_second\": [{}]}}",
        late as f64 / 1e6,
        longest.join(", ")
    );
    Ok(())
}
