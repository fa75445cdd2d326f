//! The pool of block buffers: how many bytes of blocks may be in memory at once.
//!
//! A block is read from its socket straight into a [`BlockBuf`] and stays there until its piece is verified and
//! stored. When the pool is spent, whoever reads waits: a short pool slows, it never grows.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use obt_wire::BLOCK_SIZE;
use tokio::sync::Semaphore;

/// Length of a buffer, bytes.
const LEN: usize = BLOCK_SIZE as usize;

/// A bounded set of 16 KiB buffers. Cheap to clone; clones share the bound.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// One permit for each buffer that may be taken.
    permits: Semaphore,
    /// Buffers that were given back, for the next taker: warm in the cache, and no page faults.
    free: Mutex<Vec<Box<[u8]>>>,
}

impl Pool {
    /// A pool of at most `buffers` buffers; memory is taken as they are used for the first time.
    #[must_use]
    pub fn bounded(buffers: usize) -> Self {
        let permits = Semaphore::new(buffers.min(Semaphore::MAX_PERMITS));
        Self { shared: Arc::new(Shared { permits, free: Mutex::default() }) }
    }

    /// A buffer, as soon as there is one. Its bytes are whatever the last user left.
    pub async fn take(&self) -> BlockBuf {
        if let Ok(permit) = self.shared.permits.acquire().await {
            permit.forget();
        }
        self.buffer()
    }

    /// A buffer, if there is one at once.
    #[must_use]
    pub fn try_take(&self) -> Option<BlockBuf> {
        self.shared.permits.try_acquire().ok()?.forget();
        Some(self.buffer())
    }

    /// How many buffers can be taken at once.
    #[must_use]
    pub fn available(&self) -> usize {
        self.shared.permits.available_permits()
    }

    fn buffer(&self) -> BlockBuf {
        let free = self.shared.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; LEN].into_boxed_slice());
        BlockBuf { bytes, shared: Arc::clone(&self.shared) }
    }
}

/// Room for one block, [`BLOCK_SIZE`] bytes; gives itself back to its pool.
pub struct BlockBuf {
    bytes: Box<[u8]>,
    shared: Arc<Shared>,
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockBuf")
    }
}

impl Deref for BlockBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for BlockBuf {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        self.shared.permits.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_pool_gives_again_what_it_gets_back() {
        let pool = Pool::bounded(2);
        let mut first = pool.try_take().unwrap();
        first[0] = 7;
        let second = pool.try_take().unwrap();
        assert_eq!(second.len(), 16_384);
        assert!(pool.try_take().is_none());
        drop(first);
        assert_eq!(pool.available(), 1);
        assert_eq!(pool.try_take().unwrap()[0], 7);
    }
}
