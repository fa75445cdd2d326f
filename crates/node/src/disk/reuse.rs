//! What a download can take from other content that lies under its final name and is to be replaced: an older version of a
//! large file or folder mostly has most of the bytes.
//!
//! Only what lies at the same place of a file is found. Its pieces are hashed where they are, copied, and hashed again where
//! they were copied to: like all that was not written here just now, they are had because they hash to what the torrent says.

use std::io::{self, IoSlice};
use std::sync::Arc;

use obt_storage::Slice;
use obt_wire::{Bitfield, PieceIndex};

use super::StoreError;
use super::existing::{AfterBad, TURN_BYTES};
use super::store::Data;
use super::workers::Lane;

impl Data {
    /// Copies those of these pieces that `old` has into these files; returns those that are here now.
    pub(super) async fn take_from(
        self: &Arc<Self>,
        old: &Arc<Self>,
        pieces: impl IntoIterator<Item = PieceIndex>,
    ) -> Result<Bitfield, StoreError> {
        let there = pieces.into_iter().filter(|piece| old.may_hold(*piece)).collect();
        let good: Vec<PieceIndex> = old.hash_stored(there, AfterBad::GoOn).await?.iter().collect();
        let mut copied = Vec::with_capacity(good.len());
        let turn = (TURN_BYTES / self.layout.geometry().piece_length()).max(1);
        for pieces in good.chunks(turn as usize) {
            let (from, to, pieces) = (Arc::clone(old), Arc::clone(self), pieces.to_vec());
            copied.extend(&pieces);
            let copy = move || pieces.into_iter().try_for_each(|piece| to.copy_piece(&from, piece));
            if let Err(error) = self.disk.ask(Lane::Existing, copy).await.ok_or(StoreError::Stopped)? {
                // What is missing is fetched, and if the disk takes nothing that shows then.
                tracing::debug!(%error, "cannot copy what is there already");
                break;
            }
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

    fn copy_piece(&self, from: &Self, piece: PieceIndex) -> io::Result<()> {
        from.each_read(piece, self.layout.geometry().piece_size(piece), |begin, bytes| {
            let mut rest = bytes;
            for slice in self.layout.slices(piece, begin, u32::try_from(bytes.len()).unwrap_or(u32::MAX)) {
                let (here, behind) =
                    rest.split_at_checked(slice.length() as usize).ok_or(io::ErrorKind::InvalidInput)?;
                rest = behind;
                if let Slice::File { file, offset, .. } = slice {
                    self.files.write(file, offset, &mut [IoSlice::new(here)])?;
                }
            }
            Ok(())
        })
    }
}
