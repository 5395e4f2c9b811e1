"""Bias correction: what rounding adds to the mean of a channel is taken off its bias.

It costs nothing in the file, neither size nor time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.toolchain import tflite_file
from edgekit.toolchain.taps import Tapped, TfliteTaps
from edgekit.types import Feed, Signature

ROWS = 200
FEWEST_ROWS = 16
RUNS = 1000
"""So often the file is run, about: a file of many layers is measured on fewer rows."""


def correct_bias(
    content: bytes, floats: Tapped, rows: Mapping[str, np.ndarray], signature: Signature
) -> bytes:
    """A quantized file with biases for which each channel has the mean that it has in float.

    Layer by layer in the order of computation, since the error of one changes that of the next.

    Args:
        content: the quantized file, of `tflite_quantize.quantize`.
        floats: the float file it was made from, open.
        rows: (N, ...) arrays by Keras input name; some of them are taken, whatever their order.
        signature: of the float file.
    """
    model = tflite_file.unpack(content)
    layers = _biases(model, floats.tensors)
    some = _some(rows, min(ROWS, max(FEWEST_ROWS, RUNS // max(1, len(layers)))))
    wanted = _means(floats, some, layers)
    for output, bias in layers.items():
        taps = TfliteTaps(tflite_file.pack(model), signature)
        error = _means(taps, some, [output])[output] - wanted[output]
        _subtract(model, bias, error)
    tflite_file.drop_unused(model)
    return tflite_file.pack(model)


def _biases(model: Any, known: Collection[str]) -> dict[str, Any]:
    """Integer biases by the name of what their operator gives, one of `known`.

    Not those of layers that are used several times, as the steps of an unrolled loop.
    """
    graph = tflite_file.main_graph(model)
    names = [tensor.name.decode() if tensor.name else "" for tensor in graph.tensors]
    layers = []
    for op in graph.operators:
        if tflite_file.kind(model, op) == "DEQUANTIZE" and names[op.inputs[0]] not in known:
            names[op.inputs[0]] = names[op.outputs[0]]  # an output of the model
        operand = tflite_file.bias_operand(model, op)
        if operand is not None:
            weights, bias = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[operand]]
            layers.append((op, weights.buffer, bias))
    uses = Counter(weights for _, weights, _ in layers)
    return {
        names[op.outputs[0]]: bias
        for op, weights, bias in layers
        if names[op.outputs[0]] in known
        and uses[weights] == 1
        and tflite_file.dtype(bias) in ("int32", "int64")
    }


def _subtract(model: Any, bias: Any, error: np.ndarray) -> None:
    value = tflite_file.constant(model, bias)
    if value is None or error.shape != value.shape:
        return
    limits = np.iinfo(value.dtype)
    steps = np.rint(error / bias.quantization.scale.astype(np.float64))
    corrected = np.clip(value - steps, limits.min, limits.max).astype(value.dtype)
    bias.buffer = len(model.buffers)  # the old one may be another tensor's too
    model.buffers.append(schema.BufferT(data=corrected.view(np.uint8)))


def _some(rows: Mapping[str, np.ndarray], count: int) -> list[Feed]:
    """At most `count` rows, the same ones in whatever order they come."""

    def key(i: int) -> bytes:
        return hashlib.sha256(b"".join(rows[n][i].tobytes() for n in sorted(rows))).digest()

    chosen = sorted(range(len(next(iter(rows.values())))), key=key)[:count]
    return [{name: value[i : i + 1] for name, value in rows.items()} for i in chosen]


def _means(tapped: Tapped, rows: list[Feed], names: Iterable[str]) -> Feed:
    """Mean of each channel (last axis) over all rows."""
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    for row in rows:
        values = tapped.run({n: np.repeat(v, tapped.batch, axis=0) for n, v in row.items()})
        for name in sums:
            channels = values[name].reshape(-1, values[name].shape[-1])
            sums[name] = sums[name] + channels.mean(axis=0, dtype=np.float64)
    return {name: value / len(rows) for name, value in sums.items()}
