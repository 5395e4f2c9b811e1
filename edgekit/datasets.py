"""Public data sets for recipes, from a folder of the user's or through Keras."""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "DATA_FOLDER",
    "TEXT_IDS",
    "different_words",
    "load_california",
    "load_npz",
    "load_recordings",
    "load_reviews",
    "load_table",
    "load_text_split",
    "load_texts",
]

DATA_FOLDER = "EDGEKIT_DATA"
"""The environment variable that names a folder of .npz files; it is asked first."""

TEXT_IDS = 20_004
"""Word ids of a text are below: three reserved ones and the 20,000 most frequent words from 4."""

UNKNOWN_ID = 2
"""Of a word that is too rare."""

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
TABLE_ARRAYS = ("x", "y")
RECORDING_ARRAYS = ("samples", "lengths", "labels", "takes", "speakers", "sample_rate")
REVIEW_COLUMNS = ("title", "review", "department", "class", "rating", "recommended")
TEXT_ARRAYS = tuple(f"{s}_{a}" for s in ("train", "test") for a in ("tokens", "lengths", "labels"))


def load_npz(name: str) -> dict[str, np.ndarray]:
    """The arrays x_train, y_train, x_test and y_test of a data set, as they are stored.

    They come from `<name>.npz` in the folder that EDGEKIT_DATA names or, where that has no such
    file, from `keras.datasets.<name>`, which downloads them once.

    Raises:
        RecipeError: neither way led to the data, or the file lacks an array.
    """
    return _load(name, ARRAYS, lambda: _from_keras(name))


def load_texts(name: str) -> dict[str, np.ndarray]:
    """The texts of a data set as word ids, and their labels: `imdb`, `reuters`.

    For each of `train` and `test`: `_tokens`, the ids of all texts end to end; `_lengths`, how
    many are each text's; `_labels`, one class per text. All are whole numbers. The ids are those
    of Keras: 1 starts a text, 2 is an unknown word, the n-th of the most frequent words is n + 3,
    up to TEXT_IDS; what is rarer is 2. They come from where `load_npz` has its arrays.

    Raises:
        RecipeError: neither way led to the data, or the file lacks an array.
    """
    return _load(name, TEXT_ARRAYS, lambda: _end_to_end(_from_keras(name, num_words=TEXT_IDS)))


