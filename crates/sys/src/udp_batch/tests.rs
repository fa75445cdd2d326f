use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn client(local: &str, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(local).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // A connected socket takes answers only from the very address that it asks.
    socket.connect(server).unwrap();
    socket
}

fn reversed(received: &Received<'_>, out: &mut [u8]) -> Option<usize> {
    let length = received.bytes.len();
    out[..length].copy_from_slice(received.bytes);
    out[..length].reverse();
    (length > 0).then_some(length)
}

fn echoed(batch: &mut UdpBatch, server: &UdpSocket, client: &UdpSocket, count: u32) {
    for number in 0..count {
        client.send(&[&number.to_be_bytes()[..], b"abc"].concat()).unwrap();
    }
    let mut came = 0;
    while came < count as usize {
        came += batch.answer(server, reversed).unwrap();
    }
    for number in 0..count {
        let mut reply = [0; 100];
        let length = client.recv(&mut reply).unwrap();
        assert_eq!(reply[..length], [b"cba", &number.to_le_bytes()[..]].concat());
    }
}

#[test]
fn each_datagram_is_answered_from_the_address_that_it_reached() {
    let server = udp_sockets("0.0.0.0:0".parse().unwrap(), 1, PATIENCE).unwrap().remove(0);
    let port = server.local_addr().unwrap().port();
    let mut batch = UdpBatch::default();
    for address in ["127.0.0.1", "127.0.0.9"].into_iter().take(if cfg!(target_os = "linux") { 2 } else { 1 }) {
        let address: IpAddr = address.parse().unwrap();
        let client = client("127.0.0.1:0", (address, port).into());
        echoed(&mut batch, &server, &client, 200);
        client.send(b"x").unwrap();
        batch
            .answer(&server, |received, _| {
                assert_eq!(received.source, client.local_addr().unwrap());
                assert!(received.reached == Some(address) || !cfg!(target_os = "linux"));
                None
            })
            .unwrap();
    }
}

#[test]
fn v6_is_answered_too_where_there_is_any() {
    let Ok(mut sockets) = udp_sockets("[::]:0".parse().unwrap(), 1, PATIENCE) else {
        return eprintln!("not tested: this machine has no IPv6");
    };
    let server = sockets.remove(0);
    let port = server.local_addr().unwrap().port();
    let client = client("[::1]:0", (std::net::Ipv6Addr::LOCALHOST, port).into());
    echoed(&mut UdpBatch::default(), &server, &client, 70);
}

#[test]
fn one_at_a_time_answers_the_same() {
    let server = udp_sockets("127.0.0.1:0".parse().unwrap(), 1, PATIENCE).unwrap().remove(0);
    let client = client("127.0.0.1:0", server.local_addr().unwrap());
    let mut batch = UdpBatch::default();
    #[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
    {
        batch.heads = None;
    }
    echoed(&mut batch, &server, &client, 20);
}

#[test]
fn a_port_is_shared_with_our_own_sockets_only() {
    let sockets = udp_sockets("127.0.0.1:0".parse().unwrap(), 3, PATIENCE).unwrap();
    let addr = sockets[0].local_addr().unwrap();
    assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == addr));
    assert_eq!(sockets.len(), if SHARES { 3 } else { 1 });
    assert!(udp_sockets(addr, 2, PATIENCE).is_err(), "another tracker on this port");
}

#[test]
fn u08_a_long_datagram_is_cut_and_leaves_nothing_behind() {
    let server = udp_sockets("127.0.0.1:0".parse().unwrap(), 1, PATIENCE).unwrap().remove(0);
    let client = client("127.0.0.1:0", server.local_addr().unwrap());
    let mut batch = UdpBatch::default();
    client.send(&[7; 9_000]).unwrap();
    batch
        .answer(&server, |received, _| {
            assert_eq!(received.bytes, [7; REQUEST_BYTES]);
            None
        })
        .unwrap();
    client.send(b"short").unwrap();
    batch
        .answer(&server, |received, _| {
            assert_eq!(received.bytes, b"short");
            None
        })
        .unwrap();
}

#[test]
fn waiting_ends_with_the_timeout() {
    let server = udp_sockets("127.0.0.1:0".parse().unwrap(), 1, Duration::from_millis(20)).unwrap().remove(0);
    assert_eq!(UdpBatch::default().answer(&server, reversed).unwrap(), 0);
}
