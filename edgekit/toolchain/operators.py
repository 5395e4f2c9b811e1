"""The operators of a model file: what reads which tensor, with which weights, on which grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.toolchain.taps import OnnxTaps, Tapped, TfliteTaps
from edgekit.types import Signature

QUANTIZES = ("QUANTIZE", "QuantizeLinear")
DEQUANTIZES = ("DEQUANTIZE", "DequantizeLinear")


@dataclass(frozen=True)
class Operator:
    """One operator, with the names of the tensors that it takes and gives."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Constant:
    """A weight: its values as the operators take them, and how they are stored.

    `scales` counts those that its integers have: 1 = per tensor, 0 = it is stored in float.
    """

    values: np.ndarray
    scales: int


@dataclass(frozen=True)
class Grid:
    """The values that a quantized activation can take: from `low` to `high` by `step`."""

    step: float
    low: float
    high: float

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """`values` as the grid can hold them."""
        steps = np.round((values - self.low) / self.step)
        return np.asarray(np.clip(steps * self.step + self.low, self.low, self.high))


@dataclass(frozen=True, eq=False)
class OpenFile:
    """A model file that can be run and looked into; tensors by their name in the file.

    `operators` are in the order of computation; `inputs` and `outputs` in that of the signature.
    """

    taps: Tapped
    signature: Signature
    operators: tuple[Operator, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Constant]
    grids: Mapping[str, Grid]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.taps.tensors[: len(self.signature.inputs)]

    @cached_property
    def producers(self) -> dict[str, Operator]:
        """The operator that makes each tensor."""
        return {name: op for op in self.operators for name in op.outputs}

    @cached_property
    def readers(self) -> dict[str, list[Operator]]:
        found: dict[str, list[Operator]] = {}
        for op in self.operators:
            for name in op.inputs:
                found.setdefault(name, []).append(op)
        return found

    def stored(self, name: str) -> str:
        """The tensor that is on the grid of another: TFLite makes floats of it at the end."""
        producer = self.producers.get(name)
        if producer is None or producer.kind not in DEQUANTIZES or name in self.grids:
            return name
        return producer.inputs[0]

    def grid(self, name: str) -> Grid | None:
        """The grid that a tensor is rounded to, if it is."""
        return self.grids.get(self.stored(name))

    def quantized(self, name: str) -> str:
        """What is read in the place of `name`: the same on a grid, where nothing reads the float.

        An ONNX file gives a float, quantizes and dequantizes it; a TFLite file does the first two.
        """
        readers = self.readers.get(name, [])
        if name in self.outputs or not readers or any(op.kind not in QUANTIZES for op in readers):
            return name
        [made, *_] = readers[0].outputs
        after = self.readers.get(made, [])
        if after and all(op.kind in DEQUANTIZES for op in after) and made not in self.grids:
            return after[0].outputs[0]
        return made


