"""Scales that compress well for the weights of pruned models, in a quantized TFLite file."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.toolchain import tflite_file
from edgekit.toolchain.shared_scales import LONGER_BITS, compact_scales, short


def compact_weights(content: bytes, floats: bytes) -> bytes:
    """A quantized file with other scales of its weights: see `shared_scales`.

    Args:
        content: the quantized file, of `tflite_quantize.quantize`.
        floats: the float file it was made from.
    """
    model, original = tflite_file.unpack(content), tflite_file.unpack(floats)
    tensors = tflite_file.main_graph(model).tensors
    known = _weights(original)
    scaled: dict[int, np.ndarray] = {}
    for op, name in _named(model):
        operand = tflite_file.bias_operand(model, op)
        if name not in known or tflite_file.kind(model, op) not in tflite_file.BIASED:
            continue
        place = int(op.inputs[1])
        if place not in scaled:
            scaled[place] = _share(model, tensors[place], known[name])
        bias = None if operand is None else int(op.inputs[operand])
        if bias is not None and bias not in scaled:
            scaled[bias] = _rescale(model, tensors[bias], scaled[place])
    tflite_file.drop_unused(model)
    return tflite_file.pack(model)


def _weights(model: Any) -> dict[bytes, np.ndarray]:
    """The constant weights of the operators, by the names of their outputs."""
    tensors = tflite_file.main_graph(model).tensors
    found = {
        name: tflite_file.constant(model, tensors[op.inputs[1]])
        for op, name in _named(model)
        if tflite_file.kind(model, op) in tflite_file.BIASED
    }
    return {name: value for name, value in found.items() if value is not None}


def _named(model: Any) -> list[tuple[Any, bytes]]:
    """The operators, with the names that their outputs have in the float file."""
    graph = tflite_file.main_graph(model)
    names = {
        int(op.inputs[0]): graph.tensors[op.outputs[0]].name
        for op in graph.operators
        if tflite_file.kind(model, op) == "DEQUANTIZE" and op.outputs[0] in graph.outputs
    }
    return [
        (op, names.get(int(op.outputs[0]), graph.tensors[op.outputs[0]].name))
        for op in graph.operators
        if len(op.outputs)
    ]


def _share(model: Any, tensor: Any, values: np.ndarray) -> np.ndarray:
    """Quantize weights again, if they are int8 with a scale per channel.

    Returns:
        By what the scale of each channel was multiplied.
    """
    if tflite_file.dtype(tensor) != "int8" or tuple(tensor.shape) != values.shape:
        return np.ones(1)
    scales, axis = tensor.quantization.scale, tensor.quantization.quantizedDimension
    if len(scales) < 2:
        return np.ones(1)
    channels = np.moveaxis(values, axis, 0).reshape(len(scales), -1)
    shared = compact_scales(channels, scales).astype(np.float32)
    integers = np.clip(np.rint(channels / shared[:, None]), -127, 127).astype(np.int8)
    moved = integers.reshape(np.moveaxis(values, axis, 0).shape)
    _hold(model, tensor, np.moveaxis(moved, 0, axis))
    # What the integers were made with, but for some last bits that nothing depends on.
    tensor.quantization.scale = short(shared, LONGER_BITS).astype(np.float32)
    return shared.astype(np.float64) / scales


def _rescale(model: Any, tensor: Any, factors: np.ndarray) -> np.ndarray:
    """Multiply the scales of a bias, which are those of its weights and what they are read with."""
    value = tflite_file.constant(model, tensor)
    if value is not None and value.dtype.kind == "i" and np.any(factors != 1):
        wanted = tensor.quantization.scale * factors
        _hold(model, tensor, np.rint(value / factors).astype(value.dtype))
        # Kernels multiply the scales of weights and input themselves: this one is to be read.
        tensor.quantization.scale = short(wanted, LONGER_BITS).astype(np.float32)
    return factors


def _hold(model: Any, tensor: Any, value: np.ndarray) -> None:
    tensor.buffer = len(model.buffers)  # the old one may be another tensor's too
    model.buffers.append(schema.BufferT(data=np.frombuffer(value.tobytes(), np.uint8)))
