//! Answers to other members. Everything of a message that is not sure is checked here, before openraft or the catalogue
//! hears of it: identity, order, size. A member that lies is refused; nothing it says can stop this one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{ChangeMembers, Snapshot, SnapshotMeta};
use tokio::time::timeout;

use crate::blobs;
use crate::directory::Members;
use crate::inbox::Taken;
use crate::invite;
use crate::limits;
use crate::message::{Join, Refusal, Reply, Request, SnapshotPart};
use crate::propose;
use crate::raft::{LogId, Member, MemberKey, NodeId, TypeConfig, Vote};
use crate::shared::Shared;
use crate::snapshot::SnapshotSource;
use crate::state::{ClusterCommand, ClusterOutcome};
use crate::transport::{Boxed, Serve};

/// No cluster reaches the larger half of all indices and terms; adding one to those below cannot overflow.
const LAST: u64 = u64::MAX / 2;

impl Serve for Arc<Shared> {
    fn serve(&self, from: NodeId, request: Request, body: Bytes) -> Boxed<'_, (Reply, Bytes)> {
        let shared = Arc::clone(self);
        Box::pin(async move {
            shared.contacts.note(from);
            match answer(&shared, from, request, body).await {
                Ok((reply, body)) => (reply, body),
                Err(refusal) => {
                    tracing::debug!(from, %refusal, "a member's request is refused");
                    (Reply::Refused(refusal), Bytes::new())
                }
            }
        })
    }
}

async fn answer(shared: &Arc<Shared>, from: NodeId, request: Request, body: Bytes) -> Result<(Reply, Bytes), Refusal> {
    let reply = match request {
        Request::Append(rpc) => append(shared, from, rpc).await?,
        Request::Vote(rpc) => vote(shared, from, rpc).await?,
        Request::Snapshot(part) => snapshot(shared, from, *part, body).await?,
        Request::PutBlob { hash, offset, total } => {
            blobs::take(shared, from, hash, offset, total, &body).await?;
            Reply::Done
        }
        Request::GetBlob { hash, offset } => {
            let (total, part) = blobs::give(shared, hash, offset).await?;
            return Ok((Reply::Blob { total }, part));
        }
        Request::Propose { id, command } => Reply::Outcome(propose::submit(shared, id, *command).await?),
        Request::ReadIndex => Reply::ReadIndex(propose::own_read_index(shared).await?),
        Request::Invite { hash, for_ms } => Reply::Cluster(invite::open(shared, hash, for_ms).await?),
        Request::Join(join) => self::join(shared, *join).await?,
        Request::Describe(member) => Reply::Cluster(describe(shared, from, *member).await?),
        Request::Leave { node } => Reply::Cluster(shared.change_cluster(&ClusterCommand::Leave { node }).await?),
        Request::Elect => {
            if Some(from) != shared.leader() {
                return Err(Refusal::NotAllowed);
            }
            shared.raft.trigger().elect().await.map_err(|_| Refusal::Stopping)?;
            Reply::Done
        }
        Request::Soft => {
            shared.soft.try_send((from, body)).map_err(|_| Refusal::Busy)?;
            Reply::Done
        }
    };
    Ok((reply, Bytes::new()))
}

/// A message speaks for the member whose connection brought it, and for no other.
fn check_voice(shared: &Shared, from: NodeId, vote: &Vote) -> Result<(), Refusal> {
    if vote.leader_id.node_id != from {
        return Err(Refusal::NotAllowed);
    }
    let term = shared.raft.metrics().borrow().current_term;
    if vote.leader_id.term > LAST {
        return Err(Refusal::Nonsense("no cluster reaches this term".to_owned()));
    }
    if vote.leader_id.term > term.saturating_add(limits::TERM_JUMP) {
        // It may be an honest member that was alone for an hour and stood for election all the time.
        tracing::warn!(from, term, theirs = vote.leader_id.term, "a member's term is far ahead");
    }
    Ok(())
}

