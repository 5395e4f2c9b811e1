"""Two sets of outputs of the same rows: how far apart, and is that allowed."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from edgekit.stats import agreement
from edgekit.types import Feed, Histogram, OutputParity, Tolerance

LARGEST_SQNR_DB = 200.0
"""Reported when there is no difference at all, since JSON knows no infinity."""

FEW_CHANNELS = 0.05
"""A detector's scores are more of its channels than this; a feature vector's rare ones are not."""

LOST = 10 ** (-10 / 20)
"""Typical noise with which a channel carries no more than int8 must as a whole: 10 dB."""

ENOUGH_ROWS = 8
"""Fewer have no typical one among them."""

ERROR_EDGES = tuple(float(f"{10 ** (half / 2):.3g}") for half in range(-18, 1))
"""Of the histogram of errors: two for each power of ten."""

NORMAL = 1.4826
"""A normal distribution's standard deviation, by its median deviation."""

TOLERANCES = {
    # Float kernels differ in the order of their sums. Deep networks were seen to add up to 2e-5 of
    # the output's scale; a lost or swapped weight starts around 1e-2.
    "fp32": Tolerance(
        max_rel=5e-5, min_channel_sqnr_db=40, max_dead_channels=FEW_CHANNELS, max_drop=0.001
    ),
    "fp16": Tolerance(
        max_rel=2e-2, min_sqnr_db=30, min_top1=0.98, max_dead_channels=FEW_CHANNELS, max_drop=0.01
    ),
    # The largest error of 8 bits says little: the noise over all rows and the decisions count.
    "int8": Tolerance(min_sqnr_db=10, min_top1=0.90, max_dead_channels=FEW_CHANNELS, max_drop=0.05),
}
# The same weights, and finer activations: a model that is ruined by its weights is no better.
TOLERANCES["dynamic"] = TOLERANCES["int16x8"] = TOLERANCES["int8"]
"""What each precision is held to."""


def compare(
    reference: Feed,
    outputs: Feed,
    *,
    classifier: bool | None = None,
    labelled: Collection[str] = (),
) -> list[OutputParity]:
    """Each output of `outputs` against `reference`, in the order of `reference`.

    Both hold the same names, shapes and no NaN (see `mismatches`). Rows are the first axis. Top-1
    agreement is computed for outputs that have class labels (`labelled`), and for other outputs
    (rows, classes): of a classifier, or, where that is not known (None), if the reference is a
    probability distribution.
    """
    found = []
    for name, value in reference.items():
        wanted = np.asarray(value, np.float64)
        is_classifier = name in labelled or _is_classifier(wanted, classifier)
        found.append(_compare(name, wanted, outputs[name], is_classifier))
    return found


def mismatches(reference: Feed, outputs: Feed) -> list[str]:
    """What makes a comparison pointless: missing outputs, other shapes, NaN or infinity."""
    problems = []
    for name, wanted in reference.items():
        found = outputs.get(name)
        if found is None:
            problems.append(f"output {name!r} is missing")
        elif found.shape != wanted.shape:
            problems.append(
                f"output {name!r} has the shape {found.shape}, the Keras model gives {wanted.shape}"
            )
        elif found.dtype.kind == "f" and not np.isfinite(found).all():
            share = 1 - np.isfinite(found).mean()
            problems.append(f"output {name!r} is NaN or infinite in {share:.1%} of its values")
    return problems


def violations(
    parity: OutputParity, tolerance: Tolerance, model: str = "the Keras model"
) -> list[str]:
    """Each figure that is outside of `tolerance`, in words; `model` is what it is held against."""
    problems = []
    output = f"output {parity.name!r}"
    if tolerance.max_rel is not None and parity.max_rel > tolerance.max_rel:
        problems.append(
            f"{output} is off by {parity.max_rel:.2g} of its scale (max abs {parity.max_abs:.3g}), "
            f"allowed is {tolerance.max_rel:.0e}"
        )
    if tolerance.min_sqnr_db is not None and parity.sqnr_db < tolerance.min_sqnr_db:
        problems.append(
            f"{output} has a signal-to-noise ratio of {parity.sqnr_db:.1f} dB, "
            f"at least {tolerance.min_sqnr_db:.0f} dB is asked"
        )
    top1 = parity.top1_agreement
    if tolerance.min_top1 is not None and top1 is not None and top1 < tolerance.min_top1:
        problems.append(
            f"{output} has the top class of {model} in {top1:.1%} of the "
            f"rows, at least {tolerance.min_top1:.0%} is asked"
        )
    worst, least = parity.channel_sqnr_db, tolerance.min_channel_sqnr_db
    if least is not None and worst is not None and worst < least:
        problems.append(
            f"{output} has a channel with a signal-to-noise ratio of {worst:.1f} dB, "
            f"at least {least:.0f} dB is asked"
        )
    dead, most = parity.dead_channels, tolerance.max_dead_channels
    if most is not None and dead is not None and dead > most:
        problems.append(
            f"{output} carries nothing in {dead:.0%} of the channels that vary in {model}: "
            f"they are constant, or typically off by more than {LOST:.0%} of their variation"
        )
    return problems


