//! The one function that changes a catalogue: a command in, an outcome out, in one transaction.
//!
//! It reads nothing but the file and the command. What it did, how far the log is applied, and the id of the command
//! become durable together.

use std::ops::Deref;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::command::{
    Authority, Command, Content, Denial, Departure, Envelope, HOLDER_BYTES, LABEL_BYTES, Layout, Outcome, Publish,
    PublishPolicy, Replace,
};
use crate::error::CatalogueError;
use crate::lookalikes::skeleton;
use crate::names::Name;
use crate::owners::{self, Standing};
use crate::query::{Reader, swarm_bounds};
use crate::schema;
use crate::search::indexed;
use crate::signing::PublicKey;

/// How long the id of a command is kept, milliseconds: longer than anybody retries.
const SEEN_MS: u64 = 24 * 60 * 60 * 1_000;
/// How far the clock that ids grow old by goes on with one command at most, milliseconds. Commands bring the time of
/// whoever leads; a leader whose clock is a day off must not have ids forgotten that are retried now. So 8,640 commands
/// lie between a command and its being forgotten, whatever clocks do, and where all is quiet so many ids stay.
const SEEN_STEP_MS: u64 = 10_000;

/// How far the log is applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The number of the last entry; 0 is none.
    pub entry: u64,
    /// What the log's keeper wants to find again with it, such as a term and the members; empty without a cluster.
    pub position: Vec<u8>,
}

/// The catalogue's file, open for changes. One process may change it at a time; readers are not in its way.
#[derive(Debug)]
pub struct Catalogue {
    reader: Reader,
}

impl Deref for Catalogue {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Catalogue {
    /// Opens the file, and makes it where there is none.
    ///
    /// # Errors
    /// [`CatalogueError::NotCatalogue`] and [`CatalogueError::NewerSchema`] for files of others; else SQLite's.
    pub fn open(path: &Path) -> Result<Self, CatalogueError> {
        Ok(Self { reader: Reader { connection: schema::open(path)? } })
    }

    /// An empty catalogue without a file.
    ///
    /// # Errors
    /// SQLite's, where there is no memory.
    pub fn in_memory() -> Result<Self, CatalogueError> {
        Ok(Self { reader: Reader { connection: schema::open_in_memory()? } })
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.reader.connection
    }

    /// Applies commands in order, as the next entries of a log that is nobody else's. One sync for all of them.
    ///
    /// # Errors
    /// Those of the file; then none of them is applied.
    pub fn apply(&mut self, commands: &[Envelope]) -> Result<Vec<Outcome>, CatalogueError> {
        let transaction = self.connection().transaction_with_behavior(TransactionBehavior::Immediate)?;
        let applied = applied(&transaction)?;
        let entry = applied.entry.saturating_add(commands.len() as u64);
        let outcomes = run(&transaction, commands, &Applied { entry, ..applied })?;
        transaction.commit()?;
        Ok(outcomes)
    }

