"""ONNX from the canonical graph, through tf2onnx, as a file whose names and bytes are stable."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator
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
from edgekit.types import Signature, TensorSpec

MAX_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; the last MiB is left to the nodes."""

OPSETS = range(13, 19)
"""Per-channel quantization begins with opset 13, and tf2onnx ends with 18."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that hold nearly all weights: the second input, where it is a constant."""


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
    _check_size(model)
    signature = _native_names(model.signature)
    proto = _translate(folded(model), model.signature, opset)
    _check_operators(proto)
    tidy(proto, _renames(model.signature, signature))
    _describe(proto.graph, signature)
    save(proto, path)
    return signature


def save(proto: Any, path: Path) -> None:
    """Check the model against the ONNX specification and write it.

    Raises:
        ConversionError: the model breaks the specification.
    """
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConversionError(
            f"onnx: the converted model is not valid ONNX: {reason}",
            hint="export to tflite, or replace the layer that the message names",
        ) from error
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _check_size(model: Canonical) -> None:
    size = sum(math.prod(v.shape.as_list()) * v.dtype.size for v in model.holder.variables_)
    if size > MAX_BYTES:
        raise ConversionError(
            f"onnx: the weights take {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB",
            hint="export a smaller model; a model of this size is not one for edge devices",
        )


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


def _translate(graph_def: Any, signature: Signature, opset: int) -> Any:
    """What tf2onnx makes of the graph, as a ModelProto with TensorFlow's tensor names."""
    weights = compress_graph_def(graph_def)  # out of the graph, which is copied several times
    utils.INTERNAL_NAME = 1  # its passes visit nodes by name, and names hold this counter
    with _collected_errors() as problems, tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        try:
            translated = process_tf_graph(
                graph,
                opset=opset,
                input_names=[spec.native for spec in signature.inputs],
                output_names=[spec.native for spec in signature.outputs],
                const_node_values=weights,
            )
            return _optimized(translated).make_model("")
        except Exception as error:
            reason = problems[0] if problems else f"{type(error).__name__}: {error}"
            raise ConversionError(f"onnx: tf2onnx failed: {reason}", hint=_OTHER_FORMAT) from error


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


def tidy(proto: Any, names: dict[str, str]) -> None:
    """Make the model a function of its structure: stable order and names, nothing unused.

    tf2onnx and onnxruntime number what they create with counters of the process, and order some
    of it by hash. Here nodes are sorted from the outputs back, and named after their scope and
    operator, and tensors after the node that makes (or, for weights, uses) them.

    Args:
        proto: a ModelProto, changed in place.
        names: new names of the graph's inputs and outputs; the outputs in the order to keep.
    """
    outputs = {value.name: value for value in proto.graph.output}
    del proto.graph.output[:]
    proto.graph.output.extend(outputs[name] for name in names if name in outputs)
    _tidy_graph(proto.graph, {}, names, set(names.values()))
    proto.graph.name = "edgekit"
    proto.producer_name, proto.producer_version, proto.doc_string = "edgekit", "", ""
    del proto.metadata_props[:]
    domains = {node.domain for graph in subgraphs(proto.graph) for node in graph.node} | {""}
    opsets = sorted((o.domain, o.version) for o in proto.opset_import if o.domain in domains)
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(*opset) for opset in opsets)


def _tidy_graph(graph: Any, outer: dict[str, str], fixed: dict[str, str], taken: set[str]) -> None:
    """Sort and rename a graph and those inside it.

    `outer` are new names of tensors visible from outside, `fixed` of the graph's own that are
    decided already; `taken` are all names in use.
    """
    _settle_identities(graph)
    nodes = _sorted(graph)
    own = {**fixed, **_new_names(graph, nodes, fixed, taken)}
    visible = {**outer, **own}
    for node in nodes:
        node.doc_string, node.domain = "", node.domain or ""
        node.attribute.sort(key=lambda attribute: attribute.name)
        for body in _bodies(node):
            inputs = {
                v.name: _unique(f"{node.name}/in_{i}", taken) for i, v in enumerate(body.input)
            }
            _tidy_graph(body, visible, inputs, taken)
            body.name = node.name
            for value in (*body.input, *body.output):
                for size in value.type.tensor_type.shape.dim:
                    size.ClearField("dim_param")  # numbered by tf2onnx
        node.input[:] = [visible.get(name, name) for name in node.input]
        node.output[:] = [visible.get(name, name) for name in node.output]
    _replace(graph, nodes, own)
    for value in (*graph.input, *graph.output):
        value.name = visible[value.name]


