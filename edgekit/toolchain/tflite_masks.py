"""Masks of attention: -1e9 where a position must not count, which would take a whole range.

Before a softmax it is enough to be so far below the smallest score that the weight vanishes. A
mask is cut to that: it changes nothing that the integers could show, and leaves the scores their
steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.toolchain import tflite_file
from edgekit.toolchain.calibration import Range, Ranges


class _Graph:
    """A float file with its ranges, while masks are cut."""

    def __init__(self, model: Any, ranges: Ranges) -> None:
        self.model, self.ranges = model, dict(ranges)
        self.main = tflite_file.main_graph(model)
        self.source = {i: op for op in self.main.operators for i in op.outputs}

    def kind(self, tensor: int) -> str | None:
        """Of the operator that gives it."""
        op = self.source.get(tensor)
        return None if op is None else tflite_file.kind(self.model, op)

    def value(self, tensor: int) -> np.ndarray | None:
        return tflite_file.constant(self.model, self.main.tensors[tensor])

    def range(self, tensor: int) -> Range | None:
        value = self.value(tensor)
        if value is not None:
            return Range(float(value.min()), float(value.max()))
        return self.ranges.get(self.name(tensor))

    def name(self, tensor: int) -> str:
        name: str = self.main.tensors[tensor].name.decode()
        return name

    def replace(self, op: Any, place: int, value: np.ndarray) -> None:
        """Give an operator a constant for an operand."""
        op.inputs = op.inputs.copy()
        constant = value.astype(np.float32)
        op.inputs[place] = tflite_file.add_constant(self.model, "mask", constant)


def cut_masks(model: Any, ranges: Ranges, steps: int) -> dict[str, Range]:
    """Cut the masks in a float file, in place.

    Before a softmax, a mask chooses between a score and a number far below all scores, or is
    added to it. All masked positions together then weigh less than one step of the output.

    Args:
        model: the file, unpacked.
        ranges: of its activations.
        steps: of a softmax's output: 256 or 65536.

    Returns:
        The ranges, those of the cut tensors narrowed.
    """
    graph = _Graph(model, ranges)
    for softmax in graph.main.operators:
        if tflite_file.kind(model, softmax) != "SOFTMAX":
            continue
        path = [softmax.inputs[0]]
        while graph.kind(path[-1]) in ("RESHAPE", "TRANSPOSE"):
            path.append(graph.source[path[-1]].inputs[0])
        margin = float(np.log(steps * graph.main.tensors[path[0]].shape[-1]))
        cut = _CUTS.get(graph.kind(path[-1]) or "")
        limits = cut(graph, graph.source[path[-1]], margin) if cut else None
        if limits is not None:
            graph.ranges.update({graph.name(tensor): limits for tensor in path})
    tflite_file.remove_unread(model)
    return graph.ranges


def _cut_selected(graph: _Graph, op: Any, margin: float) -> Range | None:
    """A choice of which one side is always far below the other: that side becomes a constant."""
    for masked, kept in ((1, 2), (2, 1)):
        number, scores = graph.range(op.inputs[masked]), graph.range(op.inputs[kept])
        if number is None or scores is None or number.high > scores.low - margin:
            continue
        value = np.array(scores.low - margin)
        if tflite_file.kind(graph.model, op) == "SELECT":  # which does not broadcast
            value = np.full(graph.main.tensors[op.inputs[masked]].shape, value)
        graph.replace(op, masked, value)
        return Range(scores.low - margin, scores.high)
    return None


def _cut_added(graph: _Graph, op: Any, margin: float) -> Range | None:
    """A sum with a mask that is constant, or a condition times a constant."""
    for mask, other in ((0, 1), (1, 0)):
        tensor, scores = op.inputs[mask], graph.range(op.inputs[other])
        if scores is None or graph.value(op.inputs[other]) is not None:
            continue
        reach = scores.high - scores.low + margin
        value = graph.value(tensor)
        if value is not None:
            masked = value < value.max() - reach
            # Several numbers there may be a bias that grows with the distance.
            if np.unique(value[masked]).size != 1:
                continue
            lowest = float(value[~masked].min())
            graph.replace(op, mask, np.where(masked, lowest - reach, value))
            return Range(lowest + scores.low - margin, scores.high + float(value.max()))
        if graph.kind(tensor) == "MUL" and _cut_factor(graph, graph.source[tensor], -reach):
            graph.ranges[graph.name(tensor)] = Range(-reach, 0.0)
            return Range(scores.low - margin, scores.high)
    return None


def _cut_factor(graph: _Graph, multiply: Any, floor: float) -> bool:
    for factor, other in ((0, 1), (1, 0)):
        value = graph.value(multiply.inputs[factor])
        if value is None or value.size != 1 or not _is_condition(graph, multiply.inputs[other]):
            continue
        if value.item() < floor:
            graph.replace(multiply, factor, np.full(value.shape, floor))
            return True
    return False


def _is_condition(graph: _Graph, tensor: int) -> bool:
    """Whether it is 0 or 1: a condition, or 1 minus it."""
    while graph.kind(tensor) in ("RESHAPE", "TRANSPOSE", "SUB"):
        first, second = graph.source[tensor].inputs
        if graph.kind(tensor) == "SUB":
            one = graph.value(first)
            if one is None or not np.all(one == 1):
                return False
            first = second
        tensor = first
    if graph.kind(tensor) != "CAST":
        return False
    return tflite_file.dtype(graph.main.tensors[graph.source[tensor].inputs[0]]) == "bool"


_CUTS = {"SELECT": _cut_selected, "SELECT_V2": _cut_selected, "ADD": _cut_added}
