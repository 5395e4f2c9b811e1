"""What may be asked of `edgekit prune`: refused before TensorFlow starts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from edgekit.errors import ConversionError
from edgekit.types import Pruning

SPARSITY, RATIO = 0.8, 0.5
"""Unless others are asked for."""

MOST_CLUSTERS = 256


def asked_for(
    *,
    sparsity: float | None,
    structured: bool,
    ratio: float | None,
    clusters: int | None,
    pattern: str | None,
    layer: str | Sequence[str],
    skip_first: bool,
    skip_last: bool,
    searches: bool,
) -> Pruning:
    """The pruning that options ask for; a search finds another amount.

    Raises:
        ConversionError: they do not go together, or name no amount.
    """
    asked = [
        name
        for name, is_given in {
            "--sparsity": sparsity is not None,
            "--structured": structured or ratio is not None,
            "--pattern": pattern is not None and sparsity is None,
            "--clusters": clusters is not None,
        }.items()
        if is_given
    ]
    if len(asked) > 1:
        raise ConversionError(
            f"{' and '.join(asked)} are separate steps",
            hint="do one, and the next with --variant on what came out",
        )
    if ratio is not None and not structured:
        raise ConversionError("--ratio is of channels", hint="add --structured")
    layers = tuple(_layer(text) for text in ([layer] if isinstance(layer, str) else layer))
    if structured:
        kind, amount = "structured", RATIO if ratio is None else ratio
    elif clusters is not None:
        kind, amount = "cluster", clusters
    else:
        kind, amount = "sparse", SPARSITY if sparsity is None else sparsity
    if pattern is not None:
        amount = _pattern(pattern, sparsity, amount, searches)
    if searches:
        if (sparsity, ratio, clusters) != (None, None, None):
            raise ConversionError(
                "a search finds the amount by itself",
                hint="leave out --sparsity, --ratio and --clusters, or --max-drop",
            )
        if any(value for _, value in layers):
            raise ConversionError(
                "a search finds one amount for all layers",
                hint="with --max-drop, --layer PATTERN=0 leaves layers as they are",
            )
    for what, value in (("", amount), *layers):
        _check(kind, what, value)
    return Pruning(kind, amount, pattern or "", layers, skip_first, skip_last)


def _layer(text: str) -> tuple[str, float]:
    pattern, _, amount = text.rpartition("=")
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    if not pattern or math.isnan(value):
        raise ConversionError(
            f"{text!r} is no PATTERN=AMOUNT", hint="for example --layer 'head*=0.5', or =0"
        )
    return pattern, value


def _pattern(pattern: str, sparsity: float | None, amount: float, searches: bool) -> float:
    """The amount that goes with a pattern of zeros."""
    if not re.fullmatch(r"2:4|([1-9]|1[0-6])x([1-9]|1[0-6])", pattern):
        raise ConversionError(
            f"{pattern!r} is no pattern of zeros",
            hint="2:4, or blocks of inputs x outputs such as 4x1, up to 16x16",
        )
    if pattern == "2:4" and (searches or sparsity not in (None, 0.5)):
        raise ConversionError(
            "2:4 leaves two of four weights, which is a sparsity of 0.5",
            hint="leave out --sparsity and --max-drop, or --pattern",
        )
    return 0.5 if pattern == "2:4" else amount


def _check(kind: str, layer: str, amount: float) -> None:
    """Refuse an amount for all layers or, of a `layer` pattern, one that is not 0 either."""
    of = f"{layer}: " if layer else ""
    if layer and amount == 0:
        return
    if kind == "cluster":
        if amount != int(amount) or not 2 <= amount <= MOST_CLUSTERS:
            raise ConversionError(
                f"{of}{amount:g} values cannot be shared", hint=f"2 to {MOST_CLUSTERS}"
            )
        return
    if not 0 < amount < 1:
        raise ConversionError(
            f"{of}{amount:g} is no share that could go", hint="a number below 1, such as 0.8"
        )
    if not layer and abs(100 * amount - round(100 * amount)) > 1e-9:
        raise ConversionError(
            f"{amount:g} is not in whole percents, by which variants are named", hint="such as 0.85"
        )
