//! Hostile torrents by their row, round trips, and vectors that libtorrent made.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sha1::{Digest, Sha1};

use super::*;
use crate::bencode::{Document, Limits, Value, Writer};
use crate::geometry::BLOCK_SIZE;
use crate::limits::METAINFO_BYTES;
use crate::merkle::block_hash;

const K16: u64 = 16_384;

// ---- making torrents ----

/// A dictionary of encoded values, to be taken apart and put together wrongly.
type Fields = BTreeMap<Vec<u8>, Vec<u8>>;

type Layers = BTreeMap<Sha256Hash, Vec<Sha256Hash>>;

fn dict(fields: &Fields) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.dict();
    fields.iter().for_each(|(key, value)| _ = writer.key(key).raw(value));
    writer.end();
    out
}

fn fields(encoded: &[u8]) -> Fields {
    let document = Document::decode(encoded, Limits::METAINFO).unwrap();
    let dict = document.root().as_dict().unwrap();
    dict.iter().map(|(key, value)| (key.to_vec(), value.raw().to_vec())).collect()
}

fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(&mut out).bytes(text);
    out
}

fn with(fields: &Fields, key: &str, value: impl AsRef<[u8]>) -> Fields {
    let mut fields = fields.clone();
    fields.insert(key.into(), value.as_ref().to_vec());
    fields
}

fn without(fields: &Fields, key: &str) -> Fields {
    let mut fields = fields.clone();
    fields.remove(key.as_bytes());
    fields
}

fn parse_info(fields: &Fields) -> Result<Info, MetainfoError> {
    Info::parse(dict(fields).into())
}

/// The error, or `None` where the dictionary is accepted.
fn refused(fields: &Fields) -> Option<MetainfoError> {
    parse_info(fields).err()
}

/// What byte `at` of file `number` is, here and in the script that made the vectors.
fn byte(number: usize, at: usize) -> u8 {
    (at * 131 + number * 17 + (at >> 8) * 7) as u8
}

/// The torrent of files with contents by [`byte`], numbered as they are given.
fn torrent(name: &str, list: &[(&str, u64)], piece_length: u32, version: Version) -> Metainfo {
    let contents: BTreeMap<Vec<String>, Vec<u8>> = list
        .iter()
        .enumerate()
        .map(|(number, (path, size))| {
            let path = if path.is_empty() { name } else { path };
            let bytes = (0..*size as usize).map(|at| byte(number, at)).collect();
            (path.split('/').map(str::to_owned).collect(), bytes)
        })
        .collect();
    let draft = match list {
        [("", size)] => Draft::file(name, *size, piece_length, version).unwrap(),
        _ => {
            let files = contents.iter().rev().map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect();
            Draft::folder(name, files, piece_length, version).unwrap()
        }
    };
    let mut stream = Vec::new();
    let mut layers = Vec::new();
    for file in draft.files() {
        let zeros = vec![0; file.size as usize];
        let bytes = contents.get(&names(&file.path)).unwrap_or(&zeros);
        stream.extend_from_slice(bytes);
        if file.kind == FileKind::Data {
            layers.push(layer(bytes, piece_length));
        }
    }
    let pieces: Vec<_> =
        stream.chunks(piece_length as usize).map(|piece| Sha1Hash(Sha1::digest(piece).into())).collect();
    draft.finish(if version == Version::V2 { &[] } else { &pieces }, layers).unwrap()
}

fn names(path: &FilePath) -> Vec<String> {
    path.components().map(str::to_owned).collect()
}

fn layer(bytes: &[u8], piece_length: u32) -> Vec<Sha256Hash> {
    let Some(tree) = FileTree::new(Sha256Hash::default(), bytes.len() as u64, piece_length) else {
        return Vec::new();
    };
    let piece = |piece: &[u8]| {
        let blocks: Vec<_> = piece.chunks(BLOCK_SIZE as usize).map(block_hash).collect();
        tree.piece_hash(&blocks).unwrap()
    };
    bytes.chunks(piece_length as usize).map(piece).collect()
}

fn v1() -> Fields {
    fields(&torrent("n", &[("a", 5), ("b/c", 20_000)], 16_384, Version::V1).info.bytes)
}

fn v1_file() -> Fields {
    fields(&torrent("n", &[("", 20_000)], 16_384, Version::V1).info.bytes)
}

fn v2() -> Fields {
    fields(&torrent("n", &[("a", 5), ("b/c", 40_000)], 16_384, Version::V2).info.bytes)
}

fn hybrid() -> Fields {
    fields(&torrent("n", &[("a", 5), ("b/c", 40_000)], 16_384, Version::Hybrid).info.bytes)
}

fn hybrid_file() -> Fields {
    fields(&torrent("n", &[("", 40_000)], 16_384, Version::Hybrid).info.bytes)
}

/// A `file tree` with one file at `path`, with these properties.
fn tree(path: &str, properties: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    path.split('/').for_each(|name| _ = writer.dict().key(name));
    writer.dict().key("").raw(properties);
    (0..=path.split('/').count()).for_each(|_| _ = writer.end());
    out
}

// ---- what is accepted ----

/// Name, files in the order of their numbers, piece length; hashes of the hybrid (both), of v1 and of v2. Made by
/// libtorrent 2.1.1 from files with these contents and mode 0644.
type Vector<'a> = (&'a str, &'a [(&'a str, u64)], u32, &'a str, &'a str, &'a str, &'a str);

