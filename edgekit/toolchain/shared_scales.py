"""Scales with which the weights of a pruned model take few bytes, once they are compressed.

Clustering leaves a layer, say, 16 values. A scale for each channel's own largest value would make
of these other integers in each channel, in which gzip finds nothing to share; and batch
normalization, folded into the weights, gives each channel multiples of its own of these values.

Where most weights are 0, the scales themselves, of weights and biases, are a tenth of what is left:
they have few bits, then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_VALUES = 64
"""A channel of more distinct values is not clustered."""

SAME = 1e-5
"""Values that differ by less, as a share of the larger, were one before they were folded."""

COARSEST = 8.0
"""A shared scale is at most so many times that which a channel would have for itself."""

TRIALS = 1000
"""Scales that are tried, from the least on to twice that."""


WEIGHT_BITS, LONGER_BITS = 4, 12
"""Of a scale's mantissa. A weight's own scale gets coarser by up to a sixteenth, a quarter of a
decibel on average; a bias has steps to spare, and a shared scale must stay what the values want."""


def compact_scales(channels: np.ndarray, own: np.ndarray) -> np.ndarray:
    """A scale for each channel: a shared one where it has few values, else a short one.

    Args:
        channels: (C, N) weights, a row per output channel.
        own: (C,) the least scale of each.
    """
    shared, alone = shared_scales(channels), short(own, WEIGHT_BITS)
    return np.where(shared > 0, np.maximum(shared, own), alone)


def short(scales: np.ndarray, bits: int) -> np.ndarray:
    """Positive scales with so many bits of mantissa, rounded up."""
    mantissas, exponents = np.frexp(np.asarray(scales, np.float64))
    steps = 2.0 ** (bits + 1)  # frexp gives them from a half on
    return np.ldexp(np.ceil(mantissas * steps) / steps, exponents)


def shared_scales(channels: np.ndarray) -> np.ndarray:
    """A scale for each channel, so that equal values are equal integers in all of them.

    Args:
        channels: (C, N) weights, a row per output channel.

    Returns:
        (C,) float64, in which no weight is beyond 127; 0 where a channel has more values than a
        few, or shares none with the others.
    """
    values = [_distinct(row) for row in channels]
    common, factors = _common(values)
    scales = np.zeros(len(values))
    if len(factors) < 2:
        return scales
    counts = np.zeros(common.size)
    for i, factor in factors.items():
        nearest = np.searchsorted((common[1:] + common[:-1]) / 2, channels[i] / factor)
        counts += np.bincount(nearest[channels[i] != 0], minlength=common.size)
    step = _step(common, counts / counts.sum(), channels.shape[1])
    for i, factor in factors.items():
        if abs(factor) * step <= COARSEST * np.abs(values[i]).max() / 127:
            scales[i] = abs(factor) * step
    return scales


def _common(values: Sequence[np.ndarray]) -> tuple[np.ndarray, dict[int, float]]:
    """The values that channels share, and what each of those channels multiplies them by."""
    common = np.empty(0)
    factors: dict[int, float] = {}
    for i in sorted(range(len(values)), key=lambda i: -values[i].size):
        if 0 < values[i].size <= MOST_VALUES:
            factor = _factor(values[i], common) if common.size else 1.0
            if factor is not None:
                factors[i] = factor
                common = _joined(common, values[i] / factor)
    return common, factors


def _factor(values: np.ndarray, common: np.ndarray) -> float | None:
    """What at least half of the values are, divided by common ones.

    Of several that fit most of them the least, which gives the finest scale; None: there is none.
    """
    tried = np.unique(values[:, None] / common)[::-1]
    divided = values / tried[:, None]
    above = np.searchsorted(common, divided)
    near = [common[np.clip(above - step, 0, common.size - 1)] for step in (0, 1)]
    matched = (_same(divided, near[0]) | _same(divided, near[1])).sum(axis=1)
    # Two values are found everywhere by multiplying one.
    if matched.max() < max(min(2, values.size), values.size / 2):
        return None
    best = tried[matched == matched.max()]
    return float(best[np.abs(best).argmin()])


def _step(common: np.ndarray, share: np.ndarray, width: int) -> float:
    """The scale in which the common values are nearest to integers.

    `share` is how many of the weights have each value, `width` the weights of a channel. What all
    of them are off by on average adds up in a sum, the rest cancels for the most part.
    """
    tried = np.abs(common).max() / 127 * np.linspace(1, 2, TRIALS)
    steps = common / tried[:, None]
    errors = (np.rint(steps) - steps) * tried[:, None]
    noise = np.square(errors) @ share + width * np.square(errors @ share)
    return float(tried[noise.argmin()])


def _distinct(row: np.ndarray) -> np.ndarray:
    """The values of a channel but 0, which is 0 in every scale."""
    return _joined(np.empty(0), row[row != 0].astype(np.float64))


def _joined(known: np.ndarray, more: np.ndarray) -> np.ndarray:
    """All values in their order; of those that are the same the first."""
    found = np.unique(np.concatenate([known, more]))
    if found.size < 2:
        return found
    return found[np.concatenate([[True], ~_same(found[1:], found[:-1])])]


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    near: np.ndarray = np.abs(a - b) <= SAME * np.maximum(np.abs(a), np.abs(b))
    return near
