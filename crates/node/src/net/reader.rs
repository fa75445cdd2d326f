//! From a stream of bytes to messages and blocks, with as few system calls and copies as there can be.
//!
//! While blocks are expected, one vectored read takes the rest of the current block, the next header, the next block
//! and so on, each straight to its place, on the guess that full blocks follow each other. Where the guess is wrong
//! the bytes after the surprise are moved to a small buffer and read from there, as all other messages are.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};

use obt_wire::BLOCK_SIZE;
use obt_wire::peer::{Header, Message, MessageError, PieceHeader};
use thiserror::Error;

use super::Item;
use super::stream::Received;
use crate::buffers::{BlockBuf, Pool};
use crate::limits::READ_BLOCKS;

/// Bytes read at once where messages other than blocks are expected: some 240 requests.
const SMALL: usize = 4 << 10;
/// Length of a block's header with its length prefix.
const HEAD: usize = PieceHeader::LEN;
/// Where a message's id stands.
const ID_AT: usize = 4;
/// The id of `piece` (BEP 3).
const PIECE_ID: u8 = 7;
/// Most slices of one vectored read: the current block's rest, and a header before each block and after the last.
const SLICES: usize = 2 * READ_BLOCKS + 2;

/// Why a connection cannot be read any more.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the peer broke the protocol: {0}")]
    Message(#[from] MessageError),
}

/// How a read went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There may be more to read.
    More,
    /// The socket is empty.
    Drained,
    /// A block waits for a buffer: [`Reader::give`].
    Starved,
    /// The other side sends nothing more.
    End,
}

/// A block whose first bytes are here.
#[derive(Debug)]
struct Partial {
    header: PieceHeader,
    bytes: BlockBuf,
    filled: usize,
}

impl Partial {
    fn missing(&self) -> usize {
        (self.header.length as usize).saturating_sub(self.filled)
    }
}

