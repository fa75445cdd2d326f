//! What a download can take from other content that lies under its final name and is to be replaced: an older version of a
//! large file or folder mostly has most of the bytes.
//!
//! Only what lies at the same place of a file is found. Its pieces are hashed where they are, copied, and hashed again where
//! they were copied to: like all that was not written here just now, they are had because they hash to what the torrent says.

use std::io::{self, IoSlice};
use std::sync::Arc;

use obt_storage::Slice;
use obt_wire::{BLOCK_SIZE, Bitfield, PieceIndex};

use super::StoreError;
use super::existing::AfterBad;
use super::store::Data;
use super::workers::Lane;

/// Bytes that are copied at a time: enough to make the system calls cheap, little enough for the cache.
const COPY_BYTES: u32 = 16 * BLOCK_SIZE;
/// Bytes that one job copies before others get their turn.
const TURN_BYTES: u64 = 16 << 20;

impl Data {
    /// Copies those of these pieces that `old` has into these files; returns those that are here now.
    pub(super) async fn take_from(
        self: &Arc<Self>,
        old: &Arc<Self>,
        pieces: impl IntoIterator<Item = PieceIndex>,
    ) -> Result<Bitfield, StoreError> {
        let there = pieces.into_iter().filter(|piece| old.may_hold(*piece)).collect();
        let good = old.hash_stored(there, AfterBad::GoOn).await?;
        let mut copied = Vec::new();
        let mut left = good.iter().peekable();
        while left.peek().is_some() {
            let mut bytes = 0;
            let mut turn = Vec::new();
            while let Some(piece) = left.next_if(|_| bytes < TURN_BYTES) {
                bytes += u64::from(self.layout.geometry().piece_size(piece));
                turn.push(piece);
            }
            let (from, to, pieces) = (Arc::clone(old), Arc::clone(self), turn.clone());
            let copy = move || pieces.into_iter().try_for_each(|piece| to.copy_piece(&from, piece));
            if let Err(error) = self.disk.ask(Lane::Existing, copy).await.ok_or(StoreError::Stopped)? {
                // What is missing is fetched, and if the disk takes nothing that shows then.
                tracing::debug!(%error, "cannot copy what is there already");
                break;
            }
            copied.append(&mut turn);
        }
        self.hash_stored(copied, AfterBad::GoOn).await
    }

    /// Whether every byte of a piece could be there.
    fn may_hold(&self, piece: PieceIndex) -> bool {
        self.layout.piece_slices(piece).all(|slice| match slice {
            Slice::File { file, offset, length } => {
                self.files.stamp(file).is_some_and(|found| found.size >= offset + u64::from(length))
            }
            Slice::Zeros { .. } => true,
        })
    }

    fn copy_piece(&self, from: &Arc<Self>, piece: PieceIndex) -> io::Result<()> {
        let mut bytes = vec![0; COPY_BYTES as usize];
        let size = self.layout.geometry().piece_size(piece);
        for begin in (0..size).step_by(COPY_BYTES as usize) {
            let length = (size - begin).min(COPY_BYTES);
            let mut part = bytes.get_mut(..length as usize).ok_or(io::ErrorKind::InvalidInput)?;
            from.read_raw(piece, begin, part)?;
            for slice in self.layout.slices(piece, begin, length) {
                let (here, behind) =
                    part.split_at_mut_checked(slice.length() as usize).ok_or(io::ErrorKind::InvalidInput)?;
                part = behind;
                if let Slice::File { file, offset, .. } = slice {
                    self.files.write(file, offset, &mut [IoSlice::new(here)])?;
                }
            }
        }
        Ok(())
    }
}
