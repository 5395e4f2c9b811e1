"""The canonical function without Split, for TFLite's int8.

The converter gives the parts of a Split one common scale, and lets chance decide in which order:
the same LSTM gave five different files in six runs, some with floats inside (TensorFlow 2.21).
Slices have no such trouble.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.canonical import Canonical
from edgekit.toolchain.graph import inlined
from edgekit.toolchain.graph_edit import (
    add_constant,
    add_node,
    constants,
    inferred_shapes,
    node_of,
    remove_nodes,
)

SPLITS = ("Split", "SplitV")


def without_splits(model: Canonical) -> Canonical:
    """`model` itself if it has no Split, else the same function from its frozen graph."""
    graph = model.concrete.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    if not any(node.op in SPLITS for node in nodes):
        return model
    graph = inlined(model)
    _slice(graph)
    graph.ClearField("library")  # everything is inlined
    return dataclasses.replace(model, concrete=_function(graph, model))


def _slice(graph: Any) -> None:
    values = constants(graph)
    splits = [n for n in graph.node if n.op in SPLITS]
    shapes = inferred_shapes(graph, [_operands(n)[0] for n in splits])
    names = {}
    for node in splits:
        source, axis_name = _operands(node)
        shape, axis = shapes[source], values.get(axis_name)
        sizes = None if axis is None or shape is None else _sizes(node, shape[axis], values)
        if shape is None or None in shape or sizes is None:
            continue
        start = 0
        for i, size in enumerate(sizes):
            begin, length = np.zeros(len(shape), np.int32), np.array(shape, np.int32)
            begin[axis], length[axis] = start, size
            inputs = [
                source,
                add_constant(graph, f"{node.name}/begin_{i}", begin),
                add_constant(graph, f"{node.name}/size_{i}", length),
            ]
            part = add_node(graph, "Slice", f"{node.name}/slice_{i}", inputs, node, Index=tf.int32)
            names[f"{node.name}:{i}" if i else node.name] = part.name
            start += size
    for node in graph.node:
        node.input[:] = [names.get(name.removesuffix(":0"), name) for name in node.input]
    read = {node_of(name) for node in graph.node for name in node.input}
    remove_nodes(graph, {n.name for n in splits if n.name not in read})


def _operands(node: Any) -> tuple[str, str]:
    """What is split, and along which axis."""
    return (node.input[1], node.input[0]) if node.op == "Split" else (node.input[0], node.input[2])


def _sizes(node: Any, length: int | None, values: dict[str, np.ndarray]) -> list[int] | None:
    """The lengths of the parts, where they are known."""
    if node.op == "Split":
        count = node.attr["num_split"].i
        return None if length is None else [length // count] * count
    sizes = values.get(node.input[1])
    if sizes is None or (length is None and np.any(sizes < 0)):
        return None
    return [int(length - sizes[sizes >= 0].sum() if n < 0 else n) for n in sizes]  # -1: the rest


def _function(graph: Any, model: Canonical) -> Any:
    whole = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])

    def tensor(name: str) -> Any:
        return whole.graph.get_tensor_by_name(name)

    return whole.prune(
        feeds=[tensor(spec.native) for spec in model.signature.inputs],
        fetches={spec.name: tensor(spec.native) for spec in model.signature.outputs},
    )
