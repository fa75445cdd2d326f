//! The file with log, vote and identity: one SQLite database, opened by one process.
//!
//! Every record carries a CRC of its own. SQLite undoes transactions that a power cut tore, so a record that does not
//! fit its CRC, is missing or cannot be read was durable once and is broken now: such a file is refused. Going on
//! without it could forget an acknowledged entry, or vote twice in a term.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::raft::{Entry, LogId, NodeId, Vote};

/// "obtr": tells a log from other SQLite files.
const APPLICATION_ID: i64 = 0x6f62_7472;
/// Counts up with every change of the tables or of what they hold.
const FORMAT: i64 = 1;

const TABLES: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    crc   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE log (
    idx   INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL,
    crc   INTEGER NOT NULL
) STRICT;
";

/// The file cannot be used. Each is a sentence that says what to do.
#[derive(Debug, Error)]
pub enum LogError {
    /// SQLite says so.
    #[error("the cluster's log cannot be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Some process has it open.
    #[error("another process uses this state directory")]
    InUse,
    /// Not a file of ours.
    #[error("this file is not a cluster's log")]
    NotLog,
    /// A later release made it.
    #[error("the cluster's log was written by a newer release (format {0}); use that release")]
    Newer(i64),
    /// What was durable is broken.
    #[error(
        "the cluster's log is damaged ({0}); this member must not vote again: remove its state directory and join the \
         cluster as a new member"
    )]
    Damaged(String),
}

/// Who this member is. In the same file as its vote, so that neither outlives the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// Its cluster, as [`ClusterState::id`](crate::state::ClusterState::id).
    pub cluster: String,
    /// The join line, until the cluster has let it in.
    pub joining: Option<String>,
}

/// What a new file starts with.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// Who.
    pub identity: Identity,
    /// The vote; the founder of a cluster has given it to itself.
    pub vote: Vote,
    /// Entries up to this one are in the catalogue and not here.
    pub purged: Option<LogId>,
}

/// The open file.
#[derive(Debug)]
pub struct LogFile {
    connection: Connection,
    identity: Identity,
}

/// The ends of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ends {
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
}

impl LogFile {
    /// Makes the file; it is durable when this returns.
    ///
    /// # Errors
    /// [`LogError::Damaged`] where there is one already; SQLite's.
    pub fn create(path: &Path, beginning: &Beginning) -> Result<Self, LogError> {
        let mut connection = connect(path)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            return Err(LogError::Damaged("there is one already".to_owned()));
        }
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        put(&transaction, "identity", &beginning.identity)?;
        put(&transaction, "vote", &beginning.vote)?;
        put(&transaction, "purged", &beginning.purged)?;
        transaction.commit()?;
        Ok(Self { connection, identity: beginning.identity.clone() })
    }

    /// Opens the file and looks at every record.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn open(path: &Path) -> Result<Self, LogError> {
        if !path.exists() {
            return Err(LogError::Damaged("it is not there".to_owned()));
        }
        let connection = connect(path)?;
        let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        if number("application_id")? != APPLICATION_ID {
            return Err(LogError::NotLog);
        }
        match number("user_version")? {
            FORMAT => {}
            newer if newer > FORMAT => return Err(LogError::Newer(newer)),
            other => return Err(LogError::Damaged(format!("its format is {other}"))),
        }
        let identity = meta(&connection, "identity")?;
        let file = Self { connection, identity };
        file.vote()?;
        file.check_entries()?;
        Ok(file)
    }

    /// Who this member is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last vote that was saved.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn vote(&self) -> Result<Vote, LogError> {
        meta(&self.connection, "vote")
    }

    fn purged(&self) -> Result<Option<LogId>, LogError> {
        meta(&self.connection, "purged")
    }

    pub(crate) fn ends(&self) -> Result<Ends, LogError> {
        let purged = self.purged()?;
        let mut select = self.connection.prepare_cached("SELECT idx, bytes, crc FROM log ORDER BY idx DESC LIMIT 1")?;
        let last = select.query_row([], |row| Ok(entry(row))).optional()?.transpose()?;
        Ok(Ends { purged, last: last.map(|entry| entry.log_id).or(purged) })
    }

    /// Entries of `[start, end)` in order, as many as there are and fit in `most_bytes`; the first one always.
    pub(crate) fn read(&self, start: u64, end: u64, most_bytes: usize) -> Result<Vec<Entry>, LogError> {
        let mut select = self
            .connection
            .prepare_cached("SELECT idx, bytes, crc FROM log WHERE idx >= ?1 AND idx < ?2 ORDER BY idx")?;
        let end = end.min(i64::MAX.unsigned_abs());
        let mut rows = select.query((start.min(end).cast_signed(), end.cast_signed()))?;
        let (mut entries, mut bytes) = (Vec::new(), 0_usize);
        while let Some(row) = rows.next()? {
            bytes = bytes.saturating_add(row.get_ref(1)?.as_blob().map_or(0, <[u8]>::len));
            if bytes > most_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry(row)?);
        }
        Ok(entries)
    }

    /// Does `changes`, with one sync for all of them.
    pub(crate) fn write(&mut self, changes: &[Change]) -> Result<(), LogError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            change.make(&transaction)?;
        }
        Ok(transaction.commit()?)
    }

    /// Notes that the cluster has let this member in.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_joined(&mut self) -> Result<(), LogError> {
        self.set_identity(Identity { joining: None, ..self.identity.clone() })
    }

    pub(crate) fn set_identity(&mut self, identity: Identity) -> Result<(), LogError> {
        self.write(&[Change::Identity(identity.clone())])?;
        self.identity = identity;
        Ok(())
    }

    /// Forgets all entries; the log goes on after `log_id`.
    pub(crate) fn begin_at(&mut self, log_id: LogId) -> Result<(), LogError> {
        self.write(&[Change::Truncate(0), Change::Purge(log_id)])
    }

    fn check_entries(&self) -> Result<(), LogError> {
        let mut next = self.purged()?.map(|purged| purged.index.saturating_add(1));
        let mut select = self.connection.prepare("SELECT idx, bytes, crc FROM log ORDER BY idx")?;
        let mut rows = select.query([]).map_err(damaged)?;
        while let Some(row) = rows.next().map_err(damaged)? {
            let index = entry(row)?.log_id.index;
            if next.is_some_and(|next| next != index) {
                return Err(LogError::Damaged(format!("entries before entry {index} are missing")));
            }
            next = Some(index.saturating_add(1));
        }
        Ok(())
    }
}

