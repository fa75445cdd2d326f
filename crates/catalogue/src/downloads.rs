//! How often each content was downloaded to the end, as this tracker counted it: kept over a restart, not replicated.

use obt_wire::{InfoHash, InfoHashes, Sha1Hash, Sha256Hash};

use crate::apply::Catalogue;
use crate::error::CatalogueError;
use crate::query::Reader;

impl Catalogue {
    /// Notes the counts of these swarms, by their first names.
    ///
    /// # Errors
    /// Those of the file; then none of them is noted.
    pub fn record_downloads(&mut self, counts: &[(InfoHash, u32)]) -> Result<(), CatalogueError> {
        let transaction = self.connection().transaction()?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO completed (info_hash, downloads) VALUES (?1, ?2)
             ON CONFLICT (info_hash) DO UPDATE SET downloads = excluded.downloads",
        )?;
        for (swarm, downloads) in counts {
            insert.execute((swarm.0, downloads))?;
        }
        drop(insert);
        Ok(transaction.commit()?)
    }
}

impl Reader {
    /// Every content that can be fetched, each once, with how often it was downloaded.
    ///
    /// # Errors
    /// Those of the file.
    pub fn contents(&self) -> Result<Vec<(InfoHashes, u32)>, CatalogueError> {
        let mut select = self.connection.prepare_cached(
            "SELECT DISTINCT v1, v2, coalesce(downloads, 0) FROM version
             LEFT JOIN completed ON info_hash = coalesce(v1, substr(v2, 1, 20))",
        )?;
        let contents = select.query_map([], |row| {
            let hashes = InfoHashes {
                v1: row.get::<_, Option<[u8; 20]>>(0)?.map(Sha1Hash),
                v2: row.get::<_, Option<[u8; 32]>>(1)?.map(Sha256Hash),
            };
            Ok((hashes, row.get(2)?))
        })?;
        Ok(contents.collect::<Result<_, _>>()?)
    }
}
