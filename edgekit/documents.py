"""Text files that are written whole or not at all, and JSON that people can read and compare."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

_NUMBERS = re.compile(r"\[[\s\d.,eE+-]*(?:null[\s\d.,eE+-]*)*\]")


def as_json(value: Any) -> str:
    """Indented JSON with lists of numbers (shapes, raw samples) on one line each."""

    def one_line(found: re.Match[str]) -> str:
        return re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]")

    return _NUMBERS.sub(one_line, json.dumps(value, indent=1, allow_nan=False)) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Put `text` in place of `path` in one step, readable by all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def append(path: Path, text: str) -> None:
    """Add `text` to a file that others write, too."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
