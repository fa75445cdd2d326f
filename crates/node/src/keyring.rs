//! Which keys may publish to the tracker of a state folder: the operator's side, with or without the tracker running.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use obt_catalogue::signing::{KeyError, Keypair, PublicKey};
use obt_catalogue::{Catalogue, CatalogueError, Command, CommandId, Envelope, Outcome, Reader};
pub use obt_catalogue::{KeyRecord, Standing};
use obt_cluster::state::Position;
use thiserror::Error;

use crate::state::{StateError, StateFolder, read_private, write_private};

/// Longest key file, bytes: one line.
const KEY_FILE_BYTES: u64 = 1_024;
/// Fewest digits that may stand for a whole key.
const PREFIX_DIGITS: usize = 8;

/// Why the keys cannot be read or changed.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The catalogue cannot be used.
    #[error("cannot use the catalogue")]
    Catalogue(#[from] CatalogueError),
    /// A file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file that is there holds no key.
    #[error("{} holds no key", .0.display())]
    NotKey(PathBuf, #[source] KeyError),
    /// No key, or more than one, begins like this.
    #[error("{0:?} is the beginning of {1} keys, not of one")]
    NotOne(String, usize),
    /// Too few digits.
    #[error("{0:?} is too short: name at least {PREFIX_DIGITS} digits of the key")]
    Short(String),
    /// The catalogue refused.
    #[error("the catalogue did not take it")]
    Refused,
    /// What it says of its cluster cannot be read.
    #[error("the catalogue cannot be used: {0}")]
    Position(String),
    /// A change needs a majority.
    #[error("this tracker is one of {0} members of a cluster, and does not run")]
    OneOf(usize),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Reads a key file, which must be its owner's alone.
///
/// # Errors
/// [`KeyringError::State`], [`KeyringError::NotKey`].
pub fn read_key(path: &Path) -> Result<Keypair, KeyringError> {
    let text = read_private(path, KEY_FILE_BYTES)?;
    Keypair::from_file_text(&text).map_err(|error| KeyringError::NotKey(path.to_owned(), error))
}

/// The keys that the tracker of `state` knows.
///
/// # Errors
/// [`KeyringError::Catalogue`].
pub fn list(state: &StateFolder) -> Result<Vec<KeyRecord>, KeyringError> {
    if !state.catalogue().exists() {
        // No tracker has run here yet.
        Catalogue::open(&state.catalogue())?;
    }
    Ok(Reader::open(&state.catalogue())?.keys()?)
}

/// The key in `file`; makes one there if there is none.
///
/// # Errors
/// [`KeyringError::State`], [`KeyringError::NotKey`], [`KeyringError::Random`].
pub fn read_or_make_key(file: &Path) -> Result<Keypair, KeyringError> {
    if file.symlink_metadata().is_ok() { read_key(file) } else { make_key(file) }
}

/// Lets a key publish.
///
/// # Errors
/// [`KeyringError::Catalogue`], [`KeyringError::Refused`], [`KeyringError::Random`].
pub fn add(state: &StateFolder, key: PublicKey, label: &str) -> Result<(), KeyringError> {
    apply(state, Command::AddKey { key, label: label.to_owned(), names: None })
}

/// Lets a key publish no longer; `prefix` is the whole key or its first 8 or more digits.
///
/// # Errors
/// See [`KeyringError`].
pub fn revoke(state: &StateFolder, prefix: &str) -> Result<PublicKey, KeyringError> {
    let key = one_key(&list(state)?, prefix)?;
    apply(state, Command::RevokeKey { key })?;
    Ok(key)
}

/// The one key that begins so.
pub(crate) fn one_key(keys: &[KeyRecord], prefix: &str) -> Result<PublicKey, KeyringError> {
    if prefix.len() < PREFIX_DIGITS {
        return Err(KeyringError::Short(prefix.to_owned()));
    }
    let wanted = prefix.to_ascii_lowercase();
    let found: Vec<PublicKey> =
        keys.iter().map(|record| record.key).filter(|key| key.to_string().starts_with(&wanted)).collect();
    let [key] = found[..] else {
        return Err(KeyringError::NotOne(prefix.to_owned(), found.len()));
    };
    Ok(key)
}

fn make_key(file: &Path) -> Result<Keypair, KeyringError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| KeyringError::Random)?;
    let key = Keypair::from_seed(&seed);
    write_private(file, key.to_file_text().as_bytes())?;
    Ok(key)
}

fn apply(state: &StateFolder, command: Command) -> Result<(), KeyringError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| KeyringError::Random)?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    // Whoever runs with this state is asked instead: a change behind its back would stop it.
    let _lock = state.lock()?;
    let mut catalogue = Catalogue::open(&state.catalogue())?;
    let position = Position::decode(&catalogue.applied()?.position).map_err(KeyringError::Position)?;
    let members = position.membership.nodes().count();
    if members > 1 {
        return Err(KeyringError::OneOf(members));
    }
    let outcomes = catalogue.apply(&[Envelope::new(CommandId(id), time_ms, command)])?;
    if outcomes == [Outcome::Done] { Ok(()) } else { Err(KeyringError::Refused) }
}

#[cfg(test)]
mod tests {
    use obt_catalogue::Standing;

    use super::*;

    #[test]
    fn a_key_is_made_admitted_listed_and_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(&folder.path().join("state")).unwrap();
        let file = folder.path().join("alice.key");
        let key = read_or_make_key(&file).unwrap().public();
        assert_eq!(read_or_make_key(&file).unwrap().public(), key);
        add(&state, key, "alice").unwrap();
        add(&state, key, "alice").unwrap();
        let listed = list(&state).unwrap();
        assert_eq!((listed[0].key, listed[0].label.as_str()), (key, "alice"));
        assert!(matches!(revoke(&state, "00"), Err(KeyringError::Short(_))));
        assert_eq!(revoke(&state, &key.to_string()[..8]).unwrap(), key);
        assert_eq!(list(&state).unwrap()[0].standing, Standing::Revoked);
    }
}