/// One change of the file.
#[derive(Debug)]
pub(crate) enum Change {
    Append(Vec<Entry>),
    Vote(Vote),
    /// Removes the entries from this one on.
    Truncate(u64),
    /// Removes the entries up to this one.
    Purge(LogId),
    Identity(Identity),
}

impl Change {
    fn make(&self, transaction: &Transaction<'_>) -> Result<(), LogError> {
        match self {
            Self::Append(entries) => {
                let mut insert =
                    transaction.prepare_cached("INSERT OR REPLACE INTO log (idx, bytes, crc) VALUES (?1, ?2, ?3)")?;
                for entry in entries {
                    let bytes = serde_json::to_vec(entry).map_err(|error| LogError::Damaged(error.to_string()))?;
                    let index = entry.log_id.index.cast_signed();
                    let crc = crc(&index.to_be_bytes(), &bytes);
                    insert.execute((index, bytes, crc))?;
                }
            }
            Self::Vote(vote) => put(transaction, "vote", vote)?,
            Self::Truncate(from) => {
                transaction.prepare_cached("DELETE FROM log WHERE idx >= ?1")?.execute([from.cast_signed()])?;
            }
            Self::Purge(upto) => {
                transaction.prepare_cached("DELETE FROM log WHERE idx <= ?1")?.execute([upto.index.cast_signed()])?;
                put(transaction, "purged", &Some(upto))?;
            }
            Self::Identity(identity) => put(transaction, "identity", identity)?,
        }
        Ok(())
    }
}

fn connect(path: &Path) -> Result<Connection, LogError> {
    let connection = Connection::open(path)?;
    let settings = || -> rusqlite::Result<()> {
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An entry or a vote that was acknowledged must survive a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        // Takes the lock of this file for as long as it is open.
        connection.execute_batch("BEGIN IMMEDIATE; COMMIT")
    };
    settings().map_err(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => LogError::InUse,
        Some(rusqlite::ErrorCode::NotADatabase) => LogError::NotLog,
        _ => damaged(error),
    })?;
    Ok(connection)
}

/// Reading what was durable fails for one reason that matters: it is broken.
fn damaged(error: rusqlite::Error) -> LogError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            LogError::Damaged(error.to_string())
        }
        _ => error.into(),
    }
}

fn crc(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

fn put<T: Serialize>(transaction: &Transaction<'_>, key: &str, value: &T) -> Result<(), LogError> {
    let bytes = serde_json::to_vec(value).map_err(|error| LogError::Damaged(error.to_string()))?;
    let crc = crc(key.as_bytes(), &bytes);
    transaction
        .prepare_cached(
            "INSERT INTO meta (key, value, crc) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value, crc = excluded.crc",
        )?
        .execute((key, bytes, crc))?;
    Ok(())
}

fn meta<T: DeserializeOwned>(connection: &Connection, key: &str) -> Result<T, LogError> {
    let broken = || LogError::Damaged(format!("its {key} cannot be read"));
    let mut select = connection.prepare_cached("SELECT value, crc FROM meta WHERE key = ?1").map_err(damaged)?;
    let found: Option<(Vec<u8>, u32)> =
        select.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(|_| broken())?;
    let (bytes, stored) = found.ok_or_else(broken)?;
    if crc(key.as_bytes(), &bytes) != stored {
        return Err(broken());
    }
    serde_json::from_slice(&bytes).map_err(|_| broken())
}

fn entry(row: &Row<'_>) -> Result<Entry, LogError> {
    let index: i64 = row.get(0)?;
    let broken = || LogError::Damaged(format!("entry {index} cannot be read"));
    let bytes = row.get_ref(1)?.as_blob().map_err(|_| broken())?;
    let stored: u32 = row.get(2).map_err(|_| broken())?;
    if crc(&index.to_be_bytes(), bytes) != stored {
        return Err(broken());
    }
    let entry: Entry = serde_json::from_slice(bytes).map_err(|_| broken())?;
    if entry.log_id.index.cast_signed() == index { Ok(entry) } else { Err(broken()) }
}
