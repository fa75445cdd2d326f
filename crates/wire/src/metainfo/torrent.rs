//! The .torrent file around the info dictionary: trackers, web seeds, piece layers.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Info, Metainfo, MetainfoError};
use crate::bencode::{Dict, Document, Limits, Value, Writer};
use crate::ids::Sha256Hash;
use crate::limits::{METAINFO_BYTES, TRACKERS, WEB_SEEDS};
use crate::magnet::Magnet;
use crate::merkle::FileTree;
use crate::urls;

impl Metainfo {
    /// Reads a .torrent file.
    ///
    /// URLs that are no trackers or web seeds are left out, and so are those past the limits. Keys outside the info
    /// dictionary may be in any order.
    ///
    /// # Errors
    /// Where it cannot be used, see [`MetainfoError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        Self::read(bytes, Bytes::copy_from_slice)
    }

    /// The same of bytes that stay: [`Info::bytes`] is a part of them, not a copy.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_shared(bytes: &Bytes) -> Result<Self, MetainfoError> {
        Self::read(bytes, |info| bytes.slice_ref(info))
    }

    fn read(bytes: &[u8], keep: impl FnOnce(&[u8]) -> Bytes) -> Result<Self, MetainfoError> {
        if bytes.len() > METAINFO_BYTES {
            return Err(MetainfoError::TooLong(METAINFO_BYTES));
        }
        let document = Document::decode(bytes, Limits::METAINFO)?;
        let dict = document.root().as_dict().ok_or(MetainfoError::Missing("info"))?;
        let info = the_info(dict)?;
        let mut metainfo = Self::new(Info::parse_decoded(info, keep(info.raw()))?);
        metainfo.trackers = trackers(dict);
        metainfo.web_seeds = web_seeds(dict);
        metainfo.comment = text(dict, "comment");
        metainfo.created_by = text(dict, "created by");
        metainfo.created_at = dict.get("creation date").and_then(Value::as_int);
        if let Some(layers) = dict.get("piece layers").filter(|_| metainfo.info.hashes.v2.is_some()) {
            metainfo.piece_layers = piece_layers(layers, &metainfo.info)?;
        }
        Ok(metainfo)
    }

    /// A torrent of which nothing but the info dictionary is known.
    #[must_use]
    pub fn new(info: Info) -> Self {
        let (trackers, web_seeds, piece_layers) = Default::default();
        Self { info, trackers, web_seeds, piece_layers, comment: None, created_by: None, created_at: None }
    }

    /// The same torrent without anything that would make whoever reads it contact somebody.
    #[must_use]
    pub fn without_urls(mut self) -> Self {
        self.trackers = Vec::new();
        self.web_seeds = Vec::new();
        self
    }

    /// The .torrent file. The same values give the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_parts().concat()
    }

    /// The .torrent file in parts: what stands before the info dictionary, that, and the rest. Copies nothing large but
    /// piece layers.
    #[must_use]
    pub fn to_parts(&self) -> [Bytes; 3] {
        let (mut before, mut after) = (head(&self.trackers), Vec::new());
        let mut writer = Writer::new(&mut before);
        self.comment.iter().for_each(|text| _ = writer.key("comment").bytes(text));
        self.created_by.iter().for_each(|text| _ = writer.key("created by").bytes(text));
        self.created_at.iter().for_each(|time| _ = writer.key("creation date").int(*time));
        writer.key("info");
        let mut writer = Writer::new(&mut after);
        if self.info.hashes.v2.is_some() {
            write_layers(&mut writer, &self.piece_layers);
        }
        after.extend(tail(&self.web_seeds));
        [before.into(), self.info.bytes.clone(), after.into()]
    }

    /// `clean`, a .torrent file [without URLs](Self::without_urls) as [`to_bytes`](Self::to_bytes) made it, with these
    /// trackers and web seeds; in parts. None where it is not a dictionary.
    #[must_use]
    pub fn add_urls(clean: &Bytes, trackers: &[Vec<String>], web_seeds: &[String]) -> Option<[Bytes; 3]> {
        // The keys of trackers sort before all others, that of web seeds after them.
        let keys = clean.strip_prefix(b"d")?.strip_suffix(b"e")?;
        Some([head(trackers).into(), clean.slice_ref(keys), tail(web_seeds).into()])
    }

    /// A link to this torrent, with its trackers and web seeds.
    #[must_use]
    pub fn magnet(&self) -> Magnet {
        let mut magnet = Magnet::new(self.info.hashes);
        magnet.name = Some(self.info.name.clone());
        magnet.trackers = self.trackers.iter().flatten().cloned().collect();
        magnet.web_seeds.clone_from(&self.web_seeds);
        magnet
    }

    /// The trees of the files whose piece layers are not here and have to be asked for (BEP 52), each root once.
    #[must_use]
    pub fn missing_piece_layers(&self) -> BTreeMap<Sha256Hash, FileTree> {
        let mut missing = layered(&self.info);
        missing.retain(|root, _| !self.piece_layers.contains_key(root));
        missing
    }
}

