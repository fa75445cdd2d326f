//! Strangers by the thousand: connections that say nothing, little or slowly cost little, and nobody else waits.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{Lab, Obt, SOON, assert_holds, eventually, noise};

const MIB: usize = 1 << 20;
/// Of each kind of stranger.
const EACH: usize = 250;
/// A stranger that says a byte in this time would need 17 s for its handshake.
const BYTE_EVERY: Duration = Duration::from_millis(250);
/// What one connection may cost before its handshake, bytes (B-CONN).
const COST: usize = 24 << 10;

/// A handshake about this torrent.
fn handshake(info_hash: &str) -> Vec<u8> {
    let mut bytes = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend((0..20).map(|at| u8::from_str_radix(&info_hash[2 * at..2 * at + 2], 16).unwrap()));
    bytes.extend(b"-XX0001-............");
    bytes
}

fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&addr, SOON).unwrap()
}

/// Whether the other side has closed it; what it said until then is thrown away.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut heard = [0; 1024];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn descriptors(obt: &Obt) -> usize {
    fs::read_dir(format!("/proc/{}/fd", obt.id())).unwrap().count()
}

/// Anonymous memory, bytes.
fn memory(obt: &Obt) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", obt.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
#[cfg(target_os = "linux")]
fn w01_a_thousand_idle_and_slow_connections_cost_little_and_delay_nobody() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let lab = Lab::new();
    let bytes = noise(1, 8 * MIB);
    lab.file("data/x", &bytes);
    let share = lab.share("one", ["data/x"]);
    let hash = share.obt.event("sharing")["info_hash_v1"].as_str().unwrap().to_owned();
    share.until_held("x", 1);
    let port = u16::try_from(share.obt.event("listening")["peer_port"].as_u64().unwrap()).unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    lab.get(&share, "x", "warm").ends().exits(0);
    let (files_before, memory_before) = (descriptors(&share.obt), memory(&share.obt));

    let begun = Instant::now();
    let whole = handshake(&hash);
    let mut greeted: Vec<TcpStream> = Vec::new();
    let mut unnamed: Vec<TcpStream> = Vec::new();
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..EACH {
        let mut idle = connect(addr);
        idle.write_all(&whole).unwrap();
        greeted.push(idle);
        unnamed.push(connect(addr));
        let mut half = connect(addr);
        half.write_all(&whole[..whole.len() / 2]).unwrap();
        unnamed.push(half);
        slow.push(connect(addr));
    }
    let cost = memory(&share.obt).saturating_sub(memory_before);
    assert!(cost <= 4 * EACH * COST, "{cost} bytes for {} connections", 4 * EACH);
    let get = lab.get(&share, "x", "out").ends().exits(0);
    assert_holds(lab.path("out/x"), &bytes);
    assert!(get.took < SOON, "{get}");

    let mut said = 0;
    eventually("the end of all who did not finish a handshake", Duration::from_secs(25), || {
        while BYTE_EVERY * said < begun.elapsed() {
            let byte = whole[said as usize % whole.len()];
            // Whoever is closed already is looked at below.
            slow.iter_mut().for_each(|stream| drop(stream.write(&[byte])));
            said += 1;
        }
        unnamed.retain_mut(|stream| !is_closed(stream));
        slow.retain_mut(|stream| !is_closed(stream));
        (unnamed.is_empty() && slow.is_empty()).then_some(())
    });
    assert!((said as usize) < whole.len(), "a slow one finished its handshake");
    let kept = greeted.iter_mut().filter_map(|stream| (!is_closed(stream)).then_some(())).count();
    assert!(kept > 0, "who shook hands may be silent");
    drop(greeted);
    eventually("the descriptors of all of them", SOON, || (descriptors(&share.obt) <= files_before + 8).then_some(()));
    lab.get(&share, "x", "again").ends().exits(0);
    share.obt.stop().exits(0);
}

#[test]
fn a_crowd_that_comes_at_once_gets_the_torrent_from_the_tracker_or_from_each_other() {
    let lab = Lab::new();
    // Its .torrent is long enough for those who come late to be sent to the others.
    let bytes = noise(2, 11 * MIB);
    lab.file("data/x", &bytes);
    let share = lab.share("one", ["data/x"]);
    share.until_held("x", 1);
    let gets: Vec<_> = (0..9).map(|number| lab.get(&share, "x", &format!("crowd-{number}"))).collect();
    for get in gets {
        get.ends().exits(0);
    }
    for number in 0..9 {
        assert_holds(lab.path(format!("crowd-{number}/x")), &bytes);
    }
}

#[test]
fn as_many_peers_are_connected_as_the_flag_says() {
    let lab = Lab::new();
    lab.file("data/x", &noise(1, MIB));
    let share = lab.share("one", ["data/x", "--max-peers", "2"]);
    let hash = share.obt.event("sharing")["info_hash_v1"].as_str().unwrap().to_owned();
    let port = u16::try_from(share.obt.event("listening")["peer_port"].as_u64().unwrap()).unwrap();
    let mut strangers: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stranger = connect(SocketAddr::from(([127, 0, 0, 1], port)));
            stranger.write_all(&handshake(&hash)).unwrap();
            stranger
        })
        .collect();
    eventually("two of four are let in", SOON, || {
        (strangers.iter_mut().map(is_closed).filter(|closed| *closed).count() == 2).then_some(())
    });
    lab.run(["share", "data/x", "--max-peers", "0"]).fails(2, "--max-peers");
}
