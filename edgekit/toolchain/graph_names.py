"""One name and one place for everything in a GraphDef, whatever chance gave it in this process."""

from __future__ import annotations

from typing import Any

from tensorflow.python.framework import op_def_registry

from edgekit.toolchain.graph_edit import redirect, remove_nodes

_LOOP_OPS = {"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"}
_SMALL_BYTES = 1024


def merge_twins(graph_def: Any, keep: frozenset[str]) -> None:
    """Let one of several nodes that compute the same serve all (a layer called twice on a tensor).

    Grappler does it too, but lets chance decide which one's name survives.
    """
    while replaced := _twins(graph_def, keep):
        remove_nodes(graph_def, set(replaced))
        redirect(graph_def, replaced)


def _twins(graph_def: Any, keep: frozenset[str]) -> dict[str, str]:
    """The nodes that compute what another does, each with the one that stays."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for node in graph_def.node:
        definition = op_def_registry.get(node.op)
        # A TensorList is a value in TensorFlow, but one that changes in TF.js.
        is_pure = definition and not definition.is_stateful and "TensorList" not in node.op
        is_large = node.op == "Const" and node.ByteSize() > _SMALL_BYTES
        if is_pure and not is_large and node.op not in _LOOP_OPS and node.name not in keep:
            groups.setdefault((node.op, *node.input, *_attributes(node)), []).append(node.name)
    first = {min(names, key=lambda n: (len(n), n)): names for names in groups.values()}
    return {name: stays for stays, names in first.items() for name in names if name != stays}


def _attributes(node: Any) -> list[tuple[str, bytes]]:
    """What a node is told, without the notes (_class, _output_shapes) that passes leave."""
    told = ((k, v.SerializeToString(deterministic=True)) for k, v in node.attr.items())
    return sorted((k, v) for k, v in told if not k.startswith("_"))


def rename_functions(graph_def: Any) -> None:
    """Loop bodies carry process-wide counters in their names and arguments: number them from 0."""
    functions = {f.signature.name: f for f in graph_def.library.function}
    names: dict[str, str] = {}

    def rename_calls(nodes: Any) -> None:
        for node in nodes:
            for key in sorted(node.attr):
                called = [node.attr[key].func] if node.attr[key].HasField("func") else []
                for function in (*called, *node.attr[key].list.func):
                    function.name = rename(function.name)

    def rename(name: str) -> str:
        if name not in names:
            names[name] = f"function_{len(names)}"
            _rename_arguments(functions[name])
            rename_calls(functions[name].node_def)
        return names[name]

    rename_calls(graph_def.node)
    graph_def.ClearField("library")
    for old, new in names.items():
        functions[old].signature.name = new
        graph_def.library.function.append(functions[old])


def _rename_arguments(function: Any) -> None:
    arguments = {a.name: f"argument_{i}" for i, a in enumerate(function.signature.input_arg)}
    results = {a.name: f"result_{i}" for i, a in enumerate(function.signature.output_arg)}

    def renamed(tensor: str) -> str:
        name, colon, rest = tensor.partition(":")
        return arguments.get(name, name) + colon + rest

    for argument in function.signature.input_arg:
        argument.name = arguments[argument.name]
    for result in function.signature.output_arg:
        result.name = results[result.name]
    for node in function.node_def:
        node.input[:] = [renamed(tensor) for tensor in node.input]
    given = {results[name]: renamed(tensor) for name, tensor in function.ret.items()}
    function.ret.clear()
    function.ret.update(given)


def order(graph_def: Any) -> None:
    """Lowering a loop leaves nodes, control edges and notes in an order of its own each time."""
    for node in graph_def.node:
        for key in [k for k in node.attr if k.startswith("_")]:
            del node.attr[key]
        data = [i for i in node.input if not i.startswith("^")]
        node.input[:] = data + sorted(i for i in node.input if i.startswith("^"))
    nodes = sorted(graph_def.node, key=lambda node: node.name)
    del graph_def.node[:]
    graph_def.node.extend(nodes)
