"""Why a layer of a file differs from the same layer of Keras, and what can be done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from edgekit.toolchain.operators import Grid, OpenFile
from edgekit.toolchain.segments import Segment
from edgekit.types import Feed

OUTLIER = 8.0
"""A channel this many times larger than the median one takes three of eight bits from it."""

RARE = 0.001
"""Share of the values that may take most of a range before they are called outliers."""

SPREAD = 30.0
"""Ratio of the largest to the smallest channel of weights that share a scale: five bits."""

CUT_OFF = 0.1
"""Share of the values at the end of a range that only rows beyond the calibrated ones make."""

FINE_DB = 20.0
"""Rounding alone is no trouble above this."""

FEW = 0.05
"""Share of the channels that may be constant where all in all little is lost."""

EXACT_DB = 80.0
"""Float kernels that add in another order differ by less than this."""


@dataclass(frozen=True)
class Finding:
    """What makes a layer differ, the figures that show it, and what to try."""

    cause: str
    detail: str
    fix: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a segment, or an input of the model, gives from the same inputs.

    `wanted` by Keras and `found` in the file: (N, ..., channels) float.
    """

    name: str
    """The layer to name in a fix."""
    wanted: np.ndarray
    found: np.ndarray
    sqnr_db: float
    tensor: str
    file: OpenFile
    segment: Segment | None = None
    """None for an input."""
    keep: tuple[str, ...] = ()
    """Layers that have to stay float for the error to go."""
    is_float_file: bool = False
    """Whether the file should give the same as Keras."""
    inside: Feed = field(default_factory=dict)
    """Tensors of the file between those of the segment, (N, ...): logits before a softmax."""

    @property
    def grid(self) -> Grid | None:
        """The grid that `found` is on."""
        return self.file.grid(self.tensor)

    @property
    def keep_float(self) -> str:
        return " ".join(f"--keep-float {name}" for name in self.keep or (self.name,))


def cause_of(evidence: Evidence) -> Finding:
    """The first cause that applies, from the most to the least specific."""
    for look in _CAUSES:
        finding = look(evidence)
        if finding is not None:
            return finding
    return _rounding(evidence)


def by_channel(values: np.ndarray) -> np.ndarray:
    """(values, channels): the last axis are channels."""
    return values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)


