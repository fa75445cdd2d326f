//! Failures after which a member must not go on, and the hook that ends the process.
//!
//! A log that failed once may have lost what it says it holds: the kernel reports a failed sync only once. So nothing
//! here is tried again; the process ends, and the next start reads what is really on the disk.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;

use obt_catalogue::CatalogueError;
use thiserror::Error;

/// Why this member stops.
#[derive(Debug, Clone, Error)]
pub enum FatalError {
    /// The file with the log and the vote failed.
    #[error("the cluster's log failed, and this member stops at once so that it cannot forget a vote: {0}")]
    Log(String),
    /// The catalogue's file failed while an entry was applied.
    #[error("the catalogue failed, and this member stops so that it cannot differ from the others: {}", told(.0))]
    Catalogue(Arc<CatalogueError>),
    /// Entry `index` cannot be read by this release.
    #[error(
        "entry {index} of the cluster's log was written by a newer release; this member stops so that it cannot differ \
         from the others: install the newer release and start again ({cause})"
    )]
    NewerEntry {
        /// Its place in the log.
        index: u64,
        /// What reading it said.
        cause: Arc<CatalogueError>,
    },
    /// openraft ended by itself.
    #[error("the consensus stopped: {0}")]
    Consensus(String),
}

/// What failed, and why: where it is told there is no room for more than a sentence.
pub(crate) fn told(error: &CatalogueError) -> String {
    error.source().map_or_else(|| error.to_string(), |why| format!("{error}: {why}"))
}

/// Called once with what happened; the shell ends the process in it. Where it returns, as in tests, everything that
/// needs the failed part answers with errors from then on.
#[derive(Clone)]
pub struct FatalHook(Arc<dyn Fn(&FatalError) + Send + Sync>);

impl FatalHook {
    /// Calls `hook`.
    pub fn new(hook: impl Fn(&FatalError) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn call(&self, error: &FatalError) {
        tracing::error!(%error, "this member stops");
        (self.0)(error);
    }
}

impl fmt::Debug for FatalHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalHook")
    }
}
