//! What is to be sent on a connection, in order: gathered messages, and blocks that are still on disk.

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
/// Invariant: the [`Part::Bytes`] of `parts` add up to the length of `bytes`, none is 0, and no two follow each other.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    parts: VecDeque<Part>,
    bytes: BytesMut,
    /// How many `request` messages were pushed.
    requests: usize,
}

impl Outgoing {
    /// Adds a message.
    pub(crate) fn push(&mut self, message: &Message) {
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

    fn gathered(&mut self, more: usize) {
        match self.parts.back_mut() {
            Some(Part::Bytes(bytes)) => *bytes += more,
            _ if more > 0 => self.parts.push_back(Part::Bytes(more)),
            _ => {}
        }
    }

    /// Moves all of `other` behind what is here; it keeps its capacity.
    pub(super) fn append(&mut self, other: &mut Self) {
        if self.parts.is_empty() {
            self.requests += std::mem::take(&mut other.requests);
            std::mem::swap(&mut self.parts, &mut other.parts);
            std::mem::swap(&mut self.bytes, &mut other.bytes);
            return;
        }
        self.bytes.extend_from_slice(&other.bytes);
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

    #[test]
    fn messages_between_blocks_are_one_part() {
        let mut first = Outgoing::default();
        first.push(&Message::Have(1));
        first.push(&Message::Request(BLOCK));
        first.push_block(BLOCK);
        first.push(&Message::Have(2));
        let mut second = Outgoing::default();
        second.push(&Message::Have(3));
        second.push_block(BLOCK);
        first.append(&mut second);
        assert!(second.is_empty());
        assert_eq!(first.take_requests(), 1);
        assert_eq!(first.first(), Some((Part::Bytes(9 + 17), true)));
        first.advance(20);
        assert_eq!(first.first(), Some((Part::Bytes(6), true)));
        assert_eq!(first.pop_block(), None);
        first.advance(6);
        assert_eq!(first.pop_block(), Some(BLOCK));
        assert_eq!(first.first(), Some((Part::Bytes(18), true)));
        assert_eq!(first.bytes(18)[5..9], 2_u32.to_be_bytes());
        assert_eq!(first.bytes(18)[14..], 3_u32.to_be_bytes());
        first.advance(18);
        assert_eq!(first.pop_block(), Some(BLOCK));
        assert!(first.is_empty());
        assert_eq!(first.memory(), 0);
    }
}
