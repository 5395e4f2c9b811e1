"""Random rows for a model that comes without data: enough to compare, not to calibrate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekit.toolchain.model import Model
from edgekit.types import FREE_DIMENSION

_WORDS = ("a", "day", "good", "of", "not", "the", "was", "year", "0", "1")
"""Texts are made of them; most vocabularies have some."""


def feed(model: Model, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Seeded arrays of the model's input shapes: float inputs half normal, half uniform in [0, 1).

    Integers stay below the smallest Embedding of the model, or are bytes where it has none.
    """
    random = np.random.default_rng(seed)
    arrays = {}
    for spec in model.inputs:
        shape = (rows, *(FREE_DIMENSION if d is None else d for d in spec.shape[1:]))
        if spec.dtype == "string":
            texts = [" ".join(random.choice(_WORDS, 4)) for _ in range(math.prod(shape))]
            arrays[spec.name] = np.array(texts, object).reshape(shape)
            continue
        kind = np.dtype(spec.dtype).kind
        if kind == "f":
            value: Any = random.standard_normal(shape)
            value[rows // 2 :] = random.random((rows - rows // 2, *shape[1:]))
        elif kind in "iu":
            value = random.integers(0, _vocabulary(model, np.dtype(spec.dtype)), shape)
        else:
            value = random.integers(0, 2, shape)
        arrays[spec.name] = value.astype(spec.dtype)
    return arrays


def _vocabulary(model: Model, dtype: np.dtype) -> int:
    """How far integers may go: indices below the smallest table; else bytes, as of an image."""
    tables = [layer.input_dim for layer in model.layers if type(layer).__name__ == "Embedding"]
    return min(tables, default=min(256, np.iinfo(dtype).max + 1))
