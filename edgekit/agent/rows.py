"""Rows through a loaded model: all of them, to compare; or one again and again, to time.

All rows go through ONE runner, one call after the other: a model that keeps state from call to
call gives wrong answers from the second call on, and only a runner that is used again shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from . import energy, machine
from .protocol import Job, Signature, Timing
from .runners import Runner
from .timing import measure

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
        runner.bind({name: pad(value, batch) for name, value in chunk.items()})
        runner.invoke()
        parts.append({name: value[: stop - start] for name, value in runner.read().items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _chunks(rows: int, batch: int | None) -> Iterator[tuple[int, int]]:
    start = 0
    while start < rows:
        size = batch or (1 if start < SINGLE_ROWS else CHUNK)
        yield start, min(start + size, rows)
        start += size


def pad(value: np.ndarray, batch: int | None) -> np.ndarray:
    """The last row repeated until a fixed batch is full."""
    missing = (batch or 0) - len(value)
    return np.concatenate([value, value[-1:].repeat(missing, 0)]) if missing > 0 else value


def first_batch(signature: Signature, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first row, as often as a fixed batch takes it."""
    batch = signature.inputs[0].shape[0] or 1
    return {name: np.repeat(value[:1], batch, 0) for name, value in feed.items()}


def time_first_row(
    runner: Runner, job: Job, feed: Mapping[str, np.ndarray], load_ns: int, before: int | None
) -> Timing:
    """Time `runner` on the first row of `feed` (repeated where the batch is fixed above 1).

    `before` are the allocated bytes before the model was loaded; None: not known.
    """
    runner.bind(first_batch(job.signature, feed))
    runner.invoke()
    memory = _taken(job.artifact, before)
    busy = machine.BusyMeter()
    measured = measure(runner.invoke, job.seconds)
    busy_fraction = busy.read()
    return Timing(
        samples_ns=measured.samples_ns,
        loops=measured.loops,
        warmup_invocations=measured.warmup_invocations + 1,
        stable=measured.stable,
        load_ns=load_ns,
        peak_memory_bytes=machine.peak_resident_bytes(),
        model_memory_bytes=memory,
        busy_fraction=busy_fraction,
        energy=energy.measure(runner.invoke, job.seconds),
    )


def _taken(path: str, before: int | None) -> int | None:
    """What the model takes now: its file, as far as it is mapped, and what was allocated for it."""
    after = machine.allocated_bytes()
    if before is None or after is None:
        return None
    return max(0, after - before) + machine.mapped_bytes(path)
