//! What the examples that announce over UDP share.

use std::io;
use std::net::UdpSocket;

use obt_wire::tracker_udp::{ConnectionId, Family, Reply, TransactionId, connect_request};

/// Asks the tracker that `client` is connected to for a connection id, up to ten times.
pub(crate) fn connect(client: &UdpSocket) -> io::Result<ConnectionId> {
    let mut answer = [0; 2_048];
    for number in 0..10 {
        client.send(&connect_request(TransactionId(number)))?;
        if let Ok(length) = client.recv(&mut answer)
            && let Some((_, Reply::Connect(connection))) =
                Reply::decode(answer.get(..length).unwrap_or_default(), Family::V4)
        {
            return Ok(connection);
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the tracker does not answer"))
}
