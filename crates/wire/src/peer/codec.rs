//! Framing and fields of peer messages (BEP 3, 5, 6, 10, 52).
//!
//! Made for the data plane: a reader looks at [`Header::decode`] with what it has, and learns how many bytes belong to
//! the message before a buffer for them exists. The payload of a block never passes through here.

use bytes::{BufMut, Bytes};
use thiserror::Error;

use super::{HashRequest, Message, PieceHeader, Request};
use crate::geometry::BLOCK_SIZE;
use crate::ids::Sha256Hash;
use crate::limits::{HASHES, PEER_MESSAGE_BYTES, PROOF_LAYERS, UNKNOWN_MESSAGE_BYTES};

/// Length prefix and id.
const FRAME: usize = 5;
/// Fields of `hash request`: a root and four numbers.
const HASH_REQUEST: usize = Sha256Hash::LEN + 16;

/// A message that breaks a rule about lengths: the peer that sent it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{rule}, and this one has {length}")]
pub struct MessageError {
    /// What every such message keeps to.
    pub rule: &'static str,
    /// What this one has: bytes after the length prefix.
    pub length: u32,
}

/// The messages that are known, but for `piece`, by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is documented at the variant of Message with its name")]
pub enum Kind {
    Choke = 0,
    Unchoke = 1,
    Interested = 2,
    NotInterested = 3,
    Have = 4,
    Bitfield = 5,
    Request = 6,
    Cancel = 8,
    Port = 9,
    Suggest = 13,
    HaveAll = 14,
    HaveNone = 15,
    Reject = 16,
    AllowedFast = 17,
    Extended = 20,
    HashRequest = 21,
    Hashes = 22,
    HashReject = 23,
}

/// The id of `piece`.
const PIECE: u8 = 7;

impl Kind {
    fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::Choke,
            1 => Self::Unchoke,
            2 => Self::Interested,
            3 => Self::NotInterested,
            4 => Self::Have,
            5 => Self::Bitfield,
            6 => Self::Request,
            8 => Self::Cancel,
            9 => Self::Port,
            13 => Self::Suggest,
            14 => Self::HaveAll,
            15 => Self::HaveNone,
            16 => Self::Reject,
            17 => Self::AllowedFast,
            20 => Self::Extended,
            21 => Self::HashRequest,
            22 => Self::Hashes,
            23 => Self::HashReject,
            _ => return None,
        })
    }

    /// Which lengths of the body are right, and the sentence that says so about the whole message.
    fn rule(self, bitfield_bytes: usize) -> (Lengths, &'static str) {
        match self {
            Self::Choke => (Lengths::Exactly(0), "a choke message has 1 byte"),
            Self::Unchoke => (Lengths::Exactly(0), "an unchoke message has 1 byte"),
            Self::Interested => (Lengths::Exactly(0), "an interested message has 1 byte"),
            Self::NotInterested => (Lengths::Exactly(0), "a not interested message has 1 byte"),
            Self::Have => (Lengths::Exactly(4), "a have message has 5 bytes"),
            Self::Bitfield => (Lengths::UpTo(bitfield_bytes), "a bitfield message has a bit for each piece"),
            Self::Request => (Lengths::Exactly(12), "a request message has 13 bytes"),
            Self::Cancel => (Lengths::Exactly(12), "a cancel message has 13 bytes"),
            Self::Port => (Lengths::Exactly(2), "a port message has 3 bytes"),
            Self::Suggest => (Lengths::Exactly(4), "a suggest message has 5 bytes"),
            Self::HaveAll => (Lengths::Exactly(0), "a have all message has 1 byte"),
            Self::HaveNone => (Lengths::Exactly(0), "a have none message has 1 byte"),
            Self::Reject => (Lengths::Exactly(12), "a reject message has 13 bytes"),
            Self::AllowedFast => (Lengths::Exactly(4), "an allowed fast message has 5 bytes"),
            Self::Extended => {
                (Lengths::Between(1, PEER_MESSAGE_BYTES - 1), "an extended message has an id and a bounded payload")
            }
            Self::HashRequest => (Lengths::Exactly(HASH_REQUEST), "a hash request message has 49 bytes"),
            Self::Hashes => (Lengths::Hashes, "a hashes message has whole hashes, up to 512 and a proof"),
            Self::HashReject => (Lengths::Exactly(HASH_REQUEST), "a hash reject message has 49 bytes"),
        }
    }

    /// # Errors
    /// Where no message of this kind has a body of `body` bytes.
    fn check(self, body: usize, bitfield_bytes: usize) -> Result<(), MessageError> {
        let (lengths, rule) = self.rule(bitfield_bytes);
        let right = match lengths {
            Lengths::Exactly(bytes) => body == bytes,
            Lengths::UpTo(most) => body <= most,
            Lengths::Between(least, most) => (least..=most).contains(&body),
            Lengths::Hashes => body.checked_sub(HASH_REQUEST).is_some_and(|hashes| {
                let count = hashes / Sha256Hash::LEN;
                hashes % Sha256Hash::LEN == 0 && (1..=(HASHES + PROOF_LAYERS) as usize).contains(&count)
            }),
        };
        if right { Ok(()) } else { Err(error(rule, body + 1)) }
    }
}

