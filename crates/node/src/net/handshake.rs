//! The exchange of handshakes (BEP 3), and the upgrade of a hybrid's connection to v2 (BEP 52).

use std::io;
use std::time::Duration;

use obt_wire::peer::{Handshake, NotBitTorrent, Reserved};
use obt_wire::{InfoHash, InfoHashes, PeerId};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why a connection never became one.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("closed before the handshake was whole")]
    Closed,
    #[error("nothing came for {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    NotBitTorrent(#[from] NotBitTorrent),
    #[error("answered for another torrent, {0}")]
    OtherTorrent(InfoHash),
    #[error("no connection is left for it")]
    NoRoom,
}

/// What both handshakes have settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// What they sent.
    pub(crate) theirs: Handshake,
    /// Whether v2 messages may be used (BEP 52).
    pub(crate) v2: bool,
}

/// The handshake with which we open a connection.
pub(super) fn opening(hashes: InfoHashes, peer_id: PeerId) -> Handshake {
    Handshake { reserved: reserved(hashes), info_hash: hashes.primary(), peer_id }
}

/// The handshake with which we answer `theirs`, and what is settled then. A peer that means the v1 hash of a hybrid
/// and understands v2 is told the v2 hash (BEP 52, "upgrade path").
pub(crate) fn answer(theirs: Handshake, hashes: InfoHashes, peer_id: PeerId) -> (Handshake, Agreed) {
    let v2_hash = hashes.v2.map(InfoHash::from);
    let info_hash = match v2_hash {
        Some(v2) if theirs.reserved.v2 => v2,
        _ => theirs.info_hash,
    };
    let ours = Handshake { reserved: reserved(hashes), info_hash, peer_id };
    (ours, Agreed { theirs, v2: v2_hash == Some(info_hash) })
}

fn reserved(hashes: InfoHashes) -> Reserved {
    Reserved { extensions: true, fast: true, dht: false, v2: hashes.v1.is_some() && hashes.v2.is_some() }
}

/// Reads a handshake. Gives up at the first byte that cannot belong to one.
pub(super) async fn receive(stream: &mut TcpStream, within: Duration) -> Result<Handshake, HandshakeError> {
    timeout(within, read(stream)).await.map_err(|_| HandshakeError::TimedOut(within))?
}

async fn read(stream: &mut TcpStream) -> Result<Handshake, HandshakeError> {
    let mut bytes = [0; Handshake::LEN];
    let mut filled = 0;
    while let Some(rest @ [_, ..]) = bytes.get_mut(filled..) {
        match stream.read(rest).await? {
            0 => return Err(HandshakeError::Closed),
            read => filled += read,
        }
        if !bytes.get(..filled).is_some_and(Handshake::can_begin_with) {
            return Err(NotBitTorrent.into());
        }
    }
    Ok(Handshake::decode(&bytes)?)
}

/// Opens: sends ours, reads theirs, and checks that it means the same torrent.
pub(super) async fn open(
    stream: &mut TcpStream,
    hashes: InfoHashes,
    peer_id: PeerId,
    within: Duration,
) -> Result<Agreed, HandshakeError> {
    stream.write_all(&opening(hashes, peer_id).encode()).await?;
    let theirs = receive(stream, within).await?;
    if !hashes.contains(theirs.info_hash) {
        return Err(HandshakeError::OtherTorrent(theirs.info_hash));
    }
    Ok(Agreed { theirs, v2: hashes.v2.map(InfoHash::from) == Some(theirs.info_hash) })
}

#[cfg(test)]
mod tests {
    use obt_wire::{Sha1Hash, Sha256Hash};

    use super::*;

    const V1: InfoHashes = InfoHashes { v1: Some(Sha1Hash([1; 20])), v2: None };
    const HYBRID: InfoHashes = InfoHashes { v1: Some(Sha1Hash([1; 20])), v2: Some(Sha256Hash([2; 32])) };
    const V2: InfoHashes = InfoHashes { v1: None, v2: Some(Sha256Hash([2; 32])) };
    const ID: PeerId = PeerId([9; 20]);

    #[test]
    fn hybrids_meet_on_v2_where_both_know_how() {
        let (answered, agreed) = answer(opening(HYBRID, ID), HYBRID, ID);
        assert_eq!(answered.info_hash, InfoHash([2; 20]));
        assert!(agreed.v2);
        let (answered, agreed) = answer(opening(V1, ID), HYBRID, ID);
        assert_eq!(answered.info_hash, InfoHash([1; 20]));
        assert!(!agreed.v2);
        let (answered, agreed) = answer(opening(V2, ID), HYBRID, ID);
        assert_eq!(answered.info_hash, InfoHash([2; 20]));
        assert!(agreed.v2);
    }

    #[test]
    fn w24_the_v2_bit_means_nothing_for_a_v1_torrent() {
        let mut theirs = opening(V1, ID);
        theirs.reserved.v2 = true;
        let (answered, agreed) = answer(theirs, V1, ID);
        assert_eq!(answered.info_hash, InfoHash([1; 20]));
        assert!(!answered.reserved.v2);
        assert!(!agreed.v2);
    }
}
