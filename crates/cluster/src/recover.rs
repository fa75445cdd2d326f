//! A new cluster from what one member of a lost one has. An operator's word: while others live, they go on as another
//! cluster with names of their own.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use obt_catalogue::Catalogue;

use crate::failure::StartError;
use crate::log::{LogError, LogFile};
use crate::machine;
use crate::raft::Member;
use crate::snapshot::{self, entry_of};
use crate::start;
use crate::state::Position;

/// Bytes of entries that are applied at once.
const REPLAYED_BYTES: usize = 4 * 1_024 * 1_024;
/// What the old log's name gets.
const ASIDE: &str = ".lost";

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The new cluster.
    pub cluster: String,
    /// Entries that the log held and the catalogue did not. Each may have been acknowledged, so all of them are applied.
    pub replayed: u64,
    /// Why the log was of no use, where it was not: what was acknowledged last may be missing.
    pub log_lost: Option<String>,
}

/// Founds a cluster of one, `member`, with the catalogue of a member that does not run and with what its log says
/// beyond that. The old log stays beside the new one, with `.lost` to its name. Blocks.
///
/// Where it is interrupted it is done again: the catalogue is taken over first.
///
/// # Errors
/// [`StartError::Mismatch`] where the catalogue is of no cluster yet; [`LogError::InUse`] where the member runs; what the
/// files say.
pub fn recover(catalogue: &Path, log: &Path, member: Member) -> Result<Recovered, StartError> {
    let nothing = || {
        let why = "there is nothing to recover: the tracker of this state was never part of a cluster";
        StartError::Mismatch(why.to_owned())
    };
    if !catalogue.exists() {
        return Err(nothing());
    }
    if let Some(folder) = catalogue.parent() {
        snapshot::sweep(folder)?;
    }
    let mut names = Catalogue::open(catalogue)?;
    let (_, position) = start::position(&names)?;
    if position.log_id.is_none() {
        return Err(nothing());
    }
    let (replayed, log_lost) = match replay(&mut names, log, position) {
        Ok(replayed) => (replayed, None),
        Err(StartError::Log(damaged @ (LogError::Damaged(_) | LogError::NotLog))) => (0, Some(damaged.to_string())),
        Err(other) => return Err(other),
    };
    set_aside(log)?;
    let (applied, _) = start::position(&names)?;
    let file = start::found(log, member, &mut names, &applied)?;
    Ok(Recovered { cluster: file.identity().cluster.clone(), replayed, log_lost })
}

fn replay(names: &mut Catalogue, log: &Path, mut position: Position) -> Result<u64, StartError> {
    let log = LogFile::open(log)?;
    let Some(applied) = position.log_id else { return Ok(0) };
    // Taken over in an attempt before this one, or written behind the log's back: its entries do not follow.
    if log.identity().cluster != position.cluster.id || names.applied()?.entry != entry_of(applied) {
        return Ok(0);
    }
    let mut at = applied.index;
    loop {
        let entries = log.read(at.saturating_add(1), u64::MAX, REPLAYED_BYTES)?;
        match entries.last().map(|entry| entry.log_id.index) {
            Some(last) => at = last,
            None => return Ok(at.saturating_sub(applied.index)),
        }
        machine::replay(names, entries, &mut position).map_err(|error| StartError::Mismatch(error.to_string()))?;
    }
}

fn set_aside(log: &Path) -> io::Result<()> {
    for suffix in ["-wal", "-shm", ""] {
        let mut from = OsString::from(log);
        from.push(suffix);
        let mut to = OsString::from(log);
        to.push(ASIDE);
        to.push(suffix);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
