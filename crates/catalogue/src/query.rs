//! What can be asked of a catalogue. Answers never hold the file up for those who change it.

use std::path::Path;

use obt_wire::{InfoHash, InfoHashes, Sha1Hash, Sha256Hash};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::blobs::BlobHash;
use crate::command::{Content, Layout};
use crate::error::CatalogueError;
use crate::names::{Name, NameArgument, Selector, Target};
use crate::schema;
use crate::signing::PublicKey;

/// Most entries in one answer.
pub(crate) const PAGE: u32 = 100;

/// One version of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The item.
    pub name: Name,
    /// Counted from 1.
    pub version: u32,
    /// What it is.
    pub content: Content,
    /// Who published it.
    pub publisher: PublicKey,
    /// When, milliseconds since 1970.
    pub published_ms: u64,
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// In the order of their names.
    pub entries: Vec<Entry>,
    /// Asks for what follows; None where nothing does.
    pub cursor: Option<String>,
}

/// What a [`NameArgument`] leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// A content, or something inside it.
    Found {
        /// The version.
        entry: Box<Entry>,
        /// File or folder inside it, `/`-separated; whether it is there, only the metainfo says.
        inner: Option<String>,
    },
    /// There is such an item, but not with this version or hash.
    NoVersion {
        /// The item.
        name: Name,
        /// Its newest version.
        newest: u32,
    },
    /// There is no such item.
    NoItem,
}

/// Who held a content when it lost its last holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastHolder {
    /// Its address.
    pub holder: String,
    /// When it was last heard of, milliseconds since 1970.
    pub at_ms: u64,
}

/// An open catalogue that is not changed through this connection.
#[derive(Debug)]
pub struct Reader {
    pub(crate) connection: Connection,
}

pub(crate) const ENTRY: &str =
    "name.name, number, v1, v2, size, files, layout, piece_length, blob, publisher, published_ms";
const NEWEST: &str = "name JOIN version ON version.name = name.id AND version.number = name.newest";

impl Reader {
    /// Opens an existing file.
    ///
    /// # Errors
    /// As [`Catalogue::open`](crate::Catalogue::open); also where there is no file.
    pub fn open(path: &Path) -> Result<Self, CatalogueError> {
        Ok(Self { connection: schema::open_read_only(path)? })
    }

    /// Lets `ask` see one state of the catalogue in all its questions, whatever is changed meanwhile.
    ///
    /// # Errors
    /// Those of the file and of `ask`.
    pub fn snapshot<T, E: From<CatalogueError>>(&self, ask: impl FnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        let within = !self.connection.is_autocommit();
        let transaction = (!within).then(|| self.connection.unchecked_transaction()).transpose();
        let transaction = transaction.map_err(CatalogueError::from)?;
        let answer = ask(self);
        drop(transaction);
        answer
    }

    /// The version that `selector` means.
    ///
    /// # Errors
    /// Those of the file.
    pub fn entry(&self, name: &Name, selector: &Selector) -> Result<Option<Entry>, CatalogueError> {
        match selector {
            Selector::Newest => {
                let mut select =
                    self.connection.prepare_cached(&format!("SELECT {ENTRY} FROM {NEWEST} WHERE name.name = ?1"))?;
                select.query_row([name.as_str()], read_entry).optional()?.transpose()
            }
            Selector::Version(number) => {
                let mut select = self.connection.prepare_cached(&format!(
                    "SELECT {ENTRY} FROM name JOIN version ON version.name = name.id
                     WHERE name.name = ?1 AND number = ?2"
                ))?;
                select.query_row((name.as_str(), number), read_entry).optional()?.transpose()
            }
            Selector::Hash(prefix) => {
                let versions = self.versions(name)?.into_iter();
                Ok(versions.rev().find(|entry| prefix.matches(&entry.content.hashes)))
            }
        }
    }

    /// All versions of a name, the oldest first.
    ///
    /// # Errors
    /// Those of the file.
    pub fn versions(&self, name: &Name) -> Result<Vec<Entry>, CatalogueError> {
        let mut select = self.connection.prepare_cached(&format!(
            "SELECT {ENTRY} FROM name JOIN version ON version.name = name.id WHERE name.name = ?1 ORDER BY number"
        ))?;
        select.query_map([name.as_str()], read_entry)?.map(|entry| entry?).collect()
    }

