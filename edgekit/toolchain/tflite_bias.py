"""Bias correction of a quantized TFLite file."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.toolchain import bias_correction, tflite_file
from edgekit.types import Feed, Signature

State = Mapping[int, np.ndarray]
"""What tensors of a file hold, as they are stored, by their place in the main graph."""

BOUNDS = {
    schema.ActivationFunctionType.RELU: (0.0, np.inf),
    schema.ActivationFunctionType.RELU6: (0.0, 6.0),
    schema.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
}


def correct_bias(
    content: bytes, floats: bytes, rows: Mapping[str, np.ndarray], signature: Signature
) -> bytes:
    """A quantized file with biases for which each channel has the mean that it has in float.

    Args:
        content: the quantized file, of `tflite_quantize.quantize`.
        floats: the float file it was made from.
        rows: (N, ...) arrays by Keras input name; some of them are taken, whatever their order.
        signature: of the float file.
    """
    quantized, original = _Graph(content), _Graph(floats)
    chosen = bias_correction.sample(rows)
    bias_correction.correct(
        _layers(quantized, original),
        quantized,
        [quantized.inputs(row, signature) for row in chosen],
        original,
        [original.inputs(row, signature) for row in chosen],
    )
    tflite_file.drop_unused(quantized.model)
    return tflite_file.pack(quantized.model)


class _Graph:
    """The main graph of a file; a tensor is known by its place in it."""

    def __init__(self, content: bytes) -> None:
        self.model = tflite_file.unpack(content)
        self.graph = tflite_file.main_graph(self.model)
        self.operators: list[tuple[list[int], list[int]]] = [
            (op.inputs.tolist(), op.outputs.tolist()) for op in self.graph.operators
        ]
        self._makers = {i: at for at, (_, gives) in enumerate(self.operators) for i in gives}

    def inputs(self, row: Feed, signature: Signature) -> State:
        """A row as the graph's inputs, repeated where it takes several at a time."""
        native = {e.name.decode(): e.tensorIndex for e in self.model.signatureDefs[0].inputs}
        batch = signature.inputs[0].shape[0] or 1
        given = {native[spec.native]: row[spec.name] for spec in signature.inputs}
        return {
            i: np.repeat(_stored(value, self.graph.tensors[i]), batch, axis=0)
            for i, value in given.items()
        }

    def part(
        self, given: State, wanted: Collection[int]
    ) -> Callable[[State], dict[int, np.ndarray]]:
        operators = [copy.copy(op) for op in self._between(given, wanted)]
        used = dict.fromkeys(
            i for op in operators for field in _fields(op) for i in getattr(op, field) if i >= 0
        )
        place = {i: new for new, i in enumerate(used)}
        for op in operators:
            for field in _fields(op):
                setattr(op, field, _array(place.get(i, -1) for i in getattr(op, field)))
        inputs = [i for i in given if i in place]
        graph = schema.SubGraphT(
            tensors=[copy.copy(self.graph.tensors[i]) for i in used],
            inputs=_array(place[i] for i in inputs),
            outputs=_array(place[i] for i in wanted),
            operators=operators,
        )
        model = schema.ModelT(
            version=self.model.version,
            operatorCodes=self.model.operatorCodes,
            buffers=self.model.buffers,
            # What follows are graphs that operators of the main one run.
            subgraphs=[graph, *copy.deepcopy(self.model.subgraphs[1:])],
        )
        tflite_file.drop_unused(model)
        interpreter = Interpreter(model_content=tflite_file.pack(model), num_threads=1)
        shapes: dict[int, tuple[int, ...]] = {}

        def run(state: State) -> dict[int, np.ndarray]:
            for i in inputs:
                if state[i].shape != shapes.get(i):  # some depend on what the values are
                    interpreter.resize_tensor_input(place[i], state[i].shape)
                    shapes[i] = state[i].shape
            interpreter.allocate_tensors()  # does nothing where no shape changed
            for i in inputs:
                interpreter.set_tensor(place[i], state[i])
            interpreter.invoke()
            return {i: interpreter.get_tensor(place[i]) for i in wanted}

        return run

    def subtract(self, place: int, error: np.ndarray) -> None:
        bias = self.bias_of(self.graph.operators[place])
        value = tflite_file.constant(self.model, bias)
        if value is None or error.shape != value.shape:
            return
        limits = np.iinfo(value.dtype)
        steps = np.rint(error / bias.quantization.scale.astype(np.float64))
        corrected = np.clip(value - steps, limits.min, limits.max).astype(value.dtype)
        bias.buffer = len(self.model.buffers)  # the old one may be another tensor's too
        self.model.buffers.append(schema.BufferT(data=corrected.view(np.uint8)))

    def bias_of(self, op: Any) -> Any:
        """The tensor of an operator's bias; None if it has none."""
        operand = tflite_file.bias_operand(self.model, op)
        return None if operand is None else self.graph.tensors[op.inputs[operand]]

    def names(self) -> list[str]:
        return [tensor.name.decode() if tensor.name else "" for tensor in self.graph.tensors]

    def _between(self, given: Collection[int], wanted: Collection[int]) -> list[Any]:
        """The operators that compute `wanted` from `given`."""
        needed: set[int] = set()
        stack = list(wanted)
        while stack:
            tensor = stack.pop()
            maker = None if tensor in given else self._makers.get(tensor)
            if maker is not None and maker not in needed:
                needed.add(maker)
                stack += self.operators[maker][0]
        return [self.graph.operators[i] for i in sorted(needed)]


