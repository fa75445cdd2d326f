//! Compact lists of peers (BEP 23 for v4, BEP 7 for v6), and what kind of address one is.
//!
//! Whoever learns an address from a stranger asks here whether it can be a peer at all, and how far away it is: what
//! the public internet says must not make us connect to the machines around us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Length of a v4 peer: address and port, bytes.
pub const V4_PEER: usize = 6;
/// Length of a v6 peer: address and port, bytes.
pub const V6_PEER: usize = 18;

/// The v4 peers in `bytes`, unfiltered. Bytes after the last whole one mean nothing.
pub fn v4_peers(bytes: &[u8]) -> impl ExactSizeIterator<Item = SocketAddr> + '_ {
    let (peers, _) = bytes.as_chunks::<V4_PEER>();
    peers.iter().map(|[a, b, c, d, high, low]| {
        SocketAddr::from((Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*high, *low])))
    })
}

/// The v6 peers in `bytes`, unfiltered, v4-mapped ones as v4. Bytes after the last whole one mean nothing.
pub fn v6_peers(bytes: &[u8]) -> impl ExactSizeIterator<Item = SocketAddr> + '_ {
    let (peers, _) = bytes.as_chunks::<V6_PEER>();
    peers.iter().map(|[ip @ .., high, low]| {
        let ip: [u8; 16] = *ip;
        canonical(SocketAddr::from((Ipv6Addr::from(ip), u16::from_be_bytes([*high, *low]))))
    })
}

/// The six bytes of a v4 peer.
#[must_use]
pub fn v4_peer(ip: Ipv4Addr, port: u16) -> [u8; V4_PEER] {
    let [a, b, c, d] = ip.octets();
    let [high, low] = port.to_be_bytes();
    [a, b, c, d, high, low]
}

/// The eighteen bytes of a v6 peer.
#[must_use]
pub fn v6_peer(ip: Ipv6Addr, port: u16) -> [u8; V6_PEER] {
    let mut bytes = [0; V6_PEER];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&port.to_be_bytes());
    bytes
}

/// The address with a v4-mapped v6 one (`::ffff:1.2.3.4`) as v4, so that one machine has one name; scope and flow
/// are dropped.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// How far away an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// No single machine: unspecified, multicast, broadcast, reserved.
    Nowhere,
    /// This machine.
    Loopback,
    /// The same link, cloud metadata services (169.254.169.254) among them.
    LinkLocal,
    /// The same site: private ranges, carrier NAT, benchmarks, unique local.
    Private,
    /// Anywhere in the internet.
    Global,
}

/// How far away `ip` is. A v6 address that stands for a v4 one (mapped, compatible, NAT64, 6to4) is as far as that.
#[must_use]
pub fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [0, ..] | [224..=255, ..] => Reach::Nowhere,
        [127, ..] => Reach::Loopback,
        [169, 254, ..] => Reach::LinkLocal,
        [10, ..] | [172, 16..32, ..] | [192, 168, ..] => Reach::Private,
        // Carrier NAT, protocol assignments, benchmarks.
        [100, 64..128, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => Reach::Private,
        // Documentation.
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Reach::Nowhere,
        _ => Reach::Global,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Nowhere,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        // Compatible and mapped, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0x64, 0xff9b, 1, ..] => Reach::Private,
        [0xfe80..0xfec0, ..] => Reach::LinkLocal,
        [0xfc00..0xfe00 | 0xfec0..0xff00, ..] => Reach::Private,
        [0xff00..=0xffff, ..] | [0x2001, 0xdb8, ..] | [0x100, 0, 0, 0, ..] => Reach::Nowhere,
        _ => Reach::Global,
    }
}

