"""A model file with every tensor open: what each of them holds when rows go through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekit.types import Feed, Signature


class Tapped(Protocol):
    """A file whose activations can be read.

    `tensors` are the names in the file, in the order of their computation, the inputs first;
    `outputs` those that the file gives anyone. `batch` is the number of rows that `run` takes at a
    time.
    """

    tensors: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int

    def run(self, feed: Mapping[str, np.ndarray]) -> Feed:
        """Activations by their name in the file, for (batch, ...) arrays by Keras input name.

        Integers with a scale are dequantized to float32. What `run` gives is the caller's own.
        """
        ...


class TfliteTaps:
    """The tensors of a TFLite file, computed by the plain kernels, one after the other."""

    def __init__(self, content: bytes, signature: Signature) -> None:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        # Delegates fuse operators: what lies between them would not be there to be read.
        self._interpreter = Interpreter(
            model_content=bytes(content),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        file = schema.Model.GetRootAs(content)
        graph, native = file.Subgraphs(0), file.SignatureDefs(0)
        entries = [native.Inputs(i) for i in range(native.InputsLength())]
        index = {entry.Name().decode(): entry.TensorIndex() for entry in entries}
        self._inputs = {spec.name: index[spec.native] for spec in signature.inputs}
        operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        outputs = [int(i) for op in operators for i in op.OutputsAsNumpy()]
        self._details = {d["index"]: d for d in self._interpreter.get_tensor_details()}
        self._index = {
            graph.Tensors(i).Name().decode(): i for i in [*self._inputs.values(), *outputs]
        }
        self.tensors = tuple(self._index)
        given = (int(i) for i in graph.OutputsAsNumpy())
        self.outputs = tuple(graph.Tensors(i).Name().decode() for i in given)
        self.batch = signature.inputs[0].shape[0] or 1

    def run(self, feed: Mapping[str, np.ndarray]) -> Feed:
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, _quantized(feed[name], self._details[index]))
        self._interpreter.invoke()
        return {
            name: _dequantized(self._interpreter.get_tensor(index), self._details[index])
            for name, index in self._index.items()
        }


class OnnxTaps:
    """The tensors of an ONNX file."""

    def __init__(self, path: Path, signature: Signature) -> None:
        import onnx
        import onnxruntime

        proto = onnx.load(path)
        self.outputs = tuple(value.name for value in proto.graph.output)
        made = [name for node in proto.graph.node for name in node.output if name]
        proto.graph.output.extend(
            onnx.ValueInfoProto(name=n) for n in made if n not in self.outputs
        )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {spec.name: spec.native for spec in signature.inputs}
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._outputs.sort(key=made.index)
        self.tensors = (*self._inputs.values(), *self._outputs)
        self.batch = signature.inputs[0].shape[0] or 1

    def run(self, feed: Mapping[str, np.ndarray]) -> Feed:
        given = {native: feed[name] for name, native in self._inputs.items()}
        values = self._session.run(self._outputs, given)
        return {**given, **dict(zip(self._outputs, values, strict=True))}


def _quantized(value: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    dtype, (scale, zero) = detail["dtype"], detail["quantization"]
    if not scale:
        return value.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(value / scale) + zero, limits.min, limits.max).astype(dtype)


def _dequantized(value: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    return (value.astype(np.float32) - zero) * np.float32(scale) if scale else value
