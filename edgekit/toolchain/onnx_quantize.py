"""int8 and int16x8 from a float ONNX file and the ranges that its activations took.

It needs no TensorFlow, and runs in a process of its own beside the worker. int16x8 has weights of
8 and activations of 16 bits, as NPUs take them. On a CPU onnxruntime widens the weights at each
call and computes in float: slower than the float file (measured: 1.2 to 25 times).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgekit.errors import ConversionError
from edgekit.toolchain.calibration import Range, calibrate, departures
from edgekit.toolchain.onnx_bias import correct_biases
from edgekit.toolchain.onnx_file import WEIGHTED, compact, made_in, reads_of, save, tidy
from edgekit.toolchain.onnx_qdq import FOLLOWERS, activations, insert_pairs, use_domains
from edgekit.toolchain.onnx_weights import constants_read_by, fits_half, matrices, store_half
from edgekit.toolchain.taps import OnnxTaps
from edgekit.types import Quantization, Signature


class FloatFile:
    """A file of `onnx.convert`, with what many attempts to quantize it have in common."""

    def __init__(
        self, path: Path, signature: Signature, rows: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Open the file `path`, of which `convert` returned `signature`.

        `rows` are (N, ...) finite arrays by Keras input name: N typical rows to calibrate with,
        which float16 and dynamic files do not need.
        """
        self.path = path
        self.signature = signature
        self.rows = rows
        self._ranges: dict[tuple[str, float], dict[str, Range]] = {}
        self._departures: list[str] | None = None

    @functools.cached_property
    def graph(self) -> Any:
        """The GraphProto; not to be changed."""
        return onnx.load(self.path).graph

    @functools.cached_property
    def prepared(self) -> Any:
        """The ModelProto that is quantized, not to be changed; its tensors have the same names."""
        return _prepared(self.path)

    @functools.cached_property
    def _taps(self) -> OnnxTaps:
        with tempfile.TemporaryDirectory(prefix="edgekit-onnx-") as folder:
            onnx.save(self.prepared, Path(folder, "prepared.onnx"))
            return OnnxTaps(Path(folder, "prepared.onnx"), self.signature)

    def ranges(self, method: str, percentile: float) -> dict[str, Range]:
        """The range of each activation on the rows, by the tensor's name."""
        key = (method, percentile if method == "percentile" else 0.0)
        if key not in self._ranges:
            self._ranges[key] = calibrate(
                self._taps, self.rows or {}, method=method, percentile=percentile
            )
        return self._ranges[key]

    def departures(self, unseen: Mapping[str, np.ndarray]) -> list[str]:
        """Warnings that activations leave their ranges on rows that had no part in them."""
        if self._departures is None:
            ranges = self.ranges("minmax", 100.0)
            self._departures = departures(self._taps, ranges, unseen, self.signature)
        return self._departures


def quantize(
    source: FloatFile,
    path: Path,
    precision: str,
    quantization: Quantization | None = None,
    keep: Collection[str] = (),
) -> None:
    """Write the quantized file; its signature is that of the float one, inputs and outputs too.

    The same model and rows, in whatever order, give the same bytes. Tensors have the names that
    they have in the float file, where they still exist.

    Args:
        source: the float file and its rows.
        path: the file to write.
        precision: "int8" or "int16x8".
        quantization: how; `keep_float` is not looked at here.
        keep: names of tensors of the float file: the nodes that give them stay float, with their
            weights stored as float16.

    Raises:
        ConversionError: there are no rows, nothing is left to quantize, or `keep` names a tensor
            that the float file does not have.
    """
    how = quantization or Quantization()
    ranges = source.ranges(how.calibration, how.percentile)
    proto = onnx.ModelProto()
    proto.CopyFrom(source.prepared)
    graph = proto.graph
    kept = _standing_for(keep, source.graph, graph)
    chosen = _chosen(graph, ranges, kept)
    if not chosen:
        raise ConversionError(
            f"onnx: {precision}: there is no convolution, dense layer or embedding to quantize",
            hint="keep fewer layers in float" if keep else "export it as fp32",
        )
    halves = constants_read_by(graph, kept)
    insert_pairs(graph, chosen, ranges, precision, compact=how.compact)
    use_domains(proto)
    if how.correct_bias:
        correct_biases(proto, source.prepared, source.rows or {}, source.signature)
    for weight in matrices(graph):
        if weight.tensor.name in halves and fits_half(weight.values):
            store_half(weight)
    names = made_in(source.graph)
    tidy(proto, {name: name for name in [*_io(graph), *names]})
    compact(proto, names)
    save(proto, path)


def _io(graph: Any) -> list[str]:
    return [value.name for value in (*graph.input, *graph.output)]


def _prepared(fp32: Path) -> Any:
    """Fold what follows a Conv or MatMul into it; without, int8 is slower than float."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="edgekit-onnx-") as folder:
        path = Path(folder, "prepared.onnx")
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(str(fp32), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            reason = str(error).strip().partition("\n")[0]
            raise ConversionError(
                f"onnx: onnxruntime could not prepare the model: {reason}",
                hint="export fp32, or int8 to tflite",
            ) from error
        return onnx.load(path)


def _chosen(graph: Any, ranges: Mapping[str, Range], kept: Collection[str]) -> set[str]:
    """First outputs of the nodes to quantize: those with weights, and what follows a convolution.

    An Add or a pooling elsewhere (layer normalization, transformers) gains no speed by int8. A
    Sigmoid is taken as part of a gate or swish only: its steps are 1/256 whatever its range.
    """
    floats = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    readers: dict[str, set[str]] = {value.name: {"output"} for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    integers: set[str] = set()
    chosen = set()
    for node in graph.node:
        if not node.output or node.output[0] in kept or node.output[0] not in ranges:
            continue
        weighted = node.op_type in WEIGHTED and node.input[1] in floats and node.input[0] in ranges
        follows = node.op_type in FOLLOWERS and integers.issuperset(activations(node))
        if node.op_type == "Sigmoid":
            follows = follows and readers[node.output[0]] == {"Mul"}
        embeds = (
            node.op_type == "Gather"
            and node.input[0] in floats
            and len(floats[node.input[0]].dims) == 2
            and not any(a.name == "axis" and a.i for a in node.attribute)
        )
        if weighted or follows or embeds:
            chosen.add(node.output[0])
        if node.output[0] in chosen and (follows or node.op_type == "Conv"):
            integers.add(node.output[0])
    return chosen


def _standing_for(names: Collection[str], fp32: Any, prepared: Any) -> set[str]:
    """Tensors of the prepared graph that the nodes which give `names` in `fp32` became.

    Where a node was folded into one that reads it, that one's output.
    """
    here = set(made_in(prepared))
    readers: dict[str, list[Any]] = {}
    for node in fp32.node:
        for name in reads_of(node):
            readers.setdefault(name, []).append(node)
    made = set(made_in(fp32))
    found: set[str] = set()
    for wanted in names:
        if wanted not in made:
            raise ConversionError(
                f"onnx: no node of the float file gives {wanted!r}, which is to stay float",
                hint="name a tensor of the float file",
            )
        stack, seen = [wanted], {wanted}
        while stack:
            name = stack.pop()
            if name in here:
                found.add(name)
                continue
            after = [out for node in readers.get(name, ()) for out in node.output]
            stack += [out for out in after if out not in seen]
            seen.update(after)
    return found
