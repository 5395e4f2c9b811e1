"""Reads .tflite files through the flatbuffers schema, without an interpreter."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekit.formats.description import (
    FileDescription,
    Role,
    Tensor,
    finite,
    groups_of,
    parameters_of,
    quantization_of,
    sparsity_of,
)
from edgekit.formats.tflite_floats import float_tensors, is_float
from edgekit.types import Signature, TensorSpec

T = TypeVar("T")

BITS = {
    "float64": 64, "int64": 64, "uint64": 64, "float32": 32, "int32": 32, "uint32": 32,
    "float16": 16, "bfloat16": 16, "int16": 16, "uint16": 16, "int8": 8, "uint8": 8, "bool": 8,
    "int4": 4, "uint4": 4, "int2": 2,
}  # fmt: skip
NARROW = {"int8", "uint8", "int16", "int4", "uint4", "int2"}
PASSES_WEIGHTS_ON = {"DEQUANTIZE", "DENSIFY", "RESHAPE", "TRANSPOSE"}
BIAS_OPERANDS = {
    "CONV_2D": {2}, "CONV_3D": {2}, "DEPTHWISE_CONV_2D": {2}, "FULLY_CONNECTED": {2},
    "TRANSPOSE_CONV": {3}, "CONV_3D_TRANSPOSE": {3}, "RNN": {3}, "SVDF": {3},
    "LSTM": {12, 13, 14, 15, 17}, "UNIDIRECTIONAL_SEQUENCE_LSTM": {12, 13, 14, 15, 17},
    "UNIDIRECTIONAL_SEQUENCE_RNN": {3},
}  # fmt: skip


@dataclass(frozen=True)
class Operator:
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    names: list[str]
    dtypes: list[str]
    tables: list[Any]
    operators: list[Operator]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read(path: Path) -> FileDescription:
    """Describe a .tflite file.

    Raises:
        ValueError: it is broken.
    """
    try:
        return _read(path)
    except (struct.error, IndexError, TypeError) as error:
        raise ValueError("an offset or index points at nothing") from error


def _read(path: Path) -> FileDescription:
    file = _File(path.read_bytes())
    graphs = [file.graph(table) for table in file.subgraphs]
    if not graphs:
        raise ValueError("it has no subgraph")
    tensors = [t for graph in graphs for t in file.tensors(graph)]
    ops = Counter(op.name for graph in graphs for op in graph.operators)
    return FileDescription(
        format="tflite",
        path=str(path),
        size_bytes=len(file.data),
        signature=file.signature(graphs),
        ops=dict(ops.most_common()),
        parameters=parameters_of(tensors),
        groups=groups_of(tensors),
        quantization=quantization_of(tensors),
        sparsity=sparsity_of(tensors),
        float_tensors=tuple(name for graph in graphs for name in float_tensors(graph)),
        producer=file.producer(),
        version=str(file.model.Version()),
        metadata=file.metadata,
        subgraphs=len(graphs),
        custom_ops=tuple(n for n in sorted(file.custom_ops) if not n.startswith("Flex")),
        flex_ops=tuple(n for n in sorted(file.custom_ops) if n.startswith("Flex")),
    )


class _File:
    """Access to the tables of one file, in time and memory proportional to its size.

    Offsets of a hostile file may point outside it (the accessors raise) or all at the same
    place, which would let a few bytes stand for millions of tensors. A real writer stores each
    vector once, so reading a multiple of the file's size means it was not a real writer.
    """

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.data = data
        self.unread = 4 * len(data)
        self.model = schema.Model.GetRootAs(data)
        self.dtypes = {
            value: name.lower()
            for name, value in vars(schema.TensorType).items()
            if not name.startswith("_")
        }
        self.builtins = {
            value: name
            for name, value in vars(schema.BuiltinOperator).items()
            if not name.startswith("_")
        }
        self.custom_ops: set[str] = set()
        self.counted_buffers: set[int] = set()

    def spend(self, size: int) -> None:
        self.unread -= size
        if self.unread < 0:
            raise ValueError("its tables overlap: they hold more than the file does")

    def items(self, length: int, get: Callable[[int], T]) -> list[T]:
        self.spend(4 * length)
        return [get(i) for i in range(length)]

    def numbers(self, table: Any, field: str) -> list[Any]:
        if getattr(table, f"{field}IsNone")():
            return []
        self.spend(4 * getattr(table, f"{field}Length")())
        return list(getattr(table, f"{field}AsNumpy")().tolist())

    def text(self, value: bytes | None) -> str:
        self.spend(len(value or b""))
        return (value or b"").decode("utf-8", "replace")

    @cached_property
    def subgraphs(self) -> list[Any]:
        return self.items(self.model.SubgraphsLength(), self.model.Subgraphs)

    @cached_property
    def buffers(self) -> list[Any]:
        return self.items(self.model.BuffersLength(), self.model.Buffers)

    @cached_property
    def operator_names(self) -> list[str]:
        return self.items(self.model.OperatorCodesLength(), self._operator_name)

    def _operator_name(self, index: int) -> str:
        code = self.model.OperatorCodes(index)
        # Codes above 127 are in the newer field only, those below in both or the older only.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name: str = self.builtins.get(number, f"BUILTIN_{number}")
        if name == "CUSTOM":
            name = self.text(code.CustomCode()) or name
            self.custom_ops.add(name)
        return name

    def graph(self, table: Any) -> Graph:
        tables = self.items(table.TensorsLength(), table.Tensors)
        operators = self.items(table.OperatorsLength(), table.Operators)
        graph = Graph(
            names=[self.text(t.Name()) or f"tensor {i}" for i, t in enumerate(tables)],
            dtypes=[self.dtypes.get(t.Type(), f"type {t.Type()}") for t in tables],
            tables=tables,
            operators=[
                Operator(
                    name=self.operator_names[op.OpcodeIndex()],
                    inputs=tuple(self.numbers(op, "Inputs")),
                    outputs=tuple(self.numbers(op, "Outputs")),
                )
                for op in operators
            ],
            inputs=tuple(self.numbers(table, "Inputs")),
            outputs=tuple(self.numbers(table, "Outputs")),
        )
        used = [i for op in graph.operators for i in (*op.inputs, *op.outputs)]
        if any(not -1 <= i < len(tables) for i in used):
            raise ValueError("an operator uses a tensor that does not exist")
        if any(not 0 <= i < len(tables) for i in (*graph.inputs, *graph.outputs)):
            raise ValueError("an input or output is a tensor that does not exist")
        return graph

    def content(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Bytes of a buffer as uint8, not copied."""
        buffer = self.buffers[index]
        if buffer.Offset() > 1:  # models over 2 GB keep their weights behind the flatbuffer
            start, size = buffer.Offset(), buffer.Size()
            if start + size > len(self.data):
                raise ValueError("a buffer lies outside the file")
            return np.frombuffer(self.data, np.uint8, size, start)
        if buffer.DataIsNone():
            return np.empty(0, np.uint8)
        data: np.ndarray[Any, np.dtype[np.uint8]] = buffer.DataAsNumpy()
        return data

    def tensors(self, graph: Graph) -> list[Tensor]:
        """Tensors of a graph; constants that share a buffer count once."""
        biases = _biases(graph)
        tensors = []
        for i, table in enumerate(graph.tables):
            content = self.content(table.Buffer())
            if content.size and table.Buffer() in self.counted_buffers:
                continue
            if content.size:
                self.counted_buffers.add(table.Buffer())
            tensors.append(self._tensor(graph, i, content, i in biases))
        return tensors

    def _tensor(self, graph: Graph, i: int, content: Any, is_bias: bool) -> Tensor:
        table, name, dtype = graph.tables[i], graph.names[i], graph.dtypes[i]
        shape = self.numbers(table, "Shape")
        if any(d < 0 for d in shape):
            raise ValueError(f"tensor {name!r} has shape {shape}")
        elements = math.prod(shape)
        needed = -(-elements * BITS.get(dtype, 8) // 8)
        scales, zero_points = self.quantization(table)
        sparse = table.Sparsity() is not None
        if content.size and not sparse and dtype in BITS and content.size != needed:
            raise ValueError(
                f"tensor {name!r} has {content.size} bytes where {dtype}{shape} takes {needed}"
            )
        role = _role(dtype, len(shape), bool(content.size), is_bias, bool(scales))
        zeros = None
        if role == "weights":
            self.spend(content.size)
            zeros = _zeros(content, dtype, elements, sparse, zero_points)
        return Tensor(
            name=name,
            role=role,
            dtype=dtype,
            elements=elements,
            size_bytes=content.size or needed,
            zeros=zeros,
            scales=scales,
            zero_points=zero_points,
        )

    def quantization(self, table: Any) -> tuple[list[float], list[int]]:
        """Scales and zero points of a tensor; empty where it is not quantized."""
        parameters = table.Quantization()
        if parameters is None:
            return [], []
        return finite(self.numbers(parameters, "Scale")), self.numbers(parameters, "ZeroPoint")

    def signature(self, graphs: list[Graph]) -> Signature:
        """By the keys of the signature, else by tensor name; in the order of the graph.

        That order is what an application sees that binds by index.
        """
        definitions = self.items(self.model.SignatureDefsLength(), self.model.SignatureDefs)
        if not definitions:
            main = graphs[0]
            return Signature(
                inputs=tuple(self._spec(main, main.names[i], i) for i in main.inputs),
                outputs=tuple(self._spec(main, main.names[i], i) for i in main.outputs),
            )
        default = [d for d in definitions if d.SignatureKey() == b"serving_default"]
        chosen = (default or definitions)[0]
        graph = graphs[chosen.SubgraphIndex()]

        def specs(
            length: int, get: Callable[[int], Any], order: Sequence[int]
        ) -> tuple[TensorSpec, ...]:
            places = {tensor: place for place, tensor in enumerate(order)}
            entries = self.items(length, get)
            entries = sorted(entries, key=lambda e: places.get(e.TensorIndex(), len(places)))
            return tuple(
                self._spec(graph, self.text(entry.Name()), entry.TensorIndex()) for entry in entries
            )

        return Signature(
            inputs=specs(chosen.InputsLength(), chosen.Inputs, graph.inputs),
            outputs=specs(chosen.OutputsLength(), chosen.Outputs, graph.outputs),
        )

    def _spec(self, graph: Graph, name: str, index: int) -> TensorSpec:
        table = graph.tables[index]
        shape = self.numbers(table, "ShapeSignature") or self.numbers(table, "Shape")
        scales, zero_points = self.quantization(table)
        return TensorSpec(
            name=name,
            native=name,
            shape=tuple(None if d < 0 else d for d in shape),
            dtype=graph.dtypes[index],
            scale=scales[0] if scales else None,
            zero_point=(zero_points or [0])[0] if scales else None,
        )

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Metadata entries that are short printable text."""
        entries = {"description": self.text(self.model.Description())}
        for name, content in self._metadata_entries():
            text = bytes(content[:200]).rstrip(b"\0").decode("utf-8", "replace")
            if text.isprintable() and len(content) <= 200:
                entries[name] = text
        return {name: text for name, text in entries.items() if text}

    def _metadata_entries(self) -> list[tuple[str, Any]]:
        entries = self.items(self.model.MetadataLength(), self.model.Metadata)
        return [(self.text(e.Name()), self.content(e.Buffer())) for e in entries]

    def producer(self) -> str | None:
        """TensorFlow's version, from the converter's own metadata."""
        from flatbuffers import encode, number_types, table

        for name, content in self._metadata_entries():
            if name == "CONVERSION_METADATA":
                # ConversionMetadata.environment.tensorflow_version: each the first field.
                data = content.tobytes()
                uint32 = number_types.UOffsetTFlags.packer_type
                root = table.Table(data, encode.Get(uint32, data, 0))
                environment = table.Table(data, root.Indirect(root.Pos + root.Offset(4)))
                version = environment.String(environment.Pos + environment.Offset(4))
                return f"TensorFlow {self.text(version)}"
        return None


def _biases(graph: Graph) -> set[int]:
    source = {
        op.outputs[0]: op.inputs[0]
        for op in graph.operators
        if op.name in PASSES_WEIGHTS_ON and op.inputs and op.outputs
    }
    biases = {
        index
        for op in graph.operators
        for operand, index in enumerate(op.inputs)
        if operand in BIAS_OPERANDS.get(op.name, ())
    }
    return biases | {source[i] for i in biases if i in source}


def _role(dtype: str, rank: int, is_constant: bool, is_bias: bool, is_quantized: bool) -> Role:
    if not is_constant:
        return "activations"
    if is_bias:
        return "biases"
    is_number = is_quantized or is_float(dtype) or dtype in NARROW
    return "weights" if is_number and rank else "other"


def _zeros(
    content: Any, dtype: str, elements: int, sparse: bool, zero_points: list[int]
) -> int | None:
    """Elements that stand for 0.0: those that equal the zero point.

    A sparse tensor stores its non-zero blocks only; the rest counts as zero. None where the
    zero points differ by channel (no converter does this for weights) or numpy lacks the type.
    """
    if len(set(zero_points)) > 1:
        return None
    zero = zero_points[0] if zero_points else 0
    bits = BITS.get(dtype, 8)
    if bits < 8:
        parts = (content[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & (2**bits - 1)
        values, zero = parts.reshape(-1)[:elements], zero % 2**bits
    elif dtype in BITS and dtype != "bfloat16":
        values = content[: content.size // (bits // 8) * (bits // 8)].view(dtype)
    else:
        return None
    zeros = int(np.count_nonzero(values == zero))
    return max(0, elements - values.size) + zeros if sparse else zeros
