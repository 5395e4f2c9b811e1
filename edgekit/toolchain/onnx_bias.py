"""Bias correction of a quantized ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgekit.toolchain import bias_correction
from edgekit.toolchain.onnx_file import WEIGHTED, reads_of, subgraphs
from edgekit.toolchain.onnx_weights import channels_of
from edgekit.types import Feed, Signature

State = Mapping[str, np.ndarray]
"""What tensors hold, by their names."""


def correct_biases(
    proto: Any, floats: Any, rows: Mapping[str, np.ndarray], signature: Signature
) -> None:
    """Change the biases of a quantized model, so that each channel has the mean it has in float.

    Args:
        proto: a ModelProto after `insert_pairs`, changed in place.
        floats: the ModelProto before.
        rows: (N, ...) arrays by Keras input name; some of them are taken, whatever their order.
        signature: of the model.
    """
    batch = signature.inputs[0].shape[0] or 1
    feeds = [
        {spec.native: np.repeat(row[spec.name], batch, axis=0) for spec in signature.inputs}
        for row in bias_correction.sample(rows)
    ]
    quantized, original = _Graph(proto), _Graph(floats)
    layers = _layers(quantized, original)
    bias_correction.correct(layers, quantized, feeds, original, feeds)


class _Graph:
    """The graph of a model; a tensor is known by its name."""

    def __init__(self, proto: Any) -> None:
        self._proto = proto
        self.nodes = list(proto.graph.node)
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._makers = {name: i for i, n in enumerate(self.nodes) for name in n.output if name}
        self._readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in reads_of(node):
                self._readers.setdefault(name, []).append(i)
        # Of an activation the integers are read, for onnxruntime computes with them only where it
        # finds the DequantizeLinear beside the node; and they take less memory.
        self.operators: list[tuple[list[str], list[str]]] = [
            ([self.stored(name) for name in reads_of(node)], list(node.output))
            for node in self.nodes
        ]

    def part(self, given: State, wanted: Collection[str]) -> Callable[[State], Feed]:
        nodes: set[int] = set()
        read: set[str] = set()
        stack = list(wanted)
        while stack:
            name = stack.pop()
            if name in read:
                continue
            read.add(name)
            if name not in given and name in self._makers:
                nodes.add(self._makers[name])
                stack += reads_of(self.nodes[self._makers[name]])
        inputs, outputs = sorted(read & set(given)), sorted(wanted)
        graph = onnx.GraphProto(
            name="part",
            node=[self.nodes[i] for i in sorted(nodes)],
            initializer=[self.constants[name] for name in sorted(read & set(self.constants))],
            input=[_described(name, given[name]) for name in inputs],
            output=[onnx.ValueInfoProto(name=name) for name in outputs],
        )
        session = _session(
            onnx.ModelProto(
                ir_version=self._proto.ir_version,
                opset_import=self._proto.opset_import,
                graph=graph,
            )
        )

        def run(state: State) -> Feed:
            values = session.run(outputs, {name: state[name] for name in inputs})
            return dict(zip(outputs, values, strict=True))

        return run

    def subtract(self, place: int, error: np.ndarray) -> None:
        node = self.nodes[place]
        i = self.bias_of(node)
        if i is None:
            return
        old = numpy_helper.to_array(self.constants[self.stored(node.input[i])])
        error = error.reshape(old.shape)
        if node.input[i] in self.constants:
            node.input[i] = self._add((old - error).astype(np.float32))
            return
        pair = self.maker(node.input[i])
        scales = numpy_helper.to_array(self.constants[pair.input[1]]).astype(np.float64)
        limits = np.iinfo(np.int32)
        corrected = np.clip(old - np.rint(error / scales), limits.min, limits.max)
        pair.input[0] = self._add(corrected.astype(np.int32))

    def bias_of(self, node: Any) -> int | None:
        """Which input of a node with weights, or of an Add, is a constant."""
        inputs = range(2) if node.op_type == "Add" else range(2, len(node.input))
        constant = (i for i in inputs if self.stored(node.input[i]) in self.constants)
        return next(constant, None)

    def stored(self, name: str) -> str:
        """What a DequantizeLinear reads to give a tensor; the tensor itself of any other."""
        maker = self.maker(name)
        return maker.input[0] if maker and maker.op_type == "DequantizeLinear" else name

    def maker(self, name: str) -> Any:
        """The node that gives a tensor; None for inputs and constants."""
        return self.nodes[self._makers[name]] if name in self._makers else None

    def reader(self, name: str, *kinds: str) -> int | None:
        """Place of the node that reads a tensor, if it is the only one, and of one of `kinds`."""
        readers = self._readers.get(name, [])
        is_one = len(readers) == 1 and self.nodes[readers[0]].op_type in kinds
        return readers[0] if is_one else None

    def reads(self, name: str) -> int:
        """How many nodes read a tensor."""
        return len(self._readers.get(name, []))

    def number(self, name: str, default: float) -> float:
        """What a scalar constant holds; `default` where there is none."""
        found = self.constants.get(name)
        return default if found is None else float(numpy_helper.to_array(found))

    def _add(self, value: np.ndarray) -> str:
        """The name of a new constant: the old one may be another node's too."""
        name = f"bias/{len(self.constants)}"
        self._proto.graph.initializer.append(numpy_helper.from_array(value, name))
        self.constants[name] = self._proto.graph.initializer[-1]
        return name


