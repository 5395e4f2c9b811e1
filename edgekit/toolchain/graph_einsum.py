"""Einsum of one or two operands as Transpose, Reshape and matrix products.

TF.js has no Einsum on WebAssembly, and runs a model that holds one on its slowest backend; with
constant weights a MatMul is also what the formats fuse and quantize.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.graph_edit import add_constant, add_node, become, inferred_shapes
from edgekit.toolchain.graph_weights import FrozenGraph, Weight


@dataclass(frozen=True)
class _Operand:
    """A tensor with one label per axis; `weight` where it is a constant."""

    labels: str
    tensor: str
    weight: Weight | None = None


def lower_einsum(graph: FrozenGraph) -> None:
    """Rewrite every Einsum of one or two operands of known ranks, none with a label twice."""
    nodes = [n for n in graph.graph_def.node if n.op == "Einsum"]
    shapes = inferred_shapes(graph.graph_def, [i for n in nodes for i in _data(n)])
    kernels = graph.kernels() if nodes else {}
    for node in nodes:
        tensors = _data(node)
        known = [shape for t in tensors if (shape := shapes[t]) is not None]
        if len(tensors) > 2 or len(known) < len(tensors):
            continue
        inputs, output = _spelled_out(node.attr["equation"].s.decode(), [len(s) for s in known])
        if any(len(set(labels)) < len(labels) for labels in (*inputs, output)):
            continue
        operands = [_Operand(i, t, kernels.get(t)) for i, t in zip(inputs, tensors, strict=True)]
        become(node, "Identity", [_Lowering(graph, node, operands, known).result(output)])


def _data(node: Any) -> list[str]:
    return [tensor for tensor in node.input if not tensor.startswith("^")]


def _spelled_out(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each input and of the output, with a letter for each axis behind "..."."""
    left, _, output = equation.replace(" ", "").partition("->")
    inputs, free = left.split(","), [c for c in map(chr, range(0x3B1, 0x3C9)) if c not in equation]
    hidden = [rank - len(i) + 3 if "..." in i else 0 for i, rank in zip(inputs, ranks, strict=True)]
    # Broadcasting lines the axes up at the end.
    letters = ["".join(free[:count][::-1]) for count in (*hidden, max(hidden))]
    *inputs, output = (
        labels.replace("...", spelled)
        for labels, spelled in zip((*inputs, output), letters, strict=True)
    )
    return inputs, output


