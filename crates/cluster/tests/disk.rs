//! What a member finds on its disk: whole, damaged, of another cluster, of another time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of it is a test")]

mod support;

use std::path::Path;
use std::time::Duration;

use obt_catalogue::{Catalogue, CatalogueError, Command, Envelope, PublishPolicy};
use obt_cluster::log::{Beginning, Identity, LogError, LogFile};
use obt_cluster::raft::Proposal;
use obt_cluster::{FatalError, Origin, StartError};
use openraft::Vote;
use support::{DEADLINE, World, id};
use tokio::time::timeout;

fn beginning() -> Beginning {
    let identity = Identity { node: 7, cluster: "c".to_owned(), joining: None };
    Beginning { identity, vote: Vote::new(41, 7), purged: None }
}

#[test]
fn f61_a_log_with_any_changed_byte_is_read_as_it_was_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft.db");
    drop(LogFile::create(&path, &beginning()).unwrap());
    let whole = std::fs::read(&path).unwrap();
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x55;
        check(folder.path(), &changed, &format!("byte {place}"));
    }
    for length in 0..whole.len() {
        if length.is_multiple_of(64) {
            check(folder.path(), &whole[..length], &format!("{length} bytes"));
        }
    }
}

/// Either it says what was stored, or it says that it cannot.
fn check(folder: &Path, bytes: &[u8], what: &str) {
    let path = folder.join("changed.db");
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("changed.db{suffix}")));
    }
    std::fs::write(&path, bytes).unwrap();
    if let Ok(file) = LogFile::open(&path) {
        assert_eq!(file.identity(), &beginning().identity, "{what}");
        assert_eq!(file.vote().unwrap(), Vote::new(41, 7), "{what}");
    }
}