def _layers(quantized: _Graph, floats: _Graph) -> list[bias_correction.Layer[int]]:
    """Operators with integer biases whose outputs have the names that they have in float.

    Not those of layers that are used several times, as the steps of an unrolled loop.
    """
    model, graph, names = quantized.model, quantized.graph, quantized.names()
    expected = {name: i for i, name in enumerate(floats.names())}
    for op in graph.operators:
        if tflite_file.kind(model, op) == "DEQUANTIZE" and names[op.inputs[0]] not in expected:
            names[op.inputs[0]] = names[op.outputs[0]]  # an output of the model
    biased = [(i, op) for i, op in enumerate(graph.operators) if quantized.bias_of(op) is not None]
    weights = Counter(graph.tensors[op.inputs[1]].buffer for _, op in biased)
    biases = Counter(id(quantized.bias_of(op)) for _, op in biased)
    found = []
    for place, op in biased:
        bias, output = quantized.bias_of(op), int(op.outputs[0])
        is_single = weights[graph.tensors[op.inputs[1]].buffer] == biases[id(bias)] == 1
        is_integer = tflite_file.dtype(bias) in ("int32", "int64")
        if is_single and is_integer and names[output] in expected:
            quantization = graph.tensors[output].quantization
            bounds = BOUNDS.get(op.builtinOptions.fusedActivationFunction, (-np.inf, np.inf))
            found.append(
                bias_correction.Layer(
                    place,
                    output,
                    expected[names[output]],
                    axis=-1,
                    bounds=bounds,
                    scale=float(quantization.scale[0]),
                    zero_point=int(quantization.zeroPoint[0]),
                )
            )
    return found


def _stored(value: np.ndarray, tensor: Any) -> np.ndarray:
    """Values as the tensor stores them."""
    dtype, quantization = tflite_file.dtype(tensor), tensor.quantization
    if quantization is None or quantization.scale is None:
        return value.astype(dtype)
    limits = np.iinfo(str(dtype))
    steps = np.round(value / quantization.scale[0]) + quantization.zeroPoint[0]
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def _fields(op: Any) -> list[str]:
    """Those with places of tensors."""
    fields = ("inputs", "outputs", "intermediates")
    return [field for field in fields if getattr(op, field) is not None]


def _array(places: Iterable[int]) -> np.ndarray:
    return np.fromiter(places, np.int32)
