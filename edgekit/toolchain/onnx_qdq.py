"""Pairs of QuantizeLinear and DequantizeLinear (QDQ) in an ONNX graph.

A runtime fuses a node between such pairs into its integer kernel; to one that has none they are
plain arithmetic. Activations become unsigned integers, so that a Relu ends where these end;
weights int8 around zero, one scale per output channel; biases int32 in the scale of the sums that
they are added to. These are the settings that onnxruntime's CPU kernels are fast with.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from edgekit.toolchain.calibration import Range, Ranges
from edgekit.toolchain.onnx_file import reads_of
from edgekit.toolchain.onnx_weights import channels_of, symmetric
from edgekit.toolchain.shared_scales import LONGER_BITS, compact_scales, short

FOLLOWERS = ("Add", "AveragePool", "Clip", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Sigmoid")
"""Operators that onnxruntime runs faster on the integers that a convolution gives.

Concat, Reshape and the like gain nothing by it, and Softmax only loses precision.
"""

GIVE_INTEGERS = ("Conv", *FOLLOWERS)
"""Operators whose outputs are quantized as well. Dense layers give floats at no cost in speed, so
that logits and sums keep their precision."""

MOVERS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose outputs have the scale of their first inputs.

So what was gathered from a table is not rounded twice, and a token of which there was no row is
not cut off.
"""

HIGHEST = {"int8": 255, "int16x8": 65535}
"""The integers of an activation are 0 to this, by precision."""

BIAS_LIMIT = 2.0**30
"""A bias in units of its scale stays below: int32 ends at 2^31, and the sums are added to it."""


def insert_pairs(
    graph: Any,
    chosen: Collection[str],
    ranges: Ranges,
    precision: str,
    *,
    compact: bool = False,
) -> None:
    """Quantize nodes of a float graph, in place.

    A tensor that a chosen node gives as integers keeps its name and holds the dequantized values.
    Any other stays as it is for all but the chosen nodes that read it.

    Args:
        graph: a GraphProto, its nodes in the order of their computation.
        chosen: the first outputs of the nodes to quantize: those with constant weights, Gather of
            a constant table, and FOLLOWERS of which every input is given by chosen ones.
        ranges: of every activation that these read or give.
        precision: "int8" or "int16x8".
        compact: whether weights have scales that are few and short: see `shared_scales`.
    """
    _Pairs(graph, ranges, precision, compact).insert(_without_bounds(graph, set(chosen), ranges))


def activations(node: Any) -> list[str]:
    """The inputs of a node to quantize that are neither weights nor bounds."""
    return list(node.input if node.op_type in ("Add", "Mul") else node.input[:1])


def _without_bounds(graph: Any, chosen: set[str], ranges: Ranges) -> set[str]:
    """Leave out each Relu and Clip that its input's quantization does the work of."""
    bounds = {t.name: t for t in graph.initializer if not t.dims}
    makers = {n.output[0]: n for n in graph.node if n.op_type in GIVE_INTEGERS}
    reads = [name for node in graph.node for name in reads_of(node)]
    reads += [value.name for value in graph.output]

    def bound(node: Any, i: int, default: float) -> float:
        if len(node.input) <= i or not node.input[i]:
            return default
        tensor = bounds.get(node.input[i])
        return float("nan") if tensor is None else float(numpy_helper.to_array(tensor))

    for node in [n for n in graph.node if n.op_type in ("Relu", "Clip")]:
        inner, outer = node.input[0], node.output[0]
        if not {inner, outer} <= chosen or inner not in makers or reads.count(inner) > 1:
            continue
        lowest = 0.0 if node.op_type == "Relu" else bound(node, 1, -np.inf)
        highest = bound(node, 2, np.inf)
        # The integers stand for what is between the ends of the range, and for zero.
        if lowest <= min(ranges[outer].low, 0.0) and max(ranges[outer].high, 0.0) <= highest:
            maker = makers.pop(inner)
            maker.output[0], makers[outer] = outer, maker
            chosen.discard(inner)
            graph.node.remove(node)
    return chosen