/// Whether a peer can be there: a port, and the address of one machine, near or far.
#[must_use]
pub fn is_dialable(addr: SocketAddr) -> bool {
    addr.port() != 0 && reach(addr.ip()) != Reach::Nowhere
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reach_of(ip: &str) -> Reach {
        reach(ip.parse().unwrap())
    }

    #[test]
    fn r03_bytes_that_are_no_whole_peer_are_dropped() {
        assert_eq!(v4_peers(&[1, 2, 3, 4, 5]).len(), 0);
        let peers: Vec<_> = v4_peers(&[1, 2, 3, 4, 0x1a, 0xe1, 9]).collect();
        assert_eq!(peers, ["1.2.3.4:6881".parse().unwrap()]);
        assert_eq!(v6_peers(&[0; 17]).len(), 0);
        assert_eq!(v6_peers(&[0; 37]).len(), 2);
    }

    #[test]
    fn r03_addresses_without_a_machine_are_not_dialled() {
        for addr in [
            "0.0.0.0:1",
            "1.2.3.4:0",
            "0.1.2.3:6881",
            "224.0.0.1:6881",
            "239.1.1.1:1",
            "255.255.255.255:1",
            "240.0.0.1:1",
            "[::]:1",
            "[2a00::1]:0",
            "[ff02::1]:6881",
            "[::ffff:0.0.0.0]:1",
            "[::ffff:224.0.0.1]:1",
            "192.0.2.7:1",
        ] {
            assert!(!is_dialable(addr.parse().unwrap()), "{addr}");
        }
        for addr in ["1.2.3.4:1", "127.0.0.1:22", "10.0.0.1:6881", "[::1]:1", "[fe80::1]:1", "[2a00::1]:6881"] {
            assert!(is_dialable(addr.parse().unwrap()), "{addr}");
        }
    }

    #[test]
    fn r08_every_spelling_of_a_near_address_is_near() {
        for ip in
            ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]
        {
            assert_eq!(reach_of(ip), Reach::Loopback, "{ip}");
        }
        for ip in ["169.254.169.254", "fe80::1", "febf::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"] {
            assert_eq!(reach_of(ip), Reach::LinkLocal, "{ip}");
        }
        for ip in [
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "198.19.0.1",
            "fc00::1",
            "fdff::1",
            "fec0::1",
            "::ffff:10.0.0.1",
            "2002:c0a8:101::1",
            "64:ff9b:1::1",
        ] {
            assert_eq!(reach_of(ip), Reach::Private, "{ip}");
        }
        for ip in ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "2a00::1", "2002:101:101::"] {
            assert_eq!(reach_of(ip), Reach::Global, "{ip}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_v4_one() {
        let mapped = v6_peer("::ffff:1.2.3.4".parse().unwrap(), 7);
        assert_eq!(v6_peers(&mapped).next(), Some("1.2.3.4:7".parse().unwrap()));
        assert_eq!(canonical("[::ffff:1.2.3.4]:7".parse().unwrap()), "1.2.3.4:7".parse().unwrap());
    }

    proptest! {
        #[test]
        fn peers_round_trip(v4: Vec<(Ipv4Addr, u16)>, v6: Vec<(Ipv6Addr, u16)>) {
            let bytes: Vec<u8> = v4.iter().flat_map(|(ip, port)| v4_peer(*ip, *port)).collect();
            let read: Vec<_> = v4_peers(&bytes).collect();
            prop_assert_eq!(read, v4.iter().map(|peer| SocketAddr::from(*peer)).collect::<Vec<_>>());
            let bytes: Vec<u8> = v6.iter().flat_map(|(ip, port)| v6_peer(*ip, *port)).collect();
            let read: Vec<_> = v6_peers(&bytes).collect();
            prop_assert_eq!(read, v6.iter().map(|peer| canonical(SocketAddr::from(*peer))).collect::<Vec<_>>());
        }

        #[test]
        fn a_mapped_address_is_as_far_as_its_v4_one(ip: Ipv4Addr) {
            prop_assert_eq!(reach(ip.to_ipv6_mapped().into()), reach(ip.into()));
        }
    }
}
