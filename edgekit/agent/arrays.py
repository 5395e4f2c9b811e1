"""Named arrays as .npy files: how tensors travel between processes and machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def save_arrays(arrays: Mapping[str, np.ndarray], folder: str | Path) -> dict[str, str]:
    """Write each array into `folder`; the files by name (names need not be good file names).

    In C order, whatever the array's own: JavaScript reads no other.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = {name: str(Path(folder, f"{i}.npy")) for i, name in enumerate(arrays)}
    for name, path in paths.items():
        np.save(path, np.asarray(arrays[name], order="C"), allow_pickle=False)
    return paths


def load_arrays(paths: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of `save_arrays`, read from disk only where they are used."""
    return {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in paths.items()}
