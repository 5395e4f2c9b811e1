"""ONNX from the canonical graph, through tf2onnx, as a file whose names and bytes are stable."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from tf2onnx import optimizer, utils
from tf2onnx.tf_utils import compress_graph_def
from tf2onnx.tfonnx import process_tf_graph

from edgekit.errors import ConversionError
from edgekit.toolchain.canonical import Canonical
from edgekit.toolchain.graph import folded
from edgekit.toolchain.graph_lowering import lower_for_onnx
from edgekit.toolchain.graph_weights import FrozenGraph, Weight
from edgekit.toolchain.onnx_file import save, subgraphs, tidy
from edgekit.types import Signature, TensorSpec

MAX_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; the last MiB is left to the nodes."""

OPSETS = range(13, 19)
"""Per-channel quantization begins with opset 13, and tf2onnx ends with 18."""


def convert(model: Canonical, path: Path, *, opset: int = 17) -> Signature:
    """Write `model` as a float ONNX file; the same model always gives the same bytes.

    Inputs and outputs have the Keras names, order, shapes and dtypes; a free batch is the
    dimension "batch". The default opset is the newest at which tf2onnx still writes
    GlobalAveragePool as one node.

    Returns:
        The signature with the file's own names as `native`. They are the Keras names, but for an
        output that is called like an input: ONNX allows a name once.

    Raises:
        ConversionError: an operation has no ONNX form, the weights exceed 2 GiB, or the opset is
            not one of OPSETS.
    """
    if opset not in OPSETS:
        raise ConversionError(
            f"onnx: opset {opset} cannot be written",
            hint=f"choose {OPSETS[0]} to {OPSETS[-1]}; the default is 17",
        )
    size = _checked_size(model)
    signature = _native_names(model.signature)
    proto = _translate(folded(model), model.signature, opset)
    if size > _LARGE_BYTES:
        gc.collect()  # tf2onnx's graph refers to itself, and holds every weight twice
    _check_operators(proto)
    tidy(proto, _renames(model.signature, signature))
    _describe(proto.graph, signature)
    save(proto, path)
    return signature


_LARGE_BYTES = 2**26
"""Weights that are worth half a second to have back."""


def _checked_size(model: Canonical) -> int:
    size: int = sum(math.prod(v.shape.as_list()) * v.dtype.size for v in model.holder.variables_)
    if size > MAX_BYTES:
        raise ConversionError(
            f"onnx: the weights take {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB",
            hint="export a smaller model; a model of this size is not one for edge devices",
        )
    return size


def _native_names(signature: Signature) -> Signature:
    inputs = {spec.name for spec in signature.inputs}
    return Signature(
        inputs=tuple(replace(s, native=s.name) for s in signature.inputs),
        outputs=tuple(
            replace(s, native=f"{s.name}:out" if s.name in inputs else s.name)
            for s in signature.outputs
        ),
    )


def _renames(graph: Signature, file: Signature) -> dict[str, str]:
    """The file's tensor names by the names in TensorFlow's graph."""
    pairs = zip(graph.inputs + graph.outputs, file.inputs + file.outputs, strict=True)
    return {ours.native: theirs.native for ours, theirs in pairs}


def _translate(frozen: FrozenGraph, signature: Signature, opset: int) -> Any:
    """What tf2onnx makes of the graph, as a ModelProto with TensorFlow's tensor names."""
    graph_def = frozen.graph_def
    lower_for_onnx(graph_def)
    weights = _Contents(compress_graph_def(graph_def), frozen.weights)
    for node in graph_def.node:
        if node.name in frozen.weights:
            _become_empty_constant(node)
    utils.INTERNAL_NAME = 1  # its passes visit nodes by name, and names hold this counter
    with _collected_errors() as problems, tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        try:
            translated = process_tf_graph(
                graph,
                opset=opset,
                input_names=[spec.native for spec in signature.inputs],
                output_names=[spec.native for spec in signature.outputs],
                const_node_values=weights,  # out of the graph, which is copied several times
            )
            return _optimized(translated).make_model("")
        except Exception as error:
            reason = problems[0] if problems else f"{type(error).__name__}: {error}"
            raise ConversionError(f"onnx: tf2onnx failed: {reason}", hint=_OTHER_FORMAT) from error


class _Contents(Mapping[str, bytes]):
    """The bytes of the constants that are not in the graph, by node; weights when asked for."""

    def __init__(self, constants: dict[str, bytes], weights: dict[str, Weight]) -> None:
        self._constants, self._weights = constants, weights

    def __getitem__(self, name: str) -> bytes:
        if name in self._weights:
            return self._weights[name].read().tobytes()
        return self._constants[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights or name in self._constants

    def __iter__(self) -> Iterator[str]:
        return iter((*self._weights, *self._constants))

    def __len__(self) -> int:
        return len(self._weights) + len(self._constants)


def _become_empty_constant(node: Any) -> None:
    """Turn the Placeholder of a weight into a Const of its shape, without a value."""
    node.op = "Const"
    tensor = node.attr["value"].tensor
    tensor.dtype = node.attr["dtype"].type
    tensor.tensor_shape.CopyFrom(node.attr["shape"].shape)
    del node.attr["shape"]


def _optimized(graph: Any) -> Any:
    """tf2onnx's own passes, without the copies of all weights that it makes in each of them."""
    graph.update_proto = lambda *_: None  # for the length of the passes; make_model calls it once
    graph = optimizer.optimize_graph(graph, catch_errors=False)
    del graph.update_proto
    return graph


_OTHER_FORMAT = "export to tflite, or replace the layer that makes this operation"


@contextlib.contextmanager
def _collected_errors() -> Iterator[list[str]]:
    """tf2onnx reports by logging: silence it, and keep the first line of each error."""
    logger = logging.getLogger("tf2onnx")
    problems: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            problems.append(record.getMessage().partition("\n")[0])

    handler = Collect(logging.ERROR)
    before = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield problems
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def _check_operators(proto: Any) -> None:
    """Refuse what tf2onnx left in TensorFlow's vocabulary; it only logs it."""
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    unknown: dict[str, str] = {}
    for graph in subgraphs(proto.graph):
        for node in graph.node:
            version = versions.get(node.domain, 0)
            if not onnx.defs.has(node.op_type, version, node.domain):
                unknown.setdefault(node.op_type, node.name)
    if unknown:
        found = ", ".join(f"{op} (node {name!r})" for op, name in sorted(unknown.items()))
        raise ConversionError(f"onnx: no ONNX operator for {found}", hint=_OTHER_FORMAT)


def _describe(graph: Any, signature: Signature) -> None:
    """Inputs and outputs in the signature's order, with its shapes and dtypes."""
    for values, specs in ((graph.input, signature.inputs), (graph.output, signature.outputs)):
        described = [_value_info(spec) for spec in specs]
        del values[:]
        values.extend(described)


def _value_info(spec: TensorSpec) -> Any:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tf.as_dtype(spec.dtype).as_numpy_dtype))
    free = ["batch", *(f"{spec.name}_{axis}" for axis in range(1, len(spec.shape)))]
    shape = [name if size is None else size for name, size in zip(free, spec.shape, strict=True)]
    return onnx.helper.make_tensor_value_info(spec.native, dtype, shape)
