"""Ways to hold one latency record against another: edgekit's own, and those it might have taken.

Each gives the ratio of the medians and its 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import t as student

from edgekit.comparison import compare
from edgekit.types import LatencyRecord

Statistic = Callable[[LatencyRecord, LatencyRecord], tuple[float, float, float]]

RESAMPLES = 200
KEPT = 100
"""Samples of each process that are drawn from, evenly spaced."""


def ranks(before: LatencyRecord, after: LatencyRecord) -> tuple[float, float, float]:
    """Mann-Whitney on the medians of processes: edgekit's own."""
    found = compare(before, after)
    return found.ratio, *(found.interval or (0.0, math.inf))


def paired_t(before: LatencyRecord, after: LatencyRecord) -> tuple[float, float, float]:
    """Student's t on the log ratios of the two processes of a round."""
    logs = log_medians(after) - log_medians(before)
    return limits(logs.mean(), logs.std(ddof=1) / math.sqrt(len(logs)), len(logs) - 1)


def two_sample_t(before: LatencyRecord, after: LatencyRecord) -> tuple[float, float, float]:
    """Student's t on the log medians of processes, which are not taken in pairs."""
    first, second = log_medians(before), log_medians(after)
    error = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / len(first))
    return limits(second.mean() - first.mean(), error, 2 * len(first) - 2)


def limits(log_ratio: float, error: float, freedom: int) -> tuple[float, float, float]:
    wide = float(student.ppf(0.975, freedom)) * error
    return math.exp(log_ratio), math.exp(log_ratio - wide), math.exp(log_ratio + wide)


def pooled_bootstrap(before: LatencyRecord, after: LatencyRecord) -> tuple[float, float, float]:
    """Samples drawn again from all samples, as if processes made no difference."""
    random = np.random.default_rng(0)
    first, second = samples(before).ravel(), samples(after).ravel()

    def drawn(pool: np.ndarray) -> np.ndarray:
        return np.median(pool[random.integers(len(pool), size=(RESAMPLES, len(pool)))], axis=1)

    low, high = np.percentile(drawn(second) / drawn(first), [2.5, 97.5])
    return float(np.median(second) / np.median(first)), float(low), float(high)


def nested_bootstrap(before: LatencyRecord, after: LatencyRecord) -> tuple[float, float, float]:
    """Processes drawn again, and of each its samples."""
    random = np.random.default_rng(0)
    first, second = samples(before), samples(after)

    def drawn(pool: np.ndarray) -> np.ndarray:
        count, size = pool.shape
        processes = random.integers(count, size=(RESAMPLES, count, 1))
        again = pool[processes, random.integers(size, size=(RESAMPLES, count, size))]
        return np.median(again.reshape(RESAMPLES, -1), axis=1)

    low, high = np.percentile(drawn(second) / drawn(first), [2.5, 97.5])
    return float(np.median(second) / np.median(first)), float(low), float(high)


def log_medians(record: LatencyRecord) -> np.ndarray:
    return np.log([np.median(t.samples_ns) for t in record.timings])


def samples(record: LatencyRecord) -> np.ndarray:
    """(processes, KEPT); of a slow file, some twice."""
    kept = [
        np.asarray(t.samples_ns)[np.linspace(0, len(t.samples_ns) - 1, KEPT).astype(int)]
        for t in record.timings
    ]
    return np.stack(kept)


ALTERNATIVES: dict[str, Statistic] = {
    "all samples, bootstrap": pooled_bootstrap,
    "processes and samples, bootstrap": nested_bootstrap,
    "processes in pairs, t": paired_t,
    "processes, t": two_sample_t,
    "**processes, ranks**": ranks,
}
