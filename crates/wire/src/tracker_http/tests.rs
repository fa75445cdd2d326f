use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::announce::{AnnounceEvent, SwarmCounts};
use crate::bencode::{Document, Limits};
use crate::ids::{InfoHash, PeerId};
use crate::limits::{TRACKER_PEERS, TRACKER_REPLY_BYTES};

const IDS: &str = "info_hash=%01%02%03%04%05%06%07%08%09%0a%0B%0c%0d%0e%0f%10%11%12%13%14&peer_id=-OB0100-abcdefghijkl";

fn announce(rest: &str) -> Result<AnnounceQuery, QueryError> {
    AnnounceQuery::decode(format!("{IDS}&{rest}").as_bytes())
}

fn read(body: &str) -> Announced {
    Announced::decode(body.as_bytes()).unwrap()
}

fn refused(error: QueryError) -> String {
    let mut out = Vec::new();
    write_failure(&error.to_string(), None, &mut out);
    assert!(out.len() <= 300);
    match Announced::decode(&out) {
        Err(ReplyError::Refused { reason, retry: None }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stock_clients_announce_is_read() {
    let query =
        announce("port=6881&uploaded=1&downloaded=2&left=3&event=started&numwant=80&key=A1b2&compact=1&x=y&ip=1.2.3.4");
    let expected = AnnounceQuery {
        info_hash: InfoHash([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]),
        peer_id: PeerId(*b"-OB0100-abcdefghijkl"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: AnnounceEvent::Started,
        num_want: Some(80),
        key: Some(0xa1b2),
        compact: true,
        no_peer_id: false,
        ip: Some(IpAddr::from([1, 2, 3, 4])),
    };
    assert_eq!(query, Ok(expected));
    let sparse =
        announce("port=1&left=0&compact=0&no_peer_id=1&event=&numwant=-1&key=too-long-for-us&ip=evil.example").unwrap();
    assert_eq!((sparse.uploaded, sparse.num_want, sparse.key, sparse.ip), (0, None, None, None));
    assert!(!sparse.compact && sparse.no_peer_id && sparse.event == AnnounceEvent::Regular);
}

#[test]
fn h01_missing_parameters_are_named() {
    assert_eq!(AnnounceQuery::decode(b""), Err(QueryError::Missing("port")));
    assert_eq!(AnnounceQuery::decode(b"port=1&left=0"), Err(QueryError::Missing("info_hash")));
    assert_eq!(announce("port=1"), Err(QueryError::Missing("left")));
    assert_eq!(refused(QueryError::Missing("left")), "left is missing");
}

#[test]
fn h01_malformed_ids_are_refused() {
    let with = |value: &str| {
        AnnounceQuery::decode(format!("info_hash={value}&peer_id=-OB0100-abcdefghijkl&port=1&left=0").as_bytes())
    };
    let malformed = Err(QueryError::Malformed("info_hash"));
    for value in [
        "",
        &"a".repeat(19),
        &"a".repeat(21),
        &"%00".repeat(21),
        &format!("{}%4", "a".repeat(19)),
        &format!("{}%zz", "a".repeat(19)),
        &format!("{}%", "a".repeat(19)),
    ] {
        assert_eq!(with(value), malformed, "{value}");
    }
    assert!(with(&"%ff".repeat(20)).is_ok());
    assert_eq!(with("+aaaaaaaaaaaaaaaaaaa").unwrap().info_hash.0[0], b'+');
    let mut raw = b"info_hash=".to_vec();
    raw.extend([0xfe; 20]);
    raw.extend(b"&peer_id=-OB0100-abcdefghijkl&port=1&left=0");
    assert_eq!(AnnounceQuery::decode(&raw).unwrap().info_hash, InfoHash([0xfe; 20]));
}

#[test]
fn h01_duplicates_are_refused() {
    assert_eq!(announce("port=1&left=0&port=2"), Err(QueryError::Twice("port")));
    assert_eq!(announce(&format!("port=1&left=0&{IDS}")), Err(QueryError::Twice("info_hash")));
    assert!(announce("port=1&left=0&x=1&x=2").is_ok());
}

#[test]
fn h01_false_numbers_are_refused() {
    for port in ["0", "65536", "-1", "+80", "٣", "", "1e3", "0x50", "%36", " 1", "99999999999999999999999"] {
        assert_eq!(announce(&format!("left=0&port={port}")), Err(QueryError::Malformed("port")), "{port}");
    }
    for left in ["-1", "1e9", "18446744073709551616", ""] {
        assert_eq!(announce(&format!("port=1&left={left}")), Err(QueryError::Malformed("left")), "{left}");
    }
    assert_eq!(announce("port=1&left=18446744073709551615").unwrap().left, u64::MAX);
    for rest in ["event=foo", "compact=2", "numwant=1e9", "numwant=-2", "no_peer_id=yes", "uploaded=x"] {
        let error = announce(&format!("port=1&left=0&{rest}")).unwrap_err();
        let (name, value) = rest.split_once('=').unwrap();
        assert_eq!(error.to_string(), format!("{name} is malformed"));
        assert!(!refused(error).contains(&format!("={value}")), "reflects its input");
    }
    assert_eq!(announce("port=1&left=0&numwant=99999999999").unwrap().num_want, Some(u32::MAX));
}

#[test]
fn a_passkey_stays_in_front_of_the_parameters() {
    let query = announce("port=1&left=0").unwrap();
    let url = |announce: &str| query.url(announce);
    assert!(url("http://t/announce").starts_with("http://t/announce?info_hash=%01%02"));
    assert!(url("http://t/announce?key=a#b").starts_with("http://t/announce?key=a&info_hash="));
    assert!(url("http://t/announce?").starts_with("http://t/announce?info_hash="));
    assert!(
        url("http://t/announce")
            .ends_with("&peer_id=-OB0100-abcdefghijkl&port=1&uploaded=0&downloaded=0&left=0&compact=1")
    );
}

#[test]
fn h06_a_scrape_names_its_swarms() {
    assert_eq!(scrape_query(b""), Err(QueryError::FullScrape));
    assert_eq!(scrape_query(b"x=y"), Err(QueryError::FullScrape));
    assert_eq!(scrape_query(b"info_hash=abc"), Err(QueryError::Malformed("info_hash")));
    let hash = "info_hash=aaaaaaaaaaaaaaaaaaaa&";
    assert_eq!(scrape_query(hash.repeat(74).as_bytes()).unwrap().len(), 74);
    assert_eq!(scrape_query(hash.repeat(75).as_bytes()), Err(QueryError::TooMany));
}

#[test]
fn a_scrape_url_comes_from_an_announce_url_that_says_so() {
    let url = |announce| scrape_url(announce, [InfoHash([b'a'; 20])]);
    let hash = "info_hash=aaaaaaaaaaaaaaaaaaaa";
    assert_eq!(url("http://t/announce"), Some(format!("http://t/scrape?{hash}")));
    assert_eq!(url("http://t/x/announce.php?k=/v"), Some(format!("http://t/x/scrape.php?k=/v&{hash}")));
    for announce in ["http://t/a", "http://t/", "http://t/announce/x", "http://t/x?/announce"] {
        assert_eq!(url(announce), None, "{announce}");
    }
}

#[test]
fn answers_have_the_bytes_of_their_beps() {
    let written = |peers| {
        let mut out = Vec::new();
        let counts = SwarmCounts { seeders: 1, leechers: 2, completed: 3 };
        let external_ip = IpAddr::from(*b"wxyz");
        write_announce(&AnnounceReply { interval: 60, min_interval: 30, counts, external_ip, peers }, &mut out);
        String::from_utf8(out).unwrap()
    };
    let head = "d8:completei1e10:downloadedi3e11:external ip4:wxyz10:incompletei2e8:intervali60e12:min intervali30e";
    assert_eq!(written(Peers::Compact { v4: b"abcdef", v6: &[] }), format!("{head}5:peers6:abcdefe"));
    let v6 = b"abcdefghijklmnopqr";
    assert_eq!(written(Peers::Compact { v4: &[], v6 }), format!("{head}5:peers0:6:peers618:abcdefghijklmnopqre"));
    let peers = [
        FullPeer { addr: "1.2.3.4:5".parse().unwrap(), peer_id: Some(PeerId([b'p'; 20])) },
        FullPeer { addr: "[2a00::1]:6".parse().unwrap(), peer_id: None },
    ];
    let full = "5:peersld2:ip7:1.2.3.47:peer id20:pppppppppppppppppppp4:porti5eed2:ip7:2a00::14:porti6eeee";
    assert_eq!(written(Peers::Full(&peers)), format!("{head}{full}"));

    let failure = |retry| {
        let mut out = Vec::new();
        write_failure("no", retry, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(failure(None), "d14:failure reason2:noe");
    assert_eq!(failure(Some(RetryIn::Minutes(5))), "d14:failure reason2:no8:retry ini5ee");
    assert_eq!(failure(Some(RetryIn::Never)), "d14:failure reason2:no8:retry in5:nevere");
}

#[test]
fn r02_intervals_of_any_kind_are_read_or_absent() {
    let interval = |value: &str| read(&format!("d8:interval{value}5:peers0:e")).interval;
    assert_eq!(interval("i1800e"), Some(1800));
    assert_eq!(interval("i0e"), Some(0));
    assert_eq!(interval("i2147483648e"), Some(1 << 31));
    assert_eq!(interval("i9223372036854775807e"), Some(u32::MAX));
    assert_eq!(interval("i-1e"), None);
    assert_eq!(interval("4:1800"), None);
    assert_eq!(read("de").interval, None);
}

#[test]
fn r03_only_machines_with_ports_come_out_and_not_too_many() {
    assert_eq!(read("d5:peers5:abcdee").peers, []);
    assert_eq!(read("d5:peers7:abcdefge").peers, ["97.98.99.100:25958".parse().unwrap()]);
    assert_eq!(read("d5:peers6:\0\0\0\0\0\x01e").peers, []);
    assert_eq!(read("d5:peers6:\x01\x02\x03\x04\0\0e").peers, []);
    let list = "d5:peersl\
        d2:ip9:localhost4:porti1ee\
        d2:ip7:1.2.3.44:porti0ee\
        d2:ip7:1.2.3.44:porti70000ee\
        d2:ip7:1.2.3.4e\
        i7e\
        d2:ip14:::ffff:1.2.3.44:porti7ee\
        d2:ip9:127.0.0.14:porti22ee\
        ee";
    let expected: Vec<std::net::SocketAddr> = vec!["1.2.3.4:7".parse().unwrap(), "127.0.0.1:22".parse().unwrap()];
    assert_eq!(read(list).peers, expected, "near ones are for the caller to judge");
    let body = [&b"d5:peers999996:"[..], &vec![1; 999_996], b"e"].concat();
    assert_eq!(Announced::decode(&body).unwrap().peers.len(), TRACKER_PEERS);
    assert_eq!(Announced::decode(&vec![b'x'; TRACKER_REPLY_BYTES + 1]), Err(ReplyError::TooLong));
}

#[test]
fn r04_a_failure_is_short_plain_and_may_name_a_time() {
    let reason = format!("\x1b[2J<b>{}", "x".repeat(1 << 19));
    let body = format!("d14:failure reason{}:{reason}8:retry ini7ee", reason.len());
    let Err(ReplyError::Refused { reason, retry }) = Announced::decode(body.as_bytes()) else {
        panic!("not refused");
    };
    assert!(reason.starts_with("\\x1b[2J<b>xxx") && reason.len() < 300);
    assert_eq!(retry, Some(RetryIn::Minutes(7)));
    let never = Announced::decode(b"d14:failure reason1:x8:retry in5:nevere");
    assert_eq!(never, Err(ReplyError::Refused { reason: "x".into(), retry: Some(RetryIn::Never) }));
    let mut out = Vec::new();
    write_failure(&"é".repeat(300), None, &mut out);
    assert!(out.len() < 300 && String::from_utf8(out).is_ok());
}

#[test]
fn r01_what_is_no_answer_is_an_error() {
    for body in ["", "<html>", "le", "i1e", "d5:peers"] {
        assert!(Announced::decode(body.as_bytes()).is_err(), "{body}");
        assert!(read_scrape(body.as_bytes()).is_err(), "{body}");
    }
    assert!(Announced::decode(b"d8:intervali9ee\r\n").is_ok());
    let lists = format!("d1:x{}{}e", "l".repeat(40), "e".repeat(40));
    assert!(Announced::decode(lists.as_bytes()).is_err());
    assert_eq!(read_scrape(b"de"), Err(ReplyError::Lacks("files")));
}

fn event() -> impl Strategy<Value = AnnounceEvent> {
    use AnnounceEvent::{Completed, Paused, Regular, Started, Stopped};
    prop::sample::select(vec![Regular, Completed, Started, Stopped, Paused])
}

proptest! {
    #[test]
    fn queries_round_trip(
        ids: ([u8; 20], [u8; 20]),
        port in 1..=u16::MAX,
        numbers: [u64; 3],
        event in event(),
        options: (Option<u32>, Option<u32>, bool, bool, Option<IpAddr>),
    ) {
        let [uploaded, downloaded, left] = numbers;
        let (num_want, key, compact, no_peer_id, ip) = options;
        let query = AnnounceQuery {
            info_hash: InfoHash(ids.0),
            peer_id: PeerId(ids.1),
            port, uploaded, downloaded, left, event, num_want, key, compact, no_peer_id, ip,
        };
        let url = query.url("http://t/announce");
        prop_assert!(url.is_ascii());
        let (_, text) = url.split_once('?').unwrap();
        prop_assert_eq!(AnnounceQuery::decode(text.as_bytes()), Ok(query));
    }

    #[test]
    fn compact_answers_round_trip(
        interval: u32,
        counts: [u32; 3],
        v4 in prop::collection::vec((1..200u8, any::<u16>()), 0..30),
        external_ip: std::net::Ipv4Addr,
    ) {
        let [seeders, leechers, completed] = counts;
        let peers: Vec<_> = v4.iter().map(|(c, port)| (std::net::Ipv4Addr::new(1, 1, *c, 1), *port | 1)).collect();
        let bytes: Vec<u8> = peers.iter().flat_map(|(ip, port)| crate::compact::v4_peer(*ip, *port)).collect();
        let reply = AnnounceReply {
            interval,
            min_interval: interval / 2,
            counts: SwarmCounts { seeders, leechers, completed },
            external_ip: external_ip.into(),
            peers: Peers::Compact { v4: &bytes, v6: &[] },
        };
        let mut out = Vec::new();
        write_announce(&reply, &mut out);
        prop_assert!(Document::decode(&out, Limits::MESSAGE).unwrap().root().is_canonical());
        let announced = Announced::decode(&out).unwrap();
        prop_assert_eq!(announced.interval, Some(interval));
        prop_assert_eq!(announced.min_interval, Some(interval / 2));
        prop_assert_eq!((announced.seeders, announced.leechers), (Some(seeders), Some(leechers)));
        prop_assert_eq!(announced.external_ip, Some(external_ip.into()));
        prop_assert_eq!(announced.peers, peers.into_iter().map(Into::into).collect::<Vec<_>>());
    }

    #[test]
    fn scrapes_round_trip(swarms in prop::collection::btree_map(any::<[u8; 20]>(), any::<[u32; 3]>(), 1..20)) {
        let swarms: Vec<_> = swarms.into_iter().map(|(hash, [seeders, leechers, completed])| {
            (InfoHash(hash), SwarmCounts { seeders, leechers, completed })
        }).collect();
        let url = scrape_url("http://t/announce", swarms.iter().map(|(hash, _)| *hash)).unwrap();
        let (_, query) = url.split_once('?').unwrap();
        prop_assert_eq!(scrape_query(query.as_bytes()).unwrap(), swarms.iter().map(|(hash, _)| *hash).collect::<Vec<_>>());
        let mut out = Vec::new();
        write_scrape(&swarms, &mut out);
        prop_assert_eq!(read_scrape(&out).unwrap(), swarms);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = AnnounceQuery::decode(&bytes);
        let _ = AnnounceQuery::decode(&[b"info_hash=".as_slice(), &bytes, b"&peer_id=%", &bytes].concat());
        let _ = scrape_query(&[b"info_hash=", &bytes[..]].concat());
        let _ = Announced::decode(&bytes);
        let _ = Announced::decode(&[b"d5:peers", &bytes[..]].concat());
        let _ = read_scrape(&bytes);
        let _ = scrape_url(&String::from_utf8_lossy(&bytes), []);
    }
}
