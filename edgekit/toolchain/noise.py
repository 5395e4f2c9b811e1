"""How much of what a tensor says is lost in a file, and what takes the range of its values."""

from __future__ import annotations

import math

import numpy as np

OUTLIER = 8.0
"""A channel this many times larger than the median one takes three of eight bits from it."""

LARGEST_SQNR_DB = 200.0
"""Reported where nothing differs, since JSON knows no infinity."""

RARE = 0.001
"""Share of the values that may take most of a range before they are called outliers."""

FEW_ROWS = 0.05
"""Share of the rows that may do so; one row is always so few."""

ENOUGH = 100_000
"""Values of a channel that tell its usual spread."""


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


def common(values: np.ndarray) -> float:
    """The size that values of (N, ...) reach, but for a few values or a few rows."""
    sizes = np.abs(values)
    return min(float(np.quantile(sizes, 1 - RARE)), _common_row(sizes))


def without_extreme_rows(values: np.ndarray) -> np.ndarray:
    """(N, ...) without the few rows that are far larger than the others."""
    sizes = np.abs(values)
    return values[_of_rows(sizes) <= OUTLIER * _common_row(sizes)]


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    """The signal-to-noise ratio of `found`, (N, ..., channels) as `wanted`.

    The mean over channels of noise / signal, at most 1 each: so one huge channel does not hide
    that the others are lost. Nor does a huge value, which is cut off where only rare ones are. A
    channel of less variance than the median is measured by that; the classes of a distribution by
    all of them. 200 where nothing differs or varies.
    """
    of_classes = is_distribution(wanted)
    wanted, found = by_channel(wanted), by_channel(found)
    live = varying(wanted)
    if not live.any():
        return LARGEST_SQNR_DB
    wanted, found = wanted[:, live], found[:, live]
    is_number = np.isfinite(found).all(axis=0)
    low, high = _usual(wanted)
    wanted, found = np.clip(wanted, low, high), np.clip(found, low, high)
    noise = np.square(found - wanted).mean(axis=0, dtype=np.float64)
    noise = np.where(is_number, noise, np.inf)
    signal = wanted.var(axis=0, dtype=np.float64)
    if of_classes:
        share = min(noise.sum() / signal.sum(), 1.0)
    else:
        share = np.minimum(noise / np.maximum(signal, np.median(signal)), 1.0).mean()
    if share == 0:
        return LARGEST_SQNR_DB
    return min(LARGEST_SQNR_DB, abs(10 * math.log10(share)))


def _usual(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The limits of each channel of (values, channels), beyond which only rare values are.

    The largest take no part in saying what is far: alone among 64, one would not be.
    """
    some = values[:: max(1, len(values) // ENOUGH)]
    centre = np.median(some, axis=0)
    far = np.abs(some - centre)
    usual = np.where(far <= np.quantile(far, 1 - FEW_ROWS, axis=0, method="lower"), far, np.nan)
    spread = np.sqrt(np.nanmean(np.square(usual, dtype=np.float64), axis=0))
    # A channel of nothing but rare values says only those.
    spread = OUTLIER * np.where(spread > 0, spread, values.std(axis=0, dtype=np.float64))
    return centre - spread, centre + spread


def _of_rows(sizes: np.ndarray) -> np.ndarray:
    return np.asarray(sizes.reshape(len(sizes), -1).max(axis=1))


def _common_row(sizes: np.ndarray) -> float:
    return float(np.quantile(_of_rows(sizes), 1 - FEW_ROWS, method="lower"))
