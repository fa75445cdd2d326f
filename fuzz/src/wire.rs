//! Properties of the parsers in `obt-wire`. Each panics where its property does not hold.

use obt_wire::bencode::{Document, Limits, Value, Writer};
use obt_wire::files::component;
use obt_wire::magnet::Magnet;
use obt_wire::merkle::{FileTree, PieceTree, block_hash, root_above};
use obt_wire::metainfo::{FileKind, Info, Metainfo, Version};
use obt_wire::peer::HashRequest;
use obt_wire::{BLOCK_SIZE, Sha256Hash};

/// What is canonical has one encoding, and that is what was read.
pub fn bencode(data: &[u8]) {
    let Ok((document, rest)) = Document::decode_prefix(data, Limits::METAINFO) else {
        return;
    };
    let root = document.root();
    assert_eq!([root.raw(), rest].concat(), data);
    let mut out = Vec::new();
    encode(root, &mut Writer::new(&mut out));
    assert_eq!(out, root.raw());
}

/// Nesting is bounded by the decoder, so recursion is too.
fn encode(value: Value<'_>, writer: &mut Writer<'_>) {
    if let Some(value) = value.as_int() {
        writer.int(value);
    } else if let Some(bytes) = value.as_bytes() {
        writer.bytes(bytes);
    } else if let Some(list) = value.as_list() {
        writer.list();
        list.for_each(|value| encode(value, writer));
        writer.end();
    } else if let Some(dict) = value.as_dict() {
        writer.dict();
        dict.iter().for_each(|(key, value)| encode(value, writer.key(key)));
        writer.end();
    } else {
        panic!("a value of no kind");
    }
}

/// An accepted torrent is consistent, and is the same after it was written and read.
pub fn metainfo(data: &[u8]) {
    if let Ok(metainfo) = Metainfo::parse(data) {
        consistent(&metainfo.info);
        let again = Metainfo::parse(&metainfo.to_bytes()).expect("what was written is read");
        assert_eq!(again, metainfo);
        assert!(metainfo.magnet().to_string().parse::<Magnet>().is_ok());
    }
    if let Ok(info) = Info::parse(bytes::Bytes::copy_from_slice(data)) {
        consistent(&info);
        let again = Info::parse_expecting(info.bytes.clone(), &info.hashes);
        assert_eq!(again.as_ref(), Ok(&info));
    }
}

fn consistent(info: &Info) {
    assert_eq!(component(info.name.as_bytes()), Ok(info.name.as_str()));
    let mut end = 0;
    for file in &info.files {
        assert!(file.offset >= end || info.version == Version::V2 && file.size == 0);
        end = file.offset + file.size;
        assert_eq!(file.path.as_str().is_empty(), file.kind == FileKind::Pad);
        assert!(file.path.components().all(|name| component(name.as_bytes()).is_ok()));
        let rooted = info.version != Version::V1 && file.kind == FileKind::Data && file.size > 0;
        assert_eq!(info.root(file).is_some(), rooted);
    }
    let pieces = if info.version == Version::V2 { 0 } else { info.geometry.pieces() };
    assert_eq!(info.piece_hashes().count(), pieces as usize);
    let sizes: u64 = info.geometry.all().map(|piece| u64::from(info.geometry.piece_size(piece))).sum();
    assert_eq!(sizes, info.geometry.wire_bytes());
    assert!(info.size() <= sizes);
    assert_eq!(info.hashes.v1.is_some(), info.version != Version::V2);
    assert_eq!(info.hashes.v2.is_some(), info.version != Version::V1);
}

/// A link means the same after it was printed and read.
pub fn magnet(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(magnet) = Magnet::parse(text) {
        assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
    }
}

/// Answers are taken from the true tree and prove themselves; with any bit flipped they prove nothing.
///
/// The input is a tree's measures, a request and the bit: 1 + 1 + 4 × 4 + 2 bytes.
pub fn merkle_proof(data: &[u8]) {
    let Some((&[blocks, exponent, ref rest @ ..], _)) = data.split_first_chunk::<20>() else {
        return;
    };
    let number = |at: usize| rest[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    let leaves: Vec<_> = (0..=blocks).map(|block| block_hash(&[block])).collect();
    let height = leaves.len().next_power_of_two().ilog2();
    let root = root_above(&leaves, 0, height).expect("they fit");
    let piece_length = BLOCK_SIZE << (exponent % 8);
    let tree = FileTree::new(root, leaves.len() as u64 * u64::from(BLOCK_SIZE), piece_length).expect("not empty");
    let layer = leaves.chunks(1 << tree.piece_layer()).map(|piece| tree.piece_hash(piece).expect("they fit")).collect();
    let pieces = PieceTree::new(tree, layer).expect("it is the layer");
    let request = HashRequest {
        pieces_root: root,
        base_layer: number(0),
        index: number(4),
        length: number(8),
        proof_layers: number(12),
    };
    let answer = match pieces.needs_blocks_of(&request) {
        Some(piece) => {
            let inside = leaves.chunks(1 << tree.piece_layer()).nth(piece as usize).expect("a piece of the file");
            pieces.answer_in_piece(&request, inside)
        }
        None => pieces.answer(&request),
    };
    let Some(mut answer) = answer else {
        assert!(!tree.proves(&request, &[Sha256Hash::default(); 2]));
        return;
    };
    assert_eq!(answer.len() as u32, request.length + tree.uncles(&request).expect("it was answered"));
    let complete = request.base_layer + request.proof_layers + 1 >= height;
    assert_eq!(tree.proves(&request, &answer), complete);
    let at = usize::from(rest[16]) % answer.len();
    answer[at].0[usize::from(rest[17] >> 3)] ^= 1 << (rest[17] & 7);
    assert!(!tree.proves(&request, &answer));
}
