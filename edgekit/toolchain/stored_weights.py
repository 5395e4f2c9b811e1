"""The weights that a file has for a Keras layer, and where they are others than those of Keras."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from edgekit.toolchain.operators import OpenFile
from edgekit.toolchain.segments import Segment


def stored_weights(segment: Segment, file: OpenFile, scales: int | None = None) -> list[np.ndarray]:
    """The float values of what the segment's operators read that is constant."""
    names = [n for name in segment.operators for n in file.producers[name].inputs]
    found = [file.constants[n] for n in dict.fromkeys(names) if n in file.constants]
    return [
        c.values
        for c in found
        if c.values.dtype.kind == "f" and c.values.size > 1 and scales in (None, c.scales)
    ]


def differing_weights(segment: Segment, file: OpenFile) -> Iterator[str]:
    """The weights of Keras that the file has otherwise, in words.

    Batch normalization is folded into the weights before it: then each channel may have a factor,
    and biases cannot be compared.
    """
    stored = stored_weights(segment, file)
    layers = {id(call.layer): call for call in segment.calls}.values()
    is_scaled = any(hasattr(call.layer, "moving_variance") for call in layers)
    for call in layers:
        if hasattr(call.layer, "moving_variance"):
            continue
        for weight in call.layer.weights:
            wanted = np.asarray(weight, np.float64)
            if wanted.size < 2 or (is_scaled and wanted.ndim < 2):
                continue
            ratios = [
                _share_differing(wanted, values, is_scaled)
                for values in stored
                if values.size == wanted.size
            ]
            if ratios and min(ratios)[0] > 0:
                share, place, is_, should = min(ratios)
                name = weight.name.rpartition("/")[2].partition(":")[0]
                yield (
                    f"{name} of {call.name!r} differs in {share:.2%} of its values, most at "
                    f"{list(place)}: {is_:.4g} instead of {should:.4g}"
                )


def _share_differing(
    wanted: np.ndarray, stored: np.ndarray, is_scaled: bool
) -> tuple[float, tuple[int, ...], float, float]:
    """Share of the values that differ in the arrangement where the fewest do, and the worst."""
    best: tuple[float, tuple[int, ...], float, float] = (2.0, (), 0.0, 0.0)
    dims = [d for d in wanted.shape if d != 1]
    for axes in permutations(range(stored.ndim)):
        if [stored.shape[a] for a in axes if stored.shape[a] != 1] != dims:
            continue
        values = stored.transpose(axes).reshape(wanted.shape).astype(np.float64)
        if is_scaled:
            values = values / _factors(wanted, values)
        difference = np.abs(values - wanted)
        share = float((difference > 1e-4 * np.abs(wanted).max()).mean())
        if share < best[0]:
            place = tuple(int(i) for i in np.unravel_index(difference.argmax(), wanted.shape))
            best = share, place, float(values[place]), float(wanted[place])
    return best


def _factors(wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many times larger each channel is stored than it is in Keras: (..., channels)."""
    # A depthwise kernel (h, w, channels, 1) has its channels before the last axis.
    kept = (2, 3) if wanted.ndim == 4 and wanted.shape[3] == 1 else (wanted.ndim - 1,)
    others = tuple(axis for axis in range(wanted.ndim) if axis not in kept)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(wanted != 0, values / wanted, np.nan)
    factors = np.nan_to_num(np.nanmedian(ratio, axis=others, keepdims=True), nan=1.0)
    return np.where(factors == 0, 1.0, factors)
