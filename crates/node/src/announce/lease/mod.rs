//! Leases at trackers of ours: one message keeps all items of a peer announced.
//!
//! Torrents announce as to any tracker. What they say is gathered in a [`Record`](record::Record) for each tracker, and
//! a task sends what has changed, once for all of them, and renews the rest by saying nothing of it.

mod record;
mod task;

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use obt_swarm::{AnnounceEvent, AnnounceReply};
use obt_wire::PeerId;
use tokio::sync::{mpsc, oneshot};

use self::task::{Command, Identity, Task, Tempo};
use super::{Announce, AnnounceError};
use crate::api_types::LeaseEvent;
use crate::limits::{LEASE_COMMANDS, LEASE_CONNECT};
use crate::members::MemberBook;
use crate::tracker_client::TrackerAddress;

type Http = Client<HttpConnector, Full<Bytes>>;

/// The leases of a node, one for each tracker of ours that it was told of.
pub(super) struct LeaseTrackers {
    advertise: Vec<String>,
    members: MemberBook,
    tempo: Tempo,
    http: OnceLock<Http>,
    tasks: Mutex<BTreeMap<TrackerAddress, mpsc::Sender<Command>>>,
}

impl LeaseTrackers {
    pub(super) fn new(advertise: Vec<String>, members: MemberBook) -> Self {
        Self::at_tempo(advertise, members, Tempo::default())
    }

    fn at_tempo(advertise: Vec<String>, members: MemberBook, tempo: Tempo) -> Self {
        Self { advertise, members, tempo, http: OnceLock::new(), tasks: Mutex::default() }
    }

    /// Puts the item on the lease, or takes it off, and waits until the tracker knows.
    pub(super) async fn announce(
        &self,
        tracker: &TrackerAddress,
        announce: &Announce,
    ) -> Result<AnnounceReply, AnnounceError> {
        let hash = announce.hashes.primary();
        let left = announce.request.left;
        let num_want = announce.request.num_want;
        let tell = |answer| match announce.request.event {
            AnnounceEvent::Stopped => Command::Remove { hash, answer },
            AnnounceEvent::Regular => Command::Set { hash, left, event: None, num_want, answer },
            AnnounceEvent::Started => Command::Set { hash, left, event: Some(LeaseEvent::Started), num_want, answer },
            AnnounceEvent::Completed => {
                Command::Set { hash, left, event: Some(LeaseEvent::Completed), num_want, answer }
            }
        };
        self.command(tracker, announce.peer_id, announce.port, tell).await
    }

    /// Connects before there is anything to say: what is said then takes a round trip less.
    pub(super) fn approach(&self, tracker: &TrackerAddress, peer_id: PeerId, port: u16) {
        if let Ok(task) = self.task(tracker, peer_id, port) {
            // Where it has so much to do it is connected already.
            let _ = task.try_send(Command::Approach);
        }
    }

    /// Keeps a lease even while nothing is on it.
    pub(super) async fn join(&self, tracker: &TrackerAddress, peer_id: PeerId, port: u16) -> Result<(), AnnounceError> {
        self.command(tracker, peer_id, port, |answer| Command::Join { answer }).await.map(drop)
    }

    async fn command(
        &self,
        tracker: &TrackerAddress,
        peer_id: PeerId,
        port: u16,
        command: impl FnOnce(oneshot::Sender<Result<AnnounceReply, AnnounceError>>) -> Command,
    ) -> Result<AnnounceReply, AnnounceError> {
        let (answer, answered) = oneshot::channel();
        let task = self.task(tracker, peer_id, port)?;
        task.send(command(answer)).await.map_err(|_| AnnounceError::Stopping)?;
        answered.await.map_err(|_| AnnounceError::Stopping)?
    }

    /// The task of this tracker's lease, which begins with the first command.
    fn task(
        &self,
        tracker: &TrackerAddress,
        peer_id: PeerId,
        port: u16,
    ) -> Result<mpsc::Sender<Command>, AnnounceError> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = tasks.get(tracker).filter(|task| !task.is_closed()) {
            return Ok(task.clone());
        }
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|error| AnnounceError::Unreachable(error.to_string()))?;
        let identity = Identity { peer_id, secret, port, advertise: self.advertise.clone() };
        let (sender, commands) = mpsc::channel(LEASE_COMMANDS);
        let members = self.members.of(tracker);
        tokio::spawn(Task::new(members, identity, self.http(), self.tempo.clone(), commands).run());
        tasks.insert(tracker.clone(), sender.clone());
        Ok(sender)
    }

    fn http(&self) -> Http {
        let made = || {
            let mut connector = HttpConnector::new();
            connector.set_connect_timeout(Some(LEASE_CONNECT));
            connector.set_nodelay(true);
            Client::builder(TokioExecutor::new()).build(connector)
        };
        self.http.get_or_init(made).clone()
    }

    /// Lets nothing wait for others to join its message any more.
    pub(super) async fn hurry(&self) {
        let tasks: Vec<_> = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for task in tasks {
            // One that has ended has nothing left to say.
            let _ = task.send(Command::Hurry).await;
        }
    }

    /// Ends every lease.
    pub(super) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ended = Vec::new();
        for task in tasks.into_values() {
            let (answer, answered) = oneshot::channel();
            if task.send(Command::Stop { answer }).await.is_ok() {
                ended.push(answered);
            }
        }
        for answered in ended {
            // An error means that the task has ended already.
            let _ = answered.await;
        }
    }
}

#[cfg(test)]
mod tests;
