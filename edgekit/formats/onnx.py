"""Reads .onnx files as protobuf; external weights are measured, not loaded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgekit.errors import SourceError
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
from edgekit.types import Signature, TensorSpec

DTYPES = {"float": "float32", "double": "float64"}
BITS = {
    "float64": 64, "int64": 64, "uint64": 64, "complex64": 64, "complex128": 128,
    "float32": 32, "int32": 32, "uint32": 32, "float16": 16, "bfloat16": 16, "int16": 16,
    "uint16": 16, "int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2,
}  # fmt: skip
NARROW = {"int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"}

STOCK_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
DATA_AND_WEIGHTS = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Einsum": (0, 1),
    "LSTM": (0, 1, 2),
    "GRU": (0, 1, 2),
    "RNN": (0, 1, 2),
}
BIAS_OPERAND = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "LSTM": 3, "GRU": 3, "RNN": 3}
QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
MOVERS = {
    "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather",
    "Split", "Expand",
}  # fmt: skip
"""Operators whose first input comes out unchanged but for its place."""


@dataclass
class _Graph:
    """Nodes and constants of a graph and of the graphs inside its nodes, in one name space.

    An inner graph may not reuse a name of an outer one, so nothing is hidden.
    """

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    """Names of what does not depend on the inputs: all constants, of whatever kind."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Inputs of a loop's body: what they start as."""

    def add(self, graph: Any) -> None:
        self.constants.update((tensor.name, tensor) for tensor in graph.initializer)
        self.fixed.update(tensor.name for tensor in graph.initializer)
        self.fixed.update(tensor.values.name for tensor in graph.sparse_initializer)
        self.add_nodes(graph.node)

    def add_nodes(self, nodes: Any) -> None:
        for node in nodes:
            if node.op_type == "Constant":
                self.fixed.update(node.output)
                self.constants.update(
                    (node.output[0], a.t) for a in node.attribute if a.HasField("t")
                )
            else:
                if node.input and self.fixed.issuperset(filter(None, node.input)):
                    self.fixed.update(node.output)
                self.nodes.append(node)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._enter(node, attribute.g)
                    self.add(attribute.g)
                for inner in attribute.graphs:
                    self.add(inner)

    def _enter(self, node: Any, body: Any) -> None:
        """Loops pass by position what their bodies read, weights of recurrent layers too."""
        if node.op_type in ("Loop", "Scan"):
            for inner, outer in zip(body.input, node.input, strict=False):
                self.aliases[inner.name] = outer
                if outer in self.fixed:
                    self.fixed.add(inner.name)

    def producers(self) -> dict[str, Any]:
        return {output: node for node in self.nodes for output in node.output}


def read(path: Path) -> FileDescription:
    """Describe an .onnx file.

    Raises:
        SourceError: it is no ONNX model, or a file with its external weights is missing.
    """
    data = path.read_bytes()
    model = _parse(path, data)
    graph = _Graph()
    graph.add(model.graph)
    functions = {(f.domain, f.name) for f in model.functions}
    for function in model.functions:
        graph.add_nodes(function.node)
    tensors = [*_constants(graph), *_activations(model.graph)]
    ops = Counter(_op_name(node) for node in graph.nodes)
    return FileDescription(
        format="onnx",
        path=str(path),
        size_bytes=len(data) + _external_bytes(path, graph),
        signature=_signature(model.graph, graph),
        ops=dict(ops.most_common()),
        parameters=parameters_of(tensors),
        groups=groups_of(tensors),
        quantization=quantization_of(tensors),
        sparsity=sparsity_of(tensors),
        float_tensors=tuple(dict.fromkeys(map(_text, _float_operands(graph)))),
        producer=f"{_text(model.producer_name)} {_text(model.producer_version)}".strip() or None,
        version=str(model.ir_version),
        opsets={_text(o.domain) or "ai.onnx": o.version for o in model.opset_import},
        metadata={_text(p.key): _text(p.value) for p in model.metadata_props},
        custom_ops=tuple(
            sorted(
                {
                    _op_name(n)
                    for n in graph.nodes
                    if n.domain not in STOCK_DOMAINS and (n.domain, n.op_type) not in functions
                }
            )
        ),
    )


