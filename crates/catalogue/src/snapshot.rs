//! A catalogue as one file that can travel, and taking its place over.
//!
//! A copy is made by SQLite's online backup, so writers and readers go on meanwhile. It takes over the same way: all
//! pages become one transaction of the live file, so a crash leaves the old catalogue or the new one, and readers that
//! are in the middle of an answer finish it on the old one.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::apply::{Applied, Catalogue};
use crate::blobs::BlobHash;
use crate::error::CatalogueError;
use crate::query::Reader;
use crate::schema;

/// Pages in one step of a copy to a file: other threads of this process get the disk between two of them.
const STEP_PAGES: std::ffi::c_int = 4_096;

/// What a copy holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// How far its log is applied.
    pub applied: Applied,
    /// [`Reader::digest`] of it.
    pub digest: [u8; 32],
}

impl Reader {
    /// Writes a copy of the catalogue, as of one moment, to a file that is not there yet. It is not synced.
    ///
    /// # Errors
    /// Those of either file.
    pub fn copy_to(&self, path: &Path) -> Result<Copied, CatalogueError> {
        // One read transaction around the steps: changes made meanwhile would have the copy start again. It begins with
        // something that is read, and not before: a copy that began it would end it, and be of another entry than is said.
        self.snapshot(|reader| {
            let applied = reader.applied()?;
            let mut to = Connection::open(path)?;
            to.busy_timeout(schema::BUSY)?;
            {
                let backup = Backup::new(&reader.connection, &mut to)?;
                run(&backup, STEP_PAGES)?;
            }
            // Without this the copy would want a write-ahead log beside it even to be read.
            to.pragma_update(None, "journal_mode", "DELETE")?;
            Ok(Copied { applied, digest: reader.digest()? })
        })
    }

    /// Blobs that some version names and that are not here, at most `most` of them.
    ///
    /// # Errors
    /// Those of the file.
    pub fn missing_blobs(&self, most: u32) -> Result<Vec<BlobHash>, CatalogueError> {
        let mut select = self.connection.prepare_cached(
            "SELECT DISTINCT blob FROM version
             WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.hash = version.blob) LIMIT ?1",
        )?;
        let missing = select.query_map([most], |row| row.get(0).map(BlobHash))?;
        Ok(missing.collect::<Result<_, _>>()?)
    }
}

/// Whether the file at `path` is a whole catalogue, and what it holds. It reads all of it.
///
/// # Errors
/// [`CatalogueError::NotCatalogue`], [`CatalogueError::OlderSchema`] and [`CatalogueError::NewerSchema`] for files of
/// others, [`CatalogueError::Damaged`] for what SQLite finds broken; else SQLite's.
pub fn examine(path: &Path) -> Result<Copied, CatalogueError> {
    let reader = Reader::open(path)?;
    let verdict: String = reader.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(CatalogueError::Damaged("SQLite finds its pages inconsistent"));
    }
    Ok(Copied { applied: reader.applied()?, digest: reader.digest()? })
}

impl Catalogue {
    /// Becomes the catalogue at `path`, durably, in one transaction. What stands beside the log stays: blobs that only
    /// this replica has are added to those of the copy, and downloads are those counted here. The copy is changed by
    /// that, and of no use afterwards.
    ///
    /// # Errors
    /// Those of either file; then this catalogue is as it was.
    pub fn become_copy(&mut self, path: &Path) -> Result<(), CatalogueError> {
        let mut copy = Connection::open(path)?;
        copy.busy_timeout(schema::BUSY)?;
        self.carry_over(&mut copy)?;
        let backup = Backup::new(&copy, self.connection())?;
        run(&backup, -1)?;
        drop(backup);
        schema::check(self.connection())
    }

    /// Puts into the copy what this replica has beside the log.
    fn carry_over(&self, copy: &mut Connection) -> Result<(), CatalogueError> {
        // It is thrown away after a crash.
        copy.pragma_update(None, "synchronous", "OFF")?;
        let transaction = copy.transaction()?;
        {
            let mut has = transaction.prepare("SELECT 1 FROM blob WHERE hash = ?1")?;
            let mut insert = transaction.prepare("INSERT INTO blob (hash, stored_ms, bytes) VALUES (?1, ?2, ?3)")?;
            let mut own = self.connection.prepare("SELECT hash, stored_ms FROM blob")?;
            let mut bytes = self.connection.prepare("SELECT bytes FROM blob WHERE hash = ?1")?;
            let mut rows = own.query([])?;
            while let Some(row) = rows.next()? {
                let hash: [u8; 32] = row.get(0)?;
                if !has.exists([hash])? {
                    let bytes: Vec<u8> = bytes.query_row([hash], |row| row.get(0))?;
                    insert.execute((hash, row.get::<_, i64>(1)?, bytes))?;
                }
            }
            transaction.execute("DELETE FROM completed", [])?;
            let mut insert = transaction.prepare("INSERT INTO completed (info_hash, downloads) VALUES (?1, ?2)")?;
            let mut own = self.connection.prepare("SELECT info_hash, downloads FROM completed")?;
            let mut rows = own.query([])?;
            while let Some(row) = rows.next()? {
                insert.execute((row.get::<_, [u8; 20]>(0)?, row.get::<_, i64>(1)?))?;
            }
        }
        Ok(transaction.commit()?)
    }
}

fn run(backup: &Backup<'_, '_>, pages: std::ffi::c_int) -> Result<(), CatalogueError> {
    loop {
        match backup.step(pages)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => return Err(CatalogueError::Damaged("another process does not let go of its file")),
        }
    }
}