#[rustfmt::skip]
const VECTORS: [Vector<'_>; 8] = [
    ("five", &[("", 5)], 16384, "aeb89aef396554939af291249100f1d9dfb3eeec", "a350dad4ffa13eba756ccb25bbb89d823f3bd6d9cf8274b70b9a86433d60d34f", "dc6851a8a1aef3aefc094999ab5244bf49a3b59f", "2081cfa1cc4bdddd5cedc3b6cc43fdc8c2c996bf7e2b479713ae663fbc99a0b9"),
    ("exact", &[("", 16384)], 16384, "bf46c16745a7660e604a92083e4507aa465bff3d", "9168aef340e0c79e28341a78c8ba9ba3da579006201b7433615ff635a91a5991", "707ef72b5344e782d510a8f6fd7f18c36ba11149", "768bc496479b0bbdb63975a6fbe3ddb62fe473d9c68e7dd281f1d2ca6eaf11a8"),
    ("long.bin", &[("", 50000)], 16384, "d08a06d343c6ccc66de7f39a06d632900cfa03ff", "b45d0402ec9437ea1c2e8efd5ba143c4a8c1e3fe5e147fc9e5bf4d177c4a7974", "6e57b332c0844d381cb0e3bc76ab2bcd00bf2475", "d93b38c90a86744bec9f2175deff887de5712cf984e0514ccbbf52fa10cf1ea4"),
    ("big", &[("", 700001)], 32768, "e7b7d2ab2d7ff0f68fb0c84ca4d1b2755584ab1e", "8f9af4cf32e8e76a5ef77f577452867977a8c95a4a6d649b32e0dc0c93875bdd", "ee978b96e79c297d44372cb38bcba79eed77a79b", "2684edb5293de0364eeb184c8b408457212f0daa98740dd518b5015acccaa758"),
    ("one", &[("x", 50000)], 16384, "df8eb03f82a73546c1a0e574acd91dd85c77b000", "2aff0bed936e3ddaa34b5574b7519cc3ff93cdaa525c195600fe16f898cdde2f", "8de9b9ca2f0d03e505af4980e0fdd50a1551f0d1", "4964c45a0f02655c9014f772c04045a3d2fe3540612eba9db9bb85b1c93edf18"),
    ("dir", &[("a/x", 20000), ("b", 40000), ("empty", 0), ("a/sub/y", 16384), ("z", 7)], 16384, "23cb4e4b09aa0781ebe4d8012667b9ca07d8bec5", "961c75238cf98e29cf87899ef06ae0578a2ae18c6c591b46067a2943796faafe", "5ad7b811a74a5c30fb963f23fe4538d8c8131bfb", "ad3c1f63557853c4bd4bc534795fd03616718faf133f1cfd2e966c2ec0bec645"),
    ("dir", &[("a/x", 20000), ("b", 40000), ("empty", 0), ("a/sub/y", 16384), ("z", 7)], 65536, "db9a942481016406dc0e08477693012452e6f097", "9de1a2bb3f459c326dec969e14e64d8a556e4a593ceee05c1be0ec420f3cd5bb", "539a105db695d28e3628f388898a86d5bfedfcad", "c6900c1aa40a5363dc1484f2df900b08e0a2e318f33b55fc8c8f33ff5f8883ed"),
    ("ünï", &[("B/ö", 70000), ("a", 1), ("b/c/d/e", 32768), ("zz", 0)], 32768, "979ba189818ed1641495b460a483722cf8d5d451", "1aa6c7bf1acb098028289cefeedd2bce7cf44fe9a4c8438fcafcf9fc62c51d87", "6ec254cf680f912feeab5c27a55634904c2439ee", "537d3798db3212187de470ab9ac70dc2162c1aac2fc9ec39619190e01fffbc67"),
];

#[test]
fn torrents_are_those_that_libtorrent_makes() {
    for (name, files, piece_length, hybrid_v1, hybrid_v2, v1, v2) in VECTORS {
        let hashes = |version| torrent(name, files, piece_length, version).info.hashes;
        let hybrid = InfoHashes { v1: hybrid_v1.parse().ok(), v2: hybrid_v2.parse().ok() };
        assert_eq!(hashes(Version::Hybrid), hybrid, "{name}");
        assert_eq!(hashes(Version::V1), InfoHashes { v1: v1.parse().ok(), v2: None }, "{name}");
        assert_eq!(hashes(Version::V2), InfoHashes { v1: None, v2: v2.parse().ok() }, "{name}");
    }
}

#[test]
fn files_are_ordered_by_component_so_that_both_halves_of_a_hybrid_agree() {
    let info = torrent("n", &[("a.txt", 1), ("a/b", 2), ("a-b", 3)], 16_384, Version::Hybrid).info;
    let order: Vec<_> = info.data_files().map(|(_, file)| file.path.to_string()).collect();
    assert_eq!(order, ["a/b", "a-b", "a.txt"]);
}

#[test]
fn offsets_are_in_the_space_of_pieces() {
    let files = [("a", 5), ("b", 0), ("c", 2 * K16), ("d", 7)];
    let offsets = |version| -> Vec<u64> {
        torrent("n", &files, 16_384, version).info.data_files().map(|(_, file)| file.offset).collect()
    };
    assert_eq!(offsets(Version::V1), [0, 5, 5, 5 + 2 * K16]);
    assert_eq!(offsets(Version::V2), [0, K16, K16, 3 * K16]);
    assert_eq!(offsets(Version::Hybrid), [0, K16, K16, 3 * K16]);
}

