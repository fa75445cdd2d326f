//! The pool of block buffers: how many bytes of blocks may be in memory at once.
//!
//! A block is read from its socket straight into a [`BlockBuf`] and stays there until its piece is verified and
//! stored. When the pool is spent, whoever reads waits: a short pool slows, it never grows.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use obt_wire::BLOCK_SIZE;
use tokio::sync::Semaphore;

/// Length of a buffer, bytes.
const LEN: usize = BLOCK_SIZE as usize;
/// Smallest share of a download, in buffers: 1 MiB, enough to go on, however many downloads there are.
const SHARE_LEAST: usize = 64;

/// A bounded set of 16 KiB buffers. Cheap to clone; clones share the bound.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    /// How many buffers [`Share`]s have been promised.
    promised: AtomicUsize,
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
        let promised = AtomicUsize::new(0);
        Self { shared: Arc::new(Shared { capacity: buffers, promised, permits, free: Mutex::default() }) }
    }

    /// Promises one more download a part of the buffers: two thirds of what is not promised yet, so that those who come
    /// later get something too. A quarter of all is never promised: blocks that nobody asked for are read into it.
    #[must_use]
    pub fn share(&self) -> Share {
        let most = self.shared.capacity / 4 * 3;
        let promise = |promised: usize| (most.saturating_sub(promised) / 3 * 2).max(SHARE_LEAST);
        let add = |promised| Some(promised + promise(promised));
        let before = self.shared.promised.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or(most);
        Share { buffers: promise(before), shared: Arc::clone(&self.shared) }
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

/// How many buffers a download may fill; what it was promised goes to others when it is dropped.
#[derive(Debug)]
pub struct Share {
    buffers: usize,
    shared: Arc<Shared>,
}

impl Share {
    /// The number of buffers, which are blocks.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.buffers).unwrap_or(u32::MAX)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shared.promised.fetch_sub(self.buffers, Ordering::Relaxed);
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

    #[test]
    fn downloads_share_three_quarters_and_give_their_part_back() {
        let pool = Pool::bounded(1600);
        let first = pool.share();
        let second = pool.share();
        assert_eq!((first.blocks(), second.blocks()), (800, 266));
        let more: Vec<Share> = (0..20).map(|_| pool.share()).collect();
        assert!(more.iter().all(|share| share.blocks() >= 64));
        drop((first, more));
        assert_eq!(pool.share().blocks(), 622);
    }
}
