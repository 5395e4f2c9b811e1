"""SavedModel folders as functions: of a plain tf.Module, or as Keras 3 exports them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.saved_model.loader_impl import parse_saved_model

from edgekit.errors import SourceError
from edgekit.toolchain.model import Model, Tensors
from edgekit.types import TensorSpec

DEFAULT = "serving_default"

_IMPURE = re.compile(
    "File|Record|Reader|Snapshot|Checkpoint|Save|Restore|PyFunc|Print|Debug|Dump|Summar|Event|Proto"
    "|Remap|Dataset|Iterator|Rpc|Remote|Send|Recv|FixedUnigram|Skipgram"
)
"""TensorFlow's operations by name that read, write, print or call out instead of computing."""
_OF_LOADING = re.compile("InitializeTableFromTextFile(V2)?|(Save|Restore)V2|ShardedFilename")
"""... of which those fill tables and variables from the SavedModel's own files."""


def load(path: Path) -> Model:
    """The signature of a SavedModel that is meant for serving.

    Raises:
        SourceError: it cannot be read, does more than compute, has no signature, or one that no
            batch goes through.
    """
    refuse_effects(path)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as e:  # anything from OSError to a missing custom operation
        reason = str(e).strip().partition("\n")[0]
        raise SourceError(f"{path}: TensorFlow cannot load this SavedModel: {reason}") from e
    function = _signature(path, loaded)
    specs = [
        TensorSpec(
            name=name,
            native=name,
            shape=tuple(_dims(path, name, spec.shape)),
            dtype=spec.dtype.name,
        )
        for name, spec in sorted(function.structured_input_signature[1].items())
    ]

    def call(feed: Mapping[str, Any]) -> Tensors:
        outputs = function(**{spec.name: feed[spec.name] for spec in specs})
        return {name: outputs[name] for name in sorted(outputs)}

    variables = tuple(function.graph.variables)
    return Model(
        name=path.resolve().name,
        inputs=tuple(specs),
        call=_Held(call, loaded),
        variables=variables,
        parameters=sum(math.prod(v.shape.as_list()) for v in variables),
    )


def refuse_effects(path: Path, *, every_function: bool = False) -> None:
    """Pass a SavedModel that only computes, before any of its graph is run.

    TensorFlow runs some of its functions while loading it, and its signature to have the reference.
    What else it holds, as the functions that save and restore it, is never run.

    Args:
        path: the folder.
        every_function: look at all functions of its objects, which Keras may call.

    Raises:
        SourceError: it cannot be read, or holds an operation on files, Python or the outside.
    """
    try:
        graphs = parse_saved_model(str(path)).meta_graphs
        impure = {op for graph in graphs for op in _impure_operations(graph, every_function)}
    except (OSError, IndexError) as e:  # IndexError: its objects refer to none
        raise SourceError(f"{path}: TensorFlow cannot load this SavedModel: {e}") from e
    if impure:
        raise SourceError(
            f"{path}: its graph holds {', '.join(sorted(impure))}, which does more than compute; "
            "it was not run",
            hint="save it without reading, writing, printing and Python functions",
        )


def _impure_operations(graph: Any, every_function: bool) -> Iterator[str]:
    library = {f.signature.name: f for f in graph.graph_def.library.function}
    called = set(_called_by_signature(graph))
    if every_function:
        called |= set(graph.object_graph_def.concrete_functions)
    for node in _reached(_nodes_of_signature(graph), called, library):
        if _IMPURE.search(node.op):
            yield node.op
    for node in _reached(_nodes_of_loading(graph), _called_by_loading(graph), library):
        if _IMPURE.search(node.op) and not _OF_LOADING.fullmatch(node.op):
            yield node.op


def _children(graph: Any, node: Any, name: str | None = None) -> Iterator[Any]:
    for child in node.children:
        if name is None or child.local_name == name:
            yield graph.object_graph_def.nodes[child.node_id]


def _functions_of(node: Any) -> list[str]:
    """The functions of the library that an object is, if it is a function."""
    bare = node.bare_concrete_function.concrete_function_name
    return [bare] if bare else list(node.function.concrete_functions)


