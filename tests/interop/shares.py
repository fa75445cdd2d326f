"""What obt shares for a test, as a foreign client gets it, and whether it has arrived there."""

import urllib.parse
import urllib.request
from pathlib import Path

import obt
from conftest import TRACKER_ADDRESS


def share(tmp_path, started, path, protocol):
    """obt shares `path` on a tracker of its own; returns (tracker port, published name)."""
    state = tmp_path / "share-state"
    more = []
    if protocol != "hybrid":
        tracker = obt.Daemon("tracker", "--tracker-listen", f"{TRACKER_ADDRESS}:0", state=tmp_path / "tracker-state",
                             log=tmp_path / "tracker.log")
        started.append(tracker)
        port = tracker.event("listening")["tracker_port"]
        key = tmp_path / "tracker-state/publish.key"
        torrent = tmp_path / "made.torrent"
        obt.run("create", "--protocol", protocol, "-o", torrent, path, state=state)
        obt.run("publish", torrent, "--tracker", f"{TRACKER_ADDRESS}:{port}", "--key-file", key, state=state)
        more = ["--tracker", f"{TRACKER_ADDRESS}:{port}"]
    else:
        more = ["--tracker-listen", f"{TRACKER_ADDRESS}:0"]
    daemon = obt.Daemon("share", path, "--peer-listen", f"{TRACKER_ADDRESS}:0", *more, state=state,
                        log=tmp_path / "share.log")
    started.append(daemon)
    port = port if protocol != "hybrid" else daemon.event("listening")["tracker_port"]
    return port, daemon.event("sharing")["name"]


def fetch_torrent(tmp_path, port, name, but=(b"url-list",)):
    """The item's .torrent from the tracker, without these keys: bytes come from peers where there is no web seed."""
    url = f"http://{TRACKER_ADDRESS}:{port}/items/{urllib.parse.quote(name)}.torrent"
    torrent = tmp_path / "fetched.torrent"
    data = urllib.request.urlopen(url, timeout=10).read()
    for key in but:
        data = without(data, key)
    torrent.write_bytes(data)
    return torrent


def without(torrent: bytes, key: bytes) -> bytes:
    """A .torrent without one key of its outermost dictionary; all other bytes stay as they are."""
    out, at = b"d", 1
    while torrent[at:at + 1] != b"e":
        colon = torrent.index(b":", at)
        name_end = colon + 1 + int(torrent[at:colon])
        end = value_end(torrent, name_end)
        if torrent[colon + 1:name_end] != key:
            out += torrent[at:end]
        at = end
    return out + b"e"


def value_end(data: bytes, at: int) -> int:
    """Where the bencoded value that begins at `at` ends."""
    depth = 0
    while True:
        kind = data[at:at + 1]
        if kind in b"dl":
            depth, at = depth + 1, at + 1
        elif kind == b"e":
            depth, at = depth - 1, at + 1
        elif kind == b"i":
            at = data.index(b"e", at) + 1
        else:
            colon = data.index(b":", at)
            at = colon + 1 + int(data[at:colon])
        if depth == 0:
            return at


def arrived(folder: Path, expected: dict) -> bool:
    """Whether every file is there with its bytes (an empty one may be left out: rTorrent does)."""
    for path, data in expected.items():
        file = folder / path
        if not data and not file.exists():
            continue
        if not file.is_file() or file.stat().st_size != len(data) or file.read_bytes() != data:
            return False
    return True
