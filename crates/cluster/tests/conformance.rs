//! openraft's own tests of a storage.
#![allow(clippy::panic, clippy::unwrap_used, reason = "all of it is a test")]

use std::path::Path;
use std::sync::Arc;

use obt_catalogue::Catalogue;
use obt_cluster::log::{Beginning, Identity, LogFile, LogStore};
use obt_cluster::machine::Machine;
use obt_cluster::raft::TypeConfig;
use obt_cluster::{FatalHook, raft};
use openraft::storage::RaftStateMachine;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{StorageError, Vote};
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<raft::NodeId>> {
        let folder = tempfile::tempdir().unwrap();
        let (log, machine) = open(folder.path());
        Ok((folder, log, machine))
    }
}

fn open(folder: &Path) -> (LogStore, Machine) {
    let identity = Identity { node: 0, cluster: "test".to_owned(), joining: None };
    let beginning = Beginning { identity, vote: Vote::default(), purged: None };
    let fatal = FatalHook::new(|error| panic!("{error}"));
    let file = LogFile::create(&folder.join("raft.db"), &beginning).unwrap();
    let log = LogStore::start(file, fatal.clone()).unwrap();
    let path = folder.join("catalogue");
    let catalogue = Catalogue::open(&path).unwrap();
    let (machine, _) = Machine::start(catalogue, &path, Arc::new(|_| ()), fatal).unwrap();
    (log, machine)
}

#[test]
fn the_storage_passes_openrafts_suite() {
    Suite::test_all(Builder).unwrap();
}

#[tokio::test]
async fn an_empty_machine_has_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let (_log, mut machine) = open(folder.path());
    assert!(machine.get_current_snapshot().await.unwrap().is_none());
}