class _Pairs:
    """Writes a graph anew with pairs in it; equal scales and weights are written once."""

    def __init__(self, graph: Any, ranges: Ranges, precision: str, compact: bool) -> None:
        self._graph, self._ranges, self._compact = graph, ranges, compact
        self._highest = HIGHEST[precision]
        self._dtype = np.uint8 if precision == "int8" else np.uint16
        # ONNX has pairs of 16 bits from opset 21 on; before, they are onnxruntime's own.
        self._domain = "" if precision == "int8" else "com.microsoft"
        self._floats = {t.name: t for t in graph.initializer}
        self._nodes: list[Any] = []
        self._count = 0
        self._pairs: dict[str, str] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._weights: dict[tuple[Any, ...], tuple[str, np.ndarray]] = {}
        self._floors: dict[str, np.ndarray] = {}
        self._same: dict[str, str] = {}
        self._tables: dict[str, Range] = {}

    def insert(self, chosen: Collection[str]) -> None:
        nodes = list(self._graph.node)
        for node in nodes:
            is_chosen = node.output[0] in chosen
            if node.op_type in MOVERS or (is_chosen and node.op_type == "MaxPool"):
                self._same[node.output[0]] = node.input[0]
            if is_chosen:
                self._note(node)
        for node in nodes:
            if node.output[0] not in chosen:
                self._nodes.append(node)
            elif node.op_type == "Gather":
                self._look_up(node)
            else:
                self._compute(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)

    def _note(self, node: Any) -> None:
        """What must be known before the first node is written."""
        if node.op_type == "Gather":
            self._tables[node.output[0]] = _range_of(
                numpy_helper.to_array(self._floats[node.input[0]])
            )
        if node.op_type in GIVE_INTEGERS:
            self._pairs[node.output[0]] = node.output[0]
        bias = self._bias_of(node)
        if bias is not None:
            scale, _ = self._affine(node.input[0])
            floor = np.abs(bias) / (scale * BIAS_LIMIT)
            self._floors[node.input[1]] = np.maximum(floor, self._floors.get(node.input[1], 0.0))

    def _compute(self, node: Any) -> None:
        read = list(node.input)
        bias = self._bias_of(node)
        if node.op_type not in FOLLOWERS:
            node.input[1], scales = self._weight(node)
            if bias is not None:
                node.input[2] = self._bias(bias, self._affine(read[0])[0] * scales)
        for i, name in enumerate(activations(node)):
            node.input[i] = self._pair(name)
        self._nodes.append(node)
        if node.op_type in GIVE_INTEGERS:
            name, node.output[0] = node.output[0], self._new()
            self._write_pair(node.output[0], name, self._affine(name))

    def _look_up(self, node: Any) -> None:
        """Gather integers, and dequantize what was gathered."""
        table = numpy_helper.to_array(self._floats[node.input[0]])
        scale, zero = _affine(_range_of(table), HIGHEST["int8"])
        integers = np.clip(np.rint(table / scale) + zero, 0, HIGHEST["int8"]).astype(np.uint8)
        name, node.input[0] = node.output[0], self._constant(integers)
        node.output[0] = self._new()
        self._nodes.append(node)
        parameters = [self._constant(scale), self._constant(np.uint8(zero))]
        self._write("DequantizeLinear", [node.output[0], *parameters], name)

    def _pair(self, name: str) -> str:
        """The dequantized integers of an activation."""
        if name not in self._pairs:
            self._pairs[name] = self._new()
            self._write_pair(name, self._pairs[name], self._affine(name))
        return self._pairs[name]

    def _write_pair(self, name: str, to: str, affine: tuple[np.float32, int]) -> None:
        scale, zero = self._constant(affine[0]), self._constant(self._dtype(affine[1]))
        between = self._new()
        self._write("QuantizeLinear", [name, scale, zero], between, domain=self._domain)
        self._write("DequantizeLinear", [between, scale, zero], to, domain=self._domain)

    def _affine(self, name: str) -> tuple[np.float32, int]:
        """Scale and zero point of an activation."""
        while self._same.get(name, "") in self._ranges:
            name = self._same[name]
        return _affine(self._tables.get(name) or self._ranges[name], self._highest)

    def _weight(self, node: Any) -> tuple[str, np.ndarray]:
        """The dequantized weights of a node, and their scales."""
        name = node.input[1]
        values = numpy_helper.to_array(self._floats[name])
        axis = _channel_axis(node, values.ndim)
        # All zero points are 0, and may be left out: there is one per channel, up to 5 % of a
        # file. But without them onnxruntime has no int8 kernel for dense layers (measured:
        # three times slower).
        is_dense = node.op_type in ("Gemm", "MatMul")
        key = (name, axis, is_dense)
        if key not in self._weights:
            channels = () if axis is None else (axis,)
            shape = [size if i in channels else 1 for i, size in enumerate(values.shape)]
            floor = np.broadcast_to(self._floors.get(name, 0.0), np.prod(shape)).reshape(shape)
            if self._compact and axis is not None:
                rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
                least = np.maximum(np.abs(rows).max(axis=1) / 127, floor.reshape(-1))
                floor = compact_scales(rows, least).reshape(shape)
            integers, scales = symmetric(values, channels, floor)
            scales = scales.reshape(-1 if channels else ())
            stored = short(scales, LONGER_BITS).astype(np.float32) if self._compact else scales
            inputs = [self._constant(integers), self._constant(stored)]
            if is_dense:
                inputs.append(self._constant(np.zeros(scales.shape, np.int8)))
            self._weights[key] = self._new(), scales
            if axis is not None and self._dtype is np.uint16:
                # The same axis, counted from the end: from the front, onnxruntime 1.31 takes
                # it for its MatMulNBits, which rounds the 16 bits of the activations to 8.
                axis -= values.ndim
            self._write("DequantizeLinear", inputs, self._weights[key][0], axis=axis)
        return self._weights[key]

    def _bias(self, bias: np.ndarray, scales: np.ndarray) -> str:
        """The dequantized bias of a node."""
        limits = np.iinfo(np.int32)
        integers = np.clip(np.rint(bias / scales.astype(np.float64)), limits.min, limits.max)
        if self._compact:  # kernels multiply the scales of weights and input themselves
            scales = short(scales, LONGER_BITS).astype(np.float32)
        inputs = [self._constant(integers.astype(np.int32)), self._constant(scales)]
        name = self._new()
        self._write("DequantizeLinear", inputs, name, axis=0 if scales.ndim else None)
        return name

    def _bias_of(self, node: Any) -> np.ndarray | None:
        """A constant bias with one value per output channel, if the node has one."""
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            return None
        if node.input[2] not in self._floats or any(
            a.name in ("alpha", "beta") and a.f != 1.0 for a in node.attribute
        ):
            return None
        bias = numpy_helper.to_array(self._floats[node.input[2]])
        weights = self._floats[node.input[1]]
        axis = _channel_axis(node, len(weights.dims))
        has_all = axis is not None and bias.size == weights.dims[axis]
        return bias.reshape(-1) if has_all else None

    def _constant(self, value: np.ndarray | np.generic) -> str:
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._new()
            self._graph.initializer.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def _write(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        *,
        domain: str = "",
        axis: int | None = None,
    ) -> None:
        node = helper.make_node(op, inputs, [output], domain=domain)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._nodes.append(node)

    def _new(self) -> str:
        self._count += 1
        return f"qdq/{self._count}"


def _channel_axis(node: Any, rank: int) -> int | None:
    """Which axis of its weights a node's output channels are; None: all have one scale."""
    channels = channels_of(node)
    if channels is None or (node.op_type == "MatMul" and rank != 2):
        return None
    return channels[0] % rank


def _range_of(values: np.ndarray) -> Range:
    return Range(float(values.min()), float(values.max()))


def _affine(limits: Range, highest: int) -> tuple[np.float32, int]:
    """Scale and zero point of integers from 0; a range without zero is widened to it."""
    low, high = min(limits.low, 0.0), max(limits.high, 0.0)
    scale = np.float32((high - low) / highest)
    if scale < np.finfo(np.float32).tiny:
        return np.float32(1.0), 0
    return scale, int(np.clip(np.rint(-low / scale), 0, highest))


def use_domains(proto: Any) -> None:
    """Name the operator sets that the nodes are of: onnxruntime's own pairs may be new."""
    known = {opset.domain for opset in proto.opset_import} | {"ai.onnx"}
    for domain in sorted({node.domain for node in proto.graph.node} - known):
        proto.opset_import.append(helper.make_opsetid(domain, 1))