def _new_names(
    graph: Any, nodes: list[Any], fixed: dict[str, str], taken: set[str]
) -> dict[str, str]:
    """Rename `nodes`, and give the new names of their outputs and of the constants in use."""
    constants = {tensor.name for tensor in graph.initializer}
    new: dict[str, str] = {}
    for node in nodes:
        node.name = _unique(_scoped(node), taken)
        for i, name in enumerate(_reads(node)):
            if name in constants and name not in fixed and name not in new:
                new[name] = _unique(f"{node.name}/{_role(node.op_type, i)}", taken)
        for i, name in enumerate(node.output):
            if name and name not in fixed:
                new[name] = _unique(f"{node.name}:{i}", taken)
    for value in graph.output:
        if value.name in constants and value.name not in fixed and value.name not in new:
            new[value.name] = _unique("constant", taken)
    return new


def _replace(graph: Any, nodes: list[Any], own: dict[str, str]) -> None:
    """Put in the sorted nodes and, of the initializers, those in use, in the order of `own`."""
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    graph.doc_string = ""
    # In place from the end, as the weights are most of the model's memory.
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in own:
            del graph.initializer[i]
    place = {name: i for i, name in enumerate(own)}
    graph.initializer.sort(key=lambda tensor: place[tensor.name])
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = own[tensor.name], ""


def _settle_identities(graph: Any) -> None:
    """Leave Identity nodes only where two outputs are one tensor, always for the later output.

    Which of the two tf2onnx chooses, and whether others read the copy, changes from run to run.
    """
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    first: dict[str, str] = {}
    for value in graph.output:
        root = value.name
        while root in source:
            root = source[root]
        first.setdefault(root, value.name)
    made = {name for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    for root, name in first.items():
        if root in made and root in outputs:
            swap = {root: name, name: root}
            for node in graph.node:
                _rename_reads(node, swap)
                node.output[:] = [swap.get(n, n) for n in node.output]
    copies = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    for node in graph.node:
        _rename_reads(node, copies)


def _rename_reads(node: Any, new: dict[str, str]) -> None:
    node.input[:] = [new.get(name, name) for name in node.input]
    for body in _bodies(node):
        for inner in body.node:
            _rename_reads(inner, new)
        for value in body.output:
            value.name = new.get(value.name, value.name)


def _sorted(graph: Any) -> list[Any]:
    """The nodes that the outputs need, each after those it reads.

    The order follows from the outputs and the order of each node's inputs, from nothing else.
    """
    producer = {name: node for node in graph.node for name in node.output if name}
    order: list[Any] = []
    done: set[int] = set()
    for value in graph.output:
        stack = [(producer[value.name], False)] if value.name in producer else []
        while stack:
            node, read = stack.pop()
            if id(node) in done:
                continue
            if read:
                done.add(id(node))
                order.append(node)
                continue
            stack.append((node, True))
            needed = [producer[name] for name in _reads(node) if name in producer]
            stack.extend((n, False) for n in reversed(needed) if id(n) not in done)
    return order


def _reads(node: Any) -> list[str]:
    """Names of the tensors that a node, or a graph inside it, reads; in order, once each."""
    names = list(node.input)
    for body in _bodies(node):
        names += [name for inner in body.node for name in _reads(inner)]
        names += [value.name for value in body.output]
    return list(dict.fromkeys(names))


def _bodies(node: Any) -> list[Any]:
    """The graphs inside a node, as Loop, If and Scan have them."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def subgraphs(graph: Any) -> Iterator[Any]:
    """The graph and, however nested, those inside its nodes."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from subgraphs(body)


def _scoped(node: Any) -> str:
    """The ONNX operator, after the layer path that Keras gave it where it has weights.

    Of equal nodes without weights tf2onnx keeps either, so that their paths are not stable.
    """
    scope = node.name.rpartition("/")[0] if node.op_type in WEIGHTED else ""
    return f"{scope}/{node.op_type}" if scope else node.op_type


def _role(op: str, i: int) -> str:
    return {1: "weight", 2: "bias"}.get(i, f"input_{i}") if op in WEIGHTED else f"input_{i}"


def _unique(name: str, taken: set[str]) -> str:
    """`name`, or name_1, name_2 ... where it is taken; marks it as taken."""
    numbered = (f"{name}_{i}" for i in itertools.count(1))
    free = name if name not in taken else next(n for n in numbered if n not in taken)
    taken.add(free)
    return free