fn check_entries(rpc: &AppendEntriesRequest<TypeConfig>) -> Result<(), Refusal> {
    let nonsense = |what: &str| Refusal::Nonsense(what.to_owned());
    if !rpc.vote.committed {
        return Err(nonsense("entries come from a leader"));
    }
    if rpc.entries.len() as u64 > limits::APPEND_ENTRIES {
        return Err(nonsense("too many entries"));
    }
    let mut previous = rpc.prev_log_id;
    for entry in &rpc.entries {
        let next = previous.map_or(0, |log_id| log_id.index.saturating_add(1));
        let ordered = previous.is_none_or(|previous| entry.log_id.leader_id >= previous.leader_id);
        if entry.log_id.index != next || next > LAST || !ordered || entry.log_id.leader_id > rpc.vote.leader_id {
            return Err(nonsense("the entries do not follow each other"));
        }
        previous = Some(entry.log_id);
    }
    if rpc.leader_commit.is_some_and(|commit| commit.leader_id > rpc.vote.leader_id || commit.index > LAST) {
        return Err(nonsense("it commits what its leader cannot have"));
    }
    Ok(())
}

async fn append(shared: &Shared, from: NodeId, rpc: AppendEntriesRequest<TypeConfig>) -> Result<Reply, Refusal> {
    check_voice(shared, from, &rpc.vote)?;
    check_entries(&rpc)?;
    check_history(shared, &rpc)?;
    let response = shared.raft.append_entries(rpc).await.map_err(|_| Refusal::Stopping)?;
    if !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
        shared.note_heard();
    }
    Ok(Reply::Append(response))
}

/// What is committed does not change: entries that would are refused, whoever sends them.
fn check_history(shared: &Shared, rpc: &AppendEntriesRequest<TypeConfig>) -> Result<(), Refusal> {
    let applied = shared.machine.position().borrow().log_id;
    let Some(applied) = applied else { return Ok(()) };
    if rpc.vote < shared.raft.metrics().borrow().vote {
        // A leader that was replaced, and has entries that nobody else has; it is told so.
        return Ok(());
    }
    let contradicts = |log_id: &LogId| {
        log_id.index <= applied.index && *log_id > applied || log_id.index == applied.index && *log_id != applied
    };
    let conflicts = rpc.prev_log_id.iter().chain(rpc.entries.iter().map(|entry| &entry.log_id)).any(contradicts);
    if conflicts {
        tracing::warn!("a leader's log contradicts what was committed here; it is not taken");
        return Err(Refusal::Nonsense("it contradicts what is committed".to_owned()));
    }
    Ok(())
}

async fn vote(shared: &Shared, from: NodeId, rpc: VoteRequest<NodeId>) -> Result<Reply, Refusal> {
    check_voice(shared, from, &rpc.vote)?;
    if rpc.vote.committed {
        return Err(Refusal::Nonsense("a candidate is no leader yet".to_owned()));
    }
    if !shared.directory.members().voters.contains(&from) {
        return Err(Refusal::NotAllowed);
    }
    Ok(Reply::Vote(shared.raft.vote(rpc).await.map_err(|_| Refusal::Stopping)?))
}

async fn snapshot(shared: &Shared, from: NodeId, part: SnapshotPart, body: Bytes) -> Result<Reply, Refusal> {
    check_voice(shared, from, &part.vote)?;
    let (own_vote, applied) = {
        let metrics = shared.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.vote, metrics.last_applied)
    };
    if part.vote < own_vote {
        return Ok(Reply::Snapshot { vote: own_vote, have: 0 });
    }
    if part.facts.log_id <= applied {
        return Ok(Reply::Snapshot { vote: part.vote, have: part.facts.bytes });
    }
    shared.note_heard();
    let _installing = shared.install();
    let (vote, bytes) = (part.vote, part.facts.bytes);
    let (file, position) = match shared.inbox.take(from, &part, body).await? {
        Taken::Partly(have) => return Ok(Reply::Snapshot { vote, have }),
        Taken::Whole(file, position) => (file, position),
    };
    let meta = SnapshotMeta {
        last_log_id: position.log_id,
        snapshot_id: position.log_id.map(|id| id.to_string()).unwrap_or_default(),
        last_membership: position.membership,
    };
    let snapshot = Snapshot { meta, snapshot: Box::new(SnapshotSource::Checked(file)) };
    let installed = shared.raft.install_full_snapshot(vote, snapshot).await.map_err(|_| Refusal::Stopping)?;
    Ok(Reply::Snapshot { vote: installed.vote, have: bytes })
}

