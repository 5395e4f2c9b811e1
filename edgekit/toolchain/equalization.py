"""Cross-layer equalization: channels of even range, so that the steps of 8 bits fit them all.

Files have a scale for each output channel of a kernel, but one for all channels of an activation:
a channel that is a thousand times smaller than its neighbour has no steps left. After Nagel et
al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), with the ranges
that activations take on rows, as in Xiao et al., SmoothQuant (2023).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from edgekit.agent.rows import pad
from edgekit.toolchain.channels import ChannelGroup, channel_groups
from edgekit.toolchain.layer_graph import LayerGraph, Values
from edgekit.toolchain.model import Model
from edgekit.types import Feed

SAME = 1e-5
"""Largest change of an output, as a share of its scale, that the rounding of floats explains."""

UNEVEN = 2.0
"""How much smaller the ranges must become, those of values and weights multiplied. For less, the
noise of a file goes up or down as the luck of rounding wills (measured: by up to 3 dB)."""

SILENT = 1e-6
"""A channel below this share of the largest one counts as never used."""

LIMIT = 1e4
"""Factors lie between 1 / LIMIT and LIMIT."""

ELEMENTS = 600_000
"""Input elements per eager call, as 4 images of 224²: more of them take gigabytes."""


@contextlib.contextmanager
def equalized(
    model: Model, graph: LayerGraph, rows: Mapping[str, np.ndarray]
) -> Iterator[list[str]]:
    """Within the block, the weights are such that channels have even ranges.

    Groups of channels that are even already stay as they are. What the model computes is the same;
    where it would not be, on the first of `rows`, nothing is changed. Behind the block the weights
    are as before, to the bit. A `Canonical` that was traced before it may hold the old weights, one
    that was traced in it the new ones.

    Args:
        model: the model, whose weights are changed in place.
        graph: its layers.
        rows: (N, ...) finite arrays by Keras input name: N typical rows.

    Yields:
        The names of the layers that give other ranges than before; none: there is nothing to do.
    """
    first = next(_chunks(model, rows))
    shapes = {n: tuple(v.shape) for n, v in _values(model, graph, first).items()}
    groups = channel_groups(graph, shapes)
    sizes = _sizes(model, graph, rows, groups)
    found = [(group, _factors(group, [sizes[n] for n in group.tensors])) for group in groups]
    uneven = [(group, factors) for group, factors in found if factors is not None]
    variables = {id(w.variable): w.variable for g, _ in uneven for w in (*g.givers, *g.takers)}
    before = [(variable, np.asarray(variable).copy()) for variable in variables.values()]
    wanted = _outputs(model, first)
    try:
        for group, factors in uneven:
            group.rescale(factors)
        if _are_same(wanted, _outputs(model, first)):
            yield [name for group, _ in uneven for name in group.names]
        else:
            _restore(before)
            yield []
    finally:
        _restore(before)


def _factors(group: ChannelGroup, sizes: Sequence[np.ndarray]) -> np.ndarray | None:
    """(period,) what each channel is divided by; None: they are even.

    It is the root of what its values are larger than its weights, so that neither the activations
    nor the kernels that take them are left with all the unevenness. Even activations alone, as
    with SmoothQuant's share of 1, were worse: any channel may leave the range on another row then.

    Args:
        group: the channels.
        sizes: (period,) the largest value of each channel, for each tensor of the group.
    """
    values = np.max([_relative(size) for size in sizes], axis=0)
    weights = np.max([_relative(w.sizes(group.period)) for w in group.takers], axis=0)
    has_values, has_weights = values > SILENT, weights > SILENT
    live = has_values & has_weights
    if not live.any() or UNEVEN * (values * weights).max() > 1:
        return None
    values, weights = np.maximum(values, SILENT), np.maximum(weights, SILENT)
    root = np.sqrt(values / weights)
    # A silent channel's weights, which nobody sees, may set the scale of a kernel: like the median.
    by_weights = np.median((weights * root)[live]) / weights
    by_values = values / np.median((values / root)[live])
    choices = [root, by_weights, by_values]
    factors = np.select([live, has_weights, has_values], choices, np.median(root[live]))
    factors *= (values / factors)[live].max()  # the largest value stays where it is
    return np.clip(factors, 1 / LIMIT, LIMIT)


def _relative(sizes: np.ndarray) -> np.ndarray:
    largest = sizes.max()
    return sizes / largest if largest > 0 else sizes


def _sizes(
    model: Model,
    graph: LayerGraph,
    rows: Mapping[str, np.ndarray],
    groups: Sequence[ChannelGroup],
) -> dict[int, np.ndarray]:
    """The largest absolute value of each channel over all rows, by the number of the tensor."""
    found: dict[int, np.ndarray] = {}
    for feed in _chunks(model, rows) if groups else ():
        values = _values(model, graph, feed)
        for group in groups:
            for number in group.tensors:
                channels = np.abs(values[number]).reshape(-1, group.period).max(axis=0)
                found[number] = np.maximum(found.get(number, 0.0), channels, dtype=np.float64)
    return found


def _values(model: Model, graph: LayerGraph, feed: Feed) -> Values:
    """Every tensor of the graph."""
    specs = zip(graph.inputs, model.inputs, strict=True)
    values = {number: tf.constant(feed[spec.name]) for number, spec in specs}
    for call in graph.calls:
        values.update(zip(call.outputs, call.compute(values), strict=True))
    return values


def _chunks(model: Model, rows: Mapping[str, np.ndarray]) -> Iterator[Feed]:
    """As many rows at a time as the model and the memory take."""
    count = len(next(iter(rows.values())))
    elements = sum(value[0].size for value in rows.values())
    step = model.fixed_batch or min(256, max(1, ELEMENTS // elements))
    for start in range(0, count, step):
        yield {n: pad(v[start : start + step], model.fixed_batch) for n, v in rows.items()}


def _outputs(model: Model, feed: Feed) -> Feed:
    outputs = model.call({name: tf.constant(value) for name, value in feed.items()})
    return {name: np.asarray(value, np.float64) for name, value in outputs.items()}


def _are_same(wanted: Feed, found: Feed) -> bool:
    return all(
        np.abs(found[name] - value).max() <= SAME * np.abs(value).max()  # False where it is NaN
        for name, value in wanted.items()
    )


def _restore(before: Sequence[tuple[tf.Variable, np.ndarray]]) -> None:
    for variable, value in before:
        variable.assign(value)
