//! What is between the nodes: connections that open and close, messages and blocks that travel.

use std::net::SocketAddr;
use std::time::Duration;

use obt_swarm::{CloseReason, Direction, Event, PeerKey};
use obt_wire::peer::{Handshake, Message, Reserved};
use obt_wire::{Bitfield, PieceIndex};

use super::{CONNECT_TIMEOUT, Checked, Happening, World};
use crate::net::{ConnIndex, Parcel, Segment, Way};
use crate::node::{Link, NodeIndex};

impl World {
    // Connections.

    pub(super) fn dial(&mut self, node: NodeIndex, addr: SocketAddr) {
        // A round trip for TCP, and the way of the handshake.
        let trips = self.by_addr.get(&addr).map_or(Duration::from_millis(50), |to| 3 * self.net.latency(node, *to));
        self.push(self.now + trips, Happening::Dialled { from: node, addr });
    }

    pub(super) fn dialled(&mut self, from: NodeIndex, addr: SocketAddr) -> Checked {
        let Some(to) = self.by_addr.get(&addr).copied().filter(|to| self.nodes[to.0].alive) else {
            self.push(self.now + CONNECT_TIMEOUT, Happening::Told(from, Event::ConnectFailed { addr }));
            return Ok(());
        };
        if !self.nodes[from.0].alive {
            return Ok(());
        }
        self.keys += 2;
        let (theirs, ours) = (PeerKey(self.keys - 1), PeerKey(self.keys));
        let conn = self.net.connect((from, theirs), (to, ours));
        self.push(self.now + self.net.latency(to, from), Happening::Answered { conn, addr });
        let way = Way { conn, from: 1 };
        let port = u16::try_from(40_000 + self.keys % 20_000).unwrap_or(u16::MAX);
        let source = SocketAddr::new(self.nodes[from.0].addr.ip(), port);
        self.connected(way, source, Direction::Incoming)
    }

    pub(super) fn answered(&mut self, conn: ConnIndex, addr: SocketAddr) -> Checked {
        let way = Way { conn, from: 0 };
        if !self.nodes[self.net.end(way).node.0].alive {
            self.net.close(way);
            let to = self.net.end(way.back()).node;
            self.push(self.now + self.net.latency(self.net.end(way).node, to), Happening::Gone(way.back()));
            return Ok(());
        }
        self.connected(way, addr, Direction::Outgoing)
    }

    pub(super) fn connected(&mut self, way: Way, addr: SocketAddr, direction: Direction) -> Checked {
        let (node, key) = (self.net.end(way).node, self.net.end(way).key);
        let to = self.net.end(way.back()).node;
        let info = &self.setup.torrent.metainfo.info;
        let v2 = info.hashes.v2.is_some();
        let handshake = Handshake {
            reserved: Reserved { extensions: true, fast: true, dht: false, v2 },
            info_hash: info.hashes.primary(),
            peer_id: self.nodes[to.0].id,
        };
        let link = Link {
            way,
            to,
            choked_by: true,
            choking: true,
            allowed_fast: Default::default(),
            gives_fast: Default::default(),
            told: Bitfield::empty(self.setup.torrent.geometry().pieces()),
        };
        self.nodes[node.0].links.insert(key, link);
        self.tell(node, Event::Connected { peer: key, addr, direction, handshake, v2 }, None)
    }

    pub(super) fn close(&mut self, node: NodeIndex, peer: PeerKey, reason: CloseReason) {
        if let Some(link) = self.nodes[node.0].links.remove(&peer) {
            self.nodes[node.0].closed.push((link.to, reason));
            self.net.close(link.way);
            self.push(self.now + self.net.latency(node, link.to), Happening::Gone(link.way.back()));
        }
        self.push(self.now, Happening::Told(node, Event::Disconnected { peer }));
    }

    /// The end that sends on `way` learns that the connection is gone.
    pub(super) fn gone(&mut self, way: Way) -> Checked {
        if !self.net.close(way) {
            return Ok(());
        }
        let (node, peer) = (self.net.end(way).node, self.net.end(way).key);
        self.nodes[node.0].links.remove(&peer);
        self.tell(node, Event::Disconnected { peer }, None)
    }

    // Bytes.

    pub(super) fn send(&mut self, node: NodeIndex, peer: PeerKey, message: Message) {
        let Some(link) = self.nodes[node.0].links.get_mut(&peer) else {
            return;
        };
        match message {
            Message::Choke => link.choking = true,
            Message::Unchoke => link.choking = false,
            Message::AllowedFast(piece) => _ = link.gives_fast.insert(piece),
            _ => {}
        }
        let way = link.way;
        self.net.send(way, message);
        self.pump(node);
    }

    /// Moves waiting blocks into the socket, as far as it has room.
    pub(super) fn feed(&mut self, way: Way) {
        let (node, peer) = (self.net.end(way).node, self.net.end(way).key);
        while let Some(bytes) = self.net.fill_socket(way) {
            self.push(self.now, Happening::Told(node, Event::Uploaded { peer, bytes }));
        }
        self.pump(node);
    }

    /// Sends the next segment, if the uplink has room.
    pub(super) fn pump(&mut self, node: NodeIndex) {
        let Some((way, segment, left, room)) = self.net.next_up(node, self.now) else {
            return;
        };
        self.push(room, Happening::UpFree(node));
        let arrival = self.net.arrival(way, &segment, left, &mut self.rng);
        self.push(arrival, Happening::Arrived(way, segment));
        self.feed(way);
    }

    pub(super) fn read(&mut self, way: Way, segment: Segment) -> Checked {
        self.net.segment_landed(way, &segment);
        self.pump(self.net.end(way).node);
        for parcel in segment.parcels {
            self.read_parcel(way, parcel)?;
        }
        Ok(())
    }

    fn read_parcel(&mut self, way: Way, parcel: Parcel) -> Checked {
        let (node, peer) = (self.net.end(way.back()).node, self.net.end(way.back()).key);
        let open = self.net.end(way.back()).open && self.nodes[node.0].alive;
        self.net.landed(&parcel, open);
        if !open {
            return Ok(());
        }
        match parcel {
            Parcel::Message(message) => {
                self.note(node, peer, &message);
                self.tell(node, Event::Message { peer, message }, None)
            }
            Parcel::Block(header, flip) => {
                let block = self.setup.torrent.geometry().block(header.piece, header.begin, header.length);
                self.tell(node, Event::Block { peer, header }, block.map(|block| (block, flip)))
            }
        }
    }

    /// Notes what a message says to the node that reads it.
    pub(super) fn note(&mut self, node: NodeIndex, peer: PeerKey, message: &Message) {
        let Some(link) = self.nodes[node.0].links.get_mut(&peer) else {
            return;
        };
        match message {
            Message::Choke => link.choked_by = true,
            Message::Unchoke => link.choked_by = false,
            Message::AllowedFast(piece) => _ = link.allowed_fast.insert(*piece),
            Message::Have(piece) => _ = link.told.set(PieceIndex(*piece)),
            Message::HaveAll => link.told = Bitfield::full(link.told.len()),
            Message::Bitfield(bits) => {
                if let Some(told) = Bitfield::from_wire(bits, link.told.len()) {
                    link.told = told;
                }
            }
            _ => {}
        }
    }
}
