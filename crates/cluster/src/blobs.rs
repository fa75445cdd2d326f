//! Metainfo beside the log: on a majority before the command that names it is proposed, fetched by hash by the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use obt_catalogue::{BlobHash, Reader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep_until};

use crate::failure::ClusterFailure;
use crate::fatal::told;
use crate::limits::{self, BLOB_BYTES, BLOBS_ARRIVING};
use crate::message::{PART_BYTES, Refusal, Reply, Request};
use crate::raft::NodeId;
use crate::shared::Shared;

/// How long an unfinished blob keeps its place after its last part.
const STALLED: Duration = Duration::from_secs(30);

/// Blobs that arrive in parts.
#[derive(Debug, Default)]
pub(crate) struct Arriving(Mutex<BTreeMap<(NodeId, BlobHash), Partial>>);

#[derive(Debug)]
struct Partial {
    bytes: BytesMut,
    total: u64,
    touched: Instant,
}

impl Arriving {
    /// Takes a part; the whole blob, once it is there and has its hash.
    fn take(&self, key: (NodeId, BlobHash), offset: u64, total: u64, body: &[u8]) -> Result<Option<Bytes>, Refusal> {
        let nonsense = |what: &str| Refusal::Nonsense(what.to_owned());
        if total > BLOB_BYTES || body.len() > PART_BYTES {
            return Err(nonsense("a blob of this size is not taken"));
        }
        let now = Instant::now();
        let mut partials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        partials.retain(|_, partial| now.saturating_duration_since(partial.touched) < STALLED);
        let mut partial = match partials.remove(&key) {
            Some(partial) if offset > 0 => partial,
            _ if offset > 0 => return Err(nonsense("its first part is not here")),
            _ if partials.len() >= BLOBS_ARRIVING && (body.len() as u64) < total => return Err(Refusal::Busy),
            _ => Partial { bytes: BytesMut::new(), total, touched: now },
        };
        let end = offset.checked_add(body.len() as u64);
        if partial.bytes.len() as u64 != offset || partial.total != total || end.is_none_or(|end| end > total) {
            return Err(nonsense("its parts do not follow each other"));
        }
        partial.bytes.extend_from_slice(body);
        partial.touched = now;
        if (partial.bytes.len() as u64) < total {
            if body.is_empty() {
                return Err(nonsense("an empty part"));
            }
            partials.insert(key, partial);
            return Ok(None);
        }
        let whole = partial.bytes.freeze();
        if BlobHash::of(&whole) == key.1 { Ok(Some(whole)) } else { Err(nonsense("it has another hash")) }
    }
}

/// Answers [`Request::PutBlob`].
pub(crate) async fn take(
    shared: &Shared,
    from: NodeId,
    hash: BlobHash,
    offset: u64,
    total: u64,
    body: &[u8],
) -> Result<(), Refusal> {
    match shared.blobs.take((from, hash), offset, total, body)? {
        Some(whole) => store(shared, whole).await.map_err(|_| Refusal::Stopping),
        None => Ok(()),
    }
}

/// Keeps a blob here. A disk that is full or fails is no reason to end: nothing was promised yet.
async fn store(shared: &Shared, blob: Bytes) -> Result<(), ClusterFailure> {
    match shared.machine.store(blob, shared.now_ms()).await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => {
            let why = told(&error);
            tracing::warn!(why, "a torrent cannot be stored");
            Err(ClusterFailure::Disk(why))
        }
        None => Err(ClusterFailure::Stopping),
    }
}

/// Answers [`Request::GetBlob`]: how long the whole is, and a part of it.
pub(crate) async fn give(shared: &Shared, hash: BlobHash, offset: u64) -> Result<(u64, Bytes), Refusal> {
    let blob = local(shared, hash).await.ok_or(Refusal::Missing)?;
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(blob.len());
    let to = from.saturating_add(PART_BYTES).min(blob.len());
    Ok((blob.len() as u64, blob.slice(from..to)))
}

async fn local(shared: &Shared, hash: BlobHash) -> Option<Bytes> {
    match shared.machine.work(move |catalogue| catalogue.blob(hash)).await? {
        Ok(blob) => blob.map(Bytes::from),
        Err(error) => {
            tracing::warn!(%error, %hash, "a torrent cannot be read");
            None
        }
    }
}

/// Stores a blob here and at so many voters that any majority has one who has it; all of them at once.
pub(crate) async fn spread(shared: &Arc<Shared>, blob: Bytes) -> Result<(), ClusterFailure> {
    let members = shared.directory.members();
    let hash = BlobHash::of(&blob);
    let mut pushes = JoinSet::new();
    for voter in members.voters.iter().filter(|voter| **voter != shared.node) {
        let (shared, blob, voter) = (Arc::clone(shared), blob.clone(), *voter);
        pushes.spawn(async move { push(&shared, voter, hash, &blob).await.then_some(voter) });
    }
    store(shared, blob).await?;
    let mut have = BTreeSet::from([shared.node]);
    while !members.is_quorum(&have) {
        match pushes.join_next().await {
            Some(Ok(voter)) => have.extend(voter),
            Some(Err(_)) => {}
            None => return Err(ClusterFailure::NoQuorum),
        }
    }
    // The others get it as well; whom it does not reach fetches it.
    pushes.detach_all();
    Ok(())
}