/// The reading half of a connection.
///
/// Invariants: `from <= to <= small.len()`; while there is a `partial`, `small[from..to]` is empty;
/// `spares.len() <= READ_BLOCKS`.
#[derive(Debug)]
pub(super) struct Reader {
    small: Vec<u8>,
    from: usize,
    to: usize,
    partial: Option<Partial>,
    heads: [[u8; HEAD]; READ_BLOCKS + 1],
    spares: VecDeque<BlockBuf>,
    /// How many blocks are worth reading at once, as the last reads showed.
    depth: usize,
    /// A header is in `small`, and there was no buffer for its block.
    starved: bool,
    /// The last read brought bytes of a block that is not whole.
    progressed: bool,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            small: Vec::new(),
            from: 0,
            to: 0,
            partial: None,
            heads: [[0; HEAD]; READ_BLOCKS + 1],
            spares: VecDeque::new(),
            depth: 1,
            starved: false,
            progressed: false,
        }
    }

    /// Whether the last read brought bytes of a block that is not whole.
    pub(super) fn has_progressed(&self) -> bool {
        self.progressed
    }

    /// A buffer for the block that waits for one.
    pub(super) fn give(&mut self, buffer: BlockBuf) {
        self.spares.push_front(buffer);
    }

    /// Gives buffers back that the next read is not likely to fill.
    pub(super) fn settle(&mut self, expected: usize) {
        self.spares.truncate(expected.min(self.depth));
    }

    /// Reads once, and appends what became whole to `items`. `expected` is how many blocks were asked for and are not
    /// here yet, more or less: it only says how to read. `bitfield_bytes` is the longest bitfield that can be right.
    pub(super) fn turn(
        &mut self,
        mut receive: impl FnMut(&mut [IoSliceMut<'_>], usize) -> io::Result<Received>,
        pool: &Pool,
        expected: usize,
        bitfield_bytes: usize,
        items: &mut Vec<Item>,
    ) -> Result<Turn, ReadError> {
        if self.starved {
            self.parse(pool, bitfield_bytes, items)?;
            return Ok(if self.starved { Turn::Starved } else { Turn::More });
        }
        let received = if self.partial.is_some() || (expected > 0 && self.block_may_follow()) {
            self.stock(pool, expected);
            if self.partial.is_none() && self.spares.is_empty() {
                return Ok(Turn::Starved);
            }
            let (room, received) = self.receive_blocks(&mut receive)?;
            let got = bytes(received);
            let before = items.len();
            self.sort_blocks(got, items)?;
            self.depth = if got == room { self.depth * 2 } else { items.len() - before + 1 }.clamp(1, READ_BLOCKS);
            received
        } else {
            self.receive_small(&mut receive, bitfield_bytes)?
        };
        self.parse(pool, bitfield_bytes, items)?;
        self.progressed = self.partial.is_some() && bytes(received) > 0;
        Ok(match received {
            _ if self.starved => Turn::Starved,
            Received::Full(_) => Turn::More,
            Received::Drained(_) => Turn::Drained,
            Received::End => Turn::End,
        })
    }

    fn waiting(&self) -> &[u8] {
        self.small.get(self.from..self.to).unwrap_or_default()
    }

    /// Whether what is in `small` can be the beginning of a block's header, and no more than that.
    fn block_may_follow(&self) -> bool {
        let waiting = self.waiting();
        waiting.len() < HEAD && waiting.get(ID_AT).is_none_or(|id| *id == PIECE_ID)
    }

    /// Takes as many buffers as the next read is likely to fill.
    fn stock(&mut self, pool: &Pool, expected: usize) {
        let begun = usize::from(self.partial.is_some());
        let wanted = self.depth.min(expected.saturating_sub(begun));
        while self.spares.len() < wanted
            && let Some(spare) = pool.try_take()
        {
            self.spares.push_back(spare);
        }
    }

    /// One vectored read into the rest of the current block, and headers and blocks after it. Returns how many bytes
    /// there was room for.
    fn receive_blocks(
        &mut self,
        receive: &mut impl FnMut(&mut [IoSliceMut<'_>], usize) -> io::Result<Received>,
    ) -> io::Result<(usize, Received)> {
        let begun = self.to - self.from;
        if let (Some(head), Some(waiting)) = (self.heads[0].get_mut(..begun), self.small.get(self.from..self.to)) {
            head.copy_from_slice(waiting);
        }
        let mut slices: [IoSliceMut<'_>; SLICES] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut places = slices.iter_mut();
        let mut room = 0;
        let mut add = |bytes| {
            let slice = IoSliceMut::new(bytes);
            if let Some(place) = places.next() {
                room += slice.len();
                *place = slice;
            }
        };
        if let Some(partial) = &mut self.partial {
            let end = partial.header.length as usize;
            add(partial.bytes.get_mut(partial.filled..end).unwrap_or_default());
        }
        let blocks = self.spares.len().min(self.depth);
        let mut skip = begun;
        let mut spares = self.spares.iter_mut().take(blocks);
        for head in self.heads.iter_mut().take(blocks + 1) {
            add(head.get_mut(skip..).unwrap_or_default());
            skip = 0;
            if let Some(spare) = spares.next() {
                add(spare);
            }
        }
        let received = receive(&mut slices, room)?;
        Ok((room, received))
    }

    /// Sorts out what a vectored read of `got` bytes has put where.
    fn sort_blocks(&mut self, got: usize, items: &mut Vec<Item>) -> Result<(), ReadError> {
        let mut left = got;
        if let Some(mut partial) = self.partial.take() {
            let taken = left.min(partial.missing());
            partial.filled += taken;
            left -= taken;
            if partial.missing() > 0 {
                self.partial = Some(partial);
                return Ok(());
            }
            items.push(Item::Block(partial.header, partial.bytes));
        }
        // Bytes of the first header that an earlier read brought stand before those of this one.
        left += std::mem::take(&mut self.to) - std::mem::take(&mut self.from);
        for at in 0..=READ_BLOCKS {
            if left < HEAD {
                self.put_back(at, left);
                return Ok(());
            }
            let head = self.heads.get(at).copied().unwrap_or_default();
            // The length is the guess: a surprise is read from the small buffer, where its length is checked first.
            let Ok(Some(Header::Piece(header))) = Header::decode(&head, 0) else {
                self.put_back(at, left);
                return Ok(());
            };
            let Some(bytes) = self.spares.pop_front() else {
                self.put_back(at, left);
                return Ok(());
            };
            left -= HEAD;
            let length = header.length as usize;
            if left < length {
                self.partial = Some(Partial { header, bytes, filled: left });
                return Ok(());
            }
            if length < BLOCK_SIZE as usize {
                // What follows a short block lies in its buffer, behind it.
                let inside = left.min(bytes.len());
                self.start_small(left - length);
                self.append_small(bytes.get(length..inside).unwrap_or_default());
                items.push(Item::Block(header, bytes));
                self.append_places(at + 1, left - inside);
                return Ok(());
            }
            left -= length;
            items.push(Item::Block(header, bytes));
        }
        Ok(())
    }

    /// Moves `left` bytes that begin with header `at`, and go on in the spare buffers, to the small buffer.
    fn put_back(&mut self, at: usize, left: usize) {
        self.start_small(left);
        self.append_places(at, left);
    }

    fn start_small(&mut self, room: usize) {
        (self.from, self.to) = (0, 0);
        if self.small.len() < room {
            self.small.resize(room.max(SMALL), 0);
        }
    }

    fn append_small(&mut self, bytes: &[u8]) {
        if let Some(place) = self.small.get_mut(self.to..self.to + bytes.len()) {
            place.copy_from_slice(bytes);
            self.to += bytes.len();
        }
    }

    /// Appends `left` bytes from header `at`, the first spare buffer, the next header, and so on.
    fn append_places(&mut self, at: usize, mut left: usize) {
        let mut to = self.to;
        let mut put = |bytes: &[u8]| {
            let taken = left.min(bytes.len());
            if let (Some(place), Some(bytes)) = (self.small.get_mut(to..to + taken), bytes.get(..taken)) {
                place.copy_from_slice(bytes);
                to += taken;
            }
            left -= taken;
            left > 0
        };
        let mut spares = self.spares.iter();
        for head in self.heads.iter().skip(at) {
            if !put(head) || !spares.next().is_some_and(|spare| put(spare)) {
                break;
            }
        }
        self.to = to;
    }

    /// Reads into the small buffer, which grows as far as the message that has begun needs it.
    fn receive_small(
        &mut self,
        receive: &mut impl FnMut(&mut [IoSliceMut<'_>], usize) -> io::Result<Received>,
        bitfield_bytes: usize,
    ) -> Result<Received, ReadError> {
        let waiting = self.to - self.from;
        let message = Header::decode(self.waiting(), bitfield_bytes)?
            .map_or(0, |header| header.header_bytes() + header.body_bytes());
        let wanted = message.max(SMALL);
        self.small.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, waiting);
        if waiting == 0 && self.small.len() > SMALL && wanted == SMALL {
            self.small = Vec::new();
        }
        if self.small.len() < wanted {
            self.small.resize(wanted, 0);
        }
        let place = self.small.get_mut(waiting..).unwrap_or_default();
        let room = place.len();
        let received = receive(&mut [IoSliceMut::new(place)], room)?;
        self.to += bytes(received);
        Ok(received)
    }

    /// Takes whole messages out of the small buffer, and the beginning of a block to its own.
    fn parse(&mut self, pool: &Pool, bitfield_bytes: usize, items: &mut Vec<Item>) -> Result<(), ReadError> {
        self.starved = false;
        while self.partial.is_none() && self.from < self.to {
            let Some(header) = Header::decode(self.waiting(), bitfield_bytes)? else {
                break;
            };
            let body = self.small.get(self.from + header.header_bytes()..self.to).unwrap_or_default();
            let message = match header {
                Header::Piece(piece) => {
                    let Some(mut bytes) = self.spares.pop_front().or_else(|| pool.try_take()) else {
                        self.starved = true;
                        break;
                    };
                    let filled = body.len().min(piece.length as usize);
                    if let (Some(place), Some(body)) = (bytes.get_mut(..filled), body.get(..filled)) {
                        place.copy_from_slice(body);
                    }
                    self.from += HEAD + filled;
                    self.begin(Partial { header: piece, bytes, filled }, items);
                    continue;
                }
                header if body.len() < header.body_bytes() => break,
                Header::KeepAlive => Message::KeepAlive,
                Header::Skip { id, .. } => Message::Unknown(id),
                Header::Body { kind, body: length } => Message::decode(kind, body.get(..length).unwrap_or_default())?,
            };
            self.from += header.header_bytes() + header.body_bytes();
            items.push(Item::Message(message));
        }
        Ok(())
    }

    fn begin(&mut self, partial: Partial, items: &mut Vec<Item>) {
        if partial.missing() == 0 {
            items.push(Item::Block(partial.header, partial.bytes));
        } else {
            self.partial = Some(partial);
        }
    }
}

fn bytes(received: Received) -> usize {
    match received {
        Received::Full(bytes) | Received::Drained(bytes) => bytes,
        Received::End => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use fastrand::Rng;
    use obt_wire::peer::Request;

    use super::*;

    /// What came out, with the bytes of blocks.
    #[derive(Debug, PartialEq)]
    enum Seen {
        Message(Message),
        Block(PieceHeader, Vec<u8>),
    }

    fn seen(items: Vec<Item>) -> Vec<Seen> {
        let see = |item| match item {
            Item::Message(message) => Seen::Message(message),
            Item::Block(header, bytes) => Seen::Block(header, bytes[..header.length as usize].to_vec()),
            other => panic!("{other:?}"),
        };
        items.into_iter().map(see).collect()
    }

    fn block(random: &mut Rng, length: u32) -> Seen {
        let bytes = iter::repeat_with(|| random.u8(..)).take(length as usize).collect();
        Seen::Block(PieceHeader { piece: random.u32(..9), begin: random.u32(..9) * BLOCK_SIZE, length }, bytes)
    }

    fn anything(random: &mut Rng) -> Seen {
        Seen::Message(match random.u8(..12) {
            0 => Message::KeepAlive,
            1 => Message::Have(random.u32(..)),
            2 => Message::Unchoke,
            3 => Message::Request(Request { piece: 1, begin: 2, length: 3 }),
            4 => Message::Bitfield(vec![random.u8(..); random.usize(..700)].into()),
            5 => Message::Extended { id: 3, payload: vec![random.u8(..); random.usize(..30_000)].into() },
            6 => {
                let length = random.u32(1..BLOCK_SIZE);
                return block(random, length);
            }
            _ => return block(random, BLOCK_SIZE),
        })
    }

    fn encode(stream: &[Seen]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for seen in stream {
            match seen {
                Seen::Message(message) => message.encode(&mut bytes),
                Seen::Block(header, payload) => {
                    bytes.extend_from_slice(&header.encode());
                    bytes.extend_from_slice(payload);
                }
            }
        }
        bytes
    }

    /// A socket that gives at most `most` of `bytes` at a time.
    fn socket(bytes: &mut &[u8], most: usize, into: &mut [IoSliceMut<'_>], room: usize) -> io::Result<Received> {
        let lengths: usize = into.iter().map(|slice| slice.len()).sum();
        assert_eq!(lengths, room);
        let most = most.min(bytes.len());
        let mut given = 0;
        for slice in into {
            let taken = slice.len().min(most - given);
            slice[..taken].copy_from_slice(&bytes[..taken]);
            *bytes = &bytes[taken..];
            given += taken;
        }
        Ok(if given == room { Received::Full(given) } else { Received::Drained(given) })
    }

    #[test]
    fn messages_and_blocks_come_out_whatever_the_packets_are_and_whatever_was_guessed() {
        for seed in 0..300 {
            let mut random = Rng::with_seed(seed);
            let stream: Vec<Seen> = iter::repeat_with(|| anything(&mut random)).take(40).collect();
            let bytes = encode(&stream);
            let mut rest = &bytes[..];
            let pool = Pool::bounded(1000);
            let mut reader = Reader::new();
            let mut items = Vec::new();
            let sizes = [1, 13, 100, 5_000, 20_000, 200_000];
            while !rest.is_empty() {
                // Byte by byte would take too long for all of it.
                let most =
                    if random.u8(..20) == 0 { random.usize(1..20) } else { *random.choice(&sizes[2..]).unwrap() };
                let expected = *random.choice(&[0, 1, 3, 100]).unwrap();
                let receive = |into: &mut [IoSliceMut<'_>], room| socket(&mut rest, most, into, room);
                let turn = reader.turn(receive, &pool, expected, 700, &mut items).unwrap();
                assert_ne!(turn, Turn::Starved);
                reader.settle(expected);
            }
            assert_eq!(seen(items), stream, "seed {seed}");
            reader.settle(0);
            assert_eq!(pool.available(), 1000, "seed {seed}");
        }
    }

    #[test]
    fn w06_a_length_that_no_message_has_is_refused_before_there_is_room_for_it() {
        for start in [&b"\xff\xff\xff\xff"[..], b"\x7f\xff\xff\xff", b"\x00\x10\x00\x01\x07"] {
            for expected in [0, 5] {
                let mut rest = start;
                let mut reader = Reader::new();
                let receive = |into: &mut [IoSliceMut<'_>], room| socket(&mut rest, 100, into, room);
                let refused = reader.turn(receive, &Pool::bounded(9), expected, 700, &mut Vec::new());
                assert!(matches!(refused, Err(ReadError::Message(_))), "{start:?} {refused:?}");
                assert!(reader.small.len() <= SMALL);
            }
        }
    }

    #[test]
    fn w08_messages_of_the_wrong_length_are_refused() {
        let wrong = [
            &b"\0\0\0\x05\0aaaa"[..],
            b"\0\0\0\x04\x04aaa",
            b"\0\0\0\x06\x04aaaaa",
            b"\0\0\0\x0c\x06aaaaaaaaaaa",
            b"\0\0\0\x0e\x06aaaaaaaaaaaaa",
            b"\0\0\0\x08\x07aaaaaaa",
            b"\0\0\0\x01\x04",
        ];
        for bytes in wrong {
            let mut rest = bytes;
            let receive = |into: &mut [IoSliceMut<'_>], room| socket(&mut rest, 100, into, room);
            let refused = Reader::new().turn(receive, &Pool::bounded(9), 1, 700, &mut Vec::new());
            assert!(matches!(refused, Err(ReadError::Message(_))), "{bytes:?} {refused:?}");
        }
    }

    #[test]
    fn a_spent_pool_stops_reading_until_a_buffer_comes_back() {
        let mut random = Rng::with_seed(1);
        let stream = [block(&mut random, BLOCK_SIZE), block(&mut random, BLOCK_SIZE), Seen::Message(Message::Unchoke)];
        let bytes = encode(&stream);
        for expected in [0, 2] {
            let mut rest = &bytes[..];
            let pool = Pool::bounded(1);
            let mut reader = Reader::new();
            let mut items = Vec::new();
            let mut out = Vec::new();
            for _ in 0..100 {
                let receive = |into: &mut [IoSliceMut<'_>], room| socket(&mut rest, 9_000, into, room);
                if reader.turn(receive, &pool, expected, 700, &mut items).unwrap() == Turn::Starved {
                    out.extend(seen(std::mem::take(&mut items)));
                    reader.give(pool.try_take().unwrap());
                }
            }
            out.extend(seen(items));
            assert_eq!(out, stream);
        }
    }

    #[test]
    fn blocks_that_follow_each_other_take_less_than_a_read_each() {
        let mut random = Rng::with_seed(1);
        let stream: Vec<Seen> = iter::repeat_with(|| block(&mut random, BLOCK_SIZE)).take(64).collect();
        let bytes = encode(&stream);
        let mut rest = &bytes[..];
        let pool = Pool::bounded(100);
        let (mut reader, mut items, mut reads) = (Reader::new(), Vec::new(), 0);
        while !rest.is_empty() {
            reads += 1;
            let expected = 64 - items.len();
            let receive = |into: &mut [IoSliceMut<'_>], room| socket(&mut rest, usize::MAX, into, room);
            reader.turn(receive, &pool, expected, 0, &mut items).unwrap();
        }
        assert_eq!(seen(items), stream);
        assert!(reads < 16, "{reads}");
    }
}
