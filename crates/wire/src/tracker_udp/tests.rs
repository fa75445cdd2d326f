use proptest::prelude::*;

use super::*;

const CONNECTION: ConnectionId = ConnectionId(0x1122_3344_5566_7788);
const TRANSACTION: TransactionId = TransactionId(0xaabb_ccdd);

fn announce() -> AnnounceRequest<'static> {
    AnnounceRequest {
        connection: CONNECTION,
        transaction: TRANSACTION,
        info_hash: InfoHash([1; 20]),
        peer_id: PeerId([2; 20]),
        downloaded: 3,
        left: 4,
        uploaded: 5,
        event: AnnounceEvent::Started,
        key: 6,
        num_want: Some(50),
        port: 6881,
        options: &[],
    }
}

fn encoded(request: &AnnounceRequest<'_>, path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    request.encode(path, &mut out);
    out
}

fn decoded(datagram: &[u8]) -> AnnounceRequest<'_> {
    match Request::decode(datagram) {
        Some(Request::Announce(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// An announce with these options.
fn with_options(options: &[u8]) -> Vec<u8> {
    [&encoded(&announce(), "")[..], options].concat()
}

fn scrape(hashes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    put_head(&mut out, CONNECTION.0, SCRAPE, TRANSACTION);
    out.resize(16 + 20 * hashes, 7);
    out
}

#[test]
fn datagrams_have_the_bytes_of_bep_15() {
    let connect = connect_request(TRANSACTION);
    assert_eq!(connect, [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd]);
    let bytes = encoded(&announce(), "/announce");
    assert_eq!(bytes.len(), 98);
    assert_eq!(bytes[..16], [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd]);
    assert_eq!(bytes[56..84], [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2]);
    assert_eq!(bytes[84..], [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 50, 0x1a, 0xe1]);

    let reply = connect_reply(TRANSACTION, CONNECTION);
    assert_eq!(reply, [0, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    let counts = SwarmCounts { seeders: 2, leechers: 1, completed: 9 };
    let head = announce_reply_head(TRANSACTION, 1800, counts);
    assert_eq!(head, [0, 0, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(scrape_reply_head(TRANSACTION), [0, 0, 0, 2, 0xaa, 0xbb, 0xcc, 0xdd]);
    assert_eq!(scrape_entry(counts), [0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 1]);
    let mut error = Vec::new();
    error_reply(TRANSACTION, "no", &mut error);
    assert_eq!(error, [0, 0, 0, 3, 0xaa, 0xbb, 0xcc, 0xdd, b'n', b'o']);
}

#[test]
fn u01_connects_of_any_other_form_are_dropped() {
    let connect = connect_request(TRANSACTION);
    assert_eq!(Request::decode(&connect), Some(Request::Connect(TRANSACTION)));
    for end in 0..16 {
        assert_eq!(Request::decode(&connect[..end]), None, "{end}");
    }
    assert_eq!(Request::decode(&[&connect[..], &[0]].concat()), None);
    for at in 0..8 {
        let mut magic = connect;
        magic[at] ^= 1;
        assert_eq!(Request::decode(&magic), None);
    }
    for action in [3u32, 4, 99, u32::MAX] {
        let mut other = encoded(&announce(), "");
        other[8..12].copy_from_slice(&action.to_be_bytes());
        assert_eq!(Request::decode(&other), None, "{action}");
    }
}

#[test]
fn u02_short_announces_are_dropped() {
    let bytes = encoded(&announce(), "");
    for end in 0..98 {
        assert_eq!(Request::decode(&bytes[..end]), None, "{end}");
    }
    assert_eq!(decoded(&bytes), announce());
}

#[test]
fn u03_strange_numbers_are_read_and_an_address_is_not() {
    let mut bytes = encoded(&announce(), "");
    bytes[80..84].copy_from_slice(&255u32.to_be_bytes());
    bytes[84..88].copy_from_slice(&[8, 8, 8, 8]);
    bytes[64..72].copy_from_slice(&u64::MAX.to_be_bytes());
    bytes[96..].copy_from_slice(&[0, 0]);
    let expected = AnnounceRequest { event: AnnounceEvent::Regular, left: u64::MAX, port: 0, ..announce() };
    assert_eq!(decoded(&bytes), expected);
    for (number, read) in [(-1, None), (i32::MIN, None), (0, Some(0)), (i32::MAX, Some(0x7fff_ffff))] {
        bytes[92..96].copy_from_slice(&number.to_be_bytes());
        assert_eq!(decoded(&bytes).num_want, read, "{number}");
    }
    bytes[80..84].copy_from_slice(&4u32.to_be_bytes());
    assert_eq!(decoded(&bytes).event, AnnounceEvent::Paused);
}

#[test]
fn u04_scrapes_hold_whole_hashes_from_1_to_74() {
    for hashes in [1, 2, 74] {
        match Request::decode(&scrape(hashes)) {
            Some(Request::Scrape(request)) => assert_eq!(request.hashes().len(), hashes),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(Request::decode(&scrape(0)), None);
    assert_eq!(Request::decode(&scrape(75)), None);
    for length in [15, 17, 35, 37, 1495] {
        let mut bytes = scrape(74);
        bytes.truncate(length);
        assert_eq!(Request::decode(&bytes), None, "{length}");
    }
}

#[test]
fn u05_a_path_comes_back_however_long_it_may_be() {
    for length in [1, 254, 255, 256, 511, TRACKER_PATH_BYTES] {
        let path = format!("/{}", "p".repeat(length - 1));
        let bytes = encoded(&announce(), &path);
        assert_eq!(decoded(&bytes).path().as_deref(), (length > 1).then_some(path.as_bytes()), "{length}");
    }
    for plain in ["", "/", "/announce"] {
        assert_eq!(encoded(&announce(), plain).len(), 98);
    }
}

#[test]
fn u05_malformed_or_endless_options_say_nothing_and_hurt_nobody() {
    let path = |options: &[u8]| decoded(&with_options(options)).path().map(Cow::into_owned);
    assert_eq!(path(&[2, 2, b'/', b'a', 0, 9, 9]), Some(b"/a".to_vec()));
    assert_eq!(path(&[1, 1, 2, 1, b'/', 1, 2, 1, b'b']), Some(b"/b".to_vec()));
    assert_eq!(path(&[7, 1, 9, 2, 1, b'/']), Some(b"/".to_vec()), "unknown options are stepped over");
    assert_eq!(path(&[2, 4, b'/', b'a']), None, "past the end");
    assert_eq!(path(&[2]), None);
    assert_eq!(path(&[1; 300]), None);
    let long: Vec<u8> = [&[2, 255][..], &[b'x'; 255]].concat().repeat(3);
    assert_eq!(path(&long), None, "765 bytes");
    assert_eq!(path(&[2, 3, 0xff, 0xfe, b'.']), Some(vec![0xff, 0xfe, b'.']), "raw bytes, for nobody to open");
}

#[test]
fn u08_jumbo_datagrams_are_dropped() {
    assert!(Request::decode(&with_options(&[1; UDP_REQUEST_BYTES - 98])).is_some());
    assert!(Request::decode(&with_options(&[1; UDP_REQUEST_BYTES - 97])).is_none());
    assert!(Request::decode(&[0; 65_507]).is_none());
}

#[test]
fn r09_replies_of_the_wrong_length_are_dropped() {
    let head = announce_reply_head(TRANSACTION, 1800, SwarmCounts::default());
    for end in 0..20 {
        assert_eq!(Reply::decode(&head[..end], Family::V4), None, "{end}");
    }
    for (peers, v4, v6) in [(0, true, true), (5, false, false), (6, true, false), (18, true, true), (19, false, false)]
    {
        let bytes = [&head[..], &vec![1; peers]].concat();
        assert_eq!(Reply::decode(&bytes, Family::V4).is_some(), v4, "{peers}");
        assert_eq!(Reply::decode(&bytes, Family::V6).is_some(), v6, "{peers}");
    }
    let connect = connect_reply(TRANSACTION, CONNECTION);
    assert_eq!(Reply::decode(&connect, Family::V4), Some((TRANSACTION, Reply::Connect(CONNECTION))));
    assert_eq!(Reply::decode(&connect[..15], Family::V4), None);
    let entries = |bytes: usize| [&scrape_reply_head(TRANSACTION)[..], &vec![0; bytes]].concat();
    assert!(Reply::decode(&entries(24), Family::V4).is_some());
    assert!(Reply::decode(&entries(0), Family::V4).is_none() && Reply::decode(&entries(23), Family::V4).is_none());
    let mut unknown = connect;
    unknown[3] = 4;
    assert_eq!(Reply::decode(&unknown, Family::V4), None);
}

#[test]
fn r09_a_long_error_is_cut_and_escaped() {
    let mut bytes = [0, 0, 0, 3, 0xaa, 0xbb, 0xcc, 0xdd, 0x1b].to_vec();
    bytes.resize(65_000, b'x');
    let Some((TRANSACTION, Reply::Error(text))) = Reply::decode(&bytes, Family::V4) else {
        panic!("no error");
    };
    assert!(text.starts_with("\\x1bxxx") && text.len() < 300, "{text}");
    let mut out = Vec::new();
    error_reply(TRANSACTION, &"y".repeat(1_000), &mut out);
    assert_eq!(out.len(), 8 + FAILURE_BYTES);
}

fn event() -> impl Strategy<Value = AnnounceEvent> {
    use AnnounceEvent::{Completed, Paused, Regular, Started, Stopped};
    prop::sample::select(vec![Regular, Completed, Started, Stopped, Paused])
}

proptest! {
    #[test]
    fn announces_round_trip(
        ids: ([u8; 20], [u8; 20]),
        numbers: [u64; 4],
        event in event(),
        small: (u32, u32, u16),
        num_want in prop::option::of(0..=i32::MAX as u32),
    ) {
        let [connection, downloaded, left, uploaded] = numbers;
        let (transaction, key, port) = small;
        let request = AnnounceRequest {
            connection: ConnectionId(connection),
            transaction: TransactionId(transaction),
            info_hash: InfoHash(ids.0),
            peer_id: PeerId(ids.1),
            downloaded, left, uploaded, event, key, num_want, port,
            options: &[],
        };
        let bytes = encoded(&request, "");
        prop_assert_eq!(Request::decode(&bytes), Some(Request::Announce(request)));
    }

    #[test]
    fn scrapes_round_trip(hashes in prop::collection::vec(any::<[u8; 20]>().prop_map(InfoHash), 1..=74)) {
        let mut out = Vec::new();
        scrape_request(CONNECTION, TRANSACTION, hashes.iter().copied(), &mut out);
        let Some(Request::Scrape(request)) = Request::decode(&out) else {
            return Err(TestCaseError::fail("dropped"));
        };
        prop_assert_eq!(request.hashes().collect::<Vec<_>>(), hashes);
    }

    #[test]
    fn replies_round_trip(interval: u32, counts: [u32; 3], peers in 0..50usize) {
        let [seeders, leechers, completed] = counts;
        let counts = SwarmCounts { seeders, leechers, completed };
        let list = vec![3; peers * 18];
        let bytes = [&announce_reply_head(TRANSACTION, interval, counts)[..], &list].concat();
        let told = SwarmCounts { completed: 0, ..counts };
        let reply = Reply::Announce { interval, counts: told, peers: &list };
        prop_assert_eq!(Reply::decode(&bytes, Family::V6), Some((TRANSACTION, reply)));
        let bytes = [&scrape_reply_head(TRANSACTION)[..], &scrape_entry(counts)].concat();
        prop_assert_eq!(Reply::decode(&bytes, Family::V6), Some((TRANSACTION, Reply::Scrape(vec![counts]))));
    }

    #[test]
    fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), action in 0..5u32) {
        let head = [&[0; 8][..], &action.to_be_bytes(), &bytes].concat();
        if let Some(Request::Announce(request)) = Request::decode(&head) {
            let _ = request.path();
        }
        let _ = Request::decode(&bytes);
        let _ = Reply::decode(&bytes, Family::V4);
        let _ = Reply::decode(&[&action.to_be_bytes()[..], &bytes].concat(), Family::V6);
    }
}
