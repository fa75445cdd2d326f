//! How fast one core hashes 1 to 16 messages of 16 KiB side by side.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use obt_digest::{Algorithm, LANES, Sha1, Sha256, digest_each};

const MESSAGE: usize = 16 << 10;
const TIME: Duration = Duration::from_millis(200);

fn speed<A: Algorithm>(messages: &[&[u8]]) -> f64 {
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < TIME {
        for _ in 0..16 {
            black_box(digest_each::<A>(black_box(messages)));
            bytes += messages.len() * MESSAGE;
        }
    }
    bytes as f64 / begun.elapsed().as_secs_f64() / 1e9
}

fn main() {
    let data: Vec<u8> = (0..LANES * MESSAGE).map(|at| (at * 31 + at / 77) as u8).collect();
    println!("messages  SHA-1 GB/s  SHA-256 GB/s");
    for count in [1, 2, 3, 4, 5, 6, 8, 9, 12, 16] {
        let messages: Vec<&[u8]> = data.chunks(MESSAGE).take(count).collect();
        println!("{count:8}  {:10.2}  {:12.2}", speed::<Sha1>(&messages), speed::<Sha256>(&messages));
    }
}
