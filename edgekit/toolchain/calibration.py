"""Calibration: the range of each activation over all rows, whatever their order.

The same for every format and quantizer. "minmax" takes all that was seen. The others leave out
rare values, so that the common ones get finer steps: "percentile" a given share, "entropy" as much
as changes the distribution least (by Kullback-Leibler divergence, as in TensorRT: Migacz, 8-bit
Inference, GTC 2017). Both count in a histogram, and again in a narrower one where a few values far
away left it only some coarse bins. Zeros are not counted: they are exact at any step, and after a
ReLU so many that they would decide alone. The model's own outputs are never cut: their largest
values are results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.errors import ConversionError
from edgekit.toolchain.taps import Tapped
from edgekit.types import Feed, Signature

BINS = 2048
LEVELS = 256
"""Steps of an 8-bit activation."""

COARSE = 8
"""How many times wider than the range that was found a histogram may be."""

MAX_PASSES = 4
"""So many histograms at most, each up to BINS times narrower than the one before."""

MOST_CUT = 1e-3
"""Share of the values that "entropy" may cut off.

More, and it gives the large values, which decide, for the shape of the small ones: 16 dB instead
of 36 on fashion_mnist_cnn.
"""

ROOM = 0.1
"""How far beyond its calibrated range, as a share of its width, an activation may go unnoticed."""


@dataclass(frozen=True)
class Range:
    """The values that an activation takes."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


Ranges = Mapping[str, Range]
"""By the tensor's name in the file."""

Cut = Callable[[np.ndarray, Range], Range]
"""From the counts of a histogram and its limits to the range that is kept."""


def calibrate(
    tapped: Tapped,
    rows: Mapping[str, np.ndarray],
    *,
    method: str = "minmax",
    percentile: float = 99.99,
) -> dict[str, Range]:
    """The range of every float activation of a file.

    Args:
        tapped: the float file.
        rows: (N, ...) finite arrays by Keras input name.
        method: "minmax", "percentile" or "entropy".
        percentile: share of the values, in percent, that "percentile" keeps.

    Raises:
        ConversionError: there is no row, or an activation is NaN or infinite.
    """
    if not len(next(iter(rows.values()), ())):
        raise ConversionError("there are no rows to calibrate with", hint="give --samples")
    widest = _extremes(tapped, rows)
    if method == "minmax":
        return widest
    if method == "entropy":
        return _cut(tapped, rows, widest, _least_divergence)
    share = (100 - percentile) / 100
    return _cut(tapped, rows, widest, lambda counts, limits: _without_tails(counts, limits, share))


def beyond(calibrated: Ranges, seen: Ranges) -> dict[str, float]:
    """Activations that leave their calibrated range: by how much, as a share of its width."""
    found = {}
    for name, limits in calibrated.items():
        if name not in seen or limits.width <= 0:
            continue
        excess = max(limits.low - seen[name].low, seen[name].high - limits.high) / limits.width
        if excess > ROOM:
            found[name] = excess
    return found


def departures(
    tapped: Tapped,
    calibrated: Ranges,
    rows: Mapping[str, np.ndarray],
    signature: Signature,
    layers: Callable[[], Mapping[str, str]] = dict,
) -> list[str]:
    """A warning where activations leave their calibrated ranges on other rows.

    Args:
        tapped: the float file.
        calibrated: its ranges.
        rows: (N, ...) other rows, by Keras input name.
        signature: the file's own.
        layers: gives the Keras layers of the file's tensors by their names, as far as they are
            known; asked only where there is something to say.
    """
    found = beyond(calibrated, calibrate(tapped, rows))
    if not found:
        return []
    worst = max(found, key=lambda name: found[name])
    inputs = zip(tapped.tensors, signature.inputs, strict=False)
    names = {tensor: f"the input {spec.name!r}" for tensor, spec in inputs}
    names |= {spec.native: f"the output {spec.name!r}" for spec in signature.outputs}
    if worst not in names:
        names |= {tensor: f"the layer {layer!r}" for tensor, layer in layers().items()}
    where = names.get(worst, f"the tensor {worst}")
    return [
        f"{len(found)} of {len(calibrated)} activations leave their calibrated range on rows that "
        f"had no part in it, {where} by {found[worst]:.0%}; more samples would widen it"
    ]


