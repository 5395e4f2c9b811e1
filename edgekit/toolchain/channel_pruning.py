"""Structured pruning: a smaller model, without the channels that matter least.

Every runtime is faster with it, as nothing is left of what was cut: neither zeros nor masks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.errors import ConversionError
from edgekit.toolchain import synthetic
from edgekit.toolchain.amounts import amounts
from edgekit.toolchain.channel_dependencies import Channels, channels_of
from edgekit.toolchain.channel_ids import Axis
from edgekit.toolchain.layer_graph import LayerGraph, layer_graph
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.shrinking import without
from edgekit.types import Pruning

STEPS = ((32, 16), (16, 8), (4, 4))
"""From so many channels on, what is left is a multiple of so many. Kernels compute blocks of
channels: 34 took as long as 48, and 18 as long as 32 (TFLite on AVX-512)."""


SHOWN = 5
"""Layers that an error names."""


@dataclass(frozen=True)
class Cut:
    """A smaller model, and what was cut."""

    model: Any
    """Of the same family and with the same input and output names; not compiled."""
    channels: Mapping[str, tuple[int, int]]
    """Output channels before and after, of each layer that has fewer, by name."""
    left: Mapping[str, str]
    """Why another layer with weights of its own channels was left alone."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of the same layers, of which any can go; `ids` tell them apart."""

    names: tuple[str, ...]
    ids: np.ndarray


def without_channels(model: Any, pruning: Pruning, *, closed: Collection[str] = ()) -> Cut:
    """Cut from each layer the channels that matter least, with all that depends on them.

    Layers whose channels meet (in an addition, say) lose the same ones: as many as the one of
    them loses that is to lose the smallest share.

    Args:
        model: a Functional or Sequential keras.Model or tf_keras.Model; it stays as it is.
        pruning: how much, of the kind "structured".
        closed: names of layers whose outputs keep all channels: the ends of an exported part.

    Raises:
        ConversionError: the model is no graph of layers, or no layer can be cut as asked for.
    """
    graph = layer_graph(model)
    channels = channels_of(graph, _shapes(model, graph), closed)
    left = dict(channels.uncut)
    for name, ids in channels.givers.items():
        if all(n in channels.closed for n in ids.tolist()):
            left[name] = channels.closed[int(ids[0])]
    names = [name for name in channels.givers if name not in left]
    if not names:
        raise _nothing_to_cut(left)
    asked = amounts(pruning, names)
    removed, kept_whole = _chosen(_groups(channels), asked, _scores(channels))
    left |= kept_whole
    cut = {}
    for name, ids in channels.givers.items():
        after = int((~np.isin(ids, removed)).sum())
        if after < len(ids):
            cut[name] = len(ids), after
            left.pop(name, None)
    if not cut:
        raise _nothing_to_cut(left)
    return Cut(without(model, channels, removed), cut, left)


def _chosen(
    groups: Sequence[ChannelGroup], asked: Mapping[str, float], scores: Mapping[int, float]
) -> tuple[list[int], dict[str, str]]:
    """The channels to remove, and why layers that were to lose some lose none in their group."""
    removed: list[int] = []
    left: dict[str, str] = {}
    for group in groups:
        wanted = {name: asked.get(name, 0.0) for name in group.names}
        smallest = min(wanted, key=wanted.__getitem__)
        count, amount = len(group.ids), wanted[smallest]
        kept = rounded(count * (1 - amount), count)
        order = sorted(group.ids.tolist(), key=lambda number: (scores[number], number))
        removed.extend(order[: count - kept])
        if kept == count:
            why = f"{amount:.0%} of {count} channels that go together are too few to round"
            if not amount:
                why = f"its channels go with those of {smallest}, which stays"
            left |= {name: why for name, share in wanted.items() if share}
    return removed, left


def rounded(wanted: float, count: int) -> int:
    """How many of `count` channels to keep where `wanted` are asked for, so that they pay."""
    step = next((step for least, step in STEPS if wanted >= least), 1)
    nearest = step * np.floor(wanted / step + 0.5 + 1e-9)  # half of it up, in binary too
    return int(min(count, max(1, nearest)))


def _nothing_to_cut(left: Mapping[str, str]) -> ConversionError:
    reasons = [f"{name}: {why}" for name, why in left.items()]
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return ConversionError(
        f"no layer has channels to lose: {'; '.join(reasons[:SHOWN])}{more}",
        hint="ask for a higher ratio if they are too few to round; else prune single weights: "
        "--sparsity",
    )


def _shapes(model: Any, graph: LayerGraph) -> dict[int, tuple[int, ...]]:
    """The shapes of all tensors of the graph, for one row or the batch that is fixed."""
    found = of_keras(model)
    feed = synthetic.feed(found, found.fixed_batch or 1, 0)
    specs = zip(graph.inputs, found.inputs, strict=True)
    values = {number: tf.constant(feed[spec.name]) for number, spec in specs}
    for call in graph.calls:
        values.update(zip(call.outputs, call.compute(values), strict=True))
    return {number: tuple(value.shape) for number, value in values.items()}


def _groups(channels: Channels) -> list[ChannelGroup]:
    """The channels that can go, those of the same layers together."""
    names: dict[int, list[str]] = {}
    for name, ids in channels.givers.items():
        for number in dict.fromkeys(ids.tolist()):
            names.setdefault(number, []).append(name)
    found: dict[tuple[str, ...], list[int]] = {}
    for number, givers in names.items():
        if number not in channels.closed:
            found.setdefault(tuple(givers), []).append(number)
    return [ChannelGroup(givers, np.array(ids)) for givers, ids in found.items()]


def _scores(channels: Channels) -> dict[int, float]:
    """How much each channel matters: the squared norms of what gives it and of what takes it.

    Both together lost least of what was tried on trained models: the norms of the givers alone (Li
    et al., 2017), of the takers alone, with and without the scale of the batch normalization
    between them, and their products.
    """
    found: dict[int, float] = {}
    for axis in channels.axes:
        if axis.role != "keeps":
            for number, size in zip(axis.ids.tolist(), _squares(axis).tolist(), strict=True):
                found[number] = found.get(number, 0.0) + size
    return found


def _squares(axis: Axis) -> np.ndarray:
    """(C,) the sums of squares along an axis, as shares of their sum."""
    value = np.moveaxis(np.asarray(axis.variable, np.float64), axis.axis, 0)
    squares = (value.reshape(len(value), -1) ** 2).sum(1)
    return squares / max(squares.sum(), np.finfo(np.float64).tiny)
