//! Carries the announces that members tell each other. What is told, and what is believed, is decided in
//! `obt_tracker::exchange`; here batches are moved, and links that carry nothing are reported.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use obt_cluster::Cluster;
use obt_cluster::raft::NodeId;
use obt_tracker::Advertised;
use obt_tracker::exchange::wire::MemberId;
use obt_tracker::exchange::{Action, Event, Exchange, ExchangeConfig};
use obt_tracker::limits::{BATCHES_UNDERWAY, MEMBERS};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::limits::LINK_PAUSE;
use super::state::TrackerState;

const _: () = assert!(obt_cluster::limits::MEMBERS <= MEMBERS);

/// What a link has come to.
enum Word {
    Up(NodeId),
    Down(NodeId),
}

/// Tells the other members what clients announce here, and enters what they tell, until it is dropped.
///
/// A batch is at most 64 KiB and takes some hundred microseconds, so it needs no thread of its own.
pub(super) async fn run(
    state: Arc<TrackerState>,
    cluster: Cluster,
    mut batches: mpsc::Receiver<(NodeId, Bytes)>,
    host: Option<IpAddr>,
) {
    let config = ExchangeConfig { me: MemberId(cluster.node()), home: home(host) };
    let mut exchange = Exchange::new(&config, fastrand::u64(..), Instant::now());
    let mut members = cluster.members();
    members.mark_changed();
    let (told, mut words) = mpsc::channel(MEMBERS);
    let mut links = Links { cluster, told, senders: BTreeMap::new(), tasks: JoinSet::new() };
    let mut store = &*state;
    loop {
        let wake = exchange.poll_timeout().map(|(at, _)| at.into());
        let due = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
                let all: Vec<NodeId> = members.borrow_and_update().all.keys().copied().collect();
                let ids: Vec<MemberId> = all.iter().copied().map(MemberId).collect();
                exchange.handle_event(Event::Members(&ids), &mut store, Instant::now());
                links.keep(&all);
            }
            Some((from, batch)) = batches.recv() => {
                exchange.handle_event(Event::Batch(MemberId(from), &batch), &mut store, Instant::now());
            }
            Some(word) = words.recv() => {
                let event = match word {
                    Word::Up(member) => Event::LinkUp(MemberId(member)),
                    Word::Down(member) => Event::LinkDown(MemberId(member)),
                };
                exchange.handle_event(event, &mut store, Instant::now());
            }
            () = due => exchange.handle_timeout(&mut store, Instant::now()),
        }
        while let Some(action) = exchange.poll_action() {
            match action {
                Action::Send { to, batch } => links.send(to.0, batch.into()),
                Action::Close { member, why } => {
                    tracing::warn!(member = member.0, %why, "a member tells what cannot be read");
                    exchange.handle_event(Event::LinkDown(member), &mut store, Instant::now());
                    links.begin_anew(member.0);
                }
            }
        }
    }
}

/// Where the peers of this very host are for the clients of other members.
fn home(host: Option<IpAddr>) -> Advertised {
    match host {
        Some(IpAddr::V4(ip)) => Advertised { v4: Some(ip), v6: None },
        Some(IpAddr::V6(ip)) => Advertised { v4: None, v6: Some(ip) },
        None => Advertised::default(),
    }
}

/// One task for each other member, so that its batches arrive in their order.
struct Links {
    cluster: Cluster,
    told: mpsc::Sender<Word>,
    senders: BTreeMap<NodeId, mpsc::Sender<Bytes>>,
    tasks: JoinSet<()>,
}

impl Links {
    /// Begins links to new members, and ends those to members that left.
    fn keep(&mut self, members: &[NodeId]) {
        self.senders.retain(|member, _| members.contains(member));
        let me = self.cluster.node();
        for member in members.iter().copied().filter(|member| *member != me) {
            if !self.senders.contains_key(&member) {
                self.open(member);
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn open(&mut self, member: NodeId) {
        // Room for all that may be under way and an answer; what does not fit is said again.
        let (sender, batches) = mpsc::channel(BATCHES_UNDERWAY + 1);
        self.senders.insert(member, sender);
        self.tasks.spawn(carry(self.cluster.clone(), member, batches, self.told.clone()));
    }

    fn send(&self, member: NodeId, batch: Bytes) {
        if let Some(sender) = self.senders.get(&member) {
            let _ = sender.try_send(batch);
        }
    }

    /// Counts a link as up again after a pause. Its task goes on: a second one could be overtaken by the end of the first.
    fn begin_anew(&mut self, member: NodeId) {
        let told = self.told.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(LINK_PAUSE).await;
            let _ = told.send(Word::Up(member)).await;
        });
    }
}

/// Sends batches to a member, one after the other. A link counts as up until a batch cannot be sent, and again after a
/// pause.
async fn carry(cluster: Cluster, to: NodeId, mut batches: mpsc::Receiver<Bytes>, told: mpsc::Sender<Word>) {
    while told.send(Word::Up(to)).await.is_ok() {
        loop {
            // It is no member any more, which the exchange knows.
            let Some(batch) = batches.recv().await else { return };
            if let Err(error) = cluster.send_soft(to, batch).await {
                tracing::debug!(member = to, %error, "announces are not told to a member");
                break;
            }
        }
        if told.send(Word::Down(to)).await.is_err() {
            return;
        }
        tokio::time::sleep(LINK_PAUSE).await;
        while batches.try_recv().is_ok() {}
    }
}
