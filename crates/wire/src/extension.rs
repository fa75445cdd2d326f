//! Messages of the extension protocol (BEP 10): its handshake, and those of the extensions that we speak: metadata
//! (BEP 9), partial seeds (BEP 21), withdrawn pieces (BEP 54).
//!
//! Payloads only: the message around them is [`Message::Extended`](crate::peer::Message::Extended). What is out of
//! range is left out or clamped where the rest still makes sense, and an error where it does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use thiserror::Error;

use crate::bencode::{BencodeError, Document, Limits, Value, Writer};
use crate::geometry::BLOCK_SIZE;
use crate::limits::{CLIENT_NAME_BYTES, EXTENSION_HANDSHAKE_BYTES, INFO_BYTES, REQUEST_QUEUE};
use crate::text::shown;

/// The ids under which others send us extension messages; ours to choose (BEP 10).
pub mod id {
    /// The extension handshake: the one id that is the same for everybody.
    pub const HANDSHAKE: u8 = 0;
    /// BEP 9.
    pub const UT_METADATA: u8 = 1;
    /// BEP 54.
    pub const LT_DONTHAVE: u8 = 2;
    /// BEP 21.
    pub const UPLOAD_ONLY: u8 = 3;
}

/// Length of a piece of metadata, bytes, but for the last one (BEP 9).
pub const METADATA_PIECE: u32 = BLOCK_SIZE;

/// An extension message that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExtensionError {
    /// Not bencode.
    #[error("malformed extension message: {0}")]
    Bencode(#[from] BencodeError),
    /// It breaks this rule.
    #[error("{0}")]
    Rule(&'static str),
}

/// The numbers under which a peer wants to receive extension messages. None where it did not say; 0 where it does not
/// want them (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtensionIds {
    /// BEP 9.
    pub ut_metadata: Option<u8>,
    /// BEP 54.
    pub lt_donthave: Option<u8>,
    /// BEP 21.
    pub upload_only: Option<u8>,
}

impl ExtensionIds {
    /// All that we speak, under our own numbers.
    pub const OURS: Self = Self {
        ut_metadata: Some(id::UT_METADATA),
        lt_donthave: Some(id::LT_DONTHAVE),
        upload_only: Some(id::UPLOAD_ONLY),
    };

    fn of(&mut self, name: &[u8]) -> Option<&mut Option<u8>> {
        match name {
            b"ut_metadata" => Some(&mut self.ut_metadata),
            b"lt_donthave" => Some(&mut self.lt_donthave),
            b"upload_only" => Some(&mut self.upload_only),
            _ => None,
        }
    }
}

/// The extension handshake. It may come again, and then says only what has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtensionHandshake {
    /// `m`.
    pub ids: ExtensionIds,
    /// `p`: the port on which the sender listens.
    pub port: Option<u16>,
    /// `v`: the program's name and version, fit to be shown.
    pub client: Option<String>,
    /// `reqq`: how many requests of ours it queues; at least 1, at most [`REQUEST_QUEUE`].
    pub request_queue: Option<u32>,
    /// `yourip`: the address by which it sees us.
    pub your_ip: Option<IpAddr>,
    /// `ipv4`: where it can be reached too.
    pub ipv4: Option<Ipv4Addr>,
    /// `ipv6`: where it can be reached too.
    pub ipv6: Option<Ipv6Addr>,
    /// `metadata_size`: length of the info dictionary, 1 to [`INFO_BYTES`]. A claim: nothing is allocated for it here.
    pub metadata_size: Option<u32>,
    /// `upload_only`: it fetches nothing (BEP 21).
    pub upload_only: Option<bool>,
    /// `complete_ago`: seconds since it became complete.
    pub complete_ago: Option<u32>,
}