def _compare(
    name: str, wanted: np.ndarray, output: np.ndarray, is_classifier: bool
) -> OutputParity:
    found = np.asarray(output, np.float64)
    difference = np.abs(found - wanted)
    scale = float(np.abs(wanted).max(initial=0.0))
    max_abs = float(difference.max(initial=0.0))
    channels = None if is_classifier else _channels(wanted, found)
    return OutputParity(
        name=name,
        max_abs=max_abs,
        mean_abs=float(difference.mean()),
        scale=scale,
        max_rel=max_abs / scale if scale else max_abs,
        cosine=_cosine(wanted, found),
        sqnr_db=_sqnr_db(wanted, difference),
        top1_agreement=agreement(wanted, found) if is_classifier else None,
        channel_sqnr_db=channels[0] if channels else None,
        dead_channels=channels[1] if channels else None,
        typical_noise=channels[2] if channels else None,
        errors=_histogram(difference / scale if scale else difference),
    )


def _histogram(errors: np.ndarray) -> Histogram:
    places = np.searchsorted(ERROR_EDGES, errors.ravel(), side="right")
    counts = np.bincount(places, minlength=len(ERROR_EDGES) + 1)
    return Histogram(ERROR_EDGES, tuple(int(count) for count in counts))


def _channels(wanted: np.ndarray, found: np.ndarray) -> tuple[float, float, float | None] | None:
    """Of the channels that vary from row to row: the worst one's SQNR, the share that carries
    nothing, the typical noise of the typical one.
    """
    wanted = wanted.reshape(len(wanted), -1, wanted.shape[-1] if wanted.ndim > 1 else 1)
    found = found.reshape(wanted.shape)
    signal = np.square(wanted - wanted.mean(axis=0)).mean(axis=(0, 1))
    noise = np.square(found - wanted).mean(axis=(0, 1))
    # A change below a thousandth of the channel's own size, or near nothing, is no signal.
    size = np.square(wanted).mean(axis=(0, 1))
    varies = signal > np.maximum(1e-6 * size, 1e-60)
    if not varies.any():
        return None
    with np.errstate(divide="ignore"):
        ratios = np.minimum(10 * np.log10(signal[varies] / noise[varies]), LARGEST_SQNR_DB)
    is_dead = np.ptp(found[..., varies], axis=0).max(axis=0) == 0
    typical = _typical_noise(wanted[..., varies], found[..., varies])
    is_dead |= typical > LOST
    judged = np.sort(typical[np.isfinite(typical)])
    middle = float(judged[len(judged) // 2]) if len(judged) else None
    return float(ratios.min()), float(is_dead.mean()), middle


def _typical_noise(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The median row's error as a share of the standard deviation that the median row tells of.

    By channel; of one value per row that is the median error over 1.48 MAD, at most the noise of
    all rows where errors and values have no heavy tails. A few rows of huge values, as behind an
    `exp`, carry the variance, and hide that all others are lost. A map is judged row by row, since
    most of its places may be background.

    Not a number where that says nothing: the channel is bounded by 1, so that most rows may lie
    at a bound (probabilities, masks, tanh), or most rows are alike (a sparse ReLU).
    """
    if len(wanted) < ENOUGH_ROWS:
        return np.full(wanted.shape[-1], np.nan)
    centre = np.median(wanted, axis=0)
    deviation, error, size = (
        np.median(np.sqrt(np.square(values).mean(axis=1)), axis=0)
        for values in (wanted - centre, found - wanted, wanted)
    )
    is_bounded = np.abs(wanted).max(axis=(0, 1)) <= 1
    is_alike = deviation <= np.maximum(1e-3 * size, 1e-30)
    share = error / np.where(is_alike, 1.0, NORMAL * deviation)
    return np.where(is_bounded | is_alike, np.nan, share)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b) / norms) if norms else float(np.array_equal(a, b))


def _sqnr_db(wanted: np.ndarray, difference: np.ndarray) -> float:
    """Signal = what varies from row to row: a constant output must not look like a good one."""
    centre = wanted.mean(axis=0) if len(wanted) > 1 else 0.0
    # A model whose output never changes has its size for a signal.
    signal = float(np.square(wanted - centre).mean()) or float(np.square(wanted).mean())
    noise = float(np.square(difference).mean())
    if noise == 0:
        return LARGEST_SQNR_DB
    return min(LARGEST_SQNR_DB, 10 * math.log10(max(signal, 1e-300) / noise))


def _is_classifier(reference: np.ndarray, classifier: bool | None) -> bool:
    if reference.ndim != 2 or reference.shape[1] < 2 or classifier is False:
        return False
    distribution = (reference >= 0).all() and np.allclose(reference.sum(axis=1), 1, atol=1e-3)
    return bool(classifier or distribution)