enum Lengths {
    Exactly(usize),
    UpTo(usize),
    Between(usize, usize),
    Hashes,
}

fn error(rule: &'static str, length: usize) -> MessageError {
    MessageError { rule, length: u32::try_from(length).unwrap_or(u32::MAX) }
}

/// What the first bytes of a message say about the rest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The whole message: a length of 0.
    KeepAlive,
    /// A block: `length` bytes of payload follow, at least 1 and at most [`BLOCK_SIZE`].
    Piece(PieceHeader),
    /// A message whose body, of this many bytes, goes to [`Message::decode`].
    Body {
        /// Which message it is.
        kind: Kind,
        /// Bytes, right for this kind.
        body: usize,
    },
    /// A message that nobody here knows, to be read and dropped.
    Skip {
        /// Its id.
        id: u8,
        /// Bytes, at most [`UNKNOWN_MESSAGE_BYTES`].
        body: usize,
    },
}

impl Header {
    /// Reads the header of the message that begins with `bytes`; None where that takes more of them. `bitfield_bytes`
    /// is the longest bitfield that can be right: of the torrent's pieces, or of the most pieces that any torrent may
    /// have while it is unknown.
    ///
    /// # Errors
    /// Where the length is wrong for the message's id, as soon as that can be seen.
    pub fn decode(bytes: &[u8], bitfield_bytes: usize) -> Result<Option<Self>, MessageError> {
        let Some((length, rest)) = u32_at_front(bytes) else {
            return Ok(None);
        };
        let Some(body) = (length as usize).checked_sub(1) else {
            return Ok(Some(Self::KeepAlive));
        };
        if body >= PEER_MESSAGE_BYTES && body > bitfield_bytes {
            return Err(MessageError { rule: "a message has a bounded length", length });
        }
        let Some((id, fields)) = rest.split_first() else {
            return Ok(None);
        };
        if *id == PIECE {
            return Self::piece(length, fields);
        }
        let Some(kind) = Kind::from_id(*id) else {
            return Self::skip(*id, body).map(Some);
        };
        kind.check(body, bitfield_bytes)?;
        Ok(Some(Self::Body { kind, body }))
    }

    fn piece(length: u32, fields: &[u8]) -> Result<Option<Self>, MessageError> {
        let payload = length.saturating_sub(9);
        if payload == 0 || payload > BLOCK_SIZE {
            return Err(MessageError { rule: "a piece message carries 1 to 16384 bytes after its 9", length });
        }
        let Some((piece, rest)) = u32_at_front(fields) else {
            return Ok(None);
        };
        let Some((begin, _)) = u32_at_front(rest) else {
            return Ok(None);
        };
        Ok(Some(Self::Piece(PieceHeader { piece, begin, length: payload })))
    }

    fn skip(id: u8, body: usize) -> Result<Self, MessageError> {
        if body > UNKNOWN_MESSAGE_BYTES {
            return Err(error("a message with an unknown id has at most 16385 bytes", body + 1));
        }
        Ok(Self::Skip { id, body })
    }

    /// Bytes that the header itself takes: 4, 5, or 13 of a piece.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        match self {
            Self::KeepAlive => 4,
            Self::Piece(_) => PieceHeader::LEN,
            Self::Body { .. } | Self::Skip { .. } => FRAME,
        }
    }

    /// Bytes of the message that follow the header.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        match self {
            Self::KeepAlive => 0,
            Self::Piece(header) => header.length as usize,
            Self::Body { body, .. } | Self::Skip { body, .. } => *body,
        }
    }
}

fn u32_at_front(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// Takes numbers and hashes off the front of a body whose length is checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (number, rest) = u32_at_front(self.0)?;
        self.0 = rest;
        Some(number)
    }

    fn hash(&mut self) -> Option<Sha256Hash> {
        let (hash, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(Sha256Hash(*hash))
    }

    fn request(&mut self) -> Option<Request> {
        Some(Request { piece: self.u32()?, begin: self.u32()?, length: self.u32()? })
    }

    fn hash_request(&mut self) -> Option<HashRequest> {
        Some(HashRequest {
            pieces_root: self.hash()?,
            base_layer: self.u32()?,
            index: self.u32()?,
            length: self.u32()?,
            proof_layers: self.u32()?,
        })
    }
}