    /// Applies commands that a replicated log brought; afterwards it is applied up to `applied`. An entry of that log
    /// holds any number of commands, also none.
    ///
    /// # Errors
    /// [`CatalogueError::OutOfStep`] where the log would not go on; those of the file. In either case none of them is
    /// applied.
    pub fn apply_through(&mut self, commands: &[Envelope], applied: &Applied) -> Result<Vec<Outcome>, CatalogueError> {
        let transaction = self.connection().transaction_with_behavior(TransactionBehavior::Immediate)?;
        let at = self::applied(&transaction)?.entry;
        if applied.entry < at || (applied.entry == at && !commands.is_empty()) {
            return Err(CatalogueError::OutOfStep { at, to: applied.entry, entries: commands.len() });
        }
        let outcomes = run(&transaction, commands, applied)?;
        transaction.commit()?;
        Ok(outcomes)
    }
}

impl Reader {
    /// How far the log is applied.
    ///
    /// # Errors
    /// Those of the file.
    pub fn applied(&self) -> Result<Applied, CatalogueError> {
        applied(&self.connection)
    }
}

fn applied(connection: &Connection) -> Result<Applied, CatalogueError> {
    let mut select = connection.prepare_cached("SELECT entry, position FROM applied")?;
    let applied = select
        .query_row([], |row| Ok(Applied { entry: row.get::<_, i64>(0)?.cast_unsigned(), position: row.get(1)? }))?;
    Ok(applied)
}

fn run(
    transaction: &Transaction<'_>,
    commands: &[Envelope],
    applied: &Applied,
) -> Result<Vec<Outcome>, CatalogueError> {
    let outcomes = commands.iter().map(|command| apply_once(transaction, command)).collect::<Result<Vec<_>, _>>()?;
    transaction
        .prepare_cached("UPDATE applied SET entry = ?1, position = ?2")?
        .execute((applied.entry.cast_signed(), &applied.position))?;
    Ok(outcomes)
}

fn apply_once(transaction: &Transaction<'_>, envelope: &Envelope) -> Result<Outcome, CatalogueError> {
    if envelope.command.is_idempotent() {
        return apply_command(transaction, &envelope.command, envelope.time_ms);
    }
    let at_ms = seen_at(transaction, envelope.time_ms)?;
    transaction
        .prepare_cached("DELETE FROM seen WHERE at_ms < ?1")?
        .execute([at_ms.saturating_sub(SEEN_MS).cast_signed()])?;
    let earlier: Option<String> = transaction
        .prepare_cached("SELECT outcome FROM seen WHERE id = ?1")?
        .query_row([envelope.id.0], |row| row.get(0))
        .optional()?;
    if let Some(earlier) = earlier {
        return serde_json::from_str(&earlier).map_err(|_| CatalogueError::Damaged("an outcome cannot be read"));
    }
    let outcome = apply_command(transaction, &envelope.command, envelope.time_ms)?;
    let text = serde_json::to_string(&outcome).map_err(|error| CatalogueError::Malformed(error.to_string()))?;
    transaction.prepare_cached("INSERT INTO seen (id, at_ms, outcome) VALUES (?1, ?2, ?3)")?.execute((
        envelope.id.0,
        at_ms.cast_signed(),
        text,
    ))?;
    Ok(outcome)
}

/// The time under which an id is kept: that of its command, never before the last one and little after it.
fn seen_at(transaction: &Transaction<'_>, time_ms: u64) -> Result<u64, CatalogueError> {
    let last: Option<i64> =
        transaction.prepare_cached("SELECT max(at_ms) FROM seen")?.query_row([], |row| row.get(0))?;
    let last = last.map(i64::cast_unsigned);
    Ok(last.map_or(time_ms, |last| time_ms.clamp(last, last.saturating_add(SEEN_STEP_MS))))
}

fn apply_command(transaction: &Transaction<'_>, command: &Command, time_ms: u64) -> Result<Outcome, CatalogueError> {
    match command {
        Command::Publish(publish) => self::publish(transaction, publish, time_ms),
        Command::Withdraw { name, version, by } => withdraw(transaction, name, *version, *by),
        Command::AddKey { key, label, names } => add_key(transaction, *key, label, *names, time_ms),
        Command::RevokeKey { key } => revoke_key(transaction, *key, time_ms),
        Command::SetPublishPolicy { policy } => set_publish_policy(transaction, *policy),
        Command::RecordDepartures { departures } => record_departures(transaction, departures),
    }
}

/// A row of `name`.
struct Item {
    id: i64,
    owner: PublicKey,
    counter: u32,
    newest: Option<u32>,
}

fn item(transaction: &Transaction<'_>, name: &Name) -> Result<Option<Item>, CatalogueError> {
    let mut select = transaction.prepare_cached("SELECT id, owner, counter, newest FROM name WHERE name = ?1")?;
    let item = select.query_row([name.as_str()], |row| {
        Ok(Item { id: row.get(0)?, owner: PublicKey(row.get(1)?), counter: row.get(2)?, newest: row.get(3)? })
    });
    Ok(item.optional()?)
}

fn publish(transaction: &Transaction<'_>, publish: &Publish, time_ms: u64) -> Result<Outcome, CatalogueError> {
    let Publish { name, content, key, replace } = publish;
    if !content.is_valid() {
        return Ok(Outcome::Invalid);
    }
    let item = item(transaction, name)?;
    if let Some(item) = &item
        && let Some(version) = version_of(transaction, item, content)?
    {
        let back_to_an_old_one = item.owner == *key && *replace == Replace::Yes && item.newest != Some(version);
        if !back_to_an_old_one {
            return Ok(Outcome::AlreadyThere { version });
        }
    }
    if let Some(refusal) = refusal(transaction, item.as_ref(), publish)? {
        return Ok(refusal);
    }
    note_publisher(transaction, *key, time_ms)?;
    let item = match item {
        Some(item) => item,
        None => add_name(transaction, name, *key, time_ms)?,
    };
    let version = add_version(transaction, &item, content, *key, time_ms)?;
    Ok(Outcome::Published { version })
}

fn refusal(
    transaction: &Transaction<'_>,
    item: Option<&Item>,
    publish: &Publish,
) -> Result<Option<Outcome>, CatalogueError> {
    let forbidden = |denial: Option<Denial>| denial.map(|denial| Outcome::Forbidden { denial });
    if let Some(refusal) = forbidden(owners::denial(transaction, publish.key)?) {
        return Ok(Some(refusal));
    }
    match item {
        Some(Item { owner, .. }) if *owner != publish.key => return Ok(Some(Outcome::OwnedBy { key: *owner })),
        Some(Item { newest: Some(version), .. }) if publish.replace == Replace::No => {
            return Ok(Some(Outcome::NeedsReplace { version: *version }));
        }
        Some(_) => {}
        None => {
            if let Some(key) = owners::reserved_for(transaction, &publish.name, publish.key)? {
                return Ok(Some(Outcome::OwnedBy { key }));
            }
            if let Some(refusal) = forbidden(owners::name_quota_reached(transaction, publish.key)?) {
                return Ok(Some(refusal));
            }
        }
    }
    Ok(forbidden(owners::version_quota_reached(transaction, publish.key)?))
}

/// The newest version of the item that is this content. Where both are known by a v2 hash, that decides: SHA-1 alone
/// can be made to collide.
fn version_of(transaction: &Transaction<'_>, item: &Item, content: &Content) -> Result<Option<u32>, CatalogueError> {
    let mut select = transaction.prepare_cached(
        "SELECT max(number) FROM version
         WHERE name = ?1 AND CASE WHEN v2 IS NOT NULL AND ?3 IS NOT NULL THEN v2 = ?3 ELSE v1 = ?2 END",
    )?;
    let hashes = content.hashes;
    let found = (item.id, hashes.v1.map(|hash| hash.0), hashes.v2.map(|hash| hash.0));
    Ok(select.query_row(found, |row| row.get(0))?)
}

fn note_publisher(transaction: &Transaction<'_>, key: PublicKey, time_ms: u64) -> Result<(), CatalogueError> {
    transaction
        .prepare_cached(
            "INSERT INTO publisher (key, standing, label, names_quota, names, versions, since_ms)
             VALUES (?1, ?2, '', NULL, 0, 0, ?3) ON CONFLICT (key) DO NOTHING",
        )?
        .execute((key.0, Standing::Unlisted.as_str(), time_ms.cast_signed()))?;
    Ok(())
}

fn add_name(
    transaction: &Transaction<'_>,
    name: &Name,
    owner: PublicKey,
    time_ms: u64,
) -> Result<Item, CatalogueError> {
    // The id is counted by hand: SQLite's own choice of a row id may be random once the numbers run out.
    let id: i64 =
        transaction.prepare_cached("SELECT coalesce(max(id), 0) + 1 FROM name")?.query_row([], |row| row.get(0))?;
    transaction
        .prepare_cached(
            "INSERT INTO name (id, name, owner, counter, newest, since_ms) VALUES (?1, ?2, ?3, 0, NULL, ?4)",
        )?
        .execute((id, name.as_str(), owner.0, time_ms.cast_signed()))?;
    let folded = indexed(name.as_str());
    transaction.prepare_cached("INSERT INTO search (id, folded, skeleton) VALUES (?1, ?2, ?3)")?.execute((
        id,
        &folded,
        skeleton(name.as_str()),
    ))?;
    transaction.prepare_cached("INSERT INTO search_grams (rowid, folded) VALUES (?1, ?2)")?.execute((id, &folded))?;
    transaction.prepare_cached("UPDATE publisher SET names = names + 1 WHERE key = ?1")?.execute([owner.0])?;
    Ok(Item { id, owner, counter: 0, newest: None })
}

fn add_version(
    transaction: &Transaction<'_>,
    item: &Item,
    content: &Content,
    publisher: PublicKey,
    time_ms: u64,
) -> Result<u32, CatalogueError> {
    let number = item.counter.checked_add(1).ok_or(CatalogueError::Damaged("a version counter is at its end"))?;
    let layout = match content.layout {
        Layout::File => "file",
        Layout::Folder => "folder",
    };
    let (v1, v2) = (content.hashes.v1.map(|hash| hash.0), content.hashes.v2.map(|hash| hash.0));
    transaction
        .prepare_cached(
            "INSERT INTO version
             (name, number, v1, v2, size, files, layout, piece_length, blob, publisher, published_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute((
            item.id,
            number,
            v1,
            v2,
            content.size.cast_signed(),
            content.files,
            layout,
            content.piece_length,
            content.blob.0,
            publisher.0,
            time_ms.cast_signed(),
        ))?;
    transaction
        .prepare_cached("UPDATE name SET counter = ?2, newest = ?2 WHERE id = ?1")?
        .execute((item.id, number))?;
    transaction
        .prepare_cached("UPDATE publisher SET versions = versions + 1 WHERE key = ?1")?
        .execute([publisher.0])?;
    Ok(number)
}

fn withdraw(
    transaction: &Transaction<'_>,
    name: &Name,
    version: Option<u32>,
    by: Authority,
) -> Result<Outcome, CatalogueError> {
    let Some(item) = item(transaction, name)? else {
        return Ok(Outcome::NotFound);
    };
    if let Authority::Key(key) = by {
        if owners::denial(transaction, key)? == Some(Denial::Revoked) {
            return Ok(Outcome::Forbidden { denial: Denial::Revoked });
        }
        if key != item.owner {
            return Ok(Outcome::OwnedBy { key: item.owner });
        }
    }
    let mut select = transaction
        .prepare_cached("SELECT number FROM version WHERE name = ?1 AND (?2 IS NULL OR number = ?2) ORDER BY number")?;
    let versions = select.query_map((item.id, version), |row| row.get(0))?.collect::<Result<Vec<u32>, _>>()?;
    if versions.is_empty() {
        return Ok(Outcome::NotFound);
    }
    let removed = versions.iter().map(|number| remove_version(transaction, item.id, *number));
    let contents = removed.collect::<Result<Vec<_>, _>>()?;
    transaction
        .prepare_cached("UPDATE name SET newest = (SELECT max(number) FROM version WHERE name = ?1) WHERE id = ?1")?
        .execute([item.id])?;
    Ok(Outcome::Withdrawn { versions, contents })
}

fn remove_version(
    transaction: &Transaction<'_>,
    item: i64,
    number: u32,
) -> Result<obt_wire::InfoHashes, CatalogueError> {
    type Row = ([u8; 32], Option<[u8; 20]>, Option<[u8; 32]>);
    let (publisher, v1, v2): Row = transaction
        .prepare_cached("DELETE FROM version WHERE name = ?1 AND number = ?2 RETURNING publisher, v1, v2")?
        .query_row((item, number), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    transaction.prepare_cached("UPDATE publisher SET versions = versions - 1 WHERE key = ?1")?.execute([publisher])?;
    let hashes = obt_wire::InfoHashes { v1: v1.map(obt_wire::Sha1Hash), v2: v2.map(obt_wire::Sha256Hash) };
    let swarm = hashes.primary();
    if swarm_of(transaction, &swarm)?.is_none() {
        transaction.prepare_cached("DELETE FROM departure WHERE info_hash = ?1")?.execute([swarm.0])?;
    }
    Ok(hashes)
}

fn add_key(
    transaction: &Transaction<'_>,
    key: PublicKey,
    label: &str,
    names: Option<u32>,
    time_ms: u64,
) -> Result<Outcome, CatalogueError> {
    if label.len() > LABEL_BYTES || label.chars().any(char::is_control) {
        return Ok(Outcome::Invalid);
    }
    note_publisher(transaction, key, time_ms)?;
    transaction
        .prepare_cached("UPDATE publisher SET standing = ?2, label = ?3, names_quota = ?4 WHERE key = ?1")?
        .execute((key.0, Standing::Listed.as_str(), label, names))?;
    Ok(Outcome::Done)
}

fn revoke_key(transaction: &Transaction<'_>, key: PublicKey, time_ms: u64) -> Result<Outcome, CatalogueError> {
    // A key that never published can be revoked too: the open policy would let it in.
    note_publisher(transaction, key, time_ms)?;
    transaction
        .prepare_cached("UPDATE publisher SET standing = ?2 WHERE key = ?1")?
        .execute((key.0, Standing::Revoked.as_str()))?;
    Ok(Outcome::Done)
}

fn set_publish_policy(transaction: &Transaction<'_>, policy: PublishPolicy) -> Result<Outcome, CatalogueError> {
    let text = match policy {
        PublishPolicy::Keys => "keys",
        PublishPolicy::Open => "open",
    };
    transaction.prepare_cached("UPDATE policy SET publish = ?1")?.execute([text])?;
    Ok(Outcome::Done)
}

fn record_departures(transaction: &Transaction<'_>, departures: &[Departure]) -> Result<Outcome, CatalogueError> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO departure (info_hash, holder, at_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (info_hash) DO UPDATE SET holder = excluded.holder, at_ms = excluded.at_ms
         WHERE excluded.at_ms >= departure.at_ms",
    )?;
    for departure in departures {
        let sound = departure.holder.len() <= HOLDER_BYTES && !departure.holder.chars().any(char::is_control);
        if sound && let Some(swarm) = swarm_of(transaction, &departure.info_hash)? {
            insert.execute((swarm.0, &departure.holder, departure.at_ms.cast_signed()))?;
        }
    }
    Ok(Outcome::Done)
}

/// The first name of a swarm that some version belongs to, by either of its names.
fn swarm_of(
    transaction: &Transaction<'_>,
    hash: &obt_wire::InfoHash,
) -> Result<Option<obt_wire::InfoHash>, CatalogueError> {
    let (low, high) = swarm_bounds(*hash);
    let v2: Option<Option<[u8; 20]>> = transaction
        .prepare_cached(
            "SELECT v1 FROM version WHERE v1 = ?1 UNION ALL SELECT v1 FROM version WHERE v2 BETWEEN ?2 AND ?3 LIMIT 1",
        )?
        .query_row((hash.0, low, high), |row| row.get(0))
        .optional()?;
    Ok(v2.map(|v1| v1.map_or(*hash, obt_wire::InfoHash)))
}
