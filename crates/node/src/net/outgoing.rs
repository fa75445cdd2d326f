//! What is to be sent on a connection: gathered messages, and blocks that are still on disk.
//!
//! A message passes the blocks that wait, for it is small and somebody acts on it: what a slow link holds of blocks may
//! take seconds. A choke does not, so that blocks that were granted come before it, and neither does what follows it.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use obt_wire::peer::{Message, Request};

/// A stretch of what is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// So many of the gathered bytes.
    Bytes(usize),
    /// A block.
    Block(Request),
}

/// A queue of messages, encoded as they come in: a `have` takes 9 bytes here, and is written together with others.
///
/// Invariants: the [`Part::Bytes`] of `parts` add up to the length of `bytes`, none is 0, and no two follow each other;
/// they are all in front of the blocks, but for those that came while `keeps_order`.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    parts: VecDeque<Part>,
    bytes: BytesMut,
    /// A choke waits: what comes now comes after it.
    keeps_order: bool,
    /// How many `request` messages were pushed.
    requests: usize,
}

impl Outgoing {
    /// Adds a message.
    pub(crate) fn push(&mut self, message: &Message) {
        self.keeps_order |= matches!(message, Message::Choke);
        let before = self.bytes.len();
        message.encode(&mut self.bytes);
        self.gathered(self.bytes.len() - before);
        self.requests += usize::from(matches!(message, Message::Request(_)));
    }

    /// Adds a block.
    pub(crate) fn push_block(&mut self, request: Request) {
        self.parts.push_back(Part::Block(request));
    }

    /// Adds bytes as they are.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.gathered(bytes.len());
    }

    /// So many more bytes were put at the end of the gathered ones.
    fn gathered(&mut self, more: usize) {
        let place = if self.keeps_order { self.parts.back_mut() } else { self.parts.front_mut() };
        match place {
            Some(Part::Bytes(bytes)) => *bytes += more,
            _ if more == 0 => {}
            _ if self.keeps_order => self.parts.push_back(Part::Bytes(more)),
            _ => self.parts.push_front(Part::Bytes(more)),
        }
    }

    /// Moves all of `other` behind what is here; it keeps its capacity.
    pub(super) fn append(&mut self, other: &mut Self) {
        if self.parts.is_empty() {
            self.requests += std::mem::take(&mut other.requests);
            self.keeps_order = std::mem::take(&mut other.keeps_order);
            std::mem::swap(&mut self.parts, &mut other.parts);
            std::mem::swap(&mut self.bytes, &mut other.bytes);
            return;
        }
        self.bytes.extend_from_slice(&other.bytes);
        self.keeps_order |= other.keeps_order;
        for part in other.parts.drain(..) {
            match part {
                Part::Bytes(bytes) => self.gathered(bytes),
                Part::Block(_) => self.parts.push_back(part),
            }
        }
        self.requests += other.requests;
        other.clear();
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.bytes.clear();
        self.keeps_order = false;
        self.requests = 0;
    }

    /// How many requests were pushed since the last call.
    pub(super) fn take_requests(&mut self) -> usize {
        std::mem::take(&mut self.requests)
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes that it takes, blocks counted as what stands for them.
    pub(super) fn memory(&self) -> usize {
        self.bytes.len() + self.parts.len() * size_of::<Part>()
    }

    /// What comes first, and whether more follows it.
    pub(super) fn first(&self) -> Option<(Part, bool)> {
        self.parts.front().map(|part| (*part, self.parts.len() > 1))
    }

    /// The next `length` gathered bytes.
    pub(super) fn bytes(&self, length: usize) -> &[u8] {
        self.bytes.get(..length).unwrap_or(&self.bytes)
    }

    /// `sent` of the gathered bytes in front are sent.
    pub(super) fn advance(&mut self, sent: usize) {
        self.bytes.advance(sent.min(self.bytes.len()));
        if let Some(Part::Bytes(left)) = self.parts.front_mut() {
            *left = left.saturating_sub(sent);
            if *left == 0 {
                self.parts.pop_front();
                self.keeps_order &= self.parts.iter().any(|part| matches!(part, Part::Bytes(_)));
            }
        }
    }

    /// Takes the block in front, if there is one.
    pub(super) fn pop_block(&mut self) -> Option<Request> {
        let Some(Part::Block(request)) = self.parts.front().copied() else {
            return None;
        };
        self.parts.pop_front();
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Request = Request { piece: 1, begin: 0, length: 16_384 };

    /// Sends everything: `m` for a message of nine bytes, `B` for a block, `c` for a choke of five.
    fn order(mut outgoing: Outgoing) -> String {
        let mut order = String::new();
        while let Some((part, _)) = outgoing.first() {
            match part {
                Part::Block(_) => {
                    outgoing.pop_block();
                    order.push('B');
                }
                Part::Bytes(_) => {
                    let length = 4 + usize::from(outgoing.bytes(4)[3]);
                    order.push(if length == 5 { 'c' } else { 'm' });
                    outgoing.advance(length);
                }
            }
        }
        assert_eq!((outgoing.memory(), outgoing.keeps_order), (0, false));
        order
    }

    fn of(order: &str) -> Outgoing {
        let mut outgoing = Outgoing::default();
        for what in order.chars() {
            match what {
                'B' => outgoing.push_block(BLOCK),
                'c' => outgoing.push(&Message::Choke),
                _ => outgoing.push(&Message::Have(1)),
            }
        }
        outgoing
    }

    #[test]
    fn messages_pass_blocks_and_a_choke_passes_none() {
        assert_eq!(order(of("mBmBm")), "mmmBB");
        assert_eq!(order(of("mBmcmBm")), "mmBcmBm");
        assert_eq!(order(of("cBm")), "cBm");
    }

    #[test]
    fn chokes_and_blocks_keep_their_order_in_two_halves_too() {
        let all = "mBmBmcmBBmcm";
        let but_messages = |order: &str| order.replace('m', "");
        for at in 0..=all.len() {
            let (mut first, mut second) = (of(&all[..at]), of(&all[at..]));
            first.append(&mut second);
            assert!(second.is_empty());
            assert_eq!(but_messages(&order(first)), but_messages(all), "cut at {at}");
        }
        let mut first = of("B");
        first.append(&mut of("mB"));
        assert_eq!(order(first), "mBB");
    }

    #[test]
    fn messages_pass_blocks_again_when_the_choke_is_sent() {
        let mut outgoing = of("BcBB");
        outgoing.pop_block();
        outgoing.advance(5);
        outgoing.push(&Message::Have(1));
        assert_eq!(order(outgoing), "mBB");
    }

    #[test]
    fn a_message_that_is_half_sent_stays_in_front() {
        let mut first = of("m");
        first.push(&Message::Request(BLOCK));
        first.push_block(BLOCK);
        first.advance(20);
        first.push(&Message::Have(2));
        assert_eq!(first.take_requests(), 1);
        assert_eq!(first.first(), Some((Part::Bytes(6 + 9), true)));
        assert_eq!(first.pop_block(), None);
        first.advance(6);
        assert_eq!(first.bytes(9)[5..9], 2_u32.to_be_bytes());
        first.advance(9);
        assert_eq!(first.pop_block(), Some(BLOCK));
        assert!(first.is_empty());
    }
}
