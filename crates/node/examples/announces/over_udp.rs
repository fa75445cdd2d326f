//! Announces as BEP 15 has them: an address asks for a connection id, and sends all that it has to say at once.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::Instant;

use obt_wire::tracker_udp::{AnnounceRequest, Family, Reply, TransactionId};

use crate::load::{Host, LOST, Load, PER_ADDRESS, Plan};
use crate::{Failure, udp};

/// Addresses whose answers are waited for at once. At a rate, as many as make no announce wait for the answer to another
/// one, though a tracker stands still for half a second; as fast as it goes, so few that nothing is lost.
const HOSTS: u64 = 512;
const HOSTS_AT_FULL_SPEED: u64 = 2;

pub(crate) fn threads(plan: &Plan) -> u64 {
    if plan.rate == 0 { HOSTS_AT_FULL_SPEED } else { HOSTS }
}

/// Addresses in turns, until the time is over or all have had theirs.
pub(crate) fn run(load: &Load, _: u64) -> Result<(), Failure> {
    loop {
        let turn = load.next.fetch_add(1, Ordering::Relaxed);
        let Some(host) = load.host(turn)? else {
            return Ok(());
        };
        let Some(began) = load.begin(turn * PER_ADDRESS) else {
            return Ok(());
        };
        announce_all(&host, load, began)?;
    }
}

/// All peers of one address. A member that is dead answers none of them.
fn announce_all(host: &Host, load: &Load, began: Instant) -> Result<(), Failure> {
    let client = UdpSocket::bind((host.source, 0))?;
    client.connect(host.member)?;
    client.set_read_timeout(Some(LOST))?;
    load.sent(host.peers.len());
    let Ok(connection) = udp::connect(&client) else {
        return Ok(());
    };
    let mut request = Vec::new();
    for peer in &host.peers {
        request.clear();
        let announce = AnnounceRequest {
            transaction: TransactionId(u32::from(peer.port)),
            ..AnnounceRequest::started(connection, peer.hash, peer.id, peer.port, peer.left)
        };
        announce.encode("", &mut request);
        if client.send(&request).is_err() {
            return Ok(());
        }
    }
    let mut answer = [0; 2_048];
    let mut missing = host.peers.len();
    while missing > 0 {
        let Ok(length) = client.recv(&mut answer) else {
            return Ok(());
        };
        match Reply::decode(answer.get(..length).unwrap_or_default(), Family::V4) {
            // To a connect that was repeated.
            Some((_, Reply::Connect(_))) => continue,
            Some((_, Reply::Announce { .. })) => load.answered(began),
            _ => load.refused(),
        }
        missing -= 1;
    }
    Ok(())
}
