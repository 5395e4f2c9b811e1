"""Bias correction: what quantization adds to the mean of each channel is taken off its bias.

After Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019),
with rows in the place of assumptions about them. It costs nothing when the file runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from edgekit.toolchain.calibration import Ranges
from edgekit.toolchain.onnx_file import WEIGHTED, cut, subgraphs
from edgekit.toolchain.onnx_qdq import insert_pairs, use_domains
from edgekit.types import Feed, Signature

MOST_ROWS = 32
"""Rows that are run for each layer: a mean settles with fewer than a range."""


def correct_biases(
    proto: Any,
    chosen: Collection[str],
    ranges: Ranges,
    precision: str,
    signature: Signature,
    rows: Mapping[str, np.ndarray],
) -> None:
    """Change the biases of a float model, so that quantizing it keeps the means.

    One after the other, in the order of computation, each with those before it corrected: errors
    that cancel each other are left alone.

    Args:
        proto: a ModelProto, changed in place.
        chosen: as `insert_pairs` will be given it.
        ranges: likewise.
        precision: likewise.
        signature: of the model.
        rows: (N, ...) arrays by Keras input name; of many, some are taken, whatever their order.
    """
    feeds = _some(rows, signature)
    layers = _layers(proto.graph, chosen)
    if not layers:
        return
    wanted = _wanted(proto, layers, feeds)
    for bias in dict.fromkeys(layer.bias for layer in layers):
        readers = [layer for layer in layers if layer.bias == bias]
        model = _copy(proto)
        insert_pairs(model.graph, set(chosen), ranges, precision)
        use_domains(model)
        sums: dict[_Layer, Any] = dict.fromkeys(readers, 0.0)
        for values in _run(model, [layer.bounded for layer in readers], feeds):
            for layer in readers:
                sums[layer] += _per_channel(values[layer.bounded], layer.axis)
        errors = [(sums[layer] - wanted[layer].sum) / wanted[layer].passing for layer in readers]
        _subtract(proto.graph, bias, np.mean(errors, axis=0))


@dataclass(frozen=True)
class _Wanted:
    """What the float model gives in each channel, over all rows."""

    sum: np.ndarray
    passing: np.ndarray
    """How many values change with the bias; the others are cut off by a Relu or Clip."""


FEWEST_PASSING = 0.01
"""Of fewer values, as a share of all in their channel, the mean says nothing."""


def _wanted(proto: Any, layers: Sequence[_Layer], feeds: Sequence[Feed]) -> dict[_Layer, _Wanted]:
    sums: dict[_Layer, Any] = dict.fromkeys(layers, 0.0)
    passing: dict[_Layer, Any] = dict.fromkeys(layers, 0.0)
    outputs = [name for layer in layers for name in (layer.sum, layer.bounded)]
    for values in _run(_copy(proto), outputs, feeds):
        for layer in layers:
            total, bounded = values[layer.sum], values[layer.bounded]
            passes = np.maximum(total == bounded, FEWEST_PASSING)
            sums[layer] += _per_channel(bounded, layer.axis)
            passing[layer] += _per_channel(passes, layer.axis)
    return {layer: _Wanted(sums[layer], passing[layer]) for layer in layers}


@dataclass(frozen=True)
class _Layer:
    """A weighted node and the bias, a constant, that is added in it or behind it."""

    output: str
    """Of the node itself."""
    bias: str
    axis: int
    """Of the channels in the output."""
    sum: str
    """With the bias."""
    bounded: str
    """What a Relu or Clip leaves of the sum; the sum itself where there is none."""


def _layers(graph: Any, chosen: Collection[str]) -> list[_Layer]:
    vectors = {
        t.name
        for t in graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT and sum(n > 1 for n in t.dims) == 1
    }
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def follower(name: str, *ops: str) -> Any:
        after = readers.get(name, [])
        return after[0] if len(after) == 1 and after[0].op_type in ops else None

    found = []
    for node in graph.node:
        if node.op_type not in WEIGHTED or node.output[0] not in chosen:
            continue
        output = total = node.output[0]
        add = follower(output, "Add") if node.op_type == "MatMul" else None
        constants = [name for name in (add.input if add else node.input[2:]) if name in vectors]
        if constants:
            total = add.output[0] if add else output
            bound = follower(total, "Relu", "Clip")
            axis = 1 if node.op_type.startswith("Conv") else -1
            bounded = bound.output[0] if bound else total
            found.append(_Layer(output, constants[0], axis, total, bounded))
    return found


def _some(rows: Mapping[str, np.ndarray], signature: Signature) -> list[Feed]:
    """Some of the rows by native name, one a time: which and in which order their content says."""

    def row(i: int) -> bytes:
        return b"".join(rows[spec.name][i].tobytes() for spec in signature.inputs)

    count = len(rows[signature.inputs[0].name])
    picked = sorted(range(count), key=lambda i: hashlib.sha256(row(i)).digest())[:MOST_ROWS]
    batch = signature.inputs[0].shape[0] or 1
    return [
        {s.native: np.repeat(rows[s.name][i : i + 1], batch, axis=0) for s in signature.inputs}
        for i in picked
    ]


def _run(model: Any, outputs: Sequence[str], feeds: Sequence[Feed]) -> Iterator[Feed]:
    """Tensors of a model, of which only what they need is computed."""
    names = list(dict.fromkeys(outputs))
    cut(model.graph, names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if len(list(subgraphs(model.graph))) > 1:
        # onnxruntime 1.31 does not survive the optimization of some quantized graphs with loops.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for feed in feeds:
        yield dict(zip(names, session.run(names, feed), strict=True))


def _per_channel(values: np.ndarray, axis: int) -> np.ndarray:
    channels = np.moveaxis(values, axis, -1)
    total: np.ndarray = channels.reshape(-1, channels.shape[-1]).sum(axis=0, dtype=np.float64)
    return total


def _subtract(graph: Any, name: str, error: np.ndarray) -> None:
    tensor = next(t for t in graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor)
    corrected = (value - error.reshape(value.shape)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(corrected, name))


def _copy(proto: Any) -> Any:
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    return model