impl ExtensionHandshake {
    /// Reads a payload. Unknown keys are ignored, and so are values of the wrong kind or out of range.
    ///
    /// # Errors
    /// Where it is not a bencoded dictionary, or a monstrous one.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtensionError> {
        if payload.len() > EXTENSION_HANDSHAKE_BYTES {
            return Err(ExtensionError::Rule("an extension handshake has at most 16384 bytes"));
        }
        // Some clients put bytes after the dictionary; they mean nothing.
        let (document, _) = Document::decode_prefix(payload, Limits::MESSAGE)?;
        let Some(dict) = document.root().as_dict() else {
            return Err(ExtensionError::Rule("an extension handshake is a dictionary"));
        };
        let mut handshake = Self::default();
        for (key, value) in dict.iter() {
            handshake.read(key, value);
        }
        Ok(handshake)
    }

    fn read(&mut self, key: &[u8], value: Value<'_>) {
        match key {
            b"m" => self.ids = ids(value),
            b"p" => self.port = number(value, 1, u16::MAX.into()).and_then(|port| port.try_into().ok()),
            b"v" => self.client = value.as_bytes().map(|name| shown(name, CLIENT_NAME_BYTES)),
            b"reqq" => self.request_queue = number(value, 1, u32::MAX).map(|queue| queue.min(REQUEST_QUEUE)),
            b"yourip" => self.your_ip = ipv4(value).map(IpAddr::from).or_else(|| ipv6(value).map(IpAddr::from)),
            b"ipv4" => self.ipv4 = ipv4(value),
            b"ipv6" => self.ipv6 = ipv6(value),
            b"metadata_size" => self.metadata_size = number(value, 1, INFO_BYTES as u32),
            b"upload_only" => self.upload_only = value.as_int().map(|flag| flag != 0),
            b"complete_ago" => self.complete_ago = number(value, 0, u32::MAX),
            _ => {}
        }
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.dict();
        if let Some(ago) = self.complete_ago {
            writer.key("complete_ago").uint(ago.into());
        }
        if let Some(ip) = self.ipv4 {
            writer.key("ipv4").bytes(ip.octets());
        }
        if let Some(ip) = self.ipv6 {
            writer.key("ipv6").bytes(ip.octets());
        }
        self.encode_ids(writer.key("m").dict());
        if let Some(size) = self.metadata_size {
            writer.key("metadata_size").uint(size.into());
        }
        if let Some(port) = self.port {
            writer.key("p").uint(port.into());
        }
        if let Some(queue) = self.request_queue {
            writer.key("reqq").uint(queue.into());
        }
        if let Some(flag) = self.upload_only {
            writer.key("upload_only").uint(flag.into());
        }
        if let Some(client) = &self.client {
            writer.key("v").bytes(client);
        }
        match self.your_ip {
            Some(IpAddr::V4(ip)) => drop(writer.key("yourip").bytes(ip.octets())),
            Some(IpAddr::V6(ip)) => drop(writer.key("yourip").bytes(ip.octets())),
            None => {}
        }
        writer.end();
    }

    fn encode_ids(&self, writer: &mut Writer<'_>) {
        let ids = [
            ("lt_donthave", self.ids.lt_donthave),
            ("upload_only", self.ids.upload_only),
            ("ut_metadata", self.ids.ut_metadata),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                writer.key(name).uint(id.into());
            }
        }
        writer.end();
    }
}

/// The ids in `m`. Of two names with one id only the first counts, since a message could not say which it means.
fn ids(value: Value<'_>) -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    let mut taken = [false; 256];
    for (name, value) in value.as_dict().into_iter().flat_map(|names| names.iter()) {
        let Some(id) = value.as_uint().and_then(|id| u8::try_from(id).ok()) else {
            continue;
        };
        let repeated = id != 0 && std::mem::replace(&mut taken[usize::from(id)], true);
        if let Some(slot) = ids.of(name)
            && !repeated
        {
            slot.get_or_insert(id);
        }
    }
    ids
}

/// The integer, where it is in `least..=most`.
fn number(value: Value<'_>, least: u32, most: u32) -> Option<u32> {
    let number = u32::try_from(value.as_uint()?).ok()?;
    (least..=most).contains(&number).then_some(number)
}

fn ipv4(value: Value<'_>) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value.as_bytes()?).ok().map(Ipv4Addr::from)
}

fn ipv6(value: Value<'_>) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(value.as_bytes()?).ok().map(Ipv6Addr::from)
}

/// How many pieces an info dictionary of `size` bytes has.
#[must_use]
pub fn metadata_pieces(size: u32) -> u32 {
    size.div_ceil(METADATA_PIECE)
}

/// How long piece `piece` of an info dictionary of `size` bytes is; None past its end.
#[must_use]
pub fn metadata_piece_size(piece: u32, size: u32) -> Option<u32> {
    let begin = piece.checked_mul(METADATA_PIECE)?;
    size.checked_sub(begin).filter(|rest| *rest > 0).map(|rest| rest.min(METADATA_PIECE))
}

