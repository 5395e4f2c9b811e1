"""What a file's tensors hold when rows go through it, beside what Keras computes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.agent.rows import pad
from edgekit.toolchain.operators import OpenFile
from edgekit.types import Feed


def activations(file: OpenFile, rows: Feed, names: Collection[str] | None = None) -> Feed:
    """The file's float tensors, or those of `names`, and its inputs: (calls, ...) by name.

    `rows` are whole batches (`some_rows`).
    """
    batch, count = file.taps.batch, len(next(iter(rows.values())))
    wanted = None if names is None else {*names, *file.inputs}
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, batch):
        values = file.taps.run({n: v[start : start + batch] for n, v in rows.items()})
        for name, value in values.items():
            is_number = value.dtype.kind == "f" or name in file.inputs
            if is_number and value.size and (wanted is None or name in wanted):
                parts.setdefault(name, []).append(value)
    return {
        name: np.stack(found)
        for name, found in parts.items()
        if len(found) == count // batch and len({v.shape for v in found}) == 1
    }


def some_rows(
    file: OpenFile, rows: Feed, names: Collection[str], *, most: int, elements: int
) -> Feed:
    """Whole batches of at most `most` rows, in which `names` have at most `elements` values.

    One batch there always is: with too few rows, the last one is repeated.
    """
    batch, count = file.taps.batch, len(next(iter(rows.values())))
    first = {name: pad(value[:batch], batch) for name, value in rows.items()}
    each = sum(v.size for v in activations(file, first, names).values()) // batch
    count = min(count, most, elements // max(each, 1)) // batch * batch
    return {name: value[:count] for name, value in rows.items()} if count else first


def as_keras(values: np.ndarray, axes: tuple[int, ...] | None, shape: Sequence[int]) -> np.ndarray:
    """(calls, ...) values of a file's tensor in Keras' `shape` (N, ...), its axes as in `axes`."""
    if axes is not None:
        values = values.transpose(0, *(axis + 1 for axis in axes))
    return values.reshape(shape)


def replaced(computed: Any, values: np.ndarray) -> Any:
    """`values` as a tensor like `computed`, with the mask that Keras hands on with it."""
    tensor = tf.cast(tf.constant(values), computed.dtype)
    mask = getattr(computed, "_keras_mask", None)
    if mask is not None:
        tensor._keras_mask = mask
    return tensor