#[test]
fn empty_files_and_folders_of_them_are_torrents() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let file = torrent("empty", &[("", 0)], 16_384, version);
        assert_eq!((file.info.geometry.pieces(), file.info.single_file), (0, true));
        let folder = torrent("empty", &[("a", 0), ("b", 0)], 16_384, version);
        assert_eq!((folder.info.geometry.pieces(), folder.info.files.len()), (0, 2));
    }
}

#[test]
fn a_file_called_as_its_folder_keeps_the_folder_where_it_can() {
    assert!(!torrent("x", &[("x", 9)], 16_384, Version::Hybrid).info.single_file);
    assert!(!torrent("x", &[("x", 9)], 16_384, Version::V1).info.single_file);
    let draft = Draft::folder("x", vec![(vec!["x".into()], 9)], 16_384, Version::V2);
    assert_eq!(draft.err(), Some(MetainfoError::Ambiguous));
    assert!(torrent("x", &[("", 9)], 16_384, Version::V2).info.single_file);
    assert!(!torrent("y", &[("x", 9)], 16_384, Version::V2).info.single_file);
}

#[test]
fn a_torrent_is_read_back_as_it_was_written() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let mut metainfo = torrent("n", &[("a", 5), ("b/c", 70_000)], 16_384, version);
        metainfo.trackers = vec![vec!["http://a/announce".into(), "udp://b:1".into()], vec!["http://c/".into()]];
        metainfo.web_seeds = vec!["http://w/".into()];
        metainfo.comment = Some("hello".into());
        metainfo.created_by = Some("obt".into());
        metainfo.created_at = Some(-5);
        assert_eq!(Metainfo::parse(&metainfo.to_bytes()).as_ref(), Ok(&metainfo));
        let cleaned = Metainfo::parse(&metainfo.clone().without_urls().to_bytes()).unwrap();
        assert!(cleaned.trackers.is_empty() && cleaned.web_seeds.is_empty());
        assert_eq!(cleaned.info, metainfo.info);
        let magnet = metainfo.magnet().to_string().parse::<crate::magnet::Magnet>().unwrap();
        assert_eq!((magnet.hashes, magnet.trackers.len()), (metainfo.info.hashes, 3));
    }
}

#[test]
fn a_private_torrent_says_so() {
    let draft = Draft::file("n", 0, 16_384, Version::V1).unwrap().private();
    assert!(draft.finish(&[], Vec::new()).unwrap().info.private);
    assert!(!parse_info(&v1()).unwrap().private);
}

#[test]
fn metadata_from_peers_must_be_that_of_the_magnet() {
    let info = torrent("n", &[("", 5)], 16_384, Version::Hybrid).info;
    let InfoHashes { v1, v2 } = info.hashes;
    for wanted in [info.hashes, InfoHashes { v1, v2: None }, InfoHashes { v1: None, v2 }] {
        assert_eq!(Info::parse_expecting(info.bytes.clone(), &wanted).as_ref(), Ok(&info));
    }
    for wanted in [InfoHashes { v1, v2: Some(Sha256Hash([1; 32])) }, InfoHashes { v1: Some(Sha1Hash([1; 20])), v2 }] {
        assert_eq!(Info::parse_expecting(info.bytes.clone(), &wanted), Err(MetainfoError::WrongHash));
    }
    let v2_only = torrent("n", &[("", 5)], 16_384, Version::V2).info.bytes;
    let wanted = InfoHashes { v1: Some(Sha1Hash(Sha1::digest(&v2_only).into())), v2: None };
    assert_eq!(Info::parse_expecting(v2_only, &wanted), Err(MetainfoError::WrongHash));
}

#[test]
fn names_in_old_encodings_are_read_from_their_utf8_twins() {
    let old = with(&with(&v1_file(), "name", b"2:\xfc\xfe"), "name.utf-8", text("ü"));
    assert_eq!(parse_info(&old).unwrap().name, "ü");
    let entry = b"ld6:lengthi20000e4:pathl1:\xfce10:path.utf-8l2:\xc3\xbceee";
    let old = with(&without(&v1_file(), "length"), "files", entry);
    assert_eq!(parse_info(&old).unwrap().files[0].path, ["ü"]);
}

// ---- what is refused ----

#[test]
fn m01_every_truncation_is_refused() {
    for bytes in [&b""[..], b"i", b"l", b"d", b"d4:info", b"de", b"le", b"d4:infode", b"d4:infolee", b"d4:infoi1ee"] {
        assert!(Metainfo::parse(bytes).is_err());
    }
    let whole = torrent("n", &[("a", 5), ("b/c", 40_000)], 16_384, Version::Hybrid).to_bytes();
    for end in 0..whole.len() {
        assert!(Metainfo::parse(&whole[..end]).is_err(), "{end}");
    }
}

#[test]
fn m02_m03_nesting_is_refused_wherever_it_is() {
    let deep = [vec![b'l'; 20_000], vec![b'e'; 20_000]].concat();
    for key in ["unknown", "name", "files", "path"] {
        let error = refused(&with(&v1(), key, &deep));
        assert!(matches!(error, Some(MetainfoError::Bencode(BencodeError::TooDeep(_)))), "{key}");
    }
    let outside = [b"d1:a", &deep[..], b"4:info", &dict(&v1()), b"e"].concat();
    assert!(matches!(Metainfo::parse(&outside), Err(MetainfoError::Bencode(BencodeError::TooDeep(_)))));
}

