"""Bias correction: what quantization adds to the mean of each channel is taken off its bias.

After Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019),
with rows in the place of assumptions about them. It costs nothing when the file runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from edgekit.types import Feed

MOST_ROWS = 128
FEWEST_ROWS = 32
"""Of large activations, in each of which a mean is taken over many places."""

MOST_VALUES = 2**26
"""Of activations that means are taken of: with more in a row, fewer rows are run."""

MOST_BYTES = 2**29
"""Of what is kept of the rows between two layers; where it would be more, rows are left out."""

FEWEST_PASSING = 0.01
"""Of fewer values, as a share of all in their channel, the mean says nothing."""

Tensor = TypeVar("Tensor", bound=Hashable)
"""What a tensor of a file is known by."""


@dataclass(frozen=True)
class Layer(Generic[Tensor]):
    """An operator of the quantized file that adds a bias, and what is measured of it."""

    place: int
    """Of the operator, among those of the quantized file."""
    output: Tensor
    """The sum, or what a Relu or Clip leaves of it: in the quantized file."""
    expected: Tensor
    """The same in the float file."""
    axis: int
    """Of the channels in both."""
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """Of the Relu or Clip: what it cuts off does not change with the bias."""
    scale: float = 1.0
    zero_point: int = 0
    """The quantized file's output stands for (value - zero_point) * scale."""


class Graph(Protocol[Tensor]):
    """The operators of a file, of which any part can be run."""

    @property
    def operators(self) -> Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]]:
        """The tensors that each of them reads and gives, in an order of computation."""
        ...

    def part(
        self, given: Mapping[Tensor, np.ndarray], wanted: Collection[Tensor]
    ) -> Callable[[Mapping[Tensor, np.ndarray]], dict[Tensor, np.ndarray]]:
        """What computes `wanted` from tensors like `given`, by the biases of this moment."""
        ...


class Correctable(Graph[Tensor], Protocol[Tensor]):
    """The operators of a quantized file."""

    def subtract(self, place: int, error: np.ndarray) -> None:
        """Take a (channels,) array off the bias that the operator at `place` adds."""
        ...


def correct(
    layers: Sequence[Layer[Tensor]],
    quantized: Correctable[Tensor],
    quantized_rows: Sequence[Mapping[Tensor, np.ndarray]],
    floats: Graph[Tensor],
    float_rows: Sequence[Mapping[Tensor, np.ndarray]],
) -> None:
    """Change the biases of a quantized file, so that each channel has the mean it has in float.

    Layer by layer in the order of computation, each with those before it corrected, since the
    error of one changes that of the next. Of each row the tensors just before a layer are kept,
    and the next layer is reached from there: a row goes through the file about twice.

    Args:
        layers: those to correct; in the order of their places.
        quantized: the quantized file, changed in place.
        quantized_rows: the inputs of each, one row at a time; two or more.
        floats: the file it was made from.
        float_rows: the same rows.
    """
    if not layers or len(float_rows) < 2:
        return
    means, passing = _expected(layers, floats, float_rows)
    states = [dict(row) for row in quantized_rows[: len(means[layers[0]])]]
    for layer in layers:
        live = _live(quantized, states[0], layer.place, layers)
        part = quantized.part(states[0], {layer.output, *live} - set(states[0]))
        errors = []
        for i, state in enumerate(states):
            values = {**state, **part(state)}
            mean = (_mean(values[layer.output], layer.axis) - layer.zero_point) * layer.scale
            errors.append(mean - means[layer][i])
            states[i] = {tensor: values[tensor] for tensor in live}
            size = sum(value.nbytes for value in states[0].values())
            if i > 0 and (i + 2) * size > MOST_BYTES:
                break
        del states[len(errors) :]
        quantized.subtract(layer.place, _significant(np.array(errors)) / passing[layer])


def sample(rows: Mapping[str, np.ndarray]) -> list[Feed]:
    """Some rows of (N, ...) arrays as (1, ...) arrays: the same ones in whatever order they come.

    No more than `correct` takes.
    """

    def key(i: int) -> bytes:
        return hashlib.sha256(b"".join(rows[n][i].tobytes() for n in sorted(rows))).digest()

    chosen = sorted(range(len(next(iter(rows.values()), ()))), key=key)[:MOST_ROWS]
    return [{name: value[i : i + 1] for name, value in rows.items()} for i in chosen]


def _expected(
    layers: Sequence[Layer[Tensor]],
    floats: Graph[Tensor],
    rows: Sequence[Mapping[Tensor, np.ndarray]],
) -> tuple[dict[Layer[Tensor], list[np.ndarray]], dict[Layer[Tensor], np.ndarray]]:
    """By layer: what the means are in float, row by row, and which share of the values passes."""
    part = floats.part(rows[0], {layer.expected for layer in layers})
    means: dict[Layer[Tensor], list[np.ndarray]] = {layer: [] for layer in layers}
    shares: dict[Layer[Tensor], list[np.ndarray]] = {layer: [] for layer in layers}
    count = len(rows)
    for row in rows:
        if len(means[layers[0]]) == count:
            break
        values = part(row)
        size = sum(values[layer.expected].size for layer in layers)
        count = min(len(rows), max(FEWEST_ROWS, MOST_VALUES // max(1, size)))
        for layer in layers:
            value = values[layer.expected]
            means[layer].append(_mean(value, layer.axis))
            shares[layer].append(_passing(value, layer))
    return means, {
        layer: np.maximum(np.mean(share, axis=0), FEWEST_PASSING) for layer, share in shares.items()
    }


def _live(
    graph: Graph[Tensor],
    given: Collection[Tensor],
    place: int,
    layers: Sequence[Layer[Tensor]],
) -> set[Tensor]:
    """Tensors that are there before an operator, and that it or a later one reads for a layer."""
    needed = {layer.output for layer in layers}
    before, read = set(given), set[Tensor]()
    for at, (reads, gives) in reversed(list(enumerate(graph.operators))):
        if at < place:
            before.update(gives)
        elif needed.intersection(gives):
            needed.update(reads)
            read.update(reads)
    return read & before


def _significant(errors: np.ndarray) -> np.ndarray:
    """The mean of (rows, channels) errors, less the share of it that is to be put down to chance.

    A mean of few values differs from 0 even where rounding adds nothing on the whole.
    """
    mean: np.ndarray = errors.mean(axis=0)
    chance = errors.var(axis=0, ddof=1) / len(errors)
    power = np.square(mean)
    return mean * (1 - np.divide(chance, power, out=np.ones_like(power), where=power > chance))


def _mean(value: np.ndarray, axis: int) -> np.ndarray:
    """Of each channel; 0 where the row has no values."""
    total: np.ndarray = value.sum(axis=_others(value, axis), dtype=np.float64)
    return total / _count(value, axis)


def _passing(value: np.ndarray, layer: Layer[Tensor]) -> np.ndarray:
    """Share of the values in each channel that change with the bias."""
    low, high = layer.bounds
    if np.isinf([low, high]).all():
        return np.ones(value.shape[layer.axis])
    passes = np.count_nonzero((value > low) & (value < high), axis=_others(value, layer.axis))
    return np.asarray(passes / _count(value, layer.axis))


def _count(value: np.ndarray, axis: int) -> int:
    """How many values a channel has."""
    return max(1, value.size // value.shape[axis])


def _others(value: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(value.ndim) if i != axis % value.ndim)
