//! What must hold in every world, whatever happens in it: one table.

use obt_swarm::{Action, CloseReason};
use obt_wire::peer::Message;
use obt_wire::{Bitfield, PieceIndex};

use crate::node::{Conduct, Node, NodeIndex};
use crate::world::World;

/// When an invariant is looked at, and by what function.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// Before every action of a node is carried out.
    Action(fn(&World, NodeIndex, &Action) -> Result<(), String>),
    /// Every so often, for the node at hand.
    Node(fn(&World, &Node) -> Result<(), String>),
    /// When a run is over and nothing is under way.
    End(fn(&mut World) -> Result<(), String>),
}

/// Something that must hold.
#[derive(Debug, Clone, Copy)]
pub struct Invariant {
    /// In short.
    pub name: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// How it is checked.
    pub check: Check,
}

/// All of them.
pub const INVARIANTS: &[Invariant] = &[
    Invariant { name: "have means verified", source: "DESIGN 1, promise 1", check: Check::Action(have_means_verified) },
    Invariant {
        name: "only verified pieces are served",
        source: "DESIGN 1, promise 1",
        check: Check::Action(served_means_verified),
    },
    Invariant {
        name: "only the unchoked are served",
        source: "BEP 3, choking",
        check: Check::Action(served_means_unchoked),
    },
    Invariant {
        name: "a request goes to who has the piece and serves us",
        source: "BEP 3 and 6; HOSTILE 4.2",
        check: Check::Action(requests_make_sense),
    },
    Invariant {
        name: "honest peers are never banned",
        source: "HOSTILE W16 and F35",
        check: Check::Action(bans_hit_liars),
    },
    Invariant {
        name: "a block is in one state",
        source: "HOSTILE 4.2, piece picker",
        check: Check::Node(|_, node| node.swarm.check()),
    },
    Invariant {
        name: "buffers stay within the budget",
        source: "DESIGN 5, data-plane rules",
        check: Check::Node(buffers_are_bounded),
    },
    Invariant {
        name: "what a core says it has is on its disk",
        source: "DESIGN 1, promise 1",
        check: Check::Node(core_and_disk_agree),
    },
    Invariant {
        name: "what is stored is right, and what is claimed is durable",
        source: "DESIGN 1, promise 1; HOSTILE F16 and F22",
        check: Check::Node(|_, node| node.disk.check()),
    },
    Invariant {
        name: "who is silent for the life of a lease is gone",
        source: "issue 2: within 45 s",
        check: Check::Node(|world, _| world.ghost().map_or(Ok(()), |ghost| Err(format!("{ghost:?} is still listed")))),
    },
    Invariant {
        name: "every payload byte is somewhere",
        source: "conservation",
        check: Check::Node(bytes_are_conserved),
    },
    Invariant {
        name: "sum uploaded is sum downloaded",
        source: "STYLE, first invariants",
        check: Check::End(uploads_are_downloads),
    },
    Invariant { name: "announced counts equal real ones", source: "issue 2, sim", check: Check::End(counts_are_real) },
    Invariant {
        name: "with one live seed everyone finishes",
        source: "STYLE, first invariants",
        check: Check::End(everyone_finished),
    },
];

fn have_means_verified(world: &World, node: NodeIndex, action: &Action) -> Result<(), String> {
    let Action::Send { message, .. } = action else {
        return Ok(());
    };
    let stored = world.node(node).disk.stored();
    let unverified = match message {
        Message::Have(piece) => (!stored.has(PieceIndex(*piece))).then_some(*piece),
        Message::HaveAll => (!stored.is_full()).then_some(0),
        Message::Bitfield(bits) => {
            let told = Bitfield::from_wire(bits, stored.len()).ok_or("a bitfield of the wrong shape")?;
            told.iter().find(|piece| !stored.has(*piece)).map(|piece| piece.0)
        }
        _ => None,
    };
    unverified.map_or(Ok(()), |piece| Err(format!("told to have piece {piece}")))
}

fn served_means_verified(world: &World, node: NodeIndex, action: &Action) -> Result<(), String> {
    match action {
        Action::Upload { request, .. } if !world.node(node).disk.stored().has(PieceIndex(request.piece)) => {
            Err(format!("serves {request:?}"))
        }
        _ => Ok(()),
    }
}

