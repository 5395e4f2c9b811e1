"""The few statistics that latency and decisions are reported by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` percent of the samples lie (linear interpolation)."""
    return float(np.percentile(np.asarray(samples, np.float64), share))


def median(samples: Sequence[float]) -> float:
    """The 50th percentile."""
    return percentile(samples, 50)


def expanded_tail(count: int) -> float:
    """Which quantile of a bootstrap is the limit of a 95 % interval, of `count` independent draws.

    0.025 for many; less for few, as a t interval is wider than a normal one.
    """
    normal = NormalDist()
    z, freedom = normal.inv_cdf(0.975), count - 1
    # Student's t by its expansion in 1 / freedom (Cornish and Fisher).
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-t * math.sqrt(count / freedom))


def relative_iqr(samples: Sequence[float]) -> float:
    """Spread: the interquartile range as a share of the median."""
    low, middle, high = np.percentile(np.asarray(samples, np.float64), [25, 50, 75])
    return float((high - low) / middle) if middle else 0.0


def decisions(scores: np.ndarray) -> np.ndarray:
    """The class (rows,) that an application picks by scores (rows, classes).

    One score per row is the probability of class 1.
    """
    if scores.ndim == 1 or scores.shape[1] == 1:
        return np.asarray(scores.reshape(len(scores)) >= 0.5, np.int64)
    return np.asarray(scores.argmax(axis=1))


def agreement(wanted: np.ndarray, found: np.ndarray) -> float:
    """Share of rows in which the decisions are the same."""
    return float((decisions(wanted) == decisions(found)).mean())