def _called_by_signature(graph: Any) -> Iterator[str]:
    for root in graph.object_graph_def.nodes[:1]:
        for signatures in _children(graph, root, "signatures"):
            names = {child.local_name for child in signatures.children}
            for signature in _children(graph, signatures, DEFAULT if DEFAULT in names else None):
                yield from _functions_of(signature)


def _called_by_loading(graph: Any) -> set[str]:
    """What makes and fills tables, and what restores them: methods with names of their own."""
    nodes = graph.object_graph_def.nodes
    called = set()
    for node in nodes:
        for child in node.children:
            if child.local_name.startswith("_") or node.HasField("resource"):
                called.update(_functions_of(nodes[child.node_id]))
        for pair in node.saveable_objects.values():
            for index in (pair.save_function, pair.restore_function):
                called.update(_functions_of(nodes[index]))
    return called


def _nodes_of_signature(graph: Any) -> list[Any]:
    """Of a SavedModel of TensorFlow 1, which has one graph instead of functions."""
    if graph.HasField("object_graph_def"):
        return []
    wanted = [graph.signature_def[DEFAULT]] if DEFAULT in graph.signature_def else None
    signatures = wanted or graph.signature_def.values()
    return _before(graph, [t.name for s in signatures for t in s.outputs.values()])


def _nodes_of_loading(graph: Any) -> list[Any]:
    if graph.HasField("object_graph_def"):
        return []
    names = [graph.saver_def.restore_op_name]
    for key in ("saved_model_main_op", "legacy_init_op"):
        if key in graph.collection_def:
            names += graph.collection_def[key].node_list.value
    if "__saved_model_init_op" in graph.signature_def:
        start = graph.signature_def["__saved_model_init_op"]
        names += [tensor.name for tensor in start.outputs.values()]
    return _before(graph, names)


def _before(graph: Any, names: list[str]) -> list[Any]:
    """The nodes that these tensors need."""
    nodes, seen = {node.name: node for node in graph.graph_def.node}, set()
    waiting = [name.lstrip("^").partition(":")[0] for name in names]
    while waiting:
        name = waiting.pop()
        if name not in seen and name in nodes:
            seen.add(name)
            waiting += [i.lstrip("^").partition(":")[0] for i in nodes[name].input]
    return [nodes[name] for name in seen]


def _reached(nodes: list[Any], called: set[str], library: dict[str, Any]) -> Iterator[Any]:
    """`nodes`, those of the functions `called`, and of all functions that any of them call."""
    yield from nodes
    same: dict[bytes, list[str]] = {}
    for name, function in library.items():  # TensorFlow may swap functions that implement the same
        if "api_implements" in function.attr:
            same.setdefault(function.attr["api_implements"].s, []).append(name)
    waiting, seen = [*called, *(name for node in nodes for name in _calls(node))], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        function = library[name]
        if "api_implements" in function.attr:
            waiting += same[function.attr["api_implements"].s]
        for node in function.node_def:
            yield node
            waiting += _calls(node)


def _calls(node: Any) -> list[str]:
    """The functions that a node may call: as its operation, or through its attributes."""
    functions = [f for a in node.attr.values() for f in (a.func, *a.list.func)]
    return [node.op, *(function.name for function in functions)]


def _signature(path: Path, loaded: Any) -> Any:
    signatures = dict(loaded.signatures)
    if DEFAULT in signatures:
        return signatures[DEFAULT]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    found = f"these: {', '.join(sorted(signatures))}" if signatures else "none"
    raise SourceError(
        f"{path} has no signature {DEFAULT!r}; it has {found}",
        hint="save it with one: tf.saved_model.save(module, folder, "
        "signatures=module.function.get_concrete_function(...))",
    )


def _dims(path: Path, name: str, shape: Any) -> list[int | None]:
    if shape.rank is None or shape.rank == 0:
        raise SourceError(
            f"{path}: its input {name!r} has the shape {shape}: edgekit needs a batch dimension",
            hint="save it with an input of a known rank, whose first axis is the rows",
        )
    return list(shape.as_list())


class _Held:
    """`call`, and what must live as long as it: the variables belong to the loaded object."""

    def __init__(self, call: Any, owner: Any) -> None:
        self._call, self._owner = call, owner

    def __call__(self, feed: Mapping[str, Any]) -> Tensors:
        return self._call(feed)
