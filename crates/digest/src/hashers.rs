//! Messages that come in parts.

use crate::LANES;
use crate::algorithm::{Algorithm, BLOCK};
use crate::jobs::{Job, compress_each};

/// What belongs to the end of a message until more of it comes: less than a block.
#[derive(Debug, Clone, Copy)]
struct Tail {
    bytes: [u8; BLOCK],
    length: usize,
}

impl Tail {
    const EMPTY: Self = Self { bytes: [0; BLOCK], length: 0 };

    /// Takes what is missing to a whole block; returns what is left of `part`.
    fn fill<'a>(&mut self, part: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = part.split_at(part.len().min(BLOCK - self.length));
        if let Some(room) = self.bytes.get_mut(self.length..self.length + taken.len()) {
            room.copy_from_slice(taken);
            self.length += taken.len();
        }
        rest
    }
}

/// How many messages this processor hashes in about the time of one.
#[must_use]
pub fn side_by_side<A: Algorithm>() -> usize {
    A::kernel(LANES).lanes()
}

/// A message of which more may come.
#[derive(Debug)]
pub struct Message<A: Algorithm> {
    state: A::State,
    tail: Tail,
    length: u64,
}

impl<A: Algorithm> Default for Message<A> {
    /// An empty one.
    fn default() -> Self {
        Self { state: A::INITIAL, tail: Tail::EMPTY, length: 0 }
    }
}

/// Hashes of several messages that go on side by side.
#[derive(Debug)]
pub struct Hashers<A: Algorithm> {
    messages: Vec<Message<A>>,
}

impl<A: Algorithm> From<Vec<Message<A>>> for Hashers<A> {
    fn from(messages: Vec<Message<A>>) -> Self {
        Self { messages }
    }
}

impl<A: Algorithm> Hashers<A> {
    /// `messages` empty messages.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        Self { messages: (0..messages).map(|_| Message::default()).collect() }
    }

    /// The messages, to go on with them later, beside others.
    #[must_use]
    pub fn into_messages(self) -> Vec<Message<A>> {
        self.messages
    }

    /// Continues each message with its part; those beyond the parts stay as they are. Parts of one length, a multiple of
    /// 64 bytes, are the fastest.
    pub fn update(&mut self, parts: &[&[u8]]) {
        let mut jobs = Vec::with_capacity(parts.len());
        for (Message { state, tail, length }, &part) in self.messages.iter_mut().zip(parts) {
            *length += part.len() as u64;
            let mut part = part;
            if tail.length > 0 {
                part = tail.fill(part);
                if tail.length < BLOCK {
                    continue;
                }
                A::compress(state, &[tail.bytes]);
                tail.length = 0;
            }
            let (blocks, rest) = part.as_chunks();
            tail.fill(rest);
            jobs.push(Job { state, blocks });
        }
        compress_each::<A>(&mut jobs);
    }

    /// The digests, in the order of the messages.
    #[must_use]
    pub fn finish(mut self) -> Vec<A::Digest> {
        let ends: Vec<_> = self.messages.iter().map(|message| end(&message.tail, message.length)).collect();
        let states = self.messages.iter_mut().map(|message| &mut message.state);
        let mut jobs: Vec<_> = states.zip(&ends).map(|(state, end)| Job { state, blocks: end.blocks() }).collect();
        compress_each::<A>(&mut jobs);
        self.messages.iter().map(|message| A::digest(&message.state)).collect()
    }
}

/// The last one or two blocks of a message.
struct End {
    blocks: [[u8; BLOCK]; 2],
    used: usize,
}

impl End {
    fn blocks(&self) -> &[[u8; BLOCK]] {
        self.blocks.get(..self.used).unwrap_or(&self.blocks)
    }
}

/// A one, zeros, and the length in bits (FIPS 180-4 §5.1.1).
fn end(tail: &Tail, length: u64) -> End {
    let mut bytes = [0; 2 * BLOCK];
    for (to, from) in bytes.iter_mut().zip(&tail.bytes).take(tail.length) {
        *to = *from;
    }
    if let Some(byte) = bytes.get_mut(tail.length) {
        *byte = 0x80;
    }
    let used = if tail.length < BLOCK - 8 { 1 } else { 2 };
    if let Some(room) = bytes.get_mut(used * BLOCK - 8..used * BLOCK) {
        room.copy_from_slice(&length.wrapping_mul(8).to_be_bytes());
    }
    let (blocks, _) = bytes.as_chunks();
    End { blocks: [blocks[0], blocks[1]], used }
}

/// The digest of each message.
#[must_use]
pub fn digest_each<A: Algorithm>(messages: &[&[u8]]) -> Vec<A::Digest> {
    let mut hashers = Hashers::<A>::new(messages.len());
    hashers.update(messages);
    hashers.finish()
}