/// A message of `ut_metadata` (BEP 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataMessage {
    /// A piece of the info dictionary is wanted.
    Request {
        /// Number of the piece.
        piece: u32,
    },
    /// A piece of the info dictionary, exactly as long as it must be for `total_size`.
    Data {
        /// Number of the piece.
        piece: u32,
        /// Length of the whole dictionary, bytes, as the sender has it.
        total_size: u32,
        /// Its bytes.
        payload: Bytes,
    },
    /// This request will not be answered.
    Reject {
        /// Number of the piece.
        piece: u32,
    },
}

impl MetadataMessage {
    /// Reads a payload; None for a type that is not known yet, which BEP 9 asks to ignore.
    ///
    /// # Errors
    /// Where a field is missing or out of range, or the data is not as long as it must be.
    pub fn decode(payload: &Bytes) -> Result<Option<Self>, ExtensionError> {
        let (document, rest) = Document::decode_prefix(payload, Limits::MESSAGE)?;
        let root = document.root();
        let Some(kind) = root.get("msg_type").and_then(Value::as_int) else {
            return Err(ExtensionError::Rule("a metadata message has a type"));
        };
        let last = metadata_pieces(INFO_BYTES as u32) - 1;
        let piece = root.get("piece").and_then(|piece| number(piece, 0, last));
        let Some(piece) = piece else {
            return Err(ExtensionError::Rule("a metadata message names a piece in range"));
        };
        Ok(match kind {
            0 => Some(Self::Request { piece }),
            1 => {
                let size = root.get("total_size").and_then(|size| number(size, 1, INFO_BYTES as u32));
                let wanted = size.and_then(|size| metadata_piece_size(piece, size));
                match size {
                    Some(total_size) if wanted.is_some_and(|wanted| wanted as usize == rest.len()) => {
                        Some(Self::Data { piece, total_size, payload: payload.slice_ref(rest) })
                    }
                    _ => return Err(ExtensionError::Rule("a piece of metadata is as long as the total size says")),
                }
            }
            2 => Some(Self::Reject { piece }),
            _ => None,
        })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, piece) = match self {
            Self::Request { piece } => (0, *piece),
            Self::Data { piece, .. } => (1, *piece),
            Self::Reject { piece } => (2, *piece),
        };
        let mut writer = Writer::new(out);
        writer.dict().key("msg_type").int(kind).key("piece").uint(piece.into());
        if let Self::Data { total_size, .. } = self {
            writer.key("total_size").uint((*total_size).into());
        }
        writer.end();
        if let Self::Data { payload, .. } = self {
            out.extend_from_slice(payload);
        }
    }
}

/// The payload of `lt_donthave`: a piece that the sender has no more (BEP 54).
#[must_use]
pub fn dont_have(piece: u32) -> [u8; 4] {
    piece.to_be_bytes()
}

/// Reads what [`dont_have`] makes: the number of a piece, unchecked.
///
/// # Errors
/// Where it is not 4 bytes long.
pub fn decode_dont_have(payload: &[u8]) -> Result<u32, ExtensionError> {
    let piece = payload.try_into().map_err(|_| ExtensionError::Rule("a don't have message has 4 bytes"))?;
    Ok(u32::from_be_bytes(piece))
}

/// The payload of `upload_only`: whether the sender fetches nothing (BEP 21, in the form that libtorrent gave it).
#[must_use]
pub fn upload_only(flag: bool) -> [u8; 1] {
    [flag.into()]
}