def _layers(quantized: _Graph, floats: _Graph) -> list[bias_correction.Layer[str]]:
    """Nodes that add constant biases to what quantized weights give.

    Not those of layers that are used several times, as the steps of an unrolled loop.
    """

    def given(name: str) -> str:
        """A node's output under its name in the float model, behind the pair it may have."""
        for kind in ("QuantizeLinear", "DequantizeLinear"):
            place = None if floats.maker(name) else quantized.reader(name, kind)
            name = name if place is None else quantized.nodes[place].output[0]
        return name

    found = []
    for at, node in enumerate(quantized.nodes):
        weights = quantized.maker(node.input[1]) if node.op_type in WEIGHTED else None
        if not weights or weights.input[0] not in quantized.constants:
            continue
        if weights.op_type != "DequantizeLinear" or quantized.reads(node.input[1]) > 1:
            continue
        place = quantized.reader(node.output[0], "Add") if node.op_type == "MatMul" else at
        if place is None or not _is_bias(quantized, node, quantized.nodes[place]):
            continue
        total = given(quantized.nodes[place].output[0])
        bound = quantized.reader(total, "Relu", "Clip")
        output = total if bound is None else given(quantized.nodes[bound].output[0])
        if floats.maker(output):
            axis = 1 if node.op_type.startswith("Conv") else -1
            bounds = _bounds(floats, floats.maker(output))
            found.append(bias_correction.Layer(place, output, output, axis, bounds))
    return sorted(found, key=lambda layer: layer.place)


def _is_bias(graph: _Graph, node: Any, adds: Any) -> bool:
    """Whether a constant that is added has one value for each of the node's channels."""
    i, channels = graph.bias_of(adds), channels_of(node)
    if i is None or channels is None:
        return False
    bias = graph.constants[graph.stored(adds.input[i])].dims
    weights = graph.constants[graph.stored(node.input[1])].dims
    return bool(bias) and np.prod(list(bias)) == bias[-1] == weights[channels[0]]


def _bounds(graph: _Graph, node: Any) -> tuple[float, float]:
    """Between which values a node gives what it is given."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return -np.inf, np.inf
    low, high = [*node.input[1:], "", ""][:2]
    return graph.number(low, -np.inf), graph.number(high, np.inf)


def _described(name: str, value: np.ndarray) -> Any:
    """An input of any shape of the value's rank."""
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
    )


def _session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # these parts are small: to wake more takes longer
    if len(list(subgraphs(model.graph))) > 1:
        # onnxruntime 1.31 does not survive the optimization of some quantized graphs with loops.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
