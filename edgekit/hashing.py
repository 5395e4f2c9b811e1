"""SHA-256 and size of an artifact: a file, or a folder of files."""

from __future__ import annotations

import hashlib
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
    return sum(f.stat().st_size for f in ([path] if path.is_file() else _files(path)))


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _feed(digest: hashlib._Hash, file: Path) -> None:
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