def load_text_split(
    name: str,
    split: str,
    rows_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    validation: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A split of the texts of `load_texts` as rows: the test set whole, the others train.

    A text that is there twice is in one split: in the test set, or else once among the others.

    Args:
        name: as in `load_texts`.
        split: "train", "validation", "test", or "calibration": the first 500 of "train".
        rows_of: makes rows of tokens and lengths.
        validation: how many of the others, the first, validate.

    Returns:
        The rows and the labels, int64.

    Raises:
        RecipeError: as `load_texts`.
    """
    import numpy as np

    texts = load_texts(name)
    test, others = (rows_of(texts[f"{p}_tokens"], texts[f"{p}_lengths"]) for p in ("test", "train"))
    if split == "test":
        return test, texts["test_labels"].astype(np.int64)
    seen, new = {row.tobytes() for row in test}, []
    for place, row in enumerate(others):
        if row.tobytes() not in seen:
            seen.add(row.tobytes())
            new.append(place)
    places = {
        "train": new[validation:],
        "validation": new[:validation],
        "calibration": new[validation : validation + 500],
    }[split]
    return others[places], texts["train_labels"][places].astype(np.int64)


def different_words(
    tokens: np.ndarray, lengths: np.ndarray, *, vocabulary: int, width: int
) -> np.ndarray:
    """The words that texts of `load_texts` have, each once: what a multi-hot row says.

    Args:
        tokens: the ids of all texts, end to end.
        lengths: how many are each text's.
        vocabulary: ids from here on are the unknown word, 2.
        width: of a text with more different words the rarest are left out.

    Returns:
        (texts, width) int32, the most frequent word first, then 0.
    """
    import numpy as np

    tokens = np.where(tokens < vocabulary, tokens, UNKNOWN_ID)
    rows = np.zeros((len(lengths), width), np.int32)
    for row, end, length in zip(rows, np.cumsum(lengths), lengths, strict=True):
        words = np.unique(tokens[end - length : end])[:width]
        row[: len(words)] = words
    return rows


def load_table(name: Literal["california_housing", "boston_housing"]) -> dict[str, np.ndarray]:
    """A data set of rows: `x` (rows, features) and `y` (rows,), in the order they were published.

    `california_housing` (features as scikit-learn has them, prices in 100,000 USD) and
    `boston_housing` (1,000 USD). They come from `<name>.npz` in the folder that EDGEKIT_DATA names
    or, where that has no such file, from scikit-learn and from Keras, which download them once.

    Raises:
        RecipeError: neither way led to the data, or the file lacks an array.
    """
    source, download = {
        # Keras has this one too, but with totals for averages and other columns.
        "california_housing": ("sklearn.datasets.fetch_california_housing", _california),
        "boston_housing": ("keras.datasets.boston_housing", _boston),
    }[name]
    return _load(name, TABLE_ARRAYS, download, source)


def load_california(split: str) -> tuple[np.ndarray, np.ndarray]:
    """California housing as the books split it: a quarter tests, a quarter of the rest validates.

    Args:
        split: "train", "validation", "test", or "calibration": the first 500 of "train".

    Returns:
        (N, 8) float32, raw features, and (N, 1) float32, prices in 100,000 USD.

    Raises:
        RecipeError: as `load_table`.
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    table = load_table("california_housing")
    rest, test = train_test_split(np.arange(len(table["y"])), random_state=42)
    train, validation = train_test_split(rest, random_state=42)
    # Not three with 500 people and more to a household: they alone would say which epoch is best.
    validation = validation[table["x"][validation, 5] < 100]
    rows = {"train": train, "validation": validation, "calibration": train[:500], "test": test}
    x, y = table["x"][rows[split]], table["y"][rows[split], np.newaxis]
    return x.astype(np.float32), y.astype(np.float32)


def load_recordings() -> dict[str, np.ndarray]:
    """Digits from 0 to 9 as six people said them, fifty times each.

    `samples`, int16, has all recordings end to end; `lengths`, how many are each one's; `labels`
    the digits; `takes` from 0 to 49, of which 0 to 4 are the official test; `speakers` from 0 on;
    `sample_rate` in Hz. They come from `spoken_digits.npz` in the folder that EDGEKIT_DATA names,
    and from nowhere else: they are the Free Spoken Digit Dataset, which GitHub has as .wav files.

    Raises:
        RecipeError: there is no such file, or it lacks an array.
    """
    path = _only_file(
        "spoken_digits.npz",
        f"an archive with {', '.join(RECORDING_ARRAYS)}: the Free Spoken Digit Dataset of GitHub",
    )
    return _read(path, RECORDING_ARRAYS)


def load_reviews() -> dict[str, np.ndarray]:
    """Customers' reviews of clothes, a row each, as columns.

    `title`, `review`, `department` and `class` are strings; `rating` is from 1 to 5, `recommended`
    0 or 1. They come from `clothing_reviews.csv.gz` in the folder that EDGEKIT_DATA names, and from
    nowhere else: they are "Women's E-Commerce Clothing Reviews", which Kaggle gives to its members.

    Raises:
        RecipeError: there is no such file, or it lacks a column.
    """
    import numpy as np

    wanted = f"a CSV file with the columns {', '.join(REVIEW_COLUMNS)}, gzipped"
    path = _only_file(
        "clothing_reviews.csv.gz",
        f"{wanted}: Kaggle's Women's E-Commerce Clothing Reviews under these names, without rows "
        "that lack title or review",
    )
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = [[row[name] for name in REVIEW_COLUMNS] for row in csv.DictReader(file)]
        columns = dict(zip(REVIEW_COLUMNS, map(np.array, zip(*rows, strict=True)), strict=True))
        numbers = {name: columns[name].astype(np.int64) for name in ("rating", "recommended")}
    except Exception as error:  # as many kinds as there are ways to break such a file
        raise RecipeError(
            f"{path} cannot be used: {type(error).__name__}: {error}", hint=f"it must be {wanted}"
        ) from error
    return columns | numbers


def _only_file(name: str, wanted: str) -> Path:
    """A file of the user's that nothing here can download."""
    folder = os.environ.get(DATA_FOLDER)
    path = Path(folder or "").expanduser() / name
    if folder and path.is_file():
        return path
    tried = f"is {folder}, which has no {name}" if folder else "is not set"
    raise RecipeError(
        f"no data set {name.partition('.')[0]!r}: {DATA_FOLDER} {tried}",
        hint=f"set {DATA_FOLDER} to a folder that holds {name}, {wanted}",
    )


def _load(
    name: str,
    arrays: tuple[str, ...],
    download: Callable[[], dict[str, np.ndarray]],
    source: str | None = None,
) -> dict[str, np.ndarray]:
    """The user's file or, where there is none, what `source` (keras.datasets) downloads."""
    source = source or f"keras.datasets.{name}"
    folder = os.environ.get(DATA_FOLDER)
    if folder:
        path = Path(folder).expanduser() / f"{name}.npz"
        if path.is_file():
            return _read(path, arrays)
        tried = f"{DATA_FOLDER} is {folder}, which has no {name}.npz"
    else:
        tried = f"{DATA_FOLDER} is not set"
    try:
        return download()
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise RecipeError(
            f"no data set {name!r}: {tried}; {source} failed: {error}",
            hint=f"set {DATA_FOLDER} to a folder that holds {name}.npz with {', '.join(arrays)}, "
            f"or run once with a network, so that {source} can download it",
        ) from error


def _read(path: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in wanted}
    except Exception as error:  # as many kinds as there are ways to break a zip file
        raise RecipeError(
            f"{path} cannot be used: {type(error).__name__}: {error}",
            hint=f"it must be written by numpy.savez with {', '.join(wanted)}",
        ) from error


def _from_keras(name: str, **options: Any) -> dict[str, Any]:
    # Keras draws its progress on stdout, which belongs to --json.
    with contextlib.redirect_stdout(sys.stderr):
        module = importlib.import_module(f"keras.datasets.{name}")
        (x_train, y_train), (x_test, y_test) = module.load_data(**options)
    return dict(zip(ARRAYS, (x_train, y_train, x_test, y_test), strict=True))


def _end_to_end(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of `load_texts` from Keras's lists, one of ids per text."""
    import numpy as np

    flat = {}
    for split in ("train", "test"):
        texts = arrays[f"x_{split}"]
        flat[f"{split}_tokens"] = np.fromiter(itertools.chain.from_iterable(texts), np.int32)
        flat[f"{split}_lengths"] = np.fromiter(map(len, texts), np.int32)
        flat[f"{split}_labels"] = arrays[f"y_{split}"]
    return flat


def _california() -> dict[str, np.ndarray]:
    from sklearn.datasets import fetch_california_housing

    houses = fetch_california_housing()
    return {"x": houses.data, "y": houses.target}


def _boston() -> dict[str, np.ndarray]:
    import numpy as np

    # Keras shuffles the rows by this seed: that is taken back.
    shuffled = _from_keras("boston_housing", test_split=0.0, seed=113)
    places = np.random.RandomState(113).permutation(len(shuffled["y_train"]))
    order = np.argsort(places)
    return {"x": shuffled["x_train"][order], "y": shuffled["y_train"][order]}
