//! What is between a node's core and its disk.

use obt_swarm::Event;

use super::{Checked, Happening, World};
use crate::node::NodeIndex;
use crate::platter::{Job, Order};

impl World {
    /// The shell of a node has something to tell its core.
    pub(super) fn told(&mut self, node: NodeIndex, event: Event) -> Checked {
        let this = &mut self.nodes[node.0];
        if !this.alive {
            return Ok(());
        }
        let Some(event) = this.hear(event) else {
            return Ok(());
        };
        let orders = this.disk.finished(&event, self.now);
        self.tell(node, event, None)?;
        self.carry_out(node, orders)
    }

    /// A disk has done something.
    pub(super) fn stored(&mut self, node: NodeIndex, job: Job) -> Checked {
        if !self.nodes[node.0].alive {
            return Ok(());
        }
        let orders = self.nodes[node.0].disk.done(job, self.now);
        self.carry_out(node, orders)
    }

    /// Does what the storage of a node asks for.
    pub(super) fn carry_out(&mut self, node: NodeIndex, orders: Vec<Order>) -> Checked {
        for order in orders {
            match order {
                Order::Later(after, job) => self.push(self.now + after, Happening::Stored(node, job)),
                Order::Lost(pieces) => {
                    self.nodes[node.0].completed_at = None;
                    self.nodes[node.0].disk.lose(&pieces);
                    self.tell(node, Event::Lost { pieces }, None)?;
                }
                Order::Pause => self.tell(node, Event::DiskPaused, None)?,
                Order::Resume => self.tell(node, Event::DiskResumed, None)?,
                Order::Finished => self.nodes[node.0].durable_at = Some(self.now),
            }
        }
        Ok(())
    }
}
