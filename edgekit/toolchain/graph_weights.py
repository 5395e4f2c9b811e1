"""Weights kept beside a GraphDef, so that no pass over the graph copies their values.

A large network is mostly kernels, and each pass of TensorFlow's optimizer holds several copies of
the graph that it is given. The kernels are therefore taken out while variables become constants,
and read when a file is written. In the graph a Placeholder of their shape stands for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from edgekit.toolchain.canonical import Canonical
from edgekit.toolchain.graph_edit import (
    become_constant,
    constants,
    free_name,
    inferred_shapes,
    node_of,
    redirect,
    remove_nodes,
    users,
)

_KERNELS = {
    "Conv2D": (1,),
    "DepthwiseConv2dNative": (1,),
    "Conv3D": (1,),
    "Conv2DBackpropInput": (1,),
    "Conv3DBackpropInputV2": (1,),
    "MatMul": (0, 1),
    "BatchMatMulV2": (0, 1),
    "BatchMatMulV3": (0, 1),
    "Einsum": (0, 1),
    "GatherV2": (0,),
}
"""Inputs whose values no pass needs to see: kernels, and tables to look up in."""

_RESHAPING = ("Reshape", "ExpandDims", "Squeeze", "Transpose")


@dataclass(frozen=True)
class Weight:
    """A float32 array that `read` gives anew each time; nothing is held in between."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def map(self, change: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> Weight:
        """The weight with `change` applied when it is read, which gives it the shape `shape`."""
        return Weight(shape, lambda: np.ascontiguousarray(change(self.read()), np.float32))

    def reshape(self, shape: Sequence[int]) -> Weight:
        """The same values in another shape."""
        return self.map(lambda value: value.reshape(shape), tuple(shape))

    def transpose(self, axes: Sequence[int]) -> Weight:
        """The same values with the axes in another order."""
        shape = tuple(self.shape[axis] for axis in axes)
        return self.map(lambda value: value.transpose(axes), shape)


@dataclass(frozen=True)
class FrozenGraph:
    """A GraphDef without variables; `weights` by name of the Placeholder that stands for each."""

    graph_def: Any
    weights: dict[str, Weight] = field(default_factory=dict)

    def copy(self) -> FrozenGraph:
        """Another graph to edit; the weights are not copied."""
        graph_def = tf.compat.v1.GraphDef()
        graph_def.CopyFrom(self.graph_def)
        return FrozenGraph(graph_def, dict(self.weights))

    def complete(self) -> Any:
        """A GraphDef of its own, in which the weights are constants again."""
        whole = self.copy()
        whole.put_back(set(whole.weights))
        return whole.graph_def

    def kernels(self) -> dict[str, Weight]:
        """The weights and the float32 constants, by node name."""
        values = ((n, v) for n, v in constants(self.graph_def).items() if v.dtype == np.float32)
        return {n: Weight(v.shape, lambda v=v: v) for n, v in values} | self.weights  # type: ignore[misc]

    def add(self, name: str, weight: Weight) -> str:
        """Add a weight under a name not yet taken, and give that name."""
        free = free_name(self.graph_def, name)
        self.weights[free] = _become_weight(self.graph_def.node.add(name=free), weight)
        return free

    def settle(self, keep: frozenset[str]) -> None:
        """Put back the weights whose values a pass may have to see: all but kernels and tables.

        A kernel may be reshaped or transposed on its way; that happens when it is read.
        """
        while self._skip_copies(keep) or self._fold_shapes(keep):
            pass
        for node in self.graph_def.node:  # nothing has to wait for a weight
            node.input[:] = [i for i in node.input if not self._is_wait(i)]
        readers = users(self.graph_def)
        self.put_back(
            {name for name in self.weights if not _only_kernel(name, readers.get(name, []))}
        )

    def put_back(self, names: set[str]) -> None:
        """Let the weights `names` be constants of the graph."""
        for node in self.graph_def.node:
            if node.name in names:
                become_constant(node, self.weights.pop(node.name).read())

    def rename(self, names: dict[str, str]) -> None:
        """Give nodes other names."""
        redirect(self.graph_def, names)
        for node in self.graph_def.node:
            node.name = names.get(node.name, node.name)
        for old in names.keys() & self.weights.keys():
            self.weights[names[old]] = self.weights.pop(old)

    def drop_unread(self) -> None:
        """Remove the weights that nothing reads any more; grappler leaves every Placeholder."""
        read = users(self.graph_def)
        unread = {name for name in self.weights if name not in read}
        remove_nodes(self.graph_def, unread)
        for name in unread:
            del self.weights[name]

    def _is_wait(self, tensor: str) -> bool:
        return tensor.startswith("^") and tensor[1:] in self.weights

    def _skip_copies(self, keep: frozenset[str]) -> bool:
        """Let the readers of an Identity of a weight read the weight."""
        copies = {
            n.name: node_of(n.input[0])
            for n in self.graph_def.node
            if n.op == "Identity" and n.input[0] in self.weights and n.name not in keep
        }
        remove_nodes(self.graph_def, set(copies))
        redirect(self.graph_def, copies)
        return bool(copies)

    def _fold_shapes(self, keep: frozenset[str]) -> bool:
        """Let a weight of another shape take the place of a node that only gives it that shape."""
        found = [
            node
            for node in self.graph_def.node
            if node.op in _RESHAPING and node.input[0] in self.weights and node.name not in keep
        ]
        values = constants(self.graph_def)
        shapes = inferred_shapes(self.graph_def, [node.name for node in found])
        folded = False
        for node in found:
            shape, weight = shapes[node.name], self.weights[node.input[0]]
            axes = values.get(node.input[1]) if node.op == "Transpose" else None
            if shape is None or None in shape or (node.op == "Transpose" and axes is None):
                continue
            changed = weight.reshape(shape) if axes is None else weight.transpose(axes.tolist())
            self.weights[node.name] = _become_weight(node, changed)
            folded = True
        return folded


