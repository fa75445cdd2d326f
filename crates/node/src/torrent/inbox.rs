//! The way of orders to a torrent's task: a bounded queue with one reader.
//!
//! A node may have ten thousand torrents at rest. A channel of tokio takes 800 bytes while nothing is in it, for speed
//! that no order needs; this one takes a fifth of that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

use super::order::Ordered;

/// Where orders are put. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OrderSender {
    inbox: Arc<Inbox>,
}

/// Where the torrent's task takes them from. When it is dropped, what is left is too, and nothing more is taken.
#[derive(Debug)]
pub(super) struct Orders {
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    /// None once nobody reads any more.
    queue: Mutex<Option<VecDeque<Ordered>>>,
    /// One permit for each order that there is room for; closed with the queue.
    room: Semaphore,
    arrived: Notify,
    ended: Notify,
}

/// Both ends of a queue for `room` orders.
pub(super) fn inbox(room: usize) -> (OrderSender, Orders) {
    let inbox = Arc::new(Inbox {
        queue: Mutex::new(Some(VecDeque::new())),
        room: Semaphore::new(room),
        arrived: Notify::new(),
        ended: Notify::new(),
    });
    (OrderSender { inbox: Arc::clone(&inbox) }, Orders { inbox })
}

impl Inbox {
    fn queue(&self) -> MutexGuard<'_, Option<VecDeque<Ordered>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, order: Ordered) {
        if let Some(queue) = &mut *self.queue() {
            queue.push_back(order);
        }
        self.arrived.notify_one();
    }
}

impl OrderSender {
    /// Waits for room. An order to a torrent that has ended is dropped.
    pub(crate) async fn send(&self, order: Ordered) {
        if let Ok(room) = self.inbox.room.acquire().await {
            room.forget();
            self.inbox.push(order);
        }
    }

    /// Does not wait: where there is no room, the order is dropped.
    pub(super) fn try_send(&self, order: Ordered) {
        if let Ok(room) = self.inbox.room.try_acquire() {
            room.forget();
            self.inbox.push(order);
        }
    }

    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.inbox.room.is_closed()
    }

    /// Waits until nobody reads any more.
    pub(super) async fn closed(&self) {
        let ended = self.inbox.ended.notified();
        if !self.is_closed() {
            ended.await;
        }
    }
}

impl Orders {
    /// The next one. Nothing is lost where the future is dropped.
    pub(super) async fn recv(&mut self) -> Ordered {
        loop {
            if let Some(order) = self.take() {
                return order;
            }
            self.inbox.arrived.notified().await;
        }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.inbox.queue().as_ref().is_none_or(VecDeque::is_empty)
    }

    fn take(&mut self) -> Option<Ordered> {
        let mut queue = self.inbox.queue();
        let orders = queue.as_mut()?;
        let order = orders.pop_front()?;
        if orders.is_empty() {
            *orders = VecDeque::new();
        }
        drop(queue);
        self.inbox.room.add_permits(1);
        Some(order)
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.inbox.room.close();
        let left = self.inbox.queue().take();
        self.inbox.ended.notify_waiters();
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::torrent::order::Order;

    #[tokio::test]
    async fn orders_come_in_order_and_no_more_than_there_is_room_for() {
        let (sender, mut orders) = inbox(2);
        assert!(orders.is_empty() && orders.recv().now_or_never().is_none());
        sender.send(Order::Wake.into()).await;
        sender.send(Order::Stop.into()).await;
        assert!(sender.send(Order::Wake.into()).now_or_never().is_none(), "it waits");
        sender.try_send(Order::Wake.into());
        assert!(matches!(*orders.recv().await, Order::Wake));
        sender.try_send(Order::Wake.into());
        assert!(matches!(*orders.recv().await, Order::Stop));
        assert!(matches!(*orders.recv().await, Order::Wake));
        assert!(orders.is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_nobody_reads_any_more() {
        let (sender, orders) = inbox(1);
        sender.send(Order::Wake.into()).await;
        assert!(!sender.is_closed() && sender.closed().now_or_never().is_none());
        let waits = async { tokio::join!(sender.closed(), sender.send(Order::Stop.into())) };
        tokio::join!(waits, async { drop(orders) });
        assert!(sender.is_closed());
        sender.send(Order::Wake.into()).await;
        assert_eq!(Arc::strong_count(&sender.inbox), 1);
    }

    #[tokio::test]
    async fn an_order_wakes_the_one_who_waits_for_it() {
        let (sender, mut orders) = inbox(1);
        let (order, ()) = tokio::join!(orders.recv(), sender.send(Order::Stop.into()));
        assert!(matches!(*order, Order::Stop));
    }
}