class _Lowering:
    """Adds to `graph` what computes one Einsum, under names that begin with its own."""

    def __init__(
        self,
        graph: FrozenGraph,
        node: Any,
        operands: list[_Operand],
        shapes: Sequence[Sequence[int | None]],
    ) -> None:
        self._graph, self._node, self._operands = graph, node, operands
        self._sizes: dict[str, int | None] = {}
        self._axis: dict[str, tuple[str, int]] = {}  # where the size is found at run time
        for operand, shape in zip(operands, shapes, strict=True):
            for axis, (label, size) in enumerate(zip(operand.labels, shape, strict=True)):
                if self._sizes.get(label, 1) == 1:  # 1 is broadcast
                    self._sizes[label], self._axis[label] = size, (operand.tensor, axis)

    def result(self, output: str) -> str:
        """The tensor whose axes are `output`."""
        first, *others = (self._summed(operand, output) for operand in self._operands)
        if not others:
            return self._transposed(first, output).tensor
        (second,) = others
        # With a kernel second it is a MatMul; else in the order that needs no Transpose after it.
        swap = first.weight or (not second.weight and _product(second, first, output) == output)
        product = self._multiplied(*((second, first) if swap else (first, second)), output)
        return self._transposed(product, output).tensor

    def _summed(self, operand: _Operand, output: str) -> _Operand:
        """Without the axes that neither another operand nor the output has."""
        needed = {*output, *(c for o in self._operands if o is not operand for c in o.labels)}
        axes = [i for i, label in enumerate(operand.labels) if label not in needed]
        if not axes:
            return operand
        over = self._constant("axes", np.array(axes, np.int32))
        left = "".join(c for c in operand.labels if c in needed)
        return _Operand(left, self._add("Sum", [operand.tensor, over]))

    def _multiplied(self, a: _Operand, b: _Operand, output: str) -> _Operand:
        batch, rows, columns = _groups(a, b, output)
        inner = "".join(c for c in a.labels if c in b.labels and c not in output)
        if b.weight and not batch:
            left = self._merged(a, [rows, inner])
            right = self._merged(b, [inner, columns])
            product = self._add("MatMul", [left, right])
        else:
            adj_x = a.labels == batch + inner + rows and a.labels != batch + rows + inner
            adj_y = b.labels == batch + columns + inner and b.labels != batch + inner + columns
            left = self._merged(a, [*batch, *((inner, rows) if adj_x else (rows, inner))])
            right = self._merged(b, [*batch, *((columns, inner) if adj_y else (inner, columns))])
            product = self._add("BatchMatMulV2", [left, right], adj_x=adj_x, adj_y=adj_y)
        if len(rows) != 1 or len(columns) != 1:
            product = self._reshaped(product, [*batch, *rows, *columns])
        return _Operand(batch + rows + columns, product)

    def _merged(self, operand: _Operand, groups: list[str]) -> str:
        """The operand with the axes of each group as one."""
        arranged = self._transposed(operand, "".join(groups))
        if all(len(group) == 1 for group in groups):
            return arranged.tensor
        if arranged.weight:
            shape = [math.prod(self._sizes[c] or 0 for c in group) for group in groups]
            return self._graph.add(f"{self._node.name}/weights", arranged.weight.reshape(shape))
        return self._reshaped(arranged.tensor, groups)

    def _transposed(self, operand: _Operand, labels: str) -> _Operand:
        if operand.labels == labels:
            return operand
        axes = [operand.labels.index(label) for label in labels]
        if operand.weight:
            weight = operand.weight.transpose(axes)
            return _Operand(labels, self._graph.add(f"{self._node.name}/weights", weight), weight)
        order = self._constant("order", np.array(axes, np.int32))
        return _Operand(labels, self._add("Transpose", [operand.tensor, order]))

    def _reshaped(self, tensor: str, groups: Sequence[str]) -> str:
        """`tensor` with one axis per group of labels; one unknown size follows from the others."""
        known = [[self._sizes[label] for label in group] for group in groups]
        sizes = [None if None in group else math.prod(group) for group in known]  # type: ignore[arg-type]
        unknown = [i for i, size in enumerate(sizes) if size is None]
        if unknown:
            sizes[max(unknown, key=lambda i: len(groups[i]))] = -1
        if None not in sizes:
            shape = self._constant("shape", np.array(sizes, np.int32))
        else:
            parts = [
                self._run_time_size(group)
                if size is None
                else self._constant("size", np.array(size, np.int32))
                for group, size in zip(groups, sizes, strict=True)
            ]
            packed = add_node(
                self._graph.graph_def, "Pack", f"{self._node.name}/shape", parts,
                T=tf.int32, N=len(parts),
            )  # fmt: skip
            shape = packed.name
        return self._add("Reshape", [tensor, shape])

    def _run_time_size(self, group: str) -> str:
        """The product of the sizes of the labels, as a scalar of the graph."""
        graph_def, name = self._graph.graph_def, self._node.name
        sizes = []
        for label in group:
            tensor, axis = self._axis[label]
            shape = add_node(graph_def, "Shape", f"{name}/sizes", [tensor], like=self._node)
            limits = [self._constant("axis", np.array([axis + i], np.int32)) for i in (0, 1)]
            one = self._constant("step", np.array([1], np.int32))
            size = add_node(
                graph_def, "StridedSlice", f"{name}/size", [shape.name, *limits, one],
                T=tf.int32, Index=tf.int32, shrink_axis_mask=1,
            )  # fmt: skip
            sizes.append(size.name)
        while len(sizes) > 1:
            factors = [sizes.pop(), sizes.pop()]
            sizes.append(add_node(graph_def, "Mul", f"{name}/size", factors, T=tf.int32).name)
        return sizes[0]

    def _add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{self._node.name}/{op}"
        node = add_node(self._graph.graph_def, op, name, inputs, like=self._node, **attributes)
        return str(node.name)

    def _constant(self, name: str, value: np.ndarray) -> str:
        return add_constant(self._graph.graph_def, f"{self._node.name}/{name}", value)


def _groups(a: _Operand, b: _Operand, output: str) -> tuple[str, str, str]:
    """Axes of the output that are in both operands, only in `a`, only in `b`."""
    shared = "".join(c for c in output if c in a.labels and c in b.labels)
    rows = "".join(c for c in output if c not in b.labels)
    return shared, rows, "".join(c for c in output if c not in a.labels)


def _product(a: _Operand, b: _Operand, output: str) -> str:
    return "".join(_groups(a, b, output))
