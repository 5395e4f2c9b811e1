"""ONNX files: stable names, checked before they are written; no TensorFlow in here."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

from edgekit.errors import ConversionError

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that hold nearly all weights: the second input, where it is a constant."""


def save(proto: Any, path: Path) -> None:
    """Check the model against the ONNX specification and write it.

    Raises:
        ConversionError: the model breaks the specification.
    """
    data = proto.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConversionError(
            f"onnx: the converted model is not valid ONNX: {reason}",
            hint="export to tflite, or replace the layer that the message names",
        ) from error
    path.write_bytes(data)


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


def made_in(graph: Any) -> list[str]:
    """Names of the tensors that a graph's own nodes give."""
    return [name for node in graph.node for name in node.output if name]


def cut(graph: Any, outputs: Sequence[str]) -> None:
    """Leave of a graph what gives `outputs`, any of its tensors, and make these its outputs."""
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    nodes = _sorted(graph)
    del graph.node[:]
    graph.node.extend(nodes)


def compact(proto: Any, names: Collection[str]) -> None:
    """Leave out of a tidy model what takes bytes and tells a runtime nothing.

    Equal constants become one, attributes that are the operator's defaults go. Nodes without
    weights lose their names, and tensors get short ones, but for inputs, outputs and `names`.
    """
    graph = proto.graph
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    fixed = {value.name for value in (*graph.input, *graph.output)} | set(names)
    new = _shared_constants(graph, fixed)
    for node in graph.node:
        _drop_defaults(node, versions.get(node.domain, 1))
        if node.op_type not in WEIGHTED:
            node.name = ""
    taken = set(_used_names(graph)) | fixed
    short = (name for i in itertools.count() if (name := _letters(i)) not in taken)
    tensors = [t.name for t in graph.initializer]
    tensors += [name for node in graph.node for name in node.output if name]
    new |= {name: next(short) for name in tensors if name not in fixed and name not in new}
    new = {name: new.get(to, to) for name, to in new.items()}
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in graph.node:
        _rename_reads(node, new)
        node.output[:] = [new.get(name, name) for name in node.output]


def _shared_constants(graph: Any, fixed: Collection[str]) -> dict[str, str]:
    """Delete initializers that are equal to an earlier one; the name of that one for each."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        content = onnx.TensorProto()
        content.CopyFrom(tensor)
        content.ClearField("name")
        key = content.SerializeToString(deterministic=True)
        if tensor.name not in fixed and first.setdefault(key, tensor.name) != tensor.name:
            same[tensor.name] = first[key]
    kept = [tensor for tensor in graph.initializer if tensor.name not in same]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return same


def _drop_defaults(node: Any, version: int) -> None:
    if not onnx.defs.has(node.op_type, version, node.domain):
        return
    defaults = onnx.defs.get_schema(node.op_type, version, node.domain).attributes
    for attribute in list(node.attribute):
        value = onnx.helper.get_attribute_value(attribute)
        default = defaults[attribute.name].default_value if attribute.name in defaults else None
        is_default = (
            default is not None
            and default.type == attribute.type
            and (onnx.helper.get_attribute_value(default) == value)
        )
        if node.op_type in _WINDOWED and attribute.name in _DEFAULT_EACH:
            is_default = set(value) <= {_DEFAULT_EACH[attribute.name]}
        if is_default:
            node.attribute.remove(attribute)


_WINDOWED = ("AveragePool", "Conv", "ConvTranspose", "MaxPool")
_DEFAULT_EACH = {"dilations": 1, "pads": 0, "strides": 1}
"""What each axis has if the attribute is not there; the operators' schemas say it in words only."""


def _used_names(graph: Any) -> Iterator[str]:
    for inner in subgraphs(graph):
        for value in (*inner.input, *inner.output, *inner.initializer):
            yield value.name
        for node in inner.node:
            yield from node.input
            yield from node.output


def _letters(number: int) -> str:
    """a, b ... z, aa, ab ..."""
    name = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        name, number = chr(ord("a") + letter) + name, number - 1
    return name


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
        for i, name in enumerate(reads_of(node)):
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
            needed = [producer[name] for name in reads_of(node) if name in producer]
            stack.extend((n, False) for n in reversed(needed) if id(n) not in done)
    return order


def reads_of(node: Any) -> list[str]:
    """Names of the tensors that a node, or a graph inside it, reads; in order, once each."""
    names = list(node.input)
    for body in _bodies(node):
        names += [name for inner in body.node for name in reads_of(inner)]
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