#[test]
fn m04_millions_of_values_are_refused() {
    let lists = [b"d1:al", &b"le".repeat(4_000_000)[..], b"e4:info", &dict(&v1()), b"e"].concat();
    assert_eq!(Metainfo::parse(&lists), Err(MetainfoError::Bencode(BencodeError::TooManyTokens)));
}

#[test]
fn m07_an_info_dictionary_has_one_encoding_and_is_there_once() {
    let info = dict(&v1());
    let (start, end) = info.split_at(info.len() - 1);
    let unsorted = [start, b"1:ai1e", end].concat();
    assert_eq!(Info::parse(unsorted.into()), Err(MetainfoError::NotCanonical));
    let twice = [start, b"6:pieces0:", end].concat();
    assert_eq!(Info::parse(twice.into()), Err(MetainfoError::NotCanonical));
    let two = [b"d4:info", &info[..], b"4:info", &info, b"e"].concat();
    assert_eq!(Metainfo::parse(&two), Err(MetainfoError::TwoInfos));
    let apart = [b"d4:info", &info[..], b"1:ai1e4:info", &info, b"e"].concat();
    assert_eq!(Metainfo::parse(&apart), Err(MetainfoError::TwoInfos));
    let garbage = [b"d4:info", &info[..], b"e", b"x"].concat();
    assert!(matches!(Metainfo::parse(&garbage), Err(MetainfoError::Bencode(BencodeError::Trailing(_)))));
    let unsorted_outside = [b"d4:info", &info[..], b"7:comment2:hi8:announce9:http://t/e"].concat();
    let metainfo = Metainfo::parse(&unsorted_outside).unwrap();
    assert_eq!((metainfo.comment.as_deref(), metainfo.trackers.len()), (Some("hi"), 1));
}

#[test]
fn m09_names_that_are_no_file_names_are_refused() {
    assert_eq!(refused(&without(&v1(), "name")), Some(MetainfoError::Missing("name")));
    assert_eq!(refused(&with(&v1(), "name", "i1e")), Some(MetainfoError::Invalid("name")));
    for name in ["", ".", "..", "/tmp/evil", "../../evil", "a\0b"] {
        assert!(matches!(refused(&with(&v1(), "name", text(name))), Some(MetainfoError::Path(_))), "{name}");
        assert!(Draft::file(name, 1, 16_384, Version::V1).is_err(), "{name}");
    }
}

#[test]
fn m10_impossible_piece_lengths_are_refused() {
    let lengths = ["i0e", "i-16384e", "i2147483648e", "i4611686018427387904e", "i1e", "i4294983680e", "5:16384", "le"];
    for fields in [v1(), v1_file(), v2(), hybrid()] {
        assert_eq!(refused(&without(&fields, "piece length")), Some(MetainfoError::Missing("piece length")));
        for length in lengths {
            let error = refused(&with(&fields, "piece length", length));
            assert_eq!(error, Some(MetainfoError::Invalid("piece length")), "{length}");
        }
    }
    for length in ["i16385e", "i8192e", "i49152e"] {
        assert_eq!(refused(&with(&v2(), "piece length", length)), Some(MetainfoError::Invalid("piece length")));
    }
    assert_eq!(refused(&with(&v1_file(), "piece length", "i16385e")), None);
}

#[test]
fn m11_sizes_that_overflow_are_refused() {
    for length in ["i-1e", "3:abc"] {
        assert_eq!(refused(&with(&v1_file(), "length", length)), Some(MetainfoError::Invalid("length")));
    }
    assert_eq!(refused(&with(&v1_file(), "length", "i9223372036854775807e")), Some(MetainfoError::TooMany("pieces")));
    let entry = |name: &str| format!("d6:lengthi4611686018427387904e4:pathl1:{name}ee");
    let sum = format!("l{}{}{}{}e", entry("a"), entry("b"), entry("c"), entry("d"));
    assert_eq!(refused(&with(&v1(), "files", sum)), Some(MetainfoError::Invalid("length")));
}

#[test]
fn m12_the_number_of_piece_hashes_is_the_number_of_pieces() {
    for (length, error) in [(0, true), (19, true), (20, true), (21, true), (40, false), (60, true)] {
        let pieces = text(&"x".repeat(length));
        assert_eq!(refused(&with(&v1_file(), "pieces", pieces)), error.then_some(MetainfoError::HashCount), "{length}");
    }
    assert_eq!(refused(&with(&v1_file(), "pieces", "i1e")), Some(MetainfoError::Invalid("pieces")));
    assert_eq!(refused(&without(&v1_file(), "pieces")), Some(MetainfoError::Missing("pieces")));
}

#[test]
fn m13_false_file_lists_are_refused() {
    assert_eq!(refused(&with(&v1(), "length", "i20005e")), Some(MetainfoError::Invalid("files")));
    assert_eq!(refused(&without(&v1(), "files")), Some(MetainfoError::Missing("length")));
    assert_eq!(refused(&with(&v1(), "files", "le")), Some(MetainfoError::NoFiles));
    for files in ["de", "i1e", "li1ee", "ld6:lengthi5eee", "ld4:pathl1:aeee", "ld6:lengthi5e4:path1:aee"] {
        assert!(refused(&with(&v1(), "files", files)).is_some(), "{files}");
    }
    for path in ["le", "l0:e", "li1ee", "l1:ai1ee", "l2:..e", "l1:a1:.e", "lle1:ae"] {
        let entry = format!("ld6:lengthi20005e4:path{path}ee");
        assert!(refused(&with(&v1(), "files", entry)).is_some(), "{path}");
    }
    assert_eq!(refused(&with(&v1(), "files", "ld6:lengthi20005e4:pathl1:aeee")), None);
}

