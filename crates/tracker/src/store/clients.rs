//! Which clients are behind the addresses of a swarm: their ids, for those who ask for them (BEP 3) and for people, and
//! that an IPv4 and an IPv6 address are the same client, so that it counts once.
//!
//! A hand-out needs none of it, and most swarms of a public tracker are never looked at. So it lies beside the peers, and
//! only of swarms that have a name, and of clients that announce over HTTP, where an answer may have to tell it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use obt_wire::{InfoHash, PeerId};

/// Bytes that one address takes, with its share of the maps.
const ENTRY: usize = 192;

/// How a stock client names itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Told to others.
    pub peer_id: PeerId,
    /// Told to trackers alone, so that nobody else can pass for it. Without one, each of its addresses is a client.
    pub key: Option<u32>,
}

/// What is known of whoever announces from an address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) client: Client,
    /// When it last announced, in seconds of the store.
    pub(crate) seen: u32,
}

/// The clients of one swarm.
///
/// Invariant: an address in `addresses` is in `known`, with that id.
#[derive(Default)]
pub(crate) struct SwarmClients {
    known: BTreeMap<SocketAddr, Known>,
    /// The last address of a client in each family.
    addresses: BTreeMap<PeerId, [Option<SocketAddr>; 2]>,
}

/// The clients of a shard's swarms.
#[derive(Default)]
pub(crate) struct Clients {
    swarms: BTreeMap<InfoHash, SwarmClients>,
    /// Addresses in all of them.
    len: usize,
}

impl Clients {
    /// Whether nobody is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.len * ENTRY
    }

    /// Notes that this client announced from this address.
    pub(crate) fn note(&mut self, hash: &InfoHash, addr: SocketAddr, client: Client, seen: u32) {
        let swarm = self.swarms.entry(*hash).or_default();
        let before = swarm.known.len();
        swarm.forget(&addr);
        swarm.known.insert(addr, Known { client, seen });
        swarm.addresses.entry(client.peer_id).or_default()[family(&addr)] = Some(addr);
        self.len = self.len - before + swarm.known.len();
    }

    /// Forgets an address.
    pub(crate) fn forget(&mut self, hash: &InfoHash, addr: &SocketAddr) {
        let Some(swarm) = self.swarms.get_mut(hash) else {
            return;
        };
        self.len -= usize::from(swarm.forget(addr));
        if swarm.known.is_empty() {
            self.swarms.remove(hash);
        }
    }

    /// The other address of this client: in the family that `addr` is not of.
    pub(crate) fn twin(&self, hash: &InfoHash, addr: &SocketAddr, client: &Client) -> Option<SocketAddr> {
        client.key?;
        let swarm = self.swarms.get(hash)?;
        let twin = swarm.addresses.get(&client.peer_id)?[1 - family(addr)]?;
        swarm.known.get(&twin).is_some_and(|known| known.client == *client).then_some(twin)
    }

    /// Who announces from this address.
    pub(crate) fn at(&self, hash: &InfoHash, addr: &SocketAddr) -> Option<&Known> {
        self.swarms.get(hash)?.known.get(addr)
    }

    /// Whether more of those who are known are gone than are there: `peers` addresses.
    pub(crate) fn are_stale(&self, hash: &InfoHash, peers: usize) -> bool {
        !self.is_empty() && self.swarms.get(hash).is_some_and(|swarm| swarm.known.len() > 2 * peers + 8)
    }

    /// Forgets those who are gone.
    pub(crate) fn retain(&mut self, hash: &InfoHash, is_there: impl Fn(&SocketAddr) -> bool) {
        let Some(swarm) = self.swarms.get(hash) else {
            return;
        };
        let gone: Vec<SocketAddr> = swarm.known.keys().filter(|addr| !is_there(addr)).copied().collect();
        for addr in gone {
            self.forget(hash, &addr);
        }
    }

    /// Takes out what is known of a swarm.
    pub(crate) fn take(&mut self, hash: &InfoHash) -> SwarmClients {
        let taken = self.swarms.remove(hash).unwrap_or_default();
        self.len -= taken.known.len();
        taken
    }

    /// Takes over what was known of a swarm under another name.
    pub(crate) fn absorb(&mut self, hash: &InfoHash, other: &SwarmClients) {
        for (addr, known) in &other.known {
            self.note(hash, *addr, known.client, known.seen);
        }
    }
}

impl SwarmClients {
    fn forget(&mut self, addr: &SocketAddr) -> bool {
        let Some(known) = self.known.remove(addr) else {
            return false;
        };
        if let Some(addresses) = self.addresses.get_mut(&known.client.peer_id) {
            let own = &mut addresses[family(addr)];
            own.take_if(|own| own == addr);
            if addresses.iter().all(Option::is_none) {
                self.addresses.remove(&known.client.peer_id);
            }
        }
        true
    }
}

fn family(addr: &SocketAddr) -> usize {
    usize::from(addr.is_ipv6())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr(number: u8, v6: bool) -> SocketAddr {
        if v6 { ([0, 0, 0, 0, 0, 0, 1, number.into()], 1).into() } else { ([10, 0, 0, number], 1).into() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_client_is_found_under_its_last_address_in_each_family(
            steps in prop::collection::vec((any::<bool>(), 0u8..4, any::<bool>(), 0u8..3), 0..60),
        ) {
            let hash = InfoHash([1; 20]);
            let mut clients = Clients::default();
            let mut model: BTreeMap<SocketAddr, u8> = BTreeMap::new();
            for (note, number, v6, id) in steps {
                let (addr, client) = (addr(number, v6), Client { peer_id: PeerId([id; 20]), key: Some(7) });
                if note {
                    clients.note(&hash, addr, client, 1);
                    model.insert(addr, id);
                } else {
                    clients.forget(&hash, &addr);
                    model.remove(&addr);
                }
                prop_assert_eq!(clients.len, model.len());
                for (addr, id) in &model {
                    let client = Client { peer_id: PeerId([*id; 20]), key: Some(7) };
                    prop_assert_eq!(clients.at(&hash, addr).unwrap().client, client);
                    let twin = clients.twin(&hash, addr, &client);
                    prop_assert!(twin.is_none_or(|twin| twin.is_ipv4() != addr.is_ipv4() && model[&twin] == *id));
                    prop_assert_eq!(clients.twin(&hash, addr, &Client { key: Some(8), ..client }), None);
                }
            }
            prop_assert_eq!(clients.are_stale(&hash, 0), clients.len > 8);
            clients.retain(&hash, |addr| addr.is_ipv4());
            prop_assert_eq!(clients.len, model.keys().filter(|addr| addr.is_ipv4()).count());
            clients.take(&hash);
            prop_assert_eq!(clients.heap_bytes(), 0);
        }
    }
}
