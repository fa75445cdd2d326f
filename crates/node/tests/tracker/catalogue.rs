//! Names over HTTP: publishing, finding, withdrawing, exporting.

use std::sync::Arc;

use obt_catalogue::signing::Keypair;
use obt_catalogue::{Catalogue, Command, CommandId, Envelope, NameArgument, Publish};
use obt_node::config::{NodeConfig, PeerListen, PeerPort};
use obt_node::disk::{OnExisting, Selection};
use obt_node::node::Node;
use obt_node::requester::{find, supply};
use obt_node::torrent::{AddTorrent, Afterwards, LocalAddresses, Place, Source, TrackerUrl};
use obt_node::tracker_client::{Replace, TrackerAddress, TrackerClient};
use obt_wire::magnet::Magnet;
use obt_wire::metainfo::Metainfo;
use serde_json::json;

use super::support::{PATIENCE, Tracker, file, folder, hybrid, sign};

#[tokio::test]
async fn what_is_published_is_found_shown_and_listed() {
    let tracker = Tracker::start().await;
    let torrent = folder("Some Films", &[("a/one.mkv", 20_000), ("two.mkv", 5)]);
    let published = tracker.publish("Some%20Films", &torrent).await;
    assert_eq!(published.status, 201);
    assert_eq!(published.json(), json!({"name": "Some Films", "version": 1, "existed": false}));
    let again = tracker.publish("Some%20Films", &torrent).await;
    assert_eq!((again.status, again.json()["existed"].as_bool()), (200, Some(true)));

    let item = tracker.get("/api/v1/items/Some%20Films").await.json();
    assert_eq!(item["name"], "Some Films");
    assert_eq!(item["size"], 20_005);
    assert_eq!(item["files"], json!([{"path": "a/one.mkv", "size": 20_000}, {"path": "two.mkv", "size": 5}]));
    assert_eq!(item["info_hash_v1"], torrent.info.hashes.v1.unwrap().to_string());
    assert_eq!(item["publisher"], tracker.server.publisher().public().to_string());
    assert_eq!((item["holders"].as_u64(), item["downloaders"].as_u64()), (Some(0), Some(0)));
    assert_eq!(item["published_at"].as_str().map(str::len), Some("2026-01-01T00:00:00Z".len()));

    let found = tracker.get("/api/v1/items?q=films%20some").await.json();
    assert_eq!(found["items"][0]["name"], "Some Films");
    assert_eq!(found["items"][0]["file_count"], 2);
    assert_eq!(tracker.get("/api/v1/items?q=other").await.json(), json!({"items": []}));
}

#[tokio::test]
async fn a_crowd_that_can_have_a_long_torrent_from_each_other_is_told_to() {
    let tracker = Tracker::start().await;
    assert_eq!(tracker.publish("long", &file("long", 40 << 20, 1)).await.status, 201);
    assert_eq!(tracker.publish("short", &file("short", 5, 1)).await.status, 201);
    let client = TrackerClient::new(TrackerAddress::new("127.0.0.1", tracker.server.port()).unwrap());
    let long = "long".parse().unwrap();
    let newest = obt_catalogue::Selector::Newest;
    // Two seconds may pass between any two, and then four more are given.
    let given = async {
        let mut given = 0;
        while client.torrent_if_few_want_it(&long, &newest).await.unwrap().is_some() {
            given += 1;
        }
        given
    };
    assert!(tokio::time::timeout(PATIENCE, given).await.unwrap() >= 4);
    assert_eq!(tracker.get("/items/long.torrent").await.status, 200, "whoever cannot gets it");
    assert_eq!(tracker.get("/items/long.torrent?patient=maybe").await.status, 200);
    for _ in 0..9 {
        assert_eq!(tracker.get("/items/short.torrent?patient=1").await.status, 200);
    }
}