#[test]
fn m14_torrents_over_the_budget_are_refused_and_large_ones_are_not() {
    let pieces = vec![b'x'; 3_000_000 * 20];
    let mut huge = Vec::new();
    Writer::new(&mut huge).bytes(&pieces);
    let huge = with(&with(&v1_file(), "length", format!("i{}e", 3_000_000 * K16)), "pieces", huge);
    assert!(refused(&huge).is_some());

    let same = format!("l{}e", "d6:lengthi0e4:pathl1:aee".repeat(100_000));
    assert_eq!(refused(&with(&v1(), "files", same)), Some(MetainfoError::Collision("a".into())));
    let deep = format!("ld6:lengthi20005e4:pathl{}eee", "1:a".repeat(2_000));
    assert_eq!(refused(&with(&v1(), "files", deep)), Some(MetainfoError::Path(PathError::TooDeep)));

    let names = 0..100_000;
    let empty: String = names.clone().map(|n| format!("d6:lengthi0e4:pathl6:{n:06}ee")).collect();
    let empty = with(&with(&v1(), "files", format!("l{empty}e")), "pieces", "0:");
    assert_eq!(parse_info(&empty).unwrap().files.len(), 100_000);
    let empty: String = names.map(|n| format!("6:{n:06}d0:d6:lengthi0eee")).collect();
    assert_eq!(parse_info(&with(&v2(), "file tree", format!("d{empty}e"))).unwrap().files.len(), 100_000);
}

#[test]
fn m14_a_small_tree_cannot_stand_for_paths_without_end() {
    let leaves: String = (0..100_000).map(|n| format!("6:{n:06}d0:d6:lengthi0eee")).collect();
    let deep = format!("{}d{leaves}e{}", "d1:a".repeat(40), "e".repeat(40));
    assert_eq!(refused(&with(&v2(), "file tree", deep)), Some(MetainfoError::TooMany("files")));
}

#[test]
fn m15_a_newer_version_is_told_before_anything_else() {
    assert_eq!(Info::parse(b"d4:name2:..12:meta versioni3ee"[..].into()), Err(MetainfoError::NewerVersion(3)));
    assert_eq!(refused(&with(&v2(), "meta version", "i3e")), Some(MetainfoError::NewerVersion(3)));
    assert_eq!(refused(&with(&v2(), "meta version", "i0e")), Some(MetainfoError::Invalid("meta version")));
    assert_eq!(refused(&with(&v2(), "meta version", "1:2")), Some(MetainfoError::Invalid("meta version")));
    assert_eq!(refused(&without(&v2(), "meta version")), Some(MetainfoError::Missing("meta version")));
    assert_eq!(refused(&without(&v2(), "file tree")), Some(MetainfoError::Missing("file tree")));
}

#[test]
fn m16_false_file_trees_are_refused() {
    let root = [b"11:pieces root32:", &[7; 32][..]].concat();
    let file = |length: &str, root: &[u8]| [b"d6:length", length.as_bytes(), root, b"e"].concat();
    let tree_error = |tree: &[u8]| refused(&with(&v2(), "file tree", tree));
    assert_eq!(tree_error(&tree("a", &file("i5e", &root))), None);
    assert_eq!(tree_error(&tree("a", &file("i0e", b""))), None);
    assert_eq!(tree_error(&tree("a", &file("i5e", b""))), Some(MetainfoError::Missing("pieces root")));
    let short = [b"11:pieces root31:", &[7; 31][..]].concat();
    let zeros = [b"11:pieces root32:", &[0; 32][..]].concat();
    for root in [short, zeros, b"11:pieces rooti1e".to_vec()] {
        assert_eq!(tree_error(&tree("a", &file("i5e", &root))), Some(MetainfoError::Invalid("pieces root")));
    }
    assert_eq!(tree_error(&tree("a", b"de")), Some(MetainfoError::Missing("length")));
    assert_eq!(tree_error(&tree("a", &file("i4611686018427387904e", &root))), Some(MetainfoError::TooMany("pieces")));
    assert_eq!(tree_error(b"d0:d6:lengthi0eee"), Some(MetainfoError::Invalid("file tree")));
    assert_eq!(tree_error(b"d1:ad0:d6:lengthi0ee1:bd0:d6:lengthi0eeeee"), Some(MetainfoError::Invalid("file tree")));
    assert_eq!(tree_error(b"d1:ai1ee"), Some(MetainfoError::Invalid("file tree")));
    assert_eq!(tree_error(b"le"), Some(MetainfoError::Invalid("file tree")));
    assert_eq!(tree_error(b"d1:ad0:i1eee"), Some(MetainfoError::Invalid("file tree")));
    assert_eq!(tree_error(b"de"), Some(MetainfoError::NoFiles));
    assert_eq!(tree_error(b"d1:adee"), Some(MetainfoError::NoFiles));
    let deep = tree(&vec!["a"; 300].join("/"), b"d6:lengthi0ee");
    assert!(matches!(tree_error(&deep), Some(MetainfoError::Bencode(BencodeError::TooDeep(_)))));
    assert_eq!(tree_error(&tree("a/..", b"d6:lengthi0ee")), Some(MetainfoError::Path(PathError::Dots)));
}

