"""Operations as TensorFlow.js has them, and as its kernels for WebAssembly compute them rightly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.graph_edit import (
    add_constant,
    add_node,
    become,
    constants,
    inferred_shapes,
)
from edgekit.toolchain.graph_weights import FrozenGraph


def lower_for_tfjs(frozen: FrozenGraph) -> None:
    """Rewrite what TensorFlow.js lacks, or what its kernels for WebAssembly get wrong."""
    graph = frozen.graph_def
    for node in list(graph.node):
        if node.op == "BatchMatMulV3":
            element = node.attr["Ta"].type
            for key in ("Ta", "Tb", "Tout"):
                node.attr.pop(key, None)
            node.op, node.attr["T"].type = "BatchMatMulV2", element
        elif node.op == "Softsign":
            one = add_constant(graph, f"{node.name}/one", np.array(1, np.float32))
            size = add_node(graph, "Abs", f"{node.name}/abs", list(node.input), like=node)
            below = add_node(graph, "AddV2", f"{node.name}/add", [size.name, one], like=node)
            node.op = "RealDiv"
            node.input.append(below.name)
        elif node.op == "OneHot":
            _compute_as_integers(graph, node, node.input[2:])
        elif node.op in _NOT_OF_BOOLEANS and node.attr["T"].type == tf.bool.as_datatype_enum:
            _compute_as_integers(graph, node, node.input[_NOT_OF_BOOLEANS[node.op]])
    _lower_max_pool_3d(graph)
    _lower_batch_gather(graph)
    _lower_space_to_depth(graph)
    _split_groups(frozen)


_NOT_OF_BOOLEANS = {"ReverseV2": slice(0, 1), "SelectV2": slice(1, 3)}
"""The inputs that WebAssembly reads wrongly where they are booleans."""


def _compute_as_integers(graph: Any, node: Any, inputs: Sequence[str]) -> None:
    """Compute `node`, whose `inputs` are of its element type, in int32.

    On WebAssembly OneHot writes integers where it says float32, and others read booleans of one
    byte as if they had four.
    """
    given = tf.as_dtype(node.attr["T"].type)
    if given == tf.int32:
        return
    twin = add_node(graph, node.op, f"{node.name}/int32", list(node.input))
    for key, value in node.attr.items():
        twin.attr[key].CopyFrom(value)
    twin.attr["T"].type = tf.int32.as_datatype_enum
    for i, tensor in enumerate(node.input):
        if tensor in inputs:
            twin.input[i] = add_node(
                graph, "Cast", f"{node.name}/cast", [tensor], SrcT=given, DstT=tf.int32
            ).name
    become(node, "Cast", [twin.name], SrcT=tf.int32, DstT=given)
    del node.attr["T"]


def _lower_max_pool_3d(graph: Any) -> None:
    """MaxPool3D as one MaxPool over height and width, then one over depth.

    The kernel of WebAssembly starts from the smallest positive number, and so gives no negative.
    """
    nodes = [n for n in graph.node if n.op == "MaxPool3D" and n.attr["data_format"].s == b"NDHWC"]
    shapes = inferred_shapes(graph, [t for n in nodes for t in (n.input[0], n.name)])
    for node in nodes:
        before, after = shapes[node.input[0]], shapes[node.name]
        if before is None or after is None or None in before[1:]:
            continue
        (depth, *image, channels), pixels = before[1:], after[2] * after[3]
        _, deep, high, wide, _ = node.attr["ksize"].list.i
        _, down, *across, _ = node.attr["strides"].list.i

        def reshape(tensor: str, shape: list[int], node: Any = node) -> str:
            target = add_constant(graph, f"{node.name}/shape", np.array(shape, np.int32))
            name = f"{node.name}/reshape"
            return str(add_node(graph, "Reshape", name, [tensor, target], node).name)

        def pool(tensor: str, size: list[int], step: list[int], node: Any = node) -> str:
            pooled = add_node(
                graph, "MaxPool", f"{node.name}/pool", [tensor], node,
                padding=node.attr["padding"].s, data_format=b"NHWC",
            )  # fmt: skip
            pooled.attr["ksize"].list.i.extend([1, *size, 1])
            pooled.attr["strides"].list.i.extend([1, *step, 1])
            return str(pooled.name)

        flat = pool(reshape(node.input[0], [-1, *image, channels]), [high, wide], across)
        column = pool(reshape(flat, [-1, depth, pixels, channels]), [deep, 1], [down, 1])
        result = add_constant(graph, f"{node.name}/shape", np.array([-1, *after[1:]], np.int32))
        become(node, "Reshape", [column, result])


def _lower_batch_gather(graph: Any) -> None:
    """GatherV2 with batch_dims, on which WebAssembly errs, as one over all rows of the batch."""
    nodes = [n for n in graph.node if n.op == "GatherV2" and n.attr["batch_dims"].i > 0]
    values = constants(graph)
    shapes = inferred_shapes(graph, [t for n in nodes for t in (*n.input[:2], n.name)])
    for node in nodes:
        x, indices, axis = node.input
        before, picked, after = shapes[x], shapes[indices], shapes[node.name]
        batch = node.attr["batch_dims"].i
        if before is None or picked is None or after is None or axis not in values:
            continue
        known = None not in (*before[1:], *picked[1:])
        if not known or int(values[axis]) not in (batch, batch - len(before)):
            continue

        def add(op: str, *inputs: str, node: Any = node, **attributes: Any) -> str:
            name = f"{node.name}/{op}"
            return str(add_node(graph, op, name, list(inputs), **attributes).name)

        def constant(value: Any, node: Any = node) -> str:
            return add_constant(graph, f"{node.name}/constant", np.array(value, np.int32))

        index, element = (tf.as_dtype(node.attr[k].type) for k in ("Tindices", "Tparams"))
        size, rest = before[batch], before[batch + 1 :]
        flat = add("Reshape", x, constant([-1, *rest]), T=element)
        row = add("Reshape", indices, constant([-1, int(np.prod(picked[batch:]))]), T=index)
        row = add("Cast", row, SrcT=index, DstT=tf.int32)
        shape = add("Shape", row, T=tf.int32)
        count = add(
            "StridedSlice", shape, constant([0]), constant([1]), constant([1]),
            T=tf.int32, Index=tf.int32, shrink_axis_mask=1,
        )  # fmt: skip
        limit = add("Mul", count, constant(size), T=tf.int32)
        first = add("Range", constant(0), limit, constant(size), Tidx=tf.int32)
        first = add("ExpandDims", first, constant(-1), T=tf.int32)
        place = add("AddV2", row, first, T=tf.int32)
        found = add(
            "GatherV2", flat, place, constant(0),
            Tparams=element, Tindices=tf.int32, Taxis=tf.int32,
        )  # fmt: skip
        node.attr["T"].type = element.as_datatype_enum
        become(node, "Reshape", [found, constant([-1, *after[1:]])])


def _lower_space_to_depth(graph: Any) -> None:
    nodes = [n for n in graph.node if n.op == "SpaceToDepth"]
    shapes = inferred_shapes(graph, [n.input[0] for n in nodes])
    for node in nodes:
        shape, block = shapes[node.input[0]], node.attr["block_size"].i
        if shape is None or None in shape[1:] or node.attr["data_format"].s == b"NCHW":
            continue
        _, height, width, channels = shape
        high, wide = height // block, width // block
        blocks, order, result = (
            add_constant(graph, f"{node.name}/constant", np.array(value, np.int32))
            for value in (
                [-1, high, block, wide, block * channels],
                [0, 1, 3, 2, 4],
                [-1, high, wide, block * block * channels],
            )
        )
        split = add_node(graph, "Reshape", f"{node.name}/split", [node.input[0], blocks], node)
        turned = add_node(graph, "Transpose", f"{node.name}/turn", [split.name, order], node)
        become(node, "Reshape", [turned.name, result])


def _split_groups(frozen: FrozenGraph) -> None:
    """A grouped convolution as one convolution per group, which is all TensorFlow.js has."""
    graph, kernels = frozen.graph_def, frozen.kernels()
    convolutions = [n for n in graph.node if n.op == "Conv2D"]
    shapes = inferred_shapes(graph, [n.input[0] for n in convolutions])
    for node in convolutions:
        weight, shape = kernels.get(node.input[1]), shapes[node.input[0]]
        if weight is None or shape is None or shape[-1] in (None, weight.shape[2]):
            continue
        groups = shape[-1] // weight.shape[2]
        along = add_constant(graph, f"{node.name}/axis", np.array(3, np.int32))
        parts = add_node(
            graph, "Split", f"{node.name}/split", [along, node.input[0]], like=node,
            num_split=groups,
        )  # fmt: skip
        width, results = weight.shape[3] // groups, []
        for i in range(groups):
            part = slice(i * width, (i + 1) * width)
            size = (*weight.shape[:3], width)
            kernel = weight.map(lambda w, part=part: w[..., part], size)  # type: ignore[misc]
            name = frozen.add(f"{node.name}/group_{i}/weights", kernel)
            one = add_node(
                graph, "Conv2D", f"{node.name}/group_{i}", [f"{parts.name}:{i}", name], like=node
            )
            for key, value in node.attr.items():
                one.attr[key].CopyFrom(value)
            results.append(one.name)
        become(node, "ConcatV2", [*results, along], N=groups)
