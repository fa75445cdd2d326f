"""What is sent: random bytes made once and kept, their .torrent, and the comparison of a copy with them."""

import os
from pathlib import Path

TRACKER_ADDRESS, TRACKER_PORT = "10.99.0.1", 6969
ANNOUNCE = f"http://{TRACKER_ADDRESS}:{TRACKER_PORT}/announce"
MIB = 1 << 20


def single_file(work: Path, size: int) -> Path:
    """A file of `size` random bytes, in a folder of its own."""
    path = work / "payloads" / f"{size}" / "payload.bin"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_random(path.with_name("unfinished"), size)
        path.with_name("unfinished").rename(path)
    return path


def many_files(work: Path, count: int, size: int) -> Path:
    """A folder of `count` files of `size` random bytes, a hundred in each subfolder."""
    folder = work / "payloads" / f"{count}x{size}" / "payload"
    if not folder.exists():
        unfinished = folder.with_name("unfinished")
        for number in range(count):
            path = unfinished / f"{number // 100:05}" / f"{number:07}.bin"
            if number % 100 == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(size))
        unfinished.rename(folder)
    return folder


def write_random(path: Path, size: int):
    with open(path, "wb") as file:
        for at in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - at)))


def data_size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def torrent(path: Path, protocol: str, piece: int) -> Path:
    """The .torrent of a payload, made by libtorrent, the same for all clients."""
    out = path.parent / f"{protocol}-{piece}.torrent"
    if out.exists():
        return out
    import libtorrent as lt

    files = lt.file_storage()
    lt.add_files(files, str(path))
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[protocol]
    made = lt.create_torrent(files, piece, flags=flags)
    made.add_tracker(ANNOUNCE, 0)
    lt.set_piece_hashes(made, str(path.parent))
    out.write_bytes(lt.bencode(made.generate()))
    return out


def difference(source: Path, copy: Path):
    """The first path whose bytes are not those of the source, or None."""
    if source.is_file():
        return None if same(source, copy) else copy
    for path in source.rglob("*"):
        if path.is_file() and not same(path, copy / path.relative_to(source)):
            return copy / path.relative_to(source)
    return None


def same(one: Path, other: Path) -> bool:
    try:
        with open(one, "rb", buffering=0) as left, open(other, "rb", buffering=0) as right:
            if os.fstat(left.fileno()).st_size != os.fstat(right.fileno()).st_size:
                return False
            while True:
                ours = left.read(MIB)
                if ours != right.read(MIB):
                    return False
                if not ours:
                    return True
    except FileNotFoundError:
        return False