#[test]
fn n08_one_process_at_a_time_and_no_log_of_a_newer_release() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft.db");
    let file = LogFile::create(&path, &beginning()).unwrap();
    assert!(matches!(LogFile::open(&path), Err(LogError::InUse)));
    drop(file);
    assert!(LogFile::create(&path, &beginning()).is_err(), "there is one");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert!(matches!(LogFile::open(&path), Err(LogError::Newer(2))));
    std::fs::write(&path, b"hello").unwrap();
    assert!(LogFile::open(&path).is_err());
    assert!(matches!(LogFile::open(&folder.path().join("none")), Err(LogError::Damaged(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_from_before_there_were_clusters_goes_on_as_one() {
    let mut world = World::new();
    let one = world.seat();
    let mut catalogue = Catalogue::open(&world.catalogue(one)).unwrap();
    let open = || Envelope::new(id(), 1, Command::SetPublishPolicy { policy: PublishPolicy::Open });
    catalogue.apply(&[open()]).unwrap();
    drop(catalogue);
    world.start(one, world.config(one, Origin::Found)).await.unwrap();
    world.publish(one, "a").await.unwrap();

    // And what is written into it while the tracker is off is taken over.
    world.kill(one).await;
    let mut catalogue = Catalogue::open(&world.catalogue(one)).unwrap();
    catalogue.apply(&[open(), open()]).unwrap();
    drop(catalogue);
    world.restart(one).await;
    world.publish(one, "b").await.unwrap();
    assert_eq!(world.names(one), 2);
    let two = world.join(one).await;
    world.agree().await;
    assert_eq!(world.names(two), 2);

    // But not where others would not know of it.
    world.kill(two).await;
    let mut catalogue = Catalogue::open(&world.catalogue(two)).unwrap();
    catalogue.apply(&[open()]).unwrap();
    drop(catalogue);
    let error = world.start(two, world.config(two, Origin::Found)).await.unwrap_err();
    assert!(error.to_string().contains("behind the cluster's back"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_a_catalogue_for_longer_than_its_patience_is_not_given_up() {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut world = World::new();
    let one = world.seat();
    let mut catalogue = Catalogue::open(&world.catalogue(one)).unwrap();
    let open = Envelope::new(id(), 1, Command::SetPublishPolicy { policy: PublishPolicy::Open });
    catalogue.apply(&[open]).unwrap();
    drop(catalogue);
    // What was there before its log began comes to others in one piece.
    world.start(one, world.config(one, Origin::Found)).await.unwrap();
    world.publish(one, "a").await.unwrap();
    let line = world.at(one).invite(Duration::from_secs(60)).await.unwrap();
    let two = world.seat();
    world.set_delay(Duration::from_millis(10));
    world.start(two, world.config(two, Origin::Join(line))).await.unwrap();
    let joiner = world.at(two);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let busy = tokio::spawn({
        let joiner = joiner.clone();
        async move { joiner.work(move |_| held.recv().is_err()).await }
    });
    let mut joined = tokio::spawn(async move { joiner.joined(PATIENCE).await });
    assert!(timeout(4 * PATIENCE, &mut joined).await.is_err(), "it waits for its own disk");
    drop(release);
    timeout(DEADLINE, joined).await.unwrap().unwrap().unwrap();
    busy.await.unwrap();
    assert_eq!(world.names(two), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f64_a_member_whose_log_is_gone_does_not_go_on() {
    let mut world = World::of(3).await;
    world.open_to_all(0).await;
    world.publish(0, "a").await.unwrap();
    world.agree().await;
    let config = world.config(1, Origin::Found);
    let node = world.at(1).node();
    world.kill(1).await;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", config.log.display()));
    }
    let error = world.start(1, config.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::Mismatch(_)) && error.to_string().contains("this member's vote"), "{error}");
    let error = world.start(1, obt_cluster::Config { origin: Origin::Join(String::new()), ..config.clone() }).await;
    assert!(matches!(error, Err(StartError::JoinLine)));
    let line = world.at(0).invite(Duration::from_secs(9)).await.unwrap();
    let error = world.start(1, obt_cluster::Config { origin: Origin::Join(line), ..config.clone() }).await;
    assert!(error.unwrap_err().to_string().contains("holds names already"));

    // Where it is all that is left, an operator may say so: another cluster with the same names.
    let old = world.at(0).cluster_id().to_owned();
    world.kill(0).await;
    world.kill(2).await;
    let recovered = obt_cluster::recover(&config.catalogue, &config.log, config.member.clone()).unwrap();
    assert!(recovered.log_lost.is_some());
    world.start(1, config).await.unwrap();
    assert_eq!(world.at(1).cluster_id(), recovered.cluster);
    assert_ne!((world.at(1).cluster_id(), world.at(1).node()), (old.as_str(), node));
    world.publish(1, "b").await.unwrap();
    assert_eq!(world.names(1), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_left_of_three_is_recovered_with_all_that_its_log_says() {
    let mut world = World::of(3).await;
    world.open_to_all(0).await;
    world.publish(0, "a").await.unwrap();
    world.agree().await;
    world.kill(1).await;
    world.publish(0, "b").await.unwrap();
    world.publish(2, "c").await.unwrap();
    let config = world.config(2, Origin::Found);
    let running = obt_cluster::recover(&config.catalogue, &config.log, config.member.clone());
    assert!(matches!(running, Err(StartError::Log(LogError::InUse))), "{running:?}");
    world.kill(0).await;
    world.kill(2).await;

    // An entry that is in its log and not in its catalogue: what a power cut leaves of one that was just acknowledged.
    let command = Command::SetPublishPolicy { policy: PublishPolicy::Keys };
    append(&config.log, &Envelope::new(id(), 1, command));

    let recovered = obt_cluster::recover(&config.catalogue, &config.log, config.member.clone()).unwrap();
    assert!(recovered.replayed > 0 && recovered.log_lost.is_none(), "{recovered:?}");
    let catalogue = obt_catalogue::Reader::open(&config.catalogue).unwrap();
    assert_eq!(catalogue.publish_policy().unwrap(), PublishPolicy::Keys);
    drop(catalogue);
    assert!(config.log.with_extension("db.lost").exists());

    world.start(2, config).await.unwrap();
    world.open_to_all(2).await;
    world.publish(2, "d").await.unwrap();
    assert_eq!(world.names(2), 4);
    let joined = world.join(2).await;
    world.agree().await;
    assert_eq!(world.names(joined), 4);
}

/// Appends an entry with one command to a log that nobody has open.
fn append(log: &Path, command: &Envelope) {
    let log = rusqlite::Connection::open(log).unwrap();
    let index: i64 = log.query_row("SELECT max(idx) + 1 FROM log", [], |row| row.get(0)).unwrap();
    let text = String::from_utf8(command.encode().unwrap()).unwrap();
    let entry: openraft::Entry<obt_cluster::raft::TypeConfig> = openraft::Entry {
        log_id: openraft::LogId::new(openraft::LeaderId::new(99, 1), index.unsigned_abs()),
        payload: openraft::EntryPayload::Normal(Proposal::Catalogue(vec![text])),
    };
    let bytes = serde_json::to_vec(&entry).unwrap();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&index.to_be_bytes());
    crc.update(&bytes);
    log.execute("INSERT INTO log (idx, bytes, crc) VALUES (?1, ?2, ?3)", (index, bytes, crc.finalize())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn n06_an_entry_of_a_newer_release_stops_a_member_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue");
    let stopped = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&stopped);
    let fatal = obt_cluster::FatalHook::new(move |error| seen.lock().unwrap().push(error.clone()));
    let catalogue = Catalogue::open(&path).unwrap();
    let (mut machine, _) =
        obt_cluster::machine::Machine::start(catalogue, &path, std::sync::Arc::new(|_| ()), fatal).unwrap();
    let open = Envelope::new(id(), 1, Command::SetPublishPolicy { policy: PublishPolicy::Open });
    let good = String::from_utf8(open.encode().unwrap()).unwrap();
    let entry = |index, proposal| openraft::Entry {
        log_id: openraft::LogId::new(openraft::LeaderId::new(1, 1), index),
        payload: openraft::EntryPayload::Normal(proposal),
    };
    let newer = r#"{"format":999,"id":"??","command":"unheard of"}"#.to_owned();
    let entries = vec![
        entry(0, Proposal::Catalogue(vec![good.clone()])),
        entry(1, Proposal::Catalogue(vec![good.clone(), newer])),
        entry(2, Proposal::Catalogue(vec![good.clone()])),
    ];
    use openraft::storage::RaftStateMachine as _;
    assert!(machine.apply(entries).await.is_err());
    assert!(machine.apply(vec![entry(2, Proposal::Catalogue(vec![good]))]).await.is_err(), "not after it either");
    let stopped = stopped.lock().unwrap();
    let [FatalError::NewerEntry { index: 1, cause }] = stopped.as_slice() else { panic!("{stopped:?}") };
    assert!(matches!(**cause, CatalogueError::NewerFormat { format: 999 }));
    let applied = obt_catalogue::Reader::open(&path).unwrap().applied().unwrap();
    assert_eq!(applied.entry, 1, "what came before it is there");
}
