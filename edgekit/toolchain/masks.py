"""Which weights of a kernel become 0: those of the smallest magnitude, in a pattern or anywhere."""

from __future__ import annotations

import re

import numpy as np

from edgekit.errors import ConversionError
from edgekit.toolchain.kernels import Kernel

TWO_OF_FOUR = "2:4"

_COUNTED_IN_FLOAT = 1e-6
"""TFMOT counts the weights of a kernel in float32: in large ones it may miss a few."""


def kept(values: np.ndarray, share: float, pattern: str) -> np.ndarray:
    """Where `values` stay, when `share` of them becomes 0.

    Args:
        values: of a kernel: (places, inputs, outputs).
        share: of the weights or, in blocks, of the blocks. At least one stays. Of "2:4" it goes
            until .5, when two of each four neighbouring inputs are 0.
        pattern: as in `Pruning`.
    """
    if pattern == TWO_OF_FOUR:
        return _kept_of_fours(values, share)
    if not pattern:
        return _largest(np.abs(values), share)
    height, width = block(pattern)
    places, inputs, outputs = values.shape
    rows, columns = -(-inputs // height), -(-outputs // width)
    # What is no whole block at the edge has the mean of what there is of it.
    padded = np.full((places, rows * height, columns * width), np.nan, values.dtype)
    padded[:, :inputs, :outputs] = np.abs(values)
    blocks = np.nanmean(padded.reshape(places, rows, height, columns, width), axis=(2, 4))
    stay = _largest(blocks, share).repeat(height, axis=1).repeat(width, axis=2)
    return stay[:, :inputs, :outputs]


def are_pruned(kernel: Kernel, share: float, pattern: str) -> bool:
    """Whether a kernel has all the zeros that are asked for."""
    values = kernel.values()
    missed = np.count_nonzero(values[~kept(values, share, pattern)])
    return bool(missed <= _COUNTED_IN_FLOAT * values.size)


def check_pattern(pattern: str, amounts: dict[str, float]) -> None:
    """Refuse what is no pattern, or has other amounts than it can.

    Raises:
        ConversionError: it is so.
    """
    if pattern == TWO_OF_FOUR:
        if odd := {name: amount for name, amount in amounts.items() if amount != 0.5}:
            name, amount = next(iter(odd.items()))
            raise ConversionError(
                f"2:4 makes half of the weights 0, and {amount:g} is asked for {name!r}",
                hint="ask for 0.5, or for 0 where a layer is to stay as it is",
            )
    elif pattern:
        block(pattern)


def block(pattern: str) -> tuple[int, int]:
    """Inputs and outputs of a block "4x1".

    Raises:
        ConversionError: it is no such pattern.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", pattern)
    if found is None:
        raise ConversionError(
            f"there is no pattern {pattern!r}",
            hint="2:4, or blocks of INPUTSxOUTPUTS as 4x1, or none",
        )
    return int(found[1]), int(found[2])


def _largest(magnitudes: np.ndarray, share: float) -> np.ndarray:
    """The largest of them; the number is rounded as by TFMOT."""
    count = magnitudes.size - max(1, round(magnitudes.size * (1 - share)))
    stay = np.ones(magnitudes.size, bool)
    stay[np.argpartition(magnitudes.ravel(), max(0, count - 1))[:count]] = False
    return stay.reshape(magnitudes.shape)


def _kept_of_fours(values: np.ndarray, share: float) -> np.ndarray:
    """Until `share` is .5, the smaller ones of those that will have to go, go first."""
    places, inputs, outputs = values.shape
    groups = -(-inputs // 4)
    # Inputs that the last group lacks count as zeros.
    padded = np.full((places, groups * 4, outputs), -1.0, np.float32)
    padded[:, :inputs] = np.abs(values)
    ranks = padded.reshape(places, groups, 4, outputs).argsort(axis=2).argsort(axis=2)
    goes = (ranks < 2).reshape(padded.shape)[:, :inputs]
    magnitudes = np.where(goes, np.abs(values), np.inf).ravel()
    count = round(np.count_nonzero(goes) * min(1.0, share / 0.5))
    stay = np.ones(values.size, bool)
    stay[np.argsort(magnitudes, kind="stable")[:count]] = False
    return stay.reshape(values.shape)
