//! The threads that hash and touch files.

use std::sync::Arc;

/// Worker threads for hashing and files. Cheap to clone; they end when the last clone and the last [`Store`] are gone.
///
/// [`Store`]: super::Store
#[derive(Debug, Clone)]
pub struct Disk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    threads: usize,
}

impl Disk {
    /// Starts `threads` workers; 0 means one for each core.
    #[must_use]
    pub fn start(threads: usize) -> Self {
        Self { shared: Arc::new(Shared { threads }) }
    }

    /// How many workers there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.threads
    }
}
