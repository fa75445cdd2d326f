//! Who may publish, what is whose, and how much of it one key may have.
//!
//! A name belongs to the key that first published it, and stays its own after a withdrawal. So that nobody can put
//! content in front of another's, the names that would be read as a part of an item (`folder/file`) or as a version of
//! it (`movie@2`) are reserved for its owner while the item is there.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::command::{Denial, PublishPolicy};
use crate::error::CatalogueError;
use crate::names::Name;
use crate::query::Reader;
use crate::signing::PublicKey;

/// How many names a key may own unless its record says otherwise, withdrawn ones included.
pub(crate) const NAMES_PER_KEY: u32 = 10_000;
/// How many versions a key may have for each name that it may own, on average.
const VERSIONS_PER_NAME: u32 = 10;

/// How a key stands with the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was added.
    Listed,
    /// It published under the open policy.
    Unlisted,
    /// It was revoked.
    Revoked,
}

impl Standing {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Unlisted => "unlisted",
            Self::Revoked => "revoked",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Listed, Self::Unlisted, Self::Revoked].into_iter().find(|standing| standing.as_str() == text)
    }
}

/// What the catalogue knows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Which.
    pub key: PublicKey,
    /// Whether it may publish.
    pub standing: Standing,
    /// What people call its owner; may be empty.
    pub label: String,
    /// How many names it may own.
    pub names_quota: u32,
    /// How many it owns, withdrawn ones included.
    pub names: u32,
    /// How many versions of its own are there.
    pub versions: u32,
    /// When it was first seen, milliseconds since 1970.
    pub since_ms: u64,
}

const RECORD: &str = "key, standing, label, names_quota, names, versions, since_ms";

fn record(row: &Row<'_>) -> rusqlite::Result<Option<KeyRecord>> {
    let standing: String = row.get(1)?;
    Ok(Standing::parse(&standing).map(|standing| {
        Ok(KeyRecord {
            key: PublicKey(row.get(0)?),
            standing,
            label: row.get(2)?,
            names_quota: row.get::<_, Option<u32>>(3)?.unwrap_or(NAMES_PER_KEY),
            names: row.get(4)?,
            versions: row.get(5)?,
            since_ms: row.get::<_, i64>(6)?.cast_unsigned(),
        })
    }))
    .and_then(Option::transpose)
}

impl Reader {
    /// All keys that were added, revoked or ever published, in key order.
    ///
    /// # Errors
    /// Those of the file.
    pub fn keys(&self) -> Result<Vec<KeyRecord>, CatalogueError> {
        let mut select = self.connection.prepare_cached(&format!("SELECT {RECORD} FROM publisher ORDER BY key"))?;
        let records = select.query_map([], record)?;
        let known = records.collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
        Ok(known.collect())
    }

    /// Which keys may publish.
    ///
    /// # Errors
    /// Those of the file.
    pub fn publish_policy(&self) -> Result<PublishPolicy, CatalogueError> {
        publish_policy(&self.connection)
    }

    /// Why `key` may not publish anything, if so. Quotas depend on the name and are not part of it.
    ///
    /// # Errors
    /// Those of the file.
    pub fn denial(&self, key: PublicKey) -> Result<Option<Denial>, CatalogueError> {
        denial(&self.connection, key)
    }
}

pub(crate) fn publish_policy(connection: &Connection) -> Result<PublishPolicy, CatalogueError> {
    let mut select = connection.prepare_cached("SELECT publish FROM policy")?;
    let policy: String = select.query_row([], |row| row.get(0))?;
    Ok(if policy == "open" { PublishPolicy::Open } else { PublishPolicy::Keys })
}

pub(crate) fn key_record(connection: &Connection, key: PublicKey) -> Result<Option<KeyRecord>, CatalogueError> {
    let mut select = connection.prepare_cached(&format!("SELECT {RECORD} FROM publisher WHERE key = ?1"))?;
    Ok(select.query_row([key.0], record).optional()?.flatten())
}

pub(crate) fn denial(connection: &Connection, key: PublicKey) -> Result<Option<Denial>, CatalogueError> {
    let standing = key_record(connection, key)?.map_or(Standing::Unlisted, |record| record.standing);
    Ok(match (standing, publish_policy(connection)?) {
        (Standing::Revoked, _) => Some(Denial::Revoked),
        (Standing::Unlisted, PublishPolicy::Keys) => Some(Denial::Unlisted),
        (Standing::Listed, _) | (Standing::Unlisted, PublishPolicy::Open) => None,
    })
}

/// Whether one more name is too much for this key.
pub(crate) fn name_quota_reached(connection: &Connection, key: PublicKey) -> Result<Option<Denial>, CatalogueError> {
    let record = key_record(connection, key)?;
    let (owned, quota) = record.map_or((0, NAMES_PER_KEY), |record| (record.names, record.names_quota));
    Ok((owned >= quota).then_some(Denial::NameQuota { names: quota }))
}

/// Whether one more version is too much for this key.
pub(crate) fn version_quota_reached(connection: &Connection, key: PublicKey) -> Result<Option<Denial>, CatalogueError> {
    let record = key_record(connection, key)?;
    let (there, names) = record.map_or((0, NAMES_PER_KEY), |record| (record.versions, record.names_quota));
    let quota = names.saturating_mul(VERSIONS_PER_NAME);
    Ok((there >= quota).then_some(Denial::VersionQuota { versions: quota }))
}

/// The other key for whom a name that nobody has is reserved, if there is one.
pub(crate) fn reserved_for(
    connection: &Connection,
    name: &Name,
    key: PublicKey,
) -> Result<Option<PublicKey>, CatalogueError> {
    let mut version_of = connection.prepare_cached("SELECT owner FROM name WHERE name = ?1 AND newest IS NOT NULL")?;
    let mut part_of = connection.prepare_cached(
        "SELECT owner FROM name JOIN version ON version.name = name.id AND version.number = name.newest
         WHERE name.name = ?1 AND layout = 'folder'",
    )?;
    let owner = |select: &mut rusqlite::CachedStatement<'_>, item: &str| -> rusqlite::Result<Option<PublicKey>> {
        let owner: Option<[u8; 32]> = select.query_row([item], |row| row.get(0)).optional()?;
        Ok(owner.map(PublicKey).filter(|owner| *owner != key))
    };
    if let Some(item) = name.reads_as_version_of()
        && let Some(other) = owner(&mut version_of, item)?
    {
        return Ok(Some(other));
    }
    for (end, _) in name.as_str().match_indices('/') {
        if let Some(other) = owner(&mut part_of, &name.as_str()[..end])? {
            return Ok(Some(other));
        }
    }
    Ok(None)
}
