"""All rows of a feed through ONE runner, one call after the other.

One runner on purpose: a model that keeps state from call to call gives wrong answers from the
second call on, and only a runner that is used again shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from .protocol import Signature
from .runners import Runner

SINGLE_ROWS, CHUNK = 8, 32
"""A model of free batch runs its first rows one by one, the rest in chunks: both must work."""


def run_rows(
    runner: Runner, signature: Signature, feed: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Outputs by Keras name, as many rows as the feed has."""
    rows = len(next(iter(feed.values())))
    batch = signature.inputs[0].shape[0]
    parts: list[dict[str, np.ndarray]] = []
    for start, stop in _chunks(rows, batch):
        chunk = {name: value[start:stop] for name, value in feed.items()}
        runner.bind({name: _pad(value, batch) for name, value in chunk.items()})
        runner.invoke()
        parts.append({name: value[: stop - start] for name, value in runner.read().items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _chunks(rows: int, batch: int | None) -> Iterator[tuple[int, int]]:
    start = 0
    while start < rows:
        size = batch or (1 if start < SINGLE_ROWS else CHUNK)
        yield start, min(start + size, rows)
        start += size


def _pad(value: np.ndarray, batch: int | None) -> np.ndarray:
    """The last row repeated until a fixed batch is full."""
    missing = (batch or 0) - len(value)
    return np.concatenate([value, value[-1:].repeat(missing, 0)]) if missing > 0 else value
