"""Static int8 quantization of a float ONNX file, with onnxruntime's own tools.

It needs no TensorFlow, and runs in a process of its own beside the worker.

Weights become int8 per channel, activations uint8, as pairs of QuantizeLinear and
DequantizeLinear (QDQ) that onnxruntime fuses into its int8 kernels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgekit.errors import ConversionError
from edgekit.toolchain.onnx_file import WEIGHTED, save, tidy
from edgekit.types import Signature

FOLLOWERS = ("Add", "AveragePool", "Clip", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Sigmoid")
"""Operators that onnxruntime runs faster on the integers that a convolution gives.

Concat, Reshape and the like gain nothing by it, and Softmax only loses precision.
"""

FLOAT_OUTPUT = ("ConvTranspose", "Gemm", "MatMul")
"""Operators that give floats at no cost in speed, so that logits and sums keep their precision."""


def quantize(
    fp32: Path, path: Path, signature: Signature, calibration: Mapping[str, np.ndarray]
) -> Signature:
    """Write the int8 version of `fp32`, a file of `onnx.convert`; inputs and outputs stay float.

    The range of each activation is its minimum and maximum over all rows, whatever their order:
    the same rows always give the same bytes.

    Args:
        fp32: the float file.
        path: the file to write.
        signature: what `convert` returned for `fp32`.
        calibration: (N, ...) finite arrays by Keras input name, N typical rows.

    Returns:
        The signature of the new file, which is that of `fp32`.

    Raises:
        ConversionError: the model has no weights to quantize, or onnxruntime failed.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-onnx-") as folder:
        prepared, raw = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        try:
            # Folds what follows a Conv or MatMul into it; without, int8 is slower than float.
            # Symbolic shapes would need sympy, and serve graphs without static shapes only.
            quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                raw,
                _Feeds(calibration, signature),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=_chosen(prepared),
                extra_options={
                    "MatMulConstBOnly": True,
                    "OpTypesToExcludeOutputQuantization": list(FLOAT_OUTPUT),
                },
            )
        except ConversionError:
            raise
        except Exception as error:  # onnxruntime's errors have no common class
            reason = str(error).strip().partition("\n")[0]
            raise ConversionError(
                f"onnx: onnxruntime could not quantize the model: {reason}",
                hint="export fp32, or int8 to tflite",
            ) from error
        proto = onnx.load(raw)
    _drop_zero_points(proto.graph)
    tidy(proto, {s.native: s.native for s in (*signature.inputs, *signature.outputs)})
    save(proto, path)
    return signature


def _drop_zero_points(graph: Any) -> None:
    """Leave out the zero points of weights and biases, which are 0, as ONNX allows.

    There is one per channel, up to 5 % of a file. Not those of Gemm and MatMul weights: without
    them onnxruntime finds no int8 kernel (measured: three times slower).
    """
    weights = {t.name: t.data_type for t in graph.initializer}
    zeros = {t.name for t in graph.initializer if not onnx.numpy_helper.to_array(t).any()}
    convolved = {name for node in graph.node if node.op_type == "Conv" for name in node.input}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        is_bias = weights.get(node.input[0]) == onnx.TensorProto.INT32
        is_filter = node.input[0] in weights and node.output[0] in convolved
        if (is_bias or is_filter) and node.input[2] in zeros:
            node.input.pop()
    read = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _weighted(graph: Any) -> list[Any]:
    """Nodes whose weights are a float constant, perhaps reshaped or transposed."""
    element = onnx.TensorProto
    constant = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type in (element.FLOAT, element.FLOAT16, element.DOUBLE)
    }
    found = []
    for node in graph.node:
        if node.op_type in ("Reshape", "Transpose") and node.input[0] in constant:
            constant.add(node.output[0])
        if node.op_type in WEIGHTED and node.input[1] in constant:
            found.append(node)
    return found


def _chosen(path: Path) -> list[str]:
    """Names of the nodes to quantize: those with weights, and what follows a convolution.

    An Add or a pooling elsewhere (layer normalization, transformers) gains no speed by int8. A
    Sigmoid is taken as part of a gate or swish only: its steps are 1/256 whatever its range.
    """
    graph = onnx.load(path).graph
    weighted = {node.name for node in _weighted(graph)}
    tables = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    readers: dict[str, set[str]] = {value.name: {"output"} for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    integers: set[str] = set()
    chosen = []
    for node in graph.node:
        follows = node.op_type in FOLLOWERS and integers.issuperset(_data(node))
        if node.op_type == "Sigmoid":
            follows = follows and readers[node.output[0]] == {"Mul"}
        embeds = node.op_type == "Gather" and node.input[0] in tables
        if node.name in weighted or follows or embeds:
            chosen.append(node.name)
        if follows or (node.name in weighted and node.op_type == "Conv"):
            integers.update(node.output)
    if not chosen:
        raise ConversionError(
            "onnx: int8: the model has no convolution, dense layer or embedding to quantize",
            hint="export it as fp32",
        )
    return chosen


def _data(node: Any) -> list[str]:
    """The inputs of a follower that are activations: Clip's others are its bounds."""
    return list(node.input[:1] if node.op_type == "Clip" else node.input)


class _Feeds(CalibrationDataReader):
    """Rows one by one, as in a batch the last bits of a row may depend on its neighbours."""

    def __init__(self, rows: Mapping[str, np.ndarray], signature: Signature) -> None:
        batch = signature.inputs[0].shape[0] or 1
        count = len(rows[signature.inputs[0].name])
        self._feeds = (
            # A fixed batch is filled with one row, which does not change its range.
            {s.native: np.repeat(rows[s.name][i : i + 1], batch, axis=0) for s in signature.inputs}
            for i in range(count)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)