/// The beginning of a .torrent file, as far as its trackers.
fn head(trackers: &[Vec<String>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.dict();
    if let Some(first) = trackers.iter().flatten().next() {
        writer.key("announce").bytes(first);
    }
    if trackers.iter().flatten().nth(1).is_some() {
        writer.key("announce-list").list();
        for tier in trackers {
            writer.list();
            tier.iter().for_each(|url| _ = writer.bytes(url));
            writer.end();
        }
        writer.end();
    }
    out
}

/// The end of a .torrent file, from its web seeds on.
fn tail(web_seeds: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    if !web_seeds.is_empty() {
        writer.key("url-list").list();
        web_seeds.iter().for_each(|url| _ = writer.bytes(url));
        writer.end();
    }
    writer.end();
    out
}

/// The one info dictionary.
fn the_info<'a>(dict: Dict<'a>) -> Result<Value<'a>, MetainfoError> {
    let mut infos = dict.iter().filter(|(key, _)| *key == b"info");
    let (_, info) = infos.next().ok_or(MetainfoError::Missing("info"))?;
    if infos.next().is_some() { Err(MetainfoError::TwoInfos) } else { Ok(info) }
}

fn text(dict: Dict<'_>, key: &str) -> Option<String> {
    Some(String::from_utf8_lossy(dict.get(key)?.as_bytes()?).into_owned())
}

/// The tiers of `announce-list` (BEP 12); `announce` where it has none.
fn trackers(dict: Dict<'_>) -> Vec<Vec<String>> {
    let mut room = TRACKERS;
    let mut tiers = Vec::new();
    for tier in dict.get("announce-list").and_then(Value::as_list).into_iter().flatten() {
        let texts = tier.as_list().into_iter().flatten().filter_map(Value::as_str);
        let tier = urls::first(texts, room, urls::tracker);
        room -= tier.len();
        if !tier.is_empty() {
            tiers.push(tier);
        }
        if room == 0 {
            break;
        }
    }
    if tiers.is_empty() {
        let announce = dict.get("announce").and_then(Value::as_str).and_then(urls::tracker);
        tiers.extend(announce.map(|url| vec![url]));
    }
    tiers
}

/// `url-list`, which is a list or a single URL (BEP 19).
fn web_seeds(dict: Dict<'_>) -> Vec<String> {
    let Some(value) = dict.get("url-list") else {
        return Vec::new();
    };
    let several = value.as_list().into_iter().flatten().filter_map(Value::as_str);
    urls::first(value.as_str().into_iter().chain(several), WEB_SEEDS, urls::web_seed)
}

/// The trees of the files that have a piece layer: those longer than a piece.
fn layered(info: &Info) -> BTreeMap<Sha256Hash, FileTree> {
    let trees = info.data_files().filter_map(|(_, file)| Some((info.root(file)?, info.tree(file)?)));
    trees.filter(|(_, tree)| tree.pieces() > 1).collect()
}

/// `piece layers`: each must be that of a file. Some may be missing.
fn piece_layers(layers: Value<'_>, info: &Info) -> Result<BTreeMap<Sha256Hash, Vec<Sha256Hash>>, MetainfoError> {
    let trees = layered(info);
    let mut checked = BTreeMap::new();
    for (root, layer) in layers.as_dict().ok_or(MetainfoError::PieceLayer)?.iter() {
        let root = Sha256Hash::from_slice(root).ok_or(MetainfoError::PieceLayer)?;
        let tree = trees.get(&root).ok_or(MetainfoError::PieceLayer)?;
        let (hashes, rest) = layer.as_bytes().ok_or(MetainfoError::PieceLayer)?.as_chunks::<{ Sha256Hash::LEN }>();
        if !rest.is_empty() || hashes.len() as u64 != tree.pieces() {
            return Err(MetainfoError::PieceLayer);
        }
        let layer: Vec<_> = hashes.iter().copied().map(Sha256Hash).collect();
        if !tree.has_piece_layer(&layer) || checked.insert(root, layer).is_some() {
            return Err(MetainfoError::PieceLayer);
        }
    }
    // Two files with one root and different lengths cannot both be right.
    let same = info.data_files().all(|(_, file)| match (info.root(file), info.tree(file)) {
        (Some(root), Some(tree)) => checked.get(&root).is_none_or(|layer| layer.len() as u64 == tree.pieces()),
        _ => true,
    });
    if same { Ok(checked) } else { Err(MetainfoError::PieceLayer) }
}

fn write_layers(writer: &mut Writer<'_>, layers: &BTreeMap<Sha256Hash, Vec<Sha256Hash>>) {
    writer.key("piece layers").dict();
    for (root, layer) in layers {
        let bytes: Vec<u8> = layer.iter().flat_map(|hash| hash.0).collect();
        writer.key(root.0).bytes(bytes);
    }
    writer.end();
}
