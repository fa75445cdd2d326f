"""libtorrent reads our torrents as we do, and makes the same ones of the same bytes."""

import pytest

import obt
from payloads import PAYLOADS

lt = pytest.importorskip("libtorrent")

FLAGS = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}


def hashes(info):
    """The v1 and the v2 info-hash of what libtorrent has read; None of the one that is not there."""
    both = info.info_hashes()
    return (str(both.v1) if both.has_v1() else None, str(both.v2) if both.has_v2() else None)


def made_by_libtorrent(path, piece_length, flags):
    # v1 leaves the order of files to whoever makes a torrent; ours is that of v2.
    inside = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.parts)
    files = [lt.create_file_entry(str(file.relative_to(path.parent)), file.stat().st_size) for file in inside or [path]]
    torrent = lt.create_torrent(files, piece_length, flags)
    lt.set_piece_hashes(torrent, str(path.parent))
    return lt.torrent_info(torrent.generate())


@pytest.mark.parametrize("protocol", FLAGS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_same_bytes_have_the_same_info_hash(protocol, payload, tmp_path):
    path = PAYLOADS[payload](tmp_path)
    for file in [path, *path.rglob("*")]:
        file.chmod(0o755 if file.is_dir() else 0o644)
    torrent = tmp_path / "ours.torrent"
    made = obt.run("create", "--protocol", protocol, "-o", torrent, path, state=tmp_path / "state")[1][-1]
    ours = (made["info_hash_v1"], made["info_hash_v2"])
    read = lt.torrent_info(str(torrent))
    assert hashes(read) == ours
    assert hashes(made_by_libtorrent(path, read.piece_length(), FLAGS[protocol])) == ours