fn served_means_unchoked(world: &World, node: NodeIndex, action: &Action) -> Result<(), String> {
    match action {
        Action::Upload { peer, request } => match world.node(node).links.get(peer) {
            Some(link) if link.choking && !link.gives_fast.contains(&request.piece) => {
                Err(format!("serves {peer:?}, which it chokes"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn requests_make_sense(world: &World, node: NodeIndex, action: &Action) -> Result<(), String> {
    let Action::Send { peer, message: Message::Request(request) } = action else {
        return Ok(());
    };
    let Some(link) = world.node(node).links.get(peer) else {
        return Ok(());
    };
    let piece = PieceIndex(request.piece);
    if link.choked_by && !link.allowed_fast.contains(&request.piece) {
        return Err(format!("{request:?} to {peer:?}, which chokes it"));
    }
    if !link.told.has(piece) {
        return Err(format!("{request:?} to {peer:?}, which has not got it"));
    }
    if world.node(node).disk.stored().has(piece) {
        return Err(format!("{request:?} to {peer:?}, though it is here"));
    }
    Ok(())
}

fn bans_hit_liars(world: &World, node: NodeIndex, action: &Action) -> Result<(), String> {
    let Action::Close { peer, reason: CloseReason::Banned } = action else {
        return Ok(());
    };
    let Some(link) = world.node(node).links.get(peer) else {
        return Ok(());
    };
    match world.node(link.to).conduct {
        Conduct::Lies(_) => Ok(()),
        _ => Err(format!("bans {:?}", link.to)),
    }
}

fn buffers_are_bounded(world: &World, node: &Node) -> Result<(), String> {
    let (held, budget) = (node.disk.buffered(), world.setup().block_budget as usize);
    if held > budget { Err(format!("{held} blocks in buffers for {budget}")) } else { Ok(()) }
}

fn core_and_disk_agree(world: &World, node: &Node) -> Result<(), String> {
    let told = node.swarm.snapshot(world.now());
    let stored = node.disk.stored().count();
    if told.pieces > 0 && told.pieces_have != stored {
        return Err(format!("the core says {} pieces, the disk has {stored}", told.pieces_have));
    }
    Ok(())
}

fn bytes_are_conserved(world: &World, _: &Node) -> Result<(), String> {
    let net = &world.net;
    if net.sent != net.delivered + net.lost + net.flying {
        return Err(format!(
            "{} sent, {} delivered, {} lost, {} flying",
            net.sent, net.delivered, net.lost, net.flying
        ));
    }
    Ok(())
}

fn uploads_are_downloads(world: &mut World) -> Result<(), String> {
    let now = world.now();
    let (mut up, mut down) = (0, 0);
    for node in &world.nodes {
        let stats = node.swarm.snapshot(now);
        up += stats.uploaded;
        down += stats.downloaded;
    }
    let net = &world.net;
    // A node that dies is not told that its last block has entered the socket.
    let slack = world.nodes.iter().filter(|node| !node.alive).count() as u64 * world.setup().socket_buffer * 64;
    if down != net.delivered || up > net.sent || up + slack < net.sent {
        return Err(format!("up {up}, down {down}; the net sent {}, delivered {}", net.sent, net.delivered));
    }
    Ok(())
}

fn counts_are_real(world: &mut World) -> Result<(), String> {
    let (mut seeds, mut leechers) = (0, 0);
    for (_, node) in world.alive() {
        if node.disk.stored().is_full() {
            seeds += 1;
        } else {
            leechers += 1;
        }
    }
    let Some(counted) = world.tracker_counts() else {
        return Ok(());
    };
    // A tracker that nobody uses knows nobody.
    if !counted.is_empty() && counted.iter().all(|counts| *counts != (seeds, leechers)) {
        return Err(format!("{seeds} seeds and {leechers} leechers, the trackers count {counted:?}"));
    }
    Ok(())
}

fn everyone_finished(world: &mut World) -> Result<(), String> {
    let honest_seed = world.alive().any(|(_, node)| node.conduct == Conduct::Honest && node.disk.stored().is_full());
    let behind = world.alive().find(|(_, node)| !node.disk.stored().is_full());
    match behind {
        Some((index, node)) if honest_seed => Err(format!("{index:?} has {:?}", node.disk.stored())),
        _ => Ok(()),
    }
}