async fn push(shared: &Shared, to: NodeId, hash: BlobHash, blob: &Bytes) -> bool {
    let total = blob.len() as u64;
    let mut rest = blob.clone();
    let mut offset = 0;
    loop {
        let part = rest.split_to(rest.len().min(PART_BYTES));
        let sent = part.len() as u64;
        let request = Request::PutBlob { hash, offset, total };
        match shared.ask(to, request, part, limits::PART).await {
            Ok((Reply::Done, _)) => offset += sent,
            Ok((reply, _)) => {
                tracing::debug!(to, ?reply, "a torrent was not taken");
                return false;
            }
            Err(error) => {
                tracing::debug!(to, %error, "a torrent cannot be sent");
                return false;
            }
        }
        if rest.is_empty() {
            return true;
        }
    }
}

/// A blob from wherever it is, and keeps it.
pub(crate) async fn fetch(shared: &Shared, hash: BlobHash) -> Option<Bytes> {
    if let Some(blob) = local(shared, hash).await {
        return Some(blob);
    }
    let members = shared.directory.members();
    let leader = shared.leader();
    let mut others: Vec<NodeId> = members.all.keys().copied().filter(|node| *node != shared.node).collect();
    fastrand::shuffle(&mut others);
    // Whoever leads has applied what names it, so is the likeliest to have it.
    others.sort_by_key(|node| Some(*node) != leader);
    for node in others {
        if let Some(blob) = fetch_from(shared, node, hash).await {
            let _ = store(shared, blob.clone()).await;
            return Some(blob);
        }
    }
    None
}

async fn fetch_from(shared: &Shared, node: NodeId, hash: BlobHash) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    loop {
        let request = Request::GetBlob { hash, offset: whole.len() as u64 };
        let Ok((Reply::Blob { total }, part)) = shared.ask(node, request, Bytes::new(), limits::PART).await else {
            return None;
        };
        if total > BLOB_BYTES || whole.len() as u64 + part.len() as u64 > total {
            return None;
        }
        whole.extend_from_slice(&part);
        if whole.len() as u64 == total {
            let whole = whole.freeze();
            return (BlobHash::of(&whole) == hash).then_some(whole);
        }
        if part.is_empty() {
            return None;
        }
    }
}

/// Fetches what is missing, as it turns up, and what a look through all finds now and then.
pub(crate) async fn run(shared: Arc<Shared>, mut wanted: mpsc::Receiver<BlobHash>) {
    let mut round = TokioInstant::now() + limits::ELECTION.1;
    loop {
        tokio::select! {
            hash = wanted.recv() => {
                let Some(hash) = hash else { return };
                if fetch(&shared, hash).await.is_none() {
                    tracing::debug!(%hash, "a torrent is missing, and nobody who answers has it");
                }
            }
            () = sleep_until(round) => {
                look_through(&shared).await;
                round = TokioInstant::now() + limits::BLOB_ROUND;
            }
        }
    }
}

async fn look_through(shared: &Shared) {
    // Alone there is nobody to ask.
    if shared.directory.members().all.len() < 2 {
        return;
    }
    let path = shared.machine.path().to_owned();
    let missing = tokio::task::spawn_blocking(move || Reader::open(&path)?.missing_blobs(limits::BLOBS_MISSING)).await;
    match missing {
        Ok(Ok(missing)) => {
            for hash in missing {
                fetch(shared, hash).await;
            }
        }
        Ok(Err(error)) => tracing::warn!(%error, "missing torrents cannot be looked for"),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_a_blob_once_they_are_all_there_and_right() {
        let blob = vec![7; 100];
        let key = (1, BlobHash::of(&blob));
        let arriving = Arriving::default();
        assert_eq!(arriving.take(key, 0, 100, &blob[..60]), Ok(None));
        assert_eq!(arriving.take(key, 60, 100, &blob[60..]).unwrap().unwrap(), blob);
        assert!(arriving.take(key, 60, 100, &blob[60..]).is_err(), "a part that follows nothing");
        assert_eq!(
            arriving.take((1, BlobHash([0; 32])), 0, 100, &blob),
            Err(Refusal::Nonsense("it has another hash".to_owned()))
        );
    }

    #[test]
    fn n02_parts_that_do_not_fit_are_refused_and_places_are_few() {
        let arriving = Arriving::default();
        let key = |number: u8| (1, BlobHash([number; 32]));
        for (offset, total, body) in [(0, BLOB_BYTES + 1, 1), (0, 10, 11), (u64::MAX, 10, 1), (0, 10, 0), (5, 10, 1)] {
            assert!(arriving.take(key(0), offset, total, &vec![0; body]).is_err(), "{offset} {total} {body}");
        }
        for number in 0..BLOBS_ARRIVING as u8 {
            assert_eq!(arriving.take(key(number), 0, 10, &[0]), Ok(None));
        }
        assert_eq!(arriving.take(key(200), 0, 10, &[0]), Err(Refusal::Busy));
        assert!(arriving.take(key(0), 2, 10, &[0]).is_err(), "a gap");
        assert_eq!(arriving.take(key(200), 0, 10, &[0]), Ok(None), "the broken one made room");
    }
}
