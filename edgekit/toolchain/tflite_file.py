"""TFLite files as objects: read, ordered, made small and written again."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain, count, takewhile
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.errors import ConversionError
from edgekit.types import Signature, TensorSpec

ALIGNMENT = 16
"""What the schema asks of constants, so that kernels may load whole vectors of them."""

DTYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.INT32: "int32",
    schema.TensorType.INT64: "int64",
    schema.TensorType.INT8: "int8",
    schema.TensorType.INT16: "int16",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.BOOL: "bool",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.FLOAT16: "float16",
}

BIASED = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""Operators that add a bias, and which operand it is."""

KINDS = {v: name for name, v in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def unpack(content: bytes) -> Any:
    """The file as a tree of the schema's objects (`ModelT`), with all constants in it.

    Some tools write large ones behind the tree, by their places in the file.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    for buffer in model.buffers:
        if buffer.offset > 1:  # 1 is written ahead of the place
            end = buffer.offset + buffer.size
            buffer.data = np.frombuffer(content, np.uint8)[buffer.offset : end].copy()
            buffer.offset = buffer.size = 0
    return model


def pack(model: Any) -> bytes:
    """The file of such a tree. The same tree gives the same bytes."""
    size = sum(buffer.data.nbytes for buffer in model.buffers if buffer.data is not None)
    builder = _Builder(size + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):
    """Writes equal vectors once: shapes, zero points, constants."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Any) -> int:
        key = x.dtype.str, x.tobytes()
        if key not in self._written:
            if x.dtype == np.uint8:  # a constant
                self.Prep(ALIGNMENT, x.nbytes)
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def main_graph(model: Any) -> Any:
    """The graph that is run; others are the bodies of its loops."""
    return model.subgraphs[model.signatureDefs[0].subgraphIndex]


def kind(model: Any, op: Any) -> str:
    """The name of an operator in the schema: "CONV_2D"."""
    code = model.operatorCodes[op.opcodeIndex]
    # Codes above 127 are in the newer field only, those below in both or the older only.
    return KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def check_operators(model: Any, names: Collection[str]) -> None:
    """Check that operators of the main graph give the tensors `names`.

    Raises:
        ConversionError: one is not there.
    """
    graph = main_graph(model)
    known = {graph.tensors[i].name.decode() for op in graph.operators for i in op.outputs}
    if unknown := sorted(set(names) - known):
        raise ConversionError(f"the TFLite file has no operator that gives {unknown[0]}")


def bias_operand(model: Any, op: Any) -> int | None:
    """Which operand of the operator is its bias; None if it has none."""
    operand = BIASED.get(kind(model, op))
    has_one = operand is not None and operand < len(op.inputs) and op.inputs[operand] >= 0
    return operand if has_one else None


def dtype(tensor: Any) -> str | None:
    """Its type as NumPy calls it; None for one that edgekit does not use."""
    return DTYPES.get(tensor.type)


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """What a constant tensor holds, in its shape; None for an activation or an unusual type."""
    data = model.buffers[tensor.buffer].data
    if data is None or not data.size or dtype(tensor) is None:
        return None
    return data.view(dtype(tensor)).reshape(() if tensor.shape is None else tensor.shape)


def add_constant(model: Any, name: str, value: np.ndarray) -> int:
    """The place of a new float32 tensor in the main graph."""
    tensors = main_graph(model).tensors
    model.buffers.append(schema.BufferT(data=np.frombuffer(value.tobytes(), np.uint8)))
    tensors.append(
        schema.TensorT(
            shape=np.array(value.shape, np.int32),
            type=schema.TensorType.FLOAT32,
            buffer=len(model.buffers) - 1,
            name=name.encode(),
            hasRank=True,
        )
    )
    return len(tensors) - 1


def remove_unread(model: Any) -> None:
    """Remove the operators of the main graph whose results nobody reads."""
    graph = main_graph(model)
    read, kept = set(graph.outputs), []
    for op in reversed(graph.operators):
        if read.intersection(op.outputs) or not len(op.outputs):
            read.update(op.inputs)
            kept.append(op)
    graph.operators = kept[::-1]


def shorten_names(model: Any) -> None:
    """Leave each tensor the first of the names that the converter joined, and keep it unique.

    The path that all results share, the model's name, goes too. Inputs and outputs keep theirs.
    """
    for graph in model.subgraphs:
        borders = [*graph.inputs, *graph.outputs]
        results = [i for op in graph.operators for i in op.outputs if i not in borders]
        paths = [graph.tensors[i].name.split(b";")[0].split(b"/") for i in results]
        steps = zip(*(path[:-1] for path in paths), strict=False)
        shared = b"".join(step[0] + b"/" for step in takewhile(lambda s: len(set(s)) == 1, steps))
        taken = {graph.tensors[i].name for i in borders}
        for i in dict.fromkeys((*results, *range(len(graph.tensors)))):
            if i in borders:
                continue
            short = graph.tensors[i].name.split(b";")[0].removeprefix(shared)
            numbered = (short + b"_%d" % k for k in count(1))
            graph.tensors[i].name = next(n for n in chain([short], numbered) if n not in taken)
            taken.add(graph.tensors[i].name)


def shrink(model: Any) -> None:
    """Drop what no runtime reads: ranges, names of weights, notes on the conversion.

    The manifest says how a file was made. Float constants keep their names: they are few there,
    and are asked about.
    """
    model.metadata = [m for m in model.metadata or [] if m.name != b"CONVERSION_METADATA"]
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        if tensor.quantization is not None:
            tensor.quantization.min = tensor.quantization.max = None
            if tensor.quantization.scale is None:
                tensor.quantization = None
        value = constant(model, tensor)
        if value is not None and (value.ndim < 2 or value.dtype.kind != "f"):
            tensor.name = None
    drop_unused(model)


def drop_unused(model: Any) -> None:
    """Drop kinds of operators and constants that nothing uses, and all but one of equals."""
    operators = [op for graph in model.subgraphs for op in graph.operators]
    used = sorted({op.opcodeIndex for op in operators})
    for op in operators:
        op.opcodeIndex = used.index(op.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    _share_buffers(model, [*tensors, *(model.metadata or [])])


def _share_buffers(model: Any, users: list[Any]) -> None:
    """One buffer for equal constants; the first is that of activations, as the schema says."""
    places, buffers = {b"": 0}, [schema.BufferT()]
    for user in users:
        data = model.buffers[user.buffer].data
        content = b"" if data is None else data.tobytes()
        if content not in places:
            places[content] = len(buffers)
            buffers.append(model.buffers[user.buffer])
        user.buffer = places[content]
    model.buffers = buffers


def signature(content: bytes, wanted: Signature) -> Signature:
    """The signature of a file that was made from the model of signature `wanted`."""
    return order(unpack(content), wanted)


def order(model: Any, wanted: Signature) -> Signature:
    """Put inputs and outputs into the order of `wanted`, which names them as Keras does.

    The converter orders them by name; an application that binds by index, as most do, expects
    the order of the model.

    Returns:
        The signature of the file: `native` is the name in its TFLite signature.
    """
    graph, native = main_graph(model), model.signatureDefs[0]
    inputs = {entry.name.decode(): entry for entry in native.inputs}
    outputs = {entry.name.decode(): entry for entry in native.outputs}
    native.inputs = [inputs[s.native.removesuffix(":0")] for s in wanted.inputs]
    native.outputs = [outputs[s.name] for s in wanted.outputs]
    graph.inputs = np.array([entry.tensorIndex for entry in native.inputs], np.int32)
    # A model whose outputs are one tensor twice has fewer graph outputs than signature entries.
    if len(graph.outputs) == len(native.outputs):
        graph.outputs = np.array([entry.tensorIndex for entry in native.outputs], np.int32)
    return Signature(
        inputs=tuple(
            _spec(spec, entry.name.decode(), graph.tensors[entry.tensorIndex])
            for spec, entry in zip(wanted.inputs, native.inputs, strict=True)
        ),
        outputs=tuple(
            _spec(spec, entry.name.decode(), graph.tensors[entry.tensorIndex])
            for spec, entry in zip(wanted.outputs, native.outputs, strict=True)
        ),
    )


def _spec(wanted: TensorSpec, native: str, tensor: Any) -> TensorSpec:
    quantization = tensor.quantization
    scales = None if quantization is None else quantization.scale
    scaled = scales is not None and len(scales) == 1
    return TensorSpec(
        name=wanted.name,
        native=native,
        shape=wanted.shape,
        dtype=DTYPES[tensor.type],
        scale=float(scales[0]) if scales is not None and scaled else None,
        zero_point=int(quantization.zeroPoint[0]) if scaled else None,
    )