#[test]
fn m17_piece_layers_must_be_those_of_the_files() {
    let metainfo = torrent("n", &[("a", 5), ("b", 40_000), ("c", 90_000)], 16_384, Version::Hybrid);
    let layers = |change: &dyn Fn(&mut Layers)| {
        let mut changed = metainfo.clone();
        change(&mut changed.piece_layers);
        Metainfo::parse(&changed.to_bytes()).map(|parsed| parsed.piece_layers)
    };
    assert_eq!(layers(&|_| ()).as_ref(), Ok(&metainfo.piece_layers));
    assert_eq!(metainfo.piece_layers.len(), 2);
    assert!(metainfo.missing_piece_layers().is_empty());

    let wrong = Err(MetainfoError::PieceLayer);
    assert_eq!(layers(&|layers| layers.values_mut().next().unwrap()[0].0[0] ^= 1), wrong);
    assert_eq!(layers(&|layers| _ = layers.values_mut().next().unwrap().pop()), wrong);
    assert_eq!(layers(&|layers| layers.values_mut().next().unwrap().push(Sha256Hash::default())), wrong);
    assert_eq!(layers(&|layers| drop(layers.insert(Sha256Hash([9; 32]), vec![Sha256Hash([9; 32])]))), wrong);
    let root = metainfo.info.root(&metainfo.info.files[0]).unwrap();
    assert_eq!(layers(&|layers| drop(layers.insert(root, vec![root]))), wrong);
    let cut =
        [b"d4:info", &metainfo.info.bytes[..], b"12:piece layersd32:", &[9; 32], b"31:", &[9; 31], b"ee"].concat();
    assert_eq!(Metainfo::parse(&cut), Err(MetainfoError::PieceLayer));

    let missing = layers(&|layers| drop(layers.pop_first())).unwrap();
    assert_eq!(missing.len(), 1);
    let none = [b"d4:info", &metainfo.info.bytes[..], b"e"].concat();
    assert_eq!(Metainfo::parse(&none).unwrap().missing_piece_layers().len(), 2);
}

#[test]
fn m18_halves_of_a_hybrid_describe_the_same_files() {
    let whole = hybrid();
    let files = |files: &str| refused(&with(&whole, "files", files));
    let pad = |size: u32| format!("d4:attr1:p6:lengthi{size}e4:pathl4:.pad1:xee");
    let (a, c) = ("d6:lengthi5e4:pathl1:aee", "d6:lengthi40000e4:pathl1:b1:cee");
    assert_eq!(files(&format!("l{a}{}{c}{}e", pad(16_379), pad(9_152))), None);
    assert_eq!(files(&format!("l{a}{}{c}e", pad(16_379))), None);
    let different = [
        format!("l{a}{c}e"),
        format!("l{a}{}{c}{}e", pad(16_378), pad(9_152)),
        format!("l{a}{}{c}{}e", pad(16_379), pad(9_151)),
        format!("l{c}{}{a}{}e", pad(9_152), pad(16_379)),
        format!("l{a}{}e", pad(16_379)),
        format!("l{a}{}{c}{}d6:lengthi0e4:pathl1:dee", pad(16_379), pad(9_152)) + "e",
        format!("ld6:lengthi6e4:pathl1:aee{}{c}{}e", pad(16_378), pad(9_152)),
        format!("ld6:lengthi5e4:pathl1:xee{}{c}{}e", pad(16_379), pad(9_152)),
    ];
    for list in different {
        assert_eq!(files(&list), Some(MetainfoError::Inconsistent), "{list}");
    }
    assert_eq!(refused(&with(&hybrid_file(), "length", "i40001e")), Some(MetainfoError::Inconsistent));
    assert_eq!(refused(&with(&hybrid_file(), "name", text("m"))), Some(MetainfoError::Inconsistent));
}

#[test]
fn m18_a_hybrid_without_a_tail_pad_ends_with_a_short_piece() {
    let whole = hybrid();
    let tailless =
        "ld6:lengthi5e4:pathl1:aeed4:attr1:p6:lengthi16379e4:pathl4:.pad5:16379eed6:lengthi40000e4:pathl1:b1:ceee";
    let info = parse_info(&with(&whole, "files", tailless)).unwrap();
    assert_eq!(info.geometry.wire_bytes(), K16 + 40_000);
    assert_eq!(parse_info(&whole).unwrap().geometry.wire_bytes(), 4 * K16);
}

#[test]
fn m19_half_a_v1_description_is_refused() {
    assert_eq!(refused(&without(&hybrid_file(), "pieces")), Some(MetainfoError::Missing("pieces")));
    assert_eq!(refused(&without(&hybrid(), "pieces")), Some(MetainfoError::Missing("pieces")));
    assert_eq!(refused(&without(&hybrid_file(), "length")), Some(MetainfoError::Missing("length")));
    assert_eq!(refused(&without(&without(&hybrid_file(), "pieces"), "length")), None);
}

#[test]
fn m21_padding_is_short_and_not_all_there_is() {
    let file = "d6:lengthi20005e4:pathl1:aee";
    let pad = |size: u64| format!("d4:attr1:p6:lengthi{size}e4:pathl4:.pad1:xee");
    let files = |files: String| refused(&with(&v1(), "files", files));
    assert_eq!(files(format!("l{file}{}e", pad(1 << 50))), Some(MetainfoError::Invalid("attr")));
    assert_eq!(files(format!("l{file}{}e", pad(K16))), Some(MetainfoError::Invalid("attr")));
    assert_eq!(files(format!("l{}e", pad(5))), Some(MetainfoError::NoFiles));
    assert_eq!(files(format!("l{}e", pad(5).repeat(3))), Some(MetainfoError::Invalid("attr")));
    assert_eq!(files(format!("l{file}{}e", pad(5))), None);
    assert_eq!(files(format!("l{file}{}e", pad(0).repeat(1_000))), None);
}