def freeze(model: Canonical, *, lower_loops: bool = False) -> FrozenGraph:
    """The model without variables; tensor names as in `model.signature`.

    Every float32 variable of two or more dimensions is a weight, every other one a constant. A
    loop is a While operation that calls functions, or with `lower_loops` the older Switch, Merge,
    Enter, Exit and NextIteration.
    """
    data = _WithoutWeights(model.concrete, lower_loops, aggressive_inlining=False)
    graph_def, _ = convert_to_constants._replace_variables_by_constants(data)
    graph = FrozenGraph(graph_def)
    nodes = {node.name: node for node in graph_def.node}
    variables = {id(v.handle): v for v in model.concrete.graph.variables}
    for outer, inner in model.concrete.graph.captures:
        variable, node = variables.get(id(outer)), nodes.get(inner.op.name)
        if variable is not None and node is not None and _is_weight(variable):
            weight = Weight(tuple(variable.shape), variable.read_value().numpy)
            graph.weights[node.name] = _become_weight(node, weight)
    graph.rename(_without_counters([inner.op.name for _, inner in model.concrete.graph.captures]))
    return graph


def _without_counters(names: list[str]) -> dict[str, str]:
    """Other names for those that TensorFlow takes from a counter of the process ("layer/192")."""
    counted = [name for name in names if name.rpartition("/")[2].isdigit()]
    return {
        name: f"{name.rpartition('/')[0]}/captured_{i}".lstrip("/")
        for i, name in enumerate(counted)
    }


class _WithoutWeights(convert_to_constants._FunctionConverterDataInEager):
    """TensorFlow's own freezing, with zeros that are never written down instead of weights."""

    def _eval(self, tensor: Any) -> np.ndarray:
        if _is_weight(tensor):
            return np.broadcast_to(np.zeros((), np.float32), tensor.shape)
        return super()._eval(tensor)


def _become_weight(node: Any, weight: Weight) -> Weight:
    """Turn `node` into the Placeholder that stands for `weight`."""
    node.op = "Placeholder"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(weight.shape).as_proto())
    return weight


def _is_weight(tensor: Any) -> bool:
    return isinstance(tensor, tf.Variable) and tensor.dtype == tf.float32 and tensor.shape.rank > 1


def _only_kernel(name: str, readers: list[Any]) -> bool:
    """Whether all `readers` read the node `name` as a kernel or table."""
    return all(
        i in _KERNELS.get(node.op, ())
        for node in readers
        for i, tensor in enumerate(node.input)
        if tensor == name
    )