def _extremes(tapped: Tapped, rows: Mapping[str, np.ndarray]) -> dict[str, Range]:
    found: dict[str, Range] = {}
    for values in _activations(tapped, rows):
        for name, value in values.items():
            low, high = float(value.min()), float(value.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ConversionError(
                    f"the activation {name} is NaN or infinite on a calibration row",
                    hint="look for a division by zero or an overflow in the model",
                )
            known = found.get(name)
            if known is not None:
                low, high = min(low, known.low), max(high, known.high)
            found[name] = Range(low, high)
    return found


def _activations(tapped: Tapped, rows: Mapping[str, np.ndarray]) -> Iterator[Feed]:
    """Row by row: in a batch, the last bits of a row may depend on its neighbours."""
    for i in range(len(next(iter(rows.values())))):
        # A fixed batch is filled with one row, which does not change its range.
        feed = {name: np.repeat(v[i : i + 1], tapped.batch, axis=0) for name, v in rows.items()}
        values = tapped.run(feed)
        yield {n: v for n, v in values.items() if v.dtype == np.float32 and v.size}


def _cut(
    tapped: Tapped, rows: Mapping[str, np.ndarray], widest: Ranges, cut: Cut
) -> dict[str, Range]:
    """What `cut` keeps of each activation, seen finely enough."""
    found = dict(widest)
    limits = {n: r for n, r in widest.items() if n not in tapped.outputs and r.width > 0}
    for _ in range(MAX_PASSES):
        counts = {name: np.zeros(BINS, np.int64) for name in limits}
        for values in _activations(tapped, rows):
            for name, total in counts.items():
                total += _histogram(values[name], limits[name])
        coarse = {}
        for name, total in counts.items():
            found[name] = cut(total, limits[name])
            if found[name].width * COARSE < limits[name].width:
                coarse[name] = found[name]
        limits = {name: kept for name, kept in coarse.items() if kept.width > 0}
        if not limits:
            break
    return found


def _histogram(values: np.ndarray, limits: Range) -> np.ndarray:
    """Counts in BINS equal bins, without zeros; what lies outside counts in the first or last."""
    places = (values[values != 0].astype(np.float64) - limits.low) * (BINS / limits.width)
    return np.bincount(np.clip(places, 0, BINS - 1).astype(np.intp), minlength=BINS)


def _without_tails(counts: np.ndarray, limits: Range, share: float) -> Range:
    """Half of `share` is cut off at either end."""
    if not counts.any():
        return limits
    cumulated = np.cumsum(counts)
    first = int(np.searchsorted(cumulated, cumulated[-1] * (share / 2), side="right"))
    last = int(np.searchsorted(cumulated, cumulated[-1] * (1 - share / 2), side="left"))
    edges = _edges(limits)
    return Range(float(edges[first]), float(edges[last + 1]))


def _edges(limits: Range) -> np.ndarray:
    return np.linspace(limits.low, limits.high, BINS + 1)


def _least_divergence(counts: np.ndarray, limits: Range) -> Range:
    """Up to the magnitude where clipping and rounding, together, change the distribution least."""
    common = _without_tails(counts, limits, MOST_CUT)
    if common.width * COARSE < limits.width:  # too coarse to tell: look around there again
        margin = common.width / 2
        return Range(max(limits.low, common.low - margin), min(limits.high, common.high + margin))
    edges, cumulated = _edges(limits), np.concatenate([[0], np.cumsum(counts)])
    largest = max(abs(limits.low), abs(limits.high))
    best, least = limits, np.inf
    for magnitude in np.linspace(largest, largest / 32, 125):
        kept = Range(max(limits.low, -magnitude), min(limits.high, magnitude))
        first, last = np.searchsorted(edges, (kept.low, kept.high))
        if cumulated[last] - cumulated[first] < (1 - MOST_CUT) * cumulated[-1]:
            break
        divergence = _divergence(counts, edges, first, last)
        if divergence < least - 1e-9:
            best, least = Range(float(edges[first]), float(edges[last])), divergence
    return best


def _divergence(counts: np.ndarray, edges: np.ndarray, first: int, last: int) -> float:
    """KL divergence of the distribution, clipped to some bins, from itself in `LEVELS` steps."""
    if last - first < LEVELS // 2:
        return np.inf
    inside = counts[first:last].astype(np.float64)
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    # The steps go through 0 even if no value does.
    low, high = min(edges[first], 0.0), max(edges[last], 0.0)
    middles = (edges[first:last] + edges[first + 1 : last + 1]) / 2
    step = np.clip((middles - low) * (LEVELS / (high - low)), 0, LEVELS - 1).astype(np.intp)
    filled = inside > 0
    sums, bins = np.bincount(step, inside, LEVELS), np.bincount(step, filled, LEVELS)
    rounded = np.where(filled, sums[step] / np.maximum(bins[step], 1), 0.0)
    # Smoothed: a clipped value where the steps have none must cost something, not everything.
    smooth = 1e-9 * clipped.sum()
    p, q = clipped + smooth, rounded + smooth
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))
