"""SHA-256 and sizes of an artifact: a file, or a folder of files."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path


def sha256(path: Path) -> str:
    """Of a file: its content. Of a folder: the names, sizes and contents of its files."""
    digest = hashlib.sha256()
    if path.is_file():
        _feed(digest, path)
    else:
        for file in _files(path):
            name = file.relative_to(path).as_posix()
            digest.update(f"{name}\0{file.stat().st_size}\0".encode())
            _feed(digest, file)
    return digest.hexdigest()


def size_bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in _files(path))


def gzip_bytes(path: Path) -> int:
    """What a file, or each file in a folder, takes over the wire: by gzip at its highest level."""
    return sum(_zipped(f) for f in _files(path))


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _feed(digest: hashlib._Hash, file: Path) -> None:
    for block in _blocks(file):
        digest.update(block)


def _zipped(file: Path) -> int:
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)  # with gzip's header, and no name in it
    return sum(len(packer.compress(block)) for block in _blocks(file)) + len(packer.flush())


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block
