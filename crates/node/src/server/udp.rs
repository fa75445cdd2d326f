//! UDP announces: threads that answer datagrams in batches. What is answered is decided in `obt_tracker::udp`.
//!
//! These are threads of their own, since they wait in system calls that the runtime knows nothing of, and since a flood
//! of datagrams must not slow what the runtime serves.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use obt_sys::{UdpBatch, udp_sockets};
use obt_tracker::ConnectionIds;
use obt_tracker::udp::{ConnectBudget, Datagram, UdpResponder};
use sha2::{Digest, Sha256};

use super::limits::ACCEPT_PAUSE;
use super::state::TrackerState;

/// How often a thread that nobody asks anything looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(250);
/// Threads for each socket's port where there are more cores: about a million announces a second, which is more than
/// any tracker gets; the cores have other work too.
const THREADS: usize = 8;

/// Sockets at one address, one for each thread.
///
/// # Errors
/// Of the system; where anybody else has the port.
pub(super) fn bind(addr: SocketAddr) -> io::Result<Vec<UdpSocket>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    udp_sockets(addr, cores.min(THREADS), LOOK)
}

/// The threads that answer. They stop when this is dropped.
pub(super) struct UdpThreads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl UdpThreads {
    /// Answers at these sockets; members of a cluster take each other's connection ids, since they know the same
    /// `secret`.
    ///
    /// # Errors
    /// Where the system gives no random bytes, or no threads.
    pub(super) fn start(sockets: Vec<UdpSocket>, state: &Arc<TrackerState>, secret: &str) -> io::Result<Self> {
        let responder = responder(secret)?;
        let mut this = Self { stop: Arc::default(), threads: Vec::new() };
        for socket in sockets {
            let (stop, state, responder) = (Arc::clone(&this.stop), Arc::clone(state), responder.clone());
            let thread = thread::Builder::new().name("udp-announces".to_owned());
            this.threads.push(thread.spawn(move || answer(&socket, &state, responder, &stop))?);
        }
        Ok(this)
    }

    /// Returns when all of them have stopped, within about a quarter of a second.
    pub(super) async fn stopped(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        let joined = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(joined).await;
    }
}

impl Drop for UdpThreads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// With keys that no stranger knows.
fn responder(secret: &str) -> io::Result<UdpResponder> {
    let now = Instant::now();
    let mut budget = [0; 24];
    getrandom::fill(&mut budget).map_err(io::Error::other)?;
    let digest = Sha256::new().chain_update(b"obt connection ids\0").chain_update(secret).finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    let ids = ConnectionIds::new(key, SystemTime::now(), now);
    Ok(UdpResponder::new(ids, Some(ConnectBudget::new(budget, now))))
}

fn answer(socket: &UdpSocket, state: &TrackerState, mut responder: UdpResponder, stop: &AtomicBool) {
    let mut batch = UdpBatch::default();
    let mut shards = state;
    let own = socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified());
    while !stop.load(Ordering::Relaxed) {
        // One look at the clock for a batch.
        let mut now = None;
        let done = batch.answer(socket, |received, out| {
            let now = *now.get_or_insert_with(Instant::now);
            let datagram =
                Datagram { bytes: received.bytes, source: received.source, reached: received.reached.or(own) };
            responder.respond(&datagram, &mut shards, out, now)
        });
        if let Err(error) = done {
            tracing::warn!(%error, "cannot receive UDP announces");
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use obt_tracker::limits::Limits;
    use obt_tracker::{Advertised, StoreConfig};
    use obt_wire::tracker_udp::{AnnounceRequest, Family, Reply, TransactionId, connect_request};
    use obt_wire::{InfoHash, PeerId};

    use super::*;

    const T: TransactionId = TransactionId(7);

    fn asked<'a>(client: &UdpSocket, request: &[u8], buffer: &'a mut [u8]) -> Reply<'a> {
        client.send(request).unwrap();
        let length = client.recv(buffer).unwrap();
        let (transaction, reply) = Reply::decode(&buffer[..length], Family::V4).unwrap();
        assert_eq!(transaction, T);
        reply
    }

    fn announced(server: SocketAddr, port: u16, left: u64) -> Vec<u8> {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.connect(server).unwrap();
        let mut buffer = [0; 2_048];
        let Reply::Connect(connection) = asked(&client, &connect_request(T), &mut buffer) else {
            panic!("not connected");
        };
        let mut request = Vec::new();
        let announce = AnnounceRequest {
            transaction: T,
            ..AnnounceRequest::started(connection, InfoHash([1; 20]), PeerId([2; 20]), port, left)
        };
        announce.encode("", &mut request);
        match asked(&client, &request, &mut buffer) {
            Reply::Announce { peers, .. } => peers.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn announces_are_answered_on_every_thread_until_it_stops() {
        let limits = Limits::default();
        let config = StoreConfig { shard_bits: 4, limits, advertised: Advertised::default(), secret: [3; 32] };
        let state = Arc::new(TrackerState::new(&config, Instant::now()));
        let sockets = udp_sockets("127.0.0.1:0".parse().unwrap(), 3, LOOK).unwrap();
        let server = sockets[0].local_addr().unwrap();
        let threads = UdpThreads::start(sockets, &state, "secret").unwrap();
        announced(server, 1_000, 0);
        for port in 2_000..2_020 {
            let peers = announced(server, port, 5);
            assert!(peers.chunks(6).any(|peer| *peer == [127, 0, 0, 1, 0x03, 0xe8]), "the seed is told");
        }
        threads.stopped().await;
        assert!(udp_sockets(server, 1, LOOK).is_ok(), "the port is free again");
    }
}