/// Reads what [`upload_only`] makes.
///
/// # Errors
/// Where it is not 1 byte long.
pub fn decode_upload_only(payload: &[u8]) -> Result<bool, ExtensionError> {
    match payload {
        [flag] => Ok(*flag != 0),
        _ => Err(ExtensionError::Rule("an upload only message has 1 byte")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handshake(payload: &str) -> ExtensionHandshake {
        ExtensionHandshake::decode(payload.as_bytes()).unwrap()
    }

    fn metadata(payload: &[u8]) -> Result<Option<MetadataMessage>, ExtensionError> {
        MetadataMessage::decode(&Bytes::copy_from_slice(payload))
    }

    #[test]
    fn a_stock_clients_handshake_is_understood() {
        let read = handshake(
            "d12:complete_agoi-1e4:ipv44:\x01\x02\x03\x041:md11:lt_donthavei7e11:upload_onlyi3e11:ut_metadatai2e6:ut_pexi1ee\
             13:metadata_sizei31235e1:pi6881e4:reqqi2000e11:upload_onlyi1e1:v18:libtorrent/2.0.9.06:yourip4:\x7f\0\0\x01e",
        );
        let expected = ExtensionHandshake {
            ids: ExtensionIds { ut_metadata: Some(2), lt_donthave: Some(7), upload_only: Some(3) },
            port: Some(6881),
            client: Some("libtorrent/2.0.9.0".into()),
            request_queue: Some(2000),
            your_ip: Some(Ipv4Addr::LOCALHOST.into()),
            ipv4: Some(Ipv4Addr::new(1, 2, 3, 4)),
            ipv6: None,
            metadata_size: Some(31_235),
            upload_only: Some(true),
            complete_ago: None,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn e06_ids_out_of_range_are_left_out_and_zero_switches_off() {
        let ids = |m: &str| handshake(&format!("d1:m{m}e")).ids;
        assert_eq!(ids("d11:ut_metadatai0ee").ut_metadata, Some(0));
        for id in ["i256e", "i-1e", "1:1", "le"] {
            assert_eq!(ids(&format!("d11:ut_metadata{id}e")), ExtensionIds::default());
        }
        assert_eq!(ids("i3e"), ExtensionIds::default());
        let shared = ids("d11:lt_donthavei9e11:ut_metadatai9ee");
        assert_eq!((shared.lt_donthave, shared.ut_metadata), (Some(9), None));
        assert_eq!(ids("d11:ut_metadatai4e11:ut_metadatai5ee").ut_metadata, Some(4));
    }

    #[test]
    fn e06_numbers_out_of_range_are_left_out_or_clamped() {
        assert_eq!(handshake("d1:pi99999ee").port, None);
        assert_eq!(handshake("d1:pi0ee").port, None);
        assert_eq!(handshake("d4:reqqi-1ee").request_queue, None);
        assert_eq!(handshake("d4:reqqi0ee").request_queue, None);
        assert_eq!(handshake("d4:reqqi2147483648ee").request_queue, Some(REQUEST_QUEUE));
        assert_eq!(handshake("d6:yourip3:abce").your_ip, None);
        for size in ["-1", "0", "33554433", "2147483648", "9223372036854775807"] {
            assert_eq!(handshake(&format!("d13:metadata_sizei{size}ee")).metadata_size, None, "{size}");
        }
        assert_eq!(handshake("d13:metadata_sizei33554432ee").metadata_size, Some(INFO_BYTES as u32));
    }

    #[test]
    fn e06_a_clients_name_is_short_and_plain() {
        let name = format!("\x1b]0;pwn\x07{}", "x".repeat(1_000));
        let client = handshake(&format!("d1:v{}:{name}e", name.len())).client.unwrap();
        assert!(client.starts_with("\\x1b]0;pwn\\x07xxx") && client.len() < 2 * CLIENT_NAME_BYTES);
    }

    #[test]
    fn e06_monstrous_or_malformed_handshakes_are_errors() {
        let names: String = (0..1_500).map(|at| format!("5:{at:05}i1e")).collect();
        let many = format!("d1:md{names}ee");
        for payload in ["", "le", "i1e", "d", "d1:m", &many] {
            assert!(ExtensionHandshake::decode(payload.as_bytes()).is_err(), "{payload:.20}");
        }
        assert!(ExtensionHandshake::decode(&[b'l'; 1_000]).is_err());
        let client = "x".repeat(EXTENSION_HANDSHAKE_BYTES);
        assert!(ExtensionHandshake::decode(format!("d1:v{}:{client}e", client.len()).as_bytes()).is_err());
    }

    #[test]
    fn metadata_messages_have_the_bytes_of_bep_9() {
        let encoded = |message: MetadataMessage| {
            let mut out = Vec::new();
            message.encode(&mut out);
            out
        };
        assert_eq!(encoded(MetadataMessage::Request { piece: 0 }), b"d8:msg_typei0e5:piecei0ee");
        assert_eq!(encoded(MetadataMessage::Reject { piece: 7 }), b"d8:msg_typei2e5:piecei7ee");
        let data = MetadataMessage::Data { piece: 0, total_size: 4, payload: Bytes::from_static(b"spam") };
        assert_eq!(encoded(data.clone()), b"d8:msg_typei1e5:piecei0e10:total_sizei4eespam");
        assert_eq!(metadata(&encoded(data.clone())), Ok(Some(data)));
    }

    #[test]
    fn e08_unknown_types_are_ignored() {
        assert_eq!(metadata(b"d8:msg_typei3e5:piecei0ee"), Ok(None));
        assert_eq!(metadata(b"d8:msg_typei-1e5:piecei0eetail"), Ok(None));
    }

    #[test]
    fn e08_pieces_out_of_range_are_errors() {
        for piece in ["-1", "2147483648", "2048"] {
            assert!(metadata(format!("d8:msg_typei0e5:piecei{piece}ee").as_bytes()).is_err(), "{piece}");
        }
        assert!(metadata(b"d8:msg_typei0e5:piecei2047ee").is_ok());
        assert!(metadata(b"d8:msg_typei0ee").is_err());
        assert!(metadata(b"d5:piecei0ee").is_err());
    }

    #[test]
    fn e08_data_is_exactly_as_long_as_the_total_says() {
        let data = |piece: u32, total: i64, length: usize| {
            let head = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{total}ee");
            metadata(&[head.as_bytes(), &vec![0; length]].concat()).is_ok()
        };
        assert!(data(0, 40_000, 16_384) && data(2, 40_000, 7_232));
        assert!(!data(0, 40_000, 16_383), "short middle piece");
        assert!(!data(0, 40_000, 16_385), "trailing bytes");
        assert!(!data(2, 40_000, 16_384) && !data(3, 40_000, 0) && !data(3, 40_000, 1));
        assert!(!data(0, 0, 0) && !data(0, -1, 0) && !data(0, 1 << 31, 16_384));
        assert!(metadata(b"d8:msg_typei1e5:piecei0eex").is_err(), "no total size");
    }

    #[test]
    fn small_messages_have_one_length() {
        assert_eq!(decode_dont_have(&dont_have(258)), Ok(258));
        assert!(decode_dont_have(&[0; 3]).is_err() && decode_dont_have(&[0; 5]).is_err());
        assert_eq!(decode_upload_only(&upload_only(true)), Ok(true));
        assert_eq!(decode_upload_only(&upload_only(false)), Ok(false));
        assert!(decode_upload_only(&[]).is_err() && decode_upload_only(&[0; 2]).is_err());
    }

    #[test]
    fn pieces_of_metadata_end_with_a_short_one() {
        assert_eq!(metadata_pieces(40_000), 3);
        assert_eq!(metadata_piece_size(2, 40_000), Some(7_232));
        assert_eq!(metadata_piece_size(1, 32_768), Some(16_384));
        assert_eq!(metadata_piece_size(2, 32_768), None);
        assert_eq!(metadata_piece_size(u32::MAX, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn handshakes_round_trip(
            ids: [Option<u8>; 3],
            port in prop::option::of(1..=u16::MAX),
            client in prop::option::of("[ -~]{0,40}"),
            request_queue in prop::option::of(1..=REQUEST_QUEUE),
            addresses: (Option<IpAddr>, Option<Ipv4Addr>, Option<Ipv6Addr>),
            metadata_size in prop::option::of(1..=INFO_BYTES as u32),
            upload_only: Option<bool>,
            complete_ago: Option<u32>,
        ) {
            // Two names with one id would not come back.
            let [ut_metadata, lt_donthave, upload_only_id] = ids.map(|id| id.map(|id| id / 4));
            let ids = ExtensionIds {
                ut_metadata,
                lt_donthave: lt_donthave.map(|id| id + 64),
                upload_only: upload_only_id.map(|id| id + 128),
            };
            let (your_ip, ipv4, ipv6) = addresses;
            let handshake = ExtensionHandshake {
                ids, port, client, request_queue, your_ip, ipv4, ipv6, metadata_size, upload_only, complete_ago,
            };
            let mut out = Vec::new();
            handshake.encode(&mut out);
            prop_assert!(Document::decode(&out, Limits::MESSAGE).unwrap().root().is_canonical());
            prop_assert_eq!(ExtensionHandshake::decode(&out), Ok(handshake));
        }

        #[test]
        fn no_payload_makes_them_panic(payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ExtensionHandshake::decode(&payload);
            let _ = metadata(&payload);
            let _ = metadata(&[b"d8:msg_typei1e5:piecei0e10:total_size", &payload[..]].concat());
        }
    }
}
