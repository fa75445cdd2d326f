"""What is moved between clients: contents that sit on the borders of blocks and pieces."""

import random
from pathlib import Path

BLOCK = 16 << 10


def noise(size, seed):
    return random.Random(seed).randbytes(size)


def single(folder: Path) -> Path:
    """A file a little longer than a number of whole pieces."""
    path = folder / "single.bin"
    path.write_bytes(noise((3 << 20) + 1, "single"))
    return path


def long(folder: Path) -> Path:
    """Some pieces of several MiB, and a bit."""
    path = folder / "long.bin"
    path.write_bytes(noise((18 << 20) + 1, "long"))
    return path


def one_byte(folder: Path) -> Path:
    path = folder / "one-byte"
    path.write_bytes(b"\x2a")
    return path


def one_piece(folder: Path) -> Path:
    """Exactly one block, which is exactly one piece."""
    path = folder / "one piece.bin"
    path.write_bytes(noise(BLOCK, "one piece"))
    return path


def tree(folder: Path) -> Path:
    """Subfolders, an empty file, a 1-byte file, names that are not ASCII, sizes around block and piece borders."""
    root = folder / "träume und Zahlen"
    for index, size in enumerate([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK - 1, 4 * BLOCK, 4 * BLOCK + 1, 300_000]):
        path = root / f"borders/{index}-{size}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(size, index))
    deep = root / "日本語/深い/フォルダ"
    deep.mkdir(parents=True)
    (deep / "ファイル.txt").write_bytes("こんにちは".encode() * 5_000)
    (root / "a file with spaces.txt").write_bytes(noise(70_000, "spaces"))
    return root


PAYLOADS = {"single": single, "tree": tree, "one_byte": one_byte, "one_piece": one_piece}


def contents(path: Path) -> dict:
    """Every file with its bytes, by its path relative to the parent of `path`."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path.parent)): p.read_bytes() for p in files}
