"""Measures the datasets of an HDF5 file, as a program of its own.

On a damaged file the HDF5 library may crash, loop for ever or ask for gigabytes, so it must not
run in our process.
`python hdf5.py FILE` prints {"attributes": {...}, "datasets": [{...}, ...]} as JSON;
`python hdf5.py --attributes FILE` {"attributes": {...}, "groups": [...]}, without reading values.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

EXPANSION = 200
"""Compressed data may be this many times larger than its stored bytes ..."""
ALWAYS_ALLOWED_BYTES = 64 << 20
"""... or this large, as all-zero weights compress to nearly nothing."""


def check_expansion(name: str, size: int, stored: int) -> None:
    """ValueError where `stored` bytes claim to hold many more, as a decompression bomb does."""
    if size > max(ALWAYS_ALLOWED_BYTES, EXPANSION * stored):
        raise ValueError(f"{name} claims to grow from {stored} to {size} bytes")


def measure(path: str) -> dict[str, Any]:
    """Keras' attributes of the file, and shape, dtype and zeros of each numeric dataset."""
    import h5py
    import numpy as np

    _limit_memory(os.path.getsize(path))
    datasets: list[dict[str, Any]] = []

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "biuf":
            return
        if item.external or item.is_virtual:
            raise ValueError(f"{name} keeps its values in another file")
        check_expansion(name, item.nbytes, item.id.get_storage_size())
        datasets.append(
            {
                "path": str(item.name).strip("/"),
                "layer": _text(item.parent.attrs.get("name")),
                "dtype": item.dtype.name,
                "shape": [int(d) for d in item.shape],
                "size_bytes": int(item.nbytes),
                "zeros": int(item.size) - int(np.count_nonzero(item[()])),
            }
        )

    with h5py.File(path, "r") as file:
        file.visititems(visit)  # follows no link out of the file and visits nothing twice
        return {"attributes": _attributes(file), "datasets": datasets}


def look(path: str) -> dict[str, Any]:
    """Keras' attributes of the file, and the names of what lies at its top."""
    import h5py

    _limit_memory(os.path.getsize(path))
    with h5py.File(path, "r") as file:
        return {"attributes": _attributes(file), "groups": list(file)}


def _attributes(file: Any) -> dict[str, str | None]:
    return {key: _text(file.attrs.get(key)) for key in ("model_config", "keras_version")}


def _limit_memory(file_size: int) -> None:
    """Refuse allocations far beyond what the file can need; Linux only."""
    with contextlib.suppress(ImportError, OSError):
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + (512 << 20) + 10 * file_size
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


if __name__ == "__main__":
    try:
        read = look if sys.argv[1] == "--attributes" else measure
        print(json.dumps(read(sys.argv[-1])))
    except Exception as error:  # one line for the parent, not a traceback
        sys.exit(f"{type(error).__name__}: {error}")