#[test]
fn m22_symbolic_links_are_left_out() {
    let file = "d6:lengthi20005e4:pathl1:aee";
    let link = |path: &str, target: &str| format!("d4:attr1:l6:lengthi0e4:path{path}12:symlink path{target}e");
    for (path, target) in [("l1:le", "l2:..2:..4:.sshe"), ("l1:le", "l1:/3:etc6:passwde"), ("l1:ae", "l1:ae")] {
        let info = parse_info(&with(&v1(), "files", format!("l{}{file}e", link(path, target)))).unwrap();
        assert_eq!((info.files.len(), info.symlinks), (1, 1));
    }
    let under = format!("l{}d6:lengthi20005e4:pathl1:l1:xeee", link("l1:le", "l2:..e"));
    assert_eq!(parse_info(&with(&v1(), "files", under)).unwrap().files[0].path, ["l", "x"]);
    let tree = "d1:ad0:d4:attr1:l6:lengthi0e12:symlink pathl2:..eee1:bd0:d6:lengthi0eeee";
    let info = parse_info(&with(&v2(), "file tree", tree)).unwrap();
    assert_eq!((info.files.len(), info.symlinks), (1, 1));
}

#[test]
fn m23_m24_addresses_that_are_no_trackers_or_too_many_are_left_out() {
    let info = dict(&v1());
    let with_urls = |announce: &str, list: &str, seeds: &str| {
        let list = if list.is_empty() { String::new() } else { format!("13:announce-list{list}") };
        let head = format!("d8:announce{}:{announce}{list}4:info", announce.len());
        Metainfo::parse(&[head.as_bytes(), &info, b"8:url-list", seeds.as_bytes(), b"e"].concat()).unwrap()
    };
    let metainfo = with_urls("file:///etc/passwd", "", "le");
    assert!(metainfo.trackers.is_empty());
    let metainfo = with_urls("http://a/", "ll7:ftp://xel9:udp://b:19:http://c/ei1ee", "9:http://w/");
    assert_eq!(metainfo.trackers, [["udp://b:1", "http://c/"]]);
    assert_eq!(metainfo.web_seeds, ["http://w/"]);
    let metainfo = with_urls("http://a/", "lle3:fooe", "l17:gopher://w/_FLUSH9:http://w/e");
    assert_eq!((metainfo.trackers, metainfo.web_seeds), (vec![vec!["http://a/".into()]], vec!["http://w/".into()]));
    let many: String = (0..100_000).map(|n| format!("l15:http://t/{n:06}e")).collect();
    let seeds: String = (0..100_000).map(|n| format!("15:http://t/{n:06}")).collect();
    let metainfo = with_urls("http://a/", &format!("l{many}e"), &format!("l{seeds}e"));
    assert_eq!((metainfo.trackers.len(), metainfo.web_seeds.len()), (100, 20));
}

#[test]
fn m25_free_text_is_kept_as_it_is() {
    let comment = format!("\x1b]0;x\x07<img src=x onerror=alert(1)>{}", "x".repeat(1 << 20));
    let mut metainfo = torrent("n", &[("", 5)], 16_384, Version::V1);
    metainfo.comment = Some(comment);
    assert_eq!(Metainfo::parse(&metainfo.to_bytes()), Ok(metainfo));
}

#[test]
fn m26_torrents_over_the_limit_are_refused_unread() {
    let long = vec![b'd'; METAINFO_BYTES + 1];
    assert_eq!(Metainfo::parse(&long), Err(MetainfoError::TooLong(METAINFO_BYTES)));
    assert!(matches!(Info::parse(long.into()), Err(MetainfoError::TooLong(_))));
}

#[test]
fn p06_p01_paths_that_clash_or_leave_are_refused() {
    let entry = |path: &str| format!("d6:lengthi0e4:pathl{path}ee");
    let files = |paths: [&str; 2]| {
        refused(&with(&v1(), "files", format!("ld6:lengthi20005e4:pathl1:zee{}{}e", entry(paths[0]), entry(paths[1]))))
    };
    assert_eq!(files(["1:a", "1:a1:b"]), Some(MetainfoError::Collision("a".into())));
    assert_eq!(files(["1:a1:b", "1:a1:b"]), Some(MetainfoError::Collision("a/b".into())));
    assert_eq!(files(["1:a", "3:a/b"]), Some(MetainfoError::Path(PathError::Separator)));
    assert_eq!(files(["1:a", "2:.."]), Some(MetainfoError::Path(PathError::Dots)));
    let error = MetainfoError::Collision("a\u{202e}\x1b".into()).to_string();
    assert!(error.ends_with("a\\u{202e}\\x1b"), "{error}");
}

