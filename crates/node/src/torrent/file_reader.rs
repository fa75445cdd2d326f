//! Reads a file of a torrent in order while it comes in: for `--stdout` and HTTP ranges.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use obt_swarm::ReadRange;
use obt_wire::PieceIndex;
use obt_wire::metainfo::Metainfo;
use obt_wire::peer::Request;

use super::error::{ReadError, TorrentError};
use super::handle::TorrentHandle;
use crate::limits::{READ_AHEAD, READ_STEP};

/// Bytes of a file, in order, each as soon as it is verified. Pieces ahead of it are fetched before others; dropping
/// it ends that.
#[derive(Debug)]
pub struct FileReader {
    torrent: TorrentHandle,
    metainfo: Arc<Metainfo>,
    id: u64,
    /// Position and end in the torrent's piece space, bytes.
    at: u64,
    end: u64,
}

impl Drop for FileReader {
    fn drop(&mut self) {
        self.torrent.readers().leave(self.id);
    }
}

impl FileReader {
    pub(super) fn new(
        torrent: TorrentHandle,
        metainfo: Arc<Metainfo>,
        file: usize,
        range: Range<u64>,
    ) -> Result<Self, ReadError> {
        let found = metainfo.info.files.get(file).ok_or(ReadError::OutOfRange)?;
        if range.start > range.end || range.end > found.size {
            return Err(ReadError::OutOfRange);
        }
        let (at, end) = (found.offset + range.start, found.offset + range.end);
        let id = torrent.readers().enter().ok_or(ReadError::Busy)?;
        Ok(Self { torrent, metainfo, id, at, end })
    }

    /// The next bytes, up to 256 KiB; None at the end.
    ///
    /// # Errors
    /// [`ReadError::Torrent`] where they will never come, or their file changed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.at < self.end {
            let piece = self.move_window();
            if !self.torrent.readers().wait(piece).await {
                return Err(self.torrent.why_ended().into());
            }
            let request = self.request(piece);
            let store = self.torrent.readers().store().ok_or_else(|| self.torrent.why_ended())?;
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; request.length as usize];
                store.read_blocking(&request, &mut bytes).map(|()| Bytes::from(bytes))
            });
            let bytes = read.await.map_err(|_| TorrentError::Stopped)?.map_err(TorrentError::from)?;
            self.at += u64::from(request.length);
            return Ok(Some(bytes));
        }
        Ok(None)
    }

    /// The same, as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, ReadError>> + Send {
        futures_util::stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|bytes| (bytes, reader)))
        })
    }

    /// Asks for what is read next to come first; returns the piece at the position.
    fn move_window(&self) -> PieceIndex {
        let geometry = &self.metainfo.info.geometry;
        let length = u64::from(geometry.piece_length());
        let piece = |at: u64| u32::try_from(at / length).unwrap_or(u32::MAX);
        let first = piece(self.at);
        // The piece after this one too, however long pieces are: it comes in while this one is read.
        let ahead = self.at.saturating_add(READ_AHEAD.max(length)).min(self.end);
        let end = piece(ahead.saturating_sub(1)).saturating_add(1);
        self.torrent.readers().set_window(self.id, ReadRange { first, end });
        PieceIndex(first)
    }

    fn request(&self, piece: PieceIndex) -> Request {
        let length = u64::from(self.metainfo.info.geometry.piece_length());
        let begin = self.at % length;
        let most = (length - begin).min(self.end - self.at).min(u64::from(READ_STEP));
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Request { piece: piece.0, begin: narrow(begin), length: narrow(most) }
    }
}
