//! Catalogue files of earlier releases.

mod support;

use obt_catalogue::{Catalogue, CatalogueError, Reader, Replace};
use rusqlite::Connection;
use support::{ALICE, Ledger, file, name, publish};

#[test]
fn a_file_of_the_first_schema_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue.sqlite");
    let mut ledger = Ledger::of(Catalogue::open(&path).unwrap());
    for text in ["Ubuntu", "other"] {
        ledger.run(publish(ALICE, text, file(1), Replace::No));
    }
    drop(ledger);
    let connection = Connection::open(&path).unwrap();
    let earlier = "DROP INDEX search_by_skeleton; ALTER TABLE search DROP COLUMN skeleton; PRAGMA user_version = 1;";
    connection.execute_batch(earlier).unwrap();
    drop(connection);

    assert!(matches!(Reader::open(&path), Err(CatalogueError::OlderSchema { schema: 1 })));
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.lookalikes(&name("UBUNTU")).unwrap(), [name("Ubuntu")]);
    assert_eq!(catalogue.search("ubu", None, 10).unwrap().entries.len(), 1);
    assert!(Reader::open(&path).is_ok());
    drop(Catalogue::open(&path).unwrap());
}
