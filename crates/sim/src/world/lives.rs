//! How nodes come, and the ways in which they go.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use obt_swarm::{Config, Content, LocalAddresses, Start, Swarm, TrackerUrl};
use obt_wire::{Bitfield, PeerId};

use super::{Checked, Expiry, Happening, World};
use crate::disk::Disk;
use crate::lease::Holder;
use crate::net::Way;
use crate::node::{Node, NodeIndex, Spec};
use crate::torrent::Torrent;

impl World {
    pub(super) fn enter(&mut self, spec: Spec) -> Result<NodeIndex, String> {
        self.enter_with(spec, None)
    }

    /// A node joins, perhaps with what an earlier one left on its disk.
    fn enter_with(&mut self, spec: Spec, disk: Option<Disk>) -> Result<NodeIndex, String> {
        let index = NodeIndex(self.nodes.len());
        let pieces = self.setup.torrent.geometry().pieces();
        let have = spec.have.clone().unwrap_or_else(|| Bitfield::full(pieces));
        let number = u16::try_from(index.0 + 1).map_err(|_| "too many nodes".to_owned())?;
        let [high, low] = number.to_be_bytes();
        let addr = SocketAddr::from(([10, 1, high, low], 6_881));
        let mut id = [b'n'; 20];
        id[18..].copy_from_slice(&[high, low]);
        let budget = self.setup.block_budget;
        let config = Config {
            peer_id: PeerId(id),
            listen_port: Some(addr.port()),
            client: "obt sim".into(),
            connections: 200,
            half_open: 50,
            download_rate: None,
            upload_rate: spec.upload_rate,
            block_budget: spec.sabotage.map_or(budget, |sabotage| sabotage.budget(budget)),
            hashed_together: 16,
            stretch: self.setup.stretch,
            trackers: (0..self.setup.trackers).map(|number| tracker_url(number, self.setup.leases)).collect(),
            local_addresses: LocalAddresses::Allowed,
        };
        let complete = have.is_full();
        let start = if spec.magnet {
            Start::Hashes(self.setup.torrent.metainfo.info.hashes)
        } else {
            Start::Content(content(&self.setup.torrent, have.clone()))
        };
        let again = disk.is_some();
        let disk = disk.unwrap_or_else(|| Disk::new(spec.disk, have, &self.layout, self.rng.u64(..), self.now));
        let placed = disk.is_placed();
        self.net.add_node(spec.access, self.now);
        self.by_addr.insert(addr, index);
        self.nodes.push(Node {
            swarm: Swarm::new(config, start, self.rng.u64(..), self.now),
            disk,
            conduct: spec.conduct,
            sabotage: spec.sabotage,
            addr,
            id: PeerId(id),
            alive: true,
            links: BTreeMap::new(),
            closed: Vec::new(),
            completed_at: complete.then_some(self.now),
            durable_at: placed.then_some(self.now),
            died_at: None,
            unplugged: false,
            remains: None,
            leases: vec![Holder::default(); self.setup.trackers],
            spec,
            wake: None,
            spins: 0,
        });
        self.act(index, None)?;
        if complete && again {
            let orders = self.nodes[index.0].disk.finish(self.now);
            self.carry_out(index, orders)?;
        }
        Ok(index)
    }

    pub(super) fn die(&mut self, node: NodeIndex, told: bool) -> Checked {
        self.nodes[node.0].alive = false;
        self.nodes[node.0].died_at = Some(self.now);
        self.sudden_deaths += 1;
        let links = std::mem::take(&mut self.nodes[node.0].links);
        for link in links.into_values() {
            self.net.close(link.way);
            if told {
                self.push(self.now + self.net.latency(node, link.to), Happening::Gone(link.way.back()));
            }
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, one: NodeIndex, other: NodeIndex) -> Checked {
        let ways: Vec<Way> =
            self.nodes[one.0].links.values().filter(|link| link.to == other).map(|link| link.way).collect();
        for way in ways {
            self.gone(way)?;
            self.gone(way.back())?;
        }
        Ok(())
    }

    /// The power of a node goes.
    pub(super) fn cut(&mut self, node: NodeIndex) -> Checked {
        if !self.nodes[node.0].alive {
            return Ok(());
        }
        self.die(node, false)?;
        let none = Bitfield::empty(self.setup.torrent.geometry().pieces());
        let this = &mut self.nodes[node.0];
        let disk = std::mem::replace(&mut this.disk, Disk::new(this.spec.disk, none, &self.layout, 0, self.now));
        this.unplugged = true;
        this.remains = Some(disk.cut(self.now).map_err(|what| format!("{node:?}: {what}"))?);
        Ok(())
    }

    /// It comes back, under another address.
    pub(super) fn restart(&mut self, node: NodeIndex) -> Result<NodeIndex, String> {
        let this = &mut self.nodes[node.0];
        let Some(disk) = this.remains.take() else {
            return Err(format!("{node:?} has nothing to come back with"));
        };
        let spec = Spec { have: Some(disk.stored().clone()), magnet: false, ..this.spec.clone() };
        self.enter_with(spec, Some(disk))
    }
}

fn tracker_url(number: usize, leases: Option<Expiry>) -> TrackerUrl {
    let url = match leases {
        Some(_) => format!("obt://tracker{number}:6969"),
        None => format!("http://tracker{number}/announce"),
    };
    TrackerUrl { url, tier: u32::try_from(number).unwrap_or(u32::MAX) }
}

/// What a core is told of the torrent.
pub(super) fn content(torrent: &Torrent, have: Bitfield) -> Content {
    let wanted = Bitfield::full(have.len());
    Content { metainfo: torrent.metainfo.clone(), have, wanted }
}
