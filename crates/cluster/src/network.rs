//! openraft's network over a [`Transport`]: one client for each target.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, OptionalSend, Snapshot, StorageIOError};

use crate::directory::Directory;
use crate::limits;
use crate::message::{PART_BYTES, Refusal, Reply, Request, SnapshotPart};
use crate::raft::{Member, NodeId, TypeConfig, Vote};
use crate::snapshot::{self, SnapshotFacts, SnapshotFile, SnapshotSource};
use crate::transport::{LinkError, Transport};

type RpcError = RPCError<NodeId, Member, RaftError<NodeId>>;
type SendError = StreamingError<TypeConfig, Fatal<NodeId>>;

/// When each member last answered this one, and when one last refused it a vote.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contacts(Arc<Mutex<Answers>>);

#[derive(Debug, Default)]
struct Answers {
    last: BTreeMap<NodeId, Instant>,
    refused: Option<Instant>,
}

impl Contacts {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, node: NodeId) {
        self.answers().last.insert(node, Instant::now());
    }

    pub(crate) fn last(&self, node: NodeId) -> Option<Instant> {
        self.answers().last.get(&node).copied()
    }

    /// A member says that this one is no voter.
    fn note_refused(&self) {
        self.answers().refused = Some(Instant::now());
    }

    /// Whether this member should not stand for election: others knew a moment ago that it is no voter any more. openraft
    /// 0.9 has no pre-vote, so each try in vain raises its term, and every leader that speaks to it has to give way.
    pub(crate) fn stands_down(&self) -> bool {
        self.answers().refused.is_some_and(|at| at.elapsed() < limits::STAND_DOWN)
    }
}

/// Makes a client for each target.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) contacts: Contacts,
    pub(crate) directory: Arc<Directory>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Client {
        Client { network: self.clone(), target, member: node.clone() }
    }
}

/// Speaks to one target.
pub(crate) struct Client {
    network: Network,
    target: NodeId,
    member: Member,
}

impl Client {
    async fn call(&self, request: Request, body: Bytes, limit: Duration) -> Result<Reply, LinkError> {
        // It may have moved since this client was made.
        let members = self.network.directory.members();
        let member = members.all.get(&self.target).unwrap_or(&self.member);
        let call = self.network.transport.call(self.target, member, request, body, limit);
        let (reply, _) = call.await?;
        self.network.contacts.note(self.target);
        Ok(reply)
    }
}

fn rpc_error(error: &LinkError) -> RpcError {
    match error {
        LinkError::Unreachable(_) | LinkError::Busy => Unreachable::new(error).into(),
        LinkError::TimedOut | LinkError::Broken(_) => NetworkError::new(error).into(),
    }
}

fn refused(refusal: &Refusal) -> RpcError {
    Unreachable::new(refusal).into()
}

/// A reply of another kind than the request: no member of this release does that.
fn strange() -> RpcError {
    refused(&Refusal::Nonsense("the reply belongs to another request".to_owned()))
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        match self.call(Request::Append(rpc), Bytes::new(), option.hard_ttl()).await {
            Ok(Reply::Append(response)) => Ok(response),
            Ok(Reply::Refused(refusal)) => Err(refused(&refusal)),
            Ok(_) => Err(strange()),
            Err(error) => Err(rpc_error(&error)),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<NodeId>, option: RPCOption) -> Result<VoteResponse<NodeId>, RpcError> {
        match self.call(Request::Vote(rpc), Bytes::new(), option.hard_ttl()).await {
            Ok(Reply::Vote(response)) => Ok(response),
            Ok(Reply::Refused(refusal)) => {
                if matches!(refusal, Refusal::NotAllowed) {
                    self.network.contacts.note_refused();
                }
                Err(refused(&refusal))
            }
            Ok(_) => Err(strange()),
            Err(error) => Err(rpc_error(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, SendError> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send(vote, snapshot) => sent,
        }
    }

    fn backoff(&self) -> Backoff {
        // The links keep their own pause between two tries to connect; this one only keeps the loop from spinning.
        Backoff::new(std::iter::repeat(limits::HEARTBEAT))
    }
}

impl Client {
    async fn send(&self, vote: Vote, snapshot: Snapshot<TypeConfig>) -> Result<SnapshotResponse<NodeId>, SendError> {
        let SnapshotSource::Live(live) = *snapshot.snapshot else {
            return Err(failed(AnyError::error("only a live catalogue is sent")));
        };
        let made = tokio::task::spawn_blocking(move || {
            let folder = live.parent().unwrap_or(&live);
            let (file, facts) = snapshot::make(&live, folder)?;
            let open = File::open(file.path())?;
            Ok::<_, snapshot::SnapshotError>((file, facts, open))
        });
        let made = made.await.map_err(|error| failed(AnyError::new(&error)))?;
        let (file, facts, mut open) = made.map_err(|error| failed(AnyError::new(&error)))?;
        tracing::info!(target = self.target, bytes = facts.bytes, "sending a snapshot");
        let mut offset = 0;
        loop {
            let (next, part) = read_part(open).await.map_err(|error| failed(AnyError::new(&error)))?;
            open = next;
            let sent = part.len() as u64;
            let (theirs, have) = self.send_part(vote, &facts, offset, part).await?;
            offset += sent;
            if theirs > vote || have >= facts.bytes {
                drop::<SnapshotFile>(file);
                return Ok(SnapshotResponse::new(theirs));
            }
            if have != offset || sent == 0 {
                let error = LinkError::Broken(format!("it has {have} of the {offset} bytes that were sent"));
                return Err(NetworkError::new(&error).into());
            }
        }
    }

    async fn send_part(
        &self,
        vote: Vote,
        facts: &SnapshotFacts,
        offset: u64,
        part: Bytes,
    ) -> Result<(Vote, u64), SendError> {
        let last = offset + part.len() as u64 >= facts.bytes;
        let limit = if last { limits::INSTALL } else { limits::PART };
        let request = SnapshotPart { vote, facts: facts.clone(), offset };
        match self.call(Request::Snapshot(Box::new(request)), part, limit).await {
            Ok(Reply::Snapshot { vote, have }) => Ok((vote, have)),
            Ok(Reply::Refused(refusal)) => Err(Unreachable::new(&refusal).into()),
            Ok(_) => Err(Unreachable::new(&LinkError::Broken("a strange reply".to_owned())).into()),
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }
}

fn failed(error: AnyError) -> SendError {
    // Not a storage error: that would stop this member, whose catalogue is sound.
    let error = LinkError::Broken(StorageIOError::<NodeId>::read_snapshot(None, error).to_string());
    Unreachable::new(&error).into()
}

async fn read_part(mut file: File) -> std::io::Result<(File, Bytes)> {
    let read = tokio::task::spawn_blocking(move || {
        let mut part = Vec::with_capacity(PART_BYTES);
        file.by_ref().take(PART_BYTES as u64).read_to_end(&mut part)?;
        Ok((file, Bytes::from(part)))
    });
    read.await.map_err(std::io::Error::other)?
}
