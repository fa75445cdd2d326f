//! What reading and writing costs: peer messages, an HTTP announce and its answer, a torrent of 10,000 files.
#![allow(missing_docs)]
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use divan::Bencher;
use obt_wire::Sha1Hash;
use obt_wire::announce::SwarmCounts;
use obt_wire::metainfo::{Draft, Metainfo, Version};
use obt_wire::peer::{Header, Message, Request};
use obt_wire::tracker_http::{AnnounceQuery, AnnounceReply, Peers, write_announce};

const FILES: usize = 10_000;
const FILE: u64 = 100_000;
const PIECE: u32 = 1 << 20;

fn main() {
    divan::main();
}

/// The operations that are measured: functions of their own, so that callgrind sees where each begins and ends.
mod work {
    use super::*;

    /// A request is read, its piece's header too, and the next request is written.
    #[inline(never)]
    pub(super) fn peer_messages(request: &[u8], piece: &[u8], out: &mut Vec<u8>) {
        let Some(Header::Body { kind, body }) = Header::decode(request, 25_000).unwrap() else {
            return;
        };
        let message = Message::decode(kind, &request[5..5 + body]).unwrap();
        assert!(matches!(Header::decode(piece, 25_000), Ok(Some(Header::Piece(_)))));
        out.clear();
        message.encode(out);
        assert_eq!(out.len(), request.len());
    }

    #[inline(never)]
    pub(super) fn announce_query(query: &[u8]) {
        assert_eq!(black_box(AnnounceQuery::decode(query)).unwrap().port, 6_881);
    }

    #[inline(never)]
    pub(super) fn announce_reply(reply: &AnnounceReply<'_>, out: &mut Vec<u8>) {
        out.clear();
        write_announce(reply, out);
        assert!(out.len() > 300);
    }

    #[inline(never)]
    pub(super) fn metainfo_of_10_000_files(bytes: &[u8]) {
        assert_eq!(black_box(Metainfo::parse(bytes)).unwrap().info.files.len(), FILES);
    }
}

#[divan::bench]
fn peer_messages(bencher: Bencher<'_, '_>) {
    let mut request = Vec::new();
    Message::Request(Request { piece: 77, begin: 16_384, length: 16_384 }).encode(&mut request);
    let piece = [0, 0, 0x40, 9, 7, 0, 0, 0, 77, 0, 0, 0x40, 0];
    let mut out = Vec::new();
    bencher.bench_local(|| work::peer_messages(black_box(&request), black_box(&piece), &mut out));
}

#[divan::bench]
fn announce_query(bencher: Bencher<'_, '_>) {
    let query = b"info_hash=%9a%B0%01%02%03%04abcdefghijklmn&peer_id=-XX0001-%00%01%02%03%04%05%06%07%08%09%0a%0b\
        &port=6881&uploaded=0&downloaded=123456&left=654321&event=started&compact=1&numwant=30&key=12345678";
    bencher.bench_local(|| work::announce_query(black_box(query)));
}

#[divan::bench]
fn announce_reply(bencher: Bencher<'_, '_>) {
    let peers = Peers::Compact { v4: &[7; 50 * 6], v6: &[] };
    let counts = SwarmCounts { seeders: 100, leechers: 200, completed: 300 };
    let external_ip = [10, 0, 0, 1].into();
    let reply = AnnounceReply { interval: 900, min_interval: 60, counts, external_ip, peers };
    let mut out = Vec::new();
    bencher.bench_local(|| work::announce_reply(black_box(&reply), &mut out));
}

#[divan::bench]
fn metainfo_of_10_000_files(bencher: Bencher<'_, '_>) {
    let files = (0..FILES).map(|number| (vec![format!("folder{}", number % 100), format!("file{number}")], FILE));
    let draft = Draft::folder("item", files.collect(), PIECE, Version::V1).unwrap();
    let pieces = vec![Sha1Hash([7; 20]); draft.geometry().pieces() as usize];
    let bytes = draft.finish(&pieces, Vec::new()).unwrap().to_bytes();
    bencher.bench_local(|| work::metainfo_of_10_000_files(black_box(&bytes)));
}