#[test]
fn drafts_refuse_what_readers_would() {
    let folder = |paths: &[&str]| {
        let files = paths.iter().map(|path| (path.split('/').map(str::to_owned).collect(), 1)).collect();
        Draft::folder("n", files, 16_384, Version::Hybrid).err()
    };
    assert_eq!(folder(&[]), Some(MetainfoError::NoFiles));
    assert_eq!(folder(&["a", "a/b"]), Some(MetainfoError::Collision("a".into())));
    assert_eq!(folder(&["a/.."]), Some(MetainfoError::Path(PathError::Dots)));
    assert!(Draft::file("n", 1, 0, Version::V1).is_err());
    assert!(Draft::file("n", 1, 16_385, Version::V1).is_err());
    assert!(Draft::file("n", u64::MAX, 16_384, Version::V1).is_err());
    assert!(Draft::file("n", 1 << 62, 1 << 28, Version::V2).is_err());
    let draft = Draft::file("n", 40_000, 16_384, Version::Hybrid).unwrap();
    assert_eq!(draft.clone().finish(&[], Vec::new()), Err(MetainfoError::HashCount));
    assert_eq!(draft.clone().finish(&[Sha1Hash::default(); 3], Vec::new()), Err(MetainfoError::HashCount));
    let layer = vec![Sha256Hash([1; 32]); 3];
    assert!(draft.clone().finish(&[Sha1Hash::default(); 3], vec![layer.clone()]).is_ok());
    assert_eq!(draft.finish(&[Sha1Hash::default(); 3], vec![layer; 2]), Err(MetainfoError::HashCount));
}

fn some_files() -> impl Strategy<Value = BTreeMap<Vec<String>, u64>> {
    let size = prop_oneof![Just(0), 1..200u64, Just(K16), Just(2 * K16), 1..100_000u64];
    prop::collection::btree_map(prop::collection::vec("[ab.-]{1,3}x", 1..4), size, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn drafts_make_torrents_with_the_layout_they_promised(
        files in some_files(), exponent in 14u32..17,
        version in prop::sample::select(vec![Version::V1, Version::V2, Version::Hybrid])
    ) {
        let Ok(draft) = Draft::folder("n", files.clone().into_iter().collect(), 1 << exponent, version) else {
            let paths: Vec<_> = files.keys().map(|path| path.join("/")).collect();
            prop_assert!(crate::files::collision(paths.iter().map(String::as_str)).is_some());
            return Ok(());
        };
        let pieces = vec![Sha1Hash::default(); draft.geometry().pieces() as usize];
        let layers = draft.files().iter().filter(|file| file.kind == FileKind::Data)
            .map(|file| vec![Sha256Hash([3; 32]); file.size.div_ceil(1 << exponent) as usize]).collect();
        let metainfo = draft.clone().finish(if version == Version::V2 { &[] } else { &pieces }, layers).unwrap();
        let without_roots: Vec<_> =
            metainfo.info.files.iter().map(|file| File { root: None, ..file.clone() }).collect();
        prop_assert_eq!(&without_roots[..], draft.files());
        prop_assert_eq!(&metainfo.info.geometry, draft.geometry());
        let sizes: BTreeMap<_, _> =
            metainfo.info.data_files().map(|(_, file)| (names(&file.path), file.size)).collect();
        prop_assert_eq!(sizes, files);
    }

    #[test]
    fn flipped_bytes_never_panic_and_what_is_accepted_is_consistent(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), insert in any::<bool>()
    ) {
        let mut bytes = torrent("n", &[("a", 5), ("b/c", 40_000)], 16_384, Version::Hybrid).to_bytes();
        let at = at.index(bytes.len());
        if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
        if let Ok(metainfo) = Metainfo::parse(&bytes) {
            let info = &metainfo.info;
            prop_assert!(info.data_files().next().is_some());
            let speaks_v1 = info.version != Version::V2;
            prop_assert_eq!(info.piece_hashes().count(), if speaks_v1 { info.geometry.pieces() as usize } else { 0 });
            prop_assert_eq!(Metainfo::parse(&metainfo.to_bytes()), Ok(metainfo));
        }
    }
}

#[test]
fn values_of_the_wrong_kind_are_refused_or_skipped_everywhere() {
    let kinds = ["i1e", "i-1e", "1:x", "0:", "le", "de", "li1ee", "d1:ai1ee", "l1:ae"];
    for base in [v1(), v1_file(), v2(), hybrid(), hybrid_file()] {
        for key in base.keys() {
            for kind in kinds {
                let _ = refused(&with(&base, std::str::from_utf8(key).unwrap(), kind));
            }
        }
    }
    let document = Document::decode(b"i1e", Limits::METAINFO).unwrap();
    assert_eq!(document.root().get("x").and_then(Value::as_int), None);
}

#[test]
fn urls_added_to_a_clean_torrent_are_those_of_one_that_had_them() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let mut clean = torrent("n", &[("a", 5), ("b/c", 40_000)], 16_384, version);
        clean.comment = Some("x".into());
        let bytes = Bytes::from(clean.to_bytes());
        let url = |number: u32| format!("http://{number}.example/x");
        for (trackers, web_seeds) in
            [(vec![], vec![]), (vec![vec![url(1)]], vec![url(2)]), (vec![vec![url(1), url(2)], vec![url(3)]], vec![])]
        {
            let added = Metainfo::add_urls(&bytes, &trackers, &web_seeds).unwrap().concat();
            assert_eq!(added, Metainfo { trackers, web_seeds, ..clean.clone() }.to_bytes());
        }
        let shared = Metainfo::parse_shared(&bytes).unwrap();
        assert_eq!(shared, clean);
        assert!(bytes.as_ptr_range().contains(&shared.info.bytes.as_ptr()));
    }
    assert_eq!(Metainfo::add_urls(&Bytes::from_static(b"le"), &[], &[]), None);
}
