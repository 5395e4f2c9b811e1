"""ONNX files with int8 weights that need no calibration.

Large dense layers compute in integers: the range of what they read is found at each call. For
convolutions onnxruntime's kernels of that kind are ten times slower than float, and for small
layers finding the range takes longer than it saves: their weights are only stored as int8.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from edgekit.errors import ConversionError
from edgekit.toolchain.onnx_file import compact, made_in, save, subgraphs
from edgekit.toolchain.onnx_weights import constants_read_by, multiplied, store_int8, symmetric

FEWEST = 64
"""Elements with which int8 saves more bytes than scales and nodes take."""

GAIN = 2**15
"""Elements of a matrix from which on integers are faster (measured: equal with 32,768 elements
and one row, 1.9 times faster with 131,072)."""


def convert(fp32: Path, path: Path, keep: Collection[str] = ()) -> None:
    """Write the dynamically quantized version of `fp32`, a file of `onnx.convert`.

    Inputs and outputs stay float. The same file always gives the same bytes.

    Args:
        fp32: the float file.
        path: the file to write.
        keep: names of tensors of `fp32`: weights of the nodes that give them stay float.

    Raises:
        ConversionError: the model has no weights that int8 would make smaller.
    """
    proto = onnx.load(fp32)
    names = made_in(proto.graph)
    kept = constants_read_by(proto.graph, keep)
    computed = _compute_in_integers(proto.graph, kept)
    stored = [w for w in multiplied(proto.graph, kept) if w.values.size >= FEWEST]
    for weight in stored:
        store_int8(weight)
    if not computed and not stored:
        raise ConversionError(
            "onnx: dynamic: the model has no weights of a size that int8 would make smaller",
            hint="export it as fp32",
        )
    compact(proto, names)
    save(proto, path)


def _compute_in_integers(graph: Any, kept: Collection[str]) -> int:
    """Replace the large MatMul nodes; how many these are.

    onnxruntime fuses the nodes that come into their place, and the Add of a bias behind them.
    """
    weights = {
        weight.tensor.name: weight
        for weight in multiplied(graph, kept)
        if len(weight.tensor.dims) == 2 and weight.values.size >= GAIN
    }
    for inner in subgraphs(graph):
        for node in inner.node:
            for i, name in enumerate(node.input):
                if inner is not graph or node.op_type != "MatMul" or i != 1:
                    weights.pop(name, None)  # also read as it is
    for weight in weights.values():
        name = weight.tensor.name
        integers, scales = symmetric(weight.values, weight.channels)
        weight.tensor.CopyFrom(numpy_helper.from_array(integers, f"{name}:int8"))
        graph.initializer.append(numpy_helper.from_array(scales.reshape(-1), f"{name}:scale"))
    nodes: list[Any] = []
    ranged: set[str] = set()
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            nodes += _in_integers(node, ranged)
            ranged.add(node.input[0])
        else:
            nodes.append(node)
    replaced = sum(n.op_type == "MatMulInteger" for n in nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    return replaced


def _in_integers(node: Any, ranged: Collection[str]) -> list[Any]:
    """A MatMul as nodes that compute in integers; `ranged` are the tensors that have integers."""
    (x, w), y = node.input, node.output[0]
    integers = [f"{x}:uint8", f"{x}:scale", f"{x}:zero"]
    find = [helper.make_node("DynamicQuantizeLinear", [x], integers)]
    return [
        *([] if x in ranged else find),
        helper.make_node(
            "MatMulInteger", [integers[0], f"{w}:int8", integers[2]], [f"{y}:int32"], node.name
        ),
        helper.make_node("Cast", [f"{y}:int32"], [f"{y}:float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [integers[1], f"{w}:scale"], [f"{y}:scale"]),
        helper.make_node("Mul", [f"{y}:float", f"{y}:scale"], [y]),
    ]
