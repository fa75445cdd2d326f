use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::geometry::BLOCK_SIZE;
use crate::limits::{HASHES, PEER_MESSAGE_BYTES, PROOF_LAYERS, UNKNOWN_MESSAGE_BYTES};

/// Of a torrent with 80 pieces.
const BITFIELD: usize = 10;

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// Header and body of the one message in `bytes`.
fn decode(bytes: &[u8], bitfield_bytes: usize) -> Message {
    let header = Header::decode(bytes, bitfield_bytes).unwrap().unwrap();
    let body = &bytes[header.header_bytes()..];
    assert_eq!(header.body_bytes(), body.len());
    match header {
        Header::KeepAlive => Message::KeepAlive,
        Header::Body { kind, .. } => Message::decode(kind, body).unwrap(),
        Header::Skip { id, .. } => Message::Unknown(id),
        Header::Piece(header) => panic!("a piece: {header:?}"),
    }
}

/// A message of `length` bytes after its prefix, with this id.
fn raw(length: u32, id: u8, present: usize) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.push(id);
    bytes.resize(5 + present, 0);
    bytes
}

fn refused(length: u32, id: u8) -> bool {
    Header::decode(&raw(length, id, 0), BITFIELD).is_err()
}

#[test]
fn messages_have_the_bytes_of_their_beps() {
    let request = Request { piece: 1, begin: 0x4000, length: 0x4000 };
    let fields = [0, 0, 0, 1, 0, 0, 0x40, 0, 0, 0, 0x40, 0];
    let with = |head: &[u8], body: &[u8]| [head, body].concat();
    assert_eq!(encoded(&Message::KeepAlive), [0, 0, 0, 0]);
    assert_eq!(encoded(&Message::Unchoke), [0, 0, 0, 1, 1]);
    assert_eq!(encoded(&Message::Have(258)), [0, 0, 0, 5, 4, 0, 0, 1, 2]);
    assert_eq!(encoded(&Message::Bitfield(Bytes::from_static(&[0x80, 1]))), [0, 0, 0, 3, 5, 0x80, 1]);
    assert_eq!(encoded(&Message::Request(request)), with(&[0, 0, 0, 13, 6], &fields));
    assert_eq!(encoded(&Message::Cancel(request)), with(&[0, 0, 0, 13, 8], &fields));
    assert_eq!(encoded(&Message::Reject(request)), with(&[0, 0, 0, 13, 16], &fields));
    assert_eq!(encoded(&Message::Port(6881)), [0, 0, 0, 3, 9, 0x1a, 0xe1]);
    assert_eq!(encoded(&Message::HaveAll), [0, 0, 0, 1, 14]);
    let payload = Bytes::from_static(b"de");
    assert_eq!(encoded(&Message::Extended { id: 0, payload }), [0, 0, 0, 4, 20, 0, b'd', b'e']);
    let head = PieceHeader { piece: 1, begin: 0x4000, length: 0x4000 }.encode();
    assert_eq!(head, [0, 0, 0x40, 9, 7, 0, 0, 0, 1, 0, 0, 0x40, 0]);
}

#[test]
fn a_header_is_read_from_as_few_bytes_as_it_takes() {
    let piece = PieceHeader { piece: 3, begin: 0x8000, length: 5 };
    for end in 0..PieceHeader::LEN {
        assert_eq!(Header::decode(&piece.encode()[..end], BITFIELD), Ok(None), "{end}");
    }
    let whole = [&piece.encode()[..], b"block"].concat();
    assert_eq!(Header::decode(&whole, BITFIELD), Ok(Some(Header::Piece(piece))));

    let have = encoded(&Message::Have(9));
    for end in 0..5 {
        assert_eq!(Header::decode(&have[..end], BITFIELD), Ok(None), "{end}");
    }
    assert_eq!(Header::decode(&have[..5], BITFIELD), Ok(Some(Header::Body { kind: Kind::Have, body: 4 })));
    assert_eq!(Header::decode(&[0; 4], BITFIELD), Ok(Some(Header::KeepAlive)));
}

#[test]
fn w06_a_monstrous_length_is_refused_by_its_prefix_alone() {
    for length in [u32::MAX, 0x7fff_ffff, 0x0010_0001, PEER_MESSAGE_BYTES as u32 + 1] {
        assert!(Header::decode(&length.to_be_bytes(), BITFIELD).is_err(), "{length}");
    }
    assert!(Header::decode(&(PEER_MESSAGE_BYTES as u32).to_be_bytes(), BITFIELD).is_ok());
    assert!(Header::decode(&0x0004_0001u32.to_be_bytes(), 0x0004_0000).is_ok(), "a bitfield of 2^21 pieces");
    assert!(refused(0x0004_0001, 7));
}

#[test]
fn w08_each_message_has_one_right_length() {
    let exact = [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 5),
        (6, 13),
        (8, 13),
        (9, 3),
        (13, 5),
        (14, 1),
        (15, 1),
        (16, 13),
        (17, 5),
        (21, 49),
        (23, 49),
    ];
    for (id, right) in exact {
        for length in 1..200 {
            assert_eq!(refused(length, id), length != right, "id {id}, length {length}");
        }
    }
    let error = Header::decode(&raw(6, 0, 0), BITFIELD).unwrap_err();
    assert_eq!(error.to_string(), "a choke message has 1 byte, and this one has 6");
}

