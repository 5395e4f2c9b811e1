"""Reading and editing GraphDefs: what the passes over the folded graph are written with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf


def node_of(tensor: str) -> str:
    """Name of the node that gives `tensor` ("^x", "x:0" and "x" are all of node "x")."""
    return tensor.lstrip("^").partition(":")[0]


def constants(graph_def: Any) -> dict[str, np.ndarray]:
    """Values of all Const nodes by node name."""
    return {
        n.name: tf.make_ndarray(n.attr["value"].tensor) for n in graph_def.node if n.op == "Const"
    }


def users(graph_def: Any) -> dict[str, list[Any]]:
    """The nodes that read each node, once per edge, control edges included."""
    found: dict[str, list[Any]] = {}
    for node in graph_def.node:
        for tensor in node.input:
            found.setdefault(node_of(tensor), []).append(node)
    return found


def inferred_shapes(graph_def: Any, tensors: list[str]) -> dict[str, list[Any] | None]:
    """Inferred shapes of `tensors`; None where not even the rank is known."""
    if not tensors:
        return {}
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph_def, name="")
        found = {
            name: imported.get_tensor_by_name(name if ":" in name else f"{name}:0").shape
            for name in tensors
        }
    return {name: None if s.rank is None else s.as_list() for name, s in found.items()}


def add_node(
    graph_def: Any, op: str, name: str, inputs: list[str], like: Any = None, **attributes: Any
) -> Any:
    """Append a node under a name not yet taken.

    Args:
        graph_def: changed in place.
        op: the operation.
        name: wanted; numbered where it is taken.
        inputs: names of tensors.
        like: a node whose element type T the new one has, too.
        attributes: others; what is left out has the operation's default.
    """
    node = graph_def.node.add(op=op, name=free_name(graph_def, name), input=inputs)
    if like is not None:
        node.attr["T"].type = like.attr["T"].type
    _set_attributes(node, attributes)
    return node


def add_constant(graph_def: Any, name: str, value: np.ndarray) -> str:
    """Append a Const node under a name not yet taken, and give that name."""
    node = graph_def.node.add(op="Const", name=free_name(graph_def, name))
    become_constant(node, value)
    return str(node.name)


def become(node: Any, op: str, inputs: list[str], **attributes: Any) -> None:
    """Turn `node` into another operation of the same element type and name."""
    element = node.attr["T"].type
    node.op = op
    node.input[:] = inputs
    node.attr.clear()
    node.attr["T"].type = element
    _set_attributes(node, attributes)


def become_constant(node: Any, value: np.ndarray) -> None:
    """Turn `node` into the Const of the same name."""
    node.op = "Const"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))


def remove_nodes(graph_def: Any, names: set[str]) -> None:
    """Delete nodes, without a look at who reads them; in place, as GraphDefs may be large."""
    for i in reversed(range(len(graph_def.node))):
        if graph_def.node[i].name in names:
            del graph_def.node[i]


def redirect(graph_def: Any, replaced: dict[str, str]) -> None:
    """Let the readers of each node read another one instead, at the same output."""
    for node in graph_def.node:
        for i, tensor in enumerate(node.input):
            name = node_of(tensor)
            if name in replaced:
                node.input[i] = tensor.replace(name, replaced[name], 1)


def _set_attributes(node: Any, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        if isinstance(value, tf.DType):
            node.attr[key].type = value.as_datatype_enum
        elif isinstance(value, bool):
            node.attr[key].b = value
        elif isinstance(value, int):
            node.attr[key].i = value
        else:
            node.attr[key].s = value


def free_name(graph_def: Any, name: str) -> str:
    """`name`, or name_1, name_2 ... where it is taken."""
    taken = {n.name for n in graph_def.node}
    return next(free for free in _numbered(name) if free not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1