def varying(values: np.ndarray) -> np.ndarray:
    """Which channels of (values, channels) say anything: (channels,) bool.

    A change below a thousandth of the channel's own size, or far below the whole tensor's, is none.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.square(values).mean(axis=0, dtype=np.float64)
        variance = values.var(axis=0, dtype=np.float64)
        varies = variance > np.maximum(1e-6 * size, 1e-10 * size.max(initial=0))
    return np.asarray(varies & np.isfinite(size))


def is_distribution(values: np.ndarray) -> bool:
    """Whether the channels are probabilities of classes."""
    flat = by_channel(values)
    return flat.shape[1] > 1 and bool(
        (flat >= 0).all() and np.allclose(flat.sum(axis=1), 1, atol=1e-3)
    )


def outlying(values: np.ndarray, least: float = 0.0) -> tuple[int, float] | None:
    """The largest channel and how many times larger than the median one, if it is an outlier.

    Channels count as `least` at least; those of nothing but 0 do not count.
    """
    largest = np.maximum(np.abs(by_channel(values)).max(axis=0), least)
    used = largest[largest > 0]
    if len(used) < 3:
        return None
    ratio = float(largest.max() / np.median(used))
    return (int(largest.argmax()), ratio) if ratio > OUTLIER else None


def _overflow(evidence: Evidence) -> Finding | None:
    fix = f"use another precision, {evidence.keep_float}, or clip"
    broken = ~np.isfinite(evidence.found)
    if broken.any():
        return Finding(
            "overflow",
            f"{broken.mean():.1%} of the values are NaN or infinite; in Keras they reach "
            f"{np.abs(evidence.wanted).max():.3g}",
            f"{fix} what {evidence.name!r} gives: float16 ends at 65,504",
        )
    if evidence.segment is None or evidence.is_float_file or evidence.sqnr_db > FINE_DB:
        return None
    weights = _weights(evidence.segment, evidence.file, scales=0)
    if any(np.abs(values).max() == np.finfo(np.float16).max for values in weights):
        return Finding(
            "overflow",
            "weights are cut off at 65,504, where float16 ends",
            f"{fix} the weights of {evidence.name!r}",
        )
    return None


def _saturated(evidence: Evidence) -> Finding | None:
    if evidence.sqnr_db > FINE_DB:
        return None
    fix = "calibrate with rows like these (--samples) and --calibration minmax"
    grid, wanted = evidence.grid, evidence.wanted
    if grid is not None:
        beyond = (wanted > grid.high + grid.step) | (wanted < grid.low - grid.step)
        noise = np.square(np.asarray(evidence.found, np.float64) - wanted)
        if beyond.any() and noise[beyond].sum() > 0.5 * noise.sum():
            return Finding(
                "saturated activation",
                f"{beyond.mean():.2%} of the values are beyond [{grid.low:.3g}, {grid.high:.3g}], "
                f"where the file cuts them off; they reach {np.abs(wanted[beyond]).max():.3g}",
                fix,
            )
    for name, values in evidence.inside.items():
        grid = evidence.file.grids.get(name)
        if grid is None:
            continue
        # A lower end of 0 is where ReLU cuts off, and no fault.
        at_end = (values > grid.high - grid.step / 2) | (
            values < min(grid.low + grid.step / 2, -grid.step)
        )
        if at_end.mean() > CUT_OFF:
            return Finding(
                "saturated activation",
                f"{at_end.mean():.2%} of the values of {name.partition(';')[0]} are at the end of "
                f"[{grid.low:.3g}, {grid.high:.3g}]",
                fix,
            )
    return None


def _other_weights(evidence: Evidence) -> Finding | None:
    if not evidence.is_float_file or evidence.segment is None or evidence.sqnr_db > EXACT_DB:
        return None
    differing = next(_differing_weights(evidence.segment, evidence.file), None)
    if differing is not None:
        return Finding(
            "weights differ", differing, "export again: the file is not of these weights"
        )
    share = np.mean(np.abs(evidence.found - evidence.wanted) > 1e-3 * np.abs(evidence.wanted).max())
    return Finding(
        "computed differently",
        f"its weights are the same, and {share:.1%} of the values are not",
        f"export to another format, or replace {evidence.name!r} by other layers",
    )


def _outliers(evidence: Evidence) -> Finding | None:
    if evidence.sqnr_db > FINE_DB:
        return None
    rounded = {name: v for name, v in evidence.inside.items() if name in evidence.file.grids}
    steps = {name: evidence.file.grids[name].step for name in rounded}
    if evidence.grid is not None and not is_distribution(evidence.wanted):
        rounded[evidence.tensor], steps[evidence.tensor] = evidence.wanted, evidence.grid.step
    # What is rounded to 0 was something up to half a step.
    found = (
        (name, outlying(values, 0.0 if name == evidence.tensor else steps[name] / 2))
        for name, values in rounded.items()
    )
    channels = {name: outlier for name, outlier in found if outlier is not None}
    if channels:
        name = max(channels, key=lambda name: channels[name][1])
        return _outlying_channel(evidence, name, rounded[name], *channels[name], steps[name])
    for name, values in rounded.items():
        sizes = np.abs(values)
        common, largest = float(np.quantile(sizes, 1 - RARE)), float(sizes.max())
        if largest > OUTLIER * common:
            return Finding(
                "range outliers",
                f"one in {1 / RARE:,.0f} values is beyond {common:.3g}, the largest is "
                f"{largest:.3g}; all share steps of {steps[name]:.3g}",
                f"--calibration percentile, or {evidence.keep_float}",
            )
    return None


def _outlying_channel(
    evidence: Evidence, tensor: str, values: np.ndarray, channel: int, ratio: float, step: float
) -> Finding:
    largest = np.abs(by_channel(values)).max(axis=0)
    count = int((largest * ratio > OUTLIER * largest.max()).sum())
    which = f"channel {channel} reaches" if count == 1 else f"{count} channels reach up to"
    inside = "" if tensor == evidence.tensor else f"inside, in {tensor.partition(';')[0]}, "
    return Finding(
        "range outliers",
        f"{inside}{which} {largest.max():.3g}, {ratio:.0f} times more than the median channel, and "
        f"all share steps of {step:.3g}",
        f"--equalize, or {evidence.keep_float}",
    )


def _spread(evidence: Evidence) -> Finding | None:
    if evidence.segment is None or evidence.sqnr_db > FINE_DB:
        return None
    channels = evidence.wanted.shape[-1]
    for values in _weights(evidence.segment, evidence.file, scales=1):
        for axis in (a for a in range(values.ndim) if values.shape[a] == channels):
            others = tuple(a for a in range(values.ndim) if a != axis)
            largest = np.abs(values).max(axis=others)
            used = largest[largest > 0]
            if len(used) < 2 or used.max() < SPREAD * used.min():
                continue
            return Finding(
                "per-tensor weight spread",
                f"weights of up to {used.max():.3g} in one channel and {used.min():.3g} in another "
                "are stored with one scale",
                f"quantize per channel, as edgekit does, or {evidence.keep_float}",
            )
    return None


def _dead(evidence: Evidence) -> Finding | None:
    if evidence.is_float_file:
        return None
    wanted, found = by_channel(evidence.wanted), by_channel(evidence.found)
    live = varying(wanted)
    dead = live & (np.ptp(found, axis=0) == 0)
    if not dead.any() or (evidence.sqnr_db > FINE_DB and dead.sum() <= FEW * live.sum()):
        return None
    first = int(np.flatnonzero(dead)[0])
    return Finding(
        "dead channels",
        f"{dead.sum()} of {live.sum()} channels are constant in the file, as channel {first}, "
        f"which goes from {wanted[:, first].min():.3g} to {wanted[:, first].max():.3g}",
        f"--equalize, --precision int16x8, or {evidence.keep_float}",
    )


def _rounding(evidence: Evidence) -> Finding:
    if evidence.is_float_file or evidence.sqnr_db > EXACT_DB:
        return Finding("none", "the same as in Keras", "none needed")
    grid = evidence.grid
    steps = f"steps of {grid.step:.3g}" if grid is not None else "its weights are rounded"
    detail = f"{steps}; values of up to {np.abs(evidence.wanted).max():.3g}"
    if evidence.sqnr_db > FINE_DB:
        return Finding("rounding", detail, "none needed")
    return Finding("rounding", detail, f"{evidence.keep_float}, --max-drop, or --method qat")


_CAUSES: tuple[Callable[[Evidence], Finding | None], ...] = (
    _overflow,
    _saturated,
    _other_weights,
    _outliers,
    _spread,
    _dead,
)
CAUSES = (
    "overflow",
    "saturated activation",
    "weights differ",
    "computed differently",
    "range outliers",
    "per-tensor weight spread",
    "dead channels",
    "rounding",
    "none",
)


def _weights(segment: Segment, file: OpenFile, scales: int | None = None) -> list[np.ndarray]:
    """The float values of what the segment's operators read that is constant."""
    names = [n for name in segment.operators for n in file.producers[name].inputs]
    found = [file.constants[n] for n in dict.fromkeys(names) if n in file.constants]
    return [
        c.values
        for c in found
        if c.values.dtype.kind == "f" and c.values.size > 1 and scales in (None, c.scales)
    ]


def _differing_weights(segment: Segment, file: OpenFile) -> Iterator[str]:
    """The weights of Keras that the file has otherwise, in words.

    Batch normalization is folded into the weights before it: then each channel may have a factor,
    and biases cannot be compared.
    """
    stored = _weights(segment, file)
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
