"""Random rows for a model that comes without data: enough to compare, not to calibrate."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edgekit.errors import SourceError
from edgekit.types import FREE_DIMENSION, Signature


def feed(model: keras.Model, signature: Signature, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Seeded arrays of the model's input shapes: float inputs half normal, half uniform in [0, 1).

    Integers stay below the smallest Embedding of the model, or are bytes where it has none.

    Raises:
        SourceError: an input is of a type for which no random value means anything (strings).
    """
    random = np.random.default_rng(seed)
    arrays = {}
    for spec in signature.inputs:
        shape = (rows, *(FREE_DIMENSION if d is None else d for d in spec.shape[1:]))
        kind = np.dtype(spec.dtype).kind if spec.dtype != "string" else "s"
        if kind == "f":
            value: Any = random.standard_normal(shape)
            value[rows // 2 :] = random.random((rows - rows // 2, *shape[1:]))
        elif kind in "iu":
            value = random.integers(0, _vocabulary(model, np.dtype(spec.dtype)), shape)
        elif kind == "b":
            value = random.integers(0, 2, shape)
        else:
            raise SourceError(
                f"input {spec.name!r} is of type {spec.dtype}: no format here takes it",
                hint="export the part of the model behind its text layers",
            )
        arrays[spec.name] = value.astype(spec.dtype)
    return arrays


def _vocabulary(model: keras.Model, dtype: np.dtype) -> int:
    """How far integers may go: indices below the smallest table; else bytes, as of an image."""
    tables = [
        layer.input_dim
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
    ]
    return min(tables, default=min(256, np.iinfo(dtype).max + 1))
