"""The few statistics that latency is reported by."""

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
