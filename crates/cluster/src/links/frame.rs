//! Frames: a length, a version, a head in JSON, a body of bytes.
//!
//! ```text
//! length of all that follows (4, big endian) | version (1) | length of the head (4) | head | body
//! ```

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::message::{Reply, Request};
use crate::raft::NodeId;

/// Longest frame (HOSTILE B-RAFT).
pub const FRAME_BYTES: usize = 8 * 1_024 * 1_024;
/// Longest frame of somebody who is no member.
pub(crate) const STRANGER_BYTES: usize = 16 * 1_024;
/// The version of frames.
const VERSION: u8 = 1;
/// Version and length of the head.
const FIXED: usize = 5;
/// How long a frame that began may take.
const FRAME: Duration = Duration::from_secs(10);
/// What is allocated before the bytes that fill it have come.
const STEP: usize = 64 * 1_024;

/// A frame cannot be read or written. The connection is of no use afterwards.
#[derive(Debug, Error)]
pub enum FrameError {
    /// It ended, or broke.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// It took too long.
    #[error("a frame took too long")]
    Slow,
    /// Longer than allowed, or shorter than a frame can be.
    #[error("a frame cannot have {0} bytes")]
    Length(usize),
    /// Another release's.
    #[error("frames of version {0} are not understood")]
    Version(u8),
    /// The head is no head.
    #[error("the head of a frame cannot be read")]
    Head,
}

/// What each request says besides itself. All of it must fit the connection that brought it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RequestHead {
    /// Which cluster.
    pub(crate) cluster: String,
    /// The sender; 0 is nobody yet.
    pub(crate) from: NodeId,
    /// This run of the sender.
    pub(crate) run: u64,
    /// For whom.
    pub(crate) to: NodeId,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReplyHead {
    pub(crate) reply: Reply,
}

/// Head and body of a frame in one buffer.
pub(crate) fn encode<T: Serialize>(head: &T, body: &Bytes) -> Result<Bytes, FrameError> {
    let head = serde_json::to_vec(head).map_err(|_| FrameError::Head)?;
    let length = FIXED + head.len() + body.len();
    if length > FRAME_BYTES {
        return Err(FrameError::Length(length));
    }
    let mut frame = BytesMut::with_capacity(4 + length);
    // FRAME_BYTES is far below what 32 bits hold.
    frame.put_u32(u32::try_from(length).map_err(|_| FrameError::Length(length))?);
    frame.put_u8(VERSION);
    frame.put_u32(u32::try_from(head.len()).map_err(|_| FrameError::Length(length))?);
    frame.put_slice(&head);
    frame.put_slice(body);
    Ok(frame.freeze())
}

pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &Bytes) -> Result<(), FrameError> {
    let written = timeout(FRAME, async {
        to.write_all(frame).await?;
        to.flush().await
    });
    Ok(written.await.map_err(|_| FrameError::Slow)??)
}

/// The next frame, of at most `most` bytes; its first byte may take as long as `idle`.
pub(crate) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
    idle: Duration,
) -> Result<(T, Bytes), FrameError> {
    let length = timeout(idle, from.read_u32()).await.map_err(|_| FrameError::Slow)??;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length < FIXED || length > most {
        return Err(FrameError::Length(length));
    }
    let frame = timeout(FRAME, read_all(from, length)).await.map_err(|_| FrameError::Slow)??;
    decode(frame)
}

/// Grows with what comes, so that a length alone costs nothing.
async fn read_all(from: &mut (impl AsyncRead + Unpin), length: usize) -> std::io::Result<Bytes> {
    let mut frame = BytesMut::with_capacity(length.min(STEP));
    let mut limited = from.take(length as u64);
    while frame.len() < length {
        frame.reserve((length - frame.len()).min(STEP));
        if limited.read_buf(&mut frame).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}

fn decode<T: DeserializeOwned>(mut frame: Bytes) -> Result<(T, Bytes), FrameError> {
    let version = frame.try_get_u8().map_err(|_| FrameError::Head)?;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let head = usize::try_from(frame.try_get_u32().map_err(|_| FrameError::Head)?).unwrap_or(usize::MAX);
    if head > frame.len() {
        return Err(FrameError::Head);
    }
    let head = frame.split_to(head);
    Ok((serde_json::from_slice(&head).map_err(|_| FrameError::Head)?, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RequestHead {
        RequestHead { cluster: "c".to_owned(), from: 1, run: 2, to: 3, request: Request::Soft }
    }

    async fn read_bytes(bytes: &[u8], most: usize) -> Result<(RequestHead, Bytes), FrameError> {
        let mut bytes = bytes;
        read(&mut bytes, most, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_frame_round_trips() {
        for size in [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP] {
            let body = Bytes::from(vec![7; size]);
            let frame = encode(&head(), &body).unwrap();
            let (read, same) = read_bytes(&frame, FRAME_BYTES).await.unwrap();
            assert_eq!((read.from, read.run, read.to, same), (1, 2, 3, body));
        }
    }

    #[tokio::test]
    async fn n02_what_is_no_frame_is_refused_before_it_is_held() {
        let good = encode(&head(), &Bytes::new()).unwrap();
        for length in [0, 4, FRAME_BYTES as u32 + 1, u32::MAX] {
            let mut frame = good.to_vec();
            frame[..4].copy_from_slice(&length.to_be_bytes());
            assert!(matches!(read_bytes(&frame, FRAME_BYTES).await, Err(FrameError::Length(_))), "{length}");
        }
        for cut in 0..good.len() {
            assert!(read_bytes(&good[..cut], FRAME_BYTES).await.is_err(), "{cut} bytes");
        }
        let mut frame = good.to_vec();
        frame[4] = 9;
        assert!(matches!(read_bytes(&frame, FRAME_BYTES).await, Err(FrameError::Version(9))));
        frame[4] = VERSION;
        frame[5] = 0xff;
        assert!(matches!(read_bytes(&frame, FRAME_BYTES).await, Err(FrameError::Head)));
        let unknown = String::from_utf8(good.to_vec()).unwrap().replace("soft", "sofa");
        assert!(matches!(read_bytes(unknown.as_bytes(), FRAME_BYTES).await, Err(FrameError::Head)));
        assert!(matches!(read_bytes(&good, 20).await, Err(FrameError::Length(_))));
        assert!(encode(&head(), &Bytes::from(vec![0; FRAME_BYTES])).is_err());
    }
}