def open_tflite(content: bytes, signature: Signature) -> OpenFile:
    """The TFLite file with these bytes."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph, native = model.subgraphs[0], model.signatureDefs[0]
    # Constants have no names in a quantized file.
    names = [(t.name or b"constant %d" % i).decode() for i, t in enumerate(graph.tensors)]
    operators = [
        Operator(
            kinds[model.operatorCodes[op.opcodeIndex].builtinCode],
            tuple(names[i] for i in op.inputs if i >= 0),
            tuple(names[i] for i in op.outputs),
        )
        for op in graph.operators
    ]
    constants = {}
    grids = {}
    for name, tensor in zip(names, graph.tensors, strict=True):
        data = model.buffers[tensor.buffer].data
        dtype = _TFLITE_DTYPES.get(tensor.type)
        if dtype is None:
            continue
        scale, zero = _tflite_scale(tensor)
        if data is not None and len(data):
            stored = np.frombuffer(bytes(data), dtype).reshape(tensor.shape)
            axis = 0 if tensor.quantization is None else tensor.quantization.quantizedDimension
            constants[name] = _constant(stored, scale, zero, axis)
        elif len(scale) == 1 and np.dtype(dtype).kind == "i":
            grids[name] = _grid(np.dtype(dtype), scale[0], zero[0])
    outputs = {entry.name.decode(): names[entry.tensorIndex] for entry in native.outputs}
    return OpenFile(
        TfliteTaps(content, signature),
        signature,
        tuple(op for op in operators if not _passes_constant(op, constants)),
        tuple(outputs[spec.native] for spec in signature.outputs),
        constants,
        grids,
    )


def open_onnx(path: Path, signature: Signature) -> OpenFile:
    """The ONNX file at `path`."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    constants = {t.name: Constant(numpy_helper.to_array(t), 0) for t in graph.initializer}
    grids: dict[str, Grid] = {}
    operators = []
    for node in graph.node:
        op = Operator(node.op_type, tuple(n for n in node.input if n), tuple(node.output))
        if op.kind == "Constant":
            constants[op.outputs[0]] = Constant(_attribute(node, "value"), 0)
        elif op.kind in DEQUANTIZES and op.inputs[1] in constants:
            _add_dequantized(op, _attribute(node, "axis", 1), constants, grids)
        if op.outputs[0] not in constants:
            operators.append(op)
    return OpenFile(
        OnnxTaps(path, signature),
        signature,
        tuple(operators),
        tuple(spec.native for spec in signature.outputs),
        constants,
        grids,
    )


_TFLITE_DTYPES = {0: "float32", 1: "float16", 2: "int32", 4: "int64", 7: "int16", 9: "int8"}
"""By the schema's numbers, of the types that weights and activations are stored in."""


def _tflite_scale(tensor: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points of a tensor; empty where it has none."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return np.empty(0), np.empty(0, np.int64)
    scale = np.asarray(quantization.scale, np.float64)
    zero = quantization.zeroPoint
    return scale, np.zeros(len(scale), np.int64) if zero is None else np.asarray(zero, np.int64)


def _add_dequantized(
    op: Operator, axis: int, constants: dict[str, Constant], grids: dict[str, Grid]
) -> None:
    """What an ONNX DequantizeLinear gives: a weight, or an activation on a grid."""
    scale, *zeros = (np.ravel(constants[name].values) for name in op.inputs[1:])
    zero = zeros[0] if zeros else np.zeros(len(scale), np.uint8)
    if op.inputs[0] in constants:
        stored = constants[op.inputs[0]].values
        constants[op.outputs[0]] = _constant(stored, scale, zero.astype(np.int64), axis)
    else:
        grids[op.outputs[0]] = _grid(zero.dtype, scale[0], int(zero[0]))


def _passes_constant(op: Operator, constants: dict[str, Constant]) -> bool:
    """Whether an operator only widens a weight, which then is one itself."""
    if op.kind not in DEQUANTIZES or op.inputs[0] not in constants:
        return False
    constants[op.outputs[0]] = constants[op.inputs[0]]
    return True


def _constant(stored: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> Constant:
    if not len(scale):
        return Constant(stored.astype(np.float32) if stored.dtype.kind == "f" else stored, 0)
    shape = [1] * stored.ndim
    if len(scale) > 1:
        shape[axis] = len(scale)
    values = (stored.astype(np.float64) - zero.reshape(shape)) * scale.reshape(shape)
    return Constant(values.astype(np.float32), len(scale))


def _grid(dtype: np.dtype[Any], scale: float, zero: int) -> Grid:
    limits = np.iinfo(dtype)
    return Grid(
        float(scale), (limits.min - zero) * float(scale), (limits.max - zero) * float(scale)
    )


def _attribute(node: Any, name: str, default: Any = None) -> Any:
    import onnx
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == name:
            value = onnx.helper.get_attribute_value(attribute)
            return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    return default
