"""Weights of an ONNX file that are stored narrower than they are computed with.

A Cast (and for int8 a Mul by the scales) gives back the float32 weight under its own name.
onnxruntime computes both once, when it loads the file; a DequantizeLinear, or arithmetic in
float16, it would compute at each call (measured: 1.1 to 23 times slower).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.toolchain.onnx_file import WEIGHTED, subgraphs

RECURRENT = ("GRU", "LSTM", "RNN")

LARGEST_HALF = float(np.finfo(np.float16).max)
SMALLEST_HALF = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class Weight:
    """A float32 constant of two or more axes, in the graph that holds it."""

    graph: Any
    tensor: Any
    channels: tuple[int, ...]
    """Axes along which the slices have scales of their own."""

    @property
    def values(self) -> np.ndarray:
        return numpy_helper.to_array(self.tensor)


def constants_read_by(graph: Any, outputs: Collection[str]) -> set[str]:
    """Names of all that the nodes which give `outputs` read."""
    return {name for n in graph.node if not set(outputs).isdisjoint(n.output) for name in n.input}


def matrices(graph: Any, but: Collection[str] = ()) -> Iterator[Weight]:
    """Every float32 constant of two or more axes, in the graph and inside its nodes."""
    for inner in subgraphs(graph):
        for tensor in list(inner.initializer):
            is_float = tensor.data_type == onnx.TensorProto.FLOAT
            if is_float and len(tensor.dims) > 1 and tensor.name not in but:
                yield Weight(inner, tensor, ())


def multiplied(graph: Any, but: Collection[str] = ()) -> Iterator[Weight]:
    """Those of `matrices` that are multiplied with activations, or tables of embeddings."""
    channels: dict[str, tuple[int, ...]] = {}
    outer: dict[str, str] = {}
    for inner in subgraphs(graph):
        for node in inner.node:
            for i, name in enumerate(node.input):
                found = channels_of(node, i)
                if found is not None:
                    channels.setdefault(outer.get(name, name), found)
            for attribute in node.attribute:
                if node.op_type in ("Loop", "Scan") and attribute.name == "body":
                    # A loop's body is given by position what it reads, weights too.
                    pairs = zip(attribute.g.input, node.input, strict=False)
                    outer.update((value.name, outer.get(name, name)) for value, name in pairs)
    for weight in matrices(graph, but):
        if weight.tensor.name in channels:
            rank = len(weight.tensor.dims)
            own = tuple(axis % rank for axis in channels[weight.tensor.name])
            yield Weight(weight.graph, weight.tensor, own)


def channels_of(node: Any, i: int = 1) -> tuple[int, ...] | None:
    """Axes of a node's input `i` that are its output's channels; None: the input is no weight."""
    if node.op_type in RECURRENT:
        return (0, 1) if i in (1, 2) else None  # directions, gates
    if node.op_type == "Gather":
        return (-1,) if i == 0 else None
    if node.op_type not in WEIGHTED or i != 1:
        return None
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        return (0,)
    return {"Conv": (0,), "ConvTranspose": (1,)}.get(node.op_type, (-1,))


def fits_half(values: np.ndarray) -> bool:
    """Whether float16 holds the values without overflow, and the largest in full precision."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest <= LARGEST_HALF and (largest >= SMALLEST_HALF or largest == 0.0)


def store_half(weight: Weight) -> None:
    """Store a weight as float16."""
    name = weight.tensor.name
    stored = _store(weight, weight.values.astype(np.float16))
    _widen(weight.graph, [helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT)])


def store_int8(weight: Weight) -> None:
    """Store a weight as int8 in [-127, 127], with a scale per channel."""
    name = weight.tensor.name
    values = weight.values
    integers, scales = symmetric(values, weight.channels)
    stored = _store(weight, integers)
    scale = numpy_helper.from_array(scales, f"{name}:scale")
    weight.graph.initializer.append(scale)
    steps = f"{name}:steps"
    cast = helper.make_node("Cast", [stored], [steps], to=onnx.TensorProto.FLOAT)
    _widen(weight.graph, [cast, helper.make_node("Mul", [steps, scale.name], [name])])


def symmetric(
    values: np.ndarray, channels: tuple[int, ...], least: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Values as int8 in [-127, 127], and their scales: one for each slice along `channels`.

    The scales, float32 above `least`, have as many axes as the values, of length 1 where there is
    one for all.
    """
    others = tuple(axis for axis in range(values.ndim) if axis not in channels)
    largest = np.abs(values).max(axis=others, keepdims=True, initial=0.0)
    scales = np.maximum(largest / 127, least).astype(np.float32)
    scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)
    return np.clip(np.rint(values / scales), -127, 127).astype(np.int8), scales


def _store(weight: Weight, narrow: np.ndarray) -> str:
    """Put `narrow` into the place of the weight; its name."""
    name = f"{weight.tensor.name}:{narrow.dtype.name}"
    weight.tensor.CopyFrom(numpy_helper.from_array(narrow, name))
    return name


def _widen(graph: Any, nodes: list[Any]) -> None:
    for node in reversed(nodes):
        graph.node.insert(0, node)
