"""How an invocation is timed: warm up until stable, loop what is too fast, keep raw samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 5
"""Invocations per warm-up window."""
STABLE_WITHIN = 0.05
"""Warm-up ends when two windows in a row have medians this close."""
WARM_UP_S = 0.5
"""Time that a warm-up may take, however short the measurement: a slow model has few calls in it."""
SHORTEST_SAMPLE_NS = 50_000
"""One sample lasts at least this long, so that the clock's own 100 ns stay below 0.3 %."""
MOST_SAMPLES = 1000
"""Samples kept per process, evenly spaced over the measurement."""


@dataclass(frozen=True)
class Measurement:
    """Times of one invocation in nanoseconds, each averaged over `loops` invocations."""

    samples_ns: tuple[float, ...]
    loops: int
    warmup_invocations: int
    stable: bool


def measure(invoke: Callable[[], object], seconds: float) -> Measurement:
    """Time `invoke` for about `seconds`, after a warm-up until it is stable.

    That takes WARM_UP_S at most, or half of `seconds` if that is longer.
    """
    warmup, stable, median_ns = _warm_up(invoke, max(seconds / 2, WARM_UP_S))
    loops = max(1, round(SHORTEST_SAMPLE_NS / median_ns))
    samples: list[float] = []
    repeat = range(loops)
    clock = time.perf_counter_ns
    deadline = clock() + int(seconds * 1e9)
    while len(samples) < 5 or clock() < deadline:
        if loops == 1:
            start = clock()
            invoke()
            samples.append(clock() - start)
        else:
            start = clock()
            for _ in repeat:
                invoke()
            samples.append((clock() - start) / loops)
    return Measurement(_thinned(samples), loops, warmup, stable)


def _warm_up(invoke: Callable[[], object], seconds: float) -> tuple[int, bool, float]:
    clock = time.perf_counter_ns
    deadline = clock() + int(seconds * 1e9)
    count, previous = 0, 0.0
    while True:
        window = []
        for _ in range(WINDOW):
            start = clock()
            invoke()
            window.append(clock() - start)
            if clock() > deadline and count + len(window) >= 3:
                break
        count += len(window)
        median = max(1.0, statistics.median(window))
        if abs(median - previous) <= STABLE_WITHIN * median:
            return count, True, median
        if clock() > deadline:
            return count, False, median
        previous = median


def _thinned(samples: list[float]) -> tuple[float, ...]:
    """Evenly spaced in time, which leaves the percentiles unbiased."""
    step = max(1, -(-len(samples) // MOST_SAMPLES))
    return tuple(round(s, 1) for s in samples[::step])