impl Message {
    /// Reads the fields of a message from its body. Copies only the payloads of `bitfield` and `extended`.
    ///
    /// # Errors
    /// Where the body's length is not one that [`Header::decode`] lets pass; the longest bitfield counts there, not here.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, MessageError> {
        kind.check(body.len(), usize::MAX)?;
        let (_, rule) = kind.rule(usize::MAX);
        Self::fields(kind, body).ok_or(error(rule, body.len() + 1))
    }

    fn fields(kind: Kind, body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        Some(match kind {
            Kind::Choke => Self::Choke,
            Kind::Unchoke => Self::Unchoke,
            Kind::Interested => Self::Interested,
            Kind::NotInterested => Self::NotInterested,
            Kind::Have => Self::Have(fields.u32()?),
            Kind::Bitfield => Self::Bitfield(Bytes::copy_from_slice(body)),
            Kind::Request => Self::Request(fields.request()?),
            Kind::Cancel => Self::Cancel(fields.request()?),
            Kind::Port => Self::Port(u16::from_be_bytes(*body.first_chunk()?)),
            Kind::Suggest => Self::Suggest(fields.u32()?),
            Kind::HaveAll => Self::HaveAll,
            Kind::HaveNone => Self::HaveNone,
            Kind::Reject => Self::Reject(fields.request()?),
            Kind::AllowedFast => Self::AllowedFast(fields.u32()?),
            Kind::Extended => {
                let (id, payload) = body.split_first()?;
                Self::Extended { id: *id, payload: Bytes::copy_from_slice(payload) }
            }
            Kind::HashRequest => Self::HashRequest(fields.hash_request()?),
            Kind::Hashes => {
                let request = fields.hash_request()?;
                Self::Hashes(request, std::iter::from_fn(|| fields.hash()).collect())
            }
            Kind::HashReject => Self::HashReject(fields.hash_request()?),
        })
    }

    /// Appends the whole message, length prefix included. One of an unknown id is written without a body.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::KeepAlive => out.put_u32(0),
            Self::Choke => put_head(out, Kind::Choke as u8, 0),
            Self::Unchoke => put_head(out, Kind::Unchoke as u8, 0),
            Self::Interested => put_head(out, Kind::Interested as u8, 0),
            Self::NotInterested => put_head(out, Kind::NotInterested as u8, 0),
            Self::Have(piece) => put_piece(out, Kind::Have, *piece),
            Self::Bitfield(bits) => {
                put_head(out, Kind::Bitfield as u8, bits.len());
                out.put_slice(bits);
            }
            Self::Request(request) => put_request(out, Kind::Request, request),
            Self::Cancel(request) => put_request(out, Kind::Cancel, request),
            Self::Port(port) => {
                put_head(out, Kind::Port as u8, 2);
                out.put_u16(*port);
            }
            Self::Suggest(piece) => put_piece(out, Kind::Suggest, *piece),
            Self::HaveAll => put_head(out, Kind::HaveAll as u8, 0),
            Self::HaveNone => put_head(out, Kind::HaveNone as u8, 0),
            Self::Reject(request) => put_request(out, Kind::Reject, request),
            Self::AllowedFast(piece) => put_piece(out, Kind::AllowedFast, *piece),
            Self::Extended { id, payload } => {
                put_head(out, Kind::Extended as u8, payload.len() + 1);
                out.put_u8(*id);
                out.put_slice(payload);
            }
            Self::HashRequest(request) => put_hash_request(out, Kind::HashRequest, request, &[]),
            Self::Hashes(request, hashes) => put_hash_request(out, Kind::Hashes, request, hashes),
            Self::HashReject(request) => put_hash_request(out, Kind::HashReject, request, &[]),
            Self::Unknown(id) => put_head(out, *id, 0),
        }
    }
}

/// Length prefix and id in one write. Bodies of ours are far below 4 GiB.
fn put_head(out: &mut impl BufMut, id: u8, body: usize) {
    let [a, b, c, d] = u32::try_from(body + 1).unwrap_or(u32::MAX).to_be_bytes();
    out.put_slice(&[a, b, c, d, id]);
}

fn put_piece(out: &mut impl BufMut, kind: Kind, piece: u32) {
    put_head(out, kind as u8, 4);
    out.put_u32(piece);
}

fn put_request(out: &mut impl BufMut, kind: Kind, request: &Request) {
    put_head(out, kind as u8, 12);
    out.put_u32(request.piece);
    out.put_u32(request.begin);
    out.put_u32(request.length);
}

fn put_hash_request(out: &mut impl BufMut, kind: Kind, request: &HashRequest, hashes: &[Sha256Hash]) {
    put_head(out, kind as u8, HASH_REQUEST + Sha256Hash::LEN * hashes.len());
    out.put_slice(&request.pieces_root.0);
    for number in [request.base_layer, request.index, request.length, request.proof_layers] {
        out.put_u32(number);
    }
    for hash in hashes {
        out.put_slice(&hash.0);
    }
}

impl PieceHeader {
    /// Length of the header with its length prefix, bytes.
    pub const LEN: usize = 13;

    /// The bytes that go before a payload of `length` bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.length.saturating_add(9).to_be_bytes());
        bytes[4] = PIECE;
        bytes[5..9].copy_from_slice(&self.piece.to_be_bytes());
        bytes[9..].copy_from_slice(&self.begin.to_be_bytes());
        bytes
    }
}
