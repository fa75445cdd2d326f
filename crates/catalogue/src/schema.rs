//! The tables of the catalogue's file, and the settings under which it is opened.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::CatalogueError;
use crate::lookalikes::skeleton;

/// "obtc": tells a catalogue from other SQLite files.
const APPLICATION_ID: i64 = 0x6f62_7463;
/// Counts up with every change of [`TABLES`]; [`migrate`] brings older files here.
const SCHEMA: i64 = 2;
/// How long a second writer (`obt tracker key add` beside a running tracker) waits for its turn.
pub(crate) const BUSY: Duration = Duration::from_secs(5);
/// The write-ahead log's file is cut to this once what is in it has reached the catalogue's, bytes.
const LOG_FILE_BYTES: i64 = 64 << 20;
/// Pages that a writer keeps in memory, KiB. A name changes a page of each of eight indices: the upper pages of those of a
/// million names, 4 MiB, and what sixty publishers change in one transaction fit.
const WRITER_CACHE_KIB: i64 = 8 << 10;
/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 64;

/// The `search` tables follow from `name` and may be rebuilt; `blob` and `completed` are filled beside the log.
/// Everything else is a function of the commands alone.
const TABLES: &str = "
CREATE TABLE applied (
    id       INTEGER PRIMARY KEY CHECK (id = 0),
    entry    INTEGER NOT NULL,
    position BLOB NOT NULL
) STRICT;
INSERT INTO applied VALUES (0, 0, x'');

CREATE TABLE policy (
    id      INTEGER PRIMARY KEY CHECK (id = 0),
    publish TEXT NOT NULL CHECK (publish IN ('keys', 'open'))
) STRICT;
INSERT INTO policy VALUES (0, 'keys');

CREATE TABLE publisher (
    key         BLOB PRIMARY KEY CHECK (length(key) = 32),
    standing    TEXT NOT NULL CHECK (standing IN ('listed', 'unlisted', 'revoked')),
    label       TEXT NOT NULL,
    names_quota INTEGER,
    names       INTEGER NOT NULL,
    versions    INTEGER NOT NULL,
    since_ms    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE name (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    owner    BLOB NOT NULL REFERENCES publisher (key),
    counter  INTEGER NOT NULL,
    newest   INTEGER,
    since_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE version (
    name         INTEGER NOT NULL REFERENCES name (id),
    number       INTEGER NOT NULL,
    v1           BLOB CHECK (length(v1) = 20),
    v2           BLOB CHECK (length(v2) = 32),
    size         INTEGER NOT NULL,
    files        INTEGER NOT NULL,
    layout       TEXT NOT NULL CHECK (layout IN ('file', 'folder')),
    piece_length INTEGER NOT NULL,
    blob         BLOB NOT NULL CHECK (length(blob) = 32),
    publisher    BLOB NOT NULL REFERENCES publisher (key),
    published_ms INTEGER NOT NULL,
    PRIMARY KEY (name, number),
    CHECK (v1 IS NOT NULL OR v2 IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX version_by_v1 ON version (v1) WHERE v1 IS NOT NULL;
CREATE INDEX version_by_v2 ON version (v2) WHERE v2 IS NOT NULL;
CREATE INDEX version_by_blob ON version (blob);

CREATE TABLE departure (
    info_hash BLOB PRIMARY KEY CHECK (length(info_hash) = 20),
    holder    TEXT NOT NULL,
    at_ms     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE seen (
    id      BLOB PRIMARY KEY CHECK (length(id) = 16),
    at_ms   INTEGER NOT NULL,
    outcome TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_by_time ON seen (at_ms);

CREATE TABLE search (
    id       INTEGER PRIMARY KEY REFERENCES name (id),
    folded   TEXT NOT NULL,
    skeleton TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX search_by_skeleton ON search (skeleton);
CREATE VIRTUAL TABLE search_grams USING fts5 (
    folded, content = 'search', content_rowid = 'id', tokenize = 'trigram case_sensitive 1'
);
CREATE VIRTUAL TABLE search_terms USING fts5vocab ('search_grams', 'row');

CREATE TABLE completed (
    info_hash BLOB PRIMARY KEY CHECK (length(info_hash) = 20),
    downloads INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE blob (
    hash      BLOB PRIMARY KEY CHECK (length(hash) = 32),
    stored_ms INTEGER NOT NULL,
    bytes     BLOB NOT NULL
) STRICT;
";

/// Indices that older releases do not make: made where they are missing, and of no other consequence than speed.
const INDICES: &str = "CREATE INDEX IF NOT EXISTS name_withdrawn ON name (id) WHERE newest IS NULL";

/// Every table that replicas must agree on, with the order in which its rows are compared.
pub(crate) const REPLICATED: [(&str, &str); 7] = [
    ("applied", "id"),
    ("policy", "id"),
    ("publisher", "key"),
    ("name", "id"),
    ("version", "name, number"),
    ("departure", "info_hash"),
    ("seen", "id"),
];

/// A connection that may write. Makes file and tables where there are none.
pub(crate) fn open(path: &Path) -> Result<Connection, CatalogueError> {
    let mut connection = Connection::open(path)?;
    settings(&connection)?;
    // A committed name must survive a power cut: FULL also syncs the write-ahead log at each commit.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A copy that takes over goes through the write-ahead log as a whole, whose file would stay as long for good.
    connection.pragma_update(None, "journal_size_limit", LOG_FILE_BYTES)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    create(&mut connection)?;
    Ok(connection)
}

/// A catalogue without a file.
pub(crate) fn open_in_memory() -> Result<Connection, CatalogueError> {
    let mut connection = Connection::open_in_memory()?;
    settings(&connection)?;
    create(&mut connection)?;
    Ok(connection)
}

/// A connection to an existing file that cannot write.
pub(crate) fn open_read_only(path: &Path) -> Result<Connection, CatalogueError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    settings(&connection)?;
    check(&connection)?;
    Ok(connection)
}

fn settings(connection: &Connection) -> Result<(), CatalogueError> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", true)?;
    // A file that somebody else prepared must not run its own functions from triggers or views.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}

fn create(connection: &mut Connection) -> Result<(), CatalogueError> {
    // Immediate, so that of two that open a new file at once the second finds the tables of the first.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    } else {
        migrate(&transaction)?;
        check(&transaction)?;
    }
    transaction.execute_batch(INDICES)?;
    transaction.commit()?;
    Ok(())
}

/// Brings a file of an earlier release to [`SCHEMA`].
fn migrate(transaction: &Transaction<'_>) -> Result<(), CatalogueError> {
    if number(transaction, "application_id")? != APPLICATION_ID || number(transaction, "user_version")? != 1 {
        return Ok(());
    }
    transaction.execute_batch(
        "ALTER TABLE search ADD COLUMN skeleton TEXT NOT NULL DEFAULT '';
         CREATE INDEX search_by_skeleton ON search (skeleton);",
    )?;
    let mut update = transaction.prepare("UPDATE search SET skeleton = ?2 WHERE id = ?1")?;
    let mut select = transaction.prepare("SELECT id, name FROM name")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        update.execute((row.get::<_, i64>(0)?, skeleton(&row.get::<_, String>(1)?)))?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    Ok(())
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

pub(crate) fn check(connection: &Connection) -> Result<(), CatalogueError> {
    if number(connection, "application_id")? != APPLICATION_ID {
        return Err(CatalogueError::NotCatalogue);
    }
    match number(connection, "user_version")? {
        SCHEMA => Ok(()),
        schema if schema < SCHEMA => Err(CatalogueError::OlderSchema { schema }),
        schema => Err(CatalogueError::NewerSchema { schema }),
    }
}
