"""The few statistics that latency and decisions are reported by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` percent of the samples lie (linear interpolation)."""
    return float(np.percentile(np.asarray(samples, np.float64), share))


def median(samples: Sequence[float]) -> float:
    """The 50th percentile."""
    return percentile(samples, 50)


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