def _parse(path: Path, data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        if path.suffix == ".onnx":
            raise
        raise _unknown(path) from error
    # Nearly any bytes are some protobuf message; these fields every writer fills.
    if model.ir_version < 1 or not model.opset_import or not model.graph.output:
        raise _unknown(path)
    return model


def _unknown(path: Path) -> SourceError:
    return SourceError(
        f"{path} is not a model: neither TFLite, ONNX, Keras nor TensorFlow.js",
        hint="check that the file is complete; a .onnx file needs a version and a graph",
    )


def _op_name(node: Any) -> str:
    domain = "" if node.domain in ("", "ai.onnx") else f"{_text(node.domain)}."
    return domain + _text(node.op_type)


def _text(value: str | bytes) -> str:
    """Protobuf gives the bytes of a string that is not UTF-8."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _float_operands(graph: _Graph) -> Iterator[str]:
    """Operands of multiplying nodes that are float inside; see FileDescription.float_tensors."""
    producers = graph.producers()
    for node in graph.nodes:
        operands = [
            node.input[i] for i in DATA_AND_WEIGHTS.get(node.op_type, ())[: len(node.input)]
        ]
        if not any(name in graph.fixed for name in operands):
            continue  # no weights: attention multiplies activations
        float_operands = [n for n in operands if not _is_dequantized(n, producers, graph.aliases)]
        names = [n for n in float_operands if n in graph.fixed] or float_operands[:1]
        yield from (graph.aliases.get(n, n) for n in names)


def _is_dequantized(name: str, producers: dict[str, Any], aliases: dict[str, str]) -> bool:
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        node = producers.get(name)
        if node is None:
            name = aliases.get(name, name)
        elif node.op_type in MOVERS and node.input:
            name = node.input[0]
        else:
            return bool(node.op_type == "DequantizeLinear")
    return False


def _constants(graph: _Graph) -> list[Tensor]:
    producers = graph.producers()
    biases = {
        n.input[BIAS_OPERAND[n.op_type]]
        for n in graph.nodes
        if len(n.input) > BIAS_OPERAND.get(n.op_type, math.inf)
    }
    for name in list(biases):  # an int8 model's bias passes a DequantizeLinear
        if name in producers and producers[name].input:
            biases.add(producers[name].input[0])
    quantizers = {
        n.input[0]: n.input[1:] for n in graph.nodes if n.op_type in QUANTIZERS and n.input
    }
    quantizers |= _scaled_by_arithmetic(graph)
    parameters = {name for names in quantizers.values() for name in names}
    tensors = []
    for name, proto in graph.constants.items():
        dtype, elements, size = _measure(name, proto)
        scales, zero_points = _quantization(graph, quantizers.get(name, ()))
        role = _role(dtype, len(proto.dims), name in biases, bool(scales))
        if name in parameters:
            role = "other"
        tensors.append(
            Tensor(
                name=_text(name),
                role=role,
                dtype=dtype,
                elements=elements,
                size_bytes=size,
                zeros=_zeros(proto, zero_points) if role == "weights" else None,
                scales=scales,
                zero_points=zero_points,
            )
        )
    return tensors


def _role(dtype: str, rank: int, is_bias: bool, is_quantized: bool) -> Role:
    if is_bias:
        return "biases"
    is_number = dtype.startswith(("float", "bfloat", "complex")) or dtype in NARROW
    return "weights" if rank and (is_quantized or is_number) else "other"


def _dtype(elem_type: int) -> str:
    import onnx

    name: str = onnx.TensorProto.DataType.Name(elem_type).lower()
    return DTYPES.get(name, name)


def _measure(name: str, proto: Any) -> tuple[str, int, int]:
    """Dtype, elements and bytes of a constant; ValueError where its data has another size."""
    dtype = _dtype(proto.data_type)
    if any(d < 0 for d in proto.dims):
        raise ValueError(f"tensor {name!r} has shape {list(proto.dims)}")
    elements = math.prod(proto.dims)
    size = -(-elements * BITS.get(dtype, 8) // 8)
    if proto.HasField("raw_data") and len(proto.raw_data) != size:
        raise ValueError(
            f"tensor {name!r} has {len(proto.raw_data)} bytes where "
            f"{dtype}{list(proto.dims)} takes {size}"
        )
    if dtype == "string":
        size = sum(map(len, proto.string_data))
    return dtype, elements, size


def _is_external(proto: Any) -> bool:
    return bool(proto.data_location == 1)  # TensorProto.EXTERNAL


def _values(proto: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.to_array(proto)


def _zeros(proto: Any, zero_points: list[int]) -> int | None:
    """Elements that stand for 0.0; None where the values are external or zero points differ."""
    if _is_external(proto) or len(set(zero_points)) > 1:
        return None
    return int(np.count_nonzero(_values(proto) == (zero_points[0] if zero_points else 0)))


def _scaled_by_arithmetic(graph: _Graph) -> dict[str, list[str]]:
    """Scales of integer constants that a Cast and a Mul make floats of, or what comes of them.

    The latter are of a MatMulInteger, whose Mul has the product of both operands' scales.
    """
    readers = {name: n for n in graph.nodes for name in n.input}
    producers = graph.producers()
    found = {}
    for name, proto in graph.constants.items():
        cast = node = readers.get(name)
        if node is not None and node.op_type == "MatMulInteger":
            cast = readers.get(node.output[0])
        if cast is None or cast.op_type != "Cast" or _dtype(proto.data_type) not in NARROW:
            continue
        product = readers.get(cast.output[0])
        others = [n for n in (product.input if product else ()) if n != cast.output[0]]
        if cast is not node:
            others = [n for other in others if other in producers for n in producers[other].input]
        scales = [other for other in others if other in graph.constants]
        if len(scales) == 1:
            found[name] = scales
    return found


def _quantization(graph: _Graph, names: Sequence[str]) -> tuple[list[float], list[int]]:
    """The values of scales and zero points by their names; empty if they are not constant."""
    scale, zero_point = (graph.constants.get(name) for name in [*names, "", ""][:2])
    if scale is None or _is_external(scale):
        return [], []
    _measure(names[0], scale)
    scales = finite(_values(scale).reshape(-1))
    if zero_point is None or _is_external(zero_point):
        return scales, []
    _measure(names[1], zero_point)
    return scales, [int(z) for z in _values(zero_point).reshape(-1)]


def _activations(graph: Any) -> list[Tensor]:
    constants = {tensor.name for tensor in graph.initializer}
    tensors = []
    for value in {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}.values():
        if value.name in constants or not value.type.HasField("tensor_type"):
            continue
        dtype, shape = _type(value)
        elements = math.prod(1 if d is None else d for d in shape)
        size = -(-elements * BITS.get(dtype, 8) // 8)
        tensors.append(Tensor(_text(value.name), "activations", dtype, elements, size))
    return tensors


def _type(value: Any) -> tuple[str, tuple[int | None, ...]]:
    """Dtype and shape of an input or output; a shape of () where it is not declared."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return str(kind or "unknown").removesuffix("_type"), ()
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    if any(d is not None and d < 0 for d in shape):
        raise ValueError(f"tensor {value.name!r} has shape {list(shape)}")
    return _dtype(tensor.elem_type), shape


def _signature(proto: Any, graph: _Graph) -> Signature:
    constants = {tensor.name for tensor in proto.initializer}
    reads = {
        n.input[0]: n.input[1:] for n in graph.nodes if n.op_type == "DequantizeLinear" and n.input
    }
    makes = {
        n.output[0]: n.input[1:] for n in graph.nodes if n.op_type == "QuantizeLinear" and n.output
    }
    return Signature(
        # Before IR version 4 constants are listed as inputs too.
        inputs=tuple(_spec(v, graph, reads) for v in proto.input if v.name not in constants),
        outputs=tuple(_spec(v, graph, makes) for v in proto.output),
    )


def _spec(value: Any, graph: _Graph, quantizers: dict[str, Sequence[str]]) -> TensorSpec:
    dtype, shape = _type(value)
    scales, zero_points = _quantization(graph, quantizers.get(value.name, ()))
    return TensorSpec(
        name=_text(value.name),
        native=_text(value.name),
        shape=shape,
        dtype=dtype,
        scale=scales[0] if scales else None,
        zero_point=(zero_points or [0])[0] if scales else None,
    )


def _external_bytes(path: Path, graph: _Graph) -> int:
    """Size of the files beside the model that hold its weights."""
    names = {
        entry.value
        for tensor in graph.constants.values()
        if _is_external(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in names:
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if not inside or not (path.parent / name).is_file():
            raise SourceError(
                f"{path} keeps weights in {name!r}, which is not beside it",
                hint="copy the model together with its weight files",
            )
    return sum((path.parent / name).stat().st_size for name in names)