#[test]
fn w08_a_piece_carries_from_one_byte_to_a_block() {
    for length in [1, 8, 9, 9 + BLOCK_SIZE + 1, 9 + 2 * BLOCK_SIZE] {
        assert!(refused(length, 7), "{length}");
    }
    assert!(!refused(10, 7) && !refused(9 + BLOCK_SIZE, 7));
}

#[test]
fn w09_unknown_messages_are_skipped_within_bounds() {
    for id in [10, 11, 12, 18, 19, 24, 255] {
        let most = UNKNOWN_MESSAGE_BYTES as u32 + 1;
        let skip = Header::Skip { id, body: UNKNOWN_MESSAGE_BYTES };
        assert_eq!(Header::decode(&raw(most, id, 0), BITFIELD), Ok(Some(skip)));
        assert!(refused(most + 1, id), "{id}");
    }
}

#[test]
fn w10_a_bitfield_is_no_longer_than_the_torrent_allows() {
    assert!(!refused(BITFIELD as u32 + 1, 5));
    assert!(refused(BITFIELD as u32 + 2, 5));
}

#[test]
fn e22_hashes_are_whole_and_not_too_many() {
    let length = |hashes: u32| 1 + 48 + 32 * hashes;
    assert!(refused(length(0), 22) && refused(length(1) + 1, 22) && refused(48, 22));
    assert!(!refused(length(1), 22) && !refused(length(HASHES + PROOF_LAYERS), 22));
    assert!(refused(length(HASHES + PROOF_LAYERS + 1), 22));
}

#[test]
fn a_body_of_another_length_than_its_header_said_is_an_error() {
    assert!(Message::decode(Kind::Have, &[0; 3]).is_err());
    assert!(Message::decode(Kind::Extended, &[]).is_err());
    assert!(Message::decode(Kind::Hashes, &[0; 49]).is_err());
}

fn request() -> impl Strategy<Value = Request> {
    any::<[u32; 3]>().prop_map(|[piece, begin, length]| Request { piece, begin, length })
}

fn hash_request() -> impl Strategy<Value = HashRequest> {
    any::<([u8; 32], [u32; 4])>().prop_map(|(root, [base_layer, index, length, proof_layers])| HashRequest {
        pieces_root: Sha256Hash(root),
        base_layer,
        index,
        length,
        proof_layers,
    })
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from)
}

fn message() -> impl Strategy<Value = Message> {
    let bare = prop::sample::select(vec![
        Message::KeepAlive,
        Message::Choke,
        Message::Unchoke,
        Message::Interested,
        Message::NotInterested,
        Message::HaveAll,
        Message::HaveNone,
        Message::Unknown(10),
        Message::Unknown(255),
    ]);
    let hashes = prop::collection::vec(any::<[u8; 32]>().prop_map(Sha256Hash), 1..20);
    prop_oneof![
        bare,
        any::<u32>().prop_map(Message::Have),
        any::<u32>().prop_map(Message::Suggest),
        any::<u32>().prop_map(Message::AllowedFast),
        any::<u16>().prop_map(Message::Port),
        payload().prop_map(Message::Bitfield),
        request().prop_map(Message::Request),
        request().prop_map(Message::Cancel),
        request().prop_map(Message::Reject),
        (any::<u8>(), payload()).prop_map(|(id, payload)| Message::Extended { id, payload }),
        hash_request().prop_map(Message::HashRequest),
        hash_request().prop_map(Message::HashReject),
        (hash_request(), hashes).prop_map(|(request, hashes)| Message::Hashes(request, hashes)),
    ]
}

proptest! {
    #[test]
    fn messages_round_trip(message in message()) {
        let bytes = encoded(&message);
        prop_assert_eq!(decode(&bytes, 1_000), message.clone());
        let mut other = BytesMut::new();
        message.encode(&mut other);
        prop_assert_eq!(&other[..], &bytes[..]);
    }

    #[test]
    fn piece_headers_round_trip(piece: u32, begin: u32, length in 1..=BLOCK_SIZE) {
        let header = PieceHeader { piece, begin, length };
        prop_assert_eq!(Header::decode(&header.encode(), BITFIELD), Ok(Some(Header::Piece(header))));
    }

    #[test]
    fn no_input_makes_a_header_panic_or_ask_for_more_than_it_may(
        length in prop_oneof![0..100u32, any::<u32>()],
        rest in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let bytes = [&length.to_be_bytes()[..], &rest].concat();
        if let Ok(Some(header)) = Header::decode(&bytes, BITFIELD) {
            prop_assert!(header.header_bytes() + header.body_bytes() <= 4 + PEER_MESSAGE_BYTES);
            prop_assert_eq!((header.header_bytes() + header.body_bytes()) as u32, 4 + length);
            let body = bytes.get(header.header_bytes()..header.header_bytes() + header.body_bytes());
            if let (Header::Body { kind, .. }, Some(body)) = (header, body) {
                prop_assert!(Message::decode(kind, body).is_ok());
            }
        }
    }
}
