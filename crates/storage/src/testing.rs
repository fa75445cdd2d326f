//! Torrents for tests: sizes in, layout out; nothing is hashed.

use bytes::Bytes;
use obt_wire::metainfo::{File, FileKind, Info, Version};
use obt_wire::{FilePath, Geometry, InfoHashes, Sha1Hash, Sha256Hash};

use crate::spans::Layout;

/// A v1 torrent with data files of these sizes, bytes.
pub(crate) fn layout(sizes: &[u64], piece_length: u32) -> Layout {
    let geometry = Geometry::contiguous(sizes.iter().sum(), piece_length).unwrap();
    let sizes: Vec<_> = sizes.iter().map(|size| (*size, FileKind::Data)).collect();
    Layout::new(&info(Version::V1, &sizes, geometry, false))
}

/// A torrent with these files; `aligned` starts each but the empty ones at a piece border.
pub(crate) fn info(version: Version, sizes: &[(u64, FileKind)], geometry: Geometry, aligned: bool) -> Info {
    let length = u64::from(geometry.piece_length());
    let mut at = 0;
    let files = (0..).zip(sizes).map(|(number, (size, kind)): (u32, _)| {
        if aligned && *size > 0 {
            at = u64::next_multiple_of(at, length);
        }
        let file = File {
            path: FilePath::new([number.to_string().as_str()]).unwrap(),
            size: *size,
            kind: *kind,
            offset: at,
            root: None,
        };
        at += size;
        file
    });
    Info {
        name: "name".into(),
        version,
        single_file: false,
        private: false,
        files: files.collect(),
        geometry,
        symlinks: 0,
        pieces: None,
        hashes: InfoHashes { v1: Some(Sha1Hash([1; 20])), v2: Some(Sha256Hash([2; 32])) },
        bytes: Bytes::new(),
    }
}
