//! The cleaned .torrent files, each under the SHA-256 of its bytes.
//!
//! They stand beside the log: a blob is put before the command that names it is proposed, and whether it is there
//! never changes what a command does. A replica that lacks one fetches it by its hash.

use std::fmt;

use rusqlite::blob::ZeroBlob;
use rusqlite::{MAIN_DB, OptionalExtension};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::apply::Catalogue;
use crate::error::CatalogueError;
use crate::hex;
use crate::query::Reader;

/// How long a blob that nothing names is kept: its command may still be under way, milliseconds.
const GRACE_MS: u64 = 60 * 60 * 1_000;

/// Where the bytes are.
const TABLE: &str = "blob";
const COLUMN: &str = "bytes";

/// SHA-256 of a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlobHash(#[serde(with = "hex")] pub [u8; 32]);

impl BlobHash {
    /// The hash of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobHash({self})")
    }
}

impl Reader {
    /// The blob with this hash, if it is here and whole.
    ///
    /// # Errors
    /// Those of the file; [`CatalogueError::Damaged`] where the bytes have another hash.
    pub fn blob(&self, hash: BlobHash) -> Result<Option<Vec<u8>>, CatalogueError> {
        let mut select = self.connection.prepare_cached("SELECT rowid FROM blob WHERE hash = ?1")?;
        let row: Option<i64> = select.query_row([hash.0], |row| row.get(0)).optional()?;
        // A column would be in memory twice.
        let read = |row| -> Result<Vec<u8>, CatalogueError> {
            let blob = self.connection.blob_open(MAIN_DB, TABLE, COLUMN, row, true)?;
            let mut bytes = vec![0; blob.len()];
            blob.read_at_exact(&mut bytes, 0)?;
            Ok(bytes)
        };
        match row.map(read).transpose()? {
            Some(bytes) if BlobHash::of(&bytes) != hash => Err(CatalogueError::Damaged("a blob has another hash")),
            other => Ok(other),
        }
    }

    /// Whether there is a blob with this hash.
    ///
    /// # Errors
    /// Those of the file.
    pub fn has_blob(&self, hash: BlobHash) -> Result<bool, CatalogueError> {
        Ok(self.connection.prepare_cached("SELECT 1 FROM blob WHERE hash = ?1")?.exists([hash.0])?)
    }

    /// Blobs that no version names, at most `most` of them: for [`sweep_blobs`](Catalogue::sweep_blobs). It looks at all
    /// of them, so it is nothing for who holds others up.
    ///
    /// # Errors
    /// Those of the file.
    pub fn unnamed_blobs(&self, most: u32) -> Result<Vec<BlobHash>, CatalogueError> {
        // Both sides are read from their indices, in order; the rows themselves are long.
        let mut select = self.connection.prepare_cached(
            "SELECT hash FROM blob WHERE NOT EXISTS (SELECT 1 FROM version WHERE version.blob = blob.hash) LIMIT ?1",
        )?;
        let unnamed = select.query_map([most], |row| row.get(0).map(BlobHash))?;
        Ok(unnamed.collect::<Result<_, _>>()?)
    }
}

impl Catalogue {
    /// Stores a blob. Durable when this returns; storing it again only renews its grace.
    ///
    /// # Errors
    /// Those of the file.
    pub fn put_blob(&mut self, bytes: &[u8], now_ms: u64) -> Result<BlobHash, CatalogueError> {
        self.put_blobs([bytes], now_ms)?;
        Ok(BlobHash::of(bytes))
    }

    /// Stores blobs, with one sync for all of them.
    ///
    /// # Errors
    /// Those of the file; then none of them is stored.
    pub fn put_blobs<'a>(
        &mut self,
        blobs: impl IntoIterator<Item = &'a [u8]>,
        now_ms: u64,
    ) -> Result<(), CatalogueError> {
        let transaction = self.connection().transaction()?;
        let mut renew = transaction.prepare_cached("UPDATE blob SET stored_ms = ?2 WHERE hash = ?1")?;
        let mut insert = transaction.prepare_cached("INSERT INTO blob (hash, stored_ms, bytes) VALUES (?1, ?2, ?3)")?;
        for bytes in blobs {
            let (hash, stored_ms) = (BlobHash::of(bytes).0, now_ms.cast_signed());
            if renew.execute((hash, stored_ms))? > 0 {
                continue;
            }
            // A bound value would be in memory three times.
            let row = insert.insert((hash, stored_ms, ZeroBlob(bytes.len() as u64)))?;
            transaction.blob_open(MAIN_DB, TABLE, COLUMN, row, false)?.write_all_at(bytes, 0)?;
        }
        drop((renew, insert));
        Ok(transaction.commit()?)
    }

    /// Removes those of these blobs that no version names and that are older than an hour; says how many.
    ///
    /// # Errors
    /// Those of the file.
    pub fn sweep_blobs(&mut self, hashes: &[BlobHash], now_ms: u64) -> Result<usize, CatalogueError> {
        let transaction = self.connection().transaction()?;
        let mut delete = transaction.prepare_cached(
            "DELETE FROM blob WHERE hash = ?1 AND stored_ms < ?2
             AND NOT EXISTS (SELECT 1 FROM version WHERE version.blob = blob.hash)",
        )?;
        let mut removed = 0;
        for hash in hashes {
            removed += delete.execute((hash.0, now_ms.saturating_sub(GRACE_MS).cast_signed()))?;
        }
        drop(delete);
        transaction.commit()?;
        Ok(removed)
    }
}