/// Lets somebody in who knows the secret of an invitation; at the leader.
pub(crate) async fn join(shared: &Shared, join: Join) -> Result<Reply, Refusal> {
    if !is_sound(&join.member) || join.member.addresses.is_empty() {
        return Err(Refusal::Nonsense("what it says of itself is too long, or not where it is".to_owned()));
    }
    let members = shared.directory.members();
    if members.all.get(&join.node).is_some_and(|known| known.key == join.member.key) {
        // It proved that it is this member; it missed our last answer, or was stopped before it had the catalogue.
        return Ok(welcome(&members));
    }
    if members.all.len() >= limits::MEMBERS {
        return Err(Refusal::Full);
    }
    let hash = invite::hash(&join.secret);
    let now_ms = shared.now_ms();
    let command = ClusterCommand::Admit { hash, node: join.node, member: join.member, now_ms };
    match shared.change_cluster(&command).await? {
        ClusterOutcome::Done => Ok(welcome(&shared.directory.members())),
        other => Ok(Reply::Cluster(other)),
    }
}

fn welcome(members: &Members) -> Reply {
    Reply::Welcome(members.all.iter().map(|(id, member)| (*id, member.clone())).collect())
}

/// Changes what is known of a member; at the leader. Not its key: that is who it is.
pub(crate) async fn describe(shared: &Shared, node: NodeId, member: Member) -> Result<ClusterOutcome, Refusal> {
    shared.check_leading()?;
    let members = shared.directory.members();
    let known = members.all.get(&node).ok_or(Refusal::NotAllowed)?;
    // Who is alone need not be reached.
    let reachable = !member.addresses.is_empty() || members.all.len() == 1;
    if known.key != member.key || !is_sound(&member) || !reachable {
        return Err(Refusal::NotAllowed);
    }
    let change = ChangeMembers::SetNodes(BTreeMap::from([(node, member)]));
    match timeout(limits::ASK, shared.raft.change_membership(change, true)).await {
        Ok(Ok(_)) => Ok(ClusterOutcome::Done),
        Ok(Err(error)) => Err(error.forward_to_leader().map_or(Refusal::Busy, |to| Refusal::NotLeader(to.leader_id))),
        Err(_) => Err(Refusal::NoQuorum),
    }
}

/// The request of a stranger, over a connection that proved `key`: only to be let in, and only as the owner of it, or to
/// be told that it is no member any more.
pub(crate) async fn stranger(shared: &Arc<Shared>, key: MemberKey, request: Request) -> Reply {
    let join = match request {
        Request::Join(join) => join,
        Request::Leave { .. } if shared.directory.by_key(&key).is_none() => {
            return Reply::Cluster(ClusterOutcome::NoMember);
        }
        _ => return Reply::Refused(Refusal::NotAllowed),
    };
    if join.member.key != key {
        return Reply::Refused(Refusal::NotAllowed);
    }
    match shared.check_leading() {
        Ok(()) => self::join(shared, *join).await.unwrap_or_else(Reply::Refused),
        Err(Refusal::NotLeader(Some(leader))) => {
            let asked = shared.ask(leader, Request::Join(join), Bytes::new(), limits::ASK).await;
            asked.map_or(Reply::Refused(Refusal::NotLeader(None)), |(reply, _)| reply)
        }
        Err(refusal) => Reply::Refused(refusal),
    }
}

fn is_sound(member: &Member) -> bool {
    let few = |addresses: &[String]| {
        addresses.len() <= limits::ADDRESSES && addresses.iter().all(|address| address.len() <= limits::ADDRESS_BYTES)
    };
    few(&member.addresses) && few(&member.trackers)
}