    /// What an argument means, by the rules of [`NameArgument::read`].
    ///
    /// # Errors
    /// Those of the file.
    pub fn resolve(&self, argument: &NameArgument) -> Result<Resolved, CatalogueError> {
        self.snapshot(|reader| {
            let mut exists =
                reader.connection.prepare_cached("SELECT 1 FROM name WHERE name = ?1 AND newest IS NOT NULL")?;
            let target = argument.read(|name| exists.exists([name.as_str()]))?;
            let Some(Target { name, selector, inner }) = target else {
                return Ok(Resolved::NoItem);
            };
            if let Some(entry) = reader.entry(&name, &selector)? {
                return Ok(Resolved::Found { entry: Box::new(entry), inner });
            }
            Ok(match reader.entry(&name, &Selector::Newest)? {
                Some(entry) => Resolved::NoVersion { name, newest: entry.version },
                None => Resolved::NoItem,
            })
        })
    }

    /// The versions whose swarm has this name, v1 or truncated v2: the newest of each item first, at most
    /// a page of them.
    ///
    /// # Errors
    /// Those of the file.
    pub fn by_info_hash(&self, hash: InfoHash) -> Result<Vec<Entry>, CatalogueError> {
        let (low, high) = swarm_bounds(hash);
        let mut select = self.connection.prepare_cached(&format!(
            "SELECT {ENTRY} FROM version JOIN name ON version.name = name.id
             WHERE v1 = ?1 OR v2 BETWEEN ?2 AND ?3 ORDER BY number = newest DESC, name.name, number DESC LIMIT {PAGE}"
        ))?;
        select.query_map((hash.0, low, high), read_entry)?.map(|entry| entry?).collect()
    }

    /// Who owns a name, though all its versions may be withdrawn.
    ///
    /// # Errors
    /// Those of the file.
    pub fn owner(&self, name: &Name) -> Result<Option<PublicKey>, CatalogueError> {
        let mut select = self.connection.prepare_cached("SELECT owner FROM name WHERE name = ?1")?;
        let owner: Option<[u8; 32]> = select.query_row([name.as_str()], |row| row.get(0)).optional()?;
        Ok(owner.map(PublicKey))
    }

    /// Who held this content last, if it was ever left without a holder.
    ///
    /// # Errors
    /// Those of the file.
    pub fn last_holder(&self, hashes: &InfoHashes) -> Result<Option<LastHolder>, CatalogueError> {
        let mut select = self.connection.prepare_cached("SELECT holder, at_ms FROM departure WHERE info_hash = ?1")?;
        let last = select.query_row([hashes.primary().0], |row| {
            Ok(LastHolder { holder: row.get(0)?, at_ms: row.get::<_, i64>(1)?.cast_unsigned() })
        });
        Ok(last.optional()?)
    }

    /// How many items there are, withdrawn ones not counted.
    ///
    /// # Errors
    /// Those of the file.
    pub fn count(&self) -> Result<u64, CatalogueError> {
        // Counting the rows would take longer the more there are; every one is some publisher's, and few are withdrawn.
        let mut select = self.connection.prepare_cached(
            "SELECT (SELECT coalesce(sum(names), 0) FROM publisher) - (SELECT count(*) FROM name WHERE newest IS NULL)",
        )?;
        Ok(select.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
    }
}

/// The v2 info-hashes that begin with these 20 bytes, as a range with both ends in it.
pub(crate) fn swarm_bounds(hash: InfoHash) -> ([u8; 32], [u8; 32]) {
    let (mut low, mut high) = ([0; 32], [0xff; 32]);
    low[..20].copy_from_slice(&hash.0);
    high[..20].copy_from_slice(&hash.0);
    (low, high)
}

/// An entry from the columns of [`ENTRY`].
pub(crate) fn read_entry(row: &Row<'_>) -> rusqlite::Result<Result<Entry, CatalogueError>> {
    let Ok(name) = Name::try_from(row.get::<_, String>(0)?) else {
        return Ok(Err(CatalogueError::Damaged("a name is not valid")));
    };
    let layout = if row.get_ref(6)?.as_bytes()? == b"folder" { Layout::Folder } else { Layout::File };
    let hashes = InfoHashes {
        v1: row.get::<_, Option<[u8; 20]>>(2)?.map(Sha1Hash),
        v2: row.get::<_, Option<[u8; 32]>>(3)?.map(Sha256Hash),
    };
    let content = Content {
        hashes,
        size: row.get::<_, i64>(4)?.cast_unsigned(),
        files: row.get(5)?,
        layout,
        piece_length: row.get(7)?,
        blob: BlobHash(row.get(8)?),
    };
    Ok(Ok(Entry {
        name,
        version: row.get(1)?,
        content,
        publisher: PublicKey(row.get(9)?),
        published_ms: row.get::<_, i64>(10)?.cast_unsigned(),
    }))
}
