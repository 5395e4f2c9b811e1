"""Why a layer of a file differs from the same layer of Keras, and what can be done about it."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from edgekit.toolchain.noise import (
    OUTLIER,
    RARE,
    by_channel,
    common,
    is_distribution,
    outlying,
    sqnr_db,
    varying,
    without_extreme_rows,
)
from edgekit.toolchain.operators import Grid, OpenFile
from edgekit.toolchain.segments import Segment
from edgekit.toolchain.stored_weights import differing_weights, stored_weights
from edgekit.types import Feed

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
    """Layers that have to stay float for the error to go: of an input, those that take it."""
    is_float_file: bool = False
    """Whether the file should give the same as Keras."""
    inside: Feed = field(default_factory=dict)
    """Tensors of the file between those of the segment, (N, ...): logits before a softmax."""
    evens_out: Callable[[], bool] = lambda: False
    """Whether --equalize would even out the channels of what the layers give."""

    @property
    def grid(self) -> Grid | None:
        """The grid that `found` is on."""
        return self.file.grid(self.tensor)

    @property
    def keep_float(self) -> str:
        """The options that keep the layers float; none where all activations are."""
        if not self.file.grids:
            return ""
        patterns = (shlex.quote(glob.escape(name)) for name in self.keep)
        return " ".join(f"--keep-float {pattern}" for pattern in patterns)

    @property
    def equalize(self) -> str:
        """The option that evens out channels, where it does."""
        return "--equalize" if self.file.grids and self.evens_out() else ""

    @property
    def wider(self) -> str:
        """The option for activations of 16 bits, where their steps are fine enough; or of floats.

        A range that is far too wide leaves too few steps even of those.
        """
        if self.grid is None:
            return ""
        grid = self.grid
        finer = replace(grid, step=grid.step / 256).rounded(self.wanted)
        is_8_bits = grid.high - grid.low < 256 * grid.step
        is_enough = is_8_bits and sqnr_db(self.wanted, finer) > FINE_DB
        return "--precision " + ("int16x8" if is_enough else "dynamic")


def _any_of(*choices: str) -> str:
    """What to try, in words: "a, b, or c", without what is empty."""
    *others, last = [choice for choice in choices if choice]
    return f"{', '.join(others)}, or {last}" if others else last


def cause_of(evidence: Evidence) -> Finding:
    """The first cause that applies, from the most to the least specific."""
    for look in _CAUSES:
        finding = look(evidence)
        if finding is not None:
            return finding
    return _rounding(evidence)


def _overflow(evidence: Evidence) -> Finding | None:
    fix = _any_of("use another precision", evidence.keep_float, "clip")
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
    weights = stored_weights(evidence.segment, evidence.file, scales=0)
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
    differing = next(differing_weights(evidence.segment, evidence.file), None)
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
    """What takes the range, so that little of it is left for the rest: a channel, or some rows."""
    if evidence.sqnr_db > FINE_DB:
        return None
    rounded = {name: v for name, v in evidence.inside.items() if name in evidence.file.grids}
    grids = {name: evidence.file.grids[name] for name in rounded}
    if evidence.grid is not None and not is_distribution(evidence.wanted):
        rounded[evidence.tensor], grids[evidence.tensor] = evidence.wanted, evidence.grid
    # What is rounded to 0 was something up to half a step.
    least = {name: 0.0 if name == evidence.tensor else grids[name].step / 2 for name in rounded}
    usual = {name: without_extreme_rows(values) for name, values in rounded.items()}
    found = ((name, outlying(values, least[name])) for name, values in usual.items())
    channels = {name: outlier for name, outlier in found if outlier is not None}
    if channels:
        name = max(channels, key=lambda name: channels[name][1])
        return _outlying_channel(evidence, name, usual[name], *channels[name], grids[name].step)
    for name, values in rounded.items():
        grid, size = grids[name], common(values)
        reach = max(-grid.low, grid.high)
        if reach > OUTLIER * max(size, least[name]):
            return Finding(
                "range outliers",
                f"the range goes to {reach:.3g} for a few values or rows, nearly all are within "
                f"{size:.3g}; all share steps of {grid.step:.3g}",
                _any_of(
                    "leave extreme rows out of --samples",
                    _percentile(evidence, name, values),
                    evidence.wider,
                    evidence.keep_float,
                ),
            )
    return None


def _percentile(evidence: Evidence, tensor: str, values: np.ndarray) -> str:
    """The calibration that cuts off the few large values among these, where one would.

    The outputs of the model are never cut, nor does it help where the large values are many.
    """
    if evidence.file.stored(tensor) in map(evidence.file.stored, evidence.file.outputs):
        return ""
    sizes = np.abs(values[values != 0])
    share = float(np.mean(sizes > OUTLIER * common(values)))
    if not 0 < share <= RARE:
        return ""
    return f"--calibration percentile --percentile {100 * (1 - 3 * share):.4g}"


def _outlying_channel(
    evidence: Evidence, tensor: str, values: np.ndarray, channel: int, ratio: float, step: float
) -> Finding:
    largest = np.abs(by_channel(values)).max(axis=0)
    count = int((largest * ratio > OUTLIER * largest.max()).sum())
    kind = "feature" if evidence.segment is None and values.ndim == 2 else "channel"
    which = f"{kind} {channel} reaches" if count == 1 else f"{count} {kind}s reach up to"
    inside = "" if tensor == evidence.tensor else f"inside, in {tensor.partition(';')[0]}, "
    if evidence.segment is None:
        scaled = f"scale each {kind}: before the model, or in a first layer that is kept float"
        fix = _any_of(evidence.keep_float, f"{scaled} (Normalization, Rescaling)")
    else:
        fix = _any_of(evidence.equalize, evidence.keep_float)
    return Finding(
        "range outliers",
        f"{inside}{which} {largest.max():.3g}, {ratio:.0f} times more than the median {kind}, and "
        f"all share steps of {step:.3g}",
        fix,
    )


def _spread(evidence: Evidence) -> Finding | None:
    if evidence.segment is None or evidence.sqnr_db > FINE_DB:
        return None
    channels = evidence.wanted.shape[-1]
    for values in stored_weights(evidence.segment, evidence.file, scales=1):
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
                _any_of("quantize per channel, as edgekit does", evidence.keep_float),
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
        _any_of(evidence.equalize, evidence.wider, evidence.keep_float),
    )


def _rounding(evidence: Evidence) -> Finding:
    if evidence.is_float_file or evidence.sqnr_db > EXACT_DB:
        return Finding("none", "the same as in Keras", "none needed")
    grid = evidence.grid
    steps = f"steps of {grid.step:.3g}" if grid is not None else "its weights are rounded"
    detail = f"{steps}; values of up to {np.abs(evidence.wanted).max():.3g}"
    if evidence.sqnr_db > FINE_DB:
        return Finding("rounding", detail, "none needed")
    precision = "" if evidence.file.grids else "another precision"
    fix = _any_of(evidence.keep_float, precision, "--max-drop", "--method qat")
    return Finding("rounding", detail, fix)


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
