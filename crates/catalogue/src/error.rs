//! What can go wrong with the file, and what can be wrong with a question.

use thiserror::Error;

/// The catalogue's file cannot be used, or an entry of the log cannot be applied.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// SQLite says so.
    #[error("the catalogue's file failed")]
    Sqlite(#[from] rusqlite::Error),
    /// Another program's database, or none at all.
    #[error("this file is not a catalogue")]
    NotCatalogue,
    /// An earlier release made it, and no tracker of this one has opened it yet.
    #[error("the catalogue was written by an older release (schema {schema}); the tracker brings it up to date")]
    OlderSchema {
        /// What the file says.
        schema: i64,
    },
    /// A later release made it.
    #[error("the catalogue was written by a newer release (schema {schema})")]
    NewerSchema {
        /// What the file says.
        schema: i64,
    },
    /// A later release wrote the command.
    #[error("the command was written by a newer release (format {format})")]
    NewerFormat {
        /// What the command says.
        format: u16,
    },
    /// The command's bytes make no sense.
    #[error("the command cannot be read: {0}")]
    Malformed(String),
    /// A row holds what no command can have put there.
    #[error("the catalogue is damaged: {0}")]
    Damaged(&'static str),
    /// The log went on from another place than the catalogue is at.
    #[error("the catalogue is at entry {at}, the log goes on to entry {to} with {entries} entries")]
    OutOfStep {
        /// Entries applied.
        at: u64,
        /// Where the catalogue would be.
        to: u64,
        /// How many were to be applied.
        entries: usize,
    },
}

/// A question that cannot be answered.
#[derive(Debug, Error)]
pub enum QueryError {
    /// Longer than [`QUERY_BYTES`](crate::QUERY_BYTES).
    #[error("a search text cannot be longer than {} bytes", crate::QUERY_BYTES)]
    TooLong,
    /// Not a cursor that an answer to the same search held.
    #[error("the cursor does not belong to this search")]
    Cursor,
    /// The file failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Catalogue(error.into())
    }
}