#[tokio::test]
async fn who_waits_for_a_torrent_that_nobody_passes_on_has_it_from_the_tracker() {
    let tracker = Tracker::start().await;
    assert_eq!(tracker.publish("long", &file("long", 40 << 20, 1)).await.status, 201);
    let address = TrackerAddress::new("127.0.0.1", tracker.server.port()).unwrap();
    let client = TrackerClient::new(address.clone());
    let found = find(&client, &NameArgument::parse("long").unwrap()).await.unwrap();
    let node = Node::start(NodeConfig {
        listen: PeerListen { addr: None, port: PeerPort::Exactly(0) },
        ..NodeConfig::default()
    });
    let node = node.await.unwrap();
    let place = Place {
        folder: tracker.folder.path().to_owned(),
        name: None,
        selection: Selection::All,
        on_existing: OnExisting::Refuse,
    };
    let handle = node.add(AddTorrent {
        source: Source::Awaited { hashes: found.hashes, place },
        trackers: vec![TrackerUrl { url: format!("obt://{address}"), tier: 0 }],
        peers: Vec::new(),
        local_addresses: LocalAddresses::Allowed,
        afterwards: Afterwards::Stop,
    });
    let handle = handle.unwrap();
    for _ in 0..4 {
        client.torrent_if_few_want_it(&found.name, &obt_catalogue::Selector::Newest).await.unwrap();
    }
    tokio::time::timeout(PATIENCE, supply(&client, &found, &handle)).await.unwrap().unwrap();
    let known = tokio::time::timeout(PATIENCE, handle.known()).await.unwrap();
    assert_eq!(known.unwrap().info.hashes, found.hashes);
    node.shutdown().await;
}

