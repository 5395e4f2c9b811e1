"""Public data sets for recipes, from a folder of the user's or through Keras."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DATA_FOLDER", "load_npz"]

DATA_FOLDER = "EDGEKIT_DATA"
"""The environment variable that names a folder of .npz files; it is asked first."""

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(name: str) -> dict[str, np.ndarray]:
    """The arrays x_train, y_train, x_test and y_test of a data set, as they are stored.

    They come from `<name>.npz` in the folder that EDGEKIT_DATA names or, where that has no such
    file, from `keras.datasets.<name>`, which downloads them once.

    Raises:
        RecipeError: neither way led to the data, or the file lacks an array.
    """
    folder = os.environ.get(DATA_FOLDER)
    if folder:
        path = Path(folder).expanduser() / f"{name}.npz"
        if path.is_file():
            return _read(path)
        tried = f"{DATA_FOLDER} is {folder}, which has no {name}.npz"
    else:
        tried = f"{DATA_FOLDER} is not set"
    try:
        return _from_keras(name)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise RecipeError(
            f"no data set {name!r}: {tried}; keras.datasets.{name} failed: {error}",
            hint=f"set {DATA_FOLDER} to a folder that holds {name}.npz with {', '.join(ARRAYS)}, "
            f"or run once with a network, so that keras.datasets.{name} can download it",
        ) from error


def _read(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in ARRAYS}
    except Exception as error:  # as many kinds as there are ways to break a zip file
        raise RecipeError(
            f"{path} cannot be used: {type(error).__name__}: {error}",
            hint=f"it must be written by numpy.savez with {', '.join(ARRAYS)}",
        ) from error


def _from_keras(name: str) -> dict[str, np.ndarray]:
    # Keras draws its progress on stdout, which belongs to --json.
    with contextlib.redirect_stdout(sys.stderr):
        module = importlib.import_module(f"keras.datasets.{name}")
        (x_train, y_train), (x_test, y_test) = module.load_data()
    return dict(zip(ARRAYS, (x_train, y_train, x_test, y_test), strict=True))
