"""Rows to calibrate and to compare with, from .npz files: feeds by input name, labels as y."""

from __future__ import annotations

import hashlib
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
    """The samples in a user's .npz file, checked against a model's signature.

    Arrays are named after the model's inputs (a model of one input also takes `x`); labels are
    `y`, or `y_<output name>` for several outputs. One label per row, for an output of several
    scores per row, is a class: it comes out as an integer.

    Raises:
        SourceError: the file cannot be read, an input is missing or unknown, a shape or dtype does
            not fit, there are no rows, a value is NaN or infinite, or a label is no class.
    """
    return _read(path, signature, checks_labels=True)


def load_samples(path: Path, signature: Signature) -> Samples:
    """The samples that `write_samples` wrote; what their labels mean, a recipe may know.

    Raises:
        SourceError: the inputs are not as `read_samples` takes them.
    """
    return _read(path, signature, checks_labels=False)


def thirds(samples: Samples) -> tuple[Samples, Samples, Samples]:
    """The rows in three parts of about the same size, by what is in them.

    Neither their order in the file nor other rows beside them change in which part a row is: what
    was trained on stays apart from what judges, also where more samples are given later. Rows of
    equal inputs are in one part.

    Raises:
        SourceError: so few rows are different that a part has none.
    """
    inputs = _digests(samples.feed, samples.rows)
    labels = _digests(samples.targets, samples.rows)
    parts: list[list[int]] = [[], [], []]
    for i in sorted(range(samples.rows), key=lambda i: (inputs[i], labels[i])):
        parts[int.from_bytes(inputs[i]) % 3].append(i)
    if not all(parts):
        raise SourceError(
            f"{samples.rows} rows, {len(set(inputs))} of them different, are too few to calibrate "
            "with some, and to decide and judge by others",
            hint="give some hundred rows",
        )
    first, second, third = (_chosen(samples, part) for part in parts)
    return first, second, third


def are_equal(feed: Mapping[str, np.ndarray]) -> bool:
    """Whether all rows are the same, more than one."""
    return all(
        len(value) > 1 and all(np.array_equal(row, value[0]) for row in value)
        for value in feed.values()
    )


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


def _digests(arrays: Mapping[str, np.ndarray], rows: int) -> list[bytes]:
    """A hash of each row over all arrays."""
    names = sorted(arrays)
    return [
        hashlib.blake2b(b"".join(arrays[n][i : i + 1].tobytes() for n in names)).digest()
        for i in range(rows)
    ]


def _chosen(samples: Samples, rows: list[int]) -> Samples:
    return Samples(
        {name: value[rows] for name, value in samples.feed.items()},
        {name: value[rows] for name, value in samples.targets.items()},
    )


def _read(path: Path, signature: Signature, *, checks_labels: bool) -> Samples:
    arrays = read_npz(path)
    for name, array in arrays.items():
        if array.ndim == 0:
            raise SourceError(f"{path}: {name!r} is one number; the first axis must be the rows")
    given, labels = _named(path, arrays, signature)
    feed = {s.name: _checked(path, arrays, given[s.name], s) for s in signature.inputs}
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) != 1:
        raise SourceError(f"{path}: the arrays differ in their number of rows: {rows}")
    if 0 in rows.values():
        raise SourceError(f"{path}: there are no rows in it", hint="at least 64 make a good check")
    targets = {output: arrays[name] for output, name in labels.items()}
    if checks_labels:
        for spec in (s for s in signature.outputs if s.name in labels):
            targets[spec.name] = _checked_labels(path, arrays, labels[spec.name], spec)
    return Samples(feed, targets)


def _named(
    path: Path, arrays: Feed, signature: Signature
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What the file calls each input, and the labels of each output."""
    inputs = [s.name for s in signature.inputs]
    outputs = [s.name for s in signature.outputs]
    labels = {f"y_{name}": name for name in outputs}
    if len(outputs) == 1:
        labels["y"] = outputs[0]
    feed, targets = {}, {}
    for name in arrays:
        if name in inputs:
            feed[name] = name
        elif name == "x" and len(inputs) == 1:
            feed[inputs[0]] = name
        elif name in labels:
            targets[labels[name]] = name
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


def _checked(path: Path, arrays: Feed, name: str, spec: TensorSpec) -> np.ndarray:
    """The array `name` in the input's dtype, if shape and values allow it."""
    array, wanted = arrays[name], spec.shape[1:]
    called = f"{name!r}" if name == spec.name else f"{name!r} (the input {spec.name!r})"
    fits = array.ndim == len(spec.shape) and all(
        w in (None, d) for w, d in zip(wanted, array.shape[1:], strict=True)
    )
    if not fits:
        shape = ", ".join("any" if d is None else str(d) for d in ("rows", *wanted))
        raise SourceError(
            f"{path}: {called} has the shape {array.shape}, the model takes ({shape})"
        )
    if spec.dtype == "string":
        if array.dtype.kind not in "US":
            raise SourceError(f"{path}: {called} holds {array.dtype}, not text")
        return array
    if array.dtype.kind not in "fiub":
        raise SourceError(f"{path}: {called} holds {array.dtype}, not numbers")
    if (row := _first_not_finite(array)) is not None:
        raise SourceError(
            f"{path}: {called} has NaN or infinity, first in row {row}",
            hint="remove these rows; calibration with them would ruin every range",
        )
    if np.dtype(spec.dtype).kind in "iu":
        if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
            raise SourceError(f"{path}: {called} takes {spec.dtype}, the file has fractions")
        limits = np.iinfo(spec.dtype)
        if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
            raise SourceError(
                f"{path}: {called} takes {spec.dtype}, the file has values from "
                f"{array.min()} to {array.max()}"
            )
    with np.errstate(over="ignore"):  # said in our own words
        values = array.astype(spec.dtype, copy=False)
    if (row := _first_not_finite(values)) is not None:
        raise SourceError(
            f"{path}: {called} has values that {spec.dtype} cannot hold, first in row {row}",
            hint="scale the values down, or remove these rows",
        )
    return values


def _checked_labels(path: Path, arrays: Feed, name: str, spec: TensorSpec) -> np.ndarray:
    """The labels `name`; as integers where they are the classes of an output of scores."""
    labels = arrays[name]
    called = f"the labels {name!r} of the output {spec.name!r}"
    if (row := _first_not_finite(labels)) is not None:
        raise SourceError(
            f"{path}: {called} have NaN or infinity, first in row {row}", hint="remove these rows"
        )
    classes = spec.shape[1] if len(spec.shape) == 2 else None
    if classes is None or classes < 2 or labels[:1].size != 1:
        return labels  # not classes: what they mean is judged by the outputs
    hint = f"give a whole number from 0 to {classes - 1} per row"
    if labels.dtype.kind not in "fiub":
        raise SourceError(f"{path}: {called} hold {labels.dtype}, not classes", hint=hint)
    flat = labels.reshape(-1).astype(np.float64)
    wrong = (flat != np.round(flat)) | (flat < 0) | (flat >= classes)
    if wrong.any():
        row = int(wrong.argmax())
        raise SourceError(f"{path}: {called} have {flat[row]:g} in row {row}", hint=hint)
    return labels if labels.dtype.kind in "iu" else labels.astype(np.int64)


def _first_not_finite(array: np.ndarray) -> int | None:
    """The first row with NaN or infinity."""
    bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros(0, bool)
    return int(np.argwhere(bad)[0][0]) if bad.any() else None