#[tokio::test]
async fn many_names_are_looked_up_with_one_question() {
    let tracker = Tracker::start().await;
    for (name, seed) in [("a", 1), ("b", 2)] {
        assert_eq!(tracker.publish(name, &file(name, 5, seed)).await.status, 201);
    }
    let ask = async |names: serde_json::Value| {
        let body = json!({ "names": names }).to_string();
        tracker.send("POST", "/api/v1/items", &[("Content-Type", "application/json")], body.as_bytes()).await
    };
    let found = ask(json!(["b", "missing", "a"])).await.json();
    let names: Vec<&str> =
        found["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(found["items"][0]["version"], 1);
    assert_eq!(ask(json!([])).await.json(), json!({"items": []}));
    assert_eq!(ask(json!(["../a"])).await.error(), (400, "bad_name".to_owned()));
    assert_eq!(ask(json!(vec!["a"; 1_001])).await.error(), (400, "bad_request".to_owned()));
    assert_eq!(ask(json!("a")).await.error(), (400, "bad_request".to_owned()));
    let long = tracker.send("POST", "/api/v1/items", &[], &vec![b' '; (2 << 20) + 1]).await;
    assert_eq!(long.error(), (400, "bad_request".to_owned()));
}

#[tokio::test]
async fn our_own_client_understands_our_own_server() {
    let tracker = Tracker::start().await;
    let client = TrackerClient::new(TrackerAddress::new("127.0.0.1", tracker.server.port()).unwrap());
    let key = tracker.server.publisher();
    let name = "shows/s1: é@2".parse().unwrap();
    let (one, two) = (file("one", 5, 1), file("two", 5, 2));
    let publish = async |torrent: &Metainfo, replace| client.publish(&name, &torrent.to_parts(), replace, key).await;
    assert_eq!(publish(&one, Replace::No).await.unwrap().version, 1);
    assert!(publish(&two, Replace::No).await.is_err());
    assert_eq!(publish(&two, Replace::Yes).await.unwrap().version, 2);
    let newest = client.item(&name, &obt_catalogue::Selector::Newest).await.unwrap().unwrap();
    assert_eq!((newest.name.as_str(), newest.version, newest.versions.len()), (name.as_str(), 2, 1));
    assert_eq!((newest.file_count, newest.files.len()), (1, 0), "nobody needs the list");
    let first = client.item(&name, &obt_catalogue::Selector::Version(1)).await.unwrap().unwrap();
    assert_eq!((first.version, first.newest), (1, Some(2)));
    let torrent = client.torrent(&name, &obt_catalogue::Selector::Version(1)).await.unwrap();
    assert_eq!(Metainfo::parse(&torrent).unwrap().info, one.info);
    assert_eq!(client.find("É", 10).await.unwrap().len(), 1);
    assert_eq!(client.status().await.unwrap().names, 1);
    assert_eq!(client.peers().await.unwrap().peers, []);
    client.withdraw(&name, key).await.unwrap();
    assert_eq!(client.item(&name, &obt_catalogue::Selector::Newest).await.unwrap(), None);
}

#[tokio::test]
async fn q04_only_signed_requests_of_keys_that_may_publish_count_and_each_once() {
    let tracker = Tracker::start().await;
    let body = file("a", 5, 1).to_bytes();
    let path = "/api/v1/items/a";
    let unauthorized = (401, "unauthorized".to_owned());
    let unsigned = tracker.send("PUT", path, &[], &body).await;
    assert_eq!(unsigned.error(), unauthorized);
    assert_eq!(unsigned.header("www-authenticate"), Some("obt-ed25519"));
    let stranger = Keypair::from_seed(&[9; 32]);
    let refused = tracker.signed("PUT", path, &body, &stranger).await;
    assert_eq!(refused.error(), (403, "forbidden".to_owned()));
    assert!(refused.json()["error"]["hint"].as_str().unwrap().contains(&stranger.public().to_string()));

    let key = tracker.server.publisher();
    let header = sign("PUT", path, &body, key);
    for (method, path, body) in
        [("PUT", "/api/v1/items/b", &body[..]), ("DELETE", path, &body[..]), ("PUT", path, b"other")]
    {
        assert_eq!(tracker.send(method, path, &[("Authorization", &header)], body).await.error(), unauthorized);
    }
    assert_eq!(tracker.send("PUT", path, &[("Authorization", &header)], &body).await.status, 201);
    let replayed = tracker.send("PUT", path, &[("Authorization", &header)], &body).await;
    assert_eq!(replayed.error(), unauthorized);
    assert!(replayed.text().contains("used before"));
    assert_eq!(tracker.send("PUT", path, &[("Authorization", "Basic YTpi")], &body).await.error(), unauthorized);
}

#[tokio::test]
async fn q03_who_publishes_too_fast_is_told_when_to_go_on_and_our_own_client_does() {
    let tracker = Tracker::start().await;
    let guest = Keypair::from_seed(&[3; 32]);
    tracker.server.operator().add_key(guest.public(), "guest").await.unwrap();
    let body = file("a", 5, 1).to_bytes();
    let mut refused = None;
    for number in 0..150 {
        let answer = tracker.signed("PUT", &format!("/api/v1/items/{number}"), &body, &guest).await;
        if answer.status != 201 {
            refused = Some((number, answer));
            break;
        }
    }
    let (number, answer) = refused.expect("an end of the burst");
    assert!(number >= 100, "{number}");
    assert_eq!(answer.error(), (429, "too_fast".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.json()["error"]["hint"].as_str().unwrap().contains("1 s"), "{}", answer.text());
    // Where this machine is slow, one more may be due already.
    let mut refused = false;
    for number in 0..50 {
        let withdrawn = tracker.signed("DELETE", &format!("/api/v1/items/{number}"), b"", &guest).await;
        refused |= withdrawn.status == 429;
    }
    assert!(refused, "a withdrawal is a change too");
    assert_eq!(tracker.publish("own", &file("a", 5, 1)).await.status, 201, "this machine's own key is not held up");

    let client = TrackerClient::new(TrackerAddress::new("127.0.0.1", tracker.server.port()).unwrap());
    for number in 0..15 {
        let name = format!("patient {number}").parse().unwrap();
        let published = client.publish(&name, &[body.clone().into()], Replace::No, &guest).await.unwrap();
        assert_eq!(published.version, 1);
    }
}

#[tokio::test]
async fn q07_many_lists_of_many_names_come_in_pages() {
    let tracker = Tracker::start().await;
    let key = tracker.server.publisher().clone();
    tracker.publish("first", &file("a", 5, 1)).await;
    // So many at once are put there while it is away; a tracker alone takes them over.
    let folder = Arc::clone(&tracker.folder);
    tracker.server.shutdown().await;
    let mut catalogue = Catalogue::open(&folder.path().join("state/catalogue.sqlite")).unwrap();
    let content = catalogue.versions(&"first".parse().unwrap()).unwrap().remove(0).content;
    let publish = |number: u128| {
        let name = format!("item {number:05}").parse().unwrap();
        let publish =
            Publish { name, content: content.clone(), key: key.public(), replace: obt_catalogue::Replace::No };
        Envelope::new(CommandId(number.to_be_bytes()), 1, Command::Publish(publish))
    };
    catalogue.apply(&(1..=5_000).map(publish).collect::<Vec<_>>()).unwrap();
    drop(catalogue);
    let tracker = Tracker::start_in(folder, None).await;

    let lists = (0..50).map(|_| tracker.get("/api/v1/items?q=item&limit=1000000000"));
    for list in futures_util::future::join_all(lists).await {
        assert_eq!((list.status, list.json()["items"].as_array().unwrap().len()), (200, 100));
    }
    let client = TrackerClient::new(TrackerAddress::new("127.0.0.1", tracker.server.port()).unwrap());
    let all = client.find("item", usize::MAX).await.unwrap();
    let names: Vec<String> = all.into_iter().map(|item| item.name).collect();
    assert_eq!(names, (1..=5_000).map(|number| format!("item {number:05}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn q05_names_that_look_like_others_come_with_a_warning() {
    let tracker = Tracker::start().await;
    let first = tracker.publish("Ubuntu", &file("a", 5, 1)).await;
    assert_eq!(first.json().get("similar"), None);
    let other = tracker.publish("ub%D1%83ntu", &file("a", 5, 2)).await;
    assert_eq!(other.json().get("similar"), None, "that letter looks like a y");
    let published = tracker.publish("UBU%D0%9FTU", &file("a", 5, 3)).await;
    assert_eq!(published.json()["similar"], json!(["Ubuntu"]));
    let item = tracker.get("/api/v1/items/Ubuntu").await.json();
    assert_eq!(item["similar"], json!(["UBU\u{41f}TU"]));
    let found = tracker.get("/api/v1/items?q=").await.json();
    let similar: Vec<_> = found["items"].as_array().unwrap().iter().map(|item| item["similar"].clone()).collect();
    assert_eq!(similar, [json!(["Ubuntu"]), json!(["UBU\u{41f}TU"]), json!(null)]);
}

#[tokio::test]
async fn q03_conflicts_say_whose_the_name_is_and_what_to_do() {
    let tracker = Tracker::start().await;
    tracker.publish("a", &file("a", 5, 1)).await;
    let exists = tracker.publish("a", &file("a", 5, 2)).await;
    assert_eq!(exists.error(), (409, "exists".to_owned()));
    assert!(exists.json()["error"]["hint"].as_str().unwrap().contains("--replace"));
    let replaced = tracker.publish("a?replace=true", &file("a", 5, 2)).await;
    assert_eq!((replaced.status, replaced.json()["version"].as_u64()), (201, Some(2)));

    let other = Keypair::from_seed(&[9; 32]);
    tracker.server.operator().add_key(other.public(), "guest").await.unwrap();
    let owned = tracker.signed("PUT", "/api/v1/items/a", &file("a", 5, 3).to_bytes(), &other).await;
    assert_eq!(owned.error(), (409, "owned".to_owned()));
    assert_eq!(owned.json()["error"]["owner"], tracker.server.publisher().public().to_string());
    let withdrawn = tracker.signed("DELETE", "/api/v1/items/a", b"", &other).await;
    assert_eq!(withdrawn.error(), (409, "owned".to_owned()));
}

#[tokio::test]
async fn q03_what_is_no_name_or_no_torrent_is_not_published() {
    let tracker = Tracker::start().await;
    let torrent = file("a", 5, 1);
    for name in ["a/../b", "%2e%2e/a", "a%1b%5d0;", "a//b", "a%00", "%ff", "a@0123456789ab", "a@1", &"x".repeat(1_025)]
    {
        assert_eq!(tracker.publish(name, &torrent).await.status, 400, "{name}");
    }
    let key = tracker.server.publisher();
    for body in [&b"junk"[..], b"d4:infod4:name1:aee", b"", &b"l".repeat(100_000)] {
        let refused = tracker.signed("PUT", "/api/v1/items/a", body, key).await;
        assert_eq!(refused.error(), (400, "bad_torrent".to_owned()));
    }
    let refused = tracker.publish("a?replace=maybe", &torrent).await;
    assert_eq!(refused.error(), (400, "bad_request".to_owned()));
    assert_eq!(tracker.get("/api/v1/items").await.json(), json!({"items": []}));
}

#[tokio::test]
async fn q06_withdrawing_is_for_the_owner_and_leaves_nothing_to_fetch() {
    let tracker = Tracker::start().await;
    let key = tracker.server.publisher();
    tracker.publish("a", &hybrid("a", 1)).await;
    tracker.publish("a?replace=true", &hybrid("a", 2)).await;
    assert_eq!(tracker.signed("DELETE", "/api/v1/items/a@7", b"", key).await.error().0, 404);
    let one = tracker.signed("DELETE", "/api/v1/items/a@2", b"", key).await;
    assert_eq!(one.json(), json!({"name": "a", "versions": [2]}));
    assert_eq!(tracker.get("/api/v1/items/a").await.json()["version"], 1);
    assert_eq!(tracker.signed("DELETE", "/api/v1/items/a", b"", key).await.json()["versions"], json!([1]));
    for path in ["/api/v1/items/a", "/items/a.torrent", "/items/a.magnet", "/files/a"] {
        assert_eq!(tracker.get(path).await.error(), (404, "not_found".to_owned()), "{path}");
    }
    assert_eq!(tracker.signed("DELETE", "/api/v1/items/a", b"", key).await.error().0, 404);
    assert_eq!(tracker.publish("a", &hybrid("a", 3)).await.json()["version"], 3);
}

#[tokio::test]
async fn torrents_and_magnets_lead_back_to_this_tracker_as_the_asker_knows_it() {
    let tracker = Tracker::start().await;
    let mut torrent = hybrid("a b", 1);
    torrent.trackers = vec![vec!["http://elsewhere.test/announce".to_owned()]];
    torrent.web_seeds = vec!["http://elsewhere.test/a".to_owned()];
    tracker.publish("dir/a%20b", &torrent).await;
    let here = format!("tracker.test:{}", tracker.server.port());

    let answer = tracker.get("/items/dir/a%20b.torrent").await;
    assert_eq!(answer.header("content-type"), Some("application/x-bittorrent"));
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename*=UTF-8''a%20b.torrent"));
    let exported = Metainfo::parse(&answer.body).unwrap();
    assert_eq!(exported.info, torrent.info);
    assert_eq!(exported.trackers.len(), 1, "they are one tracker");
    assert_eq!(exported.trackers[0][0], format!("http://{here}/announce"));
    let hash = torrent.info.hashes.v2.unwrap();
    assert_eq!(exported.web_seeds, [format!("http://{here}/files/dir/a%20b@{hash}")]);

    let answer = tracker.get("/items/dir/a%20b@1.magnet").await;
    let magnet = Magnet::parse(answer.text().trim_end()).unwrap();
    assert_eq!(magnet.hashes, torrent.info.hashes);
    assert_eq!((magnet.trackers, magnet.web_seeds), (exported.trackers.concat(), exported.web_seeds));

    let foreign = b"GET /items/dir/a%20b.magnet HTTP/1.1\r\nHost: <script>\r\nConnection: close\r\n\r\n";
    let answer = String::from_utf8(tracker.raw(foreign).await).unwrap();
    assert!(!answer.contains("script"), "{answer}");
}

#[tokio::test]
async fn names_keys_and_counters_outlive_the_tracker() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let tracker = Tracker::start_in(Arc::clone(&folder), None).await;
    let key = tracker.server.publisher().public();
    tracker.publish("a", &file("a", 5, 1)).await;
    tracker.server.shutdown().await;
    let tracker = Tracker::start_in(Arc::clone(&folder), None).await;
    assert_eq!(tracker.server.publisher().public(), key);
    assert_eq!(tracker.get("/api/v1/items/a").await.json()["version"], 1);
    assert_eq!(tracker.publish("a?replace=true", &file("a", 5, 2)).await.json()["version"], 2);
}

#[cfg(unix)]
#[tokio::test]
async fn the_key_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let tracker = Tracker::start().await;
    let path = tracker.folder.path().join("state/publish.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(Keypair::from_file_text(&text).unwrap().public(), tracker.server.publisher().public());
}

#[tokio::test]
async fn q02_limits_are_clamped_and_forged_cursors_refused() {
    let tracker = Tracker::start().await;
    for number in 0..3 {
        tracker.publish(&format!("item{number}"), &file("a", 5, 1)).await;
    }
    let first = tracker.get("/api/v1/items?limit=2").await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let cursor = first["cursor"].as_str().unwrap();
    let rest = tracker.get(&format!("/api/v1/items?limit=1000000000&cursor={cursor}")).await.json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(rest.get("cursor"), None);
    for query in ["limit=-1", "limit=9223372036854775808", "limit=x", "cursor=AAAA", &format!("cursor={cursor}&q=item")]
    {
        assert_eq!(tracker.get(&format!("/api/v1/items?{query}")).await.error().0, 400, "{query}");
    }
    assert_eq!(tracker.get("/api/v1/items?limit=0").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn q01_any_search_text_has_an_answer() {
    let tracker = Tracker::start().await;
    tracker.publish("100%25%20sure", &file("a", 5, 1)).await;
    for (text, found) in [
        ("%25", 1),
        ("'%3B%20DROP%20TABLE%20name", 0),
        ("%00", 0),
        ("%ff", 0),
        (".*(a%2B)%2B%24", 0),
        ("%22", 0),
        ("SURE", 1),
    ] {
        let page = tracker.get(&format!("/api/v1/items?q={text}")).await.json();
        assert_eq!(page["items"].as_array().unwrap().len(), found, "{text}");
    }
    assert_eq!(tracker.get(&format!("/api/v1/items?q={}", "x".repeat(257))).await.error().0, 400);
}
