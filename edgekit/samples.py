"""Rows to calibrate and to compare with, from .npz files: feeds by input name, labels as y."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.errors import SourceError
from edgekit.types import Feed, Signature, TensorSpec


@dataclass(frozen=True)
class Samples:
    """`feed` by input name; `targets` by output name where there are labels."""

    feed: Feed
    targets: Feed = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(next(iter(self.feed.values())))


def read_samples(path: Path, signature: Signature) -> Samples:
    """The samples in an .npz file, checked against a model's signature.

    Arrays are named after the model's inputs (a model of one input also takes `x`); labels are
    `y`, or `y_<output name>` for several outputs.

    Raises:
        SourceError: the file cannot be read, an input is missing or unknown, a shape or dtype does
            not fit, there are no rows, or a value is NaN or infinite.
    """
    arrays = read_npz(path)
    for name, array in arrays.items():
        if array.ndim == 0:
            raise SourceError(f"{path}: {name!r} is one number; the first axis must be the rows")
    feed, targets = _split(path, arrays, signature)
    for spec in signature.inputs:
        feed[spec.name] = _checked(path, feed[spec.name], spec)
    rows = {name: len(array) for name, array in {**feed, **targets}.items()}
    if len(set(rows.values())) != 1:
        raise SourceError(f"{path}: the arrays differ in their number of rows: {rows}")
    if 0 in rows.values():
        raise SourceError(f"{path}: there are no rows in it", hint="at least 64 make a good check")
    return Samples({s.name: feed[s.name] for s in signature.inputs}, targets)


def thirds(samples: Samples, seed: int) -> tuple[Samples, Samples, Samples]:
    """The rows in three parts, at random, each in the order that they had.

    Raises:
        SourceError: there are fewer than three rows.
    """
    rows = samples.rows
    if rows < 3:
        raise SourceError(
            f"{rows} rows cannot calibrate, decide and judge", hint="give some hundred rows"
        )
    parts = np.array_split(np.random.default_rng(seed).permutation(rows), 3)
    first, second, third = (_chosen(samples, np.sort(part)) for part in parts)
    return first, second, third


def write_samples(path: Path, samples: Samples) -> None:
    """Write `samples` so that `read_samples` reads them again."""
    labels = {f"y_{name}": value for name, value in samples.targets.items()}
    write_npz(path, {**samples.feed, **labels})


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name; the same arrays give the same bytes.

    numpy.savez can neither do that nor take an array named `file`.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npz(path: Path) -> Feed:
    """The named arrays in an .npz file; no pickled objects.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not named ones")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise SourceError(
            f"{path}: cannot be read as samples: {e}",
            hint="write them by numpy.savez('samples.npz', x=rows, y=labels)",
        ) from e


def _chosen(samples: Samples, rows: np.ndarray) -> Samples:
    return Samples(
        {name: value[rows] for name, value in samples.feed.items()},
        {name: value[rows] for name, value in samples.targets.items()},
    )


def _split(path: Path, arrays: Feed, signature: Signature) -> tuple[Feed, Feed]:
    inputs = [s.name for s in signature.inputs]
    outputs = [s.name for s in signature.outputs]
    labels = {f"y_{name}": name for name in outputs}
    if len(outputs) == 1:
        labels["y"] = outputs[0]
    feed, targets = {}, {}
    for name, array in arrays.items():
        if name in inputs:
            feed[name] = array
        elif name == "x" and len(inputs) == 1:
            feed[inputs[0]] = array
        elif name in labels:
            targets[labels[name]] = array
        else:
            raise SourceError(
                f"{path}: {name!r} is neither an input of the model nor a label",
                hint=f"inputs: {', '.join(inputs)}; labels: {', '.join(sorted(labels))}",
            )
    if missing := [name for name in inputs if name not in feed]:
        raise SourceError(
            f"{path}: there is no array for the input {missing[0]!r}",
            hint=f"it has: {', '.join(arrays) or 'nothing'}",
        )
    return feed, targets


def _checked(path: Path, array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The array in the input's dtype, if shape and values allow it."""
    wanted = spec.shape[1:]
    fits = array.ndim == len(spec.shape) and all(
        w in (None, d) for w, d in zip(wanted, array.shape[1:], strict=True)
    )
    if not fits:
        shape = ", ".join("any" if d is None else str(d) for d in ("rows", *wanted))
        raise SourceError(
            f"{path}: {spec.name!r} has the shape {array.shape}, the model takes ({shape})"
        )
    if spec.dtype == "string":
        if array.dtype.kind not in "US":
            raise SourceError(f"{path}: {spec.name!r} holds {array.dtype}, not text")
        return array
    if array.dtype.kind not in "fiub":
        raise SourceError(f"{path}: {spec.name!r} holds {array.dtype}, not numbers")
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise SourceError(
                f"{path}: {spec.name!r} has NaN or infinity, first in row {row}",
                hint="remove these rows; calibration with them would ruin every range",
            )
        if np.dtype(spec.dtype).kind in "iu" and not np.array_equal(array, np.round(array)):
            raise SourceError(f"{path}: {spec.name!r} takes {spec.dtype}, the file has fractions")
    if np.dtype(spec.dtype).kind in "iu":
        limits = np.iinfo(spec.dtype)
        if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
            raise SourceError(
                f"{path}: {spec.name!r} takes {spec.dtype}, the file has values from "
                f"{array.min()} to {array.max()}"
            )
    return array.astype(spec.dtype, copy=False)
