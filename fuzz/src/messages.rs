//! Properties of the messages between peers. Each panics where its property does not hold.

use bytes::Bytes;
use obt_wire::extension::{
    ExtensionHandshake, MetadataMessage, decode_dont_have, decode_upload_only, dont_have, upload_only,
};
use obt_wire::limits::{PEER_MESSAGE_BYTES, REQUEST_QUEUE};
use obt_wire::peer::{Handshake, Header, Message};

/// Of a torrent with 2^21 pieces.
const BITFIELD: usize = 1 << 18;

/// A stream of messages is cut as their lengths say, and a message that is read is the same when it is written.
pub fn peer_message(data: &[u8]) {
    let mut stream = data;
    while let Ok(Some(header)) = Header::decode(stream, BITFIELD) {
        let whole = header.header_bytes() + header.body_bytes();
        assert!(whole <= 4 + PEER_MESSAGE_BYTES.max(1 + BITFIELD));
        for end in 0..header.header_bytes() {
            assert_eq!(Header::decode(&stream[..end], BITFIELD), Ok(None));
        }
        if let Header::Piece(piece) = header {
            assert_eq!(piece.encode(), stream[..13]);
        }
        let Some(message) = stream.get(..whole) else {
            return;
        };
        if let Header::Body { kind, .. } = header {
            let decoded = Message::decode(kind, &message[header.header_bytes()..]).expect("its length was checked");
            let mut again = Vec::new();
            decoded.encode(&mut again);
            assert_eq!(again, message);
        }
        stream = &stream[whole..];
    }
}

/// What a handshake says beyond the bits that are known is all that is lost.
pub fn handshake(data: &[u8]) {
    let Some(bytes) = data.first_chunk() else {
        return;
    };
    let decoded = Handshake::decode(bytes);
    assert_eq!(decoded.is_ok(), Handshake::can_begin_with(bytes));
    if let Ok(handshake) = decoded {
        let again = handshake.encode();
        assert_eq!(Handshake::decode(&again), Ok(handshake));
        assert_eq!((&again[..20], &again[28..]), (&bytes[..20], &bytes[28..]));
        assert!((20..28).all(|at| again[at] & !bytes[at] == 0));
    }
}

/// What is read of an extension message is in range, and the same after it was written and read.
pub fn extension(data: &[u8]) {
    if let Ok(handshake) = ExtensionHandshake::decode(data) {
        assert!(handshake.request_queue.is_none_or(|queue| (1..=REQUEST_QUEUE).contains(&queue)));
        assert!(handshake.client.as_ref().is_none_or(|client| !client.contains(char::is_control)));
        let mut out = Vec::new();
        // A name that was escaped is longer, and may be cut when it is read again.
        let nameless = ExtensionHandshake { client: None, ..handshake };
        nameless.encode(&mut out);
        assert_eq!(ExtensionHandshake::decode(&out), Ok(nameless));
    }
    if let Ok(Some(message)) = MetadataMessage::decode(&Bytes::copy_from_slice(data)) {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(MetadataMessage::decode(&out.into()), Ok(Some(message)));
    }
    if let Ok(piece) = decode_dont_have(data) {
        assert_eq!(dont_have(piece), data);
    }
    if let Ok(flag) = decode_upload_only(data) {
        assert_eq!(decode_upload_only(&upload_only(flag)), Ok(flag));
    }
}
